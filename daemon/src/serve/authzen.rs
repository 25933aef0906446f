//! OpenID AuthZEN's access evaluation: one, or many in a batch.
//!
//! A decision is `{"decision": true|false}` with status 200, a failed one too: only a request that is no evaluation
//! gets an error. Policies read `input.subject`, `.resource`, `.action` and `.context` as they came. Who the subject is
//! is the caller's word; what a verified token says stands in `input.identity`. A resource of type `route` with a
//! `path` among its properties (the profile for API gateways) is an `input.request` too, so that policies for
//! gateways decide by it.

use std::{pin::pin, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;
use serde_json::{Map, Value, json};

use super::{
    contained::{Panicked, contained},
    doors::{Answer, Doors, json as json_answer, plain, read_body},
    forward::is_method,
    peer::Peer,
};
use crate::{
    decide::{Allowance, Path, Ruling},
    record::Asker,
    telemetry::Door,
};

pub(super) const EVALUATION: &str = "/access/v1/evaluation";
pub(super) const EVALUATIONS: &str = "/access/v1/evaluations";
/// Members of an evaluation.
const MEMBERS: [&str; 4] = ["subject", "resource", "action", "context"];
/// Most evaluations in a batch.
const MOST: usize = 1000;
/// Entries of a batch after which others have their turn.
const PAUSE: usize = 64;
/// Bytes of all entries of a batch together, each with the defaults.
const BATCH_BYTES: usize = 4 << 20;
const REQUEST_ID: &str = "x-request-id";

/// What is wrong with an evaluation.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Malformed(String);

fn malformed<T>(what: impl Into<String>) -> Result<T, Malformed> {
    Err(Malformed(what.into()))
}

/// `POST /access/v1/evaluation`.
pub(super) async fn one(doors: &Doors, request: Request<Incoming>, peer: &Peer) -> Answer {
    let (headers, body) = match taken(doors, request).await {
        Ok(taken) => taken,
        Err(answer) => return answer,
    };
    let decided = evaluate(doors, &headers, peer, &body, || input(&parsed(&body)?)).await;
    identified(
        &headers,
        decided.map_or_else(|m| error(&m), |v| json_answer(StatusCode::OK, v.to_string().into())),
    )
}

/// `POST /access/v1/evaluations`.
pub(super) async fn many(doors: &Doors, request: Request<Incoming>, peer: &Peer) -> Answer {
    let (headers, body) = match taken(doors, request).await {
        Ok(taken) => taken,
        Err(answer) => return answer,
    };
    let decided = batch(doors, &headers, peer, &body).await;
    identified(
        &headers,
        decided.map_or_else(|m| error(&m), |v| json_answer(StatusCode::OK, v.to_string().into())),
    )
}

async fn taken(doors: &Doors, request: Request<Incoming>) -> Result<(HeaderMap, Bytes), Answer> {
    if *request.method() != Method::POST {
        return Err(plain(StatusCode::METHOD_NOT_ALLOWED));
    }
    let (parts, body) = request.into_parts();
    match read_body(body, doors.settings.max_body).await {
        Ok(body) => Ok((parts.headers, body)),
        Err(reason) => {
            doors.metrics.decision(Door::Authzen, reason, std::time::Duration::ZERO);
            let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_REQUEST);
            let body = json!({"code": reason.code(), "message": reason.describe()});
            Err(json_answer(status, body.to_string().into()))
        }
    }
}

fn error(Malformed(what): &Malformed) -> Answer {
    let body = json!({"code": Reason::RequestMalformed.code(), "message": what});
    json_answer(StatusCode::BAD_REQUEST, body.to_string().into())
}

/// The caller's id of the request, told back to it.
fn identified(headers: &HeaderMap, mut answer: Answer) -> Answer {
    if let Some(id) = headers.get(REQUEST_ID) {
        answer.headers_mut().insert(REQUEST_ID, id.clone());
    }
    answer
}

fn parsed(body: &[u8]) -> Result<Map<String, Value>, Malformed> {
    match serde_json::from_slice(body) {
        Ok(Value::Object(members)) => Ok(members),
        Ok(_) => malformed("the body is not an object"),
        Err(e) => malformed(format!("the body is not JSON (line {}, column {})", e.line(), e.column())),
    }
}

