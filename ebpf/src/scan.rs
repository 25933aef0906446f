//! Runs the head scanner over a segment, a window at a time.
//!
//! Two nested `bpf_loop`s: the outer one loads windows, the inner one steps the scanner. The verifier walks
//! each callback once, with all state in map memory, so that its cost does not grow with the limits.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    head::{self, FRONT, MAX_STEPS, MAX_UNREAD, Sink, Step, WINDOW},
    layout::{
        ANSWER_TOKEN, FEATURE_LIMITS, FEATURE_REQUESTS, GuardConfig, REACT_OBSERVE, ScanConfig, UNKNOWN_PASS,
    },
    reason::{Outcome, Reason, Sight},
    stream::{
        self, ANSWERS_H2C, ANSWERS_LOST, ANSWERS_READ, ANSWERS_TUNNEL, KINDS, RANGES, Range, TOKENS,
        pop_kind, push_kind,
    },
    word,
};

use crate::{
    blocks,
    count::{Counters, Place, count, sight},
    inquiry::inquire,
    limit,
    maps::{self, ACTIVE, Scratch},
    refusals, verdict,
};

/// Windows of a segment: a 64 KiB super-packet takes some twenty. Where heads are looked at as a whole, each takes
/// another turn.
const MAX_WINDOWS: u32 = 1024;

/// Where the scan of one segment stands. Offsets are from the skb's start.
#[repr(C)]
pub struct Run {
    /// The fingerprint that is looked up; after a refusal, the refused token's.
    pub fingerprint: DenyFingerprint,
    /// Tokens that were read and are not condemned.
    pub tokens: [DenyFingerprint; TOKENS],
    /// The stream whose bytes are kept for comparison; 0 for none.
    pub keep: u64,
    /// The decision that condemned the refused token; 0 for none.
    pub decision: u64,
    /// What the requests are, or for responses what they are to: see `Stream::kinds`.
    pub kinds: u64,
    /// Of which request each is, from the stream's `asked` on.
    pub token_of: [u32; TOKENS],
    /// Body that was stepped over unread.
    pub free: [Range; RANGES],
    /// How many such ranges there were.
    pub ranges: u32,
    /// Tokens in `tokens`, counted beyond its size.
    pub token_count: u32,
    /// 1 where the last token was that of a request before, too.
    pub same: u32,
    /// Where the next window begins.
    pub at: u32,
    /// Where the payload ends.
    pub end: u32,
    /// Where the present head begins; 0 if before this segment.
    pub head: u32,
    /// The last [`Step`].
    pub step: u32,
    /// Why it was refused: a [`portcullis_common::reason::Reason`].
    pub reason: u32,
    /// Place in the stream of the skb's start.
    pub base: u32,
    /// Where the present window begins; before the skb's start where it holds carried bytes.
    pub origin: u32,
    /// 1 where a request's head has just ended.
    pub ended: u32,
    /// 1 where the present window is not used up.
    pub resume: u32,
    /// Bytes of earlier segments that stand before the next window.
    pub carried: u32,
    /// Bytes left unread at the end.
    pub left: u32,
    /// Requests whose head ended, or for responses those asked before.
    pub asked: u32,
    /// Final responses whose head was read.
    pub answered: u32,
    /// For responses: the last final status, 0 where the segment had none.
    pub status: u32,
    /// For responses: the phase that a final status led to, [`ANSWERS_READ`] where to none.
    pub turn: u32,
    /// 1 where all up to `end` was read.
    pub finished: u32,
    /// 1 where strict mode keeps nothing of the connection.
    pub unguarded: u32,
    /// Room for a number on its way past the compiler.
    pub pad: u32,
    /// What the client is told of a refusal: an `ANSWER_` constant.
    pub answer: u32,
    /// One of the `TELL_` constants.
    pub tell: u32,
    /// On HTTP/2: the last stream that the client is told of, with [`GOAWAY`]; else 0.
    pub goaway: u32,
    /// On HTTP/2: how many ranges of payload may be stepped over unkept.
    pub room: u32,
}

/// Marks `Run::goaway` as set.
pub const GOAWAY: u32 = 1 << 31;

/// Whether the client may be told in HTTP is not known yet.
pub const TELL_ASK: u32 = 0;
/// It may.
pub const TELL_HTTP: u32 = 1;
/// It may not.
pub const TELL_RESET: u32 = 2;

