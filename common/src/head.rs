//! The HTTP/1 head scanner: finds tokens in a byte stream and fingerprints them as it goes.
//!
//! One implementation runs in the kernel programs (a `bpf_loop` step at a time) and on the host. It reads a
//! *window* of at most [`WINDOW`] bytes at a time and keeps all it must remember in [`Scan`], so a stream may
//! be cut anywhere: a window ends with some bytes unread, which the caller presents again at the start of the
//! next one. Bodies (`Content-Length` and chunked, RFC 9112 §6–7) are stepped over to find the next pipelined
//! head.
//!
//! What it promises: a token is reported if and only if it was fingerprinted whole. What it reads as
//! `Authorization` is what lenient parsers may read: any letter case, any white space, folded lines, space
//! before the colon, several credentials in one field; what strict parsers refuse is also marked in
//! [`Scan::oddities`]. It leaves to others what a fingerprint means.

use crate::{
    fingerprint::{DenyFingerprint, Sip},
    layout::{
        KIND_API_KEY, KIND_AUTHORIZATION, KIND_CONTENT_LENGTH, KIND_TRANSFER_ENCODING, Pattern, ScanConfig,
    },
    word,
};

/// Bytes of stream in a window.
pub const WINDOW: usize = 4096;
/// Bytes before the window that may be read (and are ignored).
pub const FRONT: usize = 16;
/// Bytes after the window that may be read (and are ignored).
pub const BACK: usize = 80;
/// Size of the buffer that holds a window: the stream's bytes begin at [`FRONT`].
pub const BUFFER: usize = FRONT + WINDOW + BACK;
/// Most bytes that a step leaves unread at a window's end.
pub const MAX_UNREAD: usize = 64;
/// Default for the longest head read, in bytes.
pub const MAX_HEAD: u32 = 16 * 1024;
/// Default for the longest token looked up, in bytes.
pub const MAX_TOKEN: u32 = 4 * 1024;
/// Steps that suffice for any window: each one reads a byte or changes the mode, and at most four modes
/// follow one another on one byte.
pub const MAX_STEPS: u32 = 16_448;

/// How the scan stands after a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Step {
    /// Call again.
    Again = 0,
    /// The window is used up to the cursor; present the rest with more bytes behind it.
    More = 1,
    /// The sink refused a token: its head must not reach the server.
    Refused = 2,
    /// These bytes do not begin an HTTP/1 request.
    NotHttp = 3,
    /// A TLS record begins here.
    Opaque = 4,
    /// An HTTP/2 connection preface begins here.
    Http2 = 5,
    /// The head is longer than the limit.
    TooLong = 6,
}

/// Two credentials, or one not shaped as `scheme token`.
pub const ODD_CREDENTIALS: u32 = 1 << 0;
/// White space between a header's name and its colon (RFC 9112 §5.1).
pub const ODD_SPACE_BEFORE_COLON: u32 = 1 << 1;
/// A folded header line (RFC 9112 §5.2).
pub const ODD_FOLD: u32 = 1 << 2;
/// A line that ends in a bare line feed (RFC 9112 §2.2).
pub const ODD_BARE_LF: u32 = 1 << 3;
/// `Content-Length` that is no number, or two that differ (RFC 9112 §6.3).
pub const ODD_LENGTH: u32 = 1 << 4;
/// A `Transfer-Encoding` that does not end in `chunked`, or one beside a `Content-Length`.
pub const ODD_TRANSFER: u32 = 1 << 5;
/// A control character inside a credential.
pub const ODD_CONTROL: u32 = 1 << 6;
/// A chunk that is not framed as RFC 9112 §7.1 says.
pub const ODD_CHUNK: u32 = 1 << 7;

