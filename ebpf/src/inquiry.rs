//! Verdicts on a request as a whole: what its token may do with this method and target.
//!
//! Where a policy has denied requests by token and target, or where learn or hold mode is on, a head that has ended is
//! looked at once more: it is taken together, its request line and its token are named, and the maps are asked. What
//! has no verdict is shown to the daemon, each once, in a slot of preallocated memory that the daemon overwrites when
//! it has read it; the ring buffer carries the slot's number alone. Hold mode then holds the segment back: the client
//! sends it again, and by then there is a verdict.

use core::{ffi::c_void, intrinsics::AtomicOrdering};

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_get_prandom_u32, bpf_ktime_get_boot_ns, bpf_loop, bpf_probe_read_kernel, bpf_skb_load_bytes,
    },
};
use portcullis_common::{
    fingerprint::Sip,
    head::{BUFFER, Step},
    layout::{
        ANSWER_TOKEN, FEATURE_LIMITS, FEATURE_REQUESTS, GuardConfig, INQUIRY_HEADER, INQUIRY_MAX,
        INQUIRY_SLOTS, Inquiry, RequestValue, UNKNOWN_HOLD, UNKNOWN_PASS, VERDICT_DENY, VERDICT_ONCE,
    },
    reason::Outcome,
    word,
};

use crate::{
    blocks,
    count::count,
    limit,
    maps::{
        self, ACTIVE, ASKED, DENIED, INQUIRIES, INQUIRY, INQUIRY_RING, INQUIRY_STATES, Scratch, VERDICTS,
    },
    packet,
};

/// The rest of a request line behind its target: ` HTTP/1.x` and CR LF.
const VERSION: u32 = 11;
/// How long a request that was shown is not shown again, in ns.
const AGAIN: u64 = 1_000_000_000;
/// Words of the longest head, four to a step.
const STEPS: u32 = INQUIRY_MAX as u32 / 32 + 1;
/// Slots that are tried.
const TRIES: u32 = 4;
/// [`crate::scan`]: go on, nothing is against it.
const GO: i32 = Step::Again as i32;

/// Settles what becomes of the request whose head has just ended: [`GO`], or the [`Step`] that the scan ends with. A
/// global function to the verifier, which walks it once.
#[unsafe(no_mangle)]
pub extern "C" fn inquire(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(config)) = (maps::scratch(), maps::config()) else { return GO };
    let Some(q) = INQUIRY.get_ptr_mut(0) else { return GO };
    let Some(active) = ACTIVE.get(0) else { return GO };
    // SAFETY: this CPU's scratch; the references end before it is written elsewhere.
    let (named, len, line, token_end, token_len) = unsafe {
        let s = &(*scratch).scan;
        (s.named, s.head_len(&(*scratch).cursor), s.line_len, s.token_end, s.last_token_len())
    };
    let hold = config.unknown == UNKNOWN_HOLD;
    if config.unknown == UNKNOWN_PASS && (active.features & FEATURE_REQUESTS == 0 || named == 0) {
        return GO;
    }
    let refused = if hold { Step::Odd as i32 } else { GO };
    let misplaced = named != 0 && (token_end > len || token_len > token_end);
    if named > 1 || line <= VERSION || misplaced {
        // No gateway says which token counts.
        return refused;
    }
    if len > INQUIRY_MAX as u32 {
        count(Outcome::InquiryTooLong);
        return if hold { Step::TooLong as i32 } else { GO };
    }
    if !load(skb, scratch, q, len) {
        count(Outcome::InquiryLost);
        // What was passed of it before is not here any more, and will not be.
        return if hold { Step::TooLong as i32 } else { GO };
    }
    // SAFETY: this CPU's own; the scan's state is read alone.
    unsafe {
        (*q).deny = if named == 0 { [0; 2] } else { (*scratch).scan.last_token() };
        (*q).key.token = (*q).deny;
        name_request(q, line - VERSION);
    }
    let generation = active.generation as u32;
    let mut answer = GO;
    if active.features & FEATURE_REQUESTS != 0 && named != 0 {
        answer = verdict(scratch, DENIED.get_ptr_mut(unsafe { &(*q).key }), generation);
    }
    if answer == GO && config.unknown != UNKNOWN_PASS {
        answer = unknown(scratch, q, generation, token_end, token_len);
        if answer == Step::Wait as i32 {
            // SAFETY: this CPU's own.
            unsafe { (*q).len = len };
            show(skb, scratch, q);
            if hold && active.features & FEATURE_LIMITS != 0 && named != 0 {
                // It takes its share when it comes again.
                // SAFETY: this CPU's scratch; no other reference to it is alive.
                limit::give_back(unsafe { &(*scratch).run }, generation);
            }
            answer = if hold { answer } else { GO };
        } else if answer == ALLOWED {
            answer = GO;
        }
    }
    wipe(q, len);
    answer
}

/// [`verdict`]'s answer where there is one and it allows.
const ALLOWED: i32 = -1;

