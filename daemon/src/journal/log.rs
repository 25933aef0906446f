//! The log: segments in a row, of which the last is appended to.

use std::{io, sync::Arc};

use thiserror::Error;

use super::{
    disk::{Disk, DiskFile},
    entry::{self, Chain, Entry},
    segment::{self, Bad, Identity, NotMade, PAGE, Segment},
};

/// How large things become, in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// A segment, after which another is begun.
    pub segment: u64,
    /// Zeros written ahead.
    pub zeros: u64,
}

impl Default for Sizes {
    fn default() -> Self {
        Self { segment: 64 << 20, zeros: 1 << 20 }
    }
}

/// Where an entry stands.
#[derive(Clone, Debug)]
pub struct Position {
    /// Its file.
    pub file: Arc<dyn DiskFile>,
    /// The file's place in the log: the number of its first entry.
    pub segment: u64,
    /// Its offset.
    pub at: u64,
    /// The chain before it.
    pub before: Chain,
}

/// What can go wrong.
#[derive(Debug, Error)]
pub enum JournalError {
    /// The disk says no; nothing more is appended.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// There is no room for more; the log is as it was, and may be tried again.
    #[error("{0}")]
    NoRoom(io::Error),
    /// Something that was acknowledged is not there.
    #[error("{0}")]
    Damaged(String),
    /// A write failed before: what the disk holds is not known.
    #[error("a write to it failed before; restart the daemon, which reads it again")]
    Failed,
    /// More than an entry holds.
    #[error("{0} bytes are more than one entry holds")]
    TooLong(usize),
}

impl From<Bad> for JournalError {
    fn from(bad: Bad) -> Self {
        match bad {
            Bad::Io(e) => Self::Io(e),
            Bad::Damaged(what) => Self::Damaged(what),
        }
    }
}

/// A segment that is complete.
#[derive(Clone, Debug)]
pub struct Sealed {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// The chain before it.
    pub before: Chain,
    /// The chain with its last entry.
    pub chain: Chain,
    /// Where its entries end.
    pub end: u64,
}

/// The open log. It has one owner.
#[derive(Debug)]
pub struct Journal {
    disk: Arc<dyn Disk>,
    sizes: Sizes,
    sealed: Vec<Sealed>,
    active: Segment,
    failed: bool,
    bytes: Vec<u8>,
}

