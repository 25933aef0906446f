//! Security events that a transmitter pushes (RFC 8935): 202 when what follows from one is durable and in force.

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;
use serde_json::json;

use super::super::doors::{Answer, json as answer, plain, read_body};
use crate::ssf::{Refused, Transmitter};

/// Below which events come, each transmitter's under its name.
pub(super) const PATH: &str = "/ssf/events/";
/// Longest event.
const MAX_EVENT: usize = 64 * 1024;

pub(super) async fn take(transmitter: &Transmitter, request: Request<Incoming>) -> Answer {
    if !bearer(request.headers()).is_some_and(|shown| transmitter.may_push(shown)) {
        transmitter.turned_away();
        let mut refused = error(
            StatusCode::UNAUTHORIZED,
            "authentication_failed",
            "the Authorization header is not the one that was agreed on",
        );
        refused.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return refused;
    }
    let kind = request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if !kind.eq_ignore_ascii_case("application/secevent+jwt") {
        return bad("invalid_request", "the body must be application/secevent+jwt");
    }
    let body = match read_body(request.into_body(), MAX_EVENT).await {
        Ok(body) => body,
        Err(Reason::RequestTooLarge) => return bad("invalid_request", "the event is too long"),
        Err(_) => return bad("invalid_request", "the body did not come whole"),
    };
    let Ok(text) = std::str::from_utf8(&body) else {
        return bad("invalid_request", "the body is no text");
    };
    match transmitter.accept(text).await {
        Ok(_) => plain(StatusCode::ACCEPTED),
        Err(Refused::Bad { err, description }) => bad(err, &description),
        // Not in its list of errors: whoever gets it must deliver the event again.
        Err(Refused::Later(_)) => {
            let mut later = plain(StatusCode::SERVICE_UNAVAILABLE);
            later.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("5"));
            later
        }
    }
}

/// The one bearer token.
fn bearer(headers: &HeaderMap) -> Option<&str> {
    let mut all = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(one), None) = (all.next(), all.next()) else { return None };
    let (scheme, token) = one.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token)
}

fn bad(err: &str, description: &str) -> Answer {
    error(StatusCode::BAD_REQUEST, err, description)
}

fn error(status: StatusCode, err: &str, description: &str) -> Answer {
    let mut refused = answer(status, json!({"err": err, "description": description}).to_string().into());
    refused.headers_mut().insert(header::CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    refused
}
