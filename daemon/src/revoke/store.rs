//! The durable store: a log that is appended to and synced, and now and then a snapshot of what it comes to.
//!
//! [`Store::commit`] appends one entry for a whole batch. A snapshot is made beside it, from files that do not change any
//! more; the log's older files are then kept for the audit alone.

mod audit;
mod backup;
mod catalog;
mod changes;
mod compact;
mod ended;
mod error;
mod migrate;
mod record;
mod seen;
mod snapshot;
#[cfg(test)]
mod tests;
mod tuning;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::{Arc, mpsc},
    time::Duration,
};

pub use self::{
    audit::{AuditEntry, AuditError, AuditLog},
    backup::{BackupError, Held, Restored, backup, restore},
    catalog::{Answered, Change, LogEntry, Receipt, StoreReader},
    changes::{Answer, Changes},
    ended::Ended,
    error::StoreError,
    tuning::Tuning,
};
use self::{
    catalog::{Catalog, Piece, Place, Shared, damaged},
    compact::Compacted,
    record::{Body, Done, Record, records},
};
use super::{
    ClaimId, SelectorClaim,
    calendar::Seen,
    foreign::{Grave, Name, Origin},
    keys::KeyIds,
    ledger::ClaimHead,
    row,
};
use crate::{
    clock::WallTime,
    journal::{Chain, Disk, Entry, Identity, Journal, JournalError, PAGE, Position, verify},
};

/// Orders that may be repeated are remembered for so long, in ms.
const REMEMBERED: i64 = 24 * 3600 * 1000;
/// Bytes that may wait for the next entry; beyond them one is written for their sake.
const WAITING: usize = 1 << 20;
/// Read at once where all is read.
const READ: u64 = 1 << 20;

/// What was read at start.
#[derive(Debug)]
pub enum Loaded {
    /// A claim on a token, as far as the ledger keeps it.
    Token(ClaimHead),
    /// A claim by selector.
    Selector(Box<SelectorClaim>),
    /// The claim that came last is another host's.
    Foreign(ClaimId, Name),
}

/// The open store. It has one owner.
#[derive(Debug)]
pub struct Store {
    journal: Journal,
    shared: Arc<Shared>,
    path: PathBuf,
    tuning: Tuning,
    next: u64,
    policy: Option<(String, u64)>,
    /// Records that go with the next entry.
    waiting: Body,
    /// Of those, some that are to be on the disk before long.
    pressing: bool,
    snapshot: Option<snapshot::Head>,
    compacting: Option<mpsc::Receiver<Result<Compacted, String>>>,
    /// The fingerprint keys in force.
    keys: KeyIds,
}

/// What the entries after the snapshot come to.
#[derive(Default)]
struct Replay {
    catalog: Catalog,
    next: u64,
    policy: Option<(String, u64)>,
    bad: Option<u64>,
}

impl Replay {
    fn take(&mut self, entry: &Entry<'_>, position: &Position) {
        match self.catalog.take(entry, position) {
            Ok(Told { next, policy }) => {
                self.next = self.next.max(next);
                self.policy = policy.or(self.policy.take());
            }
            Err(record::NoRecord) => self.bad = self.bad.or(Some(entry.chain.seq)),
        }
    }
}

/// What an entry says beside its claims.
struct Told {
    next: u64,
    policy: Option<(String, u64)>,
}

