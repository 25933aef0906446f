//! What learn and hold mode show: heads of requests that have no verdict yet.
//!
//! A head lies in a slot of preallocated memory, for the ring buffer's own pages could not be wiped; the ring carries the
//! slot's number. It is read, overwritten in the kernel and given free, in this order, before anybody looks at it here.

use std::{
    io,
    os::fd::{AsFd as _, AsRawFd as _},
};

use aya::maps::{Array, MapData, RingBuf};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{Flow, INQUIRY_HEADER, INQUIRY_MAX, INQUIRY_SLOTS, Inquiry, RequestKey},
};
use tokio::io::unix::AsyncFd;
use zeroize::Zeroizing;

/// `BPF_MAP_LOOKUP_ELEM` and `BPF_MAP_UPDATE_ELEM`.
const LOOKUP: libc::c_long = 1;
const UPDATE: libc::c_long = 2;
/// A slot that was taken this long ago and never told of (in units of 2^30 ns) belongs to nobody.
const STALE: u32 = 10;

/// One request that is asked about.
pub struct Question {
    /// What its verdict is put under.
    pub key: RequestKey,
    /// The deny fingerprint of its token, if it has one.
    pub token: Option<DenyFingerprint>,
    /// Its connection.
    pub flow: Flow,
    /// Its head, as it came.
    pub head: Zeroizing<Vec<u8>>,
}

/// The one reader of the questions.
pub struct Questions {
    ring: AsyncFd<RingBuf<MapData>>,
    slots: MapData,
    states: Array<MapData, u32>,
}

/// Attributes of the commands for one element (`linux/bpf.h`).
#[repr(C)]
struct Elem {
    map_fd: u32,
    pad: u32,
    key: u64,
    value: u64,
    flags: u64,
}

impl Questions {
    pub(super) fn new(
        ring: RingBuf<MapData>,
        slots: MapData,
        states: Array<MapData, u32>,
    ) -> io::Result<Self> {
        // SAFETY: the ring owns its map's descriptor and gives the same one for as long as it lives.
        let ring = unsafe { AsyncFd::register(ring) }.map_err(io::Error::from)?;
        Ok(Self { ring, slots, states })
    }

    /// Waits for questions and hands each to `take`. Cancel-safe: one is taken or stays.
    pub async fn next(&mut self, mut take: impl FnMut(Question)) -> io::Result<()> {
        let mut numbers = Vec::new();
        let mut guard = self.ring.readable_mut().await?;
        let ring = guard.get_inner_mut();
        while let Some(item) = ring.next() {
            numbers.extend(item.first_chunk().map(|n| u32::from_ne_bytes(*n)));
        }
        guard.clear_ready();
        for number in numbers {
            if let Some(question) = self.take(number)? {
                take(question);
            }
        }
        Ok(())
    }

    /// Overwrites and frees slots that an earlier daemon took note of and never freed; `now` is the boot time in ns.
    pub fn free_stale(&mut self, now: u64) -> io::Result<()> {
        for number in 0..INQUIRY_SLOTS {
            let taken = self.states.get(&number, 0).unwrap_or(0);
            #[allow(clippy::cast_possible_truncation, reason = "as the programs stamp it")]
            let age = ((now >> 30) as u32 | 1).wrapping_sub(taken);
            if taken != 0 && age > STALE {
                self.wipe(number)?;
            }
        }
        Ok(())
    }

    fn take(&mut self, number: u32) -> io::Result<Option<Question>> {
        if number >= INQUIRY_SLOTS {
            return Ok(None);
        }
        let mut bytes = Zeroizing::new(vec![0u8; size_of::<Inquiry>()]);
        // SAFETY: the command writes one value of the map, which has that size.
        unsafe { call(&self.slots, LOOKUP, number, bytes.as_mut_ptr() as u64)? };
        self.wipe(number)?;
        Ok(parse(&bytes))
    }

    fn wipe(&mut self, number: u32) -> io::Result<()> {
        let zeros = vec![0u8; size_of::<Inquiry>()];
        // SAFETY: the command reads one value of the map, which has that size.
        unsafe { call(&self.slots, UPDATE, number, zeros.as_ptr() as u64)? };
        self.states.set(number, 0, 0).map_err(io::Error::other)
    }
}

/// # Safety
/// `value` points at a value's size of memory that the command may read or write.
unsafe fn call(map: &MapData, command: libc::c_long, key: u32, value: u64) -> io::Result<()> {
    let elem = Elem {
        map_fd: map.fd().as_fd().as_raw_fd().unsigned_abs(),
        pad: 0,
        key: (&raw const key) as u64,
        value,
        flags: 0,
    };
    // SAFETY: the attributes are those of the command and outlive it; the caller vouches for the value.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const elem, size_of::<Elem>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// How many slots hold anything but zeros.
pub(super) fn in_use(map: &MapData) -> io::Result<usize> {
    let mut bytes = Zeroizing::new(vec![0u8; size_of::<Inquiry>()]);
    let mut used = 0;
    for number in 0..INQUIRY_SLOTS {
        // SAFETY: the command writes one value of the map, which has that size.
        unsafe { call(map, LOOKUP, number, bytes.as_mut_ptr() as u64)? };
        used += usize::from(bytes.iter().any(|b| *b != 0));
    }
    Ok(used)
}

/// Reads a slot field by field, as `layout::Inquiry` lays it out.
fn parse(bytes: &[u8]) -> Option<Question> {
    let double =
        |at: usize| -> Option<u64> { Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?)) };
    let word =
        |at: usize| -> Option<u32> { Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?)) };
    let half =
        |at: usize| -> Option<u16> { Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?)) };
    let deny = [double(32)?, double(40)?];
    let len = usize::try_from(word(88)?).ok().filter(|n| (1..=INQUIRY_MAX).contains(n))?;
    Some(Question {
        key: RequestKey { token: [double(0)?, double(8)?], request: [double(16)?, double(24)?] },
        token: (deny != [0; 2]).then_some(DenyFingerprint(deny)),
        flow: Flow {
            source: [double(48)?, double(56)?],
            destination: [double(64)?, double(72)?],
            source_port: half(80)?,
            destination_port: half(82)?,
            interface: word(84)?,
        },
        head: Zeroizing::new(bytes.get(INQUIRY_HEADER..INQUIRY_HEADER + len)?.to_vec()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_that_cannot_be_are_refused() {
        let mut bytes = vec![0; size_of::<Inquiry>()];
        assert!(parse(&bytes).is_none(), "no head");
        bytes[88] = 3;
        bytes[INQUIRY_HEADER..INQUIRY_HEADER + 3].copy_from_slice(b"GET");
        let question = parse(&bytes).unwrap();
        assert_eq!((&question.head[..], question.token), (&b"GET"[..], None));
        bytes[90] = 0xff;
        assert!(parse(&bytes).is_none(), "longer than a slot");
    }
}
