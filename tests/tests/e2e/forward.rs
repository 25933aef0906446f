//! Forward-auth by the gateways' own configurations, as they are shipped in deploy/.

use std::{fs, process::Command};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::http,
    config::DOORS,
    dir::repository,
    gateway::{self, ask, bearer, is_the_services},
    has, is_root,
    net::SERVER_V4,
    process::Process,
};

const PORT: u16 = 8000;

/// A shipped file, listening on the server's address and not on loopback alone.
fn shipped(name: &str, from: &str, to: &str) -> Result<String> {
    let text = fs::read_to_string(repository().join("deploy").join(name))?;
    assert!(text.contains(from), "{name} has no `{from}`");
    Ok(text.replace(from, to))
}

fn haproxy(w: &World, open: bool) -> Result<Process> {
    let listen = format!("bind {SERVER_V4}:{PORT}");
    let config = shipped("haproxy/haproxy.cfg", "bind 127.0.0.1:8000", &listen)?;
    let lua = repository().join("deploy/haproxy/portcullis.lua");
    let config = config.replace("portcullis.lua", &lua.display().to_string());
    let file = w.dir.write("haproxy.cfg", &config)?;
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-W", "-db", "-f"]).arg(file);
    command.env("PORTCULLIS_OPEN", if open { "1" } else { "" });
    let process = Process::start(&w.net.server, &mut command)?;
    process.await_line(0, |line| line.contains("Loading success"))?;
    Ok(process)
}

fn caddy(w: &World) -> Result<Process> {
    let config = shipped("caddy/Caddyfile", "http://127.0.0.1:8000", &format!("http://{SERVER_V4}:{PORT}"))?;
    let file = w.dir.write("Caddyfile", &config)?;
    let mut command = Command::new("caddy");
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(file).env("HOME", w.dir.path(""));
    let process = Process::start(&w.net.server, &mut command)?;
    process.await_line(0, |line| line.contains("serving initial configuration"))?;
    Ok(process)
}

/// What every gateway must do that passes on the true status.
fn serves(w: &World, name: &str) -> Result<()> {
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    let allowed = ask(w, PORT, "/v1/orders?a=b", &[&bearer(&good), "X-Portcullis-Subject: forged"])?;
    assert!(is_the_services(&allowed), "{name}: {allowed:?}");
    let head = w.server.requests().pop().unwrap_or_default().to_lowercase();
    assert!(head.contains("x-portcullis-subject: sub-") && !head.contains("forged"), "{name}: {head}");
    let missing = ask(w, PORT, "/v1/orders", &[])?;
    assert_eq!(
        (missing.status, missing.header("www-authenticate")),
        (401, Some("Bearer")),
        "{name}: {missing:?}"
    );
    assert!(missing.body.contains("token_missing"), "{name}: {missing:?}");
    let limited = ask(w, PORT, "/limited", &[&bearer(&good)])?;
    assert_eq!((limited.status, limited.body.as_str()), (429, "slow down"), "{name}: {limited:?}");
    assert_eq!((limited.header("retry-after"), limited.header("x-quota")), (Some("1"), Some("0")), "{name}");
    assert_eq!(ask(w, PORT, "/closed", &[&bearer(&good)])?.status, 503, "{name}");
    let broken = ask(w, PORT, "/broken", &[&bearer(&good)])?;
    assert_eq!((broken.status, broken.header("x-portcullis-reason")), (503, Some("policy_error")), "{name}");
    // What a client says of the request it is not.
    let forged = [
        "X-Original-URI: /nobody",
        "X-Original-Method: GET",
        "X-Forwarded-Uri: /nobody",
        "X-Real-IP: 127.0.0.1",
    ];
    assert_eq!(ask(w, PORT, "/v1/orders", &forged)?.status, 401, "{name}");
    let two = ask(w, PORT, "/v1/orders", &[&bearer(&good), &bearer(&revoked)])?;
    assert!([400, 401].contains(&two.status), "{name}: {two:?}");
    assert_eq!(ask(w, PORT, "/v1/orders", &[&bearer(&revoked)])?.status, 200, "{name}");
    let served = w.server.requests().len();
    w.daemon.revoke(&revoked)?;
    let refused = ask(w, PORT, "/v1/orders", &[&bearer(&revoked)])?;
    assert_eq!(
        (refused.status, refused.header("x-portcullis-reason")),
        (401, Some("token_revoked")),
        "{name}"
    );
    assert_eq!(w.server.requests().len(), served, "{name}");
    Ok(())
}

#[test]
fn haproxy_asks_by_its_own_lua_and_gives_the_true_status() -> Result<()> {
    if !is_root() || !has("haproxy") || !has("curl") {
        return Ok(());
    }
    let mut w = gateway::world("")?;
    let closed = haproxy(&w, false)?;
    serves(&w, "haproxy")?;
    let good = bearer(&w.mint.hs256()?);
    w.daemon.freeze(true)?;
    assert_eq!(ask(&w, PORT, "/v1/orders", &[&good])?.status, 503, "hangs");
    w.daemon.freeze(false)?;
    w.daemon.kill9()?;
    assert_eq!(ask(&w, PORT, "/v1/orders", &[&good])?.status, 503, "gone");
    w.daemon.restart()?;
    assert_eq!(ask(&w, PORT, "/v1/orders", &[&good])?.status, 200, "again");
    drop(closed);
    let _open = haproxy(&w, true)?;
    assert_eq!(ask(&w, PORT, "/closed", &[&good])?.status, 503, "a denial is one where failures pass");
    w.daemon.kill9()?;
    assert!(is_the_services(&ask(&w, PORT, "/v1/orders", &[&good])?), "gone, and lets pass");
    Ok(())
}

#[test]
fn caddy_asks_by_forward_auth_and_gives_the_true_status() -> Result<()> {
    if !is_root() || !has("caddy") || !has("curl") {
        return Ok(());
    }
    let mut w = gateway::world("")?;
    let _caddy = caddy(&w)?;
    serves(&w, "caddy")?;
    let good = bearer(&w.mint.hs256()?);
    w.daemon.kill9()?;
    assert_eq!(ask(&w, PORT, "/v1/orders", &[&good])?.status, 502, "gone");
    w.daemon.restart()?;
    assert_eq!(ask(&w, PORT, "/v1/orders", &[&good])?.status, 200, "again");
    Ok(())
}

#[test]
fn nginx_gets_403_for_what_it_does_not_know_and_others_the_true_status() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = gateway::world("")?;
    let token = w.mint.hs256()?;
    for (path, meant, reason) in [
        ("/limited", 429, "policy_denied"),
        ("/closed", 503, "policy_denied"),
        ("/broken", 503, "policy_error"),
    ] {
        let head = |door: &str| {
            format!(
                "GET {door} HTTP/1.1\r\nX-Original-Method: GET\r\nX-Original-URI: {path}\r\nAuthorization: Bearer {token}"
            )
        };
        let nginx = http(&w.net.server, DOORS.parse()?, &head("/auth"), b"")?;
        let meant_text = meant.to_string();
        assert_eq!(
            (nginx.status, nginx.header("x-portcullis-status")),
            (403, Some(meant_text.as_str())),
            "{path}"
        );
        assert_eq!(nginx.header("x-portcullis-reason"), Some(reason), "{path}");
        let other = http(&w.net.server, DOORS.parse()?, &head("/forward-auth"), b"")?;
        assert_eq!((other.status, other.header("x-portcullis-status")), (meant, None), "{path}");
    }
    Ok(())
}
