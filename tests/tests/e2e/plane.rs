//! Orders to revoke: many at once, given twice, watched, receipted, taken elsewhere, audited.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::net::UnixStream,
    process::Stdio,
};

use anyhow::{Context as _, Result};
use portcullis_tests::{PATIENCE, World, is_root, is_thorough, process::Finished};
use serde_json::{Value, json};

/// One request on the admin socket: status and body.
pub(super) fn admin(w: &World, method: &str, path: &str, headers: &str, body: &str) -> Result<(u16, String)> {
    let mut socket = UnixStream::connect(w.dir.path("admin.sock"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let len = body.len();
    write!(
        socket,
        "{method} {path} HTTP/1.1\r\nHost: p\r\nConnection: close\r\nContent-Length: {len}\r\n{headers}\r\n{body}"
    )?;
    let mut answer = String::new();
    socket.read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").context("an answer has a head")?;
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).context("a status")?;
    Ok((status, body.to_owned()))
}

fn count(w: &World) -> Result<u64> {
    w.daemon.status()?["revocations"]["claims"].as_u64().context("claims")
}

#[test]
fn an_order_that_comes_twice_revokes_once() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let order = |token: &str| json!({"token": token, "ttl": "1h"}).to_string();
    let key = "Idempotency-Key: 4711\r\n";
    let revoke = |w: &World, body: &str| admin(w, "POST", "/v1/revocations", key, body);
    let id = |body: &str| serde_json::from_str::<Value>(body).map(|v| v["id"].clone());
    let first = revoke(&w, &order(&token))?;
    assert_eq!(first.0, 201, "{first:?}");
    let second = revoke(&w, &order(&token))?;
    assert_eq!((second.0, id(&second.1)?, count(&w)?), (201, id(&first.1)?, 1));
    let reused = revoke(&w, &order(&other))?;
    assert_eq!(reused.0, 422);
    assert!(reused.1.contains("idempotency_key_reused"), "{}", reused.1);
    w.assert_passes(&other);
    // The key outlives the daemon.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    let third = revoke(&w, &order(&token))?;
    assert_eq!((third.0, id(&third.1)?, count(&w)?), (201, id(&first.1)?, 1));
    // One that was lifted is not put in force again by a repetition.
    w.daemon.ask(&["unrevoke", &id(&first.1)?.to_string()], "")?.ok()?;
    let fourth = revoke(&w, &order(&token))?;
    assert_eq!((fourth.0, count(&w)?), (404, 0), "{fourth:?}");
    w.assert_passes(&token);
    assert_eq!(admin(&w, "POST", "/v1/revocations", "Idempotency-Key: a b\r\n", &order(&token))?.0, 400);
    let selector = r#"{"selector":{"iss":"https://i","sub":"a"}}"#;
    let key = "Idempotency-Key: s\r\n";
    let one = admin(&w, "POST", "/v1/revocations", key, selector)?;
    let two = admin(&w, "POST", "/v1/revocations", key, selector)?;
    assert_eq!((one.0, id(&one.1)?, count(&w)?), (201, id(&two.1)?, 0), "{one:?} {two:?}");
    Ok(())
}

