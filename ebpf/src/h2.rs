//! Strict mode on connections that speak HTTP/2 from their first byte: the same rule of what may pass, with
//! [`portcullis_common::h2`] in the scanner's place.
//!
//! A connection is one thing here: bytes cannot be put into a live TCP stream, so one stream of HTTP/2 cannot be refused
//! and the others kept. What is refused is the connection, by `GOAWAY` and its end where a frame of the server's is not
//! cut by that, else by resets.

use core::{ffi::c_void, intrinsics::AtomicOrdering};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    h2::{self, Doom, H2, OLDER, Open, PREFACE, SLOTS},
    head::{FRONT, MAX_STEPS, Sink, Step},
    layout::{ANSWER_TOKEN, FEATURE_LIMITS, GuardConfig, REACT_DROP},
    reason::{Outcome, Sight},
    stream::{Answers, PHASE_DEAD, PHASE_DOOMED, PHASE_HTTP, RANGES, Range, Stream, ahead},
};

use crate::{
    blocks,
    count::{Counters, Place, count, sight},
    limit,
    maps::{self, ACTIVE, Scratch},
    scan::{self, GOAWAY, TELL_HTTP, TELL_RESET, count_refusal},
    socket::Kind,
    strict::{Next, cause, is_gate, now, refused},
    verdict,
};

/// Bytes of stream in a window: most frames of a client are small, and `DATA` is stepped over.
const WINDOW: u32 = 1024;
/// Windows of a segment: a 64 KiB super-packet has 64.
const MAX_WINDOWS: u32 = 512;
/// Bytes of the preface.
const WHOLE: u32 = PREFACE.len() as u32;

/// The preface, with room behind it for masked offsets.
static PREFACE_ROOM: [u8; 64] = {
    let (mut room, mut i) = ([0; 64], 0);
    while i < PREFACE.len() {
        room[i] = PREFACE[i];
        i += 1;
    }
    room
};

/// What a connection's first bytes come to.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Preface {
    /// It speaks HTTP/1.
    Http,
    /// They are a part of the preface.
    Part,
    /// The whole of it: frames follow.
    Whole,
    /// The whole of it, and the connection has no socket yet to keep anything with: all but its end passes.
    Cut,
    /// There is no memory to keep anything in.
    Again,
}

/// Compares the segment from P on with the preface, which the client has sent `carried` bytes of.
#[inline(always)]
pub fn preface(skb: *mut __sk_buff, scratch: *mut Scratch, stream: &mut Stream, h2: *mut H2) -> Preface {
    // SAFETY: this CPU's scratch; nothing writes these from here on.
    let (p, s) = unsafe { (&(*scratch).packet, &(*scratch).socket) };
    let at = p.payload + stream.parsed.wrapping_sub(p.seq);
    let (had, left) = (stream.carried & 31, p.payload + p.len - at);
    let rest = WHOLE.wrapping_sub(had) & 31;
    let n = if left < rest { left } else { rest };
    // SAFETY: this CPU's scratch; `n` is at most the preface's length, through memory so that its bounds are checked.
    let same = unsafe {
        let pad = &raw mut (*scratch).run.pad;
        pad.write_volatile(n);
        let n = pad.read_volatile();
        let buffer = (&raw mut (*scratch).buffer).cast::<u8>().add(FRONT);
        n != 0
            && n <= WHOLE
            && bpf_skb_load_bytes(skb.cast(), at, buffer.cast(), n) == 0
            && compare(buffer, had, n)
    };
    if !same {
        stream.phase = PHASE_HTTP;
        // What was taken for the preface's beginning is a request's.
        for i in 0..3 {
            // SAFETY: three words of an array that is larger.
            stream.carry[i] = unsafe { PREFACE_ROOM.as_ptr().add(i * 8).cast::<u64>().read_unaligned() };
        }
        return Preface::Http;
    }
    let mut take = n;
    let whole = had + n == WHOLE;
    if whole {
        if !h2.is_null() {
            count(Outcome::H2c);
            sight(scratch, Sight::Http2);
            // SAFETY: the connection's own, under the stream's lock. The reader steps over what was just compared.
            unsafe { (*h2).restart(n) };
            stream.carried = 0;
            return Preface::Whole;
        }
        if !s.is(Kind::Young) {
            count(Outcome::Busy);
            return Preface::Again;
        }
        take = n - 1;
    }
    // SAFETY: this CPU's scratch.
    unsafe {
        (*scratch).run.keep = stream.id;
        (*scratch).run.head = at + take;
    }
    if take != 0 {
        blocks::keep(skb, scratch, stream.parsed, at, take);
    }
    stream.parsed = stream.parsed.wrapping_add(take);
    stream.carried = had + take;
    if whole { Preface::Cut } else { Preface::Part }
}

