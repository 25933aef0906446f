//! Request line and header lines.

use super::{
    BODY, CHUNK_SIZE, CHUNKED, COLON, CONNECT, Cursor, HEAD, LINE, METHOD, ODD_BARE_CR, ODD_BARE_LF,
    ODD_CHUNK, ODD_CONTROL, ODD_FOLD, ODD_TRANSFER, ODD_VERSION, OLD, OTHER_ENCODING, PROXY_LINE,
    REQUEST_LINE, SKIP, START, Scan, Sink, Step, TRAILER, TRAILER_LINE, after_chunk_size, begin_value,
    window::{Window, control, forget, is_line_end, is_space},
};
use crate::{
    layout::{Pattern, ScanConfig, name_bit},
    word,
};

/// `HTTP/x.y`, the digits left open.
const HTTP: u64 = u64::from_le_bytes(*b"HTTP/\0.\0");
const HTTP_MASK: u64 = u64::from_le_bytes(*b"\xff\xff\xff\xff\xff\0\xff\0");
/// Eight blanks, as [`word::blank`] marks them.
const BLANK: u64 = 0x8080_8080_8080_8080;
/// `HTTP/1.x` of a status line, the digit left open.
const ANSWER: u64 = u64::from_le_bytes(*b"HTTP/1.\0");
const ANSWER_MASK: u64 = u64::from_le_bytes(*b"\xff\xff\xff\xff\xff\xff\xff\0");
/// `PROXY ` of the PROXY protocol, version 1.
const PROXY1: u64 = u64::from_le_bytes(*b"PROXY \0\0");
const PROXY1_MASK: u64 = 0xffff_ffff_ffff;
/// The signature of its version 2, and the high half of the byte behind it.
const PROXY2: u64 = u64::from_le_bytes(*b"\r\n\r\n\0\r\nQ");
const PROXY2_END: u64 = u64::from_le_bytes(*b"UIT\n\x20\0\0\0");
const HEAD_WORD: u64 = u64::from_le_bytes(*b"HEAD\0\0\0\0");
const CONNECT_WORD: u64 = u64::from_le_bytes(*b"CONNECT\0");
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
pub(super) fn start<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    if S::ANSWERS {
        return status_line(s, c, w, at, left);
    }
    if s.preamble != 0 {
        return preamble(s, c, w, config, at, left);
    }
    let b = w.byte(at);
    if is_line_end(b) {
        c.at = at + 1;
        return Step::Again;
    }
    if b == 0x16 {
        return client_hello(w, at, left);
    }
    if !begins_method(b) {
        return Step::NotHttp;
    }
    begin(s, c, at);
    s.mode = METHOD;
    c.at = at;
    Step::Again
}

/// Sets what a head begins with.
#[inline(always)]
fn begin(s: &mut Scan, c: &mut Cursor, at: u32) {
    s.head_before = 0;
    s.oddities = 0;
    s.traits = 0;
    s.framing = 0;
    s.credentials = 0;
    s.number = 0;
    s.fold = SKIP;
    s.seen = 0;
    s.named = 0;
    s.began = 1;
    c.head = at;
}

/// Whether a TLS record with a `ClientHello` begins here (RFC 8446 §5.1, §4): type handshake, version 3.x, a
/// length that fits, and the handshake's type and length to it. What merely begins like one is not HTTP.
#[inline(always)]
fn client_hello(w: Window, at: u32, left: u32) -> Step {
    if left < 11 {
        // Cut within its first bytes: enough of them must agree.
        return if left > 1 && w.byte(at + 1) != 3 { Step::NotHttp } else { Step::More };
    }
    let record = u32::from(w.byte(at + 3)) << 8 | u32::from(w.byte(at + 4));
    let hello = u32::from(w.byte(at + 6)) << 16 | u32::from(w.byte(at + 7)) << 8 | u32::from(w.byte(at + 8));
    let fits = w.byte(at + 1) == 3 && w.byte(at + 2) <= 4 && w.byte(at + 5) == 1 && w.byte(at + 9) == 3;
    if fits && record > 40 && record <= 0x4000 && hello + 4 >= record { Step::Opaque } else { Step::NotHttp }
}

