//! XDP, for floods: drops the packets of sources or connections that guard has refused too often, before the kernel
//! makes socket buffers of them.
//!
//! It reads headers alone, one packet at a time, and passes whatever it is not sure of: guard refuses that as ever.
//! [`crate::refusals`] says who is shed.

use aya_ebpf::{bindings::xdp_md, helpers::generated::bpf_ktime_get_boot_ns};
use portcullis_common::{
    layout::{
        AddressKey, Flow, INTERFACE_SLOTS, PLACE_SLOTS, PORT_BY_ADDRESS, PORT_HOW, PORT_OPEN, PORT_PROXY,
        PORT_SLOT,
    },
    reason::{Outcome, Sight},
    shed::{SHED_FLOW, SHED_OFF, ShedConfig},
};

use crate::{
    count::count,
    maps::{ADDRESSES, INTERFACES, PLACES, PORTS, SHED_CONFIG, SHED_TIMES, SOURCES},
    packet::{ACK, SYN},
    refusals::{self, UNTIL},
};

/// `XDP_PASS`, `XDP_DROP`.
const PASS: u32 = 2;
const DROP: u32 = 1;

const IPV4: u16 = 0x0800_u16.to_be();
const IPV6: u16 = 0x86dd_u16.to_be();
const VLAN: u16 = 0x8100_u16.to_be();
const QINQ: u16 = 0x88a8_u16.to_be();
const TCP: u8 = 6;

/// Settles what becomes of a packet.
#[inline(always)]
pub fn steps(ctx: *mut xdp_md) -> u32 {
    let Some(config) = SHED_CONFIG.get(0) else { return PASS };
    let Some(until) = SHED_TIMES.get(UNTIL) else { return PASS };
    if config.how == SHED_OFF || *until == 0 {
        return PASS;
    }
    // SAFETY: a helper without arguments.
    let now = unsafe { bpf_ktime_get_boot_ns() };
    if *until <= now {
        // Nobody is shed: that is all that a packet costs then.
        return PASS;
    }
    // SAFETY: the context of the running program.
    let (start, end) = unsafe { ((*ctx).data as usize, (*ctx).data_end as usize) };
    if start + 22 > end {
        return PASS;
    }
    let p = start as *const u8;
    // SAFETY: 22 bytes from `start` were just checked to be there.
    let (first, ether, tagged, twice) =
        unsafe { (p.read(), load16(p.add(12)), load16(p.add(16)), load16(p.add(20))) };
    let is_tag = |e: u16| e == VLAN || e == QINQ;
    let is_ip = |e: u16| e == IPV4 || e == IPV6;
    let (l3, ether) = if is_ip(ether) {
        (14, ether)
    } else if is_tag(ether) && is_ip(tagged) {
        (18, tagged)
    } else if is_tag(ether) && is_tag(tagged) && is_ip(twice) {
        (22, twice)
    } else if first >> 4 == 4 {
        // A device without a link header.
        (0, IPV4)
    } else if first >> 4 == 6 {
        (0, IPV6)
    } else {
        return PASS;
    };
    if ether == IPV4 { v4(ctx, start + l3, end, config, now) } else { v6(ctx, start + l3, end, config, now) }
}

#[inline(always)]
unsafe fn load16(p: *const u8) -> u16 {
    // SAFETY: the caller has checked two bytes; XDP's packet memory is read whole from any alignment.
    unsafe { p.cast::<u16>().read_unaligned() }
}

#[inline(always)]
unsafe fn load32(p: *const u8) -> u32 {
    // SAFETY: as above, of four.
    unsafe { u32::from(load16(p)) | u32::from(load16(p.add(2))) << 16 }
}

#[inline(always)]
fn v4(ctx: *mut xdp_md, l3: usize, end: usize, config: &ShedConfig, now: u64) -> u32 {
    if l3 + 20 > end {
        return PASS;
    }
    let p = l3 as *const u8;
    // SAFETY: 20 bytes were just checked.
    let (version, fragment, protocol, source, destination) =
        unsafe { (p.read(), load16(p.add(6)), p.add(9).read(), load32(p.add(12)), load32(p.add(16))) };
    // Of a fragment the ports may be elsewhere.
    if version >> 4 != 4 || protocol != TCP || fragment & 0x3fff_u16.to_be() != 0 {
        return PASS;
    }
    let l4 = l3 + usize::from(version & 15) * 4;
    let mapped = |a: u32| [0, 0xffff_0000 | u64::from(a) << 32];
    tcp(ctx, l4, end, mapped(source), mapped(destination), config, now)
}

#[inline(always)]
fn v6(ctx: *mut xdp_md, l3: usize, end: usize, config: &ShedConfig, now: u64) -> u32 {
    if l3 + 40 > end {
        return PASS;
    }
    let p = l3 as *const u8;
    // SAFETY: 40 bytes were just checked.
    unsafe {
        // Behind extension headers nothing is read here.
        if p.read() >> 4 != 6 || p.add(6).read() != TCP {
            return PASS;
        }
        let half = |at: usize| u64::from(load32(p.add(at))) | u64::from(load32(p.add(at + 4))) << 32;
        tcp(ctx, l3 + 40, end, [half(8), half(16)], [half(24), half(32)], config, now)
    }
}

/// The TCP header, and what is known of its sender.
#[inline(always)]
fn tcp(
    ctx: *mut xdp_md,
    l4: usize,
    end: usize,
    source: [u64; 2],
    destination: [u64; 2],
    config: &ShedConfig,
    now: u64,
) -> u32 {
    if l4 + 14 > end {
        return PASS;
    }
    let p = l4 as *const u8;
    // SAFETY: 14 bytes were just checked.
    let (source_port, port, flags) =
        unsafe { (u16::from_be(load16(p)), u16::from_be(load16(p.add(2))), u32::from(p.add(13).read())) };
    let how = PORTS.get(u32::from(port)).copied().unwrap_or(PORT_OPEN);
    if how & PORT_HOW == PORT_OPEN {
        return PASS;
    }
    if how & PORT_HOW == PORT_BY_ADDRESS
        && ADDRESSES.get_ptr(&AddressKey { address: destination, port: u64::from(port) }).is_none()
    {
        return PASS;
    }
    // SAFETY: the context of the running program.
    let interface = unsafe { (*ctx).ingress_ifindex };
    let flow = Flow { source, destination, source_port, destination_port: port, interface };
    let key = refusals::key(flow, config);
    // What a proxy begins its connections with names others than the proxy.
    if config.how != SHED_FLOW && how & PORT_PROXY != 0 {
        return PASS;
    }
    let Some(state) = SOURCES.get_ptr(&key) else { return PASS };
    // SAFETY: a map's value; an LRU may reuse it for another, whose time is read as whole.
    if !unsafe { (*state).is_shed(now) } {
        return PASS;
    }
    if config.how == SHED_FLOW && flags & (SYN | ACK) == SYN {
        // Another connection of the same name.
        let _ = SOURCES.remove(&key);
        return PASS;
    }
    if refusals::is_proxy(source) {
        return PASS;
    }
    count(Outcome::Shed);
    let slot = INTERFACES.get(interface & (INTERFACE_SLOTS - 1)).copied().unwrap_or(0);
    let place = (slot & (PLACE_SLOTS - 1)) * PLACE_SLOTS | (how >> PORT_SLOT) as u32 & (PLACE_SLOTS - 1);
    if let Some(place) = PLACES.get_ptr_mut(place) {
        // SAFETY: this CPU's own; the index is below its size. tc programs on this CPU do not run meanwhile.
        unsafe { (*place)[Sight::Shed as usize] += 1 };
    }
    DROP
}
