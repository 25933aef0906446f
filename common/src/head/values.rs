//! Values of the headers of interest, up to the token itself.

use super::{
    BEFORE_TOKEN, CHUNKED, CODING, Cursor, FRAMED_BY_LENGTH, H2C, LENGTH, ODD_CONTROL, ODD_LENGTH,
    ODD_SPACE_BEFORE_COLON, ODD_TRANSFER, OTHER_CODING, OTHER_ENCODING, OTHER_PROTOCOL, PROTOCOL, SCHEME,
    SKIP, Scan, Step, TOKEN, UPGRADE,
    window::{Window, control, forget, is_line_end, is_space},
};
use crate::{
    fingerprint::Sip,
    layout::{
        KIND_API_KEY, KIND_AUTHORIZATION, KIND_CONTENT_LENGTH, KIND_TRANSFER_ENCODING, KIND_UPGRADE,
        ScanConfig,
    },
    word,
};

/// `chunked` in any letter case.
const CHUNKED_WORD: u64 = u64::from_le_bytes(*b"chunked\0");
const CHUNKED_MASK: u64 = u64::from_le_bytes(*b"\xdf\xdf\xdf\xdf\xdf\xdf\xdf\0");

/// `h2c` in any letter case.
const H2C_WORD: u32 = u32::from_le_bytes(*b"h2c\0");
const H2C_MASK: u32 = u32::from_le_bytes(*b"\xdf\xff\xdf\0");

/// Behind a name: white space here is refused by RFC 9112 §5.1 and read by lenient servers.
#[inline(always)]
pub(super) fn colon(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    if b == b':' {
        c.at = at + 1;
        begin_value(s);
    } else if is_space(b) {
        s.oddities |= ODD_SPACE_BEFORE_COLON;
        c.at = at + 1;
    } else {
        s.mode = SKIP;
    }
    Step::Again
}

/// Sets the mode for the value of a header of `s.kind`.
#[inline(always)]
pub(super) fn begin_value(s: &mut Scan) {
    match u32::from(s.kind) {
        KIND_AUTHORIZATION => s.mode = SCHEME,
        KIND_API_KEY => s.mode = BEFORE_TOKEN,
        KIND_CONTENT_LENGTH => {
            if s.framing & FRAMED_BY_LENGTH != 0 {
                // Two lengths: even equal ones are refused by some parsers and merged by others.
                s.oddities |= ODD_LENGTH;
                s.number = 0;
            }
            s.seen = 0;
            s.mode = LENGTH;
        }
        KIND_TRANSFER_ENCODING => s.mode = CODING,
        KIND_UPGRADE => {
            s.traits |= UPGRADE;
            s.mode = PROTOCOL;
        }
        _ => s.mode = SKIP,
    }
    s.fold = s.mode;
}

/// Reads `scheme SP` and settles whether a token follows.
#[inline(always)]
pub(super) fn scheme(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    mut at: u32,
    mut left: u32,
) -> Step {
    let mut b = w.byte(at);
    if b == b' ' && left > 1 {
        // The one space that nearly every client sends.
        at += 1;
        left -= 1;
        b = w.byte(at);
    }
    if is_space(b) || b == b',' {
        c.at = at + 1;
        return Step::Again;
    }
    c.at = at;
    if is_line_end(b) {
        s.mode = SKIP;
        return Step::Again;
    }
    let (low, high) = (w.word::<0>(at), w.word::<8>(at));
    let (m, n) = (word::blank(low), word::blank(high));
    let len = if m != 0 {
        word::first(m)
    } else if n != 0 {
        8 + word::first(n)
    } else {
        16
    };
    if len >= left {
        return Step::More;
    }
    s.mode = SKIP;
    for p in &config.schemes {
        if p.len == 0 {
            break;
        }
        if p.len == len && ((low ^ p.word[0]) & p.mask[0]) | ((high ^ p.word[1]) & p.mask[1]) == 0 {
            s.mode = BEFORE_TOKEN;
            break;
        }
    }
    if forget(&mut s.mode) == SKIP {
        if (word::keep_to(low, len) | word::keep_to(high, len.saturating_sub(8))) & word::HIGH != 0 {
            // Servers that split at Unicode's spaces may find a scheme in it.
            s.oddities |= ODD_CONTROL;
        }
        return Step::Again;
    }
    s.fold = BEFORE_TOKEN;
    c.at = at + len;
    if w.byte(at + len) == b' ' {
        c.at += 1;
    }
    Step::Again
}

