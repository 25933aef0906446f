//! The input of policies, as the decision path makes it.

use serde_json::{Value, json};

use super::{Request, decider::Known};
use crate::{clock::WallTime, token::Identity};

/// `valid`, or the reason's code.
pub(super) fn status_code(known: &Known) -> &'static str {
    known.status.as_ref().map_or_else(|r| r.code(), |_| "valid")
}

/// The input of policies for a request; see `policies/README.md`.
pub(super) fn request_input(r: &Request<'_>, known: &Known, now: WallTime) -> Value {
    let mut input = request_member(r);
    add_token(&mut input, known, now);
    input
}

/// What is said of the request itself.
pub(super) fn request_member(r: &Request<'_>) -> Value {
    let headers: serde_json::Map<String, Value> =
        r.headers.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    json!({
        "request": {
            "method": r.method, "path": r.path.as_str(), "segments": r.path.segments(), "query": r.query,
            "host": r.host, "headers": headers, "source": r.source,
        },
    })
}

/// Puts what is known of the token, and the time, into an input, in place of whatever the caller wrote there.
pub(super) fn add_token(input: &mut Value, known: &Known, now: WallTime) {
    let identity = known.status.as_ref().ok().map(|i| &**i);
    complete(input, status_code(known), identity, known.usage.as_ref(), now);
}

/// Unix seconds, as policies have them.
#[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in a double")]
pub(super) fn seconds(now: WallTime) -> Value {
    Value::from(now.0 as f64 / 1000.0)
}

/// The same, where the token is not at hand any more.
pub(super) fn complete(
    input: &mut Value,
    status: &str,
    identity: Option<&Identity>,
    usage: Option<&Value>,
    now: WallTime,
) {
    let Value::Object(members) = input else { return };
    members.insert("time".to_owned(), seconds(now));
    members.insert("token_status".to_owned(), Value::from(status));
    match identity.and_then(|i| serde_json::to_value(i).ok()) {
        Some(identity) => members.insert("identity".to_owned(), identity),
        None => members.remove("identity"),
    };
    match usage {
        Some(usage) => members.insert("usage".to_owned(), usage.clone()),
        None => members.remove("usage"),
    };
}
