//! `net.cidr_*`, as OPA has them.

use std::{collections::BTreeSet, net::IpAddr};

use regorus::Value;

use super::{Answer, Fault, args::text, limits};

/// An address range: the family's width, the first address, and the number of fixed bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Net {
    width: u32,
    first: u128,
    prefix: u32,
}

impl Net {
    fn new(address: IpAddr, prefix: u32) -> Option<Self> {
        let (width, bits) = match address {
            IpAddr::V4(a) => (32, u128::from(u32::from(a))),
            IpAddr::V6(a) => (128, u128::from(a)),
        };
        let net = Self { width, first: 0, prefix };
        (prefix <= width).then(|| Self { first: bits & !net.host_mask(), ..net })
    }

    /// `address/prefix`.
    fn parse(text: &str) -> Option<Self> {
        let (address, prefix) = text.split_once('/')?;
        let digits = !prefix.is_empty() && prefix.len() <= 3 && prefix.bytes().all(|b| b.is_ascii_digit());
        let (address, prefix): (IpAddr, u32) =
            (address.parse().ok()?, prefix.parse().ok().filter(|_| digits)?);
        // `::ffff:10.0.0.0/104` is the IPv4 range 10.0.0.0/8.
        match (address.to_canonical(), prefix.checked_sub(96)) {
            (v4, Some(prefix)) if v4.is_ipv4() && address.is_ipv6() => Self::new(v4, prefix),
            _ => Self::new(address, prefix),
        }
    }

    /// An address alone, or a range.
    fn parse_any(text: &str) -> Option<Self> {
        if text.contains('/') {
            return Self::parse(text);
        }
        // `::ffff:192.0.2.1` is the IPv4 address.
        let address = text.parse::<IpAddr>().ok()?.to_canonical();
        Self::new(address, if address.is_ipv4() { 32 } else { 128 })
    }

    const fn host_mask(self) -> u128 {
        let hosts = self.width - self.prefix;
        if hosts >= 128 { u128::MAX } else { (1 << hosts) - 1 }
    }

    const fn last(self) -> u128 {
        self.first | self.host_mask()
    }

    const fn contains(self, other: Self) -> bool {
        self.width == other.width && self.first <= other.first && other.last() <= self.last()
    }

    fn address(self, bits: u128) -> IpAddr {
        match u32::try_from(bits) {
            Ok(v4) if self.width == 32 => IpAddr::V4(v4.into()),
            _ => IpAddr::V6(bits.into()),
        }
    }

    fn text(self) -> String {
        format!("{}/{}", self.address(self.first), self.prefix)
    }
}

fn cidr(text: &str) -> Result<Net, Fault> {
    Net::parse(text).ok_or_else(|| format!("invalid CIDR address: {text}").into())
}

fn cidr_or_address(text: &str) -> Result<Net, Fault> {
    Net::parse_any(text)
        .ok_or_else(|| format!("not a valid textual representation of an IP address or CIDR: {text}").into())
}

/// `net.cidr_contains(cidr, cidr_or_ip)`
pub fn cidr_contains(args: &[Value]) -> Answer {
    Ok(Value::from(cidr(&text(args, 0)?)?.contains(cidr_or_address(&text(args, 1)?)?)))
}

/// `net.cidr_intersects(cidr1, cidr2)`
pub fn cidr_intersects(args: &[Value]) -> Answer {
    let (a, b) = (cidr(&text(args, 0)?)?, cidr(&text(args, 1)?)?);
    Ok(Value::from(a.contains(b) || b.contains(a)))
}

/// `net.cidr_is_valid(cidr)`
#[allow(clippy::unnecessary_wraps, reason = "it has the type of all builtins")]
pub fn cidr_is_valid(args: &[Value]) -> Answer {
    Ok(Value::from(matches!(args.first(), Some(Value::String(s)) if Net::parse(s).is_some())))
}

/// `net.cidr_expand(cidr)`
pub fn cidr_expand(args: &[Value]) -> Answer {
    let net = cidr(&text(args, 0)?)?;
    limits::within(u64::try_from(net.host_mask()).unwrap_or(u64::MAX).saturating_add(1))?;
    let addresses = (net.first..=net.last()).map(|bits| Value::from(net.address(bits).to_string()));
    Ok(Value::from(addresses.collect::<BTreeSet<_>>()))
}

