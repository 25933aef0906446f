//! Values of the configuration that have a form of their own.

use std::{net::IpAddr, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time, written as `30s`, `5m`, `1h 30m` or `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span(pub Duration);

impl Span {
    /// A number of seconds.
    pub const fn seconds(n: u64) -> Self {
        Self(Duration::from_secs(n))
    }
}

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        let text = String::deserialize(d)?;
        humantime::parse_duration(&text).map(Self).map_err(|_| {
            de::Error::custom(format!("`{text}` is not a length of time such as \"30s\" or \"1h\""))
        })
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&humantime::format_duration(self.0).to_string())
    }
}

/// A guarded port, at every address or at one: `8080`, `"10.0.0.5:8080"` or `"[::1]:8080"`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Port {
    /// The address, or every one.
    pub address: Option<IpAddr>,
    /// The port, not 0.
    pub port: u16,
}

impl FromStr for Port {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad =
            || format!("`{s}` is not a port from 1 to 65535, alone or behind an address (\"10.0.0.5:8080\")");
        let (address, port) = match s.parse::<std::net::SocketAddr>() {
            Ok(a) => (Some(a.ip()), a.port()),
            Err(_) => (None, s.parse::<u16>().map_err(|_| bad())?),
        };
        if port == 0 { Err(bad()) } else { Ok(Self { address, port }) }
    }
}

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(i64),
            Text(String),
        }
        let text = match Form::deserialize(d) {
            Ok(Form::Number(n)) => n.to_string(),
            Ok(Form::Text(s)) => s,
            Err(_) => {
                return Err(de::Error::custom("a port is a number or a text such as \"10.0.0.5:8080\""));
            }
        };
        text.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Port {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        match self.address {
            None => s.serialize_u16(self.port),
            Some(a) => s.serialize_str(&std::net::SocketAddr::new(a, self.port).to_string()),
        }
    }
}

/// An address, or all that begin like it: `10.0.0.5`, `10.0.0.0/8` or `2001:db8::/32`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prefix {
    /// The address.
    pub address: IpAddr,
    /// Bits of it that count.
    pub len: u8,
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let bad = || format!("`{s}` is not an address or a prefix (\"10.0.0.0/8\", \"2001:db8::/32\")");
        let (address, len) = s.split_once('/').map_or((s, None), |(a, len)| (a, Some(len)));
        let address: IpAddr = address.parse().map_err(|_| bad())?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let len = len.map_or(Ok(most), |len| len.parse::<u8>().map_err(|_| bad()))?;
        if len > most { Err(bad()) } else { Ok(Self { address, len }) }
    }
}

impl<'de> Deserialize<'de> for Prefix {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

impl Serialize for Prefix {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&format!("{}/{}", self.address, self.len))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_has_a_length_that_its_address_has_room_for() {
        let one: Prefix = "10.0.0.5".parse().unwrap();
        assert_eq!(one.len, 32);
        let many: Prefix = "2001:db8::/32".parse().unwrap();
        assert_eq!((many.address.is_ipv6(), many.len), (true, 32));
        for bad in ["10.0.0.0/33", "::/129", "10.0.0/8", "/8", "10.0.0.0/", "x"] {
            assert!(bad.parse::<Prefix>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ports_have_an_address_or_none() {
        let v6: Port = "[::1]:80".parse().unwrap();
        assert_eq!(v6, Port { address: Some("::1".parse().unwrap()), port: 80 });
        assert_eq!("8080".parse::<Port>().unwrap().address, None);
        for bad in ["0", "65536", "", "x", "10.0.0.1", "10.0.0.1:0"] {
            assert!(bad.parse::<Port>().is_err(), "{bad}");
        }
    }
}
