//! How long revocations last: over kill -9, until their time, until they are lifted, and when there is no room.

use std::{
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, bail};
use nix::sys::signal::Signal;
use portcullis_tests::{
    PATIENCE, World,
    client::{Answer, Client, bearer},
    is_root,
    net::{Namespace, SERVER_V4, guarded},
    process::{Process, Watched},
};

/// What a client that never stops asking got: the number of refusals, and anything else.
#[derive(Debug, Default)]
struct Got {
    refused: u64,
    else_got: Vec<String>,
}

/// Asks with `token` on one connection after the other until `stop`.
fn keep_asking(ns: &Namespace, token: &str, got: &Watched<Got>, stop: &AtomicBool) {
    let ask = || -> Result<Answer> {
        let mut client = Client::connect(ns, guarded(SERVER_V4))?;
        client.send(&bearer("/loop", token))?;
        Answer::take(&mut client.rest()?.0)
    };
    while !stop.load(Ordering::SeqCst) {
        match ask() {
            Ok(answer) if answer.status == 401 && !answer.is_servers() => got.change(|got| got.refused += 1),
            other => got.change(|got| got.else_got.push(format!("{other:?}"))),
        }
    }
}

#[test]
fn kill_9_and_restart_let_no_revoked_request_through() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (token, live) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&token)?;
    let (got, stop) = (Arc::new(Watched::<Got>::default()), Arc::new(AtomicBool::new(false)));
    let client = {
        let (ns, token, got, stop) =
            (w.net.client.clone(), token.clone(), Arc::clone(&got), Arc::clone(&stop));
        thread::spawn(move || keep_asking(&ns, &token, &got, &stop))
    };
    let more = |n: u64| {
        let from = got.get().refused;
        assert!(got.wait(|got| got.refused >= from + n || !got.else_got.is_empty()), "no more refusals");
    };
    for _ in 0..5 {
        w.daemon.kill9()?;
        more(20);
        w.daemon.restart()?;
        more(20);
        let status = w.daemon.status()?;
        assert_eq!(status["kernel"]["adopted"], true, "{status}");
        assert_eq!(status["kernel"]["attached"][0]["adopted"], true, "{status}");
        assert_eq!(status["revocations"]["revoked"], 1, "{status}");
    }
    stop.store(true, Ordering::SeqCst);
    client.join().unwrap();
    let got = got.get();
    assert_eq!(got.else_got, Vec::<String>::new());
    assert!(got.refused >= 200);
    let log = w.server.connections();
    assert!(log.iter().all(|c| c.bytes == 0), "the server read something of a revoked request");
    w.assert_passes(&live);
    Ok(())
}

#[test]
fn a_revocation_ends_at_its_time_by_the_kernel_alone() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (short, long) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&long)?;
    w.daemon.json(&["revoke", "--ttl", "3s"], &short)?;
    w.assert_refused(&short);
    assert!(w.daemon.stop()?.success());
    // Nothing tells that its time has come but that it passes.
    let start = std::time::Instant::now();
    loop {
        let mut client = w.connect()?;
        client.send(&bearer("/expiry", &short))?;
        if client.answer()?.is_servers() {
            break;
        }
        if start.elapsed() > PATIENCE {
            bail!("the revocation of three seconds still holds");
        }
    }
    w.assert_passes(&short);
    w.assert_refused(&long);
    w.daemon.restart()?;
    w.assert_passes(&short);
    w.assert_refused(&long);
    Ok(())
}

#[test]
fn lifting_one_revocation_of_a_token_leaves_the_other() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = w.mint.hs256()?;
    let (first, second) = (w.daemon.revoke(&token)?, w.daemon.revoke(&token)?);
    assert_ne!(first, second);
    w.daemon.json(&["unrevoke", &first], "")?;
    w.assert_refused(&token);
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.assert_refused(&token);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 401);
    w.daemon.json(&["unrevoke", &second], "")?;
    w.assert_passes(&token);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let again = w.daemon.ask(&["unrevoke", &second], "")?;
    assert_eq!(again.code, 4, "{again:?}");
    assert!(again.stderr.contains(&format!("there is no revocation {second}")), "{again:?}");
    Ok(())
}

#[test]
fn a_revocation_by_fingerprint_is_the_same_as_by_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.es256()?;
    let shown = w.daemon.json(&["fingerprint"], &token)?;
    let fingerprint = shown["fingerprint"].as_str().unwrap();
    w.daemon.json(&["revoke", "--fingerprint", fingerprint], "")?;
    w.assert_refused(&token);
    let listed = w.daemon.json(&["revocations"], "")?;
    assert_eq!(listed[0]["fingerprint"], fingerprint);
    Ok(())
}

