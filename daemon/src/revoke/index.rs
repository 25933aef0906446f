//! Who is revoked, as the decision path asks on every request.

use std::{
    collections::HashMap,
    sync::{
        RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use portcullis_common::fingerprint::DenyFingerprint;

use crate::clock::WallTime;

const SHARDS: usize = 32;

/// Revoked fingerprints with the time until which they are. Reads take one uncontended lock of a shard.
#[derive(Debug)]
pub struct Index {
    shards: [RwLock<HashMap<DenyFingerprint, WallTime>>; SHARDS],
    epoch: AtomicU64,
}

impl Default for Index {
    fn default() -> Self {
        Self { shards: std::array::from_fn(|_| RwLock::default()), epoch: AtomicU64::new(0) }
    }
}

impl Index {
    fn shard(&self, f: DenyFingerprint) -> &RwLock<HashMap<DenyFingerprint, WallTime>> {
        // Fingerprints are uniform: any bits serve.
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the number of shards")]
        &self.shards[f.0[1] as usize % SHARDS]
    }

    /// Whether a token is revoked at this time.
    pub fn is_revoked(&self, f: DenyFingerprint, now: WallTime) -> bool {
        // A poisoned lock means that a writer died half-way: refuse rather than guess.
        self.shard(f).read().map_or(true, |shard| shard.get(&f).is_some_and(|until| *until > now))
    }

    /// Counts changes: equal before and after means that nothing was revoked in between.
    pub fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    pub(super) fn set(&self, f: DenyFingerprint, until: Option<WallTime>) {
        let mut shard = match self.shard(f).write() {
            Ok(shard) => shard,
            Err(poisoned) => poisoned.into_inner(),
        };
        match until {
            Some(until) => shard.insert(f, until),
            None => shard.remove(&f),
        };
        drop(shard);
        self.epoch.fetch_add(1, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revocation_holds_until_its_time() {
        let index = Index::default();
        let f = DenyFingerprint([1, 2]);
        index.set(f, Some(WallTime(10)));
        assert!(index.is_revoked(f, WallTime(9)));
        assert!(!index.is_revoked(f, WallTime(10)));
        let before = index.epoch();
        index.set(f, None);
        assert!(!index.is_revoked(f, WallTime(9)));
        assert_ne!(index.epoch(), before);
    }
}
