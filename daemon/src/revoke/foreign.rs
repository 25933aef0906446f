//! What a fleet calls its hosts and their claims, and what this host keeps of those of others.

use std::{collections::BTreeMap, fmt, str::FromStr};

use super::{
    ClaimId,
    row::{take, word},
};
use crate::{clock::WallTime, hex};

/// How long a lifted claim is remembered beyond its time, in ms: for so long a late message of it may still come.
pub const REMEMBERED: i64 = 24 * 3600 * 1000;
/// What the source of a claim begins with that another host ordered.
const SOURCE: &str = "fleet/";
/// What it ends with where that is a lockdown.
const LOCKDOWN: &str = "/lockdown";
/// The source of a lockdown that was ordered here.
const OWN_LOCKDOWN: &str = "lockdown";

/// The source of a lockdown that was taken over from another store.
pub const IMPORTED_LOCKDOWN: &str = "import/lockdown";

/// Whether a claim is a lockdown, ordered here, on another host, or before in another store.
pub fn is_lockdown(source: &str) -> bool {
    source == OWN_LOCKDOWN
        || source == IMPORTED_LOCKDOWN
        || source.starts_with(SOURCE) && source.ends_with(LOCKDOWN)
}

/// A host, by the id that its log was given when it was made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin(pub [u8; 16]);

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Origin {
    type Err = String;

    fn from_str(s: &str) -> Result<Self, String> {
        let lower = s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        let bytes = hex::decode(s).filter(|_| lower).and_then(|b| b.try_into().ok());
        bytes.map(Self).ok_or_else(|| "is no host's id: 32 hexadecimal digits".to_owned())
    }
}

/// A claim, as the whole fleet names it: the host that took the order, and its id there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name {
    /// The host.
    pub origin: Origin,
    /// The claim's id there.
    pub id: u64,
}

impl Name {
    /// By which way such a claim came, as it is noted with it.
    pub fn source(&self) -> String {
        format!("{SOURCE}{}/{}", self.origin, self.id)
    }

    /// The same of a lockdown.
    pub fn source_of_lockdown(&self) -> String {
        self.source() + LOCKDOWN
    }

    /// Reads such a note; `None` for a claim that was ordered here.
    pub fn of_source(source: &str) -> Option<Self> {
        let source = source.strip_suffix(LOCKDOWN).unwrap_or(source);
        let (origin, id) = source.strip_prefix(SOURCE)?.split_once('/')?;
        Some(Self { origin: origin.parse().ok()?, id: id.parse().ok()? })
    }
}

/// A claim that was lifted, and until when it would have held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grave {
    /// Whose.
    pub name: Name,
    /// Until when it would have held.
    pub until: WallTime,
}

impl Grave {
    const BYTES: usize = 32;

    /// As it stands in the log.
    pub fn write(&self, to: &mut Vec<u8>) {
        to.extend(self.name.origin.0);
        to.extend(self.name.id.to_le_bytes());
        to.extend(self.until.0.to_le_bytes());
    }

    /// Reads those of a record.
    pub fn each(bytes: &[u8]) -> impl Iterator<Item = Self> {
        bytes.chunks_exact(Self::BYTES).filter_map(|mut b| {
            let name = Name { origin: Origin(take(&mut b)?), id: word(&mut b)? };
            Some(Self { name, until: WallTime(word(&mut b)?.cast_signed()) })
        })
    }

    /// Whether a record is of such.
    pub const fn fits(bytes: &[u8]) -> bool {
        bytes.len().is_multiple_of(Self::BYTES)
    }

    /// Until when it is remembered.
    pub const fn remembered(&self) -> WallTime {
        WallTime(self.until.0.saturating_add(REMEMBERED))
    }
}

/// How far a host's orders are known, in entries of its log: all up to this one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The entry.
    pub entry: u64,
    /// Parts of it that are still to come.
    pub left: u32,
}

impl Position {
    /// The last entry that is known whole.
    pub const fn whole(self) -> u64 {
        if self.left == 0 { self.entry } else { self.entry.saturating_sub(1) }
    }
}

/// What the store keeps of a fleet beside claims.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fleet {
    /// Claims of others that were lifted, with the time until which that is remembered.
    pub graves: BTreeMap<Name, WallTime>,
    /// How far others' orders are known.
    pub reached: BTreeMap<Origin, Position>,
}