/// What the callbacks are given: it lives on the caller's stack, all it points at outlives the loops.
pub struct Env {
    pub skb: *mut __sk_buff,
    pub scratch: *mut Scratch,
    pub config: *const ScanConfig,
    /// The policy generation, where tokens have limits; else 0.
    pub limits: u32,
    pub observe: bool,
    /// Heads are looked at as a whole.
    pub inquire: bool,
}

/// Looks tokens up as the scanner finds them.
struct Requests<'a> {
    run: &'a mut Run,
    observe: bool,
    limits: u32,
}

impl Sink for Requests<'_> {
    #[inline(always)]
    fn token(&mut self, fingerprint: DenyFingerprint) -> bool {
        // The lookup reads it from memory.
        // SAFETY: a field of its own.
        unsafe { (&raw mut self.run.fingerprint).write_volatile(fingerprint) };
        if verdict::judge() != 0 {
            if self.observe {
                count(Outcome::Observed);
            }
            return !self.observe;
        }
        if self.limits != 0 && limit::exceeds(self.limits) != 0 && !self.observe {
            return true;
        }
        let next = self.run.token_count as usize & (TOKENS - 1);
        self.run.tokens[next] = self.run.fingerprint;
        self.run.token_of[next] = self.run.asked;
        // One that is the last one too takes no more room.
        let last = next.wrapping_sub(1) & (TOKENS - 1);
        let differ = (self.run.tokens[next].0[0] ^ self.run.tokens[last].0[0])
            | (self.run.tokens[next].0[1] ^ self.run.tokens[last].0[1]);
        if self.run.token_count != 0 && differ == 0 {
            self.run.token_of[last] = self.run.asked;
            self.run.same = 1;
            return false;
        }
        self.run.token_count += 1;
        self.run.same = 0;
        false
    }

    #[inline(always)]
    fn head(&mut self, traits: u32, _: u32) -> bool {
        self.run.asked += 1;
        self.run.ended = 1;
        self.run.kinds = push_kind(self.run.kinds, traits);
        false
    }
}

/// Counts responses as the scanner finds them.
struct Responses<'a> {
    run: &'a mut Run,
}

impl Sink for Responses<'_> {
    const ANSWERS: bool = true;

    fn token(&mut self, _: DenyFingerprint) -> bool {
        false
    }

    #[inline(always)]
    fn head(&mut self, framing: u32, status: u32) -> bool {
        if status < 200 && status != 101 {
            return false;
        }
        let run = &mut self.run;
        run.status = status;
        let open = run.asked.wrapping_sub(run.answered);
        run.answered += 1;
        // To what it is the answer: requests beyond the memory are as good as unknown.
        let known = open != 0 && open <= KINDS;
        let kind = if known { stream::kind(run.kinds, open.wrapping_sub(1)) } else { 0 };
        if status == 101 {
            run.turn = if kind & head::H2C != 0 {
                ANSWERS_H2C
            } else if kind & head::UPGRADE != 0 {
                ANSWERS_TUNNEL
            } else {
                ANSWERS_LOST
            };
        } else if kind & head::CONNECT != 0 && status < 300 && framing == 0 && status != 204 && status != 205
        {
            // A tunnel has no body (RFC 9110 §9.3.6). A server that sends one, or says that it has none, has answered
            // CONNECT as it would any method, and reads on.
            run.turn = ANSWERS_TUNNEL;
        } else if !known {
            run.turn = ANSWERS_LOST;
        }
        kind & head::HEAD != 0
    }
}

/// Sets a scan over a payload up; what is carried, kept and known of the stream is the caller's to add.
#[inline(always)]
pub fn begin(scratch: *mut Scratch, at: u32, end: u32) {
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let run = unsafe { &mut (*scratch).run };
    run.at = at;
    run.end = end;
    run.head = at;
    run.step = Step::More as u32;
    run.keep = 0;
    word::clear(&mut run.token_count);
    word::clear(&mut run.ranges);
    word::clear(&mut run.base);
    word::clear(&mut run.ended);
    word::clear(&mut run.resume);
    word::clear(&mut run.carried);
    word::clear(&mut run.left);
    word::clear(&mut run.asked);
    run.turn = ANSWERS_READ;
    run.finished = 0;
    run.answer = ANSWER_TOKEN;
    run.tell = TELL_ASK;
    run.goaway = 0;
    run.unguarded = 0;
}