impl Catalog {
    /// Notes what an entry of the log holds and where.
    fn take(&mut self, entry: &Entry<'_>, p: &Position) -> Result<Told, record::NoRecord> {
        let (mut first, mut told) = (None, Told { next: 0, policy: None });
        for record in records(entry.body) {
            match record? {
                Record::Add(id, _) | Record::Select(id, _) => {
                    first = first.or(Some(id));
                    told.next = told.next.max(id + 1);
                }
                Record::Lift(ids, _) | Record::Over(ids) => {
                    // Most entries lift none of which that is known.
                    if !self.condemned.is_empty() {
                        for id in ids.iter() {
                            self.condemned.remove(&id);
                        }
                    }
                    self.gone.extend(ids.iter());
                }
                Record::Condemned(id, tokens) => {
                    self.condemned.insert(id, tokens);
                }
                Record::Policy(generation, hash) => told.policy = Some((hash.to_owned(), generation)),
                Record::Done(done) => drop(self.done.insert(done.seq, done)),
                Record::Answered(key, request, until, ids) => {
                    let claims = ids.iter().map(ClaimId).collect();
                    self.answered.insert(key, Answered { request, claims, time: entry.time, until });
                }
                Record::Next(id) => told.next = told.next.max(id),
                Record::Graves(graves) => self.fleet.bury(Grave::each(graves)),
                Record::Reached(origin, to) => drop(self.fleet.reached.insert(origin, to)),
                Record::Keys(keys) => self.keys.extend(record::key_ids(keys)),
                Record::Buried(_) | Record::Note(_) | Record::Kept { .. } | Record::Trailer(_) => {}
            }
        }
        self.passed(entry.chain.seq, p.segment, p.at, p.before);
        self.next = self.next.max(told.next);
        let end = p.at + entry.size() as u64;
        if self.pieces.last().is_none_or(|last| last.first != p.segment) {
            let file = Arc::clone(&p.file);
            self.pieces.push(Piece { file, first: p.segment, before: p.before, places: Vec::new(), end });
        }
        if let Some(piece) = self.pieces.last_mut() {
            piece.end = end;
            if let Some(id) = first {
                piece.note(Place { id, at: p.at, before: p.before });
            }
        }
        Ok(told)
    }
}

impl Store {
    /// Opens the directory, making it where it is absent (mode 0700); refuses one of other keys or another format. A store of an
    /// earlier version is taken over.
    pub fn open(path: &Path, keys: impl Into<KeyIds>) -> Result<Self, StoreError> {
        Self::open_with(path, keys, Tuning::default())
    }

    /// With other sizes and times.
    pub fn open_with(path: &Path, keys: impl Into<KeyIds>, tuning: Tuning) -> Result<Self, StoreError> {
        let keys = keys.into();
        migrate::take_over(path, keys)?;
        let disk = migrate::host(path)?;
        Self::open_on(&(Arc::new(disk) as _), path, keys, tuning)
    }

    /// Opens the store on a disk.
    pub(super) fn open_on(
        disk: &Arc<dyn Disk>,
        path: &Path,
        keys: impl Into<KeyIds>,
        tuning: Tuning,
    ) -> Result<Self, StoreError> {
        let keys = keys.into();
        let damaged = |what: String| damaged(path, &what);
        let mut snapshot = snapshot::newest(&**disk).map_err(|e| damaged(e.to_string()))?;
        let mut replay = Replay { next: 1, ..Replay::default() };
        let mut start = Chain { seq: 0, hash: [0; 32] };
        let mut log = [0; 16];
        if let Some((head, piece)) = &mut snapshot {
            log = head.identity.log;
            start = head.chain;
            replay.next = head.trailer.next;
            replay.policy.clone_from(&head.trailer.policy);
            replay.catalog.answered = std::mem::take(&mut head.answered);
            replay.catalog.fleet = std::mem::take(&mut head.fleet);
            replay.catalog.condemned = std::mem::take(&mut head.trailer.condemned);
            replay.catalog.head = head.chain.seq;
            replay.catalog.next = head.trailer.next;
            replay.catalog.keys.extend(&head.trailer.keys);
            replay.catalog.pieces.push(piece.clone());
        } else {
            let names = disk.list().map_err(|e| damaged(e.to_string()))?;
            if seen::is_among(&names) && !Journal::is_among(&names) {
                return Err(damaged("it was in use, and its log is not there".to_owned()));
            }
            aws_lc_rs::rand::fill(&mut log).map_err(|_| StoreError::Open {
                path: path.to_owned(),
                message: "the system gives no randomness".to_owned(),
            })?;
        }
        let fresh = Identity { key_id: keys.own, log };
        let opened = Journal::open(Arc::clone(disk), fresh, start, tuning.sizes, |entry, position| {
            replay.take(entry, &position);
        });
        let (journal, cut) = opened.map_err(|e| match e {
            JournalError::Damaged(what) => damaged(what),
            e => StoreError::Open { path: path.to_owned(), message: e.to_string() },
        })?;
        if let Some((head, _)) = &snapshot
            && head.identity != journal.identity()
        {
            return Err(damaged("its snapshot is of another log".to_owned()));
        }
        let begun_under = journal.identity().key_id;
        replay.catalog.keys.insert(begun_under);
        if !keys.all().any(|k| replay.catalog.keys.contains(&k)) {
            let (path, expected) = (path.to_owned(), keys.own);
            return Err(StoreError::KeyMismatch { path, found: begun_under, expected });
        }
        if let Some(entry) = replay.bad {
            return Err(damaged(format!("entry {entry} holds what this version does not know")));
        }
        if cut > 0 {
            tracing::warn!(
                store = %path.display(),
                bytes = cut,
                "the store's end was cut off: it was being written when the daemon or the machine stopped, and was never acknowledged"
            );
        }
        let Replay { catalog, next, policy, .. } = replay;
        let shared = Arc::new(Shared::new(catalog));
        Ok(Self {
            journal,
            shared,
            path: path.to_owned(),
            tuning,
            next,
            policy,
            waiting: Body::default(),
            pressing: false,
            snapshot: snapshot.map(|(head, _)| head),
            compacting: None,
            keys,
        })
    }