/// Whether `n` bytes are those of the preface from `had` on.
#[inline(always)]
unsafe fn compare(buffer: *const u8, had: u32, n: u32) -> bool {
    let mut differ = 0;
    for i in 0..WHOLE {
        if i >= n {
            break;
        }
        // SAFETY: the caller's buffer is larger than the preface; the other offset is masked.
        unsafe {
            differ |= *buffer.add(i as usize) ^ *PREFACE_ROOM.as_ptr().add(((had + i) & 63) as usize);
        }
    }
    differ == 0
}

/// What the callbacks are given: it lives on the caller's stack, all it points at outlives the loops.
struct Env {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    config: *const GuardConfig,
    h2: *mut H2,
}

/// Looks tokens up as they are found.
struct Lookup {
    scratch: *mut Scratch,
}

impl Sink for Lookup {
    #[inline(always)]
    fn token(&mut self, fingerprint: DenyFingerprint) -> bool {
        // The lookup reads it from memory.
        // SAFETY: this CPU's scratch.
        unsafe { (&raw mut (*self.scratch).run.fingerprint).write_volatile(fingerprint) };
        if verdict::judge() != 0 {
            return true;
        }
        let limits =
            ACTIVE.get(0).map_or(0, |a| if a.features & FEATURE_LIMITS != 0 { a.generation } else { 0 });
        // SAFETY: this CPU's scratch; no other reference to it is alive.
        limits != 0 && limit::exceeds(limits as u32) != 0
    }
}

/// Reads frames from P on and settles what comes of it: a [`Next`].
#[inline(never)]
pub fn read<const WAY: u32>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    stream: *mut Stream,
    h2: *mut H2,
    answers: *const Answers,
) -> i32 {
    if stream.is_null() || h2.is_null() {
        return Next::Drop as i32;
    }
    // SAFETY: the connection's own, under the stream's lock.
    let (stream, state) = unsafe { (&mut *stream, &mut *h2) };
    // SAFETY: a map's value or null; the egress program writes it at the same time, each field whole.
    let answers = unsafe { answers.as_ref() };
    // SAFETY: this CPU's scratch; nothing writes it from here on.
    let p = unsafe { &(*scratch).packet };
    let end = p.seq.wrapping_add(p.len);
    if stream.phase != PHASE_DOOMED {
        set_up(scratch, stream, state);
        scan_frames(skb, h2);
        // SAFETY: this CPU's scratch; the loop is over.
        let run = unsafe { &mut (*scratch).run };
        if run.step == Step::More as u32 && run.finished != 0 {
            let ranges = if run.ranges < RANGES as u32 { run.ranges } else { RANGES as u32 };
            for i in 0..RANGES {
                if (i as u32) < ranges {
                    stream.free(run.free[i].from, run.free[i].to);
                }
            }
            // What is left of a frame's payload may pass in any order.
            let left = state.skippable();
            state.step_over(left);
            stream.scan.await_body(u64::from(left));
            stream.parsed = end;
            return Next::Pass as i32;
        }
        if run.step == Step::More as u32 || run.step == Step::Again as u32 {
            run.step = Step::TooLong as u32;
        }
        doom(scratch, stream, state);
    }
    recall(scratch, state);
    refuse::<WAY>(scratch, stream, h2, answers) as i32
}

