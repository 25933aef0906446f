//! The file: one redb table of spans and labels by name.

use std::{
    ops::Bound,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::FileBackend};
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{
    Label, Span,
    book::{Id, Noticed},
};

const ROWS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("usage");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const OBSERVED: &str = "observed_since_hour";
const KEY: &str = "fingerprint_key";
/// Entries looked at for a page.
const LOOKED: usize = 20_000;
/// Memory for pages, in bytes.
const CACHE: usize = 16 << 20;

/// What can go wrong.
#[derive(Debug, Error)]
pub enum UsageError {
    /// The file cannot be opened or made.
    #[error(
        "cannot open the usage file {path}: {message}; `usage.file` must name a file in a directory that exists and is writable"
    )]
    Open {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// It cannot be read or written.
    #[error("the usage file {path}: {message}")]
    Failed {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// One entry, as it is listed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row {
    /// The first hour.
    pub first: u32,
    /// The last one.
    pub last: u32,
    /// Who that is.
    #[serde(flatten)]
    pub label: Label,
}

/// The open file. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    db: Arc<Database>,
    path: PathBuf,
}

/// What the file holds at start.
pub(super) struct Loaded {
    /// The file.
    pub store: Store,
    /// Its entries.
    pub spans: Vec<(Id, Span)>,
    /// The hour since which every use is known.
    pub observed: u32,
}

impl Store {
    /// Opens the file and reads it. One that is damaged, or was written under another fingerprint key, is moved away, and
    /// a new one begun: then nothing before `now` counts as observed.
    pub(super) fn open(path: &Path, key_id: u32, now: u32) -> Result<Loaded, UsageError> {
        match Self::open_as_it_is(path, key_id, now)? {
            Ok(loaded) => Ok(loaded),
            Err(why) => {
                let mut away = path.as_os_str().to_owned();
                away.push(".damaged");
                let fail = |message: String| UsageError::Open { path: path.to_owned(), message };
                std::fs::rename(path, &away)
                    .map_err(|e| fail(format!("{why}, and it cannot be moved away: {e}")))?;
                tracing::warn!(
                    file = %path.display(),
                    reason = why,
                    moved_to = %PathBuf::from(away).display(),
                    "the usage file is begun anew: nothing that was used before now is known, so nothing is dormant"
                );
                Self::open_as_it_is(path, key_id, now)?.map_err(fail)
            }
        }
    }

