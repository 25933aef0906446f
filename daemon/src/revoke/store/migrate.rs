//! Taking over a store of an earlier version, which was one redb file.
//!
//! The new one is made whole beside it under another name; then the old one is put aside and the new one takes its
//! place. Whatever is interrupted is done again at the next start.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};

use super::{super::keys::KeyIds, Store, StoreError, Tuning, catalog::damaged, record::Body};
use crate::{clock::WallTime, journal::HostDisk};

const CLAIMS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("claims");
const SELECTORS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("selectors");
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
const TEXTS: TableDefinition<'_, &str, &str> = TableDefinition::new("texts");
const MAGIC: &[u8] = b"redb";
/// Bytes of an entry that is written at once.
const FULL: usize = 1 << 20;

/// Takes over what an earlier version left, where it did.
pub fn take_over(path: &Path, keys: KeyIds) -> Result<(), StoreError> {
    let (new, kept) = (beside(path, ".new"), beside(path, ".before-log"));
    let failed = |e: &dyn std::fmt::Display| StoreError::Open {
        path: path.to_owned(),
        message: format!("{e}; it is being taken over from an earlier version's format"),
    };
    if path.is_dir() {
        return Ok(());
    }
    if is_redb(path) {
        convert(path, &new, keys)?;
        fs::rename(path, &kept).map_err(|e| failed(&e))?;
        fs::rename(&new, path).map_err(|e| failed(&e))?;
        sync_parent(path).map_err(|e| failed(&e))?;
        tracing::info!(store = %path.display(), kept = %kept.display(), "the revocation store was taken over into the new format");
        return Ok(());
    }
    if path.exists() {
        return Ok(());
    }
    // Interrupted between the two renames above.
    if new.is_dir() && is_redb(&kept) {
        fs::rename(&new, path).and_then(|()| sync_parent(path)).map_err(|e| failed(&e))?;
        return Ok(());
    }
    // Where the earlier version's default was.
    let old = beside(path, ".redb");
    if is_redb(&old) {
        convert(&old, &new, keys)?;
        fs::rename(&new, path)
            .and_then(|()| fs::rename(&old, &kept))
            .and_then(|()| sync_parent(path))
            .map_err(|e| failed(&e))?;
        tracing::info!(from = %old.display(), store = %path.display(), "the revocation store was taken over into the new format");
    }
    Ok(())
}

/// The directory, as its owner.
pub(super) fn host(path: &Path) -> Result<HostDisk, StoreError> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = fs::metadata(path).map_or(0, |m| m.permissions().mode());
    if mode & 0o022 != 0 {
        tracing::warn!(
            store = %path.display(),
            mode = format!("{:04o}", mode & 0o7777),
            "others than its owner may write to the revocation store: `chmod 0700` it"
        );
    }
    HostDisk::take(path).map_err(|e| StoreError::Open {
        path: path.to_owned(),
        message: match e.kind() {
            io::ErrorKind::WouldBlock => "another daemon has it open; stop that one first".to_owned(),
            io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                "it is a file, and no store of an earlier version; `revocation.store` must name a directory, or nothing in one that exists".to_owned()
            }
            _ => format!("{e}; `revocation.store` must name a directory, or nothing in one that exists and is writable"),
        },
    })
}

pub(super) fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

fn is_redb(path: &Path) -> bool {
    use io::Read as _;
    let mut first = [0; 4];
    path.is_file()
        && fs::File::open(path).and_then(|mut f| f.read_exact(&mut first)).is_ok()
        && first == *MAGIC
}

pub(super) fn sync_parent(path: &Path) -> io::Result<()> {
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(parent)?.sync_all()
}

fn convert(old: &Path, new: &Path, keys: KeyIds) -> Result<(), StoreError> {
    let failed = |e: &dyn std::fmt::Display| StoreError::Open {
        path: old.to_owned(),
        message: format!("{e}; it is an earlier version's store, and is left as it is"),
    };
    if new.is_dir() {
        fs::remove_dir_all(new).map_err(|e| failed(&e))?;
    }
    let db = Database::open(old).map_err(|e| match e {
        redb::DatabaseError::DatabaseAlreadyOpen => {
            failed(&"another daemon has it open; stop that one first")
        }
        e => failed(&e),
    })?;
    let bad = |e: &dyn std::fmt::Display| damaged(old, &e.to_string());
    let txn = db.begin_read().map_err(|e| bad(&e))?;
    let meta = txn.open_table(META).map_err(|e| bad(&e))?;
    let get = |k: &str| meta.get(k).map(|v| v.map(|v| v.value())).map_err(|e| bad(&e));
    match get("format")? {
        Some(1..=3) => {}
        found => return Err(StoreError::Format { path: old.to_owned(), found: found.unwrap_or(0) }),
    }
    let key_id = get("key_id")?.and_then(|f| u32::try_from(f).ok()).unwrap_or(0);
    if !keys.has(key_id) {
        let (path, expected) = (old.to_owned(), keys.own);
        return Err(StoreError::KeyMismatch { path, found: key_id, expected });
    }
    // A snapshot would be made by a thread that keeps the directory after this.
    let tuning = Tuning { snapshot_after: u64::MAX, ..Tuning::default() };
    let mut store = Store::open_on(&(Arc::new(host(new)?) as _), new, key_id, tuning)?;
    // Formats 1 and 2 had no selectors, 1 no texts.
    let selectors = txn.open_table(SELECTORS).ok();
    let mut selectors = selectors.as_ref().map(redb::ReadableTable::iter).transpose().map_err(|e| bad(&e))?;
    let mut selector = selectors.as_mut().and_then(Iterator::next).transpose().map_err(|e| bad(&e))?;
    let claims = txn.open_table(CLAIMS).map_err(|e| bad(&e))?;
    let mut body = Body::default();
    for row in claims.iter().map_err(|e| bad(&e))? {
        let (id, row) = row.map_err(|e| bad(&e))?;
        while let Some((other, json)) = selector.take_if(|(other, _)| other.value() < id.value()) {
            body.select(other.value(), json.value());
            selector = selectors.as_mut().and_then(Iterator::next).transpose().map_err(|e| bad(&e))?;
        }
        body.add(id.value(), row.value());
        if body.0.len() > FULL {
            store.append(&std::mem::take(&mut body.0), WallTime(0))?;
        }
    }
    while let Some((other, json)) = selector {
        body.select(other.value(), json.value());
        selector = selectors.as_mut().and_then(Iterator::next).transpose().map_err(|e| bad(&e))?;
    }
    body.next(get("next")?.unwrap_or(1));
    let hash =
        txn.open_table(TEXTS).ok().and_then(|t| t.get("policy").ok().flatten().map(|h| h.value().to_owned()));
    if let (Some(hash), Some(generation)) = (hash, get("generation")?) {
        body.policy(generation, &hash);
    }
    store.append(&body.0, WallTime(0))?;
    Ok(())
}
