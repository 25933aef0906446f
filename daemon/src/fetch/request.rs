//! What is asked, and how much it may cost.

use std::{
    fmt,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{
    HeaderMap, HeaderName, HeaderValue, Method,
    header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, IF_NONE_MATCH},
};
use thiserror::Error;
use zeroize::Zeroizing;

use super::{FetchError, Url};

/// A password or token for a server that is asked. Never printed, wiped when dropped.
#[derive(Clone)]
pub struct Secret(Zeroizing<String>);

impl Secret {
    /// Takes a text for a secret.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads one from a file of one line that others may not read.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        one_line(path, str::trim).map(|text| Self::new(text.to_string()))
    }

    fn expose(&self) -> &str {
        &self.0
    }
}

/// The text of a file of one line that others may not read; `trim` takes off what does not belong to it.
pub fn one_line(path: &Path, trim: impl Fn(&str) -> &str) -> Result<Zeroizing<String>, SecretError> {
    let unreadable = |source| SecretError::Unreadable { path: path.to_owned(), source };
    let mode = std::fs::metadata(path).map_err(unreadable)?.permissions().mode();
    if mode & 0o007 != 0 {
        return Err(SecretError::Open { path: path.to_owned() });
    }
    let text = Zeroizing::new(std::fs::read_to_string(path).map_err(unreadable)?);
    let secret = trim(&text);
    if secret.is_empty() || secret.contains(char::is_control) {
        return Err(SecretError::NotOneLine { path: path.to_owned() });
    }
    Ok(Zeroizing::new(secret.to_owned()))
}

/// Why a secret's file is not used.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum SecretError {
    #[error("the secret file `{path}` cannot be read: {source}")]
    Unreadable { path: PathBuf, source: std::io::Error },
    #[error("everybody on this host may use the secret file `{path}`: run `chmod o=` on it")]
    Open { path: PathBuf },
    #[error("the secret file `{path}` does not hold one line of text")]
    NotOneLine { path: PathBuf },
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// What a request may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Time from the first step to the last byte of the body.
    pub deadline: Duration,
    /// Longest body, as sent and as decompressed.
    pub max_body: usize,
}

/// One request.
#[derive(Clone)]
pub struct Request {
    pub(super) method: Method,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    /// What could not be put into it; told when it is sent.
    pub(super) fault: Option<String>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("method", &self.method)
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Request {
    /// A request by any method, without a body. Compressed answers are accepted.
    pub fn new(method: Method, url: Url) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        Self { method, url, headers, body: Bytes::new(), fault: None }
    }

    /// `GET`.
    pub fn get(url: Url) -> Self {
        Self::new(Method::GET, url)
    }

    /// `POST` of a form (`application/x-www-form-urlencoded`).
    pub fn form(url: Url, fields: &[(&str, &str)]) -> Self {
        let mut text = Zeroizing::new(String::new());
        for (name, value) in fields {
            if !text.is_empty() {
                text.push('&');
            }
            encode(&mut text, name);
            text.push('=');
            encode(&mut text, value);
        }
        let body = Bytes::copy_from_slice(text.as_bytes());
        Self::new(Method::POST, url).body("application/x-www-form-urlencoded", body)
    }

    /// With a body.
    #[must_use]
    pub fn body(self, content_type: &str, body: Bytes) -> Self {
        let mut this = self.header(CONTENT_TYPE, content_type);
        this.body = body;
        this
    }

    /// With a body whose type a header says, if anything does.
    #[must_use]
    pub fn with_body(mut self, body: Bytes) -> Self {
        self.body = body;
        self
    }

    /// With a header, in place of an earlier one of this name.
    #[must_use]
    pub fn header(self, name: HeaderName, value: &str) -> Self {
        self.insert(name, value, false)
    }

    /// Answered with 304 where what lies there still has this tag.
    #[must_use]
    pub fn if_none_match(self, etag: Option<&str>) -> Self {
        match etag {
            Some(etag) => self.header(IF_NONE_MATCH, etag),
            None => self,
        }
    }

