//! Sizes and times of the store.

use std::time::Duration;

use crate::journal::Sizes;

/// Sizes and times.
#[derive(Clone, Copy, Debug)]
pub struct Tuning {
    /// Of the log's files.
    pub sizes: Sizes,
    /// Bytes of complete files after which a snapshot is made, and as many again as the last snapshot has.
    pub snapshot_after: u64,
    /// How long files of the log are kept that no claim needs any more.
    pub audit_keep: Duration,
    /// And how many bytes of them.
    pub audit_max: u64,
    /// A snapshot is made on a thread of its own.
    pub background: bool,
}

impl Default for Tuning {
    fn default() -> Self {
        Self {
            sizes: Sizes::default(),
            snapshot_after: 128 << 20,
            audit_keep: Duration::from_hours(366 * 24),
            audit_max: 4 << 30,
            background: true,
        }
    }
}
