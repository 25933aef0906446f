//! What one client may cost: time, connections and memory, each with its bound.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use portcullis_tests::{World, client::http, config::DOORS, is_root, until};

/// How long a head or a body may take, and some time for a busy machine.
const LONGEST: Duration = Duration::from_secs(10 + 15);

/// How long a connection lives that sends `first`, and then one byte at a time.
fn dribble(address: SocketAddr, first: &[u8], byte: &[u8]) -> Result<(Duration, Vec<u8>)> {
    let mut stream = TcpStream::connect(address)?;
    let begun = Instant::now();
    stream.write_all(first)?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    let mut answer = Vec::new();
    let mut buffer = [0; 4096];
    while begun.elapsed() < LONGEST * 2 {
        match stream.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => answer.extend_from_slice(buffer.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
                if stream.write_all(byte).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    Ok((begun.elapsed(), answer))
}

#[test]
fn a_client_that_sends_a_byte_at_a_time_is_cut_off_and_holds_up_nobody() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let address: SocketAddr = DOORS.parse()?;
    let head = b"GET /auth HTTP/1.1\r\nHost: x\r\nX-Slow: ".as_slice();
    let body = b"POST /v1/data HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\n\r\n{".as_slice();
    // HTTP/2's preface, and never a frame that is whole.
    let h2 = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\xff\x01\x04\0\0\0\x01".as_slice();
    thread::scope(|scope| -> Result<()> {
        let slow: Vec<_> = [
            ("nothing", &b""[..], &b""[..]),
            ("a head", head, b"a"),
            ("a body", body, b" "),
            ("a preface", &h2[..10], b""),
        ]
        .into_iter()
        .map(|(name, first, byte)| {
            let ns = &w.net.server;
            (name, scope.spawn(move || ns.enter(|| dribble(address, first, byte))))
        })
        .collect();
        // Others are served all the while.
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(2) {
            let one = Instant::now();
            assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
            assert!(one.elapsed() < Duration::from_secs(1), "{:?}", one.elapsed());
        }
        for (name, one) in slow {
            let (took, answer) = one.join().ok().context("a client panicked")??;
            assert!(took < LONGEST, "{name}: {took:?}");
            assert!(!answer.starts_with(b"HTTP/1.1 200"), "{name}: {}", String::from_utf8_lossy(&answer));
        }
        Ok(())
    })
}

#[test]
fn ten_thousand_connections_take_little_memory_and_make_room_again() -> Result<()> {
    const WANTED: usize = 10_000;
    if !is_root() {
        return Ok(());
    }
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    if hard < 12_000 {
        portcullis_tests::skip("needs 12,000 file descriptors (ulimit -Hn)");
        return Ok(());
    }
    // A daemon that is started from here has as many.
    let w = World::with(|config, _| {
        config.mode = "off";
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let before = w.daemon.memory()?;
    let address: SocketAddr = DOORS.parse()?;
    let held = w.net.server.enter(|| {
        let mut held = Vec::with_capacity(WANTED);
        for _ in 0..WANTED {
            // Beyond what is served at once and what may queue, no connection comes about.
            let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(3)) {
                Ok(stream) => stream,
                Err(e) => {
                    println!("after {} connections: {e}", held.len());
                    break;
                }
            };
            let _ = stream.write_all(b"GET /auth HTTP/1.1\r\nHost: x\r\nX-Original-URI: /");
            held.push(stream);
        }
        Ok(held)
    })?;
    assert!(held.len() > 8_000, "{} connections", held.len());
    let grown = w.daemon.memory()?.saturating_sub(before);
    println!("{} connections with half a head each: {} KiB more", held.len(), grown >> 10);
    // Mostly buffers of 8 KiB for what is read and what is written.
    assert!(grown < held.len() as u64 * (32 << 10), "{grown} bytes more");
    // They are cut off in time, and who came meanwhile is served, while the flood holds what it has.
    let begun = Instant::now();
    until(|| {
        let head = format!(
            "GET /auth HTTP/1.1\r\nX-Original-Method: GET\r\nX-Original-URI: /v1/orders\r\nAuthorization: Bearer {token}"
        );
        Ok(http(&w.net.server, address, &head, b"").is_ok_and(|answer| answer.status == 200))
    })?;
    assert!(begun.elapsed() < LONGEST, "{:?}", begun.elapsed());
    drop(held);
    setrlimit(Resource::RLIMIT_NOFILE, soft, hard)?;
    Ok(())
}

#[test]
fn deep_and_aliased_documents_are_refused_clearly_and_cost_no_memory() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let post = |path: &str, kind: &str, body: &str| {
        let head = format!("POST {path} HTTP/1.1\r\nContent-Type: {kind}");
        http(&w.net.server, DOORS.parse()?, &head, body.as_bytes())
    };
    let deep = |n: usize| format!("{{\"input\": {}1{}}}", "[".repeat(n), "]".repeat(n));
    let laughs = (0..9).fold("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n".to_owned(), |text, n| {
        format!("{text}a{}: &a{} [{}]\n", n + 1, n + 1, vec![format!("*a{n}"); 10].join(","))
    });
    let before = w.daemon.memory()?;
    // A hundred levels are read, and say nothing; beyond what is read it is told.
    let hundred = post("/v1/data/portcullis/decision", "application/json", &deep(100))?;
    assert_eq!((hundred.status, hundred.body.contains("\"allow\":false")), (200, true), "{hundred:?}");
    for (name, kind, body) in [
        ("1,000 deep", "application/json", deep(1_000)),
        ("100,000 deep", "application/json", deep(100_000)),
        ("1,000 deep in YAML", "application/yaml", deep(1_000)),
        ("a billion laughs", "application/yaml", format!("input:\n  x: 1\n{laughs}")),
    ] {
        let answer = post("/v1/data/portcullis/decision", kind, &body)?;
        assert!([400, 413].contains(&answer.status), "{name}: {answer:?}");
        assert!(
            answer.body.contains("invalid_parameter") && answer.body.contains("message"),
            "{name}: {answer:?}"
        );
    }
    for door in ["/access/v1/evaluation", "/access/v1/evaluations"] {
        let answer = post(door, "application/json", &deep(1_000))?;
        assert_eq!(
            (answer.status, answer.body.contains("request_malformed")),
            (400, true),
            "{door}: {answer:?}"
        );
    }
    let grown = w.daemon.memory()?.saturating_sub(before);
    assert!(grown < 32 << 20, "{grown} bytes more");
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &w.mint.hs256()?)?.status, 200);
    Ok(())
}