impl Fleet {
    /// Notes claims that were lifted.
    pub fn bury(&mut self, graves: impl Iterator<Item = Grave>) {
        for grave in graves {
            let until = self.graves.entry(grave.name).or_insert(WallTime(i64::MIN));
            *until = (*until).max(grave.remembered());
        }
    }

    /// Forgets what was lifted long ago.
    pub fn forget(&mut self, now: WallTime) {
        self.graves.retain(|_, until| *until > now);
    }
}

/// Claims of others that are in force here, by either name. Some 60 bytes for each.
#[derive(Debug, Default)]
pub struct Foreign {
    origins: Vec<Origin>,
    here: Vec<BTreeMap<u64, ClaimId>>,
    there: BTreeMap<ClaimId, (u32, u64)>,
}

impl Foreign {
    fn of(&self, origin: Origin) -> Option<usize> {
        self.origins.iter().position(|o| *o == origin)
    }

    /// Notes that a claim is this one here.
    pub fn add(&mut self, name: Name, here: ClaimId) {
        let n = self.of(name.origin).unwrap_or_else(|| {
            self.origins.push(name.origin);
            self.here.push(BTreeMap::new());
            self.origins.len() - 1
        });
        self.here[n].insert(name.id, here);
        self.there.insert(here, (u32::try_from(n).unwrap_or(u32::MAX), name.id));
    }

    /// The claim here.
    pub fn get(&self, name: Name) -> Option<ClaimId> {
        self.here[self.of(name.origin)?].get(&name.id).copied()
    }

    /// Forgets one that is gone.
    pub fn remove(&mut self, here: ClaimId) -> Option<Name> {
        let (n, id) = self.there.remove(&here)?;
        let n = usize::try_from(n).ok()?;
        self.here.get_mut(n)?.remove(&id);
        Some(Name { origin: *self.origins.get(n)?, id })
    }

    /// Those of a host with ids below one.
    pub fn below(&self, origin: Origin, id: u64) -> impl Iterator<Item = (u64, ClaimId)> {
        let of = self.of(origin).map(|n| &self.here[n]);
        of.into_iter().flat_map(move |all| all.range(..id).map(|(id, here)| (*id, *here)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_they_are_written() {
        let name = Name { origin: Origin([0xab; 16]), id: 7 };
        assert_eq!(name.source(), format!("fleet/{}/7", "ab".repeat(16)));
        assert_eq!(Name::of_source(&name.source()), Some(name));
        assert_eq!(Name::of_source(&name.source_of_lockdown()), Some(name));
        assert!(is_lockdown(&name.source_of_lockdown()) && is_lockdown("lockdown"));
        assert!(is_lockdown(IMPORTED_LOCKDOWN) && Name::of_source(IMPORTED_LOCKDOWN).is_none());
        assert!(!is_lockdown(&name.source()) && !is_lockdown("x/lockdown"));
        for other in ["admin", "lockdown", "fleet/", "fleet/lockdown", "fleet/ab/7", "fleet/x/7"] {
            assert_eq!(Name::of_source(other), None, "{other}");
        }
        assert!("AB".repeat(16).parse::<Origin>().is_err(), "one spelling for one host");
        let grave = Grave { name, until: WallTime(-3) };
        let mut bytes = Vec::new();
        grave.write(&mut bytes);
        assert!(Grave::fits(&bytes) && !Grave::fits(&bytes[1..]));
        assert_eq!(Grave::each(&bytes).collect::<Vec<_>>(), [grave]);
    }

    #[test]
    fn claims_of_others_are_found_by_either_name() {
        let (a, b) = (Origin([1; 16]), Origin([2; 16]));
        let mut all = Foreign::default();
        all.add(Name { origin: a, id: 5 }, ClaimId(1));
        all.add(Name { origin: b, id: 5 }, ClaimId(2));
        all.add(Name { origin: a, id: 9 }, ClaimId(3));
        assert_eq!(all.get(Name { origin: b, id: 5 }), Some(ClaimId(2)));
        assert_eq!(all.below(a, 9).collect::<Vec<_>>(), [(5, ClaimId(1))]);
        assert_eq!(all.remove(ClaimId(1)), Some(Name { origin: a, id: 5 }));
        assert_eq!(
            (all.remove(ClaimId(1)), all.get(Name { origin: a, id: 5 }), all.there.len()),
            (None, None, 2)
        );
    }
}