#[test]
fn many_are_revoked_exported_and_taken_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|c, _| {
        c.max_entries = 65_536;
        Ok(())
    })?;
    let tokens: Vec<String> = (0..3).map(|_| w.mint.hs256()).collect::<Result<_>>()?;
    let mut lines: Vec<String> =
        (1..=9000).map(|n| json!({"fingerprint": format!("{n:032x}")}).to_string()).collect();
    lines[17].clone_from(&tokens[0]);
    lines[5000] = json!({"token": tokens[1], "ttl": "2h", "reason": "of its own"}).to_string();
    lines[6000] = String::new();
    lines[7000] = r#"{"fingerprint":"zz"}"#.to_owned();
    lines[8000] = r#"{"selector":{"iss":"https://i","sub":"alice"}}"#.to_owned();
    let file = w.dir.write("many.txt", &lines.join("\n"))?;
    let options = ["revoke", "--ttl", "1h", "--reason", "leak", "--many", file.to_str().unwrap()];
    let done = w.daemon.ask(&options, "")?;
    assert_eq!(done.code, 4, "{done:?}");
    assert!(done.stdout.contains("revoked: 8998, refused: 1"), "{done:?}");
    assert!(done.stderr.contains("line 7001:"), "{done:?}");
    assert_eq!(count(&w)?, 8997, "and one selector");
    for token in &tokens[..2] {
        w.assert_refused(token);
    }
    w.assert_passes(&tokens[2]);
    let own = w.daemon.json(&["revocations", "--reason", "of its own"], "")?;
    assert_eq!(own.as_array().map(Vec::len), Some(1), "{own}");
    let by = w.daemon.json(&["revocations", "list", "--kind", "selector"], "")?;
    assert_eq!(by[0]["selector"]["sub"], "alice");
    // With `--json` every line has its answer.
    let told = w.daemon.ask(&["revoke", "--many", "-", "--json"], &format!("{}\nbad token\n", tokens[2]))?;
    let told: Vec<Value> = told.stdout.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    assert!(told[..2].iter().any(|t| t["line"] == 1 && t["id"].is_u64()), "{told:?}");
    assert!(told[..2].iter().any(|t| t["line"] == 2 && t["code"] == "bad_request"), "{told:?}");
    assert_eq!(told[2], json!({"done": true, "accepted": 1, "refused": 1}));
    // All of it goes to another store.
    let export = w.daemon.ask(&["revocations", "export"], "")?.ok()?;
    assert_eq!(export.lines().count(), 8999);
    assert!(w.daemon.stop()?.success());
    fs::remove_dir_all(w.dir.path("revocations"))?;
    w.daemon.command(&["detach"])?.ok()?;
    w.daemon.restart()?;
    assert_eq!(count(&w)?, 0);
    for token in &tokens {
        w.assert_passes(token);
    }
    let back = w.daemon.ask(&["revocations", "import"], &export)?.ok()?;
    assert!(back.contains("revoked: 8999, refused: 0"), "{back}");
    for token in &tokens {
        w.assert_refused(token);
    }
    let again = w.daemon.json(&["revocations", "--source", "import", "--limit", "2"], "")?;
    assert_eq!((&again[0]["reason"], &again[1]["source"]), (&"leak".into(), &"import".into()));
    // Fingerprints of another key are of no use here.
    let other = export.lines().next().context("a line")?.replace("\"key_id\":", "\"key_id\":1");
    let refused = w.daemon.ask(&["revocations", "import"], &other)?;
    assert!(refused.stderr.contains("another key than this host's"), "{refused:?}");
    Ok(())
}

#[test]
fn a_receipt_tells_when_and_the_audit_log_bears_it_out() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = w.mint.hs256()?;
    let id = w.daemon.revoke(&token)?;
    let receipt = w.daemon.json(&["revocations", "receipt", &id], "")?;
    let (synced, in_force) = (receipt["synced_us"].as_u64(), receipt["in_force_us"].as_u64());
    assert!(synced > Some(0) && in_force >= synced && in_force < Some(10_000_000), "{receipt}");
    let shown = w.daemon.ask(&["revocations", "receipt", &id], "")?.ok()?;
    assert!(shown.contains("on disk") && shown.contains("ms later"), "{shown}");
    let claim = w.daemon.json(&["revocations", "show", &id], "")?;
    assert_eq!(claim["id"].to_string(), id);
    // More than the log's last word: the next entry takes it along.
    w.daemon.ask(&["unrevoke", &id, "--reason", "found again"], "")?.ok()?;
    let lifted = w.daemon.json(&["revocations", "receipt", &id], "")?;
    assert_eq!(
        (&lifted["lifted"], &lifted["by"]["reason"]),
        (&true.into(), &"found again".into()),
        "{lifted}"
    );
    let shown = w.daemon.ask(&["revocations", "receipt", &id], "")?.ok()?;
    assert!(shown.contains("lifted") && shown.contains("by uid:0: found again"), "{shown}");
    assert_eq!(w.daemon.ask(&["revocations", "receipt", "99"], "")?.code, 4);
    let second = w.daemon.revoke(&token)?;
    let before = w.daemon.json(&["revocations", "receipt", &second], "")?;
    w.daemon.kill9()?;
    w.daemon.restart()?;
    let after = w.daemon.json(&["revocations", "receipt", &second], "")?;
    assert_eq!((&after["hash"], &after["entry"]), (&before["hash"], &before["entry"]));
    let expect = format!("{}:{}", receipt["entry"], receipt["hash"].as_str().context("a hash")?);
    let verified = w.daemon.command(&["audit", "verify", "--expect", &expect])?.ok()?;
    let of_lifting = format!("{}:{}", lifted["entry"], lifted["hash"].as_str().context("a hash")?);
    w.daemon.command(&["audit", "verify", "--expect", &of_lifting])?.ok()?;
    assert!(verified.contains("the audit log verifies: entries 1 to"), "{verified}");
    let wrong = w.daemon.command(&["audit", "verify", "--expect", "1:abcd"])?;
    assert_eq!(wrong.code, 1, "{wrong:?}");
    assert_eq!(w.daemon.ask(&["unrevoke", "99"], "")?.code, 4);
    assert!(w.daemon.stop()?.success());
    let shown = w.daemon.command(&["audit", "show", "--json"])?.ok()?;
    let lines: Vec<Value> = shown.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |action: &str| lines.iter().find(|l| l["action"] == action).cloned().unwrap_or_default();
    assert_eq!((&of("revoke")["actor"], &of("lift")["reason"]), (&"uid:0".into(), &"found again".into()));
    assert!(!lines.iter().any(|l| l["action"] == "expired"), "nothing was over: {shown}");
    assert_eq!((&of("refused")["of"], &of("refused")["actor"]), (&"lift".into(), &"uid:0".into()), "{shown}");
    assert!(!shown.contains(token.split('.').nth(2).unwrap()), "no token is in it");
    // A line that was changed.
    let log = w.dir.path("revocations/log-0000000000000001");
    let place =
        fs::read(&log)?.windows(11).position(|w| w == b"found again").context("the reason is there")?;
    let mut file = fs::OpenOptions::new().write(true).open(&log)?;
    file.seek(SeekFrom::Start(place as u64))?;
    file.write_all(b"never  lost")?;
    let broken = w.daemon.command(&["audit", "verify"])?;
    assert_eq!(broken.code, 1);
    assert!(broken.stderr.contains("the audit log does not verify"), "{broken:?}");
    Ok(())
}

