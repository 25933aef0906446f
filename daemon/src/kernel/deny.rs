//! The deny map: condemned fingerprints. Preallocated, never an LRU.
//!
//! The programs find it in the one slot of `DENY_SETS`, an array of maps. A set of another size, or one made anew,
//! is filled beside the one in force and takes its place in one step, also under programs of an earlier daemon:
//! at no moment is anything acknowledged missing. Until then every write goes to both.

use std::{
    fs, io,
    os::fd::{AsFd as _, AsRawFd as _, BorrowedFd},
    path::{Path, PathBuf},
};

use aya::maps::{ArrayOfMaps, HashMap, Map, MapData, MapError};
use portcullis_common::{fingerprint::DenyFingerprint, layout::DenyValue};

use super::{
    KernelError,
    batch::{self, Key, Stopped, Value},
    error::os_error,
};

/// Name of the pin of the set in force.
pub(super) const PIN: &str = "DENY";
/// Name of the pin of the set that is to take its place.
const NEXT_PIN: &str = "DENY_NEXT";

/// Entries of one system call: about a millisecond.
const BATCH: usize = 1024;

/// Kernel memory of an entry, in bytes: element, bucket and free list. Measured, see `docs/benchmarks.md`.
const BYTES_PER_ENTRY: u64 = 96;

type Entries = HashMap<MapData, Key, Value>;

/// One set: a hash map of its own.
struct Set {
    /// For single entries.
    map: Entries,
    /// For batches: the same map.
    data: MapData,
    capacity: u32,
    id: u32,
}

/// The kernel's deny map. Writing needs `&mut`, and [`super::Kernel`] has one owner.
pub struct DenyMap {
    slot: ArrayOfMaps<MapData, Entries>,
    current: Set,
    /// Filled beside the one in force, to take its place.
    next: Option<Set>,
    wanted: u32,
    pin_dir: PathBuf,
}

impl DenyMap {
    /// Finds the set in force, or makes an empty one where there is none. `wanted` entries are what the
    /// configuration says; a set in force keeps its size until another takes its place.
    pub(super) fn open(slots: Map, pin_dir: &Path, wanted: u32) -> Result<Self, KernelError> {
        let (pin, next_pin) = (pin_dir.join(PIN), pin_dir.join(NEXT_PIN));
        let found = match &slots {
            Map::ArrayOfMaps(data) => batch::slot(data.fd().as_fd())
                .map_err(|e| KernelError::io("read which deny map is in force", e))?,
            _ => None,
        };
        let mut slot: ArrayOfMaps<MapData, Entries> =
            slots.try_into().map_err(|e| KernelError::map("use DENY_SETS of the kernel programs", e))?;
        let adopt = |path: &Path| Set::from_pin(path).map(|set| set.filter(|s| Some(s.id) == found));
        let current = if let Some(set) = adopt(&pin)? {
            set
        } else if let Some(set) = adopt(&next_pin)? {
            // An earlier daemon died between the exchange and its last step.
            rename(&next_pin, &pin)?;
            set
        } else if found.is_some() {
            // Its pin was removed by other hands.
            unpin(&pin)?;
            let map = slot.get(&0, 0).map_err(|e| KernelError::map("open the deny map in force", e))?;
            Set::keep(map, &pin)?
        } else {
            unpin(&pin)?;
            let set = Set::make(wanted, &pin)?;
            slot.set(0, &set.map, 0).map_err(exchange)?;
            set
        };
        // What is pinned beside it was never in force, or is no more.
        unpin(&next_pin)?;
        Ok(Self { slot, current, next: None, wanted, pin_dir: pin_dir.to_owned() })
    }

    /// Entries it can hold.
    pub fn capacity(&self) -> u32 {
        self.current.capacity
    }

    /// Entries that the configuration asks for.
    pub fn wanted(&self) -> u32 {
        self.wanted
    }

    /// Kernel memory that the set in force takes, in bytes; `None` where the kernel does not tell.
    pub fn memory(&self) -> Option<u64> {
        let path = format!("/proc/self/fdinfo/{}", self.current.fd().as_raw_fd());
        let info = fs::read_to_string(path).ok()?;
        info.lines().find_map(|line| line.strip_prefix("memlock:"))?.trim().parse().ok()
    }

