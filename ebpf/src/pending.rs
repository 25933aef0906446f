//! Strict mode's state of connections whose first data came before they had a socket of their own: with the
//! handshake's last packet, to a listener that defers, or by SYN cookie. The socket takes it over.

use aya_ebpf::{bindings::__sk_buff, helpers::generated::bpf_ktime_get_boot_ns};
use portcullis_common::{layout::TOMB_SLOTS, stream::Stream};

use crate::{
    maps::{EMPTY, PENDING, PENDING_FILTER, Scratch},
    packet::{self, Packet},
};

/// How long a handshake may take.
const LIFE: u64 = 120_000_000_000;

#[inline(always)]
fn slot(p: &Packet) -> u32 {
    (p.ports.wrapping_mul(0x85eb_ca6b) >> 16) & (TOMB_SLOTS - 1)
}

/// The pending state of a connection; null where there is none. The filter spares connections the search.
#[inline(always)]
pub fn find(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> *mut Stream {
    let Some(last) = PENDING_FILTER.get(slot(p)) else { return core::ptr::null_mut() };
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if *last == 0 || now.saturating_sub(*last) > LIFE {
        return core::ptr::null_mut();
    }
    PENDING.get_ptr_mut(&packet::flow(skb, scratch, p)).unwrap_or(core::ptr::null_mut())
}

/// The pending state of a connection, made where there is none.
#[inline(always)]
pub fn make(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> *mut Stream {
    let flow = packet::flow(skb, scratch, p);
    if let Some(stream) = PENDING.get_ptr_mut(&flow) {
        return stream;
    }
    if PENDING.insert(&flow, &EMPTY, 0).is_err() {
        return core::ptr::null_mut();
    }
    if let Some(t) = PENDING_FILTER.get_ptr_mut(slot(p)) {
        // SAFETY: a word of an array map, and a helper without arguments; a race keeps one of two close times.
        unsafe { *t = bpf_ktime_get_boot_ns() };
    }
    PENDING.get_ptr_mut(&flow).unwrap_or(core::ptr::null_mut())
}

/// Drops the pending state of a connection: it was taken over. A SYN does not drop it, for data that it saw pass may be
/// behind guard and before TCP; [`Stream::tried_at`] tells another connection of the same name.
#[inline(always)]
pub fn forget(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) {
    let _ = PENDING.remove(&packet::flow(skb, scratch, p));
}
