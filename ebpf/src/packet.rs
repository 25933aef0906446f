//! Reads link, IP and TCP headers and settles whether a segment goes to a guarded port.
//!
//! One helper call copies the first bytes into scratch; everything after is bounded reads of that copy. A
//! tcx skb's linear part may end behind the TCP header, so nothing is read through packet pointers.

use core::ffi::c_void;

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_loop, bpf_skb_load_bytes},
};
use portcullis_common::{
    layout::{
        AddressKey, Flow, PORT_BY_ADDRESS, PORT_GUARDED, PORT_H2C, PORT_HOW, PORT_OPEN, PORT_PROXY, PORT_SLOT,
    },
    word,
};

use crate::maps::{ADDRESSES, PORTS, Scratch};

/// Bytes of headers copied: Ethernet with two tags (22), IPv6 (40) with extensions (64), TCP (60), rounded up.
const COPIED: u32 = 192;
/// Offsets are masked with this, so that the verifier sees their bound.
const OFFSET_MASK: usize = 255;
/// Size of the headers' memory: any masked offset, and sixteen bytes from there.
pub const HEADERS: usize = OFFSET_MASK + 1 + 16;
/// Longest IPv6 extension header chain read, in bytes.
const EXTENSIONS_MAX: u32 = 64;
/// Most IPv6 extension headers read.
const EXTENSIONS: u32 = 8;

const ETH_LEN: u32 = 14;
const TCP: u8 = 6;

/// FIN.
pub const FIN: u32 = 0x01;
/// SYN.
pub const SYN: u32 = 0x02;
/// RST.
pub const RST: u32 = 0x04;
/// PSH.
pub const PSH: u32 = 0x08;
/// ACK.
pub const ACK: u32 = 0x10;
/// URG.
pub const URG: u32 = 0x20;

/// `Packet::h2c`: the port's connections may speak HTTP/2.
pub const H2C: u32 = 1;
/// The same, and the program that reads that has passed this one back.
pub const H2C_RETURNED: u32 = 2;

/// A TCP segment to a guarded port. Offsets are from the skb's start. It lies in scratch, not on the stack, so
/// that the verifier forgets the ways that led to it and walks what follows once.
#[repr(C)]
pub struct Packet {
    /// Where the IP header begins: 0, 14, 18 or 22.
    pub l3: u32,
    /// Where the TCP header begins.
    pub l4: u32,
    /// Where the payload begins.
    pub payload: u32,
    /// Bytes of payload.
    pub len: u32,
    /// 1 where the IP version is 6.
    pub v6: u32,
    /// TCP flags.
    pub flags: u32,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Client port and server port.
    pub ports: u32,
    /// 1 where [`Headers`] hold this packet's; else [`copy`] must be called before they are used.
    pub copied: u32,
    /// 1 where the port's connections begin with a PROXY protocol header.
    pub proxy: u32,
    /// [`H2C`] where they may speak HTTP/2.
    pub h2c: u32,
    /// Where this interface and port are counted.
    pub place: u32,
}

/// What a packet is to guard.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Port {
    /// Not guarded, or not TCP.
    Open = 0,
    /// Guarded: `Scratch::packet` is set.
    Guarded = 1,
    /// Perhaps guarded, but its headers are not read.
    Unsupported = 2,
    /// A fragment other than the first: of no use to anybody without that.
    Later = 3,
}

/// Bounded reads of the copied headers. Offsets are masked, so a wrong one reads wrong bytes, never outside.
#[derive(Clone, Copy)]
pub struct Headers(*const u8);

impl Headers {
    #[inline(always)]
    pub fn of(scratch: *mut Scratch) -> Self {
        // SAFETY: a field's address inside the scratch value.
        Self(unsafe { (&raw const (*scratch).headers).cast() })
    }

    /// Overwrites one byte of the copy.
    #[inline(always)]
    pub fn set(self, at: u32, b: u8) {
        // SAFETY: masked below `HEADERS`; this CPU's scratch.
        unsafe { self.0.cast_mut().add(at as usize & OFFSET_MASK).write(b) };
    }

