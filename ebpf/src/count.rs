//! Per-CPU counters.

use portcullis_common::reason::Outcome;

use crate::maps::COUNTERS;

/// Adds one to an outcome's counter on this CPU.
#[inline(always)]
pub fn count(outcome: Outcome) {
    add(outcome, 1);
}

/// Adds `n` to an outcome's counter on this CPU.
#[inline(always)]
pub fn add(outcome: Outcome, n: u64) {
    if let Some(c) = COUNTERS.get_ptr_mut(outcome as u32) {
        // SAFETY: the slot is this CPU's own and programs on one CPU do not nest.
        unsafe { *c += n };
    }
}
