//! Connections that guard meets half-way, cannot read, or that begin with something else than a request.

use std::process::Command;

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    daemon::Daemon,
    has, is_root,
    net::{PORT, SERVER_V4, at, guarded},
    process::Process,
    server::{End, Server},
    world::Ground,
};

use super::clients::await_listener;

/// A daemon that starts when a connection is already there, and what becomes of that.
fn older(kernel: &str) -> Result<(Ground, Server, Daemon, Client, [String; 2])> {
    let ground = Ground::make()?;
    let server = Server::start(&ground.net.server, &[guarded(SERVER_V4)])?;
    let tokens = [ground.mint.hs256()?, ground.mint.hs256()?];
    let mut client = Client::connect(&ground.net.client, guarded(SERVER_V4))?;
    assert_eq!(client.ask(&bearer("/before", &tokens[0]))?.status, 200);
    let config = portcullis_tests::config::Config {
        kernel: kernel.to_owned(),
        ..portcullis_tests::config::Config::default()
    };
    let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
    let daemon = Daemon::start(&ground.net.server, &path, &ground.dir.path("admin.sock"))?;
    daemon.revoke(&tokens[1])?;
    Ok((ground, server, daemon, client, tokens))
}

#[test]
fn a_connection_older_than_guard_is_read_segment_by_segment() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (_ground, server, daemon, mut client, [live, revoked]) = older("")?;
    assert_eq!(daemon.status()?["kernel"]["older_connections"], 1);
    assert_eq!(client.ask(&bearer("/after", &live))?.status, 200);
    assert!(daemon.counter("unguarded")? > 0);
    client.send(&bearer("/after", &revoked))?;
    assert_eq!(client.rest()?, (Vec::new(), End::Reset), "what was answered before is not known: no answer");
    assert_eq!(server.requests().len(), 2);
    Ok(())
}

#[test]
fn in_hold_mode_requests_wait_on_a_connection_older_than_guard_too() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (_ground, server, daemon, mut client, [live, _]) = older("unknown = \"hold\"")?;
    assert_eq!(client.ask(&bearer("/v1/orders", &live))?.status, 200);
    assert!(daemon.counter("waiting")? > 0);
    client.send(&request("/v1/orders", &[]))?;
    assert_eq!(client.rest()?, (Vec::new(), End::Reset), "no token at all");
    assert_eq!(server.requests().len(), 2);
    Ok(())
}

#[test]
fn a_connection_older_than_guard_is_ended_where_that_is_configured() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (ground, server, daemon, mut client, [live, _]) = older("older_connections = \"reset\"")?;
    assert_eq!(client.rest()?.1, End::Reset);
    let mut client = Client::connect(&ground.net.client, guarded(SERVER_V4))?;
    assert_eq!(client.ask(&bearer("/after", &live))?.status, 200);
    assert_eq!((server.requests().len(), daemon.counter("unguarded")?), (2, 0));
    Ok(())
}

#[test]
fn opaque_connections_are_reset_where_that_is_configured() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.kernel = "opaque = \"refuse\"".to_owned();
        Ok(())
    })?;
    // The beginning of a ClientHello, whole and cut.
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03";
    for cut in [0, 1, 3] {
        let mut client = w.connect()?;
        client.send(&hello[..cut])?;
        client.send(&hello[cut..])?;
        assert_eq!(client.rest()?.1, End::Reset, "cut at {cut}");
    }
    assert_eq!(w.daemon.counter("refused_opaque")?, 3);
    w.assert_passes(&w.mint.hs256()?);
    Ok(())
}

/// Where HAProxy awaits a PROXY protocol header, and where a server that takes it in any number of parts does.
const PROXIED: u16 = 8067;
const PARTED: u16 = 8068;

/// A 401, or a reset where what was before on the connection lets no answer be written.
fn refused((bytes, end): &(Vec<u8>, End), cut: usize) {
    assert!(bytes.starts_with(b"HTTP/1.1 401 ") || *end == End::Reset, "cut at {cut}: {end:?}");
}

