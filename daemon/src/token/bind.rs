//! Tokens that are bound to their sender: a key that signs a proof (DPoP, RFC 9449), or the certificate of a TLS
//! connection that a trusted gateway tells (RFC 8705).
//!
//! Guarantees: a token with `cnf` counts only with a request that proves each thing `cnf` names; what this daemon does not
//! know how to prove is not proved. A proof counts once.
//!
//! Leaves to others: whether a token must be bound (its issuer's rules, and policies), and keeping clients from writing
//! the certificate's header themselves (the gateway).

use std::sync::Arc;

use aws_lc_rs::digest;
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

use super::{FingerprintKey, dpop::Proofs};
use crate::percent;

/// What a token's sender must prove to have: its `cnf` (RFC 7800).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Confirmation {
    /// A key, by its thumbprint (RFC 7638).
    pub(super) key: Option<[u8; 32]>,
    /// A certificate, by its SHA-256.
    pub(super) certificate: Option<[u8; 32]>,
    /// Something else, which cannot be proved here.
    other: bool,
}

/// How a gateway tells a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CertificateFormat {
    /// Envoy's `x-forwarded-client-cert`, its last element.
    Xfcc,
    /// PEM, percent-encoded: nginx's `$ssl_client_escaped_cert`.
    Pem,
    /// The certificate's SHA-256, in hex (with or without colons) or base64url.
    Thumbprint,
}

/// How proofs are judged.
#[derive(Clone, Debug)]
pub struct BindingSettings {
    /// How the certificate's header is read.
    pub certificate: CertificateFormat,
    /// Longest age of a DPoP proof, in seconds.
    pub proof_age: i64,
    /// Clock skew borne, in seconds.
    pub leeway: i64,
    /// Whether proofs for `http` addresses count.
    pub plain_http: bool,
    /// Proofs remembered at once.
    pub proofs: usize,
}

impl Default for BindingSettings {
    fn default() -> Self {
        let certificate = CertificateFormat::Xfcc;
        Self { certificate, proof_age: 60, leeway: 5, plain_http: false, proofs: 100_000 }
    }
}

/// A header that may stand there once.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Once<'a> {
    /// It is not there.
    #[default]
    None,
    /// Its value.
    One(&'a str),
    /// It is there more than once, or is no text.
    Bad,
}

/// What a request brings to prove whose it is. It is no part of a cache key: what rests on it is asked each time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// The `DPoP` header.
    pub dpop: Once<'a>,
    /// The header in which the gateway tells the client's certificate.
    pub certificate: Once<'a>,
    /// Whether the token came by another scheme than `DPoP`, where that scheme is taken too: then one that is bound to a
    /// key counts by no proof (RFC 9449 §7.2), for whoever reads `Bearer` alone would take it without.
    pub by_other_scheme: bool,
}

/// What a proof must have been made for.
#[derive(Clone, Copy, Debug, Default)]
pub struct Target<'a> {
    /// The method.
    pub method: &'a str,
    /// Host and port, as the client wrote them.
    pub host: &'a str,
    /// The path, without the query.
    pub path: &'a str,
}

/// Judges proofs, and remembers them.
pub struct Binder {
    settings: BindingSettings,
    proofs: Proofs,
}

impl Confirmation {
    /// Reads `cnf`; `None` where the token has none.
    pub(super) fn read(claims: &Map<String, Value>) -> Result<Option<Arc<Self>>, Reason> {
        let cnf = match claims.get("cnf") {
            None => return Ok(None),
            Some(Value::Object(cnf)) if !cnf.is_empty() => cnf,
            Some(_) => return Err(Reason::ClaimsInvalid),
        };
        let thumbprint = |name: &str| match cnf.get(name) {
            None => Ok(None),
            Some(value) => value.as_str().and_then(thumbprint).map(Some).ok_or(Reason::ClaimsInvalid),
        };
        let (key, certificate) = (thumbprint("jkt")?, thumbprint("x5t#S256")?);
        let other = cnf.keys().any(|name| name != "jkt" && name != "x5t#S256");
        Ok(Some(Arc::new(Self { key, certificate, other })))
    }

    /// Whether a certificate with this SHA-256 is all that must be proved, and proves it.
    pub fn is_certificate(&self, sha256: &[u8; 32]) -> bool {
        self.certificate.as_ref() == Some(sha256) && self.key.is_none() && !self.other
    }

    /// What policies read of it, in `input.token_bound`.
    pub const fn label(&self) -> &'static str {
        match (self.key.is_some(), self.certificate.is_some()) {
            (true, true) => "dpop+mtls",
            (true, false) => "dpop",
            _ => "mtls",
        }
    }
}