/// The PROXY protocol's header, in its text form (v1) or its binary form (v2), before a connection's first
/// request. Where it is expected and the scan is strict, nothing else will do.
#[inline(always)]
fn preamble(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
    if w.byte(at) == b'\r' {
        if left < 16 {
            return Step::More;
        }
        if w.word::<0>(at) != PROXY2 || w.word::<8>(at) & 0xf0_ffff_ffff != PROXY2_END {
            return Step::NotHttp;
        }
        s.preamble = 0;
        s.body = u64::from(w.byte(at + 14)) << 8 | u64::from(w.byte(at + 15));
        s.mode = if s.body == 0 { START } else { BODY };
        c.at = at + 16;
        return Step::Again;
    }
    if left < 8 {
        return Step::More;
    }
    s.preamble = 0;
    if w.word::<0>(at) & PROXY1_MASK == PROXY1 {
        c.head = at;
        s.head_before = 0;
        s.mode = PROXY_LINE;
        return Step::Again;
    }
    if config.refuse != 0 { Step::NotHttp } else { Step::Again }
}

/// The rest of a PROXY protocol v1 line, at most 107 bytes.
#[inline(always)]
pub(super) fn proxy_line(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let k = control(w, at);
    if s.head_before + (at - c.head) > 107 {
        return Step::NotHttp;
    }
    if k >= left {
        c.at = at + left;
        return Step::More;
    }
    c.at = at + k;
    if k < 32 {
        if w.byte(at + k) == b'\n' {
            s.mode = START;
        }
        c.at += 1;
    }
    Step::Again
}

