//! Keys and values of the maps that the kernel programs and the daemon share.
//!
//! Every type is `repr(C)`, padded by name, free of `bool`, `Option` and enums, and has its size asserted
//! where both sides compile it. [`VERSION`] stands in the pinned `META` map; a daemon adopts pinned maps
//! only where it equals its own.
//!
//! Times are nanoseconds of `CLOCK_BOOTTIME`, so that the kernel's idea of an expiry counts suspended time
//! and ignores steps of the wall clock.

use crate::{
    fingerprint::{DenyFingerprint, Key},
    h2::Names,
};

/// Version of everything in this module. Raised with any change of size, order or meaning.
pub const VERSION: u32 = 7;

/// Names that the head scanner looks for: four of its own, up to four configured, and of each configured one
/// with dashes its spelling with underscores, which CGI and WSGI make the same.
pub const NAMES: usize = 12;
/// Longest configurable header name in bytes.
pub const NAME_MAX: usize = 31;
/// Authorization schemes that carry a token.
pub const SCHEMES: usize = 8;
/// Longest configurable scheme name in bytes.
pub const SCHEME_MAX: usize = 15;
/// Longest answer to a refused request, head and body together, in bytes.
pub const ANSWER_MAX: usize = 512;
/// Slots of the tombstone filter; a power of two.
pub const TOMB_SLOTS: u32 = 4096;

/// A word to find without regard to letter case: `(text ^ word) & mask == 0` in each eight bytes.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Pattern<const WORDS: usize> {
    /// The text in lower case, zero-padded.
    pub word: [u64; WORDS],
    /// Which bits must agree: none beyond the length, all but the case bit for letters, all for the rest.
    pub mask: [u64; WORDS],
    /// Length in bytes; 0 for an unused slot.
    pub len: u32,
    /// What it means: one of the `KIND_` constants for header names, unused for schemes.
    pub kind: u32,
}

/// A text that cannot be a [`Pattern`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PatternTooLong;

impl<const WORDS: usize> Pattern<WORDS> {
    /// An unused slot.
    pub const EMPTY: Self = Self { word: [0; WORDS], mask: [0; WORDS], len: 0, kind: 0 };

    /// Builds the pattern of `text`, at most `8 * WORDS - 1` bytes.
    pub const fn new(text: &[u8], kind: u32) -> Result<Self, PatternTooLong> {
        if text.len() >= 8 * WORDS {
            return Err(PatternTooLong);
        }
        let mut p = Self::EMPTY;
        let mut i = 0;
        while i < text.len() {
            let (lower, shift) = (text[i].to_ascii_lowercase(), (i % 8) * 8);
            let mask = if lower.is_ascii_lowercase() { 0xdf } else { 0xff };
            p.word[i / 8] |= (lower as u64) << shift;
            p.mask[i / 8] |= mask << shift;
            i += 1;
        }
        #[allow(clippy::cast_possible_truncation, reason = "bounded above")]
        {
            p.len = text.len() as u32;
        }
        p.kind = kind;
        Ok(p)
    }

    /// Turns dashes into underscores; tells whether there was one.
    fn with_underscores(&mut self) -> bool {
        let mut any = false;
        for word in &mut self.word {
            let mut bytes = word.to_le_bytes();
            for b in bytes.iter_mut().filter(|b| **b == b'-') {
                *b = b'_';
                any = true;
            }
            *word = u64::from_le_bytes(bytes);
        }
        any
    }
}

/// The header is `Authorization`: a scheme, then the token.
pub const KIND_AUTHORIZATION: u32 = 1;
/// The header's value is the token.
pub const KIND_API_KEY: u32 = 2;
/// `Content-Length`.
pub const KIND_CONTENT_LENGTH: u32 = 3;
/// `Transfer-Encoding`.
pub const KIND_TRANSFER_ENCODING: u32 = 4;
/// `Upgrade`.
pub const KIND_UPGRADE: u32 = 5;

/// Where a header's name stands in [`ScanConfig::name_bits`], by its first and third byte in any letter case:
/// many names of no interest begin with `X-`.
#[inline(always)]
pub const fn name_bit(first: u8, third: u8) -> u32 {
    ((first & 31) as u32 + 3 * (third & 31) as u32) & 63
}

