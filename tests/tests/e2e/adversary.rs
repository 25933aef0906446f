//! What a hostile client tries beyond crafted segments, and live requests that stand next to refused ones.

use std::{fs, net::TcpListener, time::Duration};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    is_root,
    net::{PORT, SERVER_V4, at},
    server::{End, Server},
    until,
    wire::{self, ACK, SYN, Talk, Wire},
};

/// Where a server listens that never answers.
const SILENT: u16 = 8069;

fn unparsed(w: &World, token: &str) {
    let all = w.server.requests();
    assert!(all.iter().all(|head| !head.contains(token)), "a revoked token was parsed: {all:?}");
}

#[test]
fn a_server_that_answers_connect_as_any_method_makes_no_tunnel() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut client = w.connect()?;
    assert_eq!(client.ask(b"CONNECT a.test:80 HTTP/1.1\r\nHost: a.test\r\n\r\n")?.status, 200);
    assert!(client.ask(&bearer("/live", &live))?.is_servers());
    client.send(&bearer("/bad", &revoked))?;
    let (bytes, _) = client.rest()?;
    unparsed(&w, &revoked);
    assert!(bytes.starts_with(b"HTTP/1.1 401 "), "{:?}", String::from_utf8_lossy(&bytes));
    assert_eq!(w.daemon.counter("tunnelled")?, 0);
    Ok(())
}

#[test]
fn a_chunk_that_parsers_read_differently_ends_its_connection_at_once() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.push(SILENT);
        Ok(())
    })?;
    let live = w.mint.hs256()?;
    let line = format!("Authorization: Bearer {live}");
    let head = request("/chunks", &[&line, "Transfer-Encoding: chunked"]);
    // With its head: nothing was passed, and the client is told.
    let mut client = w.connect()?;
    client.send(&[head.as_slice(), b"1_0\r\n"].concat())?;
    let (bytes, _) = client.rest().context("with its head")?;
    assert!(bytes.starts_with(b"HTTP/1.1 400 "), "{:?}", String::from_utf8_lossy(&bytes));
    // Behind it: the server waits for the body, and would for ever.
    let address = at(SERVER_V4, SILENT);
    let silent = w.net.server.enter(|| Ok(TcpListener::bind(address)?))?;
    let mut client = Client::connect(&w.net.client, address)?;
    client.send(&head)?;
    let before = w.daemon.counter("requests")?;
    until(|| Ok(w.daemon.counter("requests")? >= before.max(2)))?;
    client.send(b"1_0\r\n")?;
    assert_eq!(client.rest().context("behind its head")?.1, End::Reset);
    drop(silent);
    assert_eq!(w.daemon.counter("refused_ambiguous")?, 2);
    Ok(())
}

#[test]
fn the_rest_of_a_live_body_passes_where_a_refused_request_is_behind_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for reaction in ["respond", "reset", "drop"] {
        let w = World::with(|config, _| {
            config.reaction = reaction;
            Ok(())
        })?;
        let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
        w.daemon.revoke(&revoked)?;
        let line = format!("Authorization: Bearer {live}");
        let head = request("/body", &[&line, "Content-Length: 10"]);
        let mut client = w.connect()?;
        client.send(&[head.as_slice(), b"01234"].concat())?;
        w.server.wait(|log| log.iter().any(|c| c.bytes == head.len() + 5))?;
        client.send(&[b"56789", bearer("/bad", &revoked).as_slice()].concat())?;
        w.server.wait(|log| log.iter().any(|c| c.requests.len() == 1)).context(reaction)?;
        unparsed(&w, &revoked);
        // Whole requests before it pass too.
        let mut client = w.connect()?;
        client.send(&[bearer("/first", &live), bearer("/bad", &revoked)].concat())?;
        w.server.wait(|log| log.iter().filter(|c| c.requests.len() == 1).count() == 2).context(reaction)?;
        unparsed(&w, &revoked);
    }
    Ok(())
}

/// Sends a SYN with an initial sequence number of its own, and takes the answer to it in.
fn syn(talk: &mut Talk<'_>, start: u32) -> Result<()> {
    talk.start = start;
    talk.next = 0;
    talk.send_at(0, SYN, &[], |f| f.seq = start)?;
    let mut next = None;
    until(|| {
        next =
            talk.heard().iter().find(|s| s.flags & SYN != 0 && s.ack == start.wrapping_add(1)).map(|s| s.seq);
        Ok(next.is_some())
    })
    .with_context(|| format!("no SYN from the server to {start}: {:?}", talk.heard()))?;
    talk.next = next.context("no SYN from the server")?.wrapping_add(1);
    Ok(())
}