/// A response's status line (RFC 9112 §4).
#[inline(always)]
fn status_line(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    if left < 13 {
        return Step::More;
    }
    let (hundreds, tens, ones) = (w.byte(at + 9), w.byte(at + 10), w.byte(at + 11));
    let digits = hundreds.is_ascii_digit() & tens.is_ascii_digit() & ones.is_ascii_digit();
    if w.word::<0>(at) & ANSWER_MASK != ANSWER || w.byte(at + 8) != b' ' || !digits {
        return Step::NotHttp;
    }
    begin(s, c, at);
    s.status = u32::from(hundreds - b'0') * 100 + u32::from(tens - b'0') * 10 + u32::from(ones - b'0');
    s.mode = SKIP;
    c.at = at + 12;
    Step::Again
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
pub(super) fn method(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let m = word::blank(w.word::<0>(at));
    if m != 0 {
        let k = word::first(m);
        if k < left {
            if !is_space(w.byte(at + k)) || (k == 0 && s.head_before == 0 && at == c.head) {
                return Step::NotHttp;
            }
            if s.head_before == 0 && at == c.head {
                let x = w.word::<0>(at);
                if k == 4 && x & 0xffff_ffff == HEAD_WORD {
                    s.traits = HEAD;
                } else if k == 7 && x & 0x00ff_ffff_ffff_ffff == CONNECT_WORD {
                    s.traits = CONNECT;
                }
            }
            s.mode = REQUEST_LINE;
            c.at = at + k;
            return Step::Again;
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
    let k = control(w, at);
    let b = w.byte(at + k);
    if k >= left || (b != b'\n' && k + 1 >= left) {
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
    let mut feed = at + k;
    let mut back = 0;
    if b == b'\r' && w.byte(feed + 1) == b'\n' {
        feed += 1;
        back = 1;
    } else if b == b'\n' {
        s.oddities |= ODD_BARE_LF;
    } else {
        if b != b'\t' {
            s.oddities |= ODD_CONTROL;
        }
        c.at = feed + 1;
        return Step::Again;
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
        s.line_len = s.head_len(c);
        return Step::Again;
    }
    match (version >> 40 & 0xff) as u8 {
        b'1' => {}
        b'2' => return Step::Http2,
        _ => return Step::NotHttp,
    }
    if digit == b'0' {
        s.traits |= OLD;
    }
    s.heads += 1;
    s.mode = LINE;
    c.at = feed + 1;
    s.line_len = s.head_len(c);
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

/// Ends a line at its line end: CR LF, a bare LF, or (in heads, marked) a bare CR, which some servers take for one.
#[inline(always)]
pub(super) fn skip_line(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    at: u32,
    left: u32,
) -> Step {
    let k = control(w, at);
    if k >= left || k == 32 {
        if s.mode == SKIP && s.head_before + (at - c.head) > config.max_head {
            return Step::TooLong;
        }
        c.at = at + if left < 32 { left } else { 32 };
        return Step::Again;
    }
    let b = w.byte(at + k);
    let mut odd = 0;
    c.at = at + k + 1;
    if b == b'\r' {
        if k + 1 >= left {
            c.at = at + k;
            return Step::More;
        }
        if w.byte(at + k + 1) == b'\n' {
            c.at += 1;
        } else {
            odd = ODD_BARE_CR;
        }
    } else if b == b'\n' {
        odd = ODD_BARE_LF;
    } else {
        if b != b'\t' {
            s.oddities |= ODD_CONTROL;
        }
        return Step::Again;
    }
    if s.mode == SKIP {
        s.oddities |= odd;
        s.mode = LINE;
        return Step::Again;
    }
    if odd != 0 && config.refuse & ODD_CHUNK != 0 {
        s.oddities |= ODD_CHUNK;
        return Step::Odd;
    }
    if odd == ODD_BARE_CR {
        return Step::Again;
    }
    if s.mode == TRAILER_LINE {
        s.mode = TRAILER;
    } else {
        after_chunk_size(s);
    }
    Step::Again
}

/// Steps over lines of no interest, a few at a time, and settles what the first other one is.
#[inline(always)]
pub(super) fn line<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    sink: &mut S,
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
        let mut k = control(w, at);
        if k == 32 {
            k += control(w, at + 32);
        }
        if k + 1 >= left {
            break;
        }
        s.fold = SKIP;
        if k == 64 {
            // A long one: what is left of it is stepped over without a second look at its name.
            s.mode = SKIP;
            c.at = at + 64;
            return Step::Again;
        }
        if w.byte(at + k) != b'\r' || w.byte(at + k + 1) != b'\n' {
            s.mode = SKIP;
            c.at = at + k;
            return Step::Again;
        }
        at += k + 2;
        left -= k + 2;
        if left == 0 {
            c.at = at;
            return Step::More;
        }
    }
    c.at = at;
    let first = w.byte(at);
    if is_line_end(first) {
        return head_end(s, c, w, config, sink, at, left, first);
    }
    if is_space(first) {
        // A folded line goes on with the value of the line before.
        s.oddities |= ODD_FOLD;
        s.mode = s.fold;
        c.at = at + 1;
        return Step::Again;
    }
    if left < LINE_LOOK && control(w, at) + 1 >= left {
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
            break;
        }
    }
    if forget(&mut s.mode) == SKIP {
        return skip_line(s, c, w, config, at, left);
    }
    let k = forget(&mut c.at);
    if w.byte(k) == b':' {
        c.at = k + 1;
        begin_value(s);
    }
    Step::Again
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
#[allow(clippy::too_many_arguments, reason = "the state of a step, each named")]
fn head_end<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    sink: &mut S,
    at: u32,
    left: u32,
    first: u8,
) -> Step {
    if first == b'\r' {
        if left < 2 {
            return Step::More;
        }
        if w.byte(at + 1) != b'\n' {
            s.oddities |= ODD_BARE_CR;
            s.fold = SKIP;
            c.at = at + 1;
            return Step::Again;
        }
        c.at = at + 2;
    } else {
        s.oddities |= ODD_BARE_LF;
        c.at = at + 1;
    }
    let coded = s.framing & (CHUNKED | OTHER_ENCODING) != 0;
    if coded && (s.framing != CHUNKED || s.traits & OLD != 0) {
        s.oddities |= ODD_TRANSFER;
    }
    if s.oddities != 0 {
        s.odd_heads += 1;
        if s.oddities & config.refuse != 0 {
            return Step::Odd;
        }
    }
    let bodiless = sink.head(s.traits, s.status) || s.status < 200 || s.status == 204 || s.status == 304;
    s.body = s.number;
    if S::ANSWERS && (bodiless || s.framing == 0) {
        // Without a length a response ends with its connection (RFC 9112 §6.3).
        s.body = if bodiless { 0 } else { u64::MAX };
    } else if s.framing & CHUNKED != 0 {
        s.number = 0;
        s.seen = 0;
        s.mode = CHUNK_SIZE;
        return if c.at == c.end { Step::More } else { Step::Again };
    }
    s.mode = if s.body == 0 { START } else { BODY };
    if c.at == c.end { Step::More } else { Step::Again }
}
