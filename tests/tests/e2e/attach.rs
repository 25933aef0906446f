//! Where and how the kernel program is attached, and that it goes when it is told to.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer},
    is_root,
    net::{SERVER_DEVICE, guarded},
    process::run,
};

fn filters(w: &World) -> Result<String> {
    let mut tc = std::process::Command::new("tc");
    run(&w.net.server, tc.args(["filter", "show", "dev", SERVER_DEVICE, "ingress"]), b"")?.ok()
}

#[test]
fn on_loopback_it_guards_ipv4_and_ipv6() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.interface = "lo".to_owned();
        Ok(())
    })?;
    let (token, live) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&token)?;
    for address in ["127.0.0.1", "::1"] {
        w.assert_refused_from(&w.net.server, guarded(address), &bearer("/lo", &token));
        let answer = Client::connect(&w.net.server, guarded(address))?.ask(&bearer("/lo", &live))?;
        assert!(answer.is_servers(), "{answer:?}");
    }
    // The interface that is not guarded is not.
    w.assert_passes(&token);
    Ok(())
}

#[test]
fn by_clsact_it_refuses_is_adopted_and_detached_without_a_trace() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.attach = "clsact";
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.assert_refused(&token);
    assert_eq!(w.daemon.status()?["kernel"]["attached"][0]["hook"], "clsact");
    w.daemon.kill9()?;
    w.assert_refused(&token);
    w.daemon.restart()?;
    w.assert_refused(&token);
    let status = w.daemon.status()?;
    assert_eq!(status["kernel"]["adopted"], true, "{status}");
    assert_eq!(status["kernel"]["attached"][0]["adopted"], true, "{status}");
    assert_eq!(filters(&w)?.matches("direct-action").count(), 1, "{}", filters(&w)?);
    detaches_without_a_trace(&mut w, &token)
}

#[test]
fn by_tcx_it_refuses_is_adopted_and_detached_without_a_trace() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.attach = "tcx";
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    assert_eq!(w.daemon.status()?["kernel"]["attached"][0]["hook"], "tcx");
    assert!(w.daemon.stop()?.success());
    w.assert_refused(&token);
    w.daemon.restart()?;
    assert_eq!(w.daemon.status()?["kernel"]["adopted"], true);
    w.assert_refused(&token);
    detaches_without_a_trace(&mut w, &token)
}

fn detaches_without_a_trace(w: &mut World, token: &str) -> Result<()> {
    // Not from under a daemon that runs.
    let refused = w.daemon.command(&["detach"])?;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("stop it first"), "{refused:?}");
    w.assert_refused(token);
    assert!(w.daemon.stop()?.success());
    w.daemon.command(&["detach"])?.ok()?;
    assert!(!w.dir.path("bpf/portcullis").exists());
    assert!(!filters(w)?.contains("guard"), "{}", filters(w)?);
    w.assert_passes(token);
    // The store kept it.
    w.daemon.restart()?;
    assert_eq!(w.daemon.status()?["kernel"]["adopted"], false);
    w.assert_refused(token);
    Ok(())
}
