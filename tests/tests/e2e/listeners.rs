//! Where the front doors listen: Unix sockets, TLS, mutual TLS, each with HTTP/1 and HTTP/2.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Result, ensure};
use portcullis_tests::{
    PATIENCE, World,
    dir::repository,
    gateway::{self, envoy, start_envoy},
    has, is_root,
    net::{Namespace, SERVER_V4},
    pki::Pki,
    process::{Finished, run},
};

const TLS: &str = "127.0.0.1:8443";
const MUTUAL: &str = "127.0.0.1:8444";

fn world() -> Result<World> {
    World::with(|config, dir| {
        let pki = Pki(dir);
        pki.authority("ca")?;
        pki.authority("stranger")?;
        pki.certificate("server", "ca")?;
        pki.certificate("gateway", "ca")?;
        pki.certificate("impostor", "stranger")?;
        let path = |name: &str| dir.path(name).display().to_string();
        let (certificate, key, ca) = (path("server.pem"), path("server.key"), path("ca.pem"));
        config.listen = format!("\"unix:{}\"", path("doors.sock"));
        config.serve = format!(
            "socket_mode = \"0600\"\n\
             [[serve.tls]]\nlisten = [\"{TLS}\"]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\n\
             [[serve.tls]]\nlisten = [\"{MUTUAL}\"]\ncertificate = \"{certificate}\"\nkey = \"{key}\"\nclient_ca = \"{ca}\"\n"
        );
        Ok(())
    })
}

/// Asks `/auth` and gives the status and the protocol's version.
fn ask(ns: &Namespace, url: &str, token: &str, more: &[&str]) -> Result<Finished> {
    let mut command = Command::new("curl");
    command.args([
        "-q",
        "-sS",
        "-o",
        "/dev/null",
        "-w",
        "%{http_code} %{http_version}",
        "--max-time",
        "30",
        "-H",
        "@-",
    ]);
    command.args(more).arg(url);
    let headers =
        format!("Authorization: Bearer {token}\nX-Original-Method: GET\nX-Original-URI: /v1/orders\n");
    run(ns, &mut command, headers.as_bytes())
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap_or_default()
}

#[test]
fn every_listener_serves_both_versions_of_http() -> Result<()> {
    if !is_root() || !has("curl") || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let (ns, token) = (&w.net.server, w.mint.hs256()?);
    let file = |name: &str| w.dir.path(name);
    let (ca, socket) = (file("ca.pem"), file("doors.sock"));
    let (certificate, key) = (file("gateway.pem"), file("gateway.key"));
    let tls = format!("https://{TLS}/auth");
    let mutual = format!("https://{MUTUAL}/auth");
    let with_ca = ["--cacert", text(&ca)];
    let shown = [&with_ca[..], &["--cert", text(&certificate), "--key", text(&key)]].concat();
    for (version, as_http1, as_http2) in
        [("1.1", "--http1.1", "--http1.1"), ("2", "--http2", "--http2-prior-knowledge")]
    {
        let expected = format!("200 {version}");
        assert_eq!(ask(ns, &tls, &token, &[&with_ca[..], &[as_http1]].concat())?.ok()?, expected);
        assert_eq!(ask(ns, &mutual, &token, &[&shown[..], &[as_http1]].concat())?.ok()?, expected);
        let unix = ["--unix-socket", text(&socket), as_http2];
        assert_eq!(ask(ns, "http://doors/auth", &token, &unix)?.ok()?, expected);
        assert_eq!(ask(ns, "http://127.0.0.1:8181/auth", &token, &[as_http2])?.ok()?, expected);
    }
    // A denial is one by every way.
    w.daemon.revoke(&token)?;
    assert_eq!(ask(ns, &mutual, &token, &[&shown[..], &["--http2"]].concat())?.ok()?, "401 2");
    Ok(())
}