/// What the head scanner looks for.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct ScanConfig {
    /// The fingerprint key.
    pub key: Key,
    /// Bit [`name_bit`] is set for each name in `names`.
    pub name_bits: u64,
    /// Longest head read, in bytes.
    pub max_head: u32,
    /// Longest token looked up, in bytes.
    pub max_token: u32,
    /// Oddities that are refused: `ODD_` marks.
    pub refuse: u32,
    /// Padding.
    pub pad: u32,
    /// Header names, unused slots last.
    pub names: [Pattern<4>; NAMES],
    /// Authorization schemes, unused slots last.
    pub schemes: [Pattern<2>; SCHEMES],
}

/// A scanner configuration that cannot be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScanConfigError {
    /// More names or schemes than there are slots.
    TooMany,
    /// A name or scheme that is too long.
    TooLong,
}

impl From<PatternTooLong> for ScanConfigError {
    fn from(_: PatternTooLong) -> Self {
        Self::TooLong
    }
}

impl ScanConfig {
    /// A configuration for these schemes of `Authorization` and these API-key headers (at most four).
    pub fn new(key: Key, schemes: &[&str], key_headers: &[&str]) -> Result<Self, ScanConfigError> {
        let mut c = Self {
            key,
            name_bits: 0,
            max_head: crate::head::MAX_HEAD,
            max_token: crate::head::MAX_TOKEN,
            refuse: 0,
            pad: 0,
            names: [Pattern::EMPTY; NAMES],
            schemes: [Pattern::EMPTY; SCHEMES],
        };
        let own = [
            ("authorization", KIND_AUTHORIZATION),
            ("content-length", KIND_CONTENT_LENGTH),
            ("transfer-encoding", KIND_TRANSFER_ENCODING),
            ("upgrade", KIND_UPGRADE),
        ];
        if schemes.len() > SCHEMES || key_headers.len() > 4 {
            return Err(ScanConfigError::TooMany);
        }
        let all = own.into_iter().chain(key_headers.iter().map(|n| (*n, KIND_API_KEY)));
        let mut slots = c.names.iter_mut();
        for (name, kind) in all {
            let mut spelling = Pattern::new(name.as_bytes(), kind)?;
            let [first, _, third] = begin(name);
            c.name_bits |= 1 << name_bit(first, third);
            let Some(slot) = slots.next() else { return Err(ScanConfigError::TooMany) };
            *slot = spelling;
            if kind == KIND_API_KEY && spelling.with_underscores() {
                let under = |b| if b == b'-' { b'_' } else { b };
                c.name_bits |= 1 << name_bit(under(first), under(third));
                let Some(slot) = slots.next() else { return Err(ScanConfigError::TooMany) };
                *slot = spelling;
            }
        }
        for (slot, scheme) in c.schemes.iter_mut().zip(schemes) {
            *slot = Pattern::new(scheme.as_bytes(), 0)?;
        }
        Ok(c)
    }

    /// The configuration that reads responses: only how they are framed matters.
    pub fn answers() -> Result<Self, ScanConfigError> {
        let mut c = Self::new(Key { k0: 0, k1: 0 }, &[], &[])?;
        c.max_head = 1 << 20;
        c.name_bits = 0;
        let own = [("content-length", KIND_CONTENT_LENGTH), ("transfer-encoding", KIND_TRANSFER_ENCODING)];
        c.names = [Pattern::EMPTY; NAMES];
        for (slot, (name, kind)) in c.names.iter_mut().zip(own) {
            *slot = Pattern::new(name.as_bytes(), kind)?;
            let [first, _, third] = begin(name);
            c.name_bits |= 1 << name_bit(first, third);
        }
        Ok(c)
    }
}

/// The bytes of a name's beginning, as they stand in a header line.
fn begin(name: &str) -> [u8; 3] {
    [0, 1, 2].map(|i| name.as_bytes().get(i).copied().unwrap_or(b':'))
}

