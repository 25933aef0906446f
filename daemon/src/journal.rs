//! An append-only log of checked entries, in files of one directory: what is acknowledged is found again, or its loss is.
//!
//! Every entry carries a SHA-256 over itself and the one before it, so that the log is a chain which nobody can change
//! in the middle. After each sync the file's first page notes how far the log is acknowledged: an entry that cannot be
//! read back is cut off as an unacknowledged end where the note has not reached it, and a reason to refuse to start
//! where it has. Knows bytes and files; not what they mean.

mod disk;
mod entry;
mod log;
mod segment;
#[cfg(test)]
pub(crate) mod sim;

pub use disk::{Disk, DiskFile, HostDisk};
pub use entry::{Chain, Entry, MAX_BODY, array, check, write as write_entry};
pub use log::{Journal, JournalError, Position, Sealed, Sizes};
pub use segment::{Identity, PAGE, Segment, is_segment, read_title, title, verify};