#[test]
fn changes_are_seen_as_they_come_and_from_where_one_was() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (before, token) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&before)?;
    let mut command = w.daemon.prepare(&["revocations", "watch", "--json", "--after", "0"])?;
    let mut watcher = command.stdout(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(watcher.stdout.take().context("its output")?).lines();
    let mut next = || -> Result<Value> { Ok(serde_json::from_str(&lines.next().context("a line")??)?) };
    let first = next()?;
    assert_eq!((&first["event"], &first["data"]["source"]), (&"revoked".into(), &"admin".into()), "{first}");
    let id = w.daemon.revoke(&token)?;
    let second = next()?;
    assert_eq!(second["data"]["id"].to_string(), id);
    w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
    let third = next()?;
    assert_eq!((&third["event"], third["data"]["ids"].to_string()), (&"lifted".into(), format!("[{id}]")));
    watcher.kill()?;
    watcher.wait()?;
    // A browser's way to go on.
    let mut socket = UnixStream::connect(w.dir.path("admin.sock"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(
        socket,
        "GET /v1/revocations/watch HTTP/1.1\r\nHost: p\r\nLast-Event-ID: {}\r\n\r\n",
        second["entry"]
    )?;
    let mut text = String::new();
    while !text.contains("data: ") {
        let mut part = [0; 1024];
        let n = socket.read(&mut part)?;
        assert!(n > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..n]));
    }
    assert!(text.contains("text/event-stream") && text.contains("event: lifted"), "{text}");
    Ok(())
}

#[test]
fn a_lockdown_holds_until_it_is_ended() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (seen, unseen) = (w.mint.hs256()?, w.mint.hs256()?);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seen)?.status, 200);
    let locked = w.daemon.ask(&["lockdown", "--all", "--ttl", "5m", "--reason", "drill"], "")?.ok()?;
    assert!(locked.contains("locked down: everything until"), "{locked}");
    assert!(locked.contains(r#"{"emergency":{"everything":true}}"#), "{locked}");
    w.assert_refused(&seen);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &unseen)?.status, 401);
    let listed = w.daemon.json(&["revocations", "--source", "lockdown"], "")?;
    assert_eq!(listed[0]["reason"], "drill");
    // Another order is no lockdown, and is not ended by mistake.
    let id = w.daemon.revoke(&unseen)?;
    let wrong = w.daemon.ask(&["unlock", &id], "")?;
    assert_eq!(wrong.code, 4);
    assert!(wrong.stderr.contains("no lockdown in force"), "{wrong:?}");
    w.daemon.ask(&["unlock", "--all"], "")?.ok()?;
    w.assert_passes(&seen);
    w.assert_refused(&unseen);
    // And what matches nobody stops nobody.
    for what in [["--role", "contractor"], ["--client", "another"], ["--region", "nowhere"]] {
        w.daemon.ask(&[&["lockdown"], what.as_slice()].concat(), "")?.ok()?;
    }
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seen)?.status, 200);
    let none: Finished = w.daemon.ask(&["lockdown"], "")?;
    assert_eq!(none.code, 2, "something must be named");
    Ok(())
}

