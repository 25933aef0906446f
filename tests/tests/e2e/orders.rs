//! Orders at their edges: ends that no calendar has, lines that come twice, events that were cut off, names after a swap.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    process::Stdio,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::{PATIENCE, World, config::ISSUER, is_root, until};
use serde_json::{Value, json};

use super::plane::admin;

const OLD: &str = "fingerprint.key";
const NEXT: &str = "next.key";

fn now() -> Result<i64> {
    Ok(i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH)?.as_millis())?)
}

/// A selector's order; no token is looked for.
fn order(sub: &str) -> Value {
    json!({"selector": {"iss": "https://issuer.example", "sub": sub}, "ttl": "1h"})
}

#[test]
fn an_end_after_the_year_9999_is_refused_in_words_however_it_is_ordered() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let refused = w.daemon.ask(&["revoke", "--ttl", "20000y"], &token)?;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("`ttl` ends after the year 9999"), "{refused:?}");
    w.assert_passes(&token);
    let late = 253_402_300_800_000_i64;
    let body = json!({"token": token, "until": late}).to_string();
    let (status, told) = admin(&w, "POST", "/v1/revocations", "", &body)?;
    assert!(status == 400 && told.contains("`until` ends after the year 9999"), "{status} {told}");
    let lines = format!("{body}\n{}\n", json!({"token": token, "ttl": "20000y"}));
    let (_, told) = admin(&w, "POST", "/v1/revocations/batch", "", &lines)?;
    assert!(told.contains(r#""refused":2"#) && told.matches("after the year 9999").count() == 2, "{told}");
    let f = json!({"id": 1, "fingerprint": format!("{:032x}", 7), "until": late, "reason": "", "actor": "a"});
    let import = w.daemon.ask(&["revocations", "import"], &f.to_string())?;
    assert!(import.code == 4 && import.stderr.contains("after the year 9999"), "{import:?}");
    // The last there is, everywhere that it is shown.
    let body = json!({"token": token, "until": late - 1}).to_string();
    let (status, told) = admin(&w, "POST", "/v1/revocations", "", &body)?;
    assert_eq!(status, 201, "{told}");
    let id = serde_json::from_str::<Value>(&told)?["id"].to_string();
    for shown in [&["revocations"][..], &["revocations", "show", &id]] {
        let shown = w.daemon.ask(shown, "")?.ok()?;
        assert!(shown.contains("9999-12-31T23:59:59Z"), "{shown}");
    }
    w.assert_refused(&token);
    Ok(())
}

#[test]
fn lines_that_come_twice_are_told_their_own_ids() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let soon = now()? + 2000;
    let line = |n: u32, until: i64| json!({"fingerprint": format!("{n:032x}"), "until": until}).to_string();
    // One is over when it comes first, one when it comes again, one never.
    let body = [line(1, soon - 10_000), line(2, soon), line(3, soon + 600_000)].join("\n");
    let given = |w: &World| -> Result<Vec<Value>> {
        let (status, told) = admin(w, "POST", "/v1/revocations/batch", "Idempotency-Key: b\r\n", &body)?;
        ensure!(status == 200, "{status} {told}");
        // In chunks: lines of JSON among their lengths.
        Ok(told.lines().filter_map(|l| serde_json::from_str(l).ok()).filter(Value::is_object).collect())
    };
    let of = |told: &[Value], line: u64| told.iter().find(|t| t["line"] == line).cloned().unwrap_or_default();
    let first = given(&w)?;
    assert_eq!(of(&first, 1)["code"], "bad_request", "{first:?}");
    let (second_id, third_id) = (of(&first, 2)["id"].clone(), of(&first, 3)["id"].clone());
    assert!(second_id.is_u64() && third_id.is_u64(), "{first:?}");
    let at_once = given(&w)?;
    assert_eq!((&of(&at_once, 2)["id"], &of(&at_once, 3)["id"]), (&second_id, &third_id), "{at_once:?}");
    until(|| Ok(now()? > soon))?;
    let later = given(&w)?;
    assert_eq!(of(&later, 3)["id"], third_id, "{later:?}");
    assert_eq!(
        (&of(&later, 1)["code"], &of(&later, 2)["code"]),
        (&"bad_request".into(), &"bad_request".into())
    );
    Ok(())
}

