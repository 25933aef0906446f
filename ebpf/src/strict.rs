//! Strict mode: what the server reads as heads is what was read here, however it is cut, ordered or repeated. The
//! rules are [`portcullis_common::stream`]'s; these are the steps around them.
//!
//! Long because the verifier wants the steps of one segment in one place, and each is a line or two of the rules.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_get_prandom_u32, bpf_ktime_get_boot_ns},
};
use portcullis_common::{
    head::{CONNECT, FRONT, MAX_UNREAD, Step, UPGRADE},
    layout::{ANSWER_MALFORMED, ANSWER_TOO_LONG, GuardConfig, OPAQUE_PASS, REACT_DROP},
    reason::{Outcome, Reason},
    stream::{
        self, ANSWERS_READ, ANSWERS_TUNNEL, Answers, CARRY, KINDS, PHASE_DEAD, PHASE_FRAMES, PHASE_HTTP,
        PHASE_NEW, PHASE_OLD, PHASE_OPAQUE, PHASE_PREFACE, PHASE_TUNNEL, Place, Stream, TOKENS, ahead,
    },
    word,
};

use crate::{
    DROP, PASS, blocks,
    count::{arrive, count},
    cut, h2, inquiry,
    maps::{self, ACTIVE, OLDER, Scratch},
    packet::{self, ACK, H2C, Packet, Port, RST, SYN, URG},
    pending, react, scan,
    scan::{TELL_HTTP, TELL_RESET, scan_stream},
    socket::{self, Kept, Kind},
    syn,
    tomb::{self, Tomb},
    verdict,
};

pub use crate::ways::{BENCH, BENCH_FRAMES, FRAMES, GATE, GATE_FRAMES, WIRE, is_frames, is_gate};

/// Reads a packet on one of these ways.
#[inline(always)]
pub fn steps<const WAY: u32>(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return DROP };
    match packet::read(skb, scratch) {
        Port::Guarded => arrive(skb, scratch),
        Port::Open => return PASS,
        Port::Unsupported => {
            count(Outcome::Fragment);
            return DROP;
        }
        Port::Later => {
            count(Outcome::Unsupported);
            return PASS;
        }
    }
    // SAFETY: `packet::read` has set it, and nothing writes it from here on.
    let p = unsafe { &(*scratch).packet };
    match tomb::check(skb, scratch, p) {
        Tomb::None => {}
        Tomb::Drop => return DROP,
        Tomb::Pass => {}
        Tomb::Reset => return react::reset_client(skb, scratch, p),
    }
    if p.flags & SYN != 0 {
        return syn::steps(skb, scratch, p);
    }
    // TCP takes no data from a segment that resets.
    if p.len == 0 || p.flags & RST != 0 {
        return PASS;
    }
    if p.flags & URG != 0 || p.flags & ACK == 0 {
        count(Outcome::BadFlags);
        return DROP;
    }
    if p.h2c == H2C {
        maps::pass_on(skb, if WAY == BENCH { maps::TO_BENCH_FRAMES } else { maps::TO_FRAMES });
        return DROP;
    }
    let next = segment::<WAY>(skb, scratch);
    settle(skb, scratch, next)
}

/// Does what is to be done with a segment.
#[inline(always)]
pub fn settle(skb: *mut __sk_buff, scratch: *mut Scratch, next: i32) -> i32 {
    // SAFETY: `packet::read` has set it, and nothing writes it but the copy's mark.
    let p = unsafe { &(*scratch).packet };
    if next == Next::Pass as i32 {
        PASS
    } else if next == Next::Drop as i32 {
        DROP
    } else if next == Next::Hold as i32 || next == Next::Cut as i32 || next == Next::Wait as i32 {
        // SAFETY: this CPU's scratch, through memory so that all ways are one from here.
        let head = unsafe { &raw mut (*scratch).run.head };
        if next == Next::Cut as i32 {
            count(Outcome::Cut);
        } else {
            // The server may be waiting for what it acknowledges before it answers the requests ahead.
            if next == Next::Hold as i32 {
                react::hold(skb, scratch, p);
            }
            // SAFETY: as above.
            unsafe { head.write_volatile(p.payload) };
        }
        // SAFETY: as above.
        cut::behind(skb, scratch, p, unsafe { head.read_volatile() }.wrapping_sub(p.payload))
    } else {
        react::refuse(skb, scratch, p)
    }
}

