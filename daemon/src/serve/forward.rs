//! Forward-auth: a gateway asks by HTTP whether a request may pass, and takes 2xx for yes.
//!
//! `/auth` is for nginx's `auth_request`, which knows 2xx, 401 and 403 alone and answers 500 for anything else; so
//! nothing else is sent there, and the status that was meant is in a header. `/forward-auth` is for gateways that pass
//! any other status on to the client (Traefik, Caddy, HAProxy): it gets the true one. Below `serve.ext_authz_prefix`
//! Envoy's HTTP form is answered, where the request's own method and path are those that are asked about.

use std::time::Instant;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, StatusCode};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;

use super::{
    denial::{DECISION, Denial, Dialect, REASON, SUBJECT},
    doors::{Answer, DoorSettings, Doors, plain},
    peer::Peer,
};
use crate::{
    decide::{self, Path, Permit, Refusal, Ruling},
    record::Asker,
    telemetry::Door,
    token::{Evidence, Once},
};

/// Tells Envoy, by HTTP, what the service must not get.
const REMOVED: &str = "x-envoy-auth-headers-to-remove";

/// Answers by the headers in which a gateway describes the original request.
pub(super) async fn answer(
    doors: &Doors,
    request: &Request<Incoming>,
    peer: &Peer,
    dialect: Dialect,
) -> Answer {
    let original = original(request.headers(), &doors.settings, &peer.address);
    ruled(doors, Door::ForwardAuth, dialect, request.headers(), peer, original).await
}

/// Answers Envoy: `path` is the request's own, behind the prefix.
pub(super) async fn envoy(doors: &Doors, request: &Request<Incoming>, path: &str, peer: &Peer) -> Answer {
    let original = its_own(request, path, &doors.settings);
    ruled(doors, Door::ExtAuthzHttp, Dialect::EnvoyHttp, request.headers(), peer, original).await
}

async fn ruled(
    doors: &Doors,
    door: Door,
    dialect: Dialect,
    headers: &HeaderMap,
    peer: &Peer,
    original: Result<decide::Request<'_>, Malformed>,
) -> Answer {
    let start = Instant::now();
    let ruling = match original {
        _ if !peer.is_trusted => Ok(Ruling::deny(Reason::PeerUntrusted)),
        Ok(request) => {
            let headers = headers.iter().map(|(n, v)| (n.as_str(), v.as_bytes()));
            let credential = doors.settings.extraction.from_headers(headers);
            let by = Asker { door, peer: &peer.address };
            doors.request(by, &request, credential).await
        }
        Err(Malformed(what)) => Ok(malformed(what)),
    };
    let reason = ruling.as_ref().map_or(Reason::InternalError, Ruling::reason);
    doors.decided(door, Some(headers), reason, start.elapsed());
    match doors.settle_known(door, ruling) {
        Ruling::Allow(permit) => leave(&permit, dialect),
        Ruling::Deny(refusal) => denial(&refusal, dialect),
    }
}

/// A description of a request that is none: what is wrong with it, without what the client wrote.
struct Malformed(String);

impl From<&str> for Malformed {
    fn from(what: &str) -> Self {
        Self(what.to_owned())
    }
}

/// Whoever sets the gateway up reads what is missing in the answer, and in the log at level `debug`: a client can cause it
/// at will.
pub(super) fn malformed(what: String) -> Ruling {
    tracing::debug!(what, "a request to decide about is not well formed: denied");
    Ruling::Deny(Refusal { detail: Some(what.into()), ..Refusal::of(Reason::RequestMalformed) })
}

const NO_METHOD: &str = "the method is not a name of letters";

fn bad_path(_: decide::BadPath) -> Malformed {
    Malformed(format!("the path {}", decide::BadPath::WHY))
}

/// Whether a text is a method's name.
pub(super) fn is_method(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphabetic() || b == b'-')
}

/// The request itself, as Envoy sends it on.
fn its_own<'a, B>(
    request: &'a Request<B>,
    path: &'a str,
    settings: &'a DoorSettings,
) -> Result<decide::Request<'a>, Malformed> {
    let headers = request.headers();
    let method = request.method().as_str();
    if !is_method(method) {
        return Err(NO_METHOD.into());
    }
    let host = match request.uri().authority() {
        Some(authority) => authority.as_str(),
        None => one_of(headers, ["host"])?.unwrap_or_default(),
    };
    // Not from X-Forwarded-For: what Envoy appends there is its own address, for it is the client here.
    let source = one_of(headers, ["x-real-ip"])?.unwrap_or_default();
    let query = request.uri().query().unwrap_or_default();
    let path = Path::new(path).map_err(bad_path)?;
    let evidence = evidence(headers, settings);
    let headers = readable(headers, &settings.headers)?;
    Ok(decide::Request { method, path, query, host, headers, source, foreign: None, evidence })
}

