//! SipHash-1-3 with 128 bits of output, and the two names that a token has under it.
//!
//! The key is secret and outputs are shown to operators alone, so one compression round a word is enough
//! (Aumasson & Bernstein 2012; the 1-3 variant is what hash tables use against chosen input).
//!
//! * The **deny** fingerprint of a compact JWS (starts with `ey` or `ew`, exactly two dots) is over its
//!   signing input, the text up to the second dot: RFC 7515 §5.1 signs those very characters, so all
//!   signature twins and re-encodings of one token share it. Any other token is hashed whole.
//! * The **allow** fingerprint is always over the whole text, in a domain of its own: a forged signature
//!   must never find a cached allow.

use crate::word;

/// A 128-bit fingerprint key with the id that stands beside every fingerprint made under it.
///
/// It is key material: it has no `Debug` and is never logged.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Key {
    /// First half of the SipHash key.
    pub k0: u64,
    /// Second half of the SipHash key.
    pub k1: u64,
}

/// Separates allow fingerprints from deny fingerprints of the same text.
const ALLOW_DOMAIN: u64 = 0x706f_7274_616c_6c77;

/// Separates names of requests from those of tokens.
const REQUEST_DOMAIN: u64 = 0x706f_7274_7265_7175;

/// A token's name in deny maps, the store, feeds and logs.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DenyFingerprint(pub [u64; 2]);

/// A token text's name in caches of allows and identities. Never sent anywhere.
#[repr(C, align(8))]
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct AllowFingerprint(pub [u64; 2]);

impl DenyFingerprint {
    /// The sixteen bytes, first half first, each little-endian: the form that is stored and shown in hex.
    pub const fn to_bytes(self) -> [u8; 16] {
        let (a, b) = (self.0[0].to_le_bytes(), self.0[1].to_le_bytes());
        let mut out = [0; 16];
        let mut i = 0;
        while i < 8 {
            out[i] = a[i];
            out[i + 8] = b[i];
            i += 1;
        }
        out
    }

    /// The inverse of [`Self::to_bytes`].
    pub const fn from_bytes(b: [u8; 16]) -> Self {
        Self([
            u64::from_le_bytes([b[0], b[1], b[2], b[3], b[4], b[5], b[6], b[7]]),
            u64::from_le_bytes([b[8], b[9], b[10], b[11], b[12], b[13], b[14], b[15]]),
        ])
    }
}

impl core::fmt::Display for DenyFingerprint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        self.to_bytes().iter().try_for_each(|b| write!(f, "{b:02x}"))
    }
}

impl core::fmt::Debug for DenyFingerprint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "deny:{self}")
    }
}

impl core::fmt::Debug for AllowFingerprint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("allow:…")
    }
}

/// A text that is not 32 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAFingerprint;

impl core::fmt::Display for NotAFingerprint {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("a fingerprint is 32 hexadecimal digits, as `portcullis fingerprint` prints it")
    }
}

#[cfg(not(target_arch = "bpf"))]
impl core::error::Error for NotAFingerprint {}

#[cfg(not(target_arch = "bpf"))]
impl core::str::FromStr for DenyFingerprint {
    type Err = NotAFingerprint;

    fn from_str(s: &str) -> Result<Self, NotAFingerprint> {
        if s.len() != 32 || !s.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotAFingerprint);
        }
        let mut bytes = [0u8; 16];
        for (byte, pair) in bytes.iter_mut().zip(s.as_bytes().chunks_exact(2)) {
            let digits = core::str::from_utf8(pair).map_err(|_| NotAFingerprint)?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| NotAFingerprint)?;
        }
        Ok(Self::from_bytes(bytes))
    }
}

/// The running state of one SipHash-1-3-128. Words first, then the tail with [`Self::finish`].
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Sip {
    v0: u64,
    v1: u64,
    v2: u64,
    v3: u64,
}

macro_rules! round {
    ($s:ident) => {
        $s.v0 = $s.v0.wrapping_add($s.v1);
        $s.v2 = $s.v2.wrapping_add($s.v3);
        $s.v1 = $s.v1.rotate_left(13) ^ $s.v0;
        $s.v3 = $s.v3.rotate_left(16) ^ $s.v2;
        $s.v0 = $s.v0.rotate_left(32);
        $s.v2 = $s.v2.wrapping_add($s.v1);
        $s.v0 = $s.v0.wrapping_add($s.v3);
        $s.v1 = $s.v1.rotate_left(17) ^ $s.v2;
        $s.v3 = $s.v3.rotate_left(21) ^ $s.v0;
        $s.v2 = $s.v2.rotate_left(32);
    };
}

impl Sip {
    /// The state before any text, for allow fingerprints.
    #[inline(always)]
    pub const fn for_allow(key: &Key) -> Self {
        Self::new(&Key { k0: key.k0, k1: key.k1 ^ ALLOW_DOMAIN })
    }

    /// The state before any text, for names of requests.
    #[inline(always)]
    pub const fn for_request(key: &Key) -> Self {
        Self::new(&Key { k0: key.k0, k1: key.k1 ^ REQUEST_DOMAIN })
    }

    /// The state before any text, for deny fingerprints.
    #[inline(always)]
    pub const fn new(key: &Key) -> Self {
        Self {
            v0: key.k0 ^ 0x736f_6d65_7073_6575,
            v1: key.k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee,
            v2: key.k0 ^ 0x6c79_6765_6e65_7261,
            v3: key.k1 ^ 0x7465_6462_7974_6573,
        }
    }