/// A SHA-256 in base64url.
fn thumbprint(text: &str) -> Option<[u8; 32]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl Binder {
    /// Remembers nothing yet.
    pub fn new(settings: BindingSettings, names: Arc<FingerprintKey>) -> Self {
        let proofs = Proofs::new(settings.proofs, names);
        Self { settings, proofs }
    }

    /// Whether a request proves what a token's `cnf` names. `now` is in Unix seconds. A good proof is used up.
    pub fn prove(
        &self,
        cnf: &Confirmation,
        token: &[u8],
        evidence: &Evidence<'_>,
        target: &Target<'_>,
        now: i64,
    ) -> Result<(), Reason> {
        if cnf.other || (cnf.key.is_none() && cnf.certificate.is_none()) {
            return Err(Reason::BindingUnproved);
        }
        if let Some(wanted) = &cnf.certificate {
            let Once::One(header) = evidence.certificate else { return Err(Reason::BindingUnproved) };
            let shown = certificate(header, self.settings.certificate).ok_or(Reason::BindingUnproved)?;
            if shown != *wanted {
                return Err(Reason::BindingUnproved);
            }
        }
        // Last: it uses the proof up.
        if let Some(wanted) = &cnf.key {
            if evidence.by_other_scheme {
                return Err(Reason::BindingUnproved);
            }
            let proof = match evidence.dpop {
                Once::None => return Err(Reason::BindingUnproved),
                Once::Bad => return Err(Reason::ProofInvalid),
                Once::One(proof) => proof,
            };
            self.proofs.check(proof, wanted, token, target, &self.settings, now)?;
        }
        Ok(())
    }
}

/// The SHA-256 of the certificate that a header tells.
fn certificate(header: &str, format: CertificateFormat) -> Option<[u8; 32]> {
    match format {
        CertificateFormat::Thumbprint => hex(header.trim()).or_else(|| thumbprint(header.trim())),
        CertificateFormat::Pem => pem(&percent::decoded(header.trim())?),
        CertificateFormat::Xfcc => xfcc(header),
    }
}

/// Elements are parted by commas, their pairs by semicolons, and values with either are quoted. The last element is the
/// one that the nearest proxy wrote. What a proxy would not write is refused all of it: what a client sent before it might
/// end in a quote that takes the proxy's own words for a value.
fn xfcc(header: &str) -> Option<[u8; 32]> {
    let (mut rest, mut elements) = (header, 0);
    let (mut hash, mut cert) = (None, None);
    loop {
        let (name, after) = rest.split_once('=')?;
        let name = name.trim().to_ascii_lowercase();
        let (value, end) = value(after)?;
        let slot = match name.as_str() {
            "hash" => Some((&mut hash, hex(value)?)),
            "cert" => Some((&mut cert, pem(&percent::decoded(value)?)?)),
            "by" | "chain" | "subject" | "uri" | "dns" => None,
            _ => return None,
        };
        if let Some((slot, read)) = slot
            && slot.replace(read).is_some()
        {
            return None;
        }
        rest = match end.split_at_checked(1) {
            None => break,
            Some((";", more)) => more,
            Some((",", more)) if elements < 32 => {
                elements += 1;
                (hash, cert) = (None, None);
                more
            }
            Some(_) => return None,
        };
    }
    match (hash, cert) {
        (Some(hash), Some(cert)) if hash != cert => None,
        (hash, cert) => hash.or(cert),
    }
}

/// A value, and what stands behind it.
fn value(text: &str) -> Option<(&str, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find([',', ';']).unwrap_or(text.len());
        let (value, rest) = text.split_at(end);
        return (!value.contains(['"', '\\'])).then(|| (value.trim(), rest));
    };
    let mut escaped = false;
    let end = quoted.find(|c| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends
    })?;
    let value = &quoted[..end];
    // No subject has that; a proxy's own words have.
    (!value.to_ascii_lowercase().contains("hash=")).then(|| (value, &quoted[end + 1..]))
}

/// The SHA-256 of one certificate in PEM.
fn pem(text: &str) -> Option<[u8; 32]> {
    let inner = text.trim().strip_prefix("-----BEGIN CERTIFICATE-----")?;
    let (body, rest) = inner.split_once("-----END CERTIFICATE-----")?;
    // A chain behind it changes nothing: the client's own comes first.
    if !rest.trim().is_empty() && !rest.trim().starts_with("-----BEGIN CERTIFICATE-----") {
        return None;
    }
    let body: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
    let der = STANDARD.decode(body).ok().filter(|der| !der.is_empty())?;
    digest::digest(&digest::SHA256, &der).as_ref().try_into().ok()
}

/// A SHA-256 in hex, perhaps with colons between the bytes.
fn hex(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u32> =
        text.chars().filter(|c| *c != ':').map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(|p| u8::try_from(p[0] * 16 + p.get(1)?).ok()).collect();
    bytes?.try_into().ok()
}

#[cfg(test)]
mod tests;
