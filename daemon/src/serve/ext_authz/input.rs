//! The input that OPA's Envoy plugin gives: the check as JSON (protobuf's mapping: camelCase, numbers of 64 bits as
//! strings, nothing that is empty), and the path, query and body taken apart.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use portcullis_common::reason::Reason;
use serde_json::{Map, Value, json};

use super::messages::{AttributeContext, CheckRequest, HttpRequest, Metadata, Peer};

/// The members, to stand beside our own. A body that says it is JSON and is none is malformed, as it is to OPA.
pub(super) fn members(check: &CheckRequest) -> Result<Value, Reason> {
    let attributes = check.attributes.as_ref().ok_or(Reason::RequestMalformed)?;
    let http = attributes.request.as_ref().and_then(|r| r.http.as_ref()).ok_or(Reason::RequestMalformed)?;
    let (path, query) = http.path.split_once('?').unwrap_or((&http.path, ""));
    let mut members = Map::new();
    members.insert("attributes".to_owned(), context(attributes, http)?);
    let decoded: Vec<String> = path.trim_start_matches('/').split('/').map(|s| decode(s, false)).collect();
    members.insert("parsed_path".to_owned(), decoded.into());
    members.insert("parsed_query".to_owned(), parsed_query(query));
    let (body, truncated) = parsed_body(http)?;
    members.insert("parsed_body".to_owned(), body);
    members.insert("truncated_body".to_owned(), truncated.into());
    members.insert("version".to_owned(), json!({"encoding": "protojson", "ext_authz": "v3"}));
    Ok(members.into())
}

fn context(attributes: &AttributeContext, http: &HttpRequest) -> Result<Value, Reason> {
    let mut request = Map::new();
    let time = attributes.request.as_ref().and_then(|r| r.time.as_ref());
    if let Some(time) = time {
        request.insert("time".to_owned(), time.to_string().into());
    }
    request.insert("http".to_owned(), http_request(http));
    let mut all = Map::new();
    for (name, peer) in [("source", &attributes.source), ("destination", &attributes.destination)] {
        if let Some(peer) = peer {
            all.insert(name.to_owned(), peer_of(peer));
        }
    }
    all.insert("request".to_owned(), request.into());
    if !attributes.context_extensions.is_empty() {
        let extensions: Map<String, Value> =
            attributes.context_extensions.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        all.insert("contextExtensions".to_owned(), extensions.into());
    }
    for (name, given) in [
        ("metadataContext", &attributes.metadata_context),
        ("routeMetadataContext", &attributes.route_metadata_context),
    ] {
        if let Some(given) = given {
            all.insert(name.to_owned(), metadata(given)?);
        }
    }
    if let Some(session) = &attributes.tls_session {
        all.insert("tlsSession".to_owned(), texts([("sni", &session.sni)]).into());
    }
    Ok(all.into())
}

/// A message that is there but says nothing is an empty object.
fn metadata(given: &Metadata) -> Result<Value, Reason> {
    let mut all = Map::new();
    if !given.filter_metadata.is_empty() {
        let named = given.filter_metadata.iter().map(|(name, s)| Ok((name.clone(), plain_struct(s)?)));
        let named: Map<String, Value> = named.collect::<Result<_, Reason>>()?;
        all.insert("filterMetadata".to_owned(), named.into());
    }
    Ok(all.into())
}

fn plain_struct(of: &prost_types::Struct) -> Result<Value, Reason> {
    of.fields
        .iter()
        .map(|(name, v)| Ok((name.clone(), plain(v)?)))
        .collect::<Result<_, _>>()
        .map(Value::Object)
}