/// Answer the client, reset the server's side.
pub const REACT_RESPOND: u32 = 0;
/// Reset both sides.
pub const REACT_RESET: u32 = 1;
/// Drop in silence.
pub const REACT_DROP: u32 = 2;
/// Count, tell, and let through.
pub const REACT_OBSERVE: u32 = 3;

/// One HTTP response, laid out for the kernel.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Answer {
    /// Bytes of `bytes` in use; a multiple of four, below [`ANSWER_MAX`].
    pub len: u32,
    /// The Internet checksum's sum (RFC 1071) over `bytes`, read in the machine's byte order, not yet inverted.
    pub sum: u32,
    /// Status line, headers and body.
    pub bytes: [u8; ANSWER_MAX],
}

/// The request's token is revoked, expired or otherwise no credential any more: 401.
pub const ANSWER_TOKEN: u32 = 0;
/// The request is denied to this token: 403.
pub const ANSWER_DENIED: u32 = 1;
/// The token's requests are limited: 429.
pub const ANSWER_LIMITED: u32 = 2;
/// The request is one that parsers read differently: 400.
pub const ANSWER_MALFORMED: u32 = 3;
/// The head is too long: 431.
pub const ANSWER_TOO_LONG: u32 = 4;
/// Number of answers.
pub const ANSWERS: usize = 5;
/// Length of what is told on HTTP/2: an empty `SETTINGS` frame, in case the server has not spoken yet, then a `GOAWAY`
/// frame with a text.
pub const GOAWAY_LEN: usize = 64;
/// Where in it the last stream's number stands: at an even place, so that checksums are easily mended.
pub const GOAWAY_STREAM: u32 = 18;

/// TLS and other opaque traffic on a guarded port passes.
pub const OPAQUE_PASS: u32 = 0;
/// It is refused.
pub const OPAQUE_REFUSE: u32 = 1;

/// Requests whose token and target have no verdict yet pass.
pub const UNKNOWN_PASS: u32 = 0;
/// They pass, and the daemon is shown each once, to decide.
pub const UNKNOWN_LEARN: u32 = 1;
/// They wait until it has decided.
pub const UNKNOWN_HOLD: u32 = 2;

/// The kernel programs' settings: one entry, written before the program is attached and never after.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct GuardConfig {
    /// What the scanner looks for, and the fingerprint key.
    pub scan: ScanConfig,
    /// How responses are read.
    pub answers_scan: ScanConfig,
    /// One of the `REACT_` constants.
    pub reaction: u32,
    /// One of the `OPAQUE_` constants.
    pub opaque: u32,
    /// One of the `UNKNOWN_` constants.
    pub unknown: u32,
    /// Offset of `rcv_nxt` in the running kernel's `struct tcp_request_sock`; 0 where it is not known.
    pub request_rcv_nxt: u32,
    /// What the names of HPACK's static table mean.
    pub names: Names,
    /// What the clients of refused requests are told, by `ANSWER_` constant; then the same for HTTP/2.
    pub answers: [Answer; 2 * ANSWERS],
}

/// State of a pinned set of maps: one entry, and the first thing a starting daemon reads.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// [`VERSION`] of the daemon that made the maps.
    pub version: u32,
    /// Id of the key that made the fingerprints in them.
    pub key_id: u32,
}

/// The live switches: one entry, rewritten as policies change.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Active {
    /// Generation of the active policy set; verdicts of any other count for nothing.
    pub generation: u64,
    /// Raised after each revocation: connections check their tokens again where it changed.
    pub epoch: u64,
    /// `FEATURE_` marks: what the programs need not look for is not looked for.
    pub features: u64,
}

/// Some requests are denied by token and target: see [`RequestKey`].
pub const FEATURE_REQUESTS: u64 = 1 << 0;
/// Some tokens have a rate limit: see [`Limit`].
pub const FEATURE_LIMITS: u64 = 1 << 1;

/// Key of the deny map.
pub type DenyKey = DenyFingerprint;

