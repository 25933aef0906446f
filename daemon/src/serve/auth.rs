//! Forward-auth for gateways: `GET` or `POST /auth`.
//!
//! nginx's `auth_request` takes 2xx for allow, 401 and 403 for deny, and answers 500 to its client for
//! anything else; so nothing else is ever sent from here. The status that was meant is in a header.

use std::time::Instant;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;

use super::doors::{Answer, Doors, json, plain};
use crate::{
    decide::{self, Path, Refusal, Ruling},
    telemetry::Door,
};

/// Why the request was refused, by code.
const REASON: &str = "x-portcullis-reason";
/// The status that the policy meant, where the protocol cannot carry it.
const STATUS: &str = "x-portcullis-status";
/// `sub` of the verified token.
const SUBJECT: &str = "x-portcullis-subject";

pub(super) async fn answer(doors: &Doors, request: &Request<Incoming>, peer: &str) -> Answer {
    let start = Instant::now();
    let ruling = decide(doors, request.headers(), peer).await;
    let reason = ruling.reason();
    doors.metrics.decision(Door::ForwardAuth, reason, start.elapsed());
    into_answer(&ruling, doors)
}

async fn decide(doors: &Doors, headers: &HeaderMap, peer: &str) -> Ruling {
    let settings = &doors.settings;
    let Ok(request) = original(headers, &settings.headers, peer) else {
        return Ruling::Deny(Refusal::of(Reason::RequestMalformed));
    };
    let credential =
        settings.extraction.from_headers(headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes())));
    doors.decider.request(&request, credential).await
}

struct Malformed;

/// The request that the gateway asks about, from the headers it sets.
fn original<'a>(
    headers: &'a HeaderMap,
    allowed: &'a [String],
    peer: &'a str,
) -> Result<decide::Request<'a>, Malformed> {
    let uri = agreed(headers, "x-original-uri", "x-forwarded-uri")?.ok_or(Malformed)?;
    // Not guessed: a gateway that forgets it would have every POST judged as a GET.
    let method = agreed(headers, "x-original-method", "x-forwarded-method")?.ok_or(Malformed)?;
    if method.is_empty() || !method.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-') {
        return Err(Malformed);
    }
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let host = agreed(headers, "x-original-host", "x-forwarded-host")?.unwrap_or_default();
    let source = match one_of(headers, ["x-real-ip", "x-forwarded-for"])? {
        // Each proxy appends: the last entry is the one that the gateway itself wrote.
        Some(list) => list.rsplit(',').next().unwrap_or(list).trim(),
        None => peer,
    };
    let mut read = Vec::with_capacity(allowed.len());
    for name in allowed {
        if let Some(value) = one_of(headers, [name.as_str()])? {
            read.push((name.as_str(), value));
        }
    }
    let path = Path::new(path).map_err(|_| Malformed)?;
    Ok(decide::Request { method, path, query, host, headers: read, source })
}

/// The value of the first of these headers that is there. Two of one name, or bytes that are no text, are
/// malformed: whoever reads the other one would decide otherwise.
fn one_of<'a, const N: usize>(
    headers: &'a HeaderMap,
    names: [&str; N],
) -> Result<Option<&'a str>, Malformed> {
    for name in names {
        let mut values = headers.get_all(name).iter();
        if let Some(value) = values.next() {
            if values.next().is_some() {
                return Err(Malformed);
            }
            return value.to_str().map(Some).map_err(|_| Malformed);
        }
    }
    Ok(None)
}

/// What two headers say. A gateway sets one family of them and passes on what its client sends of the other, so
/// where both are there and differ, one of them is the client's own.
fn agreed<'a>(headers: &'a HeaderMap, a: &str, b: &str) -> Result<Option<&'a str>, Malformed> {
    match (one_of(headers, [a])?, one_of(headers, [b])?) {
        (Some(a), Some(b)) if a != b => Err(Malformed),
        (a, b) => Ok(a.or(b)),
    }
}

/// A ruling in this protocol's words.
fn into_answer(ruling: &Ruling, doors: &Doors) -> Answer {
    match ruling {
        Ruling::Allow(permit) => {
            // 2xx is all that gateways ask for; 200 is what they expect.
            let mut answer = plain(StatusCode::OK);
            if let Some(subject) = permit.subject().and_then(|s| HeaderValue::from_str(s).ok()) {
                answer.headers_mut().insert(SUBJECT, subject);
            }
            answer
        }
        Ruling::Deny(refusal) if doors.settings.fail_open && is_failure(refusal.reason) => {
            doors.metrics.fail_open();
            let mut answer = plain(StatusCode::OK);
            answer.headers_mut().insert(REASON, HeaderValue::from_static(refusal.reason.code()));
            answer
        }
        Ruling::Deny(refusal) => denial(refusal),
    }
}

/// What keeps a decision from being made, as opposed to a decision.
const fn is_failure(reason: Reason) -> bool {
    matches!(reason, Reason::PolicyError | Reason::PolicyTimeout | Reason::NotReady)
}

fn denial(refusal: &Refusal) -> Answer {
    let status = if refusal.status == 401 { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN };
    let body = serde_json::json!({"reason": refusal.reason.code(), "detail": refusal.detail});
    let mut answer = json(status, body.to_string().into());
    let headers = answer.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(refusal.reason.code()));
    if refusal.status != status.as_u16() {
        headers.insert(STATUS, HeaderValue::from(refusal.status));
    }
    if status == StatusCode::UNAUTHORIZED {
        // RFC 6750 §3.1: no error code where no credential was given.
        let challenge =
            if refusal.reason == Reason::TokenMissing { "Bearer" } else { "Bearer error=\"invalid_token\"" };
        headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    }
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in list {
            map.append(*name, HeaderValue::from_static(value));
        }
        map
    }

    #[test]
    fn the_gateways_headers_make_the_request() {
        let h = headers(&[
            ("x-original-uri", "/v1/orders/7?a=b"),
            ("x-original-method", "POST"),
            ("x-forwarded-for", "10.0.0.9, 192.0.2.7"),
            ("x-tenant", "acme"),
        ]);
        let allowed = ["x-tenant".to_owned()];
        let r = original(&h, &allowed, "127.0.0.1").ok().unwrap();
        assert_eq!(
            (r.method, r.path.as_str(), r.query, r.source),
            ("POST", "/v1/orders/7", "a=b", "192.0.2.7")
        );
        assert_eq!(r.headers, [("x-tenant", "acme")]);
    }

    #[test]
    fn what_gateways_could_read_otherwise_is_malformed() {
        for bad in [
            &[][..],
            &[("x-original-uri", "/a"), ("x-original-uri", "/b"), ("x-original-method", "GET")],
            &[("x-original-uri", "/a/../b"), ("x-original-method", "GET")],
            &[("x-original-uri", "/a"), ("x-original-method", "GE T")],
            &[("x-original-uri", "/a")],
            &[("x-original-uri", "/a"), ("x-forwarded-uri", "/b"), ("x-original-method", "GET")],
            &[("x-original-uri", "/a"), ("x-forwarded-method", "GET"), ("x-original-method", "POST")],
        ] {
            assert!(original(&headers(bad), &[], "").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn only_401_and_403_are_ever_sent_for_a_denial() {
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::Allowed) {
            let answer = denial(&Refusal::of(*reason));
            assert!([401, 403].contains(&answer.status().as_u16()), "{reason:?}");
            assert_eq!(answer.headers()[REASON], reason.code());
        }
    }
}