    /// With `Authorization: Bearer`.
    #[must_use]
    pub fn bearer(self, token: &Secret) -> Self {
        let value = Zeroizing::new(format!("Bearer {}", token.expose()));
        self.insert(AUTHORIZATION, &value, true)
    }

    /// With `Authorization: Basic`, as RFC 7617 has it.
    #[must_use]
    pub fn basic(self, user: &str, password: &Secret) -> Self {
        let pair = Zeroizing::new(format!("{user}:{}", password.expose()));
        let value = Zeroizing::new(format!("Basic {}", &*Zeroizing::new(STANDARD.encode(pair.as_bytes()))));
        self.insert(AUTHORIZATION, &value, true)
    }

    /// With `Authorization: Basic` as OAuth clients have it (RFC 6749 §2.3.1): both parts are form-encoded first.
    #[must_use]
    pub fn oauth_client(self, id: &str, secret: &Secret) -> Self {
        let (mut user, mut password) = (String::new(), Zeroizing::new(String::new()));
        encode(&mut user, id);
        encode(&mut password, secret.expose());
        let password = Secret(password);
        self.basic(&user, &password)
    }

    fn insert(mut self, name: HeaderName, value: &str, secret: bool) -> Self {
        match HeaderValue::from_str(value) {
            Ok(mut value) => {
                value.set_sensitive(secret);
                self.headers.insert(name, value);
            }
            Err(_) => {
                self.fault =
                    Some(format!("the value of its header `{name}` has characters that no header may have"));
            }
        }
        self
    }

    pub(super) fn built(self) -> Result<http::Request<http_body_util::Full<Bytes>>, FetchError> {
        let url = self.url.to_string();
        if let Some(why) = self.fault {
            return Err(FetchError::Request { url, why });
        }
        let mut request = http::Request::new(http_body_util::Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = self.url.uri().clone();
        *request.headers_mut() = self.headers;
        Ok(request)
    }
}

/// Form encoding: what may stay, the space as `+`, all else in hex.
fn encode(out: &mut String, text: &str) {
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => out.push(byte.into()),
            b' ' => out.push('+'),
            _ => {
                const HEX: &[u8; 16] = b"0123456789ABCDEF";
                out.push('%');
                out.push(HEX[usize::from(byte >> 4)].into());
                out.push(HEX[usize::from(byte & 15)].into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_are_encoded_and_credentials_are_not_printed() {
        let url: Url = "https://h/x?key=1".parse().unwrap();
        let form = Request::form(url.clone(), &[("token", "a+b/c=&\u{e9}"), ("hint", "x y")]);
        assert_eq!(&form.body[..], b"token=a%2Bb%2Fc%3D%26%C3%A9&hint=x+y");
        let signed = Request::get(url).oauth_client("id:1", &Secret::new("s%".into()));
        assert_eq!(signed.headers[AUTHORIZATION], format!("Basic {}", STANDARD.encode("id%3A1:s%25")));
        let printed = format!("{signed:?} {:?} {:?}", signed.headers, Secret::new("hush".into()));
        assert!(!printed.contains("Basic") && !printed.contains("hush"), "{printed}");
    }

    #[test]
    fn a_secrets_file_is_one_line_that_others_may_not_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("secret");
        let read = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            Secret::read(&path).map(|s| s.expose().to_owned()).map_err(|e| e.to_string())
        };
        assert_eq!(read("sesame\n", 0o640).as_deref(), Ok("sesame"));
        for (text, mode, why) in
            [("sesame", 0o644, "run `chmod o=` on it"), ("", 0o600, "one line"), ("a\nb", 0o600, "one line")]
        {
            let e = read(text, mode).unwrap_err();
            assert!(e.contains(why) && !e.contains("sesame"), "{e}");
        }
        assert!(Secret::read(&dir.path().join("none")).unwrap_err().to_string().contains("cannot be read"));
    }

    #[test]
    fn what_no_header_may_hold_is_a_fault_without_its_text() {
        let url: Url = "https://h/".parse().unwrap();
        let e = Request::get(url).bearer(&Secret::new("a\r\nb: hush".into())).built().unwrap_err();
        assert!(e.to_string().contains("`authorization`") && !e.to_string().contains("hush"), "{e}");
    }
}
