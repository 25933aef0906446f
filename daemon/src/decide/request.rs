//! The attributes of a request that policies may read.

use serde::Serialize;

/// A request, as the gateway tells it. What stands here is part of the cache key.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Request<'a> {
    /// The method.
    pub method: &'a str,
    /// The path, as it was sent, without the query.
    pub path: &'a str,
    /// The path's segments, percent-decoded.
    pub segments: Vec<String>,
    /// The query, as it was sent; empty where there is none.
    pub query: &'a str,
    /// The host.
    pub host: &'a str,
    /// Allowed headers, in lower case.
    pub headers: Vec<(&'a str, &'a str)>,
    /// The client's address.
    pub source: &'a str,
}

/// A path that applications and policies might read differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadPath;

/// Splits a path into percent-decoded segments (RFC 3986 §3.3). Refuses what normalises to another path in
/// some servers: dot segments, empty inner segments, encoded slashes, encoded controls, backslashes, bad escapes;
/// and a fragment, which has no place in a request (RFC 9112 §3.2) and which some servers cut off.
pub fn segments(path: &str) -> Result<Vec<String>, BadPath> {
    if path.contains('#') {
        return Err(BadPath);
    }
    let rest = path.strip_prefix('/').ok_or(BadPath)?;
    if rest.is_empty() {
        return Ok(Vec::new());
    }
    // A slash at the end is common and harmless: it adds no segment.
    rest.strip_suffix('/').unwrap_or(rest).split('/').map(segment).collect()
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
    let bad = decoded.is_empty()
        || decoded == "."
        || decoded == ".."
        || decoded.chars().any(|c| c == '/' || c == '\\' || c.is_control());
    // A matrix parameter can hide a dot segment (`..;x`).
    if bad || decoded.starts_with(".;") || decoded.starts_with("..;") { Err(BadPath) } else { Ok(decoded) }
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
    }

    #[test]
    fn paths_that_servers_read_differently_are_refused() {
        for bad in [
            "",
            "x",
            "/a/../b",
            "/a/./b",
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
            "/a#b",
            "/a/#",
        ] {
            assert_eq!(segments(bad), Err(BadPath), "{bad}");
        }
    }
}
