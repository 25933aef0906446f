//! One issuer: its rules, its keys as they are now, and what became of fetching them.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use portcullis_common::reason::Reason;
use serde::Serialize;
use tokio::{sync::watch, time::Instant};

use super::{
    Document, IssuerSettings, KeySource, RemoteKeys, TokenRules, Verified, VerifierError,
    algorithm::Algorithm,
    claims,
    jws::{Jws, short_type},
    keys,
    keys::VerifyingKey,
    vouch::{Vouched, Voucher},
};

/// One configured issuer.
pub(super) struct Issuer {
    pub name: Arc<str>,
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    rules: TokenRules,
    leeway: i64,
    pub source: KeySource,
    keys: ArcSwapOption<KeySet>,
    pub voucher: Arc<Voucher>,
    pub progress: Mutex<Progress>,
    /// The number of fetches that have ended. Whoever waits for one looks here.
    pub ended: watch::Sender<u64>,
    /// Has the keys fetched now.
    pub wanted: tokio::sync::Notify,
}

/// Keys as they were read at one time.
struct KeySet {
    keys: Arc<[VerifyingKey]>,
    generation: u64,
    digest: Vec<u8>,
}

/// What became of reading the keys.
#[derive(Clone, Debug, Default)]
pub(super) struct Progress {
    pub good: u64,
    pub failed: u64,
    /// When the last one began.
    pub begun: Option<Instant>,
    pub is_going: bool,
    /// Unix seconds of the last good one.
    pub fetched: Option<i64>,
    pub error: Option<String>,
}

