//! Frames (RFC 9113 §4 and §6), as a server must read a client's.

use super::{BLOCK, FIELD, FLAG_PADDED, FLAG_PRIORITY, FRAME, FRAME_MAX, H2, PAD, PRIORITY, SKIP};
use crate::{
    head::{Cursor, Step, window::Window},
    layout::ScanConfig,
};

const DATA: u32 = 0;
const HEADERS: u32 = 1;
const PRIORITY_FRAME: u32 = 2;
const RST_STREAM: u32 = 3;
const SETTINGS: u32 = 4;
const PUSH_PROMISE: u32 = 5;
const PING: u32 = 6;
const GOAWAY: u32 = 7;
const WINDOW_UPDATE: u32 = 8;
const CONTINUATION: u32 = 9;
const FLAG_ACK: u8 = 1;
/// Bytes of a frame's header.
const HEADER: u32 = 9;
/// Bytes of a priority.
const PRIORITY_LEN: u32 = 5;

/// Reads a frame's header, at once or a byte at a time where it is cut.
#[inline(always)]
pub(super) fn frame(h: &mut H2, c: &mut Cursor, w: Window, config: &ScanConfig, at: u32, left: u32) -> Step {
    let (first, last);
    if h.got == 0 && left >= HEADER {
        first = w.word::<0>(at).swap_bytes();
        last = w.byte(at + 8);
        c.at = at + HEADER;
    } else {
        let b = w.byte(at);
        c.at = at + 1;
        if h.got < 8 {
            h.header = h.header << 8 | u64::from(b);
            h.got += 1;
            return Step::Again;
        }
        first = h.header;
        last = b;
        h.got = 0;
        h.header = 0;
    }
    #[allow(clippy::cast_possible_truncation, reason = "the parts of a header")]
    let (len, kind, flags, id) = (
        (first >> 40) as u32,
        (first >> 32 & 0xff) as u32,
        (first >> 24) as u8,
        ((first as u32 & 0x00ff_ffff) << 8 | u32::from(last)) & 0x7fff_ffff,
    );
    if h.open != 0 && (kind != CONTINUATION || id != h.stream) {
        // Nothing may stand between the frames of a block (§6.10).
        return Step::Broken;
    }
    if h.settled == 0 {
        // The client's first frame (§3.4).
        if kind != SETTINGS || flags & FLAG_ACK != 0 {
            return Step::Broken;
        }
        h.settled = 1;
    }
    if kind == HEADERS || kind == CONTINUATION {
        return part(h, config, kind, len, flags, id);
    }
    // Those of the whole connection stand on stream 0, the others do not.
    let good = match kind {
        DATA => id != 0,
        PRIORITY_FRAME => id != 0 && len <= FRAME_MAX,
        RST_STREAM => id != 0 && len == 4,
        SETTINGS => id == 0 && len % 6 == 0 && len <= FRAME_MAX,
        // A client may not, and its block would be one that is not read here.
        PUSH_PROMISE => false,
        PING => id == 0 && len == 8,
        GOAWAY => id == 0 && (8..=FRAME_MAX).contains(&len),
        WINDOW_UPDATE => len == 4,
        // Others are stepped over (§4.1).
        _ => len <= FRAME_MAX,
    };
    if !good {
        return Step::Broken;
    }
    if kind == RST_STREAM {
        h.end_stream(id);
    }
    h.skip = len;
    h.mode = if len == 0 { FRAME } else { SKIP };
    Step::Again
}

/// Begins a frame that is a part of a header block.
#[inline(always)]
fn part(h: &mut H2, config: &ScanConfig, kind: u32, len: u32, flags: u8, id: u32) -> Step {
    if kind == CONTINUATION {
        if h.open == 0 {
            return Step::Broken;
        }
        h.flags = flags & !(FLAG_PADDED | FLAG_PRIORITY);
    } else {
        // Streams of a client have odd numbers (§5.1.1).
        if id & 1 == 0 {
            return Step::Broken;
        }
        h.flags = flags;
        h.open = 1;
        h.stream = id;
        h.block = 0;
        h.inner = FIELD;
        h.credentials = 0;
        h.fields = 0;
        if id > h.last {
            h.last = id;
            h.requests += 1;
            h.begin_stream(id);
        }
    }
    if len > config.max_head {
        return Step::TooLong;
    }
    h.block += len;
    if h.block > config.max_head {
        return Step::TooLong;
    }
    h.left = len;
    h.pad = 0;
    if h.flags & FLAG_PADDED != 0 {
        if len == 0 {
            return Step::Broken;
        }
        h.mode = PAD;
        return Step::Again;
    }
    begin_block(h)
}

/// The length of the padding (§6.2).
#[inline(always)]
pub(super) fn pad_length(h: &mut H2, c: &mut Cursor, w: Window, at: u32) -> Step {
    h.pad = u32::from(w.byte(at));
    c.at = at + 1;
    h.left = h.left.wrapping_sub(1);
    begin_block(h)
}

#[inline(always)]
fn begin_block(h: &mut H2) -> Step {
    let before = if h.flags & FLAG_PRIORITY != 0 { PRIORITY_LEN } else { 0 };
    if h.left < h.pad + before {
        return Step::Broken;
    }
    h.left -= h.pad + before;
    h.skip = before;
    h.mode = if before == 0 { BLOCK } else { PRIORITY };
    Step::Again
}

/// Steps over a priority.
#[inline(always)]
pub(super) fn priority(h: &mut H2, c: &mut Cursor, at: u32, left: u32) -> Step {
    let n = if h.skip < left { h.skip } else { left };
    c.at = at + n;
    h.skip -= n;
    if h.skip == 0 {
        h.mode = BLOCK;
    }
    Step::Again
}

/// Steps over payload.
#[inline(always)]
pub(super) fn skip(h: &mut H2, c: &mut Cursor, at: u32, left: u32) -> Step {
    let n = if h.skip < left { h.skip } else { left };
    c.at = at + n;
    h.skip -= n;
    if h.skip == 0 {
        h.mode = FRAME;
    }
    Step::Again
}