    /// The inner error is one of the file's content.
    fn open_as_it_is(path: &Path, key_id: u32, now: u32) -> Result<Result<Loaded, String>, UsageError> {
        let fail = |message: String| UsageError::Open { path: path.to_owned(), message };
        let mut options = std::fs::OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|e| fail(e.to_string()))?;
        let opened = FileBackend::new(file)
            .and_then(|file| redb::Builder::new().set_cache_size(CACHE).create_with_backend(file));
        let db = match opened {
            Ok(db) => db,
            Err(redb::DatabaseError::DatabaseAlreadyOpen) => {
                return Err(fail("another daemon has it open".to_owned()));
            }
            Err(e) => return Ok(Err(e.to_string())),
        };
        let store = Self { db: Arc::new(db), path: path.to_owned() };
        Ok(store.prepare(key_id, now))
    }

    fn prepare(self, key_id: u32, now: u32) -> Result<Loaded, String> {
        let text = |e: &dyn std::fmt::Display| e.to_string();
        let txn = self.db.begin_write().map_err(|e| text(&e))?;
        let (mut spans, observed);
        {
            let mut meta = txn.open_table(META).map_err(|e| text(&e))?;
            let number = |name: &str| -> Result<Option<u64>, String> {
                Ok(meta.get(name).map_err(|e| text(&e))?.map(|n| n.value()))
            };
            let (key, since) = (number(KEY)?, number(OBSERVED)?);
            if key.is_some_and(|key| key != u64::from(key_id)) {
                return Err("it belongs to another fingerprint key".to_owned());
            }
            observed = since.and_then(|h| u32::try_from(h).ok()).unwrap_or(now);
            meta.insert(KEY, u64::from(key_id)).map_err(|e| text(&e))?;
            meta.insert(OBSERVED, u64::from(observed)).map_err(|e| text(&e))?;
            let rows = txn.open_table(ROWS).map_err(|e| text(&e))?;
            spans = Vec::new();
            for row in rows.iter().map_err(|e| text(&e))? {
                let (name, row) = row.map_err(|e| text(&e))?;
                let id = id_of(name.value()).ok_or("a name has the wrong length")?;
                let row: Row = serde_json::from_slice(row.value()).map_err(|e| text(&e))?;
                spans.push((id, Span { first: row.first, last: row.last }));
            }
        }
        txn.commit().map_err(|e| text(&e))?;
        Ok(Loaded { store: self, spans, observed })
    }

    fn failed(&self, e: &dyn std::fmt::Display) -> UsageError {
        UsageError::Failed { path: self.path.clone(), message: e.to_string() }
    }

    /// Writes a batch, takes out what went, all or nothing.
    pub(super) fn write(&self, noticed: &[Noticed], gone: &[Id], observed: u32) -> Result<(), UsageError> {
        let failed = |e: &dyn std::fmt::Display| self.failed(e);
        let txn = self.db.begin_write().map_err(|e| failed(&e))?;
        {
            let mut rows = txn.open_table(ROWS).map_err(|e| failed(&e))?;
            for n in noticed {
                let row = Row { first: n.span.first, last: n.span.last, label: n.label.clone().bounded() };
                let text = serde_json::to_vec(&row).map_err(|e| failed(&e))?;
                rows.insert(&name_of(n.id)[..], &text[..]).map_err(|e| failed(&e))?;
            }
            for id in gone {
                rows.remove(&name_of(*id)[..]).map_err(|e| failed(&e))?;
            }
            let mut meta = txn.open_table(META).map_err(|e| failed(&e))?;
            meta.insert(OBSERVED, u64::from(observed)).map_err(|e| failed(&e))?;
        }
        txn.commit().map_err(|e| failed(&e))
    }

    /// Entries behind a name that were used last at an hour or after it, in order of their names, at most so many; and the
    /// name behind which there may be more.
    pub fn page(
        &self,
        after: Option<Id>,
        since: u32,
        most: usize,
    ) -> Result<(Vec<Noticed>, Option<Id>), UsageError> {
        let failed = |e: &dyn std::fmt::Display| self.failed(e);
        let txn = self.db.begin_read().map_err(|e| failed(&e))?;
        let rows = txn.open_table(ROWS).map_err(|e| failed(&e))?;
        let from = after.map(name_of);
        let from = from.as_ref().map_or(Bound::Unbounded, |name| Bound::Excluded(&name[..]));
        let (mut page, mut looked) = (Vec::new(), 0);
        for row in rows.range::<&[u8]>((from, Bound::Unbounded)).map_err(|e| failed(&e))? {
            let (name, row) = row.map_err(|e| failed(&e))?;
            let Some(id) = id_of(name.value()) else { continue };
            let row: Row = serde_json::from_slice(row.value()).map_err(|e| failed(&e))?;
            if row.last >= since {
                page.push(Noticed { id, span: Span { first: row.first, last: row.last }, label: row.label });
            }
            looked += 1;
            // Whoever asks is not to wait for all that is old.
            if page.len() >= most || looked >= LOOKED {
                return Ok((page, Some(id)));
            }
        }
        Ok((page, None))
    }

    /// Entries that were used last before an hour, at most so many, those used longest ago first.
    pub(super) fn list(&self, before: u32, most: usize) -> Result<Vec<Row>, UsageError> {
        let failed = |e: &dyn std::fmt::Display| self.failed(e);
        let txn = self.db.begin_read().map_err(|e| failed(&e))?;
        let rows = txn.open_table(ROWS).map_err(|e| failed(&e))?;
        // The newest on top, so that it goes first when there are too many.
        let mut oldest = std::collections::BinaryHeap::new();
        for row in rows.iter().map_err(|e| failed(&e))? {
            let (name, row) = row.map_err(|e| failed(&e))?;
            let row: Row = serde_json::from_slice(row.value()).map_err(|e| failed(&e))?;
            if row.last < before {
                oldest.push(Listed((row.last, name.value().to_vec()), row));
                if oldest.len() > most {
                    oldest.pop();
                }
            }
        }
        Ok(oldest.into_sorted_vec().into_iter().map(|listed| listed.1).collect())
    }
}

