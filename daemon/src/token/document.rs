//! Signed documents that are no tokens: a JWS under one key and algorithm of the configuration.

use std::{fs, path::Path};

use serde_json::{Map, Value};
use zeroize::Zeroizing;

use super::{
    KeySource,
    algorithm::Algorithm,
    jws::Jws,
    keys::{self, VerifyingKey},
};

/// A key by which documents are verified.
pub struct DocumentKey {
    keys: Vec<VerifyingKey>,
    algorithm: Algorithm,
}

/// A document whose signature holds.
#[derive(Debug)]
pub struct Document {
    /// The name of the key, as its header says.
    pub kid: Option<String>,
    /// What was signed.
    pub claims: Map<String, Value>,
}

impl DocumentKey {
    /// Reads a key from a file: a secret for `HS256` and its like, else a public key or certificate in PEM. The error
    /// says what is wrong with it.
    pub fn load(path: &Path, algorithm: &str) -> Result<Self, String> {
        let algorithm: Algorithm = algorithm
            .parse()
            .map_err(|_| format!("`{algorithm}` is not an algorithm; use one such as `RS256` or `ES256`"))?;
        let content = Zeroizing::new(fs::read(path).map_err(|e| format!("cannot be read: {e}"))?);
        let path = path.to_owned();
        let source = if matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512) {
            KeySource::HmacFile { path, kid: None }
        } else {
            KeySource::PemFile { path, kid: None }
        };
        let keys = keys::read(&source, &content, &[algorithm])?;
        Ok(Self { keys, algorithm })
    }

    /// The document, where the key's signature over it holds.
    pub fn verify(&self, text: &str) -> Option<Document> {
        let jws = Jws::parse(text).ok().filter(|jws| jws.algorithm == self.algorithm)?;
        let holds = self.keys.iter().any(|k| k.verify(jws.algorithm, jws.signing_input, &jws.signature));
        holds.then_some(Document { kid: jws.kid, claims: jws.claims })
    }
}

impl std::fmt::Debug for DocumentKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "DocumentKey({:?})", self.algorithm)
    }
}
