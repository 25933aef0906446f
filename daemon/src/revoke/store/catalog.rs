//! Where each claim stands in the files, and what readers on any thread see of them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet, VecDeque},
    ops::Bound,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak},
};

use super::{
    super::{
        AnyClaim, Claim, ClaimId, SelectorClaim,
        foreign::{Fleet, Grave, Name, REMEMBERED},
        row,
    },
    StoreError,
    record::{Done, Record, records},
};
use crate::{
    clock::WallTime,
    hex,
    journal::{Chain, DiskFile, Entry, PAGE, verify},
};

/// Bytes of a file between two places that are remembered.
const APART: u64 = 64 << 10;
/// Entries whose very place is remembered: who follows the log reads each once, and nothing beside it.
const RECENT: usize = 4096;
/// Changes after which no more entries are read at once: each takes some hundred bytes while it is told.
const CHANGES: usize = 8192;

/// Where an entry stands that brings this claim, or that is the first to bring one after it.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    pub id: u64,
    pub at: u64,
    pub before: Chain,
}

/// A file with claims, in the order of their ids.
#[derive(Clone, Debug)]
pub struct Piece {
    pub file: Arc<dyn DiskFile>,
    /// The number of its first entry; 0 for a snapshot.
    pub first: u64,
    /// The chain before its first entry.
    pub before: Chain,
    pub places: Vec<Place>,
    pub end: u64,
}

impl Piece {
    /// Notes where an entry stands whose first claim is this.
    pub fn note(&mut self, place: Place) {
        if self.places.last().is_none_or(|last| place.at - last.at >= APART) {
            self.places.push(place);
        }
    }

    /// The last place that is noted of those that `is_before` says it of, and the chain before it; else the beginning of a
    /// file of the log.
    pub fn seek(&self, is_before: impl Fn(&Place) -> bool) -> (u64, Chain) {
        let n = self.places.partition_point(is_before);
        let place = n.checked_sub(1).map(|n| (self.places[n].at, self.places[n].before));
        place.unwrap_or((PAGE, self.before))
    }
}

/// What came of an order that may be repeated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answered {
    /// Digest of what was asked.
    pub request: [u8; 16],
    /// The claims that came of it.
    pub claims: Vec<ClaimId>,
    /// When (ms since 1970).
    pub time: i64,
    /// Until when it is remembered, where that is longer than a day.
    pub until: i64,
}

/// All that is known of the files.
#[derive(Debug, Default)]
pub struct Catalog {
    /// A snapshot first, where there is one; then the log after it.
    pub pieces: Vec<Piece>,
    /// Claims that are in a piece and were taken out again.
    pub gone: HashSet<u64>,
    pub done: BTreeMap<u64, Done>,
    pub answered: HashMap<[u8; 16], Answered>,
    /// How many tokens the orders of selectors in force condemned at once, where that is known.
    pub condemned: BTreeMap<u64, u64>,
    /// How often a snapshot took the place of files.
    pub swaps: u64,
    /// The log's last entry.
    pub head: u64,
    /// What is kept of a fleet.
    pub fleet: Fleet,
    /// Ids below this one are used up.
    pub next: u64,
    /// Fingerprint keys that have been in force.
    pub keys: BTreeSet<u32>,
    /// The last entries: each one's number, the first of its file, its offset, and the chain before it.
    recent: VecDeque<(u64, u64, u64, Chain)>,
}

impl Catalog {
    /// Notes where an entry stands. They come one after the other.
    pub fn passed(&mut self, seq: u64, first: u64, at: u64, before: Chain) {
        self.head = seq;
        if self.recent.len() >= RECENT {
            self.recent.pop_front();
        }
        self.recent.push_back((seq, first, at, before));
    }

    /// Where an entry stands, as far as that is remembered.
    fn place_of(&self, seq: u64) -> Option<(u64, u64, Chain)> {
        let n = usize::try_from(seq.checked_sub(self.recent.front()?.0)?).ok()?;
        self.recent.get(n).map(|(_, first, at, before)| (*first, *at, *before))
    }
}

/// What an entry of the log changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// A claim was added.
    Revoked(Box<AnyClaim>),
    /// Claims were lifted.
    Lifted {
        /// Which.
        ids: Vec<ClaimId>,
        /// By whom, and why.
        by: serde_json::Value,
    },
    /// The time of claims is over.
    Expired(Vec<ClaimId>),
    /// The lifting was ordered here: the same claims by their names in the fleet.
    Buried(Vec<Grave>),
}