/// Pairs that are compared, at most: some ten milliseconds.
const COMPARED: u64 = 1 << 20;

/// `net.cidr_contains_matches(cidrs, cidrs_or_ips)`
pub fn cidr_contains_matches(args: &[Value]) -> Answer {
    let ranges = keyed(args, 0, cidr)?;
    let inside = keyed(args, 1, cidr_or_address)?;
    limits::work(ranges.len().saturating_mul(inside.len()), COMPARED)?;
    let mut matches = BTreeSet::new();
    for (key, range) in &ranges {
        for (other, net) in &inside {
            if range.contains(*net) {
                matches.insert(Value::from(vec![key.clone(), other.clone()]));
            }
        }
        limits::within(matches.len() as u64)?;
    }
    Ok(Value::from(matches))
}

/// The ranges of an argument, each with what names it in the answer: itself, its index or its key.
fn keyed(
    args: &[Value],
    n: usize,
    parse: impl Fn(&str) -> Result<Net, Fault>,
) -> Result<Vec<(Value, Net)>, Fault> {
    let element = |v: &Value| match v {
        Value::String(s) => parse(s),
        Value::Array(a) => match a.iter().next() {
            Some(Value::String(s)) => parse(s),
            _ => Err(format!("operand {}: element must be string or non-empty array", n + 1).into()),
        },
        _ => Err(format!("operand {}: element must be string or non-empty array", n + 1).into()),
    };
    match args.get(n) {
        Some(v @ Value::String(s)) => Ok(vec![(v.clone(), parse(s)?)]),
        Some(Value::Array(a)) => {
            a.iter().enumerate().map(|(i, v)| Ok((Value::from(i), element(v)?))).collect()
        }
        Some(Value::Set(s)) => s.iter().map(|v| Ok((v.clone(), element(v)?))).collect(),
        Some(Value::Object(o)) => o.iter().map(|(k, v)| Ok((k.clone(), element(v)?))).collect(),
        _ => Err(format!("operand {} must be one of string, array, set, object", n + 1).into()),
    }
}

/// `net.cidr_merge(addresses)`: the fewest ranges that hold the same addresses.
pub fn cidr_merge(args: &[Value]) -> Answer {
    let items: Vec<&Value> = match args.first() {
        Some(Value::Array(a)) => a.iter().collect(),
        Some(Value::Set(s)) => s.iter().collect(),
        _ => return Err("operand 1 must be an array or set".into()),
    };
    let mut nets = Vec::with_capacity(items.len());
    for item in items {
        let text = item.as_string().map_err(|_| "element must be string")?;
        nets.push(mergeable(text)?);
    }
    nets.sort_unstable();
    let mut merged: Vec<Net> = Vec::new();
    for net in nets {
        if merged.last().is_some_and(|last| last.contains(net)) {
            continue;
        }
        merged.push(net);
        // Two halves are one range, which may again be a half.
        while let [.., a, b] = merged[..] {
            let joined = Net { prefix: a.prefix.saturating_sub(1), ..a };
            let halves = a.prefix == b.prefix && a.prefix > 0 && a.first & joined.host_mask() == 0;
            if !(halves && joined.contains(b)) {
                break;
            }
            merged.truncate(merged.len() - 2);
            merged.push(joined);
        }
    }
    Ok(Value::from(merged.into_iter().map(|n| Value::from(n.text())).collect::<BTreeSet<_>>()))
}

/// A range, or an IPv4 address, which stands for its old class as in OPA.
fn mergeable(text: &str) -> Result<Net, Fault> {
    if text.contains('/') {
        return cidr(text);
    }
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V4(a)) => {
            let prefix = match a.octets()[0] {
                0..=127 => 8,
                128..=191 => 16,
                _ => 24,
            };
            Net::new(a.into(), prefix).ok_or_else(|| "invalid address".into())
        }
        Ok(IpAddr::V6(_)) => Err("IPv6 invalid: needs prefix length".into()),
        Err(_) => Err(format!("invalid IP address or CIDR: {text}").into()),
    }
}
