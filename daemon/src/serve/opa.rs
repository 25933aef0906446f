//! OPA's REST API as its clients use it.
//!
//! `GET` and `POST /v1/data`, `POST /v0/data`, `POST /` (the default decision), `/health`, `/v1/config`, and, where
//! the configuration names a place for it, writing of policies and data. Statuses, codes and shapes of answers are
//! OPA's, so that its clients find what they look for. What is different is said in docs/opa-api.md.

mod answer;
mod body;
mod documents;
mod options;

use std::{pin::pin, time::Instant};

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;

pub use self::documents::{Change, DocumentError, Documents, Patch, PatchKind};
use self::{
    answer::{Fault, Timings},
    options::Options,
};
use super::{
    contained::contained,
    doors::{Answer, Doors, json, plain, read_body},
    peer::Peer,
};
use crate::{
    decide::{Allowance, DataAnswer, DataQuery, Form},
    percent,
    record::Asker,
    telemetry::Door,
};

/// How a path is asked, and how its answer looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    /// The input in an envelope; the value in one.
    V1,
    /// Both bare.
    V0,
    /// The same, for the default decision.
    Default,
}

/// Answers what is OPA's; gives the request back where it is not.
pub(super) async fn answer(
    doors: &Doors,
    request: Request<Incoming>,
    peer: &Peer,
) -> Result<Answer, Request<Incoming>> {
    let path = request.uri().path();
    if let Some(rest) = below(path, "/v1/data") {
        let rest = rest.to_owned();
        return Ok(match *request.method() {
            Method::POST | Method::GET => data(doors, request, peer, Version::V1, &rest).await,
            // What gateways alone may ask, they alone may change.
            _ if !peer.is_trusted && writes(request.method()) => plain(StatusCode::FORBIDDEN),
            Method::PUT | Method::PATCH | Method::DELETE => documents::data(doors, request, &rest).await,
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        });
    }
    if let Some(rest) = below(path, "/v1/policies") {
        let rest = rest.to_owned();
        if !peer.is_trusted && writes(request.method()) {
            return Ok(plain(StatusCode::FORBIDDEN));
        }
        return Ok(documents::policies(doors, request, &rest).await);
    }
    if let Some(rest) = below(path, "/v0/data") {
        let rest = rest.to_owned();
        return Ok(match *request.method() {
            Method::POST => data(doors, request, peer, Version::V0, &rest).await,
            _ => plain(StatusCode::METHOD_NOT_ALLOWED),
        });
    }
    Ok(match (request.method(), path) {
        (&Method::POST, "/") => {
            let decision = doors.settings.default_decision.clone();
            data(doors, request, peer, Version::Default, &decision).await
        }
        (&Method::GET | &Method::HEAD, "/health") => {
            health(doors.decider.is_ready(), request.uri().query().unwrap_or_default())
        }
        (&Method::GET, "/v1/config") => {
            let result = serde_json::json!({"result": doors.settings.shown});
            json(StatusCode::OK, result.to_string().into())
        }
        _ => return Err(request),
    })
}

/// What stands behind a prefix that ends a segment, without slashes at either end.
fn below<'a>(path: &'a str, prefix: &str) -> Option<&'a str> {
    let rest = path.strip_prefix(prefix)?;
    (rest.is_empty() || rest.starts_with('/')).then(|| rest.trim_matches('/'))
}

async fn data(
    doors: &Doors,
    request: Request<Incoming>,
    peer: &Peer,
    version: Version,
    path: &str,
) -> Answer {
    let start = Instant::now();
    let traced = doors.tracer.is_some().then(|| request.headers().clone());
    let options = Options::read(request.uri().query().unwrap_or_default());
    let mut timings = Timings::default();
    let decided = match &options {
        Ok(options) => contained(pin!(decide(doors, request, peer, version, path, options, &mut timings)))
            .await
            .unwrap_or_else(|_| Err(Fault::of(Reason::InternalError))),
        Err(fault) => Err(fault.clone()),
    };
    let reason = decided.as_ref().map_or_else(|fault| fault.reason, |a| a.reason);
    doors.decided(Door::Data, traced.as_ref(), reason, start.elapsed());
    timings.handler = start.elapsed();
    match decided {
        Ok(decided) => {
            let allowance = decided.allowance;
            let mut answer = match (version, decided.value()) {
                (Version::V1, _) => options.unwrap_or_default().dress(decided.body, &timings),
                (_, Some(value)) => options.unwrap_or_default().dress_bare(value),
                (_, None) => answer::missing(version == Version::Default, path),
            };
            // Whoever asks may pass them on to its own client.
            for (name, value) in allowance.iter().flat_map(Allowance::headers) {
                if let Ok(value) = value.parse() {
                    answer.headers_mut().insert(name, value);
                }
            }
            answer
        }
        Err(fault) => fault.answer(),
    }
}

