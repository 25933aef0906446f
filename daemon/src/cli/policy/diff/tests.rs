//! A comparison over lines as the daemon writes them.

use std::fs;

use serde_json::{Value, json};

use super::*;

struct Place(tempfile::TempDir);

impl Place {
    fn new(old: &str, new: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        for (name, rules) in [("old", old), ("new", new)] {
            fs::create_dir(dir.path().join(name)).unwrap();
            let text = format!("package portcullis\n\nimport rego.v1\n\n{rules}\n");
            fs::write(dir.path().join(name).join("p.rego"), text).unwrap();
        }
        Self(dir)
    }

    fn report(&self, lines: &[Value], bare: bool) -> Report {
        let file = self.0.path().join("log");
        let text = lines.iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
        fs::write(&file, text).unwrap();
        let dir = |name: &str| self.0.path().join(name);
        let args = Args {
            old: dir("old"),
            new: dir("new"),
            log: Vec::new(),
            inputs: Vec::new(),
            decision: None,
            examples: 1,
            config: None,
            json: true,
        };
        let load = |name| policy::load(&[dir(name)], "portcullis/decision", &LoadOptions::default()).unwrap();
        let (old, new) = (load("old"), load("new"));
        let mut report = Report::new([&old, &new]);
        args.read(&file, bare, [&old, &new], &mut report).unwrap();
        report
    }
}

const OLD: &str = "default decision := {\"allow\": false, \"reason\": \"no\"}\ndecision := {\"allow\": true} if input.request.path == \"/a\"";
const NEW: &str = "default decision := {\"allow\": false, \"reason\": \"no\"}\ndecision := {\"allow\": true} if tenant\ntenant if input.request.headers.tenant == \"t\"";

fn line(path: &str, allow: bool, more: &Value) -> Value {
    let mut line = json!({
        "decision_id": "1", "path": "portcullis/decision",
        "input": {"request": {"path": path, "headers": {}}, "identity": {"iss": "i", "sub": "s", "email": "a@b"}},
        "portcullis": {"kind": "decision", "allow": allow, "reason": "allowed", "fingerprint": "f1"},
    });
    for (name, value) in more.as_object().unwrap() {
        line[name] = value.clone();
    }
    line
}

#[test]
fn differences_are_counted_by_cause_and_token_and_what_cannot_be_decided_again_is_told() {
    let place = Place::new(OLD, NEW);
    let header = json!({"request": {"path": "/b", "headers": {"tenant": "t"}}});
    let lines = [
        line("/a", true, &json!({})),
        line("/a", true, &json!({"portcullis": {"allow": true, "fingerprint": "f2", "sampled_one_in": 10}})),
        line("/a", false, &json!({})),
        line("/b", false, &json!({"input": header, "portcullis": {"allow": false, "fingerprint": "f1"}})),
        line("/b", false, &json!({})),
        line("/a", true, &json!({"erased": ["/input/request/headers/tenant"]})),
        line("/a", true, &json!({"erased": ["/input/request/headers/other", "/input/identity/email"]})),
        line("/a", true, &json!({"path": "portcullis/decision/allow"})),
        line("/a", true, &json!({"path": "portcullis/other"})),
        line("/a", true, &json!({"portcullis": {"kind": "kernel_refusal"}})),
        line("/a", true, &json!({"portcullis": {"kind": "decision", "reason": "token_revoked"}})),
        json!({"x": 1}),
        json!(7),
    ];
    let report = place.report(&lines, false);
    let told = report.json();
    assert_eq!(
        (&told["decided"], &told["newly_denied"], &told["newly_allowed"], &told["changed"]),
        (&json!(7), &json!(5), &json!(1), &json!(0)),
        "{told:#}"
    );
    assert_eq!(told["estimated"], 16);
    assert_eq!(told["unlike_recorded"], 1);
    assert_eq!(
        told["not_decided"],
        json!({"masked": 1, "other_path": 1, "other_kind": 1, "policy_not_asked": 1, "unreadable": 2})
    );
    assert_eq!(told["taken_out"], json!({"/input/request/headers/tenant": 1}));
    assert_eq!(
        told["tokens"],
        json!({"f1": {"newly_denied": 4, "newly_allowed": 1}, "f2": {"newly_denied": 1}})
    );
    let denied = &told["changes"][0];
    assert_eq!((&denied["old"]["allow"], &denied["new"]["reason"]), (&json!(true), &json!("no")));
    assert_eq!(denied["rules"], json!([]), "{denied}");
    assert_eq!(denied["examples"][0]["input"]["identity"], json!({"iss": "i", "sub": "s"}), "redacted again");
    assert_eq!(told["changes"][1]["rules"], json!(["data.portcullis.tenant"]));
    assert!(report.has_changes());
    let human = report.human();
    assert!(
        human.contains("newly denied   5") && human.contains("/input/request/headers/tenant in 1"),
        "{human}"
    );
}

#[test]
fn sets_that_agree_change_nothing_and_bare_inputs_do_for_a_log() {
    let place = Place::new(OLD, OLD);
    assert!(!place.report(&[line("/a", true, &json!({}))], false).has_changes());
    let place = Place::new(OLD, NEW);
    let report = place.report(&[json!({"request": {"path": "/a"}})], true);
    assert_eq!((report.json()["decided"].clone(), report.has_changes()), (json!(1), true));
}