/// Value of the deny map: the strongest claims on one token, a revocation's and a policy's kept apart so
/// that neither hides or outlives the other.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DenyValue {
    /// Revoked until then (boot time, ns); 0 where not revoked, [`FOREVER`] where it does not lapse.
    pub revoked_until: u64,
    /// Condemned by a policy until then (boot time, ns); 0 where not condemned.
    pub condemned_until: u64,
    /// Policy generation that condemned it: the low half of [`Active::generation`].
    pub generation: u32,
    /// What clients are told of the condemnation: an `ANSWER_` constant. Of a revocation, [`ANSWER_TOKEN`].
    pub answer: u32,
    /// Id of the decision that condemned it; 0 where there is none.
    pub decision: u64,
}

/// Which requests a [`RequestValue`] is about: those of one token for one target.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RequestKey {
    /// The token: its deny fingerprint in the map of denied requests, its allow fingerprint among the verdicts of
    /// learn and hold mode, zero where the request has none.
    pub token: [u64; 2],
    /// [`crate::fingerprint::Key::request`] of method and target; zero for every one.
    pub request: [u64; 2],
}

/// A verdict on such requests.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RequestValue {
    /// Until when it counts (boot time, ns).
    pub until: u64,
    /// Id of the decision; 0 where there is none.
    pub decision: u64,
    /// Policy generation that gave it: the low half of [`Active::generation`].
    pub generation: u32,
    /// What clients are told of a denial: an `ANSWER_` constant.
    pub answer: u32,
    /// `VERDICT_` marks.
    pub verdict: u32,
    /// The `Reason` of a denial, by number.
    pub reason: u32,
}

/// The request is denied; without this mark it is allowed.
pub const VERDICT_DENY: u32 = 1 << 0;
/// The verdict counts for one request and is gone then.
pub const VERDICT_ONCE: u32 = 1 << 1;

/// A token's rate limit, by the generic cell rate algorithm (ITU-T I.371): one cell a request.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Theoretical arrival time of the next request (boot time, ns); the programs move it.
    pub arrival: u64,
    /// Time a request takes up, in ns: the inverse of the rate.
    pub interval: u64,
    /// How far ahead of now `arrival` may stand, in ns: (burst - 1) x interval.
    pub tolerance: u64,
    /// Until when the limit counts (boot time, ns).
    pub until: u64,
    /// Policy generation that set it: the low half of [`Active::generation`].
    pub generation: u32,
    /// Padding.
    pub pad: u32,
    /// Id of the decision that set it; 0 where there is none.
    pub decision: u64,
}

/// Longest request head that is shown to the daemon, in bytes.
pub const INQUIRY_MAX: usize = 16 * 1024;
/// Heads that may wait to be read by the daemon; a power of two.
pub const INQUIRY_SLOTS: u32 = 128;

/// A request that has no verdict yet, as the daemon is shown it: once read, its slot is overwritten.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Inquiry {
    /// Which requests are meant.
    pub key: RequestKey,
    /// Its token's deny fingerprint; zero where it has none.
    pub deny: [u64; 2],
    /// Its connection.
    pub flow: Flow,
    /// Bytes of `head` in use.
    pub len: u32,
    /// Padding.
    pub pad: u32,
    /// The head, from its method to its empty line, and room for a word behind it.
    pub head: [u8; INQUIRY_MAX + 16],
}

/// What stands before the head in a [`Inquiry`], in bytes.
pub const INQUIRY_HEADER: usize = 96;

/// An expiry that never comes.
pub const FOREVER: u64 = u64::MAX;

/// Whether a port is guarded: value of the port map, indexed by port.
pub const PORT_OPEN: u64 = 0;
/// Guarded at every address.
pub const PORT_GUARDED: u64 = 1;
/// Guarded at the addresses in the address map alone.
pub const PORT_BY_ADDRESS: u64 = 2;
/// A flag beside either: connections begin with a PROXY protocol header.
pub const PORT_PROXY: u64 = 4;
/// Likewise: connections may speak HTTP/2 from their first byte.
pub const PORT_H2C: u64 = 8;
/// The bits that tell how a port is guarded.
pub const PORT_HOW: u64 = 3;
/// From this bit on: the port's slot among the counters kept by place.
pub const PORT_SLOT: u32 = 8;

