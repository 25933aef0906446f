//! Tokens of the tests' issuers, and the twins of ECDSA signatures.

use std::{
    process::Command,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde_json::{Value, json};

use crate::{
    config::{AUDIENCE, ISSUER, ISSUER_ES256},
    daemon,
    dir::Dir,
};

/// The order of P-256's group, big-endian (FIPS 186-4 D.1.2.3).
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0x00, 0x00, 0x00, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xbc,
    0xe6, 0xfa, 0xad, 0xa7, 0x17, 0x9e, 0x84, 0xf3, 0xb9, 0xca, 0xc2, 0xfc, 0x63, 0x25, 0x51,
];

/// Signs tokens for both issuers.
#[derive(Debug)]
pub struct Mint {
    hmac_file: std::path::PathBuf,
    pair: EcdsaKeyPair,
}

impl Mint {
    /// Makes the keys, in the files that the configuration names.
    pub fn make(dir: &Dir) -> Result<Self> {
        let mut secret = [0u8; 32];
        aws_lc_rs::rand::fill(&mut secret).map_err(|_| anyhow!("no randomness"))?;
        let hmac_file = dir.write("hmac.key", &BASE64.encode(secret))?;
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow!("cannot make a P-256 key"))?;
        let point = pair.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| point.get(range).map(|half| BASE64.encode(half));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "kid": "es", "alg": "ES256", "use": "sig",
            "x": half(1..33), "y": half(33..65),
        });
        dir.write("es256.jwks", &json!({"keys": [jwk]}).to_string())?;
        Ok(Self { hmac_file, pair })
    }

    /// A token that reads orders and is `age` seconds old, by the daemon's own `demo-token`.
    pub fn aged(&self, age: u64, scope: &str) -> Result<String> {
        self.sign(&claims(ISSUER, age, scope)?)
    }

    /// A token that is over in so many seconds.
    pub fn lasting(&self, seconds: u64, scope: &str) -> Result<String> {
        let mut claims = claims(ISSUER, 0, scope)?;
        claims["exp"] = (claims["iat"].as_u64().context("iat is a number")? + seconds).into();
        self.sign(&claims)
    }

    /// A token whose time is over.
    pub fn expired(&self, scope: &str) -> Result<String> {
        let mut claims = claims(ISSUER, 7200, scope)?;
        claims["exp"] = (claims["iat"].as_u64().context("iat is a number")? + 3600).into();
        self.sign(&claims)
    }

    /// A fresh token of this subject's.
    pub fn of_subject(&self, sub: &str) -> Result<String> {
        let mut claims = claims(ISSUER, 0, "orders:read")?;
        claims["sub"] = sub.into();
        self.sign(&claims)
    }

    fn sign(&self, claims: &Value) -> Result<String> {
        let claims = claims.to_string();
        let output = Command::new(daemon::binary()?)
            .args(["demo-token", "--hmac-file"])
            .arg(&self.hmac_file)
            .args(["--claims", &claims])
            .output()?;
        if !output.status.success() {
            return Err(anyhow!("demo-token: {}", String::from_utf8_lossy(&output.stderr)));
        }
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// A fresh token that reads orders.
    pub fn hs256(&self) -> Result<String> {
        self.aged(0, "orders:read")
    }

    /// A fresh ES256 token that reads orders.
    pub fn es256(&self) -> Result<String> {
        let head = BASE64.encode(br#"{"alg":"ES256","kid":"es","typ":"JWT"}"#);
        let claims = claims(ISSUER_ES256, 0, "orders:read")?;
        let input = format!("{head}.{}", BASE64.encode(claims.to_string()));
        let signature =
            self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| anyhow!("cannot sign"))?;
        Ok(format!("{input}.{}", BASE64.encode(signature)))
    }
}

/// A P-256 key of an issuer that a test makes up.
#[derive(Debug)]
pub struct Signer {
    pair: EcdsaKeyPair,
    kid: String,
}

