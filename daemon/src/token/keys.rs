//! Keys: read from files once, refused there if weak, and parsed for each algorithm that may use them.
//!
//! A key verifies only under algorithms that its issuer lists, that fit its type and curve, and that its own
//! `alg` names where it has one. `jsonwebtoken` would parse a key anew for each token, so keys are held as
//! the crypto backend's parsed form.

use aws_lc_rs::{
    hmac, rsa,
    signature::{self, ParsedPublicKey, RsaParameters, RsaPublicKeyComponents, VerificationAlgorithm},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::DecodingKey;
use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{
    KeySource,
    algorithm::{Algorithm, Family},
    json,
};

/// One key of one issuer.
pub(super) struct VerifyingKey {
    /// The `kid` it answers to; `None` for any.
    pub kid: Option<String>,
    /// What it verifies with, for each algorithm that may use it.
    checks: Vec<(Algorithm, Check)>,
}

enum Check {
    Mac(Box<hmac::Key>),
    Public(ParsedPublicKey),
}

/// A key's content before it is bound to algorithms.
enum Material {
    Secret(Zeroizing<Vec<u8>>),
    Rsa { n: Vec<u8>, e: Vec<u8> },
    Ec { curve: Algorithm, point: Vec<u8> },
    Ed(Vec<u8>),
}

impl VerifyingKey {
    /// Whether the key may verify under this algorithm.
    pub fn fits(&self, algorithm: Algorithm) -> bool {
        self.checks.iter().any(|(a, _)| *a == algorithm)
    }

    /// Whether `signature` is this key's over `message`, under an algorithm that it fits.
    pub fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match self.checks.iter().find(|(a, _)| *a == algorithm) {
            Some((_, Check::Mac(key))) => hmac::verify(key, message, signature).is_ok(),
            Some((_, Check::Public(key))) => key.verify_sig(message, signature).is_ok(),
            None => false,
        }
    }

    fn new(kid: Option<String>, material: &Material, algorithms: &[Algorithm]) -> Result<Self, String> {
        let named = kid.as_ref().map_or_else(|| "the key".to_owned(), |kid| format!("the key `{kid}`"));
        let mut checks = Vec::new();
        for algorithm in algorithms {
            if let Some(check) = material.check(*algorithm).map_err(|why| format!("{named} {why}"))? {
                checks.push((*algorithm, check));
            }
        }
        Ok(Self { kid, checks })
    }
}

impl Material {
    /// Binds the key to an algorithm; `None` where they do not fit.
    fn check(&self, algorithm: Algorithm) -> Result<Option<Check>, String> {
        let public = match (self, algorithm.family()) {
            (Self::Secret(secret), Family::Hmac) => {
                let hash = hash_of(algorithm);
                let least = hash.digest_algorithm().output_len();
                if secret.len() < least {
                    return Err(format!(
                        "is {} bytes long, too short for {algorithm:?}; use at least {least} random bytes",
                        secret.len()
                    ));
                }
                return Ok(Some(Check::Mac(Box::new(hmac::Key::new(hash, secret)))));
            }
            (Self::Rsa { n, e }, Family::Rsa) => {
                check_rsa(n, e)?;
                RsaPublicKeyComponents { n, e }.to_parsed_public_key(rsa_parameters(algorithm))
            }
            (Self::Ec { curve, point }, Family::Ec) if *curve == algorithm => {
                let fixed: &'static dyn VerificationAlgorithm = match algorithm {
                    Algorithm::ES256 => &signature::ECDSA_P256_SHA256_FIXED,
                    Algorithm::ES512 => &signature::ECDSA_P521_SHA512_FIXED,
                    _ => &signature::ECDSA_P384_SHA384_FIXED,
                };
                ParsedPublicKey::new(fixed, point)
            }
            (Self::Ed(point), Family::Ed) => ParsedPublicKey::new(&signature::ED25519, point),
            _ => return Ok(None),
        };
        let key = public.map_err(|e| format!("is not a valid public key ({e}); publish it again"))?;
        Ok(Some(Check::Public(key)))
    }
}

const fn hash_of(algorithm: Algorithm) -> hmac::Algorithm {
    match algorithm {
        Algorithm::HS384 => hmac::HMAC_SHA384,
        Algorithm::HS512 => hmac::HMAC_SHA512,
        _ => hmac::HMAC_SHA256,
    }
}

