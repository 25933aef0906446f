//! Who is revoked, as the decision path asks on every request.
//!
//! The revocations of record in memory, too: the plane keeps no second copy. Many small shards, so that no write
//! ever moves more than some thousands of entries, however many there are.

use std::{
    collections::HashMap,
    hash::{BuildHasherDefault, Hasher},
    sync::{
        PoisonError, RwLock, RwLockReadGuard,
        atomic::{AtomicU64, Ordering},
    },
};

use portcullis_common::fingerprint::DenyFingerprint;

use super::{ClaimId, Selectors};
use crate::clock::WallTime;

/// At ten million tokens a shard holds some 1,200.
pub(super) const SHARDS: usize = 8192;

/// Hashes fingerprints, which are uniform already and made under a secret key.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Uniform(u64);

impl Hasher for Uniform {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for word in bytes.chunks_exact(8) {
            self.0 ^= word.iter().fold(0, |w, b| w << 8 | u64::from(*b));
        }
    }
}

/// A map by fingerprint.
pub(super) type ByFingerprint<V> = HashMap<DenyFingerprint, V, BuildHasherDefault<Uniform>>;

/// What stands for a revoked token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Until when: the latest of its claims.
    pub until: WallTime,
    /// Its claim; [`Standing::SEVERAL`] where it has more than one.
    pub claim: ClaimId,
}

impl Standing {
    /// No claim has this id.
    pub const SEVERAL: ClaimId = ClaimId(0);
}

type Shard = ByFingerprint<Standing>;

/// Revoked fingerprints with the time until which they are. Reads take one uncontended lock of a shard.
#[derive(Debug)]
pub struct Index {
    /// Revocations by what tokens say of themselves.
    pub selectors: Selectors,
    shards: Box<[RwLock<Shard>]>,
    epoch: AtomicU64,
}

impl Default for Index {
    fn default() -> Self {
        let shards = (0..SHARDS).map(|_| RwLock::default()).collect();
        Self { selectors: Selectors::default(), shards, epoch: AtomicU64::new(0) }
    }
}

impl Index {
    fn shard(&self, f: DenyFingerprint) -> &RwLock<Shard> {
        // Fingerprints are uniform: any bits serve, but for those that the shard's own table goes by.
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the number of shards")]
        &self.shards[(f.0[1] >> 20) as usize % SHARDS]
    }

    /// Whether a token is revoked at this time.
    pub fn is_revoked(&self, f: DenyFingerprint, now: WallTime) -> bool {
        // A poisoned lock means that a writer died half-way: refuse rather than guess.
        self.shard(f).read().map_or(true, |shard| shard.get(&f).is_some_and(|s| s.until > now))
    }

    /// Counts changes: equal before and after means that nothing was revoked in between.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn standing(&self, f: DenyFingerprint) -> Option<Standing> {
        read(self.shard(f)).get(&f).copied()
    }

    /// Every token of one shard, from 0 to [`SHARDS`].
    pub(super) fn tokens(&self, shard: usize) -> Vec<(DenyFingerprint, WallTime)> {
        self.shards.get(shard).map_or_else(Vec::new, |s| read(s).iter().map(|(f, s)| (*f, s.until)).collect())
    }

    pub(super) fn set(&self, f: DenyFingerprint, standing: Option<Standing>) {
        let mut shard = self.shard(f).write().unwrap_or_else(PoisonError::into_inner);
        match standing {
            Some(standing) => shard.insert(f, standing),
            None => shard.remove(&f),
        };
        drop(shard);
        self.epoch.fetch_add(1, Ordering::Release);
    }
}

fn read(shard: &RwLock<Shard>) -> RwLockReadGuard<'_, Shard> {
    shard.read().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_holds_until_its_time() {
        let index = Index::default();
        let f = DenyFingerprint([1, 2]);
        index.set(f, Some(Standing { until: WallTime(10), claim: ClaimId(1) }));
        assert!(index.is_revoked(f, WallTime(9)));
        assert!(!index.is_revoked(f, WallTime(10)));
        let before = index.epoch();
        index.set(f, None);
        assert!(!index.is_revoked(f, WallTime(9)));
        assert_ne!(index.epoch(), before);
    }

    #[test]
    fn both_words_of_a_fingerprint_are_hashed() {
        use std::hash::Hash as _;
        let hash = |f: [u64; 2]| {
            let mut h = Uniform::default();
            DenyFingerprint(f).hash(&mut h);
            h.finish()
        };
        assert_ne!(hash([1, 2]), hash([2, 2]));
        assert_ne!(hash([1, 2]), hash([1, 3]));
    }
}
