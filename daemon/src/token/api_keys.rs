//! Opaque API keys that this daemon issues.
//!
//! Guarantees: a key's text exists in the answer to whoever had it issued and nowhere else; the file holds a keyed hash
//! of it. A change is on disk, whole, before it is acknowledged, and verdicts on a key that was disabled or rotated end
//! with it. A text with a wrong checksum is refused before anything is looked up.
//!
//! Leaves to others: telling the kernel of a disabled key (`serve`), what a key may do (`policy`).

mod file;
mod format;

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use arc_swap::ArcSwap;
use aws_lc_rs::{hmac, rand};
use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use thiserror::Error;

use self::file::Content;
pub use self::format::holds_one as holds_api_key;
use super::{
    FingerprintKey, Identity, Judgement, Token, Verified,
    vouch::{Vouched, Voucher},
};

/// Most keys in one store.
const MAX_KEYS: usize = 1_000_000;

/// A key as it is kept and shown: everything but its text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiKey {
    /// Its id, a part of its text.
    pub id: String,
    /// Whose it is.
    pub subject: String,
    /// The application that uses it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// What it may be used for.
    #[serde(default)]
    pub scopes: Vec<String>,
    /// Its holder's roles.
    #[serde(default)]
    pub roles: Vec<String>,
    /// When it was issued, in Unix seconds.
    pub created: i64,
    /// Until when it is good, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires: Option<i64>,
    /// When it was disabled, in Unix seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub disabled: Option<i64>,
    /// The key that took its place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replaced_by: Option<String>,
    /// Who had it issued.
    pub actor: String,
    /// Its name in the kernel, under the fingerprint key of `key_id`.
    pub fingerprint: String,
    /// The fingerprint key.
    pub key_id: u32,
    /// Its entry in the status list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status_index: Option<u32>,
}

/// A key beside the hash that it is recognised by.
#[derive(Clone, Serialize, Deserialize)]
struct Stored {
    #[serde(flatten)]
    key: ApiKey,
    hash: String,
}

/// What a new key is to be.
#[derive(Clone, Debug, Default)]
pub struct NewApiKey {
    /// Whose it is.
    pub subject: String,
    /// The application that uses it.
    pub client: Option<String>,
    /// What it may be used for.
    pub scopes: Vec<String>,
    /// Its holder's roles.
    pub roles: Vec<String>,
    /// Until when it is good, in Unix seconds.
    pub expires: Option<i64>,
    /// Who has it issued.
    pub actor: String,
}

/// Where keys are kept and how they look.
#[derive(Clone, Debug)]
pub struct ApiKeySettings {
    /// The file.
    pub file: PathBuf,
    /// What their texts begin with.
    pub prefix: String,
    /// `iss` of their identities.
    pub issuer: Arc<str>,
    /// The address of their status list, where one is published.
    pub status_uri: Option<String>,
}

/// Why a key was not issued or changed.
#[derive(Clone, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum ApiKeyError {
    #[error("the file of API keys `{path}` {why}")]
    File { path: PathBuf, why: String },
    #[error("there is no API key `{0}`: `portcullis keys list` shows them")]
    Unknown(String),
    #[error("the API key `{0}` is disabled or has expired: issue a new one")]
    Over(String),
    #[error("the API key's {0}")]
    Bad(&'static str),
    #[error("there are {MAX_KEYS} API keys, which is as many as may be")]
    Full,
    #[error("the system gave no random bytes for an API key")]
    NoRandomness,
}

type Keys = BTreeMap<String, Stored>;

/// The keys in force.
pub struct ApiKeys {
    settings: ApiKeySettings,
    fingerprints: Arc<FingerprintKey>,
    hash_key: hmac::Key,
    keys: ArcSwap<Keys>,
    voucher: Arc<Voucher>,
    /// Changes come one after the other; it holds what the file says beside the keys.
    writer: Mutex<Content>,
}

impl ApiKeys {
    /// Reads the file; one that is not there is made.
    pub fn open(settings: ApiKeySettings, fingerprints: Arc<FingerprintKey>) -> Result<Self, ApiKeyError> {
        let mut content = Content::load_or_create(&settings.file)?;
        if settings.status_uri.is_some() && content.number()? {
            content.store(&settings.file)?;
        }
        let hash_key = content.hash_key().ok_or_else(|| ApiKeyError::File {
            path: settings.file.clone(),
            why: "has no usable `hash_key`; restore it from a backup".to_owned(),
        })?;
        let keys = content.keys.iter().map(|k| (k.key.id.clone(), k.clone())).collect();
        let (keys, voucher) = (ArcSwap::from_pointee(keys), Voucher::new(i64::MAX));
        Ok(Self { settings, fingerprints, hash_key, keys, voucher, writer: Mutex::new(content) })
    }

    /// Whether a text means to be one of these keys.
    pub(super) fn claims(&self, text: &str) -> bool {
        text.strip_prefix(&self.settings.prefix).is_some_and(|rest| rest.starts_with('_'))
    }

