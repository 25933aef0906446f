//! Connections that carry more than one request.

use anyhow::Result;
use portcullis_tests::{World, client::bearer, is_root, server::End, world::whole_refusal};

#[test]
fn after_fifty_live_requests_a_revoked_one_on_the_same_connection_is_never_parsed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut client = w.connect()?;
    let request = bearer("/live", &live);
    for _ in 0..50 {
        let answer = client.ask(&request)?;
        assert!(answer.status == 200 && answer.is_servers(), "{answer:?}");
    }
    client.send(&bearer("/revoked", &revoked))?;
    // All that was asked is answered, so the client is told.
    whole_refusal(client.rest()?.0);
    let seen = w.server.ended(0)?;
    assert_eq!((seen.requests.len(), seen.bytes, seen.end), (50, 50 * request.len(), Some(End::Reset)));
    assert_eq!((w.daemon.counter("responded")?, w.daemon.counter("answered")?), (1, 50));
    Ok(())
}

#[test]
fn the_first_request_after_the_acknowledgement_is_refused_on_a_connection_in_use() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let mut client = w.connect()?;
    assert_eq!(client.ask(&bearer("/before", &token))?.status, 200);
    w.daemon.revoke(&token)?;
    client.send(&bearer("/after", &token))?;
    whole_refusal(client.rest()?.0);
    let seen = w.server.ended(0)?;
    assert_eq!(seen.end, Some(End::Reset));
    assert!(matches!(seen.requests.as_slice(), [only] if only.starts_with("GET /before ")), "{seen:?}");
    Ok(())
}

#[test]
fn a_revoked_request_pipelined_behind_a_live_one_is_never_parsed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let both = [bearer("/live", &live), bearer("/revoked", &revoked)].concat();
    let mut client = w.connect()?;
    client.send(&both)?;
    // The live one is answered by the server, the revoked one by the kernel.
    let all = String::from_utf8(client.rest()?.0)?;
    assert_eq!(all.matches("HTTP/1.1 ").count(), 2, "{all}");
    assert!(all.starts_with("HTTP/1.1 200") && all.contains("HTTP/1.1 401"), "{all}");
    let seen = w.server.ended(0)?;
    assert!(matches!(seen.requests.as_slice(), [only] if only.starts_with("GET /live ")), "{seen:?}");
    assert_eq!(seen.bytes, bearer("/live", &live).len(), "{seen:?}");
    assert_eq!((w.daemon.counter("revoked")?, w.daemon.counter("cut")?), (1, 1));
    // Behind a body, whose length says where the next head begins.
    let posted = format!(
        "POST /live HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {live}\r\nContent-Length: 4\r\n\r\nbody"
    );
    let mut client = w.connect()?;
    client.send(&[posted.into_bytes(), bearer("/revoked", &revoked)].concat())?;
    let all = String::from_utf8(client.rest()?.0)?;
    assert!(all.starts_with("HTTP/1.1 200") && all.contains("HTTP/1.1 401"), "{all}");
    let seen = w.server.ended(1)?;
    assert!(matches!(seen.requests.as_slice(), [only] if only.starts_with("POST /live ")), "{seen:?}");
    assert_eq!(w.daemon.counter("revoked")?, 2);
    Ok(())
}

#[test]
fn a_live_request_pipelined_behind_a_revoked_one_goes_down_with_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let both = [bearer("/revoked", &revoked), bearer("/live", &live)].concat();
    w.assert_request_refused(&both);
    assert!(w.server.requests().is_empty());
    Ok(())
}

#[test]
fn what_a_client_sends_after_its_refusal_reaches_no_one() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut client = w.connect()?;
    client.send(&bearer("/revoked", &revoked))?;
    whole_refusal(client.rest()?.0);
    // The client's side is still open; the server's is gone.
    let _ = client.send(&bearer("/late", &live));
    let _ = client.send(&bearer("/later", &live));
    assert_eq!((w.server.ended(0)?.bytes, w.server.connections().len()), (0, 1));
    w.assert_passes(&live);
    assert_eq!(w.server.requests().len(), 1);
    Ok(())
}