    #[inline(always)]
    pub fn u8(self, at: u32) -> u8 {
        // SAFETY: masked below `HEADERS`.
        unsafe { self.0.add(at as usize & OFFSET_MASK).read() }
    }

    /// Eight bytes from `at` on, in memory order from the low byte up. One load, also where it is not aligned.
    #[inline(always)]
    fn word(self, at: u32) -> u64 {
        // SAFETY: masked, and `HEADERS` leaves sixteen bytes behind any masked offset.
        unsafe { word::load::<0>(self.0.add(at as usize & OFFSET_MASK)) }
    }

    /// Eight bytes in memory order.
    #[inline(always)]
    pub fn word_at(self, at: u32) -> u64 {
        self.word(at)
    }

    #[inline(always)]
    pub fn u16(self, at: u32) -> u16 {
        (self.word(at) as u16).swap_bytes()
    }

    #[inline(always)]
    pub fn u32(self, at: u32) -> u32 {
        (self.word(at) as u32).swap_bytes()
    }

    /// An IPv6 address, as two words in memory order.
    #[inline(always)]
    pub fn address6(self, at: u32) -> [u64; 2] {
        [self.word(at), self.word(at + 8)]
    }

    /// An IPv4 address as IPv4-mapped IPv6 (RFC 4291 §2.5.5.2).
    #[inline(always)]
    pub fn address4(self, at: u32) -> [u64; 2] {
        [0, 0xffff_0000 | (self.word(at) << 32)]
    }
}

/// Copies the headers and reads them. A function of its own, for the verifier's sake: see [`Packet`].
#[inline(never)]
pub fn read(skb: *mut __sk_buff, scratch: *mut Scratch) -> Port {
    read_side::<false>(skb, scratch)
}

/// The same of what a server sends: the guarded port is the source.
#[inline(never)]
pub fn read_out(skb: *mut __sk_buff, scratch: *mut Scratch) -> Port {
    read_side::<true>(skb, scratch)
}

#[inline(always)]
fn read_side<const OUT: bool>(skb: *mut __sk_buff, scratch: *mut Scratch) -> Port {
    match quick_look::<OUT>(skb, scratch) {
        Look::Settled(port) => return port,
        Look::Careful => {}
    }
    // SAFETY: the context of the running program.
    let (skb_len, protocol) = unsafe { ((*skb).len, u16::from_be((*skb).protocol as u16)) };
    // Too short for IPv4 and TCP without a link header.
    if skb_len < 40 {
        return Port::Open;
    }
    if !copy(skb, scratch) {
        return Port::Unsupported;
    }
    let h = Headers::of(scratch);
    let Some((l3, v6)) = network_header(h, protocol, skb_len) else { return Port::Open };
    // Through memory, so that the verifier forgets which of the few places it is.
    // SAFETY: this CPU's scratch.
    let l3 = unsafe {
        let pad = &raw mut (*scratch).packet.l3;
        pad.write_volatile(l3);
        pad.read_volatile() & 31
    };
    if v6 { read_v6::<OUT>(skb, scratch, l3, skb_len) } else { read_v4::<OUT>(scratch, l3, skb_len) }
}

/// Copies the packet's first bytes, for [`Headers`].
#[inline(always)]
pub fn copy(skb: *mut __sk_buff, scratch: *mut Scratch) -> bool {
    // SAFETY: the context of the running program.
    let len = unsafe { (*skb).len };
    let n = if len < COPIED { len } else { COPIED };
    if n == 0 {
        return false;
    }
    // SAFETY: `n` is at most the size of `headers`.
    unsafe { bpf_skb_load_bytes(skb.cast(), 0, (&raw mut (*scratch).headers).cast(), n) == 0 }
}

/// What a quick look came to.
enum Look {
    /// The packet is read.
    Settled(Port),
    /// It must be read with care.
    Careful,
}

