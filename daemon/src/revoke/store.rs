//! The durable store: one redb file, committed with fsync.

use std::{
    ops::Bound,
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
};

use redb::{
    Database, Durability, ReadableDatabase as _, ReadableTable as _, TableDefinition, backends::FileBackend,
};
use thiserror::Error;

use super::{Claim, ClaimId, SelectorClaim, ledger::ClaimHead, row};
use crate::clock::WallTime;

const CLAIMS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("claims");
/// Claims by selector, as JSON.
const SELECTORS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("selectors");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");

/// Version of the file's contents. Rows of formats 1 and 2 are still read.
const FORMAT: u64 = 3;

/// Memory for the file's pages, in bytes. Nearly all of the file is read once, at start.
const CACHE: usize = 128 << 20;

/// What can go wrong with the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// The file cannot be opened or made.
    #[error("cannot open the revocation store {path}: {message}")]
    Open {
        /// The file.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// The file was made under another fingerprint key.
    #[error(
        "the revocation store {path} belongs to fingerprint key {found:08x}, the configured one is {expected:08x}: restore that key file, or move the store away to start without its revocations"
    )]
    KeyMismatch {
        /// The file.
        path: PathBuf,
        /// Key id in the file.
        found: u64,
        /// Key id configured.
        expected: u32,
    },
    /// The file has another format.
    #[error(
        "the revocation store {path} has format {found}, this daemon reads format {FORMAT}: use the version that wrote it"
    )]
    Format {
        /// The file.
        path: PathBuf,
        /// Format found.
        found: u64,
    },
    /// A write did not become durable: what it held is not acknowledged.
    #[error("the revocation store {path} did not take the write: {message}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// What is in the file cannot be read.
    #[error(
        "the revocation store {path} cannot be read: {message}; restore it from a copy, or move it away to start without its revocations"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Why.
        message: String,
    },
}

/// What a batch changes.
#[derive(Debug, Default)]
pub struct Changes<'a> {
    /// Claims to add.
    pub add: Vec<&'a Claim>,
    /// Claims by selector to add.
    pub select: Vec<&'a SelectorClaim>,
    /// Claims of either kind to take out.
    pub lift: Vec<ClaimId>,
    /// The active policy set: its hash and generation.
    pub policy: Option<(String, u64)>,
    /// It need not be on the disk when the commit returns: it is with the next one that must.
    pub lazy: bool,
}

impl Changes<'_> {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.add.is_empty() && self.select.is_empty() && self.lift.is_empty() && self.policy.is_none()
    }
}

/// The open store. It has one owner.
#[derive(Debug)]
pub struct Store {
    db: Arc<Database>,
    path: PathBuf,
    next: u64,
}

/// Reads the store from any thread, for as long as its owner keeps it open.
#[derive(Clone, Debug)]
pub struct StoreReader {
    db: Weak<Database>,
    path: PathBuf,
}

impl Store {
    /// Opens the file, making it where it is absent (mode 0600); refuses one of another key or format.
    pub fn open(path: &Path, key_id: u32) -> Result<Self, StoreError> {
        let fail = |message: String| StoreError::Open { path: path.to_owned(), message };
        let file = std::fs::OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(|e| {
                fail(format!(
                    "{e}; `revocation.store` must name a file in a directory that exists and is writable"
                ))
            })?;
        let db = FileBackend::new(file)
            .and_then(|file| redb::Builder::new().set_cache_size(CACHE).create_with_backend(file))
            .map_err(|e| match e {
                redb::DatabaseError::DatabaseAlreadyOpen => {
                    fail("another daemon has it open; stop that one first".to_owned())
                }
                e => fail(e.to_string()),
            })?;
        let mut store = Self { db: Arc::new(db), path: path.to_owned(), next: 1 };
        store.prepare(key_id)?;
        Ok(store)
    }

