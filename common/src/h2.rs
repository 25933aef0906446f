//! HTTP/2 in the clear: finds tokens in the header blocks of a client's frames and fingerprints them as it goes.
//!
//! One implementation runs in the kernel programs (a `bpf_loop` step at a time) and on the host. It stops at any
//! byte and goes on from there, so a stream may be cut anywhere and nothing is ever presented twice. It reads frames
//! (RFC 9113 §4), `HEADERS` and `CONTINUATION` with padding and priority, and HPACK (RFC 7541) with its Huffman code
//! and a dynamic table that is exact in what matters: each entry's size, what its name means and the token in its
//! value, but no text.
//!
//! What it promises: a token is reported if and only if it was fingerprinted whole, before the block that carries it
//! ends; the rules for schemes and tokens are [`crate::head`]'s. What it cannot follow exactly, or what servers must
//! take for a connection error, ends in [`Step::Broken`]. It leaves to others what a fingerprint means, and what a
//! server answers.

mod fields;
mod frames;
mod huffman;
mod names;
mod streams;
mod strings;
mod table;
mod value;

#[cfg(test)]
mod peer;
#[cfg(test)]
mod tests;

pub use names::Names;
pub use streams::{OLDER, Open, SLOTS, slot};
pub use table::Entry;

use self::{
    fields::{evict, field, fragment_end, integer, length, lookup, name_done, value_done},
    frames::{frame, pad_length, priority, skip},
    strings::string,
};
use crate::{
    fingerprint::Sip,
    head::{Cursor, Sink, Step, window::Window},
    layout::ScanConfig,
};

/// What a client sends first (RFC 9113 §3.4).
pub const PREFACE: [u8; 24] = *b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The dynamic table's size unless the client says less; more is refused. It may say more only if the server allows
/// it, and must then say so in the block (RFC 7541 §4.2, §6.3).
pub const TABLE_MAX: u32 = 4096;
/// Entries that fit in it: each counts 32 bytes beside its text.
pub const ENTRIES: usize = 128;
/// Longest frame that is not `DATA` or a part of a header block: what no peer may exceed unasked (RFC 9113 §4.2).
pub const FRAME_MAX: u32 = 16_384;

/// All that is remembered of a connection. All zero bytes are its beginning, behind the preface.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct H2 {
    sip: Sip,
    /// Fingerprint of the signing input, made when its second dot came; then the one that is looked up.
    signing: [u64; 2],
    /// Bytes of the present word of the token.
    tail: u64,
    /// The present name, in so far as names of interest are that long.
    name: [u64; 4],
    /// The present scheme, likewise.
    scheme: [u64; 2],
    /// Bytes of the present string, decoded: those from `out_at` to `out_len` are not read yet.
    out: [u64; 5],
    /// Bytes of a frame header that is cut.
    header: u64,
    /// Why nothing more passes, once that is so.
    pub doom: Doom,
    /// Bytes of payload to step over; the caller may do so in larger steps.
    pub skip: u32,
    /// Bytes left of the present frame's part of the header block.
    left: u32,
    /// Bytes of padding behind it.
    pad: u32,
    /// The stream whose block is read.
    pub stream: u32,
    /// The highest stream that a request began on.
    pub last: u32,
    /// Bytes of the present block.
    block: u32,
    /// The integer being read.
    number: u32,
    /// Bytes left of the present string, as it is coded.
    string: u32,
    /// Bytes of it that are decoded.
    decoded: u32,
    /// Length of the present field's name.
    name_len: u32,
    /// Bytes of the present token.
    token_len: u32,
    /// Bytes that the table counts.
    table_size: u32,
    /// Most that it may.
    table_max: u32,
    /// Its entries, and where the newest is.
    table_count: u32,
    table_newest: u32,
    /// Size of the entry that is to be put in.
    pending: u32,
    /// Requests begun since the caller last cleared it.
    pub requests: u32,
    /// Tokens looked up, likewise.
    pub tokens: u32,
    out_at: u32,
    out_len: u32,
    /// Next slot of `older` to take.
    older_next: u32,
    mode: u8,
    /// Where the header block stands.
    inner: u8,
    /// What to go on with after a look-up.
    after: u8,
    /// `FLAG_` marks of the present frame.
    flags: u8,
    /// A header block is open: its next frame must be a `CONTINUATION`.
    open: u8,
    /// The first frame, which must be `SETTINGS`, was seen.
    settled: u8,
    /// Bytes in `header`.
    got: u8,
    /// What the integer being read is.
    what: u8,
    /// How far it is.
    shift: u8,
    /// The present field goes into the table.
    keep: u8,
    /// The present string is a name.
    naming: u8,
    /// It is in Huffman's code.
    coded: u8,
    /// State of the Huffman decoder.
    state: u8,
    /// Whether the string may end in that state.
    accept: u8,
    /// What the present value means: a `KIND_` constant.
    kind: u8,
    /// Where the present value stands.
    value: u8,
    /// Bytes of the present scheme.
    seen: u8,
    dots: u8,
    jws: u8,
    /// The present block has a credential.
    credentials: u8,
    /// The present field has a token, which `found` is.
    has_token: u8,
    /// The present block has a field.
    fields: u8,
    pad1: u8,
    pad2: u8,
    pad3: u32,
    /// The token of the present field.
    found: [u64; 2],
    /// Streams that are not known to be finished.
    pub streams: [Open; SLOTS],
    /// Tokens of streams that were open when their slot was taken.
    pub older: [Open; OLDER],
    table: [Entry; ENTRIES],
}