/// Reads events until there are so many, or for a moment where no more come.
fn events(w: &World, headers: &str, query: &str, count: usize) -> Result<Vec<(String, Value)>> {
    let mut socket = UnixStream::connect(w.dir.path("admin.sock"))?;
    socket.set_read_timeout(Some(PATIENCE))?;
    write!(socket, "GET /v1/revocations/watch{query} HTTP/1.1\r\nHost: p\r\n{headers}\r\n")?;
    let mut text = String::new();
    let of = |text: &str, prefix: &str| -> Vec<String> {
        text.lines().filter_map(|l| l.strip_prefix(prefix)).map(str::to_owned).collect()
    };
    while text.matches("data: ").count() < count || !text.ends_with("\n\r\n") {
        let mut part = [0; 4096];
        let n = socket.read(&mut part)?;
        ensure!(n > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&part[..n]));
    }
    let data = of(&text, "data: ").into_iter().map(|d| Ok(serde_json::from_str(&d)?));
    let data = data.collect::<Result<Vec<Value>>>()?;
    Ok(of(&text, "id: ").into_iter().zip(data).collect())
}

#[test]
fn a_watcher_that_is_cut_off_within_an_entry_loses_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let lines: Vec<String> = (1..=5).map(|n| format!("{{\"fingerprint\":\"{n:032x}\"}}")).collect();
    admin(&w, "POST", "/v1/revocations/batch", "", &lines.join("\n"))?;
    let all = events(&w, "", "?after=0", 5)?;
    let mut ids: Vec<&str> = all.iter().map(|(id, _)| id.as_str()).collect();
    ids.dedup();
    assert_eq!((ids.len(), all.len()), (5, 5), "no id stands for two: {ids:?}");
    for (n, id) in ids.iter().enumerate().take(4) {
        for (headers, query) in
            [(format!("Last-Event-ID: {id}\r\n"), String::new()), (String::new(), format!("?after={id}"))]
        {
            let rest = events(&w, &headers, &query, 4 - n)?;
            assert_eq!(rest, all[n + 1..], "behind {id}");
        }
    }
    // The last one's id is the entry's, as all were once: nothing of it comes again.
    let entry = ids[4];
    assert!(entry.parse::<u64>().is_ok(), "{ids:?}");
    w.daemon.revoke(&w.mint.hs256()?)?;
    let next = events(&w, &format!("Last-Event-ID: {entry}\r\n"), "", 1)?;
    assert_eq!((next.len(), next[0].1["id"].as_u64()), (1, all[4].1["id"].as_u64().map(|id| id + 1)));
    assert_eq!(admin(&w, "GET", "/v1/revocations/watch?after=6.x", "", "")?.0, 400);
    Ok(())
}

#[test]
fn a_watcher_of_another_log_is_told_to_list_anew_and_goes_on_from_there() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    w.daemon.revoke(&w.mint.hs256()?)?;
    let entry = events(&w, "", "?after=0", 1)?[0].0.clone();
    // What it had last is behind all that this log has: it was another one, or this one before it was restored.
    for (headers, query) in
        [("Last-Event-ID: 4711\r\n", ""), ("", "?after=4711"), ("Last-Event-ID: 4711.2\r\n", "")]
    {
        let mut socket = UnixStream::connect(w.dir.path("admin.sock"))?;
        socket.set_read_timeout(Some(PATIENCE))?;
        write!(socket, "GET /v1/revocations/watch{query} HTTP/1.1\r\nHost: p\r\n{headers}\r\n")?;
        let mut text = String::new();
        let mut read = |until: &str| -> Result<String> {
            while !text.contains(until) {
                let mut part = [0; 4096];
                let n = socket.read(&mut part)?;
                ensure!(n > 0, "{text}");
                text.push_str(&String::from_utf8_lossy(&part[..n]));
            }
            Ok(text.clone())
        };
        let told = read("event: reset")?;
        let head = w.daemon.json(&["revocations", "--limit", "9"], "")?.as_array().map(Vec::len);
        let id = told.lines().find_map(|l| l.strip_prefix("id: ")).context("an id")?;
        assert!(id.parse::<u64>()? >= entry.parse()? && !told.contains("event: revoked"), "{told}");
        // What comes after it is told as ever.
        let new = w.daemon.revoke(&w.mint.hs256()?)?;
        let told = read("event: revoked")?;
        assert!(
            told.contains(&format!("\"id\":{new}")) && told.matches("event: reset").count() == 1,
            "{told} {head:?}"
        );
    }
    let mut watcher = w.daemon.prepare(&["revocations", "watch", "--after", "4711"])?;
    let mut watcher = watcher.stdout(Stdio::piped()).spawn()?;
    let mut line = String::new();
    let mut out = std::io::BufReader::new(watcher.stdout.take().context("its output")?);
    std::io::BufRead::read_line(&mut out, &mut line)?;
    watcher.kill()?;
    watcher.wait()?;
    assert!(line.starts_with("reset ") && line.contains("list all anew"), "{line}");
    Ok(())
}

