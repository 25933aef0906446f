//! Finding the one credential of a request in its headers.
//!
//! Every request that this module finds a token in, the kernel's scanner (`portcullis_common::head`) reads
//! the same token in. What the scanner reads more leniently than RFC 9110 (several credentials, commas,
//! tabs behind the scheme) is refused here, so a request is either read the same by both or denied.

use portcullis_common::reason::Reason;

use super::Presented;

/// Where a request's token may stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Extraction {
    /// `Authorization` schemes that carry a token, in any letter case.
    pub schemes: Vec<String>,
    /// Headers whose whole value is a token, in any letter case.
    pub key_headers: Vec<String>,
    /// Longest token taken, in bytes.
    pub max_bytes: usize,
}

impl Default for Extraction {
    fn default() -> Self {
        Self {
            schemes: vec!["Bearer".into(), "DPoP".into()],
            key_headers: vec!["X-Api-Key".into()],
            max_bytes: portcullis_common::head::MAX_TOKEN as usize,
        }
    }
}

impl Extraction {
    /// The request's token, `None` where it carries none (an unknown scheme such as `Basic` is none).
    ///
    /// Refused as [`Reason::TokenMalformed`]: a header of interest given twice, credentials of two kinds,
    /// and a credential not shaped as `scheme SP token`; as [`Reason::TokenTooLong`]: a token over the limit.
    pub fn from_headers<'a>(
        &self,
        headers: impl Iterator<Item = (&'a str, &'a [u8])>,
    ) -> Result<Option<Presented<'a>>, Reason> {
        let mut found = None;
        let mut authorization_seen = false;
        let mut keys_seen = vec![false; self.key_headers.len()];
        for (name, value) in headers {
            let token = if name.eq_ignore_ascii_case("authorization") {
                first_time(&mut authorization_seen)?;
                self.credentials(trim(value))?
            } else if let Some(i) = self.key_headers.iter().position(|h| h.eq_ignore_ascii_case(name)) {
                first_time(&mut keys_seen[i])?;
                let value = trim(value);
                if value.is_empty() { None } else { Some(self.token(value, false)?) }
            } else {
                None
            };
            if token.is_some() && found.is_some() {
                return Err(Reason::TokenMalformed);
            }
            found = token.or(found);
        }
        Ok(found)
    }

    /// Whether a value of `Authorization` brings its token by another scheme than `DPoP`, where that is taken too.
    pub fn is_other_scheme(&self, authorization: &str) -> bool {
        let is_dpop = |scheme: &str| scheme.eq_ignore_ascii_case("DPoP");
        let scheme =
            authorization.trim_start_matches([' ', '\t']).split([' ', '\t']).next().unwrap_or_default();
        self.schemes.iter().any(|s| is_dpop(s))
            && !is_dpop(scheme)
            && self.schemes.iter().any(|s| s.eq_ignore_ascii_case(scheme))
    }

    /// Reads `scheme SP+ token`.
    fn credentials<'a>(&self, value: &'a [u8]) -> Result<Option<Presented<'a>>, Reason> {
        if value.is_empty() {
            return Ok(None);
        }
        let end = value.iter().position(|b| matches!(b, b' ' | b'\t')).unwrap_or(value.len());
        let (scheme, rest) = value.split_at(end);
        if !scheme.iter().copied().all(is_scheme_byte) {
            return Err(Reason::TokenMalformed);
        }
        if !self.schemes.iter().any(|s| s.as_bytes().eq_ignore_ascii_case(scheme)) {
            return Ok(None);
        }
        let spaces = rest.iter().take_while(|b| **b == b' ').count();
        self.token(&rest[spaces..], true).map(Some)
    }

    /// Takes a trimmed text for a token where it is visible ASCII alone.
    fn token<'a>(&self, text: &'a [u8], in_authorization: bool) -> Result<Presented<'a>, Reason> {
        let fits = |b: &u8| b.is_ascii_graphic() && !(in_authorization && *b == b',');
        if text.is_empty() || !text.iter().all(fits) {
            return Err(Reason::TokenMalformed);
        }
        if text.len() > self.max_bytes {
            return Err(Reason::TokenTooLong);
        }
        str::from_utf8(text).map(Presented::new).map_err(|_| Reason::TokenMalformed)
    }
}

