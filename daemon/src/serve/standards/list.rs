//! The status list of API keys, for whoever wants to know which of them are good. It says nothing of whose they are.

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use hyper::body::Incoming;

use super::{
    super::doors::{Answer, json, plain},
    Standards, only,
};

/// Where the list is.
pub(super) const LIST: &str = "/statuslists/api-keys";
/// Where its keys are.
pub(super) const KEYS: &str = "/statuslists/jwks.json";

/// In which form it is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Jwt,
    Cwt,
}

impl Form {
    const fn media_type(self) -> &'static str {
        match self {
            Self::Jwt => "application/statuslist+jwt",
            Self::Cwt => "application/statuslist+cwt",
        }
    }

    /// The form that a client likes best; `None` where it takes neither.
    fn wanted(headers: &HeaderMap) -> Option<Self> {
        let mut all = headers.get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).peekable();
        if all.peek().is_none() {
            return Some(Self::Jwt);
        }
        let ranges: Vec<&str> = all.flat_map(|v| v.split(',')).map(str::trim).collect();
        // The most exact range counts (RFC 9110 §12.5.1).
        let liked = |form: Self| {
            let quality = |range: &&&str| {
                let mut parts = range.split(';').map(str::trim);
                parts.next();
                parts.find_map(|p| p.strip_prefix("q=")?.parse::<f32>().ok()).unwrap_or(1.0)
            };
            [form.media_type(), "application/*", "*/*"].iter().find_map(|name| {
                let fits =
                    |r: &&&str| r.split(';').next().is_some_and(|n| n.trim().eq_ignore_ascii_case(name));
                ranges.iter().find(fits).map(|r| quality(&r))
            })
        };
        let (jwt, cwt) = (liked(Self::Jwt).unwrap_or(0.0), liked(Self::Cwt).unwrap_or(0.0));
        if jwt <= 0.0 && cwt <= 0.0 {
            None
        } else if cwt > jwt {
            Some(Self::Cwt)
        } else {
            Some(Self::Jwt)
        }
    }
}

impl Standards {
    pub(super) fn list(&self, request: &Request<Incoming>) -> Answer {
        let Some(publisher) = &self.publisher else { return plain(StatusCode::NOT_FOUND) };
        if !matches!(*request.method(), Method::GET | Method::HEAD) {
            return only("GET, HEAD");
        }
        if request.uri().path() == KEYS {
            let mut answer = json(StatusCode::OK, publisher.jwks().into());
            cached(&mut answer, publisher.ttl());
            return answer;
        }
        // How it was at some other time is not known any more.
        let query = request.uri().query().unwrap_or_default();
        if query.split('&').any(|p| p == "time" || p.starts_with("time=")) {
            return plain(StatusCode::NOT_IMPLEMENTED);
        }
        let Some(form) = Form::wanted(request.headers()) else { return plain(StatusCode::NOT_ACCEPTABLE) };
        let now = self.clock.wall().seconds();
        let revoked = |k: &crate::token::ApiKey| {
            k.fingerprint().is_some_and(|(f, _)| self.decider.is_revoked_itself(f))
        };
        let published = match publisher.current(now, revoked) {
            Ok(published) => published,
            Err(e) => {
                tracing::error!(error = %e, "the status list of API keys cannot be published");
                return plain(StatusCode::SERVICE_UNAVAILABLE);
            }
        };
        let tag = format!("\"{}-{}\"", published.tag, if form == Form::Jwt { "j" } else { "c" });
        let known =
            request.headers().get(header::IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or_default();
        let mut answer = if known.split(',').any(|k| k.trim() == tag) {
            plain(StatusCode::NOT_MODIFIED)
        } else {
            let body: Bytes = match form {
                Form::Jwt => published.jwt.clone().into(),
                Form::Cwt => published.cwt.clone().into(),
            };
            let mut answer = json(StatusCode::OK, body);
            answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(form.media_type()));
            answer
        };
        cached(&mut answer, publisher.ttl().min(published.expires_at.saturating_sub(now)));
        let headers = answer.headers_mut();
        headers.insert(header::VARY, HeaderValue::from_static("accept"));
        if let Ok(tag) = HeaderValue::from_str(&tag) {
            headers.insert(header::ETAG, tag);
        }
        answer
    }
}

/// Anybody may keep it for so long, and read it in a browser.
fn cached(answer: &mut Answer, seconds: i64) {
    let headers = answer.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&format!("public, max-age={}", seconds.max(0))) {
        headers.insert(header::CACHE_CONTROL, value);
    }
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, HeaderValue::from_static("*"));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_the_one_that_is_liked_best() {
        let wanted = |accept: &str| {
            let mut headers = HeaderMap::new();
            if !accept.is_empty() {
                headers.insert(header::ACCEPT, accept.parse().unwrap());
            }
            Form::wanted(&headers)
        };
        let (jwt, cwt) = (Some(Form::Jwt), Some(Form::Cwt));
        for (accept, form) in [
            ("", jwt),
            ("*/*", jwt),
            ("application/*;q=0.1", jwt),
            ("application/statuslist+jwt", jwt),
            ("application/statuslist+cwt", cwt),
            ("Application/StatusList+CWT", cwt),
            ("application/statuslist+jwt;q=0.5, application/statuslist+cwt", cwt),
            ("application/statuslist+jwt, application/statuslist+cwt;q=0.9", jwt),
            ("application/statuslist+jwt;q=0, */*", cwt),
            ("text/html", None),
            ("application/json, text/*;q=0.5", None),
            ("*/*;q=0", None),
        ] {
            assert_eq!(wanted(accept), form, "{accept}");
        }
    }
}
