//! A disk of tests, which loses what was not synced when it crashes.

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use super::disk::{Disk, DiskFile};

/// What a crash leaves of writes that were not synced.
#[derive(Clone, Copy, Debug)]
pub enum Loss {
    /// All of them.
    All,
    /// None.
    Nothing,
    /// Some, by halves of a kilobyte, drawn with this seed.
    Some(u64),
}

#[derive(Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    now: Vec<u8>,
    /// Writes since the last sync: offset and length.
    pending: Vec<(usize, usize)>,
}

type Names = BTreeMap<String, usize>;

#[derive(Debug, Default)]
struct State {
    inodes: Vec<Inode>,
    names: Names,
    /// The directory after each change since its last sync, the synced one first.
    history: Vec<Names>,
    operations: usize,
    /// Bytes that were read.
    read: usize,
    /// Fails from this operation on.
    crash_at: Option<usize>,
    /// Fails at this operation alone.
    fail_at: Option<(usize, io::ErrorKind)>,
}

impl State {
    fn step(&mut self) -> io::Result<()> {
        self.operations += 1;
        if self.crash_at.is_some_and(|n| self.operations >= n) {
            return Err(io::Error::other("the power is gone"));
        }
        match self.fail_at {
            Some((n, kind)) if n == self.operations => Err(kind.into()),
            _ => Ok(()),
        }
    }
}

/// The disk.
#[derive(Clone, Debug)]
pub struct SimDisk(Arc<Mutex<State>>);

impl Default for SimDisk {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(State { history: vec![Names::new()], ..State::default() })))
    }
}

impl SimDisk {
    /// Has the power go at this operation, counted from the first one after now.
    pub fn crash_at(&self, operation: usize) {
        let mut s = self.0.lock().unwrap();
        s.crash_at = Some(s.operations + operation);
    }

    /// Has one operation fail.
    pub fn fail_at(&self, operation: usize, kind: io::ErrorKind) {
        let mut s = self.0.lock().unwrap();
        s.fail_at = Some((s.operations + operation, kind));
    }

    /// Operations so far.
    pub fn operations(&self) -> usize {
        self.0.lock().unwrap().operations
    }

    /// Bytes that were read so far.
    pub fn read(&self) -> usize {
        self.0.lock().unwrap().read
    }

    /// What is there when the power is back.
    pub fn after_crash(&self, loss: Loss) -> Self {
        let s = self.0.lock().unwrap();
        let mut draw = Draw(if let Loss::Some(seed) = loss { seed } else { 1 });
        let names = match loss {
            Loss::All => &s.history[0],
            Loss::Nothing => &s.names,
            Loss::Some(_) => {
                let all = s.history.len() + 1;
                let n = usize::try_from(draw.next()).unwrap() % all;
                s.history.get(n).unwrap_or(&s.names)
            }
        };
        let mut new = State { names: names.clone(), history: vec![names.clone()], ..State::default() };
        for inode in &s.inodes {
            let mut bytes = inode.durable.clone();
            for (at, len) in &inode.pending {
                for start in (*at..at + len).step_by(512) {
                    let stop = (start + 512 - start % 512).min(at + len);
                    let kept = match loss {
                        Loss::All => false,
                        Loss::Nothing => true,
                        Loss::Some(_) => draw.next().is_multiple_of(2),
                    };
                    if kept {
                        bytes.resize(bytes.len().max(stop), 0);
                        bytes[start..stop].copy_from_slice(&inode.now[start..stop]);
                    }
                }
            }
            new.inodes.push(Inode { now: bytes.clone(), durable: bytes, pending: Vec::new() });
        }
        Self(Arc::new(Mutex::new(new)))
    }

    /// A copy, to be damaged.
    pub fn copy(&self) -> Self {
        self.after_crash(Loss::Nothing)
    }

    /// Changes a file's bytes.
    pub fn change(&self, name: &str, change: impl FnOnce(&mut Vec<u8>)) {
        let mut s = self.0.lock().unwrap();
        let n = s.names[name];
        let inode = &mut s.inodes[n];
        change(&mut inode.now);
        inode.durable = inode.now.clone();
        inode.pending.clear();
    }
}

struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.0 >> 33
    }
}

impl Disk for SimDisk {
    fn list(&self) -> io::Result<Vec<String>> {
        Ok(self.0.lock().unwrap().names.keys().cloned().collect())
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut s = self.0.lock().unwrap();
        s.step()?;
        let n = s.inodes.len();
        s.inodes.push(Inode::default());
        let before = s.names.clone();
        s.history.push(before);
        s.names.insert(name.to_owned(), n);
        Ok(Arc::new(SimFile(Arc::clone(&self.0), n)))
    }

    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let s = self.0.lock().unwrap();
        let n = s.names.get(name).ok_or(io::ErrorKind::NotFound)?;
        Ok(Arc::new(SimFile(Arc::clone(&self.0), *n)))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.step()?;
        let before = s.names.clone();
        s.history.push(before);
        let n = s.names.remove(from).ok_or(io::ErrorKind::NotFound)?;
        s.names.insert(to.to_owned(), n);
        Ok(())
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.step()?;
        let before = s.names.clone();
        s.history.push(before);
        s.names.remove(name).map(|_| ()).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn sync(&self) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.step()?;
        s.history = vec![s.names.clone()];
        Ok(())
    }
}

#[derive(Debug)]
struct SimFile(Arc<Mutex<State>>, usize);

impl DiskFile for SimFile {
    fn size(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().inodes[self.1].now.len() as u64)
    }

    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        let mut s = self.0.lock().unwrap();
        let rest = s.inodes[self.1].now.get(usize::try_from(at).unwrap()..).unwrap_or_default();
        let n = rest.len().min(into.len());
        into[..n].copy_from_slice(&rest[..n]);
        s.read += n;
        Ok(n)
    }

    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        let power = s.step();
        let at = usize::try_from(at).unwrap();
        let inode = &mut s.inodes[self.1];
        // What fails may have got part of the way.
        let len = if power.is_ok() { data.len() } else { data.len() / 2 };
        let end = inode.now.len().max(at + len);
        inode.now.resize(end, 0);
        inode.now[at..at + len].copy_from_slice(&data[..len]);
        inode.pending.push((at, len));
        power
    }

    fn sync(&self) -> io::Result<()> {
        let mut s = self.0.lock().unwrap();
        s.step()?;
        let inode = &mut s.inodes[self.1];
        inode.durable = inode.now.clone();
        inode.pending.clear();
        Ok(())
    }
}
