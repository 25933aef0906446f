//! A private directory with a BPF file system of its own.

use std::{
    fs,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::net;

/// Where root's short-lived things are, and no one else can plant a name.
const RUN: &str = "/run";

/// The directory; unmounted and removed on drop.
#[derive(Debug)]
pub struct Dir(PathBuf);

impl Dir {
    /// Makes it, with a BPF file system at `bpf`.
    pub fn make(id: &str) -> Result<Self> {
        let dir = Self(Path::new(RUN).join(id));
        fs::DirBuilder::new().mode(0o700).create(&dir.0).with_context(|| format!("make {dir:?}"))?;
        let bpf = dir.path("bpf");
        fs::create_dir(&bpf)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC;
        mount(Some("bpf"), &bpf, Some("bpf"), flags, Some("mode=0700"))
            .with_context(|| format!("mount a BPF file system at {}", bpf.display()))?;
        Ok(dir)
    }

    /// A path in it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    /// Writes a file that only root can read: most hold a key or a token.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        use std::io::Write as _;
        let path = self.path(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("write {}", path.display()))?;
        Ok(path)
    }

    /// Copies the repository's policies to `policies`, where a test may change them.
    pub fn copy_policies(&self) -> Result<PathBuf> {
        let to = self.path("policies");
        copy(&repository().join("policies"), &to)?;
        Ok(to)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

/// The root of the repository.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().map(Path::to_owned).unwrap_or_default()
}

/// Removes the directories of runs that were killed.
pub fn sweep() {
    for dir in net::stale(Path::new(RUN)) {
        remove(&dir);
    }
}

fn remove(dir: &Path) {
    // Takes the pins away, and with them programs and maps.
    let _ = umount2(&dir.join("bpf"), MntFlags::MNT_DETACH);
    if let Err(e) = fs::remove_dir_all(dir) {
        eprintln!("note: {} is left: {e}", dir.display());
    }
}

/// Copies a directory with all that is in it.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from).with_context(|| format!("list {}", from.display()))? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}
