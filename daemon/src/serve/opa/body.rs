//! Bodies as clients send them: gzip, and YAML for JSON.

use std::{cell::Cell, io::Read as _};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, header};
use portcullis_common::reason::Reason;
use serde::de::{self, DeserializeSeed, Visitor};
use serde_json::Value;

use super::{answer::Fault, is_yaml};
use crate::policy;

/// A body as JSON, of at most `most` bytes. What would be larger is not unpacked further than that.
pub(super) fn plain(headers: &HeaderMap, body: Bytes, most: usize) -> Result<Bytes, Fault> {
    let body =
        match headers.get(header::CONTENT_ENCODING).map(|v| v.as_bytes().to_ascii_lowercase()).as_deref() {
            None | Some(b"" | b"identity") => body,
            Some(b"gzip" | b"x-gzip") => gunzip(&body, most)?,
            Some(_) => {
                return Err(Fault::parameter(
                    "the body's encoding is not one that is read here: use gzip or none",
                ));
            }
        };
    if !is_yaml(headers) || body.is_empty() {
        return Ok(body);
    }
    let malformed =
        || Fault::parameter("body contains malformed input document: it is not YAML of JSON's kind");
    let text = str::from_utf8(&body).map_err(|_| malformed())?;
    policy::check_yaml(text)
        .map_err(|what| Fault::parameter(format!("body contains malformed input document: {what}")))?;
    // Aliases can make little YAML into much JSON: parts are counted as they are made.
    let left = Cell::new(most);
    let document = yaml_serde::Deserializer::from_str(text);
    let value = Bounded(&left)
        .deserialize(document)
        .map_err(|_| if left.get() == 0 { Fault::of(Reason::RequestTooLarge) } else { malformed() })?;
    let text = value.to_string();
    if text.len() > most { Err(Fault::of(Reason::RequestTooLarge)) } else { Ok(text.into()) }
}

/// A value of at most so many parts and bytes of text, counted down.
#[derive(Clone, Copy)]
struct Bounded<'a>(&'a Cell<usize>);

impl Bounded<'_> {
    fn count<E: de::Error>(self, cost: usize) -> Result<(), E> {
        let left = self.0.get().saturating_sub(cost);
        self.0.set(left);
        if left == 0 { Err(E::custom("it is too large")) } else { Ok(()) }
    }
}

impl<'de> DeserializeSeed<'de> for Bounded<'_> {
    type Value = Value;

    fn deserialize<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Bounded<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a document of JSON's kind")
    }

    fn visit_bool<E: de::Error>(self, v: bool) -> Result<Value, E> {
        self.count(1).map(|()| v.into())
    }

    fn visit_i64<E: de::Error>(self, v: i64) -> Result<Value, E> {
        self.count(1).map(|()| v.into())
    }

    fn visit_u64<E: de::Error>(self, v: u64) -> Result<Value, E> {
        self.count(1).map(|()| v.into())
    }

    fn visit_f64<E: de::Error>(self, v: f64) -> Result<Value, E> {
        self.count(1)?;
        serde_json::Number::from_f64(v)
            .map(Value::Number)
            .ok_or_else(|| E::custom("a number that JSON has not"))
    }

    fn visit_str<E: de::Error>(self, v: &str) -> Result<Value, E> {
        self.count(1 + v.len()).map(|()| v.into())
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        self.count(1).map(|()| Value::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_some<D: de::Deserializer<'de>>(self, from: D) -> Result<Value, D::Error> {
        from.deserialize_any(self)
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        self.count(1)?;
        let mut list = Vec::new();
        while let Some(one) = all.next_element_seed(self)? {
            list.push(one);
        }
        Ok(list.into())
    }

    fn visit_map<A: de::MapAccess<'de>>(self, mut all: A) -> Result<Value, A::Error> {
        self.count(1)?;
        let mut map = serde_json::Map::new();
        while let Some(name) = all.next_key::<String>()? {
            self.count(name.len())?;
            map.insert(name, all.next_value_seed(self)?);
        }
        Ok(map.into())
    }
}

