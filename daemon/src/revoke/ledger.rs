//! Which claims stand for which token, and what the kernel must therefore hold.

use std::collections::{BTreeMap, HashMap};

use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{DenyValue, FOREVER},
};

use super::{Claim, ClaimId};
use crate::clock::{Clock, WallTime};

/// How much of the deny map each kind of claim may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Tokens that revocations may condemn.
    pub revoked: usize,
    /// Tokens that policies may condemn.
    pub condemned: usize,
}

/// A policy's token-wide denial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Condemnation {
    /// Until when.
    pub until: WallTime,
    /// By which policy set.
    pub generation: u64,
}

/// What stands for one token.
#[derive(Debug, Default)]
struct Entry {
    claims: Vec<(ClaimId, WallTime)>,
    condemned: Option<Condemnation>,
}

/// All claims, by id and by token. Plain data: it neither stores nor enforces.
#[derive(Debug)]
pub struct Ledger {
    claims: BTreeMap<ClaimId, Claim>,
    entries: HashMap<DenyFingerprint, Entry>,
    revoked: usize,
    condemned: usize,
    limits: Limits,
}

impl Ledger {
    pub fn new(limits: Limits) -> Self {
        Self { claims: BTreeMap::new(), entries: HashMap::new(), revoked: 0, condemned: 0, limits }
    }

    /// Whether one more token can be revoked.
    pub fn has_room(&self, f: DenyFingerprint, more: usize) -> bool {
        self.revoked + more < self.limits.revoked
            || self.entries.get(&f).is_some_and(|e| !e.claims.is_empty())
    }

    pub fn revoked(&self) -> usize {
        self.revoked
    }

    pub fn condemned(&self) -> usize {
        self.condemned
    }

    pub fn limits(&self) -> Limits {
        self.limits
    }

    pub fn claims(&self) -> &BTreeMap<ClaimId, Claim> {
        &self.claims
    }

    pub fn add(&mut self, claim: Claim) {
        let entry = self.entries.entry(claim.fingerprint).or_default();
        if entry.claims.is_empty() {
            self.revoked += 1;
        }
        entry.claims.push((claim.id, claim.until));
        self.claims.insert(claim.id, claim);
    }

    /// Takes a claim out; the others on its token stay.
    pub fn lift(&mut self, id: ClaimId) -> Option<Claim> {
        let claim = self.claims.remove(&id)?;
        if let Some(entry) = self.entries.get_mut(&claim.fingerprint) {
            entry.claims.retain(|(i, _)| *i != id);
            if entry.claims.is_empty() {
                self.revoked -= 1;
            }
        }
        self.tidy(claim.fingerprint);
        Some(claim)
    }

    /// Notes a policy's condemnation; `false` where the quota is used up.
    pub fn condemn(&mut self, f: DenyFingerprint, c: Condemnation) -> bool {
        let entry = self.entries.entry(f).or_default();
        if entry.condemned.is_none() {
            if self.condemned >= self.limits.condemned {
                self.tidy(f);
                return false;
            }
            self.condemned += 1;
        }
        entry.condemned = Some(c);
        true
    }

    /// Ids of claims whose time has passed.
    pub fn expired(&self, now: WallTime) -> Vec<ClaimId> {
        self.claims.values().filter(|c| c.until <= now).map(|c| c.id).collect()
    }

    /// Drops condemnations that count for nothing any more; tells whose.
    pub fn sweep_condemned(&mut self, now: WallTime, generation: u64) -> Vec<DenyFingerprint> {
        let gone: Vec<_> = self
            .entries
            .iter()
            .filter(|(_, e)| e.condemned.is_some_and(|c| c.until <= now || c.generation != generation))
            .map(|(f, _)| *f)
            .collect();
        for f in &gone {
            if let Some(e) = self.entries.get_mut(f) {
                e.condemned = None;
                self.condemned -= 1;
            }
            self.tidy(*f);
        }
        gone
    }

    /// Until when a token is revoked: the latest of its claims.
    pub fn revoked_until(&self, f: DenyFingerprint) -> Option<WallTime> {
        self.entries.get(&f)?.claims.iter().map(|(_, until)| *until).max()
    }

    /// What the kernel must hold for a token; `None` for nothing.
    pub fn value(&self, f: DenyFingerprint, clock: &dyn Clock) -> Option<DenyValue> {
        let entry = self.entries.get(&f)?;
        let boot = |t: WallTime| if t.0 == i64::MAX { FOREVER } else { clock.boot_at(t).0 };
        let revoked_until = self.revoked_until(f).map_or(0, boot);
        let (condemned_until, generation) = entry.condemned.map_or((0, 0), |c| (boot(c.until), c.generation));
        Some(DenyValue { revoked_until, condemned_until, generation })
    }

    /// Every token with a claim or condemnation.
    pub fn tokens(&self) -> impl Iterator<Item = DenyFingerprint> + '_ {
        self.entries.keys().copied()
    }

    fn tidy(&mut self, f: DenyFingerprint) {
        if self.entries.get(&f).is_some_and(|e| e.claims.is_empty() && e.condemned.is_none()) {
            self.entries.remove(&f);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{BootTime, SystemClock};

    struct Fixed;
    impl Clock for Fixed {
        fn wall(&self) -> WallTime {
            WallTime(1_000)
        }
        fn boot(&self) -> BootTime {
            BootTime(5)
        }
    }

    const F: DenyFingerprint = DenyFingerprint([1, 2]);

    fn claim(id: u64, until: i64) -> Claim {
        Claim {
            id: ClaimId(id),
            fingerprint: F,
            key_id: 1,
            created: WallTime(0),
            until: WallTime(until),
            reason: String::new(),
            actor: String::new(),
            source: String::new(),
        }
    }

    #[test]
    fn lifting_one_claim_leaves_the_others() {
        let mut l = Ledger::new(Limits { revoked: 10, condemned: 10 });
        l.add(claim(1, 2_000));
        l.add(claim(2, 3_000));
        assert_eq!(l.revoked_until(F), Some(WallTime(3_000)));
        l.lift(ClaimId(2));
        assert_eq!(l.value(F, &Fixed).map(|v| v.revoked_until), Some(5 + 1_000 * 1_000_000));
        l.lift(ClaimId(1));
        assert_eq!(l.value(F, &SystemClock), None);
        assert_eq!(l.revoked(), 0);
    }

    #[test]
    fn policies_cannot_crowd_out_revocations() {
        let mut l = Ledger::new(Limits { revoked: 1, condemned: 1 });
        let c = Condemnation { until: WallTime(9), generation: 1 };
        assert!(l.condemn(DenyFingerprint([7, 7]), c));
        assert!(!l.condemn(DenyFingerprint([8, 8]), c), "the quota is one");
        assert!(l.has_room(F, 0));
        l.add(claim(1, 2_000));
        assert!(!l.has_room(DenyFingerprint([9, 9]), 0));
        assert!(l.has_room(F, 0), "another claim on a token that is revoked takes no room");
    }

    #[test]
    fn a_condemnation_of_an_older_generation_is_swept() {
        let mut l = Ledger::new(Limits { revoked: 1, condemned: 2 });
        l.add(claim(1, 2_000));
        l.condemn(F, Condemnation { until: WallTime(9_000), generation: 1 });
        assert_eq!(l.sweep_condemned(WallTime(0), 2), [F]);
        assert_eq!(l.value(F, &Fixed).map(|v| (v.condemned_until, v.generation)), Some((0, 0)));
        assert_eq!(l.condemned(), 0);
    }
}