    /// Hands out what is kept in memory of every claim in the store.
    pub fn load(&self, mut take: impl FnMut(Loaded)) -> Result<(), StoreError> {
        let catalog = self.shared.read();
        let mut bad = None;
        for piece in &catalog.pieces {
            verify(&*piece.file, PAGE, piece.end, piece.before, READ, |entry, _| {
                for record in records(entry.body) {
                    let (id, row, by_selector) = match record {
                        Ok(Record::Add(id, row)) => (id, row, false),
                        Ok(Record::Select(id, row)) => (id, row, true),
                        Ok(Record::Kept { id, row, by_selector, .. }) => (id, row, by_selector),
                        _ => continue,
                    };
                    if catalog.gone.contains(&id) {
                        continue;
                    }
                    let one = if by_selector {
                        serde_json::from_slice(row).ok().map(|c| Loaded::Selector(Box::new(c)))
                    } else {
                        row::head(id, row, self.keys).map(Loaded::Token)
                    };
                    match one {
                        Some(one) => take(one),
                        None => bad = Some(id),
                    }
                    if let Some(name) = row::foreign(row, by_selector) {
                        take(Loaded::Foreign(ClaimId(id), name));
                    }
                }
                bad.is_none()
            })
            .map_err(|e| damaged(&self.path, &e.to_string()))?;
        }
        bad.map_or(Ok(()), |id| Err(damaged(&self.path, &format!("row {id} is no claim"))))
    }

    /// A reader for other threads.
    pub fn reader(&self) -> StoreReader {
        StoreReader { shared: Arc::downgrade(&self.shared), path: self.path.clone() }
    }

    /// The id that its log was given when it was made.
    pub fn origin(&self) -> Origin {
        Origin(self.journal.identity().log)
    }

    /// Whether a claim of another host was lifted.
    pub fn is_buried(&self, name: Name) -> bool {
        self.shared.read().fleet.graves.contains_key(&name)
    }

    /// Whether nothing was ever written to it.
    pub fn is_new(&self) -> bool {
        self.journal.chain().seq == 0
    }

    /// Fingerprint keys that have been in force, now or before.
    pub fn keys(&self) -> BTreeSet<u32> {
        self.shared.read().keys.clone()
    }

    /// Those in force that have not been before.
    pub fn new_keys(&self, keys: KeyIds) -> Vec<u32> {
        let known = self.keys();
        keys.all().filter(|k| !known.contains(k)).collect()
    }

    /// The last active policy set: its hash and generation.
    pub fn policy(&self) -> Option<(String, u64)> {
        self.policy.clone()
    }

    /// Whether an id was given.
    pub const fn was_given(&self, id: u64) -> bool {
        id < self.next
    }

    /// A fresh id, never given before, and not lifted by another host in advance.
    pub fn next_id(&mut self) -> ClaimId {
        let origin = self.origin();
        while !self.shared.read().fleet.graves.is_empty() && self.is_buried(Name { origin, id: self.next }) {
            self.next += 1;
        }
        let id = ClaimId(self.next);
        self.next += 1;
        id
    }

    /// The id that is given next.
    fn upcoming(&self) -> u64 {
        self.next
    }