    fn prepare(&mut self, key_id: u32) -> Result<(), StoreError> {
        let write =
            |e: &dyn std::fmt::Display| StoreError::Write { path: self.path.clone(), message: e.to_string() };
        let txn = self.db.begin_write().map_err(|e| write(&e))?;
        {
            let mut meta = txn.open_table(META).map_err(|e| write(&e))?;
            txn.open_table(CLAIMS).map_err(|e| write(&e))?;
            txn.open_table(TEXTS).map_err(|e| write(&e))?;
            txn.open_table(SELECTORS).map_err(|e| write(&e))?;
            let get = |meta: &redb::Table<'_, &str, u64>, k: &str| {
                meta.get(k).map(|v| v.map(|v| v.value())).map_err(|e| write(&e))
            };
            match get(&meta, "format")? {
                None => {
                    meta.insert("format", FORMAT).map_err(|e| write(&e))?;
                    meta.insert("key_id", u64::from(key_id)).map_err(|e| write(&e))?;
                    meta.insert("next", 1).map_err(|e| write(&e))?;
                }
                Some(FORMAT) => {}
                Some(1 | 2) => drop(meta.insert("format", FORMAT).map_err(|e| write(&e))?),
                Some(found) => return Err(StoreError::Format { path: self.path.clone(), found }),
            }
            match get(&meta, "key_id")? {
                Some(found) if found != u64::from(key_id) => {
                    return Err(StoreError::KeyMismatch { path: self.path.clone(), found, expected: key_id });
                }
                _ => {}
            }
            self.next = get(&meta, "next")?.unwrap_or(1);
        }
        txn.commit().map_err(|e| StoreError::Write { path: self.path.clone(), message: e.to_string() })
    }

    /// Hands out what the ledger keeps of every claim in the file.
    pub fn each(&self, mut take: impl FnMut(ClaimHead)) -> Result<(), StoreError> {
        let damaged = |e: &dyn std::fmt::Display| damaged(&self.path, e);
        let txn = self.db.begin_read().map_err(|e| damaged(&e))?;
        let table = txn.open_table(CLAIMS).map_err(|e| damaged(&e))?;
        for row in table.iter().map_err(|e| damaged(&e))? {
            let (id, row) = row.map_err(|e| damaged(&e))?;
            let id = id.value();
            take(row::head(id, row.value()).ok_or_else(|| damaged(&not_a_claim(id)))?);
        }
        Ok(())
    }

    /// Hands out every claim by selector in the file.
    pub fn each_selector(&self, mut take: impl FnMut(SelectorClaim)) -> Result<(), StoreError> {
        let damaged = |e: &dyn std::fmt::Display| damaged(&self.path, e);
        let txn = self.db.begin_read().map_err(|e| damaged(&e))?;
        let table = txn.open_table(SELECTORS).map_err(|e| damaged(&e))?;
        for row in table.iter().map_err(|e| damaged(&e))? {
            let (id, row) = row.map_err(|e| damaged(&e))?;
            let id = id.value();
            take(serde_json::from_slice(row.value()).map_err(|_| damaged(&not_a_claim(id)))?);
        }
        Ok(())
    }

    /// A reader for other threads.
    pub fn reader(&self) -> StoreReader {
        StoreReader { db: Arc::downgrade(&self.db), path: self.path.clone() }
    }

    /// The last active policy set: its hash and generation.
    pub fn policy(&self) -> Option<(String, u64)> {
        let txn = self.db.begin_read().ok()?;
        let hash = txn.open_table(TEXTS).ok()?.get("policy").ok()??.value().to_owned();
        let generation = txn.open_table(META).ok()?.get("generation").ok()??.value();
        Some((hash, generation))
    }

    /// A fresh id. It is durable with the next [`Self::commit`] that adds a claim.
    pub fn next_id(&mut self) -> ClaimId {
        let id = ClaimId(self.next);
        self.next += 1;
        id
    }

    /// Writes a batch and returns when it is on the disk. After an error nothing of it counts.
    pub fn commit(&mut self, changes: &Changes<'_>) -> Result<(), StoreError> {
        let write =
            |e: &dyn std::fmt::Display| StoreError::Write { path: self.path.clone(), message: e.to_string() };
        let mut txn = self.db.begin_write().map_err(|e| write(&e))?;
        if changes.lazy {
            txn.set_durability(Durability::None).map_err(|e| write(&e))?;
        }
        {
            let mut table = txn.open_table(CLAIMS).map_err(|e| write(&e))?;
            for claim in &changes.add {
                table.insert(claim.id.0, row::encode(claim).as_slice()).map_err(|e| write(&e))?;
            }
            for id in &changes.lift {
                table.remove(id.0).map_err(|e| write(&e))?;
            }
            let mut selectors = txn.open_table(SELECTORS).map_err(|e| write(&e))?;
            for claim in &changes.select {
                let row = serde_json::to_vec(claim).map_err(|e| write(&e))?;
                selectors.insert(claim.id.0, row.as_slice()).map_err(|e| write(&e))?;
            }
            for id in &changes.lift {
                selectors.remove(id.0).map_err(|e| write(&e))?;
            }
            let mut meta = txn.open_table(META).map_err(|e| write(&e))?;
            if !(changes.add.is_empty() && changes.select.is_empty()) {
                meta.insert("next", self.next).map_err(|e| write(&e))?;
            }
            if let Some((hash, generation)) = &changes.policy {
                meta.insert("generation", generation).map_err(|e| write(&e))?;
                let mut texts = txn.open_table(TEXTS).map_err(|e| write(&e))?;
                texts.insert("policy", hash.as_str()).map_err(|e| write(&e))?;
            }
        }
        // redb's default durability: the commit returns after fsync.
        txn.commit().map_err(|e| write(&e))
    }
}

