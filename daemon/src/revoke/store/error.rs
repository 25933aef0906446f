//! What can go wrong with the store, and what to do then.

use std::path::PathBuf;

use thiserror::Error;

/// What can go wrong with the store.
#[derive(Debug, Error)]
pub enum StoreError {
    /// It cannot be opened or made.
    #[error("cannot open the revocation store {path}: {message}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// It was made under another fingerprint key.
    #[error(
        "the revocation store {path} belongs to fingerprint key {found:08x}, the configured one is {expected:08x}: restore that key file, or move the store away to start without its revocations"
    )]
    KeyMismatch {
        /// The directory.
        path: PathBuf,
        /// Key id found.
        found: u32,
        /// Key id configured.
        expected: u32,
    },
    /// It has another format.
    #[error(
        "the revocation store {path} has format {found}, which this daemon does not read: use the version that wrote it"
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
        /// The directory.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// There is no room on the disk; the store is as it was.
    #[error("no room on the disk for the revocation store {path} ({message}): make room and try again")]
    NoRoom {
        /// The directory.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// What is there cannot be read.
    #[error(
        "the revocation store {path} cannot be read: {message}; restore it from a copy, or move it away to start without its revocations"
    )]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// Why.
        message: String,
    },
}