/// Decides one evaluation; `text` is all that it says.
async fn evaluate(
    doors: &Doors,
    headers: &HeaderMap,
    peer: &Peer,
    text: &[u8],
    read: impl FnOnce() -> Result<Value, Malformed>,
) -> Result<Value, Malformed> {
    let start = Instant::now();
    let by = Asker { door: Door::Authzen, peer: &peer.address };
    let again = |text: &[u8]| input(&parsed(text).ok()?).ok();
    let asked = doors.decider.document(by, text, &doors.settings.authzen_token, read, again);
    // Whether the token is revoked stands in what panicked: that never fails open.
    let (reason, ruling) = match contained(pin!(asked)).await {
        Ok(Ok(ruling)) => (ruling.reason(), Ok(Ok(ruling))),
        Ok(Err(e)) => (Reason::RequestMalformed, Err(e)),
        Err(Panicked) => (Reason::InternalError, Ok(Err(Panicked))),
    };
    doors.decided(Door::Authzen, Some(headers), reason, start.elapsed());
    Ok(said(&doors.settle_known(Door::Authzen, ruling?)))
}

async fn batch(doors: &Doors, headers: &HeaderMap, peer: &Peer, body: &[u8]) -> Result<Value, Malformed> {
    let mut members = parsed(body)?;
    let listed = match members.remove("evaluations") {
        None => Vec::new(),
        Some(Value::Array(listed)) => listed,
        Some(_) => return malformed("`evaluations` is not an array"),
    };
    if listed.is_empty() {
        // The specification's own rule: then it is one evaluation.
        return evaluate(doors, headers, peer, body, || input(&members)).await;
    }
    if listed.len() > MOST {
        return malformed(format!("`evaluations` has more than {MOST} entries"));
    }
    // The decision after which the rest is left out.
    let last = match members.get("options").and_then(|o| o.get("evaluations_semantic")) {
        None => None,
        Some(Value::String(s)) => match s.as_str() {
            "execute_all" => None,
            "deny_on_first_deny" => Some(false),
            "permit_on_first_permit" => Some(true),
            _ => return malformed("`options.evaluations_semantic` is not one that the specification has"),
        },
        Some(_) => return malformed("`options.evaluations_semantic` is not a string"),
    };
    let mut said = Vec::with_capacity(listed.len());
    let mut bytes = 0;
    for own in listed {
        let whole = merged(&members, own);
        let text = Value::Object(whole.clone()).to_string();
        // Defaults stand in every entry: much work from few bytes, which others must not wait for.
        bytes += text.len();
        if bytes > BATCH_BYTES {
            return malformed("the entries of `evaluations`, each with the defaults, are too large together");
        }
        if said.len() % PAUSE == PAUSE - 1 {
            tokio::task::yield_now().await;
        }
        let decided = evaluate(doors, headers, peer, text.as_bytes(), || input(&whole)).await.unwrap_or_else(|Malformed(what)| {
            let error = json!({"status": 400, "message": what});
            json!({"decision": false, "context": {"reason": Reason::RequestMalformed.code(), "error": error}})
        });
        let decision = decided["decision"].as_bool();
        said.push(decided);
        if last.is_some() && decision == last {
            break;
        }
    }
    Ok(json!({"evaluations": said}))
}

/// An entry of a batch with what it leaves to the batch's defaults.
fn merged(defaults: &Map<String, Value>, own: Value) -> Map<String, Value> {
    // What is not an evaluation is found to have no subject.
    let Value::Object(mut whole) = own else { return Map::new() };
    for name in MEMBERS {
        if let Some(default) = defaults.get(name).filter(|_| !whole.contains_key(name)) {
            whole.insert(name.to_owned(), default.clone());
        }
    }
    whole
}

/// What policies read of an evaluation.
fn input(members: &Map<String, Value>) -> Result<Value, Malformed> {
    for (name, wanted) in
        [("subject", &["type", "id"][..]), ("resource", &["type", "id"]), ("action", &["name"])]
    {
        let Some(Value::Object(entity)) = members.get(name) else {
            return malformed(format!("`{name}` is not an object"));
        };
        for part in wanted {
            if entity.get(*part).and_then(Value::as_str).is_none_or(str::is_empty) {
                return malformed(format!("`{name}.{part}` is not a string with something in it"));
            }
        }
    }
    if members.get("context").is_some_and(|c| !c.is_object()) {
        return malformed("`context` is not an object");
    }
    let mut input: Map<String, Value> =
        MEMBERS.iter().filter_map(|n| Some(((*n).to_owned(), members.get(*n)?.clone()))).collect();
    if let Some(request) = request(members)? {
        input.insert("request".to_owned(), request);
    }
    Ok(Value::Object(input))
}