    /// Takes in eight bytes of text.
    #[inline(always)]
    pub const fn word(&mut self, m: u64) {
        self.v3 ^= m;
        round!(self);
        self.v0 ^= m;
    }

    /// Ends the hash: `tail` holds the last `len % 8` bytes (zero above), `len` is the whole text's length.
    #[inline(always)]
    pub const fn finish(mut self, tail: u64, len: u32) -> [u64; 2] {
        self.word(tail | ((len as u64 & 0xff) << 56));
        self.v2 ^= 0xee;
        round!(self);
        round!(self);
        round!(self);
        let first = self.v0 ^ self.v1 ^ self.v2 ^ self.v3;
        self.v1 ^= 0xdd;
        round!(self);
        round!(self);
        round!(self);
        [first, self.v0 ^ self.v1 ^ self.v2 ^ self.v3]
    }
}

/// Hashes a text whole.
fn hash(key: &Key, text: &[u8]) -> [u64; 2] {
    let mut sip = Sip::new(key);
    let mut words = text.chunks_exact(8);
    for w in &mut words {
        // SAFETY: `chunks_exact(8)` yields eight bytes.
        sip.word(unsafe { word::load::<0>(w.as_ptr()) });
    }
    let mut tail = [0u8; 8];
    let rest = words.remainder();
    tail[..rest.len()].copy_from_slice(rest);
    #[allow(clippy::cast_possible_truncation, reason = "only the low byte of the length is hashed")]
    sip.finish(u64::from_le_bytes(tail), text.len() as u32)
}

/// The part of a compact JWS that its signature covers (RFC 7515 §5.1): the text up to its second dot.
/// `None` where the text is not shaped as one.
pub fn signing_input(token: &[u8]) -> Option<&[u8]> {
    if !(token.starts_with(b"ey") || token.starts_with(b"ew")) {
        return None;
    }
    let mut dots = token.iter().enumerate().filter(|(_, b)| **b == b'.').map(|(i, _)| i);
    let (_, second) = (dots.next()?, dots.next()?);
    if dots.next().is_some() {
        return None;
    }
    token.get(..second)
}

impl Key {
    /// The deny fingerprint of a token's text.
    pub fn deny(&self, token: &[u8]) -> DenyFingerprint {
        DenyFingerprint(hash(self, signing_input(token).unwrap_or(token)))
    }

    /// The allow fingerprint of a token's text.
    pub fn allow(&self, token: &[u8]) -> AllowFingerprint {
        AllowFingerprint(self.digest(ALLOW_DOMAIN, token))
    }

    /// The name of all requests with this method and target, which is its text up to the version: `GET /a?b=c`.
    pub fn request(&self, method_and_target: &[u8]) -> [u64; 2] {
        self.digest(REQUEST_DOMAIN, method_and_target)
    }

    /// A keyed 128-bit name of any other text (a request body, say), in a `domain` of the caller's.
    pub fn digest(&self, domain: u64, text: &[u8]) -> [u64; 2] {
        hash(&Self { k0: self.k0, k1: self.k1 ^ domain }, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use siphasher::sip128::{Hasher128, SipHasher13};
    use std::hash::Hasher;

    const KEY: Key = Key { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };

    fn theirs(key: &Key, text: &[u8]) -> [u64; 2] {
        let mut h = SipHasher13::new_with_keys(key.k0, key.k1);
        h.write(text);
        let h = h.finish128();
        [h.h1, h.h2]
    }

    proptest! {
        #[test]
        fn agrees_with_the_siphasher_crate(k0: u64, k1: u64, text in prop::collection::vec(any::<u8>(), 0..600)) {
            let key = Key { k0, k1 };
            prop_assert_eq!(hash(&key, &text), theirs(&key, &text));
        }

        #[test]
        fn hex_form_is_read_back(a: u64, b: u64) {
            let fp = DenyFingerprint([a, b]);
            prop_assert_eq!(fp.to_string().parse::<DenyFingerprint>(), Ok(fp));
        }
    }

    #[test]
    fn signature_twins_share_the_deny_but_not_the_allow_fingerprint() {
        let (a, b) = (b"eyJh.eyJp.sigA".as_slice(), b"eyJh.eyJp.sigB".as_slice());
        assert_eq!(KEY.deny(a), KEY.deny(b));
        assert_eq!(KEY.deny(a).0, theirs(&KEY, b"eyJh.eyJp"));
        assert_ne!(KEY.allow(a), KEY.allow(b));
    }

    #[test]
    fn what_is_not_a_jws_is_hashed_whole() {
        for text in ["abc.def.ghi", "eyJh.eyJp", "eyJh.a.b.c.d", "ey", "e.y.z", ""] {
            assert_eq!(KEY.deny(text.as_bytes()).0, theirs(&KEY, text.as_bytes()), "{text}");
        }
        assert_eq!(signing_input(b"ewo.x."), Some(b"ewo.x".as_slice()));
    }

    #[test]
    fn deny_and_allow_of_one_opaque_text_differ() {
        assert_ne!(KEY.deny(b"opaque").0, KEY.allow(b"opaque").0);
    }

    #[test]
    fn bad_hex_is_refused() {
        for s in ["", "12", "zz000000000000000000000000000000", "+0000000000000000000000000000000"] {
            assert_eq!(s.parse::<DenyFingerprint>(), Err(NotAFingerprint), "{s}");
        }
    }
}
