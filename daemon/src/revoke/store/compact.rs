//! Making a snapshot from the last one and the log's complete files. They do not change any more, so that nobody waits
//! for it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    io,
    sync::Arc,
};

use super::{
    super::foreign::Fleet,
    Store,
    catalog::{Answered, Piece},
    record::{Done, Record, records},
    snapshot::{self, Head, Writer},
};
use crate::{
    clock::WallTime,
    journal::{Disk, Entry, Identity, Journal, PAGE, Sealed, verify},
};

/// The log's complete files after the last snapshot.
pub fn files(store: &Store) -> impl Iterator<Item = &Sealed> {
    let after = store.snapshot.as_ref().map_or(0, |s| s.chain.seq);
    store.journal.sealed().iter().filter(move |s| s.before.seq >= after)
}

/// What a snapshot is made of.
pub struct Work {
    disk: Arc<dyn Disk>,
    identity: Identity,
    snapshot: Option<(Head, Piece)>,
    files: Vec<Sealed>,
    next: u64,
    policy: Option<(String, u64)>,
    keys: BTreeSet<u32>,
    /// How many tokens selectors' orders condemned at once; told once more by later entries likewise.
    condemned: BTreeMap<u64, u64>,
    /// Orders that may be repeated, those of later entries among them: they are told once more.
    answered: HashMap<[u8; 16], Answered>,
    /// Likewise.
    fleet: Fleet,
    /// What became of the last entry: the file after it says.
    last: Option<Done>,
    now: WallTime,
}

/// A snapshot that was made.
pub struct Compacted {
    pub head: Head,
    pub piece: Piece,
    /// Claims that were taken out again in the files it replaces.
    pub gone: HashSet<u64>,
}

impl std::fmt::Debug for Compacted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Compacted").field("head", &self.head).finish_non_exhaustive()
    }
}

impl Work {
    pub fn of(store: &Store, now: WallTime) -> Self {
        let files: Vec<_> = files(store).cloned().collect();
        let piece = store.shared.read().pieces.first().filter(|p| p.first == 0).cloned();
        Self {
            disk: Arc::clone(store.journal.disk()),
            identity: store.journal.identity(),
            snapshot: store.snapshot.clone().zip(piece),
            next: store.next,
            policy: store.policy.clone(),
            keys: store.keys(),
            condemned: store.shared.read().condemned.clone(),
            answered: store.shared.read().answered.clone(),
            fleet: store.shared.read().fleet.clone(),
            last: files.last().and_then(|f| store.shared.read().done.get(&f.chain.seq).copied()),
            files,
            now,
        }
    }

    pub fn run(self) -> Result<Compacted, String> {
        self.make().map_err(|e| e.to_string())
    }

    fn make(self) -> io::Result<Compacted> {
        let chain = self
            .files
            .last()
            .map(|f| f.chain)
            .ok_or_else(|| io::Error::other("there is nothing to make it of"))?;
        let mut gone = HashSet::new();
        let mut done: HashMap<u64, Done> = self.last.iter().map(|d| (d.seq, *d)).collect();
        self.entries(|_, record| {
            match record {
                Record::Lift(ids, _) | Record::Over(ids) => gone.extend(ids.iter()),
                Record::Done(d) => drop(done.insert(d.seq, d)),
                _ => {}
            }
            Ok(())
        })?;
        let mut writer = Writer::new(&*self.disk, self.identity, chain, self.now.0)?;
        if let Some((head, piece)) = &self.snapshot {
            snapshot::each(head, piece, |id, row, by_selector, d| {
                if gone.contains(&id) { Ok(()) } else { writer.add(id, row, by_selector, d) }
            })?;
        }
        self.entries(|entry, record| {
            let (id, row, by_selector) = match record {
                Record::Add(id, row) => (id, row, false),
                Record::Select(id, row) => (id, row, true),
                _ => return Ok(()),
            };
            let seq = entry.chain.seq;
            let d = done.get(&seq).copied().unwrap_or(Done { seq, time: entry.time, ..Done::default() });
            if gone.contains(&id) { Ok(()) } else { writer.add(id, row, by_selector, d) }
        })?;
        let (head, piece) =
            writer.finish(self.next, self.policy, self.keys, self.condemned, &self.answered, &self.fleet)?;
        Ok(Compacted { head, piece, gone })
    }

    fn entries(&self, mut take: impl FnMut(&Entry<'_>, Record<'_>) -> io::Result<()>) -> io::Result<()> {
        for file in &self.files {
            let mut result = Ok(());
            verify(&*file.file, PAGE, file.end, file.before, 1 << 20, |entry, _| {
                for record in records(entry.body).flatten() {
                    if result.is_ok() {
                        result = take(entry, record);
                    }
                }
                result.is_ok()
            })
            .map_err(|e| io::Error::new(io::ErrorKind::InvalidData, format!("{}: {e}", file.name)))?;
            result?;
        }
        Ok(())
    }
}

/// About when the last entry of the oldest of these files was written: when the first of the next one was.
pub fn last_time(spare: &[&Sealed], journal: &Journal) -> Option<i64> {
    let (file, before, end) = spare.get(1).map_or_else(
        || (&journal.active().file, journal.active().before, journal.active().end),
        |s| (&s.file, s.before, s.end),
    );
    let mut time = None;
    let first = verify(&**file, PAGE, end, before, 0, |entry, _| {
        time = Some(entry.time);
        false
    });
    first.ok().and(time)
}
