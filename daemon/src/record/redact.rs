//! What no line holds unless the configuration says so: credentials, headers, claims that name people.
//!
//! A member is taken out and its place listed under `erased`, as OPA does; what stands in an array, or is a part of a
//! text, is replaced, and its place listed under `masked`.

use serde_json::Value;

use crate::{percent, token::holds_api_key};

/// Members that are credentials whatever holds them.
const SECRETS: [&str; 17] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "token",
    "access_token",
    "id_token",
    "refresh_token",
    "subject_token",
    "client_secret",
    "client_assertion",
    "password",
    "secret",
    "api_key",
    "apikey",
    "x-api-key",
    "dpop",
];

/// Objects whose members are headers.
const HEADERS: [&str; 2] = ["headers", "response_headers_to_add"];

/// Where the members that Envoy's schema adds have the request, and what of it goes: a body is anything at all.
const ENVOYS_REQUEST: &str = "/input/attributes/request/http";
const BODIES: [&str; 2] = ["body", "rawBody"];
/// Where they have what Envoy's filters said of it: the claims of a token, for one.
const ENVOYS_METADATA: &str = "/input/attributes/metadataContext";

/// In place of a value that cannot be taken out.
pub(super) const GONE: &str = "***";

/// What stays and what goes.
#[derive(Clone, Debug, Default)]
pub struct Redaction {
    /// Headers that stay, in lower case.
    pub headers: Vec<String>,
    /// Claims that go.
    pub claims: Vec<String>,
    /// Members that go, in lower case, beside those that always do.
    pub secrets: Vec<String>,
}

/// Places that are not as they were, as JSON pointers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changed {
    /// Taken out.
    pub erased: Vec<String>,
    /// Replaced.
    pub masked: Vec<String>,
}

impl Redaction {
    /// Goes over a document that stands at `place`.
    pub fn apply(&self, value: &mut Value, place: &str, changed: &mut Changed) {
        self.walk(value, &mut place.to_owned(), false, changed);
    }

    fn walk(&self, value: &mut Value, place: &mut String, in_headers: bool, changed: &mut Changed) {
        match value {
            Value::Object(members) => {
                let has_bodies = place == ENVOYS_REQUEST;
                let is_metadata = place == ENVOYS_METADATA;
                let is_identity = place == "/input/identity" || place == "/input/identity/claims";
                let goes = |name: &str, value: &Value| {
                    let lower = name.to_ascii_lowercase();
                    SECRETS.contains(&lower.as_str())
                        || self.secrets.contains(&lower)
                        || (in_headers && !self.headers.contains(&lower))
                        || (is_identity && self.claims.iter().any(|claim| claim == name))
                        || (has_bodies && BODIES.contains(&name))
                        || is_metadata
                        || matches!(value, Value::String(text) if is_credential(text) && self.cleaned(name, text).is_none_or(|clean| is_credential(&clean)))
                };
                let gone: Vec<String> = members
                    .iter()
                    .filter(|(name, value)| goes(name, value))
                    .map(|(name, _)| name.clone())
                    .collect();
                for name in gone {
                    members.remove(&name);
                    changed.erased.push(format!("{place}/{}", escaped(&name)));
                }
                // A name can be a credential too (a table of keys, say).
                let odd: Vec<String> = members.keys().filter(|name| is_credential(name)).cloned().collect();
                for name in odd {
                    members.remove(&name);
                    changed.masked.push(place.clone());
                }
                for (name, value) in members.iter_mut() {
                    let before = place.len();
                    place.push('/');
                    place.push_str(&escaped(name));
                    if let Value::String(text) = value
                        && let Some(clean) = self.cleaned(name, text)
                    {
                        *text = clean;
                        changed.masked.push(place.clone());
                    }
                    self.walk(value, place, HEADERS.contains(&name.as_str()), changed);
                    place.truncate(before);
                }
            }
            Value::Array(items) => {
                for (n, item) in items.iter_mut().enumerate() {
                    let before = place.len();
                    place.push('/');
                    place.push_str(&n.to_string());
                    if matches!(item, Value::String(text) if is_credential(text)) {
                        *item = GONE.into();
                        changed.masked.push(place.clone());
                    }
                    self.walk(item, place, in_headers, changed);
                    place.truncate(before);
                }
            }
            // A bare text: the input itself.
            Value::String(text) if place.matches('/').count() == 1 && is_credential(text) => {
                *value = GONE.into();
                changed.masked.push(place.clone());
            }
            _ => {}
        }
    }