#[test]
fn by_syn_cookie_no_connection_goes_on_from_anothers_state() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let cookies = "/proc/sys/net/ipv4/tcp_syncookies";
    w.net.server.enter(|| Ok(fs::write(cookies, "2")?))?;
    let revoked = w.mint.hs256()?;
    w.daemon.revoke(&revoked)?;
    let mut wire = Wire::open(&w.net)?;
    let server = Server::start(&w.net.server, &[at(wire::SERVER, PORT)])?;
    // A head whose checksum is wrong: guard reads it, TCP does not take it. A second connection then begins where
    // guard would expect the body.
    let decoy = b"POST / HTTP/1.1\r\nHost: a.test\r\nContent-Length: 100000\r\n\r\n";
    for bare in [false, true] {
        let mut talk = wire.talk(PORT);
        let first = talk.start;
        let second = first.wrapping_add(u32::try_from(decoy.len())?);
        syn(&mut talk, second)?;
        let theirs = talk.next;
        syn(&mut talk, first)?;
        talk.put_odd(0, decoy, |f| f.sum_off = 1)?;
        (talk.start, talk.next) = (second, theirs);
        if bare {
            talk.send_at(0, ACK, &[], |_| {})?;
        }
        let request = bearer("/cookie", &revoked);
        talk.carry_through(&request, 1400, 1)?;
        assert!(server.requests().iter().all(|head| !head.contains(&revoked)), "{}", talk.story());
        assert!(!talk.stream.starts_with(b"HTTP/1.1 200"), "{}", talk.story());
    }
    // Live requests by cookie are answered, whether or not they come with the handshake's last segment.
    let live = w.mint.hs256()?;
    for early in [false, true] {
        let mut talk = wire.talk(PORT);
        let start = talk.start;
        syn(&mut talk, start)?;
        let request = bearer("/cookie", &live);
        if !early {
            talk.send_at(0, ACK, &[], |_| {})?;
        }
        talk.put(0, &request)?;
        talk.carry_through(&request, 1400, 1)?;
        assert!(talk.stream.starts_with(b"HTTP/1.1 200"), "{early} {}", talk.story());
    }
    Ok(())
}

/// A world in hold mode with one policy, whose text is this rule's.
fn holding(rule: &str) -> Result<World> {
    World::with(|config, dir| {
        config.kernel.push_str("unknown = \"hold\"");
        config.policies = dir.path("policies");
        fs::create_dir(&config.policies)?;
        dir.write("policies/rule.rego", &format!("package portcullis\n\nimport rego.v1\n\n{rule}\n"))?;
        Ok(())
    })
}

#[test]
fn a_request_that_is_held_takes_one_share_of_its_tokens_rate() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = holding(
        r#"
decision := {
    "allow": true,
    "ttl": 60,
    "limit": {"key": "token", "token": true, "rate": 2, "per": 3600, "burst": 2},
} if {
    input.token_status == "valid"
}
"#,
    )?;
    let token = w.mint.hs256()?;
    // Each target is new: it is held, and comes again.
    w.assert_request_passes(&bearer("/one", &token));
    w.assert_request_passes(&bearer("/two", &token));
    let mut client = w.connect()?;
    assert_eq!(client.ask(&bearer("/three", &token))?.status, 429);
    Ok(())
}

#[test]
fn an_allow_for_a_token_opens_nothing_to_requests_without_one() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = holding(
        r#"
default allow := false

allow if input.request.path == "/health"

allow if input.token_status == "valid"

decision := {"allow": true, "ttl": 60, "grant": "token"} if allow
else := {"allow": false, "ttl": 60}
"#,
    )?;
    w.assert_request_passes(&request("/health", &[]));
    let mut client = w.connect()?;
    client.0.set_read_timeout(Some(Duration::from_secs(20)))?;
    let answer = client.ask(&request("/orders", &[]))?;
    assert!(!answer.is_servers(), "{answer:?}");
    assert_eq!(answer.status, 401);
    w.assert_request_passes(&bearer("/orders", &w.mint.hs256()?));
    // Behind a request with a token, too, one without is seen as what it is.
    let mut client = w.connect()?;
    assert_eq!(client.ask(&bearer("/orders", &w.mint.hs256()?))?.status, 200);
    assert_eq!(client.ask(&request("/health", &[]))?.status, 200);
    assert_eq!(client.ask(&request("/orders", &[]))?.status, 401);
    Ok(())
}
