//! Interfaces that come and go, and settings that change, while the daemon runs.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer},
    config::Config,
    is_root,
    net::{PORT, SERVER_DEVICE, SERVER_V4, at, guarded},
    server::Server,
};

/// Waits until an interface is guarded, or is not.
fn await_guarded(w: &World, interface: &str, guarded: bool) -> Result<()> {
    let start = std::time::Instant::now();
    loop {
        let status = w.daemon.status()?;
        let attached = status["kernel"]["attached"].as_array().cloned().unwrap_or_default();
        if attached.iter().any(|a| a["interface"] == interface) == guarded {
            return Ok(());
        }
        assert!(start.elapsed() < portcullis_tests::PATIENCE, "{status}");
        std::thread::yield_now();
    }
}

/// Makes the veth pair of the test's namespaces anew.
fn plug_in(w: &World, device: &str) -> Result<()> {
    let (client, server) = (&w.net.client, &w.net.server);
    server.ip(&["link", "add", device, "type", "veth", "peer", "name", "cli9", "netns", client.name()])?;
    server.ip(&["address", "add", "10.78.0.1/24", "dev", device])?;
    server.ip(&["link", "set", device, "up"])?;
    client.ip(&["address", "add", "10.78.0.2/24", "dev", "cli9"])?;
    client.ip(&["link", "set", "cli9", "up"])?;
    Ok(())
}

/// A refusal by the kernel at the second pair's address.
fn refused(w: &World, token: &str) -> Result<()> {
    let _server = Server::start(&w.net.server, &[guarded("10.78.0.1")])?;
    let mut client = Client::connect(&w.net.client, guarded("10.78.0.1"))?;
    client.send(&bearer("/", token))?;
    let answer = client.answer()?;
    assert!(answer.status == 401 && !answer.is_servers(), "{answer:?}");
    Ok(())
}

#[test]
fn an_interface_that_matches_a_pattern_is_guarded_when_it_comes_and_when_it_comes_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = "srv*".to_owned();
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.assert_refused(&token);
    for _ in 0..2 {
        plug_in(&w, "srv9")?;
        await_guarded(&w, "srv9", true)?;
        refused(&w, &token)?;
        w.net.server.ip(&["link", "delete", "srv9"])?;
        await_guarded(&w, "srv9", false)?;
    }
    w.assert_refused(&token);
    Ok(())
}

#[test]
fn a_named_interface_may_be_waited_for() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = format!("{SERVER_DEVICE}\", \"srv9");
        config.kernel = "missing_interfaces = \"wait\"".to_owned();
        Ok(())
    })?;
    assert_eq!(w.daemon.status()?["kernel"]["waiting"][0], "srv9");
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    plug_in(&w, "srv9")?;
    await_guarded(&w, "srv9", true)?;
    refused(&w, &token)?;
    assert!(w.daemon.status()?["kernel"]["waiting"].as_array().is_some_and(Vec::is_empty));
    Ok(())
}

#[test]
fn the_hosts_end_of_a_containers_veth_is_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = "srv*".to_owned();
        Ok(())
    })?;
    // A veth without an address of this side, its other end elsewhere.
    let (client, server) = (&w.net.client, &w.net.server);
    server.ip(&["link", "add", "srv7", "type", "veth", "peer", "name", "con7", "netns", client.name()])?;
    server.ip(&["link", "set", "srv7", "up"])?;
    let why = "it is a container's veth: it has no address of this host's";
    w.daemon.await_log(0, &format!("not guarded: {why}"), "srv7")?;
    let status = w.daemon.status()?;
    assert!(
        status["kernel"]["misplaced"]["srv7"].as_str().is_some_and(|why| why.contains("container")),
        "{status}"
    );
    assert_eq!(status["kernel"]["attached"].as_array().map(Vec::len), Some(1), "{status}");
    // Named in full it is an error, which says where guard belongs.
    let text = Config { interface: "srv7".to_owned(), ..w.config.clone() }.toml(&w.dir);
    w.dir.write("portcullis.toml", &text)?;
    let refused = w.daemon.ask(&["reload"], "")?;
    assert!(refused.code != 0 && refused.stderr.contains("the container's network namespace"), "{refused:?}");
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.assert_refused(&token);
    Ok(())
}

