//! A BPF file system of a test's own.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

/// Mounted in a temporary directory; unmounted, with all that is pinned in it, when dropped.
#[derive(Debug)]
pub struct Bpffs {
    dir: tempfile::TempDir,
}

impl Bpffs {
    /// Mounts one. Needs root.
    pub fn mount() -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("portcullis-bpf-").tempdir()?;
        mount(Some("bpf"), dir.path(), Some("bpf"), MsFlags::empty(), None::<&str>)
            .with_context(|| format!("cannot mount a BPF file system at {}", dir.path().display()))?;
        Ok(Self { dir })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// A directory for one daemon's pins.
    pub fn pins(&self) -> PathBuf {
        self.path().join("portcullis")
    }
}

impl Drop for Bpffs {
    fn drop(&mut self) {
        if let Err(e) = umount2(self.dir.path(), MntFlags::MNT_DETACH) {
            eprintln!("cannot unmount {}: {e}", self.dir.path().display());
        }
    }
}
