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
    head::{self, FRONT, MAX_STEPS, Sink, Step, WINDOW},
    layout::GuardConfig,
    reason::{Outcome, Reason},
};

use crate::{
    count::{Counters, count},
    maps::{self, Scratch},
    packet::Packet,
    verdict,
};

/// Windows of a segment: a 64 KiB super-packet, with room for the bytes that each presents again.
const MAX_WINDOWS: u32 = 24;

/// Where the scan of one segment stands. Offsets are from the skb's start.
#[repr(C)]
pub struct Run {
    /// The refused token's fingerprint.
    pub fingerprint: DenyFingerprint,
    /// Where the next window begins.
    pub at: u32,
    /// Where the payload ends.
    pub end: u32,
    /// Where the present head begins.
    pub head: u32,
    /// The last [`Step`].
    pub step: u32,
    /// Why it was refused: a [`Reason`].
    pub reason: u32,
    /// Padding.
    pub pad: u32,
}

/// What came of a segment.
pub enum Scanned {
    /// Nothing in it is condemned.
    Passed,
    /// The head at `Run::head` carries a condemned token.
    Refused,
}

/// What the callbacks are given: it lives on the caller's stack, all it points at outlives the loops.
struct Env {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    config: *const GuardConfig,
}

/// Looks tokens up as the scanner finds them.
struct Lookup<'a> {
    run: &'a mut Run,
    observe: bool,
}

impl Sink for Lookup<'_> {
    #[inline(always)]
    fn token(&mut self, fingerprint: DenyFingerprint) -> bool {
        let Some(reason) = verdict::of(&fingerprint) else { return false };
        if self.observe {
            count(Outcome::Observed);
            return false;
        }
        self.run.fingerprint = fingerprint;
        self.run.reason = reason as u32;
        true
    }
}

/// Scans a segment by itself: fast mode.
#[inline(always)]
pub fn heads(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> Scanned {
    let Some(config) = maps::config() else { return Scanned::Passed };
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let s = unsafe { &mut *scratch };
    s.run.at = p.payload;
    s.run.end = p.payload + p.len;
    s.run.head = p.payload;
    s.run.step = Step::More as u32;
    s.scan.restart();
    let mut env = Env { skb, scratch, config };
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_WINDOWS, window as *const () as *mut c_void, (&raw mut env).cast(), 0);
    }
    account(scratch)
}

/// Counts what was seen and tells what came of it.
#[inline(always)]
fn account(scratch: *mut Scratch) -> Scanned {
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    let s = unsafe { &*scratch };
    let step = s.run.step;
    let Some(c) = Counters::get() else { return Scanned::Passed };
    c.add(Outcome::Segments, 1);
    c.add(Outcome::Requests, s.scan.heads);
    c.add(Outcome::Tokens, s.scan.tokens);
    c.add(Outcome::TokenTooLong, s.scan.long_tokens);
    c.add(Outcome::Ambiguous, s.scan.odd_heads);
    if step == Step::Refused as u32 {
        let revoked = s.run.reason == Reason::TokenRevoked as u32;
        c.add(if revoked { Outcome::Revoked } else { Outcome::Condemned }, 1);
        return Scanned::Refused;
    }
    if step == Step::More as u32 {
        c.add(Outcome::SplitHead, u32::from(s.scan.in_head()));
    } else if step == Step::NotHttp as u32 {
        c.add(Outcome::NotHttp, 1);
    } else if step == Step::Opaque as u32 {
        c.add(Outcome::Opaque, 1);
    } else if step == Step::Http2 as u32 {
        c.add(Outcome::Http2, 1);
    } else {
        // Too long, or more steps than the bounds allow.
        c.add(Outcome::HeadTooLong, 1);
    }
    Scanned::Passed
}

/// Loads one window and scans it. Returns 1 to end the loop.
unsafe extern "C" fn window(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `heads` passes its `env`; the scratch is this CPU's and not referenced elsewhere.
    let (skb, s) = unsafe { ((*env).skb, &mut *(*env).scratch) };
    let (at, end) = (s.run.at, s.run.end);
    if at >= end {
        return 1;
    }
    let n = bounded(s, end - at);
    // The verifier wants both bounds on the very register that the helper gets.
    if n == 0 || n > WINDOW as u32 {
        return 1;
    }
    // SAFETY: `n` is at most `WINDOW`, and the buffer has that much behind `FRONT`.
    let loaded =
        unsafe { bpf_skb_load_bytes(skb.cast(), at, (&raw mut s.buffer).cast::<u8>().add(FRONT).cast(), n) };
    if loaded != 0 {
        s.run.step = Step::NotHttp as u32;
        return 1;
    }
    s.cursor.at = 0;
    s.cursor.end = n;
    s.cursor.head = 0;
    s.cursor.last = u32::from(at + n == end);
    s.run.step = Step::Again as u32;
    // SAFETY: the callback's context is `env`, which outlives the call.
    unsafe {
        bpf_loop(MAX_STEPS, step as *const () as *mut c_void, env.cast(), 0);
    }
    // SAFETY: as above; the callback's references are gone.
    let s = unsafe { &mut *(*env).scratch };
    if s.scan.began != 0 {
        s.run.head = at + s.cursor.head;
        s.scan.began = 0;
    }
    if s.run.step != Step::More as u32 || s.cursor.last != 0 || s.cursor.at == 0 {
        return 1;
    }
    s.scan.next_window(&s.cursor);
    let mut next = at + s.cursor.at;
    let skip = s.scan.skippable();
    if skip != 0 && next < end {
        let n = if skip < u64::from(end - next) { skip } else { u64::from(end - next) };
        s.scan.skip(n);
        next += n as u32;
    }
    s.run.at = next;
    0
}

/// A window's length, in a form that the verifier sees the bounds of.
#[inline(always)]
fn bounded(s: &mut Scratch, left: u32) -> u32 {
    let n = if left < WINDOW as u32 { left } else { WINDOW as u32 };
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    let p = &raw mut s.run.pad;
    // SAFETY: a field of this CPU's scratch.
    unsafe {
        p.write_volatile(n);
        p.read_volatile()
    }
}

/// One step of the scanner. Returns 1 to end the loop.
unsafe extern "C" fn step(_: u64, env: *mut Env) -> i64 {
    // SAFETY: `window` passes on its `env`; the fields borrowed here are disjoint, and the configuration is
    // the map's value.
    let result = unsafe {
        let scratch = (*env).scratch;
        let config = &*(*env).config;
        let mut lookup = Lookup {
            run: &mut (*scratch).run,
            observe: config.reaction == portcullis_common::layout::REACT_OBSERVE,
        };
        head::step(
            &mut (*scratch).scan,
            &mut (*scratch).cursor,
            (&raw const (*scratch).buffer).cast(),
            &config.scan,
            &mut lookup,
        )
    };
    if result as u32 == Step::Again as u32 {
        return 0;
    }
    // SAFETY: as above.
    unsafe { (*(*env).scratch).run.step = result as u32 };
    1
}
