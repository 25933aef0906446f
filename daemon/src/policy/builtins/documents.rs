//! Builtins that read and write documents.
//!
//! Regorus takes an object with one certain member for a number of any length, and multiplies it out: no text of
//! anybody else comes to it but through here.

use std::{cell::Cell, collections::BTreeMap};

use base64::{
    DecodeError, Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use regorus::Value;
use serde::de::{self, DeserializeSeed, Visitor};
use serde_json::Value as Json;

use super::{Answer, Fault, args::text, limits, native::native};

/// JSON as a policy has it.
pub fn value(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::from(b),
        Json::Number(n) => match (n.as_u64(), n.as_i64()) {
            (Some(n), _) => Value::from(n),
            (_, Some(n)) => Value::from(n),
            _ => Value::from(n.as_f64().unwrap_or_default()),
        },
        Json::String(s) => Value::from(s),
        Json::Array(items) => Value::from(items.into_iter().map(value).collect::<Vec<_>>()),
        Json::Object(members) => Value::from(
            members.into_iter().map(|(k, v)| (Value::from(k), value(v))).collect::<BTreeMap<_, _>>(),
        ),
    }
}

/// `to_number(x)`
pub fn to_number(args: &[Value]) -> Answer {
    if let Some(Value::String(text)) = args.first() {
        let number = text.starts_with(|c: char| c == '-' || c.is_ascii_digit())
            && text.ends_with(|c: char| c.is_ascii_digit());
        if !number {
            return Err("operand 1 must be valid number string".into());
        }
    }
    native("to_number", args)
}

/// `json.unmarshal(text)`
pub fn json_unmarshal(args: &[Value]) -> Answer {
    serde_json::from_str(&text(args, 0)?).map(value).map_err(|e| e.to_string().into())
}

/// `json.is_valid(text)`
#[allow(clippy::unnecessary_wraps, reason = "it has the type of all builtins")]
pub fn json_is_valid(args: &[Value]) -> Answer {
    let Ok(text) = text(args, 0) else { return Ok(Value::from(false)) };
    Ok(Value::from(serde_json::from_str::<Json>(&text).is_ok()))
}

/// `json.marshal_with_options(x, options)`
pub fn json_marshal_with_options(args: &[Value]) -> Answer {
    if let [value, Value::Object(options)] = args {
        let long = |name: &str| match options.get(&Value::from(name)) {
            Some(Value::String(s)) => s.len(),
            _ => 1,
        };
        let (indent, prefix) = (long("indent"), long("prefix"));
        limits::room(written(value, 0, indent, prefix))?;
    }
    native("json.marshal_with_options", args).map(as_go_writes)
}

/// `json.marshal(x)`
pub fn json_marshal(args: &[Value]) -> Answer {
    native("json.marshal", args).map(as_go_writes)
}

/// JSON as Go writes it for OPA: what could end an HTML element is escaped. Such characters stand in strings alone.
fn as_go_writes(json: Value) -> Value {
    match &json {
        Value::String(text) if text.contains(['<', '>', '&']) => {
            let escaped = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
            Value::from(escaped)
        }
        _ => json,
    }
}

/// Base64 as Go reads it for OPA: bits behind the last byte may be anything.
const LENIENT: GeneralPurposeConfig = GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true);
const STANDARD: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, LENIENT);
const URL: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    LENIENT.with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The bytes of a text in base64; ends of lines are read over.
fn standard(text: &str) -> Result<Vec<u8>, DecodeError> {
    STANDARD.decode(text.replace(['\r', '\n'], ""))
}

fn decoded(bytes: Result<Vec<u8>, DecodeError>) -> Answer {
    bytes.map(|b| Value::from(String::from_utf8_lossy(&b).into_owned())).map_err(|e| e.to_string().into())
}

/// `base64.decode(text)`
pub fn base64_decode(args: &[Value]) -> Answer {
    decoded(standard(&text(args, 0)?))
}

/// `base64.is_valid(text)`
#[allow(clippy::unnecessary_wraps, reason = "it has the type of all builtins")]
pub fn base64_is_valid(args: &[Value]) -> Answer {
    let Ok(text) = text(args, 0) else { return Ok(Value::from(false)) };
    Ok(Value::from(standard(&text).is_ok()))
}

/// `base64url.decode(text)`
pub fn base64url_decode(args: &[Value]) -> Answer {
    let text = text(args, 0)?;
    // Padded, or not at all.
    if text.ends_with('=') && text.len() % 4 != 0 {
        return Err("illegal base64 data".into());
    }
    decoded(URL.decode(text.as_bytes()))
}

/// About how long a value is on lines of its own.
fn written(value: &Value, depth: usize, indent: usize, prefix: usize) -> usize {
    let below = |all: &mut dyn Iterator<Item = &Value>| {
        all.fold(0_usize, |sum, v| sum.saturating_add(written(v, depth + 1, indent, prefix)))
    };
    let line = indent.saturating_mul(depth).saturating_add(prefix).saturating_mul(2).saturating_add(8);
    line.saturating_add(match value {
        Value::String(s) => s.len(),
        Value::Array(all) => below(&mut all.iter()),
        Value::Set(all) => below(&mut all.iter()),
        Value::Object(all) => below(&mut all.iter().map(|(_, v)| v)).saturating_add(
            all.iter().map(|(k, _)| if let Value::String(k) = k { k.len() } else { 8 }).sum::<usize>(),
        ),
        _ => 8,
    })
}

/// `yaml.is_valid(text)`
pub fn yaml_is_valid(args: &[Value]) -> Answer {
    let Ok(text) = text(args, 0) else { return Ok(Value::from(false)) };
    match yaml(&text) {
        Err(Fault::Failed(_)) => Ok(Value::from(false)),
        other => other.map(|_| Value::from(true)),
    }
}

/// YAML, whose aliases can make little text into much: parts are counted as they are made.
pub fn yaml(text: &str) -> Answer {
    let left = Cell::new(limits::MOST);
    let document = yaml_serde::Deserializer::from_str(text);
    Counted(&left).deserialize(document).map_err(|e| match left.get() {
        0 => Fault::Limit { wanted: limits::MOST + 1, limit: limits::MOST },
        _ => Fault::Failed(e.to_string()),
    })
}

/// A value of so many parts.
#[derive(Clone, Copy)]
struct Counted<'a>(&'a Cell<u64>);

impl Counted<'_> {
    fn one<E: de::Error>(self, value: Value) -> Result<Value, E> {
        let bytes = if let Value::String(s) = &value { s.len() / 64 } else { 0 };
        let left = self.0.get().saturating_sub(1 + u64::try_from(bytes).unwrap_or(u64::MAX));
        self.0.set(left);
        if left == 0 { Err(E::custom("it is too large")) } else { Ok(value) }
    }
}

impl<'de> DeserializeSeed<'de> for Counted<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Counted<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a document")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        self.one(v.into())
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        self.one(v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        self.one(v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        if v.is_finite() { self.one(v.into()) } else { Err(E::custom("a number that JSON has not")) }
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.one(v.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.one(Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.one(Value::Null)
    }

    fn visit_some<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        self.one(Value::Null)?;
        let mut list = Vec::new();
        while let Some(item) = all.next_element_seed(self)? {
            list.push(item);
        }
        Ok(list.into())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        self.one(Value::Null)?;
        let mut map = BTreeMap::new();
        while let Some(key) = all.next_key_seed(self)? {
            map.insert(key, all.next_value_seed(self)?);
        }
        Ok(map.into())
    }
}
