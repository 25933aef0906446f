//! Requests cut where a client likes.

use anyhow::Result;
use portcullis_tests::{World, client::bearer, is_root, server::End};

#[test]
fn a_revoked_request_cut_anywhere_is_never_completed_and_a_live_one_is_answered() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let request = bearer("/revoked", &revoked);
    for cut in 1..request.len() {
        let mut client = w.connect()?;
        client.send(&request[..cut])?;
        client.send(&request[cut..])?;
        let (told, end) = client.rest()?;
        let told = String::from_utf8(told)?;
        assert!(told.starts_with("HTTP/1.1 401 ") || (told.is_empty() && end == End::Reset), "{cut}: {told}");
    }
    assert!(w.server.requests().is_empty(), "{:?}", w.server.requests());
    let request = bearer("/live", &live);
    let mut client = w.connect()?;
    for cut in 1..request.len() {
        client.send(&request[..cut])?;
        let answer = client.ask(&request[cut..])?;
        assert!(answer.status == 200 && answer.is_servers(), "{cut}: {answer:?}");
    }
    assert_eq!(w.server.requests().len(), request.len() - 1);
    Ok(())
}

#[test]
fn a_request_of_single_bytes_is_read_as_one() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut client = w.connect()?;
    for b in bearer("/live", &live) {
        client.send(&[b])?;
    }
    assert_eq!(client.answer()?.status, 200);
    for b in bearer("/revoked", &revoked) {
        if client.send(&[b]).is_err() {
            break;
        }
    }
    client.rest()?;
    assert_eq!(w.server.requests().len(), 1);
    Ok(())
}
