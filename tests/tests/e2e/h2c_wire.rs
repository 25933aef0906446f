//! HTTP/2 in the clear from a client that speaks TCP as it likes, and from servers of other kinds.

use std::{
    cell::{Cell, RefCell},
    fmt::Write as _,
    net::SocketAddr,
    process::Command,
};

use anyhow::Result;
use portcullis_tests::{
    World,
    cgroup::ControlGroup,
    client::{Client, bearer},
    h2::{Coding, Nghttpd, Session, Writer, beginning},
    has, is_root, is_thorough,
    net::{SERVER_V4, at},
    process::{Process, run},
    server::{End, Server},
    skip,
    wire::{self, Wire},
};
use proptest::{
    prelude::*,
    test_runner::{Config, RngAlgorithm, TestRng, TestRunner},
};

/// Where HTTP/2 is enabled.
const PORT: u16 = 8084;
/// And where a listener defers.
const DEFERRED: u16 = 8085;

fn there() -> SocketAddr {
    at(SERVER_V4, PORT)
}

fn world(more: &str) -> Result<World> {
    World::with(|config, _| {
        config.ports.push(PORT);
        let _ = write!(config.kernel, "h2c_ports = [{PORT}]\n{more}");
        Ok(())
    })
}

/// What the wire does to one stream of requests.
#[derive(Clone, Debug)]
struct Plan {
    /// Which of three requests is revoked; none where beyond.
    revoked: usize,
    /// They are written plain.
    plain: bool,
    /// Where the stream is cut.
    cuts: Vec<prop::sample::Index>,
    /// In what order pieces are first sent, which of them twice, which with a checksum that is wrong, which with other
    /// bytes.
    order: Vec<(prop::sample::Index, bool, bool, bool)>,
}

fn plans() -> impl Strategy<Value = Plan> {
    let order =
        (any::<prop::sample::Index>(), any::<bool>(), prop::bool::weighted(0.2), prop::bool::weighted(0.1));
    (
        0..4usize,
        any::<bool>(),
        prop::collection::vec(any::<prop::sample::Index>(), 0..12),
        prop::collection::vec(order, 0..12),
    )
        .prop_map(|(revoked, plain, cuts, order)| Plan { revoked, plain, cuts, order })
}

#[test]
fn whatever_the_wire_does_no_block_of_a_revoked_token_is_read_whole() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let w = world("")?;
    let wire = RefCell::new(Wire::open(&w.net)?);
    let server = Nghttpd::start(&w.net.server, &w.dir, at(wire::SERVER, PORT), &[])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let cases = if is_thorough() { 1000 } else { 60 };
    let config = Config { cases, failure_persistence: None, max_shrink_iters: 20, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let count = Cell::new(0);
    runner
        .run(&plans(), |plan| {
            count.set(count.get() + 1);
            let n = count.get();
            let mut wire = wire.borrow_mut();
            let mut writer = Writer::default();
            let coding = if plan.plain { Coding::Plain } else { Coding::Usual };
            let mut stream = beginning();
            for i in 0..3 {
                let token = if i == plan.revoked { &revoked } else { &live };
                stream.extend(writer.bearer(&format!("/n{n}-{i}"), token, coding).unwrap());
            }
            let mut cuts: Vec<usize> = plan.cuts.iter().map(|i| i.index(stream.len())).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            cuts.dedup();
            let mut talk = wire.connect(PORT, &[]).unwrap();
            for (which, twice, lost, other) in &plan.order {
                let i = which.index(cuts.len() - 1);
                let mut piece = stream[cuts[i]..cuts[i + 1]].to_vec();
                if *other {
                    // With a good checksum it would be another client's stream: only a copy that TCP drops is sent.
                    for b in &mut piece {
                        *b ^= 1;
                    }
                }
                for _ in 0..=u8::from(*twice) {
                    talk.put_odd(cuts[i], &piece, |f| f.sum_off = u16::from(*lost || *other)).unwrap();
                }
            }
            talk.carry_through(&stream, 97, usize::MAX).unwrap();
            let other_first = plan.order.iter().any(|o| o.3);
            let parsed = |i: usize| server.read(&format!(":path: /n{n}-{i}"));
            for i in 0..3 {
                if i < plan.revoked && plan.revoked == 3 && !other_first {
                    prop_assert_eq!(parsed(i), 1, "request {} of {:?}: {}", i, &plan, talk.story());
                }
                if i > plan.revoked {
                    prop_assert_eq!(parsed(i), 0, "request {} of {:?}: {}", i, &plan, talk.story());
                }
            }
            prop_assert_eq!(server.read(&revoked), 0, "{:?}: {}", &plan, talk.story());
            if plan.revoked < 3 {
                prop_assert!(talk.end.is_some(), "{:?}: {}", &plan, talk.story());
            }
            Ok(())
        })
        .map_err(|e| anyhow::anyhow!("{e}"))
}