#[test]
fn without_a_certificate_that_the_authority_signed_nobody_asks() -> Result<()> {
    if !is_root() || !has("curl") || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let (ns, token) = (&w.net.server, w.mint.hs256()?);
    let file = |name: &str| w.dir.path(name);
    let (ca, mutual) = (file("ca.pem"), format!("https://{MUTUAL}/auth"));
    let before = w.daemon.metrics()?;
    let none = ask(ns, &mutual, &token, &["--cacert", text(&ca)])?;
    assert!(none.code != 0 && !none.stdout.starts_with('2'), "{none:?}");
    let (certificate, key) = (file("impostor.pem"), file("impostor.key"));
    let impostor = ["--cacert", text(&ca), "--cert", text(&certificate), "--key", text(&key)];
    let impostor = ask(ns, &mutual, &token, &impostor)?;
    assert!(impostor.code != 0 && !impostor.stdout.starts_with('2'), "{impostor:?}");
    let plain = ask(ns, &format!("http://{MUTUAL}/auth"), &token, &[])?;
    assert!(plain.code != 0, "{plain:?}");
    let decisions = |m: &str| {
        m.lines()
            .filter(|l| l.starts_with("portcullis_decisions_total"))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    };
    assert_eq!(decisions(&before), decisions(&w.daemon.metrics()?), "nothing was decided");
    Ok(())
}

#[test]
fn a_renewed_certificate_is_read_without_a_restart_and_a_bad_one_is_not() -> Result<()> {
    if !is_root() || !has("curl") || !has("openssl") {
        return Ok(());
    }
    let w = world()?;
    let (ns, token) = (&w.net.server, w.mint.hs256()?);
    let (ca, url) = (w.dir.path("ca.pem"), format!("https://{TLS}/auth"));
    let good =
        |ca: &PathBuf| ask(ns, &url, &token, &["--cacert", text(ca)]).map(|f| f.stdout.starts_with("200"));
    assert!(good(&ca)?);
    fs::write(w.dir.path("server.pem"), "not a certificate")?;
    // Each connection looks, at most every few seconds.
    let until = |done: &mut dyn FnMut() -> Result<bool>| -> Result<()> {
        let start = Instant::now();
        while !done()? {
            ensure!(start.elapsed() < PATIENCE, "it did not come to that");
        }
        Ok(())
    };
    until(&mut || {
        assert!(good(&ca)?, "the old one stays");
        Ok(w.daemon.log().iter().any(|l| l.contains("the old one stays")))
    })?;
    Pki(&w.dir).certificate("server", "stranger")?;
    let stranger = w.dir.path("stranger.pem");
    until(&mut || good(&stranger))?;
    assert!(!good(&ca)?);
    Ok(())
}

#[test]
fn keys_that_others_may_read_are_refused_at_start() -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    if !is_root() || !has("openssl") {
        return Ok(());
    }
    let mut w = world()?;
    w.daemon.stop()?;
    fs::set_permissions(w.dir.path("server.key"), fs::Permissions::from_mode(0o644))?;
    let error = w.daemon.restart().unwrap_err();
    assert!(format!("{error:#}").contains("chmod o="), "{error:#}");
    Ok(())
}

#[test]
fn envoy_asks_by_a_unix_socket() -> Result<()> {
    let Some(binary) = envoy().filter(|_| is_root() && has("curl")) else { return Ok(()) };
    let w = gateway::world_with("", |_| ())?;
    let socket = w.dir.path("doors.sock");
    // The same daemon, on a socket alone.
    let mut w = w;
    w.daemon.stop()?;
    let mut config = w.config.clone();
    config.listen = format!("\"unix:{}\"", socket.display());
    w.dir.write("portcullis.toml", &config.toml(&w.dir))?;
    w.daemon.restart()?;
    let shipped = fs::read_to_string(repository().join("deploy/envoy/envoy.yaml"))?;
    let here = shipped
        .replace("address: 127.0.0.1, port_value: 8000", &format!("address: {SERVER_V4}, port_value: 8000"))
        .replace(
            "{socket_address: {address: 127.0.0.1, port_value: 8181}}",
            &format!("{{pipe: {{path: {}}}}}", socket.display()),
        );
    let _envoy = start_envoy(&w.net.server, &w.dir, &binary, &here)?;
    let good = w.mint.hs256()?;
    assert_eq!(gateway::ask(&w, 8000, "/v1/orders", &[&gateway::bearer(&good)])?.status, 200);
    assert_eq!(gateway::ask(&w, 8000, "/v1/orders", &[])?.status, 401);
    w.daemon.stop()?;
    assert!(!socket.exists(), "a socket is removed with its daemon");
    Ok(())
}
