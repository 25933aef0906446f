//! Per-CPU counters: of all, by outcome, and of each interface and port.

use aya_ebpf::bindings::__sk_buff;
use portcullis_common::{
    layout::{INTERFACE_SLOTS, PLACE_SLOTS},
    reason::{OUTCOMES, Outcome, SIGHTS, Sight},
};

use crate::{
    maps::{COUNTERS, INTERFACES, PLACES, Scratch},
    packet::{H2C_RETURNED, Packet},
};

/// This CPU's counters.
pub struct Counters(*mut [u64; OUTCOMES as usize]);

impl Counters {
    /// Finds them.
    #[inline(always)]
    pub fn get() -> Option<Self> {
        COUNTERS.get_ptr_mut(0).map(Self)
    }

    /// Adds `n` to an outcome's counter.
    #[inline(always)]
    pub fn add(&self, outcome: Outcome, n: u32) {
        // SAFETY: the index is below `OUTCOMES`; the memory is this CPU's own and programs on it do not nest.
        unsafe { (*self.0)[outcome as usize] += u64::from(n) };
    }
}

/// Adds one to an outcome's counter on this CPU.
#[inline(always)]
pub fn count(outcome: Outcome) {
    if let Some(c) = Counters::get() {
        c.add(outcome, 1);
    }
}

/// This CPU's counters of the packet's interface and port.
pub struct Place(*mut [u64; SIGHTS as usize]);

impl Place {
    /// Finds those of the packet that was read.
    #[inline(always)]
    pub fn of(scratch: *mut Scratch) -> Option<Self> {
        // SAFETY: this CPU's scratch, and the packet that was read into it.
        PLACES.get_ptr_mut(unsafe { (*scratch).packet.place }).map(Self)
    }

    /// Adds `n` to one of them.
    #[inline(always)]
    pub fn add(&self, sight: Sight, n: u32) {
        // SAFETY: the index is below `SIGHTS`; the memory is this CPU's own and programs on it do not nest.
        unsafe { (*self.0)[sight as usize] += u64::from(n) };
    }
}

/// Adds one to a counter of the packet's interface and port.
#[inline(always)]
pub fn sight(scratch: *mut Scratch, what: Sight) {
    if let Some(place) = Place::of(scratch) {
        place.add(what, 1);
    }
}

/// Notes the interface of a packet that was read, and counts it. A function of its own, behind which the ways through
/// it are one to the verifier.
#[inline(never)]
pub fn arrive(skb: *mut __sk_buff, scratch: *mut Scratch) {
    locate(skb, scratch);
    // SAFETY: this CPU's scratch.
    unsafe {
        if (*scratch).returned != 0 {
            // Counted before, and not to be passed on again.
            (*scratch).returned = 0;
            (*scratch).packet.h2c = H2C_RETURNED;
            return;
        }
    }
    sight(scratch, Sight::Packets);
}

/// Notes the interface of a packet that was read.
#[inline(always)]
pub fn locate(skb: *mut __sk_buff, scratch: *mut Scratch) {
    // SAFETY: the context of the running program, and this CPU's scratch.
    unsafe {
        let slot = INTERFACES.get((*skb).ifindex & (INTERFACE_SLOTS - 1)).copied().unwrap_or(0);
        let p: *mut Packet = &raw mut (*scratch).packet;
        (*p).place = ((slot & (PLACE_SLOTS - 1)) * PLACE_SLOTS) | ((*p).place & (PLACE_SLOTS - 1));
    }
}