/// Skips white space before a token and begins its hash.
#[inline(always)]
pub(super) fn before_token(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32) -> Step {
    let b = w.byte(at);
    if b <= b' ' && !is_line_end(b) {
        if !is_space(b) {
            // White space to servers that split at any (a form feed, for one).
            s.oddities |= ODD_CONTROL;
        }
        c.at = at + 1;
        return Step::Again;
    }
    c.at = at;
    if is_line_end(b) {
        s.mode = SKIP;
        return Step::Again;
    }
    s.sip = Sip::new(&config.key);
    s.token_len = 0;
    s.dots = 0;
    s.seen = 0;
    s.jws = 0;
    s.mode = TOKEN;
    Step::Again
}

/// Reads `Content-Length`.
#[inline(always)]
pub(super) fn length(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    if b.is_ascii_digit() {
        s.framing |= FRAMED_BY_LENGTH;
        if s.seen == 2 {
            s.oddities |= ODD_LENGTH;
        }
        s.seen = 1;
        if s.number > u64::MAX / 16 {
            s.oddities |= ODD_LENGTH;
            s.number = u64::MAX / 16;
        }
        s.number = s.number * 10 + u64::from(b - b'0');
        c.at = at + 1;
    } else if is_space(b) {
        // A digit behind it would make two numbers of one.
        s.seen = if s.seen == 0 { 0 } else { 2 };
        c.at = at + 1;
    } else {
        if !is_line_end(b) || s.framing & FRAMED_BY_LENGTH == 0 {
            s.oddities |= ODD_LENGTH;
        }
        s.mode = SKIP;
    }
    Step::Again
}

/// Reads one transfer coding; the last one says how the body is framed.
#[inline(always)]
pub(super) fn coding(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if is_space(b) || b == b',' {
        c.at = at + 1;
        return Step::Again;
    }
    if is_line_end(b) {
        s.mode = SKIP;
        return Step::Again;
    }
    if left <= 8 && control(w, at) >= left {
        return Step::More;
    }
    let x = w.word::<0>(at);
    let end = (x >> 56) as u8;
    if left > 7 && (x ^ CHUNKED_WORD) & CHUNKED_MASK == 0 && (end < 0x21 || end == b',') {
        if s.framing & CHUNKED != 0 {
            s.oddities |= ODD_TRANSFER;
        }
        s.framing = (s.framing & !OTHER_ENCODING) | CHUNKED;
        c.at = at + 7;
    } else {
        s.framing = (s.framing & !CHUNKED) | OTHER_ENCODING;
        s.mode = OTHER_CODING;
    }
    Step::Again
}

/// Steps over a transfer coding of no interest.
#[inline(always)]
pub(super) fn other_coding(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    if is_line_end(b) {
        s.mode = SKIP;
    } else {
        if b == b',' {
            s.mode = CODING;
        }
        c.at = at + 1;
    }
    Step::Again
}

/// Reads one protocol of `Upgrade`: all that matters is whether it is `h2c`.
#[inline(always)]
pub(super) fn protocol(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if is_space(b) || b == b',' {
        c.at = at + 1;
        return Step::Again;
    }
    if is_line_end(b) {
        s.mode = SKIP;
        return Step::Again;
    }
    if left < 4 && control(w, at) >= left {
        return Step::More;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
    let x = w.word::<0>(at) as u32;
    let end = (x >> 24) as u8;
    if (x ^ H2C_WORD) & H2C_MASK == 0 && (end < 0x21 || end == b',') {
        s.traits |= H2C;
    }
    s.mode = OTHER_PROTOCOL;
    Step::Again
}

/// Steps over the rest of a protocol of `Upgrade`.
#[inline(always)]
pub(super) fn other_protocol(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    if is_line_end(b) {
        s.mode = SKIP;
    } else {
        if b == b',' {
            s.mode = PROTOCOL;
        }
        c.at = at + 1;
    }
    Step::Again
}