    /// Whether a set is being filled to take the place of the one in force.
    pub fn is_rebuilding(&self) -> bool {
        self.next.is_some()
    }

    /// Makes an empty set of the wanted size beside the one in force. From here on writes go to both, and
    /// [`Self::fill`] fills it with what is in force already.
    pub fn begin(&mut self) -> Result<(), KernelError> {
        let path = self.pin_dir.join(NEXT_PIN);
        self.next = None;
        unpin(&path)?;
        self.next = Some(Set::make(self.wanted, &path)?);
        Ok(())
    }

    /// Puts the set that was filled in force, in place of the other, which the kernel frees.
    pub fn swap(&mut self) -> Result<(), KernelError> {
        let Some(next) = self.next.take() else { return Ok(()) };
        if let Err(e) = self.slot.set(0, &next.map, 0) {
            self.give_up();
            return Err(exchange(e));
        }
        self.current = next;
        rename(&self.pin_dir.join(NEXT_PIN), &self.pin_dir.join(PIN))
    }

    /// Forgets the set that was being filled.
    pub fn give_up(&mut self) {
        self.next = None;
        if let Err(e) = unpin(&self.pin_dir.join(NEXT_PIN)) {
            tracing::warn!(error = %e, "a half-filled deny map stays pinned until the next start");
        }
    }

    /// Puts or replaces an entry; in force when this returns.
    pub fn put(&mut self, fingerprint: DenyFingerprint, value: DenyValue) -> Result<(), KernelError> {
        self.put_all(&[(fingerprint, value)])
    }

    /// Puts or replaces entries; in force when this returns. After an error some of them may be.
    pub fn put_all(&mut self, entries: &[(DenyFingerprint, DenyValue)]) -> Result<(), KernelError> {
        let (keys, values) = columns(entries);
        if let Some(next) = &self.next
            && let Err(e) = next.put(&keys, &values)
        {
            // What is in force must not wait for what is to come.
            tracing::warn!(error = %e, "the deny map that was made anew is given up");
            self.give_up();
        }
        self.current.put(&keys, &values)
    }

    /// Takes an entry out; one that is not there is no error.
    pub fn remove(&mut self, fingerprint: DenyFingerprint) -> Result<(), KernelError> {
        self.remove_all(&[fingerprint])
    }

    /// Takes entries out; those that are not there are no error.
    pub fn remove_all(&mut self, fingerprints: &[DenyFingerprint]) -> Result<(), KernelError> {
        let keys: Vec<Key> = fingerprints.iter().map(|f| f.0).collect();
        if let Some(next) = &self.next
            && let Err(e) = next.remove(&keys)
        {
            tracing::warn!(error = %e, "the deny map that was made anew is given up");
            self.give_up();
        }
        self.current.remove(&keys)
    }

    /// Puts entries where they are missing: into the set that is being filled, or else into the one in force. Several
    /// threads may.
    pub fn fill(&self, entries: &[(DenyFingerprint, DenyValue)]) -> Result<(), KernelError> {
        let (keys, values) = columns(entries);
        self.next.as_ref().unwrap_or(&self.current).put(&keys, &values)
    }

    /// What stands for a fingerprint.
    pub fn get(&self, fingerprint: DenyFingerprint) -> Option<DenyValue> {
        self.current.map.get(&fingerprint.0, 0).ok().map(value)
    }

    /// What the programs find for a fingerprint: the set is the one in their slot, whichever that is.
    pub fn seen(&self, fingerprint: DenyFingerprint) -> Option<DenyValue> {
        self.slot.get(&0, 0).ok()?.get(&fingerprint.0, 0).ok().map(value)
    }

    /// Hands out every entry in force, some thousands at a time, as it stands while it is read.
    pub fn each(&self, mut take: impl FnMut(DenyFingerprint, DenyValue)) -> Result<(), KernelError> {
        batch::read(self.current.fd(), |keys, values| {
            for (k, v) in keys.iter().zip(values) {
                take(DenyFingerprint(*k), value(*v));
            }
        })
        .map_err(|e| KernelError::io("read the deny map", e))
    }
}

