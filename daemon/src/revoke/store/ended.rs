//! What became of a claim that is there no more, as far as the log still tells.

use std::sync::Arc;

use super::{
    super::ClaimId,
    StoreError,
    catalog::{StoreReader, damaged},
    record::{Record, records},
};
use crate::{hex, journal::verify};

/// Read at once.
const READ: u64 = 1 << 20;

/// The receipt of an order that took a claim away.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Ended {
    /// The claim.
    pub id: ClaimId,
    /// Lifted by an order; else its time was over.
    pub lifted: bool,
    /// When that was on the disk (ms since 1970).
    pub at: i64,
    /// Who had it lifted, and why.
    #[serde(skip_serializing_if = "serde_json::Value::is_null")]
    pub by: serde_json::Value,
    /// The log's entry that says so.
    pub entry: u64,
    /// That entry's hash, which the audit log's chain goes through.
    pub hash: String,
}

impl StoreReader {
    /// What took a claim away. `None` where it is there, was never there, or the log does not tell any more.
    pub fn ended(&self, id: ClaimId) -> Result<Option<Ended>, StoreError> {
        let shared = self.shared.upgrade().ok_or_else(|| damaged(&self.path, "the daemon is stopping"))?;
        let pieces: Vec<_> = {
            let catalog = shared.read();
            // What is written before an order cannot speak of it.
            let start = catalog.pieces.iter().rposition(|p| p.places.first().is_some_and(|f| f.id <= id.0));
            let log = catalog.pieces[start.unwrap_or(0)..].iter().filter(|p| p.first != 0);
            log.map(|p| {
                let (at, before) = p.seek(|place| place.id <= id.0);
                (Arc::clone(&p.file), at, before, p.end)
            })
            .collect()
        };
        let mut ended = None;
        for (file, at, before, end) in pieces {
            verify(&*file, at, end, before, READ, |entry, _| {
                for record in records(entry.body) {
                    let (ids, by) = match record {
                        Ok(Record::Lift(ids, by)) => (ids, Some(by)),
                        Ok(Record::Over(ids)) => (ids, None),
                        _ => continue,
                    };
                    if ids.iter().any(|gone| gone == id.0) {
                        ended = Some(Ended {
                            id,
                            lifted: by.is_some(),
                            at: entry.time,
                            by: by.and_then(|by| serde_json::from_slice(by).ok()).unwrap_or_default(),
                            entry: entry.chain.seq,
                            hash: hex::encode(&entry.chain.hash),
                        });
                    }
                }
                ended.is_none()
            })
            .map_err(|e| damaged(&self.path, &e.to_string()))?;
            if ended.is_some() {
                break;
            }
        }
        Ok(ended)
    }
}