/// A row in order of its last use.
struct Listed((u32, Vec<u8>), Row);

impl PartialEq for Listed {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Listed {}

impl PartialOrd for Listed {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Listed {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}

/// A name as bytes that sort as it does.
pub fn name_of(id: Id) -> [u8; 16] {
    let mut name = [0; 16];
    name[..8].copy_from_slice(&id[0].to_be_bytes());
    name[8..].copy_from_slice(&id[1].to_be_bytes());
    name
}

/// The name that bytes are.
pub fn id_of(name: &[u8]) -> Option<Id> {
    let (a, b) = name.split_first_chunk::<8>()?;
    Some([u64::from_be_bytes(*a), u64::from_be_bytes(b.try_into().ok()?)])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noticed(n: u64, first: u32, last: u32) -> Noticed {
        let label = Label { issuer: "i".repeat(1000), subject: Some(n.to_string()), ..Label::default() };
        Noticed { id: [n, n], span: Span { first, last }, label }
    }

    #[test]
    fn what_was_written_is_read_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage.redb");
        let loaded = Store::open(&path, 7, 100).unwrap();
        assert_eq!((loaded.observed, loaded.spans.len()), (100, 0));
        loaded
            .store
            .write(&[noticed(1, 100, 101), noticed(2, 100, 105), noticed(3, 99, 99)], &[], 100)
            .unwrap();
        loaded.store.write(&[noticed(1, 100, 110)], &[[3, 3]], 100).unwrap();
        let listed = loaded.store.list(106, 10).unwrap();
        assert_eq!(
            listed.iter().map(|r| (r.last, r.label.subject.as_deref().unwrap())).collect::<Vec<_>>(),
            [(105, "2")]
        );
        assert_eq!(listed[0].label.issuer.len(), 256);
        assert_eq!(loaded.store.list(1000, 1).unwrap()[0].last, 105, "the oldest first");
        drop(loaded);
        let mut again = Store::open(&path, 7, 200).unwrap();
        again.spans.sort_unstable_by_key(|(id, _)| *id);
        assert_eq!(again.observed, 100);
        assert_eq!(
            again.spans,
            [([1, 1], Span { first: 100, last: 110 }), ([2, 2], Span { first: 100, last: 105 })]
        );
    }

    #[test]
    fn a_damaged_file_and_one_of_another_key_are_moved_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("usage.redb");
        Store::open(&path, 7, 100).unwrap().store.write(&[noticed(1, 1, 1)], &[], 100).unwrap();
        let other = Store::open(&path, 8, 300).unwrap();
        assert_eq!((other.observed, other.spans.len()), (300, 0));
        drop(other);
        std::fs::write(&path, b"no database at all").unwrap();
        let fresh = Store::open(&path, 7, 400).unwrap();
        assert_eq!((fresh.observed, fresh.spans.len()), (400, 0));
        assert_eq!(std::fs::read(dir.path().join("usage.redb.damaged")).unwrap(), b"no database at all");
        let busy = Store::open(&path, 7, 400).err().unwrap().to_string();
        assert!(busy.contains("another daemon"), "{busy}");
        assert!(matches!(Store::open(&dir.path().join("no/x"), 7, 1), Err(UsageError::Open { .. })));
    }
}
