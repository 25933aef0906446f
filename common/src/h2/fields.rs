//! Header fields as HPACK writes them (RFC 7541 §5, §6).

use super::{
    BLOCK, EVICT, FIELD, FLAG_END_HEADERS, FRAME, H2, INTEGER, LENGTH, LOOKUP, NAME_DONE, Names, SKIP,
    STRING, TABLE_MAX, VALUE_DONE,
    names::{STATIC, kind_of},
    value::{begin_value, end_value},
};
use crate::{
    fingerprint::DenyFingerprint,
    head::{Cursor, ODD_LONG_TOKEN, Sink, Step, window::Window},
    layout::{KIND_AUTHORIZATION, ScanConfig},
};

/// The integer is the index of a whole field.
const INDEXED: u8 = 0;
/// It is the index of a name, 0 for one that follows.
const NAME: u8 = 1;
/// It is a new size of the table.
const SIZE: u8 = 2;
/// It is the length of a string.
const TEXT: u8 = 3;

/// A field's first byte: what it is, and the beginning of an integer.
#[inline(always)]
pub(super) fn field(
    h: &mut H2,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    names: &Names,
    at: u32,
) -> Step {
    let b = w.byte(at);
    c.at = at + 1;
    h.left -= 1;
    h.keep = 0;
    h.has_token = 0;
    let mask = if b & 0x80 != 0 {
        h.what = INDEXED;
        0x7f
    } else if b & 0x40 != 0 {
        h.what = NAME;
        h.keep = 1;
        0x3f
    } else if b & 0x20 != 0 {
        h.what = SIZE;
        0x1f
    } else {
        h.what = NAME;
        0x0f
    };
    begin_integer(h, config, names, b, mask)
}

/// The first byte of a string's length.
#[inline(always)]
pub(super) fn length(
    h: &mut H2,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    names: &Names,
    at: u32,
) -> Step {
    let b = w.byte(at);
    c.at = at + 1;
    h.left -= 1;
    h.what = TEXT;
    h.coded = b >> 7;
    begin_integer(h, config, names, b, 0x7f)
}

#[inline(always)]
fn begin_integer(h: &mut H2, config: &ScanConfig, names: &Names, b: u8, mask: u8) -> Step {
    h.number = u32::from(b & mask);
    if b & mask == mask {
        h.shift = 0;
        h.inner = INTEGER;
        return Step::Again;
    }
    number(h, config, names)
}

/// A further byte of an integer; more than four are refused, as too large for anything here.
#[inline(always)]
pub(super) fn integer(
    h: &mut H2,
    c: &mut Cursor,
    w: Window,
    config: &ScanConfig,
    names: &Names,
    at: u32,
) -> Step {
    let b = w.byte(at);
    c.at = at + 1;
    h.left -= 1;
    if h.shift > 21 {
        return Step::Broken;
    }
    h.number += u32::from(b & 0x7f) << h.shift;
    h.shift += 7;
    if b & 0x80 != 0 {
        return Step::Again;
    }
    number(h, config, names)
}

/// Goes on by what the integer is.
#[inline(always)]
fn number(h: &mut H2, config: &ScanConfig, names: &Names) -> Step {
    let n = h.number;
    if h.what == TEXT {
        return begin_string(h, config, n);
    }
    if h.what == SIZE {
        // Only before a block's first field (§4.2).
        if h.fields != 0 || n > TABLE_MAX {
            return Step::Broken;
        }
        h.table_max = n;
        h.pending = 0;
        h.inner = EVICT;
        return Step::Again;
    }
    h.fields = 1;
    h.inner = if h.what == INDEXED { FIELD } else { LENGTH };
    h.naming = 0;
    if n == 0 {
        h.naming = 1;
        return if h.what == INDEXED { Step::Broken } else { Step::Again };
    }
    if n <= STATIC {
        // None of the static values is a token.
        (h.name_len, h.kind) = names.of(n);
        return Step::Again;
    }
    let index = n - STATIC - 1;
    if index >= h.table_count {
        return Step::Broken;
    }
    let e = *h.entry(index);
    h.kind = e.kind;
    h.name_len = u32::from(e.name_len);
    if h.what == INDEXED && e.has_token != 0 {
        h.signing = e.token;
        // What stands there is a fingerprint.
        h.jws = 1;
        h.dots = 2;
        h.token_len = 1;
        h.after = FIELD;
        h.inner = LOOKUP;
    }
    Step::Again
}

#[inline(always)]
fn begin_string(h: &mut H2, config: &ScanConfig, n: u32) -> Step {
    if n > config.max_head {
        return Step::TooLong;
    }
    h.string = n;
    h.decoded = 0;
    h.state = 0;
    h.out_at = 0;
    h.out_len = 0;
    h.accept = 1;
    if h.naming != 0 {
        h.name = [0; 4];
    } else {
        begin_value(h);
    }
    h.inner = if n != 0 {
        STRING
    } else if h.naming != 0 {
        NAME_DONE
    } else {
        VALUE_DONE
    };
    Step::Again
}

/// Settles what the name means that was read.
#[inline(always)]
pub(super) fn name_done(h: &mut H2, config: &ScanConfig) -> Step {
    if h.decoded == 0 {
        return Step::Broken;
    }
    h.name_len = h.decoded;
    h.kind = kind_of(config, &h.name, h.decoded);
    h.naming = 0;
    h.inner = LENGTH;
    Step::Again
}

/// Ends a field that was written out.
#[inline(always)]
pub(super) fn value_done(h: &mut H2) -> Step {
    if h.kind != 0 && end_value(h) {
        h.after = VALUE_DONE;
        h.inner = LOOKUP;
        return Step::Again;
    }
    h.inner = FIELD;
    if h.keep != 0 {
        h.pending = h.name_len + h.decoded + 32;
        h.inner = EVICT;
    }
    Step::Again
}

/// Looks up the token that ended.
#[inline(always)]
pub(super) fn lookup<S: Sink>(h: &mut H2, config: &ScanConfig, sink: &mut S) -> Step {
    h.inner = h.after;
    if u32::from(h.kind) == KIND_AUTHORIZATION {
        if h.credentials != 0 {
            return Step::Odd;
        }
        h.credentials = 1;
    }
    if h.token_len == 0 {
        return Step::Again;
    }
    if h.token_len > config.max_token {
        return if config.refuse & ODD_LONG_TOKEN != 0 { Step::Odd } else { Step::Again };
    }
    let named_by_signing_input = h.jws != 0 && h.dots == 2;
    let token = if named_by_signing_input { h.signing } else { h.sip.finish(h.tail, h.token_len) };
    h.tokens += 1;
    h.has_token = 1;
    h.found = token;
    h.stream_token(token);
    if sink.token(DenyFingerprint(token)) { Step::Refused } else { Step::Again }
}

/// Makes room in the table, an entry a step, then puts the field in.
#[inline(always)]
pub(super) fn evict(h: &mut H2) -> Step {
    if h.make_room() {
        return Step::Again;
    }
    h.insert();
    h.inner = FIELD;
    Step::Again
}

/// Ends a frame's part of a block, and perhaps the block.
#[inline(always)]
pub(super) fn fragment_end(h: &mut H2) -> Step {
    if h.flags & FLAG_END_HEADERS != 0 {
        if h.inner != FIELD {
            return Step::Broken;
        }
        h.open = 0;
    }
    h.skip = h.pad;
    h.mode = if h.pad == 0 { FRAME } else { SKIP };
    Step::Again
}

const _: () = assert!(BLOCK != FRAME);
