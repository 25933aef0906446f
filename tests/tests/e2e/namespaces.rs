//! Servers in another network namespace than the daemon's, as containers are.

use anyhow::Result;
use portcullis_tests::{
    client::{Client, bearer, request},
    config::Config,
    daemon::Daemon,
    is_root,
    net::{SERVER_V4, guarded},
    server::{End, Server},
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
