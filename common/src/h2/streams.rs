//! Streams that are not known to be finished, with their tokens: what ends when a token is condemned.
//!
//! Streams of a client are numbered 1, 3, 5 and so on, so each has its slot by its number. One that is still open when
//! its slot is needed again leaves its token behind, which then counts as open for as long as the connection lives. Where
//! more are left behind than there is room for, any token's end may be that of one of them.

use super::H2;

/// Streams that are told apart; a power of two.
pub const SLOTS: usize = 64;
/// Tokens of older ones that are kept; a power of two.
pub const OLDER: usize = 8;

/// One stream.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Open {
    /// Its token's deny fingerprint.
    pub token: [u64; 2],
    /// Its number; 0 where none is open.
    pub stream: u32,
    /// 1 where it has a token.
    pub has_token: u32,
}

/// The slot of a stream.
#[inline(always)]
pub const fn slot(stream: u32) -> usize {
    (stream >> 1) as usize & (SLOTS - 1)
}

impl H2 {
    /// Notes that a request begins on a stream.
    #[inline(always)]
    pub(super) fn begin_stream(&mut self, stream: u32) {
        self.leave(slot(stream));
        let s = &mut self.streams[slot(stream)];
        s.has_token = 0;
        s.stream = stream;
    }

    /// Keeps the token of a slot that is needed for another.
    #[inline(always)]
    fn leave(&mut self, slot: usize) {
        let before = self.streams[slot & (SLOTS - 1)];
        if before.stream != 0 && before.has_token != 0 {
            let mut known = 0;
            for o in &self.older {
                known |= u32::from(
                    o.stream != 0 && o.token[0] == before.token[0] && o.token[1] == before.token[1],
                );
            }
            if known == 0 {
                self.older[self.older_next as usize & (OLDER - 1)] = before;
                self.older_next = self.older_next.saturating_add(1);
            }
        }
    }

    /// Whether a token was forgotten that had been left behind.
    #[inline(always)]
    pub const fn is_crowded(&self) -> bool {
        self.older_next as usize > OLDER
    }

    /// Notes a stream's token. One that it had before (a key beside a bearer token, or trailers) is left behind.
    #[inline(always)]
    pub(super) fn stream_token(&mut self, token: [u64; 2]) {
        let s = &self.streams[slot(self.stream)];
        if s.stream == self.stream {
            if (s.token[0] ^ token[0]) | (s.token[1] ^ token[1]) != 0 {
                self.leave(slot(self.stream));
            }
            let s = &mut self.streams[slot(self.stream)];
            s.token = token;
            s.has_token = 1;
        }
    }

    /// Notes that a stream is finished.
    #[inline(always)]
    pub(super) fn end_stream(&mut self, stream: u32) {
        let s = &mut self.streams[slot(stream)];
        if s.stream == stream {
            s.stream = 0;
        }
    }

    /// One of the streams, or of the older tokens behind them: what is open in it.
    #[inline(always)]
    pub const fn open(&self, i: usize) -> &Open {
        if i < SLOTS { &self.streams[i & (SLOTS - 1)] } else { &self.older[i & (OLDER - 1)] }
    }
}

const _: () = assert!(SLOTS.is_power_of_two() && OLDER.is_power_of_two());
