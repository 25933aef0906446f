//! The list itself: entries of 1, 2, 4 or 8 bits in a compressed array of bytes.

use std::io::{Read as _, Write as _};

use flate2::{Compression, read::ZlibDecoder, write::ZlibEncoder};
use portcullis_common::reason::Reason;

/// An unpacked list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct List {
    bits: u8,
    bytes: Vec<u8>,
}

impl List {
    /// Unpacks one, if it is no longer than `max` bytes.
    pub fn unpack(bits: u64, packed: &[u8], max: usize) -> Result<Self, String> {
        let bits = match bits {
            1 | 2 | 4 | 8 => u8::try_from(bits).unwrap_or(8),
            _ => return Err("its `bits` is none of 1, 2, 4 and 8".to_owned()),
        };
        let limit = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
        let mut bytes = Vec::new();
        let mut reader = ZlibDecoder::new(packed).take(limit);
        reader.read_to_end(&mut bytes).map_err(|_| "its `lst` is no zlib stream".to_owned())?;
        if bytes.len() > max {
            return Err(format!("it is longer than {max} bytes"));
        }
        Ok(Self { bits, bytes })
    }

    /// A list of one bit an entry, all 0.
    pub fn zeros(entries: usize) -> Self {
        Self { bits: 1, bytes: vec![0; entries.div_ceil(8)] }
    }

    /// Sets an entry of a list of one bit an entry.
    pub fn set(&mut self, index: u32) {
        if let Some(byte) = self.bytes.get_mut(index as usize / 8) {
            *byte |= 1 << (index % 8);
        }
    }

    /// It packed, as small as it gets.
    pub fn packed(&self) -> std::io::Result<Vec<u8>> {
        let mut out = ZlibEncoder::new(Vec::new(), Compression::best());
        out.write_all(&self.bytes)?;
        out.finish()
    }

    pub const fn bits(&self) -> u8 {
        self.bits
    }

    /// An entry, counted from the lowest bit of the first byte; `None` behind the end.
    pub fn get(&self, index: u64) -> Option<u8> {
        let (bits, each) = (u64::from(self.bits), u64::from(8 / self.bits));
        let byte = *self.bytes.get(usize::try_from(index / each).ok()?)?;
        let shift = u32::try_from(index % each * bits).ok()?;
        let mask = u8::try_from((1_u16 << self.bits) - 1).unwrap_or(u8::MAX);
        Some(byte.checked_shr(shift)? & mask)
    }

    /// What an entry says of its token. What is not known, or not there, does not say that it is good.
    pub fn status(&self, index: u64) -> Result<(), Reason> {
        match self.get(index) {
            Some(0) => Ok(()),
            Some(2) => Err(Reason::StatusSuspended),
            _ => Err(Reason::StatusInvalid),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_read_from_the_lowest_bit_on() {
        let list = |bits, bytes: &[u8]| List { bits, bytes: bytes.to_vec() };
        let one = list(1, &[0xb9, 0xa3]);
        let read: Vec<u8> = (0..16).filter_map(|i| one.get(i)).collect();
        assert_eq!(read, [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1]);
        let two = list(2, &[0xc9, 0x44, 0xf9]);
        let read: Vec<u8> = (0..12).filter_map(|i| two.get(i)).collect();
        assert_eq!(read, [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3]);
        assert_eq!(list(4, &[0xa5]).get(1), Some(0xa));
        assert_eq!(list(8, &[0, 0xff]).get(1), Some(0xff));
        for (list, end) in [(one, 16), (two, 12)] {
            assert_eq!((list.get(end), list.get(u64::MAX)), (None, None));
            assert_eq!(list.status(end), Err(Reason::StatusInvalid));
        }
    }

    #[test]
    fn bombs_and_broken_streams_are_refused() {
        let bomb = List { bits: 1, bytes: vec![0; 1 << 24] }.packed().unwrap();
        assert!(bomb.len() < 20_000);
        assert!(List::unpack(1, &bomb, 1 << 20).unwrap_err().contains("longer than"));
        assert!(List::unpack(1, &bomb, 1 << 24).is_ok());
        for bits in [0, 3, 5, 16, u64::MAX] {
            assert!(List::unpack(bits, &bomb, 1 << 24).is_err(), "{bits}");
        }
        for broken in [&b""[..], b"x", &bomb[..100], &bomb[2..]] {
            assert!(List::unpack(1, broken, 1 << 24).is_err());
        }
    }

    #[test]
    fn what_is_set_is_read_back() {
        let mut list = List::zeros(100);
        for index in [0, 7, 8, 99] {
            list.set(index);
        }
        list.set(5000);
        let back = List::unpack(1, &list.packed().unwrap(), 100).unwrap();
        let set: Vec<u64> = (0..104).filter(|i| back.get(*i) == Some(1)).collect();
        assert_eq!(set, [0, 7, 8, 99]);
    }
}