/// Reads the packets that nearly all are: plain Ethernet, a bare IPv4 or IPv6 header, TCP, headers in the
/// linear part. They are read from packet memory, without a copy; [`copy`] makes one where it is needed later.
#[inline(always)]
fn quick_look<const OUT: bool>(skb: *mut __sk_buff, scratch: *mut Scratch) -> Look {
    // SAFETY: the context of the running program.
    let (start, end, len) = unsafe { ((*skb).data as usize, (*skb).data_end as usize, (*skb).len) };
    if start + 54 > end {
        return Look::Careful;
    }
    let p = start as *const u8;
    // SAFETY: 54 bytes from `start` are within the packet's linear part, as was just checked.
    let (ether, first) = unsafe { (p.add(12).cast::<u16>().read(), p.add(14).read()) };
    // SAFETY: the context of the running program.
    if u32::from(ether) != unsafe { (*skb).protocol } {
        return Look::Careful;
    }
    let (l4, l3_end, v6) = if ether == 0x0800_u16.to_be() && first == 0x45 {
        // SAFETY: as above.
        let (total, fragment, protocol) =
            unsafe { (p.add(16).cast::<u16>().read(), p.add(20).cast::<u16>().read(), p.add(23).read()) };
        if protocol != TCP {
            return Look::Settled(Port::Open);
        }
        let l3_end = 14 + u32::from(u16::from_be(total));
        if fragment & 0x3fff_u16.to_be() != 0 || total == 0 || l3_end > len {
            return Look::Careful;
        }
        (34, l3_end, 0)
    } else if ether == 0x86dd_u16.to_be() && first >> 4 == 6 {
        // SAFETY: as above.
        let (payload, next) = unsafe { (p.add(18).cast::<u16>().read(), p.add(20).read()) };
        let l3_end = 54 + u32::from(u16::from_be(payload));
        if next != TCP || payload == 0 || l3_end > len || start + 74 > end {
            return Look::Careful;
        }
        (54, l3_end, 1)
    } else {
        return Look::Careful;
    };
    let t = (start + l4) as *const u8;
    // Said once more for the verifier, which takes the two cases as one here.
    if start + l4 + 20 > end {
        return Look::Careful;
    }
    // SAFETY: 20 bytes from `t` are within the packet's linear part, as was just checked.
    let (ports, port, seq, ack, offset, flags) = unsafe {
        (
            t.cast::<u32>().read(),
            t.add(if OUT { 0 } else { 2 }).cast::<u16>().read(),
            t.add(4).cast::<u32>().read(),
            t.add(8).cast::<u32>().read(),
            t.add(12).read(),
            t.add(13).read(),
        )
    };
    let how = PORTS.get(u32::from(u16::from_be(port))).copied().unwrap_or(PORT_OPEN);
    if how & PORT_HOW != PORT_GUARDED {
        return if how & PORT_HOW == PORT_BY_ADDRESS { Look::Careful } else { Look::Settled(Port::Open) };
    }
    let payload = l4 as u32 + u32::from(offset >> 4) * 4;
    if payload < l4 as u32 + 20 || payload > l3_end {
        return Look::Settled(Port::Unsupported);
    }
    let packet = Packet {
        l3: ETH_LEN,
        l4: l4 as u32,
        payload,
        len: l3_end - payload,
        v6,
        flags: u32::from(flags),
        seq: u32::from_be(seq),
        ack: u32::from_be(ack),
        ports: u32::from_be(ports),
        copied: 0,
        proxy: u32::from(how & PORT_PROXY != 0),
        h2c: u32::from(how & PORT_H2C != 0),
        place: (how >> PORT_SLOT) as u32,
    };
    // SAFETY: this CPU's scratch; nothing else refers to it yet.
    unsafe { (&raw mut (*scratch).packet).write(packet) };
    Look::Settled(Port::Guarded)
}

/// Finds the IP header: behind Ethernet with up to two in-band VLAN tags, or at the very start (tun,
/// WireGuard, and tcx behind generic XDP).
#[inline(always)]
fn network_header(h: Headers, protocol: u16, skb_len: u32) -> Option<(u32, bool)> {
    let mut at = ETH_LEN - 2;
    let mut ether = h.u16(at);
    if ether == protocol {
        if ether == 0x8100 || ether == 0x88a8 {
            at += 4;
            ether = h.u16(at);
            if ether == 0x8100 || ether == 0x88a8 {
                at += 4;
                ether = h.u16(at);
            }
        }
        if let Some(v6) = plausible(h, at + 2, ether, skb_len) {
            return Some((at + 2, v6));
        }
    }
    plausible(h, 0, protocol, skb_len).map(|v6| (0, v6))
}

