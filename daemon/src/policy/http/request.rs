//! A call's fields, read as OPA reads them.

use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method, header};
use regorus::Value;
use serde_json::{Map, Value as Json};

use super::{Call, Keep};

/// What OPA takes.
const KNOWN: &[&str] = &[
    "method",
    "url",
    "body",
    "enable_redirect",
    "force_json_decode",
    "force_yaml_decode",
    "headers",
    "raw_body",
    "tls_use_system_certs",
    "tls_ca_cert",
    "tls_ca_cert_file",
    "tls_ca_cert_env_variable",
    "tls_client_cert",
    "tls_client_cert_file",
    "tls_client_cert_env_variable",
    "tls_client_key",
    "tls_client_key_file",
    "tls_client_key_env_variable",
    "tls_insecure_skip_verify",
    "tls_server_name",
    "timeout",
    "cache",
    "force_cache",
    "force_cache_duration_seconds",
    "raise_error",
    "caching_mode",
    "max_retry_attempts",
    "cache_ignored_headers",
];
/// Most retries.
const RETRIES: u64 = 5;
/// Longest body that is sent.
const MAX_BODY: usize = 1 << 20;

/// Whether a request wants its errors as values.
pub fn is_quiet(request: &Value) -> Result<bool, String> {
    match request {
        Value::Object(members) => match members.get(&Value::from("raise_error")) {
            None => Ok(false),
            Some(Value::Bool(raise)) => Ok(!raise),
            Some(_) => Err("invalid value for raise_error field".to_owned()),
        },
        _ => Ok(false),
    }
}

/// The call that a request object stands for.
pub fn read(request: &Value) -> Result<Call, String> {
    let Ok(Json::Object(members)) = serde_json::to_value(request) else {
        return Err("operand 1 must be object".to_owned());
    };
    let list = |names: Vec<&str>| {
        format!("{{{}}}", names.iter().map(|n| format!("{n:?}")).collect::<Vec<_>>().join(", "))
    };
    let unknown: Vec<&str> = members.keys().map(String::as_str).filter(|k| !KNOWN.contains(k)).collect();
    if !unknown.is_empty() {
        return Err(format!("invalid request parameters(s): {}", list(unknown)));
    }
    let missing: Vec<&str> = ["method", "url"].into_iter().filter(|k| !members.contains_key(*k)).collect();
    if !missing.is_empty() {
        return Err(format!("missing required request parameters(s): {}", list(missing)));
    }
    refuse(&members)?;
    let method = string(&members, "method")?.unwrap_or_default().to_ascii_uppercase();
    let method = Method::from_bytes(method.as_bytes()).map_err(|_| "method is no HTTP method".to_owned())?;
    if matches!(method, Method::CONNECT | Method::TRACE) {
        return Err(format!("method {method} is never sent"));
    }
    let headers = headers(&members)?;
    let body = match (string(&members, "raw_body")?, members.get("body")) {
        (Some(raw), _) => raw.as_bytes().to_vec(),
        (None, Some(body)) => serde_json::to_vec(body).map_err(|e| e.to_string())?,
        (None, None) => Vec::new(),
    };
    if body.len() > MAX_BODY {
        return Err(format!("its body has more than {MAX_BODY} bytes"));
    }
    let retries = match members.get("max_retry_attempts") {
        None => 0,
        Some(n) => n.as_u64().ok_or("max_retry_attempts must be a non-negative integer")?.min(RETRIES),
    };
    Ok(Call {
        method,
        url: string(&members, "url")?.unwrap_or_default().to_owned(),
        headers,
        body: Bytes::from(body),
        timeout: timeout(&members)?,
        retries: u32::try_from(retries).unwrap_or_default(),
        keep: keep(&members)?,
        name: name(&members)?,
    })
}

/// What OPA has and is not had here is refused, not passed over: the policy relies on it.
fn refuse(members: &Map<String, Json>) -> Result<(), String> {
    if flag(members, "enable_redirect")? {
        return Err(
            "enable_redirect is not supported: a redirect is answered as it is; ask the address it leads to"
                .into(),
        );
    }
    if flag(members, "tls_insecure_skip_verify")? {
        return Err("tls_insecure_skip_verify is not supported: certificates are always verified".into());
    }
    // The configuration says which authorities are believed; the system's unless it names others.
    flag(members, "tls_use_system_certs")?;
    if let Some(name) = members.keys().find(|k| {
        k.starts_with("tls_") && !matches!(k.as_str(), "tls_use_system_certs" | "tls_insecure_skip_verify")
    }) {
        return Err(format!("{name} is not supported: `policy.http_send.ca_file` names authorities"));
    }
    Ok(())
}

