//! What clients and proxies that people use make of a refusal: the revoked request fails as the reaction says, and
//! no live one beside it does.

use std::{fmt::Write as _, process::Command};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    dir::Dir,
    has, is_root,
    net::{Namespace, PORT, SERVER_V4},
    process::{Process, run},
};

/// Where the proxies listen, in the client's namespace.
const NGINX: u16 = 8061;
const HAPROXY: u16 = 8062;

/// Sends `rounds` requests on each of eight threads, every fourth with the second token, each thread on a
/// connection that it keeps; prints how often each token got which status.
const PYTHON: &str = r#"
import collections, http.client, sys, threading
host, port, rounds = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
live, revoked = sys.stdin.read().split()
seen, lock = collections.Counter(), threading.Lock()
def work(n):
    c = http.client.HTTPConnection(host, port, timeout=30)
    for i in range(rounds):
        which, token = ("revoked", revoked) if (i + n) % 4 == 3 else ("live", live)
        try:
            c.request("GET", "/py%d-%d" % (n, i), headers={"Authorization": "Bearer " + token})
            r = c.getresponse(); r.read(); got = str(r.status)
        except (OSError, http.client.HTTPException) as e:
            got = "reset"; c.close()
        with lock: seen[which + " " + got] += 1
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
print("\n".join("%s %d" % s for s in sorted(seen.items())))
"#;

/// The same with Node's agent and its pool of connections.
const NODE: &str = r#"
const http = require("http"), fs = require("fs");
const [host, port, rounds] = process.argv.slice(1);
const [live, revoked] = fs.readFileSync(0, "utf8").trim().split(/\s+/);
const agent = new http.Agent({ keepAlive: true, maxSockets: 8 }), seen = {};
const one = (n, i) => new Promise((done) => {
  const which = (i + n) % 4 == 3 ? "revoked" : "live";
  const count = (got) => { const k = which + " " + got; seen[k] = (seen[k] || 0) + 1; done(); };
  const q = http.request({ agent, host, port, path: `/node${n}-${i}`,
    headers: { authorization: "Bearer " + (which == "live" ? live : revoked) } },
    (a) => { a.resume(); a.on("end", () => count(a.statusCode)); a.on("error", () => count("reset")); });
  q.on("error", () => count("reset"));
  q.end();
});
(async () => {
  await Promise.all([...Array(8).keys()].map(async (n) => { for (let i = 0; i < +rounds; i++) await one(n, i); }));
  for (const [k, n] of Object.entries(seen).sort()) console.log(k, n);
  agent.destroy();
})();
"#;

/// Runs one of the two, and gives its lines.
fn traffic(ns: &Namespace, program: &str, to: (&str, u16), tokens: [&str; 2], rounds: u32) -> Result<String> {
    let mut command = Command::new(program);
    let (flag, text) = if program == "node" { ("-e", NODE) } else { ("-c", PYTHON) };
    command.args([flag, text, to.0, &to.1.to_string(), &rounds.to_string()]);
    run(ns, &mut command, tokens.join(" ").as_bytes())?.ok()
}

fn nginx(ns: &Namespace, dir: &Dir) -> Result<Process> {
    let path = |name: &str| dir.path(name).display().to_string();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "    {kind}_temp_path {};", path(&format!("proxy-{kind}")));
    }
    let config = dir.write(
        "proxy.conf",
        &format!(
            r#"daemon off;
user root;
worker_processes 1;
pid {pid};
error_log stderr notice;
events {{ worker_connections 256; }}
http {{
{temporary}
    access_log off;
    upstream guarded {{ server {SERVER_V4}:{PORT} max_fails=0; keepalive 16; }}
    server {{
        listen 127.0.0.1:{NGINX};
        location / {{
            proxy_pass http://guarded;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
        }}
    }}
}}
"#,
            pid = path("proxy.pid"),
        ),
    )?;
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(config);
    let process = Process::start(ns, &mut command)?;
    process.await_line(0, |line| line.contains("start worker process "))?;
    Ok(process)
}

/// Waits for a server that says nothing when it listens: it is asked until it answers.
pub fn await_listener(ns: &Namespace, port: u16) -> Result<()> {
    let mut ask = Command::new("python3");
    let wait = "
import socket, sys, time
for _ in range(3000):
    try: socket.create_connection(('127.0.0.1', int(sys.argv[1]))); break
    except OSError: time.sleep(0.01)
else: sys.exit('nobody listens')
";
    run(ns, ask.args(["-c", wait, &port.to_string()]), b"")?.ok()?;
    Ok(())
}

