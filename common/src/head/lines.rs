//! Request line and header lines.

use super::{
    BODY, CHUNK_SIZE, CHUNKED, COLON, Cursor, LINE, METHOD, ODD_BARE_LF, ODD_FOLD, ODD_TRANSFER, ODD_VERSION,
    OTHER_ENCODING, REQUEST_LINE, SKIP, START, Scan, Step, TRAILER, TRAILER_LINE, after_chunk_size,
    begin_value, scheme,
    window::{Window, is_line_end, is_space, line_feed},
};
use crate::{
    layout::{KIND_AUTHORIZATION, Pattern, ScanConfig, name_bit},
    word,
};

/// `HTTP/x.y`, the digits left open.
const HTTP: u64 = u64::from_le_bytes(*b"HTTP/\0.\0");
const HTTP_MASK: u64 = u64::from_le_bytes(*b"\xff\xff\xff\xff\xff\0\xff\0");
/// Eight blanks, as [`word::blank`] marks them.
const BLANK: u64 = 0x8080_8080_8080_8080;
/// Longest method, in bytes, that is still taken for one.
const METHOD_MAX: u32 = 72;
/// Bytes that a request line's end is read from.
const VERSION_LOOK: u32 = 16;
/// Lines of no interest that one step goes over.
const LINES: u32 = 4;
/// Bytes that settle what a header line is.
const LINE_LOOK: u32 = 33;

/// Skips the empty lines that may stand before a request line (RFC 9112 §2.2), then begins a head.
#[inline(always)]
pub(super) fn start(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let b = w.byte(at);
    if is_line_end(b) {
        c.at = at + 1;
        return Step::Again;
    }
    if b == 0x16 {
        // A TLS record of type handshake: version major 3 follows.
        return if left > 1 && w.byte(at + 1) == 3 { Step::Opaque } else { Step::NotHttp };
    }
    if !begins_method(b) {
        return Step::NotHttp;
    }
    s.head_before = 0;
    s.oddities = 0;
    s.framing = 0;
    s.credentials = 0;
    s.number = 0;
    s.fold = SKIP;
    s.seen = 0;
    s.mode = METHOD;
    s.began = 1;
    c.head = at;
    method(s, c, w, config, at, left)
}

/// Whether a byte may stand in a method (RFC 9110 §5.6.2). What begins otherwise, JSON for one, is no request.
#[inline(always)]
const fn begins_method(b: u8) -> bool {
    // Bit n of each word stands for byte n and byte 64 + n.
    const LOW: u64 = 0x03ff_6cfa_0000_0000;
    const HIGH: u64 = 0x57ff_ffff_c7ff_fffe;
    let word = if b < 64 { LOW } else { HIGH };
    b < 128 && (word >> (b & 63)) & 1 != 0
}

/// The method ends at the first space; a control character or no space for long means no request.
#[inline(always)]
pub(super) fn method(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let m = word::blank(w.word::<0>(at));
    if m != 0 {
        let k = word::first(m);
        if k < left {
            if !is_space(w.byte(at + k)) || (k == 0 && s.head_before == 0 && at == c.head) {
                return Step::NotHttp;
            }
            s.mode = REQUEST_LINE;
            return request_line(s, c, w, config, at + k, left - k);
        }
    }
    if left < 8 {
        return Step::More;
    }
    if s.head_before + (at - c.head) > METHOD_MAX {
        return Step::NotHttp;
    }
    c.at = at + 8;
    Step::Again
}

/// The request line must end in ` HTTP/1.x`, spaces behind it allowed.
#[inline(always)]
pub(super) fn request_line(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let k = line_feed(w, at);
    if k >= left {
        // The version is read backwards from the line feed: the bytes before it are presented again with it.
        c.at = if at - c.head > VERSION_LOOK { at - VERSION_LOOK } else { c.head };
        return Step::More;
    }
    if k == 32 {
        if s.head_before + (at - c.head) > config.max_head {
            return Step::TooLong;
        }
        c.at = at + 32;
        return Step::Again;
    }
    let feed = at + k;
    let mut back = 0;
    if w.byte_before(feed, 1) == b'\r' {
        back = 1;
    } else {
        s.oddities |= ODD_BARE_LF;
    }
    // A few spaces behind the version are accepted by some servers.
    if w.byte_before(feed, 1 + back) == b' ' {
        back += 1;
        if w.byte_before(feed, 1 + back) == b' ' {
            back += 1;
        }
    }
    #[allow(clippy::cast_possible_truncation, reason = "at most three")]
    let version = w.word_before(feed.wrapping_sub(back as u32));
    let digit = (version >> 56) as u8;
    if version & HTTP_MASK != HTTP || !digit.is_ascii_digit() || feed < 8 + 1 {
        if !loose_version(feed.wrapping_sub(c.head), w, feed) {
            return Step::NotHttp;
        }
        s.heads += 1;
        s.oddities |= ODD_VERSION;
        s.mode = LINE;
        c.at = feed + 1;
        return Step::Again;
    }
    match (version >> 40 & 0xff) as u8 {
        b'1' => {}
        b'2' => return Step::Http2,
        _ => return Step::NotHttp,
    }
    s.heads += 1;
    s.mode = LINE;
    c.at = feed + 1;
    Step::Again
}

