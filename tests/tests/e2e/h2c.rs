//! HTTP/2 in the clear on ports where it is enabled.

use std::{fmt::Write as _, net::SocketAddr, process::Command};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    h2::{Coding, Nghttpd, Session, beginning, frame},
    has, is_root,
    net::{SERVER_V4, at},
    process::{Process, run},
    server::{End, Server},
    until,
};

/// Where HTTP/2 is enabled.
const PORT: u16 = 8082;

fn there() -> SocketAddr {
    at(SERVER_V4, PORT)
}

fn world_with(more: &str) -> Result<World> {
    World::with(|config, _| {
        config.ports.push(PORT);
        let _ = write!(config.kernel, "h2c_ports = [{PORT}]\n{more}");
        Ok(())
    })
}

fn world() -> Result<World> {
    world_with("")
}

/// curl by prior knowledge: the answer's status, or its exit code where there was none.
fn curl(w: &World, path: &str, token: &str) -> Result<String> {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "30", "--http2-prior-knowledge", "-H", "@-"]);
    command.args(["-o", "/dev/null", "-w", "%{http_code}", &format!("http://{SERVER_V4}:{PORT}{path}")]);
    let done = run(&w.net.client, &mut command, format!("Authorization: Bearer {token}").as_bytes())?;
    Ok(format!("{} {}", done.stdout, done.code))
}

/// Requests a revoked token on a connection of its own, and gives what it is told.
fn refused(w: &World, pieces: &[&[u8]]) -> Result<Session> {
    let mut session = Session::connect(&w.net.client, there())?;
    for piece in pieces {
        session.send(piece);
    }
    session.end()?;
    assert!(session.told.statuses.is_empty(), "{:?}", session.told);
    Ok(session)
}

#[test]
fn curl_gets_what_its_token_should_and_the_server_reads_nothing_of_a_revoked_one() -> Result<()> {
    if !is_root() || !has("nghttpd") || !has("curl") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    assert_eq!(curl(&w, "/ok?live", &live)?, "200 0");
    let refused = curl(&w, "/ok?revoked", &revoked)?;
    assert!(refused.starts_with("000 "), "{refused}");
    assert_eq!(curl(&w, "/ok?again", &live)?, "200 0");
    server.await_read("/ok?again")?;
    assert_eq!((server.read("/ok?live"), server.read("/ok?revoked"), server.read(&revoked)), (1, 0, 0));
    assert_eq!((w.daemon.counter("h2c")?, w.daemon.counter("revoked")?), (3, 1));
    assert_eq!(w.daemon.counter("responded")?, 1, "told by GOAWAY, since nothing was in flight");
    Ok(())
}

#[test]
fn the_client_is_told_by_a_whole_goaway_and_its_end() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // As a connection's first request, in one segment with the preface: the server has not spoken, or has.
    for coding in [Coding::Usual, Coding::Plain] {
        let mut told = (None, true, 0, String::new());
        // What the server says in that very moment may stand in the place of the GOAWAY's first bytes.
        for _ in 0..10 {
            let mut session = Session::connect(&w.net.client, there())?;
            let request = session.writer.bearer("/first", &revoked, coding)?;
            session.send(&[beginning(), request].concat());
            let end = session.end()?;
            assert!(end.statuses.is_empty() && end.finished.is_empty(), "{end:?}");
            told = (end.goaway.clone(), end.end == Some(End::Closed), end.rest, format!("{end:?}"));
            if told.0.is_some() || !told.1 {
                break;
            }
        }
        let (goaway, closed, rest, seen) = told;
        let (last, code, text) = goaway.unwrap_or_default();
        if closed {
            assert_eq!((last, code, text.as_str(), rest), (1, 11, "token refused", 0), "{seen}");
        }
    }
    // Behind a request that was answered to the last frame.
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    assert_eq!(session.ask("/ok", &live, Coding::Usual)?, 200);
    let request = session.writer.bearer("/second", &revoked, Coding::Usual)?;
    session.send(&request);
    let told = session.end()?;
    assert_eq!(told.goaway, Some((3, 11, "token refused".to_owned())), "{told:?}");
    assert_eq!((told.end, told.rest), (Some(End::Closed), 0));
    assert_eq!(server.read("/first") + server.read("/second"), 0);
    assert_eq!(w.daemon.counter("revoked")?, 3);
    Ok(())
}

