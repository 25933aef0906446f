//! Bodies as clients send them: gzip, and YAML for JSON.

use std::io::Read as _;

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderMap, header};
use portcullis_common::reason::Reason;

use super::{answer::Fault, is_yaml};

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
    let value: serde_json::Value = yaml_serde::from_slice(&body).map_err(|_| malformed())?;
    let text = value.to_string();
    // Aliases can make little YAML into much JSON.
    if text.len() > most { Err(Fault::of(Reason::RequestTooLarge)) } else { Ok(text.into()) }
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
    }

    #[test]
    fn deep_nesting_is_an_error_and_no_crash() {
        let yaml = headers(&[(header::CONTENT_TYPE, "text/yaml")]);
        assert!(plain(&yaml, Bytes::from("[".repeat(100_000)), 1 << 20).is_err());
    }
}
