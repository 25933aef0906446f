//! What a policy is given of an answer, in OPA's form.

use std::collections::BTreeMap;

use regorus::Value;

use super::{super::builtins, Answered, CallFault};
use crate::policy::yaml;

/// Bodies that are read whatever type they have.
#[derive(Clone, Copy, Default)]
pub struct Decode {
    json: bool,
    yaml: bool,
}

impl Decode {
    /// As a request wants it.
    pub fn of(request: &Value) -> Self {
        let is = |name: &str| matches!(request, Value::Object(m) if m.get(&Value::from(name)) == Some(&Value::Bool(true)));
        Self { json: is("force_json_decode"), yaml: is("force_yaml_decode") }
    }
}

fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::from(members.into_iter().map(|(k, v)| (Value::from(k), v)).collect::<BTreeMap<_, _>>())
}

/// An answer: `status`, `status_code`, `body`, `raw_body`, `headers`. A body that is not what its type says is null.
pub fn answered(answer: &Answered, decode: Decode) -> Value {
    let raw = String::from_utf8_lossy(&answer.body);
    let kind = answer.headers.iter().find(|(name, _)| name == "content-type");
    let kind = kind.map(|(_, v)| v.split(';').next().unwrap_or_default().trim().to_ascii_lowercase());
    let kind = kind.unwrap_or_default();
    let body = if decode.json || kind == "application/json" {
        serde_json::from_str(&raw).ok().map(builtins::value)
    } else if decode.yaml || matches!(kind.as_str(), "application/yaml" | "application/x-yaml") {
        yaml::read(&raw).ok()
    } else {
        None
    };
    let mut headers: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        headers.entry(Value::from(name.as_str())).or_default().push(Value::from(value.as_str()));
    }
    let headers: BTreeMap<Value, Value> = headers.into_iter().map(|(k, v)| (k, Value::from(v))).collect();
    let reason = answer.status.canonical_reason().unwrap_or_default();
    object([
        ("status", Value::from(format!("{} {reason}", answer.status.as_u16()).trim_end())),
        ("status_code", Value::from(u64::from(answer.status.as_u16()))),
        ("body", body.unwrap_or(Value::Null)),
        ("raw_body", Value::from(&*raw)),
        ("headers", Value::from(headers)),
    ])
}

/// A failure, for a request that wants it as a value.
pub fn failed(fault: &CallFault) -> Value {
    let (code, message) = match fault {
        CallFault::Network(why) => ("eval_http_send_network_error", why),
        CallFault::Internal(why) => ("eval_http_send_internal_error", why),
    };
    let error = object([("code", Value::from(code)), ("message", Value::from(message.as_str()))]);
    object([("status_code", Value::from(0_u64)), ("error", error)])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_have_opas_form_and_bodies_are_read_by_type_or_by_force() {
        let given = |kind: &str, body: &'static str, request: serde_json::Value| {
            let headers = vec![
                ("content-type".into(), kind.into()),
                ("x-a".into(), "1".into()),
                ("x-a".into(), "2".into()),
            ];
            let answer = Answered { status: http::StatusCode::OK, headers, body: body.into() };
            serde_json::to_value(answered(&answer, Decode::of(&Value::from(request)))).unwrap()
        };
        let plain = given("application/json; charset=utf-8", "{\"a\": 1}", json!({}));
        assert_eq!(
            plain,
            json!({"status": "200 OK", "status_code": 200, "body": {"a": 1}, "raw_body": "{\"a\": 1}",
                "headers": {"content-type": ["application/json; charset=utf-8"], "x-a": ["1", "2"]}})
        );
        for (kind, body, request, read) in [
            ("text/plain", "{\"a\": 1}", json!({}), json!(null)),
            ("text/plain", "{\"a\": 1}", json!({"force_json_decode": true}), json!({"a": 1})),
            ("application/json", "{", json!({}), json!(null)),
            ("application/x-yaml", "a: 1", json!({}), json!({"a": 1})),
            ("text/plain", "a: 1", json!({"force_yaml_decode": true}), json!({"a": 1})),
        ] {
            assert_eq!(given(kind, body, request)["body"], read, "{kind} {body}");
        }
    }

    #[test]
    fn failures_have_a_code_and_status_zero() {
        let value = serde_json::to_value(failed(&CallFault::Network("gone".into()))).unwrap();
        assert_eq!(
            value,
            json!({"status_code": 0, "error": {"code": "eval_http_send_network_error", "message": "gone"}})
        );
    }
}