#[test]
fn a_reload_changes_ports_reaction_and_enforcement_all_or_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    let other = 8099;
    let server = Server::start(&w.net.server, &[at("0.0.0.0", other)])?;
    let ask = |port| -> Result<_> {
        let mut client = Client::connect(&w.net.client, at(SERVER_V4, port))?;
        client.send(&bearer("/", &token))?;
        client.answer()
    };
    assert_eq!(ask(other)?.status, 200, "not guarded yet");
    let write = |c: &Config| w.dir.write("portcullis.toml", &c.toml(&w.dir));
    for enforcement in ["fast", "strict"] {
        let config = Config { ports: vec![PORT, other], enforcement, ..w.config.clone() };
        write(&config)?;
        w.daemon.ask(&["reload"], "")?.ok()?;
        assert_eq!(w.daemon.status()?["kernel"]["enforcement"], enforcement);
        assert_eq!((ask(other)?.status, ask(PORT)?.status), (401, 401));
    }
    assert_eq!(server.requests().len(), 1);
    // What cannot be changed is said, and nothing else changes with it.
    write(&Config { ports: vec![PORT], max_body: 2000, ..w.config.clone() })?;
    let refused = w.daemon.ask(&["reload"], "")?;
    assert_ne!(refused.code, 0);
    assert!(refused.stderr.contains("serve.max_body cannot be changed without a restart"), "{refused:?}");
    write(&Config { ports: vec![PORT], interface: "nothere".to_owned(), ..w.config.clone() })?;
    let refused = w.daemon.ask(&["reload"], "")?;
    assert!(refused.stderr.contains("`nothere`"), "{refused:?}");
    assert_eq!((ask(other)?.status, ask(PORT)?.status), (401, 401));
    Ok(())
}

#[test]
fn a_name_that_another_interface_has_taken_is_guarded_where_it_is_now() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    plug_in(&w, "srv9")?;
    w.daemon.kill9()?;
    // As systems do that name interfaces by rules.
    for (from, to) in [(SERVER_DEVICE, "old0"), ("srv9", SERVER_DEVICE)] {
        w.net.server.ip(&["link", "set", from, "down"])?;
        w.net.server.ip(&["link", "set", from, "name", to])?;
        w.net.server.ip(&["link", "set", to, "up"])?;
    }
    w.daemon.restart()?;
    refused(&w, &token)?;
    // Guard is where it is said to be, and nowhere else.
    assert_eq!(w.connect()?.ask(&bearer("/", &token))?.status, 200);
    Ok(())
}

#[test]
fn names_that_differ_in_a_dot_are_told_apart() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.interface = "srv*".to_owned();
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.net.server.ip(&["link", "set", SERVER_DEVICE, "down"])?;
    w.net.server.ip(&["link", "set", SERVER_DEVICE, "name", "srv_9"])?;
    w.net.server.ip(&["link", "set", "srv_9", "up"])?;
    await_guarded(&w, "srv_9", true)?;
    plug_in(&w, "srv.9")?;
    await_guarded(&w, "srv.9", true)?;
    refused(&w, &token)?;
    w.assert_refused(&token);
    w.daemon.kill9()?;
    w.daemon.restart()?;
    refused(&w, &token)?;
    w.assert_refused(&token);
    Ok(())
}

#[test]
fn while_a_named_interface_is_gone_others_that_come_are_guarded() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = format!("lo\", \"{SERVER_DEVICE}\", \"new*");
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.net.server.ip(&["link", "delete", SERVER_DEVICE])?;
    plug_in(&w, "new9")?;
    await_guarded(&w, "new9", true)?;
    refused(&w, &token)?;
    assert_eq!(w.daemon.status()?["kernel"]["waiting"][0], SERVER_DEVICE);
    Ok(())
}
