//! Per-CPU counters.

use portcullis_common::reason::{OUTCOMES, Outcome};

use crate::maps::COUNTERS;

/// This CPU's counters.
pub struct Counters(*mut [u64; OUTCOMES as usize]);

impl Counters {
    /// Finds them.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        COUNTERS.get_ptr_mut(0).map(Self)
    }

    /// Adds `n` to an outcome's counter.
    #[inline(always)]
    pub fn add(&self, outcome: Outcome, n: u32) {
        // SAFETY: the index is below `OUTCOMES`; the memory is this CPU's own and programs on it do not nest.
        unsafe { (*self.0)[outcome as usize] += u64::from(n) };
    }
}

/// Adds one to an outcome's counter on this CPU.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(c) = Counters::get() {
        c.add(outcome, 1);
    }
}