impl Set {
    /// Makes an empty one, pinned at `path`.
    fn make(capacity: u32, path: &Path) -> Result<Self, KernelError> {
        let map = Entries::create(capacity, 0).map_err(|e| match os_error(&e) {
            Some(libc::ENOMEM | libc::E2BIG) => KernelError::Memory {
                entries: capacity,
                megabytes: u64::from(capacity) * BYTES_PER_ENTRY / 1_000_000,
            },
            _ => KernelError::map("make a deny map", e),
        })?;
        Self::keep(map, path)
    }

    /// Pins a map.
    fn keep(map: Entries, path: &Path) -> Result<Self, KernelError> {
        map.pin(path).map_err(|error| {
            KernelError::map(
                format!("pin the deny map at {}", path.display()),
                MapError::PinError { name: None, error },
            )
        })?;
        Self::from_pin(path)?.ok_or_else(|| {
            KernelError::io(format!("open {}", path.display()), io::ErrorKind::NotFound.into())
        })
    }

    /// The one pinned at `path`, if there is one.
    fn from_pin(path: &Path) -> Result<Option<Self>, KernelError> {
        if !path.exists() {
            return Ok(None);
        }
        let error = |e| KernelError::map(format!("open {}", path.display()), e);
        let data = MapData::from_pin(path).map_err(error)?;
        let info = data.info().map_err(error)?;
        let map = Map::from_map_data(MapData::from_pin(path).map_err(error)?).map_err(error)?;
        let map = Entries::try_from(map).map_err(error)?;
        Ok(Some(Self { map, data, capacity: info.max_entries(), id: info.id() }))
    }

    fn fd(&self) -> BorrowedFd<'_> {
        self.data.fd().as_fd()
    }

    fn put(&self, keys: &[Key], values: &[Value]) -> Result<(), KernelError> {
        let mut at = 0;
        let mut again = true;
        while at < keys.len() {
            let end = keys.len().min(at + BATCH);
            match batch::update(self.fd(), &keys[at..end], &values[at..end]) {
                Ok(()) => at = end,
                Err(Stopped { done, source }) => match source.raw_os_error() {
                    Some(libc::E2BIG | libc::ENOMEM) => {
                        return Err(KernelError::Full { capacity: self.capacity });
                    }
                    // A bucket that a program on another CPU was reading.
                    Some(libc::EBUSY | libc::EAGAIN | libc::ETIMEDOUT) if again || done > 0 => {
                        at += done;
                        again = done > 0;
                    }
                    _ => return Err(KernelError::io("write to the deny map", source)),
                },
            }
        }
        Ok(())
    }

    fn remove(&self, keys: &[Key]) -> Result<(), KernelError> {
        let mut at = 0;
        let mut again = true;
        while at < keys.len() {
            let end = keys.len().min(at + BATCH);
            match batch::delete(self.fd(), &keys[at..end]) {
                Ok(()) => at = end,
                Err(Stopped { done, source }) => match source.raw_os_error() {
                    Some(libc::ENOENT) => at += done + 1,
                    Some(libc::EBUSY | libc::EAGAIN | libc::ETIMEDOUT) if again || done > 0 => {
                        at += done;
                        again = done > 0;
                    }
                    _ => return Err(KernelError::io("take entries out of the deny map", source)),
                },
            }
        }
        Ok(())
    }
}

fn columns(entries: &[(DenyFingerprint, DenyValue)]) -> (Vec<Key>, Vec<Value>) {
    entries
        .iter()
        .map(|(f, v)| {
            (
                f.0,
                [
                    v.revoked_until,
                    v.condemned_until,
                    u64::from(v.generation) | u64::from(v.answer) << 32,
                    v.decision,
                ],
            )
        })
        .unzip()
}

fn value(words: Value) -> DenyValue {
    #[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
    let (generation, answer) = (words[2] as u32, (words[2] >> 32) as u32);
    DenyValue { revoked_until: words[0], condemned_until: words[1], generation, answer, decision: words[3] }
}

fn exchange(e: MapError) -> KernelError {
    KernelError::map("put a deny map in force", e)
}

fn rename(from: &Path, to: &Path) -> Result<(), KernelError> {
    fs::rename(from, to)
        .map_err(|e| KernelError::io(format!("rename the pin {} to {}", from.display(), to.display()), e))
}

fn unpin(path: &Path) -> Result<(), KernelError> {
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove the pin {}", path.display()), e))
        }
        _ => Ok(()),
    }
}