/// Whether an IP header of the version that `ether` says stands at `at` and its length fits the packet.
#[inline(always)]
fn plausible(h: Headers, at: u32, ether: u16, skb_len: u32) -> Option<bool> {
    let version = h.u8(at) >> 4;
    if ether == 0x0800 && version == 4 && u32::from(h.u16(at + 2)) + at <= skb_len {
        return Some(false);
    }
    if ether == 0x86dd && version == 6 && u32::from(h.u16(at + 4)) + at + 40 <= skb_len {
        return Some(true);
    }
    None
}

#[inline(always)]
fn read_v4<const OUT: bool>(scratch: *mut Scratch, l3: u32, skb_len: u32) -> Port {
    let h = Headers::of(scratch);
    if h.u8(l3 + 9) != TCP {
        return Port::Open;
    }
    if h.u16(l3 + 6) & 0x1fff != 0 {
        return Port::Later;
    }
    let l4 = l3 + u32::from(h.u8(l3) & 15) * 4;
    if l4 < l3 + 20 {
        return Port::Unsupported;
    }
    // BIG TCP leaves the total length zero.
    let total = u32::from(h.u16(l3 + 2));
    let end = if total == 0 { skb_len } else { l3 + total };
    let Some(how) = guarded::<OUT>(h, l3, l4, false) else { return Port::Open };
    // The first fragment of several: its payload is elsewhere, its ports are here.
    if h.u16(l3 + 6) & 0x2000 != 0 {
        return Port::Unsupported;
    }
    segment(scratch, l3, l4, end, false, how)
}

#[inline(always)]
fn read_v6<const OUT: bool>(skb: *mut __sk_buff, scratch: *mut Scratch, l3: u32, skb_len: u32) -> Port {
    let h = Headers::of(scratch);
    let next = h.u8(l3 + 6);
    let mut l4 = l3 + 40;
    let mut fragment = false;
    if next != TCP {
        let Some(chain) = extensions(skb, next, l4) else { return Port::Unsupported };
        let tcp = chain.next == u32::from(TCP);
        if chain.later != 0 {
            return if tcp || is_extension(chain.next) { Port::Later } else { Port::Open };
        }
        if !tcp {
            return Port::Open;
        }
        l4 = chain.at;
        fragment = chain.fragment != 0;
        if l4 > l3 + 40 + EXTENSIONS_MAX {
            return Port::Unsupported;
        }
    }
    // BIG TCP and jumbograms leave the payload length zero.
    let len = u32::from(h.u16(l3 + 4));
    let end = if len == 0 { skb_len } else { l3 + 40 + len };
    let Some(how) = guarded::<OUT>(h, l3, l4, true) else { return Port::Open };
    if fragment {
        return Port::Unsupported;
    }
    segment(scratch, l3, l4, end, true, how)
}

/// Where the walk over IPv6 extension headers stands.
struct Chain {
    skb: *mut __sk_buff,
    /// The upper protocol, or the header after a later fragment's.
    next: u32,
    /// Where it begins.
    at: u32,
    /// It is the first of several fragments.
    fragment: u32,
    /// It is another.
    later: u32,
    /// It cannot be read.
    failed: u32,
}

/// Whether a protocol number is one of the extension headers that [`extension`] steps over.
#[inline(always)]
fn is_extension(next: u32) -> bool {
    matches!(next, 0 | 43 | 44 | 51 | 60)
}

