//! Strings (RFC 7541 §5.2): plain or in Huffman's code, names and values.

use super::{
    H2, LOOKUP, NAME_DONE, STRING, VALUE_DONE,
    huffman::{ACCEPT, FAIL, MACHINE, SYMBOL},
    value::{Byte, value_byte},
};
use crate::{
    head::{
        Cursor, Step,
        window::{Window, forget},
    },
    layout::ScanConfig,
};

/// Half bytes, or bytes of plain text, that one step reads.
const PIECES: u32 = 8;

/// Reads on in the present string, as far as the frame and the window go.
#[inline(always)]
pub(super) fn string(h: &mut H2, c: &mut Cursor, w: Window, config: &ScanConfig) -> Step {
    let mut here = c.end - c.at;
    if h.left < here {
        here = h.left;
    }
    if h.string < here {
        here = h.string;
    }
    // A value that is not looked at and does not enter the table, so that its length does not matter either: what is
    // wrong with it is the server's to find. A plain one need not be looked at anyway.
    if h.naming == 0 && h.kind == 0 && (h.coded == 0 || h.keep == 0) {
        h.decoded += here;
        c.at += here;
        h.left -= here;
        h.string -= here;
        h.accept = 1;
        return done(h);
    }
    for _ in 0..PIECES {
        if forget(&mut here) == 0 {
            break;
        }
        let b = w.byte(forget(&mut c.at));
        let mut letter = b;
        let mut whole = true;
        if h.coded != 0 {
            let half = if h.half != 0 { b & 15 } else { b >> 4 };
            let entry = MACHINE[(usize::from(h.state) << 4 | usize::from(half)) & 0xfff];
            #[allow(clippy::cast_possible_truncation, reason = "the parts of an entry")]
            {
                h.state = entry as u8;
                letter = (entry >> 8) as u8;
            }
            if entry & FAIL != 0 {
                return Step::Broken;
            }
            h.accept = u8::from(entry & ACCEPT != 0);
            h.half ^= 1;
            whole = entry & SYMBOL != 0;
        }
        if h.half == 0 {
            c.at += 1;
            h.left -= 1;
            h.string -= 1;
            here -= 1;
        }
        if !whole {
            continue;
        }
        if h.naming != 0 {
            if !name_byte(h, letter) {
                return Step::Broken;
            }
        } else if h.kind != 0 {
            match value_byte(h, config, letter) {
                Byte::Taken => {}
                Byte::Odd => return Step::Odd,
                Byte::Ended => {
                    h.decoded += 1;
                    h.after = if h.string == 0 { VALUE_DONE } else { STRING };
                    h.inner = LOOKUP;
                    if h.string == 0 && h.accept == 0 {
                        return Step::Broken;
                    }
                    return Step::Again;
                }
            }
        }
        h.decoded += 1;
    }
    done(h)
}

/// Ends the string where it ends.
#[inline(always)]
fn done(h: &mut H2) -> Step {
    if h.string == 0 {
        if h.accept == 0 {
            return Step::Broken;
        }
        h.inner = if h.naming != 0 { NAME_DONE } else { VALUE_DONE };
    }
    Step::Again
}

/// Takes a byte of a name; `false` where no name holds it (RFC 9113 §8.2.1).
#[inline(always)]
fn name_byte(h: &mut H2, b: u8) -> bool {
    if b <= b' ' || b >= 0x7f || b.is_ascii_uppercase() {
        return false;
    }
    if h.decoded < 32 {
        h.name[(h.decoded >> 3 & 3) as usize] |= u64::from(b) << ((h.decoded & 7) * 8);
    }
    true
}