/// Scans what was set up; `Run::step` says how it ended.
#[inline(always)]
pub fn run<const OUT: bool, const KEEP: bool>(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    config: &GuardConfig,
) {
    let scan = if OUT { &raw const config.answers_scan } else { &raw const config.scan };
    let (features, generation) = match ACTIVE.get(0) {
        Some(a) if !OUT => (a.features, a.generation),
        _ => (0, 0),
    };
    let mut env = Env {
        skb,
        scratch,
        config: scan,
        limits: if features & FEATURE_LIMITS != 0 { generation as u32 } else { 0 },
        observe: config.reaction == REACT_OBSERVE,
        inquire: !OUT && (features & FEATURE_REQUESTS != 0 || config.unknown != UNKNOWN_PASS),
    };
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_WINDOWS, window::<OUT, KEEP> as *const () as *mut c_void, (&raw mut env).cast(), 0);
    }
}

/// Sets up the scan of a segment by itself.
#[inline(always)]
pub fn alone(scratch: *mut Scratch) {
    // SAFETY: this CPU's scratch, and the packet that was read into it.
    let (at, end, proxy) = unsafe {
        let p = &(*scratch).packet;
        (p.payload, p.payload + p.len, p.proxy)
    };
    begin(scratch, at, end);
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    unsafe {
        (*scratch).scan.restart();
        (*scratch).scan.preamble = proxy;
    }
}

/// Scans what strict mode set up, and counts it. Exported, hence a global function to the verifier: it walks it once,
/// whatever leads to the call, and takes nothing for granted but the context.
#[unsafe(no_mangle)]
pub extern "C" fn scan_stream(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else { return 0 };
    run::<false, true>(skb, scratch, config);
    account(scratch);
    refusals::tokens(skb, scratch);
    0
}

/// Scans a segment by itself, and counts it; likewise.
#[unsafe(no_mangle)]
pub extern "C" fn scan_alone(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else { return 0 };
    alone(scratch);
    run::<false, false>(skb, scratch, config);
    account(scratch);
    refusals::tokens(skb, scratch);
    0
}

/// Scans responses; likewise.
#[unsafe(no_mangle)]
pub extern "C" fn scan_answer(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch_out(), maps::config()) else { return 0 };
    run::<true, false>(skb, scratch, config);
    0
}

/// Counts the refusal of a token, by cause.
#[inline(always)]
pub fn count_refusal(scratch: *mut Scratch) {
    // SAFETY: this CPU's scratch.
    let reason = unsafe { (*scratch).run.reason };
    count(if reason == Reason::TokenRevoked as u32 {
        Outcome::Revoked
    } else if reason == Reason::TokenCondemned as u32 {
        Outcome::Condemned
    } else if reason == Reason::RateLimited as u32 {
        Outcome::Limited
    } else {
        Outcome::Denied
    });
}

/// Counts what was seen in a segment.
#[inline(always)]
pub fn account(scratch: *mut Scratch) {
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let s = unsafe { &*scratch };
    let Some(c) = Counters::get() else { return };
    c.add(Outcome::Segments, 1);
    c.add(Outcome::Requests, s.scan.heads);
    if let Some(place) = Place::of(scratch) {
        place.add(Sight::Requests, s.scan.heads);
        place.add(Sight::Unguarded, s.run.unguarded);
    }
    c.add(Outcome::Tokens, s.scan.tokens);
    if s.scan.long_tokens | s.scan.odd_heads != 0 {
        c.add(Outcome::TokenTooLong, u32::from(s.scan.long_tokens));
        c.add(Outcome::Ambiguous, u32::from(s.scan.odd_heads));
    }
    let step = s.run.step;
    if step == Step::More as u32 {
        c.add(Outcome::SplitHead, u32::from(s.scan.in_head()));
    } else if step == Step::NotHttp as u32 {
        c.add(Outcome::NotHttp, 1);
    } else if step == Step::Opaque as u32 {
        c.add(Outcome::Opaque, 1);
        sight(scratch, Sight::Opaque);
    } else if step == Step::Http2 as u32 {
        c.add(Outcome::Http2, 1);
        sight(scratch, Sight::Http2);
    } else if step != Step::Odd as u32 && step != Step::Refused as u32 && step != Step::Wait as u32 {
        // Too long, or more steps than the bounds allow.
        c.add(Outcome::HeadTooLong, 1);
    }
}