    /// A query, or a path with one, without the credentials in the query; none where there are none.
    fn cleaned(&self, name: &str, text: &str) -> Option<String> {
        match name {
            "query" => self.query(text),
            "path" => {
                let (path, query) = text.split_once('?')?;
                self.query(query).map(|clean| format!("{path}?{clean}"))
            }
            _ => None,
        }
    }

    /// A query without the values of parameters that are credentials, if it has any.
    fn query(&self, query: &str) -> Option<String> {
        let is_secret = |name: &str| {
            // As whoever reads the query takes it.
            let lower = percent::decoded(name).unwrap_or_else(|| name.to_owned()).to_ascii_lowercase();
            SECRETS.contains(&lower.as_str()) || self.secrets.contains(&lower)
        };
        let mut found = false;
        let pairs: Vec<String> = query
            .split('&')
            .map(|pair| match pair.split_once('=') {
                Some((name, value)) if !value.is_empty() && (is_secret(name) || is_credential(value)) => {
                    found = true;
                    format!("{name}={GONE}")
                }
                _ => pair.to_owned(),
            })
            .collect();
        found.then(|| pairs.join("&"))
    }
}

/// A member's name in a JSON pointer.
pub(super) fn escaped(name: &str) -> String {
    name.replace('~', "~0").replace('/', "~1")
}

/// Whether a text is or holds what looks like a credential: a scheme with one word behind it, a JWS, or an API key.
pub(super) fn is_credential(text: &str) -> bool {
    // As whoever reads an address takes it.
    text.contains('%') && percent::decoded(text).is_some_and(|text| is_plain_credential(&text))
        || is_plain_credential(text)
}

fn is_plain_credential(text: &str) -> bool {
    let scheme = text.trim().split_once(' ').is_some_and(|(scheme, rest)| {
        let (word, is) = (rest.trim(), |name: &str| scheme.eq_ignore_ascii_case(name));
        // "Basic membership" is a reason that a policy may give.
        let encoded = || word.bytes().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'=');
        !word.is_empty() && !word.contains(' ') && (is("bearer") || is("dpop") || is("basic") && encoded())
    });
    scheme
        || text.match_indices("eyJ").any(|(at, _)| is_jws(&text[at..]))
        || is_spaced_jws(text)
        || holds_api_key(text)
}

/// Whether a text is a JWS whose header begins otherwise than with `{"`: with blanks, which JSON may have.
fn is_spaced_jws(text: &str) -> bool {
    let text = text.trim();
    let header = text.split('.').next().unwrap_or_default();
    let is_object = || {
        let decoded = base64::Engine::decode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
        decoded.is_ok_and(|bytes| bytes.trim_ascii_start().starts_with(b"{"))
    };
    is_jws(text) && text.matches('.').count() >= 2 && is_object()
}

