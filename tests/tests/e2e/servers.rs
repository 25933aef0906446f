//! Real servers behind strict mode, which log what they parsed: nginx, Python's and Node's.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;
use portcullis_tests::{
    PATIENCE, World,
    client::{Client, bearer, request},
    dir::Dir,
    has, is_root,
    net::{Namespace, SERVER_V4, at, switch_offloads_off},
    process::Process,
    wire::{DATA, SYN, Wire},
};

/// Ports of the servers, all guarded.
const NGINX: u16 = 8071;
const DEFERRED: u16 = 8072;
const PYTHON: u16 = 8073;
const NODE: u16 = 8074;

const PYTHON_SERVER: &str = r#"
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = 65536
    def do_GET(self):
        tokens = self.headers.get_all("Authorization", []) + self.headers.get_all("X-Api-Key", [])
        sys.stderr.write(" ".join(["PARSED", self.path, *tokens, "200"]) + "\n")
        n = int(self.headers.get("Content-Length") or 0)
        self.rfile.read(n)
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")
    do_POST = do_GET
    def log_message(self, *args):
        pass
class Server(http.server.ThreadingHTTPServer):
    request_queue_size = 128
    def handle_error(self, *args):
        pass
s = Server(("0.0.0.0", int(sys.argv[1])), Handler)
print("LISTENS", file=sys.stderr, flush=True)
s.serve_forever()
"#;

const NODE_SERVER: &str = r#"
const http = require("http");
const s = http.createServer((q, a) => {
  console.error("PARSED " + q.url + " " + (q.headers["authorization"] || "") + " " + (q.headers["x-api-key"] || "") + " 200");
  q.resume();
  q.on("end", () => a.end("ok\n"));
});
s.listen(+process.argv[1], "0.0.0.0", () => console.error("LISTENS"));
"#;

/// A server and where it listens.
pub(super) struct Under {
    pub(super) name: &'static str,
    pub(super) port: u16,
    process: Process,
}

impl Under {
    /// Waits until it has parsed so many requests for a path, and sees that there are no more.
    fn assert_parsed(&self, path: &str, wanted: usize) {
        let start = format!("PARSED {path} ");
        let count =
            |lines: &[String]| lines.iter().filter(|l| l.contains(&start) && l.ends_with(" 200")).count();
        // It may log a request only after it was answered.
        self.process.await_lines(|lines| count(lines) >= wanted);
        assert_eq!(count(&self.process.lines()), wanted, "{} {path}", self.name);
    }

    /// Whole requests that held a token. (nginx also logs one whose head was never completed, as a 400.)
    pub(super) fn holding(&self, token: &str) -> usize {
        let whole =
            |line: &&String| line.contains("PARSED") && line.ends_with(" 200") && line.contains(token);
        self.process.lines().iter().filter(whole).count()
    }
}

fn nginx(ns: &Namespace, dir: &Dir) -> Result<Process> {
    let path = |name: &str| dir.path(name).display().to_string();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "    {kind}_temp_path {};", path(&format!("servers-{kind}")));
    }
    let config = dir.write(
        "servers.conf",
        &format!(
            r#"daemon off;
user root;
worker_processes 1;
pid {pid};
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
{temporary}
    log_format line 'PARSED $uri $http_authorization $http_x_api_key $status';
    access_log /dev/stderr line;
    keepalive_requests 10000;
    large_client_header_buffers 4 64k;
    client_max_body_size 0;
    server {{
        listen {NGINX};
        listen {DEFERRED} deferred;
        location / {{ return 200 "ok\n"; }}
    }}
}}
"#,
            pid = path("servers.pid"),
        ),
    )?;
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(config);
    let process = Process::start(ns, &mut command)?;
    process.await_line(0, |line| line.contains("start worker process "))?;
    Ok(process)
}

