//! What the decision log says of real decisions.

use std::{fs, path::Path as FilePath, sync::Arc, time::Duration};

use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use super::{
    DataQuery, Form, Path, Request, Ruling, recorded_input,
    tests::{BY, World, set, token},
};
use crate::{
    record::{
        Asker, FileSettings, Labels, Log, LogParts, Recorder, Redaction, Sink, SinkKind, Waiting, queue,
    },
    telemetry::{Door, Metrics},
    token::Presented,
};

const OBJECTS: &str = "default decision := {\"allow\": false}\ndecision := {\"allow\": true, \"ttl\": 60, \"reason\": \"fine\"} if {\n\tinput.token_status == \"valid\"\n\tnot no\n}\nno if input.request.path == \"/no\"";

struct Logged {
    world: World,
    log: Log,
    dir: tempfile::TempDir,
}

fn recorder(sample_allows: u32, bytes: usize) -> (Arc<Recorder>, Waiting) {
    let (queue, waiting) = queue(1000, bytes);
    (
        Arc::new(Recorder {
            log: Some(queue),
            sample_allows,
            fail_open: vec![Door::ForwardAuth],
            shadow: None,
        }),
        waiting,
    )
}

fn parts(world: &World, waiting: Waiting, file: &FilePath) -> LogParts {
    let (path, hour) = (file.to_owned(), Duration::from_hours(1));
    let kind = SinkKind::File(FileSettings { path, max_bytes: 1 << 30, max_age: hour, keep: 1 });
    LogParts {
        waiting,
        sink: Sink::open(kind).unwrap(),
        active: Arc::clone(&world.policy),
        metrics: Arc::new(Metrics::new().unwrap()),
        labels: Labels([("host".to_owned(), "h".to_owned())].into()),
        redaction: Redaction { claims: vec!["email".into()], ..Redaction::default() },
        input: Box::new(|event| {
            recorded_input(event, &["token".to_owned()], &["context".into(), "token".into()])
        }),
    }
}

impl Logged {
    fn new(rules: &str, sample: u32) -> Self {
        let (recorder, waiting) = recorder(sample, 1 << 20);
        let (world, dir) = (World::recorded(rules, Some(recorder)), tempfile::tempdir().unwrap());
        let log = Log::start(parts(&world, waiting, &dir.path().join("d.log"))).unwrap();
        Self { world, log, dir }
    }