#[test]
fn a_revocation_is_found_by_the_name_that_its_token_has_after_a_swap_of_keys() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let restart = |w: &mut World, key: &'static str, other: &'static str| -> Result<()> {
        (w.config.key, w.config.other_key) = (key, Some(other));
        w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
        assert!(w.daemon.stop()?.success());
        w.daemon.restart()
    };
    w.dir.write(NEXT, "000102030405060708090a0b0c0d0e0f\n")?;
    restart(&mut w, OLD, NEXT)?;
    let token = w.mint.hs256()?;
    let id = w.daemon.revoke(&token)?;
    restart(&mut w, NEXT, OLD)?;
    let named = w.daemon.json(&["fingerprint"], &token)?;
    for name in [&named["fingerprint"], &named["other"]["fingerprint"]] {
        let name = name.as_str().with_context(|| format!("{named}"))?;
        let found = w.daemon.json(&["revocations", "--fingerprint", name], "")?;
        assert_eq!(found[0]["id"].to_string(), id, "{name}: {found}");
    }
    let none = w.daemon.json(&["revocations", "--fingerprint", &format!("{:032x}", 9)], "")?;
    assert_eq!(none, json!([]));
    Ok(())
}

#[test]
fn one_id_that_is_not_there_does_not_keep_the_others_in_force() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (first, second) = (w.mint.hs256()?, w.mint.hs256()?);
    let ids = [w.daemon.revoke(&first)?, w.daemon.revoke(&second)?];
    let done = w.daemon.ask(&["unrevoke", &ids[0], "999", &ids[1]], "")?;
    assert_eq!(done.code, 4, "{done:?}");
    assert!(done.stderr.contains("999") && done.stderr.contains("1 of 3"), "{done:?}");
    assert_eq!(done.stdout.matches("lifted: revocation").count(), 2, "{done:?}");
    w.assert_passes(&first);
    w.assert_passes(&second);
    Ok(())
}

#[test]
fn the_command_line_filters_as_the_api_does() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    for sub in ["alice", "bob"] {
        admin(&w, "POST", "/v1/revocations", "", &order(sub).to_string())?;
    }
    let told = w.daemon.json(&["revoke", "--issuer", ISSUER], "")?;
    let parent = told["id"].to_string();
    let ids = |filters: &[&str]| -> Result<Vec<u64>> {
        let all = w.daemon.json(&[&["revocations"], filters].concat(), "")?;
        Ok(all.as_array().into_iter().flatten().filter_map(|c| c["id"].as_u64()).collect())
    };
    let all = ids(&[])?;
    assert_eq!(ids(&["--issuer", "https://issuer.example"])?, all[..2]);
    assert_eq!(ids(&["--issuer", "https://issuer.example", "--sub", "bob"])?, all[1..2]);
    let children = ids(&["--parent", &parent])?;
    assert_eq!((children.len(), told["condemned"].as_u64(), all.len()), (1, Some(1), 4));
    assert_eq!(ids(&["--since", "2024-01-01T00:00:00Z"])?, all);
    assert!(ids(&["--before", "1700000000"])?.is_empty());
    let later = UNIX_EPOCH.elapsed()? + Duration::from_mins(1);
    assert!(ids(&["--since", &later.as_secs().to_string()])?.is_empty());
    Ok(())
}

