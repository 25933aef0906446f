//! The log read as an audit log: who ordered what, when and with which outcome, in a chain that shows what was changed.

use std::path::Path;

use serde_json::{Map, Value, json};
use thiserror::Error;

use super::{
    super::{SelectorClaim, row},
    catalog::Piece,
    record::{Record, key_ids, records},
    snapshot::{self, Head},
};
use crate::{
    hex,
    journal::{Chain, Disk as _, DiskFile, Entry, HostDisk, Segment, is_segment},
};

/// Why the log does not verify.
#[derive(Debug, Error)]
pub enum AuditError {
    /// It cannot be read.
    #[error("the audit log in {0} cannot be read: {1}")]
    Read(String, String),
    /// It was changed, or part of it is missing.
    #[error("the audit log does not verify: {0}")]
    Broken(String),
}

/// One thing that was ordered or came about.
#[derive(Clone, Debug)]
pub struct AuditEntry {
    /// The entry of the log in which it stands.
    pub entry: u64,
    /// When (ms since 1970).
    pub time: i64,
    /// The entry's hash.
    pub hash: [u8; 32],
    /// What: `action`, `actor` and what goes with it.
    pub what: Map<String, Value>,
}

/// The log's files, read from a directory that a daemon may have open.
#[derive(Debug)]
pub struct AuditLog {
    segments: Vec<Segment>,
    snapshot: Option<(Head, Piece)>,
}

impl AuditLog {
    /// Opens the files of a store.
    pub fn open(dir: &Path) -> Result<Self, AuditError> {
        let failed = |e: &dyn std::fmt::Display| AuditError::Read(dir.display().to_string(), e.to_string());
        let disk = HostDisk::read_only(dir).map_err(|e| failed(&e))?;
        let list = || {
            let mut names = disk.list().map_err(|e| failed(&e))?;
            names.sort();
            Ok(names)
        };
        // Files that come and go while they are opened would be no log of one moment.
        let mut names = list()?;
        for _ in 0..50 {
            let opened = Self::of(&disk, &names, dir);
            let now = list()?;
            if now == names {
                return opened;
            }
            names = now;
        }
        Err(failed(&"its files do not stay the same for long enough to be opened; try again"))
    }

    fn of(disk: &HostDisk, names: &[String], dir: &Path) -> Result<Self, AuditError> {
        let failed = |e: &dyn std::fmt::Display| AuditError::Read(dir.display().to_string(), e.to_string());
        let mut segments = Vec::new();
        for name in names.iter().filter(|n| is_segment(n).is_some()) {
            segments.push(Segment::open(disk, name).map_err(|e| failed(&e))?);
        }
        if segments.is_empty() {
            return Err(failed(&"there is no log in it; `revocation.store` names the directory"));
        }
        segments.sort_by_key(|s| s.before.seq);
        let newest =
            names.iter().filter(|n| n.starts_with("snapshot-") && n.strip_suffix(".new").is_none()).max();
        let snapshot = newest.map(|name| snapshot::open(disk, name)).transpose().map_err(|e| failed(&e))?;
        Ok(Self { segments, snapshot })
    }

    /// Id of the fingerprint key whose it is.
    pub fn key_id(&self) -> u32 {
        self.segments.first().map_or(0, |s| s.identity.key_id)
    }

    /// Reads the snapshot whole.
    pub(super) fn check_snapshot(&self) -> Result<(), AuditError> {
        let Some((head, piece)) = &self.snapshot else { return Ok(()) };
        snapshot::each(head, piece, |_, _, _, _| Ok(())).map_err(|e| AuditError::Broken(e.to_string()))
    }

    /// Hands out what a copy of it consists of: names, files, so many bytes of each, and a first page of its own for the
    /// last, which ends where it is acknowledged.
    pub(super) fn copy<E: From<AuditError>>(
        mut self,
        emit: &mut impl FnMut(&str, &dyn DiskFile, Option<Vec<u8>>, u64) -> Result<(), E>,
    ) -> Result<(), E> {
        if let Some((head, piece)) = &self.snapshot {
            emit(&head.name(), &*piece.file, None, head.bytes)?;
        }
        let last = self.segments.len().saturating_sub(1);
        for (n, segment) in self.segments.iter_mut().enumerate() {
            segment.read_beside(|_| {}).map_err(|e| AuditError::Broken(e.to_string()))?;
            let page = if n == last { Some(segment.page()) } else { None };
            let page = page.transpose().map_err(|e| AuditError::Broken(e.to_string()))?;
            emit(&segment.name, &*segment.file, page, segment.end)?;
        }
        Ok(())
    }

