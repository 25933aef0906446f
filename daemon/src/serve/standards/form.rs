//! Forms (`application/x-www-form-urlencoded`), read strictly: no parameter twice, no byte that is no text.

use http::{HeaderMap, header};
use zeroize::Zeroizing;

/// A form's parameters. Their values may be secrets: they are wiped, and cannot be printed.
pub(super) struct Form(Vec<(String, Zeroizing<String>)>);

/// Whether a body is said to be a form.
pub(super) fn is_form(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
    kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/x-www-form-urlencoded"))
}

impl Form {
    /// Reads a body; `None` where it is none, or gives a parameter twice (RFC 6749 §3.1).
    pub fn read(body: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(body).ok()?;
        let mut all: Vec<(String, Zeroizing<String>)> = Vec::new();
        for pair in text.split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let name = String::clone(&*decode(name)?);
            if all.iter().any(|(n, _)| *n == name) || all.len() >= 32 {
                return None;
            }
            all.push((name, decode(value)?));
        }
        Some(Self(all))
    }

    /// A parameter; one without a value counts as absent.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, v)| v.as_str())
    }
}

/// Undoes form encoding.
pub(super) fn decode(text: &str) -> Option<Zeroizing<String>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(text.len()));
    let mut rest = text.as_bytes();
    while let Some((first, behind)) = rest.split_first() {
        rest = behind;
        match first {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, behind) = rest.split_at_checked(2)?;
                bytes.extend(crate::hex::decode(std::str::from_utf8(digits).ok()?)?);
                rest = behind;
            }
            other => bytes.push(*other),
        }
    }
    std::str::from_utf8(&bytes).ok().map(|t| Zeroizing::new(t.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_read_as_browsers_write_them_and_nothing_else_is_one() {
        let form = Form::read(b"token=a%2Bb+c&hint=&x").unwrap();
        assert_eq!((form.get("token"), form.get("hint"), form.get("x")), (Some("a+b c"), None, None));
        for bad in [&b"a=1&a=2"[..], b"a=%", b"a=%g0", b"a=%ff", b"\xff=1", b"a=1&%61=2"] {
            assert!(Form::read(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
        assert!(Form::read(b"").is_some());
    }
}