/// Loads one window and scans it, or goes on with the present one. Returns 1 to end the loop.
unsafe extern "C" fn window<const OUT: bool, const KEEP: bool>(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `run` passes its `env`; the scratch is this CPU's and not referenced elsewhere.
    let s = unsafe { &mut *(*env).scratch };
    if s.run.resume == 0 {
        // SAFETY: as above.
        let (skb, scratch) = unsafe { ((*env).skb, (*env).scratch) };
        if load::<KEEP>(skb, scratch) {
            return 1;
        }
    }
    // SAFETY: as above; no other reference to it is alive.
    let s = unsafe { &mut *(*env).scratch };
    s.run.resume = 0;
    s.run.step = Step::Again as u32;
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_STEPS, step::<OUT> as *const () as *mut c_void, env.cast(), 0);
    }
    // SAFETY: as above; the callback's references are gone.
    let s = unsafe { &mut *(*env).scratch };
    let (at, end) = (s.run.at, s.run.end);
    let carried = at.wrapping_sub(s.run.origin);
    if s.scan.began != 0 {
        // Where it begins among the carried bytes, an earlier segment holds its beginning.
        s.run.head = if s.cursor.head < carried { 0 } else { at + s.cursor.head - carried };
        s.scan.began = 0;
    }
    // SAFETY: as above.
    if !OUT && s.run.ended != 0 && unsafe { (*env).inquire } {
        s.run.ended = 0;
        // SAFETY: as above.
        let (skb, observe) = unsafe { ((*env).skb, (*env).observe) };
        let answer = inquire(skb);
        // SAFETY: as above; no other reference to it is alive.
        let s = unsafe { &mut *(*env).scratch };
        if answer != Step::Again as i32 && !observe {
            // The request is not the server's: it is forgotten as one.
            take_back(&mut s.run, answer);
            return 1;
        }
        if s.run.step == Step::Again as u32 {
            s.run.resume = 1;
            return 0;
        }
    }
    // SAFETY: as above; no other reference to it is alive.
    let s = unsafe { &mut *(*env).scratch };
    let read = s.cursor.at;
    s.run.left = s.cursor.end - read;
    if s.run.step != Step::More as u32 || s.cursor.last != 0 || read <= carried {
        s.run.finished = u32::from(s.run.step == Step::More as u32 && s.cursor.last != 0);
        s.scan.next_window(&s.cursor);
        return 1;
    }
    s.scan.next_window(&s.cursor);
    let mut next = at + read - carried;
    let skip = s.scan.skippable();
    if skip != 0 && next < end {
        let n = if skip < u64::from(end - next) { skip } else { u64::from(end - next) };
        s.scan.skip(n);
        if KEEP {
            let from = s.run.base.wrapping_add(next);
            let slot = s.run.ranges as usize & (RANGES - 1);
            s.run.free[slot] = Range { from, to: from.wrapping_add(n as u32) };
            s.run.ranges += 1;
        }
        next += n as u32;
        s.run.left = 0;
    }
    s.run.finished = u32::from(next >= end);
    s.run.at = next;
    0
}

/// Loads the next window; `true` where there is none. A function of its own, behind which the ways through it are one
/// to the verifier.
#[inline(never)]
fn load<const KEEP: bool>(skb: *mut __sk_buff, scratch: *mut Scratch) -> bool {
    // SAFETY: this CPU's scratch, not referenced elsewhere.
    let s = unsafe { &mut *scratch };
    let (at, end) = (s.run.at, s.run.end);
    if at >= end {
        return true;
    }
    let carried = s.run.carried & (2 * MAX_UNREAD as u32 - 1);
    let n = bounded(s, end - at);
    // The verifier wants both bounds on the very register that the helper gets.
    if n == 0 || n > (WINDOW - 2 * MAX_UNREAD) as u32 {
        return true;
    }
    // SAFETY: `n` and what is carried are at most `WINDOW`, and the buffer has that much behind `FRONT`.
    let loaded = unsafe {
        let to = (&raw mut s.buffer).cast::<u8>().add(FRONT + carried as usize);
        bpf_skb_load_bytes(skb.cast(), at, to.cast(), n)
    };
    if loaded != 0 {
        s.run.step = Step::NotHttp as u32;
        return true;
    }
    if KEEP && s.run.keep != 0 {
        let seq = s.run.base.wrapping_add(at);
        blocks::keep(skb, scratch, seq, at, n);
    }
    // SAFETY: as above; no other reference to it is alive.
    let s = unsafe { &mut *scratch };
    s.run.origin = at.wrapping_sub(carried);
    s.cursor.at = 0;
    s.cursor.end = carried + n;
    s.cursor.head = 0;
    s.cursor.last = u32::from(at + n == end);
    s.run.carried = 0;
    false
}

