//! The kernel programs of Portcullis.
//!
//! `guard` (tc ingress) reads the HTTP/1 heads in TCP segments to guarded ports, fingerprints their tokens
//! and answers requests whose token is condemned, so that the server never reads them. All meaning (what a
//! head is, what a fingerprint is, how maps are laid out) is in `portcullis-common`; these modules are the
//! steps around it.

#![no_std]
#![no_main]

mod bench;
mod count;
mod maps;
mod packet;
mod react;
mod scan;
mod socket;
mod tomb;
mod verdict;

use aya_ebpf::{bindings::__sk_buff, macros::classifier, programs::TcContext};
use portcullis_common::reason::Outcome;

use crate::{count::count, packet::Port, scan::Scanned, tomb::Tomb};

/// Leave the packet to the next program, or to the stack (`TCX_NEXT`, `TC_ACT_UNSPEC`).
const PASS: i32 = -1;
/// Drop the packet (`TCX_DROP`, `TC_ACT_SHOT`).
const DROP: i32 = 2;

/// Reads what comes in.
#[classifier]
pub fn guard(ctx: TcContext) -> i32 {
    guard_steps(ctx.skb.skb)
}

#[inline(always)]
fn guard_steps(skb: *mut __sk_buff) -> i32 {
    let Some(scratch) = maps::scratch() else { return PASS };
    match packet::read(skb, scratch) {
        Port::Guarded => {}
        Port::Open => return PASS,
        Port::Unsupported => {
            count(Outcome::Unsupported);
            return PASS;
        }
    }
    // SAFETY: `packet::read` has set it, and nothing writes it from here on.
    let packet = unsafe { &(*scratch).packet };
    match tomb::check(skb, scratch, packet) {
        Tomb::None => {}
        Tomb::Drop => return DROP,
        Tomb::Pass => return PASS,
        Tomb::Reset => return react::reset_client(skb, scratch, packet),
    }
    if packet.len == 0 {
        return PASS;
    }
    match scan::heads(skb, scratch, packet) {
        Scanned::Passed => PASS,
        Scanned::Refused => react::refuse(skb, scratch, packet),
    }
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";