#[test]
fn a_full_map_refuses_clearly_and_loses_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        (config.max_entries, config.policy_entries) = (8, 2);
        Ok(())
    })?;
    let mut tokens = Vec::new();
    for _ in 0..6 {
        let token = w.mint.hs256()?;
        w.daemon.revoke(&token)?;
        tokens.push(token);
    }
    let seventh = w.mint.hs256()?;
    let refused = w.daemon.ask(&["revoke"], &seventh)?;
    assert_eq!(refused.code, 4, "{refused:?}");
    for part in ["the deny map is full", "6 tokens are revoked and all stay so", "`kernel.max_entries`"] {
        assert!(refused.stderr.contains(part), "{refused:?}");
    }
    for token in &tokens {
        w.assert_refused(token);
    }
    w.assert_passes(&seventh);
    // All of them: one that was seen finds no room, and that is said. The decision path refuses it.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seventh)?.status, 200);
    let told = w.daemon.json(&["lockdown", "--all", "--ttl", "10m"], "")?;
    assert_eq!(
        (&told["live"], &told["condemned"], &told["not_in_kernel"]),
        (&1.into(), &0.into(), &1.into())
    );
    assert!(told["warning"].as_str().unwrap().contains("no room in the kernel's map"), "{told}");
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seventh)?.status, 401);
    w.daemon.ask(&["unlock", "--all"], "")?.ok()?;
    // A second revocation of a token that is revoked takes no more room.
    let again = w.daemon.revoke(&tokens[0])?;
    w.daemon.json(&["unrevoke", &again], "")?;
    // Policies have their own share.
    let old = [
        w.mint.aged(7200, "orders:read")?,
        w.mint.aged(7200, "orders:read")?,
        w.mint.aged(7200, "orders:read")?,
    ];
    for token in &old {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", token)?.status, 401);
    }
    w.assert_refused(&old[0]);
    w.assert_refused(&old[1]);
    w.assert_passes(&old[2]);
    w.daemon.kill9()?;
    w.daemon.restart()?;
    for token in &tokens {
        w.assert_refused(token);
    }
    let listed = w.daemon.json(&["revocations"], "")?;
    let first = listed[0]["id"].to_string();
    w.daemon.json(&["unrevoke", &first], "")?;
    w.assert_passes(&tokens[0]);
    w.daemon.revoke(&seventh)?;
    w.assert_refused(&seventh);
    for token in &tokens[1..] {
        w.assert_refused(token);
    }
    // With more room: what is in force stays so throughout, under the old programs too.
    w.daemon.stop()?;
    w.config.max_entries = 64;
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    w.assert_refused(&seventh);
    w.daemon.restart()?;
    for token in tokens[1..].iter().chain([&seventh, &old[0], &old[1]]) {
        w.assert_refused(token);
    }
    for _ in 0..20 {
        w.daemon.revoke(&w.mint.hs256()?)?;
    }
    // With too little: it says so and the kernel goes on as it is.
    w.daemon.stop()?;
    w.config.max_entries = 8;
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    let error = w.daemon.restart().unwrap_err();
    assert!(format!("{error:#}").contains("the deny map has room for 6"), "{error:#}");
    w.assert_refused(&seventh);
    Ok(())
}

#[test]
fn an_open_event_stream_does_not_hold_up_the_daemons_end() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = w.mint.hs256()?;
    w.daemon.revoke(&token)?;
    let asking = w.daemon.prepare(&["events", "--json"])?;
    // Its output is read on standard error, which is where helpers listen.
    let mut shell = Command::new("sh");
    shell.args(["-c", r#"exec "$@" 1>&2"#, "sh"]).arg(asking.get_program()).args(asking.get_args());
    let mut events = Process::start(&w.net.server, &mut shell)?;
    // The stream is open once an event comes by it; one before that may have been too early.
    while !events.lines().iter().any(|line| line.contains("token_revoked")) {
        w.assert_refused(&token);
        w.daemon.status()?;
    }
    assert!(w.daemon.stop()?.success(), "it ends by itself");
    assert!(events.end(Signal::SIGTERM).is_ok());
    w.daemon.restart()?;
    w.assert_refused(&token);
    Ok(())
}