fn script(ns: &Namespace, program: &str, flag: &str, text: &str, port: u16) -> Result<Process> {
    let mut command = Command::new(program);
    command.args([flag, text, &port.to_string()]);
    let process = Process::start(ns, &mut command)?;
    process.await_line(0, |line| line == "LISTENS")?;
    Ok(process)
}

/// The servers that are installed; the deferred port of nginx's is among nginx's.
pub(super) fn servers(w: &World) -> Result<Vec<Under>> {
    let ns = &w.net.server;
    let mut all = Vec::new();
    if has("nginx") {
        all.push(Under { name: "nginx", port: NGINX, process: nginx(ns, &w.dir)? });
    }
    all.push(Under {
        name: "Python",
        port: PYTHON,
        process: script(ns, "python3", "-c", PYTHON_SERVER, PYTHON)?,
    });
    if has("node") {
        all.push(Under { name: "Node", port: NODE, process: script(ns, "node", "-e", NODE_SERVER, NODE)? });
    }
    Ok(all)
}

pub(super) fn world(interface: &str) -> Result<World> {
    World::with(|config, _| {
        interface.clone_into(&mut config.interface);
        config.ports.extend([NGINX, DEFERRED, PYTHON, NODE]);
        Ok(())
    })
}

/// Sends a stream in pieces and reads what comes back; to its end, or for as long as an answer is awaited.
pub(super) fn exchange(
    ns: &Namespace,
    port: u16,
    host: &str,
    pieces: &[&[u8]],
    answers: usize,
) -> Result<String> {
    use std::io::Read as _;
    let mut client = Client::connect(ns, at(host, port))?;
    for piece in pieces {
        if client.send(piece).is_err() {
            break;
        }
    }
    let (mut got, mut buffer) = (Vec::new(), [0; 4096]);
    client.0.set_read_timeout(Some(PATIENCE))?;
    while String::from_utf8_lossy(&got).matches("HTTP/1.1 ").count() < answers {
        match client.0.read(&mut buffer) {
            Ok(n) if n > 0 => got.extend_from_slice(&buffer[..n]),
            _ => break,
        }
    }
    Ok(String::from_utf8_lossy(&got).into_owned())
}

/// How a client may write a token: the head's lines, `@` standing for the token; whether a server may well serve it with
/// a live token (otherwise it is refused by guard or the server).
const SPELLINGS: &[(&str, bool)] = &[
    ("Authorization: Bearer @", true),
    ("authorization: bearer @", true),
    ("AUTHORIZATION: BEARER @", true),
    ("aUtHoRiZaTiOn: BeArEr @", true),
    ("Authorization:Bearer @", true),
    ("Authorization:     Bearer     @", true),
    ("Authorization:\tBearer\t@", true),
    ("Authorization: \t Bearer \t @", true),
    ("Authorization: Bearer @ \t ", true),
    ("Authorization : Bearer @", false),
    ("Authorization:\r\n Bearer @", false),
    ("Authorization: Bearer\r\n @", false),
    ("Authorization: Bearer @\r\nAuthorization: Bearer live", false),
    ("Authorization: Bearer live\r\nAuthorization: Bearer @", false),
    ("Authorization: Bearer live, Bearer @", false),
    ("X-Api-Key: @", true),
    ("x_api_key: @", true),
    ("X: y\nAuthorization: Bearer @", false),
    ("X: y\rAuthorization: Bearer @", false),
    ("Authorization: Bearer @\r\nTransfer-Encoding: chunked\r\nContent-Length: 5", false),
    ("Content-Length: 0\r\nContent-Length: 5\r\nAuthorization: Bearer @", false),
    ("Transfer-Encoding: xchunked\r\nAuthorization: Bearer @", false),
    ("Authorization: Bearer \x0b@", false),
    ("Authorization: Bearer\u{a0}@", false),
];

