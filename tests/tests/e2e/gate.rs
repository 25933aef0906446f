//! Gate at the sockets of a control group: as a second door behind guard, and in guard's place.

use std::time::Duration;

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    cgroup::ControlGroup,
    client::{Client, bearer, request},
    has, is_root,
    net::{Namespace, SERVER_V4, at},
    process::Process,
    server::End,
    skip,
};

/// Where the server in the control group listens.
const GATED: u16 = 8066;

/// Answers requests, echoes behind an upgrade, and says what it has parsed.
const SERVER: &str = r#"
import socket, sys, threading
def serve(c):
    got = b""
    try:
        while True:
            while b"\r\n\r\n" not in got:
                more = c.recv(65536)
                if not more: return
                got += more
            head, got = got.split(b"\r\n\r\n", 1)
            print("PARSED", head.decode().replace("\r\n", " "), file=sys.stderr, flush=True)
            if b"pgrade: websocket" in head:
                c.sendall(b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n")
                while True:
                    more = c.recv(65536)
                    if not more: return
                    c.sendall(more)
            c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n")
    except OSError: pass
s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
s.bind(("0.0.0.0", int(sys.argv[1]))); s.listen(64)
print("LISTENS", file=sys.stderr, flush=True)
while True:
    c, _ = s.accept()
    threading.Thread(target=serve, args=(c,), daemon=True).start()
"#;

/// A world whose server is in a control group that gate is attached to.
struct Gated {
    // Fields drop in order of declaration: the daemon and the server before the group.
    w: World,
    server: Process,
    _group: ControlGroup,
}

impl Gated {
    fn make(name: &str, gate: &str, interface: bool) -> Result<Option<Self>> {
        if !has("python3") {
            return Ok(None);
        }
        let Some(group) = ControlGroup::make(name)? else {
            skip("no cgroup version 2 here");
            return Ok(None);
        };
        let w = World::with(|config, _| {
            config.ports.push(GATED);
            config.kernel = format!("gate = \"{gate}\"\ngate_cgroup = \"{}\"", group.path().display());
            if !interface {
                config.interface.clear();
            }
            Ok(())
        })?;
        let mut command = group.command("python3");
        let server = Process::start(&w.net.server, command.args(["-c", SERVER, &GATED.to_string()]))?;
        server.await_line(0, |line| line == "LISTENS")?;
        Ok(Some(Self { w, server, _group: group }))
    }

    fn parsed(&self, text: &str) -> usize {
        self.server.lines().iter().filter(|l| l.starts_with("PARSED") && l.contains(text)).count()
    }
}

fn connect(ns: &Namespace, address: &str) -> Result<Client> {
    Client::connect(ns, at(address, GATED))
}

#[test]
fn behind_the_second_door_requests_by_a_guarded_way_pass_and_by_another_do_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(g) = Gated::make("door", "door", true)? else { return Ok(()) };
    let (w, client) = (&g.w, &g.w.net.client);
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let whole = bearer("/door", &live);
    for cut in [1, 40, whole.len() - 2] {
        let mut c = connect(client, SERVER_V4)?;
        c.send(&whole[..cut])?;
        assert_eq!(c.ask(&whole[cut..])?.status, 200);
        assert_eq!(c.ask(&whole)?.status, 200);
        assert_eq!(c.ask(&bearer("/door", &revoked))?.status, 401);
    }
    // A body, and what follows an upgrade.
    let mut c = connect(client, SERVER_V4)?;
    let line = format!("Authorization: Bearer {live}");
    c.send(&request("/socket", &[&line, "Connection: upgrade", "Upgrade: websocket"]))?;
    let mut upgraded = Vec::new();
    read_until(&mut c, &mut upgraded, b"\r\n\r\n")?;
    c.send(b"frames of another protocol\n")?;
    read_until(&mut c, &mut upgraded, b"another protocol\n")?;
    assert_eq!((g.parsed(&revoked), w.daemon.counter("gate_dropped")?), (0, 0));
    assert!(w.daemon.counter("gate_passed")? > 8);
    // Loopback is not guarded here: nobody has read what comes by it.
    let mut local = connect(&w.net.server, "127.0.0.1")?;
    let before = g.parsed(&live);
    local.send(&bearer("/loopback", &live))?;
    w.daemon.await_counter("gate_dropped", 2)?;
    assert_eq!(g.parsed(&live), before);
    drop(local);
    // The door stays shut while the daemon is away, and is taken away with the rest.
    let mut g = g;
    g.w.daemon.stop()?;
    assert_eq!(connect(&g.w.net.client, SERVER_V4)?.ask(&bearer("/away", &revoked))?.status, 401);
    g.w.daemon.restart()?;
    assert_eq!(connect(&g.w.net.client, SERVER_V4)?.ask(&whole)?.status, 200);
    g.w.daemon.stop()?;
    g.w.daemon.command(&["detach"])?.ok()?;
    assert_eq!(connect(&g.w.net.server, "127.0.0.1")?.ask(&bearer("/open", &revoked))?.status, 200);
    Ok(())
}