#[test]
fn kill_9_at_any_moment_loses_no_acknowledged_revocation() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let rounds = if is_thorough() { 1000 } else { 12 };
    let mut w = World::with(|c, _| {
        c.max_entries = 65_536;
        Ok(())
    })?;
    let mut acknowledged: Vec<String> = Vec::new();
    let mut lifted: Vec<String> = Vec::new();
    for round in 0..rounds {
        let before = count(&w)?;
        // A stream of orders, and the end in the middle of it: after as many answers as the round says.
        let socket = UnixStream::connect(w.dir.path("admin.sock"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        let lines: Vec<String> = (0..12_288).map(|n| format!("{{\"fingerprint\":\"{n:032x}\"}}\n")).collect();
        let lines = lines.concat();
        let head = format!(
            "POST /v1/revocations/batch HTTP/1.1\r\nHost: p\r\nContent-Length: {}\r\n\r\n",
            lines.len()
        );
        let mut writer = socket.try_clone()?;
        let writing = std::thread::spawn(move || {
            // The daemon is killed meanwhile.
            let _ = writer.write_all(head.as_bytes()).and_then(|()| writer.write_all(lines.as_bytes()));
        });
        let mut reader = BufReader::new(socket);
        let (mut text, wanted) = (String::new(), 1 + (round * 37) % 9000);
        let mut got = 0;
        while got < wanted && reader.read_line(&mut text)? > 0 {
            got += usize::from(text.contains("\"id\":"));
            text.clear();
        }
        let mut fewer = 0;
        if round % 3 == 0
            && let Some(id) = acknowledged.pop()
        {
            w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
            lifted.push(id);
            fewer = 1;
        }
        let token = w.mint.hs256()?;
        let id = w.daemon.revoke(&token)?;
        acknowledged.push(id);
        w.daemon.kill9()?;
        // What was still sent in one piece was acknowledged too; a line that is cut off was not.
        while reader.read_line(&mut text).is_ok_and(|n| n > 0) {
            if text.ends_with("}\n") && text.contains("\"id\":") {
                got += 1;
            }
            text.clear();
        }
        assert!(writing.join().is_ok());
        w.assert_refused(&token);
        w.daemon.restart()?;
        w.assert_refused(&token);
        let stored = count(&w)?;
        assert!(stored + fewer > before + got as u64, "round {round}: {stored} of {before} and {got}");
        for id in acknowledged.iter().rev().take(5) {
            w.daemon.json(&["revocations", "show", id], "")?;
        }
        for id in lifted.iter().rev().take(5) {
            assert_eq!(w.daemon.ask(&["revocations", "show", id], "")?.code, 4, "{id} is back");
        }
        if round % 25 == 24 {
            // So that the store does not grow for ever.
            w.daemon.command(&["audit", "verify"])?.ok()?;
            assert!(w.daemon.stop()?.success());
            fs::remove_dir_all(w.dir.path("revocations"))?;
            w.daemon.restart()?;
            (acknowledged, lifted) = (Vec::new(), Vec::new());
        }
    }
    w.daemon.command(&["audit", "verify"])?.ok()?;
    Ok(())
}

#[test]
fn a_copy_made_while_the_daemon_runs_takes_the_lost_stores_place() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (first, second) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&first)?;
    let (store, copy) = (w.dir.path("revocations"), w.dir.path("copy").display().to_string());
    let run = |w: &World, args: &[&str]| w.daemon.command(&[&["revocations"], args].concat());
    // As a shell completes names of directories.
    let slashed = format!("{copy}/");
    let made: Value = serde_json::from_str(&run(&w, &["backup", &slashed, "--json"])?.ok()?)?;
    assert_eq!(made["revocations"], 1, "{made}");
    w.daemon.revoke(&second)?;
    // Not beside a daemon, and not over what is there without being told so.
    let refused = run(&w, &["restore", &copy, "--force"])?;
    assert!(refused.code != 0 && refused.stderr.contains("another daemon has it open"), "{refused:?}");
    assert!(w.daemon.stop()?.success());
    let refused = run(&w, &["restore", &copy])?;
    assert!(refused.code != 0 && refused.stderr.contains("holds 2 revocations"), "{refused:?}");
    // The disk is lost.
    fs::remove_dir_all(&store)?;
    let done = run(&w, &["restore", &copy])?.ok()?;
    assert!(done.contains("1 revocations") && done.contains("nothing was there"), "{done}");
    w.daemon.restart()?;
    w.assert_refused(&first);
    // What was ordered since the copy was made is as it was then, in the kernel too.
    w.assert_passes(&second);
    assert_eq!(count(&w)?, 1);
    w.daemon.revoke(&second)?;
    w.assert_refused(&second);
    // By force what is there is set aside.
    assert!(w.daemon.stop()?.success());
    let done = run(&w, &["restore", &copy, "--force"])?.ok()?;
    assert!(done.contains("was there: 2 revocations") && done.contains("before-restore"), "{done}");
    w.daemon.restart()?;
    assert_eq!(count(&w)?, 1);
    let verified = w.daemon.command(&["audit", "verify"])?.ok()?;
    let audit = w.daemon.command(&["audit", "show"])?.ok()?;
    assert!(audit.contains("restore"), "{verified}\n{audit}");
    Ok(())
}