/// What is done with a segment.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(i32)]
pub enum Next {
    Pass = 0,
    Drop = 1,
    /// The connection is refused, as `Run` says.
    Refuse = 2,
    /// Its payload is dropped for now, its request being refused once the ones before are answered.
    Hold = 3,
    /// It ends where the last head begins.
    Cut = 4,
    /// Its payload is dropped for now: its request has no verdict yet.
    Wait = 5,
    /// Its connection speaks HTTP/1: it is for the other program.
    Return = 6,
}

impl From<i32> for Next {
    #[inline(always)]
    fn from(n: i32) -> Self {
        match n {
            0 => Self::Pass,
            1 => Self::Drop,
            3 => Self::Hold,
            _ => Self::Refuse,
        }
    }
}

/// Reads a segment with payload. A function of its own, as [`react::refuse`] is, for the stack's sake.
#[inline(never)]
pub fn segment<const WAY: u32>(skb: *mut __sk_buff, scratch: *mut Scratch) -> i32 {
    let Some(config) = maps::config() else { return Next::Drop as i32 };
    // SAFETY: `packet::read` has set it, and nothing writes it but the copy's mark.
    let p = unsafe { &(*scratch).packet };
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return Next::Drop as i32;
    }
    let kept = socket::find::<true, WAY>(skb, scratch, p, config);
    // SAFETY: this CPU's scratch; nothing writes it from here on.
    let s = unsafe { &(*scratch).socket };
    if s.is(Kind::Over) {
        return Next::Pass as i32;
    }
    if s.is(Kind::Early) {
        count(Outcome::SynData);
        return Next::Wait as i32;
    }
    if s.is(Kind::Nothing) {
        if is_frames(WAY) {
            return Next::Return as i32;
        }
        if WAY == GATE {
            return Next::Drop as i32;
        }
        return unguarded(skb, scratch, Outcome::NoSocket) as i32;
    }
    let stream = if s.is(Kind::Young) { pending::make(skb, scratch, p) } else { kept.stream };
    if stream.is_null() {
        count(Outcome::Busy);
        return Next::Drop as i32;
    }
    // SAFETY: a map's value, whose lock this is.
    if !blocks::lock(unsafe { &raw mut (*stream).busy }) {
        count(Outcome::Busy);
        return Next::Drop as i32;
    }
    if WAY == BENCH || WAY == BENCH_FRAMES {
        // SAFETY: under its lock.
        unsafe {
            (*stream).phase = PHASE_NEW;
            (*stream).carried = 0;
            (*stream).asked = 0;
            (*stream).kinds = 0;
            (*stream).scan.restart();
        }
    }
    // SAFETY: under its lock.
    let next = unsafe { locked::<WAY>(skb, scratch, p, config, &mut *stream, &kept) };
    // SAFETY: as above.
    blocks::unlock(unsafe { &raw mut (*stream).busy });
    inquiry::wipe_window(scratch, config);
    next as i32
}

/// Reads a segment of a connection that no state is kept of.
#[inline(always)]
fn unguarded(skb: *mut __sk_buff, scratch: *mut Scratch, outcome: Outcome) -> Next {
    count(outcome);
    scan::alone(scratch);
    // SAFETY: this CPU's scratch.
    unsafe { (*scratch).run.unguarded = 1 };
    scan_stream(skb);
    // SAFETY: this CPU's scratch; the scan is over.
    let step = unsafe { (*scratch).run.step };
    if step == Step::Wait as u32 {
        // In hold mode a request waits here too, where its head is whole.
        count(Outcome::Waiting);
        return Next::Wait;
    }
    if step != Step::Refused as u32 {
        return Next::Pass;
    }
    scan::count_refusal(scratch);
    cause(scratch, Step::Refused as u32);
    // SAFETY: this CPU's scratch.
    unsafe { (*scratch).run.tell = TELL_RESET };
    Next::Refuse
}