/// Reads what was set up, and counts it. A global function to the verifier, which walks it once, whatever leads to the call.
#[unsafe(no_mangle)]
pub extern "C" fn scan_frames(skb: *mut __sk_buff, h2: *mut H2) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else { return 0 };
    if h2.is_null() {
        return 0;
    }
    let mut env = Env { skb, scratch, config, h2 };
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_WINDOWS, window as *const () as *mut c_void, (&raw mut env).cast(), 0);
        account(scratch, &*h2);
    }
    0
}

/// Sets the reading of the segment up.
#[inline(always)]
fn set_up(scratch: *mut Scratch, stream: &mut Stream, h2: &mut H2) {
    // SAFETY: this CPU's scratch; nothing else refers to it.
    let (p, s, run) = unsafe { (&(*scratch).packet, &(*scratch).socket, &mut (*scratch).run) };
    let from = stream.parsed;
    let at = p.payload + from.wrapping_sub(p.seq);
    scan::begin(scratch, at, p.payload + p.len);
    run.base = p.seq.wrapping_sub(p.payload);
    run.keep = stream.id;
    h2.requests = 0;
    h2.tokens = 0;
    // A range that the server has not taken yet must not be forgotten: where all are in use, payload is kept instead.
    run.room = RANGES as u32;
    for (i, r) in stream.free.iter().enumerate() {
        if (i as u32) < stream.ranges && ahead(r.to, s.rcv_nxt) > 0 {
            run.room -= 1;
        }
    }
    let body = stream.scan.skippable() as u32;
    if body != 0 {
        let left = p.payload + p.len - at;
        let n = if body < left { body } else { left };
        stream.scan.skip(u64::from(n));
        run.free[0] = Range { from, to: from.wrapping_add(n) };
        // It goes on with the last one.
        run.ranges = 1;
        run.room += 1;
        run.at = at + n;
    }
}

/// Remembers why nothing more passes: what was read cannot be read again.
#[inline(always)]
fn doom(scratch: *mut Scratch, stream: &mut Stream, h2: &mut H2) {
    stream.phase = PHASE_DOOMED;
    // SAFETY: this CPU's scratch.
    let step = unsafe { (*scratch).run.step };
    if step == Step::Refused as u32 {
        count_refusal(scratch);
    } else {
        refused(step);
    }
    cause(scratch, step);
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let run = unsafe { &(*scratch).run };
    h2.doom = Doom {
        fingerprint: run.fingerprint.0,
        decision: run.decision,
        reason: run.reason,
        answer: run.answer,
        step,
        pad: 0,
    };
}

/// Says in `Run` why a connection is refused.
#[inline(always)]
fn recall(scratch: *mut Scratch, h2: &H2) {
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let run = unsafe { &mut (*scratch).run };
    run.fingerprint.0 = h2.doom.fingerprint;
    run.decision = h2.doom.decision;
    run.reason = h2.doom.reason;
    run.answer = h2.doom.answer;
}

/// Refuses a connection at once, or as soon as the server has what was passed to it.
#[inline(always)]
fn refuse<const WAY: u32>(
    scratch: *mut Scratch,
    stream: &mut Stream,
    h2: *mut H2,
    answers: Option<&Answers>,
) -> Next {
    let Some(config) = maps::config() else { return Next::Drop };
    if config.reaction == REACT_DROP {
        return Next::Refuse;
    }
    // SAFETY: this CPU's scratch; nothing writes these from here on.
    let (p, s) = unsafe { (&(*scratch).packet, &(*scratch).socket) };
    let current = s.rcv_nxt == stream.parsed;
    if !is_gate(WAY) && !current && !stream.tried(s.rcv_nxt, now()) {
        return Next::Hold;
    }
    stream.phase = PHASE_DEAD;
    let lost = open_streams(h2);
    if let Some(c) = Counters::get() {
        c.add(Outcome::StreamsLost, lost);
    }
    let first = s.acked <= 1;
    let between = match answers {
        Some(a) => a.is_between_frames(first, s.snd_nxt, p.ack),
        None => first && s.snd_nxt == p.ack,
    };
    // SAFETY: this CPU's scratch; the connection's own.
    unsafe {
        let run = &mut (*scratch).run;
        run.tell = if between && current { TELL_HTTP } else { TELL_RESET };
        run.goaway = GOAWAY | (*h2).last;
    }
    Next::Refuse
}