/// All that is remembered between steps and windows. All zero bytes are its beginning.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Scan {
    sip: Sip,
    /// Fingerprint of the signing input, made when its second dot came.
    signing: [u64; 2],
    /// Bytes of body or chunk still to step over.
    body: u64,
    /// Value of `Content-Length`, then of the chunk size being read.
    number: u64,
    /// Bytes of the present head read in earlier windows.
    head_before: u32,
    /// Bytes of the present token read so far (a multiple of eight until its last word).
    token_len: u32,
    /// `ODD_` marks of the present head.
    pub oddities: u32,
    /// Heads begun since the scan began.
    pub heads: u32,
    /// Tokens looked up since the scan began.
    pub tokens: u32,
    /// Tokens over the limit since the scan began.
    pub long_tokens: u32,
    /// Heads with oddities since the scan began.
    pub odd_heads: u32,
    /// Set when a head begins; cleared by the caller.
    pub began: u32,
    mode: u8,
    /// What the value being read means: a `KIND_` constant.
    kind: u8,
    /// Mode to go on in when the next line is folded onto this one.
    fold: u8,
    dots: u8,
    /// Bytes of the present word of the token already looked at.
    seen: u8,
    /// Framing of the present head's body: bit 0 a length was seen, bit 1 chunked, bit 2 another encoding.
    framing: u8,
    /// Whether `Authorization` gave a credential in the present head.
    credentials: u8,
    /// The token begins as a JWS does.
    jws: u8,
}

/// Where a window stands.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Cursor {
    /// Next unread byte, from the window's start.
    pub at: u32,
    /// End of the bytes in the window, at most [`WINDOW`].
    pub end: u32,
    /// Where the present head begins in this window; 0 if in an earlier one.
    pub head: u32,
    /// Whether no byte follows this window for now: what cannot be told apart yet is left unread.
    pub last: u32,
}

/// What is told of a token that was read whole.
pub trait Sink {
    /// Takes a token's deny fingerprint; `true` refuses the request.
    fn token(&mut self, fingerprint: DenyFingerprint) -> bool;
}

/// A message begins here.
const START: u8 = 0;
/// In the method.
const METHOD: u8 = 1;
/// In the rest of the request line.
const REQUEST_LINE: u8 = 2;
/// At the start of a header line.
const LINE: u8 = 3;
/// In a line of no interest.
const SKIP: u8 = 4;
/// Behind a name of interest, before its colon.
const COLON: u8 = 5;
/// Before a scheme.
const SCHEME: u8 = 6;
/// Before a token.
const BEFORE_TOKEN: u8 = 7;
/// In a token.
const TOKEN: u8 = 8;
/// In a token that is too long to look up.
const LONG_TOKEN: u8 = 9;
/// In `Content-Length`.
const LENGTH: u8 = 10;
/// Before a transfer coding.
const CODING: u8 = 11;
/// In a transfer coding of no interest.
const OTHER_CODING: u8 = 12;
/// In a body of known length.
const BODY: u8 = 13;
/// In a chunk's size.
const CHUNK_SIZE: u8 = 14;
/// In a chunk's extension.
const CHUNK_EXTENSION: u8 = 15;
/// In a chunk's data.
const CHUNK_DATA: u8 = 16;
/// Behind a chunk's data.
const CHUNK_END: u8 = 17;
/// At the start of a trailer line.
const TRAILER: u8 = 18;
/// In a trailer line.
const TRAILER_LINE: u8 = 19;

const FRAMED_BY_LENGTH: u8 = 1;
const CHUNKED: u8 = 2;
const OTHER_ENCODING: u8 = 4;

/// `HTTP/x.y`, the digits left open.
const HTTP: u64 = u64::from_le_bytes(*b"HTTP/\0.\0");
const HTTP_MASK: u64 = u64::from_le_bytes(*b"\xff\xff\xff\xff\xff\0\xff\0");
/// `chunked` in any letter case.
const CHUNKED_WORD: u64 = u64::from_le_bytes(*b"chunked\0");
const CHUNKED_MASK: u64 = u64::from_le_bytes(*b"\xdf\xdf\xdf\xdf\xdf\xdf\xdf\0");

/// Longest method, in bytes, that is still taken for one.
const METHOD_MAX: u32 = 72;
/// Bytes that settle what a header line is.
const LINE_LOOK: u32 = 33;

