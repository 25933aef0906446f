//! The token: hashed as it is read.

use super::{
    Cursor, LINE, LONG_TOKEN, ODD_CONTROL, ODD_CREDENTIALS, ODD_LONG_TOKEN, SCHEME, SIGNATURE, SKIP, Scan,
    Sink, Step, TOKEN, TOKEN_END,
    window::{Window, forget, is_line_end},
};
use crate::{
    fingerprint::DenyFingerprint,
    layout::{KIND_AUTHORIZATION, ScanConfig},
    word::{self, HIGH},
};

const ONES: u64 = 0x0101_0101_0101_0101;
/// Rounds of four words that one step hashes at most.
const ROUNDS: u32 = 8;
/// Words that one step looks at closely.
const SLOW: u32 = 1;

/// Whether four words hold nothing but token characters that neither end nor divide one. May say no without
/// need (bytes above ASCII), never yes.
///
/// Adding to seven-bit bytes carries into the high bit and no further: `| 2` makes the comma a dot, `^` makes
/// that zero, and zero alone does not reach the high bit; likewise all below 0x21.
#[inline(always)]
const fn plain(a: u64, b: u64, c: u64, d: u64) -> bool {
    if (a | b | c | d) & HIGH != 0 {
        return false;
    }
    high(a) & high(b) & high(c) & high(d) & HIGH == HIGH
}

/// The same of one word.
#[inline(always)]
const fn plain_word(x: u64) -> bool {
    x & HIGH == 0 && high(x) & HIGH == HIGH
}

/// Marks the bytes of a word below 0x80 that are nothing special.
#[inline(always)]
const fn high(x: u64) -> u64 {
    (((x | (2 * ONES)) ^ (0x2e * ONES)) + 0x7f * ONES) & (x + 0x5f * ONES)
}

/// How many dots there are in four words that hold nothing else special; more than four words can hold where they do.
#[inline(always)]
const fn dots_alone(a: u64, b: u64, c: u64, d: u64) -> u32 {
    /// A bit for each dot.
    #[inline(always)]
    const fn dots(x: u64) -> u64 {
        word::eq(x, b'.') >> 7
    }
    /// Makes a letter of a dot.
    const LETTER: u64 = (b'.' ^ b'A') as u64;
    let (p, q, r, s) = (dots(a), dots(b), dots(c), dots(d));
    if !plain(a ^ p * LETTER, b ^ q * LETTER, c ^ r * LETTER, d ^ s * LETTER) {
        return 64;
    }
    ((p + q + r + s).wrapping_mul(ONES) >> 56) as u32
}

/// Marks exactly what may end or divide a token: blanks, dots, and the comma in `Authorization`.
#[inline(always)]
const fn specials(x: u64, kind: u8) -> u64 {
    let m = word::blank(x) | word::eq(x, b'.');
    if kind as u32 == KIND_AUTHORIZATION { m | word::eq(x, b',') } else { m }
}

/// Hashes a token: rounds of four words where nothing special is among them, else up to the next special byte.
#[inline(always)]
pub(super) fn token(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    mut at: u32,
    mut left: u32,
) -> Step {
    if s.token_len == 0 && left >= 2 {
        let start = w.word::<0>(at) & 0xffff;
        let ey = u64::from(u16::from_le_bytes(*b"ey"));
        let ew = u64::from(u16::from_le_bytes(*b"ew"));
        s.jws = u8::from(start == ey || start == ew);
    }
    let mut sip = s.sip;
    if s.seen == 0 {
        for _ in 0..ROUNDS {
            if left < 32 {
                break;
            }
            let (x1, x2, x3, x4) = (w.word::<0>(at), w.word::<8>(at), w.word::<16>(at), w.word::<24>(at));
            if !plain(x1, x2, x3, x4) {
                let more = dots_alone(x1, x2, x3, x4);
                if u32::from(s.dots) + more > 1 {
                    break;
                }
                #[allow(clippy::cast_possible_truncation, reason = "at most one")]
                {
                    s.dots += more as u8;
                }
            }
            sip.word(x1);
            sip.word(x2);
            sip.word(x3);
            sip.word(x4);
            s.token_len += 32;
            at += 32;
            left -= 32;
        }
        for _ in 0..3 {
            let x = w.word::<0>(at);
            if left < 8 || !plain_word(x) {
                break;
            }
            sip.word(x);
            s.token_len += 8;
            at += 8;
            left -= 8;
        }
    }
    // A few words in which something special may stand.
    for _ in 0..SLOW {
        let x = w.word::<0>(at);
        // Marks below `seen` were dealt with before.
        let seen = u32::from(s.seen & 7) * 8;
        let special = (specials(x, s.kind) >> seen) << seen;
        let k = if special == 0 { 8 } else { word::first(special) };
        if x & HIGH != 0 && word::keep_to(x, if k < left { k } else { left }) & HIGH != 0 {
            // White space to servers that split at Unicode's.
            s.oddities |= ODD_CONTROL;
        }
        if special != 0 && k < left {
            if w.byte(at + k) != b'.' {
                ended(s, k, word::keep(x, k));
                at += k;
                break;
            }
            s.dots = s.dots.saturating_add(1);
            #[allow(clippy::cast_possible_truncation, reason = "k < 8")]
            {
                s.seen = k as u8 + 1;
            }
            if s.dots == 2 && s.jws != 0 {
                s.signing = sip.finish(word::keep(x, k), s.token_len + k);
                if left > k + 1 {
                    // What follows is no part of the name, unless there is a third dot: read on without
                    // hashing.
                    s.sip = sip;
                    s.hash_at = at;
                    s.mode = SIGNATURE;
                    c.at = at + k + 1;
                    return Step::Again;
                }
            }
            if k != 7 {
                continue;
            }
        } else if left < 8 {
            s.sip = sip;
            c.at = at;
            return Step::More;
        }
        sip.word(x);
        s.token_len += 8;
        s.seen = 0;
        at += 8;
        left -= 8;
    }
    s.sip = sip;
    c.at = at;
    if forget(&mut s.mode) == TOKEN_END {
        return Step::Again;
    }
    if s.token_len > config.max_token {
        s.long_tokens += 1;
        s.mode = LONG_TOKEN;
        s.fold = SKIP;
        if config.refuse & ODD_LONG_TOKEN != 0 {
            s.oddities |= ODD_LONG_TOKEN;
            return Step::Odd;
        }
    }
    Step::Again
}

