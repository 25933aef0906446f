//! Requests cut where a client likes.

use std::cell::{Cell, RefCell};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Client, bearer, request},
    is_root, is_thorough,
    net::{PORT, SERVER_V4, at, guarded},
    process::Process,
    server::{End, Server},
    wire::{self, Wire},
};
use proptest::{
    prelude::*,
    test_runner::{Config, TestRunner},
};

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

#[test]
fn three_pieces_are_as_good_as_two() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    for (token, status) in [(&live, 200), (&revoked, 401)] {
        let request = bearer("/three", token);
        // Every offset is a first or a second cut of some pair, each at several distances.
        let all = is_thorough();
        for first in (1..request.len() - 2).step_by(if all { 1 } else { 3 }) {
            let some = [first + 1, first + 2, first + 9, request.len() - 3, request.len() - 1];
            let seconds = if all { (first + 1..request.len()).collect() } else { some.to_vec() };
            for second in seconds {
                if second <= first || second >= request.len() {
                    continue;
                }
                let mut client = w.connect()?;
                for piece in [&request[..first], &request[first..second], &request[second..]] {
                    if client.send(piece).is_err() {
                        break;
                    }
                }
                match client.answer() {
                    Ok(answer) => assert_eq!(answer.status, status, "cut at {first} and {second}"),
                    Err(e) => assert!(status == 401, "cut at {first} and {second}: {e}"),
                }
            }
        }
    }
    let requests = w.server.requests();
    assert!(!requests.iter().any(|head| head.contains(&revoked)), "a revoked request was parsed");
    assert!(requests.len() > 300, "{}", requests.len());
    Ok(())
}

/// What the wire does to one stream of requests.
#[derive(Clone, Debug)]
struct Plan {
    /// Which of three requests is revoked; none where beyond.
    revoked: usize,
    /// Where the stream is cut.
    cuts: Vec<prop::sample::Index>,
    /// In what order pieces are first sent, which of them twice, and which with a checksum that is wrong.
    order: Vec<(prop::sample::Index, bool, bool)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    (
        0..4usize,
        prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        prop::collection::vec(
            (any::<prop::sample::Index>(), any::<bool>(), prop::bool::weighted(0.2)),
            0..12,
        ),
    )
        .prop_map(|(revoked, cuts, order)| Plan { revoked, cuts, order })
}

#[test]
fn whatever_the_wire_does_live_requests_are_answered_and_revoked_ones_are_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let wire = RefCell::new(Wire::open(&w.net)?);
    let server = Server::start(&w.net.server, &[at(wire::SERVER, PORT)])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut runner = TestRunner::new_with_rng(
        Config {
            cases: if is_thorough() { 1000 } else { 60 },
            failure_persistence: None,
            max_shrink_iters: 20,
            ..Config::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let count = Cell::new(0);
    runner
        .run(&plans(), |plan| {
            count.set(count.get() + 1);
            let n = count.get();
            let mut wire = wire.borrow_mut();
            let path = |i: usize| format!("/n{n}-{i}");
            let stream: Vec<u8> = (0..3)
                .flat_map(|i| bearer(&path(i), if i == plan.revoked { &revoked } else { &live }))
                .collect();
            let mut cuts: Vec<usize> = plan.cuts.iter().map(|i| i.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut talk = wire.connect(PORT, &[]).unwrap();
            for (which, twice, lost) in &plan.order {
                let i = which.index(cuts.len() - 1);
                let piece = &stream[cuts[i]..cuts[i + 1]];
                for _ in 0..=u8::from(*twice) {
                    talk.put_odd(cuts[i], piece, |f| f.sum_off = u16::from(*lost)).unwrap();
                }
            }
            talk.carry_through(&stream, 97, 3).unwrap();
            let parsed =
                |i: usize| server.requests().iter().filter(|h| h.contains(&format!("{} ", path(i)))).count();
            for i in 0..3 {
                let wanted = usize::from(i < plan.revoked);
                prop_assert_eq!(
                    parsed(i),
                    wanted,
                    "request {} of {:?}, cut at {:?} of {}: {}\n{}",
                    i,
                    &plan,
                    &cuts,
                    stream.len(),
                    talk.story(),
                    w.daemon.ask(&["status"], "").unwrap().stdout
                );
            }
            prop_assert_eq!(talk.is_refused(), plan.revoked < 3, "{:?}: {}", &plan, talk.story());
            Ok(())
        })
        .map_err(|e| anyhow::anyhow!("{e}"))
}

#[test]
fn an_mptcp_client_is_served_over_plain_tcp_and_refused_when_revoked() -> Result<()> {
    /// Listens with MPTCP, answers each request, and says whether the connection is one.
    const SERVER: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", 8075)); s.listen()
print("LISTENS", file=sys.stderr, flush=True)
while True:
    c, _ = s.accept()
    got = b""
    while b"\r\n\r\n" not in got:
        try: more = c.recv(4096)
        except OSError: more = b""
        if not more: break
        got += more
    if b"\r\n\r\n" in got: print("PARSED", got.split(b"\r\n")[0], file=sys.stderr, flush=True)
    try: c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
    except OSError: pass
    c.close()
"#;
    /// Sends a request over MPTCP in two pieces; prints the status line.
    const CLIENT: &str = r#"
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)
s.settimeout(20)
s.connect(("10.77.0.1", 8075))
r = sys.stdin.buffer.read()
try:
    s.sendall(r[:50]); s.sendall(r[50:])
    print(s.recv(4096).split(b"\r\n")[0].decode())
except OSError as e:
    print(type(e).__name__)
"#;
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.push(8075);
        Ok(())
    })?;
    if std::fs::read_to_string("/proc/sys/net/mptcp/enabled").is_err() {
        portcullis_tests::skip("this kernel has no MPTCP");
        return Ok(());
    }
    let mut command = std::process::Command::new("python3");
    let server = Process::start(&w.net.server, command.args(["-c", SERVER]))?;
    server.await_line(0, |line| line == "LISTENS")?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let ask = |token: &str| {
        let mut command = std::process::Command::new("python3");
        let bytes = bearer("/mptcp", token);
        portcullis_tests::process::run(&w.net.client, command.args(["-c", CLIENT]), &bytes)?.ok()
    };
    assert_eq!(ask(&live)?.trim(), "HTTP/1.1 200 OK");
    w.daemon.await_counter("mptcp_stripped", 1)?;
    let refused = ask(&revoked)?;
    assert!(refused.contains("401") || refused.contains("Reset"), "{refused}");
    assert_eq!(
        server.lines().iter().filter(|line| line.contains("/mptcp")).count(),
        1,
        "{:?}",
        server.lines()
    );
    Ok(())
}

