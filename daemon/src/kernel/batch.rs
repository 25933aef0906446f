//! Many entries of a hash map in one system call: `BPF_MAP_*_BATCH`, which aya does not have.
//!
//! Keys and values are arrays side by side, as the kernel copies them. Each call says how far it came, so that
//! an error names the entry it was about.

use std::{
    io,
    os::fd::{AsRawFd as _, BorrowedFd},
};

/// `BPF_MAP_LOOKUP_ELEM` and its attributes (`linux/bpf.h`).
const LOOKUP_ELEM: libc::c_long = 1;
#[repr(C)]
struct Elem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

/// `BPF_MAP_LOOKUP_BATCH`, `BPF_MAP_UPDATE_BATCH` and `BPF_MAP_DELETE_BATCH`, from Linux 5.6.
const LOOKUP: libc::c_long = 24;
const UPDATE: libc::c_long = 26;
const DELETE: libc::c_long = 27;

/// Their attributes (`linux/bpf.h`).
#[repr(C)]
struct Batch {
    first: u64,
    next: u64,
    keys: u64,
    values: u64,
    count: u32,
    map_fd: u32,
    elem_flags: u64,
    flags: u64,
}

/// Key of the deny map as the kernel copies it.
pub(super) type Key = [u64; 2];
/// Value of the deny map as the kernel copies it.
pub(super) type Value = [u64; 4];

/// Entries a page of [`read`] has room for. The kernel hands out whole buckets, which hold a handful.
const PAGE: usize = 16 * 1024;

/// How far a call came before it failed.
#[derive(Debug)]
pub(super) struct Stopped {
    /// Entries done; the next one is the one it failed at.
    pub done: usize,
    /// What the kernel said.
    pub source: io::Error,
}

/// Puts or replaces entries.
pub(super) fn update(map: BorrowedFd<'_>, keys: &[Key], values: &[Value]) -> Result<(), Stopped> {
    let count = keys.len().min(values.len());
    let mut batch = attributes(map, keys.as_ptr() as u64, values.as_ptr() as u64, count);
    // SAFETY: the command reads `count` keys and values of the sizes that the map was made with.
    unsafe { call(UPDATE, &mut batch) }
}

/// Takes entries out; stops at one that is not there (`ENOENT`).
pub(super) fn delete(map: BorrowedFd<'_>, keys: &[Key]) -> Result<(), Stopped> {
    let mut batch = attributes(map, keys.as_ptr() as u64, 0, keys.len());
    // SAFETY: the command reads `count` keys of the size that the map was made with.
    unsafe { call(DELETE, &mut batch) }
}

/// Reads all entries, a page at a time, as they stand while they are read.
pub(super) fn read(map: BorrowedFd<'_>, mut page: impl FnMut(&[Key], &[Value])) -> io::Result<()> {
    let (mut keys, mut values) = (vec![[0; 2]; PAGE], vec![[0; 4]; PAGE]);
    let (mut from, mut next) = (0u32, 0u32);
    let mut first = true;
    loop {
        let mut batch = attributes(map, keys.as_mut_ptr() as u64, values.as_mut_ptr() as u64, PAGE);
        batch.first = if first { 0 } else { (&raw const from) as u64 };
        batch.next = (&raw mut next) as u64;
        // SAFETY: the command writes at most `count` keys and values of the map's sizes into arrays that have
        // room for them, and the place to go on from, four bytes, to `next`.
        let done = unsafe { call(LOOKUP, &mut batch) };
        let end = match done {
            Ok(()) => false,
            Err(stopped) if stopped.source.raw_os_error() == Some(libc::ENOENT) => true,
            Err(stopped) => return Err(stopped.source),
        };
        let count = (batch.count as usize).min(PAGE);
        page(&keys[..count], &values[..count]);
        if end {
            return Ok(());
        }
        (first, from) = (false, next);
    }
}

/// Id of the map in the first slot of an array of maps. (To open a map by its id takes CAP_SYS_ADMIN, which the
/// daemon does without.)
pub(super) fn slot(array: BorrowedFd<'_>) -> io::Result<Option<u32>> {
    let (key, mut id) = (0u32, 0u32);
    let attributes = Elem {
        map_fd: array.as_raw_fd().unsigned_abs(),
        pad: 0,
        key: (&raw const key) as u64,
        value: (&raw mut id) as u64,
        flags: 0,
    };
    // SAFETY: the command reads a key of four bytes and writes an id of four, which both outlive the call.
    let done = unsafe { libc::syscall(libc::SYS_bpf, LOOKUP_ELEM, &raw const attributes, size_of::<Elem>()) };
    if done >= 0 {
        return Ok(Some(id));
    }
    let e = io::Error::last_os_error();
    if e.raw_os_error() == Some(libc::ENOENT) { Ok(None) } else { Err(e) }
}

fn attributes(map: BorrowedFd<'_>, keys: u64, values: u64, count: usize) -> Batch {
    Batch {
        first: 0,
        next: 0,
        keys,
        values,
        count: u32::try_from(count).unwrap_or(u32::MAX),
        map_fd: map.as_raw_fd().unsigned_abs(),
        elem_flags: 0,
        flags: 0,
    }
}

/// # Safety
/// The arrays of `batch` have `count` elements of the map's sizes and may be read or written as the command does.
unsafe fn call(command: libc::c_long, batch: &mut Batch) -> Result<(), Stopped> {
    let asked = batch.count;
    if asked == 0 {
        return Ok(());
    }
    // SAFETY: the attributes are those of the batch commands, and as long as is said; the caller vouches for what
    // they point at.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw mut *batch, size_of::<Batch>()) };
    if result >= 0 {
        return Ok(());
    }
    let source = io::Error::last_os_error();
    // Where it failed before the first entry it may have left the count alone.
    let done = if batch.count < asked { batch.count as usize } else { 0 };
    Err(Stopped { done, source })
}
