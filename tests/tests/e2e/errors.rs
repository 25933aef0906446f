//! What a person reads who made a mistake: one sentence that names the thing and the next step.

use std::{fs, process::Command};

use anyhow::Result;
use portcullis_tests::{
    World, config::Config, daemon::binary, is_root, net::Namespace, process::run, world::Ground,
};

/// Starts a daemon that must not start, and asserts how it ends.
#[track_caller]
fn assert_fails(ns: &Namespace, config: &std::path::Path, wanted: &[&str]) {
    // `timeout` ends a daemon that starts after all; then the code is another.
    let mut command = Command::new("timeout");
    command.arg("60").arg(binary().unwrap()).args(["run", "--config"]).arg(config);
    let ended = run(ns, &mut command, b"").unwrap();
    assert_eq!(ended.code, 1, "{ended:?}");
    let said: Vec<&str> = ended.stderr.lines().filter(|line| !line.starts_with('{')).collect();
    assert_eq!(said.len(), 1, "one line, not: {}", ended.stderr);
    assert!(said[0].starts_with("portcullis: "), "{}", said[0]);
    for part in wanted {
        assert!(said[0].contains(part), "`{part}` is not in: {}", said[0]);
    }
    for noise in ["panicked", "backtrace", "Error {", "Err("] {
        assert!(!ended.stderr.contains(noise), "{}", ended.stderr);
    }
}

#[test]
fn an_interface_that_is_not_there_is_named() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    for attach in ["auto", "tcx", "clsact"] {
        let config = Config { interface: "eth77".to_owned(), attach, ..Config::default() };
        let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
        assert_fails(&ground.net.server, &path, &["there is no network interface `eth77`", "`ip link`"]);
    }
    Ok(())
}

#[test]
fn a_pin_directory_elsewhere_than_on_a_bpf_file_system_is_named() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    let config = Config { pin_dir: "pins", ..Config::default() };
    let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
    let pins = ground.dir.path("pins").display().to_string();
    assert_fails(&ground.net.server, &path, &["`kernel.pin_dir`", &pins, "mount -t bpf"]);
    Ok(())
}

#[test]
fn a_second_daemon_does_not_start_and_takes_nothing_from_the_first() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut config = Config::default();
    let w = World::with(|c, _| {
        config = c.clone();
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    // The very same configuration: the store is the first thing that is taken.
    let store = w.dir.path("revocations").display().to_string();
    assert_fails(&w.net.server, &w.dir.path("portcullis.toml"), &[&store, "another daemon"]);
    w.assert_refused(&token);
    // Another in everything but the socket.
    let second = Config {
        store: "second",
        pin_dir: "bpf/second",
        doors: "127.0.0.1:8182",
        observe: "127.0.0.1:9188",
        ..config
    };
    let path = w.dir.write("second.toml", &second.toml(&w.dir))?;
    let socket = w.dir.path("admin.sock").display().to_string();
    assert_fails(
        &w.net.server,
        &path,
        &[&socket, "`admin.socket`", "another daemon serves it", "stop that one"],
    );
    w.assert_refused(&token);
    assert_eq!(w.daemon.status()?["ready"], true);
    Ok(())
}

#[test]
fn another_fingerprint_key_than_the_stores_or_the_maps_is_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    let id = w.daemon.status()?["key_id"].as_str().unwrap().to_owned();
    assert!(w.daemon.stop()?.success());
    let (key, store) = (w.dir.path("fingerprint.key"), w.dir.path("revocations"));
    let kept = fs::read_to_string(&key)?;
    fs::remove_file(&key)?;
    let config = w.dir.path("portcullis.toml");
    assert_fails(
        &w.net.server,
        &config,
        &[&store.display().to_string(), &format!("belongs to fingerprint key {id}"), "restore that key file"],
    );
    w.assert_refused(&token);
    fs::rename(&store, w.dir.path("away"))?;
    let pins = w.dir.path("bpf/portcullis").display().to_string();
    assert_fails(&w.net.server, &config, &[&pins, &format!("fingerprint key {id}"), "`portcullis detach`"]);
    w.assert_refused(&token);
    // What the sentence says helps.
    fs::remove_dir_all(&store)?;
    fs::rename(w.dir.path("away"), &store)?;
    w.dir.write("fingerprint.key", &kept)?;
    w.daemon.restart()?;
    w.assert_refused(&token);
    Ok(())
}

#[test]
fn a_command_without_a_daemon_says_so() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    let socket = ground.dir.path("admin.sock").display().to_string();
    for args in [&["status"][..], &["revoke"], &["revocations"], &["events"], &["reload"]] {
        let mut command = Command::new(binary()?);
        let ended = run(&ground.net.server, command.args(args).args(["--socket", &socket]), b"token")?;
        assert_eq!(ended.code, 3, "{ended:?}");
        assert!(ended.stderr.contains(&socket) && ended.stderr.lines().count() == 1, "{ended:?}");
    }
    Ok(())
}
