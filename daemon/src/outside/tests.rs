//! Policies that ask a real server, on both engines and in both call forms.

use std::{
    fs,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::policy::{Decision, EngineKind, Input, LoadOptions, PolicySet, asking, load};

/// A server that answers by path, and what it was asked. It ends with the runtime.
pub(crate) struct Server {
    pub port: u16,
    pub asked: Arc<Mutex<Vec<String>>>,
}

impl Server {
    pub async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let seen = Arc::clone(&asked);
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let seen = Arc::clone(&seen);
                tokio::spawn(async move {
                    let mut got = Vec::new();
                    let mut buffer = [0; 4096];
                    while let Ok(n) = stream.read(&mut buffer).await {
                        got.extend_from_slice(&buffer[..n]);
                        let text = String::from_utf8_lossy(&got).into_owned();
                        let Some((head, body)) = text.split_once("\r\n\r\n") else {
                            if n == 0 {
                                return;
                            }
                            continue;
                        };
                        let length = head.to_ascii_lowercase();
                        let length =
                            length.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok());
                        if body.len() < length.unwrap_or(0) {
                            continue;
                        }
                        got.clear();
                        seen.lock().unwrap().push(text.clone());
                        let Some(answer) = answer(text.split(' ').nth(1).unwrap_or_default()) else {
                            // Never answers.
                            std::future::pending::<()>().await;
                            return;
                        };
                        if stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { port, asked }
    }

    pub fn count(&self) -> usize {
        self.asked.lock().unwrap().len()
    }
}

fn answer(path: &str) -> Option<String> {
    static COUNT: AtomicUsize = AtomicUsize::new(0);
    let whole = |status: &str, headers: &str, body: &str| {
        Some(format!(
            "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n{headers}\r\n{body}",
            body.len()
        ))
    };
    match path.split('?').next().unwrap_or_default() {
        "/stall" => None,
        "/role" => whole("200 OK", "", r#"{"role": "admin"}"#),
        "/next" => whole("200 OK", "", r#"{"next": "/role"}"#),
        "/counted" => whole(
            "200 OK",
            "Cache-Control: max-age=60\r\n",
            &COUNT.fetch_add(1, Ordering::Relaxed).to_string(),
        ),
        "/moved" => whole("302 Found", "Location: /role\r\n", ""),
        "/large" => whole("200 OK", "", &format!("\"{}\"", "x".repeat(70_000))),
        _ => whole("404 Not Found", "", "{}"),
    }
}

pub(crate) fn settings(port: u16) -> Settings {
    Settings {
        hosts: vec![Host { name: "localhost".into(), port }],
        private_hosts: vec![Host { name: "127.0.0.1".into(), port }],
        ca_file: None,
        timeout: Duration::from_millis(400),
        budget: Duration::from_millis(600),
        max_calls: 3,
        max_body: 64 << 10,
        cache_bytes: 1 << 20,
        at_once: 4,
        evaluation: Duration::from_secs(5),
    }
}

pub(crate) fn outside(port: u16) -> Outside {
    Outside::new(settings(port), Arc::new(Metrics::new().unwrap())).unwrap()
}

fn set(rules: &str, strict: bool) -> PolicySet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{rules}\n")).unwrap();
    let options = LoadOptions { http_send: true, strict_builtin_errors: strict, ..LoadOptions::default() };
    load(&[dir.path().into()], "p/decision", &options).unwrap_or_else(|e| panic!("{rules}: {e}"))
}

/// Both engines.
fn sets(rules: &str) -> [PolicySet; 2] {
    let sets = [set(rules, false), set(rules, true)];
    assert_eq!(sets[0].engine(), &EngineKind::Rvm, "{rules}");
    assert!(matches!(sets[1].engine(), EngineKind::Interpreter { .. }));
    sets
}

async fn decide(outside: &Outside, set: &PolicySet, input: Value) -> Result<(Decision, Value), PolicyError> {
    let input = Input::from(input);
    outside.evaluate(|answers| asking(answers, || set.eval_decision_value(&input))).await
}

#[tokio::test]
async fn a_policy_asks_in_both_forms_on_both_engines_and_one_answer_may_lead_to_the_next() {
    let server = Server::start().await;
    let (outside, at) = (outside(server.port), format!("http://127.0.0.1:{}", server.port));
    for call in [
        "r := http.send({\"method\": \"get\", \"url\": input.url})",
        "http.send({\"method\": \"get\", \"url\": input.url}, r)",
        "n := http.send({\"method\": \"GET\", \"url\": input.next}).body.next\nhttp.send({\"method\": \"get\", \"url\": concat(\"\", [input.at, n])}, r)",
    ] {
        let rules = format!(
            "default decision := false\ndecision if {{\n{call}\nr.status_code == 200\nr.body.role == input.role\n}}"
        );
        for set in sets(&rules) {
            for (role, allow) in [("admin", true), ("guest", false)] {
                let input = json!({"at": at, "url": format!("{at}/role"), "next": format!("{at}/next"), "role": role});
                let (decision, _) = decide(&outside, &set, input).await.unwrap();
                assert_eq!(decision.allow, allow, "{call} on {:?}", set.engine());
            }
            // Nobody drives: nothing is sent, and nothing is allowed.
            let e = set
                .eval_decision(&Input::from(json!({"at": at, "url": at, "next": at, "role": "admin"})))
                .unwrap_err();
            assert!(e.to_string().contains("nothing is sent here"), "{e}");
        }
    }
}

#[tokio::test]
async fn what_is_sent_is_what_the_policy_says() {
    let server = Server::start().await;
    let outside = outside(server.port);
    let rules = "decision := {\"allow\": true, \"reason\": sprintf(\"%d %v\", [r.status_code, r.headers[\"content-type\"]])}\n\
        r := http.send({\"method\": \"post\", \"url\": input.url, \"headers\": {\"X-Key\": \"k\"}, \"body\": {\"a\": input.n}})";
    let [rvm, _] = sets(rules);
    let url = format!("http://127.0.0.1:{}/none?q=1", server.port);
    let (decision, _) = decide(&outside, &rvm, json!({"url": url, "n": 7})).await.unwrap();
    assert_eq!(decision.reason.as_deref(), Some("404 [\"application/json\"]"));
    let asked = server.asked.lock().unwrap().pop().unwrap();
    assert!(asked.starts_with("POST /none?q=1 HTTP/1.1\r\n") && asked.ends_with("{\"a\":7}"), "{asked}");
    assert!(asked.to_ascii_lowercase().contains("\r\nx-key: k\r\n"), "{asked}");
}

#[tokio::test]
async fn a_call_that_fails_denies_even_behind_a_not_unless_it_says_otherwise() {
    let server = Server::start().await;
    let outside = outside(server.port);
    let quiet = "decision := {\"allow\": true, \"reason\": r.error.code} if {\n\
        r := http.send(object.union(input.request, {\"raise_error\": false}))\nr.status_code == 0 }";
    let loud = "decision if not http.send(input.request).body.blocked";
    let here = |path: &str| format!("http://127.0.0.1:{}{path}", server.port);
    let get = |url: String| json!({"method": "get", "url": url});
    let network = "eval_http_send_network_error";
    let internal = "eval_http_send_internal_error";
    let quick = json!({"method": "get", "url": here("/stall"), "timeout": "30ms"});
    for (request, why, code) in [
        (get(here("/stall")), "request timed out", network),
        (quick, "request timed out", network),
        (get(here("/large")), "longer than", network),
        (get("http://127.0.0.1:9/x".into()), "not among `policy.http_send.hosts`", internal),
        (get("https://elsewhere.example/x".into()), "not among `policy.http_send.hosts`", internal),
        (get(format!("http://localhost:{}/role", server.port)), "by `https` alone", internal),
        (get(format!("https://localhost:{}/role", server.port)), "no public address", network),
        (get(format!("https://LOCALHOST:{}/role", server.port)), "no public address", network),
        (get(format!("https://u@127.0.0.1:{}/role", server.port)), "a user or a password", internal),
        (
            json!({"method": "get", "url": here("/role"), "urll": 1}),
            "invalid request parameters(s): {\"urll\"}",
            internal,
        ),
        (
            json!({"method": "get", "url": here("/role"), "enable_redirect": true}),
            "a redirect is answered as it is",
            internal,
        ),
    ] {
        for set in sets(loud) {
            let e = decide(&outside, &set, json!({"request": request})).await.unwrap_err().to_string();
            assert!(e.contains(why), "{request} on {:?}: {e}", set.engine());
        }
        for set in sets(quiet) {
            let (decision, _) = decide(&outside, &set, json!({"request": request})).await.unwrap();
            assert_eq!(decision.reason.as_deref(), Some(code), "{request} on {:?}", set.engine());
        }
    }
    // A redirect is an answer like any other.
    let moved = set(
        "decision := {\"allow\": true, \"reason\": sprintf(\"%d\", [http.send(input.request).status_code])}",
        false,
    );
    let (decision, _) = decide(&outside, &moved, json!({"request": get(here("/moved"))})).await.unwrap();
    assert_eq!(decision.reason.as_deref(), Some("302"));
}

#[tokio::test]
async fn a_decision_asks_so_many_times_and_waits_so_long_and_no_more() {
    let server = Server::start().await;
    let (outside, at) = (outside(server.port), format!("http://127.0.0.1:{}", server.port));
    let many = "decision if count([r | some i in numbers.range(1, input.n)\n\
        r := http.send({\"method\": \"get\", \"url\": sprintf(\"%s/role?%d\", [input.at, i])})]) == input.n";
    for set in sets(many) {
        assert!(decide(&outside, &set, json!({"at": at, "n": 3})).await.unwrap().0.allow);
        let e = decide(&outside, &set, json!({"at": at, "n": 4})).await.unwrap_err().to_string();
        assert!(e.contains("more than 3 times"), "{e}");
    }
    // Two requests that may take 400 ms each share 600 ms.
    let slow = "decision if count([r | some i in [1, 2, 3]\n\
        r := http.send({\"method\": \"get\", \"url\": sprintf(\"%s/stall?%d\", [input.at, i]), \"raise_error\": false})]) == 3";
    let begun = Instant::now();
    assert!(decide(&outside, &set(slow, false), json!({"at": at})).await.unwrap().0.allow);
    let took = begun.elapsed();
    assert!((Duration::from_millis(590)..Duration::from_millis(1100)).contains(&took), "{took:?}");
    // One request is sent once in a decision, however often it is written.
    let before = server.count();
    let twice = "decision if {\n http.send({\"method\": \"get\", \"url\": input.url}).body == http.send({\"method\": \"get\", \"url\": input.url}).body }";
    assert!(
        decide(&outside, &set(twice, false), json!({"url": format!("{at}/counted")})).await.unwrap().0.allow
    );
    assert_eq!(server.count(), before + 1);
}

#[tokio::test]
async fn no_more_than_so_many_requests_are_under_way_at_once() {
    let server = Server::start().await;
    let outside = Arc::new(outside(server.port));
    let set = Arc::new(set(
        "decision := {\"allow\": true, \"reason\": http.send({\"method\": \"get\", \"url\": input.url, \"raise_error\": false}).error.message}",
        false,
    ));
    let ask = |n: usize| {
        let (outside, set) = (Arc::clone(&outside), Arc::clone(&set));
        let url = format!("http://127.0.0.1:{}/stall?{n}", server.port);
        tokio::spawn(
            async move { decide(&outside, &set, json!({"url": url})).await.unwrap().0.reason.unwrap() },
        )
    };
    let asked: Vec<_> = (0..6).map(ask).collect();
    let mut refused = 0;
    for one in asked {
        let why = one.await.unwrap();
        assert!(why.contains("timed out") || why.contains("under way already"), "{why}");
        refused += usize::from(why.contains("under way already"));
    }
    assert_eq!(refused, 2);
}

#[tokio::test]
async fn answers_are_kept_where_the_policy_wants_it_and_one_asks_for_all() {
    let server = Server::start().await;
    let outside = Arc::new(outside(server.port));
    let set = Arc::new(set(
        "decision := {\"allow\": true, \"reason\": json.marshal(http.send(object.union(input.request, {\"method\": \"get\"})).body)}",
        false,
    ));
    let url = format!("http://127.0.0.1:{}/counted", server.port);
    let ask = |more: Value| {
        let (outside, set, url) = (Arc::clone(&outside), Arc::clone(&set), url.clone());
        async move {
            let mut request = json!({"url": url});
            request.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            decide(&outside, &set, json!({"request": request})).await.unwrap().0.reason.unwrap()
        }
    };
    let before = server.count();
    assert_ne!(ask(json!({})).await, ask(json!({})).await, "not asked to keep it");
    assert_eq!(server.count(), before + 2);
    for keep in [json!({"cache": true}), json!({"force_cache": true, "force_cache_duration_seconds": 60})] {
        let before = server.count();
        let all: Vec<_> = (0..8).map(|_| tokio::spawn(ask(keep.clone()))).collect();
        let mut seen = std::collections::BTreeSet::new();
        for one in all {
            seen.insert(one.await.unwrap());
        }
        assert_eq!((seen.len(), server.count()), (1, before + 1), "{keep}");
    }
    // Kept for no time is not kept.
    let none = json!({"force_cache": true, "force_cache_duration_seconds": 0});
    assert_ne!(ask(none.clone()).await, ask(none).await);
}

#[test]
fn a_set_that_asks_is_refused_where_it_is_off() {
    let dir = tempfile::tempdir().unwrap();
    for body in [
        "decision if http.send({\"method\": \"get\", \"url\": \"https://h/\"}).status_code == 200",
        "decision if f(input)\nf(x) if {\n http.send(x, y)\n y }",
        "decision if http[\"send\"]({\"method\": \"get\", \"url\": \"https://h/\"})",
    ] {
        fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{body}")).unwrap();
        let load = |http_send| {
            load(&[dir.path().into()], "p/decision", &LoadOptions { http_send, ..LoadOptions::default() })
        };
        let e = load(false).err().unwrap().to_string();
        assert!(e.contains("p.rego:") && e.contains("`http.send` is off: name the hosts"), "{e}");
        assert!(load(true).is_ok_and(|set| set.asks()), "{body}");
    }
}

#[test]
fn tests_put_a_function_in_its_place_and_send_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let policy = "package p\nimport rego.v1\ndefault decision := false\n\
        decision if http.send({\"method\": \"get\", \"url\": input.url}).body.ok";
    fs::write(dir.path().join("p.rego"), policy).unwrap();
    let options = LoadOptions { http_send: true, ..LoadOptions::default() };
    let load = |test: &str| {
        fs::write(
            dir.path().join("p_test.rego"),
            format!(
                "package p_test\nimport rego.v1\nfake(r) := {{\"body\": {{\"ok\": r.url == \"u\"}}}}\n{test}"
            ),
        )
        .unwrap();
        load(&[dir.path().into()], "p/decision", &options)
    };
    load(
        "test_a if data.p.decision with http.send as fake with input as {\"url\": \"u\"}\n\
          test_b if not data.p.decision with http.send as fake with input as {\"url\": \"v\"}",
    )
    .unwrap();
    let e = load("test_a if not data.p.decision with input as {\"url\": \"u\"}").err().unwrap().to_string();
    assert!(e.contains("nothing is sent here"), "{e}");
}