/// Why nothing more of a connection passes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Doom {
    /// The token that is refused; zero where none is.
    pub fingerprint: [u64; 2],
    /// The decision that condemned it.
    pub decision: u64,
    /// A [`crate::reason::Reason`].
    pub reason: u32,
    /// An `ANSWER_` constant.
    pub answer: u32,
    /// A [`Step`].
    pub step: u32,
    /// Padding.
    pub pad: u32,
}

/// At a frame's header.
const FRAME: u8 = 0;
/// In payload of no interest.
const SKIP: u8 = 1;
/// At the length of padding.
const PAD: u8 = 2;
/// In a priority.
const PRIORITY: u8 = 3;
/// In a header block.
const BLOCK: u8 = 4;

/// At a field's first byte.
const FIELD: u8 = 0;
/// In an integer.
const INTEGER: u8 = 1;
/// At a string's length.
const LENGTH: u8 = 2;
/// In a string.
const STRING: u8 = 3;
/// Behind a name.
const NAME_DONE: u8 = 4;
/// Behind a value.
const VALUE_DONE: u8 = 5;
/// A token is to be looked up.
const LOOKUP: u8 = 6;
/// Entries are to be taken out of the table, then perhaps one put in.
const EVICT: u8 = 7;

const FLAG_END_HEADERS: u8 = 0x4;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;

impl H2 {
    /// The beginning of a connection, behind the preface.
    #[cfg(not(target_arch = "bpf"))]
    pub const fn new() -> Self {
        // SAFETY: the struct is plain integers; all zero is a value of it.
        let mut h: Self = unsafe { core::mem::zeroed() };
        h.table_max = TABLE_MAX;
        h
    }

    /// Begins anew on memory that may hold anything but open streams, `before` bytes before the first frame.
    #[inline(always)]
    pub const fn restart(&mut self, before: u32) {
        self.mode = if before == 0 { FRAME } else { SKIP };
        self.inner = FIELD;
        self.open = 0;
        self.settled = 0;
        self.got = 0;
        self.header = 0;
        self.skip = before;
        self.last = 0;
        self.table_size = 0;
        self.table_max = TABLE_MAX;
        self.table_count = 0;
        self.table_newest = 0;
        self.out_at = 0;
        self.out_len = 0;
    }

    /// Whether the next step is one for [`string_step`], which most are.
    #[inline(always)]
    pub const fn in_string(&self) -> bool {
        self.mode == BLOCK && self.inner == STRING && (self.left != 0 || self.out_at < self.out_len)
    }

    /// Whether the next step looks a token up.
    #[inline(always)]
    pub const fn at_token(&self) -> bool {
        self.mode == BLOCK && self.inner == LOOKUP
    }

    /// Steps over `n` bytes of payload, at most [`Self::skip`].
    #[inline(always)]
    pub const fn step_over(&mut self, n: u32) {
        self.skip = self.skip.saturating_sub(n);
        if self.skip == 0 && self.mode == SKIP {
            self.mode = FRAME;
        }
    }

    /// Bytes of payload that may be stepped over unseen.
    #[inline(always)]
    pub const fn skippable(&self) -> u32 {
        if self.mode == SKIP { self.skip } else { 0 }
    }
}

