//! What the deny map says of a fingerprint.

use aya_ebpf::helpers::generated::bpf_ktime_get_boot_ns;
use portcullis_common::{
    fingerprint::DenyFingerprint,
    reason::{Outcome, Reason},
};

use crate::{
    count::count,
    maps::{ACTIVE, DENY},
};

/// Why a token is refused; `None` if it is not. The kernel itself obeys expiry and generation, so a daemon
/// that is late or dead never leaves a token refused too long, and a new policy set lifts the old one's
/// condemnations at once.
#[inline(always)]
pub fn of(fingerprint: &DenyFingerprint) -> Option<Reason> {
    // SAFETY: a preallocated map's value stays readable; a race with an update reads one of both values in
    // each field, and both belong to this token.
    let value = unsafe { &*DENY.get_ptr(fingerprint)? };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if value.revoked_until > now {
        return Some(Reason::TokenRevoked);
    }
    if value.condemned_until > now && ACTIVE.get(0).is_some_and(|a| a.generation == value.generation) {
        return Some(Reason::TokenCondemned);
    }
    count(Outcome::Lapsed);
    None
}
