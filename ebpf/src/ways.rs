//! The ways that packets come by to strict mode, each a program of its own.

use aya_ebpf::bindings::__sk_buff;

use crate::{
    DROP,
    count::locate,
    maps,
    packet::{self, Port},
    strict::{Next, segment, settle},
};

/// A packet as it comes in by an interface.
pub const WIRE: u32 = 0;
/// The same, but every segment is its connection's first, so that a benchmark may run one again and again.
pub const BENCH: u32 = 1;
/// A packet on its last step to a socket, where it can be dropped and not changed.
pub const GATE: u32 = 2;
/// The same three of connections that may speak HTTP/2, in programs of their own: all in one would be more than is good
/// for the verifier. Guard passes such packets on, and gets back what speaks HTTP/1.
pub const FRAMES: u32 = 3;
/// As above.
pub const BENCH_FRAMES: u32 = 4;
/// As above.
pub const GATE_FRAMES: u32 = 5;

/// Whether packets can only be dropped on a way.
#[inline(always)]
pub const fn is_gate(way: u32) -> bool {
    way == GATE || way == GATE_FRAMES
}

/// Whether it is one of those for HTTP/2.
#[inline(always)]
pub const fn is_frames(way: u32) -> bool {
    way >= FRAMES
}

/// Reads a packet that guard passed on.
#[inline(always)]
pub fn frames<const WAY: u32>(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return DROP };
    // Anew: between two programs may be the exchange of one for another, with scratch of its own.
    if packet::read(skb, scratch) != Port::Guarded {
        return DROP;
    }
    locate(skb, scratch);
    let next = segment::<WAY>(skb, scratch);
    if next == Next::Return as i32 {
        // SAFETY: this CPU's scratch.
        unsafe { (*scratch).returned = 1 };
        maps::pass_on(skb, maps::TO_GUARD);
        // SAFETY: as above.
        unsafe { (*scratch).returned = 0 };
        return DROP;
    }
    settle(skb, scratch, next)
}
