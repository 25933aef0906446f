//! The input of policies, as the decision path makes it.

use serde_json::{Map, Value, json};

use super::{Request, known::Known};
use crate::{clock::WallTime, token::Identity};

/// `valid`, or the reason's code.
pub(super) fn status_code(known: &Known) -> &'static str {
    known.status.as_ref().map_or_else(|r| r.code(), |_| "valid")
}

/// The input of policies for a request; see `policies/README.md`.
pub(super) fn request_input(r: &Request<'_>, known: &Known, now: WallTime) -> Value {
    let mut input = request_members(r);
    add_token(&mut input, known, now);
    add_place(&mut input, known.place.as_ref());
    input
}

/// Puts in where the request comes from.
pub(super) fn add_place(input: &mut Value, place: Option<&Value>) {
    if let (Some(place), Some(request)) = (place, input.get_mut("request").and_then(Value::as_object_mut)) {
        request.insert("geo".to_owned(), place.clone());
    }
}

/// What is said of the request itself, in our schema and in the gateway's own.
pub(super) fn request_members(r: &Request<'_>) -> Value {
    let mut input = request_member(r);
    if let (Some(Value::Object(foreign)), Value::Object(members)) = (r.foreign, &mut input) {
        for (name, value) in foreign {
            // Ours is ours, whatever stands in theirs.
            members.entry(name.clone()).or_insert_with(|| value.clone());
        }
    }
    input
}

fn request_member(r: &Request<'_>) -> Value {
    let headers: Map<String, Value> =
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
    let identity = known.identity().map(|(identity, claims)| (&**identity, claims));
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
    identity: Option<(&Identity, Map<String, Value>)>,
    usage: Option<&Value>,
    now: WallTime,
) {
    let Value::Object(members) = input else { return };
    members.insert("time".to_owned(), seconds(now));
    members.insert("token_status".to_owned(), Value::from(status));
    // What binds it was proved, or the token would not be valid.
    let bound = identity.as_ref().map(|(i, _)| i.confirmation.as_ref().map_or("none", |cnf| cnf.label()));
    match bound {
        Some(bound) => members.insert("token_bound".to_owned(), bound.into()),
        None => members.remove("token_bound"),
    };
    match identity.map(|(identity, claims)| identity.document(claims)) {
        Some(identity) => members.insert("identity".to_owned(), identity),
        None => members.remove("identity"),
    };
    match usage {
        Some(usage) => members.insert("usage".to_owned(), usage.clone()),
        None => members.remove("usage"),
    };
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::decide::Path;

    /// As much of JSON Schema as the page uses: each member of the input must be described, and be of its type.
    fn check(schema: &Value, value: &Value, at: &str) {
        let is = match schema["type"].as_str() {
            Some("object") => value.is_object(),
            Some("array") => value.is_array(),
            Some("string") => value.is_string(),
            Some("integer") => value.is_i64(),
            Some("number") => value.is_number(),
            other => panic!("{at}: {other:?}"),
        };
        assert!(is, "{at} is {value}");
        for item in value.as_array().into_iter().flatten() {
            check(&schema["items"], item, at);
        }
        let Some(members) = value.as_object() else { return };
        for name in schema["required"].as_array().into_iter().flatten() {
            assert!(members.contains_key(name.as_str().unwrap()), "{at} has no {name}");
        }
        for (name, value) in members {
            let at = format!("{at}.{name}");
            match (schema["properties"].get(name), schema.get("additionalProperties")) {
                (Some(schema), _) => check(schema, value, &at),
                (None, Some(more @ Value::Object(_))) => check(more, value, &at),
                // The claims are the issuer's.
                (None, None) if schema.get("properties").is_none() => {}
                _ => panic!("{at} is not in docs/input.schema.json"),
            }
        }
    }

    #[test]
    fn the_schema_describes_every_member_of_the_input() {
        let schema: Value = serde_json::from_str(include_str!(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../docs/input.schema.json"
        )))
        .unwrap();
        let mut input = request_member(&Request {
            method: "GET",
            path: Path::new("/v1/orders").unwrap(),
            query: "a=b",
            host: "api.test",
            headers: vec![("x-a", "1")],
            source: "192.0.2.1",
            foreign: None,
            evidence: crate::token::Evidence::default(),
        });
        complete(&mut input, "token_missing", None, None, WallTime(1));
        let place = json!({"continent": "EU", "country": "DE", "subdivision": "BE", "asn": 64500, "organization": "E"});
        add_place(&mut input, Some(&place));
        check(&schema, &input, "input");
        let usage = json!({"observed_since": 0, "first_used": 1, "last_used": 2, "subject": {"first_used": 1, "last_used": 2}});
        let identity = Identity::whole();
        let claims = Map::from_iter([("x".to_owned(), 1.into())]);
        complete(&mut input, "valid", Some((&identity, claims)), Some(&usage), WallTime(1));
        assert_eq!(
            input["identity"].as_object().unwrap().len(),
            schema["properties"]["identity"]["properties"].as_object().unwrap().len()
        );
        check(&schema, &input, "input");
    }
}
