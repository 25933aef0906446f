//! Bodies: stepped over to find the next pipelined head (RFC 9112 §6–7).

use super::{
    CHUNK_DATA, CHUNK_EXTENSION, CHUNK_SIZE, Cursor, ODD_CHUNK, START, Scan, Step, TRAILER, TRAILER_LINE,
    window::Window,
};
use crate::layout::ScanConfig;

/// Steps over what the window holds of a body or chunk.
#[inline(always)]
pub(super) fn body(s: &mut Scan, c: &mut Cursor, at: u32, left: u32) -> Step {
    let n = if s.body < u64::from(left) { s.body } else { u64::from(left) };
    s.skip(n);
    #[allow(clippy::cast_possible_truncation, reason = "n <= left, a u32")]
    {
        c.at = at + n as u32;
    }
    Step::Again
}

/// Reads a chunk's size (RFC 9112 §7.1).
#[inline(always)]
pub(super) fn chunk_size(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32) -> Step {
    let b = w.byte(at);
    let lower = b | 0x20;
    let digit = if b.is_ascii_digit() {
        b - b'0'
    } else if (b'a'..=b'f').contains(&lower) {
        lower - b'a' + 10
    } else {
        if s.seen == 0 {
            s.oddities |= ODD_CHUNK;
            return Step::NotHttp;
        }
        if config.refuse & ODD_CHUNK != 0 && !matches!(b, b';' | b' ' | b'\t' | b'\r') {
            // `1_0` and the like: numbers to some.
            s.oddities |= ODD_CHUNK;
            return Step::Odd;
        }
        s.mode = CHUNK_EXTENSION;
        return Step::Again;
    };
    if s.number >> 56 != 0 {
        s.oddities |= ODD_CHUNK;
        return Step::NotHttp;
    }
    s.seen = 1;
    s.number = s.number << 4 | u64::from(digit);
    c.at = at + 1;
    Step::Again
}

/// Goes from a chunk's size to its data, or from the last one's to the trailers.
#[inline(always)]
pub(super) fn after_chunk_size(s: &mut Scan) {
    s.body = s.number;
    s.number = 0;
    s.seen = 0;
    s.mode = if s.body == 0 { TRAILER } else { CHUNK_DATA };
}

/// Reads the line end behind a chunk's data.
#[inline(always)]
pub(super) fn chunk_end(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let b = w.byte(at);
    let mut n = 1;
    if b == b'\r' {
        if left < 2 {
            return Step::More;
        }
        n = 2;
    }
    let strict = config.refuse & ODD_CHUNK != 0;
    if w.byte(at + n - 1) != b'\n' || (strict && n == 1) {
        s.oddities |= ODD_CHUNK;
        return if strict { Step::Odd } else { Step::NotHttp };
    }
    c.at = at + n;
    s.number = 0;
    s.seen = 0;
    s.mode = CHUNK_SIZE;
    Step::Again
}

/// Trailer fields authenticate nothing; an empty line ends them and the message.
#[inline(always)]
pub(super) fn trailer(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let b = w.byte(at);
    if b == b'\n' {
        if config.refuse & ODD_CHUNK != 0 {
            s.oddities |= ODD_CHUNK;
            return Step::Odd;
        }
        c.at = at + 1;
        s.mode = START;
    } else if b == b'\r' && left < 2 {
        return Step::More;
    } else if b == b'\r' && w.byte(at + 1) == b'\n' {
        c.at = at + 2;
        s.mode = START;
    } else {
        s.mode = TRAILER_LINE;
    }
    Step::Again
}