/// A window's length, in a form that the verifier sees the bounds of.
#[inline(always)]
fn bounded(s: &mut Scratch, left: u32) -> u32 {
    let most = (WINDOW - 2 * MAX_UNREAD) as u32;
    let n = if left < most { left } else { most };
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    let p = &raw mut s.run.pad;
    // SAFETY: a field of this CPU's scratch.
    unsafe {
        p.write_volatile(n);
        p.read_volatile()
    }
}

/// One step of the scanner. Returns 1 to end the loop.
unsafe extern "C" fn step<const OUT: bool>(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `window` passes on its `env`; the fields borrowed here are disjoint, and the configuration is
    // the map's value.
    let result = unsafe {
        let scratch = (*env).scratch;
        if !(*scratch).scan.is_frequent() {
            if OUT { rare_answer() } else { rare_request() }
        } else {
            let config = &*(*env).config;
            let (scan, cursor) = (&mut (*scratch).scan, &mut (*scratch).cursor);
            let buffer = (&raw const (*scratch).buffer).cast();
            let run = &mut (*scratch).run;
            if OUT {
                head::frequent(scan, cursor, buffer, config, &mut Responses { run }) as i32
            } else {
                let (observe, limits) = ((*env).observe, (*env).limits);
                let mut sink = Requests { run, observe, limits };
                head::frequent(scan, cursor, buffer, config, &mut sink) as i32
            }
        }
    };
    // SAFETY: as above; the references above are gone.
    if !OUT && unsafe { (*env).inquire && (*(*env).scratch).run.ended != 0 } {
        // `window` goes on: its stack is smaller.
        // SAFETY: as above.
        unsafe { (*(*env).scratch).run.step = result as u32 };
        return 1;
    }
    if result == Step::Again as i32 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*(*env).scratch).run.step = result as u32 };
    1
}

/// Forgets the request that ended last, for the [`Step`] that the scan ends with.
#[inline(always)]
fn take_back(run: &mut Run, step: i32) {
    run.step = step as u32;
    run.asked = run.asked.wrapping_sub(1);
    run.kinds = pop_kind(run.kinds);
    let last = run.token_count.wrapping_sub(1);
    if run.token_count != 0 && run.token_of[last as usize & (TOKENS - 1)] == run.asked {
        if run.same != 0 {
            // An earlier request's too.
            run.token_of[last as usize & (TOKENS - 1)] = run.asked.wrapping_sub(1);
        } else {
            run.token_count = last;
        }
    }
}

/// A step of the rarer kind. A global function, as [`scan_stream`] is.
#[unsafe(no_mangle)]
pub extern "C" fn rare_request() -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else {
        return Step::NotHttp as i32;
    };
    // SAFETY: this CPU's scratch; the fields borrowed are disjoint.
    unsafe {
        let (scan, cursor) = (&mut (*scratch).scan, &mut (*scratch).cursor);
        head::rare::<Requests<'_>>(scan, cursor, (&raw const (*scratch).buffer).cast(), &config.scan) as i32
    }
}

/// Likewise for responses.
#[unsafe(no_mangle)]
pub extern "C" fn rare_answer() -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch_out(), maps::config()) else {
        return Step::NotHttp as i32;
    };
    // SAFETY: this CPU's scratch; the fields borrowed are disjoint.
    unsafe {
        let (scan, cursor) = (&mut (*scratch).scan, &mut (*scratch).cursor);
        let config = &config.answers_scan;
        head::rare::<Responses<'_>>(scan, cursor, (&raw const (*scratch).buffer).cast(), config) as i32
    }
}