/// Reads of a window at an offset that the verifier can bound: offsets are masked to the window.
#[derive(Clone, Copy)]
struct Window(*const u8);

impl Window {
    #[inline(always)]
    const fn at(self, at: u32) -> *const u8 {
        // SAFETY: `step`'s contract gives `BUFFER` bytes, and the masked offset is below `WINDOW`.
        unsafe { self.0.add(FRONT + (at as usize & (WINDOW - 1))) }
    }

    #[inline(always)]
    fn byte(self, at: u32) -> u8 {
        // SAFETY: see `at`.
        unsafe { self.at(at).read() }
    }

    /// Eight bytes at `at + OFFSET`, `OFFSET` at most `BACK - 8`.
    #[inline(always)]
    fn word<const OFFSET: usize>(self, at: u32) -> u64 {
        // SAFETY: see `at`; `BACK` bytes behind the window are readable.
        unsafe { word::load::<OFFSET>(self.at(at)) }
    }

    /// The eight bytes before `at`.
    #[inline(always)]
    fn word_before(self, at: u32) -> u64 {
        // SAFETY: see `at`; `FRONT` bytes before the window are readable.
        unsafe { word::load::<0>(self.at(at).sub(8)) }
    }

    /// The byte `n` (1 to 16) before `at`.
    #[inline(always)]
    fn byte_before(self, at: u32, n: usize) -> u8 {
        // SAFETY: see `at`; `FRONT` bytes before the window are readable.
        unsafe { self.at(at).sub(n).read() }
    }
}

/// Finds a line feed among the next 32 bytes: its offset, or 32. Bytes beyond the window may be found.
#[inline(always)]
fn line_feed(w: Window, at: u32) -> u32 {
    let m = word::eq(w.word::<0>(at), b'\n');
    if m != 0 {
        return word::first(m);
    }
    let m = word::eq(w.word::<8>(at), b'\n');
    if m != 0 {
        return 8 + word::first(m);
    }
    let m = word::eq(w.word::<16>(at), b'\n');
    if m != 0 {
        return 16 + word::first(m);
    }
    let m = word::eq(w.word::<24>(at), b'\n');
    if m != 0 {
        return 24 + word::first(m);
    }
    32
}

#[inline(always)]
const fn is_space(b: u8) -> bool {
    b == b' ' || b == b'\t'
}

#[inline(always)]
const fn is_line_end(b: u8) -> bool {
    b == b'\r' || b == b'\n'
}