#[test]
fn nginx_reads_nothing_of_a_revoked_request_also_where_it_defers() -> Result<()> {
    if !is_root() || !has("nginx") {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.extend([PORT, DEFERRED]);
        config.kernel = format!("h2c_ports = [{PORT}, {DEFERRED}]");
        Ok(())
    })?;
    let path = |name: &str| w.dir.path(name).display().to_string();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "    {kind}_temp_path {};", path(&format!("nginx-{kind}")));
    }
    let file = w.dir.write(
        "nginx.conf",
        &format!(
            "daemon off;\nuser root;\nworker_processes 1;\npid {};\nerror_log stderr notice;\nevents {{ worker_connections 64; }}\nhttp {{\n{temporary}    log_format line 'ACCESS $request_uri $http_authorization';\n    access_log /dev/stderr line;\n    server {{\n        listen {SERVER_V4}:{PORT} http2;\n        listen {SERVER_V4}:{DEFERRED} http2 deferred;\n        location / {{ return 200 \"own\\n\"; }}\n    }}\n}}\n",
            path("nginx.pid")
        ),
    )?;
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(file);
    let nginx = Process::start(&w.net.server, &mut command)?;
    nginx.await_line(0, |line| line.contains("start worker process "))?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    for port in [PORT, DEFERRED] {
        for coding in [Coding::Usual, Coding::Plain] {
            let mut session = Session::connect(&w.net.client, at(SERVER_V4, port))?;
            let request = session.writer.bearer("/live", &live, coding)?;
            session.send(&[beginning(), request].concat());
            assert_eq!(session.finish(1)?, 200, "{port}");
            assert_eq!(session.ask("/next", &live, coding)?, 200, "{port}");
            let request = session.writer.bearer("/revoked", &revoked, coding)?;
            session.send(&request);
            session.end()?;
            assert!(session.told.goaway.is_some(), "{port}: {:?}", session.told);
            let mut session = Session::connect(&w.net.client, at(SERVER_V4, port))?;
            let request = session.writer.bearer("/revoked", &revoked, coding)?;
            session.send(&[beginning(), request].concat());
            session.end()?;
            assert!(session.told.statuses.is_empty(), "{port}: {:?}", session.told);
        }
    }
    nginx.await_lines(|lines| lines.iter().filter(|line| line.contains("ACCESS /next")).count() == 4);
    let seen = |text: &str| nginx.lines().iter().filter(|line| line.contains(text)).count();
    assert_eq!((seen("ACCESS /live"), seen("ACCESS /next"), seen("/revoked"), seen(&revoked)), (4, 4, 0, 0));
    Ok(())
}

#[test]
fn gate_reads_http2_too_and_as_a_door_knows_what_guard_has_read() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    for (gate, interface) in [("read", false), ("door", true)] {
        let Some(group) = ControlGroup::make(&format!("h2c-{gate}"))? else {
            skip("no cgroup version 2 here");
            return Ok(());
        };
        let w = World::with(|config, _| {
            config.ports.push(PORT);
            config.kernel = format!(
                "gate = \"{gate}\"\ngate_cgroup = \"{}\"\nh2c_ports = [{PORT}]",
                group.path().display()
            );
            if !interface {
                config.interface.clear();
            }
            Ok(())
        })?;
        let documents = w.dir.path("documents");
        std::fs::create_dir_all(&documents)?;
        std::fs::write(documents.join("ok"), "ok\n")?;
        let mut command = group.command("sh");
        command.args(["-c", "exec \"$@\" 1>&2", "sh", "nghttpd", "--no-tls", "-v", "-a", SERVER_V4, "-d"]);
        let server = Process::start(&w.net.server, command.arg(&documents).arg(PORT.to_string()))?;
        server.await_line(0, |line| line.contains("listen"))?;
        let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
        w.daemon.revoke(&revoked)?;
        let mut session = Session::connect(&w.net.client, there())?;
        session.send(&beginning());
        assert_eq!(session.ask("/ok", &live, Coding::Usual)?, 200, "{gate}");
        assert_eq!(session.ask("/ok", &live, Coding::Usual)?, 200, "{gate}");
        let request = session.writer.bearer("/ok?revoked", &revoked, Coding::Usual)?;
        session.send(&request);
        session.end()?;
        assert_eq!(session.told.statuses.len(), 2, "{gate}: {:?}", session.told);
        // HTTP/1 at the same port goes back to the program that reads it.
        let mut client = Client::connect(&w.net.client, there())?;
        client.send(&bearer("/one", &revoked))?;
        let (told, end) = client.rest()?;
        assert!(told.starts_with(b"HTTP/1.1 401 ") || end == End::Reset, "{gate}");
        assert!(!server.lines().iter().any(|line| line.contains(&revoked)), "{gate}");
        assert!(w.daemon.counter("revoked")? >= 2, "{gate}");
    }
    Ok(())
}

#[test]
fn a_port_where_http2_is_enabled_later_or_no_more_is_treated_as_it_is_configured() -> Result<()> {
    if !is_root() || !has("nghttpd") {
        return Ok(());
    }
    let mut w = world("")?;
    let _server = Nghttpd::start(&w.net.server, &w.dir, there(), &[])?;
    let live = w.mint.hs256()?;
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    assert_eq!(session.ask("/ok", &live, Coding::Usual)?, 200);
    w.daemon.stop()?;
    w.config.kernel.clear();
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    w.daemon.restart()?;
    let request = session.writer.bearer("/ok", &live, Coding::Usual)?;
    session.send(&request);
    assert_eq!(session.end()?.statuses.len(), 1, "what is not read any more ends");
    let mut session = Session::connect(&w.net.client, there())?;
    session.send(&beginning());
    session.end()?;
    assert!(session.told.frames <= 1, "no more than the server's first: {:?}", session.told);
    assert_eq!(w.daemon.counter("refused_http2")?, 1);
    Ok(())
}

#[test]
fn curl_and_http1_share_a_port() -> Result<()> {
    if !is_root() || !has("curl") {
        return Ok(());
    }
    let w = world("")?;
    let server = Server::start(&w.net.server, &[there()])?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    for (token, status) in [(&live, "200"), (&revoked, "401")] {
        let mut command = Command::new("curl");
        command.args([
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "--max-time",
            "30",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
        ]);
        command.args(["-H", "@-", &format!("http://{SERVER_V4}:{PORT}/")]);
        let done = run(&w.net.client, &mut command, format!("Authorization: Bearer {token}").as_bytes())?;
        assert_eq!(done.stdout, status);
    }
    assert_eq!(server.requests().len(), 1);
    Ok(())
}