/// The HTTP request that a resource of type `route` stands for.
fn request(members: &Map<String, Value>) -> Result<Option<Value>, Malformed> {
    let properties = &members["resource"]["properties"];
    let Some(path) = properties["path"].as_str().filter(|_| members["resource"]["type"] == "route") else {
        return Ok(None);
    };
    let method = members["action"]["name"].as_str().filter(|m| is_method(m));
    let Some(method) = method else { return malformed("`action.name` is not a method, as a route needs") };
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let Ok(path) = Path::new(path) else {
        return malformed("`resource.properties.path` is one that servers read differently");
    };
    let text = |name: &str| properties[name].as_str().unwrap_or_default();
    Ok(Some(json!({
        "method": method, "path": path.as_str(), "segments": path.segments(), "query": query,
        "host": text("hostname"), "headers": {}, "source": text("ip"),
    })))
}

/// How a rate limit stands: requests in `window` seconds, what is left of them, seconds until all are there again.
fn limit(a: &Allowance) -> Value {
    json!({"limit": a.limit, "window": a.window, "remaining": a.remaining, "reset": a.reset})
}

/// A ruling in this protocol's words.
fn said(ruling: &Ruling) -> Value {
    let (allowed, id, mut context) = match ruling {
        Ruling::Allow(permit) => {
            let reason = permit.failure().map_or("allowed", Reason::code);
            let mut context = json!({"reason": reason});
            if let Some(subject) = permit.subject() {
                context["subject"] = subject.into();
            }
            if let Some(metadata) = permit.reply().and_then(|r| r.metadata.as_ref()) {
                context["metadata"] = metadata.clone().into();
            }
            if let Some(a) = permit.allowance() {
                context["rate_limit"] = limit(a);
            }
            (true, permit.id(), context)
        }
        Ruling::Deny(refusal) => {
            let mut context = json!({"reason": refusal.reason.code(), "status": refusal.status});
            if let Some(detail) = &refusal.detail {
                context["detail"] = (**detail).into();
            }
            if let Some(a) = &refusal.allowance {
                context["rate_limit"] = limit(a);
            }
            if let Some(metadata) = refusal.reply.as_ref().and_then(|r| r.metadata.as_ref()) {
                context["metadata"] = metadata.clone().into();
            }
            (false, refusal.id, context)
        }
    };
    if let Some(id) = id {
        context["decision_id"] = id.to_string().into();
    }
    json!({"decision": allowed, "context": context})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evaluation() -> Value {
        json!({
            "subject": {"type": "identity", "id": "alice"}, "action": {"name": "GET"},
            "resource": {"type": "route", "id": "/orders/{id}", "properties": {"path": "/v1/orders/7?a=b"}},
        })
    }

    fn read(value: &Value) -> Result<Value, Malformed> {
        input(value.as_object().unwrap())
    }

    #[test]
    fn a_route_is_a_request_and_nothing_else_is() {
        let input = read(&evaluation()).unwrap();
        assert_eq!(input["request"]["segments"], json!(["v1", "orders", "7"]));
        assert_eq!((&input["request"]["method"], &input["request"]["query"]), (&json!("GET"), &json!("a=b")));
        let mut account = evaluation();
        account["resource"]["type"] = "account".into();
        account["request"] = json!({"method": "forged"});
        assert_eq!(read(&account).unwrap().get("request"), None, "not the caller's to give");
    }

    #[test]
    fn what_is_no_evaluation_is_malformed() {
        for (member, value) in [
            ("subject", json!(null)),
            ("subject", json!({"type": "user"})),
            ("subject", json!({"type": "user", "id": ""})),
            ("resource", json!({"type": 1, "id": "x"})),
            ("action", json!({})),
            ("context", json!([])),
            ("action", json!({"name": "can read"})),
            ("resource", json!({"type": "route", "id": "x", "properties": {"path": "/a/../b"}})),
        ] {
            let mut bad = evaluation();
            bad[member] = value;
            assert!(read(&bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn an_entry_takes_what_it_lacks_from_the_batch() {
        let defaults = evaluation();
        let whole = merged(defaults.as_object().unwrap(), json!({"action": {"name": "POST"}}));
        assert_eq!((&whole["action"]["name"], &whole["subject"]["id"]), (&json!("POST"), &json!("alice")));
        assert!(input(&merged(defaults.as_object().unwrap(), json!(7))).is_err());
    }
}