    /// Reads all of it, checks the chain, and hands out what stands in it in order. Gives the chain before the oldest
    /// entry that is kept, and after the last.
    pub fn read(mut self, mut take: impl FnMut(AuditEntry)) -> Result<(Chain, Chain), AuditError> {
        let broken = |what: String| AuditError::Broken(what);
        let start = self.segments.first().map_or(Chain { seq: 0, hash: [0; 32] }, |s| s.before);
        let mut at = start;
        let mut snapshot = self.snapshot.as_ref().map(|(head, _)| head.chain);
        for segment in &mut self.segments {
            if segment.before != at {
                return Err(broken(format!(
                    "{} follows entry {}, but what is before it ends with entry {}",
                    segment.name, segment.before.seq, at.seq
                )));
            }
            let mut bad = None;
            segment
                .read_beside(|entry| {
                    if each(entry, &mut take).is_none() {
                        bad = bad.or(Some(entry.chain.seq));
                    }
                    snapshot = snapshot.filter(|s| *s != entry.chain);
                })
                .map_err(|e| broken(e.to_string()))?;
            if let Some(seq) = bad {
                return Err(broken(format!("entry {seq} holds what this version does not know")));
            }
            at = segment.chain;
        }
        // One that lies before the oldest file has nothing left to be held against.
        if let Some(s) = snapshot.filter(|s| s.seq > start.seq) {
            return Err(broken(format!(
                "the snapshot was made of another entry {} than stands in it",
                s.seq
            )));
        }
        Ok((start, at))
    }
}

/// Hands out what stands in an entry; `None` where something is not known.
fn each(entry: &Entry<'_>, take: &mut impl FnMut(AuditEntry)) -> Option<()> {
    for record in records(entry.body) {
        let what = match record.ok()? {
            Record::Add(id, row) => {
                let claim = row::decode(id, row)?;
                merged("revoke", serde_json::to_value(claim).ok()?)
            }
            Record::Select(_, json) => {
                let claim: SelectorClaim = serde_json::from_slice(json).ok()?;
                merged("revoke", serde_json::to_value(claim).ok()?)
            }
            Record::Lift(ids, by) => {
                let mut what = merged("lift", serde_json::from_slice(by).unwrap_or_default());
                what.insert("ids".to_owned(), ids.iter().collect());
                what
            }
            Record::Over(ids) => merged("expired", json!({"count": ids.iter().count()})),
            Record::Policy(generation, hash) => {
                merged("policy", json!({"generation": generation, "hash": hash}))
            }
            Record::Note(json) => merged("", serde_json::from_slice(json).unwrap_or_default()),
            // The order's own line is before it.
            Record::Condemned(id, tokens) => merged("condemned", json!({"id": id, "at_once": tokens})),
            Record::Done(_)
            | Record::Answered(..)
            | Record::Next(_)
            | Record::Buried(_)
            | Record::Graves(_)
            | Record::Reached(..) => continue,
            Record::Keys(keys) => {
                let keys: Vec<_> = key_ids(keys).map(|id| format!("{id:08x}")).collect();
                merged("keys", json!({"fingerprint_keys": keys}))
            }
            Record::Kept { .. } | Record::Trailer(_) => return None,
        };
        take(AuditEntry { entry: entry.chain.seq, time: entry.time, hash: entry.chain.hash, what });
    }
    Some(())
}

fn merged(action: &str, rest: Value) -> Map<String, Value> {
    let mut what = Map::new();
    if !action.is_empty() {
        what.insert("action".to_owned(), action.into());
    }
    if let Value::Object(rest) = rest {
        what.extend(rest);
    }
    what
}

impl AuditEntry {
    /// As JSON.
    pub fn json(&self) -> Value {
        let mut all = Map::new();
        all.insert("entry".to_owned(), self.entry.into());
        all.insert("time".to_owned(), self.time.into());
        all.insert("hash".to_owned(), hex::encode(&self.hash).into());
        all.extend(self.what.clone());
        Value::Object(all)
    }
}