/// Refuses a connection one of whose tokens was condemned meanwhile; `Run` says which.
#[inline(always)]
pub fn sever<const WAY: u32>(
    scratch: *mut Scratch,
    stream: &mut Stream,
    h2: *mut H2,
    answers: Option<&Answers>,
) -> Next {
    // SAFETY: this CPU's scratch, and the connection's own.
    unsafe {
        let fingerprint = (*scratch).run.fingerprint;
        let (reason, answer, decision) =
            ((*scratch).run.reason, (*scratch).run.answer, (*scratch).run.decision);
        (*h2).doom =
            Doom { fingerprint: fingerprint.0, decision, reason, answer, step: Step::Refused as u32, pad: 0 };
    }
    stream.phase = PHASE_DOOMED;
    refuse::<WAY>(scratch, stream, h2, answers)
}

/// Counts what was seen in a segment.
#[inline(always)]
fn account(scratch: *mut Scratch, h2: &H2) {
    let Some(c) = Counters::get() else { return };
    c.add(Outcome::Segments, 1);
    c.add(Outcome::Requests, h2.requests);
    c.add(Outcome::Tokens, h2.tokens);
    if let Some(place) = Place::of(scratch) {
        place.add(Sight::Requests, h2.requests);
    }
}

/// Loads one window and reads it. Returns 1 to end the loop.
unsafe extern "C" fn window(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `read` passes its `env`; the scratch is this CPU's and not referenced elsewhere.
    let (skb, s) = unsafe { ((*env).skb, &mut *(*env).scratch) };
    let (at, end) = (s.run.at, s.run.end);
    if at >= end {
        s.run.finished = 1;
        return 1;
    }
    let left = end - at;
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    // SAFETY: a field of this CPU's scratch.
    let n = unsafe {
        let pad = &raw mut s.run.pad;
        pad.write_volatile(if left < WINDOW { left } else { WINDOW });
        pad.read_volatile()
    };
    if n == 0 || n > WINDOW {
        return 1;
    }
    // SAFETY: `n` is at most `WINDOW`, and the buffer has more behind `FRONT`.
    let loaded = unsafe {
        let to = (&raw mut s.buffer).cast::<u8>().add(FRONT);
        bpf_skb_load_bytes(skb.cast(), at, to.cast(), n)
    };
    s.run.step = Step::Broken as u32;
    if loaded != 0 {
        return 1;
    }
    let seq = s.run.base.wrapping_add(at);
    // SAFETY: `read` passes its `env`.
    blocks::keep(skb, unsafe { (*env).scratch }, seq, at, n);
    // SAFETY: as above; no other reference to it is alive.
    let s = unsafe { &mut *(*env).scratch };
    s.cursor.at = 0;
    s.cursor.end = n;
    s.run.step = Step::Again as u32;
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_STEPS, step as *const () as *mut c_void, env.cast(), 0);
    }
    // SAFETY: as above; the callback's references are gone.
    let (s, h2) = unsafe { (&mut *(*env).scratch, &mut *(*env).h2) };
    if s.run.step != Step::More as u32 {
        return 1;
    }
    let mut next = at + n;
    let skip = h2.skippable();
    if skip != 0 && next < end && s.run.ranges < s.run.room {
        let left = end - next;
        let n = if skip < left { skip } else { left };
        h2.step_over(n);
        let from = s.run.base.wrapping_add(next);
        let slot = s.run.ranges as usize & (RANGES - 1);
        s.run.free[slot] = Range { from, to: from.wrapping_add(n) };
        s.run.ranges += 1;
        next += n;
    }
    s.run.finished = u32::from(next >= end);
    s.run.at = next;
    0
}

/// One step of the reader. Returns 1 to end the loop.
unsafe extern "C" fn step(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `window` passes on its `env`; the fields borrowed here are disjoint, and the configuration is the map's
    // value.
    let result = unsafe {
        let (scratch, h) = ((*env).scratch, &mut *(*env).h2);
        let config = &(*(*env).config).scan;
        if h.in_string() {
            let cursor = &mut (*scratch).cursor;
            h2::string_step(h, cursor, (&raw const (*scratch).buffer).cast(), config) as i32
        } else if h.at_token() {
            h2::token_step(h, config, &mut Lookup { scratch }) as i32
        } else {
            frame_step(h)
        }
    };
    if result == Step::Again as i32 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*(*env).scratch).run.step = result as u32 };
    1
}