/// Walks IPv6 extension headers (RFC 8200 §4): the upper protocol and where it begins. `None` for chains that are
/// too long.
#[inline(always)]
fn extensions(skb: *mut __sk_buff, next: u8, at: u32) -> Option<Chain> {
    let mut chain = Chain { skb, next: u32::from(next), at, fragment: 0, later: 0, failed: 0 };
    // SAFETY: the callback's context is `chain`, which outlives the call.
    unsafe {
        bpf_loop(EXTENSIONS, extension as *const () as *mut c_void, (&raw mut chain).cast(), 0);
    }
    if chain.failed != 0 || (chain.later == 0 && is_extension(chain.next)) { None } else { Some(chain) }
}

/// Steps over one extension header. Returns 1 to end the loop.
unsafe extern "C" fn extension(_: u64, chain: *mut Chain) -> i64 {
    // SAFETY: `extensions` passes its `chain`.
    let c = unsafe { &mut *chain };
    if !is_extension(c.next) {
        return 1;
    }
    let mut x = [0u8; 4];
    // SAFETY: four bytes into a local of four.
    if unsafe { bpf_skb_load_bytes(c.skb.cast(), c.at, (&raw mut x).cast(), 4) } != 0 {
        c.failed = 1;
        return 1;
    }
    let next = c.next;
    c.next = u32::from(x[0]);
    if next == 44 {
        let offset = u16::from_be_bytes([x[2], x[3]]);
        if offset & 0xfff8 != 0 {
            c.later = 1;
            return 1;
        }
        // The same as none where it is the whole packet.
        c.fragment |= u32::from(offset & 1);
        c.at += 8;
    } else if next == 51 {
        c.at += (u32::from(x[1]) + 2) * 4;
    } else {
        c.at += (u32::from(x[1]) + 1) * 8;
    }
    0
}

/// What the port map holds of the server's side, where that is guarded.
#[inline(always)]
fn guarded<const OUT: bool>(h: Headers, l3: u32, l4: u32, v6: bool) -> Option<u64> {
    let port = h.u16(if OUT { l4 } else { l4 + 2 });
    let how = *PORTS.get(u32::from(port))?;
    match how & PORT_HOW {
        PORT_OPEN => return None,
        PORT_BY_ADDRESS => {
            let address = match (OUT, v6) {
                (false, true) => h.address6(l3 + 24),
                (false, false) => h.address4(l3 + 16),
                (true, true) => h.address6(l3 + 8),
                (true, false) => h.address4(l3 + 12),
            };
            ADDRESSES.get_ptr(&AddressKey { address, port: u64::from(port) })?;
        }
        _ => {}
    }
    Some(how)
}

#[inline(always)]
fn segment(scratch: *mut Scratch, l3: u32, l4: u32, end: u32, v6: bool, how: u64) -> Port {
    let h = Headers::of(scratch);
    let payload = l4 + u32::from(h.u8(l4 + 12) >> 4) * 4;
    if payload < l4 + 20 || payload > end {
        return Port::Unsupported;
    }
    let packet = Packet {
        l3,
        l4,
        payload,
        len: end - payload,
        v6: u32::from(v6),
        flags: u32::from(h.u8(l4 + 13)),
        seq: h.u32(l4 + 4),
        ack: h.u32(l4 + 8),
        ports: h.u32(l4),
        copied: 1,
        proxy: u32::from(how & PORT_PROXY != 0),
        h2c: u32::from(how & PORT_H2C != 0),
        place: (how >> PORT_SLOT) as u32,
    };
    // SAFETY: this CPU's scratch; nothing else refers to it yet.
    unsafe { (&raw mut (*scratch).packet).write(packet) };
    Port::Guarded
}

/// The connection's name, as seen from the client.
#[inline(always)]
pub fn flow(skb: *mut __sk_buff, scratch: *mut Scratch, p: &Packet) -> Flow {
    let h = Headers::of(scratch);
    let (source, destination) = if p.v6 != 0 {
        (h.address6(p.l3 + 8), h.address6(p.l3 + 24))
    } else {
        (h.address4(p.l3 + 12), h.address4(p.l3 + 16))
    };
    Flow {
        source,
        destination,
        source_port: h.u16(p.l4),
        destination_port: h.u16(p.l4 + 2),
        // SAFETY: the context of the running program.
        interface: unsafe { (*skb).ifindex },
    }
}
