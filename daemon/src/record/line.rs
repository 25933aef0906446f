//! A line of the decision log: OPA's members, and ours under `portcullis`.

use std::{
    collections::BTreeMap,
    time::{Duration, UNIX_EPOCH},
};

use serde_json::{Map, Value, json};

use super::{Asked, Event, redact};
use crate::clock::WallTime;

/// Who writes, in every line.
#[derive(Clone, Debug, Default)]
pub struct Labels(pub BTreeMap<String, String>);

/// What a line is made of beside the event.
pub struct Frame<'a> {
    /// Who writes.
    pub labels: &'a Labels,
    /// The decision's path below `data`, where the door asks for no other.
    pub decision: &'a str,
    /// The set that decided, by its hash.
    pub revision: Option<&'a str>,
    /// The line's own id.
    pub id: u64,
}

/// The line of a decision, as it is before it is redacted.
pub fn decision(event: &Event, input: Option<Value>, frame: &Frame<'_>) -> Value {
    let (path, peer) = match &event.asked {
        Asked::Request { texts, .. } => {
            (frame.decision, texts.unpack().first().copied().unwrap_or_default().to_owned())
        }
        Asked::Data { path, peer, .. } => (path.as_str(), peer.clone()),
        Asked::Document { peer, .. } => (frame.decision, peer.clone()),
    };
    let mut line = begun(frame.id, event.time, frame.labels);
    // A path is whatever its caller asked for.
    line.insert("path".to_owned(), if redact::is_credential(path) { redact::GONE } else { path }.into());
    if let Some(revision) = frame.revision {
        line.insert("bundles".to_owned(), json!({"portcullis": {"revision": revision}}));
    }
    if let Some(input) = input {
        line.insert("input".to_owned(), input);
    }
    if let Some(result) = result(event) {
        line.insert("result".to_owned(), result);
    }
    if !peer.is_empty() {
        line.insert("requested_by".to_owned(), peer.into());
    }
    let mut ours = json!({
        "kind": "decision",
        "door": event.door.label(),
        "allow": event.allow,
        "reason": event.reason.code(),
        "status": event.status,
        "cached": event.cached,
    });
    if event.sampled > 1 {
        ours["sampled_one_in"] = event.sampled.into();
    }
    if event.failed_open {
        ours["failed_open"] = true.into();
    }
    if let Some(decided) = &event.decided {
        ours["generation"] = decided.generation.into();
        if let Some(fingerprint) = decided.fingerprint {
            ours["fingerprint"] = fingerprint.to_string().into();
        }
        if event.cached {
            ours["evaluation"] = format!("{:016x}", decided.id).into();
        } else if decided.evaluated > 0 {
            line.insert("metrics".to_owned(), json!({"timer_rego_query_eval_ns": decided.evaluated}));
        }
    }
    line.insert("portcullis".to_owned(), ours);
    Value::Object(line)
}

/// The line of a refusal by the kernel.
pub fn kernel(event: Value, id: u64, labels: &Labels) -> Value {
    let time = event["time"].as_i64().unwrap_or_default();
    let mut line = begun(id, WallTime(time), labels);
    let mut ours = event;
    ours["kind"] = "kernel_refusal".into();
    line.insert("portcullis".to_owned(), ours);
    Value::Object(line)
}

fn begun(id: u64, time: WallTime, labels: &Labels) -> Map<String, Value> {
    let mut line = Map::new();
    line.insert("decision_id".to_owned(), format!("{id:016x}").into());
    line.insert("timestamp".to_owned(), timestamp(time).into());
    line.insert("labels".to_owned(), json!(labels.0));
    line
}

/// RFC 3339, to the millisecond. A clock that cannot be read says the last moment there is.
fn timestamp(at: WallTime) -> String {
    let ms = at.min(WallTime::LAST).0;
    let at = UNIX_EPOCH + Duration::from_millis(u64::try_from(ms).unwrap_or_default());
    humantime::format_rfc3339_millis(at).to_string()
}

/// What was answered: the policy's own words, or the daemon's where it is the daemon that denies.
fn result(event: &Event) -> Option<Value> {
    if let Asked::Data { answer, .. } = &event.asked {
        let mut answer: Value = serde_json::from_slice(answer).ok()?;
        return answer.get_mut("result").map(Value::take);
    }
    let own = event.decided.as_ref().and_then(|d| d.value.clone());
    let agrees = |value: &Value| match value {
        Value::Bool(allow) => *allow == event.allow,
        value => {
            let allow = value.get("allow").or_else(|| value.get("allowed"));
            allow.and_then(Value::as_bool) == Some(event.allow)
        }
    };
    let daemons = || json!({"allow": event.allow, "reason": event.reason.code(), "status": event.status});
    Some(own.filter(agrees).unwrap_or_else(daemons))
}
