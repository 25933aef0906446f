//! Envoy's external authorization: gRPC (`envoy.service.auth.v3.Authorization`) and its health service.
//!
//! Envoy takes a gRPC error for a failure of the service, which `failure_mode_allow` lets pass. So a check is always
//! answered by a message: what cannot be read, is too large or panics is a denial like any other. That is why
//! gRPC's framing (five bytes before a message, a trailer behind it) is written out here: server frameworks answer
//! such cases with an error of their own. Each method answers with a type that only a ruling can make.

mod answer;
mod input;
mod messages;
mod request;

use std::{pin::pin, time::Instant};

use bytes::{Buf as _, Bytes};
use http::{HeaderValue, Method, Request, Response, Version, header};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;
use prost::Message as _;

use self::{
    answer::Answer as Check,
    messages::{CheckRequest, HealthCheckRequest, HealthCheckResponse},
};
use super::{
    body::Whole,
    contained::{Panicked, contained},
    doors::{Answer, Doors, read_body},
    peer::Peer,
};
use crate::{decide::Ruling, telemetry::Door};

/// The services' paths; no other door is below them.
const SERVICES: [&str; 2] = ["/envoy.service.auth.v3.Authorization/", "/grpc.health.v1.Health/"];
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const SERVICE: &str = "envoy.service.auth.v3.Authorization";
const HEALTH: &str = "/grpc.health.v1.Health/Check";
/// A message's length and whether it is compressed stand before it.
const PREFIX: usize = 5;
/// gRPC statuses.
const INVALID_ARGUMENT: &str = "3";
const NOT_FOUND: &str = "5";
const UNIMPLEMENTED: &str = "12";

/// Whether a request is to one of the services here. By its path, first of all: a gRPC error is an HTTP 200, which another
/// door's gateway would take for an allow, and the content type is the client's to choose there.
pub(super) fn is_grpc(request: &Request<Incoming>) -> bool {
    SERVICES.iter().any(|service| request.uri().path().starts_with(service))
        && request.version() == Version::HTTP_2
        && request
            .headers()
            .get(header::CONTENT_TYPE)
            .is_some_and(|v| v.as_bytes().starts_with(b"application/grpc"))
}

/// Answers a call.
pub(super) async fn answer(doors: &Doors, request: Request<Incoming>, peer: &Peer) -> Answer {
    match (request.method(), request.uri().path()) {
        (&Method::POST, CHECK) => check(doors, request, peer).await,
        (&Method::POST, HEALTH) => health(doors, request).await,
        _ => failed(UNIMPLEMENTED),
    }
}

async fn check(doors: &Doors, request: Request<Incoming>, peer: &Peer) -> Answer {
    let start = Instant::now();
    // The gateway's own span for this call, not its client's.
    let traced = doors.tracer.is_some().then(|| request.headers().clone());
    let ruling = if peer.is_trusted {
        contained(pin!(decide(doors, request, peer))).await.and_then(|ruling| ruling)
    } else {
        Ok(Ruling::deny(Reason::PeerUntrusted))
    };
    let reason = ruling.as_ref().map_or(Reason::InternalError, Ruling::reason);
    doors.decided(Door::ExtAuthz, traced.as_ref(), reason, start.elapsed());
    let answer = Check::of(&doors.settle_known(Door::ExtAuthz, ruling));
    message(answer.encoded_len(), |into| answer.encode(into))
}

async fn decide(doors: &Doors, request: Request<Incoming>, peer: &Peer) -> Result<Ruling, Panicked> {
    let check = match read_body(request.into_body(), doors.settings.max_body + PREFIX).await {
        Ok(body) => {
            unframed(body).and_then(|m| CheckRequest::decode(m).map_err(|_| Reason::RequestMalformed))
        }
        Err(reason) => Err(reason),
    };
    match check {
        Ok(check) => request::decide(doors, &check, peer).await,
        Err(reason) => Ok(Ruling::deny(reason)),
    }
}

/// Serving where decisions are made. `Watch` is not offered, which clients take for that.
async fn health(doors: &Doors, request: Request<Incoming>) -> Answer {
    let body = read_body(request.into_body(), 1024).await.and_then(unframed);
    let Some(asked) = body.ok().and_then(|m| HealthCheckRequest::decode(m).ok()) else {
        return failed(INVALID_ARGUMENT);
    };
    if !["", SERVICE].contains(&asked.service.as_str()) {
        return failed(NOT_FOUND);
    }
    let (serving, not_serving) = (1, 2);
    let health = HealthCheckResponse { status: if doors.decider.is_ready() { serving } else { not_serving } };
    message(health.encoded_len(), |into| {
        let _ = health.encode(into);
    })
}

/// The one message of a body. Compression is never agreed on here.
fn unframed(mut body: Bytes) -> Result<Bytes, Reason> {
    if body.len() < PREFIX || body.get_u8() != 0 || body.get_u32() as usize != body.len() {
        return Err(Reason::RequestMalformed);
    }
    Ok(body)
}

fn message(length: usize, encode: impl FnOnce(&mut Vec<u8>)) -> Answer {
    let mut framed = Vec::with_capacity(PREFIX + length);
    framed.push(0);
    // Answers are far smaller; one that is not would have a wrong length, which is no answer.
    framed.extend(u32::try_from(length).unwrap_or_default().to_be_bytes());
    encode(&mut framed);
    grpc(Response::new(Whole::message(framed.into())))
}

/// An error. No check is ever answered so.
fn failed(status: &'static str) -> Answer {
    let mut answer = grpc(Response::new(Whole::default()));
    answer.headers_mut().insert("grpc-status", HeaderValue::from_static(status));
    answer
}

fn grpc(mut answer: Answer) -> Answer {
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_is_one_whole_uncompressed_message() {
        assert_eq!(unframed(Bytes::from_static(b"\0\0\0\0\x02ab")), Ok(Bytes::from_static(b"ab")));
        assert_eq!(unframed(Bytes::from_static(b"\0\0\0\0\0")), Ok(Bytes::new()));
        for bad in [
            &b""[..],
            b"\0\0\0\0",
            b"\x01\0\0\0\x01a",
            b"\0\0\0\0\x02a",
            b"\0\0\0\0\x01ab",
            b"\0\xff\xff\xff\xffa",
        ] {
            assert_eq!(unframed(Bytes::copy_from_slice(bad)), Err(Reason::RequestMalformed), "{bad:?}");
        }
    }
}
