//! The deny map: condemned fingerprints. Preallocated, never an LRU.

use aya::maps::{HashMap, MapData, MapError};
use portcullis_common::{fingerprint::DenyFingerprint, layout::DenyValue};

use super::{KernelError, error::os_error};

/// The kernel's deny map. Writing needs `&mut`, and [`super::Kernel`] has one owner.
pub struct DenyMap {
    map: HashMap<MapData, [u64; 2], [u64; 3]>,
    capacity: u32,
}

impl DenyMap {
    pub(super) fn new(map: HashMap<MapData, [u64; 2], [u64; 3]>, capacity: u32) -> Self {
        Self { map, capacity }
    }

    /// Entries it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Puts or replaces an entry; in force when this returns.
    pub fn put(&mut self, fingerprint: DenyFingerprint, value: DenyValue) -> Result<(), KernelError> {
        let words = [value.revoked_until, value.condemned_until, value.generation];
        self.map.insert(fingerprint.0, words, 0).map_err(|e| match os_error(&e) {
            Some(libc::E2BIG | libc::ENOMEM) => KernelError::Full { capacity: self.capacity },
            _ => KernelError::map("write to the deny map", e),
        })
    }

    /// Takes an entry out; one that is not there is no error.
    pub fn remove(&mut self, fingerprint: DenyFingerprint) -> Result<(), KernelError> {
        match self.map.remove(&fingerprint.0) {
            Ok(()) | Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(()),
            Err(e) if os_error(&e) == Some(libc::ENOENT) => Ok(()),
            Err(e) => Err(KernelError::map("take an entry out of the deny map", e)),
        }
    }

    /// What stands for a fingerprint.
    pub fn get(&self, fingerprint: DenyFingerprint) -> Option<DenyValue> {
        self.map.get(&fingerprint.0, 0).ok().map(value)
    }

    /// Every entry, as it stood while it was read.
    pub fn entries(&self) -> impl Iterator<Item = (DenyFingerprint, DenyValue)> + '_ {
        self.map.iter().filter_map(Result::ok).map(|(k, v)| (DenyFingerprint(k), value(v)))
    }
}

fn value(words: [u64; 3]) -> DenyValue {
    DenyValue { revoked_until: words[0], condemned_until: words[1], generation: words[2] }
}