/// Learn and hold mode's verdict on a request, by its whole token's name: for its target, or for every one.
#[inline(always)]
fn unknown(scratch: *mut Scratch, q: *mut Inquiry, generation: u32, token_end: u32, token_len: u32) -> i32 {
    // SAFETY: this CPU's own.
    unsafe {
        if (*q).deny[0] | (*q).deny[1] != 0 {
            name_token(q, token_end - token_len, token_len);
        }
        let mut answer = verdict(scratch, VERDICTS.get_ptr_mut(&(*q).key), generation);
        if answer == GO {
            let request = (*q).key.request;
            (*q).key.request = [0; 2];
            answer = verdict(scratch, VERDICTS.get_ptr_mut(&(*q).key), generation);
            (*q).key.request = request;
        }
        if answer == GO { Step::Wait as i32 } else { answer }
    }
}

/// What an entry says: [`Step::Refused`] and why in `Run`, [`ALLOWED`], or [`GO`] where none counts.
#[inline(always)]
fn verdict(scratch: *mut Scratch, entry: Option<*mut RequestValue>, generation: u32) -> i32 {
    let Some(entry) = entry else { return GO };
    // SAFETY: a value of a map; an LRU may reuse it for another key, hence the fields are read once, and one that
    // changes meanwhile is a verdict all the same: on this request a moment ago.
    let (until, decision, its, answer, kind, reason) = unsafe {
        let v = &*entry;
        (v.until, v.decision, v.generation, v.answer, v.verdict, v.reason)
    };
    // SAFETY: a helper without arguments.
    if until <= unsafe { bpf_ktime_get_boot_ns() } || its != generation {
        return GO;
    }
    // Where requests on several CPUs find it at once, one of them has it.
    if kind & VERDICT_ONCE != 0 && !used_up(entry, until) {
        return GO;
    }
    if kind & VERDICT_DENY == 0 {
        return ALLOWED;
    }
    // SAFETY: this CPU's scratch; no other reference to it is alive.
    unsafe {
        let run = &mut (*scratch).run;
        run.fingerprint.0 = (*scratch).scan.last_token();
        if (*scratch).scan.named == 0 {
            run.fingerprint.0 = [0; 2];
        }
        run.reason = reason;
        run.answer = if answer < portcullis_common::layout::ANSWERS as u32 { answer } else { ANSWER_TOKEN };
        run.decision = decision;
    }
    Step::Refused as i32
}

/// Takes a verdict that is used once away; `false` where another CPU has.
#[inline(always)]
fn used_up(entry: *mut RequestValue, until: u64) -> bool {
    // SAFETY: a word of a map's value.
    unsafe {
        core::intrinsics::atomic_cxchg::<u64, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            &raw mut (*entry).until,
            until,
            0,
        )
        .1
    }
}

/// Takes the head together: from the packet where all of it came in this one, else from what was kept of those before.
/// A function of its own, as those below are, for the stack's sake.
#[inline(never)]
fn load(skb: *mut __sk_buff, scratch: *mut Scratch, q: *mut Inquiry, len: u32) -> bool {
    // SAFETY: this CPU's scratch, and the packet that was read into it.
    let (from, first, base, id) = unsafe {
        let run = &(*scratch).run;
        let end = run.origin.wrapping_add((*scratch).cursor.at);
        (end.wrapping_sub(len), (*scratch).packet.payload, run.base, run.keep)
    };
    // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
    // SAFETY: this CPU's scratch; the verifier sees all bounds.
    unsafe {
        let pad = &raw mut (*scratch).run.pad;
        pad.write_volatile(len);
        let n = pad.read_volatile();
        if n == 0 || n > INQUIRY_MAX as u32 {
            return false;
        }
        if from.wrapping_sub(first).cast_signed() >= 0 {
            let to = (&raw mut (*q).head).cast::<u8>();
            return bpf_skb_load_bytes(skb.cast(), from, to.cast(), n) == 0;
        }
    }
    id != 0 && blocks::collect(q, id, base.wrapping_add(from), len)
}

/// What the naming callback is given.
struct Naming {
    q: *const Inquiry,
    sip: Sip,
    at: u32,
    left: u32,
}

/// Names the request by the first `len` bytes of its head.
#[inline(never)]
fn name_request(q: *mut Inquiry, len: u32) {
    let Some(config) = maps::config() else { return };
    // SAFETY: this CPU's own.
    unsafe { (*q).key.request = name(Sip::for_request(&config.scan.key), q, 0, len) };
}

/// Names the token by its `len` bytes at `at` of the head.
#[inline(never)]
fn name_token(q: *mut Inquiry, at: u32, len: u32) {
    let Some(config) = maps::config() else { return };
    // SAFETY: this CPU's own.
    unsafe { (*q).key.token = name(Sip::for_allow(&config.scan.key), q, at, len) };
}

