//! What can go wrong with the kernel side, in words for the person who must mend it.

use std::{io, path::PathBuf};

use aya::{
    EbpfError,
    maps::MapError,
    programs::{ProgramError, tc::TcError},
};
use thiserror::Error;

/// An error of the kernel side. Each names the thing and the next step.
#[derive(Debug, Error)]
pub enum KernelError {
    /// The binary was built without the object.
    #[error(
        "this binary was built without the kernel programs: build it with `cargo xtask build`, or set `kernel.mode = \"off\"` to decide without enforcing"
    )]
    NotBuilt,
    /// A right is missing.
    #[error(
        "the kernel refused {what} ({source}): run as root or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON, or set `kernel.mode = \"off\"` to decide without enforcing"
    )]
    Rights {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// The pin directory is not on a bpffs.
    #[error(
        "`kernel.pin_dir` {path} is not on a BPF file system: run `mount -t bpf bpf /sys/fs/bpf` or name a directory on one"
    )]
    NotBpffs {
        /// The directory.
        path: PathBuf,
    },
    /// The interface does not exist.
    #[error("there is no network interface `{interface}`: `ip link` lists those of this network namespace")]
    NoInterface {
        /// Its name.
        interface: String,
    },
    /// Guard would see what a container sends, not what it is sent.
    #[error(
        "`{interface}` is not guarded: {why}, so what comes in by it is what the container sends; run portcullis in the container's network namespace (`ip netns exec`, `nsenter --net`) and name its own interface there, or set `kernel.container_veth = true` if this is meant"
    )]
    Misplaced {
        /// Its name.
        interface: String,
        /// What it is.
        why: &'static str,
    },
    /// The pinned maps have another layout.
    #[error(
        "the maps pinned in {path} have layout {found}, this daemon has {expected}: run `portcullis detach` with the configuration in use, which lifts enforcement until the next start, then start again"
    )]
    Layout {
        /// The pin directory.
        path: PathBuf,
        /// Version found.
        found: u32,
        /// Version wanted.
        expected: u32,
    },
    /// The pinned maps hold fingerprints of another key.
    #[error(
        "the maps pinned in {path} were made under fingerprint key {found:08x}, the configured one is {expected:08x}: restore that key file, or run `portcullis detach` to give up the pinned entries"
    )]
    KeyMismatch {
        /// The pin directory.
        path: PathBuf,
        /// Id found.
        found: u32,
        /// Id wanted.
        expected: u32,
    },
    /// The deny map is full.
    #[error(
        "the deny map is full ({capacity} entries): everything acknowledged stays in force; raise `kernel.max_entries` and restart the daemon, which enlarges it without a gap"
    )]
    Full {
        /// Its capacity.
        capacity: u32,
    },
    /// There is no memory for a deny map.
    #[error(
        "the kernel has no memory for a deny map of {entries} entries (about {megabytes} MB, beside the one in force, which stays): lower `kernel.max_entries`, or add memory"
    )]
    Memory {
        /// Entries asked for.
        entries: u32,
        /// What they take.
        megabytes: u64,
    },
    /// More names than the kernel program has slots, or longer ones.
    #[error("{0}")]
    Names(&'static str),
    /// Shed cannot be attached to an interface.
    #[error(
        "shed cannot be attached to `{interface}` ({message}){}",
        if *busy { ": another XDP program is there; remove it, or set `kernel.shed = \"off\"`" } else { "" }
    )]
    Shed {
        /// The interface.
        interface: String,
        /// Another program is there.
        busy: bool,
        /// What the kernel said.
        message: String,
    },
    /// A program was not accepted or attached.
    #[error("cannot {what}: {message}")]
    Program {
        /// What was tried.
        what: String,
        /// What went wrong, verifier log included.
        message: String,
    },
    /// A map operation failed.
    #[error("cannot {what}: {source}")]
    Map {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: Box<MapError>,
    },
    /// A file operation failed.
    #[error("cannot {what}: {source}")]
    Io {
        /// What was tried.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
}

impl KernelError {
    pub(super) fn io(what: impl Into<String>, source: io::Error) -> Self {
        let what = what.into();
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Rights { what, source },
            _ => Self::Io { what, source },
        }
    }

    pub(super) fn map(what: impl Into<String>, source: MapError) -> Self {
        let what = what.into();
        match os_error(&source) {
            Some(code @ (libc::EPERM | libc::EACCES)) => {
                Self::Rights { what, source: io::Error::from_raw_os_error(code) }
            }
            _ => Self::Map { what, source: Box::new(source) },
        }
    }

    pub(super) fn program(what: impl Into<String>, source: &ProgramError) -> Self {
        let what = what.into();
        match os_error(source) {
            // The verifier's refusal is EACCES too, and has a log.
            Some(code @ (libc::EPERM | libc::EACCES)) if !matches!(source, ProgramError::LoadError { verifier_log, .. } if !verifier_log.to_string().is_empty()) => {
                Self::Rights { what, source: io::Error::from_raw_os_error(code) }
            }
            _ => Self::Program { what, message: chain(source) },
        }
    }

    pub(super) fn load(source: &EbpfError) -> Self {
        let what = "loading the kernel programs".to_owned();
        match os_error(source) {
            Some(code @ (libc::EPERM | libc::EACCES)) => {
                Self::Rights { what, source: io::Error::from_raw_os_error(code) }
            }
            _ => Self::Program { what: "load the kernel programs".to_owned(), message: chain(source) },
        }
    }

    pub(super) fn tc(interface: &str, source: &TcError) -> Self {
        Self::Program { what: format!("add a clsact qdisc to `{interface}`"), message: chain(source) }
    }
}

/// The errno at the bottom of an error's causes.
pub(super) fn os_error(e: &(dyn std::error::Error + 'static)) -> Option<i32> {
    let mut next = Some(e);
    while let Some(e) = next {
        if let Some(code) = e.downcast_ref::<io::Error>().and_then(io::Error::raw_os_error) {
            return Some(code);
        }
        // aya's wrappers are transparent: they give their inner error's source, never the inner error.
        let inner = match e.downcast_ref::<ProgramError>() {
            Some(ProgramError::TcError(inner)) => Some(inner),
            _ => e.downcast_ref::<TcError>(),
        };
        if let Some(TcError::IoError(inner)) = inner {
            return inner.raw_os_error();
        }
        next = e.source();
    }
    None
}

/// An error with its causes on one line.
pub(super) fn chain(e: &dyn std::error::Error) -> String {
    let mut text = e.to_string();
    let mut next = e.source();
    while let Some(e) = next {
        let more = e.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        next = e.source();
    }
    text
}