#[cfg(not(target_arch = "bpf"))]
impl Default for H2 {
    fn default() -> Self {
        Self::new()
    }
}

/// Takes one step.
///
/// # Safety
/// `buffer` must point at [`crate::head::BUFFER`] readable, initialised bytes, the stream's from
/// [`crate::head::FRONT`] on.
#[inline(always)]
pub unsafe fn step<S: Sink>(
    h: &mut H2,
    c: &mut Cursor,
    buffer: *const u8,
    config: &ScanConfig,
    names: &Names,
    sink: &mut S,
) -> Step {
    if h.in_string() {
        // SAFETY: as the caller says.
        return unsafe { string_step(h, c, buffer, config) };
    }
    if h.at_token() {
        return lookup(h, config, sink);
    }
    // SAFETY: as the caller says.
    unsafe { other_step(h, c, buffer, config, names) }
}

/// Takes one step in a string.
///
/// # Safety
/// As for [`step`]; [`H2::in_string`] must be true.
#[inline(always)]
pub unsafe fn string_step(h: &mut H2, c: &mut Cursor, buffer: *const u8, config: &ScanConfig) -> Step {
    // SAFETY: the caller vouches for the buffer, which outlives this call.
    let w = unsafe { Window::new(buffer) };
    string(h, c, w, config)
}

/// Looks the token up that was read: [`H2::at_token`] must be true.
#[inline(always)]
pub fn token_step<S: Sink>(h: &mut H2, config: &ScanConfig, sink: &mut S) -> Step {
    lookup(h, config, sink)
}

/// Takes any other step.
///
/// # Safety
/// As for [`step`].
#[inline(always)]
pub unsafe fn other_step(
    h: &mut H2,
    c: &mut Cursor,
    buffer: *const u8,
    config: &ScanConfig,
    names: &Names,
) -> Step {
    // SAFETY: the caller vouches for the buffer, which outlives this call.
    let w = unsafe { Window::new(buffer) };
    if h.mode == BLOCK {
        // What needs no more bytes comes first: a token must be looked up before its last byte passes.
        match h.inner {
            NAME_DONE => return name_done(h, config),
            VALUE_DONE => return value_done(h),
            EVICT => return evict(h),
            _ => {}
        }
        if h.left == 0 {
            return fragment_end(h);
        }
    }
    let at = c.at;
    if at >= c.end {
        return Step::More;
    }
    let left = c.end - at;
    match h.mode {
        FRAME => frame(h, c, w, config, at, left),
        SKIP => skip(h, c, at, left),
        PAD => pad_length(h, c, w, at),
        PRIORITY => priority(h, c, at, left),
        _ => match h.inner {
            FIELD => field(h, c, w, config, names, at),
            INTEGER => integer(h, c, w, config, names, at),
            _ => length(h, c, w, config, names, at),
        },
    }
}

/// Reads `bytes`, wherever they are cut; the host's way.
#[cfg(not(target_arch = "bpf"))]
pub fn read<S: Sink>(h: &mut H2, bytes: &[u8], config: &ScanConfig, names: &Names, sink: &mut S) -> Step {
    use crate::head::{BUFFER, FRONT, WINDOW};
    let mut buffer = [0u8; BUFFER];
    for window in bytes.chunks(WINDOW) {
        if let Some(to) = buffer.get_mut(FRONT..FRONT + window.len()) {
            to.copy_from_slice(window);
        }
        #[allow(clippy::cast_possible_truncation, reason = "at most WINDOW")]
        let mut c = Cursor { at: 0, end: window.len() as u32, head: 0, last: 0 };
        loop {
            // SAFETY: the array is `BUFFER` initialised bytes.
            match unsafe { step(h, &mut c, buffer.as_ptr(), config, names, sink) } {
                Step::Again => {}
                Step::More => break,
                other => return other,
            }
        }
    }
    Step::More
}

const _: () = {
    assert!(size_of::<Doom>() == 40);
    assert!(size_of::<Open>() == 24);
    assert!(size_of::<Entry>() == 24);
    assert!(
        size_of::<H2>()
            == 32 + 16 + 8 + 32 + 16 + 40 + 8 + 40 + 21 * 4 + 24 + 4 + 16 + 24 * (SLOTS + OLDER + ENTRIES)
    );
    assert!(ENTRIES * 32 == TABLE_MAX as usize && ENTRIES.is_power_of_two());
};