impl StoreReader {
    /// A claim.
    pub fn claim(&self, id: ClaimId) -> Result<Option<Claim>, StoreError> {
        self.read(|table| {
            let Some(row) = table.get(id.0)? else { return Ok(None) };
            Ok(Some(row::decode(id.0, row.value()).ok_or(id.0)))
        })
        .and_then(|found| found.transpose().map_err(|id| damaged(&self.path, &not_a_claim(id))))
    }

    /// Up to `limit` claims that hold at `now` with an id above `after`, in order of their ids.
    pub fn list(&self, after: ClaimId, limit: usize, now: WallTime) -> Result<Vec<Claim>, StoreError> {
        self.read(|table| {
            let mut claims = Vec::new();
            for row in table.range::<u64>((Bound::Excluded(after.0), Bound::Unbounded))? {
                if claims.len() == limit {
                    break;
                }
                let (id, row) = row?;
                let id = id.value();
                match row::decode(id, row.value()) {
                    Some(claim) if claim.until <= now => {}
                    Some(claim) => claims.push(claim),
                    None => return Ok(Err(id)),
                }
            }
            Ok(Ok(claims))
        })
        .and_then(|found| found.map_err(|id| damaged(&self.path, &not_a_claim(id))))
    }

    /// A claim by selector.
    pub fn selector(&self, id: ClaimId) -> Result<Option<SelectorClaim>, StoreError> {
        self.read_table(SELECTORS, |table| {
            let Some(row) = table.get(id.0)? else { return Ok(None) };
            Ok(Some(serde_json::from_slice(row.value()).map_err(|_| id.0)))
        })
        .and_then(|found| found.transpose().map_err(|id| damaged(&self.path, &not_a_claim(id))))
    }

    /// The same as [`Self::list`] of claims by selector.
    pub fn list_selectors(
        &self,
        after: ClaimId,
        limit: usize,
        now: WallTime,
    ) -> Result<Vec<SelectorClaim>, StoreError> {
        self.read_table(SELECTORS, |table| {
            let mut claims: Vec<SelectorClaim> = Vec::new();
            for row in table.range::<u64>((Bound::Excluded(after.0), Bound::Unbounded))? {
                if claims.len() == limit {
                    break;
                }
                let (id, row) = row?;
                match serde_json::from_slice::<SelectorClaim>(row.value()) {
                    Ok(claim) if claim.until <= now => {}
                    Ok(claim) => claims.push(claim),
                    Err(_) => return Ok(Err(id.value())),
                }
            }
            Ok(Ok(claims))
        })
        .and_then(|found| found.map_err(|id| damaged(&self.path, &not_a_claim(id))))
    }

