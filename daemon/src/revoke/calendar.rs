//! When claims end: the minutes in which some do, so that nothing is ever searched for.
//!
//! A claim that was lifted before its time stays noted until then. What was seen of the wall clock outlasts the daemon
//! ([`Seen`]): one that is started anew each day erases as one that runs on.

use std::collections::{BTreeMap, VecDeque};

use portcullis_common::fingerprint::DenyFingerprint;

use super::ClaimId;
use crate::clock::{BootTime, WallTime};

const MINUTE_MS: i64 = 60_000;

/// A claim and whose it is; `None` for one by selector.
pub type Noted = (ClaimId, Option<DenyFingerprint>);

type Compact = (ClaimId, DenyFingerprint);
/// Stands for a claim by selector: a fingerprint under a secret key is this once in 2¹²⁸.
const NOBODY: DenyFingerprint = DenyFingerprint([0, 0]);

/// What was seen of the wall clock while daemons ran.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How long they have run in all, in nanoseconds of boot time.
    pub ran: u64,
    /// At `.0` of that, and ever since, the minutes up to `.1` were over. Both ascend.
    pub steps: VecDeque<(u64, i64)>,
}

impl Seen {
    /// Whether the clock was set back.
    fn look(&mut self, ran: u64, minute: i64) -> bool {
        self.ran = ran;
        let back = self.steps.back().is_some_and(|last| last.1 > minute);
        // A clock that was set back: what it says now is not over has its time counted anew.
        while self.steps.len() >= 2 && self.steps[self.steps.len() - 2].1 >= minute {
            self.steps.pop_back();
        }
        match self.steps.back_mut() {
            Some(last) if last.1 >= minute => last.1 = minute,
            _ => self.steps.push_back((ran, minute)),
        }
        back
    }

    /// The last minute that has been over for so long.
    fn over_for(&mut self, grace: u64) -> Option<i64> {
        let old = |step: &(u64, i64)| self.ran.saturating_sub(step.0) >= grace;
        // Of those that have, the last is as good as all.
        while self.steps.get(1).is_some_and(old) {
            self.steps.pop_front();
        }
        self.steps.front().filter(|first| old(first)).map(|(_, minute)| *minute)
    }

    /// The same with fewer steps, `apart` nanoseconds from each other: minutes between two are over with the later one.
    #[must_use]
    pub fn coarse(&self, apart: u64) -> Self {
        let mut steps: VecDeque<(u64, i64)> = VecDeque::new();
        let mut begun = None;
        for step in &self.steps {
            if begun.is_some_and(|b: u64| step.0.saturating_sub(b) < apart)
                && let Some(last) = steps.back_mut()
            {
                *last = *step;
            } else {
                begun = Some(step.0);
                steps.push_back(*step);
            }
        }
        Self { ran: self.ran, steps }
    }
}

/// Claims by the minute at whose end all of them are over.
#[derive(Debug, Default)]
pub struct Calendar {
    minutes: BTreeMap<i64, Vec<Compact>>,
    seen: Seen,
    /// What earlier daemons ran, and when this one began.
    before: (u64, BootTime),
}

impl Calendar {
    /// Goes on from what an earlier daemon saw.
    pub fn resume(&mut self, seen: Seen, boot: BootTime) {
        self.before = (seen.ran, boot);
        self.seen = seen;
    }

    /// What is to outlast this daemon.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    pub fn note(&mut self, id: ClaimId, of: Option<DenyFingerprint>, until: WallTime) {
        // One that holds for ever is never over.
        if until.0 < i64::MAX - MINUTE_MS {
            let compact = (id, of.unwrap_or(NOBODY));
            self.minutes.entry(until.0.div_euclid(MINUTE_MS) + 1).or_default().push(compact);
        }
    }

    /// Looks at the clocks; tells whether the wall clock was set back since the last look.
    pub fn look(&mut self, wall: WallTime, boot: BootTime) -> bool {
        let ran = self.before.0.saturating_add(boot.0.saturating_sub(self.before.1.0));
        self.seen.look(ran, wall.0.div_euclid(MINUTE_MS))
    }

    /// The time that has been over for `grace` nanoseconds of running time at the last look.
    pub fn over_for(&mut self, grace: u64) -> Option<WallTime> {
        self.seen.over_for(grace).map(|minute| WallTime(minute.saturating_mul(MINUTE_MS)))
    }

    /// Takes out up to `count` claims of minutes that were over for `grace` nanoseconds of running time at the last look. A
    /// wall clock that is wrong for a while lets claims end while it is; it must not erase them.
    pub fn take(&mut self, grace: u64, count: usize) -> Vec<Noted> {
        let Some(over) = self.seen.over_for(grace) else { return Vec::new() };
        let Some((minute, ids)) = self.minutes.range_mut(..=over).next() else { return Vec::new() };
        let minute = *minute;
        let taken = ids.split_off(ids.len().saturating_sub(count));
        if ids.is_empty() {
            self.minutes.remove(&minute);
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
        let at = |c: &mut Calendar, wall, boot, grace| {
            c.look(WallTime(wall), BootTime(boot));
            c.take(grace, 3).len()
        };
        assert_eq!(at(&mut c, 59_999, 0, 0), 0, "the minute is not over");
        assert_eq!(at(&mut c, 60_000, 10, 10), 0);
        assert_eq!(at(&mut c, 60_000, 19, 10), 0);
        assert_eq!(at(&mut c, 0, 20, 10), 0);
        assert_eq!(at(&mut c, 60_000, 30, 10), 0);
        assert_eq!(at(&mut c, 60_000, 39, 10), 0, "counted anew after a break");
        assert_eq!(at(&mut c, 60_000, 40, 10), 3);
        assert_eq!(at(&mut c, 60_000, 40, 10), 2);
        assert_eq!(at(&mut c, 60_000, 40, 10), 0);
        assert_eq!(at(&mut c, i64::MAX, 50, 10), 0);
        assert_eq!(at(&mut c, i64::MAX, 99, 10), 0, "for ever is for ever");
    }

    #[test]
    fn the_grace_is_counted_over_daemons_and_a_clock_set_back_between_them_breaks_it() {
        for (second, taken) in [(120_000, 1), (0, 0)] {
            let mut seen = Seen::default();
            // Each runs for half the grace, and its boot time begins anew.
            for wall in [120_000, second, 180_000] {
                let mut c = Calendar::default();
                c.note(ClaimId(1), None, WallTime(60_001));
                c.resume(seen.clone(), BootTime(7));
                for boot in [7, 10, 12] {
                    c.look(WallTime(wall), BootTime(boot));
                }
                seen = c.seen().clone();
                if wall == 180_000 {
                    assert_eq!(c.take(10, 3).len(), taken, "the second daemon saw {second}");
                } else {
                    assert!(c.take(10, 3).is_empty() || wall == second);
                }
            }
        }
    }

    #[test]
    fn what_is_kept_of_many_steps_is_short_and_no_earlier() {
        let mut fine = Seen::default();
        for n in 0..10_000u64 {
            fine.look(n, i64::try_from(n / 3).unwrap());
        }
        let mut coarse = fine.coarse(1000);
        assert!(coarse.steps.len() <= 12, "{}", coarse.steps.len());
        for grace in [0, 500, 2_000, 9_000, 20_000] {
            let (kept, was) = (coarse.clone().over_for(grace), fine.clone().over_for(grace));
            assert!(kept <= was, "{grace}: {kept:?} {was:?}");
        }
        assert_eq!(coarse.over_for(0), fine.over_for(0));
    }
}
