//! By which of its names a token is looked for: a fingerprint is made under a key, and while a fingerprint key is being
//! changed two of them are in force.
//!
//! A claim stands under one name here, that of the key which this host works with where it has one, else that of the other
//! key. A token that is presented is asked about under both. Knows keys by their ids alone.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_common::fingerprint::DenyFingerprint;
use serde::{Deserialize, Serialize, Serializer, de};

use super::{Claim, ClaimId, RevokeError, ledger::ClaimHead};
use crate::clock::WallTime;

/// A token's fingerprint, with the key that it was made under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// The fingerprint.
    #[serde(serialize_with = "hex", deserialize_with = "unhex")]
    pub fingerprint: DenyFingerprint,
    /// The key's id.
    pub key_id: u32,
}

/// A token's names: under one key, and where it is known under another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Fingerprints {
    /// Under one key: this host's own, where a token's text was at hand.
    pub first: Named,
    /// Under another.
    pub other: Option<Named>,
}

impl Fingerprints {
    /// Each of them.
    pub fn each(self) -> impl Iterator<Item = DenyFingerprint> {
        self.named().map(|n| n.fingerprint)
    }

    /// The same with their keys.
    pub fn named(self) -> impl Iterator<Item = Named> {
        std::iter::once(self.first).chain(self.other)
    }

    /// Under one key alone.
    pub const fn of(fingerprint: DenyFingerprint, key_id: u32) -> Self {
        Self { first: Named { fingerprint, key_id }, other: None }
    }
}

/// The keys in force, by their ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KeyIds {
    /// The one that new claims are named under, and that guard works with.
    pub own: u32,
    /// The next one, before the change; the one before, after it.
    pub other: Option<u32>,
}

impl From<u32> for KeyIds {
    fn from(own: u32) -> Self {
        Self { own, other: None }
    }
}

/// Under which key a claim stands here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Under {
    /// This host's own.
    Own,
    /// The other one: it has no name under the own.
    Other,
    /// This one, which is not in force here: nobody is refused for it.
    None(u32),
}

impl KeyIds {
    /// Those in force.
    pub fn all(self) -> impl Iterator<Item = u32> {
        std::iter::once(self.own).chain(self.other)
    }

    /// Whether a key is in force.
    pub fn has(self, id: u32) -> bool {
        self.all().any(|k| k == id)
    }

    /// By which name a token stands here, and under which key.
    pub fn standing(self, f: &Fingerprints) -> (DenyFingerprint, Under) {
        let under = |id| f.named().find(|n| n.key_id == id).map(|n| n.fingerprint);
        if let Some(f) = under(self.own) {
            return (f, Under::Own);
        }
        if let Some(f) = self.other.and_then(under) {
            return (f, Under::Other);
        }
        (f.first.fingerprint, Under::None(f.first.key_id))
    }

    /// Whether one of a token's names is under a key in force.
    pub fn are_of(self, f: &Fingerprints) -> bool {
        !matches!(self.standing(f).1, Under::None(_))
    }

    /// The name alone.
    pub fn name(self, f: &Fingerprints) -> DenyFingerprint {
        self.standing(f).0
    }

    /// What the ledger keeps of a claim.
    pub fn head(self, c: &Claim) -> ClaimHead {
        let (fingerprint, under) = self.standing(&c.fingerprints());
        ClaimHead { id: c.id, fingerprint, until: c.until, parent: c.parent, under }
    }
}

/// Claims that the key which this host works with has no name of, with their ends.
#[derive(Debug, Default)]
pub struct Unnamed {
    all: BTreeMap<ClaimId, WallTime>,
    /// As they were when they were counted last.
    counted: Option<Count>,
}

/// How many of them hold, and until when the last one does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Count {
    /// How many hold now.
    pub claims: usize,
    /// Until when the last of them does (ms since 1970); none where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<WallTime>,
}

/// So many are counted at once, whenever they change.
const FEW: usize = 1024;

