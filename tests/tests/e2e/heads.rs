//! Requests of every kind that a client may send, each with a revoked token and its live twin, to real servers.

use std::{fmt::Write as _, io::Read as _, net::Shutdown, thread};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer},
    is_root,
    net::{SERVER_V4, at},
};

use super::servers::{Under, exchange, servers, world};

/// What a live twin gets.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Live {
    /// The server's 200.
    Served,
    /// Whatever the server says, or guard's 400 and the like.
    Whatever,
    /// Guard's 431, unless the server refused its first part before.
    TooLong,
}

/// A head, `@` standing for the token.
fn heads() -> Vec<(String, Live)> {
    use Live::{Served, TooLong, Whatever};
    let head = |line: &str, fields: &str| format!("{line}\r\nHost: a\r\n{fields}\r\n\r\n");
    let usual = "Authorization: Bearer @";
    let lines = |n: usize, text: &str| {
        let mut all = String::new();
        for i in 0..n {
            let _ = write!(all, "X-{i}: {text}\r\n");
        }
        all
    };
    vec![
        (head("GET /h HTTP/1.1", usual), Served),
        (format!("GET /h HTTP/1.1\r\n{usual}\r\nHost: a\r\n\r\n"), Served),
        (format!("GET /h HTTP/1.0\r\n{usual}\r\n\r\n"), Served),
        (head("GET http://a/h HTTP/1.1", usual), Served),
        (head("OPTIONS * HTTP/1.1", usual), Whatever),
        (head("CONNECT a:80 HTTP/1.1", usual), Whatever),
        (head("get /h HTTP/1.1", usual), Whatever),
        (head(&format!("{} /h HTTP/1.1", "M".repeat(64)), usual), Whatever),
        (head("GET /h HTTP/1.2", usual), Whatever),
        (head("GET /h HTTP/1.1 ", usual), Whatever),
        (head("GET /h HTTP/1.10", usual), Whatever),
        (head("GET  /h HTTP/1.1", usual), Whatever),
        (head("GET\t/h HTTP/1.1", usual), Whatever),
        (head(" GET /h HTTP/1.1", usual), Whatever),
        (head("GET /h", usual), Whatever),
        (head("GET /h HTTP/2.0", usual), Whatever),
        (format!("\r\n{}", head("GET /h HTTP/1.1", usual)), Whatever),
        (format!("\n\n{}", head("GET /h HTTP/1.1", usual)), Whatever),
        (format!("GET /h HTTP/1.1\nHost: a\n{usual}\n\n"), Whatever),
        (format!("GET /h HTTP/1.1\rHost: a\r{usual}\r\r"), Whatever),
        (format!("GET /h HTTP/1.1\r\r\nHost: a\r\r\n{usual}\r\r\n\r\r\n"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization: Bearer @\0"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization: Bearer\0@"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization: Bearer @\u{e9}"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization: Bearer @\x7f"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization\0: Bearer @"), Whatever),
        (head("GET /h HTTP/1.1", "Authorization: Basic YTpi\r\nX-Api-Key: @"), Served),
        (head("GET /h HTTP/1.1", &format!("{}{usual}", lines(90, "y"))), Served),
        (head("GET /h HTTP/1.1", &format!("{}{usual}", lines(2, &"y".repeat(3000)))), Served),
        (head("GET /h HTTP/1.1", &format!("{}{usual}", lines(2000, "y"))), TooLong),
        (head("GET /h HTTP/1.1", &format!("{}{usual}", lines(3, &"y".repeat(7000)))), TooLong),
        (head("GET /h HTTP/1.1", &format!("{}{usual}", lines(10, &"y".repeat(7000)))), TooLong),
        (head(&format!("GET /{} HTTP/1.1", "h".repeat(6000)), usual), Served),
        (
            head("POST /h HTTP/1.1", "Expect: 100-continue\r\nContent-Length: 3\r\nAuthorization: Bearer @"),
            Whatever,
        ),
        (
            head("GET /h HTTP/1.1", "Connection: Upgrade\r\nUpgrade: websocket\r\nAuthorization: Bearer @"),
            Whatever,
        ),
        (head("GET /h HTTP/1.1", "Connection: Upgrade\r\nUpgrade: h2c\r\nAuthorization: Bearer @"), Whatever),
    ]
}

/// Sends pieces and their end, so that a server which waits for more waits no longer, and reads what comes back.
fn to_the_end(w: &World, port: u16, pieces: &[&[u8]]) -> Result<String> {
    let mut client = Client::connect(&w.net.client, at(SERVER_V4, port))?;
    for piece in pieces {
        if client.send(piece).is_err() {
            break;
        }
    }
    // Where it was reset meanwhile there is no side left to close.
    let _ = client.0.shutdown(Shutdown::Write);
    let mut got = Vec::new();
    let mut buffer = [0; 4096];
    while let Ok(n) = client.0.read(&mut buffer) {
        if n == 0 {
            break;
        }
        got.extend_from_slice(&buffer[..n]);
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

/// Sends every head, whole and cut in its middle, and tells what went wrong.
fn play(w: &World, s: &Under, revoked: &str) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    for (head, live) in heads() {
        for (token, is_live) in [(w.mint.hs256()?, true), (revoked.to_owned(), false)] {
            let bytes = head.replace('@', &token).into_bytes();
            for cut in [0, bytes.len() / 2, bytes.len() - 2] {
                let pieces = [&bytes[..cut], &bytes[cut..]];
                let got = if is_live && live == Live::Served {
                    exchange(&w.net.client, s.port, SERVER_V4, &pieces, 1)?
                } else {
                    to_the_end(w, s.port, &pieces)?
                };
                let served = got.starts_with("HTTP/1.1 200");
                let shown: String = head.chars().take(80).collect();
                if is_live && live == Live::Served && !served
                    || is_live && live == Live::TooLong && !(got.starts_with("HTTP/1.1 4") || got.is_empty())
                    || !is_live && served
                {
                    let got: String = got.chars().take(80).collect();
                    wrong.push(format!("{}: {shown:?} cut at {cut}, live {is_live}: {got:?}", s.name));
                }
            }
        }
    }
    Ok(wrong)
}

#[test]
fn no_kind_of_request_gets_a_revoked_token_through_and_live_ones_are_served() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let revoked = w.mint.hs256()?;
    w.daemon.revoke(&revoked)?;
    let mut wrong = Vec::new();
    for s in &all {
        wrong.extend(play(&w, s, &revoked)?);
        if s.holding(&revoked) != 0 {
            wrong.push(format!("{} parsed a revoked token", s.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn tokens_of_every_length_and_alphabet_are_told_apart() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let mut wrong = Vec::new();
    let alphabet = "0aZ.~+/-_";
    for len in [1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 255, 1023, 4000] {
        let text: String = alphabet.chars().cycle().take(len - 1).collect();
        let (revoked, live) = (format!("{text}r"), format!("{text}l"));
        w.daemon.revoke(&revoked)?;
        for s in &all {
            for (token, wanted) in [(&live, "HTTP/1.1 200"), (&revoked, "HTTP/1.1 401")] {
                let got = exchange(&w.net.client, s.port, SERVER_V4, &[&bearer("/len", token)], 1)?;
                if !got.starts_with(wanted) {
                    wrong.push(format!("{}: {len} bytes: {got:?}", s.name));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn trailers_queries_cookies_and_other_fields_authenticate_nothing_and_pass() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let with = |line: &str, field: &str| {
        format!("{line}\r\nHost: a\r\nAuthorization: Bearer {live}\r\n{field}\r\n").into_bytes()
    };
    for s in all.iter().filter(|s| s.name != "Python") {
        let trailer = format!("0\r\nAuthorization: Bearer {revoked}\r\n\r\n");
        let mut chunked =
            with("POST /t HTTP/1.1", "Transfer-Encoding: chunked\r\nTrailer: Authorization\r\n");
        chunked.extend(trailer.into_bytes());
        let got = exchange(&w.net.client, s.port, SERVER_V4, &[&chunked], 1)?;
        assert!(got.starts_with("HTTP/1.1 200"), "{}: {got}", s.name);
        assert_eq!(s.holding(&revoked), 0, "{}: a trailer is no credential", s.name);
    }
    for s in &all {
        let query = format!("GET /q?access_token={revoked} HTTP/1.1");
        for bytes in [
            with(&query, ""),
            with("GET /q HTTP/1.1", &format!("Cookie: a={revoked}\r\n")),
            with("GET /q HTTP/1.1", &format!("X-Original-Authorization: Bearer {revoked}\r\n")),
            with("GET /q HTTP/1.1", &format!("Proxy-Authorization: Bearer {revoked}\r\n")),
            with("GET /q HTTP/1.1", &format!("Referer: http://a/?t={revoked}\r\n")),
        ] {
            let got = exchange(&w.net.client, s.port, SERVER_V4, &[&bytes], 1)?;
            assert!(got.starts_with("HTTP/1.1 200"), "{}: {got}", s.name);
        }
    }
    Ok(())
}

#[test]
fn many_connections_at_once_are_each_judged_by_their_own_requests() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let Some(s) = all.first() else { return Ok(()) };
    let wrong = thread::scope(|scope| -> Result<Vec<String>> {
        let clients: Vec<_> = (0..8)
            .map(|n| {
                let (w, live, revoked) = (&w, &live, &revoked);
                scope.spawn(move || -> Result<Vec<String>> {
                    let mut wrong = Vec::new();
                    for i in 0..100 {
                        let is_live = (i + n) % 2 == 0;
                        let bytes = bearer("/many", if is_live { live } else { revoked });
                        let cut = 1 + (i * 37 + n * 11) % (bytes.len() - 1);
                        let pieces = [&bytes[..cut], &bytes[cut..]];
                        let got = exchange(&w.net.client, s.port, SERVER_V4, &pieces, 1)?;
                        if got.starts_with("HTTP/1.1 200") != is_live {
                            wrong.push(format!("cut at {cut}, live {is_live}: {got:?}"));
                        }
                    }
                    Ok(wrong)
                })
            })
            .collect();
        let mut wrong = Vec::new();
        for client in clients {
            wrong.extend(client.join().map_err(|_| anyhow::anyhow!("a client failed"))??);
        }
        Ok(wrong)
    })?;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!(s.holding(&revoked), 0);
    Ok(())
}
