//! Strings (RFC 7541 §5.2): plain or in Huffman's code, names and values.
//!
//! A step takes some bytes into [`H2::out`](super::H2), decoded, and reads them from there eight at a time. The kernel
//! programs' verifier walks each way through a step, so the decoding itself has no branches.

use super::{
    H2, LOOKUP, NAME_DONE, STRING, VALUE_DONE,
    huffman::{ACCEPT, FAIL, MACHINE},
    value::{Byte, value_byte, value_bytes},
};
use crate::{
    head::{
        Cursor, Step,
        window::{Window, forget},
    },
    layout::ScanConfig,
    word,
};

/// Bytes in the code that one step decodes: each gives at most two.
const CODED: u32 = 8;
/// Plain bytes that one step takes.
const PLAIN: u32 = 32;
/// Pieces of up to eight decoded bytes that one step reads.
const PIECES: u32 = 4;

/// Reads on in the present string, as far as the frame and the window go.
#[inline(always)]
pub(super) fn string(h: &mut H2, c: &mut Cursor, w: Window, config: &ScanConfig) -> Step {
    if h.out_at >= h.out_len {
        let mut here = c.end - c.at;
        if h.left < here {
            here = h.left;
        }
        if h.string < here {
            here = h.string;
        }
        if here == 0 {
            return Step::More;
        }
        // A value that is not looked at and does not enter the table, so that its length does not matter either: what is
        // wrong with it is the server's to find. A plain one need not be looked at anyway.
        if h.naming == 0 && h.kind == 0 && (h.coded == 0 || h.keep == 0) {
            h.decoded += here;
            h.accept = 1;
            taken(h, c, here);
            return done(h);
        }
        let at = c.at;
        if h.coded == 0 {
            let n = if here < PLAIN { here } else { PLAIN };
            h.out[0] = w.word::<0>(at);
            h.out[1] = w.word::<8>(at);
            h.out[2] = w.word::<16>(at);
            h.out[3] = w.word::<24>(at);
            h.out_len = n;
            taken(h, c, n);
        } else if !decode(h, c, w, here) {
            return Step::Broken;
        }
        h.out_at = 0;
    }
    for _ in 0..PIECES {
        let at = forget(&mut h.out_at);
        let left = forget(&mut h.out_len).wrapping_sub(at);
        if left == 0 {
            break;
        }
        let n = if left < 8 { left } else { 8 };
        // SAFETY: eight bytes from a masked offset within 40.
        let x = unsafe { word::load::<0>((&raw const h.out).cast::<u8>().add(at as usize & 31)) };
        let x = word::keep_to(x, n);
        if h.naming != 0 {
            if !name_bytes(h, x, n) {
                return Step::Broken;
            }
            h.out_at += n;
        } else if h.kind == 0 {
            h.decoded += left;
            h.out_at = h.out_len;
        } else {
            let k = value_bytes(h, x, n);
            h.out_at += k;
            h.decoded += k;
            if k == 0 {
                #[allow(clippy::cast_possible_truncation, reason = "the first byte is meant")]
                let byte = value_byte(h, config, x as u8);
                if byte == Byte::Odd {
                    return Step::Odd;
                }
                h.out_at += 1;
                h.decoded += 1;
                if byte == Byte::Ended {
                    h.after = STRING;
                    h.inner = LOOKUP;
                    if h.string == 0 && h.out_at >= h.out_len {
                        if h.accept == 0 {
                            return Step::Broken;
                        }
                        h.after = VALUE_DONE;
                    }
                    return Step::Again;
                }
            }
        }
    }
    done(h)
}

/// Counts bytes of the frame as taken.
#[inline(always)]
fn taken(h: &mut H2, c: &mut Cursor, n: u32) {
    c.at += n;
    h.left -= n;
    h.string -= n;
}

/// Decodes some of `here` bytes; `false` where no text has such a code.
#[inline(always)]
fn decode(h: &mut H2, c: &mut Cursor, w: Window, here: u32) -> bool {
    let at = c.at;
    let n = if here < CODED { here } else { CODED };
    let (mut entry, mut marks, mut len) = (u32::from(h.state), 0, 0u32);
    for i in 0..CODED {
        if i >= n {
            break;
        }
        let b = u32::from(w.byte(at + i));
        entry = MACHINE[((entry & 0xff) << 4 | b >> 4) as usize & 0xfff];
        put(h, len, entry);
        len += entry >> 16 & 1;
        marks |= entry;
        entry = MACHINE[((entry & 0xff) << 4 | b & 15) as usize & 0xfff];
        put(h, len, entry);
        len += entry >> 16 & 1;
        marks |= entry;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the state's eight bits")]
    {
        h.state = entry as u8;
    }
    h.accept = u8::from(entry & ACCEPT != 0);
    h.out_len = len;
    taken(h, c, n);
    marks & FAIL == 0
}

/// Puts the symbol of an entry at its place, where the next one goes over it unless it is one.
#[inline(always)]
fn put(h: &mut H2, at: u32, entry: u32) {
    let out = (&raw mut h.out).cast::<u8>();
    // SAFETY: a masked offset within 40.
    unsafe { out.add(at as usize & 31).write((entry >> 8 & 0xff) as u8) };
}

/// Ends the string where it ends.
#[inline(always)]
fn done(h: &mut H2) -> Step {
    if h.string == 0 && forget(&mut h.out_at) >= forget(&mut h.out_len) {
        if h.accept == 0 {
            return Step::Broken;
        }
        h.inner = if h.naming != 0 { NAME_DONE } else { VALUE_DONE };
    }
    Step::Again
}

/// Takes `n` bytes of a name, zeros behind them; `false` where no name holds one of them (RFC 9113 §8.2.1).
#[inline(always)]
fn name_bytes(h: &mut H2, x: u64, n: u32) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    // The high bit of each byte that is a capital letter, a control character, a space, or beyond ASCII.
    let low = x & !word::HIGH;
    // `A` is 0x41, `Z` 0x5a.
    let capital = (low + ONES * (0x80 - 0x41)) & !(low + ONES * (0x7f - 0x5a));
    let bad = capital | word::blank(x) | word::eq(x, 0x7f) | x;
    if word::keep_to(bad & word::HIGH, n) != 0 {
        return false;
    }
    if h.decoded < 32 {
        let (i, shift) = ((h.decoded >> 3 & 3) as usize, (h.decoded & 7) * 8);
        h.name[i] |= x << shift;
        if shift != 0 && i < 3 {
            h.name[(i + 1) & 3] |= x >> (64 - shift);
        }
    }
    h.decoded += n;
    true
}