    /// Every line, once all are written.
    fn lines(self) -> Vec<Value> {
        self.log.stop();
        let text = fs::read_to_string(self.dir.path().join("d.log")).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    async fn get(&self, path: &str, headers: &[(&str, &str)], token: &str) -> Ruling {
        let path = Path::new(path).unwrap();
        let request = Request {
            method: "GET",
            path,
            query: "a=b",
            host: "h",
            headers: headers.to_vec(),
            source: "192.0.2.1",
            foreign: None,
            evidence: crate::token::Evidence::default(),
        };
        self.world.decider.request(BY, &request, Ok(Some(Presented::new(token)))).await
    }
}

#[tokio::test]
async fn evaluated_and_cached_decisions_are_lines_in_opas_format() {
    let (logged, t) = (Logged::new(OBJECTS, 1), token("1"));
    for path in ["/v1", "/v1", "/no"] {
        logged.get(path, &[("x-user", "bob")], &t).await;
    }
    let fingerprint = logged.world.decider.key().deny(&crate::token::Token::new(t.clone())).to_string();
    let hash = logged.world.policy.current().set.hash().to_owned();
    let lines = logged.lines();
    assert_eq!(lines.len(), 3);
    let first = &lines[0];
    assert_eq!((&first["path"], &first["labels"]["host"]), (&json!("p/decision"), &json!("h")));
    assert_eq!(first["result"], json!({"allow": true, "ttl": 60, "reason": "fine"}));
    assert_eq!(first["bundles"]["portcullis"]["revision"], hash.as_str());
    assert_eq!(first["requested_by"], "192.0.2.9");
    assert_eq!(
        first["input"]["request"],
        json!({"method": "GET", "path": "/v1", "segments": ["v1"], "query": "a=b", "host": "h", "headers": {},
            "source": "192.0.2.1"})
    );
    assert_eq!(first["input"]["identity"]["sub"], "u");
    assert_eq!(first["input"]["token_status"], "valid");
    assert_eq!(first["erased"], json!(["/input/request/headers/x-user"]));
    assert!(first["metrics"]["timer_rego_query_eval_ns"].as_u64().unwrap() > 0);
    assert!(first["timestamp"].as_str().unwrap().ends_with('Z'));
    let ours = &first["portcullis"];
    assert_eq!(
        (&ours["door"], &ours["allow"], &ours["reason"], &ours["cached"], &ours["generation"]),
        (&json!("forward_auth"), &json!(true), &json!("allowed"), &json!(false), &json!(1))
    );
    assert_eq!(ours["fingerprint"], fingerprint);
    let cached = &lines[1];
    assert_eq!(cached["portcullis"]["cached"], true);
    assert_eq!(cached["portcullis"]["evaluation"], first["decision_id"]);
    assert_ne!(cached["decision_id"], first["decision_id"]);
    assert_eq!(
        (&cached["result"], &cached["input"]["identity"]),
        (&first["result"], &first["input"]["identity"])
    );
    let denied = &lines[2]["portcullis"];
    assert_eq!((&denied["reason"], &denied["status"]), (&json!("policy_denied"), &json!(403)));
}

#[tokio::test]
async fn who_asks_is_told_the_id_of_the_line() {
    let (logged, t) = (Logged::new(OBJECTS, 1), token("1"));
    let mut told = Vec::new();
    for path in ["/v1", "/v1", "/no"] {
        let id = match logged.get(path, &[], &t).await {
            Ruling::Allow(permit) => permit.id(),
            Ruling::Deny(refusal) => refusal.id,
        };
        told.push(json!(id.unwrap().to_string()));
    }
    for path in [&["p", "decision"][..], &["p", "nothing"]] {
        told.push(logged.world.data(path, &t).await["decision_id"].clone());
    }
    // A `GET` has a bare input, and an answer with room for it.
    let query = DataQuery {
        path: &["p", "nothing"],
        form: Form::Bare,
        body: b"{}",
        token_path: &[],
        strict: false,
        named: true,
        by: BY,
    };
    let answer = logged.world.decider.data(&query).await.unwrap();
    told.push(serde_json::from_slice::<Value>(&answer.body).unwrap()["decision_id"].clone());
    let read = || Ok::<_, ()>(json!({}));
    let by = Asker { door: Door::Authzen, peer: "" };
    let Ok(Ruling::Deny(denied)) = logged.world.decider.document(by, b"{}", &[], read, |_| None).await else {
        panic!("allowed");
    };
    told.push(json!(denied.id.unwrap().to_string()));
    let lines: Vec<_> = logged.lines().iter().map(|line| line["decision_id"].clone()).collect();
    assert_eq!(lines, told);
    // Without a log there is nothing to name.
    let world = World::new(OBJECTS);
    assert!(world.data(&["p", "decision"], &t).await.get("decision_id").is_none());
    assert!(matches!(world.auth(&t).await, Ruling::Allow(permit) if permit.id().is_none()));
}

#[tokio::test]
async fn members_of_a_gateways_own_schema_are_logged_and_the_token_in_them_is_not() {
    let rules = "default decision := {\"allow\": false}\ndecision := {\"allow\": true} if input.attributes.request.http.path == \"/v1?x=1\"";
    let (logged, t) = (Logged::new(rules, 1), token("1"));
    let foreign = json!({"parsed_path": ["v1"], "attributes": {"request": {"http": {
        "path": "/v1?x=1", "headers": {"authorization": format!("Bearer {t}")}}}}});
    let request = Request { foreign: Some(&foreign), ..super::tests::bare("/v1") };
    let ruling = logged.world.decider.request(BY, &request, Ok(Some(Presented::new(&t)))).await;
    assert!(matches!(ruling, Ruling::Allow(_)));
    let lines = logged.lines();
    let input = &lines[0]["input"];
    assert_eq!(input["attributes"], json!({"request": {"http": {"path": "/v1?x=1", "headers": {}}}}));
    assert_eq!((&input["parsed_path"], &input["request"]["path"]), (&json!(["v1"]), &json!("/v1")));
    assert!(!lines[0].to_string().contains(&t[..40]));
}

#[tokio::test]
async fn the_data_api_and_documents_are_logged_without_their_tokens() {
    let (logged, t) = (Logged::new(OBJECTS, 1), token("1"));
    for _ in 0..2 {
        logged.world.data(&["p", "decision"], &t).await;
    }
    logged.world.data(&["p"], &t).await;
    let text = json!({"context": {"token": t, "x": 1}}).to_string();
    let read = || serde_json::from_str::<Value>(&text);
    let by = Asker { door: Door::Authzen, peer: "" };
    let path = ["context".to_owned(), "token".to_owned()];
    for _ in 0..2 {
        let again = |text: &[u8]| serde_json::from_slice(text).ok();
        logged.world.decider.document(by, text.as_bytes(), &path, read, again).await.unwrap();
    }
    // Elsewhere than where it belongs, it is found by its looks.
    let body = json!({"input": {"attributes": {"authorization": format!("Bearer {t}")}, "y": t}}).to_string();
    let query = DataQuery {
        path: &["p", "decision"],
        form: Form::Envelope,
        body: body.as_bytes(),
        token_path: &["token".to_owned()],
        strict: false,
        named: true,
        by: BY,
    };
    logged.world.decider.data(&query).await.unwrap();
    let lines = logged.lines();
    let ways: Vec<_> = lines.iter().map(|l| (l["path"].clone(), l["portcullis"]["cached"] == true)).collect();
    let wanted = [
        ("p/decision", false),
        ("p/decision", true),
        ("p", false),
        ("p/decision", false),
        ("p/decision", true),
        ("p/decision", false),
    ];
    assert_eq!(ways, wanted.map(|(path, cached)| (json!(path), cached)));
    for (line, result) in [
        (0, json!({"allow": true, "ttl": 60, "reason": "fine"})),
        (3, json!({"allow": true, "ttl": 60, "reason": "fine"})),
    ] {
        assert_eq!(lines[line]["result"], result, "{}", lines[line]);
        assert_eq!(lines[line]["input"]["identity"]["jti"], "1");
    }
    assert_eq!(lines[3]["input"]["context"], json!({"x": 1}));
    assert_eq!(lines[5]["erased"], json!(["/input/y", "/input/attributes/authorization"]));
    let whole = lines.iter().map(Value::to_string).collect::<String>();
    for part in t.split('.').skip(1) {
        assert!(!whole.contains(part));
    }
}

#[tokio::test]
async fn what_the_daemon_denies_says_so_whatever_the_policy_said() {
    let (logged, t) = (Logged::new(OBJECTS, 1), token("1"));
    logged.get("/v1", &[], &t).await;
    logged.world.revoke(&t).await;
    assert_eq!(logged.get("/v1", &[], &t).await.reason(), Reason::TokenRevoked);
    logged.world.decider.set_overloaded(true);
    logged.get("/v1", &[], &token("2")).await;
    logged.world.decider.set_ready(false);
    logged.get("/v1", &[], &t).await;
    let lines = logged.lines();
    for (line, reason, status, open) in
        [(1, "token_revoked", 401, false), (2, "overloaded", 503, true), (3, "token_revoked", 401, false)]
    {
        let line = &lines[line];
        assert_eq!(line["result"], json!({"allow": false, "reason": reason, "status": status}));
        assert_eq!(line["portcullis"]["failed_open"] == true, open);
        assert_eq!(line["input"]["request"]["path"], "/v1");
    }
    assert_eq!(lines[1]["input"]["identity"]["sub"], "u");
}

#[tokio::test]
async fn allows_are_sampled_and_denials_are_not() {
    let (logged, t) = (Logged::new(OBJECTS, 10), token("1"));
    for n in 0..600 {
        logged.get(if n < 500 { "/v1" } else { "/no" }, &[], &t).await;
    }
    let lines = logged.lines();
    let allows = lines.iter().filter(|l| l["portcullis"]["allow"] == true).count();
    assert!((10..=110).contains(&allows), "{allows} of 500");
    assert_eq!(lines.len() - allows, 100);
    assert_eq!(lines[0]["portcullis"]["sampled_one_in"], 10);
}

#[tokio::test]
async fn a_full_queue_holds_up_no_decision() {
    let (recorder, waiting) = recorder(1, 2000);
    let world = World::recorded(OBJECTS, Some(Arc::clone(&recorder)));
    for _ in 0..1000 {
        assert!(matches!(world.auth(&token("1")).await, Ruling::Allow(_)));
    }
    let dropped = recorder.log.as_ref().unwrap().dropped();
    assert!((990..1000).contains(&dropped), "{dropped}");
    drop(waiting);
    assert!(matches!(world.auth(&token("1")).await, Ruling::Allow(_)), "nor does a log that ended");
}

#[tokio::test]
async fn the_policys_mask_is_applied_and_one_that_fails_withholds_the_line() {
    let mask = |rules: &str| {
        let dir = tempfile::tempdir().unwrap();
        let main = format!("package p\n\nimport rego.v1\n\n{OBJECTS}\n");
        fs::write(dir.path().join("p.rego"), main).unwrap();
        fs::write(dir.path().join("m.rego"), format!("package system.log\n\nimport rego.v1\n\n{rules}\n"))
            .unwrap();
        let options = crate::policy::LoadOptions::default();
        crate::policy::load(&[dir.path().to_owned()], "p/decision", &options).unwrap()
    };
    let (logged, t) = (Logged::new(OBJECTS, 1), token("1"));
    let wait = || std::thread::sleep(Duration::from_millis(300));
    logged.world.policy.install(
        mask("mask contains \"/input/identity/sub\" if input.portcullis.allow\nmask contains {\"op\": \"upsert\", \"path\": \"/input/request/source\", \"value\": \"-\"}"),
        2,
    );
    logged.get("/v1", &[], &t).await;
    logged.get("/no", &[], &t).await;
    wait();
    logged.world.policy.install(mask("mask contains \"/labels\""), 3);
    logged.get("/v1", &[], &t).await;
    wait();
    logged.world.policy.install(set(OBJECTS), 4);
    logged.get("/v1", &[], &t).await;
    let lines = logged.lines();
    assert_eq!(lines[0]["input"]["identity"].get("sub"), None);
    assert_eq!(
        (&lines[0]["erased"], &lines[0]["masked"]),
        (&json!(["/input/identity/sub"]), &json!(["/input/request/source"]))
    );
    assert_eq!(
        (&lines[1]["input"]["identity"]["sub"], &lines[1]["input"]["request"]["source"]),
        (&json!("u"), &json!("-"))
    );
    assert_eq!((lines[2].get("input"), lines[2].get("result")), (None, None));
    assert!(lines[2]["portcullis"]["mask_failed"].as_str().unwrap().contains("begins with none of"));
    assert_eq!((lines[3].get("erased"), &lines[3]["input"]["identity"]["sub"]), (None, &json!("u")));
}