#[test]
fn a_token_found_by_its_index_is_refused_once_it_is_revoked() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    assert_eq!(session.ask("/ok?1", &token, Coding::Usual)?, 200);
    let again = session.writer.bearer("/ok?2", &token, Coding::Usual)?;
    assert!(again.len() < 40, "it is named by its index: {} bytes", again.len());
    session.send(&again);
    assert_eq!(session.finish(3)?, 200);
    assert_eq!(session.ask("/ok?3", &other, Coding::Usual)?, 200);
    w.daemon.revoke(&token)?;
    // All its streams are finished, so the connection lives.
    assert_eq!(session.ask("/ok?4", &other, Coding::Usual)?, 200);
    let request = session.writer.bearer("/ok?5", &token, Coding::Usual)?;
    assert!(request.len() < 40);
    session.send(&request);
    let told = session.end()?;
    assert_eq!(told.goaway.as_ref().map(|g| g.0), Some(9), "{told:?}");
    server.await_read(":path: /ok?4")?;
    assert_eq!(server.read(":path: /ok?5"), 0);
    Ok(())
}

#[test]
fn cut_anywhere_a_revoked_request_is_never_read_and_a_live_one_is_answered() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut whole = 0;
    for coding in [Coding::Usual, Coding::Plain] {
        let made = |path: &str, token: &str| -> Result<Vec<u8>> {
            Ok([beginning(), portcullis_tests::h2::Writer::default().bearer(path, token, coding)?].concat())
        };
        let bytes = made("/dead", &revoked)?;
        for cut in 1..bytes.len() {
            refused(&w, &[&bytes[..cut], &bytes[cut..]])?;
        }
        let bytes = made("/ok", &live)?;
        for cut in 1..bytes.len() {
            let mut session = Session::connect(&w.net.client, there())?;
            session.send(&bytes[..cut]);
            session.send(&bytes[cut..]);
            assert_eq!(session.finish(1)?, 200, "cut at {cut}");
            whole += 1;
        }
    }
    // It may have read fields before the token, but no block with one.
    assert_eq!((server.blocks(whole)?, server.read(&revoked)), (whole, 0));
    Ok(())
}

#[test]
fn single_bytes_continuations_padding_and_priorities_are_read() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let shapes = |path: &str, token: &str, coding: Coding| -> Result<Vec<Vec<u8>>> {
        let value = format!("Bearer {token}");
        let mut writer = portcullis_tests::h2::Writer::default();
        let block = writer.fragment(path, &[("authorization", &value)], coding)?;
        let parts: Vec<&[u8]> = block.chunks(block.len().div_ceil(3)).collect();
        let mut cut = frame(1, 1, 1, parts[0]);
        for part in &parts[1..parts.len() - 1] {
            cut.extend(frame(9, 0, 1, part));
        }
        cut.extend(frame(9, 4, 1, parts[parts.len() - 1]));
        let padded = frame(1, 0xd, 1, &[&[9][..], &block, &[0; 9]].concat());
        let urgent = frame(1, 0x25, 1, &[&[0, 0, 0, 0, 15][..], &block].concat());
        let both = frame(1, 0x2d, 1, &[&[2, 0, 0, 0, 0, 15][..], &block, &[0; 2]].concat());
        let other = [frame(6, 0, 0, &[0; 8]), frame(0xab, 7, 0, b"unknown"), frame(1, 5, 1, &block)].concat();
        Ok([cut, padded, urgent, both, other].map(|frames| [beginning(), frames].concat()).into())
    };
    let mut whole = 0;
    for coding in [Coding::Usual, Coding::Plain] {
        for (i, bytes) in shapes("/ok", &live, coding)?.into_iter().enumerate() {
            // nghttpd takes eight `CONTINUATION`s, and counts one again for each read that its nine first bytes come by.
            let smallest = if i == 0 { 3 } else { 1 };
            for piece in [smallest, bytes.len()] {
                let mut session = Session::connect(&w.net.client, there())?;
                bytes.chunks(piece).for_each(|b| session.send(b));
                assert_eq!(session.finish(1)?, 200, "shape {i}, {coding:?}");
                whole += 1;
            }
        }
        for (i, bytes) in shapes("/dead", &revoked, coding)?.into_iter().enumerate() {
            for piece in [if i == 0 { 3 } else { 1 }, bytes.len()] {
                refused(&w, &bytes.chunks(piece).collect::<Vec<_>>())?;
            }
        }
    }
    assert_eq!((server.blocks(whole)?, server.read(&revoked)), (whole, 0));
    Ok(())
}

