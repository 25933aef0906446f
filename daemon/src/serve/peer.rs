//! Who asks: a gateway whose word about a client's request is taken, or somebody else.

use std::net::IpAddr;

use aws_lc_rs::digest;

/// The other end of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Peer {
    /// For policies that read the source where no header tells it; empty for a Unix socket's.
    pub address: String,
    /// Whether it is one of the gateways.
    pub is_trusted: bool,
    /// SHA-256 of the certificate that it showed and that the listener's authorities signed.
    pub certificate: Option<[u8; 32]>,
}

impl Peer {
    /// A peer at an address. Where no gateways are named, everybody is one.
    pub(super) fn at(address: IpAddr, gateways: &[(IpAddr, u8)]) -> Self {
        let is_trusted = gateways.is_empty() || gateways.iter().any(|(n, bits)| within(address, *n, *bits));
        Self { address: address.to_string(), is_trusted, certificate: None }
    }

    /// The same peer with the certificate (DER) that it showed.
    pub(super) fn with_certificate(self, der: Option<&[u8]>) -> Self {
        let digest = |der| digest::digest(&digest::SHA256, der).as_ref().try_into().ok();
        Self { certificate: der.and_then(digest), ..self }
    }

    /// One that could open a Unix socket.
    pub(super) const fn unix() -> Self {
        Self { address: String::new(), is_trusted: true, certificate: None }
    }
}

fn within(address: IpAddr, network: IpAddr, bits: u8) -> bool {
    match (address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(32 - u32::from(bits.min(32))).unwrap_or(0) == 0
        }
        (IpAddr::V6(a), IpAddr::V6(n)) => {
            (a.to_bits() ^ n.to_bits()).checked_shr(128 - u32::from(bits.min(128))).unwrap_or(0) == 0
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gateways_are_those_in_a_named_network() {
        let ip = |text: &str| text.parse::<IpAddr>().unwrap();
        let gateways = [(ip("10.1.0.0"), 16), (ip("192.0.2.7"), 32), (ip("fd00::"), 8)];
        for (address, is) in [
            ("10.1.255.1", true),
            ("10.2.0.1", false),
            ("192.0.2.7", true),
            ("192.0.2.6", false),
            ("fd12::1", true),
            ("fe80::1", false),
            ("127.0.0.1", false),
        ] {
            assert_eq!(Peer::at(ip(address), &gateways).is_trusted, is, "{address}");
        }
        assert!(Peer::at(ip("203.0.113.1"), &[]).is_trusted);
        assert!(Peer::at(ip("203.0.113.1"), &[(ip("0.0.0.0"), 0)]).is_trusted);
    }
}