fn flag(members: &Map<String, Json>, name: &str) -> Result<bool, String> {
    match members.get(name) {
        None => Ok(false),
        Some(Json::Bool(is)) => Ok(*is),
        Some(_) => Err(format!("{name} must be a boolean")),
    }
}

fn string<'a>(members: &'a Map<String, Json>, name: &str) -> Result<Option<&'a str>, String> {
    match members.get(name) {
        None => Ok(None),
        Some(Json::String(s)) => Ok(Some(s)),
        Some(_) => Err(format!("{name} must be a string")),
    }
}

fn headers(members: &Map<String, Json>) -> Result<Vec<(HeaderName, HeaderValue)>, String> {
    let given = match members.get("headers") {
        None => return Ok(Vec::new()),
        Some(Json::Object(given)) => given,
        Some(_) => return Err("headers must be an object".into()),
    };
    let mut out = Vec::with_capacity(given.len());
    for (name, value) in given {
        let Json::String(value) = value else { return Err(format!("the header {name:?} must be a string")) };
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?;
        // Where it goes and how long it is follow from the address and the body.
        if [
            header::HOST,
            header::CONTENT_LENGTH,
            header::TRANSFER_ENCODING,
            header::CONNECTION,
            header::UPGRADE,
            header::TE,
            header::TRAILER,
        ]
        .contains(&name)
        {
            return Err(format!("the header `{name}` is not the policy's to set"));
        }
        let value = HeaderValue::from_str(value)
            .map_err(|_| format!("the header `{name}` has characters that no header may have"))?;
        out.push((name, value));
    }
    Ok(out)
}

/// A text such as `500ms`, or a number of nanoseconds.
fn timeout(members: &Map<String, Json>) -> Result<Option<Duration>, String> {
    let given = match members.get("timeout") {
        None => return Ok(None),
        Some(Json::Number(n)) => n.as_u64().map(Duration::from_nanos),
        Some(Json::String(s)) => duration(s),
        Some(_) => None,
    };
    let given = given.ok_or("invalid timeout: it is a text such as \"500ms\", or a number of nanoseconds")?;
    // Nothing is what OPA takes for its default.
    Ok(Some(given).filter(|d| !d.is_zero()))
}

/// A length of time as Go writes it.
fn duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let (mut rest, mut total) = (text, 0.0_f64);
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let number: f64 = number.parse().ok()?;
        let unit = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit);
        total += number
            * match unit {
                "ns" => 1e-9,
                "us" | "µs" | "μs" => 1e-6,
                "ms" => 1e-3,
                "s" => 1.0,
                "m" => 60.0,
                "h" => 3600.0,
                _ => return None,
            };
        rest = tail;
    }
    (!text.is_empty()).then(|| Duration::try_from_secs_f64(total).ok()).flatten()
}

fn keep(members: &Map<String, Json>) -> Result<Keep, String> {
    match string(members, "caching_mode")? {
        None | Some("serialized" | "deserialized") => {}
        Some(other) => return Err(format!("invalid value specified for 'caching_mode' field: {other:?}")),
    }
    if flag(members, "force_cache")? {
        let seconds = members
            .get("force_cache_duration_seconds")
            .ok_or("'force_cache' set but 'force_cache_duration_seconds' parameter is missing")?;
        let seconds =
            seconds.as_u64().ok_or("force_cache_duration_seconds must be a non-negative integer")?;
        return Ok(Keep::For(Duration::from_secs(seconds)));
    }
    Ok(if flag(members, "cache")? { Keep::AsServed } else { Keep::Not })
}

