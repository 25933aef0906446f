//! Every map of the kernel programs, and the per-CPU scratch memory.
//!
//! Names and layouts are a contract with `daemon/src/kernel`. `DENY`, `ACTIVE`, `META`, `COUNTERS`, `EVENTS`
//! and the tombstones are pinned and outlive the daemon; `CONFIG`, `PORTS` and `ADDRESSES` belong to one
//! loaded program and are written before it is attached.

use aya_ebpf::{
    macros::map,
    maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf},
};
use portcullis_common::{
    head::{BUFFER, Cursor, Scan},
    layout::{Active, AddressKey, DenyKey, DenyValue, Flow, GuardConfig, Meta, TOMB_SLOTS},
    reason::OUTCOMES,
};

use crate::{
    packet::{HEADERS, Packet},
    scan::Run,
};

/// Condemned tokens. Preallocated and never an LRU: an eviction would be an un-revocation.
#[map]
pub static DENY: HashMap<DenyKey, DenyValue> = HashMap::with_max_entries(1 << 20, 0);

/// Settings of the program; see [`GuardConfig`].
#[map]
pub static CONFIG: Array<GuardConfig> = Array::with_max_entries(1, 0);

/// Layout version and key id of the pinned maps. The programs do not read it.
#[map]
pub static META: Array<Meta> = Array::with_max_entries(1, 0);

/// The active policy generation.
#[map]
pub static ACTIVE: Array<Active> = Array::with_max_entries(1, 0);

/// Guarded ports, by port: one of the `PORT_` constants.
#[map]
pub static PORTS: Array<u64> = Array::with_max_entries(1 << 16, 0);

/// Guarded addresses of the ports that are guarded by address.
#[map]
pub static ADDRESSES: HashMap<AddressKey, u64> = HashMap::with_max_entries(1024, 0);

/// One set of counters a CPU, indexed by outcome.
#[map]
pub static COUNTERS: PerCpuArray<[u64; OUTCOMES as usize]> = PerCpuArray::with_max_entries(1, 0);

/// What happened, for whoever listens.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Connections whose request was refused, with the time. Here an LRU is fine: losing one costs a reset.
#[map]
pub static TOMBS: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(1 << 16, 0);

/// Time of the last tombstone per slot, so that live connections pay no hash lookup.
#[map]
pub static TOMB_FILTER: Array<u64> = Array::with_max_entries(TOMB_SLOTS, 0);

/// Working memory of one program run: too large for the stack, never zeroed.
#[repr(C, align(8))]
pub struct Scratch {
    /// The packet's first bytes: link, IP and TCP headers.
    pub headers: [u8; HEADERS],
    /// The headers as read.
    pub packet: Packet,
    /// Where the scan of this packet stands.
    pub run: Run,
    /// The scanner's state.
    pub scan: Scan,
    /// Where the scanner stands in its window.
    pub cursor: Cursor,
    /// The window.
    pub buffer: [u8; BUFFER],
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's scratch. tc programs run with bottom halves off, so that no two share one.
#[inline(always)]
pub fn scratch() -> Option<*mut Scratch> {
    SCRATCH.get_ptr_mut(0)
}

/// The program's settings.
#[inline(always)]
pub fn config() -> Option<&'static GuardConfig> {
    // SAFETY: the map's memory lives as long as the program, and the daemon writes it before attaching.
    CONFIG.get_ptr(0).map(|p| unsafe { &*p })
}