impl Signer {
    /// Makes one.
    pub fn new(kid: &str) -> Result<Self> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|_| anyhow!("cannot make a P-256 key"))?;
        Ok(Self { pair, kid: kid.to_owned() })
    }

    /// Its public half (RFC 7517), without a `kid`.
    pub fn jwk(&self) -> Value {
        let point = self.pair.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| point.get(range).map(|half| BASE64.encode(half));
        json!({"kty": "EC", "crv": "P-256", "x": half(1..33), "y": half(33..65)})
    }

    /// The key set that publishes it.
    pub fn jwks(&self) -> String {
        let mut jwk = self.jwk();
        jwk["kid"] = self.kid.clone().into();
        json!({"keys": [jwk]}).to_string()
    }

    /// Its private half in PEM (PKCS #8).
    pub fn pem(&self) -> Result<String> {
        let der = self.pair.to_pkcs8v1().map_err(|_| anyhow!("cannot write the key"))?;
        let text = base64::engine::general_purpose::STANDARD.encode(der.as_ref());
        Ok(format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n"))
    }

    /// Signs any header and claims.
    pub fn sign(&self, header: &Value, claims: &Value) -> Result<String> {
        let input = format!("{}.{}", BASE64.encode(header.to_string()), BASE64.encode(claims.to_string()));
        let signature =
            self.pair.sign(&SystemRandom::new(), input.as_bytes()).map_err(|_| anyhow!("cannot sign"))?;
        Ok(format!("{input}.{}", BASE64.encode(signature)))
    }

    /// A fresh token of an issuer's, with these claims beside the usual ones.
    pub fn token(&self, issuer: &str, more: &Value) -> Result<String> {
        let mut claims = claims(issuer, 0, "orders:read")?;
        for (name, value) in more.as_object().into_iter().flatten() {
            claims[name.as_str()] = value.clone();
        }
        self.sign(&json!({"alg": "ES256", "kid": self.kid}), &claims)
    }
}

/// A claim of a token's, as text.
pub fn claim(token: &str, name: &str) -> Result<String> {
    let payload = token.split('.').nth(1).context("no JWS")?;
    let claims: Value = serde_json::from_slice(&BASE64.decode(payload)?)?;
    let text = match &claims[name] {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    };
    text.with_context(|| format!("no `{name}`"))
}

/// Claims that no other call gives.
fn claims(issuer: &str, age: u64, scope: &str) -> Result<Value> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
    let id = format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
    Ok(json!({
        "iss": issuer, "aud": AUDIENCE, "sub": format!("sub-{id}"), "jti": format!("jti-{id}"),
        "iat": now - age, "exp": now + 900, "scope": scope,
    }))
}

/// The same token with the other signature that its key verifies: (r, s) becomes (r, n − s).
pub fn twin(token: &str) -> Result<String> {
    let (input, signature) = token.rsplit_once('.').context("a token has dots")?;
    let mut signature = BASE64.decode(signature)?;
    let s = signature.get_mut(32..64).context("a signature of 64 bytes")?;
    let mut borrow = 0;
    for (digit, order) in s.iter_mut().zip(ORDER).rev() {
        let difference = i16::from(order) - i16::from(*digit) - borrow;
        borrow = i16::from(difference < 0);
        *digit = u8::try_from(difference + 256 * borrow)?;
    }
    Ok(format!("{input}.{}", BASE64.encode(signature)))
}

/// The same header and payload under a signature that no key made.
pub fn forged(token: &str) -> Result<String> {
    let (input, signature) = token.rsplit_once('.').context("a token has dots")?;
    let mut signature = BASE64.decode(signature)?;
    for byte in &mut signature {
        *byte ^= 0x5a;
    }
    Ok(format!("{input}.{}", BASE64.encode(signature)))
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED, UnparsedPublicKey};

    use super::*;

    #[test]
    fn a_twin_differs_and_verifies_and_its_twin_is_the_token() {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let signature = pair.sign(&SystemRandom::new(), b"a.b").unwrap();
        let token = format!("a.b.{}", BASE64.encode(signature));
        let other = twin(&token).unwrap();
        assert_ne!(token, other);
        assert_eq!(twin(&other).unwrap(), token);
        let signature = BASE64.decode(other.rsplit_once('.').unwrap().1).unwrap();
        UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, pair.public_key())
            .verify(b"a.b", &signature)
            .unwrap();
    }
}