/// Looks for the end of a signature. A third dot, or the window's end before it, takes the hash up again
/// where it was left: the text may be no JWS after all.
#[inline(always)]
pub(super) fn signature(s: &mut Scan, c: &mut Cursor, w: Window, mut at: u32, mut left: u32) -> Step {
    for _ in 0..ROUNDS {
        if left < 32 || !plain(w.word::<0>(at), w.word::<8>(at), w.word::<16>(at), w.word::<24>(at)) {
            break;
        }
        at += 32;
        left -= 32;
    }
    for _ in 0..4 {
        let special = specials(w.word::<0>(at), s.kind);
        if w.word::<0>(at) & HIGH != 0 {
            // Not looked at here.
            break;
        }
        if special != 0 {
            let k = word::first(special);
            if k >= left || w.byte(at + k) == b'.' {
                break;
            }
            ended(s, at + k - s.hash_at, 0);
            c.at = at + k;
            return Step::Again;
        }
        if left < 8 {
            break;
        }
        at += 8;
        left -= 8;
    }
    c.at = at;
    let special = specials(w.word::<0>(at), s.kind);
    if left >= 8 && special == 0 && w.word::<0>(at) & HIGH == 0 {
        return Step::Again;
    }
    c.at = s.hash_at;
    s.mode = TOKEN;
    if s.seen == 8 {
        // The second dot was its word's last byte.
        s.sip.word(w.word::<0>(s.hash_at));
        s.token_len += 8;
        s.seen = 0;
        c.at += 8;
    }
    Step::Again
}

/// Marks the token as ended, `more` bytes on; `tail` is what of its last word is not hashed yet.
#[inline(always)]
fn ended(s: &mut Scan, more: u32, tail: u64) {
    s.token_len += more;
    s.mode = TOKEN_END;
    if !named_by_signing_input(s) {
        s.signing[0] = tail;
    }
}

/// Whether the fingerprint is that of the signing input.
#[inline(always)]
const fn named_by_signing_input(s: &Scan) -> bool {
    s.jws != 0 && s.dots == 2
}

/// Looks a token up whose end [`ended`] has marked.
#[inline(always)]
pub(super) fn end<S: Sink>(
    s: &mut Scan,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    sink: &mut S,
) -> Step {
    let (at, len) = (forget(&mut c.at), forget(&mut s.token_len));
    let b = w.byte(at);
    s.mode = SKIP;
    if u32::from(s.kind) == KIND_AUTHORIZATION {
        // Perhaps another credential follows in the same field.
        s.mode = SCHEME;
        if s.credentials != 0 {
            s.oddities |= ODD_CREDENTIALS;
        }
        s.credentials = 1;
    }
    s.fold = s.mode;
    if is_line_end(b) {
        s.mode = SKIP;
        if b == b'\r' && at + 1 < c.end && w.byte(at + 1) == b'\n' {
            s.mode = LINE;
            c.at = at + 2;
        }
    } else if b < 0x20 && b != b'\t' {
        // Neither a scheme nor a token begins with it.
        s.oddities |= ODD_CONTROL;
        s.mode = SKIP;
    }
    if len == 0 {
        return Step::Again;
    }
    if len > config.max_token {
        s.long_tokens += 1;
        if config.refuse & ODD_LONG_TOKEN != 0 {
            s.oddities |= ODD_LONG_TOKEN;
            return Step::Odd;
        }
        return Step::Again;
    }
    s.tokens += 1;
    s.named += 1;
    s.token_end = s.head_before.wrapping_add(at.wrapping_sub(c.head));
    let fingerprint = if named_by_signing_input(s) { s.signing } else { s.sip.finish(s.signing[0], len) };
    s.signing = fingerprint;
    if sink.token(DenyFingerprint(fingerprint)) { Step::Refused } else { Step::Again }
}

/// Steps over a token that is over the limit; another credential may follow it.
#[inline(always)]
pub(super) fn long_token(s: &mut Scan, c: &mut Cursor, w: Window, at: u32, left: u32) -> Step {
    let m = word::blank(w.word::<0>(at));
    if m != 0 && word::first(m) < left {
        c.at = at + word::first(m);
        s.mode = if u32::from(s.kind) == KIND_AUTHORIZATION { SCHEME } else { SKIP };
    } else {
        c.at = at + if left < 8 { left } else { 8 };
    }
    Step::Again
}