#[test]
fn http1_on_such_a_port_is_read_as_http1() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let server = Server::start(&w.net.server, &[there()])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // A method that begins as the preface does, cut where they part.
    let text = |token: &str| {
        let line = format!("Authorization: Bearer {token}");
        String::from_utf8_lossy(&request("/", &[&line])).replace("GET ", "PRI ").into_bytes()
    };
    for cut in 1..24 {
        let mut client = Client::connect(&w.net.client, there())?;
        let bytes = text(&live);
        client.send(&bytes[..cut])?;
        assert_eq!(client.ask(&bytes[cut..])?.status, 200, "{cut}");
        assert_eq!(client.ask(&bearer("/next", &live))?.status, 200);
        let mut client = Client::connect(&w.net.client, there())?;
        let bytes = text(&revoked);
        client.send(&bytes[..cut])?;
        client.send(&bytes[cut..])?;
        let (told, end) = client.rest()?;
        assert!(told.starts_with(b"HTTP/1.1 401 ") || end == End::Reset, "{cut}");
    }
    assert_eq!(server.requests().len(), 46);
    // And by `Upgrade` HTTP/2 is not to be had.
    let mut client = Client::connect(&w.net.client, there())?;
    let line = format!("Authorization: Bearer {live}");
    let upgrade = ["Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk", &line];
    assert_eq!(client.ask(&request("/", &upgrade))?.status, 200, "a server that does not upgrade goes on");
    assert_eq!(w.daemon.counter("h2c")?, 0);
    Ok(())
}

#[test]
fn on_other_ports_http2_is_refused_and_in_fast_mode_it_passes() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.push(PORT);
        Ok(())
    })?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let live = w.mint.hs256()?;
    assert!(curl(&w, "/ok", &live)?.starts_with("000 "));
    assert_eq!((w.daemon.counter("refused_http2")?, server.read(":path")), (1, 0));
    drop((server, w));
    let w = World::with(|config, _| {
        config.ports.push(PORT);
        config.enforcement = "fast";
        let _ = write!(config.kernel, "h2c_ports = [{PORT}]");
        Ok(())
    })?;
    let _server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    assert_eq!(curl(&w, "/ok", &live)?, "200 0");
    assert!(w.daemon.counter("http2")? >= 1);
    Ok(())
}

