//! Cuts a segment before a refused request, so that the requests ahead of it are answered first. The client sends
//! the rest again, and is told then. Its acknowledgement goes through even where none of its payload does.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{
        bpf_csum_diff, bpf_l3_csum_replace, bpf_loop, bpf_skb_change_tail, bpf_skb_load_bytes,
    },
};
use portcullis_common::head::FRONT;

use crate::{
    DROP, PASS,
    maps::Scratch,
    packet::{FIN, Headers, Packet},
    react,
};

/// Bytes summed at a time: the helper takes no more.
const CHUNK: u32 = 512;
/// Chunks of the longest packet.
const CHUNKS: u32 = 65_536 / CHUNK;

/// Where the sum over the packet stands.
struct Sum {
    skb: *mut __sk_buff,
    scratch: *mut Scratch,
    at: u32,
    end: u32,
    sum: u32,
    failed: u32,
}

/// Ends the packet behind `keep` bytes of its payload.
#[inline(never)]
pub fn behind(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet, keep: u32) -> i32 {
    let h = Headers::of(scratch);
    let end = p.payload + keep;
    let partial = react::checksum_is_partial(skb, scratch, p);
    if end - p.l3 > 0xffff || end >= p.payload + p.len {
        return DROP;
    }
    // SAFETY: the context of the running program; no packet pointers are kept.
    if unsafe { bpf_skb_change_tail(skb, end, 0) } != 0 || network(skb, h, p, end).is_err() {
        return DROP;
    }
    // What follows is the client's to send again; its FIN comes with that.
    let flags = (p.flags & !FIN) as u8;
    let mut words = [h.u32(p.l4 + 12).to_be()];
    let [offset, _, window @ ..] = words[0].to_ne_bytes();
    words[0] = u32::from_ne_bytes([offset, flags, window[0], window[1]]);
    if react::store(skb, p.l4 + 12, &words).is_err() || react::store(skb, p.l4 + 16, &[0u16]).is_err() {
        return DROP;
    }
    let pseudo = react::pseudo(h, p, end - p.l4);
    let check = if partial {
        react::fold(pseudo)
    } else {
        let mut s = Sum { skb, scratch, at: p.l4, end, sum: pseudo as u32, failed: 0 };
        // SAFETY: the callback's context is `s`, which outlives the call.
        unsafe {
            bpf_loop(CHUNKS, chunk as *const () as *mut c_void, (&raw mut s).cast(), 0);
        }
        if s.failed != 0 || s.at < s.end {
            return DROP;
        }
        !react::fold(i64::from(s.sum))
    };
    if react::store(skb, p.l4 + 16, &[check]).is_err() {
        return DROP;
    }
    PASS
}

/// Writes the length into the IP header.
#[inline(always)]
fn network(skb: *mut __sk_buff, h: Headers, p: &Packet, end: u32) -> Result<(), ()> {
    if p.v6 != 0 {
        return react::store(skb, p.l3 + 4, &[((end - p.l3 - 40) as u16).to_be()]);
    }
    let (old, new) = (h.u16(p.l3 + 2).to_be(), ((end - p.l3) as u16).to_be());
    react::store(skb, p.l3 + 2, &[new])?;
    // SAFETY: the context of the running program; the offset was read from this packet.
    let done = unsafe { bpf_l3_csum_replace(skb, p.l3 + 10, u64::from(old), u64::from(new), 2) };
    if done == 0 { Ok(()) } else { Err(()) }
}

/// Sums one chunk. Returns 1 to end the loop.
unsafe extern "C" fn chunk(_: u64, sum: *mut Sum) -> i64 {
    // SAFETY: `behind` passes its `sum`; the buffer holds a chunk, and a word behind it.
    unsafe {
        let s = &mut *sum;
        if s.at >= s.end {
            return 1;
        }
        let left = s.end - s.at;
        let n = if left < CHUNK { left } else { CHUNK };
        // Through memory, so that the compiler forgets what it knows and keeps the checks behind.
        let pad = &raw mut (*s.scratch).run.pad;
        pad.write_volatile(n);
        let n = pad.read_volatile();
        s.failed = 1;
        if n == 0 || n > CHUNK {
            return 1;
        }
        let buffer = (&raw mut (*s.scratch).buffer).cast::<u8>().add(FRONT);
        if bpf_skb_load_bytes(s.skb.cast(), s.at, buffer.cast(), n) != 0 {
            return 1;
        }
        buffer.add(n as usize).cast::<u32>().write_unaligned(0);
        let whole = (n + 3) & 0x3fc;
        if whole > CHUNK {
            return 1;
        }
        s.sum = bpf_csum_diff(core::ptr::null_mut(), 0, buffer.cast(), whole, s.sum) as u32;
        s.failed = 0;
        s.at += n;
        0
    }
}