fn rsa_parameters(algorithm: Algorithm) -> &'static RsaParameters {
    match algorithm {
        Algorithm::RS384 => &signature::RSA_PKCS1_2048_8192_SHA384,
        Algorithm::RS512 => &signature::RSA_PKCS1_2048_8192_SHA512,
        Algorithm::PS256 => &signature::RSA_PSS_2048_8192_SHA256,
        Algorithm::PS384 => &signature::RSA_PSS_2048_8192_SHA384,
        Algorithm::PS512 => &signature::RSA_PSS_2048_8192_SHA512,
        _ => &signature::RSA_PKCS1_2048_8192_SHA256,
    }
}

/// Refuses RSA keys that can be factored, or under which anyone can sign (an exponent of 1).
fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), String> {
    let bits = n.len() * 8 - n.first().map_or(0, |b| b.leading_zeros() as usize);
    if !(2048..=8192).contains(&bits) {
        return Err(format!("is an RSA key of {bits} bits; use one of 2048 to 8192"));
    }
    if e.len() > 8 || e.last().is_none_or(|b| b & 1 == 0) || matches!(e, [1]) {
        return Err("is an RSA key with an unsafe public exponent; use 65537".into());
    }
    Ok(())
}

/// Reads an issuer's keys from what its source holds. The error says what is wrong with it, and what to do.
pub(super) fn read(
    source: &KeySource,
    content: &[u8],
    algorithms: &[Algorithm],
) -> Result<Vec<VerifyingKey>, String> {
    let keys = match source {
        KeySource::JwksFile(_) => jwks(content, algorithms)?,
        KeySource::Remote(_) => published(content, algorithms)?,
        KeySource::PemFile { kid, .. } => vec![VerifyingKey::new(kid.clone(), &pem(content)?, algorithms)?],
        KeySource::HmacFile { kid, .. } => {
            let secret = Material::Secret(Zeroizing::new(without_line_end(content).to_vec()));
            vec![VerifyingKey::new(kid.clone(), &secret, algorithms)?]
        }
    };
    let usable: Vec<_> = keys.into_iter().filter(|k| !k.checks.is_empty()).collect();
    if usable.is_empty() {
        return Err("no key in it fits the issuer's algorithms; check `algorithms`".into());
    }
    Ok(usable)
}