#[test]
fn what_cannot_be_followed_ends_the_connection() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let live = w.mint.hs256()?;
    let value = format!("Bearer {live}");
    let mut writer = portcullis_tests::h2::Writer::default();
    let good = writer.fragment("/odd", &[("authorization", &value)], Coding::Plain)?;
    let two =
        writer.fragment("/odd", &[("authorization", &value), ("authorization", &value)], Coding::Plain)?;
    let large = writer.fragment("/odd", &[("x-large", &"v".repeat(17_000))], Coding::Plain)?;
    let (part, rest) = large.split_at(16_000);
    let cases: [(&str, Vec<u8>); 8] = [
        ("refused_ambiguous", frame(1, 5, 1, &two)),
        ("refused_frames", [frame(1, 1, 1, &good[..20]), frame(6, 0, 0, &[0; 8])].concat()),
        ("refused_frames", frame(1, 0xd, 1, &[&[255][..], &good].concat())),
        ("refused_frames", frame(1, 5, 0, &good)),
        ("refused_frames", frame(1, 5, 1, &[&[0xbe][..], &good].concat())),
        ("refused_frames", frame(1, 5, 1, &[&[0x3f, 0xe2, 0x1f][..], &good].concat())),
        ("refused_frames", frame(5, 4, 1, &good)),
        ("refused_too_long", [frame(1, 1, 1, part), frame(9, 4, 1, rest)].concat()),
    ];
    for (i, (counter, frames)) in cases.iter().enumerate() {
        let before = w.daemon.counter(counter)?;
        refused(&w, &[&beginning(), frames])?;
        assert_eq!(w.daemon.counter(counter)?, before + 1, "case {i}");
    }
    assert_eq!(server.read("/odd"), 0);
    assert_eq!(curl(&w, "/ok", &live)?, "200 0");
    Ok(())
}

#[test]
fn many_streams_of_live_tokens_are_all_answered() -> Result<()> {
    if !is_root() || !has("nghttpd") || !has("h2load") {
        return Ok(());
    }
    let w = world()?;
    let _server = Nghttpd::start(&w.net.server, &w.dir, there(), &["-m", "100"])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let load = |token: &str, n: &str| -> Result<String> {
        let mut command = Command::new("h2load");
        command.args(["-n", n, "-c", "8", "-m", "50", "-T", "20"]);
        command.args([
            "-H",
            &format!("authorization: Bearer {token}"),
            &format!("http://{SERVER_V4}:{PORT}/ok"),
        ]);
        let done = run(&w.net.client, &mut command, b"")?;
        Ok(done.stdout + &done.stderr)
    };
    let told = load(&live, "20000")?;
    assert!(told.contains("20000 succeeded, 0 failed") && told.contains("status codes: 20000 2xx"), "{told}");
    let told = load(&revoked, "400")?;
    assert!(told.contains("0 succeeded") && told.contains("0 2xx"), "{told}");
    assert_eq!(w.daemon.counter("refused_frames")?, 0);
    Ok(())
}

#[test]
fn a_large_upload_and_what_follows_it_are_read() -> Result<()> {
    if !is_root() || !has("nghttpd") || !has("curl") {
        return Ok(());
    }
    let w = world()?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &["--echo-upload"])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let body = w.dir.write("body", &"portcullis ".repeat(400_000))?;
    // Two requests on one connection, the second revoked.
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "--noproxy", "*", "--max-time", "60", "--http2-prior-knowledge"]);
    let url = |q: &str| format!("http://{SERVER_V4}:{PORT}/echo?{q}");
    let echoed = w.dir.path("echoed");
    command.args(["-H", &format!("Authorization: Bearer {live}"), "--data-binary"]);
    command.arg(format!("@{}", body.display())).arg("-o").arg(&echoed);
    command.args(["-w", "%{http_code} ", &url("first"), "--next", "-q", "-sS", "--max-time", "60"]);
    command.args(["--http2-prior-knowledge", "-H", &format!("Authorization: Bearer {revoked}")]);
    command.args(["-o", "/dev/null", "-w", "%{http_code}", &url("second")]);
    let done = run(&w.net.client, &mut command, b"")?;
    assert_eq!(done.stdout, "200 000", "{done:?}");
    assert_eq!(std::fs::read(&body)?, std::fs::read(&echoed)?);
    assert_eq!((server.read("/echo?first"), server.read("/echo?second")), (1, 0));
    Ok(())
}

