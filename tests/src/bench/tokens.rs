//! Issuers with generated keys, and tokens of theirs that differ in `jti` alone.

use std::{fs, path::Path, time::SystemTime};

use anyhow::{Context as _, Result, anyhow};
use aws_lc_rs::{
    hmac,
    rand::{self, SystemRandom},
    rsa::KeySize,
    signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair,
        RsaPublicKeyComponents,
    },
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// `aud` of every token.
pub const AUDIENCE: &str = "api";
/// Bytes of a token's claims: with them HS256 tokens are 480 bytes long, and RS256 tokens 779.
const CLAIMS: usize = 285;

/// One issuer and its private key.
pub struct Issuer {
    /// Its algorithm; also its `kid`, and the end of its name.
    pub algorithm: &'static str,
    key: SigningKey,
}

enum SigningKey {
    Hmac([u8; 32]),
    Ecdsa(EcdsaKeyPair),
    Rsa(RsaKeyPair),
}

impl Issuer {
    /// One for each of the three algorithms that are measured.
    pub fn all() -> Result<[Self; 3]> {
        let random = |_| anyhow!("no key could be generated");
        let mut secret = [0; 32];
        rand::fill(&mut secret).map_err(random)?;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &SystemRandom::new())
            .map_err(random)?;
        let ec = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8.as_ref())
            .map_err(|e| anyhow!("no key could be generated: {e}"))?;
        let rsa = RsaKeyPair::generate(KeySize::Rsa2048).map_err(random)?;
        Ok([
            Self { algorithm: "HS256", key: SigningKey::Hmac(secret) },
            Self { algorithm: "RS256", key: SigningKey::Rsa(rsa) },
            Self { algorithm: "ES256", key: SigningKey::Ecdsa(ec) },
        ])
    }

    fn name(&self) -> String {
        format!("https://{}.issuer.bench", self.algorithm.to_lowercase())
    }

    /// Writes its key file into `dir` and gives its table of the configuration.
    pub fn configure(&self, dir: &Path) -> Result<String> {
        let algorithm = self.algorithm;
        let jwk = match &self.key {
            SigningKey::Hmac(secret) => json!({"kty": "oct", "k": b64(secret)}),
            SigningKey::Ecdsa(key) => {
                let point = key.public_key().as_ref();
                json!({"kty": "EC", "crv": "P-256", "x": b64(&point[1..33]), "y": b64(&point[33..])})
            }
            SigningKey::Rsa(key) => {
                let RsaPublicKeyComponents { n, e } =
                    RsaPublicKeyComponents::<Vec<u8>>::from(key.public_key());
                json!({"kty": "RSA", "n": b64(n), "e": b64(e)})
            }
        };
        let mut jwk = jwk;
        jwk["kid"] = algorithm.into();
        jwk["alg"] = algorithm.into();
        let file = dir.join(format!("{algorithm}.jwks.json"));
        fs::write(&file, json!({"keys": [jwk]}).to_string())
            .with_context(|| format!("cannot write `{}`", file.display()))?;
        Ok(format!(
            "[[token.issuer]]\nissuer = \"{}\"\naudience = [\"{AUDIENCE}\"]\nalgorithms = [\"{algorithm}\"]\njwks_file = {}\n",
            self.name(),
            Value::from(file.to_string_lossy()),
        ))
    }

    /// A token with these scopes, good for an hour.
    pub fn token(&self, jti: &str, scopes: &str) -> Result<String> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs();
        let head = json!({"alg": self.algorithm, "kid": self.algorithm, "typ": "JWT"});
        let mut claims = json!({
            "iss": self.name(), "aud": AUDIENCE, "sub": "service-account-1", "client_id": "web", "jti": jti,
            "iat": now - 10, "exp": now + 3600, "scope": scopes, "note": "",
        });
        let room = CLAIMS.saturating_sub(claims.to_string().len());
        claims["note"] = "x".repeat(room).into();
        let input = format!("{}.{}", b64(head.to_string()), b64(claims.to_string()));
        Ok(format!("{input}.{}", b64(self.sign(input.as_bytes())?)))
    }

    fn sign(&self, input: &[u8]) -> Result<Vec<u8>> {
        let random = SystemRandom::new();
        let failed = |_| anyhow!("a token could not be signed");
        Ok(match &self.key {
            SigningKey::Hmac(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input).as_ref().to_vec()
            }
            SigningKey::Ecdsa(key) => key.sign(&random, input).map_err(failed)?.as_ref().to_vec(),
            SigningKey::Rsa(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                key.sign(&RSA_PKCS1_SHA256, &random, input, &mut signature).map_err(failed)?;
                signature
            }
        })
    }
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_the_lengths_of_the_peers() {
        let lengths = Issuer::all().unwrap().map(|i| i.token("t-000001", "a00:read").unwrap().len());
        assert_eq!(lengths, [480, 779, 523]);
    }
}
