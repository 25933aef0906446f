//! What the deny map says of a fingerprint.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use portcullis_common::{
    layout::ANSWER_TOKEN,
    reason::{Outcome, Reason},
    word,
};

use crate::{
    count::count,
    maps::{self, ACTIVE},
    scan::Run,
};

/// Whether the token in `run.fingerprint` is refused; `run` then says why. The kernel itself obeys expiry and generation, so a
/// daemon that is late or dead never leaves a token refused too long, and a new policy set lifts the old one's
/// condemnations at once.
#[inline(always)]
pub fn refuses(run: &mut Run) -> bool {
    // SAFETY: a preallocated map's value stays readable while a program runs, also when its set is exchanged;
    // a race with an update reads one of both values in each field, and both belong to this token.
    let value = match maps::deny(&run.fingerprint) {
        Some(value) => unsafe { &*value },
        None => return false,
    };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if value.revoked_until > now {
        run.reason = Reason::TokenRevoked as u32;
        run.answer = ANSWER_TOKEN;
        run.decision = 0;
    } else if value.condemned_until > now
        && ACTIVE.get(0).is_some_and(|a| a.generation as u32 == value.generation)
    {
        run.reason = Reason::TokenCondemned as u32;
        run.answer = value.answer;
        run.decision = value.decision;
    } else {
        count(Outcome::Lapsed);
        return false;
    }
    true
}

/// Says in `Run` that a connection ends on which a request is under way whose token is not remembered: it may be the one
/// that was revoked.
#[inline(always)]
pub fn forgotten(run: &mut Run) {
    run.fingerprint.0 = word::zeros();
    run.reason = Reason::TokenRevoked as u32;
    run.answer = ANSWER_TOKEN;
    run.decision = 0;
}

/// [`refuses`] for the ingress programs' scratch: 1 for yes. A global function, as `scan_stream` is.
#[unsafe(no_mangle)]
pub extern "C" fn judge() -> i32 {
    let Some(scratch) = maps::scratch() else { return 1 };
    // SAFETY: this CPU's scratch; the callers hold references to it that they do not use meanwhile.
    i32::from(refuses(unsafe { &mut (*scratch).run }))
}