/// The steps under the stream's lock.
#[inline(always)]
fn locked<const WAY: u32>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    config: &GuardConfig,
    stream: &mut Stream,
    kept: &Kept,
) -> Next {
    // SAFETY: this CPU's scratch; nothing writes it from here on.
    let s = unsafe { &(*scratch).socket };
    let taken = s.rcv_nxt;
    let epoch = ACTIVE.get(0).map_or(0, |a| a.epoch);
    if s.is(Kind::Young) && stream.phase != PHASE_NEW && stream.tried_at != taken {
        // Left by another connection of the same name that came to nothing.
        stream.forget();
    }
    if stream.phase == PHASE_NEW {
        begin(skb, scratch, p, stream, taken, s.received != 0 && s.is(Kind::Connected));
        stream.epoch = epoch;
    }
    // SAFETY: a map's value or null; the egress program writes it at the same time, each field whole.
    let answers = unsafe { kept.answers.cast_const().as_ref() };
    if is_frames(WAY) {
        if !stream.is_framed() {
            return Next::Return;
        }
        if stream.epoch != epoch && stream.phase == PHASE_FRAMES && !kept.h2.is_null() {
            if h2::condemned(scratch, kept.h2) {
                count(Outcome::Severed);
                return h2::sever::<WAY>(scratch, stream, kept.h2, answers);
            }
        }
        stream.epoch = epoch;
        return placed::<WAY>(skb, scratch, p, config, stream, kept, taken);
    }
    if stream.epoch != epoch {
        if condemned(scratch, stream, answers) {
            count(Outcome::Severed);
            return dead(scratch, stream, Step::Refused as u32);
        }
        stream.epoch = epoch;
    }
    if stream.phase != PHASE_HTTP {
        return match stream.phase {
            PHASE_TUNNEL | PHASE_OPAQUE => {
                count(Outcome::Tunnelled);
                Next::Pass
            }
            PHASE_OLD => unguarded(skb, scratch, Outcome::Unguarded),
            PHASE_NEW => {
                count(Outcome::Lost);
                dead(scratch, stream, LOST)
            }
            PHASE_DEAD => {
                count(Outcome::TombstoneDropped);
                Next::Drop
            }
            _ if p.h2c != 0 => {
                // The programs are being exchanged, and this one was asked out of turn.
                count(Outcome::Busy);
                Next::Drop
            }
            _ => {
                // HTTP/2 is not read at this port any more.
                count(Outcome::Lost);
                dead(scratch, stream, LOST)
            }
        };
    }
    if stream::kind(stream.kinds, 0) & (UPGRADE | CONNECT) != 0
        && answers.is_some_and(|a| a.phase == ANSWERS_TUNNEL)
    {
        stream.phase = PHASE_TUNNEL;
        count(Outcome::Tunnelled);
        return Next::Pass;
    }
    placed::<WAY>(skb, scratch, p, config, stream, kept, taken)
}

/// Reads the segment from P on, where it may pass at all.
#[inline(always)]
fn placed<const WAY: u32>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    config: &GuardConfig,
    stream: &mut Stream,
    kept: &Kept,
    taken: u32,
) -> Next {
    let end = p.seq.wrapping_add(p.len);
    let before = stream.parsed;
    match stream.place(taken, p.seq, end) {
        Place::Taken => return Next::Pass,
        Place::Body => {
            count(Outcome::Body);
            return Next::Pass;
        }
        Place::Gap => {
            count(Outcome::Gap);
            return Next::Drop;
        }
        Place::Lost => {
            count(Outcome::Lost);
            return dead(scratch, stream, LOST);
        }
        Place::Repeat => {
            let from = if ahead(p.seq, taken) < 0 { taken } else { p.seq };
            let to = if ahead(end, before) < 0 { end } else { before };
            let at = p.payload + from.wrapping_sub(p.seq);
            if !blocks::same(skb, scratch, stream, at, from, to) {
                count(Outcome::Contradiction);
                if stream.tried(taken, now()) {
                    count(Outcome::Contradicted);
                    return dead(scratch, stream, LOST);
                }
                return Next::Drop;
            }
            if ahead(end, stream.parsed) <= 0 {
                return Next::Pass;
            }
        }
        Place::Fresh => {}
    }
    if !is_frames(WAY) {
        // SAFETY: a map's value or null; the egress program writes it at the same time, each field whole.
        let answers = unsafe { kept.answers.cast_const().as_ref() };
        return read::<WAY>(skb, scratch, p, config, stream, answers, end);
    }
    if stream.phase == PHASE_PREFACE {
        match h2::preface(skb, scratch, stream, kept.h2) {
            h2::Preface::Http => return Next::Return,
            h2::Preface::Part => return Next::Pass,
            h2::Preface::Cut => return Next::Cut,
            h2::Preface::Again => return Next::Drop,
            h2::Preface::Whole => stream.phase = PHASE_FRAMES,
        }
    }
    if kept.h2.is_null() {
        count(Outcome::Lost);
        return dead(scratch, stream, LOST);
    }
    h2::read::<WAY>(skb, scratch, stream, kept.h2, kept.answers).into()
}

