//! Verdicts and identities in memory.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use moka::sync::Cache;
use portcullis_common::fingerprint::AllowFingerprint;
use quick_cache::{UnitWeighter, sync::DefaultLifecycle};

use super::{Refusal, Ruling, limits::Rate};
use crate::{
    clock::WallTime,
    policy::Grant,
    record::Decided,
    revoke::{Fingerprints, Names},
    telemetry::Counted,
    token::{Confirmation, Identity, Vouched},
    usage::Uses,
};

/// A decision as the cache holds it.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// What to answer.
    pub ruling: Ruling,
    /// The data API's answer, as it goes out; empty where another door asked.
    pub body: Bytes,
    /// Which token it is about.
    pub whose: Whose,
    /// What it is limited to; asked on every hit.
    pub limits: Arc<[Rate]>,
    /// Until when it counts.
    pub until: WallTime,
    /// The policy set that gave it.
    pub generation: u64,
    /// How far an allow reaches, where the kernel holds it.
    pub grant: Grant,
    /// Whether the kernel was told to deny its request: then it stands for no other target.
    pub by_target: bool,
    /// What it was decided on, where decisions are recorded.
    pub about: Option<Arc<Decided>>,
    /// Whether it counts as a use of its token.
    pub is_use: bool,
    /// What is counted whenever it is given; nothing where the policy gave none.
    pub counted: Option<Counted>,
}

impl Verdict {
    /// Counts that it is given.
    pub fn count(&self) {
        if let Some(counted) = &self.counted {
            counted.note();
        }
    }

    /// How a use of its token is noted, where it is.
    pub fn uses(&self) -> Option<&Uses> {
        self.whose.live().filter(|_| self.is_use)?.uses.as_deref()
    }
}

/// Which token a verdict is about. What is said of it here is asked on every hit.
#[derive(Clone, Debug)]
pub enum Whose {
    /// None that could be read.
    Nobodys,
    /// One that is not valid.
    Invalid(Box<Invalid>),
    /// A valid one.
    Valid(Arc<Live>),
}

/// A token that is not valid.
#[derive(Clone, Debug)]
pub struct Invalid {
    /// Its names.
    pub token: Fingerprints,
    /// What is known of it all the same, where its sender did not prove to have it.
    pub live: Option<Arc<Live>>,
    /// What this rests on.
    pub vouched: Option<Vouched>,
}

impl Whose {
    /// Its names; revocation is asked of them.
    pub fn token(&self) -> Option<Fingerprints> {
        match self {
            Self::Nobodys => None,
            Self::Invalid(invalid) => Some(invalid.token),
            Self::Valid(live) => Some(live.token),
        }
    }

    /// What selectors go by.
    pub fn names(&self) -> Option<&Names> {
        match self {
            Self::Nobodys => None,
            Self::Invalid(invalid) => invalid.live.as_ref().map(|live| &live.names),
            Self::Valid(live) => Some(&live.names),
        }
    }

    /// Whether what it rests on still stands.
    pub fn is_current(&self, now: i64) -> bool {
        let vouched = match self {
            Self::Nobodys => None,
            Self::Invalid(invalid) => invalid.vouched.as_ref(),
            Self::Valid(live) => live.vouched.as_ref(),
        };
        vouched.is_none_or(|v| v.is_current(now))
    }

    /// A valid token.
    pub fn live(&self) -> Option<&Arc<Live>> {
        match self {
            Self::Valid(live) => Some(live),
            Self::Nobodys | Self::Invalid(_) => None,
        }
    }

    /// What a valid token's sender must prove.
    pub fn confirmation(&self) -> Option<&Arc<Confirmation>> {
        self.live()?.confirmation.as_ref()
    }
}

/// What the cache says of a request.
pub enum Hit {
    /// A verdict that counts.
    Verdict(Arc<Verdict>),
    /// One whose token was revoked since.
    Revoked(Arc<Verdict>),
}

/// What came of looking for a verdict.
pub struct Found {
    /// It, or why there is none.
    pub ruled: Result<Arc<Verdict>, Refusal>,
    /// What it was decided on, for the record.
    pub about: Option<Arc<Decided>>,
    /// Whether the cache had it.
    pub cached: bool,
}

impl Hit {
    /// What its verdict was decided on.
    pub fn about(&self) -> Option<Arc<Decided>> {
        match self {
            Self::Verdict(v) | Self::Revoked(v) => v.about.clone(),
        }
    }
}

impl Found {
    /// One that was found.
    pub fn verdict(verdict: Arc<Verdict>, cached: bool) -> Self {
        Self { about: verdict.about.clone(), ruled: Ok(verdict), cached }
    }

    /// None.
    pub const fn refused(refusal: Refusal, about: Option<Arc<Decided>>, cached: bool) -> Self {
        Self { ruled: Err(refusal), about, cached }
    }
}

/// Keys here are outputs of a secret keyed hash: their own bits are hash enough.
#[derive(Clone, Copy, Debug, Default)]
pub struct Uniform;

/// Folds the words of a key.
#[derive(Clone, Copy, Debug, Default)]
pub struct UniformHasher(u64);

impl Hasher for UniformHasher {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_ne_bytes(word));
        }
    }
    fn write_u64(&mut self, n: u64) {
        self.0 = self.0.rotate_left(32) ^ n;
    }
    fn write_usize(&mut self, _: usize) {
        // The length of a fixed-size key says nothing.
    }
}

impl BuildHasher for Uniform {
    type Hasher = UniformHasher;
    fn build_hasher(&self) -> UniformHasher {
        UniformHasher::default()
    }
}

/// Verdicts by the digest of their whole input.
pub type Verdicts = Cache<[u64; 2], Arc<Verdict>, Uniform>;
/// Identities by token text: what was verified once needs no second signature check until it expires.
pub type Identities = quick_cache::sync::Cache<AllowFingerprint, Arc<Live>, UnitWeighter, Uniform>;

/// A verified token that was seen lately, shared with its verdicts.
#[derive(Debug)]
pub struct Live {
    /// When it ends, in Unix seconds.
    pub expires_at: Option<i64>,
    /// What its sender must prove to have.
    pub confirmation: Option<Arc<Confirmation>>,
    /// Its names.
    pub token: Fingerprints,
    /// What selectors go by.
    pub names: Names,
    /// What it says of itself, where its text does not: whoever asks about a JWT shows it again.
    pub told: Option<Box<Told>>,
    /// What its verification rests on.
    pub vouched: Option<Vouched>,
    /// How its use is noted, where it is.
    pub uses: Option<Box<Uses>>,
}

/// What is known of an opaque token.
#[derive(Debug)]
pub struct Told {
    /// What was told of it.
    pub identity: Arc<Identity>,
    /// Its claims as JSON.
    pub claims: Box<str>,
}

/// A bounded cache of verdicts. Lifetimes are checked on every hit by whoever reads it.
pub fn verdicts(entries: u64) -> Verdicts {
    Cache::builder().max_capacity(entries).build_with_hasher(Uniform)
}

/// The same of identities.
pub fn identities(entries: u64) -> Identities {
    let count = usize::try_from(entries).unwrap_or(usize::MAX);
    quick_cache::sync::Cache::with(count, entries, UnitWeighter, Uniform, DefaultLifecycle::default())
}