/// Whether a text begins with two parts of base64url and a dot behind each.
fn is_jws(text: &str) -> bool {
    let part = |text: &str| {
        text.bytes().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')).count()
    };
    let first = part(text);
    let Some(rest) = text[first..].strip_prefix('.') else { return false };
    let second = part(rest);
    first > 3 && second > 3 && rest[second..].starts_with('.')
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const JWS: &str = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJ4In0.c2ln";

    const KEY: &str = "pk_0123456789A_0123456789012345678901234567890123456789abcdefghi";

    fn redacted(mut input: Value) -> (Value, Changed) {
        let redaction = Redaction {
            headers: vec!["x-tenant".into()],
            claims: vec!["email".into()],
            secrets: vec!["x-key".into()],
        };
        let mut changed = Changed::default();
        redaction.apply(&mut input, "/input", &mut changed);
        (input, changed)
    }

    #[test]
    fn a_token_whose_header_begins_with_blanks_is_one() {
        for header in [" {\"alg\":\"HS256\"}", "{ \"alg\":\"HS256\"}", "{\n\"alg\":\"HS256\"}"] {
            let header = base64::Engine::encode(&base64::engine::general_purpose::URL_SAFE_NO_PAD, header);
            let token = format!("{header}.eyJzdWIiOiJ4In0.c2ln");
            let (input, _) = redacted(json!({"input": {"jwt": token, "list": [token]}}));
            assert!(!input.to_string().contains(&token), "{header}: {input}");
        }
        let (input, _) = redacted(json!({"input": {"host": "www.example.com", "v": "10.20.30.40"}}));
        assert_eq!(input, json!({"input": {"host": "www.example.com", "v": "10.20.30.40"}}));
        let (input, _) = redacted(json!({"input": {"query": "x%2dk%65y=SECRET&a=1"}}));
        assert!(!input.to_string().contains("SECRET"), "{input}");
    }

    #[test]
    fn headers_stay_by_name_and_claims_go_by_name() {
        let (input, changed) = redacted(json!({
            "request": {"headers": {"x-tenant": "acme", "x-user": "bob"}, "path": "/a"},
            "identity": {"sub": "u", "email": "a@b", "claims": {"email": "a@b", "sub": "u", "x": {"email": "c"}}},
            "resource": {"email": "kept: no claim"},
        }));
        assert_eq!(
            input,
            json!({
                "request": {"headers": {"x-tenant": "acme"}, "path": "/a"},
                "identity": {"sub": "u", "claims": {"sub": "u", "x": {"email": "c"}}},
                "resource": {"email": "kept: no claim"},
            })
        );
        assert_eq!(
            changed.erased,
            ["/input/identity/email", "/input/identity/claims/email", "/input/request/headers/x-user"]
        );
    }

    #[test]
    fn what_envoys_schema_repeats_goes_too() {
        let (input, changed) = redacted(json!({
            "attributes": {"request": {"http": {
                "headers": {"authorization": "Bearer x", "x-tenant": "acme", "x-user": "bob"},
                "path": format!("/a?b=c&access_token=x&d={JWS}"),
                "body": "pin=1234",
                "rawBody": "cGluPTEyMzQ=",
                "method": "GET",
            }}, "metadataContext": {"filterMetadata": {"envoy.filters.http.jwt_authn": {"email": "a@b"}}}},
            "parsed_path": ["a"],
            "parsed_query": {"b": ["c"], "access_token": ["x"], "d": [JWS]},
            "parsed_body": {"password": "x", "n": 1},
        }));
        assert_eq!(
            input,
            json!({
                "attributes": {"request": {"http": {
                    "headers": {"x-tenant": "acme"}, "path": "/a?b=c&access_token=***&d=***", "method": "GET",
                }}, "metadataContext": {}},
                "parsed_path": ["a"],
                "parsed_query": {"b": ["c"], "d": ["***"]},
                "parsed_body": {"n": 1},
            })
        );
        assert!(changed.erased.contains(&"/input/attributes/request/http/rawBody".to_owned()), "{changed:?}");
    }

    #[test]
    fn credentials_go_wherever_they_stand() {
        for (input, left) in [
            (json!({"a": {"Token": "x"}}), json!({"a": {}})),
            (json!({"X-Key": "x", "b": 1}), json!({"b": 1})),
            (json!({"a": format!("see {JWS}")}), json!({})),
            (json!({"a": [JWS, "b"]}), json!({"a": ["***", "b"]})),
            (json!({"a": "Bearer abc"}), json!({})),
            (json!({"a": format!("key {KEY}.")}), json!({})),
            (json!({"a": [KEY, "pk_0123456789A_short"]}), json!({"a": ["***", "pk_0123456789A_short"]})),
            (json!({"query": format!("a={KEY}")}), json!({"query": "a=***"})),
            (json!({"query": format!("a={}", KEY.replace('_', "%5F"))}), json!({"query": "a=***"})),
            (json!({"query": format!("a={}&b=1", JWS.replace('.', "%2e"))}), json!({"query": "a=***&b=1"})),
            (json!({"path": format!("/x/{}", KEY.replace('_', "%5f"))}), json!({})),
            (json!({"x": "100%"}), json!({"x": "100%"})),
            (json!({"a": "basic dXNlcjpwYXNz"}), json!({})),
            (json!({"a": "Basic membership"}), json!({"a": "Basic membership"})),
            (json!({"a": "bearer of bad news"}), json!({"a": "bearer of bad news"})),
            (json!({"a": "bearer"}), json!({"a": "bearer"})),
            (json!({"a": "eyJ.x.y"}), json!({"a": "eyJ.x.y"})),
            (json!({JWS: 1}), json!({})),
            (json!(JWS), json!("***")),
            (json!([[{"a": JWS}]]), json!([[{}]])),
            (json!({"query": "a=b&access_token=abc&c"}), json!({"query": "a=b&access_token=***&c"})),
            (json!({"query": format!("a={JWS}")}), json!({"query": "a=***"})),
        ] {
            let kept = input == left;
            let (got, changed) = redacted(input.clone());
            assert_eq!(got, left, "{input}");
            assert_eq!(changed == Changed::default(), kept, "{input}");
        }
    }
}
