//! What guard notes of those it refuses, for [`crate::shed`].
//!
//! A refusal counts only where its sender has shown that it is at the address it writes: the segment must be the next
//! one of a connection whose handshake is over, and acknowledge what the server has sent. So nobody gets another shed.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns, maps::lpm_trie::Key};
use portcullis_common::{
    layout::Flow,
    reason::{Outcome, Reason},
    shed::{Noted, SHED_FLOW, SHED_OFF, SHED_SOURCE, Shed, ShedConfig, token_bit},
    stream::TOKENS,
};

use crate::{
    count::count,
    maps::{self, NEVER_SHED, SHED_CONFIG, SHED_TIMES, SOURCES, Scratch},
    packet::{self, Packet},
    socket::Kind,
};

/// Where the time of the last refusal stands in `SHED_TIMES`.
pub const LAST: u32 = 0;
/// Where the latest time stands until which anybody is shed.
pub const UNTIL: u32 = 1;
/// The loopback device of every network namespace: what comes by it comes from this host.
const LOOPBACK: u32 = 1;

/// Whether anything is shed.
#[inline(always)]
pub fn is_on() -> bool {
    SHED_CONFIG.get(0).is_some_and(|c| c.how != SHED_OFF)
}

/// The name under which a packet's sender is known.
#[inline(always)]
pub fn key(flow: Flow, config: &ShedConfig) -> Flow {
    if config.how == SHED_FLOW {
        return flow;
    }
    let [a, b] = flow.source;
    let v4 = a == 0 && b as u32 == 0xffff_0000;
    let source = if v4 { flow.source } else { [a & config.mask[0], b & config.mask[1]] };
    Flow { source, destination: [0; 2], source_port: 0, destination_port: 0, interface: flow.interface }
}

/// Whether an address is one that the configuration never sheds.
#[inline(always)]
pub fn is_proxy(source: [u64; 2]) -> bool {
    NEVER_SHED.get(Key::new(128, source)).is_some()
}

/// What is shed, and the name of a packet's sender; nothing where that is never shed. Headers must have been copied.
#[inline(always)]
fn sender(
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    p: &Packet,
) -> Option<(&'static ShedConfig, Flow, Flow)> {
    let config = SHED_CONFIG.get(0)?;
    if config.how == SHED_OFF {
        return None;
    }
    let flow = packet::flow(skb, scratch, p);
    if config.how == SHED_SOURCE && (flow.interface == LOOPBACK || p.proxy != 0) {
        return None;
    }
    Some((config, flow, key(flow, config)))
}

/// Notes that the request in scratch is refused. A global function to the verifier, which walks it once.
#[unsafe(no_mangle)]
pub extern "C" fn note_refusal(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    // SAFETY: this CPU's scratch; the scan is over.
    let (p, s, run) = unsafe { (&(*scratch).packet, &(*scratch).socket, &(*scratch).run) };
    let condemned = run.reason == Reason::TokenRevoked as u32 || run.reason == Reason::TokenCondemned as u32;
    let shown = s.is(Kind::Connected)
        && p.seq == s.rcv_nxt
        && p.ack.wrapping_sub(s.snd_una) <= s.snd_nxt.wrapping_sub(s.snd_una);
    if condemned && shown {
        note(skb, scratch, p, token_bit(&run.fingerprint));
    }
    0
}

/// Notes that a packet of a connection that was refused came, where connections are shed.
#[unsafe(no_mangle)]
pub extern "C" fn note_late(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return 0 };
    if SHED_CONFIG.get(0).is_some_and(|c| c.how == SHED_FLOW) {
        // SAFETY: this CPU's scratch.
        note(skb, scratch, unsafe { &(*scratch).packet }, 0);
    }
    0
}

#[inline(always)]
fn note(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet, bits: u64) {
    let Some((config, flow, key)) = sender(skb, scratch, p) else { return };
    if is_proxy(flow.source) {
        count(Outcome::ShedProxy);
        return;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let state = match SOURCES.get_ptr_mut(&key) {
        Some(state) => state,
        None => {
            let _ = SOURCES.insert(&key, &EMPTY, 0);
            let Some(state) = SOURCES.get_ptr_mut(&key) else { return };
            state
        }
    };
    // SAFETY: a map's value. Another CPU may count at the same time: one of two refusals is lost then.
    let state = unsafe { &mut *state };
    let noted = state.refuse(now, config);
    if bits != 0 && state.carry(bits) {
        count(Outcome::ShedManyTokens);
    }
    set(LAST, now);
    if noted as u32 == Noted::Begun as u32 {
        count(Outcome::ShedBegun);
        set(UNTIL, now + config.time);
    }
}

static EMPTY: Shed = Shed { since: 0, until: 0, tokens: 0, refused: 0, times: 0, many: 0, pad: 0 };

#[inline(always)]
fn set(at: u32, time: u64) {
    if let Some(t) = SHED_TIMES.get_ptr_mut(at) {
        // SAFETY: a word of an array map; a race keeps one of two times that are close.
        unsafe { *t = time };
    }
}

/// Notes tokens that are not refused, of a sender who was refused lately: one with many is likely a proxy.
#[inline(always)]
pub fn tokens(skb: *mut __sk_buff, scratch: *mut Scratch) {
    // SAFETY: this CPU's scratch; the scan is over.
    let any = unsafe { (*scratch).run.token_count } != 0;
    if any && SHED_TIMES.get(LAST).is_some_and(|t| *t != 0) {
        note_tokens(skb);
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn note_tokens(skb: *mut __sk_buff) -> i32 {
    let (Some(scratch), Some(last)) = (maps::scratch(), SHED_TIMES.get(LAST)) else { return 0 };
    // SAFETY: this CPU's scratch, and a helper without arguments.
    let (p, now) = unsafe { (&(*scratch).packet, bpf_ktime_get_boot_ns()) };
    if SHED_CONFIG.get(0).is_none_or(|c| c.how != SHED_SOURCE || now.wrapping_sub(*last) > c.window) {
        return 0;
    }
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return 0;
    }
    let Some((config, _, key)) = sender(skb, scratch, p) else { return 0 };
    let Some(state) = SOURCES.get_ptr_mut(&key) else { return 0 };
    // SAFETY: a map's value and this CPU's scratch.
    let (state, run) = unsafe { (&mut *state, &(*scratch).run) };
    if !state.wants_tokens(now, config) {
        return 0;
    }
    let mut bits = 0;
    for i in 0..TOKENS {
        if (i as u32) < run.token_count {
            bits |= token_bit(&run.tokens[i]);
        }
    }
    if state.carry(bits) {
        count(Outcome::ShedManyTokens);
    }
    0
}