impl Journal {
    /// Opens the log, or begins one where the directory holds none and `start` is its beginning. Hands out every entry
    /// after `start`, in order. Tells how many bytes of an unacknowledged end were cut off.
    pub fn open(
        disk: Arc<dyn Disk>,
        fresh: Identity,
        start: Chain,
        sizes: Sizes,
        mut take: impl FnMut(&Entry<'_>, Position),
    ) -> Result<(Self, u64), JournalError> {
        let mut segments = Vec::new();
        for name in disk.list()? {
            if segment::is_unfinished(&name) {
                disk.remove(&name)?;
            } else if segment::is_segment(&name).is_some() {
                segments.push(Segment::open(&*disk, &name)?);
            }
        }
        segments.sort_by_key(|s| s.before.seq);
        let Some(mut active) = segments.pop() else {
            if start.seq != 0 {
                return Err(JournalError::Damaged(format!(
                    "the log's file after entry {} is missing",
                    start.seq
                )));
            }
            let made = Segment::create(&*disk, fresh, start, sizes.zeros);
            let active = made.map_err(|(NotMade::Before(e) | NotMade::Unclear(e))| e)?;
            let sealed = Vec::new();
            return Ok((Self { disk, sizes, sealed, active, failed: false, bytes: Vec::new() }, 0));
        };
        if let Some(other) = segments.iter().find(|s| s.identity.log != active.identity.log) {
            return Err(JournalError::Damaged(format!("{}: it is of another log", other.name)));
        }
        let mut sealed = Vec::new();
        let mut at = start;
        let mut nexts: Vec<Chain> = segments.iter().skip(1).map(|s| s.before).collect();
        nexts.push(active.before);
        for (mut segment, next) in segments.into_iter().zip(nexts) {
            let mut end = segment.file.size()?;
            if next.seq > start.seq {
                follows(&segment, at)?;
                scan(&mut segment, &mut take)?;
                end = segment.end;
                if segment.chain != next {
                    return Err(JournalError::Damaged(format!(
                        "{}: it ends with entry {}, and the next file begins after {}",
                        segment.name, segment.chain.seq, next.seq
                    )));
                }
                at = next;
            }
            let Segment { name, file, before, .. } = segment;
            sealed.push(Sealed { name, file, before, chain: next, end });
        }
        follows(&active, at)?;
        if active.is_continued()? {
            return Err(JournalError::Damaged(format!(
                "{}: another file goes on after it, and is missing",
                active.name
            )));
        }
        let used = scan(&mut active, &mut take)?;
        if used > 0 {
            active.cut(used)?;
        }
        active.settle()?;
        Ok((Self { disk, sizes, sealed, active, failed: false, bytes: Vec::new() }, used))
    }

    /// Whether a log is among a directory's files.
    pub fn is_among(names: &[String]) -> bool {
        names.iter().any(|name| segment::is_segment(name).is_some())
    }

    /// Appends an entry; it is durable when this returns. After an error nothing of it counts.
    pub fn append(&mut self, time: i64, body: &[u8]) -> Result<(Chain, Position), JournalError> {
        if self.failed {
            return Err(JournalError::Failed);
        }
        if body.len() > entry::MAX_BODY {
            return Err(JournalError::TooLong(body.len()));
        }
        let len = (entry::HEAD + body.len()) as u64;
        if self.active.end + len > PAGE + self.sizes.segment && self.active.end > PAGE {
            self.roll()?;
        }
        self.active.reserve(len, self.sizes.zeros).map_err(|e| self.note(e))?;
        let before = self.active.chain;
        self.bytes.clear();
        let chain = entry::write(&mut self.bytes, before, time, body);
        let at = self.active.end;
        if let Err(e) = self.active.append(&self.bytes, chain) {
            self.failed = true;
            return Err(e.into());
        }
        let position =
            Position { file: Arc::clone(&self.active.file), segment: self.active.before.seq + 1, at, before };
        Ok((chain, position))
    }

    /// What the disk holds is not known from here on.
    fn lost(&mut self, e: io::Error) -> JournalError {
        self.failed = true;
        e.into()
    }

    /// A full disk before an entry was written leaves the log as it was; whatever else does not.
    fn note(&mut self, e: io::Error) -> JournalError {
        if matches!(e.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded) {
            return JournalError::NoRoom(e);
        }
        self.lost(e)
    }

    fn roll(&mut self) -> Result<(), JournalError> {
        let made = Segment::create(&*self.disk, self.active.identity, self.active.chain, self.sizes.zeros);
        let next = match made {
            Ok(next) => next,
            Err(NotMade::Before(e)) => return Err(self.note(e)),
            Err(NotMade::Unclear(e)) => return Err(self.lost(e)),
        };
        // The last note of what is acknowledged goes to the disk with it.
        if let Err(e) = self.active.continued() {
            return Err(self.lost(e));
        }
        let Segment { name, file, before, chain, end, .. } = std::mem::replace(&mut self.active, next);
        self.sealed.push(Sealed { name, file, before, chain, end });
        Ok(())
    }

    /// Segments that are complete, oldest first.
    pub fn sealed(&self) -> &[Sealed] {
        &self.sealed
    }

    /// The segment that is appended to.
    pub const fn active(&self) -> &Segment {
        &self.active
    }

    /// Where the chain stands.
    pub const fn chain(&self) -> Chain {
        self.active.chain
    }

    /// Whose it is.
    pub const fn identity(&self) -> Identity {
        self.active.identity
    }

    /// The directory.
    pub fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    /// Removes the oldest complete segment.
    pub fn drop_oldest(&mut self) -> io::Result<()> {
        if let Some(oldest) = self.sealed.first() {
            self.disk.remove(&oldest.name)?;
            self.sealed.remove(0);
        }
        Ok(())
    }

    /// Has the last note of what is acknowledged on the disk too, at the end.
    pub fn close(&mut self) -> Result<(), JournalError> {
        if self.failed { Ok(()) } else { Ok(self.active.file.sync()?) }
    }
}

fn follows(segment: &Segment, at: Chain) -> Result<(), JournalError> {
    if segment.before == at {
        return Ok(());
    }
    Err(JournalError::Damaged(format!(
        "{}: it begins after entry {}, and what is before it ends with {}",
        segment.name, segment.before.seq, at.seq
    )))
}

fn scan(segment: &mut Segment, take: &mut impl FnMut(&Entry<'_>, Position)) -> Result<u64, JournalError> {
    let (file, first) = (Arc::clone(&segment.file), segment.before.seq + 1);
    Ok(segment.scan(|entry, at, before| {
        take(entry, Position { file: Arc::clone(&file), segment: first, at, before });
    })?)
}