#[test]
fn behind_a_proxy_protocol_header_heads_are_read_all_the_same() -> Result<()> {
    if !is_root() || !has("haproxy") {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.extend([PROXIED, PARTED]);
        config.kernel = format!("proxy_protocol_ports = [{PROXIED}, {PARTED}]");
        Ok(())
    })?;
    let config = w.dir.write(
        "preamble.cfg",
        &format!(
            "global\n    maxconn 64\n    log stderr len 4096 format raw local0 info\n\
             defaults\n    mode http\n    timeout connect 10s\n    timeout client 30s\n    timeout server 30s\n\
             frontend f\n    bind :{PROXIED} accept-proxy\n    http-request capture req.hdr(authorization) len 2048\n\
             log global\n    log-format \"PARSED %ci %hrl\"\n    http-request return status 200\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-db").arg("-f").arg(config);
    let server = Process::start(&w.net.server, &mut command)?;
    await_listener(&w.net.server, PROXIED)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let first = b"PROXY TCP4 192.0.2.7 10.77.0.1 40000 8067\r\n".to_vec();
    let mut second = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    second.extend([192, 0, 2, 9, 10, 77, 0, 1, 0x9c, 0x40, 0x1f, 0x83]);
    for preamble in [&first, &second] {
        let good = [preamble.as_slice(), &bearer("/proxied", &live)].concat();
        let bad = [preamble.as_slice(), &bearer("/proxied", &revoked)].concat();
        // HAProxy and nginx close when the header itself comes in parts.
        for cut in [0, preamble.len(), preamble.len() + 60] {
            let mut client = Client::connect(&w.net.client, at(SERVER_V4, PROXIED))?;
            client.send(&good[..cut]).context("preamble")?;
            assert_eq!(client.ask(&good[cut..]).with_context(|| format!("cut at {cut}"))?.status, 200);
            // The second request on it has no header of its own.
            assert_eq!(client.ask(&bearer("/second", &live)).context("second")?.status, 200);
            assert_eq!(client.ask(&bearer("/third", &revoked)).context("third")?.status, 401);
            let mut client = Client::connect(&w.net.client, at(SERVER_V4, PROXIED))?;
            client.send(&bad[..cut])?;
            client.send(&bad[cut..]).with_context(|| format!("bad, cut at {cut}"))?;
            refused(&client.rest()?, cut);
        }
    }
    // To the other server it is a line before the first head.
    let parted = Server::start(&w.net.server, &[at(SERVER_V4, PARTED)])?;
    for cut in [1, 6, 11, first.len() - 1, first.len() + 1] {
        for token in [&live, &revoked] {
            let bytes = [first.as_slice(), &bearer("/parted", token)].concat();
            let mut client = Client::connect(&w.net.client, at(SERVER_V4, PARTED))?;
            client.send(&bytes[..cut])?;
            client.send(&bytes[cut..])?;
            if token == &live {
                assert_eq!(client.answer().with_context(|| format!("cut at {cut}"))?.status, 200);
            } else {
                refused(&client.rest()?, cut);
            }
        }
    }
    assert!(parted.requests().iter().all(|head| !head.contains(&revoked)));
    // Without one: nothing that guard can vouch for.
    let mut client = Client::connect(&w.net.client, at(SERVER_V4, PROXIED))?;
    client.send(&bearer("/bare", &live))?;
    let _ = client.rest()?;
    let lines = server.lines();
    assert!(!lines.iter().any(|l| l.starts_with("PARSED") && l.contains(&revoked)), "{lines:?}");
    for address in ["192.0.2.7", "192.0.2.9"] {
        assert!(lines.iter().any(|l| l.contains(address)), "{lines:?}");
    }
    // A port without the mark takes such a header for no request.
    let mut client = Client::connect(&w.net.client, at(SERVER_V4, PORT))?;
    client.send(&[first.as_slice(), &bearer("/proxied", &live)].concat())?;
    assert_ne!(client.rest()?.0.get(..12), Some(&b"HTTP/1.1 200"[..]));
    Ok(())
}

/// The server's address inside the tunnel.
const INSIDE: &str = "10.99.0.1";

#[test]
fn behind_a_tunnel_guard_reads_what_was_unpacked() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    for (ns, device, local, remote, inside) in [
        (&ground.net.server, "srv0", SERVER_V4, "10.77.0.2", INSIDE),
        (&ground.net.client, "cli0", "10.77.0.2", SERVER_V4, "10.99.0.2"),
    ] {
        let vxlan = ["link", "add", "vx0", "type", "vxlan", "id", "7", "remote", remote, "local", local];
        if let Err(e) = ns.ip(&[&vxlan[..], &["dstport", "4789", "dev", device]].concat()) {
            portcullis_tests::skip(&format!("this kernel has no VXLAN: {e}"));
            return Ok(());
        }
        ns.ip(&["address", "add", &format!("{inside}/24"), "dev", "vx0"])?;
        ns.ip(&["link", "set", "vx0", "up"])?;
    }
    let server = Server::start(&ground.net.server, &[guarded(INSIDE)])?;
    let config = portcullis_tests::config::Config {
        interface: "vx0".to_owned(),
        ..portcullis_tests::config::Config::default()
    };
    let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
    let daemon = Daemon::start(&ground.net.server, &path, &ground.dir.path("admin.sock"))?;
    let (live, revoked) = (ground.mint.hs256()?, ground.mint.hs256()?);
    daemon.revoke(&revoked)?;
    let ask = |token: &str| Client::connect(&ground.net.client, guarded(INSIDE))?.ask(&bearer("/in", token));
    let answer = ask(&live)?;
    assert!(answer.status == 200 && answer.is_servers(), "{answer:?}");
    assert_eq!(ask(&revoked)?.status, 401);
    assert!(!server.requests().iter().any(|head| head.contains(&revoked)), "{:?}", server.requests());
    assert_eq!(daemon.counter("revoked")?, 1);
    Ok(())
}
