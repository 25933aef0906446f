//! Lines of the audit log about orders that were refused, of those who may not even be known. They say what was tried;
//! they must not fill the log.

use std::sync::{Mutex, PoisonError};

use serde_json::Value;

use super::PlaneHandle;
use crate::clock::BootTime;

/// Lines in [`WINDOW_NS`]; further refusals are counted in the next one.
const LINES: u32 = 60;
const WINDOW_NS: u64 = 60 * 1_000_000_000;

/// Notes refusals, so many in a minute.
pub struct Refusals {
    plane: PlaneHandle,
    budget: Mutex<Budget>,
}

impl Refusals {
    /// For one door.
    pub fn new(plane: PlaneHandle) -> Self {
        Self { plane, budget: Mutex::default() }
    }

    /// Notes one, a JSON object, without waiting.
    pub fn note(&self, mut what: Value) {
        let now = self.plane.clock.boot();
        let Some(untold) = self.budget.lock().unwrap_or_else(PoisonError::into_inner).take(now) else {
            return;
        };
        if untold > 0 {
            what["untold"] = untold.into();
        }
        self.plane.note_later(&what);
    }
}

#[derive(Debug, Default)]
struct Budget {
    begun: BootTime,
    told: u32,
    untold: u64,
}

impl Budget {
    /// Whether one more may be told, and then how many before it were not.
    fn take(&mut self, now: BootTime) -> Option<u64> {
        if now.0.saturating_sub(self.begun.0) >= WINDOW_NS {
            (self.begun, self.told) = (now, 0);
        }
        if self.told >= LINES {
            self.untold += 1;
            return None;
        }
        self.told += 1;
        Some(std::mem::take(&mut self.untold))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_minute_has_so_many_lines_and_the_rest_is_counted() {
        let mut b = Budget::default();
        let told = (0..100).filter(|n| b.take(BootTime(WINDOW_NS + n)).is_some()).count();
        assert_eq!(told, 60);
        assert_eq!(b.take(BootTime(2 * WINDOW_NS + 5)), Some(40));
        assert_eq!(b.take(BootTime(2 * WINDOW_NS + 6)), Some(0));
    }
}
