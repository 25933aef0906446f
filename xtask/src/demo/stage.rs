//! Everything the demo makes on the machine, and its removal.

use std::{
    fs::{self, DirBuilder},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{
    net::{self, Net},
    process::Process,
};

/// Where root's short-lived things are, and no one else can plant a name.
const RUN: &str = "/run";

/// The demo's directory, namespaces and processes; removed when dropped, in that order from last to first.
pub struct Stage {
    pub portcullis: PathBuf,
    pub daemon: Option<Process>,
    pub server: Option<Process>,
    // Fields drop in order of declaration: processes, then namespaces, then the directory with its mount.
    pub net: Net,
    dir: Dir,
}

impl Stage {
    pub fn set(portcullis: PathBuf) -> Result<Self> {
        sweep();
        let id = std::process::id().to_string();
        let dir = Dir::make(&id)?;
        let net = Net::make(&id)?;
        Ok(Self { portcullis, daemon: None, server: None, net, dir })
    }

    /// A path in the demo's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.0.join(name)
    }

    /// Writes a file that only root can read: most hold a key or a token.
    pub fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path(name);
        fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&path)
            .and_then(|mut file| file.write_all(text.as_bytes()))
            .with_context(|| format!("cannot write `{}`", path.display()))?;
        Ok(path)
    }

    /// What daemon and server said last, for a failure.
    pub fn show_logs(&self) {
        for (name, process) in [("daemon", &self.daemon), ("server", &self.server)] {
            let tail = process.as_ref().map(Process::tail).unwrap_or_default();
            if !tail.is_empty() {
                eprintln!("\nThe {name} said last:\n{tail}");
            }
        }
    }

    /// Removes everything and says so.
    pub fn clear(self) {
        drop(self);
        println!("\nRemoved what the demo made: processes, namespaces, pinned programs, directory.");
    }
}

/// A private directory with a BPF file system of its own in `bpf/`.
struct Dir(PathBuf);

impl Dir {
    fn make(id: &str) -> Result<Self> {
        let path = Path::new(RUN).join(format!("{}{id}", net::PREFIX));
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("cannot make `{}`", path.display()))?;
        let dir = Self(path);
        let pins = dir.0.join("bpf");
        DirBuilder::new()
            .mode(0o700)
            .create(&pins)
            .with_context(|| format!("cannot make `{}`", pins.display()))?;
        mount(
            Some("bpf"),
            &pins,
            Some("bpf"),
            MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
            Some("mode=0700"),
        )
        .with_context(|| format!("cannot mount a BPF file system at `{}`", pins.display()))?;
        Ok(dir)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        remove(&self.0);
    }
}

fn remove(dir: &Path) {
    // Unmounting first takes the pins away, and with them programs and maps; it fails if it was never mounted.
    let _ = umount2(&dir.join("bpf"), MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_dir_all(dir) {
        eprintln!("note: `{}` is left: {error}", dir.display());
    }
}

/// Removes what demos left that were killed with -9.
fn sweep() {
    net::sweep();
    for dir in net::stale(Path::new(RUN)) {
        remove(&dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stage_is_private_and_leaves_nothing() {
        if !crate::privilege::is_root() {
            println!("SKIPPED stage of the demo: not root");
            return;
        }
        let stage = Stage::set("portcullis".into()).unwrap();
        let dir = stage.path("");
        let key = stage.write("key", "secret").unwrap();
        let mode = |path: &Path| std::os::unix::fs::MetadataExt::mode(&fs::metadata(path).unwrap()) & 0o777;
        assert_eq!((mode(&dir), mode(&key), mode(&stage.path("bpf"))), (0o700, 0o600, 0o700));
        let mounts = || fs::read_to_string("/proc/self/mounts").unwrap();
        let mounted = format!("{} bpf ", stage.path("bpf").display());
        assert!(mounts().contains(&mounted));
        drop(stage);
        assert!(!dir.exists());
        assert!(!mounts().contains(&mounted));
    }
}