/// A step outside of strings. A global function to the verifier, which walks it once.
#[unsafe(no_mangle)]
pub extern "C" fn frame_step(h2: *mut H2) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else {
        return Step::Broken as i32;
    };
    if h2.is_null() {
        return Step::Broken as i32;
    }
    // SAFETY: the caller's, under the stream's lock; this CPU's scratch.
    unsafe {
        let cursor = &mut (*scratch).cursor;
        let buffer = (&raw const (*scratch).buffer).cast();
        h2::other_step(&mut *h2, cursor, buffer, &config.scan, &config.names) as i32
    }
}

/// What a walk over the open streams is given.
struct Walk {
    scratch: *mut Scratch,
    h2: *mut H2,
    /// How many there are, or 1 where one is condemned.
    found: u32,
}

/// How many streams are open, the refused one apart.
#[inline(always)]
fn open_streams(h2: *mut H2) -> u32 {
    let mut walk = Walk { scratch: core::ptr::null_mut(), h2, found: 0 };
    // SAFETY: the callback's context is `walk`, which outlives the call.
    unsafe {
        bpf_loop(SLOTS as u32, count_one as *const () as *mut c_void, (&raw mut walk).cast(), 0);
    }
    walk.found
}

unsafe extern "C" fn count_one(i: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `open_streams` passes its `walk`.
    unsafe {
        let h2 = &*(*walk).h2;
        let open = h2.streams[i as usize & (SLOTS - 1)].stream;
        (*walk).found += u32::from(open != 0 && open != h2.last);
    }
    0
}

/// Whether the token of a stream that is not known to be finished was condemned meanwhile; `Run` then says which.
#[inline(always)]
pub fn condemned(scratch: *mut Scratch, h2: *mut H2) -> bool {
    // SAFETY: the connection's own, and this CPU's scratch.
    unsafe {
        if (*h2).is_crowded() {
            verdict::forgotten(&mut (*scratch).run);
            return true;
        }
    }
    let mut walk = Walk { scratch, h2, found: 0 };
    // SAFETY: the callback's context is `walk`, which outlives the call.
    unsafe {
        bpf_loop(SLOTS as u32, judge_stream as *const () as *mut c_void, (&raw mut walk).cast(), 0);
        bpf_loop(OLDER as u32, judge_older as *const () as *mut c_void, (&raw mut walk).cast(), 0);
    }
    walk.found != 0
}

unsafe extern "C" fn judge_stream(i: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `condemned` passes its `walk`.
    unsafe { judge(walk, &(*(*walk).h2).streams[i as usize & (SLOTS - 1)]) }
}

unsafe extern "C" fn judge_older(i: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `condemned` passes its `walk`.
    unsafe { judge(walk, &(*(*walk).h2).older[i as usize & (OLDER - 1)]) }
}

/// Looks the token of one stream up. Returns 1 where it is condemned.
#[inline(always)]
unsafe fn judge(walk: *mut Walk, open: &Open) -> i64 {
    // SAFETY: the caller's `walk`, whose scratch is this CPU's.
    unsafe {
        if open.stream == 0 || open.has_token == 0 || (*walk).found != 0 {
            return 0;
        }
        let run = &raw mut (*(*walk).scratch).run;
        (&raw mut (*run).fingerprint).write_volatile(DenyFingerprint(open.token));
        (*run).answer = ANSWER_TOKEN;
        if verdict::refuses(&mut *run) {
            (*walk).found = 1;
            return 1;
        }
    }
    0
}

/// Notes that a stream is finished, which the ingress program may be doing or undoing at the same time.
#[inline(always)]
pub fn finished(h2: *mut H2, stream: u32) {
    // SAFETY: the connection's own; the slot is masked.
    unsafe {
        let slot: *mut Open = &raw mut (*h2).streams[h2::slot(stream)];
        core::intrinsics::atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*slot).stream,
            stream,
            0,
        );
    }
}