/// What a connection begins with; its phase stays new where that is not known.
#[inline(always)]
fn begin(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    stream: &mut Stream,
    taken: u32,
    missed: bool,
) {
    if missed {
        let mut flow = packet::flow(skb, scratch, p);
        flow.interface = 0;
        if OLDER.get_ptr(&flow).is_some() {
            stream.phase = PHASE_OLD;
        }
        return;
    }
    // SAFETY: helpers without arguments.
    let id = unsafe { (u64::from(bpf_get_prandom_u32())) << 32 | u64::from(bpf_get_prandom_u32()) };
    stream.id = id | 1;
    stream.parsed = taken;
    stream.tried_at = taken;
    stream.scan.preamble = p.proxy;
    stream.phase = if p.h2c != 0 && p.proxy == 0 { PHASE_PREFACE } else { PHASE_HTTP };
}

/// A connection whose beginning is not known.
const LOST: u32 = u32::MAX;

/// Marks a connection as refused, for `step` or [`LOST`].
#[inline(always)]
fn dead(scratch: *mut Scratch, stream: &mut Stream, step: u32) -> Next {
    stream.phase = PHASE_DEAD;
    cause(scratch, step);
    // SAFETY: this CPU's scratch.
    unsafe { (*scratch).run.tell = TELL_RESET };
    Next::Refuse
}

/// Whether one of the tokens of requests that are under way was condemned meanwhile; `Run` then says which.
#[inline(always)]
fn condemned(scratch: *mut Scratch, stream: &Stream, answers: Option<&Answers>) -> bool {
    let done = match answers {
        Some(a) => a.done(stream.asked),
        None => 0,
    };
    if stream.is_crowded(answers) {
        // SAFETY: this CPU's scratch; no other reference to it is alive.
        verdict::forgotten(unsafe { &mut (*scratch).run });
        return true;
    }
    for i in 0..TOKENS {
        if stream.is_open(i, done) {
            // SAFETY: this CPU's scratch; no other reference to it is alive.
            let run = unsafe { &mut (*scratch).run };
            // SAFETY: a field of its own, which the lookup reads from memory.
            unsafe { (&raw mut run.fingerprint).write_volatile(stream.tokens[i]) };
            if verdict::judge() != 0 {
                return true;
            }
        }
    }
    false
}