/// A `google.protobuf.Value` as JSON. One that is nothing, or a number that JSON has not, is an error to protobuf's own
/// mapping too. How deep they nest is bounded where the message is read.
fn plain(value: &prost_types::Value) -> Result<Value, Reason> {
    use prost_types::value::Kind;
    Ok(match value.kind.as_ref().ok_or(Reason::RequestMalformed)? {
        Kind::NullValue(_) => Value::Null,
        Kind::BoolValue(b) => (*b).into(),
        Kind::NumberValue(n) => number(*n).ok_or(Reason::RequestMalformed)?,
        Kind::StringValue(s) => s.as_str().into(),
        Kind::StructValue(s) => plain_struct(s)?,
        Kind::ListValue(list) => {
            let items: Result<Vec<Value>, Reason> = list.values.iter().map(plain).collect();
            items?.into()
        }
    })
}

/// A whole number is written as one, without `.0`.
fn number(n: f64) -> Option<Value> {
    let text = format!("{n}");
    let whole = (n.fract() == 0.0 && n.abs() <= 9_007_199_254_740_992.0).then(|| text.parse::<i64>().ok());
    whole.flatten().map(Value::from).or_else(|| serde_json::Number::from_f64(n).map(Value::Number))
}

fn peer_of(peer: &Peer) -> Value {
    let mut all = Map::new();
    if let Some(socket) = peer.address.as_ref().and_then(|a| a.socket_address.as_ref()) {
        let mut address = texts([("address", &socket.address)]);
        if socket.port_value != 0 {
            address.insert("portValue".to_owned(), socket.port_value.into());
        }
        all.insert("address".to_owned(), json!({"socketAddress": address}));
    }
    all.extend(texts([
        ("service", &peer.service),
        ("principal", &peer.principal),
        ("certificate", &peer.certificate),
    ]));
    if !peer.labels.is_empty() {
        let labels: Map<String, Value> =
            peer.labels.iter().map(|(k, v)| (k.clone(), v.as_str().into())).collect();
        all.insert("labels".to_owned(), labels.into());
    }
    all.into()
}

fn http_request(http: &HttpRequest) -> Value {
    let mut headers: Map<String, Value> = Map::new();
    match &http.header_map {
        None => headers.extend(http.headers.iter().map(|(k, v)| (k.clone(), v.as_str().into()))),
        Some(map) => {
            for header in &map.headers {
                let value = if header.raw_value.is_empty() {
                    header.value.clone()
                } else {
                    String::from_utf8_lossy(&header.raw_value).into_owned()
                };
                // As Envoy joins them in the other form.
                match headers.get_mut(&header.key) {
                    Some(Value::String(before)) => *before = format!("{before},{value}"),
                    _ => drop(headers.insert(header.key.clone(), value.into())),
                }
            }
        }
    }
    let mut all = texts([
        ("id", &http.id),
        ("method", &http.method),
        ("path", &http.path),
        ("host", &http.host),
        ("scheme", &http.scheme),
        ("protocol", &http.protocol),
        ("body", &http.body),
    ]);
    if !headers.is_empty() {
        all.insert("headers".to_owned(), headers.into());
    }
    if http.size != 0 {
        all.insert("size".to_owned(), http.size.to_string().into());
    }
    if !http.raw_body.is_empty() {
        all.insert("rawBody".to_owned(), STANDARD.encode(&http.raw_body).into());
    }
    all.into()
}

/// Those that are not empty.
fn texts<const N: usize>(of: [(&str, &String); N]) -> Map<String, Value> {
    of.into_iter().filter(|(_, v)| !v.is_empty()).map(|(k, v)| (k.to_owned(), v.as_str().into())).collect()
}

/// Values by name, in the order in which they stand there.
fn parsed_query(query: &str) -> Value {
    let mut all: Map<String, Value> = Map::new();
    for pair in query.split('&').filter(|p| !p.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let values = all.entry(decode(name, true)).or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(values) = values {
            values.push(decode(value, true).into());
        }
    }
    all.into()
}

