//! Tombstones: connections whose request was refused. The server's socket is gone, so what still comes from
//! the client must not reach the stack, whose reset could overtake the answer the client is reading.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns};
use portcullis_common::{
    layout::{Flow, TOMB_SLOTS},
    reason::Outcome,
};

use crate::{
    count::count,
    maps::{Scratch, TOMB_FILTER, TOMBS},
    packet::{self, FIN, Packet, RST, SYN},
    refusals,
};

/// How long a connection is remembered: longer than a client retransmits what was in flight.
const LIFE: u64 = 60_000_000_000;
/// Data that arrives this long after the answer was not in flight: the client is told again.
const IN_FLIGHT: u64 = 200_000_000;

/// The filter's slot for a connection: its ports tell it apart well enough.
#[inline(always)]
fn slot(p: &Packet) -> u32 {
    (p.ports.wrapping_mul(0x85eb_ca6b) >> 16) & (TOMB_SLOTS - 1)
}

/// Remembers a connection as answered.
#[inline(always)]
pub fn raise(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) {
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    let _ = TOMBS.insert(&packet::flow(skb, scratch, p), &now, 0);
    if let Some(t) = TOMB_FILTER.get_ptr_mut(slot(p)) {
        // SAFETY: a word of an array map; a race keeps one of two times that are close.
        unsafe { *t = now };
    }
}

/// Whether a packet that the host sends belongs to a connection that was answered a moment ago.
#[inline(never)]
pub fn is_fresh(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> bool {
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return false;
    }
    let out: Flow = packet::flow(skb, scratch, p);
    let flow = Flow {
        source: out.destination,
        destination: out.source,
        source_port: out.destination_port,
        destination_port: out.source_port,
        interface: out.interface,
    };
    let Some(raised) = TOMBS.get_ptr(&flow) else { return false };
    // SAFETY: a word, read once, and a helper without arguments.
    unsafe { bpf_ktime_get_boot_ns().saturating_sub(*raised) < IN_FLIGHT }
}

/// What a packet's connection is.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Tomb {
    /// Not answered.
    None = 0,
    /// Answered, and this packet is of no use.
    Drop = 1,
    /// A new connection of the same name.
    Pass = 2,
    /// Answered, and the client must be told again.
    Reset = 3,
}

/// Settles whether a packet's connection was answered.
#[inline(never)]
pub fn check(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> Tomb {
    let Some(last) = TOMB_FILTER.get(slot(p)) else { return Tomb::None };
    let last = *last;
    if last == 0 {
        return Tomb::None;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if now.saturating_sub(last) > LIFE {
        return Tomb::None;
    }
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return Tomb::Drop;
    }
    let flow: Flow = packet::flow(skb, scratch, p);
    let Some(raised) = TOMBS.get_ptr(&flow) else { return Tomb::None };
    // SAFETY: copied at once; an LRU may reuse the value for another connection, whose time is as good.
    let raised = unsafe { *raised };
    if p.flags & SYN != 0 || now - raised > LIFE {
        let _ = TOMBS.remove(&flow);
        return if p.len == 0 { Tomb::Pass } else { Tomb::None };
    }
    if p.flags & (FIN | RST) == FIN || (p.len > 0 && now - raised > IN_FLIGHT) {
        count(Outcome::TombstoneReset);
        refusals::note_late(skb);
        return Tomb::Reset;
    }
    count(Outcome::TombstoneDropped);
    refusals::note_late(skb);
    Tomb::Drop
}
