//! Answers that a real OPA (1.20) gave, kept in files.

use super::super::*;

/// Calls a builtin as an engine does; `None` where it has no value.
fn call(name: &str, args: &serde_json::Value) -> Option<Value> {
    begin(false);
    let args: Vec<Value> = args.as_array().unwrap().iter().cloned().map(value).collect();
    (find(name).unwrap().call)(&args).ok()
}

#[test]
fn sprintf_writes_what_opa_writes() {
    let other = std::env::var("PORTCULLIS_SPRINTF").map(|path| std::fs::read_to_string(path).unwrap());
    let cases = other.unwrap_or_else(|_| include_str!("sprintf.json").to_owned());
    let cases: Vec<(String, serde_json::Value, Option<String>)> = serde_json::from_str(&cases).unwrap();
    let mut wrong = Vec::new();
    for (format, args, expected) in &cases {
        let got = call("sprintf", &serde_json::json!([format, args]));
        if got != expected.as_deref().map(Value::from) {
            wrong.push(format!("{format:?} {args}: {got:?}, OPA {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
}

/// Null is an error.
#[test]
fn patterns_mean_what_they_mean_to_opa() {
    let cases = serde_json::from_str::<serde_json::Value>(include_str!("cases.json")).unwrap();
    let mut wrong = Vec::new();
    for case in cases.as_array().unwrap() {
        let got = call(case[0].as_str().unwrap(), &case[1]);
        let expected = Some(value(case[2].clone())).filter(|v| *v != Value::Null);
        if got != expected {
            wrong.push(format!("{case}: {got:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