fn gunzip(body: &[u8], most: usize) -> Result<Bytes, Fault> {
    let mut text = Vec::new();
    let mut unpacked = MultiGzDecoder::new(body).take(most as u64 + 1);
    unpacked.read_to_end(&mut text).map_err(|_| Fault::parameter("the body is not gzip, or is damaged"))?;
    if text.len() > most { Err(Fault::of(Reason::RequestTooLarge)) } else { Ok(text.into()) }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use flate2::{Compression, write::GzEncoder};
    use http::HeaderValue;

    use super::*;

    fn headers(list: &[(header::HeaderName, &'static str)]) -> HeaderMap {
        list.iter().map(|(n, v)| (n.clone(), HeaderValue::from_static(v))).collect()
    }

    fn gzip(bytes: &[u8]) -> Bytes {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap().into()
    }

    #[test]
    fn gzip_and_yaml_become_json() {
        let packed = headers(&[(header::CONTENT_ENCODING, "gzip")]);
        assert_eq!(plain(&packed, gzip(b"{}"), 10).unwrap(), "{}");
        let yaml = headers(&[(header::CONTENT_TYPE, "application/x-yaml")]);
        assert_eq!(
            plain(&yaml, Bytes::from("input:\n  a: [1, x]\n"), 100).unwrap(),
            r#"{"input":{"a":[1,"x"]}}"#
        );
        assert!(plain(&headers(&[(header::CONTENT_ENCODING, "br")]), Bytes::new(), 10).is_err());
        assert!(plain(&yaml, Bytes::from("a: [1"), 100).is_err());
        // Both are text to YAML 1.2 and something else to OPA; and bytes of another encoding are not looked through.
        assert!(plain(&yaml, Bytes::from("input: {enabled: no}"), 100).is_err());
        let utf16: Vec<u8> = "\u{feff}a: no".encode_utf16().flat_map(u16::to_le_bytes).collect();
        assert!(plain(&yaml, utf16.into(), 100).is_err());
        assert!(plain(&packed, Bytes::from("not gzip"), 100).is_err());
    }

    #[test]
    fn a_bomb_is_refused_before_it_is_unpacked() {
        let packed = headers(&[(header::CONTENT_ENCODING, "gzip")]);
        let bomb = gzip(&vec![b'a'; 200 << 20]);
        assert!(bomb.len() < 2 << 20);
        let before = std::time::Instant::now();
        assert_eq!(plain(&packed, bomb, 1 << 20).unwrap_err().reason, Reason::RequestTooLarge);
        // Unpacking all of it takes longer by two orders of magnitude, and 200 MB.
        assert!(before.elapsed() < std::time::Duration::from_secs(1));
        let yaml = headers(&[(header::CONTENT_TYPE, "text/yaml")]);
        let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x,x]\n".to_owned();
        for (n, l) in ('b'..='h').enumerate() {
            let before = char::from(b'a' + u8::try_from(n).unwrap());
            let list = vec![format!("*{before}"); 10].join(",");
            laughs.extend([l.to_string(), format!(": &{l} [{list}]\n")]);
        }
        assert!(plain(&yaml, laughs.into(), 1 << 20).is_err());
        // One list said many times, which nests no deeper: 120 KiB that would be some thousand million parts.
        let wide =
            format!("x: &a [{}]\nz: [{}]\n", vec!["1"; 30_000].join(","), vec!["*a"; 20_000].join(","));
        let before = std::time::Instant::now();
        assert_eq!(plain(&yaml, wide.into(), 1 << 20).unwrap_err().reason, Reason::RequestTooLarge);
        assert!(before.elapsed() < std::time::Duration::from_secs(5));
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let yaml = headers(&[(header::CONTENT_TYPE, "text/yaml")]);
        assert!(plain(&yaml, Bytes::from("[".repeat(100_000)), 1 << 20).is_err());
    }
}