/// An entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its number.
    pub entry: u64,
    /// When it was written (ms since 1970).
    pub time: i64,
    /// What it changes, in order; nothing, often.
    pub changes: Vec<Change>,
}

/// How an order was carried out.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Receipt {
    /// The claim.
    pub id: ClaimId,
    /// When it was accepted (ms since 1970).
    pub accepted: i64,
    /// Microseconds from there until it was on the disk, as the clock of running time counts them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub synced_us: Option<u32>,
    /// Microseconds until the decision path and the kernel refused it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub in_force_us: Option<u32>,
    /// Of a selector's: how many tokens seen lately were condemned at once.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub condemned: Option<u64>,
    /// The log's entry that brought it.
    pub entry: u64,
    /// That entry's hash, which the audit log's chain goes through; not kept for ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hash: Option<String>,
}

/// Shared by the store and its readers.
#[derive(Debug, Default)]
pub struct Shared(RwLock<Catalog>);

impl Shared {
    pub fn new(catalog: Catalog) -> Self {
        Self(RwLock::new(catalog))
    }

    pub fn read(&self) -> RwLockReadGuard<'_, Catalog> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn write(&self) -> RwLockWriteGuard<'_, Catalog> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads the store from any thread, for as long as its owner keeps it open.
#[derive(Clone, Debug)]
pub struct StoreReader {
    pub(super) shared: Weak<Shared>,
    pub(super) path: PathBuf,
}

/// A claim as it was found.
struct Found<'a> {
    id: u64,
    row: &'a [u8],
    by_selector: bool,
    done: Done,
    hash: Option<[u8; 32]>,
}

impl Found<'_> {
    fn claim(&self) -> Option<AnyClaim> {
        if self.by_selector {
            serde_json::from_slice::<SelectorClaim>(self.row).ok().map(AnyClaim::Selector)
        } else {
            row::decode(self.id, self.row).map(AnyClaim::Token)
        }
    }
}

impl StoreReader {
    /// A claim of either kind.
    pub fn get(&self, id: ClaimId) -> Result<Option<AnyClaim>, StoreError> {
        let read = |found: &Found<'_>| found.claim();
        self.find(id, read)?.map(|c| c.ok_or_else(|| self.not_a_claim(id.0))).transpose()
    }

    /// A claim on a token.
    pub fn claim(&self, id: ClaimId) -> Result<Option<Claim>, StoreError> {
        Ok(self.get(id)?.and_then(|c| if let AnyClaim::Token(c) = c { Some(c) } else { None }))
    }

    /// A claim by selector.
    pub fn selector(&self, id: ClaimId) -> Result<Option<SelectorClaim>, StoreError> {
        Ok(self.get(id)?.and_then(|c| if let AnyClaim::Selector(c) = c { Some(c) } else { None }))
    }

    /// How a claim's order was carried out.
    pub fn receipt(&self, id: ClaimId) -> Result<Option<Receipt>, StoreError> {
        let found = self.find(id, |found| {
            let claim = found.claim()?;
            let known = |us: u32| (us != 0).then_some(us);
            Some(Receipt {
                id,
                accepted: match claim {
                    AnyClaim::Token(c) => c.created.0,
                    AnyClaim::Selector(c) => c.created.0,
                },
                synced_us: known(found.done.synced),
                in_force_us: known(found.done.in_force),
                condemned: self.condemned(id),
                entry: found.done.seq,
                hash: found.hash.map(|h| hex::encode(&h)),
            })
        })?;
        found.map(|c| c.ok_or_else(|| self.not_a_claim(id.0))).transpose()
    }

    /// How many tokens a selector's order condemned at once, as far as that is known.
    pub fn condemned(&self, id: ClaimId) -> Option<u64> {
        self.shared.upgrade()?.read().condemned.get(&id.0).copied()
    }

    /// Up to `limit` claims that hold at `now` with an id above `after`, in order of their ids, as far as `keep` says.
    pub fn list(
        &self,
        after: ClaimId,
        limit: usize,
        now: WallTime,
        keep: impl Fn(&AnyClaim) -> bool,
    ) -> Result<Vec<AnyClaim>, StoreError> {
        let mut claims = Vec::new();
        if limit == 0 {
            return Ok(claims);
        }
        let mut bad = None;
        self.each(after.0.saturating_add(1), APART, |found| {
            match found.claim() {
                Some(claim) if claim.until() > now && keep(&claim) => claims.push(claim),
                Some(_) => {}
                None => bad = Some(found.id),
            }
            claims.len() < limit && bad.is_none()
        })?;
        bad.map_or(Ok(claims), |id| Err(self.not_a_claim(id)))
    }

