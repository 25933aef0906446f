//! Values of the fields of interest, a byte at a time: scheme, then token. The rules are those of HTTP/1 heads
//! ([`crate::head`]).

use super::H2;
use crate::{
    fingerprint::Sip,
    head::window::is_space,
    layout::{KIND_AUTHORIZATION, ScanConfig},
    word,
};

/// Nothing more of interest follows.
const REST: u8 = 0;
/// Before or in a scheme.
const SCHEME: u8 = 1;
/// Before a token.
const BEFORE: u8 = 2;
/// In a token.
const TOKEN: u8 = 3;

/// What a byte came to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Byte {
    /// Nothing to be done.
    Taken,
    /// A token ended before it.
    Ended,
    /// No credential holds it.
    Odd,
}

/// Begins a value of `h.kind`.
#[inline(always)]
pub(super) fn begin_value(h: &mut H2) {
    h.value = if u32::from(h.kind) == KIND_AUTHORIZATION { SCHEME } else { BEFORE };
    h.seen = 0;
    h.scheme = [0; 2];
}

/// Takes what it can of `n` bytes, zeros behind them, in one go: bytes in a token that neither end it nor mean anything in
/// it, or the rest of a value. Tells how many; 0 where [`value_byte`] must look at the first.
#[inline(always)]
pub(super) fn value_bytes(h: &mut H2, x: u64, n: u32) -> u32 {
    if h.value == REST {
        return n;
    }
    if h.value != TOKEN {
        return 0;
    }
    let special = word::blank(x) | word::eq(x, b'.') | word::eq(x, b',') | (x & word::HIGH);
    let mut k = n;
    if special != 0 && word::first(special) < n {
        k = word::first(special);
    }
    if k == 0 {
        return 0;
    }
    let (x, had) = (word::keep_to(x, k), h.token_len & 7);
    let first = h.tail | x << (had * 8);
    if h.token_len < 2 {
        h.jws = u8::from(is_jws(first));
    }
    h.tail = first;
    if had + k >= 8 {
        h.sip.word(first);
        h.tail = if had == 0 { 0 } else { x >> ((8 - had) * 8) };
    }
    h.token_len += k;
    k
}

/// Whether a token with these first two bytes may be a JWS.
#[inline(always)]
const fn is_jws(start: u64) -> bool {
    let start = start & 0xffff;
    start == u16::from_le_bytes(*b"ey") as u64 || start == u16::from_le_bytes(*b"ew") as u64
}

/// Takes a byte of the value.
#[inline(always)]
pub(super) fn value_byte(h: &mut H2, config: &ScanConfig, b: u8) -> Byte {
    if h.value == REST {
        return Byte::Taken;
    }
    let blank = b <= b' ';
    // Control characters are no part of a value (RFC 9113 §8.2.1), and some servers split at Unicode's spaces.
    if b >= 0x80 || (blank && !is_space(b)) {
        return Byte::Odd;
    }
    if h.value == TOKEN {
        return token_byte(h, b, blank);
    }
    if h.value == SCHEME {
        scheme_byte(h, config, b, blank);
        return Byte::Taken;
    }
    if blank {
        return Byte::Taken;
    }
    h.sip = Sip::new(&config.key);
    h.tail = 0;
    h.token_len = 0;
    h.dots = 0;
    h.jws = 0;
    h.value = TOKEN;
    token_byte(h, b, false)
}

#[inline(always)]
fn scheme_byte(h: &mut H2, config: &ScanConfig, b: u8, blank: bool) {
    if h.seen == 0 && (blank || b == b',') {
        return;
    }
    if !blank {
        if h.seen < 16 {
            h.scheme[(h.seen >> 3 & 1) as usize] |= u64::from(b) << ((h.seen & 7) * 8);
            h.seen += 1;
        } else {
            h.value = REST;
        }
        return;
    }
    h.value = REST;
    for p in &config.schemes {
        let same = (h.scheme[0] ^ p.word[0]) & p.mask[0] | (h.scheme[1] ^ p.word[1]) & p.mask[1] == 0;
        if same && p.len == u32::from(h.seen) {
            h.value = BEFORE;
        }
    }
}

#[inline(always)]
fn token_byte(h: &mut H2, b: u8, blank: bool) -> Byte {
    let authorization = u32::from(h.kind) == KIND_AUTHORIZATION;
    if blank || (authorization && b == b',') {
        // Perhaps another credential follows in the same field.
        h.value = if authorization { SCHEME } else { REST };
        h.seen = 0;
        h.scheme = [0; 2];
        return Byte::Ended;
    }
    if b == b'.' {
        h.dots = h.dots.saturating_add(1);
        if h.dots == 2 && h.jws != 0 {
            h.signing = h.sip.finish(h.tail, h.token_len);
        }
    }
    h.tail |= u64::from(b) << ((h.token_len & 7) * 8);
    h.token_len += 1;
    if h.token_len == 2 {
        h.jws = u8::from(is_jws(h.tail));
    }
    if h.token_len.is_multiple_of(8) {
        h.sip.word(h.tail);
        h.tail = 0;
    }
    Byte::Taken
}

/// Ends the value; tells whether a token ended with it.
#[inline(always)]
pub(super) fn end_value(h: &mut H2) -> bool {
    let ended = h.value == TOKEN;
    h.value = REST;
    ended
}