/// Answers `/slow` when it is told to, other requests at once: a server with streams that stay open.
const SLOW: &str = r#"
import socket, sys, threading
def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload
def serve(c):
    got = b""
    c.sendall(frame(4, 0, 0, b""))
    def more(n):
        nonlocal got
        while len(got) < n:
            b = c.recv(65536)
            if not b: raise EOFError
            got += b
    try:
        more(24); got = got[24:]
        while True:
            more(9)
            n = int.from_bytes(got[:3], "big"); more(9 + n)
            kind, flags, stream = got[3], got[4], int.from_bytes(got[5:9], "big")
            body, got = got[9:9 + n], got[9 + n:]
            if kind == 1:
                slow = b"/slow" in body
                print("HEADERS", stream, "slow" if slow else "quick", file=sys.stderr, flush=True)
                c.sendall(frame(1, 4, stream, b"\x88"))
                c.sendall(frame(0, 0 if slow else 1, stream, b"ok"))
    except OSError as e: print("END", type(e).__name__, file=sys.stderr, flush=True)
    except EOFError: print("END closed", file=sys.stderr, flush=True)
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen()
print("LISTENS", file=sys.stderr, flush=True)
while True:
    c, _ = s.accept(); threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

fn slow_server(w: &World) -> Result<Process> {
    let mut command = Command::new("python3");
    let server = Process::start(&w.net.server, command.args(["-c", SLOW, &PORT.to_string()]))?;
    server.await_line(0, |line| line == "LISTENS")?;
    Ok(server)
}

/// Sends requests, plain so that this server understands them, and reads the answers' beginnings.
fn open(w: &World, server: &Process, requests: &[(&str, &str)]) -> Result<Session> {
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    for (path, token) in requests {
        let stream = session.writer.next;
        let from = server.lines().len();
        let bytes = session.writer.bearer(path, token, Coding::Plain)?;
        session.send(&bytes);
        server.await_line(from, |line| line.starts_with(&format!("HEADERS {stream} ")))?;
        if *path != "/slow" {
            assert_eq!(session.finish(stream)?, 200);
        }
    }
    Ok(session)
}

#[test]
fn a_connection_ends_when_the_token_of_one_of_its_open_streams_is_revoked() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = world()?;
    let server = slow_server(&w)?;
    let (token, other, third) = (w.mint.hs256()?, w.mint.hs256()?, w.mint.hs256()?);
    // Silent ones: a stream of the token is open, one of another, one of the token was finished.
    let mut theirs = open(&w, &server, &[("/quick", &other), ("/slow", &token)])?;
    let mut others = open(&w, &server, &[("/slow", &other)])?;
    let mut idle = open(&w, &server, &[("/quick", &token), ("/slow", &third)])?;
    w.daemon.revoke(&token)?;
    let told = theirs.end()?;
    assert_eq!(told.end, Some(End::Reset), "{told:?}");
    for session in [&mut others, &mut idle] {
        assert_eq!(session.ask("/quick", &other, Coding::Plain)?, 200);
    }
    // One that speaks on: its next packet ends it, whatever that is.
    let mut speaking = open(&w, &server, &[("/slow", &other)])?;
    w.daemon.revoke(&other)?;
    speaking.send(&frame(6, 0, 0, &[0; 8]));
    speaking.end()?;
    // A stream that its client gave up counts no more.
    let mut gave_up = open(&w, &server, &[("/slow", &third)])?;
    gave_up.send(&frame(3, 0, 1, &[0, 0, 0, 8]));
    let fourth = w.mint.hs256()?;
    assert_eq!(gave_up.ask("/quick", &fourth, Coding::Plain)?, 200);
    w.daemon.revoke(&third)?;
    assert_eq!(gave_up.ask("/quick", &fourth, Coding::Plain)?, 200);
    Ok(())
}

