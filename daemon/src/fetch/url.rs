//! Addresses that may be asked.

use std::{fmt, net::IpAddr, str::FromStr};

use http::Uri;

use super::FetchError;

/// An `http` or `https` address without credentials. It is printed without its query, which may hold secrets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Url(Uri);

impl Url {
    /// The address, for a request.
    pub(super) const fn uri(&self) -> &Uri {
        &self.0
    }

    /// Whether it is spoken to with TLS.
    pub fn is_tls(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    /// The host, without the brackets of an IPv6 address.
    pub fn host(&self) -> &str {
        host(&self.0)
    }

    /// The port, by scheme where none is written.
    pub fn port(&self) -> u16 {
        port(&self.0)
    }

    /// Its path, from the slash.
    pub fn path(&self) -> &str {
        self.0.path()
    }

    /// The same place with another path or query: how pages below a service's address are asked for.
    pub fn join(&self, path_and_query: &str) -> Result<Self, FetchError> {
        let scheme = self.0.scheme_str().unwrap_or("https");
        let authority = self.0.authority().map_or("", |a| a.as_str());
        format!("{scheme}://{authority}{path_and_query}").parse()
    }

    /// The whole text, query and all.
    pub fn whole(&self) -> String {
        self.0.to_string()
    }
}

pub(super) fn host(uri: &Uri) -> &str {
    uri.host().unwrap_or_default().trim_matches(['[', ']'])
}

pub(super) fn port(uri: &Uri) -> u16 {
    uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 })
}

impl FromStr for Url {
    type Err = FetchError;

    fn from_str(text: &str) -> Result<Self, FetchError> {
        let bad = |why: &str| FetchError::Address { why: why.to_owned() };
        if text.contains('#') {
            return Err(bad("has a fragment (`#`), which is never sent"));
        }
        let uri: Uri = text.parse().map_err(|_| bad("is not an address such as \"https://host/path\""))?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(bad("begins with neither `https://` nor `http://`"));
        }
        let authority = uri.authority().map_or("", |a| a.as_str());
        if authority.contains('@') {
            return Err(bad("holds a user or a password; give them by settings of their own"));
        }
        let port = authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'));
        if port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0)) {
            return Err(bad("has a port that is none"));
        }
        let name = host(&uri);
        let is_name = !name.is_empty()
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !is_name && name.parse::<IpAddr>().is_err() {
            return Err(bad("has no host name or IP address"));
        }
        Ok(Self(uri))
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let authority = self.0.authority().map_or("", |a| a.as_str());
        write!(f, "{}://{authority}{}", self.0.scheme_str().unwrap_or_default(), self.0.path())
    }
}
