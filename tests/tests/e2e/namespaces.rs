//! Servers in another network namespace than the daemon's, as containers are.

use std::{fs::File, process::Command};

use anyhow::{Result, ensure};
use portcullis_tests::{
    client::{Client, bearer, request},
    config::Config,
    daemon::Daemon,
    is_root,
    net::{SERVER_V4, guarded},
    server::{End, Server},
    until,
    world::{Ground, whole_refusal},
};

#[test]
fn a_container_is_guarded_from_outside_by_its_namespace() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Ground { net, mint, dir } = Ground::make()?;
    let server = Server::start(&net.server, &[guarded(SERVER_V4)])?;
    let config = Config { interface: format!("/run/netns/{}:srv*", net.server.name()), ..Config::default() };
    let path = dir.write("portcullis.toml", &config.toml(&dir))?;
    // The daemon is in the client's namespace.
    let mut daemon = Daemon::start(&net.client, &path, &dir.path("admin.sock"))?;
    let attached = daemon.status()?["kernel"]["attached"][0]["interface"].clone();
    assert_eq!(attached, format!("/run/netns/{}:srv0", net.server.name()));
    let (live, revoked) = (mint.hs256()?, mint.hs256()?);
    daemon.revoke(&revoked)?;
    let connect = || Client::connect(&net.client, guarded(SERVER_V4));
    assert_eq!(connect()?.ask(&bearer("/container", &live))?.status, 200);
    let mut client = connect()?;
    client.send(&bearer("/container", &revoked))?;
    whole_refusal(client.rest()?.0);
    // A request that is under way and silent is ended there too.
    let mut waits = connect()?;
    waits.send(&request("/body", &[&format!("Authorization: Bearer {live}"), "Content-Length: 5"]))?;
    server.wait(|all| all.iter().any(|c| c.requests.is_empty() && c.bytes > 0))?;
    daemon.revoke(&live)?;
    assert_eq!(waits.rest()?.1, End::Reset);
    assert!(!server.requests().iter().any(|head| head.contains(&revoked)));
    // It outlives the daemon, is adopted, and goes with `detach`.
    daemon.kill9()?;
    assert_eq!(connect()?.ask(&bearer("/container", &revoked))?.status, 401);
    daemon.restart()?;
    assert_eq!(daemon.status()?["kernel"]["attached"][0]["adopted"], true);
    daemon.stop()?;
    daemon.command(&["detach"])?.ok()?;
    assert_eq!(connect()?.ask(&bearer("/container", &revoked))?.status, 200);
    Ok(())
}

#[test]
fn a_container_that_is_made_anew_under_its_name_is_guarded_again() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Ground { net, mint, dir } = Ground::make()?;
    let name = net.server.name();
    // What is left of the old container keeps its namespace for a while.
    let _old = File::open(format!("/run/netns/{name}"))?;
    let config = Config { interface: format!("/run/netns/{name}:srv0"), ..Config::default() };
    let path = dir.write("portcullis.toml", &config.toml(&dir))?;
    let daemon = Daemon::start(&net.client, &path, &dir.path("admin.sock"))?;
    let revoked = mint.hs256()?;
    daemon.revoke(&revoked)?;
    let index = daemon.status()?["kernel"]["attached"][0]["index"].to_string();
    let ip = |line: &str| -> Result<()> {
        let done = Command::new("ip").args(line.split(' ')).status()?;
        ensure!(done.success(), "ip {line}");
        Ok(())
    };
    ip(&format!("netns delete {name}"))?;
    ip(&format!("netns add {name}"))?;
    let client = net.client.name();
    ip(&format!("link add srv0 netns {name} index {index} type veth peer name cli8 netns {client}"))?;
    for line in [
        "-n SERVER address add 10.79.0.1/24 dev srv0",
        "-n SERVER link set srv0 up",
        "-n SERVER link set lo up",
    ] {
        ip(&line.replace("SERVER", name))?;
    }
    for line in ["-n CLIENT address add 10.79.0.2/24 dev cli8", "-n CLIENT link set cli8 up"] {
        ip(&line.replace("CLIENT", client))?;
    }
    let _server = Server::start(&net.server, &[guarded("10.79.0.1")])?;
    until(|| {
        let answer = Client::connect(&net.client, guarded("10.79.0.1"))?.ask(&bearer("/", &revoked))?;
        Ok(answer.status == 401 && !answer.is_servers())
    })
}
