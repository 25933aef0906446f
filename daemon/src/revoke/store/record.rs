//! What stands in an entry of the log: records of a kind, a length and their bytes.

use super::super::{
    foreign::{Grave, Origin, Position},
    row::{take, word},
};
use crate::journal::Chain;

/// A record, as it is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A claim on a token: its id and row.
    Add(u64, &'a [u8]),
    /// A claim by selector: its id and JSON.
    Select(u64, &'a [u8]),
    /// Claims that were lifted, with who did it (JSON).
    Lift(Ids<'a>, &'a [u8]),
    /// Claims whose time is over.
    Over(Ids<'a>),
    /// The active policy set: generation and hash.
    Policy(u64, &'a str),
    /// What became of an earlier entry.
    Done(Done),
    /// An order that may be repeated: its key, what was asked, until when it is remembered at least (0 for a day), and the
    /// claims that came of it.
    Answered([u8; 16], [u8; 16], i64, Ids<'a>),
    /// Something for the audit log that changes no claim (JSON).
    Note(&'a [u8]),
    /// Ids below this one are used up.
    Next(u64),
    /// In a snapshot: a claim on a token or by selector, with the entry that brought it.
    Kept {
        /// Its id.
        id: u64,
        /// Its row, or its JSON.
        row: &'a [u8],
        /// Whether it is one by selector.
        by_selector: bool,
        /// What became of the entry that brought it.
        done: Done,
    },
    /// The last of a snapshot (JSON).
    Trailer(&'a [u8]),
    /// Claims that an order given here lifted, by their names in the fleet.
    Buried(&'a [u8]),
    /// Claims of other hosts that were lifted.
    Graves(&'a [u8]),
    /// How far another host's orders are known.
    Reached(Origin, Position),
    /// Fingerprint keys that came into force, by their ids.
    Keys(&'a [u8]),
    /// A claim by selector, and how many tokens its order condemned at once, all told.
    Condemned(u64, u64),
}

/// What became of an entry.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    /// Its number.
    pub seq: u64,
    /// When it was taken (ms since 1970).
    pub time: i64,
    /// Microseconds until it was durable; 0 where that is not known.
    pub synced: u32,
    /// Microseconds until it was in force everywhere on this host, the kernel included; 0 where that is not known.
    pub in_force: u32,
}

impl Done {
    fn bytes(self) -> [u8; 24] {
        let mut b = [0; 24];
        b[..8].copy_from_slice(&self.seq.to_le_bytes());
        b[8..16].copy_from_slice(&self.time.to_le_bytes());
        b[16..20].copy_from_slice(&self.synced.to_le_bytes());
        b[20..].copy_from_slice(&self.in_force.to_le_bytes());
        b
    }
}

/// Ids, as they stand in a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids<'a>(&'a [u8]);

impl Ids<'_> {
    /// Each of them.
    pub fn iter(&self) -> impl Iterator<Item = u64> {
        self.0.as_chunks::<8>().0.iter().map(|b| u64::from_le_bytes(*b))
    }
}

const ADD: u8 = 1;
const SELECT: u8 = 2;
const LIFT: u8 = 3;
const OVER: u8 = 4;
const POLICY: u8 = 5;
const DONE: u8 = 6;
const ANSWERED: u8 = 7;
const NOTE: u8 = 8;
const NEXT: u8 = 9;
const KEPT: u8 = 10;
const KEPT_SELECTOR: u8 = 11;
const TRAILER: u8 = 12;
const ANSWERED_UNTIL: u8 = 20;
const BURIED: u8 = 13;
const GRAVES: u8 = 14;
const REACHED: u8 = 15;
const KEYS: u8 = 30;
const CONDEMNED: u8 = 31;

/// Builds the body of an entry.
#[derive(Debug, Default)]
pub struct Body(pub Vec<u8>);

impl Body {
    fn put(&mut self, kind: u8, parts: &[&[u8]]) {
        let len: usize = parts.iter().map(|p| p.len()).sum();
        self.0.push(kind);
        // An entry is far below four gigabytes, or the journal refuses it.
        self.0.extend(u32::try_from(len).unwrap_or(u32::MAX).to_le_bytes());
        for part in parts {
            self.0.extend(*part);
        }
    }

    pub fn add(&mut self, id: u64, row: &[u8]) {
        self.put(ADD, &[&id.to_le_bytes(), row]);
    }

    pub fn select(&mut self, id: u64, json: &[u8]) {
        self.put(SELECT, &[&id.to_le_bytes(), json]);
    }

    pub fn lift(&mut self, ids: impl Iterator<Item = u64>, by: &[u8]) {
        let ids = pack(ids);
        let count = u32::try_from(ids.len() / 8).unwrap_or(u32::MAX);
        self.put(LIFT, &[&count.to_le_bytes(), &ids, by]);
    }

    pub fn over(&mut self, ids: impl Iterator<Item = u64>) {
        self.put(OVER, &[&pack(ids)]);
    }

    pub fn policy(&mut self, generation: u64, hash: &str) {
        self.put(POLICY, &[&generation.to_le_bytes(), hash.as_bytes()]);
    }

    pub fn done(&mut self, d: Done) {
        self.put(DONE, &[&d.bytes()]);
    }

    pub fn answered(&mut self, key: [u8; 16], request: [u8; 16], until: i64, ids: impl Iterator<Item = u64>) {
        if until == 0 {
            self.put(ANSWERED, &[&key, &request, &pack(ids)]);
        } else {
            self.put(ANSWERED_UNTIL, &[&key, &request, &until.to_le_bytes(), &pack(ids)]);
        }
    }

    pub fn note(&mut self, json: &[u8]) {
        self.put(NOTE, &[json]);
    }

    pub fn next(&mut self, id: u64) {
        self.put(NEXT, &[&id.to_le_bytes()]);
    }

    pub fn kept(&mut self, id: u64, row: &[u8], by_selector: bool, d: Done) {
        let kind = if by_selector { KEPT_SELECTOR } else { KEPT };
        self.put(kind, &[&id.to_le_bytes(), &d.bytes(), row]);
    }

    pub fn trailer(&mut self, json: &[u8]) {
        self.put(TRAILER, &[json]);
    }

    /// Fingerprint keys that came into force; nothing where there are none.
    pub fn keys(&mut self, ids: &[u32]) {
        let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
        if !bytes.is_empty() {
            self.put(KEYS, &[&bytes]);
        }
    }

    /// How many tokens a selector's order condemned at once.
    pub fn condemned(&mut self, id: u64, tokens: u64) {
        self.put(CONDEMNED, &[&id.to_le_bytes(), &tokens.to_le_bytes()]);
    }

    /// What concerns a fleet; nothing where there is nothing.
    pub fn fleet(&mut self, buried: &[Grave], graves: &[Grave], reached: &[(Origin, Position)]) {
        for (kind, all) in [(BURIED, buried), (GRAVES, graves)] {
            let mut bytes = Vec::new();
            for grave in all {
                grave.write(&mut bytes);
            }
            if !bytes.is_empty() {
                self.put(kind, &[&bytes]);
            }
        }
        for (origin, to) in reached {
            self.put(REACHED, &[&origin.0, &to.entry.to_le_bytes(), &to.left.to_le_bytes()]);
        }
    }
}

fn pack(ids: impl Iterator<Item = u64>) -> Vec<u8> {
    ids.flat_map(u64::to_le_bytes).collect()
}

/// The records of an entry; `Err` where something is none. Kinds of a later version are refused, not passed over: what
/// they mean could matter.
pub fn records(body: &[u8]) -> impl Iterator<Item = Result<Record<'_>, NoRecord>> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let one = split(&mut rest).and_then(|(kind, bytes)| read(kind, bytes));
        if one.is_none() {
            rest = &[];
        }
        Some(one.ok_or(NoRecord))
    })
}

/// Bytes that are no record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRecord;

fn split<'a>(rest: &mut &'a [u8]) -> Option<(u8, &'a [u8])> {
    let kind = u8::from_le_bytes(take(rest)?);
    let len = u32::from_le_bytes(take(rest)?) as usize;
    let (bytes, after) = rest.split_at_checked(len)?;
    *rest = after;
    Some((kind, bytes))
}

fn read(kind: u8, mut b: &[u8]) -> Option<Record<'_>> {
    Some(match kind {
        ADD => Record::Add(word(&mut b)?, b),
        SELECT => Record::Select(word(&mut b)?, b),
        LIFT => {
            let count = u32::from_le_bytes(take(&mut b)?) as usize;
            let (ids, by) = b.split_at_checked(count.checked_mul(8)?)?;
            Record::Lift(Ids(ids), by)
        }
        OVER => Record::Over(Ids(whole(b)?)),
        POLICY => Record::Policy(word(&mut b)?, std::str::from_utf8(b).ok()?),
        DONE => Record::Done(done(&mut b)?),
        ANSWERED => Record::Answered(take(&mut b)?, take(&mut b)?, 0, Ids(whole(b)?)),
        ANSWERED_UNTIL => {
            let (key, request, until) = (take(&mut b)?, take(&mut b)?, word(&mut b)?.cast_signed());
            Record::Answered(key, request, until, Ids(whole(b)?))
        }
        NOTE => Record::Note(b),
        NEXT => Record::Next(word(&mut b)?),
        KEPT | KEPT_SELECTOR => {
            let id = word(&mut b)?;
            Record::Kept { id, done: done(&mut b)?, row: b, by_selector: kind == KEPT_SELECTOR }
        }
        TRAILER => Record::Trailer(b),
        BURIED => Record::Buried(Some(b).filter(|b| Grave::fits(b))?),
        GRAVES => Record::Graves(Some(b).filter(|b| Grave::fits(b))?),
        REACHED => {
            let origin = Origin(take(&mut b)?);
            let to = Position { entry: word(&mut b)?, left: u32::from_le_bytes(take(&mut b)?) };
            Record::Reached(origin, to)
        }
        CONDEMNED => Record::Condemned(word(&mut b)?, word(&mut b)?),
        KEYS => Record::Keys(Some(b).filter(|b| b.len().is_multiple_of(4))?),
        _ => return None,
    })
}

/// Keys' ids, as they stand in a record.
pub fn key_ids(bytes: &[u8]) -> impl Iterator<Item = u32> {
    bytes.as_chunks::<4>().0.iter().map(|b| u32::from_le_bytes(*b))
}

fn whole(ids: &[u8]) -> Option<&[u8]> {
    ids.len().is_multiple_of(8).then_some(ids)
}

fn done(b: &mut &[u8]) -> Option<Done> {
    let (seq, time) = (word(b)?, word(b)?.cast_signed());
    let (synced, in_force) = (u32::from_le_bytes(take(b)?), u32::from_le_bytes(take(b)?));
    Some(Done { seq, time, synced, in_force })
}

/// The chain that a snapshot's own entries hang on: its log's, at the entry up to which it goes.
pub const fn snapshot_chain(at: Chain) -> Chain {
    Chain { seq: 0, hash: at.hash }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_are_read_back() {
        let mut b = Body::default();
        let d = Done { seq: 4, time: -1, synced: 5, in_force: 6 };
        b.add(1, b"row");
        b.select(2, b"{}");
        b.lift([3, 4].into_iter(), b"who");
        b.over([5].into_iter());
        b.policy(6, "hash");
        b.done(d);
        b.answered([1; 16], [2; 16], 0, [7, 8].into_iter());
        b.note(b"note");
        b.next(9);
        b.kept(10, b"row", true, d);
        b.trailer(b"end");
        b.answered([1; 16], [2; 16], -3, [7].into_iter());
        let origin = Origin([3; 16]);
        let grave = Grave {
            name: super::super::super::foreign::Name { origin, id: 1 },
            until: crate::clock::WallTime(2),
        };
        let to = Position { entry: 4, left: 1 };
        b.fleet(&[grave], &[grave, grave], &[(origin, to)]);
        b.keys(&[]);
        b.keys(&[6, 7]);
        b.condemned(8, 9);
        let ids = |r: Record<'_>| match r {
            Record::Lift(i, _) | Record::Over(i) | Record::Answered(_, _, _, i) => i.iter().collect(),
            _ => Vec::new(),
        };
        let all: Vec<_> = records(&b.0).collect::<Result<_, _>>().unwrap();
        assert_eq!(all.len(), 17);
        assert_eq!((all[0], all[1]), (Record::Add(1, b"row"), Record::Select(2, b"{}")));
        assert!(matches!(all[2], Record::Lift(_, b"who")));
        assert_eq!((ids(all[2]), ids(all[3]), ids(all[6])), (vec![3, 4], vec![5], vec![7, 8]));
        assert_eq!((all[4], all[5]), (Record::Policy(6, "hash"), Record::Done(d)));
        assert!(matches!(all[11], Record::Answered(_, _, -3, _)) && ids(all[11]) == [7]);
        assert!(matches!(all[6], Record::Answered(k, r, 0, _) if k == [1; 16] && r == [2; 16]));
        assert_eq!((all[7], all[8]), (Record::Note(b"note"), Record::Next(9)));
        assert_eq!(all[9], Record::Kept { id: 10, row: b"row", by_selector: true, done: d });
        assert_eq!(all[10], Record::Trailer(b"end"));
        assert!(matches!(all[12], Record::Buried(g) if Grave::each(g).eq([grave])));
        assert!(matches!(all[13], Record::Graves(g) if Grave::each(g).count() == 2));
        assert_eq!(all[14], Record::Reached(origin, to));
        assert!(matches!(all[15], Record::Keys(k) if key_ids(k).eq([6, 7])));
        assert_eq!(all[16], Record::Condemned(8, 9));
        for cut in 0..b.0.len() {
            let part: Result<Vec<_>, _> = records(&b.0[..cut]).collect();
            assert!(part.is_err() || part.unwrap().len() < 17, "{cut}");
        }
        assert!(records(&[99, 0, 0, 0, 0]).any(|r| r.is_err()), "a kind that is not known");
    }
}