/// How an issuer stands, for people and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct IssuerStatus {
    /// `iss`.
    pub issuer: String,
    /// Where its keys come from: `file`, `url` or `discovery`.
    pub source: &'static str,
    /// Whether its tokens are verified.
    pub ready: bool,
    /// Usable keys.
    pub keys: usize,
    /// How often they have changed.
    pub generation: u64,
    /// Times they were read.
    pub refreshes: u64,
    /// Times they could not be.
    pub failures: u64,
    /// Seconds since they were last read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age_seconds: Option<i64>,
    /// Why they could not be read the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Issuer {
    /// Reads keys from a file at once; those of a server are fetched later, by [`super::Verifier::keep`].
    pub fn new(settings: IssuerSettings, leeway: Duration) -> Result<Self, VerifierError> {
        let IssuerSettings { issuer, audience, algorithms: names, keys: source, rules } = settings;
        let algorithms = names
            .into_iter()
            .map(|name| name.parse().map_err(|_| VerifierError::Algorithm { issuer: issuer.clone(), name }))
            .collect::<Result<Vec<Algorithm>, _>>()?;
        if algorithms.is_empty() {
            return Err(VerifierError::NoAlgorithms { issuer });
        }
        let rules = TokenRules { typ: rules.typ.iter().map(|t| short_type(t)).collect(), ..rules };
        let this = Self {
            name: issuer.into(),
            audience,
            algorithms,
            leeway: seconds(rules.leeway.unwrap_or(leeway)),
            rules,
            keys: ArcSwapOption::empty(),
            voucher: Voucher::new(i64::MAX),
            source,
            progress: Mutex::default(),
            ended: watch::Sender::new(0),
            wanted: tokio::sync::Notify::new(),
        };
        if let Some(path) = this.source.path() {
            this.read_file(path)?;
        }
        Ok(this)
    }

    /// Reads the keys' file. Whether they changed.
    pub fn read_file(&self, path: &Path) -> Result<bool, VerifierError> {
        let (issuer, path) = (self.name.to_string(), PathBuf::from(path));
        let content = match fs::read(&path) {
            Ok(content) => zeroize::Zeroizing::new(content),
            Err(source) => return Err(VerifierError::Read { issuer, path, source }),
        };
        self.take(&content, i64::MAX).map_err(|why| VerifierError::Keys { issuer, path, why })
    }

    /// Takes what the keys' source holds, good until then. Whether the keys changed; refused, the old ones stay.
    pub fn take(&self, content: &[u8], good_until: i64) -> Result<bool, String> {
        let digest = digest::digest(&digest::SHA256, content).as_ref().to_vec();
        let old = self.keys.load();
        if old.as_ref().is_some_and(|old| old.digest == digest) {
            return Ok(false);
        }
        let keys = keys::read(&self.source, content, &self.algorithms)?;
        self.voucher.extend(good_until);
        self.put(keys.into(), digest);
        Ok(true)
    }

    /// Puts keys under a new number, also the first ones: what was denied for want of them is asked again.
    fn put(&self, keys: Arc<[VerifyingKey]>, digest: Vec<u8>) {
        let generation = self.voucher.generation() + 1;
        self.keys.store(Some(Arc::new(KeySet { keys, generation, digest })));
        // After the keys: who finds the new number finds the new keys.
        self.voucher.renew();
    }

    /// The same keys under another number: what rested on them is verified again.
    pub fn refresh_generation(&self) {
        if let Some(old) = self.keys.load_full() {
            self.put(Arc::clone(&old.keys), old.digest.clone());
        }
    }

    /// Verifies what was taken apart at `now`, by the keys as they are, and says what that rests on.
    pub fn judge(&self, mut jws: Jws<'_>, now: i64) -> (Result<Verified, Reason>, Vouched) {
        let mut vouched = Vouched::by(&self.voucher);
        let keys = self.keys.load();
        let Some(keys) = keys.as_ref() else { return (Err(Reason::IssuerNotReady), vouched) };
        vouched.at = keys.generation;
        let begins = claims::begins(&jws.claims).saturating_sub(self.leeway);
        let status = self.check(&mut jws, keys, now).map(|(identity, until)| {
            vouched.until = until;
            Verified { identity, claims: jws.claims }
        });
        if matches!(status, Err(Reason::TokenNotYetValid)) {
            vouched.until = begins;
        }
        (status, vouched)
    }

    fn check(&self, jws: &mut Jws<'_>, keys: &KeySet, now: i64) -> Result<claims::Checked, Reason> {
        if !self.takes_type(jws.typ.as_deref()) {
            return Err(Reason::TokenMalformed);
        }
        self.authenticate(jws.algorithm, jws.kid.as_deref(), jws.pieces(), keys, now)?;
        let expect = claims::Expect {
            audience: &self.audience,
            leeway: self.leeway,
            now,
            max_age: self.rules.max_age.map(seconds),
            required: &self.rules.required_claims,
            needs_expiry: true,
            require_bound: self.rules.require_bound,
        };
        let algorithm = jws.algorithm.name();
        let about = claims::About { issuer: &self.name, algorithm, key_id: jws.kid.take() };
        claims::check(&jws.claims, about, &expect)
    }

    /// What a token says that was verified before: nothing of it is asked again.
    pub fn reread(&self, mut jws: Jws<'_>) -> Option<Verified> {
        let about =
            claims::About { issuer: &self.name, algorithm: jws.algorithm.name(), key_id: jws.kid.take() };
        let identity = claims::read(&jws.claims, about).ok()?;
        Some(Verified { identity, claims: jws.claims })
    }

    /// A document of this type (in short form) that the issuer signed; nothing is asked of its claims.
    pub fn open(&self, text: &str, typ: &str, now: i64) -> Result<Document, Reason> {
        let jws = Jws::parse(text)?;
        if jws.typ.as_deref() != Some(typ) {
            return Err(Reason::TokenMalformed);
        }
        self.authenticate_raw(jws.algorithm, jws.kid.as_deref(), jws.pieces(), now)?;
        Ok(Document { kid: jws.kid, claims: jws.claims })
    }

    /// Whether one of the keys signed, by an algorithm that the issuer uses: what was signed, and the signature.
    pub fn authenticate_raw(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        pieces: (&[u8], &[u8]),
        now: i64,
    ) -> Result<(), Reason> {
        let keys = self.keys.load();
        let keys = keys.as_ref().ok_or(Reason::IssuerNotReady)?;
        self.authenticate(algorithm, kid, pieces, keys, now)
    }

    fn authenticate(
        &self,
        algorithm: Algorithm,
        kid: Option<&str>,
        (signed, signature): (&[u8], &[u8]),
        keys: &KeySet,
        now: i64,
    ) -> Result<(), Reason> {
        if !self.algorithms.contains(&algorithm) {
            return Err(Reason::AlgorithmRefused);
        }
        if !self.voucher.is_good(now) {
            return Err(Reason::KeysStale);
        }
        let key = keys.find(kid, algorithm)?;
        if key.verify(algorithm, signed, signature) { Ok(()) } else { Err(Reason::SignatureInvalid) }
    }

    fn takes_type(&self, typ: Option<&str>) -> bool {
        if self.rules.typ.is_empty() {
            return typ.is_none_or(|t| t == "jwt" || t == "at+jwt");
        }
        typ.is_some_and(|typ| self.rules.typ.iter().any(|t| t == typ))
    }

    /// How its keys are fetched, where they are.
    pub fn remote(&self) -> Option<&RemoteKeys> {
        match &self.source {
            KeySource::Remote(remote) => Some(remote),
            _ => None,
        }
    }

    pub fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn status(&self, now: i64) -> IssuerStatus {
        let (keys, progress) = (self.keys.load(), self.progress().clone());
        IssuerStatus {
            issuer: self.name.to_string(),
            source: match self.remote() {
                None => "file",
                Some(RemoteKeys { url: Some(_), .. }) => "url",
                Some(_) => "discovery",
            },
            ready: keys.is_some() && self.voucher.is_good(now),
            keys: keys.as_ref().map_or(0, |k| k.keys.len()),
            generation: keys.as_ref().map_or(0, |k| k.generation),
            refreshes: progress.good,
            failures: progress.failed,
            age_seconds: progress.fetched.map(|t| (now - t).max(0)),
            error: progress.error,
        }
    }
}

impl KeySet {
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&VerifyingKey, Reason> {
        pick(&self.keys, kid, algorithm)
    }
}

/// The one key that may have signed: the one that the `kid` names, else the only one without a `kid` (or, for a token
/// without one, the only one at all) that fits. Several keys are never tried in turn.
pub(super) fn pick<'a>(
    keys: &'a [VerifyingKey],
    kid: Option<&str>,
    algorithm: Algorithm,
) -> Result<&'a VerifyingKey, Reason> {
    if let Some(key) = keys.iter().find(|k| kid.is_some() && k.kid.as_deref() == kid) {
        return if key.fits(algorithm) { Ok(key) } else { Err(Reason::AlgorithmRefused) };
    }
    let mut fitting = keys.iter().filter(|k| (kid.is_none() || k.kid.is_none()) && k.fits(algorithm));
    match (fitting.next(), fitting.next()) {
        (Some(key), None) => Ok(key),
        _ => Err(Reason::KeyUnknown),
    }
}

pub(super) fn seconds(d: Duration) -> i64 {
    i64::try_from(d.as_secs()).unwrap_or(i64::MAX)
}