/// A key set that everybody can read holds no secret that could sign.
fn published(content: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerifyingKey>, String> {
    let algorithms: Vec<_> = algorithms.iter().copied().filter(|a| a.family() != Family::Hmac).collect();
    jwks(content, &algorithms)
}

/// A text file's line end is not part of the secret in it; a binary file is taken as it is.
fn without_line_end(content: &[u8]) -> &[u8] {
    let text = content.strip_suffix(b"\n").map(|t| t.strip_suffix(b"\r").unwrap_or(t));
    text.filter(|t| t.iter().all(|b| matches!(b, 0x20..=0x7e))).unwrap_or(content)
}

/// Reads one public key in PEM.
fn pem(content: &[u8]) -> Result<Material, String> {
    if content.windows(11).any(|w| w == b"PRIVATE KEY") {
        return Err("it holds a private key; give portcullis the public key alone".into());
    }
    if let Ok(key) = DecodingKey::from_rsa_pem(content) {
        let der = key.try_get_as_bytes().map_err(|e| e.to_string())?;
        let key = rsa::PublicKey::from_der(der).map_err(|e| format!("its RSA key is not valid ({e})"))?;
        let RsaPublicKeyComponents { n, e } = RsaPublicKeyComponents::<Vec<u8>>::from(&key);
        return Ok(Material::Rsa { n, e });
    }
    if let Ok(key) = DecodingKey::from_ec_pem(content) {
        let point = key.try_get_as_bytes().map_err(|e| e.to_string())?.to_vec();
        let curve = match point.len() {
            65 => Algorithm::ES256,
            97 => Algorithm::ES384,
            133 => Algorithm::ES512,
            _ => return Err("its curve is not supported; use P-256, P-384 or P-521".into()),
        };
        return Ok(Material::Ec { curve, point });
    }
    match DecodingKey::from_ed_pem(content) {
        Ok(key) => Ok(Material::Ed(key.try_get_as_bytes().map_err(|e| e.to_string())?.to_vec())),
        Err(_) => Err("it holds no public key in PEM; expected `-----BEGIN PUBLIC KEY-----`".into()),
    }
}

/// Reads a JSON Web Key Set. Keys for other uses (encryption, unknown types and curves) are passed over, as
/// RFC 7517 §5 asks; weak keys and repeated `kid`s refuse the whole set, for they are mistakes or attacks.
fn jwks(content: &[u8], algorithms: &[Algorithm]) -> Result<Vec<VerifyingKey>, String> {
    let set = json::object(content).ok_or("it is not a JSON object without repeated members")?;
    let keys =
        set.get("keys").and_then(Value::as_array).ok_or("it is not a key set; expected `{\"keys\": […]}`")?;
    let mut out: Vec<VerifyingKey> = Vec::new();
    for (i, key) in keys.iter().enumerate() {
        let jwk = key.as_object().ok_or_else(|| format!("key {i} is not an object"))?;
        let Some(key) = read_jwk(jwk, algorithms).map_err(|why| format!("key {i}: {why}"))? else { continue };
        if key.kid.is_some() && out.iter().any(|k| k.kid == key.kid) {
            let kid = key.kid.unwrap_or_default();
            return Err(format!("the kid `{kid}` stands there twice; publish one key for each kid"));
        }
        out.push(key);
    }
    Ok(out)
}

/// The key in a DPoP proof's header; `None` where it is private, weak, or not for this algorithm.
pub(super) fn of_proof(jwk: &Map<String, Value>, algorithm: Algorithm) -> Option<VerifyingKey> {
    const PRIVATE: [&str; 8] = ["d", "p", "q", "dp", "dq", "qi", "oth", "k"];
    if PRIVATE.iter().any(|name| jwk.contains_key(*name)) {
        return None;
    }
    read_jwk(jwk, &[algorithm]).ok().flatten().filter(|key| key.fits(algorithm))
}

/// Reads one JSON Web Key; `None` if it is none for signatures that can be verified here.
fn read_jwk(jwk: &Map<String, Value>, algorithms: &[Algorithm]) -> Result<Option<VerifyingKey>, String> {
    let text = |name: &str| match jwk.get(name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.as_str())),
        Some(_) => Err(format!("`{name}` is not a string")),
    };
    let bytes = |name: &str| {
        let encoded = text(name)?.ok_or_else(|| format!("`{name}` is absent"))?;
        URL_SAFE_NO_PAD.decode(encoded).map_err(|_| format!("`{name}` is not base64url"))
    };
    if text("use")?.is_some_and(|u| u != "sig") {
        return Ok(None);
    }
    if let Some(operations) = jwk.get("key_ops") {
        let operations = operations.as_array().ok_or("`key_ops` is not an array")?;
        if !operations.iter().any(|o| o == "verify") {
            return Ok(None);
        }
    }
    // Its own `alg` narrows what the issuer allows; one that is unknown here leaves nothing.
    let pinned: Vec<Algorithm> = match text("alg")? {
        None => algorithms.to_vec(),
        Some(name) => algorithms.iter().copied().filter(|a| name.parse().ok() == Some(*a)).collect(),
    };
    let material = match (text("kty")?.ok_or("`kty` is absent")?, text("crv")?) {
        ("oct", _) => {
            let secret = Zeroizing::new(bytes("k")?);
            if secret.len() < 32 {
                return Err(format!(
                    "its secret is {} bytes long; use at least 32 random bytes",
                    secret.len()
                ));
            }
            Material::Secret(secret)
        }
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            let strip = |b: Vec<u8>| b.into_iter().skip_while(|b| *b == 0).collect::<Vec<_>>();
            let (n, e) = (strip(n), strip(e));
            check_rsa(&n, &e).map_err(|why| format!("it {why}"))?;
            Material::Rsa { n, e }
        }
        ("EC", Some("P-256")) => ec(Algorithm::ES256, 32, bytes("x")?, bytes("y")?)?,
        ("EC", Some("P-384")) => ec(Algorithm::ES384, 48, bytes("x")?, bytes("y")?)?,
        ("EC", Some("P-521")) => ec(Algorithm::ES512, 66, bytes("x")?, bytes("y")?)?,
        ("OKP", Some("Ed25519")) => Material::Ed(bytes("x")?),
        _ => return Ok(None),
    };
    VerifyingKey::new(text("kid")?.map(str::to_owned), &material, &pinned).map(Some)
}

/// Puts a point together; coordinates have their full length (RFC 7518 §6.2.1.2).
fn ec(curve: Algorithm, len: usize, x: Vec<u8>, y: Vec<u8>) -> Result<Material, String> {
    if x.len() != len || y.len() != len {
        return Err(format!("`x` and `y` are not {len} bytes long"));
    }
    Ok(Material::Ec { curve, point: [vec![4], x, y].concat() })
}
