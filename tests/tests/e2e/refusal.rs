//! What client and server see of a request with a revoked token, over each network protocol.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{bearer, curl, with_socket_option},
    has, is_root,
    net::{CLIENT_DEVICE, PORT, SERVER_DEVICE, SERVER_V4, SERVER_V6, guarded, switch_offloads_off},
    tokens::twin,
    world::whole_refusal,
};

const SOL_IP: i32 = 0;
const IP_OPTIONS: i32 = 4;
const SOL_IPV6: i32 = 41;
const IPV6_HOPOPTS: i32 = 54;
const IPV6_DSTOPTS: i32 = 59;

#[test]
fn over_ipv4_the_kernel_answers_and_the_server_reads_nothing_and_is_reset() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (revoked, other) = (w.mint.hs256()?, w.mint.hs256()?);
    w.assert_passes(&revoked);
    w.daemon.revoke(&revoked)?;
    w.assert_refused(&revoked);
    w.assert_refused(&revoked);
    w.assert_passes(&other);
    assert_eq!(w.daemon.counter("responded")?, 2);
    assert_eq!(w.daemon.counter("answer_failed")?, 0);
    Ok(())
}

#[test]
fn over_ipv6_the_kernel_answers_and_the_server_reads_nothing_and_is_reset() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    w.assert_refused_from(&w.net.client, guarded(SERVER_V6), &bearer("/v6", &token));
    assert_eq!(w.daemon.counter("responded")?, 1);
    Ok(())
}

#[test]
fn under_ipv4_options_it_is_the_same() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    // No-ops; a record of the route with three slots; the longest there can be.
    for value in ["01010101", "070f0400000000000000000000000000", &"01".repeat(40)] {
        whole_refusal(w.assert_unread(|| {
            let option = (SOL_IP, IP_OPTIONS, value);
            with_socket_option(&w.net.client, guarded(SERVER_V4), option, &bearer("/options", &token))
        }));
    }
    assert_eq!(w.daemon.counter("responded")?, 3);
    Ok(())
}

#[test]
fn under_ipv6_extension_headers_it_is_the_same() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    // Of eight, 24 and 64 bytes: next header (filled in by the kernel), length, then padding, or an option that
    // every receiver skips (RFC 4727 §6), for Linux refuses more than seven bytes of padding.
    let (long, longest) = (format!("00021e14{}", "00".repeat(20)), format!("00071e3c{}", "00".repeat(60)));
    for value in ["0000010400000000", &long, &longest] {
        for option in [IPV6_DSTOPTS, IPV6_HOPOPTS] {
            whole_refusal(w.assert_unread(|| {
                let option = (SOL_IPV6, option, value);
                with_socket_option(&w.net.client, guarded(SERVER_V6), option, &bearer("/x", &token))
            }));
        }
    }
    assert_eq!(w.daemon.counter("responded")?, 6);
    Ok(())
}

#[test]
fn a_raw_socket_reads_a_whole_well_formed_answer() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    let mut client = w.connect()?;
    client.send(&bearer("/raw", &token))?;
    let answer = whole_refusal(client.rest()?.0);
    assert!(answer.head.starts_with("HTTP/1.1 401 Unauthorized\r\n"), "{}", answer.head);
    assert_eq!(answer.header("www-authenticate"), Some(r#"Bearer error="invalid_token""#));
    assert_eq!(answer.header("content-type"), Some("application/json"));
    assert_eq!(answer.header("connection"), Some("close"));
    // White space may stand behind the configured body: checksums are taken over whole words.
    assert_eq!(answer.body.trim_end(), r#"{"error":"invalid_token"}"#);
    Ok(())
}

#[test]
fn curl_reads_a_whole_well_formed_answer() -> Result<()> {
    if !is_root() || !has("curl") {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    let header = format!("Authorization: Bearer {token}");
    for url in [format!("http://{SERVER_V4}:{PORT}/curl"), format!("http://[{SERVER_V6}]:{PORT}/curl")] {
        let text = w.assert_unread(|| curl(&w.net.client, &url, &[&header])?.ok());
        let answer = whole_refusal(text.into_bytes());
        assert_eq!(answer.body.trim_end(), r#"{"error":"invalid_token"}"#);
    }
    Ok(())
}

#[test]
fn the_twin_of_an_es256_signature_is_refused_too_and_another_token_is_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (token, other) = (w.mint.es256()?, w.mint.es256()?);
    let twin = twin(&token)?;
    // The twin is as good as the token until the token is revoked.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &twin)?.status, 200);
    w.assert_passes(&twin);
    w.daemon.revoke(&token)?;
    w.assert_refused(&token);
    w.assert_refused(&twin);
    w.assert_passes(&other);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &twin)?.status, 401);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &other)?.status, 200);
    Ok(())
}

#[test]
fn without_checksum_and_segmentation_offload_the_answer_is_still_valid() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    for (ns, device) in [(&w.net.client, CLIENT_DEVICE), (&w.net.server, SERVER_DEVICE)] {
        switch_offloads_off(ns, device)?;
    }
    w.assert_refused(&token);
    w.assert_refused_from(&w.net.client, guarded(SERVER_V6), &bearer("/v6", &token));
    assert_eq!(w.daemon.counter("responded")?, 2);
    Ok(())
}