fn haproxy(ns: &Namespace, dir: &Dir) -> Result<Process> {
    let config = dir.write(
        "haproxy.cfg",
        &format!(
            "global\n    maxconn 256\n    log stderr format raw local0 notice\n\
             defaults\n    mode http\n    timeout connect 10s\n    timeout client 30s\n    timeout server 30s\n\
             frontend f\n    bind 127.0.0.1:{HAPROXY}\n    default_backend b\n\
             backend b\n    http-reuse always\n    server s {SERVER_V4}:{PORT}\n"
        ),
    )?;
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-db").arg("-f").arg(config);
    let process = Process::start(ns, &mut command)?;
    await_listener(ns, HAPROXY)?;
    Ok(process)
}

/// Sends traffic by every client and proxy that is here, `refused` being what each may make of a revoked request.
fn matrix(reaction: &'static str, refused: &dyn Fn(&str, &str) -> bool) -> Result<()> {
    const ROUNDS: u32 = 24;
    let w = World::with(|config, _| {
        config.reaction = reaction;
        Ok(())
    })?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let ns = &w.net.client;
    let mut ways: Vec<(&str, (&str, u16))> = vec![("direct", (SERVER_V4, PORT))];
    let (mut nginx_runs, mut haproxy_runs) = (None, None);
    if has("nginx") {
        nginx_runs = Some(nginx(ns, &w.dir)?);
        ways.push(("nginx", ("127.0.0.1", NGINX)));
    }
    if has("haproxy") {
        haproxy_runs = Some(haproxy(ns, &w.dir)?);
        ways.push(("haproxy", ("127.0.0.1", HAPROXY)));
    }
    for program in ["python3", "node"] {
        if !has(program) {
            continue;
        }
        for (way, to) in &ways {
            let before = w.server.requests().len();
            let seen = traffic(ns, program, *to, [&live, &revoked], ROUNDS)
                .with_context(|| format!("{program}, {way}"))?;
            let mut sums = [0, 0];
            for line in seen.lines() {
                let [which, got, n] = line.split(' ').collect::<Vec<_>>()[..] else {
                    panic!("{program}, {way}: {seen}")
                };
                let is_live = which == "live";
                let fine = if is_live { got == "200" } else { refused(way, got) };
                assert!(fine, "{reaction}, {program}, {way}: {line}\n{seen}");
                sums[usize::from(is_live)] += n.parse::<u32>()?;
            }
            assert_eq!(sums, [8 * ROUNDS / 4, 8 * ROUNDS * 3 / 4], "{program}, {way}: {seen}");
            let parsed = w.server.requests().len() - before;
            assert_eq!(parsed, (8 * ROUNDS * 3 / 4) as usize, "{program}, {way}");
        }
    }
    assert!(!w.server.requests().iter().any(|head| head.contains(&revoked)));
    drop((nginx_runs, haproxy_runs));
    Ok(())
}

#[test]
fn answered_with_http_every_client_and_proxy_passes_the_401_on() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    matrix("respond", &|_, got| got == "401")
}

#[test]
fn answered_with_a_reset_proxies_report_a_bad_gateway_and_no_live_request_fails() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    matrix("reset", &|way, got| match way {
        "nginx" => got == "502",
        // On a connection that it used before, it does to its client what the server did.
        "haproxy" => got == "502" || got == "reset",
        _ => got == "reset",
    })
}

#[test]
fn curl_shows_the_answer_and_goes_on_with_another_connection() -> Result<()> {
    if !is_root() || !has("curl") {
        return Ok(());
    }
    let w = World::make()?;
    let (live, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let url = format!("http://{SERVER_V4}:{PORT}/curl");
    let mut config = String::new();
    for (i, token) in [&live, &live, &revoked, &live].into_iter().enumerate() {
        let _ = writeln!(
            config,
            "{}noproxy = \"*\"\nsilent\noutput = \"/dev/null\"\nmax-time = 30\nurl = \"{url}\"\n\
             header = \"Authorization: Bearer {token}\"\n\
             write-out = \"%{{http_code}} %{{num_connects}} %header{{www-authenticate}}\\n\"",
            if i == 0 { "" } else { "next\n" },
        );
    }
    let got = run(&w.net.client, Command::new("curl").args(["-q", "-K", "-"]), config.as_bytes())?.ok()?;
    let lines: Vec<_> = got.lines().map(str::trim).collect();
    assert_eq!(lines, ["200 1", "200 0", "401 0 Bearer error=\"invalid_token\"", "200 1"], "{got}");
    Ok(())
}
