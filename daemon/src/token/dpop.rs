//! DPoP proofs (RFC 9449 §4.3): a small JWT that the sender signs for one request, and that counts once.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

use super::{
    FingerprintKey,
    algorithm::Family,
    bind::{BindingSettings, Target},
    jws::Jws,
    keys,
};

/// Longest proof that is parsed.
const MAX_PROOF: usize = 8 * 1024;
/// Longest `jti`.
const MAX_ID: usize = 256;
/// Separates names of proofs from all others under the fingerprint key.
const DOMAIN: u64 = 0x6470_6f70_7072_6f66;

/// Proofs that were used, until they are too old to be used again.
pub(super) struct Proofs {
    names: Arc<FingerprintKey>,
    capacity: usize,
    used: Mutex<Used>,
}

#[derive(Default)]
struct Used {
    until: HashMap<[u64; 2], i64>,
    /// When those that are over were last taken out.
    swept: i64,
}

impl Proofs {
    pub fn new(capacity: usize, names: Arc<FingerprintKey>) -> Self {
        Self { names, capacity, used: Mutex::default() }
    }

    /// Judges a proof by the key whose thumbprint is `wanted`, for this token and request, and uses it up.
    pub fn check(
        &self,
        text: &str,
        wanted: &[u8; 32],
        token: &[u8],
        target: &Target<'_>,
        settings: &BindingSettings,
        now: i64,
    ) -> Result<(), Reason> {
        let invalid = Reason::ProofInvalid;
        if text.len() > MAX_PROOF {
            return Err(invalid);
        }
        let jws = Jws::parse(text).map_err(|_| invalid)?;
        if jws.typ.as_deref() != Some("dpop+jwt") || jws.algorithm.family() == Family::Hmac {
            return Err(invalid);
        }
        let jwk = jws.header.get("jwk").and_then(Value::as_object).ok_or(invalid)?;
        if thumbprint(jwk).ok_or(invalid)? != *wanted {
            return Err(Reason::BindingUnproved);
        }
        let key = keys::of_proof(jwk, jws.algorithm).ok_or(invalid)?;
        if !key.verify(jws.algorithm, jws.signing_input, &jws.signature) {
            return Err(invalid);
        }
        let claim = |name: &str| jws.claims.get(name).and_then(Value::as_str).ok_or(invalid);
        let made = jws.claims.get("iat").and_then(Value::as_i64).ok_or(invalid)?;
        let is_of_now = made <= now.saturating_add(settings.leeway)
            && made >= now.saturating_sub(settings.proof_age).saturating_sub(settings.leeway);
        let hash = digest::digest(&digest::SHA256, token);
        if !is_of_now
            || claim("htm")? != target.method
            || !is_for(claim("htu")?, target, settings.plain_http)
            || claim("ath")? != URL_SAFE_NO_PAD.encode(hash)
        {
            return Err(invalid);
        }
        let id = claim("jti")?;
        if id.is_empty() || id.len() > MAX_ID {
            return Err(invalid);
        }
        // From then on it is too old.
        let over = made.saturating_add(settings.proof_age).saturating_add(settings.leeway).saturating_add(1);
        let name = self.names.digest_all(DOMAIN, [&wanted[..], id.as_bytes()]);
        self.use_up(name, over, now)
    }

    fn use_up(&self, name: [u64; 2], over: i64, now: i64) -> Result<(), Reason> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        if used.until.len() >= self.capacity && used.swept != now {
            used.swept = now;
            used.until.retain(|_, until| *until > now);
        }
        if used.until.get(&name).is_some_and(|until| *until > now) {
            return Err(Reason::ProofReplayed);
        }
        // Without room a proof could be used twice: denied, then.
        if used.until.len() >= self.capacity {
            return Err(Reason::BindingUnproved);
        }
        used.until.insert(name, over);
        Ok(())
    }
}

/// Whether `htu` is the request's address, without query and fragment, as URIs are compared (RFC 3986 §6.2.2, §6.2.3).
fn is_for(htu: &str, target: &Target<'_>, plain_http: bool) -> bool {
    let text = htu.split(['?', '#']).next().unwrap_or_default();
    let Some((scheme, rest)) = text.split_once("://") else { return false };
    let port = match scheme.to_ascii_lowercase().as_str() {
        "https" => ":443",
        "http" if plain_http => ":80",
        _ => return false,
    };
    let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let plain = |host: &str| {
        let host = host.to_ascii_lowercase();
        host.strip_suffix(port).map(str::to_owned).unwrap_or(host)
    };
    let path = if path.is_empty() { "/" } else { path };
    !target.host.is_empty() && plain(host) == plain(target.host) && path == target.path
}

/// A public key's thumbprint (RFC 7638): the SHA-256 of its required members in order of their names.
fn thumbprint(jwk: &Map<String, Value>) -> Option<[u8; 32]> {
    let names: &[&str] = match jwk.get("kty")?.as_str()? {
        "EC" => &["crv", "kty", "x", "y"],
        "OKP" => &["crv", "kty", "x"],
        "RSA" => &["e", "kty", "n"],
        _ => return None,
    };
    let members = names.iter().map(|name| {
        // Escapes would be another text for the same key.
        let value = jwk.get(*name)?.as_str()?;
        let is_plain = value.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'));
        is_plain.then(|| format!("\"{name}\":\"{value}\""))
    });
    let text = format!("{{{}}}", members.collect::<Option<Vec<_>>>()?.join(","));
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().try_into().ok()
}