fn read_until(c: &mut Client, got: &mut Vec<u8>, end: &[u8]) -> Result<()> {
    use std::io::Read as _;
    let mut buffer = [0; 4096];
    while !got.ends_with(end) {
        let n = c.0.read(&mut buffer).context("read")?;
        anyhow::ensure!(n != 0, "closed after {:?}", String::from_utf8_lossy(got));
        got.extend_from_slice(&buffer[..n]);
    }
    Ok(())
}

#[test]
fn in_guards_place_gate_reads_drops_and_has_connections_ended() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(g) = Gated::make("read", "read", false)? else { return Ok(()) };
    let (w, client) = (&g.w, &g.w.net.client);
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let whole = bearer("/read", &live);
    for cut in [1, 17, 40, 100, whole.len() - 2] {
        let mut c = connect(client, SERVER_V4)?;
        c.send(&whole[..cut])?;
        assert_eq!(c.ask(&whole[cut..])?.status, 200, "cut at {cut}");
        assert_eq!(c.ask(&whole)?.status, 200);
    }
    let bad = bearer("/read", &revoked);
    for (n, cut) in [0, 1, 40, 100, bad.len() - 2].into_iter().enumerate() {
        let mut c = connect(client, SERVER_V4)?;
        if n % 2 == 1 {
            assert_eq!(c.ask(&whole)?.status, 200);
        }
        if cut != 0 {
            c.send(&bad[..cut])?;
        }
        // The daemon may end it before all is sent. Then this call is told of the reset, and no later one.
        if let Err(e) = c.send(&bad[cut..]) {
            let kind = e.downcast_ref::<std::io::Error>().map(std::io::Error::kind);
            assert_eq!(kind, Some(std::io::ErrorKind::ConnectionReset), "cut at {cut}: {e:#}");
            continue;
        }
        c.0.set_read_timeout(Some(Duration::from_secs(20)))?;
        let (bytes, end) = c.rest()?;
        assert_eq!((bytes.len(), end), (0, End::Reset), "cut at {cut}");
    }
    assert_eq!(g.parsed(&revoked), 0);
    assert_eq!(w.daemon.counter("gate_refused")?, 5);
    // An upgrade is followed here too, and a tunnel ends with its token.
    let mut c = connect(client, SERVER_V4)?;
    let line = format!("Authorization: Bearer {live}");
    c.send(&request("/socket", &[&line, "Connection: upgrade", "Upgrade: websocket"]))?;
    let mut upgraded = Vec::new();
    read_until(&mut c, &mut upgraded, b"\r\n\r\n")?;
    c.send(b"frames of another protocol\n")?;
    read_until(&mut c, &mut upgraded, b"another protocol\n")?;
    w.daemon.revoke(&live)?;
    assert_eq!(c.rest()?.1, End::Reset);
    Ok(())
}
