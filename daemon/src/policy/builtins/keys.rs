//! Keys that policies give in their own data: PEM certificates, PEM public keys, a JWK or a JWK set.

use std::{cell::RefCell, collections::HashMap, rc::Rc, sync::Arc};

use aws_lc_rs::{
    hmac,
    signature::{self, ParsedPublicKey, VerificationAlgorithm},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::Value;

use super::{der, x509};

/// Parsed keys kept on each thread. They come from a policy's data, so few are needed; where they come from
/// requests, the oldest go.
const KEPT: usize = 64;

/// A JWS algorithm (RFC 7518, RFC 8037).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// By its name in a header.
    pub fn named(name: &str) -> Option<Self> {
        Some(match name {
            "HS256" => Self::Hs256,
            "HS384" => Self::Hs384,
            "HS512" => Self::Hs512,
            "RS256" => Self::Rs256,
            "RS384" => Self::Rs384,
            "RS512" => Self::Rs512,
            "PS256" => Self::Ps256,
            "PS384" => Self::Ps384,
            "PS512" => Self::Ps512,
            "ES256" => Self::Es256,
            "ES384" => Self::Es384,
            "ES512" => Self::Es512,
            "EdDSA" => Self::EdDsa,
            _ => return None,
        })
    }

    /// Its hash, where it is an HMAC.
    pub const fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Self::Hs256 => Some(hmac::HMAC_SHA256),
            Self::Hs384 => Some(hmac::HMAC_SHA384),
            Self::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    fn check(self) -> Option<&'static dyn VerificationAlgorithm> {
        Some(match self {
            Self::Rs256 => &signature::RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &signature::RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &signature::RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &signature::RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &signature::RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &signature::RSA_PSS_2048_8192_SHA512,
            Self::Es256 => &signature::ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &signature::ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &signature::ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &signature::ED25519,
            _ => return None,
        })
    }

    /// Whether a key of this type is one for this algorithm.
    fn fits(self, material: &Material) -> bool {
        use Algorithm::{EdDsa, Es256, Es384, Es512, Ps256, Ps384, Ps512, Rs256, Rs384, Rs512};
        match material {
            Material::Rsa(_) => matches!(self, Rs256 | Rs384 | Rs512 | Ps256 | Ps384 | Ps512),
            // The curve goes with the algorithm (RFC 7518 §3.4): an uncompressed point tells it by its length.
            Material::Ec(point) => matches!((self, point.len()), (Es256, 65) | (Es384, 97) | (Es512, 133)),
            Material::Ed(_) => self == EdDsa,
            Material::Other => false,
        }
    }
}

/// A public key as the crypto backend takes it.
pub enum Material {
    /// PKCS #1.
    Rsa(Vec<u8>),
    /// An uncompressed point.
    Ec(Vec<u8>),
    /// An Ed25519 point.
    Ed(Vec<u8>),
    /// One that verifies nothing here.
    Other,
}

/// One key.
pub struct Key {
    /// Its `kid`, in a JWK.
    pub kid: Option<String>,
    /// Its `alg`, in a JWK.
    pub alg: Option<String>,
    material: Material,
    parsed: RefCell<Vec<(Algorithm, Rc<ParsedPublicKey>)>>,
}

impl Key {
    fn new(material: Material) -> Self {
        Self { kid: None, alg: None, material, parsed: RefCell::default() }
    }

    /// Whether `signature` is this key's over `message`. A weak key verifies nothing.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.parsed(algorithm).is_some_and(|key| key.verify_sig(message, signature).is_ok())
    }

    fn parsed(&self, algorithm: Algorithm) -> Option<Rc<ParsedPublicKey>> {
        if let Some((_, key)) = self.parsed.borrow().iter().find(|(a, _)| *a == algorithm) {
            return Some(Rc::clone(key));
        }
        let (Material::Rsa(bytes) | Material::Ec(bytes) | Material::Ed(bytes)) = &self.material else {
            return None;
        };
        if !algorithm.fits(&self.material) {
            return None;
        }
        let key = Rc::new(ParsedPublicKey::new(algorithm.check()?, bytes).ok()?);
        self.parsed.borrow_mut().push((algorithm, Rc::clone(&key)));
        Some(key)
    }
}

thread_local! {
    static KNOWN: RefCell<HashMap<Arc<str>, Rc<Vec<Key>>>> = RefCell::default();
}

