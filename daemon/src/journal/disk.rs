//! The files of one directory, as far as the journal needs them. A trait, so that tests can lose what was not synced.

use std::{
    fmt,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

/// A directory of its own.
pub trait Disk: fmt::Debug + Send + Sync {
    /// Names of all files.
    fn list(&self) -> io::Result<Vec<String>>;
    /// Makes an empty file (mode 0600) in place of whatever had the name.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file.
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Gives a file another name, in place of whatever had that.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Returns when names made, changed and removed are durable.
    fn sync(&self) -> io::Result<()>;
}

/// An open file.
pub trait DiskFile: fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn size(&self) -> io::Result<u64>;
    /// Reads from an offset; fewer bytes at the end alone.
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize>;
    /// Writes all of it at an offset.
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()>;
    /// Returns when all that was written is durable.
    fn sync(&self) -> io::Result<()>;
}

/// A directory of the host. One owner at a time, by a lock that ends with it.
#[derive(Debug)]
pub struct HostDisk {
    dir: PathBuf,
    lock: Option<File>,
}

const LOCK: &str = "lock";

impl HostDisk {
    /// Takes the directory, making it where it is absent (mode 0700). `WouldBlock` where somebody has it.
    pub fn take(dir: &Path) -> io::Result<Self> {
        match fs::DirBuilder::new().mode(0o700).create(dir) {
            Ok(()) => {
                // Its name must outlast a crash as its files do.
                if let Some(parent) = dir.parent() {
                    File::open(if parent.as_os_str().is_empty() { Path::new(".") } else { parent })?
                        .sync_all()?;
                }
            }
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
            Err(e) => return Err(e),
        }
        let lock =
            OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join(LOCK))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { dir: dir.to_owned(), lock: Some(lock) }),
            Err(TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(TryLockError::Error(e)) => Err(e),
        }
    }

    /// Reads a directory that somebody else may own.
    pub fn read_only(dir: &Path) -> io::Result<Self> {
        fs::read_dir(dir).map(|_| Self { dir: dir.to_owned(), lock: None })
    }
}

impl Disk for HostDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            if let Ok(name) = entry?.file_name().into_string()
                && name != LOCK
            {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(true).mode(0o600);
        Ok(Arc::new(HostFile(options.open(path)?)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let path = self.dir.join(name);
        Ok(Arc::new(HostFile(OpenOptions::new().read(true).write(self.lock.is_some()).open(path)?)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.dir.join(from), self.dir.join(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.dir.join(name))
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }
}

#[derive(Debug)]
struct HostFile(File);

impl DiskFile for HostFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.metadata()?.len())
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut done = 0;
        while done < into.len() {
            match self.0.read_at(&mut into[done..], at + done as u64) {
                Ok(0) => break,
                Ok(n) => done += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(done)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.0.write_all_at(data, at)
    }

    fn sync(&self) -> io::Result<()> {
        self.0.sync_data()
    }
}
