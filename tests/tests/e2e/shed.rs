//! Floods of condemned tokens are dropped at XDP: who is, who is not, and for how long.

use std::{
    net::{SocketAddr, TcpStream},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    client::{Client, bearer},
    config::Config,
    daemon::Daemon,
    is_root,
    net::{CLIENT_DEVICE, Namespace, SERVER_DEVICE, SERVER_V4, SERVER_V6, guarded},
    server::Server,
    world::{Ground, whole_refusal},
};

/// A second address of the server, to which the client speaks from another of its own.
const SECOND: &str = "10.77.9.1";
/// How long a connection is tried that is not to come about. A live one takes well under a millisecond.
const SHORT: Duration = Duration::from_millis(400);

/// A world in which the source is shed after five refusals.
fn world(kernel: &str) -> Result<World> {
    let kernel = format!("shed_after = 5\nshed_window = \"60s\"\nshed_ipv6_prefix = 128\n{kernel}");
    World::with(|config, _| {
        config.kernel = kernel;
        Ok(())
    })
}

/// Gives both sides a second address.
fn second_source(server: &Namespace, client: &Namespace) -> Result<Server> {
    server.ip(&["address", "add", "10.77.9.1/24", "dev", SERVER_DEVICE])?;
    client.ip(&["address", "add", "10.77.9.2/24", "dev", CLIENT_DEVICE])?;
    Server::start(server, &[guarded(SECOND)])
}

/// Is refused `n` times.
fn refused(ns: &Namespace, to: SocketAddr, token: &str, n: usize) -> Result<()> {
    for _ in 0..n {
        let mut client = Client::connect(ns, to)?;
        client.send(&bearer("/flood", token))?;
        whole_refusal(client.rest()?.0);
    }
    Ok(())
}

/// Whether a connection comes about.
fn connects(ns: &Namespace, to: SocketAddr) -> Result<bool> {
    ns.enter(|| Ok(TcpStream::connect_timeout(&to, SHORT).is_ok()))
}

fn passes(ns: &Namespace, to: SocketAddr, token: &str) -> Result<()> {
    let answer = Client::connect(ns, to)?.ask(&bearer("/live", token))?;
    assert!(answer.status == 200 && answer.is_servers(), "{answer:?}");
    Ok(())
}

fn flooded_and_let_in_again(attach: &str, address: &str) -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world(&format!("shed = \"source\"\nshed_time = \"2s\"\nshed_attach = \"{attach}\""))?;
    let _second = second_source(&w.net.server, &w.net.client)?;
    let status = w.daemon.status()?;
    let hook = &status["kernel"]["shed"]["attached"][0]["hook"];
    assert_eq!(hook, if attach == "generic" { "generic" } else { "native" }, "{status}");
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let (client, to) = (&w.net.client, guarded(address));
    refused(client, to, &revoked, 4)?;
    passes(client, to, &live)?;
    assert_eq!(w.daemon.counter("shed_begun")?, 0);
    refused(client, to, &revoked, 1)?;
    assert_eq!((w.daemon.counter("shed_begun")?, w.daemon.counter("revoked")?), (1, 5));
    // From here on nothing of that source arrives, until its time is over: TCP tries again by itself.
    let ns = client.clone();
    let waits = thread::spawn(move || Client::connect(&ns, to));
    w.daemon.await_counter("shed", 1)?;
    assert!(!waits.is_finished(), "it is dropped");
    passes(client, guarded(SECOND), &live)?;
    let shed = w.daemon.status()?["kernel"]["shed"]["senders"][0].clone();
    let source = if address == SERVER_V4 { "10.77.0.2" } else { "fd77::2" };
    assert!(shed["source"] == source && shed["times_shed"] == 1, "{shed}");
    let answer = waits.join().unwrap()?.ask(&bearer("/again", &live))?;
    assert!(answer.is_servers(), "{answer:?}");
    // Let in again, it is refused as before.
    refused(client, to, &revoked, 1)?;
    let places = w.daemon.status()?["kernel"]["places"].clone();
    assert!(places[0]["shed"].as_u64() >= Some(1), "{places}");
    assert!(w.daemon.metrics()?.contains("portcullis_kernel_outcomes_total{outcome=\"shed_begun\"} 1"));
    let told = w.daemon.ask(&["status"], "")?.ok()?;
    assert!(told.contains("shed         by source on srv0, "), "{told}");
    Ok(())
}

#[test]
fn a_flood_is_shed_by_the_driver_and_let_in_again_after_its_time() -> Result<()> {
    flooded_and_let_in_again("auto", SERVER_V4)
}

#[test]
fn a_flood_over_ipv6_is_shed_by_the_driver() -> Result<()> {
    flooded_and_let_in_again("native", SERVER_V6)
}

#[test]
fn a_flood_is_shed_by_the_kernel_where_the_driver_is_not_to() -> Result<()> {
    flooded_and_let_in_again("generic", SERVER_V4)
}