    /// What a text that means to be a key is at `now`, in Unix seconds.
    pub(super) fn judge(&self, token: &Token, now: i64) -> Judgement {
        // Before the keys are read: a change behind this makes the number another one.
        let vouched = Vouched::by(&self.voucher);
        Judgement { status: self.find(token, now), vouched: Some(vouched) }
    }

    fn find(&self, token: &Token, now: i64) -> Result<Verified, Reason> {
        let id = format::id_of(token.as_str(), &self.settings.prefix).ok_or(Reason::TokenMalformed)?;
        let keys = self.keys.load();
        let stored = keys.get(id);
        // Hashed in any case: the time taken does not tell whether there is such an id.
        let tag = hmac::sign(&self.hash_key, token.as_bytes());
        let stored = stored
            .filter(|s| {
                subtle::ConstantTimeEq::ct_eq(s.hash.as_bytes(), crate::hex::encode(tag.as_ref()).as_bytes())
                    .into()
            })
            .ok_or(Reason::ApiKeyUnknown)?;
        if stored.key.disabled.is_some() {
            return Err(Reason::ApiKeyDisabled);
        }
        if stored.key.expires.is_some_and(|t| now >= t) {
            return Err(Reason::TokenExpired);
        }
        Ok(self.identity(&stored.key))
    }

    /// A key's identity, with claims named as a JWT names them.
    fn identity(&self, key: &ApiKey) -> Verified {
        let mut claims = Map::from_iter(
            [
                ("iss", Value::from(&*self.settings.issuer)),
                ("sub", key.subject.as_str().into()),
                ("jti", key.id.as_str().into()),
                ("iat", key.created.into()),
                ("scope", key.scopes.join(" ").into()),
                ("roles", key.roles.as_slice().into()),
            ]
            .map(|(name, value)| (name.to_owned(), value)),
        );
        let mut add = |name: &str, value: Value| claims.insert(name.to_owned(), value);
        if let Some(client) = &key.client {
            add("client_id", client.as_str().into());
        }
        if let Some(expires) = key.expires {
            add("exp", expires.into());
        }
        if let (Some(uri), Some(index)) = (&self.settings.status_uri, key.status_index) {
            add("status", json!({"status_list": {"idx": index, "uri": uri}}));
        }
        let identity = Identity {
            issuer: Arc::clone(&self.settings.issuer),
            subject: Some(key.subject.as_str().into()),
            token_id: Some(key.id.as_str().into()),
            key_id: None,
            session: None,
            client: key.client.as_deref().map(Box::from),
            issued_at: Some(key.created),
            expires_at: key.expires,
            not_before: None,
            scopes: key.scopes.iter().map(|s| Box::from(s.as_str())).collect(),
            algorithm: "api_key",
            confirmation: None,
        };
        Verified { identity, claims }
    }

    /// A number that changes with each change that ends verdicts.
    pub(super) fn generation(&self) -> u64 {
        self.voucher.generation()
    }

    /// All keys, by id.
    pub fn list(&self) -> Vec<ApiKey> {
        self.keys.load().values().map(|s| s.key.clone()).collect()
    }

    /// Keys that are good, and all.
    pub fn count(&self, now: i64) -> (usize, usize) {
        let keys = self.keys.load();
        (keys.values().filter(|s| s.key.is_good(now)).count(), keys.len())
    }

    /// Issues a key at `now`. Its text is given once. This waits for the disk.
    pub fn issue(&self, new: NewApiKey, now: i64) -> Result<(ApiKey, Token), ApiKeyError> {
        self.change(|keys| self.add(keys, new, now), false)
    }

    fn add(&self, keys: &mut Keys, new: NewApiKey, now: i64) -> Result<(ApiKey, Token), ApiKeyError> {
        new.check(now)?;
        if keys.len() >= MAX_KEYS {
            return Err(ApiKeyError::Full);
        }
        let mut random = zeroize::Zeroizing::new([0; 40]);
        rand::fill(&mut *random).map_err(|_| ApiKeyError::NoRandomness)?;
        let (id, text) = format::compose(&self.settings.prefix, &random);
        let token = Token::new(text);
        let NewApiKey { subject, client, scopes, roles, expires, actor } = new;
        let key = ApiKey {
            id: id.clone(),
            subject,
            client,
            scopes,
            roles,
            created: now,
            expires,
            disabled: None,
            replaced_by: None,
            actor,
            fingerprint: self.fingerprints.deny(&token).to_string(),
            key_id: self.fingerprints.id(),
            status_index: match &self.settings.status_uri {
                Some(_) => Some(free_index(&keys.values().filter_map(|s| s.key.status_index).collect())?),
                None => None,
            },
        };
        let hash = crate::hex::encode(hmac::sign(&self.hash_key, token.as_bytes()).as_ref());
        if keys.contains_key(&id) {
            return Err(ApiKeyError::NoRandomness);
        }
        keys.insert(id, Stored { key: key.clone(), hash });
        Ok((key, token))
    }

