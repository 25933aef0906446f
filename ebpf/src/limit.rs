//! Rate limits of tokens, once a policy has set one: the generic cell rate algorithm, one word a token.

use core::intrinsics::AtomicOrdering;

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use portcullis_common::{
    layout::{ANSWER_LIMITED, Limit},
    reason::{Outcome, Reason},
};

use crate::{
    count::count,
    maps::{self, LIMITS},
    scan::Run,
};

/// Whether a request of the token in `run.fingerprint` comes too soon; `run` then says why it is refused. One that does
/// takes nothing of the token's share.
///
/// A global function to the verifier, which walks it once, and takes its own stack.
#[unsafe(no_mangle)]
pub extern "C" fn exceeds(generation: u32) -> i32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    // SAFETY: this CPU's scratch; the callers hold references to it that they do not use meanwhile.
    i32::from(exceeded(unsafe { &mut (*scratch).run }, generation))
}

#[inline(always)]
fn exceeded(run: &mut Run, generation: u32) -> bool {
    let Some(limit) = LIMITS.get_ptr_mut(&run.fingerprint) else { return false };
    // SAFETY: a value of a map; an LRU may reuse it for another token, whose next request then comes a little later.
    let (interval, tolerance, until, its, decision) = unsafe {
        let l = &*limit;
        (l.interval, l.tolerance, l.until, l.generation, l.decision)
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if until <= now || its != generation {
        return false;
    }
    // Another CPU may be at it: one more try, then the request passes.
    let mut share = take(limit, now, interval, tolerance);
    if share == RACED {
        share = take(limit, now, interval, tolerance);
    }
    if share == RACED {
        count(Outcome::LimitRaced);
    }
    if share != EXCEEDED {
        return false;
    }
    run.reason = Reason::RateLimited as u32;
    run.answer = ANSWER_LIMITED;
    run.decision = decision;
    true
}

const TAKEN: u32 = 0;
const EXCEEDED: u32 = 1;
const RACED: u32 = 2;

/// Moves the arrival time of the next request on, unless it is too far ahead.
#[inline(always)]
fn take(limit: *mut Limit, now: u64, interval: u64, tolerance: u64) -> u32 {
    // SAFETY: a word of a map's value.
    unsafe {
        let word = &raw mut (*limit).arrival;
        let arrival = word.read_volatile();
        let from = if arrival > now { arrival } else { now };
        if from - now > tolerance {
            return EXCEEDED;
        }
        let next = from.wrapping_add(interval);
        let (_, done) =
            core::intrinsics::atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                word, arrival, next,
            );
        if done { TAKEN } else { RACED }
    }
}

/// Gives back the share that a request of the token in `run.fingerprint` has taken: it did not pass. Where another CPU is
/// at it the share is lost.
#[inline(always)]
pub fn give_back(run: &Run, generation: u32) {
    let Some(limit) = LIMITS.get_ptr_mut(&run.fingerprint) else { return };
    // SAFETY: a value of a map, as above.
    unsafe {
        let word = &raw mut (*limit).arrival;
        let (arrival, interval) = (word.read_volatile(), (*limit).interval);
        if (*limit).generation == generation && arrival >= interval {
            core::intrinsics::atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
                word,
                arrival,
                arrival - interval,
            );
        }
    }
}