/// The body where it is JSON or a form, and whether it is cut.
fn parsed_body(http: &HttpRequest) -> Result<(Value, bool), Reason> {
    let header = |name: &str| match &http.header_map {
        None => http.headers.get(name).map(String::as_str),
        Some(map) => map.headers.iter().find(|h| h.key.eq_ignore_ascii_case(name)).map(|h| {
            if h.raw_value.is_empty() { h.value.as_str() } else { str::from_utf8(&h.raw_value).unwrap_or("") }
        }),
    };
    let body = if http.body.is_empty() { http.raw_body.as_slice() } else { http.body.as_bytes() };
    let announced = header("content-length").and_then(|n| n.parse::<usize>().ok());
    let cut =
        header("x-envoy-auth-partial-body") == Some("true") || announced.is_some_and(|n| n > body.len());
    if body.is_empty() || cut {
        // Without a body Envoy was not told to send it: nothing is cut then.
        return Ok((Value::Null, cut && !body.is_empty()));
    }
    let kind = header("content-type").unwrap_or_default().split(';').next().unwrap_or_default().trim();
    let parsed = if kind.eq_ignore_ascii_case("application/json") {
        serde_json::from_slice(body).map_err(|_| Reason::RequestMalformed)?
    } else if kind.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
        parsed_query(str::from_utf8(body).map_err(|_| Reason::RequestMalformed)?)
    } else {
        Value::Null
    };
    Ok((parsed, false))
}

