//! The cache key: a change in what the policy reads misses, any other hits.
//!
//! The policies here put a fresh random id into each answer, so that an answer tells whether it was made anew.

use portcullis_common::reason::Reason;
use proptest::{prelude::*, test_runner::TestRunner};
use serde_json::{Value, json};

use super::{
    DataAnswer, DataQuery, Form, Path, Request, Ruling,
    tests::{BY, World, set, token},
};
use crate::token::Presented;

/// A policy that reads what `condition` says.
fn policy(condition: &str) -> String {
    format!(
        "decision := {{\"allow\": false, \"ttl\": 60, \"reason\": uuid.rfc4122(\"x\")}} if {{ {condition} }} else := \
         {{\"allow\": false, \"ttl\": 60, \"reason\": sprintf(\"%s not\", [uuid.rfc4122(\"y\")])}}"
    )
}

type Header<'a> = (&'a str, &'a str);

fn request<'a>(path: &'a str, query: &'a str, host: &'a str, headers: &[Header<'a>]) -> Request<'a> {
    let path = Path::new(path).unwrap();
    Request {
        method: "GET",
        path,
        query,
        host,
        headers: headers.to_vec(),
        source: "192.0.2.1",
        foreign: None,
        evidence: crate::token::Evidence::default(),
    }
}

impl World {
    /// The id in the answer.
    async fn made(&self, request: &Request<'_>, token: &str) -> String {
        match self.decider.request(BY, request, Ok(Some(Presented::new(token)))).await {
            Ruling::Deny(refusal) => {
                refusal.detail.unwrap_or_else(|| panic!("{:?}", refusal.reason)).to_string()
            }
            Ruling::Allow(_) => panic!("allowed"),
        }
    }

    async fn asked(&self, form: Form, body: &str) -> DataAnswer {
        let (path, token_path) = (["p", "decision"], ["token".to_owned()]);
        let query = DataQuery {
            path: &path,
            form,
            body: body.as_bytes(),
            token_path: &token_path,
            strict: false,
            named: false,
            by: BY,
        };
        self.decider.data(&query).await.unwrap()
    }

    async fn answered(&self, input: &Value) -> String {
        let body = json!({"input": input}).to_string();
        let answer = self.asked(Form::Envelope, &body).await;
        assert_eq!(answer.reason, Reason::PolicyDenied, "{input}");
        let answer: Value = serde_json::from_slice(&answer.body).unwrap();
        answer["result"]["reason"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn where_an_address_is_goes_by_the_address_and_the_databases() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("c.mmdb");
    let country =
        |code: &str| crate::geo::tests::database(&[("192.0.2.0/24", json!({"country": {"iso_code": code}}))]);
    std::fs::write(&path, country("DE")).unwrap();
    let rules = "decision := {\"allow\": false, \"ttl\": 60, \"reason\": sprintf(\"%v\", [object.get(input.request.geo, \"country\", \"unknown\")])}";
    let (mut world, t) = (World::new(rules), token("1"));
    let geo = std::sync::Arc::new(crate::geo::Geo::open(vec![path.clone()]).unwrap());
    world.place_by(std::sync::Arc::clone(&geo));
    let at = |source| Request { source, ..request("/a", "", "h", &[]) };
    for (source, says) in [("192.0.2.1", "DE"), ("198.51.100.1", "unknown"), ("192.0.2.1", "DE")] {
        assert_eq!(world.made(&at(source), &t).await, says);
    }
    std::fs::write(dir.path().join("n"), [&country("FR")[..], b""].concat()).unwrap();
    std::fs::rename(dir.path().join("n"), &path).unwrap();
    while !geo.refresh().unwrap() {
        // The same size, and perhaps the same tick of the clock.
        std::fs::write(&path, country("FR")).unwrap();
    }
    assert_eq!(world.made(&at("192.0.2.1"), &t).await, "FR");
}

#[tokio::test]
async fn attributes_that_are_read_miss_and_others_hit() {
    let (t, other) = (token("1"), token("2"));
    let plain = request("/a", "", "h", &[]);
    for (condition, changed, is_read) in [
        ("input.request.path == \"/a\"", request("/b", "", "h", &[]), true),
        ("input.request.segments[0] == \"a\"", request("/b", "", "h", &[]), true),
        ("input.request.path == \"/a\"", request("/a", "x=1", "i", &[("x-request-id", "1")]), false),
        ("input.request.query == \"\"", request("/b", "", "i", &[]), false),
        ("input.request.query == \"\"", request("/a", "x=1", "h", &[]), true),
        ("input.request.host == \"h\"", request("/a", "", "i", &[]), true),
        ("input.request.headers.tenant == \"1\"", request("/a", "", "h", &[("x-request-id", "1")]), false),
        ("input.request.headers.tenant == \"1\"", request("/a", "", "h", &[("tenant", "1")]), true),
        ("not input.request.headers[\"x-a\"]", request("/a", "", "h", &[("x-a", "1")]), true),
        ("count(input.request.headers) == 0", request("/a", "", "h", &[("x-request-id", "1")]), true),
        ("count([1 | some v in input.request; v == 1]) == 0", request("/b", "", "h", &[]), true),
        ("f(input.request)", request("/b", "", "h", &[]), false),
        ("f(input.request)", request("/a", "", "i", &[]), true),
        ("input.time > 1", request("/b", "x", "i", &[("a", "b")]), false),
        ("input.request == {}", request("/a", "x", "h", &[]), true),
        ("count(input) > 0", request("/a", "", "i", &[]), true),
        ("true", request("/b", "x", "i", &[("a", "b")]), false),
    ] {
        let world = World::new(&format!("{}\nf(r) if r.host == \"h\"", policy(condition)));
        let first = world.made(&plain, &t).await;
        assert_eq!(world.made(&plain, &t).await, first, "{condition}");
        assert_eq!(world.made(&changed, &t).await != first, is_read, "{condition}");
        assert_ne!(world.made(&plain, &other).await, first, "a token has verdicts of its own: {condition}");
        assert_eq!(world.made(&plain, &t).await, first, "{condition}");
    }
}

#[tokio::test]
async fn a_new_set_asks_for_what_it_reads() {
    let (world, t) = (World::new(&policy("input.request.host == \"h\"")), token("1"));
    let (one, two) = (request("/a", "", "h", &[]), request("/a", "q", "h", &[]));
    assert_eq!(world.made(&one, &t).await, world.made(&two, &t).await);
    world.policy.install(set(&policy("input.request.query == \"\"")), 2);
    assert_ne!(world.made(&one, &t).await, world.made(&two, &t).await);
}

#[tokio::test]
async fn bodies_that_differ_in_what_is_not_read_hit() {
    let (world, t, other) = (World::new(&policy("input.a.b == 1")), token("1"), token("2"));
    let first = world.answered(&json!({"token": t, "a": {"b": 1}, "id": "x"})).await;
    for (same, input) in [
        (true, json!({"token": t, "a": {"b": 1, "c": 1}, "id": "y"})),
        (true, json!({"token": t, "a": {"b": 1}})),
        // What the daemon says itself is not the caller's to say.
        (true, json!({"token": t, "a": {"b": 1}, "identity": {"sub": "root"}, "time": 5})),
        (false, json!({"token": t, "a": {"b": 2}})),
        (false, json!({"token": t, "a": {}})),
        (false, json!({"token": other, "a": {"b": 1}})),
    ] {
        for _ in 0..2 {
            assert_eq!(world.answered(&input).await == first, same, "{input}");
        }
    }
}

#[tokio::test]
async fn a_denial_of_a_request_stands_for_its_target_alone() {
    let rules = "decision := {\"allow\": false, \"block\": \"request\", \"ttl\": 60, \"reason\": uuid.rfc4122(\"x\")} if input.request.path != \"\"";
    let (world, t) = (World::new(rules), token("1"));
    let (plain, query, other) =
        (request("/a", "", "h", &[]), request("/a", "x", "h", &[]), request("/a", "", "i", &[]));
    let first = world.made(&plain, &t).await;
    assert_ne!(world.made(&query, &t).await, first, "the kernel is told of each target");
    for same in [&plain, &other] {
        assert_eq!(world.made(same, &t).await, first);
    }
}

#[tokio::test]
async fn a_body_without_an_input_has_an_answer_of_its_own() {
    let world = World::new(&policy("input.a == 1"));
    for (form, body, warns) in [
        (Form::Envelope, r#"{"input": {}}"#, false),
        (Form::Envelope, "{}", true),
        (Form::Bare, "{}", false),
        (Form::Bare, "[]", false),
        (Form::Envelope, r#"{"x": 1}"#, true),
    ] {
        let answer = world.asked(form, body).await;
        assert_eq!(String::from_utf8_lossy(&answer.body).contains("api_usage_warning"), warns, "{body}");
    }
}

#[tokio::test]
async fn under_too_much_load_bodies_that_differ_in_what_is_not_read_hit() {
    let (world, t) = (World::new(&policy("input.a.b == 1")), token("1"));
    let first = world.answered(&json!({"token": t, "a": {"b": 1}, "id": "x"})).await;
    world.decider.set_overloaded(true);
    assert_eq!(world.answered(&json!({"token": t, "a": {"b": 1}, "id": "y"})).await, first);
    let body = json!({"input": {"token": t, "a": {"b": 2}}}).to_string();
    assert_eq!(world.asked(Form::Envelope, &body).await.reason, Reason::Overloaded);
}

#[tokio::test]
async fn what_changes_by_itself_is_kept_only_where_the_policy_says_so() {
    // `default_ttl` of these worlds is a minute.
    for (rules, kept) in [
        ("decision := {\"allow\": false, \"reason\": input.request.path}", true),
        ("decision := {\"allow\": false, \"reason\": sprintf(\"%v\", [input.time])}", false),
        ("decision := {\"allow\": false, \"reason\": sprintf(\"%d\", [time.now_ns()])}", false),
        ("decision := {\"allow\": false, \"ttl\": 9, \"reason\": sprintf(\"%d\", [time.now_ns()])}", true),
        (
            "decision := {\"allow\": false, \"reason\": input.usage.x} if false else := {\"allow\": false, \"reason\": \"x\"}",
            false,
        ),
    ] {
        let (world, t) = (World::new(rules), token("1"));
        world.made(&request("/a", "", "", &[]), &t).await;
        assert_eq!(world.decider.has_verdicts(), kept, "{rules}");
    }
}

/// Policies and requests at random: what the cache answers is what the policy would.
#[test]
fn the_cached_answer_is_the_evaluated_one() {
    const PLACES: [&str; 7] = [
        "input.request.path",
        "input.request.query",
        "input.request.host",
        "input.request.source",
        "input.request.headers.a",
        "input.request.headers[\"x-b\"]",
        "input.request.segments[0]",
    ];
    let texts = || prop::sample::select(vec!["", "a", "b"]);
    let statement =
        (prop::sample::select(&PLACES[..]), texts(), 0..5).prop_map(|(place, text, form)| match form {
            0 => format!("{place} == \"{text}\""),
            1 => format!("not {place} == \"{text}\""),
            2 => format!("is(\"{text}\", {place})"),
            3 => format!("every v in [{place}] {{ v != \"{text}\" }}"),
            _ => format!("count([1 | {place} == \"{text}\"]) == 0"),
        });
    let rules = prop::collection::vec(prop::collection::vec(statement, 1..3), 1..4);
    let ask = (texts(), texts(), texts(), texts(), texts(), texts(), any::<bool>());
    let strategy = (rules, prop::collection::vec(ask, 24));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let t = token("1");
    let hits = std::cell::Cell::new(0);
    let config = proptest::test_runner::Config {
        failure_persistence: None,
        ..proptest::test_runner::Config::with_cases(60)
    };
    TestRunner::new(config)
        .run(&strategy, |(rules, asks)| {
            let mut text =
                "default decision := {\"allow\": false, \"ttl\": 60}\nis(x, y) if x == y\n".to_owned();
            text.push_str("decision := {\"allow\": true, \"ttl\": 60} if {\n\tok\n}\n");
            for rule in rules {
                text.push_str("ok if {\n\t");
                text.push_str(&rule.join("\n\t"));
                text.push_str("\n}\n");
            }
            let world = World::new(&text);
            for (first, query, host, source, a, b, has) in &asks {
                let path = format!("/{first}");
                let headers = [("a", *a), ("x-b", *b)];
                let headers = if *has { &headers[..] } else { &headers[..1] };
                let mut request = request(&path, query, host, headers);
                request.source = source;
                let before = world.decider.stored();
                let allowed = matches!(
                    runtime.block_on(world.decider.request(BY, &request, Ok(Some(Presented::new(&t))))),
                    Ruling::Allow(_)
                );
                hits.set(hits.get() + u32::from(world.decider.stored() == before));
                let known = crate::token::Token::new(t.clone());
                let explained = runtime.block_on(world.decider.explain(&request, Ok(Some(known))));
                prop_assert_eq!(allowed, explained.allow, "{}\n{:?}", &text, request);
            }
            Ok(())
        })
        .unwrap();
    println!("{} of {} answers came from the cache", hits.get(), 60 * 24);
    assert!(hits.get() > 60, "the cache was not asked");
}
