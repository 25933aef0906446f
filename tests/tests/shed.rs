//! Which packets shed drops, packet by packet (`BPF_PROG_TEST_RUN`).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    net::{IpAddr, Ipv6Addr},
    time::Duration,
};

use anyhow::Result;
use nix::time::{ClockId, clock_gettime};
use portcullis::kernel::{GuardedPort, Kernel, Prefix, ShedBy, ShedHook, ShedSettings};
use portcullis_common::layout::Flow;
use portcullis_tests::{
    bpffs::Bpffs,
    frames::{CLIENT, Frame, Link, SERVER, destination_options},
    guard::{PORT, settings},
    is_root,
};

fn words(a: Ipv6Addr) -> [u64; 2] {
    let octets = a.octets();
    let word = |at: usize| u64::from_ne_bytes(octets[at..at + 8].try_into().unwrap());
    [word(0), word(8)]
}

fn v4(a: [u8; 4]) -> [u64; 2] {
    words(std::net::Ipv4Addr::from(a).to_ipv6_mapped())
}

fn v6(last: u16) -> [u64; 2] {
    words(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, last))
}

fn now() -> u64 {
    Duration::from(clock_gettime(ClockId::CLOCK_BOOTTIME).unwrap()).as_nanos().try_into().unwrap()
}

/// TEST_RUN's packets come by loopback.
fn source(address: [u64; 2]) -> Flow {
    Flow { source: address, destination: [0; 2], source_port: 0, destination_port: 0, interface: 1 }
}

fn load(bpffs: &Bpffs, change: impl FnOnce(&mut portcullis::kernel::Settings)) -> Result<Kernel> {
    let mut s = settings(bpffs);
    s.shed = ShedSettings { by: ShedBy::Source, hooks: vec![ShedHook::Native], ..ShedSettings::off() };
    s.shed.ipv6_prefix = 64;
    change(&mut s);
    Ok(Kernel::load(s)?)
}

#[test]
fn every_packet_of_a_shed_source_to_a_guarded_port_is_dropped_and_no_other() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let bpffs = Bpffs::mount()?;
    let mut kernel = load(&bpffs, |_| ())?;
    let plain = Frame::default();
    assert!(!kernel.sheds_packet(&plain.build(b""), 1)?.0, "nobody is shed yet");
    kernel.shed_until(source(v4(CLIENT)), now() + 3_600_000_000_000)?;
    // Of an IPv6 source the first 64 bits count.
    kernel.shed_until(source([v6(0)[0], 0]), now() + 3_600_000_000_000)?;
    let mut drops = |f: &Frame| kernel.sheds_packet(&f.build(b"GET / HTTP/1.1\r\n"), 1).unwrap().0;
    let six = Frame { v6: true, ..Frame::default() };
    for f in [&plain, &six] {
        assert!(drops(f), "{f:?}");
        for link in [Link::Vlan, Link::QinQ] {
            let f = Frame { link, ..f.clone() };
            assert!(drops(&f), "{f:?}");
        }
        for flags in [0x02, 0x10, 0x11, 0x04] {
            let f = Frame { flags, ..f.clone() };
            assert!(drops(&f), "{f:?}");
        }
        let f = Frame { port: PORT + 1, ..f.clone() };
        assert!(!drops(&f), "an open port: {f:?}");
    }
    assert!(drops(&Frame { ip_options: vec![1; 40], tcp_options: vec![1; 40], ..plain.clone() }));
    for f in [
        Frame { addresses: [[192, 0, 2, 9], SERVER], ..plain.clone() },
        // The ports of fragments may be elsewhere.
        Frame { fragment: 0x2000, ..plain.clone() },
        Frame { fragment: 0x0001, ..plain.clone() },
        Frame { extensions: destination_options(6, 1), ..six.clone() },
    ] {
        assert!(!drops(&f), "{f:?}");
    }
    // Without a link header, as on a tunnel's device; and whatever is cut short.
    let whole = plain.build(b"GET / HTTP/1.1\r\n");
    assert!(kernel.sheds_packet(&whole[14..], 1)?.0);
    for n in 14..whole.len() {
        // A copy of fewer bytes than headers have is passed; TEST_RUN takes no fewer than a link header has.
        let dropped = kernel.sheds_packet(&whole[..n], 1)?.0;
        assert_eq!(dropped, n >= 14 + 20 + 14, "{n} bytes");
    }
    // Its time is over.
    kernel.shed_until(source(v4(CLIENT)), now())?;
    assert!(!kernel.sheds_packet(&whole, 1)?.0);
    Ok(())
}

#[test]
fn proxies_addresses_that_are_not_guarded_and_proxy_protocol_are_passed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let shed = |change: &dyn Fn(&mut portcullis::kernel::Settings)| -> Result<[bool; 2]> {
        let bpffs = Bpffs::mount()?;
        let mut kernel = load(&bpffs, |s| change(s))?;
        kernel.shed_until(source(v4(CLIENT)), now() + 3_600_000_000_000)?;
        kernel.shed_until(source([v6(0)[0], 0]), now() + 3_600_000_000_000)?;
        let frames = [Frame::default(), Frame { v6: true, ..Frame::default() }];
        let [a, b] = frames.map(|f| kernel.sheds_packet(&f.build(b""), 1).unwrap().0);
        Ok([a, b])
    };
    let prefix = |address: &str, len| Prefix { address: address.parse().unwrap(), len };
    assert_eq!(shed(&|_| ())?, [true, true]);
    assert_eq!(shed(&|s| s.shed.never = vec![prefix("192.0.2.0", 24)])?, [false, true]);
    assert_eq!(
        shed(&|s| s.shed.never = vec![prefix("192.0.2.1", 32), prefix("2001:db8::1", 128)])?,
        [false; 2]
    );
    assert_eq!(
        shed(&|s| s.shed.never = vec![prefix("192.0.2.2", 32), prefix("2001:db8::2", 128)])?,
        [true; 2]
    );
    assert_eq!(shed(&|s| s.proxy_ports = vec![PORT])?, [false; 2]);
    let at = |address: IpAddr| GuardedPort { address: Some(address), port: PORT };
    assert_eq!(shed(&|s| s.ports = vec![at(SERVER.into())])?, [true, false]);
    assert_eq!(shed(&|s| s.ports = vec![at([192, 0, 2, 77].into())])?, [false; 2]);
    Ok(())
}

#[test]
fn a_shed_connection_is_let_in_again_by_its_next_handshake() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let bpffs = Bpffs::mount()?;
    let mut kernel = load(&bpffs, |s| s.shed.by = ShedBy::Flow)?;
    let f = Frame::default();
    let flow = Flow {
        source: v4(CLIENT),
        destination: v4(SERVER),
        source_port: f.source_port,
        destination_port: f.port,
        interface: 1,
    };
    kernel.shed_until(flow, now() + 3_600_000_000_000)?;
    let mut drops = |f: &Frame| kernel.sheds_packet(&f.build(b""), 1).unwrap().0;
    assert!(drops(&f));
    assert!(!drops(&Frame { source_port: f.source_port + 1, ..f.clone() }));
    assert!(!drops(&Frame { flags: 0x02, ..f.clone() }));
    assert!(!drops(&f));
    Ok(())
}