#[test]
fn however_a_token_is_written_and_cut_no_server_parses_it_once_revoked() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let mut wrong = Vec::new();
    let revoked = w.mint.hs256()?;
    w.daemon.revoke(&revoked)?;
    for s in &all {
        for (i, (lines, servable)) in SPELLINGS.iter().enumerate() {
            for (token, live) in [(w.mint.hs256()?, true), (revoked.clone(), false)] {
                let head = format!("GET /s{i} HTTP/1.1\r\nHost: a\r\n{}\r\n\r\n", lines.replace('@', &token));
                let bytes = head.as_bytes();
                for cut in [0, bytes.len() / 3, bytes.len() / 2, bytes.len() - 5, bytes.len() - 1] {
                    let got = exchange(&w.net.client, s.port, SERVER_V4, &[&bytes[..cut], &bytes[cut..]], 1)?;
                    let served = got.starts_with("HTTP/1.1 200");
                    if live && *servable && !served {
                        wrong.push(format!("{}: {lines:?} cut at {cut}: live: {got:?}", s.name));
                    }
                    if !live && served {
                        wrong.push(format!("{}: {lines:?} cut at {cut}: served: {got:?}", s.name));
                    }
                }
            }
        }
        if s.holding(&revoked) != 0 {
            wrong.push(format!("{} parsed a revoked token", s.name));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

#[test]
fn a_deferring_listener_and_syn_cookies_change_nothing() -> Result<()> {
    if !is_root() || !has("nginx") {
        return Ok(());
    }
    let w = world("srv0")?;
    let nginx = nginx(&w.net.server, &w.dir)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut wire = Wire::open(&w.net)?;
    for cookies in ["1", "2", "0"] {
        w.net.server.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/tcp_syncookies", cookies)?))?;
        for port in [DEFERRED, NGINX] {
            let (good, bad) = (bearer("/live", &live), bearer("/revoked", &revoked));
            for cut in [1, 20, good.len() / 2, good.len() - 1, good.len()] {
                let got = exchange(&w.net.client, port, SERVER_V4, &[&good[..cut], &good[cut..]], 1)?;
                assert!(
                    got.starts_with("HTTP/1.1 200"),
                    "cookies {cookies}, port {port}, cut {cut}: {got:?}"
                );
                let got = exchange(&w.net.client, port, SERVER_V4, &[&bad[..cut], &bad[cut..]], 1)?;
                assert!(
                    !got.starts_with("HTTP/1.1 200"),
                    "cookies {cookies}, port {port}, cut {cut}: {got:?}"
                );
            }
            // The first data with the handshake's last segment, in two ways: lost behind guard or not.
            for (lost, token) in [(false, &live), (true, &live), (false, &revoked), (true, &revoked)] {
                let bytes = bearer("/third", token);
                let half = bytes.len() / 2;
                let mut talk = wire.talk(port);
                talk.send_at(0, SYN, &[], |f| f.seq = f.seq.wrapping_sub(1))?;
                talk.await_synack()?;
                talk.send_at(0, DATA, &bytes[..half], |f| f.sum_off = u16::from(lost))?;
                talk.carry_through(&bytes, 100, 1)?;
                let served = String::from_utf8_lossy(&talk.stream).starts_with("HTTP/1.1 200");
                let of = if token == &live { "live" } else { "revoked" };
                assert_eq!(
                    served,
                    token == &live,
                    "cookies {cookies}, port {port}, lost {lost}, {of}: {talk:?}"
                );
            }
        }
    }
    let parsed = |line: &String| line.contains(&revoked) && line.ends_with(" 200");
    assert!(!nginx.lines().iter().any(parsed), "nginx parsed a revoked token");
    Ok(())
}

#[test]
fn kept_alive_and_pipelined_requests_are_each_judged() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    for s in &all {
        let mut client = Client::connect(&w.net.client, at(SERVER_V4, s.port))?;
        for i in 0..1000 {
            let answer = client.ask(&bearer("/kept", &live))?;
            assert_eq!(answer.status, 200, "{}: request {i}: {answer:?}", s.name);
        }
        let answer = client.ask(&bearer("/kept", &revoked))?;
        assert_eq!(answer.status, 401, "{}: {answer:?}", s.name);
        s.assert_parsed("/kept", 1000);
        for deep in [2, 3, 8, 16] {
            let path = format!("/deep{deep}");
            let mut stream = bearer(&path, &live).repeat(deep - 1);
            stream.extend(bearer(&path, &revoked));
            let got = exchange(&w.net.client, s.port, SERVER_V4, &[&stream], deep)?;
            let count = |text: &str| got.matches(text).count();
            assert_eq!(
                (count("HTTP/1.1 200"), count("HTTP/1.1 401")),
                (deep - 1, 1),
                "{} {deep}: {got}",
                s.name
            );
            s.assert_parsed(&path, deep - 1);
        }
        assert_eq!(s.holding(&revoked), 0, "{}", s.name);
    }
    Ok(())
}

#[test]
fn bodies_pass_whatever_they_hold_and_the_next_head_is_read() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world("srv0")?;
    let all = servers(&w)?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let inner = String::from_utf8(bearer("/inner", &revoked))?;
    let bearer_line = format!("Authorization: Bearer {live}");
    let chunked = format!("{:x}\r\n{inner}\r\n5;a=b\r\nhello\r\n0\r\nX-Trailer: y\r\n\r\n", inner.len());
    for s in &all {
        let post = |path: &str, framing: &str, body: &str| {
            let head =
                String::from_utf8_lossy(&request(path, &[&bearer_line, framing])).replace("GET ", "POST ");
            format!("{head}{body}").into_bytes()
        };
        let mut kinds = vec![post("/length", &format!("Content-Length: {}", inner.len()), &inner)];
        // Python's server reads no chunked bodies.
        if s.name != "Python" {
            kinds.push(post("/chunked", "Transfer-Encoding: chunked", &chunked));
        }
        for first in kinds {
            for piece in [first.len(), 1, 7, 100] {
                let pieces: Vec<&[u8]> = first.chunks(piece).collect();
                let mut client = Client::connect(&w.net.client, at(SERVER_V4, s.port))?;
                for piece in pieces {
                    client.send(piece)?;
                }
                assert_eq!(client.answer()?.status, 200, "{} in pieces of {piece}", s.name);
                let answer = client.ask(&bearer("/after", &revoked))?;
                assert_eq!(answer.status, 401, "{} in pieces of {piece}: {answer:?}", s.name);
            }
        }
        assert_eq!(s.holding(&revoked), 0, "{}", s.name);
    }
    Ok(())
}

