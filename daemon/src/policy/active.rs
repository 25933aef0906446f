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

    /// Puts a set in force and returns its generation.
    pub fn install(&self, set: PolicySet) -> u64 {
        let set = Arc::new(set);
        let before = self.0.rcu(|old| Loaded { set: set.clone(), generation: old.generation + 1 });
        before.generation + 1
    }

    /// The set in force.
    pub fn current(&self) -> Arc<Loaded> {
        self.0.load_full()
    }
}