/// Each proxy appends: the last entry is the one that the gateway itself wrote.
fn last_hop<'a>(list: Option<&'a str>, peer: &'a str) -> &'a str {
    list.map_or(peer, |list| list.rsplit(',').next().unwrap_or(list).trim())
}

/// The headers that policies may read.
fn readable<'a>(headers: &'a HeaderMap, allowed: &'a [String]) -> Result<Vec<(&'a str, &'a str)>, Malformed> {
    let mut read = Vec::with_capacity(allowed.len());
    for name in allowed {
        if let Some(value) = one_of(headers, [name.as_str()])? {
            read.push((name.as_str(), value));
        }
    }
    Ok(read)
}

/// What proves whose the token is.
fn evidence<'a>(headers: &'a HeaderMap, settings: &DoorSettings) -> Evidence<'a> {
    settings.evidence(|name| match one_of(headers, [name]) {
        Ok(None) => Once::None,
        Ok(Some(value)) => Once::One(value),
        Err(Malformed(_)) => Once::Bad,
    })
}

/// The request that the gateway asks about, from the headers it sets.
fn original<'a>(
    headers: &'a HeaderMap,
    settings: &'a DoorSettings,
    peer: &'a str,
) -> Result<decide::Request<'a>, Malformed> {
    let uri = agreed(headers, "x-original-uri", "x-forwarded-uri")?
        .ok_or("the gateway sent neither `x-original-uri` nor `x-forwarded-uri`")?;
    // Not guessed: a gateway that forgets it would have every POST judged as a GET.
    let method = agreed(headers, "x-original-method", "x-forwarded-method")?
        .ok_or("the gateway sent neither `x-original-method` nor `x-forwarded-method`")?;
    if !is_method(method) {
        return Err(NO_METHOD.into());
    }
    let (path, query) = uri.split_once('?').unwrap_or((uri, ""));
    let host = agreed(headers, "x-original-host", "x-forwarded-host")?.unwrap_or_default();
    let source = last_hop(one_of(headers, ["x-real-ip", "x-forwarded-for"])?, peer);
    let path = Path::new(path).map_err(bad_path)?;
    let evidence = evidence(headers, settings);
    let headers = readable(headers, &settings.headers)?;
    Ok(decide::Request { method, path, query, host, headers, source, foreign: None, evidence })
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
                return Err(Malformed(format!("the header `{name}` is there more than once")));
            }
            return value
                .to_str()
                .map(Some)
                .map_err(|_| Malformed(format!("the header `{name}` is not printable ASCII")));
        }
    }
    Ok(None)
}

/// What two headers say. A gateway sets one family of them and passes on what its client sends of the other, so
/// where both are there and differ, one of them is the client's own.
fn agreed<'a>(headers: &'a HeaderMap, a: &str, b: &str) -> Result<Option<&'a str>, Malformed> {
    match (one_of(headers, [a])?, one_of(headers, [b])?) {
        (Some(x), Some(y)) if x != y => Err(Malformed(format!(
            "the headers `{a}` and `{b}` differ: the gateway must take away the one it does not set"
        ))),
        (a, b) => Ok(a.or(b)),
    }
}

/// An allow in this protocol's words.
fn leave(permit: &Permit, dialect: Dialect) -> Answer {
    // 2xx is all that gateways ask for; 200 is what they expect.
    let mut answer = plain(StatusCode::OK);
    let headers = answer.headers_mut();
    if let Some(subject) = permit.subject().and_then(|s| HeaderValue::from_str(s).ok()) {
        headers.insert(SUBJECT, subject);
    }
    if let Some(id) = permit.id() {
        add(headers, DECISION, &id.to_string());
    }
    if let Some(failure) = permit.failure() {
        headers.insert(REASON, HeaderValue::from_static(failure.code()));
    }
    if let Some(reply) = permit.reply() {
        // Gateways copy one value of a name: several are one list (RFC 9110 §5.3).
        for same in reply.headers.chunk_by(|a, b| a.0 == b.0) {
            let values: Vec<&str> = same.iter().map(|(_, value)| value.as_str()).collect();
            add(headers, &same[0].0, &values.join(", "));
        }
        for (name, value) in &reply.response_headers {
            add(headers, name, value);
        }
    }
    if dialect == Dialect::EnvoyHttp {
        // What this answer does not set, a client's own words must not stand for.
        let unset = [SUBJECT, REASON, DECISION].into_iter().filter(|name| !headers.contains_key(*name));
        let removed = permit.reply().into_iter().flat_map(|reply| &reply.removed).map(String::as_str);
        let removed = removed.chain(unset).collect::<Vec<_>>().join(",");
        add(headers, REMOVED, &removed);
    }
    for (name, value) in permit.allowance().iter().flat_map(|a| a.headers()) {
        // The policy's own word on it goes first.
        if !headers.contains_key(name) {
            add(headers, name, &value);
        }
    }
    answer
}

