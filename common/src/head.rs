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

mod body;
mod lines;
mod token;
mod values;
pub(crate) mod window;

#[cfg(test)]
mod tests;

use self::{
    body::{after_chunk_size, body, chunk_end, chunk_size, trailer},
    lines::{line, method, proxy_line, request_line, skip_line, start},
    token::{end, long_token, signature, token},
    values::{
        before_token, begin_value, coding, colon, length, other_coding, other_protocol, protocol, scheme,
    },
    window::{Window, forget},
};
use crate::{
    fingerprint::{DenyFingerprint, Sip},
    layout::ScanConfig,
    word::{self, clear},
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
    /// The head, or the framing of its body, has an oddity that the configuration refuses.
    Odd = 7,
    /// The request has no verdict yet: it waits. Only the caller of the scanner says so.
    Wait = 8,
    /// HTTP/2 frames or header blocks that are malformed, or that cannot be followed.
    Broken = 9,
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
/// A request line that does not end in `HTTP/1.x` (RFC 9112 §3).
pub const ODD_VERSION: u32 = 1 << 8;

/// A line that ends in a bare carriage return (RFC 9112 §2.2).
pub const ODD_BARE_CR: u32 = 1 << 9;
/// A token over the limit, which cannot be looked up.
pub const ODD_LONG_TOKEN: u32 = 1 << 10;
/// All of them.
pub const ODD_ANY: u32 = (1 << 11) - 1;

/// The request's method is HEAD: its response has no body.
pub const HEAD: u32 = 1;
/// The request's method is CONNECT.
pub const CONNECT: u32 = 2;
/// The request asks for another protocol.
pub const UPGRADE: u32 = 4;
/// That protocol is h2c, or may be.
pub const H2C: u32 = 8;
/// The request is HTTP/1.0.
const OLD: u32 = 16;

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
    /// Where in the window the word stands at which the hash was left for a signature.
    hash_at: u32,
    /// `ODD_` marks of the present head.
    pub oddities: u32,
    /// Heads begun since the scan began.
    pub heads: u32,
    /// Tokens looked up since the scan began.
    pub tokens: u32,
    /// Tokens over the limit since the scan began.
    pub long_tokens: u16,
    /// Heads with oddities since the scan began.
    pub odd_heads: u16,
    /// Set when a head begins; cleared by the caller.
    pub began: u32,
    /// What the present request's line and headers say of it: [`HEAD`] and its like.
    pub traits: u32,
    /// The status of the present response.
    pub status: u32,
    /// A PROXY protocol header must come first.
    pub preamble: u32,
    /// Length of the present head's request line, its line end included.
    pub line_len: u32,
    /// Where the last token of the present head ends, from the head's start.
    pub token_end: u32,
    /// Tokens looked up in the present head.
    pub named: u32,
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
    /// Whether it reads responses, in which no tokens are looked for.
    const ANSWERS: bool = false;

    /// Takes a token's deny fingerprint; `true` refuses the request.
    fn token(&mut self, fingerprint: DenyFingerprint) -> bool;

    /// Takes note that a head ended: a request's traits; or a response's framing (0 where it has none) and status. Says
    /// of a response whether it answers a HEAD, and so has no body whatever its headers say.
    #[inline(always)]
    fn head(&mut self, _traits: u32, _status: u32) -> bool {
        false
    }
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
/// In the signature of a token that is a JWS so far.
const SIGNATURE: u8 = 20;
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

/// Before a protocol of `Upgrade`.
const PROTOCOL: u8 = 21;
/// In a protocol of `Upgrade`.
const OTHER_PROTOCOL: u8 = 22;
/// In a PROXY protocol line.
const PROXY_LINE: u8 = 23;
/// At a token's end, within a step.
const TOKEN_END: u8 = 24;

const FRAMED_BY_LENGTH: u8 = 1;
const CHUNKED: u8 = 2;
const OTHER_ENCODING: u8 = 4;

impl Scan {
    /// The beginning of a stream.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn new() -> Self {
        // SAFETY: the struct is plain integers; all zero is a value of it, and its documented beginning.
        unsafe { core::mem::zeroed() }
    }

    /// Begins anew on memory that may hold anything: what a head's start does not set itself is set here.
    #[inline(always)]
    pub fn restart(&mut self) {
        self.mode = START;
        self.body = 0;
        self.preamble = 0;
        self.status = 0;
        self.head_before = 0;
        // Each written whole: the BPF back end would make one loop over bytes of them.
        clear(&mut self.heads);
        clear(&mut self.tokens);
        self.long_tokens = 0;
        self.odd_heads = 0;
        clear(&mut self.began);
    }

    /// Makes it what another is: see [`word::copy`].
    #[inline(always)]
    pub fn copy_from(&mut self, other: &Self) {
        // SAFETY: both are of this many words and nothing but plain integers.
        unsafe {
            word::copy::<{ size_of::<Self>() / 8 }>((&raw mut *self).cast(), (&raw const *other).cast());
        }
    }

    /// Whether the scan stands inside a head: the stream must go on before the request is whole.
    #[inline(always)]
    pub const fn in_head(&self) -> bool {
        self.mode != START && (self.mode < BODY || (self.mode >= SIGNATURE && self.mode <= OTHER_PROTOCOL))
    }

    /// Length of the present head up to the cursor.
    #[inline(always)]
    pub const fn head_len(&self, c: &Cursor) -> u32 {
        self.head_before.wrapping_add(c.at.wrapping_sub(c.head))
    }

    /// Length of the last token of the present head.
    #[inline(always)]
    pub const fn last_token_len(&self) -> u32 {
        self.token_len
    }

    /// Deny fingerprint of the last token of the present head, once it was looked up.
    #[inline(always)]
    pub const fn last_token(&self) -> [u64; 2] {
        self.signing
    }

    /// Whether the scan stands between two messages.
    #[inline(always)]
    pub const fn at_boundary(&self) -> bool {
        self.mode == START
    }

    /// Whether the scan stands inside a head whose request line was read whole and is HTTP.
    #[inline(always)]
    pub const fn past_request_line(&self) -> bool {
        self.mode > REQUEST_LINE
            && (self.mode < BODY || (self.mode >= SIGNATURE && self.mode <= OTHER_PROTOCOL))
    }

    /// Whether the next step is one for [`frequent`].
    #[inline(always)]
    pub const fn is_frequent(&self) -> bool {
        matches!(self.mode, LINE | TOKEN | SIGNATURE | SCHEME | BEFORE_TOKEN)
    }

    /// Bytes of body that may be stepped over unseen.
    #[inline(always)]
    pub const fn skippable(&self) -> u64 {
        if self.mode == BODY || self.mode == CHUNK_DATA { self.body } else { 0 }
    }

    /// Stands before `n` bytes that may be stepped over, whatever they belong to.
    #[inline(always)]
    pub const fn await_body(&mut self, n: u64) {
        self.body = n;
        self.mode = if n == 0 { START } else { BODY };
    }

    /// Steps over `n` bytes of body, at most [`Self::skippable`].
    #[inline(always)]
    pub fn skip(&mut self, n: u64) {
        if n == 0 {
            return;
        }
        self.body = self.body.saturating_sub(n);
        if self.body == 0 {
            self.mode = if self.mode == BODY { START } else { CHUNK_END };
        }
    }

    /// To be called when the rest of a window is presented again: keeps the head's length.
    #[inline(always)]
    pub fn next_window(&mut self, c: &Cursor) {
        if self.in_head() || self.mode == PROXY_LINE {
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

/// Takes one step in a buffer whose size the type tells: [`step`] without its danger, for the host.
#[cfg(not(target_arch = "bpf"))]
pub fn step_in<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    buffer: &[u8; BUFFER],
    config: &ScanConfig,
    sink: &mut S,
) -> Step {
    // SAFETY: the array is `BUFFER` initialised bytes.
    unsafe { step(s, c, buffer.as_ptr(), config, sink) }
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
    if s.is_frequent() {
        // SAFETY: as the caller says.
        unsafe { frequent(s, c, buffer, config, sink) }
    } else {
        // SAFETY: as the caller says.
        unsafe { rare::<S>(s, c, buffer, config) }
    }
}

/// Takes one step in a mode that most steps are in, and in all that need the sink; the kernel programs call the two
/// halves of [`step`] by themselves, since a verifier that walks each once walks less than one that walks both.
///
/// # Safety
/// As for [`step`]; [`Scan::is_frequent`] must be true.
#[inline(always)]
pub unsafe fn frequent<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    buffer: *const u8,
    config: &ScanConfig,
    sink: &mut S,
) -> Step {
    // SAFETY: the caller vouches for the buffer, which outlives this call.
    let w = unsafe { Window::new(buffer) };
    let at = c.at;
    if at >= c.end {
        return Step::More;
    }
    let left = c.end - at;
    if S::ANSWERS {
        return line(s, c, w, config, sink, at, left);
    }
    // A line goes on into its scheme and from there to the token: one after the other and not one within the other,
    // so that there is one copy of each.
    if s.mode == LINE {
        let step = line(s, c, w, config, sink, at, left);
        if step as u32 != Step::Again as u32 || forget(&mut s.mode) != SCHEME || forget(&mut c.at) >= c.end {
            return step;
        }
    }
    if forget(&mut s.mode) == SCHEME {
        let at = forget(&mut c.at);
        let step = scheme(s, c, w, config, at, c.end.wrapping_sub(at));
        if step as u32 != Step::Again as u32
            || forget(&mut s.mode) != BEFORE_TOKEN
            || forget(&mut c.at) >= c.end
        {
            return step;
        }
    }
    if forget(&mut s.mode) == BEFORE_TOKEN {
        let at = forget(&mut c.at);
        before_token(s, c, w, config, at);
        if forget(&mut s.mode) != TOKEN {
            return Step::Again;
        }
    }
    let mut step = Step::Again;
    if forget(&mut s.mode) == TOKEN {
        let at = forget(&mut c.at);
        step = token(s, c, w, config, at, c.end.wrapping_sub(at));
    }
    if step as u32 == Step::Again as u32 && forget(&mut s.mode) == SIGNATURE {
        let at = forget(&mut c.at);
        signature(s, c, w, at, c.end.wrapping_sub(at));
    }
    if step as u32 == Step::Again as u32 && forget(&mut s.mode) == TOKEN_END {
        return end(s, c, w, config, sink);
    }
    step
}

/// Takes one step in any other mode.
///
/// # Safety
/// As for [`step`]; [`Scan::is_frequent`] must be false.
#[inline(always)]
pub unsafe fn rare<S: Sink>(s: &mut Scan, c: &mut Cursor, buffer: *const u8, config: &ScanConfig) -> Step {
    // SAFETY: the caller vouches for the buffer, which outlives this call.
    let w = unsafe { Window::new(buffer) };
    let at = c.at;
    if at >= c.end {
        return Step::More;
    }
    let left = c.end - at;
    // From the start into the method and the rest of the request line: as above.
    if s.mode == START {
        let step = start::<S>(s, c, w, config, at, left);
        if S::ANSWERS || step as u32 != Step::Again as u32 || forget(&mut s.mode) != METHOD {
            return step;
        }
    }
    if !S::ANSWERS && forget(&mut s.mode) == METHOD {
        let at = forget(&mut c.at);
        let step = method(s, c, w, at, c.end.wrapping_sub(at));
        if step as u32 != Step::Again as u32 || forget(&mut s.mode) != REQUEST_LINE {
            return step;
        }
    }
    if !S::ANSWERS && forget(&mut s.mode) == REQUEST_LINE {
        let at = forget(&mut c.at);
        return request_line(s, c, w, config, at, c.end.wrapping_sub(at));
    }
    match s.mode {
        SKIP | TRAILER_LINE | CHUNK_EXTENSION => skip_line(s, c, w, config, at, left),
        COLON => colon(s, c, w, at),
        LENGTH => length(s, c, w, at),
        CODING => coding(s, c, w, at, left),
        OTHER_CODING => other_coding(s, c, w, at),
        BODY | CHUNK_DATA => body(s, c, at, left),
        CHUNK_SIZE => chunk_size(s, c, w, config, at),
        CHUNK_END => chunk_end(s, c, w, config, at, left),
        TRAILER => trailer(s, c, w, config, at, left),
        // A response has none of these.
        _ if S::ANSWERS => Step::NotHttp,
        LONG_TOKEN => long_token(s, c, w, at, left),
        PROTOCOL => protocol(s, c, w, at, left),
        OTHER_PROTOCOL => other_protocol(s, c, w, at),
        _ => proxy_line(s, c, w, at, left),
    }
}