/// Interfaces, and ports, that are counted by themselves; a power of two. Slot 0 of either is for all others.
pub const PLACE_SLOTS: u32 = 64;
/// Slots of the map from interface numbers to their slots, by the number's low bits; a power of two.
pub const INTERFACE_SLOTS: u32 = 4096;

/// Key of the address map: a guarded address and port. Addresses are two words that hold
/// the sixteen bytes in network order.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressKey {
    /// IPv6, or IPv4 as IPv4-mapped IPv6, in network order.
    pub address: [u64; 2],
    /// TCP port, host order.
    pub port: u64,
}

/// A TCP connection as seen from the client: key of the tombstone map.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// Client address (IPv4 as IPv4-mapped IPv6).
    pub source: [u64; 2],
    /// Server address.
    pub destination: [u64; 2],
    /// Client port, host order.
    pub source_port: u16,
    /// Server port, host order.
    pub destination_port: u16,
    /// Interface it came in by.
    pub interface: u32,
}

/// What happened to one request: an entry of the ring buffer.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When (boot time, ns).
    pub time: u64,
    /// Whose token.
    pub fingerprint: DenyFingerprint,
    /// The decision that condemned it; 0 where there is none.
    pub decision: u64,
    /// Which connection.
    pub flow: Flow,
    /// [`crate::reason::Reason`] by number.
    pub reason: u8,
    /// [`crate::reason::Outcome`] by number: what was done.
    pub action: u8,
    /// Padding.
    pub pad: [u8; 6],
}

const _: () = {
    assert!(size_of::<Key>() == 16);
    assert!(size_of::<DenyKey>() == 16);
    assert!(size_of::<DenyValue>() == 32);
    assert!(size_of::<Pattern<4>>() == 72);
    assert!(size_of::<Pattern<2>>() == 40);
    assert!(size_of::<RequestKey>() == 32);
    assert!(size_of::<RequestValue>() == 32);
    assert!(size_of::<Limit>() == 48);
    assert!(size_of::<Inquiry>() == INQUIRY_HEADER + INQUIRY_MAX + 16);
    assert!(core::mem::offset_of!(Inquiry, head) == INQUIRY_HEADER);
    assert!(size_of::<ScanConfig>() == 16 + 24 + 12 * 72 + 8 * 40);
    assert!(size_of::<Meta>() == 8);
    assert!(size_of::<Active>() == 24);
    assert!(size_of::<Answer>() == 8 + ANSWER_MAX);
    assert!(
        size_of::<GuardConfig>() == 2 * size_of::<ScanConfig>() + 16 + 64 + 2 * ANSWERS * (8 + ANSWER_MAX)
    );
    assert!(size_of::<AddressKey>() == 24);
    assert!(size_of::<Flow>() == 40);
    assert!(size_of::<Event>() == 80);
    assert!(core::mem::offset_of!(Event, flow) == 32);
    assert!(NAME_MAX == 8 * 4 - 1 && SCHEME_MAX == 8 * 2 - 1);
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_ignore_the_case_of_letters_alone() {
        let p = Pattern::<2>::new(b"X-Api", 0).unwrap();
        let hit = |s: &[u8; 8]| (u64::from_le_bytes(*s) ^ p.word[0]) & p.mask[0] == 0;
        assert!(hit(b"x-aPI:zz"));
        assert!(!hit(b"x\rapi:zz"), "a carriage return is a dash with another case bit");
        assert!(!hit(b"x-ap)zzz"));
    }

    #[test]
    fn limits_are_kept() {
        let key = Key { k0: 1, k1: 2 };
        assert!(ScanConfig::new(key, &["Bearer"; 8], &["X-Api-Key"; 4]).is_ok());
        assert_eq!(ScanConfig::new(key, &["Bearer"; 9], &[]).err(), Some(ScanConfigError::TooMany));
        assert_eq!(ScanConfig::new(key, &[], &["a"; 5]).err(), Some(ScanConfigError::TooMany));
        assert_eq!(ScanConfig::new(key, &["sixteen-letters-"], &[]).err(), Some(ScanConfigError::TooLong));
    }
}
