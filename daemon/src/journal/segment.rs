//! One file of the log: a page that says whose it is and how far it is acknowledged, then entries, then zeros.
//!
//! The zeros are written ahead of the entries: a sync then has no new length or extent to write besides the data.

use std::{io, sync::Arc};

use super::{
    disk::{Disk, DiskFile},
    entry::{self, Chain, Entry, NoEntry, array, check},
};

/// Bytes before the first entry.
pub const PAGE: u64 = 4096;
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
/// Bytes that a file begins with.
const TITLE: usize = 88;
const MAGIC: [u8; 16] = *b"portcullis log\n1";
/// Where the two notes of what is acknowledged stand: the one while the other is written.
const MARKS: [u64; 2] = [1024, 2048];
/// Where it is noted that another file goes on.
const CONTINUED: u64 = 3072;
const MARK: usize = 64;
const MARK_MAGIC: [u8; 8] = *b"acked 1\n";
/// Read at once.
const READ: usize = 1 << 20;
/// Read at once at least.
const SMALL: usize = 16 << 10;

/// Whose log it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The fingerprint key's id.
    pub key_id: u32,
    /// Drawn when the log was begun.
    pub log: [u8; 16],
}

/// A file of the log that was read, and can be appended to.
#[derive(Debug)]
pub struct Segment {
    /// Its name.
    pub name: String,
    /// The file.
    pub file: Arc<dyn DiskFile>,
    /// Whose it is.
    pub identity: Identity,
    /// The chain before its first entry.
    pub before: Chain,
    /// The chain with its last entry.
    pub chain: Chain,
    /// Where the next entry goes.
    pub end: u64,
    /// Where the last entry begins that a scan found.
    last: u64,
    /// Up to where zeros were written.
    zeroed: u64,
    /// Which of the two notes is written next.
    slot: usize,
}

/// Why a file was not made.
#[derive(Debug)]
pub enum NotMade {
    /// Nothing has changed: it may be tried again.
    Before(io::Error),
    /// It may be there or not.
    Unclear(io::Error),
}

/// What a scan makes of a file.
#[derive(Debug)]
pub enum Bad {
    /// The disk says no.
    Io(io::Error),
    /// It is no file of the log, or not whole.
    Damaged(String),
}

impl std::fmt::Display for Bad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Io(e) => e.fmt(f),
            Self::Damaged(what) => what.fmt(f),
        }
    }
}

impl From<io::Error> for Bad {
    fn from(e: io::Error) -> Self {
        Self::Io(e)
    }
}

/// The name of the file whose first entry has this number.
pub fn name(first: u64) -> String {
    format!("log-{first:016x}")
}

/// The number of the first entry of a file of this name.
pub fn is_segment(name: &str) -> Option<u64> {
    let digits = name.strip_prefix("log-").filter(|d| d.len() == 16)?;
    u64::from_str_radix(digits, 16).ok()
}

/// Whether a file of this name was still being made.
pub fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(".new").is_some_and(|n| is_segment(n).is_some())
}

impl Segment {
    /// Makes a file that continues a chain; it is durable under its name when this returns.
    pub fn create(disk: &dyn Disk, identity: Identity, before: Chain, zeros: u64) -> Result<Self, NotMade> {
        let name = name(before.seq + 1);
        let fresh = format!("{name}.new");
        let file = disk.create(&fresh).map_err(NotMade::Before)?;
        let mut segment =
            Self { name, file, identity, before, chain: before, end: PAGE, last: PAGE, zeroed: 0, slot: 0 };
        segment.zero_to(PAGE + zeros).map_err(NotMade::Before)?;
        segment.file.write_at(&title(&MAGIC, identity, before), 0).map_err(NotMade::Before)?;
        segment.file.sync().map_err(NotMade::Unclear)?;
        disk.rename(&fresh, &segment.name).map_err(NotMade::Unclear)?;
        disk.sync().map_err(NotMade::Unclear)?;
        Ok(segment)
    }

