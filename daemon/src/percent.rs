//! Percent-encoding (RFC 3986, section 2.1), undone.

/// The text without its escapes; `None` where one is none, or what they stand for is not UTF-8. A plus stays one.
pub(crate) fn decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16));
        bytes.push(if b == b'%' { u8::try_from(digit()? * 16 + digit()?).ok()? } else { b });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::decoded;

    #[test]
    fn escapes_are_undone_whole_or_not_at_all() {
        assert_eq!(decoded("a%2Fb%2f+%C3%bc").as_deref(), Some("a/b/+ü"));
        for bad in ["%", "%2", "%g0", "%+1", "%ff"] {
            assert_eq!(decoded(bad), None, "{bad}");
        }
    }
}
