//! Every map of the kernel programs, and the per-CPU scratch memory.
//!
//! Names and layouts are a contract with `daemon/src/kernel`. `DENY_SETS`, `ACTIVE`, `META`, `COUNTERS`,
//! `EVENTS`, the tombstones and who is shed are pinned and outlive the daemon; `CONFIG`, `PORTS` and `ADDRESSES` belong to one
//! loaded program and are written before it is attached.

use aya_ebpf::{
    bindings::__sk_buff,
    btf_maps::{self, ArrayOfMaps, SkStorage},
    helpers::bpf_tail_call,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, ProgramArray, RingBuf},
};
use portcullis_common::{
    h2::H2,
    head::{BUFFER, Cursor, Scan},
    layout::{
        Active, AddressKey, DenyKey, DenyValue, Flow, GuardConfig, INQUIRY_SLOTS, INTERFACE_SLOTS, Inquiry,
        Limit, Meta, PLACE_SLOTS, RequestKey, RequestValue, TOMB_SLOTS,
    },
    reason::{OUTCOMES, SIGHTS},
    shed::{Shed, ShedConfig},
    stream::{Answers, Stream},
};

use crate::{
    packet::{HEADERS, Packet},
    react::Segment,
    scan::Run,
    socket::Socket,
};

/// What a set of condemned tokens looks like. The daemon makes the real ones, as large as it is told to.
type DenySet = btf_maps::HashMap<DenyKey, DenyValue, 1>;

/// The set of condemned tokens, in its one slot: preallocated and never an LRU, for an eviction would be an
/// un-revocation. The slot is filled before a program is attached; a larger set, or one made anew, takes the
/// other's place in one step.
#[btf_map]
pub static DENY_SETS: ArrayOfMaps<DenySet, 1> = ArrayOfMaps::new();

/// What the deny map holds of a fingerprint.
#[inline(always)]
pub fn deny(fingerprint: &DenyKey) -> Option<*const DenyValue> {
    DENY_SETS.get_value_ptr_mut(0, fingerprint).map(<*mut DenyValue>::cast_const)
}

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

/// The place of each interface among [`PLACES`], by its number's low bits.
#[map]
pub static INTERFACES: Array<u32> = Array::with_max_entries(INTERFACE_SLOTS, 0);

/// One set of counters a CPU for each interface and port, for as long as the program is loaded.
#[map]
pub static PLACES: PerCpuArray<[u64; SIGHTS as usize]> =
    PerCpuArray::with_max_entries(PLACE_SLOTS * PLACE_SLOTS, 0);

/// What happened, for whoever listens.
#[map]
pub static EVENTS: RingBuf = RingBuf::with_byte_size(1 << 20, 0);

/// Requests that a policy denies by token and target. An LRU: an eviction merely asks the daemon again.
#[map]
pub static DENIED: LruHashMap<RequestKey, RequestValue> = LruHashMap::with_max_entries(1 << 16, 0);

/// Learn and hold mode's verdicts, likewise.
#[map]
pub static VERDICTS: LruHashMap<RequestKey, RequestValue> = LruHashMap::with_max_entries(1 << 16, 0);

/// Rate limits by token, likewise.
#[map]
pub static LIMITS: LruHashMap<DenyKey, Limit> = LruHashMap::with_max_entries(1 << 16, 0);

/// Requests that the daemon was shown, with the time.
#[map]
pub static ASKED: LruHashMap<RequestKey, u64> = LruHashMap::with_max_entries(1 << 14, 0);

/// What it was shown, until it has read it.
#[map]
pub static INQUIRIES: Array<Inquiry> = Array::with_max_entries(INQUIRY_SLOTS, 0);

/// Which of them are in use.
#[map]
pub static INQUIRY_STATES: Array<u32> = Array::with_max_entries(INQUIRY_SLOTS, 0);

/// The numbers of those that are to be read.
#[map]
pub static INQUIRY_RING: RingBuf = RingBuf::with_byte_size(1 << 14, 0);

/// The one that this CPU takes together.
#[map]
pub static INQUIRY: PerCpuArray<Inquiry> = PerCpuArray::with_max_entries(1, 0);

/// Connections whose request was refused, with the time. Here an LRU is fine: losing one costs a reset.
#[map]
pub static TOMBS: LruHashMap<Flow, u64> = LruHashMap::with_max_entries(1 << 16, 0);

/// Time of the last tombstone per slot, so that live connections pay no hash lookup.
#[map]
pub static TOMB_FILTER: Array<u64> = Array::with_max_entries(TOMB_SLOTS, 0);

/// Strict mode's state of each connection, kept with the server's socket: it is never evicted, and never
/// mistaken for another connection's.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "STREAMS")]
pub static STREAMS: SkStorage<Stream> = SkStorage::new();

/// What the server answered, likewise.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "ANSWERS")]
pub static ANSWERS: SkStorage<Answers> = SkStorage::new();

/// What is read of connections that speak HTTP/2, likewise; made for those alone.
#[unsafe(link_section = ".maps")]
#[unsafe(export_name = "FRAMES")]
pub static FRAMES: SkStorage<H2> = SkStorage::new();