/// Reads keys, or takes those that this thread has read before.
pub fn read(text: &Arc<str>) -> Result<Rc<Vec<Key>>, String> {
    if let Some(keys) = KNOWN.with_borrow(|known| known.get(text).cloned()) {
        return Ok(keys);
    }
    let keys = Rc::new(parse(text)?);
    KNOWN.with_borrow_mut(|known| {
        if known.len() >= KEPT {
            known.clear();
        }
        known.insert(Arc::clone(text), Rc::clone(&keys));
    });
    Ok(keys)
}

fn parse(text: &str) -> Result<Vec<Key>, String> {
    if let Some((label, bytes, rest)) = x509::pem(text) {
        if !rest.trim().is_empty() {
            return Err("extra data after a PEM certificate block".into());
        }
        let spki = match label.as_str() {
            "CERTIFICATE" => {
                x509::Certificate::parse(&bytes).ok_or("x509: malformed certificate")?.spki.to_vec()
            }
            "PUBLIC KEY" => bytes,
            _ => return Err("failed to extract a Key from the PEM certificate".into()),
        };
        return Ok(vec![Key::new(from_spki(&spki).ok_or("the public key is malformed")?)]);
    }
    let json: Value = serde_json::from_str(text).map_err(|_| "failed to parse a JWK key (set)".to_owned())?;
    match json.get("keys").and_then(Value::as_array) {
        Some(keys) => keys.iter().map(from_jwk).collect(),
        None => match from_jwk(&json)? {
            // In a set, RFC 7517 §5 asks to pass over what is not known; here nothing would be left.
            Key { material: Material::Other, .. } => {
                Err("failed to parse a JWK key (set): its type or curve is not known".into())
            }
            key => Ok(vec![key]),
        },
    }
}

/// A `SubjectPublicKeyInfo` (RFC 5280 §4.1).
fn from_spki(bytes: &[u8]) -> Option<Material> {
    let mut info = der::sequence(bytes)?;
    let mut algorithm = der::Reader::new(info.expect(der::tag::SEQUENCE)?);
    let id = der::oid(algorithm.expect(der::tag::OID)?);
    let (0, key) = info.expect(der::tag::BIT_STRING)?.split_first()? else { return None };
    Some(match id.as_str() {
        "1.2.840.113549.1.1.1" | "1.2.840.113549.1.1.10" => Material::Rsa(key.to_vec()),
        "1.2.840.10045.2.1" => Material::Ec(key.to_vec()),
        "1.3.101.112" => Material::Ed(key.to_vec()),
        _ => Material::Other,
    })
}

fn from_jwk(jwk: &Value) -> Result<Key, String> {
    let text = |name: &str| jwk.get(name).and_then(Value::as_str);
    let bytes = |name: &str| {
        text(name)
            .and_then(|t| URL_SAFE_NO_PAD.decode(t.trim_end_matches('=')).ok())
            .ok_or_else(|| format!("failed to parse a JWK key (set): `{name}` is not base64url"))
    };
    // Coordinates may have lost zeros in front.
    let padded = |name: &str, len: usize| {
        let b = bytes(name)?;
        let lacking = len.checked_sub(b.len()).ok_or("a coordinate is too long")?;
        Ok::<_, String>([vec![0; lacking], b].concat())
    };
    let point = |len| Ok::<_, String>(Material::Ec([vec![4], padded("x", len)?, padded("y", len)?].concat()));
    let material = match (text("kty").ok_or("failed to parse a JWK key (set): no `kty`")?, text("crv")) {
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            if n.is_empty() || e.is_empty() {
                return Err("failed to parse a JWK key (set): `n` or `e` is empty".into());
            }
            let parts = [der::integer(&n), der::integer(&e)].concat();
            Material::Rsa(der::write(der::tag::SEQUENCE, &parts))
        }
        ("EC", Some("P-256")) => point(32)?,
        ("EC", Some("P-384")) => point(48)?,
        ("EC", Some("P-521")) => point(66)?,
        ("OKP", Some("Ed25519")) => Material::Ed(bytes("x")?),
        _ => Material::Other,
    };
    let owned = |name| text(name).filter(|t| !t.is_empty()).map(str::to_owned);
    Ok(Key { kid: owned("kid"), alg: owned("alg"), ..Key::new(material) })
}