/// Percent-decodes; a `+` is a blank in queries and forms. What is no good escape stays as it is.
fn decode(text: &str, plus: bool) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [b, after @ ..] = rest {
        rest = after;
        let digit = |b: &u8| char::from(*b).to_digit(16).and_then(|d| u8::try_from(d).ok());
        match (b, after) {
            (b'%', [h, l, behind @ ..]) => match (digit(h), digit(l)) {
                (Some(h), Some(l)) => {
                    bytes.push(h << 4 | l);
                    rest = behind;
                }
                _ => bytes.push(b'%'),
            },
            (b'+', _) if plus => bytes.push(b' '),
            _ => bytes.push(*b),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::{
        super::messages::{Address, Request, SocketAddress},
        *,
    };

    fn check(http: HttpRequest) -> CheckRequest {
        let socket_address = Some(SocketAddress { address: "192.0.2.7".into(), port_value: 4711 });
        let source = Peer {
            address: Some(Address { socket_address }),
            principal: "spiffe://acme/web".into(),
            ..Peer::default()
        };
        let time = Some(prost_types::Timestamp { seconds: 1_700_000_000, nanos: 5_000_000 });
        CheckRequest {
            attributes: Some(AttributeContext {
                source: Some(source),
                request: Some(Request { time, http: Some(http) }),
                context_extensions: [("app".to_owned(), "shop".to_owned())].into(),
                ..AttributeContext::default()
            }),
        }
    }

    fn post(body: &str, headers: &[(&str, &str)]) -> HttpRequest {
        HttpRequest {
            id: "7".into(),
            method: "POST".into(),
            path: "/v1/a%20b/?x=1&x=2+3&y".into(),
            host: "api.test".into(),
            size: -1,
            protocol: "HTTP/1.1".into(),
            body: body.into(),
            headers: headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect(),
            ..HttpRequest::default()
        }
    }

    #[test]
    fn a_check_is_what_opas_plugin_makes_of_it() {
        let headers = [("authorization", "Bearer t"), ("content-type", "application/json; charset=utf-8")];
        let made = members(&check(post(r#"{"a": [1]}"#, &headers))).unwrap();
        assert_eq!(
            made,
            json!({
                "attributes": {
                    "source": {
                        "address": {"socketAddress": {"address": "192.0.2.7", "portValue": 4711}},
                        "principal": "spiffe://acme/web",
                    },
                    "request": {
                        "time": "2023-11-14T22:13:20.005Z",
                        "http": {
                            "id": "7", "method": "POST", "path": "/v1/a%20b/?x=1&x=2+3&y", "host": "api.test",
                            "size": "-1", "protocol": "HTTP/1.1", "body": "{\"a\": [1]}",
                            "headers": {"authorization": "Bearer t", "content-type": "application/json; charset=utf-8"},
                        },
                    },
                    "contextExtensions": {"app": "shop"},
                },
                "parsed_path": ["v1", "a b", ""],
                "parsed_query": {"x": ["1", "2 3"], "y": [""]},
                "parsed_body": {"a": [1]},
                "truncated_body": false,
                "version": {"encoding": "protojson", "ext_authz": "v3"},
            })
        );
    }

    #[test]
    fn what_filters_and_routes_say_is_handed_on() {
        use prost_types::{ListValue, Struct, Value as Any, value::Kind};
        let any = |kind| Any { kind: Some(kind) };
        let given = |fields: Vec<(&str, Any)>| Metadata {
            filter_metadata: [(
                "envoy.filters.http.jwt_authn".to_owned(),
                Struct { fields: fields.into_iter().map(|(k, v)| (k.to_owned(), v)).collect() },
            )]
            .into(),
        };
        let list =
            vec![any(Kind::NumberValue(1.0)), any(Kind::NumberValue(-2.5)), any(Kind::NumberValue(1e300))];
        let deep = Struct { fields: [("b".to_owned(), any(Kind::BoolValue(true)))].into() };
        let mut check = check(post("", &[]));
        let attributes = check.attributes.as_mut().unwrap();
        attributes.metadata_context = Some(given(vec![
            ("list", any(Kind::ListValue(ListValue { values: list }))),
            ("none", any(Kind::NullValue(0))),
            ("sub", any(Kind::StringValue("ann".into()))),
            ("deep", any(Kind::StructValue(deep))),
        ]));
        attributes.route_metadata_context = Some(Metadata::default());
        attributes.tls_session = Some(super::super::messages::TlsSession { sni: "api.test".into() });
        let made = members(&check).unwrap()["attributes"].clone();
        assert_eq!(
            made["metadataContext"],
            json!({"filterMetadata": {"envoy.filters.http.jwt_authn": {
                "list": [1, -2.5, 1e300], "none": null, "sub": "ann", "deep": {"b": true},
            }}})
        );
        assert!(
            made["metadataContext"]["filterMetadata"]["envoy.filters.http.jwt_authn"]["list"][0].is_i64()
        );
        assert_eq!(made["routeMetadataContext"], json!({}));
        assert_eq!(made["tlsSession"], json!({"sni": "api.test"}));
        for bad in
            [any(Kind::NumberValue(f64::NAN)), any(Kind::NumberValue(f64::INFINITY)), Any { kind: None }]
        {
            check.attributes.as_mut().unwrap().metadata_context = Some(given(vec![("x", bad)]));
            assert_eq!(members(&check), Err(Reason::RequestMalformed));
        }
    }

    #[test]
    fn bodies_are_parsed_cut_or_refused() {
        let body = |text: &str, headers: &[(&str, &str)]| {
            members(&check(post(text, headers)))
                .map(|m| (m["parsed_body"].clone(), m["truncated_body"] == true))
        };
        let json_type = ("content-type", "application/json");
        assert_eq!(body("", &[json_type]), Ok((Value::Null, false)));
        assert_eq!(
            body("", &[json_type, ("content-length", "9")]),
            Ok((Value::Null, false)),
            "it is not sent"
        );
        assert_eq!(body("{", &[json_type, ("content-length", "9")]), Ok((Value::Null, true)));
        assert_eq!(body("{}", &[json_type, ("x-envoy-auth-partial-body", "true")]), Ok((Value::Null, true)));
        assert_eq!(body("{", &[json_type]), Err(Reason::RequestMalformed));
        let form = ("content-type", "application/x-www-form-urlencoded");
        assert_eq!(body("a=1&a=%32", &[form]), Ok((json!({"a": ["1", "2"]}), false)));
        assert_eq!(body("text", &[("content-type", "text/plain")]), Ok((Value::Null, false)));
        assert_eq!(decode("%zz%4", false), "%zz%4");
    }
}