/// A digest of the request, without the headers that are to be ignored.
fn name(members: &Map<String, Json>) -> Result<[u8; 32], String> {
    let mut named = members.clone();
    match members.get("cache_ignored_headers") {
        None | Some(Json::Null) => {}
        Some(Json::Array(ignored)) => {
            for one in ignored {
                let one = one.as_str().ok_or("cache_ignored_headers must be a list of strings")?;
                if let Some(Json::Object(headers)) = named.get_mut("headers") {
                    headers.retain(|name, _| !name.eq_ignore_ascii_case(one));
                }
            }
        }
        Some(_) => return Err("cache_ignored_headers must be a list of strings".into()),
    }
    let text = serde_json::to_vec(&named).map_err(|e| e.to_string())?;
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, &text).as_ref());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(request: Json) -> Result<Call, String> {
        super::read(&Value::from(request))
    }

    #[test]
    fn what_opa_takes_is_taken_and_all_else_refused_in_its_words() {
        let call = read(json!({
            "method": "post", "url": "https://h/x", "headers": {"X-A": "1"}, "body": {"a": [1]}, "timeout": "1m0.5s",
            "raise_error": false, "force_json_decode": true, "cache": true, "tls_use_system_certs": true,
            "max_retry_attempts": 2, "enable_redirect": false,
        }))
        .unwrap();
        assert_eq!(
            (call.method, &call.body[..], call.keep),
            (Method::POST, &b"{\"a\":[1]}"[..], Keep::AsServed)
        );
        assert_eq!((call.timeout, call.retries), (Some(Duration::from_millis(60_500)), 2));
        for (request, why) in [
            (
                json!({"method": "get", "url": "u", "bad": 1, "urls": 2}),
                "invalid request parameters(s): {\"bad\", \"urls\"}",
            ),
            (json!({"method": "get"}), "missing required request parameters(s): {\"url\"}"),
            (json!({}), "missing required request parameters(s): {\"method\", \"url\"}"),
            (json!([]), "operand 1 must be object"),
            (json!({"method": 1, "url": "u"}), "method must be a string"),
            (json!({"method": "a b", "url": "u"}), "no HTTP method"),
            (json!({"method": "connect", "url": "u"}), "never sent"),
            (json!({"method": "get", "url": "u", "raw_body": {}}), "raw_body must be a string"),
            (json!({"method": "get", "url": "u", "timeout": "5"}), "invalid timeout"),
            (json!({"method": "get", "url": "u", "timeout": true}), "invalid timeout"),
            (
                json!({"method": "get", "url": "u", "force_cache": true}),
                "'force_cache_duration_seconds' parameter is missing",
            ),
            (json!({"method": "get", "url": "u", "caching_mode": "x"}), "caching_mode"),
            (
                json!({"method": "get", "url": "u", "enable_redirect": true}),
                "a redirect is answered as it is",
            ),
            (json!({"method": "get", "url": "u", "tls_insecure_skip_verify": true}), "always verified"),
            (json!({"method": "get", "url": "u", "tls_ca_cert": "x"}), "policy.http_send.ca_file"),
            (json!({"method": "get", "url": "u", "headers": {"Host": "x"}}), "not the policy's to set"),
            (json!({"method": "get", "url": "u", "headers": {"a": "x\r\nb: c"}}), "no header may have"),
            (json!({"method": "get", "url": "u", "headers": {"a": 1}}), "must be a string"),
            (json!({"method": "get", "url": "u", "cache": "yes"}), "cache must be a boolean"),
            (json!({"method": "get", "url": "u", "raw_body": "x".repeat(MAX_BODY + 1)}), "more than"),
        ] {
            let e = read(request.clone()).unwrap_err();
            assert!(e.contains(why), "{request}: {e}");
        }
    }

    #[test]
    fn ignored_headers_are_no_part_of_the_name_and_all_else_is() {
        let name = |headers: Json, body: &str| {
            read(json!({"method": "get", "url": "u", "headers": headers, "raw_body": body, "cache_ignored_headers": ["X-Id"]}))
                .unwrap()
                .name
        };
        assert_eq!(name(json!({"x-id": "1", "b": "2"}), ""), name(json!({"X-ID": "3", "b": "2"}), ""));
        assert_ne!(name(json!({"b": "2"}), ""), name(json!({"b": "3"}), ""));
        assert_ne!(name(json!({}), "a"), name(json!({}), "b"));
    }

    #[test]
    fn lengths_of_time_are_gos() {
        for (text, ms) in
            [("500ms", 500), ("1.5s", 1500), ("1h1m1s1ms", 3_661_001), ("0", 0), ("250000us", 250)]
        {
            assert_eq!(duration(text), Some(Duration::from_millis(ms)), "{text}");
        }
        for bad in ["", "5", "s", "-1s", "1d", "1 s", "..s"] {
            assert_eq!(duration(bad), None, "{bad}");
        }
    }
}
