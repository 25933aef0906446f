//! The reactions other than an answer, and the mode that only watches.

use std::io::{ErrorKind, Read as _};

use anyhow::Result;
use portcullis_tests::{World, client::bearer, is_root, server::End};

fn reacting(reaction: &'static str) -> Result<World> {
    World::with(|config, _| {
        config.reaction = reaction;
        Ok(())
    })
}

#[test]
fn observing_lets_through_and_counts() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.mode = "observe";
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.assert_passes(&token);
    w.assert_passes(&token);
    assert_eq!(w.daemon.counter("observed")?, 2);
    assert_eq!(w.daemon.counter("responded")?, 0);
    assert_eq!(w.daemon.status()?["mode"], "observe");
    // The decision path refuses all the same.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 401);
    Ok(())
}

#[test]
fn reset_resets_both_sides() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = reacting("reset")?;
    let (token, live) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&token)?;
    let got = w.assert_unread(|| {
        let mut client = w.connect()?;
        client.send(&bearer("/reset", &token))?;
        client.rest()
    });
    assert_eq!(got, (Vec::new(), End::Reset));
    assert_eq!((w.daemon.counter("reset")?, w.daemon.counter("responded")?), (1, 0));
    w.assert_passes(&live);
    Ok(())
}

#[test]
fn drop_is_silent_and_once_lifted_the_retransmission_is_served() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = reacting("drop")?;
    let token = w.mint.hs256()?;
    let id = w.daemon.revoke(&token)?;
    let mut client = w.connect()?;
    client.send(&bearer("/drop", &token))?;
    // The client sends again and again, and gets nothing.
    w.daemon.await_counter("dropped", 2)?;
    client.0.set_nonblocking(true)?;
    assert_eq!(client.0.read(&mut [0; 1]).unwrap_err().kind(), ErrorKind::WouldBlock);
    client.0.set_nonblocking(false)?;
    let log = w.server.wait(|log| log.len() == 1)?;
    assert_eq!((log[0].bytes, log[0].end), (0, None), "{log:?}");
    w.daemon.json(&["unrevoke", &id], "")?;
    assert!(client.answer()?.is_servers());
    Ok(())
}
