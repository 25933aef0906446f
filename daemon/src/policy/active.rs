//! The policy set in force.

use std::sync::Arc;

use arc_swap::ArcSwap;

use super::PolicySet;

/// A set with the number it came into force under.
pub struct Loaded {
    /// The set.
    pub set: Arc<PolicySet>,
    /// Its number: verdicts of another one count for nothing.
    pub generation: u64,
}

/// Holds the set in force. Readers never wait; each installed set has a generation of its own.
pub struct Active(ArcSwap<Loaded>);

impl Active {
    /// Puts the first set in force under `generation`, which must be above any that the kernel's maps hold.
    pub fn new(set: PolicySet, generation: u64) -> Self {
        Self(ArcSwap::from_pointee(Loaded { set: Arc::new(set), generation }))
    }

    /// Puts a set in force under a generation that whoever numbers them gave it.
    pub fn install(&self, set: PolicySet, generation: u64) {
        self.0.store(Arc::new(Loaded { set: Arc::new(set), generation }));
    }

    /// The generation in force.
    pub fn generation(&self) -> u64 {
        self.0.load().generation
    }

    /// The set in force.
    pub fn current(&self) -> Arc<Loaded> {
        self.0.load_full()
    }
}
