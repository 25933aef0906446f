//! The status list of the API keys that this daemon issues.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::{
    digest,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use rustls::pki_types::{PrivateKeyDer, pem::PemObject as _};
use serde_json::json;
use thiserror::Error;

use super::{bits::List, cwt};
use crate::token::{ApiKey, ApiKeys, issuer::seconds};

/// How often the keys are looked at, at most.
const LOOK: i64 = 5;

/// How the list is published.
#[derive(Clone, Debug)]
pub struct PublisherSettings {
    /// Its address, as keys name it.
    pub uri: String,
    /// The private key (PEM, P-256).
    pub key_file: PathBuf,
    /// The key's name.
    pub kid: String,
    /// How long consumers may keep it.
    pub ttl: Duration,
    /// How long it is good.
    pub lifetime: Duration,
}

/// Why it cannot be published.
#[derive(Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum PublishError {
    #[error("the key of the status list, `{path}`, {why}")]
    Key { path: PathBuf, why: String },
    #[error("the status list cannot be {0}")]
    Failed(&'static str),
}

/// The list as it is published.
#[derive(Debug)]
pub struct Published {
    /// As a JWT.
    pub jwt: String,
    /// As a CWT.
    pub cwt: Vec<u8>,
    /// Changes with the list.
    pub tag: String,
    /// Unix seconds from which on it is good for nothing.
    pub expires_at: i64,
    issued_at: i64,
    list: List,
}

#[derive(Default)]
struct Current {
    published: Option<Arc<Published>>,
    looked: i64,
    /// What vouches for the keys had this number then.
    generation: u64,
}

/// Publishes it.
pub struct Publisher {
    settings: PublisherSettings,
    pair: EcdsaKeyPair,
    keys: Arc<ApiKeys>,
    current: Mutex<Current>,
}

impl Publisher {
    /// Reads the key.
    pub fn new(settings: PublisherSettings, keys: Arc<ApiKeys>) -> Result<Self, PublishError> {
        let pair = read_key(&settings.key_file)?;
        Ok(Self { settings, pair, keys, current: Mutex::default() })
    }

    /// How long consumers may keep it.
    pub fn ttl(&self) -> i64 {
        seconds(self.settings.ttl)
    }

    /// The key set that verifies it (RFC 7517).
    pub fn jwks(&self) -> String {
        let point = self.pair.public_key().as_ref();
        let half = |range: std::ops::Range<usize>| point.get(range).map(|half| URL_SAFE_NO_PAD.encode(half));
        let jwk = json!({
            "kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": self.settings.kid,
            "x": half(1..33), "y": half(33..65),
        });
        json!({"keys": [jwk]}).to_string()
    }

    /// The list as it is. Made anew where keys changed, and in time before it ends. `is_revoked` tells of keys that are
    /// revoked and not disabled.
    pub fn current(
        &self,
        now: i64,
        is_revoked: impl Fn(&ApiKey) -> bool,
    ) -> Result<Arc<Published>, PublishError> {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.keys.generation();
        let is_fresh = current.generation == generation && (0..LOOK).contains(&(now - current.looked));
        if let Some(published) = current.published.as_ref().filter(|_| is_fresh) {
            return Ok(Arc::clone(published));
        }
        let list = self.list(now, is_revoked);
        let half = seconds(self.settings.lifetime) / 2;
        let old =
            current.published.as_ref().filter(|p| p.list == list && now < p.issued_at.saturating_add(half));
        let published = match old {
            Some(old) => Arc::clone(old),
            None => Arc::new(self.publish(list, now)?),
        };
        *current = Current { published: Some(Arc::clone(&published)), looked: now, generation };
        Ok(published)
    }

    fn list(&self, now: i64, is_revoked: impl Fn(&ApiKey) -> bool) -> List {
        let keys = self.keys.list();
        let end = keys.iter().filter_map(|k| k.status_index).max().unwrap_or(0);
        // A list that is as long as it may become tells nothing of how many keys there are.
        let mut list = List::zeros((end as usize + 1).next_power_of_two().max(1 << 17));
        for key in keys {
            if let Some(index) = key.status_index.filter(|_| !key.is_good(now) || is_revoked(&key)) {
                list.set(index);
            }
        }
        list
    }

    fn publish(&self, list: List, now: i64) -> Result<Published, PublishError> {
        let packed = list.packed().map_err(|_| PublishError::Failed("packed"))?;
        let (ttl, expires_at) = (self.ttl(), now.saturating_add(seconds(self.settings.lifetime)));
        let PublisherSettings { uri, kid, .. } = &self.settings;
        let header = json!({"alg": "ES256", "kid": kid, "typ": "statuslist+jwt"});
        let claims = json!({
            "sub": uri, "iat": now, "exp": expires_at, "ttl": ttl,
            "status_list": {"bits": list.bits(), "lst": URL_SAFE_NO_PAD.encode(&packed)},
        });
        let encode = |v: serde_json::Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let jwt = format!("{input}.{}", URL_SAFE_NO_PAD.encode(self.sign(input.as_bytes())?));
        let bits = list.bits();
        let content = cwt::Content { uri, issued_at: now, expires_at, ttl, bits, packed };
        let cwt = cwt::write(content, kid, |bytes| self.sign(bytes))?;
        let digest = digest::digest(&digest::SHA256, jwt.as_bytes());
        let tag = crate::hex::encode(digest.as_ref().get(..12).unwrap_or_default());
        Ok(Published { jwt, cwt, tag, expires_at, issued_at: now, list })
    }

    fn sign(&self, bytes: &[u8]) -> Result<Vec<u8>, PublishError> {
        let signed = self.pair.sign(&SystemRandom::new(), bytes);
        signed.map(|s| s.as_ref().to_vec()).map_err(|_| PublishError::Failed("signed"))
    }
}

fn read_key(path: &Path) -> Result<EcdsaKeyPair, PublishError> {
    let fail = |why: String| PublishError::Key { path: path.to_owned(), why };
    let mode = fs::metadata(path).map_err(|e| fail(format!("cannot be read: {e}")))?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(fail("can be read or written by others: run `chmod 600` on it".to_owned()));
    }
    let der =
        PrivateKeyDer::from_pem_file(path).map_err(|e| fail(format!("holds no private key in PEM: {e}")))?;
    let kind = &ECDSA_P256_SHA256_FIXED_SIGNING;
    let pair = match &der {
        PrivateKeyDer::Pkcs8(der) => EcdsaKeyPair::from_pkcs8(kind, der.secret_pkcs8_der()),
        other => EcdsaKeyPair::from_private_key_der(kind, other.secret_der()),
    };
    pair.map_err(|_| {
        fail("is no P-256 key: make one by `openssl ecparam -name prime256v1 -genkey -noout`".to_owned())
    })
}
