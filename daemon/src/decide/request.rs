//! The attributes of a request that policies may read.

use crate::token::{Evidence, Target};

/// A request, as the gateway tells it. What stands here is part of the cache key.
#[derive(Clone, Debug, PartialEq)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, without the query.
    pub path: Path<'a>,
    /// The query, as it was sent; empty where there is none.
    pub query: &'a str,
    /// The host.
    pub host: &'a str,
    /// Allowed headers, in lower case.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The client's address.
    pub source: &'a str,
    /// Further members of the input, in a gateway's own schema: an object.
    pub foreign: Option<&'a serde_json::Value>,
    /// What it brings to prove whose its token is. No part of the cache key: verdicts on bound tokens ask it each time.
    pub evidence: Evidence<'a>,
}

impl Request<'_> {
    /// What a proof must have been made for.
    pub const fn target(&self) -> Target<'_> {
        Target { method: self.method, host: self.host, path: self.path.as_str() }
    }
}

/// A path that applications and policies might read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

impl BadPath {
    /// What a path must be, for people.
    pub const WHY: &str = "must begin with `/` and have no empty or dot segments, encoded slashes, bad escapes, controls, `\\`, `;` or `#`, which servers read differently";
}

/// A path that was checked, as it was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path<'a>(&'a str);

impl<'a> Path<'a> {
    /// Takes a path that [`segments`] takes. Nothing is allocated for one without escapes.
    pub fn new(path: &'a str) -> Result<Self, BadPath> {
        let good = match inner(path)? {
            "" => true,
            inner => inner.split('/').all(|s| if s.contains('%') { segment(s).is_ok() } else { is_plain(s) }),
        };
        if good { Ok(Self(path)) } else { Err(BadPath) }
    }

    /// The path as it was sent.
    pub const fn as_str(self) -> &'a str {
        self.0
    }

    /// Its segments, percent-decoded.
    pub fn segments(self) -> Vec<String> {
        // It was checked by the same rules: there is no other case.
        segments(self.0).unwrap_or_default()
    }
}

/// Splits a path into percent-decoded segments (RFC 3986 §3.3). Refuses what normalises to another path in
/// some servers: dot segments, empty inner segments, encoded slashes, encoded controls, backslashes, bad escapes;
/// fragments (RFC 9112 §3.2) and matrix parameters (`;`).
pub fn segments(path: &str) -> Result<Vec<String>, BadPath> {
    match inner(path)? {
        "" => Ok(Vec::new()),
        inner => inner.split('/').map(segment).collect(),
    }
}

/// What stands between the first slash and one at the end, which is common and harmless: it adds no segment.
fn inner(path: &str) -> Result<&str, BadPath> {
    // Some servers cut a fragment off, some a matrix parameter (`/secret;x`): what they serve then is another path.
    if path.contains(['#', ';']) {
        return Err(BadPath);
    }
    let rest = path.strip_prefix('/').ok_or(BadPath)?;
    // `//` is not the root.
    if rest == "/" { Err(BadPath) } else { Ok(rest.strip_suffix('/').unwrap_or(rest)) }
}

fn segment(text: &str) -> Result<String, BadPath> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(b) = rest.next() {
        if b != b'%' {
            bytes.push(b);
            continue;
        }
        let mut digit = || rest.next().and_then(|d| char::from(d).to_digit(16)).ok_or(BadPath);
        bytes.push(u8::try_from(digit()? * 16 + digit()?).map_err(|_| BadPath)?);
    }
    let decoded = String::from_utf8(bytes).map_err(|_| BadPath)?;
    if is_plain(&decoded) { Ok(decoded) } else { Err(BadPath) }
}

/// Whether every server takes a decoded segment for itself.
fn is_plain(decoded: &str) -> bool {
    let bad = decoded.is_empty()
        || decoded == "."
        || decoded == ".."
        || decoded.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    // A matrix parameter can hide a dot segment (`..;x`).
    !(bad || decoded.starts_with(".;") || decoded.starts_with("..;"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_decoded_once() {
        assert_eq!(segments("/").unwrap(), [""; 0]);
        assert_eq!(segments("/v1/orders/7").unwrap(), ["v1", "orders", "7"]);
        assert_eq!(segments("/v1/%6frders/").unwrap(), ["v1", "orders"]);
        assert_eq!(segments("/a%2520b").unwrap(), ["a%20b"]);
        for good in ["/", "/v1/orders/7", "/v1/%6frders/", "/a%2520b"] {
            assert_eq!(Path::new(good).unwrap().segments(), segments(good).unwrap());
        }
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        for bad in [
            "",
            "x",
            "/a/../b",
            "/a/./b",
            "//",
            "//a",
            "/a//b",
            "/a/%2e%2e/b",
            "/a%2fb",
            "/a%5cb",
            "/a%",
            "/a%0",
            "/a%zz",
            "/a%00",
            "/..;x/b",
            "/a%ff",
            "/a;x",
            "/a#b",
            "/a/#",
        ] {
            assert_eq!(segments(bad), Err(BadPath), "{bad}");
            assert_eq!(Path::new(bad), Err(BadPath), "{bad}");
        }
    }
}