    /// What came of an order with this key.
    pub fn answered(&self, key: &[u8; 16]) -> Option<Answered> {
        self.shared.upgrade()?.read().answered.get(key).cloned()
    }

    /// The entry before the oldest that [`Self::entries`] has.
    pub fn oldest(&self) -> Option<u64> {
        let shared = self.shared.upgrade()?;
        let catalog = shared.read();
        catalog.pieces.iter().find(|p| p.first != 0).map(|p| p.first - 1).or(Some(catalog.head))
    }

    /// Ids below this one are used up.
    pub fn next_id(&self) -> u64 {
        self.shared.upgrade().map_or(0, |s| s.read().next)
    }

    /// Up to `limit` claims of other hosts that were lifted, in order of their names, behind one.
    pub fn graves(&self, after: Option<Name>, limit: usize) -> Vec<Grave> {
        let Some(shared) = self.shared.upgrade() else { return Vec::new() };
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let catalog = shared.read();
        let some = catalog.fleet.graves.range((from, Bound::Unbounded)).take(limit);
        some.map(|(name, until)| Grave { name: *name, until: WallTime(until.0.saturating_sub(REMEMBERED)) })
            .collect()
    }

    /// What is kept of a fleet.
    pub fn fleet(&self) -> Fleet {
        self.shared.upgrade().map(|s| s.read().fleet.clone()).unwrap_or_default()
    }

    /// Up to `limit` entries of the log after one, in order, and fewer where they say much; none where there are none.
    /// `None` where some of them are not kept any more.
    pub fn entries(&self, after: u64, limit: usize) -> Result<Option<Vec<LogEntry>>, StoreError> {
        let shared = self.shared.upgrade().ok_or_else(|| damaged(&self.path, "the daemon is stopping"))?;
        let pieces: Vec<_> = {
            let catalog = shared.read();
            let mut log = catalog.pieces.iter().filter(|p| p.first != 0).peekable();
            // Right after a snapshot the log may have no entry at all.
            let gap = log.peek().map_or(after < catalog.head, |p| p.first > after.saturating_add(1));
            // Of another log, or of this one before it was restored.
            if gap || after > catalog.head {
                return Ok(None);
            }
            if after == catalog.head {
                return Ok(Some(Vec::new()));
            }
            let next = catalog.place_of(after + 1);
            let seek = |p: &Piece| {
                if let Some((first, at, before)) = next.filter(|(first, ..)| *first >= p.first) {
                    // A file before it has nothing more to say.
                    let (at, before) = if first == p.first { (at, before) } else { (p.end, p.before) };
                    return (Arc::clone(&p.file), at, before, p.end);
                }
                let (at, before) = p.seek(|place| place.before.seq <= after);
                (Arc::clone(&p.file), at, before, p.end)
            };
            log.map(seek).collect()
        };
        let (mut entries, mut bad, mut count) = (Vec::new(), false, 0);
        for (file, at, before, end) in pieces {
            verify(&*file, at, end, before, APART, |entry, _| {
                if entry.chain.seq > after {
                    match changes(entry) {
                        Some(changes) => {
                            count += changes.len();
                            entries.push(LogEntry { entry: entry.chain.seq, time: entry.time, changes });
                        }
                        None => bad = true,
                    }
                }
                entries.len() < limit && count < CHANGES && !bad
            })
            .map_err(|e| damaged(&self.path, &e.to_string()))?;
            if entries.len() >= limit || count >= CHANGES || bad {
                break;
            }
        }
        if bad {
            Err(damaged(&self.path, "an entry holds what this version does not know"))
        } else {
            Ok(Some(entries))
        }
    }

