//! Answers: read to their end, within bounds.

use std::{io::Read as _, time::Duration};

use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{
    HeaderMap, StatusCode,
    header::{AGE, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_TYPE, ETAG},
};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;

use super::{FetchError, error::innermost};

/// A whole answer.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The address that was asked, without its query.
    pub url: String,
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body, decompressed.
    pub body: Bytes,
}

impl Answer {
    /// The answer, if its status is 2xx; else an error that names the status.
    pub fn success(self) -> Result<Self, FetchError> {
        let Self { url, status, .. } = self;
        if status.is_success() {
            Ok(Self { url, ..self })
        } else if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            Err(FetchError::Redirect { url, status })
        } else {
            Err(FetchError::Status { url, status })
        }
    }

    /// Whether what was asked for has not changed (304).
    pub fn is_unchanged(&self) -> bool {
        self.status == StatusCode::NOT_MODIFIED
    }

    /// A header that is text.
    pub fn header(&self, name: impl http::header::AsHeaderName) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// Its tag, for [`super::Request::if_none_match`].
    pub fn etag(&self) -> Option<&str> {
        self.header(ETAG)
    }

    /// The type of its body, in lower case, without parameters.
    pub fn content_type(&self) -> String {
        let text = self.header(CONTENT_TYPE).unwrap_or_default();
        text.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
    }

    /// How long it says it stays good: `max-age` less the time it already lay in caches, or 0 where it says `no-cache`
    /// or `no-store`; `None` where it says nothing.
    pub fn max_age(&self) -> Option<Duration> {
        let text = self.header(CACHE_CONTROL)?.to_ascii_lowercase();
        let mut directives = text.split(',').map(str::trim);
        if directives.clone().any(|d| matches!(d, "no-cache" | "no-store")) {
            return Some(Duration::ZERO);
        }
        let seconds =
            directives.find_map(|d| d.strip_prefix("max-age=")?.trim_matches('"').parse::<u64>().ok())?;
        let age = self.header(AGE).and_then(|age| age.parse::<u64>().ok()).unwrap_or(0);
        Some(Duration::from_secs(seconds.saturating_sub(age)))
    }
}

/// Reads a body to its end.
pub(super) async fn read(
    url: String,
    answer: http::Response<Incoming>,
    max: usize,
) -> Result<Answer, FetchError> {
    let too_long = |url: &str| FetchError::TooLong { url: url.to_owned(), max };
    let (head, body) = answer.into_parts();
    let stated = head.headers.get(CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    // Answers to `HEAD` and 304 state a length and have no body.
    let has_body = !hyper::body::Body::is_end_stream(&body);
    if has_body && stated.is_some_and(|n| n > max as u64) {
        return Err(too_long(&url));
    }
    let body = match Limited::new(body, max).collect().await {
        Ok(body) => body.to_bytes(),
        Err(e) if e.is::<LengthLimitError>() => return Err(too_long(&url)),
        Err(e) => return Err(FetchError::Protocol { why: innermost(&*e), url }),
    };
    let encoding = head
        .headers
        .get(CONTENT_ENCODING)
        .map(|v| String::from_utf8_lossy(v.as_bytes()).to_ascii_lowercase());
    let body = match encoding.as_deref() {
        None | Some("identity" | "") => body,
        Some(_) if body.is_empty() => body,
        Some("gzip" | "x-gzip") => {
            let mut out = Vec::new();
            let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
            if MultiGzDecoder::new(&body[..]).take(limit).read_to_end(&mut out).is_err() {
                return Err(FetchError::Encoding { url, encoding: "gzip".to_owned() });
            }
            if out.len() > max {
                return Err(too_long(&url));
            }
            out.into()
        }
        Some(other) => {
            let encoding = other.chars().filter(char::is_ascii_graphic).take(40).collect();
            return Err(FetchError::Encoding { url, encoding });
        }
    };
    Ok(Answer { url, status: head.status, headers: head.headers, body })
}