/// The programs that pass packets on to one another, by the `TO_` constants. The kernel empties such a map once nobody
/// holds it, so it is pinned.
#[map]
pub static PROGRAMS: ProgramArray = ProgramArray::with_max_entries(4, 0);

/// The same at the gate: a map has programs of one kind.
#[map]
pub static GATE_PROGRAMS: ProgramArray = ProgramArray::with_max_entries(4, 0);

/// The one that reads HTTP/2.
pub const TO_FRAMES: u32 = 0;
/// The one that reads HTTP/1.
pub const TO_GUARD: u32 = 1;
/// That of HTTP/2 for the benchmark.
pub const TO_BENCH_FRAMES: u32 = 2;

/// Goes on in another program; comes back only where there is none.
#[inline(always)]
pub fn pass_on(skb: *mut __sk_buff, to: u32) {
    // SAFETY: the context of the running program, and a map of programs.
    unsafe { bpf_tail_call(skb.cast(), (&raw const PROGRAMS).cast_mut().cast(), to) };
}

/// The same at the gate.
#[inline(always)]
pub fn pass_on_at_gate(skb: *mut __sk_buff, to: u32) {
    // SAFETY: as above.
    unsafe { bpf_tail_call(skb.cast(), (&raw const GATE_PROGRAMS).cast_mut().cast(), to) };
}

/// State of connections that have no socket of their own yet: their first data came with or before the end of
/// the handshake.
#[map]
pub static PENDING: LruHashMap<Flow, Stream> = LruHashMap::with_max_entries(1 << 12, 0);

/// Time of the last pending state per slot.
#[map]
pub static PENDING_FILTER: Array<u64> = Array::with_max_entries(TOMB_SLOTS, 0);

/// Connections that were there before the program.
#[map]
pub static OLDER: HashMap<Flow, u64> = HashMap::with_max_entries(1 << 16, 0);

/// What is shed; see [`ShedConfig`].
#[map]
pub static SHED_CONFIG: Array<ShedConfig> = Array::with_max_entries(1, 0);

/// Addresses that are never shed, IPv4 as IPv4-mapped IPv6.
#[map]
pub static NEVER_SHED: LpmTrie<[u64; 2], u64> = LpmTrie::with_max_entries(1024, 0);

/// Senders that were refused: a [`Flow`] whose fields are zero but for what names them. An LRU is fine here too:
/// who is forgotten is refused by guard.
#[map]
pub static SOURCES: LruHashMap<Flow, Shed> = LruHashMap::with_max_entries(1 << 16, 0);

/// Times that spare all packets a look into `SOURCES` while there is no flood: see `refusals`.
#[map]
pub static SHED_TIMES: Array<u64> = Array::with_max_entries(2, 0);

/// Which stream's bytes a block holds.
#[repr(C)]
pub struct Tag {
    /// The stream.
    pub id: u64,
    /// Sequence number of the block's first byte.
    pub start: u32,
    /// One writer or reader at a time.
    pub busy: u32,
    /// Bytes from here
    pub from: u32,
    /// to here are held.
    pub to: u32,
}

/// Bytes that were passed and perhaps not taken yet, in blocks.
#[map]
pub static BLOCKS: Array<Blocks> = Array::with_max_entries(1, 0);

/// Whose they are.
#[map]
pub static TAGS: Array<Tag> = Array::with_max_entries(SLOTS, 0);

/// Bytes in a block; a power of two.
pub const BLOCK: u32 = 2048;
/// Blocks; a power of two.
pub const SLOTS: u32 = 8192;

/// All blocks in one value, so that one written to its end stays within the verifier's bounds.
#[repr(C, align(8))]
pub struct Blocks(pub [u8; (SLOTS * BLOCK + BLOCK) as usize]);

/// An empty stream.
pub static EMPTY: Stream = Stream::EMPTY;

/// Working memory of one program run: too large for the stack, never zeroed.
#[repr(C, align(8))]
pub struct Scratch {
    /// The packet's first bytes: link, IP and TCP headers.
    pub headers: [u8; HEADERS],
    /// The headers as read.
    pub packet: Packet,
    /// The server's socket.
    pub socket: Socket,
    /// What is to be written over the packet.
    pub segment: Segment,
    /// Where the scan of this packet stands.
    pub run: Run,
    /// The scanner's state.
    pub scan: Scan,
    /// Where the scanner stands in its window.
    pub cursor: Cursor,
    /// 1 where the packet comes back from the program for HTTP/2.
    pub returned: u32,
    /// Padding.
    pub pad: u32,
    /// The window.
    pub buffer: [u8; BUFFER],
}

#[map]
static SCRATCH: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// The egress program's own: it may run inside the ingress program, when that sends an answer.
#[map]
static SCRATCH_OUT: PerCpuArray<Scratch> = PerCpuArray::with_max_entries(1, 0);

/// This CPU's scratch for the egress program.
#[inline(always)]
pub fn scratch_out() -> Option<*mut Scratch> {
    SCRATCH_OUT.get_ptr_mut(0)
}

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
