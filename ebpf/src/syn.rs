//! SYN segments in strict mode: no data in them, and no MPTCP.
//!
//! Data in a SYN (RFC 7413) reaches the server before there is a connection to keep its state with. An MPTCP
//! connection (RFC 8684) spreads its bytes over several, so its offer is taken out of the SYN: both ends then speak
//! plain TCP.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_csum_diff, bpf_l4_csum_replace, bpf_loop, bpf_skb_store_bytes},
};
use portcullis_common::reason::Outcome;

use crate::{
    DROP, PASS,
    count::count,
    maps::{OLDER, Scratch},
    packet::{self, Headers, Packet},
    react,
};

/// Most bytes of TCP options.
const OPTIONS: u32 = 40;
/// Option kind of MPTCP.
const MPTCP: u8 = 30;
/// Its subtypes that begin a connection and join one.
const CAPABLE: u8 = 0;
const JOIN: u8 = 1;
/// End of options, and padding.
const END: u8 = 0;
const PAD: u8 = 1;

/// Where the walk over the options stands.
struct Walk {
    scratch: *mut Scratch,
    at: u32,
    end: u32,
    /// Bytes were overwritten.
    changed: u32,
    /// It may not pass.
    refused: u32,
}

/// Reads a SYN segment to a guarded port.
#[inline(never)]
pub fn steps(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> i32 {
    if p.len != 0 {
        count(Outcome::SynData);
        return DROP;
    }
    if p.copied == 0 && !packet::copy(skb, scratch) {
        return DROP;
    }
    let mut flow = packet::flow(skb, scratch, p);
    flow.interface = 0;
    let _ = OLDER.remove(&flow);
    let n = p.payload - p.l4 - 20;
    if n == 0 || n > OPTIONS {
        return PASS;
    }
    let h = Headers::of(scratch);
    let mut before = [0u32; 10];
    for (i, w) in before.iter_mut().enumerate() {
        *w = h.u32(p.l4 + 20 + i as u32 * 4).to_be();
    }
    let mut walk = Walk { scratch, at: p.l4 + 20, end: p.payload, changed: 0, refused: 0 };
    // SAFETY: the callback's context is `walk`, which outlives the call.
    unsafe {
        bpf_loop(OPTIONS, option as *const () as *mut c_void, (&raw mut walk).cast(), 0);
    }
    if walk.refused != 0 {
        count(Outcome::MptcpJoin);
        return DROP;
    }
    if walk.changed == 0 {
        return PASS;
    }
    count(Outcome::MptcpStripped);
    rewrite(skb, scratch, p, &mut before, n)
}

/// Writes the options back and mends the checksum.
#[inline(always)]
fn rewrite(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet, before: &mut [u32; 10], n: u32) -> i32 {
    // In the headers the partial sum is as it was: options are not part of it.
    let partial = react::checksum_is_partial(skb, scratch, p);
    let h = Headers::of(scratch);
    let mut after = [0u32; 10];
    for (i, w) in after.iter_mut().enumerate() {
        *w = h.u32(p.l4 + 20 + i as u32 * 4).to_be();
    }
    let n = n & 0x3c;
    if n == 0 || n > OPTIONS {
        return DROP;
    }
    // SAFETY: `n` is at most the size of either array; offsets were read from this packet.
    unsafe {
        if bpf_skb_store_bytes(skb, p.l4 + 20, after.as_ptr().cast(), n, 1) != 0 {
            return DROP;
        }
        if !partial {
            let diff = bpf_csum_diff(before.as_mut_ptr(), OPTIONS, after.as_mut_ptr(), OPTIONS, 0);
            if bpf_l4_csum_replace(skb, p.l4 + 16, 0, diff as u64, 0) != 0 {
                return DROP;
            }
        }
    }
    PASS
}

/// Reads one option. Returns 1 to end the loop.
unsafe extern "C" fn option(_: u64, walk: *mut Walk) -> i64 {
    // SAFETY: `steps` passes its `walk`; offsets are masked within the headers.
    unsafe {
        let w = &mut *walk;
        if w.at >= w.end {
            return 1;
        }
        let h = Headers::of(w.scratch);
        let kind = h.u8(w.at);
        if kind == END {
            return 1;
        }
        if kind == PAD {
            w.at += 1;
            return 0;
        }
        let len = u32::from(h.u8(w.at + 1));
        if len < 2 || w.at + len > w.end {
            return 1;
        }
        if kind == MPTCP && len > 2 {
            let subtype = h.u8(w.at + 2) >> 4;
            if subtype == JOIN || len > 24 {
                w.refused = 1;
                return 1;
            }
            if subtype == CAPABLE {
                let mut i = 0;
                while i < 24 {
                    if i < len {
                        h.set(w.at + i, PAD);
                    }
                    i += 1;
                }
                w.changed = 1;
            }
        }
        w.at += len;
        0
    }
}