    fn read<T>(
        &self,
        work: impl FnOnce(&redb::ReadOnlyTable<u64, &'static [u8]>) -> Result<T, redb::StorageError>,
    ) -> Result<T, StoreError> {
        self.read_table(CLAIMS, work)
    }

    fn read_table<T>(
        &self,
        table: TableDefinition<'_, u64, &'static [u8]>,
        work: impl FnOnce(&redb::ReadOnlyTable<u64, &'static [u8]>) -> Result<T, redb::StorageError>,
    ) -> Result<T, StoreError> {
        let damaged = |e: &dyn std::fmt::Display| damaged(&self.path, e);
        let db = self.db.upgrade().ok_or_else(|| damaged(&"the daemon is stopping"))?;
        let txn = db.begin_read().map_err(|e| damaged(&e))?;
        let table = txn.open_table(table).map_err(|e| damaged(&e))?;
        work(&table).map_err(|e| damaged(&e))
    }
}

fn damaged(path: &Path, e: &dyn std::fmt::Display) -> StoreError {
    StoreError::Damaged { path: path.to_owned(), message: e.to_string() }
}

fn not_a_claim(id: u64) -> String {
    format!("row {id} is no claim")
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use portcullis_common::fingerprint::DenyFingerprint;

    use super::*;
    use crate::clock::WallTime;

    fn claim(id: ClaimId) -> Claim {
        Claim {
            id,
            fingerprint: DenyFingerprint([id.0, 2]),
            key_id: 7,
            created: WallTime(0),
            until: WallTime(9),
            reason: "leaked".into(),
            actor: "uid:0".into(),
            source: "admin".into(),
            parent: None,
        }
    }

    #[test]
    fn what_was_committed_is_there_after_opening_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.redb");
        let mut store = Store::open(&path, 7).unwrap();
        let (a, b) = (claim(store.next_id()), claim(store.next_id()));
        store.commit(&Changes { add: vec![&a, &b], ..Changes::default() }).unwrap();
        store
            .commit(&Changes { lift: vec![a.id], policy: Some(("h".into(), 3)), ..Changes::default() })
            .unwrap();
        drop(store);
        let mut store = Store::open(&path, 7).unwrap();
        let all = store.reader().list(ClaimId(0), 10, WallTime(0)).unwrap();
        assert_eq!(all, std::slice::from_ref(&b));
        assert_eq!(store.reader().claim(b.id).unwrap().as_ref(), Some(&b));
        assert_eq!(store.reader().claim(a.id).unwrap(), None);
        assert_eq!(store.reader().list(b.id, 10, WallTime(0)).unwrap(), [], "none behind it");
        assert_eq!(store.reader().list(ClaimId(0), 10, b.until).unwrap(), [], "none in force");
        let mut heads = Vec::new();
        store.each(|h| heads.push(h)).unwrap();
        assert_eq!(heads, [ClaimHead::from(&b)]);
        assert_eq!(store.policy(), Some(("h".into(), 3)));
        assert_eq!(store.next_id(), ClaimId(3), "ids are not used twice");
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_store_of_format_1_is_taken_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.redb");
        let old = claim(ClaimId(1));
        {
            let db = Database::create(&path).unwrap();
            let txn = db.begin_write().unwrap();
            let json = serde_json::to_vec(&old).unwrap();
            txn.open_table(CLAIMS).unwrap().insert(1, json.as_slice()).unwrap();
            let mut meta = txn.open_table(META).unwrap();
            for (k, v) in [("format", 1), ("key_id", 7), ("next", 2)] {
                meta.insert(k, v).unwrap();
            }
            drop(meta);
            txn.commit().unwrap();
        }
        let mut store = Store::open(&path, 7).unwrap();
        let new = claim(store.next_id());
        store.commit(&Changes { add: vec![&new], ..Changes::default() }).unwrap();
        assert_eq!(store.reader().list(ClaimId(0), 10, WallTime(0)).unwrap(), [old, new]);
    }

    #[test]
    fn another_key_and_a_second_owner_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.redb");
        let store = Store::open(&path, 7).unwrap();
        assert!(matches!(Store::open(&path, 7), Err(StoreError::Open { .. })));
        drop(store);
        assert!(matches!(Store::open(&path, 8), Err(StoreError::KeyMismatch { found: 7, .. })));
    }

    #[test]
    fn a_file_that_is_no_store_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r.redb");
        std::fs::write(&path, b"something else entirely").unwrap();
        assert!(Store::open(&path, 7).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
    }
}
