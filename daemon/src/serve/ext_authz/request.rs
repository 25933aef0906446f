//! From a `CheckRequest` to what the decision path asks about.

use std::collections::HashMap;

use portcullis_common::reason::Reason;

use super::messages::{CheckRequest, HttpRequest};
use crate::{
    decide::{self, Path, Ruling},
    record::Asker,
    serve::{
        contained::Panicked,
        doors::{DoorSettings, Doors},
        forward::malformed,
        peer::Peer,
    },
    telemetry::Door,
    token::{Extraction, Once, Presented},
};

/// Decides a check.
pub(super) async fn decide(doors: &Doors, check: &CheckRequest, peer: &Peer) -> Result<Ruling, Panicked> {
    let foreign = doors.settings.envoy_input.then(|| super::input::members(check)).transpose();
    let read = read(check, &doors.settings);
    let foreign = match &foreign {
        Ok(foreign) => foreign,
        Err(Reason::RequestMalformed) if read.is_ok() => {
            return Ok(malformed("the body or Envoy's metadata cannot be read as JSON".to_owned()));
        }
        Err(reason) => return Ok(Ruling::deny(*reason)),
    };
    match read {
        Ok((request, credential)) => {
            let request = decide::Request { foreign: foreign.as_ref(), ..request };
            let by = Asker { door: Door::ExtAuthz, peer: &peer.address };
            doors.request(by, &request, credential).await
        }
        Err(Reason::RequestMalformed) => {
            let path = decide::BadPath::WHY;
            Ok(malformed(format!(
                "a check has a method of letters, each header once, and a path, which {path}"
            )))
        }
        Err(reason) => Ok(Ruling::deny(reason)),
    }
}

type Credential<'a> = Result<Option<Presented<'a>>, Reason>;

fn read<'a>(
    check: &'a CheckRequest,
    settings: &'a DoorSettings,
) -> Result<(decide::Request<'a>, Credential<'a>), Reason> {
    let attributes = check.attributes.as_ref().ok_or(Reason::RequestMalformed)?;
    let http = attributes.request.as_ref().and_then(|r| r.http.as_ref()).ok_or(Reason::RequestMalformed)?;
    let method = http.method.as_str();
    if !crate::serve::forward::is_method(method) {
        return Err(Reason::RequestMalformed);
    }
    let (path, query) = http.path.split_once('?').unwrap_or((&http.path, ""));
    let headers = Headers::of(http);
    let mut read = Vec::with_capacity(settings.headers.len());
    for name in &settings.headers {
        if let Some(value) = headers.one(name)? {
            read.push((name.as_str(), value));
        }
    }
    let credential = headers.credential(&settings.extraction);
    let evidence = settings.evidence(|name| headers.once(name));
    let source = attributes.source.as_ref().and_then(|s| s.address.as_ref()?.socket_address.as_ref());
    let request = decide::Request {
        method,
        path: Path::new(path).map_err(|_| Reason::RequestMalformed)?,
        query,
        host: &http.host,
        headers: read,
        source: source.map_or("", |s| &s.address),
        foreign: None,
        evidence,
    };
    Ok((request, credential))
}

/// A request's headers in either of the two forms in which Envoy sends them.
enum Headers<'a> {
    /// One entry a name; two headers of one name are joined by a comma.
    Joined(&'a HashMap<String, String>),
    /// As they came.
    Raw(&'a [super::messages::HeaderValue]),
}

impl<'a> Headers<'a> {
    fn of(http: &'a HttpRequest) -> Self {
        match &http.header_map {
            Some(map) => Self::Raw(&map.headers),
            None => Self::Joined(&http.headers),
        }
    }

    /// The value of a header that is there once.
    fn one(&self, name: &str) -> Result<Option<&'a str>, Reason> {
        match self {
            Self::Joined(map) => Ok(map.get(name).map(String::as_str)),
            Self::Raw(list) => {
                let mut found = list.iter().filter(|h| h.key.eq_ignore_ascii_case(name));
                let Some(header) = found.next() else { return Ok(None) };
                if found.next().is_some() {
                    return Err(Reason::RequestMalformed);
                }
                str::from_utf8(value(header)).map(Some).map_err(|_| Reason::RequestMalformed)
            }
        }
    }

    /// The same of one that is judged later. Joined by a comma, two of them are one that is good for nothing.
    fn once(&self, name: &str) -> Once<'a> {
        match self.one(name) {
            Ok(None) => Once::None,
            Ok(Some(value)) => Once::One(value),
            Err(_) => Once::Bad,
        }
    }

    fn credential(&self, extraction: &Extraction) -> Credential<'a> {
        match self {
            Self::Joined(map) => extraction.from_headers(map.iter().map(|(n, v)| (n.as_str(), v.as_bytes()))),
            Self::Raw(list) => extraction.from_headers(list.iter().map(|h| (h.key.as_str(), value(h)))),
        }
    }
}

