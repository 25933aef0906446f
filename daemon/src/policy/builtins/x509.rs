//! `crypto.x509.parse_certificates`: what a policy asks of a certificate, under the names that Go gives it.
//!
//! Nothing is verified: neither signature nor chain nor validity. The members are Subject, Issuer,
//! SerialNumber, NotBefore, NotAfter, Version, IsCA, DNSNames, EmailAddresses, IPAddresses, URIStrings and Raw;
//! OPA gives more.

use std::net::{Ipv4Addr, Ipv6Addr};

use base64::{Engine, engine::general_purpose::STANDARD};
use regorus::Value;

use super::{
    Answer,
    args::{object, strings, text},
    der::{self, Element, Reader, tag},
};

/// Most certificates in one call.
const MOST: usize = 100;

/// A certificate's parts (RFC 5280 §4.1), each as it stands in the bytes.
pub struct Certificate<'a> {
    raw: &'a [u8],
    version: u64,
    serial: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    not_before: Element<'a>,
    not_after: Element<'a>,
    /// The `SubjectPublicKeyInfo`, its header included.
    pub spki: &'a [u8],
    extensions: Vec<(String, &'a [u8])>,
}

impl<'a> Certificate<'a> {
    /// Reads a certificate and nothing behind it.
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        Self::first(bytes).filter(|(_, rest)| rest.is_empty()).map(|(c, _)| c)
    }

    /// Reads a certificate at the front, and gives what stands behind it.
    fn first(bytes: &'a [u8]) -> Option<(Self, &'a [u8])> {
        let mut outer = Reader::new(bytes);
        let mut certificate = Reader::new(outer.expect(tag::SEQUENCE)?);
        let rest = outer.rest();
        let raw = bytes.get(..bytes.len() - rest.len())?;
        let mut tbs = Reader::new(certificate.expect(tag::SEQUENCE)?);
        let version = match tbs.optional(0xa0) {
            Some(v) => 1 + u64::from(*Reader::new(v).expect(tag::INTEGER)?.first()?),
            None => 1,
        };
        let serial = tbs.expect(tag::INTEGER)?;
        tbs.expect(tag::SEQUENCE)?;
        let issuer = tbs.expect(tag::SEQUENCE)?;
        let mut validity = Reader::new(tbs.expect(tag::SEQUENCE)?);
        let (not_before, not_after) = (validity.next()?, validity.next()?);
        let subject = tbs.expect(tag::SEQUENCE)?;
        let before = tbs.rest();
        tbs.expect(tag::SEQUENCE)?;
        let spki = before.get(..before.len() - tbs.rest().len())?;
        let (_, _) = (tbs.optional(0x81), tbs.optional(0x82));
        let mut extensions = Vec::new();
        if let Some(list) = tbs.optional(0xa3) {
            let mut list = der::sequence(list)?;
            while let Some(extension) = list.expect(tag::SEQUENCE) {
                let mut extension = Reader::new(extension);
                let id = der::oid(extension.expect(tag::OID)?);
                extension.optional(tag::BOOLEAN);
                extensions.push((id, extension.expect(tag::OCTET_STRING)?));
            }
        }
        // The signature is not looked at, but must be there.
        certificate.expect(tag::SEQUENCE)?;
        certificate.expect(tag::BIT_STRING)?;
        let c = Self { raw, version, serial, issuer, subject, not_before, not_after, spki, extensions };
        Some((c, rest))
    }

    fn value(&self) -> Option<Value> {
        let names = self.names();
        let is_ca = self.extension("2.5.29.19").and_then(der::sequence).is_some_and(|mut basic| {
            basic.optional(tag::BOOLEAN).is_some_and(|b| b.first().is_some_and(|b| *b != 0))
        });
        Some(object([
            ("Subject", name(self.subject)?),
            ("Issuer", name(self.issuer)?),
            ("SerialNumber", number(self.serial)),
            ("Version", Value::from(self.version)),
            ("NotBefore", Value::from(time(self.not_before)?)),
            ("NotAfter", Value::from(time(self.not_after)?)),
            ("IsCA", Value::from(is_ca)),
            ("DNSNames", strings(names.dns)),
            ("EmailAddresses", strings(names.emails)),
            ("IPAddresses", strings(names.addresses)),
            ("URIStrings", strings(names.uris)),
            ("Raw", Value::from(STANDARD.encode(self.raw))),
        ]))
    }

    fn extension(&self, id: &str) -> Option<&'a [u8]> {
        self.extensions.iter().find(|(name, _)| name == id).map(|(_, content)| *content)
    }

    /// The subject's alternative names.
    fn names(&self) -> Names {
        let mut names = Names::default();
        let Some(mut list) = self.extension("2.5.29.17").and_then(der::sequence) else { return names };
        while let Some(Element { tag, content }) = list.next() {
            let text = || String::from_utf8_lossy(content).into_owned();
            match tag {
                0x81 => names.emails.push(text()),
                0x82 => names.dns.push(text()),
                0x86 => names.uris.push(text()),
                0x87 => names.addresses.extend(address(content)),
                _ => {}
            }
        }
        names
    }
}

#[derive(Default)]
struct Names {
    dns: Vec<String>,
    emails: Vec<String>,
    addresses: Vec<String>,
    uris: Vec<String>,
}

