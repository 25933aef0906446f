//! What a decision says to client and service beside allow or deny: headers, a body, metadata for the gateway.
//!
//! Members have the names that OPA's Envoy plugin gave them. What could split a header or hide another is an error,
//! and so a denial.

use regorus::Value;

use super::PolicyError;

/// Most headers in one list.
const MAX_HEADERS: usize = 64;
/// Longest header value, in bytes.
const MAX_VALUE: usize = 8 * 1024;
/// Longest body, and longest metadata as JSON, in bytes.
const MAX_TEXT: usize = 64 * 1024;

/// Names and values of headers; names are in lower case.
pub type Headers = Vec<(String, String)>;

/// What goes out with a decision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reply {
    /// `headers`: for the service, in place of the client's, with an allow; for the client with a denial.
    pub headers: Headers,
    /// `response_headers_to_add`: for the client, with an allow.
    pub response_headers: Headers,
    /// `request_headers_to_remove`: what the service does not get of the client's headers, with an allow.
    pub removed: Vec<String>,
    /// `body`: for the client, with a denial.
    pub body: Option<String>,
    /// `query_parameters_to_set`: in place of the client's, with an allow, where the gateway can (Envoy by gRPC).
    pub query: Headers,
    /// `query_parameters_to_remove`: the same of what goes.
    pub query_removed: Vec<String>,
    /// `dynamic_metadata`: for the gateway.
    pub metadata: Option<serde_json::Map<String, serde_json::Value>>,
}

impl Reply {
    /// Takes a member of a decision; `false` where it is none of these.
    pub(super) fn take(&mut self, name: &str, value: &Value) -> Result<bool, PolicyError> {
        match name {
            "headers" => self.headers = headers(name, value)?,
            "response_headers_to_add" => self.response_headers = headers(name, value)?,
            "request_headers_to_remove" => self.removed = names(value)?,
            "query_parameters_to_set" => self.query = parameters(value)?,
            "query_parameters_to_remove" => self.query_removed = parameter_names(value)?,
            "body" => self.body = Some(body(value)?),
            "dynamic_metadata" => self.metadata = Some(metadata(value)?),
            _ => return Ok(false),
        }
        Ok(true)
    }
}

fn bad<T>(message: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::BadDecision(message.into()))
}

/// An object of strings, or of arrays of strings where a header is given more than once; or a list of such objects.
fn headers(member: &str, value: &Value) -> Result<Headers, PolicyError> {
    pairs(member, value, name_of, text_of)
}

fn parameters(value: &Value) -> Result<Headers, PolicyError> {
    let is_value = |name: &str, value: &Value| match value {
        Value::String(s) if s.len() <= MAX_VALUE && s.bytes().all(|b| is_of_query(b) || b == b'=') => {
            Ok(s.to_string())
        }
        _ => bad(format!(
            "the value of the query parameter `{name}` is not a string that a query may hold as it is: percent-encode it"
        )),
    };
    pairs("query_parameters_to_set", value, parameter_name, is_value)
}

fn parameter_names(value: &Value) -> Result<Vec<String>, PolicyError> {
    listed("query_parameters_to_remove", value)?.into_iter().map(parameter_name).collect()
}

/// Gateways put it into the query as it is: it must not end there, or begin another parameter.
fn parameter_name(value: &Value) -> Result<String, PolicyError> {
    match value {
        Value::String(s) if (1..=100).contains(&s.len()) && s.bytes().all(is_of_query) => Ok(s.to_string()),
        _ => {
            bad("a query parameter's name is not a string that a query may hold as it is: percent-encode it")
        }
    }
}

const fn is_of_query(b: u8) -> bool {
    b.is_ascii_graphic() && !matches!(b, b'&' | b'#' | b'=' | b';' | b'"' | b'<' | b'>' | b'`' | b'\\')
}

fn pairs(
    member: &str,
    value: &Value,
    name_of: impl Fn(&Value) -> Result<String, PolicyError>,
    text_of: impl Fn(&str, &Value) -> Result<String, PolicyError>,
) -> Result<Headers, PolicyError> {
    let objects = match value {
        Value::Array(items) => items.iter().collect(),
        one => vec![one],
    };
    let mut found = Vec::new();
    for object in objects {
        let Value::Object(members) = object else {
            return bad(format!("`{member}` is neither an object nor a list of objects"));
        };
        for (name, value) in members.iter() {
            let name = name_of(name)?;
            match value {
                Value::Array(values) => {
                    for value in values.iter() {
                        found.push((name.clone(), text_of(&name, value)?));
                    }
                }
                value => {
                    let value = text_of(&name, value)?;
                    found.push((name, value));
                }
            }
            if found.len() > MAX_HEADERS {
                return bad(format!("`{member}` has more than {MAX_HEADERS} entries"));
            }
        }
    }
    // Those of one name stand together: doors join them.
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn names(value: &Value) -> Result<Vec<String>, PolicyError> {
    listed("request_headers_to_remove", value)?.into_iter().map(name_of).collect()
}

fn listed<'a>(member: &str, value: &'a Value) -> Result<Vec<&'a Value>, PolicyError> {
    let listed: Vec<&Value> = match value {
        Value::Array(items) => items.iter().collect(),
        Value::Set(items) => items.iter().collect(),
        _ => return bad(format!("`{member}` is not an array")),
    };
    if listed.len() > MAX_HEADERS {
        return bad(format!("`{member}` has more than {MAX_HEADERS} names"));
    }
    Ok(listed)
}

