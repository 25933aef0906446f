//! The kernel programs of Portcullis.
//!
//! `guard` (tc ingress) reads the HTTP/1 heads in TCP segments to guarded ports, fingerprints their tokens
//! and answers requests whose token is condemned, so that the server never reads them. `guard_fast` does so for
//! each segment by itself. `guard_egress` (tc egress) follows the responses, so that strict mode knows when a client
//! may be told. `gate`, `gate_reads` and `gate_egress` do the like at a control group's sockets. `shed` (XDP) drops floods of what
//! guard has refused. All meaning (what a head is, what a fingerprint is, how maps are laid out) is in
//! `portcullis-common`; these modules are the steps around it.

#![no_std]
#![no_main]
#![feature(core_intrinsics, adt_const_params)]
#![allow(internal_features, reason = "a compare-and-swap that the BPF back end knows")]

mod answers;
mod bench;
mod blocks;
mod count;
mod cut;
mod fast;
mod gate;
mod h2;
mod h2_answers;
mod inquiry;
mod limit;
mod maps;
mod packet;
mod pending;
mod react;
mod refusals;
mod scan;
mod shed;
mod socket;
mod strict;
mod syn;
mod tomb;
mod verdict;
mod ways;

use aya_ebpf::{
    macros::{cgroup_skb, classifier, xdp},
    programs::{SkBuffContext, TcContext, XdpContext},
};
use strict::{FRAMES, WIRE};

/// Leave the packet to the next program, or to the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const PASS: i32 = -1;
/// Drop the packet (`TCX_DROP`, `TC_ACT_SHOT`).
const DROP: i32 = 2;

/// Strict mode: reads what comes in, connection by connection.
#[classifier]
pub fn guard(ctx: TcContext) -> i32 {
    strict::steps::<WIRE>(ctx.skb.skb)
}

/// Strict mode on ports where HTTP/2 is enabled: guard passes on what comes in there.
#[classifier]
pub fn guard_frames(ctx: TcContext) -> i32 {
    ways::frames::<FRAMES>(ctx.skb.skb)
}

/// Fast mode: reads what comes in, segment by segment.
#[classifier]
pub fn guard_fast(ctx: TcContext) -> i32 {
    fast::steps(ctx.skb.skb)
}

/// A second door before the sockets of a control group: what guard has not read does not get in.
#[cgroup_skb]
pub fn gate(ctx: SkBuffContext) -> i32 {
    gate::door(ctx.skb.skb)
}

/// Reads what comes to the sockets of a control group, where guard cannot: behind DNAT and tunnels.
#[cgroup_skb]
pub fn gate_reads(ctx: SkBuffContext) -> i32 {
    gate::reads(ctx.skb.skb)
}

/// Likewise on ports where HTTP/2 is enabled: the program above passes on what comes there.
#[cgroup_skb]
pub fn gate_frames(ctx: SkBuffContext) -> i32 {
    gate::frames(ctx.skb.skb)
}

/// Follows what those answer.
#[cgroup_skb]
pub fn gate_egress(ctx: SkBuffContext) -> i32 {
    gate::answers(ctx.skb.skb)
}

/// Strict mode: follows what servers answer.
#[classifier]
pub fn guard_egress(ctx: TcContext) -> i32 {
    answers::steps(ctx.skb.skb)
}

/// Drops what comes from those that guard has refused too often, before the kernel works on it.
#[xdp(frags)]
pub fn shed(ctx: XdpContext) -> u32 {
    shed::steps(ctx.ctx)
}

/// The same where the kernel runs it for a driver that cannot. Without `frags`: of packets in parts it would then make
/// others that have forgotten how long their link header is, and guard could not answer them.
#[xdp]
pub fn shed_generic(ctx: XdpContext) -> u32 {
    shed::steps(ctx.ctx)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