/// Reads from P on and settles what comes of it.
#[inline(always)]
fn read<const WAY: u32>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
    config: &GuardConfig,
    stream: &mut Stream,
    answers: Option<&Answers>,
    end: u32,
) -> Next {
    let from = stream.parsed;
    let at = p.payload + from.wrapping_sub(p.seq);
    // SAFETY: this CPU's scratch; no other reference to these fields is alive.
    unsafe {
        scan::begin(scratch, at, p.payload + p.len);
        let run = &mut (*scratch).run;
        run.head = if stream.scan.in_head() { 0 } else { at };
        run.base = p.seq.wrapping_sub(p.payload);
        run.keep = stream.id;
        run.kinds = stream.kinds;
        run.carried = stream.carried;
        let s = &mut (*scratch).scan;
        s.copy_from(&stream.scan);
        word::clear(&mut s.heads);
        word::clear(&mut s.tokens);
        s.long_tokens = 0;
        s.odd_heads = 0;
        word::clear(&mut s.began);
        if stream.carried != 0 {
            let buffer = (&raw mut (*scratch).buffer).cast::<u8>().add(FRONT).cast::<u64>();
            for i in 0..CARRY {
                buffer.add(i).write(stream.carry[i]);
            }
        }
    }
    scan_stream(skb);
    // SAFETY: this CPU's scratch; the scan is over.
    let run = unsafe { &mut (*scratch).run };
    let mut step = run.step;
    if step == Step::More as u32 {
        if run.finished != 0 && run.left <= MAX_UNREAD as u32 {
            commit(scratch, stream, answers, end);
            // A token may have been condemned since it was looked up, and the egress program may have checked the
            // others already. When the segment comes again, all are checked first.
            if run.token_count != 0 && ACTIVE.get(0).map_or(0, |a| a.epoch) != stream.epoch {
                count(Outcome::Busy);
                return Next::Drop;
            }
            return Next::Pass;
        }
        step = Step::TooLong as u32;
    } else if step == Step::Again as u32 {
        step = Step::TooLong as u32;
    }
    // Good requests came before it in this very segment, or the rest of one's body: more than empty lines.
    let behind = WAY != GATE && run.head > at && (run.asked != 0 || !stream.scan.at_boundary());
    if step == Step::Wait as u32 && !behind {
        count(Outcome::Waiting);
        return if WAY == GATE { Next::Drop } else { Next::Wait };
    }
    if step == Step::Opaque as u32 && stream.asked | run.asked == 0 && config.opaque == OPAQUE_PASS {
        stream.phase = PHASE_OPAQUE;
        return Next::Pass;
    }
    if behind {
        stream.scan.restart();
        stream.carried = 0;
        let open = open_requests(scratch, stream, answers);
        commit_requests(stream, open);
        stream.parsed = run.base.wrapping_add(run.head);
        return Next::Cut;
    }
    // What ended in this segment is refused with it.
    let asked = stream.asked;
    if config.reaction == REACT_DROP {
        if step == Step::Refused as u32 {
            scan::count_refusal(scratch);
        }
        cause(scratch, step);
        return Next::Refuse;
    }
    if is_gate(WAY) {
        if step == Step::Refused as u32 {
            scan::count_refusal(scratch);
        }
        refused(step);
        return dead(scratch, stream, step);
    }
    let s = unsafe { &(*scratch).socket };
    let current = s.rcv_nxt == stream.parsed;
    let idle = match answers {
        Some(a) => a.is_idle(asked, s.snd_nxt, p.ack),
        None => asked == 0 && s.snd_nxt == p.ack,
    };
    let waits = if step == Step::NotHttp as u32 {
        // What follows an upgrade is read as a request until the server has agreed.
        stream.kinds as u32 & (UPGRADE | CONNECT) != 0 && !idle && stream.scan.at_boundary()
    } else {
        // Within a body there is nothing to wait for: its request will not be answered.
        asked != 0 && !idle && (stream.scan.at_boundary() || stream.scan.in_head())
    };
    // Where responses are followed, the time to tell the client will come.
    let patient = waits && current && answers.is_none_or(|a| a.phase <= ANSWERS_READ);
    if patient || (waits || !current) && !stream.tried(s.rcv_nxt, now()) {
        cause(scratch, step);
        return Next::Hold;
    }
    stream.phase = PHASE_DEAD;
    cause(scratch, step);
    let run = unsafe { &mut (*scratch).run };
    let http = idle && current && step != Step::Http2 as u32 && step != Step::Opaque as u32;
    run.tell = if http { TELL_HTTP } else { TELL_RESET };
    if step == Step::Refused as u32 {
        scan::count_refusal(scratch);
    }
    refused(step);
    Next::Refuse
}

/// The time, as [`Stream::tried`] wants it.
#[inline(always)]
pub fn now() -> u32 {
    // SAFETY: a helper without arguments.
    (unsafe { bpf_ktime_get_boot_ns() } >> 20) as u32
}

/// Counts a refusal that no token is the cause of.
#[inline(always)]
pub fn refused(step: u32) {
    if step == Step::Odd as u32 {
        count(Outcome::RefusedAmbiguous);
    } else if step == Step::TooLong as u32 {
        count(Outcome::RefusedTooLong);
    } else if step == Step::Http2 as u32 {
        count(Outcome::RefusedHttp2);
    } else if step == Step::Opaque as u32 {
        count(Outcome::RefusedOpaque);
    } else if step == Step::NotHttp as u32 {
        count(Outcome::RefusedNotHttp);
    } else if step == Step::Broken as u32 {
        count(Outcome::RefusedFrames);
    }
}