#[test]
fn a_configured_proxy_is_never_shed_and_a_reload_frees_one_that_was() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("shed = \"source\"\nshed_time = \"1h\"\nshed_never = [\"10.77.0.0/24\"]")?;
    let _second = second_source(&w.net.server, &w.net.client)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let client = &w.net.client;
    refused(client, guarded(SERVER_V4), &revoked, 20)?;
    passes(client, guarded(SERVER_V4), &live)?;
    assert_eq!((w.daemon.counter("shed_proxy")?, w.daemon.counter("shed_begun")?), (20, 0));
    // The other source is no proxy, until it is named.
    refused(client, guarded(SECOND), &revoked, 5)?;
    assert!(!connects(client, guarded(SECOND))?);
    let kernel = w.config.kernel.replace("10.77.0.0/24", "10.77.0.0/16");
    w.dir.write("portcullis.toml", &Config { kernel, ..w.config.clone() }.toml(&w.dir))?;
    w.daemon.ask(&["reload"], "")?.ok()?;
    passes(client, guarded(SECOND), &live)?;
    refused(client, guarded(SECOND), &revoked, 20)?;
    assert_eq!(w.daemon.counter("shed_begun")?, 1);
    // Off: it goes at once.
    let kernel = w.config.kernel.replace("\"source\"", "\"off\"");
    w.dir.write("portcullis.toml", &Config { kernel, ..w.config.clone() }.toml(&w.dir))?;
    w.daemon.ask(&["reload"], "")?.ok()?;
    let link = w.net.server.ip(&["-d", "link", "show", SERVER_DEVICE])?;
    assert!(!link.contains("xdp"), "{link}");
    Ok(())
}

#[test]
fn shed_outlives_kill_9_is_adopted_and_goes_with_detach() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = world("shed = \"source\"\nshed_time = \"1h\"")?;
    let _second = second_source(&w.net.server, &w.net.client)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let (client, to) = (w.net.client.clone(), guarded(SERVER_V4));
    refused(&client, to, &revoked, 5)?;
    assert!(!connects(&client, to)?);
    w.daemon.kill9()?;
    assert!(!connects(&client, to)?, "without a daemon");
    passes(&client, guarded(SECOND), &live)?;
    w.daemon.restart()?;
    assert!(!connects(&client, to)?, "adopted");
    let status = w.daemon.status()?;
    assert_eq!(status["kernel"]["shed"]["senders"][0]["source"], "10.77.0.2", "{status}");
    assert!(status["kernel"]["verified_instructions"]["shed"].as_u64() > Some(0), "{status}");
    w.daemon.stop()?;
    w.daemon.command(&["detach"])?.ok()?;
    let link = w.net.server.ip(&["-d", "link", "show", SERVER_DEVICE])?;
    assert!(!link.contains("xdp"), "{link}");
    passes(&client, to, &revoked)
}

#[test]
fn a_connection_is_shed_without_harm_to_others_of_its_source() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for enforcement in ["strict", "fast"] {
        let w = World::with(|config, _| {
            config.kernel = "shed = \"flow\"\nshed_after = 2\nshed_time = \"1h\"".to_owned();
            (config.reaction, config.enforcement) = ("drop", enforcement);
            Ok(())
        })?;
        let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
        w.daemon.revoke(&revoked)?;
        let mut flood = w.connect()?;
        flood.send(&bearer("/flood", &revoked))?;
        // Its own retransmissions are the flood.
        w.daemon.await_counter("shed", 1)?;
        assert_eq!(w.daemon.counter("shed_begun")?, 1);
        w.assert_passes(&live);
        let shed = w.daemon.status()?["kernel"]["shed"]["senders"][0].clone();
        let from = flood.0.local_addr()?;
        assert_eq!(shed["source"], format!("{from} to {SERVER_V4}:8080"), "{shed}");
    }
    Ok(())
}

#[test]
fn a_source_that_is_refused_and_carries_many_tokens_is_told_of() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for enforcement in ["strict", "fast"] {
        let w = World::with(|config, _| {
            config.kernel = "shed = \"source\"".to_owned();
            config.enforcement = enforcement;
            Ok(())
        })?;
        let revoked = w.mint.hs256()?;
        w.daemon.revoke(&revoked)?;
        w.assert_refused(&revoked);
        // Fingerprints fall on bits of a small map: a few more than it takes.
        for _ in 0..24 {
            w.assert_passes(&w.mint.hs256()?);
        }
        let wanted = "a source with refused tokens carries many tokens: if it is a proxy, name it in `kernel.shed_never`, or all behind it are shed";
        w.daemon.await_log(0, wanted, "10.77.0.2")?;
        assert_eq!(w.daemon.counter("shed_many_tokens")?, 1);
        assert_eq!(w.daemon.status()?["kernel"]["shed"]["senders"][0]["many_tokens"], true);
        assert!(w.daemon.ask(&["status"], "")?.ok()?.contains("PROXY?       10.77.0.2 carries many tokens"));
    }
    Ok(())
}

#[test]
fn in_another_namespace_it_sheds_too_and_never_on_loopback() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Ground { net, mint, dir } = Ground::make()?;
    let _server = Server::start(&net.server, &[guarded(SERVER_V4), guarded("127.0.0.1")])?;
    let config = Config {
        interface: format!("/run/netns/{}:*", net.server.name()),
        kernel: "shed = \"source\"\nshed_after = 5\nshed_time = \"1h\"".to_owned(),
        ..Config::default()
    };
    let path = dir.write("portcullis.toml", &config.toml(&dir))?;
    let daemon = Daemon::start(&net.client, &path, &dir.path("admin.sock"))?;
    let attached = daemon.status()?["kernel"]["shed"]["attached"].clone();
    let wanted = format!("/run/netns/{}:{SERVER_DEVICE}", net.server.name());
    assert_eq!(attached.as_array().map(Vec::len), Some(1), "{attached}");
    assert_eq!(attached[0]["interface"].as_str().context("a name")?, wanted);
    let (live, revoked) = (mint.hs256()?, mint.hs256()?);
    daemon.revoke(&revoked)?;
    refused(&net.server, guarded("127.0.0.1"), &revoked, 20)?;
    passes(&net.server, guarded("127.0.0.1"), &live)?;
    assert_eq!(daemon.counter("shed_begun")?, 0);
    refused(&net.client, guarded(SERVER_V4), &revoked, 5)?;
    assert!(!connects(&net.client, guarded(SERVER_V4))?);
    Ok(())
}