/// A denial in this protocol's words.
fn denial(refusal: &Refusal, dialect: Dialect) -> Answer {
    let denial = Denial::new(refusal, dialect);
    let mut answer = Answer::new(Bytes::from(denial.body.into_owned()).into());
    *answer.status_mut() = StatusCode::from_u16(denial.status).unwrap_or(StatusCode::FORBIDDEN);
    for (name, value) in &denial.headers {
        add(answer.headers_mut(), name, value);
    }
    answer
}

/// Adds a header. Names and values of policies were checked when the decision was read.
fn add(headers: &mut HeaderMap, name: &str, value: &str) {
    if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::from_str(value)) {
        headers.append(name, value);
    }
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
        let settings = DoorSettings { headers: vec!["x-tenant".to_owned()], ..DoorSettings::default() };
        let r = original(&h, &settings, "127.0.0.1").ok().unwrap();
        assert_eq!(
            (r.method, r.path.as_str(), r.query, r.source),
            ("POST", "/v1/orders/7", "a=b", "192.0.2.7")
        );
        assert_eq!(r.headers, [("x-tenant", "acme")]);
    }

    #[test]
    fn envoys_own_address_is_nobodys_source() {
        let settings = DoorSettings::default();
        let source = |list: &[(&'static str, &'static str)]| {
            let mut request = Request::new(());
            *request.headers_mut() = headers(list);
            its_own(&request, "/", &settings).map(|r| r.source.to_owned()).ok()
        };
        // What Envoy appends is the address that it asks from.
        assert_eq!(source(&[("x-forwarded-for", "10.0.0.9, 192.0.2.1")]).as_deref(), Some(""));
        let told = [("x-forwarded-for", "10.0.0.9"), ("x-real-ip", "192.0.2.7")];
        assert_eq!(source(&told).as_deref(), Some("192.0.2.7"));
        assert_eq!(source(&[("x-real-ip", "192.0.2.7"), ("x-real-ip", "192.0.2.8")]), None);
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
            assert!(original(&headers(bad), &DoorSettings::default(), "").is_err(), "{bad:?}");
        }
    }

    #[test]
    fn who_asks_is_told_what_is_malformed() {
        let says = |list: &[(&'static str, &'static str)]| {
            let Err(Malformed(what)) = original(&headers(list), &DoorSettings::default(), "") else {
                panic!()
            };
            let Ruling::Deny(refusal) = malformed(what) else { panic!() };
            let body = Denial::new(&refusal, Dialect::Plain).body.into_owned();
            serde_json::from_str::<serde_json::Value>(&body).unwrap()["detail"].as_str().unwrap().to_owned()
        };
        let uri = ("x-original-uri", "/a");
        assert!(says(&[]).contains("x-original-uri"));
        assert!(says(&[uri]).contains("x-original-method"));
        assert!(says(&[uri, uri]).contains("`x-original-uri` is there more than once"));
        assert!(says(&[uri, ("x-forwarded-uri", "/b")]).contains("differ"));
        assert!(
            says(&[("x-original-uri", "/a/../b"), ("x-original-method", "GET")]).contains("dot segments")
        );
    }

    #[test]
    fn only_401_and_403_are_ever_sent_to_nginx_for_a_denial() {
        for reason in Reason::ALL.iter().filter(|r| **r != Reason::Allowed) {
            let answer = denial(&Refusal::of(*reason), Dialect::Nginx);
            assert!([401, 403].contains(&answer.status().as_u16()), "{reason:?}");
            assert_eq!(answer.headers()[REASON], reason.code());
        }
    }
}