#[test]
fn a_request_that_awaits_100_continue_is_judged_by_its_head() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let head = |token: &str| {
        let line = format!("Authorization: Bearer {token}");
        let text = request("/upload", &[&line, "Content-Length: 5", "Expect: 100-continue"]);
        String::from_utf8_lossy(&text).replace("GET ", "POST ").into_bytes()
    };
    let mut client = Client::connect(&w.net.client, at(SERVER_V4, PORT))?;
    client.send(&head(&live))?;
    assert_eq!(client.ask(b"hello")?.status, 200);
    client.send(&head(&revoked))?;
    assert_eq!(client.answer()?.status, 401);
    assert_eq!(w.server.requests().len(), 1);
    Ok(())
}

#[test]
fn copies_that_come_at_once_do_not_hurry_a_refusal_before_the_answer_ahead_of_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let mut wire = Wire::open(&w.net)?;
    let server = Server::start(&w.net.server, &[at(wire::SERVER, PORT)])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    for n in 0..20 {
        let path = format!("/n{n}");
        let stream: Vec<u8> = [bearer(&path, &live), bearer(&path, &revoked), bearer(&path, &live)].concat();
        let mut talk = wire.connect(PORT, &[])?;
        for lost in [0, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0] {
            talk.put_odd(0, &stream, |f| f.sum_off = lost)?;
        }
        talk.carry_through(&stream, 97, 3)?;
        let parsed = server.requests().iter().filter(|h| h.contains(&format!("{path} "))).count();
        assert_eq!((parsed, talk.answers(), talk.is_refused()), (1, 2, true), "{:?}", talk.heard());
    }
    Ok(())
}

#[test]
fn writers_on_all_processors_complete_no_revoked_head() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // Many connections at once, each written to by threads of its own: segments of one connection come from several
    // processors, and meet in the same streams, blocks and counters.
    let one = |token: &str, seed: usize| -> Result<()> {
        let client = w.net.client.enter(|| Ok(std::net::TcpStream::connect(guarded(SERVER_V4))?))?;
        client.set_nodelay(true)?;
        let request = bearer("/crowd", token);
        std::thread::scope(|scope| {
            for piece in request.chunks(7 + seed % 90) {
                let mut client = &client;
                // One after the other, each on whatever processor its thread is put.
                let _ = scope.spawn(move || std::io::Write::write_all(&mut client, piece)).join();
            }
        });
        Ok(())
    };
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let (one, live, revoked) = (&one, &live, &revoked);
            scope.spawn(move || {
                for round in 0..12 {
                    let token = if (thread + round) % 2 == 0 { live } else { revoked };
                    one(token, thread * 13 + round).unwrap();
                }
            });
        }
    });
    let all = w.server.wait(|connections| connections.iter().flat_map(|c| &c.requests).count() >= 48);
    assert!(all.is_ok(), "every live request is parsed: {}", w.server.requests().len());
    assert!(!w.server.requests().iter().any(|head| head.contains(&revoked)), "a revoked request was parsed");
    Ok(())
}