#[test]
fn on_loopback_and_without_offloads_it_is_the_same() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for (interface, host) in [("lo", "127.0.0.1"), ("srv0", SERVER_V4)] {
        let w = world(interface)?;
        let all = servers(&w)?;
        let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
        w.daemon.revoke(&revoked)?;
        let (ns, device) = if interface == "lo" { (&w.net.server, "lo") } else { (&w.net.client, "cli0") };
        for offload in ["on", "off"] {
            if offload == "off" {
                switch_offloads_off(ns, device)?;
            }
            let padding = format!("X-Padding: {}", "p".repeat(7000));
            for s in &all {
                for (token, status) in [(&live, "200"), (&revoked, "401")] {
                    let line = format!("Authorization: Bearer {token}");
                    let long = request("/long", &[&padding, &line]);
                    let got = exchange(ns, s.port, host, &[&long], 1)?;
                    assert!(
                        got.contains(&format!("HTTP/1.1 {status}")),
                        "{} {interface} {offload}: {got}",
                        s.name
                    );
                    let two = [bearer("/one", &live), request("/two", &[&padding, &line])].concat();
                    let got = exchange(ns, s.port, host, &[&two], 2)?;
                    let good = got.contains("HTTP/1.1 200") && got.contains(&format!("HTTP/1.1 {status}"));
                    assert!(good, "{} {interface} {offload}, cut: {got}", s.name);
                }
                assert_eq!(s.holding(&revoked), 0, "{}", s.name);
            }
        }
    }
    Ok(())
}