impl Unnamed {
    pub fn add(&mut self, id: ClaimId, until: WallTime) {
        self.all.insert(id, until);
    }

    pub fn remove(&mut self, id: ClaimId) {
        if !self.all.is_empty() {
            self.all.remove(&id);
        }
    }

    /// Counts them; many are counted only where it need not be at once (`thoroughly`).
    pub fn count(&mut self, now: WallTime, thoroughly: bool) -> Count {
        if self.all.is_empty() {
            return Count::default();
        }
        if let Some(count) = self.counted.filter(|_| !thoroughly && self.all.len() > FEW) {
            return count;
        }
        let live = self.all.values().filter(|until| **until > now);
        let count = Count { claims: live.clone().count(), until: live.max().copied() };
        self.counted = Some(count);
        count
    }
}

fn hex<S: Serializer>(f: &DenyFingerprint, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(f)
}

fn unhex<'de, D: serde::Deserializer<'de>>(d: D) -> Result<DenyFingerprint, D::Error> {
    String::deserialize(d)?.parse().map_err(de::Error::custom)
}

/// Claims that hold and are looked for by nobody: the key that they stand under was in force here, and is no more.
#[derive(Debug, Default)]
pub struct Lost(Option<(u32, usize, WallTime)>);

impl Lost {
    /// Notes a claim that the store has, where the keys in `known` have been in force.
    pub fn look(&mut self, head: &ClaimHead, known: &BTreeSet<u32>, now: WallTime) {
        let Under::None(key) = head.under else { return };
        if head.until > now && known.contains(&key) {
            let (_, claims, until) = self.0.get_or_insert((key, 0, head.until));
            *claims += 1;
            *until = (*until).max(head.until);
        }
    }

    /// Refuses to go on without them.
    pub fn refuse(self) -> Result<(), RevokeError> {
        let Some((key, claims, until)) = self.0 else { return Ok(()) };
        Err(RevokeError::KeyMissing { key, claims, until })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn named(n: u64, key_id: u32) -> Named {
        Named { fingerprint: DenyFingerprint([n, n]), key_id }
    }

    #[test]
    fn a_claim_stands_under_the_own_key_where_it_can_and_else_under_the_other() {
        let both = Fingerprints { first: named(1, 10), other: Some(named(2, 20)) };
        let (old, new) = (Fingerprints::of(DenyFingerprint([1, 1]), 10), KeyIds { own: 20, other: Some(10) });
        let at = |keys: KeyIds, f| {
            let (name, under) = keys.standing(f);
            (name.0[0], under)
        };
        assert_eq!(at(10.into(), &both), (1, Under::Own));
        assert_eq!(at(20.into(), &both), (2, Under::Own));
        assert_eq!(at(new, &both), (2, Under::Own));
        assert_eq!(at(new, &old), (1, Under::Other));
        assert_eq!(at(20.into(), &old), (1, Under::None(10)));
        assert!(new.has(10) && new.has(20) && !new.has(30));
    }

    #[test]
    fn what_has_no_name_is_counted_while_it_holds() {
        let mut u = Unnamed::default();
        assert_eq!(u.count(WallTime(0), false), Count::default());
        for n in 1..=3 {
            u.add(ClaimId(n), WallTime(n.cast_signed() * 10));
        }
        assert_eq!(u.count(WallTime(10), false), Count { claims: 2, until: Some(WallTime(30)) });
        u.remove(ClaimId(3));
        assert_eq!(u.count(WallTime(10), false), Count { claims: 1, until: Some(WallTime(20)) });
        assert_eq!(u.count(WallTime(20), false), Count::default());
        for n in 10..3000 {
            u.add(ClaimId(n), WallTime(99));
        }
        assert_eq!(u.count(WallTime(20), false).claims, 0, "many are not counted each time");
        assert_eq!(u.count(WallTime(20), true).claims, 2990);
    }
}
