//! What daemons saw of the wall clock, in a file of its own beside the log: what is lost of it delays that expired claims are
//! erased, and nothing else. So it is not synced.

use std::io;

use super::super::calendar::Seen;
use crate::journal::{Disk, array, check};

const NAME: &str = "clock";
const MAGIC: [u8; 8] = *b"pcclock1";
/// More steps than are ever kept.
const MAX_STEPS: usize = 4096;

/// Reads it; what is absent or damaged is as if nothing had been seen.
pub fn read(disk: &dyn Disk) -> Seen {
    let read = || -> io::Result<Option<Seen>> {
        let file = disk.open(NAME)?;
        let mut bytes = vec![0; MAGIC.len() + 16 * MAX_STEPS];
        let n = file.read_at(&mut bytes, 0)?;
        Ok(parse(&bytes[..n]))
    };
    read().ok().flatten().unwrap_or_default()
}

/// Whether it is among a directory's files: that of a store that was in use.
pub fn is_among(names: &[String]) -> bool {
    names.iter().any(|name| name == NAME)
}

/// Writes it anew.
pub fn write(disk: &dyn Disk, seen: &Seen) -> io::Result<()> {
    let fresh = format!("{NAME}.new");
    disk.create(&fresh)?.write_at(&encode(seen), 0)?;
    disk.rename(&fresh, NAME)
}

fn encode(seen: &Seen) -> Vec<u8> {
    let mut bytes = MAGIC.to_vec();
    bytes.extend(seen.ran.to_le_bytes());
    for (ran, minute) in seen.steps.iter().take(MAX_STEPS - 2) {
        bytes.extend(ran.to_le_bytes());
        bytes.extend(minute.to_le_bytes());
    }
    let sum = check(&bytes);
    bytes.extend(sum);
    bytes
}

fn parse(bytes: &[u8]) -> Option<Seen> {
    let (body, sum) = bytes.split_last_chunk::<8>()?;
    let rest = body.strip_prefix(&MAGIC).filter(|_| check(body) == *sum)?;
    let (ran, steps) = rest.split_first_chunk::<8>()?;
    let step = |b: &[u8; 16]| (u64::from_le_bytes(array(&b[..8])), i64::from_le_bytes(array(&b[8..])));
    Some(Seen { ran: u64::from_le_bytes(*ran), steps: steps.as_chunks::<16>().0.iter().map(step).collect() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::sim::SimDisk;

    #[test]
    fn it_is_read_back_whole_or_not_at_all() {
        let disk = SimDisk::default();
        assert_eq!(read(&disk), Seen::default());
        let seen = Seen { ran: 9, steps: [(1, -2), (5, 6)].into() };
        write(&disk, &seen).unwrap();
        assert_eq!(read(&disk), seen);
        let len = encode(&seen).len();
        for at in 0..len {
            let damaged = disk.copy();
            damaged.change(NAME, |b| b[at] ^= 1);
            assert_eq!(read(&damaged), Seen::default(), "byte {at}");
            let cut = disk.copy();
            cut.change(NAME, |b| b.truncate(at));
            assert_eq!(read(&cut), Seen::default(), "cut at {at}");
        }
    }
}
