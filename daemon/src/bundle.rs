//! Policy bundles, as OPA has them: a gzipped tar archive of modules and data, with a manifest and signatures.
//!
//! Guarantees: a bundle is taken whole or not at all. Where it must be signed, every file in it is one that a key of the
//! configuration signed for; what a manifest claims (`roots`) is all that it holds; nothing in an archive leads out of
//! the directory it is unpacked to, and neither it nor what it unpacks to is larger than was configured. The last one
//! that came into force is kept on disk, and is checked again before it is used.
//!
//! Leaves to others: compiling, testing and putting in force (`policy`, `app`).

mod archive;
mod manifest;
mod remote;
mod shelf;
mod signature;

use std::path::PathBuf;

use thiserror::Error;

pub use archive::Bundle;
pub use manifest::{Manifest, overlap};
pub use remote::{Came, Remote, RemoteSettings};
pub use shelf::{Fresh, Shelf, sha256};
pub use signature::Verification;

/// Why a bundle is not taken. What is in force stays.
#[derive(Debug, Error)]
pub enum BundleError {
    /// The archive cannot be read.
    #[error(
        "the archive cannot be read: {0}; a bundle is a tar archive compressed with gzip, as `opa build` writes it"
    )]
    Archive(String),
    /// It is too large.
    #[error(
        "it is larger than {limit} bytes {what}; raise `policy.bundle_max_bytes`, or leave out what is no policy"
    )]
    TooLarge {
        /// The limit.
        limit: u64,
        /// Of what.
        what: &'static str,
    },
    /// Something in it must not be there.
    #[error("`{path}` in it {why}")]
    Entry {
        /// The entry.
        path: String,
        /// Why.
        why: String,
    },
    /// Its signatures do not hold.
    #[error("its signatures do not hold: {0}; it is not used")]
    Signature(String),
    /// A file of ours cannot be read or written.
    #[error("`{path}`: {source}; check `policy.state_dir` and its permissions")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It cannot be fetched.
    #[error(transparent)]
    Fetch(#[from] crate::fetch::FetchError),
}

impl BundleError {
    fn io(path: &std::path::Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { path, source }
    }

    fn entry(path: &str, why: impl Into<String>) -> Self {
        Self::Entry { path: path.to_owned(), why: why.into() }
    }
}

#[cfg(test)]
mod tests;