    /// Gives no id below this one any more, once the next entry is written.
    fn go_on_from(&mut self, next: u64) {
        self.next = self.next.max(next);
        self.waiting.next(self.next);
    }

    /// Writes a batch and returns when it is on the disk, with the entry's number. After an error nothing of it counts.
    pub fn commit(&mut self, changes: &Changes<'_>, now: WallTime) -> Result<u64, StoreError> {
        if changes.lazy && self.waiting.0.len() < WAITING {
            if !changes.over.is_empty() {
                self.waiting.over(changes.over.iter().map(|id| id.0));
            }
            for note in &changes.notes {
                self.waiting.note(note);
            }
            for (id, tokens) in &changes.condemned {
                self.waiting.condemned(id.0, *tokens);
            }
            self.pressing = true;
            let mut shared = self.shared.write();
            shared.gone.extend(changes.gone());
            shared.condemned.extend(changes.condemned.iter().map(|(id, tokens)| (id.0, *tokens)));
            return Ok(self.journal.chain().seq);
        }
        let mut body = Body(self.waiting.0.clone());
        for claim in &changes.add {
            body.add(claim.id.0, &row::encode(claim));
        }
        for claim in &changes.select {
            let json = serde_json::to_vec(claim).map_err(|e| self.write_failed(&e))?;
            body.select(claim.id.0, &json);
        }
        for (ids, by) in &changes.lift {
            body.lift(ids.iter().map(|id| id.0), by);
        }
        if !changes.over.is_empty() {
            body.over(changes.over.iter().map(|id| id.0));
        }
        if let Some((hash, generation)) = &changes.policy {
            body.policy(*generation, hash);
        }
        for Answer { once, ids } in &changes.answered {
            body.answered(once.key, once.request, once.until.0, ids.iter().map(|id| id.0));
        }
        for note in &changes.notes {
            body.note(note);
        }
        for (id, tokens) in &changes.condemned {
            body.condemned(id.0, *tokens);
        }
        body.fleet(&changes.buried, &changes.graves, &changes.reached);
        body.keys(&changes.keys);
        self.append(&body.0, now)
    }

    /// Has on the disk what commits were content to leave for later.
    pub fn flush(&mut self, now: WallTime) -> Result<(), StoreError> {
        if !self.pressing {
            return Ok(());
        }
        let body = self.waiting.0.clone();
        self.append(&body, now).map(|_| ())
    }

    fn append(&mut self, body: &[u8], now: WallTime) -> Result<u64, StoreError> {
        let sealed = self.journal.sealed().len();
        let (chain, position) = self.journal.append(now.0, body).map_err(|e| match e {
            e @ (JournalError::NoRoom(_) | JournalError::TooLong(_)) => {
                StoreError::NoRoom { path: self.path.clone(), message: e.to_string() }
            }
            e => self.write_failed(&e),
        })?;
        self.waiting.0.clear();
        self.pressing = false;
        let entry = Entry { chain, time: now.0, body };
        let told = self.shared.write().take(&entry, &position).ok();
        self.policy = told.and_then(|t| t.policy).or(self.policy.take());
        if self.journal.sealed().len() != sealed {
            self.tend(now, None);
        }
        Ok(chain.seq)
    }

    fn write_failed(&self, e: &dyn std::fmt::Display) -> StoreError {
        StoreError::Write { path: self.path.clone(), message: e.to_string() }
    }