fn address(bytes: &[u8]) -> Option<String> {
    if let Ok(four) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(four).to_string());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|sixteen| Ipv6Addr::from(sixteen).to_string())
}

/// A distinguished name, as Go's `pkix.Name`.
fn name(content: &[u8]) -> Option<Value> {
    let (mut common, mut serial) = (String::new(), String::new());
    let [mut country, mut organization, mut unit, mut locality, mut province, mut street, mut postal]: [Vec<
        String,
    >;
        7] = Default::default();
    let mut sets = Reader::new(content);
    while let Some(set) = sets.expect(tag::SET) {
        let mut set = Reader::new(set);
        while let Some(pair) = set.expect(tag::SEQUENCE) {
            let mut pair = Reader::new(pair);
            let id = der::oid(pair.expect(tag::OID)?);
            let text = String::from_utf8_lossy(pair.next()?.content).into_owned();
            match id.as_str() {
                "2.5.4.3" => common = text,
                "2.5.4.5" => serial = text,
                "2.5.4.6" => country.push(text),
                "2.5.4.7" => locality.push(text),
                "2.5.4.8" => province.push(text),
                "2.5.4.9" => street.push(text),
                "2.5.4.10" => organization.push(text),
                "2.5.4.11" => unit.push(text),
                "2.5.4.17" => postal.push(text),
                _ => {}
            }
        }
    }
    Some(object([
        ("CommonName", Value::from(common)),
        ("SerialNumber", Value::from(serial)),
        ("Country", strings(country)),
        ("Organization", strings(organization)),
        ("OrganizationalUnit", strings(unit)),
        ("Locality", strings(locality)),
        ("Province", strings(province)),
        ("StreetAddress", strings(street)),
        ("PostalCode", strings(postal)),
    ]))
}

/// A big positive integer as a number.
fn number(bytes: &[u8]) -> Value {
    let mut digits = vec![0_u8];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            carry += u32::from(*digit) * 256;
            *digit = u8::try_from(carry % 10).unwrap_or(0);
            carry /= 10;
        }
        while carry > 0 {
            digits.push(u8::try_from(carry % 10).unwrap_or(0));
            carry /= 10;
        }
    }
    let text: String = digits.iter().rev().map(|d| char::from(b'0' + d)).collect();
    Value::from_json_str(&text).unwrap_or(Value::from(text))
}

/// A time as RFC 3339.
fn time(element: Element<'_>) -> Option<String> {
    let text = std::str::from_utf8(element.content).ok()?;
    let text = match element.tag {
        // Two digits: 1950 to 2049 (RFC 5280 §4.1.2.5.1).
        tag::UTC_TIME => {
            let century = if text.get(..2)?.parse::<u8>().ok()? >= 50 { "19" } else { "20" };
            format!("{century}{text}")
        }
        tag::GENERALIZED_TIME => text.to_owned(),
        _ => return None,
    };
    let digits = text.strip_suffix('Z').filter(|d| d.len() == 14 && d.bytes().all(|b| b.is_ascii_digit()))?;
    let (y, m, d) = (&digits[..4], &digits[4..6], &digits[6..8]);
    Some(format!("{y}-{m}-{d}T{}:{}:{}Z", &digits[8..10], &digits[10..12], &digits[12..]))
}

/// The first PEM block: its label, its bytes and what stands behind it.
pub fn pem(text: &str) -> Option<(String, Vec<u8>, &str)> {
    let (_, from_label) = text.split_once("-----BEGIN ")?;
    let (label, body) = from_label.split_once("-----")?;
    let end = format!("-----END {label}-----");
    let (body, rest) = body.split_once(&end)?;
    let compact: String = body.chars().filter(|c| !c.is_whitespace()).collect();
    Some((label.to_owned(), STANDARD.decode(compact).ok()?, rest))
}

/// `crypto.x509.parse_certificates(certs)`: PEM, base64 of PEM, or base64 of DER, one or more in a row.
pub fn parse_certificates(args: &[Value]) -> Answer {
    let given = text(args, 0)?;
    let decoded;
    let pems = if given.starts_with("-----BEGIN") {
        &*given
    } else {
        let bytes = STANDARD.decode(given.as_bytes()).map_err(|e| format!("illegal base64 data: {e}"))?;
        if !bytes.starts_with(b"-----BEGIN") {
            return certificates(&bytes);
        }
        decoded = String::from_utf8(bytes).map_err(|_| "PEM data contains no certificate")?;
        &decoded
    };
    let (mut rest, mut all) = (pems, Vec::new());
    while let Some((label, bytes, after)) = pem(rest) {
        if label == "CERTIFICATE" {
            all.extend(bytes);
        }
        rest = after;
    }
    certificates(&all)
}

fn certificates(mut bytes: &[u8]) -> Answer {
    let mut values = Vec::new();
    while !bytes.is_empty() {
        let (certificate, rest) = Certificate::first(bytes).ok_or("x509: malformed certificate")?;
        values.push(certificate.value().ok_or("x509: malformed certificate")?);
        bytes = rest;
        if values.len() > MOST {
            return Err(format!("more than {MOST} certificates").into());
        }
    }
    Ok(Value::from(values))
}