/// Whether a request line ends in what a lenient server takes for version 1: nginx reads `HTTP/1.01`, `HTTP/1.10`
/// and any number of spaces behind; others read tabs and more carriage returns. `P/1` among the last sixteen bytes
/// will do, or eight blanks. Without a branch, for the verifier's sake.
#[inline(always)]
fn loose_version(have: u32, w: Window, feed: u32) -> bool {
    let near = p1(w.word_before(feed));
    let middle = p1(w.word_before(feed.wrapping_sub(4))) * u64::from(have >= 12);
    let far = p1(w.word_before(feed.wrapping_sub(8))) * u64::from(have >= 16);
    let blank = u64::from(word::blank(w.word_before(feed)) == BLANK);
    (near | middle | far | blank) * u64::from(have >= 8) != 0
}

/// Marks `P/1` in a word.
#[inline(always)]
const fn p1(x: u64) -> u64 {
    (word::eq(x, b'P') << 16) & (word::eq(x, b'/') << 8) & word::eq(x, b'1')
}

/// Ends a line at the next line feed.
#[inline(always)]
pub(super) fn skip_line(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let k = line_feed(w, at);
    if k >= left || k == 32 {
        if s.mode == SKIP && s.head_before + (at - c.head) > config.max_head {
            return Step::TooLong;
        }
        // A carriage return stays with the line feed that may follow it.
        let n = if left < 32 { left } else { 32 };
        let n = if w.byte(at + n - 1) == b'\r' { n - 1 } else { n };
        c.at = at + n;
        return if n == 0 { Step::More } else { Step::Again };
    }
    c.at = at + k + 1;
    match s.mode {
        SKIP => {
            if w.byte_before(at + k, 1) != b'\r' {
                s.oddities |= ODD_BARE_LF;
            }
            s.mode = LINE;
        }
        TRAILER_LINE => s.mode = TRAILER,
        _ => after_chunk_size(s),
    }
    Step::Again
}

/// Steps over lines of no interest, a few at a time, and settles what the first other one is.
#[inline(always)]
pub(super) fn line(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    mut at: u32,
    mut left: u32,
) -> Step {
    for _ in 0..LINES {
        let start = w.word::<0>(at);
        let [first, _, third, ..] = start.to_le_bytes();
        // So few bytes may begin anything.
        if left < 3
            || is_line_end(first)
            || is_space(first)
            || (config.name_bits >> name_bit(first, third)) & 1 != 0
        {
            break;
        }
        let k = line_feed(w, at);
        if k >= left {
            break;
        }
        s.fold = SKIP;
        if k == 32 {
            // A long one: what is left of it is stepped over without a second look at its name.
            s.mode = SKIP;
            c.at = if w.byte(at + 31) == b'\r' { at + 31 } else { at + 32 };
            return Step::Again;
        }
        if w.byte_before(at + k, 1) != b'\r' {
            s.oddities |= ODD_BARE_LF;
        }
        at += k + 1;
        left -= k + 1;
        if left == 0 {
            c.at = at;
            return Step::More;
        }
    }
    c.at = at;
    let first = w.byte(at);
    if is_line_end(first) {
        return head_end(s, c, w, at, left, first);
    }
    if is_space(first) {
        // A folded line goes on with the value of the line before.
        s.oddities |= ODD_FOLD;
        s.mode = s.fold;
        c.at = at + 1;
        return Step::Again;
    }
    if left < LINE_LOOK && line_feed(w, at) >= left {
        // Perhaps a name that is cut here.
        return Step::More;
    }
    if s.head_before + (at - c.head) > config.max_head {
        return Step::TooLong;
    }
    s.fold = SKIP;
    s.mode = SKIP;
    for p in &config.names {
        if p.len == 0 {
            break;
        }
        if p.len < left && matches_name(w, at, p) {
            #[allow(clippy::cast_possible_truncation, reason = "kinds are small constants")]
            {
                s.kind = p.kind as u8;
            }
            s.mode = COLON;
            c.at = at + p.len;
            if w.byte(at + p.len) == b':' {
                c.at += 1;
                begin_value(s);
                if p.kind == KIND_AUTHORIZATION && left > p.len + 1 {
                    return scheme(s, c, w, config, at + p.len + 1, left - p.len - 1);
                }
            }
            return Step::Again;
        }
    }
    skip_line(s, c, w, config, at, left)
}

/// Compares the name at `at`; the length of the match is the pattern's.
#[inline(always)]
fn matches_name(w: Window, at: u32, p: &Pattern<4>) -> bool {
    // The first word settles nearly every line.
    (w.word::<0>(at) ^ p.word[0]) & p.mask[0] == 0
        && (w.word::<8>(at) ^ p.word[1]) & p.mask[1] == 0
        && (w.word::<16>(at) ^ p.word[2]) & p.mask[2] == 0
        && (w.word::<24>(at) ^ p.word[3]) & p.mask[3] == 0
}

/// An empty line ends the head; what follows is its body or the next request.
#[inline(always)]
fn head_end(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32, first: u8) -> Step {
    if first == b'\r' {
        if left < 2 {
            return Step::More;
        }
        if w.byte(at + 1) != b'\n' {
            s.fold = SKIP;
            s.mode = SKIP;
            c.at = at + 1;
            return Step::Again;
        }
        c.at = at + 2;
    } else {
        s.oddities |= ODD_BARE_LF;
        c.at = at + 1;
    }
    if s.framing & (CHUNKED | OTHER_ENCODING) != 0 && s.framing != CHUNKED {
        s.oddities |= ODD_TRANSFER;
    }
    if s.oddities != 0 {
        s.odd_heads += 1;
    }
    s.body = s.number;
    if s.framing & CHUNKED != 0 {
        s.number = 0;
        s.seen = 0;
        s.mode = CHUNK_SIZE;
    } else if s.body != 0 {
        s.mode = BODY;
    } else {
        s.mode = START;
    }
    if c.at == c.end { Step::More } else { Step::Again }
}