#[test]
fn a_path_of_thousands_of_parts_is_refused_and_the_daemon_goes_on() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let deep = "/a".repeat(7000);
    for path in [format!("/v1/data{deep}"), format!("/v0/data{deep}")] {
        let answer = http(&w.net.server, DOORS.parse()?, &format!("POST {path} HTTP/1.1\r\nHost: x"), b"{}")?;
        assert_eq!(answer.status, 400, "{}", answer.head);
    }
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &w.mint.hs256()?)?.status, 200);
    Ok(())
}

#[test]
fn no_door_takes_a_content_type_for_its_word() -> Result<()> {
    if !is_root() || !portcullis_tests::has("curl") {
        return Ok(());
    }
    let w = World::make()?;
    // A gRPC error is an HTTP 200, which a gateway of another door would take for an allow.
    for path in ["/auth", "/forward-auth", "/ext_authz/x", "/access/v1/evaluation", "/grpc.Other/Call"] {
        for method in ["GET", "POST"] {
            let mut command = std::process::Command::new("curl");
            command.args(["-q", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "30"]);
            command.args(["--http2-prior-knowledge", "-X", method, "-H", "content-type: application/grpc"]);
            command.arg(format!("http://{DOORS}{path}"));
            let asked = portcullis_tests::process::run(&w.net.server, &mut command, b"")?;
            assert!(asked.stdout.starts_with('4'), "{method} {path}: {asked:?}");
        }
    }
    Ok(())
}
