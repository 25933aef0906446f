//! Lines in a file that is replaced when it is large or old: `name`, then `name.1` (the one before) up to `name.N`.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{Flushed, Lines};

/// How the file is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileSettings {
    /// Its path.
    pub path: PathBuf,
    /// Bytes after which the next one is begun.
    pub max_bytes: u64,
    /// Age after which the next one is begun.
    pub max_age: Duration,
    /// Earlier files that are kept.
    pub keep: u32,
}

/// The open file.
pub struct FileSink {
    settings: FileSettings,
    file: File,
    /// Device and inode: somebody may move the file away.
    identity: (u64, u64),
    size: u64,
    begun: SystemTime,
    /// A write failed, perhaps in the middle of a line.
    torn: bool,
    pub(super) lines: Lines,
}

impl FileSink {
    /// Opens it, and makes it where it is not there (mode 0600): lines hold what people did.
    pub fn open(settings: FileSettings) -> io::Result<Self> {
        let (file, identity, size, begun) = open(&settings.path)?;
        Ok(Self { settings, file, identity, size, begun, torn: false, lines: Lines::default() })
    }

    pub(super) fn flush(&mut self) -> Flushed {
        if self.lines.count == 0 {
            return Flushed::default();
        }
        let mut lines = std::mem::take(&mut self.lines);
        let flushed = lines.flush(|text| self.write(text));
        self.lines = lines;
        flushed
    }

    fn write(&mut self, text: &[u8]) -> io::Result<()> {
        let is_ours = fs::metadata(&self.settings.path).is_ok_and(|m| (m.dev(), m.ino()) == self.identity);
        if !is_ours {
            self.reopen()?;
        }
        let is_large = self.size > 0 && self.size + text.len() as u64 > self.settings.max_bytes;
        let is_old = self.size > 0 && self.begun.elapsed().is_ok_and(|age| age >= self.settings.max_age);
        if is_large || is_old {
            rotate(&self.settings.path, self.settings.keep)?;
            self.reopen()?;
        }
        if self.torn {
            self.file.write_all(b"\n")?;
        }
        self.size += text.len() as u64;
        let written = self.file.write_all(text);
        self.torn = written.is_err();
        written
    }

    fn reopen(&mut self) -> io::Result<()> {
        (self.file, self.identity, self.size, self.begun) = open(&self.settings.path)?;
        Ok(())
    }
}

type Opened = (File, (u64, u64), u64, SystemTime);

fn open(path: &Path) -> io::Result<Opened> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("{}: {e}", path.display()));
    let file = OpenOptions::new().append(true).create(true).mode(0o600).open(path).map_err(named)?;
    let meta = file.metadata().map_err(named)?;
    if !meta.is_file() {
        return Err(named(io::Error::other("it is not a regular file")));
    }
    // A file that was there before is as old as its first line, which the file system may not know.
    let begun = meta.created().unwrap_or_else(|_| SystemTime::now());
    Ok((file, (meta.dev(), meta.ino()), meta.len(), begun))
}

/// Moves each file to the next number; the last goes.
fn rotate(path: &Path, keep: u32) -> io::Result<()> {
    let numbered = |n: u32| {
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{n}"));
        PathBuf::from(name)
    };
    if keep == 0 {
        return fs::remove_file(path);
    }
    for n in (1..keep).rev() {
        match fs::rename(numbered(n), numbered(n + 1)) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    fs::rename(path, numbered(1))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn sink(dir: &Path, max_bytes: u64, max_age: Duration, keep: u32) -> FileSink {
        FileSink::open(FileSettings { path: dir.join("d.log"), max_bytes, max_age, keep }).unwrap()
    }

    fn write(sink: &mut FileSink, line: &str) {
        sink.lines.put(line);
        assert_eq!(sink.flush(), Flushed { written: 1, ..Flushed::default() });
    }

    fn read(dir: &Path, name: &str) -> Option<String> {
        fs::read_to_string(dir.join(name)).ok()
    }

    #[test]
    fn a_large_file_is_replaced_and_so_many_are_kept() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 8, Duration::from_hours(1), 2);
        for line in ["one", "two", "three", "four", "five"] {
            write(&mut sink, line);
        }
        assert_eq!(read(dir.path(), "d.log").unwrap(), "five\n");
        assert_eq!(read(dir.path(), "d.log.1").unwrap(), "four\n");
        assert_eq!(read(dir.path(), "d.log.2").unwrap(), "three\n");
        assert_eq!(read(dir.path(), "d.log.3"), None);
        let mode = fs::metadata(dir.path().join("d.log")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn an_old_file_is_replaced_and_one_that_was_moved_away_is_made_anew() {
        let dir = tempfile::tempdir().unwrap();
        let mut sink = sink(dir.path(), 1000, Duration::ZERO, 3);
        write(&mut sink, "one");
        write(&mut sink, "two");
        assert_eq!(read(dir.path(), "d.log.1").unwrap(), "one\n");
        sink.settings.max_age = Duration::from_hours(1);
        fs::rename(dir.path().join("d.log"), dir.path().join("elsewhere")).unwrap();
        write(&mut sink, "three");
        assert_eq!(read(dir.path(), "elsewhere").unwrap(), "two\n");
        assert_eq!(read(dir.path(), "d.log").unwrap(), "three\n");
        // An earlier run's file is gone on with.
        drop(sink);
        let mut sink = self::sink(dir.path(), 1000, Duration::from_hours(1), 3);
        write(&mut sink, "four");
        assert_eq!(read(dir.path(), "d.log").unwrap(), "three\nfour\n");
    }

    #[test]
    fn lines_that_cannot_be_written_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("gone");
        fs::create_dir(&below).unwrap();
        let mut sink = sink(&below, 1000, Duration::from_hours(1), 1);
        fs::remove_dir_all(&below).unwrap();
        sink.lines.put("x");
        let flushed = sink.flush();
        assert_eq!((flushed.written, flushed.lost), (0, 1));
        assert!(flushed.error.unwrap().contains("d.log"));
    }
}