async fn decide(
    doors: &Doors,
    request: Request<Incoming>,
    peer: &Peer,
    version: Version,
    path: &str,
    options: &Options,
    timings: &mut Timings,
) -> Result<DataAnswer, Fault> {
    let start = Instant::now();
    let (form, body) = if *request.method() == Method::GET {
        (Form::Bare, options.input.clone().map(Bytes::from).unwrap_or_default())
    } else {
        let (parts, body) = request.into_parts();
        let body = read_body(body, doors.settings.max_body).await.map_err(Fault::of)?;
        let body = body::plain(&parts.headers, body, doors.settings.max_body)?;
        (if version == Version::V1 { Form::Envelope } else { Form::Bare }, body)
    };
    timings.parse = start.elapsed();
    let start = Instant::now();
    let decoded;
    let segments: Vec<&str> = if path.is_empty() {
        Vec::new()
    } else if path.contains('%') {
        decoded =
            segments(path).ok_or_else(|| Fault::parameter("the path is not UTF-8 behind its escapes"))?;
        decoded.iter().map(String::as_str).collect()
    } else {
        path.split('/').collect()
    };
    if segments.len() > DEEPEST {
        return Err(Fault::parameter("the path has more parts than are read"));
    }
    let query = DataQuery {
        path: &segments,
        form,
        body: &body,
        token_path: &doors.settings.token_path,
        strict: options.strict,
        named: version == Version::V1,
        by: Asker { door: Door::Data, peer: &peer.address },
    };
    let place = if options.input.is_some() { "parameter" } else { "body" };
    let answer = doors.decider.data(&query).await.map_err(|fault| Fault::data(fault, place));
    timings.eval = start.elapsed();
    answer
}

/// Whether a method changes documents.
fn writes(method: &Method) -> bool {
    [Method::PUT, Method::PATCH, Method::DELETE].contains(method)
}

/// Parts of a path at most: the engine goes down one call for each.
const DEEPEST: usize = 64;

/// A path's segments. One that holds an escaped slash is one key.
fn segments(path: &str) -> Option<Vec<String>> {
    path.split('/').map(percent::decoded).collect()
}

/// `/health`. Bundles and plugins are what makes this daemon ready: policies, revocations, kernel maps.
fn health(ready: bool, query: &str) -> Answer {
    let asked = |name: &str| {
        query
            .split('&')
            .any(|p| p == name || p.strip_prefix(name).is_some_and(|v| v.starts_with('=') && v != "=false"))
    };
    if ready {
        return json(StatusCode::OK, Bytes::from_static(b"{}"));
    }
    let (status, error) = if asked("bundles") || asked("bundle") {
        (StatusCode::INTERNAL_SERVER_ERROR, &br#"{"error":"one or more bundles are not activated"}"#[..])
    } else if asked("plugins") {
        (StatusCode::INTERNAL_SERVER_ERROR, &br#"{"error":"one or more plugins are not up"}"#[..])
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, &br#"{"error":"not ready"}"#[..])
    };
    json(status, Bytes::from_static(error))
}

/// Whether a request says that its body is YAML.
fn is_yaml(headers: &http::HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("yaml"))
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    #[test]
    fn a_prefix_ends_a_segment() {
        assert_eq!(below("/v1/data", "/v1/data"), Some(""));
        assert_eq!(below("/v1/data/a/b/", "/v1/data"), Some("a/b"));
        assert_eq!(below("/v1/database", "/v1/data"), None);
    }

    #[test]
    fn an_escaped_slash_is_part_of_a_key() {
        assert_eq!(segments("a%2Fb/c%2fd").unwrap(), ["a/b", "c/d"]);
        assert_eq!(segments("a%zz"), None);
        assert_eq!(segments("a%ff"), None);
    }

    #[tokio::test]
    async fn health_is_as_opa_says_it() {
        for (ready, query, status, body) in [
            (true, "bundles=true&plugins", 200, "{}"),
            (false, "", 503, r#"{"error":"not ready"}"#),
            (false, "bundles=false", 503, r#"{"error":"not ready"}"#),
            (false, "bundles=true", 500, r#"{"error":"one or more bundles are not activated"}"#),
            (false, "plugins", 500, r#"{"error":"one or more plugins are not up"}"#),
        ] {
            let answer = health(ready, query);
            assert_eq!(answer.status().as_u16(), status, "{query}");
            assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), body, "{query}");
        }
    }
}