#[test]
fn an_orders_ticket_is_kept_shown_and_taken_elsewhere() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (token, seen) = (w.mint.hs256()?, w.mint.hs256()?);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &seen)?.status, 200);
    let mut watcher = w.daemon.prepare(&["revocations", "watch", "--after", "0"])?;
    let mut watcher = watcher.stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
    w.daemon.ask(&["revoke", "--ticket", "INC-1"], &token)?.ok()?;
    let f = format!("{:032x}", 9);
    w.daemon.ask(&["revoke", "--fingerprint", &f, "--ticket", "INC-2"], "")?.ok()?;
    let lines = format!("{}\n", json!({"fingerprint": format!("{:032x}", 10), "ticket": "INC-3"}));
    w.daemon
        .ask(&["revoke", "--many", "-", "--ticket", "INC-0"], &format!("{lines}{}\n", w.mint.hs256()?))?
        .ok()?;
    let by = w.daemon.json(&["revoke", "--issuer", ISSUER, "--ticket", "INC-4"], "")?;
    w.daemon.ask(&["lockdown", "--role", "nobody", "--ticket", "INC-5"], "")?.ok()?;
    let refused = w.daemon.ask(&["revoke", "--fingerprint", &f, "--ticket", &"x".repeat(1001)], "")?;
    assert!(refused.code == 4 && refused.stderr.contains("`ticket`"), "{refused:?}");
    // Over a restart, from the disk.
    w.daemon.kill9()?;
    watcher.kill()?;
    let mut watched = String::new();
    watcher.stdout.take().context("its output")?.read_to_string(&mut watched)?;
    watcher.wait()?;
    assert!(watched.contains("  INC-1") && watched.contains("  INC-5"), "{watched}");
    w.daemon.restart()?;
    let all = w.daemon.json(&["revocations"], "")?;
    let tickets = |all: &Value, parents: bool| -> Vec<String> {
        let of = |c: &Value| c["ticket"].as_str().unwrap_or("-").to_owned();
        let of_each = all.as_array().into_iter().flatten();
        of_each.filter(|c| c["parent"].is_u64() == parents).map(of).collect()
    };
    assert_eq!(tickets(&all, false), ["INC-1", "INC-2", "INC-3", "INC-0", "INC-4", "INC-5"], "{all}");
    let children = tickets(&all, true);
    assert!(!children.is_empty() && children.iter().all(|t| t == "INC-4"), "what follows from it: {all}");
    let found = w.daemon.json(&["revocations", "--ticket", "INC-3"], "")?;
    assert_eq!(tickets(&found, false), ["INC-3"]);
    for args in [&["revocations"][..], &["revocations", "show", &found[0]["id"].to_string()]] {
        assert!(w.daemon.ask(args, "")?.ok()?.contains("INC-3"), "{args:?}");
    }
    assert!(w.daemon.command(&["audit", "show"])?.ok()?.contains("ticket=INC-5"));
    // The selector's receipt: how many at once, and what of the others.
    let receipt = w.daemon.json(&["revocations", "receipt", &by["id"].to_string()], "")?;
    assert!(by["condemned"].as_u64() > Some(0) && receipt["condemned"] == by["condemned"], "{receipt} {by}");
    let shown = w.daemon.ask(&["revocations", "receipt", &by["id"].to_string()], "")?.ok()?;
    let expect = format!(
        "condemned {} of the tokens seen lately, at once; others: the decision path refuses them at first sight",
        by["condemned"]
    );
    assert!(shown.contains(&expect), "{shown}");
    let plain = w.daemon.ask(&["revocations", "receipt", &found[0]["id"].to_string()], "")?.ok()?;
    assert!(!plain.contains("condemned"), "{plain}");
    // To another store.
    let export = w.daemon.ask(&["revocations", "export"], "")?.ok()?;
    assert!(w.daemon.stop()?.success());
    std::fs::remove_dir_all(w.dir.path("revocations"))?;
    w.daemon.command(&["detach"])?.ok()?;
    w.daemon.restart()?;
    w.daemon.ask(&["revocations", "import"], &export)?.ok()?;
    let mut back = tickets(&w.daemon.json(&["revocations"], "")?, false);
    back.sort();
    assert_eq!(back, ["INC-0", "INC-1", "INC-2", "INC-3", "INC-4", "INC-5"]);
    Ok(())
}

#[test]
fn errors_of_reading_a_request_have_a_code_and_a_message() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    for (method, path, status) in [
        ("GET", "/v1/revocations/x", 400),
        ("GET", "/v1/revocations?limit=x", 400),
        ("GET", "/v1/revocations?colour=red", 400),
        ("GET", "/v1/nothing", 404),
        ("PUT", "/v1/revocations", 405),
        ("POST", "/v1/ssf/nobody/verify", 404),
    ] {
        let (got, body) = admin(&w, method, path, "", "")?;
        let told: Value = serde_json::from_str(&body).with_context(|| format!("{method} {path}: {body}"))?;
        assert!(got == status && told["code"].is_string() && told["message"].is_string(), "{got} {told}");
    }
    let (got, body) = admin(&w, "POST", "/v1/revocations", "", &" ".repeat(70_000))?;
    assert!(got == 413 && serde_json::from_str::<Value>(&body)?["code"] == "too_large", "{got} {body}");
    Ok(())
}
