//! Builtins of regorus that take more than OPA does, or less.

use std::collections::BTreeMap;

use regorus::Value;

use super::{Answer, args::text, native::native};

/// `time.parse_rfc3339_ns(text)`: with `T` and `Z`, and no leap second.
pub fn parse_rfc3339_ns(args: &[Value]) -> Answer {
    let text = text(args, 0)?;
    let parts = (text.get(10..11), text.get(17..19));
    if parts.0 != Some("T") || parts.1.is_none_or(|seconds| seconds >= "60") || text.ends_with('z') {
        return Err(format!("cannot parse {text:?} as a time").into());
    }
    native("time.parse_rfc3339_ns", args)
}

/// `urlquery.decode(text)`
pub fn urlquery_decode(args: &[Value]) -> Answer {
    let text = text(args, 0)?;
    escapes(&text)?;
    Ok(Value::from(unescaped(&text)))
}

/// A text of a query without its escapes.
fn unescaped(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        out.push(match b {
            b'+' => b' ',
            b'%' => {
                let mut digit = || bytes.next().and_then(|d| char::from(d).to_digit(16)).unwrap_or(0);
                u8::try_from(digit() * 16 + digit()).unwrap_or_default()
            }
            b => b,
        });
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// `urlquery.decode_object(text)`
pub fn urlquery_decode_object(args: &[Value]) -> Answer {
    let text = text(args, 0)?;
    escapes(&text)?;
    if text.contains(';') {
        return Err("invalid semicolon separator in query".into());
    }
    let mut members: BTreeMap<Value, Vec<Value>> = BTreeMap::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        members.entry(unescaped(name).into()).or_default().push(unescaped(value).into());
    }
    Ok(Value::from(members.into_iter().map(|(k, v)| (k, Value::from(v))).collect::<BTreeMap<_, _>>()))
}

/// Refuses a `%` that no two hexadecimal digits follow.
fn escapes(text: &str) -> Result<(), super::Fault> {
    let hex = |part: &str| part.bytes().take(2).filter(u8::is_ascii_hexdigit).count() == 2;
    if text.split('%').skip(1).all(hex) { Ok(()) } else { Err("invalid URL escape".into()) }
}

/// `semver.is_valid(text)`
pub fn semver_is_valid(args: &[Value]) -> Answer {
    native("semver.is_valid", &args.iter().map(version).collect::<Vec<_>>())
}

/// `semver.compare(a, b)`
pub fn semver_compare(args: &[Value]) -> Answer {
    native("semver.compare", &args.iter().map(version).collect::<Vec<_>>())
}

/// A version without the `v` that may stand before it.
fn version(given: &Value) -> Value {
    match given {
        Value::String(s) => Value::from(s.strip_prefix('v').unwrap_or(s)),
        other => other.clone(),
    }
}