fn value(header: &super::messages::HeaderValue) -> &[u8] {
    if header.raw_value.is_empty() { header.value.as_bytes() } else { &header.raw_value }
}

#[cfg(test)]
mod tests {
    use super::{
        super::messages::{self, Address, AttributeContext, HeaderMap, HeaderValue, Request, SocketAddress},
        *,
    };

    fn check(http: HttpRequest) -> CheckRequest {
        let address = SocketAddress { address: "192.0.2.7".into(), port_value: 1 };
        let source =
            messages::Peer { address: Some(Address { socket_address: Some(address) }), ..Default::default() };
        let request = Request { http: Some(http), time: None };
        let attributes =
            AttributeContext { source: Some(source), request: Some(request), ..Default::default() };
        CheckRequest { attributes: Some(attributes) }
    }

    fn http(path: &str, headers: &[(&str, &str)]) -> HttpRequest {
        HttpRequest {
            method: "GET".into(),
            path: path.into(),
            host: "api.test".into(),
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            ..HttpRequest::default()
        }
    }

    fn token(check: &CheckRequest) -> Result<Option<String>, Reason> {
        let settings = DoorSettings::default();
        let (_, credential) = read(check, &settings)?;
        credential.map(|t| t.map(|t| t.to_token().as_str().to_owned()))
    }

    #[test]
    fn envoys_attributes_make_the_request() {
        let c = check(http(
            "/v1/orders?a=b",
            &[("authorization", "Bearer t"), ("x-tenant", "acme"), (":path", "/")],
        ));
        let settings = DoorSettings { headers: vec!["x-tenant".to_owned()], ..DoorSettings::default() };
        let (r, credential) = read(&c, &settings).unwrap();
        assert_eq!((r.method, r.path.as_str(), r.query, r.host), ("GET", "/v1/orders", "a=b", "api.test"));
        assert_eq!((r.source, r.headers), ("192.0.2.7", vec![("x-tenant", "acme")]));
        assert!(credential.unwrap().is_some());
        let bound = DoorSettings { certificate_header: Some("x-cert".to_owned()), ..DoorSettings::default() };
        let c = check(http("/", &[("dpop", "proof"), ("x-cert", "Hash=ab")]));
        let (r, _) = read(&c, &bound).unwrap();
        assert_eq!((r.evidence.dpop, r.evidence.certificate), (Once::One("proof"), Once::One("Hash=ab")));
    }

    #[test]
    fn what_is_half_there_is_malformed() {
        let no_http = CheckRequest { attributes: Some(AttributeContext::default()) };
        for c in [CheckRequest { attributes: None }, no_http] {
            assert_eq!(token(&c), Err(Reason::RequestMalformed));
        }
        for path in ["", "*", "/a/../b", "/a%2fb", "x:443"] {
            assert_eq!(token(&check(http(path, &[]))), Err(Reason::RequestMalformed), "{path}");
        }
        let mut nameless = http("/", &[]);
        nameless.method.clear();
        assert_eq!(token(&check(nameless)), Err(Reason::RequestMalformed));
    }

    #[test]
    fn two_credentials_are_one_too_many_in_both_forms() {
        assert_eq!(
            token(&check(http("/", &[("authorization", "Bearer a,Bearer b")]))),
            Err(Reason::TokenMalformed)
        );
        let raw = |values: &[&[u8]]| {
            let header = |v: &&[u8]| HeaderValue {
                key: "authorization".into(),
                value: String::new(),
                raw_value: v.to_vec(),
            };
            let map = HeaderMap { headers: values.iter().map(header).collect() };
            check(HttpRequest { header_map: Some(map), ..http("/", &[("authorization", "Bearer joined")]) })
        };
        assert_eq!(token(&raw(&[b"Bearer a", b"Bearer b"])), Err(Reason::TokenMalformed));
        assert_eq!(token(&raw(&[b"Bearer \xff\xfe"])), Err(Reason::TokenMalformed));
        assert_eq!(token(&raw(&[b"Bearer a"])), Ok(Some("a".into())));
    }
}