impl Scan {
    /// The beginning of a stream.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn new() -> Self {
        // SAFETY: the struct is plain integers; all zero is a value of it, and its documented beginning.
        unsafe { core::mem::zeroed() }
    }

    /// Begins anew on memory that may hold anything: what a head's start does not set itself is set here.
    #[inline(always)]
    pub const fn restart(&mut self) {
        self.mode = START;
        self.body = 0;
        self.heads = 0;
        self.tokens = 0;
        self.long_tokens = 0;
        self.odd_heads = 0;
        self.began = 0;
    }

    /// Whether the scan stands inside a head: the stream must go on before the request is whole.
    #[inline(always)]
    pub const fn in_head(&self) -> bool {
        self.mode != START && self.mode < BODY
    }

    /// Whether the scan stands inside a head whose request line was read whole and is HTTP.
    #[inline(always)]
    pub const fn past_request_line(&self) -> bool {
        self.mode > REQUEST_LINE && self.mode < BODY
    }

    /// Bytes of body that may be stepped over unseen.
    #[inline(always)]
    pub const fn skippable(&self) -> u64 {
        if self.mode == BODY || self.mode == CHUNK_DATA { self.body } else { 0 }
    }

    /// Steps over `n` bytes of body, at most [`Self::skippable`].
    #[inline(always)]
    pub fn skip(&mut self, n: u64) {
        self.body = self.body.saturating_sub(n);
        if self.body == 0 {
            self.mode = if self.mode == BODY { START } else { CHUNK_END };
        }
    }

    /// To be called when the rest of a window is presented again: keeps the head's length.
    #[inline(always)]
    pub fn next_window(&mut self, c: &Cursor) {
        if self.in_head() {
            self.head_before += c.at.wrapping_sub(c.head);
        }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Default for Scan {
    fn default() -> Self {
        Self::new()
    }
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

/// Takes one step.
///
/// # Safety
/// `buffer` must point at [`BUFFER`] readable, initialised bytes, the stream's from [`FRONT`] on.
/// (`c.at <= c.end <= WINDOW` is not a matter of safety: offsets are masked.)
#[inline(always)]
pub unsafe fn step<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    buffer: *const u8,
    config: &ScanConfig,
    sink: &mut S,
) -> Step {
    let w = Window(buffer);
    let at = c.at;
    if at >= c.end {
        return Step::More;
    }
    let left = c.end - at;
    match s.mode {
        TOKEN => token(s, c, w, config, sink, at, left),
        SKIP | TRAILER_LINE | CHUNK_EXTENSION => skip_line(s, c, w, config, at, left),
        LINE => line(s, c, w, config, at, left),
        START => start(s, c, w, at, left),
        METHOD => method(s, c, w, at, left),
        REQUEST_LINE => request_line(s, c, w, config, at, left),
        SCHEME => scheme(s, c, w, config, at, left),
        BEFORE_TOKEN => before_token(s, c, w, config, at),
        COLON => colon(s, c, w, at),
        LONG_TOKEN => long_token(s, c, w, at),
        LENGTH => length(s, c, w, at),
        CODING => coding(s, c, w, at, left),
        OTHER_CODING => other_coding(s, c, w, at),
        BODY | CHUNK_DATA => {
            let n = if s.body < u64::from(left) { s.body } else { u64::from(left) };
            s.skip(n);
            #[allow(clippy::cast_possible_truncation, reason = "n <= left, a u32")]
            {
                c.at = at + n as u32;
            }
            Step::Again
        }
        CHUNK_SIZE => chunk_size(s, c, w, at),
        CHUNK_END => chunk_end(s, c, w, at),
        _ => trailer(s, c, w, at, left),
    }
}

/// Skips the empty lines that may stand before a request line (RFC 9112 §2.2).
#[inline(always)]
fn start(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if is_line_end(b) {
        c.at = at + 1;
        return Step::Again;
    }
    if b == 0x16 {
        // A TLS record of type handshake: version major 3 follows.
        return if left > 1 && w.byte(at + 1) == 3 { Step::Opaque } else { Step::NotHttp };
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
    Step::Again
}

/// The method ends at the first space; a control character or no space for long means no request.
#[inline(always)]
fn method(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let m = word::blank(w.word::<0>(at));
    if m != 0 {
        let k = word::first(m);
        if k < left {
            if !is_space(w.byte(at + k)) || (k == 0 && s.head_before == 0 && at == c.head) {
                return Step::NotHttp;
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
fn request_line(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
    let k = line_feed(w, at);
    if k >= left || k == 32 {
        // The version is read backwards from the line feed, so the last bytes stay until it is there.
        if left <= 16 + 32 {
            return Step::More;
        }
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
        return Step::NotHttp;
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

/// Ends a line at the next line feed.
#[inline(always)]
fn skip_line(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
    let k = line_feed(w, at);
    if k >= left || k == 32 {
        if s.mode == SKIP && s.head_before + (at - c.head) > config.max_head {
            return Step::TooLong;
        }
        c.at = at + if left < 32 { left } else { 32 };
        return Step::Again;
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

/// Settles what a header line is.
#[inline(always)]
fn line(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
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
    s.fold = SKIP;
    s.mode = SKIP;
    if (config.first_letters >> (first & 31)) & 1 == 0 {
        return Step::Again;
    }
    if left < LINE_LOOK && line_feed(w, at) >= left {
        // Perhaps a name that is cut here.
        s.mode = LINE;
        return Step::More;
    }
    if s.head_before + (at - c.head) > config.max_head {
        return Step::TooLong;
    }
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
            }
            return Step::Again;
        }
    }
    Step::Again
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
    Step::Again
}

/// Behind a name: white space here is refused by RFC 9112 §5.1 and read by lenient servers.
#[inline(always)]
fn colon(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
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
fn begin_value(s: &mut Scan) {
    match u32::from(s.kind) {
        KIND_AUTHORIZATION => s.mode = SCHEME,
        KIND_API_KEY => s.mode = BEFORE_TOKEN,
        KIND_CONTENT_LENGTH => {
            if s.framing & FRAMED_BY_LENGTH != 0 {
                // Two lengths: even equal ones are refused by some parsers and merged by others.
                s.oddities |= ODD_LENGTH;
                s.number = 0;
            }
            s.mode = LENGTH;
        }
        KIND_TRANSFER_ENCODING => s.mode = CODING,
        _ => s.mode = SKIP,
    }
    s.fold = s.mode;
}

/// Reads `scheme SP` and settles whether a token follows.
#[inline(always)]
fn scheme(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if is_space(b) || b == b',' {
        c.at = at + 1;
        return Step::Again;
    }
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
    if len < 16 {
        for p in &config.schemes {
            if p.len == 0 {
                break;
            }
            if p.len == len && ((low ^ p.word[0]) & p.mask[0]) | ((high ^ p.word[1]) & p.mask[1]) == 0 {
                s.mode = BEFORE_TOKEN;
                s.fold = BEFORE_TOKEN;
                c.at = at + len;
                return Step::Again;
            }
        }
    }
    Step::Again
}

/// Skips white space before a token and begins its hash.
#[inline(always)]
fn before_token(s: &mut Scan, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32) -> Step {
    let b = w.byte(at);
    if is_space(b) {
        c.at = at + 1;
        return Step::Again;
    }
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

/// Hashes a token, a word at a time, four where no dot and no end is among them.
#[inline(always)]
fn token<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    sink: &mut S,
    at: u32,
    left: u32,
) -> Step {
    let first = w.word::<0>(at);
    if s.token_len == 0 && left >= 2 {
        let ey = u64::from(u16::from_le_bytes(*b"ey"));
        let ew = u64::from(u16::from_le_bytes(*b"ew"));
        s.jws = u8::from(first & 0xffff == ey || first & 0xffff == ew);
    }
    let mut special = specials(first, s.kind);
    if special == 0 && left >= 32 {
        let (second, third, fourth) = (w.word::<8>(at), w.word::<16>(at), w.word::<24>(at));
        if specials(second, s.kind) | specials(third, s.kind) | specials(fourth, s.kind) == 0 {
            let mut sip = s.sip;
            sip.word(first);
            sip.word(second);
            sip.word(third);
            sip.word(fourth);
            s.sip = sip;
            s.token_len += 32;
            c.at = at + 32;
            return too_long(s, config);
        }
    }
    // Marks below `seen` were dealt with in an earlier step.
    special = (special >> (u32::from(s.seen & 7) * 8)) << (u32::from(s.seen & 7) * 8);
    if special == 0 {
        if left < 8 {
            return Step::More;
        }
        s.sip.word(first);
        s.token_len += 8;
        s.seen = 0;
        c.at = at + 8;
        return too_long(s, config);
    }
    let k = word::first(special);
    if k >= left {
        return Step::More;
    }
    let len = s.token_len + k;
    let b = w.byte(at + k);
    if b == b'.' {
        s.dots = s.dots.saturating_add(1);
        if s.dots == 2 && s.jws != 0 {
            s.signing = s.sip.finish(word::keep(first, k), len);
        }
        if k == 7 {
            s.sip.word(first);
            s.token_len += 8;
            s.seen = 0;
            c.at = at + 8;
            return too_long(s, config);
        }
        #[allow(clippy::cast_possible_truncation, reason = "k < 7")]
        {
            s.seen = k as u8 + 1;
        }
        return Step::Again;
    }
    // The token ends here.
    c.at = at + k;
    s.mode = SKIP;
    if u32::from(s.kind) == KIND_AUTHORIZATION {
        // Perhaps another credential follows in the same field.
        s.mode = SCHEME;
    }
    s.fold = s.mode;
    if b < 0x20 && b != b'\t' && !is_line_end(b) {
        s.oddities |= ODD_CONTROL;
        // Step over it, for neither a scheme nor a token begins with it.
        s.mode = SKIP;
    }
    if u32::from(s.kind) == KIND_AUTHORIZATION {
        if s.credentials != 0 {
            s.oddities |= ODD_CREDENTIALS;
        }
        s.credentials = 1;
    }
    if len > config.max_token {
        s.long_tokens += 1;
        return Step::Again;
    }
    s.tokens += 1;
    let fingerprint =
        if s.jws != 0 && s.dots == 2 { s.signing } else { s.sip.finish(word::keep(first, k), len) };
    if sink.token(DenyFingerprint(fingerprint)) { Step::Refused } else { Step::Again }
}

/// Marks what may end or divide a token: blanks, dots, and the comma in `Authorization`.
#[inline(always)]
fn specials(x: u64, kind: u8) -> u64 {
    let m = word::blank(x) | word::eq(x, b'.');
    if u32::from(kind) == KIND_AUTHORIZATION { m | word::eq(x, b',') } else { m }
}

/// Leaves a token that is over the limit unhashed.
#[inline(always)]
fn too_long(s: &mut Scan, config: &ScanConfig) -> Step {
    if s.token_len > config.max_token {
        s.long_tokens += 1;
        s.mode = LONG_TOKEN;
        s.fold = SKIP;
    }
    Step::Again
}

/// Steps over a token that is over the limit; another credential may follow it.
#[inline(always)]
fn long_token(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let m = word::blank(w.word::<0>(at));
    let left = c.end - at;
    if m != 0 && word::first(m) < left {
        c.at = at + word::first(m);
        s.mode = if u32::from(s.kind) == KIND_AUTHORIZATION { SCHEME } else { SKIP };
    } else {
        c.at = at + if left < 8 { left } else { 8 };
    }
    Step::Again
}

/// Reads `Content-Length`.
#[inline(always)]
fn length(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    if b.is_ascii_digit() {
        s.framing |= FRAMED_BY_LENGTH;
        if s.number > u64::MAX / 16 {
            s.oddities |= ODD_LENGTH;
            s.number = u64::MAX / 16;
        }
        s.number = s.number * 10 + u64::from(b - b'0');
        c.at = at + 1;
    } else if is_space(b) {
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
fn coding(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if is_space(b) || b == b',' {
        c.at = at + 1;
        return Step::Again;
    }
    if is_line_end(b) {
        s.mode = SKIP;
        return Step::Again;
    }
    if left <= 8 && line_feed(w, at) >= left {
        return Step::More;
    }
    let x = w.word::<0>(at);
    let end = (x >> 56) as u8;
    if left > 7 && (x ^ CHUNKED_WORD) & CHUNKED_MASK == 0 && (end < 0x21 || end == b',') {
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
fn other_coding(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
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

/// Reads a chunk's size (RFC 9112 §7.1).
#[inline(always)]
fn chunk_size(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
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
fn after_chunk_size(s: &mut Scan) {
    s.body = s.number;
    s.number = 0;
    s.seen = 0;
    s.mode = if s.body == 0 { TRAILER } else { CHUNK_DATA };
}

/// Reads the line end behind a chunk's data.
#[inline(always)]
fn chunk_end(s: &mut Scan, c: &mut Cursor, w: Window, at: u32) -> Step {
    let b = w.byte(at);
    c.at = at + 1;
    if b == b'\n' {
        s.number = 0;
        s.seen = 0;
        s.mode = CHUNK_SIZE;
    } else if b != b'\r' {
        s.oddities |= ODD_CHUNK;
        return Step::NotHttp;
    }
    Step::Again
}

/// Trailer fields authenticate nothing; an empty line ends them and the message.
#[inline(always)]
fn trailer(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let b = w.byte(at);
    if b == b'\n' {
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