/// Marks a header as seen; servers differ on which of two they read, so a second one is refused.
fn first_time(seen: &mut bool) -> Result<(), Reason> {
    if std::mem::replace(seen, true) { Err(Reason::TokenMalformed) } else { Ok(()) }
}

/// Strips the optional white space of RFC 9110 §5.6.3.
fn trim(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

/// The characters of an RFC 9110 §5.6.2 token, of which a scheme is made.
const fn is_scheme_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric()
        || matches!(b, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(headers: &[(&str, &str)]) -> Result<Option<String>, Reason> {
        Extraction { max_bytes: 12, ..Extraction::default() }
            .from_headers(headers.iter().map(|(n, v)| (*n, v.as_bytes())))
            .map(|t| t.map(|t| t.to_token().as_str().to_owned()))
    }

    #[test]
    fn a_token_is_found_in_any_letter_case_and_white_space() {
        for (name, value) in [
            ("authorization", "Bearer abc.def"),
            ("AUTHORIZATION", "bEARER   abc.def \t"),
            ("Authorization", " \tdpop abc.def"),
            ("x-api-key", "abc.def"),
            ("X-API-KEY", "\t abc.def  "),
        ] {
            assert_eq!(read(&[("host", "a"), (name, value)]), Ok(Some("abc.def".into())), "{name}: {value}");
        }
        assert_eq!(read(&[("x-api-key", "a,b")]), Ok(Some("a,b".into())));
    }

    #[test]
    fn a_token_may_come_by_another_scheme_than_dpop() {
        let both = Extraction::default();
        let is = |of: &Extraction, list: [&str; 5]| list.map(|value| of.is_other_scheme(value));
        let values = ["Bearer t", " bearer t", "dpop t", "Basic t", ""];
        assert_eq!(is(&both, values), [true, true, false, false, false]);
        let alone = Extraction { schemes: vec!["Bearer".into()], ..Extraction::default() };
        assert_eq!(is(&alone, values), [false; 5]);
    }

    #[test]
    fn other_schemes_and_empty_values_are_no_token() {
        for headers in [
            &[][..],
            &[("authorization", "Basic dXNlcjpwYXNz")],
            &[("authorization", "Digest username=\"a\", realm=\"b\"")],
            &[("authorization", "  ")],
            &[("x-api-key", "")],
            &[("cookie", "Bearer abc")],
        ] {
            assert_eq!(read(headers), Ok(None), "{headers:?}");
        }
    }

    #[test]
    fn an_api_key_beside_a_basic_credential_is_the_token() {
        assert_eq!(read(&[("authorization", "Basic YQ"), ("x-api-key", "k")]), Ok(Some("k".into())));
    }

    #[test]
    fn what_parsers_read_differently_is_refused() {
        for headers in [
            &[("authorization", "Bearer a"), ("Authorization", "Bearer a")][..],
            &[("authorization", "Basic YQ"), ("authorization", "Bearer a")],
            &[("authorization", "Bearer a"), ("x-api-key", "b")],
            &[("x-api-key", "a"), ("x-api-key", "")],
            &[("authorization", "Bearer")],
            &[("authorization", "Bearer a b")],
            &[("authorization", "Bearer a, Bearer b")],
            &[("authorization", "Bearer a,b")],
            &[("authorization", ", Bearer a")],
            &[("authorization", "Bearer\ta")],
            &[("authorization", "Bearer \ta")],
            &[("authorization", "Bearer a\u{1}")],
            &[("authorization", "Bearer é")],
            &[("authorization", "B\u{1}earer a")],
            &[("x-api-key", "a b")],
            &[("x-api-key", "a\u{7f}")],
        ] {
            assert_eq!(read(headers), Err(Reason::TokenMalformed), "{headers:?}");
        }
    }

    #[test]
    fn a_token_over_the_limit_is_refused() {
        assert_eq!(read(&[("authorization", "Bearer 123456789012")]), Ok(Some("123456789012".into())));
        assert_eq!(read(&[("authorization", "Bearer 1234567890123")]), Err(Reason::TokenTooLong));
        assert_eq!(read(&[("x-api-key", "1234567890123")]), Err(Reason::TokenTooLong));
    }

    #[test]
    fn a_token_is_not_printed() {
        let presented = Presented::new("secret");
        assert_eq!(format!("{presented:?} {:?}", presented.to_token()), "Presented(…) Token(…)");
    }
}
