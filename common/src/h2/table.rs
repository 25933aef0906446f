//! HPACK's dynamic table (RFC 7541 §2.3.2, §4), without its text.

use super::{ENTRIES, H2};

/// Wraps places in the table.
#[allow(clippy::cast_possible_truncation, reason = "128")]
const LAST: u32 = ENTRIES as u32 - 1;

/// One entry.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// The deny fingerprint of the token in its value.
    pub token: [u64; 2],
    /// What it counts: name, value and 32 bytes.
    pub size: u16,
    /// Its name's length.
    pub name_len: u16,
    /// What its name means: a `KIND_` constant.
    pub kind: u8,
    /// 1 where its value has a token.
    pub has_token: u8,
    /// Padding.
    pub pad: [u8; 2],
}

impl H2 {
    /// The entry with an index that counts from 0 for the newest; the caller has compared it with the count.
    #[inline(always)]
    pub(super) const fn entry(&self, index: u32) -> &Entry {
        &self.table[self.table_newest.wrapping_sub(index) as usize & (ENTRIES - 1)]
    }

    /// Takes the oldest entry out where there is no room for `pending` bytes; `false` where there is.
    #[inline(always)]
    pub(super) fn make_room(&mut self) -> bool {
        if self.table_count == 0 || self.table_size + self.pending <= self.table_max {
            return false;
        }
        let oldest = self.entry(self.table_count - 1).size;
        self.table_size = self.table_size.saturating_sub(u32::from(oldest));
        self.table_count -= 1;
        true
    }

    /// Puts the present field in; one that is larger than the table empties it and stays out (§4.4).
    #[inline(always)]
    pub(super) fn insert(&mut self) {
        if self.pending == 0 || self.pending > self.table_max {
            return;
        }
        self.table_newest = (self.table_newest + 1) & LAST;
        let (kind, has_token, token) = (self.kind, self.has_token, self.found);
        #[allow(clippy::cast_possible_truncation, reason = "together at most TABLE_MAX")]
        let (size, name_len) = (self.pending as u16, self.name_len as u16);
        self.table[self.table_newest as usize & (ENTRIES - 1)] =
            Entry { token, size, name_len, kind, has_token, pad: [0; 2] };
        self.table_size += self.pending;
        self.table_count += 1;
    }
}
