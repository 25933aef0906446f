//! The forms in which a token may come, and what the kernel cannot read.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    is_root,
    net::guarded,
    server::End,
};

#[test]
fn a_token_is_found_in_every_form_a_server_may_read() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let t = w.mint.hs256()?;
    w.daemon.revoke(&t)?;
    let long = format!("X-Padding: {}", "p".repeat(3000));
    for lines in [
        vec![format!("authorization: bearer {t}")],
        vec![format!("AUTHORIZATION: BEARER {t}")],
        vec![format!("aUtHoRiZaTiOn:bEaReR {t}")],
        vec![format!("Authorization: \t  Bearer \t   {t} \t ")],
        vec![format!("Authorization:\tBearer    {t}")],
        vec![format!("Authorization: DPoP {t}"), "DPoP: proof".to_owned()],
        vec![format!("authorization: dpop {t}")],
        vec![format!("Authorization: Bearer {t}"), "Accept: */*".to_owned(), long.clone()],
        vec!["Accept: */*".to_owned(), long, format!("Authorization: Bearer {t}")],
    ] {
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        w.assert_request_refused(&request("/forms", &lines));
    }
    // Before `Host`, with other methods, versions and targets.
    for start in [
        "GET / HTTP/1.1",
        "GET / HTTP/1.0",
        "POST /v1/orders?x=y HTTP/1.1",
        "PROPFIND /dav HTTP/1.1",
        "GET http://api.test/absolute HTTP/1.1",
        "OPTIONS * HTTP/1.1",
    ] {
        w.assert_request_refused(
            format!("{start}\r\nAuthorization: Bearer {t}\r\nHost: api.test\r\n\r\n").as_bytes(),
        );
    }
    // With its body in the same segment.
    let body = "x".repeat(500);
    w.assert_request_refused(
        format!(
            "PUT / HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {t}\r\nContent-Length: 500\r\n\r\n{body}"
        )
        .as_bytes(),
    );
    Ok(())
}

#[test]
fn an_opaque_key_is_found_in_its_header_and_as_a_bearer_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let key = "sk_live_51H8vmGKzQ2pXw9";
    w.assert_request_passes(&request("/key", &[&format!("X-Api-Key: {key}")]));
    w.daemon.revoke(key)?;
    w.assert_request_refused(&request("/key", &[&format!("X-Api-Key: {key}")]));
    w.assert_request_refused(&request("/key", &[&format!("x-api-key:{key}")]));
    w.assert_request_refused(&bearer("/key", key));
    w.assert_request_passes(&request("/key", &[&format!("X-Api-Key: {key}0")]));
    Ok(())
}

#[test]
fn the_text_of_a_revoked_token_elsewhere_than_as_a_whole_token_is_let_through() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (t, key) = (w.mint.hs256()?, "sk_test_4eC39HqLyjWDarjtT1");
    w.daemon.revoke(&t)?;
    w.daemon.revoke(key)?;
    w.assert_request_passes(&request(&format!("/path?token={t}"), &[]));
    w.assert_request_passes(&request("/other", &[&format!("X-Other: Bearer {t}")]));
    w.assert_request_passes(&request("/more", &[&format!("Authorization: Bearer {key}x")]));
    w.assert_request_passes(&request(
        "/less",
        &[&format!("Authorization: Bearer {}", &key[..key.len() - 1])],
    ));
    w.assert_request_passes(&request("/part", &[&format!("X-Api-Key: x{key}")]));
    let body = format!("Authorization: Bearer {t}\r\n\r\n");
    let head = format!("POST /body HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len());
    w.assert_request_passes((head + &body).as_bytes());
    Ok(())
}

/// A head of `size` bytes whose token is at its very end.
fn large(size: usize, token: &str) -> Vec<u8> {
    let line = format!("Authorization: Bearer {token}");
    let mut lines = Vec::new();
    let mut left = size - request("/large", &[&line]).len();
    while left > 0 {
        // No remainder may be too short for a line.
        let n = if left > 1100 { 1000 } else { left };
        lines.push(format!("X-Padding: {}", "p".repeat(n - "X-Padding: \r\n".len())));
        left -= n;
    }
    lines.push(line);
    let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
    let request = request("/large", &lines);
    assert_eq!(request.len(), size);
    request
}

#[test]
fn a_head_of_15_kib_with_its_token_at_the_end_is_read_whole() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    // One segment holds it all on `lo`, whose packets are up to 64 KiB.
    let w = World::with(|config, _| {
        config.interface = "lo".to_owned();
        Ok(())
    })?;
    let (t, live) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&t)?;
    let to = guarded("127.0.0.1");
    w.assert_refused_from(&w.net.server, to, &large(15 * 1024, &t));
    let answer = Client::connect(&w.net.server, to)?.ask(&large(15 * 1024, &live))?;
    assert!(answer.is_servers() && answer.status == 200, "{answer:?}");
    assert_eq!(w.daemon.counter("split_head")?, 0);
    Ok(())
}

#[test]
fn a_head_that_comes_as_one_super_packet_is_read_whole() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let t = w.mint.hs256()?;
    w.daemon.revoke(&t)?;
    // Ten segments' worth are sent at once on a new connection. Should TCP cut them all the same, then that is
    // counted: fast mode reads each packet by itself.
    let n = w.server.connections().len();
    let mut client = w.connect()?;
    client.send(&large(13 * 1024, &t))?;
    let first = client.answer()?;
    if w.daemon.counter("split_head")? == 0 {
        assert!(first.status == 401 && !first.is_servers(), "{first:?}");
        assert_eq!(w.server.ended(n)?.bytes, 0);
    }
    Ok(())
}

#[test]
fn a_head_cut_over_two_segments_is_counted() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let whole = bearer("/cut", &w.mint.hs256()?);
    let (front, back) = whole.split_at(whole.len() / 2);
    let mut client = w.connect()?;
    client.send(front)?;
    w.server.wait(|log| log.first().is_some_and(|c| c.bytes == front.len()))?;
    let answer = client.ask(back)?;
    assert_eq!(answer.status, 200);
    assert_eq!(w.daemon.counter("split_head")?, 1);
    Ok(())
}

#[test]
fn tls_is_counted_as_opaque_and_passes_and_http2_is_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    // The beginning of a ClientHello: record header, handshake header, version, random.
    let mut hello = vec![0x16, 3, 1, 0, 0x80, 1, 0, 0, 0x7c, 3, 3];
    hello.extend([0x5a; 122]);
    let mut tls = w.connect()?;
    tls.send(&hello)?;
    w.server.wait(|log| log.first().is_some_and(|c| c.bytes == hello.len()))?;
    assert_eq!((w.daemon.counter("opaque")?, w.daemon.counter("http2")?), (1, 0));
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let mut h2 = w.connect()?;
    h2.send(preface)?;
    assert_eq!(h2.rest()?, (Vec::new(), End::Reset), "nobody here reads HTTP/2");
    assert_eq!(w.server.ended(1)?.bytes, 0);
    assert_eq!(w.daemon.counter("refused_http2")?, 1);
    assert_eq!((w.daemon.counter("opaque")?, w.daemon.counter("http2")?), (1, 1));
    assert_eq!(w.daemon.counter("requests")?, 0);
    assert_eq!(w.server.connections()[0].end, None);
    Ok(())
}