    fn find<T>(&self, id: ClaimId, make: impl FnOnce(&Found<'_>) -> T) -> Result<Option<T>, StoreError> {
        let (mut make, mut made) = (Some(make), None);
        self.each(id.0, 0, |found| {
            if found.id == id.0 {
                made = make.take().map(|make| make(found));
            }
            false
        })?;
        Ok(made)
    }

    /// Hands out claims from an id on, in order, until `take` says that it is enough.
    fn each(&self, from: u64, read: u64, mut take: impl FnMut(&Found<'_>) -> bool) -> Result<(), StoreError> {
        let mut next = Some(from);
        while let Some(from) = next {
            next = self.some(from, read, &mut take)?;
        }
        Ok(())
    }

    /// The same until a snapshot takes the place of the files that are read: gives where to go on then. What was taken out
    /// of them before is not in it, and no longer known to be gone.
    fn some(
        &self,
        from: u64,
        read: u64,
        take: &mut impl FnMut(&Found<'_>) -> bool,
    ) -> Result<Option<u64>, StoreError> {
        let shared = self.shared.upgrade().ok_or_else(|| damaged(&self.path, "the daemon is stopping"))?;
        // Files are read without the lock: what stands in them before their end does not change.
        let (swaps, pieces) = {
            let catalog = shared.read();
            let start = catalog.pieces.iter().rposition(|p| p.places.first().is_some_and(|f| f.id <= from));
            let pieces: Vec<_> = catalog.pieces[start.unwrap_or(0)..]
                .iter()
                .filter(|p| !p.places.is_empty())
                .map(|p| {
                    let n = p.places.partition_point(|place| place.id <= from).max(1) - 1;
                    (Arc::clone(&p.file), p.first, p.places[n], p.end)
                })
                .collect();
            (catalog.swaps, pieces)
        };
        let (mut more, mut again, mut next) = (true, false, from);
        for (file, first, place, end) in pieces {
            let mut bad = false;
            verify(&*file, place.at, end, place.before, read, |entry, _| {
                // What is made of them is made without the lock: the writer waits for a few lookups, and no longer.
                let Ok(mut held) = ids(entry) else {
                    bad = true;
                    return false;
                };
                let done = {
                    let catalog = shared.read();
                    if catalog.swaps != swaps {
                        again = true;
                        return false;
                    }
                    held.retain(|id| *id >= next && !catalog.gone.contains(id));
                    catalog.done.get(&entry.chain.seq).copied()
                };
                let mut held = held.into_iter().peekable();
                more = visit(entry, first, done, |found| {
                    if held.next_if_eq(&found.id).is_none() {
                        return true;
                    }
                    next = found.id + 1;
                    take(found)
                })
                .unwrap_or_else(|_| {
                    bad = true;
                    false
                });
                more
            })
            .map_err(|e| damaged(&self.path, &e.to_string()))?;
            if bad {
                return Err(damaged(&self.path, "an entry holds what this version does not know"));
            }
            if again {
                return Ok(Some(next));
            }
            if !more {
                break;
            }
        }
        Ok(None)
    }

    fn not_a_claim(&self, id: u64) -> StoreError {
        damaged(&self.path, &format!("row {id} is no claim"))
    }
}

/// What an entry changes; `None` where it is not known.
fn changes(entry: &Entry<'_>) -> Option<Vec<Change>> {
    let mut all = Vec::new();
    for record in records(entry.body) {
        all.push(match record.ok()? {
            Record::Add(id, row) => Change::Revoked(Box::new(AnyClaim::Token(row::decode(id, row)?))),
            Record::Select(_, json) => {
                Change::Revoked(Box::new(AnyClaim::Selector(serde_json::from_slice(json).ok()?)))
            }
            Record::Lift(ids, by) => Change::Lifted {
                ids: ids.iter().map(ClaimId).collect(),
                by: serde_json::from_slice(by).unwrap_or_default(),
            },
            Record::Over(ids) => Change::Expired(ids.iter().map(ClaimId).collect()),
            Record::Buried(graves) => Change::Buried(Grave::each(graves).collect()),
            _ => continue,
        });
    }
    Some(all)
}

/// The claims that an entry brings, in their order.
fn ids(entry: &Entry<'_>) -> Result<Vec<u64>, super::record::NoRecord> {
    let mut all = Vec::new();
    for record in records(entry.body) {
        match record? {
            Record::Add(id, _) | Record::Select(id, _) | Record::Kept { id, .. } => all.push(id),
            _ => {}
        }
    }
    Ok(all)
}

/// Hands out the claims of an entry; tells whether to go on.
fn visit(
    entry: &Entry<'_>,
    first: u64,
    done: Option<Done>,
    mut take: impl FnMut(&Found<'_>) -> bool,
) -> Result<bool, super::record::NoRecord> {
    let own = || {
        let seq = entry.chain.seq;
        done.unwrap_or(Done { seq, time: entry.time, ..Done::default() })
    };
    // A snapshot's own chain is not the log's.
    let hash = (first != 0).then_some(entry.chain.hash);
    for record in records(entry.body) {
        let found = match record? {
            Record::Add(id, row) => Found { id, row, by_selector: false, done: own(), hash },
            Record::Select(id, row) => Found { id, row, by_selector: true, done: own(), hash },
            Record::Kept { id, row, by_selector, done } => Found { id, row, by_selector, done, hash },
            _ => continue,
        };
        if !take(&found) {
            return Ok(false);
        }
    }
    Ok(true)
}

pub fn damaged(path: &Path, message: &str) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), message: message.to_owned() }
}