#[test]
fn another_token_on_the_same_stream_does_not_save_it_from_the_end_of_its_first() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = world()?;
    let server = slow_server(&w)?;
    for trailers in [false, true] {
        let token = w.mint.hs256()?;
        let bearer = format!("Bearer {token}");
        let mut session = Session::connect(&w.net.client, there())?;
        session.send(&beginning());
        let from = server.lines().len();
        let mut headers = vec![("authorization", bearer.as_str())];
        let keys: Vec<String> = (0..12).map(|i| format!("another-{i}")).collect();
        if !trailers {
            headers.extend(keys.iter().map(|key| ("x-api-key", key.as_str())));
        }
        let fragment = session.writer.fragment("/slow", &headers, Coding::Plain)?;
        // The request is not finished where trailers follow.
        session.send(&frame(1, if trailers { 4 } else { 5 }, 1, &fragment));
        server.await_line(from, |line| line.starts_with("HEADERS 1 "))?;
        if trailers {
            // Literal, its name the static table's 23rd; the server takes the path for a slow one's.
            let value = b"Bearer another/slow";
            let block = [&[0x0f, 8, u8::try_from(value.len())?], value.as_slice()].concat();
            let before = w.daemon.counter("tokens")?;
            session.send(&frame(1, 5, 1, &block));
            until(|| Ok(w.daemon.counter("tokens")? > before))?;
        }
        w.daemon.revoke(&token)?;
        let told = session.end()?;
        assert_eq!(told.end, Some(End::Reset), "trailers {trailers}: {told:?}");
    }
    Ok(())
}

#[test]
fn streams_lost_beside_a_refused_one_are_counted() -> Result<()> {
    if !is_root() || !has("python3") {
        return Ok(());
    }
    let w = world()?;
    let server = slow_server(&w)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut session = open(&w, &server, &[("/slow", &live), ("/quick", &live), ("/slow", &live)])?;
    let request = session.writer.bearer("/quick", &revoked, Coding::Plain)?;
    session.send(&request);
    session.end()?;
    assert_eq!(w.daemon.counter("streams_lost")?, 2);
    assert_eq!(server.lines().iter().filter(|line| line.starts_with("HEADERS")).count(), 3);
    server.await_line(0, |line| line.starts_with("END"))?;
    Ok(())
}

#[test]
fn a_tokens_rate_limit_counts_its_streams() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let rule = r#"
decision := {
    "allow": true,
    "ttl": 60,
    "limit": {"key": "token", "token": true, "rate": 6, "per": 3600, "burst": 2},
} if input.token_status == "valid"
"#;
    let w = World::with(|config, dir| {
        config.ports.push(PORT);
        let _ = write!(config.kernel, "h2c_ports = [{PORT}]");
        config.policies = dir.path("policies");
        std::fs::create_dir(&config.policies)?;
        dir.write("policies/rule.rego", &format!("package portcullis\n\nimport rego.v1\n{rule}"))?;
        Ok(())
    })?;
    let server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    assert_eq!(w.daemon.auth("GET", "/ok", &token)?.status, 200);
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    // Written out, then by its index.
    for _ in 0..2 {
        assert_eq!(session.ask("/ok", &token, Coding::Usual)?, 200);
    }
    for _ in 0..3 {
        assert_eq!(session.ask("/ok", &other, Coding::Usual)?, 200, "another's requests are not counted");
    }
    let request = session.writer.bearer("/ok?over", &token, Coding::Usual)?;
    session.send(&request);
    let told = session.end()?;
    assert!(told.goaway.is_some(), "{told:?}");
    assert_eq!((w.daemon.counter("limited")?, server.read("/ok?over")), (1, 0));
    Ok(())
}

#[test]
fn a_restart_of_the_daemon_keeps_what_was_read() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let mut w = world()?;
    let _server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let token = w.mint.hs256()?;
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    assert_eq!(session.ask("/ok", &token, Coding::Usual)?, 200);
    w.daemon.kill9()?;
    w.daemon.restart()?;
    assert_eq!(session.ask("/ok", &token, Coding::Usual)?, 200, "by an index of before");
    w.daemon.revoke(&token)?;
    let request = session.writer.bearer("/ok", &token, Coding::Usual)?;
    assert!(request.len() < 40);
    session.send(&request);
    assert_eq!(session.end()?.statuses.len(), 2);
    Ok(())
}
