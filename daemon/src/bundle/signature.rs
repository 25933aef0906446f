//! `.signatures.json`: a JWS over the names and digests of a bundle's files, as OPA signs bundles.

use std::collections::BTreeMap;

use aws_lc_rs::digest;
use serde::Deserialize;
use serde_json::Value;

use super::{BundleError, manifest::MANIFEST};
use crate::token::DocumentKey;

pub(super) const SIGNATURES: &str = ".signatures.json";

/// By what a bundle must be signed.
#[derive(Debug)]
pub struct Verification {
    /// The key.
    pub key: DocumentKey,
    /// The name of the key, where signatures name one.
    pub key_id: Option<String>,
    /// The scope that signatures must have.
    pub scope: Option<String>,
}

#[derive(Deserialize)]
struct Signatures {
    signatures: Vec<String>,
}

/// What a signature covers.
#[derive(Deserialize)]
struct Signed {
    files: Vec<Digest>,
    #[serde(default)]
    keyid: Option<String>,
    #[serde(default)]
    scope: Option<String>,
}

#[derive(Deserialize)]
struct Digest {
    name: String,
    hash: String,
    #[serde(default)]
    algorithm: Option<String>,
}

impl Verification {
    /// Refuses files that are not, all of them and no others, those that were signed.
    pub(super) fn check(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), BundleError> {
        self.holds(files).map_err(BundleError::Signature)
    }

    fn holds(&self, files: &BTreeMap<String, Vec<u8>>) -> Result<(), String> {
        let text = files.get(SIGNATURES).ok_or("there is no `.signatures.json`, and the configuration has a key: sign it (`opa build --signing-key`)")?;
        let signatures: Signatures = serde_json::from_slice(text)
            .map_err(|e| format!("`.signatures.json` is not well formed: {e}"))?;
        let [jws] = signatures.signatures.as_slice() else {
            return Err(format!(
                "`.signatures.json` holds {} signatures instead of one",
                signatures.signatures.len()
            ));
        };
        let document =
            self.key.verify(jws).ok_or("the signature is not of the configured key and algorithm")?;
        let signed: Signed = serde_json::from_value(Value::Object(document.claims))
            .map_err(|e| format!("the signed list of files is not well formed: {e}"))?;
        let named = document.kid.or(signed.keyid);
        if self.key_id.is_some() && named.is_some() && named != self.key_id {
            return Err(format!("it is signed by the key `{}`", named.unwrap_or_default()));
        }
        if self.scope.is_some() && signed.scope != self.scope {
            return Err(format!("its scope is `{}`", signed.scope.unwrap_or_default()));
        }
        let mut left: BTreeMap<&str, &Vec<u8>> =
            files.iter().filter(|(name, _)| *name != SIGNATURES).map(|(n, c)| (n.as_str(), c)).collect();
        for file in &signed.files {
            let name = file.name.trim_start_matches('/');
            let content = left
                .remove(name)
                .ok_or_else(|| format!("`{name}` is signed and not there, or signed twice"))?;
            let algorithm = file.algorithm.as_deref().unwrap_or("SHA-256");
            if hashed(name, content, algorithm)? != file.hash.to_ascii_lowercase() {
                return Err(format!("`{name}` is not what was signed"));
            }
        }
        match left.keys().next() {
            Some(name) => Err(format!("`{name}` is not among the files that were signed")),
            None => Ok(()),
        }
    }
}

/// The digest of a file: of documents, that of their canonical form (members sorted, no blanks).
fn hashed(name: &str, content: &[u8], algorithm: &str) -> Result<String, String> {
    let algorithm = match algorithm {
        "SHA-256" => &digest::SHA256,
        "SHA-384" => &digest::SHA384,
        "SHA-512" => &digest::SHA512,
        "SHA-512-256" => &digest::SHA512_256,
        other => {
            return Err(format!(
                "`{name}` is hashed with {other}, which is not taken; use SHA-256, SHA-384 or SHA-512"
            ));
        }
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    let structured = last == MANIFEST || [".json", ".yaml", ".yml"].iter().any(|e| last.ends_with(e));
    let canonical;
    let bytes = if structured {
        let text = std::str::from_utf8(content).map_err(|_| format!("`{name}` is not UTF-8"))?;
        let value =
            crate::policy::read_document(text).map_err(|e| format!("`{name}` does not parse: {e}"))?;
        // Members of `serde_json`'s maps are sorted.
        canonical = value.to_string();
        canonical.as_bytes()
    } else {
        content
    };
    Ok(crate::hex::encode(digest::digest(algorithm, bytes).as_ref()))
}