/// Hashes `len` bytes of the head from `at` on.
#[inline(always)]
fn name(sip: Sip, q: *const Inquiry, at: u32, len: u32) -> [u64; 2] {
    let mut n = Naming { q, sip, at, left: len };
    // SAFETY: the callback's context is `n`, which outlives the call.
    unsafe {
        bpf_loop(STEPS, words as *const () as *mut c_void, (&raw mut n).cast(), 0);
    }
    // What is left is less than eight bytes.
    let tail = word::keep(at_word::<0>(q, n.at), n.left);
    n.sip.finish(tail, len)
}

#[inline(always)]
fn at_word<const OFFSET: usize>(q: *const Inquiry, at: u32) -> u64 {
    // SAFETY: `head` has room for four words behind any masked offset... of the last, one alone is read.
    unsafe {
        let at = at as usize & (INQUIRY_MAX - 1);
        word::load::<OFFSET>((&raw const (*q).head).cast::<u8>().add(at))
    }
}

/// Hashes up to four words. Returns 1 to end the loop.
unsafe extern "C" fn words(_: u64, naming: *mut Naming) -> i64 {
    // SAFETY: `name` passes its `n`.
    let n = unsafe { &mut *naming };
    for _ in 0..4 {
        if n.left < 8 {
            return 1;
        }
        n.sip.word(at_word::<0>(n.q, n.at));
        n.at += 8;
        n.left -= 8;
    }
    0
}

/// Shows the daemon a request, unless it was just shown.
#[inline(never)]
fn show(skb: *mut __sk_buff, scratch: *mut Scratch, q: *mut Inquiry) {
    // SAFETY: helpers without arguments.
    let (now, start) = unsafe { (bpf_ktime_get_boot_ns(), bpf_get_prandom_u32()) };
    // SAFETY: this CPU's own; a value of a map, read whole.
    unsafe {
        if ASKED.get_ptr(&(*q).key).is_some_and(|last| now.wrapping_sub(*last) < AGAIN) {
            return;
        }
        (*q).flow = packet::flow(skb, scratch, &(*scratch).packet);
    }
    // SAFETY: as above.
    let len = unsafe { (*q).len };
    for i in 0..TRIES {
        let slot = start.wrapping_add(i) & (INQUIRY_SLOTS - 1);
        let (Some(state), Some(to)) = (INQUIRY_STATES.get_ptr_mut(slot), INQUIRIES.get_ptr_mut(slot)) else {
            return;
        };
        if !claim(state, (now >> 30) as u32 | 1) {
            continue;
        }
        // SAFETY: the slot is this program's until the daemon is told of it; both sizes are bounded.
        unsafe {
            let pad = &raw mut (*scratch).run.pad;
            pad.write_volatile(len + INQUIRY_HEADER as u32);
            let n = pad.read_volatile();
            // Before the daemon hears of it, which takes the note away again.
            let _ = ASKED.insert(&(*q).key, &now, 0);
            if n == 0
                || n > (INQUIRY_MAX + INQUIRY_HEADER) as u32
                || bpf_probe_read_kernel(to.cast(), n, q.cast_const().cast()) != 0
                || INQUIRY_RING.output::<u32>(&slot, 0).is_err()
            {
                let _ = ASKED.remove(&(*q).key);
                core::ptr::write_volatile(state, 0);
                count(Outcome::InquiryLost);
                return;
            }
        }
        count(Outcome::Inquiry);
        return;
    }
    count(Outcome::InquiryLost);
}

/// Takes a free slot, with the time.
#[inline(always)]
fn claim(state: *mut u32, stamp: u32) -> bool {
    // SAFETY: a word of a map's value.
    unsafe {
        core::intrinsics::atomic_cxchg::<u32, { AtomicOrdering::SeqCst }, { AtomicOrdering::SeqCst }>(
            state, 0, stamp,
        )
        .1
    }
}

/// Overwrites the scanner's window, in the modes that show tokens to the daemon: no other memory of this CPU's holds
/// any.
#[inline(never)]
pub fn wipe_window(scratch: *mut Scratch, config: &GuardConfig) -> i32 {
    if config.unknown == UNKNOWN_PASS {
        return 0;
    }
    // SAFETY: this CPU's scratch; a read from address 0 fails, and the helper then fills its target with zeros.
    unsafe {
        bpf_probe_read_kernel((&raw mut (*scratch).buffer).cast(), BUFFER as u32, core::ptr::null());
    }
    0
}

/// Overwrites what this CPU's memory holds of the head.
#[inline(always)]
fn wipe(q: *mut Inquiry, len: u32) {
    // SAFETY: this CPU's own. A read from address 0 fails, and the helper then fills its target with zeros.
    unsafe {
        let n = len & (2 * INQUIRY_MAX as u32 - 1);
        if n == 0 || n > INQUIRY_MAX as u32 {
            return;
        }
        bpf_probe_read_kernel((&raw mut (*q).head).cast(), n, core::ptr::null());
    }
}