/// A header's name in lower case (RFC 9110 §5.6.2). Those that frame a message or name its host are not a policy's to
/// set, nor are this daemon's own.
fn name_of(value: &Value) -> Result<String, PolicyError> {
    let Value::String(name) = value else { return bad("a header's name is not a string") };
    let name = name.to_ascii_lowercase();
    let token = |b: u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b);
    let reserved = [
        "host",
        "connection",
        "content-length",
        "transfer-encoding",
        "te",
        "trailer",
        "upgrade",
        "keep-alive",
        "proxy-connection",
    ];
    if name.is_empty() || name.len() > 100 || !name.bytes().all(token) {
        return bad(format!("`{}` is not a header's name", name.escape_default()));
    }
    if reserved.contains(&name.as_str()) || name.starts_with("x-portcullis-") {
        return bad(format!("the header `{name}` is not a policy's to set or remove"));
    }
    Ok(name)
}

fn text_of(name: &str, value: &Value) -> Result<String, PolicyError> {
    match value {
        // What a header may hold without being split, folded or read differently.
        Value::String(s) if s.len() <= MAX_VALUE && s.bytes().all(|b| matches!(b, b' '..=b'~')) => {
            Ok(s.to_string())
        }
        _ => bad(format!(
            "the value of the header `{name}` is not a string of at most {MAX_VALUE} printable characters"
        )),
    }
}

fn body(value: &Value) -> Result<String, PolicyError> {
    match value {
        Value::String(s) if s.len() <= MAX_TEXT => Ok(s.to_string()),
        _ => bad(format!("`body` is not a string of at most {MAX_TEXT} bytes")),
    }
}

fn metadata(value: &Value) -> Result<serde_json::Map<String, serde_json::Value>, PolicyError> {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(members)) if value.to_string().len() <= MAX_TEXT => Ok(members),
        _ => bad(format!("`dynamic_metadata` is not an object of at most {MAX_TEXT} bytes")),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn take(name: &str, value: serde_json::Value) -> Result<Reply, PolicyError> {
        let mut reply = Reply::default();
        reply.take(name, &value.into()).map(|_| reply)
    }

    #[test]
    fn headers_are_strings_or_lists_of_strings() {
        let reply = take("headers", json!({"X-A": "1", "x-b": ["2", "3"]})).unwrap();
        let expected = [("x-a", "1"), ("x-b", "2"), ("x-b", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(reply.headers, expected);
        let listed =
            take("response_headers_to_add", json!([{"x-b": "1"}, {"x-a": "2"}, {"X-B": "3"}])).unwrap();
        let expected = [("x-a", "2"), ("x-b", "1"), ("x-b", "3")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(listed.response_headers, expected);
        let query =
            take("query_parameters_to_set", json!({"tenant": "a%20b", "page": ["1", "x=2"]})).unwrap();
        let expected = [("page", "1"), ("page", "x=2"), ("tenant", "a%20b")];
        assert_eq!(query.query, expected.map(|(n, v)| (n.to_owned(), v.to_owned())));
        assert_eq!(take("query_parameters_to_remove", json!(["debug"])).unwrap().query_removed, ["debug"]);
        assert_eq!(take("request_headers_to_remove", json!(["Cookie"])).unwrap().removed, ["cookie"]);
    }

    #[test]
    fn what_would_split_or_forge_a_header_is_an_error() {
        for (member, value) in [
            ("headers", json!({"x-a": "1\r\nx-b: 2"})),
            ("headers", json!({"x-a": "caf\u{e9}"})),
            ("headers", json!({"x a": "1"})),
            ("headers", json!({":path": "/"})),
            ("headers", json!({"Host": "other"})),
            ("headers", json!({"Content-Length": "0"})),
            ("headers", json!({"X-Portcullis-Subject": "root"})),
            ("headers", json!({"x-a": 1})),
            ("headers", json!(["x-a"])),
            ("headers", json!([["x-a", "1"]])),
            ("query_parameters_to_set", json!({"a": "1&admin=1"})),
            ("query_parameters_to_set", json!({"a": "1#"})),
            ("query_parameters_to_set", json!({"a": "x y"})),
            ("query_parameters_to_set", json!({"a=b": "1"})),
            ("query_parameters_to_set", json!({"": "1"})),
            ("query_parameters_to_set", json!({"a": 1})),
            ("query_parameters_to_remove", json!("a")),
            ("query_parameters_to_remove", json!(["a&b"])),
            ("response_headers_to_add", json!({"x-a": null})),
            ("request_headers_to_remove", json!({"x-a": true})),
            ("request_headers_to_remove", json!(["Host"])),
            ("body", json!({"a": 1})),
            ("dynamic_metadata", json!([1])),
        ] {
            assert!(take(member, value.clone()).is_err(), "{member}: {value}");
        }
        assert_eq!(Reply::default().take("status", &Value::Null), Ok(false));
    }
}