    /// Reads the first page.
    pub fn open(disk: &dyn Disk, name: &str) -> Result<Self, Bad> {
        let file = disk.open(name)?;
        let Some((identity, before)) = read_title(&*file, &MAGIC)? else {
            return Err(Bad::Damaged(format!("{name}: its first page is not a log's")));
        };
        if is_segment(name) != Some(before.seq + 1) {
            return Err(Bad::Damaged(format!("{name}: it is another file of the log, under a wrong name")));
        }
        let zeroed = file.size()?;
        if zeroed < PAGE {
            return Err(Bad::Damaged(format!("{name}: its end is missing")));
        }
        Ok(Self {
            name: name.to_owned(),
            file,
            identity,
            before,
            chain: before,
            end: PAGE,
            last: PAGE,
            zeroed,
            slot: 0,
        })
    }

    /// Reads every entry, in order, with its offset. An end that was never acknowledged is left out; `Damaged` where an
    /// acknowledged entry cannot be read. Gives the bytes that were left out.
    pub fn scan(&mut self, mut take: impl FnMut(&Entry<'_>, u64, Chain)) -> Result<u64, Bad> {
        let acknowledged = self.acknowledged()?;
        let mut window = Window { file: &*self.file, bytes: Vec::new(), len: 0, at: PAGE, read: READ };
        (self.end, self.chain) = (PAGE, self.before);
        let why = loop {
            match window.entry(self.end, self.chain)? {
                Ok(entry) => {
                    take(&entry, self.end, self.chain);
                    self.last = self.end;
                    self.end += entry.size() as u64;
                    self.chain = entry.chain;
                }
                Err(why) => break why,
            }
        };
        if let Some(mark) = acknowledged
            && (mark.seq > self.chain.seq || (mark.seq == self.chain.seq && mark.hash != self.chain.hash))
        {
            return Err(Bad::Damaged(format!(
                "{}: entry {} at byte {} was acknowledged and cannot be read back",
                self.name,
                self.chain.seq + 1,
                self.end
            )));
        }
        if why == NoEntry::Blank || self.end >= self.zeroed {
            return Ok(0);
        }
        // The entry here was not acknowledged, as far as is known; one that follows it would say otherwise.
        let rest = read_all(&*self.file, self.end, self.zeroed)?;
        if entry::any_after(&rest, self.chain.seq + 1) {
            return Err(Bad::Damaged(format!(
                "{}: entry {} at byte {} cannot be read back, and others follow it",
                self.name,
                self.chain.seq + 1,
                self.end
            )));
        }
        let used = rest.iter().rposition(|b| *b != 0).map_or(0, |n| n as u64 + 1);
        Ok(used)
    }

    /// Reads every entry of a file that its owner may be appending to, in order: all that is acknowledged, and what is whole
    /// behind it. `Damaged` where an acknowledged entry cannot be read, or others follow one that cannot.
    pub fn read_beside(&mut self, mut take: impl FnMut(&Entry<'_>)) -> Result<(), Bad> {
        (self.end, self.chain) = (PAGE, self.before);
        // An owner that is faster than this reader is not followed for ever.
        for _ in 0..100 {
            let noted = self.acknowledged()?;
            // Anew each time: what was read ahead may have been half written.
            let mut window =
                Window { file: &*self.file, bytes: Vec::new(), len: 0, at: self.end, read: READ };
            let why = loop {
                match window.entry(self.end, self.chain)? {
                    Ok(entry) => {
                        take(&entry);
                        self.end += entry.size() as u64;
                        self.chain = entry.chain;
                    }
                    Err(why) => break why,
                }
            };
            let missing = noted.is_some_and(|n| {
                n.seq > self.chain.seq || (n.seq == self.chain.seq && n.hash != self.chain.hash)
            });
            let rest = if why == NoEntry::Blank {
                Vec::new()
            } else {
                read_all(&*self.file, self.end, self.file.size()?)?
            };
            if !missing && !entry::any_after(&rest, self.chain.seq + 1) {
                return Ok(());
            }
            // What is noted as acknowledged was whole before it was noted, and only another entry makes this one grow.
            if missing || self.acknowledged()? == noted {
                return Err(Bad::Damaged(format!(
                    "{}: entry {} at byte {} cannot be read back",
                    self.name,
                    self.chain.seq + 1,
                    self.end
                )));
            }
        }
        Ok(())
    }

    /// The first page of a copy that ends where this one was read to: it says that all of it is acknowledged.
    pub fn page(&self) -> io::Result<Vec<u8>> {
        let mut page = read_all(&*self.file, 0, PAGE)?;
        page.resize(usize::try_from(PAGE).unwrap_or(TITLE), 0);
        page[TITLE..].fill(0);
        let at = usize::try_from(MARKS[0]).unwrap_or(TITLE);
        page[at..at + MARK].copy_from_slice(&mark_at(self.chain, self.end));
        Ok(page)
    }

    /// Notes, durably, that another file goes on, so that its absence is noticed.
    pub fn continued(&self) -> io::Result<()> {
        self.file.write_at(&mark(self.chain), CONTINUED)?;
        self.file.sync()
    }

    /// Whether another file must follow this one.
    pub fn is_continued(&self) -> io::Result<bool> {
        Ok(read_mark(&*self.file, CONTINUED)?.is_some())
    }

    /// Writes the last entry anew, and syncs it: after a failed sync what was read may be in memory alone, and would pass
    /// for durable with the next one. Nothing follows an entry whose sync failed.
    pub fn settle(&self) -> io::Result<()> {
        for (from, to) in [(0, PAGE), (self.last, self.end)] {
            let bytes = read_all(&*self.file, from, to)?;
            self.file.write_at(&bytes, from)?;
        }
        self.file.sync()
    }

    /// Overwrites an end that a scan left out.
    pub fn cut(&mut self, used: u64) -> io::Result<()> {
        zero(&*self.file, self.end, (self.end + used).min(self.zeroed))?;
        self.file.sync()
    }

    /// Makes room for an entry of this many bytes. An error here leaves the log as it was.
    pub fn reserve(&mut self, len: u64, zeros: u64) -> io::Result<()> {
        if self.end + len <= self.zeroed { Ok(()) } else { self.zero_to(self.end + len + zeros) }
    }

    /// Whether [`Self::reserve`] would write.
    #[cfg(test)]
    pub const fn is_short(&self, len: u64) -> bool {
        self.end + len > self.zeroed
    }

    fn zero_to(&mut self, to: u64) -> io::Result<()> {
        zero(&*self.file, self.zeroed, to)?;
        self.zeroed = to;
        Ok(())
    }

    /// Writes an entry and returns when it is durable and noted as acknowledged. After an error nothing more may be
    /// appended: what the disk holds is not known.
    pub fn append(&mut self, bytes: &[u8], chain: Chain) -> io::Result<()> {
        self.file.write_at(bytes, self.end)?;
        self.file.sync()?;
        self.end += bytes.len() as u64;
        self.chain = chain;
        // In the page cache for now, and on the disk with the next sync: a daemon that is killed leaves it whole.
        self.file.write_at(&mark_at(chain, self.end), MARKS[self.slot])?;
        self.slot ^= 1;
        Ok(())
    }

    /// How far the file says that it is acknowledged.
    fn acknowledged(&mut self) -> io::Result<Option<Chain>> {
        let mut best: Option<Chain> = None;
        for (n, at) in MARKS.into_iter().enumerate() {
            if let Some((found, _)) = read_mark(&*self.file, at)?
                && best.is_none_or(|b| b.seq < found.seq)
            {
                best = Some(found);
                self.slot = n ^ 1;
            }
        }
        Ok(best)
    }
}

/// What a file begins with: what it is, whose, and where in the chain.
pub fn title(magic: &[u8; 16], identity: Identity, chain: Chain) -> [u8; TITLE] {
    let mut page = [0; TITLE];
    page[..16].copy_from_slice(magic);
    page[16..20].copy_from_slice(&identity.key_id.to_le_bytes());
    page[24..40].copy_from_slice(&identity.log);
    page[40..48].copy_from_slice(&chain.seq.to_le_bytes());
    page[48..80].copy_from_slice(&chain.hash);
    let sum = check(&page[..80]);
    page[80..].copy_from_slice(&sum);
    page
}

/// Reads it; `None` where a file begins with something else.
pub fn read_title(file: &dyn DiskFile, magic: &[u8; 16]) -> io::Result<Option<(Identity, Chain)>> {
    let mut page = [0; TITLE];
    let n = file.read_at(&mut page, 0)?;
    if n < TITLE || page[..16] != *magic || page[80..] != check(&page[..80]) {
        return Ok(None);
    }
    let identity = Identity { key_id: u32::from_le_bytes(array(&page[16..20])), log: array(&page[24..40]) };
    let chain = Chain { seq: u64::from_le_bytes(array(&page[40..48])), hash: array(&page[48..80]) };
    Ok(Some((identity, chain)))
}

fn zero(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<()> {
    let mut at = from;
    while at < to {
        let n = usize::try_from(to - at).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_at(&ZEROS[..n], at)?;
        at += n as u64;
    }
    Ok(())
}

fn mark(chain: Chain) -> [u8; MARK] {
    mark_at(chain, 0)
}

fn mark_at(chain: Chain, end: u64) -> [u8; MARK] {
    let mut bytes = [0; MARK];
    bytes[..8].copy_from_slice(&MARK_MAGIC);
    bytes[8..16].copy_from_slice(&chain.seq.to_le_bytes());
    bytes[16..24].copy_from_slice(&end.to_le_bytes());
    bytes[24..56].copy_from_slice(&chain.hash);
    let sum = check(&bytes[..56]);
    bytes[56..].copy_from_slice(&sum);
    bytes
}

/// A note of the first page: the chain, and where it ends.
fn read_mark(file: &dyn DiskFile, at: u64) -> io::Result<Option<(Chain, u64)>> {
    let mut bytes = [0; MARK];
    let whole = file.read_at(&mut bytes, at)? == MARK
        && bytes[..8] == MARK_MAGIC
        && bytes[56..] == check(&bytes[..56]);
    let chain = Chain { seq: u64::from_le_bytes(array(&bytes[8..16])), hash: array(&bytes[24..56]) };
    Ok(whole.then(|| (chain, u64::from_le_bytes(array(&bytes[16..24])))))
}

/// Reads entries of a file from an offset on, up to another, so many bytes at once; for those that know where the chain
/// stood there.
pub fn verify(
    file: &dyn DiskFile,
    mut at: u64,
    end: u64,
    mut chain: Chain,
    read: u64,
    mut take: impl FnMut(&Entry<'_>, u64) -> bool,
) -> Result<Chain, Bad> {
    let left = usize::try_from(end.saturating_sub(at)).unwrap_or(READ);
    let read = usize::try_from(read).unwrap_or(READ).max(SMALL).min(left);
    let mut window = Window { file, bytes: Vec::new(), len: 0, at, read };
    while at < end {
        match window.entry(at, chain)? {
            Ok(entry) => {
                let (len, next) = (entry.size() as u64, entry.chain);
                if !take(&entry, at) {
                    return Ok(next);
                }
                (at, chain) = (at + len, next);
            }
            Err(_) => {
                return Err(Bad::Damaged(format!("entry {} at byte {at} cannot be read", chain.seq + 1)));
            }
        }
    }
    Ok(chain)
}

/// Part of a file in memory.
struct Window<'a> {
    file: &'a dyn DiskFile,
    /// Room, used again for each part: of it, `len` bytes are the file's from `at` on.
    bytes: Vec<u8>,
    len: usize,
    at: u64,
    read: usize,
}

impl Window<'_> {
    fn entry(&mut self, at: u64, before: Chain) -> io::Result<Result<Entry<'_>, NoEntry>> {
        self.fill(at, entry::HEAD)?;
        // Its size first: each look at an entry hashes all of it.
        if let Some(size) = entry::size(self.from(at)) {
            self.fill(at, size)?;
        }
        Ok(entry::parse(self.from(at), before))
    }

    fn from(&self, at: u64) -> &[u8] {
        let read = &self.bytes[..self.len];
        usize::try_from(at - self.at).ok().and_then(|n| read.get(n..)).unwrap_or_default()
    }

    fn fill(&mut self, at: u64, want: usize) -> io::Result<()> {
        if self.from(at).len() >= want {
            return Ok(());
        }
        let size = want.max(self.read);
        if self.bytes.len() < size {
            self.bytes.resize(size, 0);
        }
        (self.at, self.len) = (at, 0);
        self.len = self.file.read_at(&mut self.bytes[..size], at)?;
        Ok(())
    }
}

fn read_all(file: &dyn DiskFile, from: u64, to: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(to.saturating_sub(from)).unwrap_or(0)];
    let n = file.read_at(&mut bytes, from)?;
    bytes.truncate(n);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    };

    use super::{super::sim::SimDisk, *};

    /// A file whose owner appends between two reads of another.
    struct Racing {
        file: Arc<dyn DiskFile>,
        owner: Mutex<Segment>,
        reads: AtomicUsize,
        at: usize,
    }

    impl std::fmt::Debug for Racing {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("Racing")
        }
    }

    impl DiskFile for Racing {
        fn size(&self) -> io::Result<u64> {
            self.file.size()
        }
        fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
            let n = self.file.read_at(into, at)?;
            if self.reads.fetch_add(1, Ordering::SeqCst) == self.at {
                append(&mut self.owner.lock().unwrap(), 3);
            }
            Ok(n)
        }
        fn write_at(&self, _: &[u8], _: u64) -> io::Result<()> {
            unreachable!("readers write nothing")
        }
        fn sync(&self) -> io::Result<()> {
            unreachable!("readers write nothing")
        }
    }

    fn append(segment: &mut Segment, count: usize) {
        for _ in 0..count {
            let mut bytes = Vec::new();
            let chain = entry::write(&mut bytes, segment.chain, 1, b"body");
            segment.append(&bytes, chain).unwrap();
        }
    }

    fn written(disk: &SimDisk) -> Segment {
        let identity = Identity { key_id: 1, log: [2; 16] };
        let mut owner = Segment::create(disk, identity, Chain { seq: 0, hash: [0; 32] }, 8192).unwrap();
        append(&mut owner, 2);
        owner
    }

    #[test]
    fn a_reader_beside_the_owner_sees_what_is_acknowledged_and_takes_nothing_for_damage() {
        // Wherever between two reads the owner appends; and where it has written half of an entry.
        for half in [false, true] {
            for at in 0..12 {
                let disk = SimDisk::default();
                let owner = written(&disk);
                let name = owner.name.clone();
                if half {
                    let mut bytes = Vec::new();
                    entry::write(&mut bytes, owner.chain, 1, b"body");
                    owner.file.write_at(&bytes[..bytes.len() - 2], owner.end).unwrap();
                }
                let mut reader = Segment::open(&disk, &name).unwrap();
                let (file, reads) = (Arc::clone(&reader.file), AtomicUsize::new(0));
                reader.file = Arc::new(Racing { file, owner: Mutex::new(owner), reads, at });
                let mut seen = Vec::new();
                reader.read_beside(|e| seen.push(e.chain.seq)).unwrap_or_else(|e| panic!("{half} {at}: {e}"));
                assert!(seen == [1, 2] || seen == [1, 2, 3, 4, 5], "{half} {at}: {seen:?}");
            }
        }
    }

    #[test]
    fn a_reader_beside_the_owner_still_finds_damage() {
        let disk = SimDisk::default();
        let name = written(&disk).name;
        for at in [4096 + 10, 4096 + 72, 4096 + 76 + 40] {
            let damaged = disk.copy();
            damaged.change(&name, |b| b[at] ^= 1);
            let mut reader = Segment::open(&damaged, &name).unwrap();
            assert!(matches!(reader.read_beside(|_| {}), Err(Bad::Damaged(_))), "byte {at}");
        }
    }
}