/// Says in `Run` why a request is refused and what its client is told.
#[inline(always)]
pub fn cause(scratch: *mut Scratch, step: u32) {
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let run = unsafe { &mut (*scratch).run };
    if step == Step::Refused as u32 {
        return;
    }
    run.fingerprint.0 = word::zeros();
    run.decision = 0;
    let long = step == Step::TooLong as u32;
    run.answer = if long { ANSWER_TOO_LONG } else { ANSWER_MALFORMED };
    run.reason = if long { Reason::RequestTooLarge } else { Reason::RequestMalformed } as u32;
}

/// Keeps what the scan came to.
#[inline(always)]
fn commit(scratch: *mut Scratch, stream: &mut Stream, answers: Option<&Answers>, end: u32) {
    // SAFETY: this CPU's scratch; no other reference to these fields is alive. The buffer holds `CARRY` words
    // behind any masked place.
    unsafe {
        stream.scan.copy_from(&(*scratch).scan);
        let left = (*scratch).run.left;
        if left != 0 {
            let at = (*scratch).cursor.at as usize & (portcullis_common::head::WINDOW - 1);
            let from = (&raw const (*scratch).buffer).cast::<u8>().add(FRONT + at);
            for i in 0..CARRY {
                stream.carry[i] = from.add(i * 8).cast::<u64>().read_unaligned();
            }
        }
        stream.carried = left;
    }
    let open = open_requests(scratch, stream, answers);
    commit_requests(stream, open);
    stream.parsed = end;
}

/// How many requests were asked and are not known to be done with; [`UNKNOWN`] where responses are not followed.
#[inline(always)]
fn open_requests(scratch: *mut Scratch, stream: &Stream, answers: Option<&Answers>) -> u32 {
    // SAFETY: this CPU's scratch.
    let first = unsafe { (*scratch).socket.acked } <= 1;
    match answers {
        Some(a) if a.are_followed(first) => stream.asked.wrapping_sub(a.done(stream.asked)) & !UNKNOWN,
        None if first => stream.asked & !UNKNOWN,
        Some(a) => stream.asked.wrapping_sub(a.done(stream.asked)) | UNKNOWN,
        None => stream.asked | UNKNOWN,
    }
}

/// Marks what [`open_requests`] tells as not known.
const UNKNOWN: u32 = 1 << 31;

/// Keeps the requests that were read whole, and the tokens; `open` is [`open_requests`]'s. A global function to the
/// verifier, which walks it once.
#[unsafe(no_mangle)]
pub extern "C" fn commit_requests(stream: *mut Stream, open: u32) -> i32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    if stream.is_null() {
        return 0;
    }
    // SAFETY: this CPU's scratch, to which no other reference is alive; the caller's stream, under its lock.
    let (run, stream) = unsafe { (&(*scratch).run, &mut *stream) };
    let (asked, followed) = (stream.asked, open & UNKNOWN == 0);
    let done = asked.wrapping_sub(open & !UNKNOWN);
    let first = if run.token_count > TOKENS as u32 { run.token_count - TOKENS as u32 } else { 0 };
    for i in 0..TOKENS {
        if (i as u32) < run.token_count {
            let slot = (first as usize + i) & (TOKENS - 1);
            stream.token(run.tokens[slot], asked.wrapping_add(run.token_of[slot]), done, followed);
        }
    }
    let ranges = if run.ranges < 4 { run.ranges } else { 4 };
    for i in 0..4 {
        if i < ranges {
            let r = run.free[i as usize];
            stream.free(r.from, r.to);
        }
    }
    let now = asked.wrapping_add(run.asked);
    if followed && (run.token_count > TOKENS as u32 || now.wrapping_sub(done) > KINDS) {
        stream.crowd(now.wrapping_sub(1));
    }
    stream.asked = now;
    stream.kinds = stream::stamp(run.kinds, stream.asked);
    0
}
