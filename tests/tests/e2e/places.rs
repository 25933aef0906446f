//! What is shown of each guarded interface and port.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::Client,
    is_root,
    net::{PORT, SERVER_DEVICE, SERVER_V4, at},
    server::Server,
};

/// A second guarded port.
const OTHER: u16 = 8069;

#[test]
fn each_interface_and_port_is_counted_by_itself() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = "*".to_owned();
        config.ports.push(OTHER);
        Ok(())
    })?;
    let _other = Server::start(&w.net.server, &[at(SERVER_V4, OTHER), at("127.0.0.1", OTHER)])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // By the wire: two requests and two refusals at one port.
    w.assert_passes(&live);
    w.assert_passes(&live);
    w.assert_refused(&revoked);
    w.assert_refused(&revoked);
    // By loopback at the other: one that parsers read differently, one opaque.
    let mut odd = Client::connect(&w.net.server, at("127.0.0.1", OTHER))?;
    odd.send(b"GET / HTTP/1.1\r\nAuthorization : Bearer a\r\n\r\n")?;
    assert!(odd.rest()?.0.starts_with(b"HTTP/1.1 400 "));
    let mut opaque = Client::connect(&w.net.server, at("127.0.0.1", OTHER))?;
    opaque.send(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03")?;
    w.daemon.await_counter("opaque", 1)?;
    let status = w.daemon.status()?;
    let place = |interface: &str, port: u16| {
        let all = status["kernel"]["places"].as_array().unwrap();
        let found = all.iter().find(|p| p["interface"] == interface && p["port"] == port);
        found.unwrap_or_else(|| panic!("no {interface} {port}: {all:?}")).clone()
    };
    let wire = place(SERVER_DEVICE, PORT);
    assert_eq!((&wire["requests"], &wire["refused_revoked"]), (&4.into(), &2.into()), "{wire}");
    assert!(wire["packets"].as_u64() > Some(8), "{wire}");
    let loopback = place("lo", OTHER);
    assert_eq!((&loopback["refused_malformed"], &loopback["opaque"]), (&1.into(), &1.into()), "{loopback}");
    assert_eq!(place(SERVER_DEVICE, OTHER)["packets"], 0);
    let metrics = w.daemon.metrics()?;
    let line = format!(
        "portcullis_kernel_guarded_total{{interface=\"{SERVER_DEVICE}\",port=\"{PORT}\",what=\"refused_revoked\"}} 2"
    );
    assert!(metrics.contains(&line), "{metrics}");
    let told = w.daemon.ask(&["status"], "")?.ok()?;
    for text in ["strict on lo by tcx", "refused_malformed", "interface"] {
        assert!(told.contains(text), "{told}");
    }
    Ok(())
}
