//! Verdicts and identities in memory.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use bytes::Bytes;
use moka::sync::Cache;
use portcullis_common::fingerprint::AllowFingerprint;

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
    /// Whose token it is about; revocation is asked of it on every hit.
    pub token: Option<Fingerprints>,
    /// What selectors go by; they are asked on every hit, too.
    pub names: Option<Arc<Names>>,
    /// What its token's verification rests on; asked on every hit.
    pub vouched: Option<Vouched>,
    /// What its token's sender must prove; asked on every hit.
    pub confirmation: Option<Arc<Confirmation>>,
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
    /// How a use of its token is noted, where it is.
    pub uses: Option<Arc<Uses>>,
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
pub type Identities = Cache<AllowFingerprint, Live, Uniform>;

/// A verified token that was seen lately.
#[derive(Clone, Debug)]
pub struct Live {
    /// What it says of itself.
    pub identity: Arc<Identity>,
    /// Its names.
    pub token: Fingerprints,
    /// What selectors go by.
    pub names: Arc<Names>,
    /// What its verification rests on; asked on every hit.
    pub vouched: Option<Vouched>,
    /// How its use is noted, where it is.
    pub uses: Option<Arc<Uses>>,
}

/// A bounded cache. Lifetimes are checked on every hit by whoever reads it.
pub fn bounded<K, V>(entries: u64) -> Cache<K, V, Uniform>
where
    K: std::hash::Hash + Eq + Send + Sync + 'static,
    V: Clone + Send + Sync + 'static,
{
    Cache::builder().max_capacity(entries).build_with_hasher(Uniform)
}
