//! Follows the frames that servers send: which streams are finished, and where a `GOAWAY` would cut none of them.
//!
//! Headers of frames alone are read. The kernel's own side of a connection is what counts: a stream is finished here once
//! the frame that ends it has begun.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
};
use portcullis_common::{
    h2::H2,
    reason::Outcome,
    stream::{ANSWERS_FRAMES, ANSWERS_LOST, ANSWERS_NEW, Answers, PHASE_DEAD, PHASE_FRAMES, Stream, ahead},
};

use crate::{
    answers::{GO, SEVER},
    count::count,
    h2,
    maps::{ACTIVE, Scratch},
};

/// Frames of a segment: a 64 KiB super-packet of empty ones.
const MAX_FRAMES: u32 = 8192;
/// Bytes of a frame's header.
const HEADER: u32 = 9;

const DATA: u64 = 0;
const HEADERS: u64 = 1;
const RST_STREAM: u64 = 3;
const CONTINUATION: u64 = 9;
const END_STREAM: u64 = 1;
const END_HEADERS: u64 = 4;

/// Where the walk over frames stands.
struct Walk {
    skb: *mut __sk_buff,
    answers: *mut Answers,
    h2: *mut H2,
    at: u32,
    end: u32,
    /// Room for a number on its way past the compiler.
    pad: u32,
    failed: u32,
}

/// Follows a segment of a server's; `stream` is null where it speaks first, `h2` where nothing was read yet.
#[inline(never)]
pub fn segment(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    stream: *mut Stream,
    answers: *mut Answers,
    h2: *mut H2,
) -> i32 {
    // SAFETY: this CPU's scratch, and nothing writes it from here on.
    let p = unsafe { &(*scratch).packet };
    if answers.is_null() {
        return GO;
    }
    // SAFETY: a map's value, which the egress program alone writes.
    let a = unsafe { &mut *answers };
    let epoch = ACTIVE.get(0).map_or(0, |a| a.epoch);
    if a.epoch != epoch {
        if !stream.is_null() && !h2.is_null() {
            // SAFETY: a map's value; the ingress program writes it at the same time, each field whole.
            let stream = unsafe { &mut *stream };
            if stream.phase == PHASE_FRAMES && h2::condemned(scratch, h2) {
                stream.phase = PHASE_DEAD;
                count(Outcome::Severed);
                return SEVER;
            }
        }
        a.epoch = epoch;
    }
    if a.phase == ANSWERS_NEW {
        // SAFETY: this CPU's scratch.
        if unsafe { (*scratch).socket.received } > 1 {
            // The client has taken something that was not seen here.
            return lost(a);
        }
        a.sent = p.seq;
        a.phase = ANSWERS_FRAMES;
    }
    let end = p.seq.wrapping_add(p.len);
    if a.phase != ANSWERS_FRAMES || ahead(end, a.sent) <= 0 {
        return GO;
    }
    if ahead(p.seq, a.sent) > 0 {
        return lost(a);
    }
    let at = p.payload + a.sent.wrapping_sub(p.seq);
    let mut walk = Walk { skb, answers, h2, at, end: p.payload + p.len, pad: 0, failed: 0 };
    // SAFETY: the callback's context is `walk`, which outlives the call.
    unsafe {
        bpf_loop(MAX_FRAMES, one as *const () as *mut c_void, (&raw mut walk).cast(), 0);
    }
    if walk.failed != 0 || walk.at < walk.end {
        return lost(a);
    }
    a.sent = end;
    GO
}

#[inline(always)]
fn lost(answers: &mut Answers) -> i32 {
    answers.phase = ANSWERS_LOST;
    count(Outcome::AnswersLost);
    GO
}

/// Steps over payload, or reads a frame's header. Returns 1 to end the loop.
unsafe extern "C" fn one(_: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `segment` passes its `walk`; what it points at outlives the loop.
    let (w, a) = unsafe { (&mut *walk, &mut *(*walk).answers) };
    if w.at >= w.end {
        return 1;
    }
    let left = w.end - w.at;
    let skip = a.scan.skippable();
    if skip != 0 {
        let n = if skip < u64::from(left) { skip as u32 } else { left };
        a.scan.skip(u64::from(n));
        w.at += n;
        return 0;
    }
    let had = a.carried & 15;
    let rest = HEADER.wrapping_sub(had) & 15;
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    // SAFETY: fields of the caller's `walk`.
    let n = unsafe {
        let pad = &raw mut w.pad;
        pad.write_volatile(if left < rest { left } else { rest });
        pad.read_volatile()
    };
    w.failed = 1;
    if n == 0 || n > HEADER {
        return 1;
    }
    // SAFETY: a header's bytes behind fewer than sixteen, within the 64 of `carry`.
    let loaded = unsafe {
        let to = (&raw mut a.carry).cast::<u8>().add(had as usize);
        bpf_skb_load_bytes(w.skb.cast(), w.at, to.cast(), n)
    };
    if loaded != 0 {
        return 1;
    }
    w.failed = 0;
    w.at += n;
    a.carried = had + n;
    if a.carried < HEADER {
        return 1;
    }
    a.carried = 0;
    let first = a.carry[0].swap_bytes();
    let (len, kind, flags) = (first >> 40, first >> 32 & 0xff, first >> 24 & 0xff);
    let stream = ((first as u32 & 0x00ff_ffff) << 8 | (a.carry[1] as u32 & 0xff)) & 0x7fff_ffff;
    if kind == HEADERS || kind == CONTINUATION {
        a.answered = u32::from(flags & END_HEADERS == 0);
    }
    let ends = (kind == DATA || kind == HEADERS) && flags & END_STREAM != 0;
    if (ends || kind == RST_STREAM) && stream != 0 && !w.h2.is_null() {
        h2::finished(w.h2, stream);
    }
    a.scan.await_body(len);
    0
}