    /// Notes what became of an entry: for receipts, and on the disk with the next one.
    pub fn done(&mut self, seq: u64, taken: WallTime, synced: Duration, in_force: Option<Duration>) {
        let us = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX).max(1);
        let done = Done { seq, time: taken.0, synced: us(synced), in_force: in_force.map_or(0, us) };
        self.waiting.done(done);
        self.shared.write().done.insert(seq, done);
    }

    /// What daemons saw of the wall clock.
    pub(super) fn seen(&self) -> Seen {
        seen::read(&**self.journal.disk())
    }

    /// Keeps it. That it is not kept delays the erasure of expired claims.
    pub(super) fn keep_seen(&self, seen: &Seen) {
        if let Err(e) = seen::write(&**self.journal.disk(), seen) {
            tracing::warn!(error = %e, store = %self.path.display(), "what was seen of the clock is not kept: expired revocations are erased later");
        }
    }

    /// Whether an entry of so many bytes would have zeros written before it.
    #[cfg(test)]
    fn is_short_of_zeros(&self, bytes: u64) -> bool {
        self.journal.active().is_short(bytes)
    }

    /// Where the audit chain stands: number and hash of the last entry.
    pub fn head(&self) -> Chain {
        self.journal.chain()
    }

    /// Looks whether a snapshot is to be made or was, and forgets what is too old: by a time that has been over for long
    /// enough for the clock to be believed, where there is one. Cheap; called now and then.
    pub fn tend(&mut self, now: WallTime, over: Option<WallTime>) {
        if let Some(over) = over {
            self.forget_answers(over);
        }
        if let Some(running) = &self.compacting {
            match running.try_recv() {
                Ok(result) => {
                    self.compacting = None;
                    self.use_snapshot(result);
                }
                Err(mpsc::TryRecvError::Empty) => return,
                Err(mpsc::TryRecvError::Disconnected) => self.compacting = None,
            }
        }
        self.drop_old(over);
        let last = self.snapshot.as_ref().map_or(0, |s| s.bytes);
        if compact::files(self).map(|f| f.end).sum::<u64>() < self.tuning.snapshot_after.max(last) {
            return;
        }
        let work = compact::Work::of(self, now);
        let (tell, told) = mpsc::channel();
        let run = move || {
            let _ = tell.send(work.run());
        };
        if self.tuning.background {
            if std::thread::Builder::new().name("snapshot".into()).spawn(run).is_ok() {
                self.compacting = Some(told);
            }
        } else {
            run();
            if let Ok(result) = told.recv() {
                self.use_snapshot(result);
            }
        }
    }

    fn use_snapshot(&mut self, result: Result<Compacted, String>) {
        let made = match result {
            Ok(made) => made,
            Err(e) => {
                tracing::warn!(error = e, store = %self.path.display(), "no snapshot of the store was made; it is tried again");
                return;
            }
        };
        let upto = made.head.chain.seq;
        {
            let mut catalog = self.shared.write();
            catalog.pieces.retain(|p| p.first > upto);
            catalog.pieces.insert(0, made.piece);
            catalog.gone.retain(|id| !made.gone.contains(id));
            catalog.done = catalog.done.split_off(&(upto + 1));
            catalog.swaps += 1;
        }
        if let Some(old) = self.snapshot.replace(made.head)
            && let Err(e) = self.journal.disk().remove(&old.name())
        {
            tracing::warn!(error = %e, "an older snapshot of the store was not removed");
        }
    }

    fn forget_answers(&self, now: WallTime) {
        let mut catalog = self.shared.write();
        let old = now.0 - REMEMBERED;
        catalog.answered.retain(|_, a| a.time >= old || a.until > now.0);
        catalog.fleet.forget(now);
    }

    /// Removes files of the log that are kept for the audit alone, and have been for long enough.
    fn drop_old(&mut self, over: Option<WallTime>) {
        let Some(upto) = self.snapshot.as_ref().map(|s| s.chain.seq) else { return };
        let keep = i64::try_from(self.tuning.audit_keep.as_millis()).unwrap_or(i64::MAX);
        loop {
            let spare: Vec<_> = self.journal.sealed().iter().filter(|s| s.chain.seq <= upto).collect();
            let bytes: u64 = spare.iter().map(|s| s.end).sum();
            let Some(oldest) = spare.first() else { return };
            let last = compact::last_time(&spare, &self.journal);
            let is_old = |t: i64| over.is_some_and(|over| t < over.0.saturating_sub(keep));
            if bytes <= self.tuning.audit_max && !last.is_some_and(is_old) {
                return;
            }
            tracing::info!(file = oldest.name, "a file of the audit log is removed: it is past what is kept");
            if let Err(e) = self.journal.drop_oldest() {
                tracing::warn!(error = %e, "an old file of the audit log was not removed");
                return;
            }
        }
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
        let now = WallTime(i64::try_from(now.as_millis()).unwrap_or(0));
        self.pressing |= !self.waiting.0.is_empty();
        if let Err(e) = self.flush(now).and_then(|()| self.journal.close().map_err(|e| self.write_failed(&e)))
        {
            tracing::warn!(error = %e, "the revocation store was closed, but not as it should be; it is read again at start");
        }
    }
}
