//! Connections that live when their token is revoked.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    is_root,
    net::{Namespace, SERVER_V4, at},
    until,
};

/// Where the scripted server listens.
const SCRIPTED: u16 = 8090;

/// Serves one connection after the path of its request: an upgrade that stays silent, a stream without an end, a long
/// download, or plain answers.
fn converse(mut stream: TcpStream) -> std::io::Result<()> {
    let mut head = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let n = stream.read(&mut buffer)?;
        if n == 0 {
            return Ok(());
        }
        head.extend_from_slice(&buffer[..n]);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8_lossy(&head).into_owned();
        head.clear();
        if text.starts_with("GET /socket ") {
            stream.write_all(
                b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n",
            )?;
            loop {
                let n = stream.read(&mut buffer)?;
                if n == 0 {
                    return Ok(());
                }
                stream.write_all(&buffer[..n])?;
            }
        } else if text.starts_with("GET /events ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")?;
            loop {
                stream.write_all(b"data: tick\n\n")?;
                thread::sleep(Duration::from_millis(5));
            }
        } else if text.starts_with("GET /silent ") {
            // Until the connection ends: what comes meanwhile is not answered.
            while stream.read(&mut buffer)? != 0 {}
            return Ok(());
        } else if text.starts_with("GET /download ") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n")?;
            loop {
                stream.write_all(&buffer)?;
            }
        } else {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")?;
        }
    }
}

/// Listens for as long as the test runs; its threads end with their connections.
fn serve(ns: &Namespace) -> Result<()> {
    let listener = ns.enter(|| Ok(TcpListener::bind(at("0.0.0.0", SCRIPTED))?))?;
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            thread::spawn(move || converse(stream));
        }
    });
    Ok(())
}

fn world() -> Result<World> {
    let w = World::with(|config, _| {
        config.ports.push(SCRIPTED);
        Ok(())
    })?;
    serve(&w.net.server)?;
    Ok(w)
}

fn connect(w: &World) -> Result<Client> {
    Client::connect(&w.net.client, at(SERVER_V4, SCRIPTED))
}

fn upgrade(token: &str) -> Vec<u8> {
    let bearer = format!("Authorization: Bearer {token}");
    request("/socket", &[&bearer, "Connection: upgrade", "Upgrade: websocket"])
}

/// Reads until something has come.
fn read(client: &mut Client) -> Result<usize> {
    let mut buffer = [0; 8192];
    Ok(client.0.read(&mut buffer)?)
}

/// Reads to the connection's end, however it comes.
fn ends(client: &mut Client) {
    let mut buffer = [0; 8192];
    while let Ok(n) = client.0.read(&mut buffer) {
        if n == 0 {
            return;
        }
    }
}

/// Whether the connection ends before the deadline, however much comes meanwhile.
fn ends_by(client: &mut Client, deadline: Instant) -> bool {
    let mut buffer = [0; 8192];
    let _ = client.0.set_read_timeout(Some(Duration::from_millis(100)));
    while Instant::now() < deadline {
        match client.0.read(&mut buffer) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(e) if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(_) => return true,
        }
    }
    false
}

#[test]
fn what_is_pipelined_behind_a_stream_does_not_save_it_from_the_end_of_its_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let other = w.mint.hs256()?;
    let mut lives = connect(&w)?;
    lives.send(&bearer("/events", &other))?;
    assert!(read(&mut lives)? > 0);
    for (path, behind) in [("/download", 5), ("/silent", 5), ("/download", 20), ("/silent", 20)] {
        let token = w.mint.hs256()?;
        let before = w.daemon.counter("requests")?;
        let mut client = connect(&w)?;
        client.send(&bearer(path, &token))?;
        for i in 0..behind {
            client.send(&bearer("/", &format!("another-{i}")))?;
        }
        until(|| Ok(w.daemon.counter("requests")? > before + behind))?;
        w.daemon.revoke(&token)?;
        let deadline = Instant::now() + Duration::from_secs(5);
        assert!(ends_by(&mut client, deadline), "{path} with {behind} requests behind it lives on");
    }
    // One token's requests, however many, leave a connection alone where another token is revoked.
    let mut same = connect(&w)?;
    let before = w.daemon.counter("requests")?;
    same.send(&bearer("/events", &other))?;
    for _ in 0..9 {
        same.send(&bearer("/", &other))?;
    }
    until(|| Ok(w.daemon.counter("requests")? > before + 9))?;
    w.daemon.revoke(&w.mint.hs256()?)?;
    for client in [&mut lives, &mut same] {
        assert!(!ends_by(client, Instant::now() + Duration::from_millis(300)));
    }
    Ok(())
}

#[test]
fn streams_of_a_revoked_token_end_and_those_of_others_live() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let mut theirs = Vec::new();
    let mut lives = Vec::new();
    for (token, clients) in [(&token, &mut theirs), (&other, &mut lives)] {
        for head in [upgrade(token), bearer("/events", token), bearer("/download", token)] {
            let mut client = connect(&w)?;
            client.send(&head)?;
            assert!(read(&mut client)? > 0);
            clients.push(client);
        }
    }
    // An upgraded connection is a tunnel: text in it that looks like a request is none.
    let (mine, yours) = (bearer("/in-the-tunnel", &other), bearer("/in-the-tunnel", &token));
    theirs[0].send(&mine)?;
    assert!(read(&mut theirs[0])? > 0);
    w.daemon.revoke(&token)?;
    for client in &mut theirs {
        ends(client);
    }
    lives[0].send(&yours)?;
    for client in &mut lives {
        assert!(read(client)? > 0, "a connection of another token ended");
    }
    assert!(w.daemon.status()?["kernel"]["destroyed_connections"].as_u64() > Some(0));
    Ok(())
}

#[test]
fn an_idle_connection_that_carried_the_token_before_lives_on() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    // As a proxy pools them: many tokens in turn.
    let mut pooled = connect(&w)?;
    assert_eq!(pooled.ask(&bearer("/", &other))?.status, 200);
    assert_eq!(pooled.ask(&bearer("/", &token))?.status, 200);
    let mut silent = connect(&w)?;
    silent.send(&upgrade(&token))?;
    assert!(read(&mut silent)? > 0);
    w.daemon.revoke(&token)?;
    // Its end shows that connections were looked at.
    ends(&mut silent);
    assert_eq!(pooled.ask(&bearer("/", &other))?.status, 200);
    assert_eq!(pooled.ask(&bearer("/", &token))?.status, 401);
    Ok(())
}

#[test]
fn a_token_that_a_policy_condemns_gets_its_answer_and_then_its_connections_end() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let (old, good) = (w.mint.aged(7200, "orders:read")?, w.mint.hs256()?);
    let mut silent = connect(&w)?;
    silent.send(&upgrade(&old))?;
    assert!(read(&mut silent)? > 0);
    let mut other = connect(&w)?;
    other.send(&upgrade(&good))?;
    assert!(read(&mut other)? > 0);
    // A server that asks about a request answers it when it has been told no.
    let mut asking = connect(&w)?;
    asking.send(&upgrade(&old))?;
    assert!(read(&mut asking)? > 0);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &old)?.status, 401);
    asking.send(b"the answer that is still owed\n")?;
    assert!(read(&mut asking)? > 0, "the connection was ended before its answer");
    ends(&mut silent);
    ends(&mut asking);
    other.send(b"still here\n")?;
    assert!(read(&mut other)? > 0);
    Ok(())
}