    /// Issues a key in place of another, which goes on for `overlap` seconds: the old one, the new one and its text.
    pub fn rotate(
        &self,
        id: &str,
        overlap: i64,
        actor: &str,
        now: i64,
    ) -> Result<(ApiKey, ApiKey, Token), ApiKeyError> {
        let rotated = |keys: &mut Keys| {
            let old = keys.get(id).ok_or_else(|| ApiKeyError::Unknown(id.to_owned()))?.key.clone();
            if !old.is_good(now) {
                return Err(ApiKeyError::Over(id.to_owned()));
            }
            // It lives as long as the old one was given, from now on.
            let expires = old.expires.map(|t| now.saturating_add((t - old.created).max(1)));
            let (subject, client) = (old.subject.clone(), old.client.clone());
            let (scopes, roles, actor) = (old.scopes.clone(), old.roles.clone(), actor.to_owned());
            let new = NewApiKey { subject, client, scopes, roles, expires, actor };
            let (new, token) = self.add(keys, new, now)?;
            let stored = keys.get_mut(id).ok_or_else(|| ApiKeyError::Unknown(id.to_owned()))?;
            stored.key.replaced_by = Some(new.id.clone());
            if overlap <= 0 {
                stored.key.disabled = Some(now);
            } else {
                let end = now.saturating_add(overlap);
                stored.key.expires = Some(stored.key.expires.map_or(end, |t| t.min(end)));
            }
            Ok((stored.key.clone(), new, token))
        };
        self.change(rotated, true)
    }

    /// Disables a key for good.
    pub fn disable(&self, id: &str, now: i64) -> Result<ApiKey, ApiKeyError> {
        let disabled = |keys: &mut Keys| {
            let stored = keys.get_mut(id).ok_or_else(|| ApiKeyError::Unknown(id.to_owned()))?;
            stored.key.disabled.get_or_insert(now);
            Ok(stored.key.clone())
        };
        self.change(disabled, true)
    }

    /// Changes the keys: on disk first, then in force.
    fn change<T>(
        &self,
        work: impl FnOnce(&mut Keys) -> Result<T, ApiKeyError>,
        ends_verdicts: bool,
    ) -> Result<T, ApiKeyError> {
        let mut content = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut keys = Keys::clone(&self.keys.load());
        let done = work(&mut keys)?;
        content.keys = keys.values().cloned().collect();
        if let Err(e) = content.store(&self.settings.file) {
            // What is in force is what the file held before.
            content.keys = self.keys.load().values().cloned().collect();
            return Err(e);
        }
        self.keys.store(Arc::new(keys));
        if ends_verdicts {
            self.voucher.renew();
        }
        Ok(done)
    }
}

impl ApiKey {
    /// Whether it may be used at `now`, in Unix seconds.
    pub fn is_good(&self, now: i64) -> bool {
        self.disabled.is_none() && self.expires.is_none_or(|t| now < t)
    }

    /// Its name in the kernel, with the fingerprint key that it was made under.
    pub fn fingerprint(&self) -> Option<(DenyFingerprint, u32)> {
        Some((self.fingerprint.parse().ok()?, self.key_id))
    }
}

/// An entry of the status list that no key has, at random: neighbours in the list are no neighbours in time.
fn free_index(used: &HashSet<u32>) -> Result<u32, ApiKeyError> {
    // At most a quarter is in use, so that a few draws find one.
    let room = (used.len() + 1).saturating_mul(4).next_power_of_two().max(1 << 17);
    let mask = u32::try_from(room - 1).unwrap_or(u32::MAX);
    loop {
        let mut bytes = [0; 4];
        rand::fill(&mut bytes).map_err(|_| ApiKeyError::NoRandomness)?;
        let index = u32::from_le_bytes(bytes) & mask;
        if !used.contains(&index) {
            return Ok(index);
        }
    }
}

impl NewApiKey {
    fn check(&self, now: i64) -> Result<(), ApiKeyError> {
        let text = |s: &str| !s.is_empty() && s.len() <= 200 && crate::plain::is_plain(s);
        if !text(&self.subject) {
            return Err(ApiKeyError::Bad("subject must be printable and of 1 to 200 bytes"));
        }
        if !self.client.as_deref().is_none_or(text) {
            return Err(ApiKeyError::Bad("client must be printable and of 1 to 200 bytes"));
        }
        let word = |s: &String| text(s) && !s.contains(' ');
        if self.scopes.len() > 100
            || !self.scopes.iter().chain(&self.roles).all(word)
            || self.roles.len() > 100
        {
            return Err(ApiKeyError::Bad("scopes and roles must be up to 100 words without spaces"));
        }
        if self.expires.is_some_and(|t| t <= now) {
            return Err(ApiKeyError::Bad("expiry is past"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
