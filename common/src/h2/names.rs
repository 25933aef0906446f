//! The names of the static table (RFC 7541 appendix A), in so far as they matter.

use crate::layout::{KIND_API_KEY, KIND_AUTHORIZATION, ScanConfig};

/// Entries of the static table.
pub const STATIC: u32 = 61;

const NAMES: [&str; 61] = [
    ":authority",
    ":method",
    ":method",
    ":path",
    ":path",
    ":scheme",
    ":scheme",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    ":status",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "accept",
    "access-control-allow-origin",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-range",
    "content-type",
    "cookie",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "link",
    "location",
    "max-forwards",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "refresh",
    "retry-after",
    "server",
    "set-cookie",
    "strict-transport-security",
    "transfer-encoding",
    "user-agent",
    "vary",
    "via",
    "www-authenticate",
];

/// Of each static entry: its name's length in the low five bits, its name's `KIND_` above. Slot 0 is unused.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names([u8; 64]);

impl Names {
    /// For the names that a scanner looks for.
    pub fn new(config: &ScanConfig) -> Self {
        let mut names = [0; 64];
        for (slot, name) in names.iter_mut().skip(1).zip(NAMES) {
            let mut text = [0u64; 4];
            for (i, b) in name.bytes().enumerate() {
                if let Some(word) = text.get_mut(i / 8) {
                    *word |= u64::from(b) << (i % 8 * 8);
                }
            }
            #[allow(
                clippy::cast_possible_truncation,
                reason = "the longest has 27 bytes, and kinds are small"
            )]
            {
                *slot = name.len() as u8 | kind_of(config, &text, name.len() as u32) << 5;
            }
        }
        Self(names)
    }

    /// The length of a name, and what it means.
    #[inline(always)]
    pub const fn of(&self, index: u32) -> (u32, u8) {
        let b = self.0[(index & 63) as usize];
        ((b & 31) as u32, b >> 5)
    }
}

/// What a name means: a `KIND_` constant, 0 for none of interest. `text` holds its first 32 bytes, zero behind its end.
#[inline(always)]
pub fn kind_of(config: &ScanConfig, text: &[u64; 4], len: u32) -> u8 {
    let mut kind = 0;
    for p in &config.names {
        let same = (text[0] ^ p.word[0]) & p.mask[0]
            | (text[1] ^ p.word[1]) & p.mask[1]
            | (text[2] ^ p.word[2]) & p.mask[2]
            | (text[3] ^ p.word[3]) & p.mask[3]
            == 0;
        if same && p.len == len && len != 0 && (p.kind == KIND_AUTHORIZATION || p.kind == KIND_API_KEY) {
            #[allow(clippy::cast_possible_truncation, reason = "kinds are small constants")]
            {
                kind = p.kind as u8;
            }
        }
    }
    kind
}

const _: () = assert!(size_of::<Names>() == 64 && NAMES.len() == STATIC as usize);
