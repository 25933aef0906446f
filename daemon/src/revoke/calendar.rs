//! When claims end: the minutes in which some do, so that nothing is ever searched for.
//!
//! A claim that was lifted before its time stays noted until then.

use std::collections::BTreeMap;

use portcullis_common::fingerprint::DenyFingerprint;

use super::ClaimId;
use crate::clock::{BootTime, WallTime};

const MINUTE_MS: i64 = 60_000;

/// A claim and whose it is; `None` for one by selector.
pub type Noted = (ClaimId, Option<DenyFingerprint>);

type Compact = (ClaimId, DenyFingerprint);
/// Stands for a claim by selector: a fingerprint under a secret key is this once in 2¹²⁸.
const NOBODY: DenyFingerprint = DenyFingerprint([0, 0]);

/// Claims by the minute at whose end all of them are over.
#[derive(Debug, Default)]
pub struct Calendar {
    minutes: BTreeMap<i64, Vec<Compact>>,
    /// Since when each minute that is over has been so without a break.
    over_since: BTreeMap<i64, BootTime>,
}

impl Calendar {
    pub fn note(&mut self, id: ClaimId, of: Option<DenyFingerprint>, until: WallTime) {
        // One that holds for ever is never over.
        if until.0 < i64::MAX - MINUTE_MS {
            let compact = (id, of.unwrap_or(NOBODY));
            self.minutes.entry(until.0.div_euclid(MINUTE_MS) + 1).or_default().push(compact);
        }
    }

    /// Looks at the clocks: which minutes are over, and since when in boot time.
    pub fn look(&mut self, wall: WallTime, boot: BootTime) {
        let now = wall.0.div_euclid(MINUTE_MS);
        drop(self.over_since.split_off(&(now + 1)));
        for minute in self.minutes.range(..=now).map(|(m, _)| *m) {
            self.over_since.entry(minute).or_insert(boot);
        }
    }

    /// Takes out up to `count` claims of minutes that have been over for `grace` nanoseconds of boot time. A wall
    /// clock that is wrong for a while lets claims end while it is; it must not erase them.
    pub fn take(&mut self, boot: BootTime, grace: u64, count: usize) -> Vec<Noted> {
        let old = |since: &BootTime| boot.0.saturating_sub(since.0) >= grace;
        let Some(minute) = self.over_since.iter().find(|(_, since)| old(since)).map(|(m, _)| *m) else {
            return Vec::new();
        };
        let ids = self.minutes.entry(minute).or_default();
        let taken = ids.split_off(ids.len().saturating_sub(count));
        if ids.is_empty() {
            self.minutes.remove(&minute);
            self.over_since.remove(&minute);
        }
        taken.into_iter().map(|(id, f)| (id, (f != NOBODY).then_some(f))).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_are_taken_a_few_at_a_time_when_their_grace_is_over() {
        let mut c = Calendar::default();
        for id in 1..=5 {
            c.note(ClaimId(id), Some(DenyFingerprint([id, 1])), WallTime(30_000));
        }
        c.note(ClaimId(9), None, WallTime(i64::MAX));
        c.look(WallTime(59_999), BootTime(0));
        assert!(c.take(BootTime(100), 0, 9).is_empty(), "the minute is not over");
        c.look(WallTime(60_000), BootTime(10));
        assert!(c.take(BootTime(19), 10, 9).is_empty());
        c.look(WallTime(0), BootTime(20));
        c.look(WallTime(60_000), BootTime(30));
        assert!(c.take(BootTime(39), 10, 9).is_empty(), "counted anew after a break");
        assert_eq!(c.take(BootTime(40), 10, 3).len(), 3);
        assert_eq!(c.take(BootTime(40), 10, 3).len(), 2);
        assert!(c.take(BootTime(40), 10, 3).is_empty());
        c.look(WallTime(i64::MAX), BootTime(50));
        assert!(c.take(BootTime(99), 10, 3).is_empty(), "for ever is for ever");
    }
}
