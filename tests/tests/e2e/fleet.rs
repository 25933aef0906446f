//! Revocations on several hosts: told, lifted, caught up with, and waited for.

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use portcullis_tests::{
    World,
    client::http,
    config::ISSUER,
    fleet::Fleet,
    is_root,
    nats::{Setting, Version},
    pki::sha256,
};
use serde_json::{Value, json};

use super::clocks::wrong_clock;

/// Where a host hears OAuth clients.
const DOOR: &str = "127.0.0.1:8282";

fn current() -> [Setting; 1] {
    [Setting::alone(Version::Current)]
}

/// Revokes on a host with these options and gives what it told, with the exit code.
fn revoke(host: &portcullis_tests::fleet::Host, token: &str, options: &[&str]) -> Result<(i32, Value)> {
    let done = host.daemon.ask(&[&["revoke", "--ttl", "1h", "--json"], options].concat(), token)?;
    Ok((done.code, serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?))
}

#[test]
fn what_one_host_revokes_all_refuse_and_each_can_lift_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(fleet) = Fleet::of(3, &current())? else { return Ok(()) };
    fleet.settle()?;
    let [a, b, c] = &fleet.hosts[..] else { unreachable!("three hosts") };
    let (token, other) = (fleet.mint.hs256()?, fleet.mint.hs256()?);
    for host in &fleet.hosts {
        host.await_refused(&token, false);
    }
    // The answer comes when all have it: nothing is awaited after it.
    let (code, told) = revoke(a, &token, &["--reason", "leaked", "--wait", "all"])?;
    assert_eq!((code, &told["fleet"]["reached"]), (0, &json!(true)), "{told}");
    assert_eq!(told["fleet"]["applied"], json!(["host1", "host2"]), "{told}");
    for host in &fleet.hosts {
        assert!(host.refuses(&token)?, "{host:?}");
        assert!(!host.refuses(&other)?);
    }
    let there = b.daemon.json(&["revocations"], "")?;
    let id = a.id()?;
    assert_eq!(there[0]["source"], format!("fleet/{id}/{}", told["id"]));
    assert_eq!((&there[0]["reason"], &there[0]["actor"]), (&json!("leaked"), &json!("uid:0")));
    // Its receipt says who has it, and elsewhere whose it is.
    let receipt = a.daemon.json(&["revocations", "receipt", &told["id"].to_string()], "")?;
    assert_eq!(
        (&receipt["fleet"]["stored"], receipt["fleet"]["applied"].as_array().map(Vec::len)),
        (&json!(true), Some(2))
    );
    let receipt = b.daemon.json(&["revocations", "receipt", &there[0]["id"].to_string()], "")?;
    assert_eq!((&receipt["fleet"]["ordered_on"], &receipt["fleet"]["id_there"]), (&json!(id), &told["id"]));
    // Another order on the same token, of another host, is another claim: the first one's end is not its end.
    let (_, second) = revoke(c, &token, &["--wait", "all"])?;
    let lifted = b
        .daemon
        .ask(&["unrevoke", &there[0]["id"].to_string(), "--wait", "all", "--reason", "found"], "")?
        .ok()?;
    assert!(lifted.contains("in force on host0, host2"), "{lifted}");
    assert_eq!(a.daemon.status()?["revocations"]["claims"], 1);
    for host in &fleet.hosts {
        assert!(host.refuses(&token)?, "the other claim stays");
    }
    c.daemon.ask(&["unrevoke", &second["id"].to_string(), "--wait", "all"], "")?.ok()?;
    for host in &fleet.hosts {
        assert!(!host.refuses(&token)?);
        assert_eq!(host.daemon.status()?["revocations"]["claims"], 0);
    }
    // By what tokens say of themselves: those seen lately are in the kernels too.
    assert_eq!(c.daemon.auth("GET", "/v1/orders", &other)?.status, 200);
    b.daemon.ask(&["revoke", "--issuer", ISSUER, "--reason", "all of them", "--wait", "all"], "")?.ok()?;
    assert!(c.refuses(&other)?, "seen lately");
    assert_eq!(a.daemon.auth("GET", "/v1/orders", &other)?.status, 401, "seen for the first time");
    a.await_refused(&other, true);
    let shown = a.daemon.ask(&["fleet"], "")?.ok()?;
    assert!(
        shown.contains("host1") && shown.contains("live") && shown.contains("connected to n4222 2."),
        "{shown}"
    );
    assert!(a.daemon.ask(&["status"], "")?.ok()?.contains("2 other hosts live"));
    let metrics = a.daemon.metrics()?;
    for line in [
        "portcullis_fleet_connected 1",
        "portcullis_fleet_hosts{state=\"live\"} 2",
        "portcullis_fleet_gaps 0",
    ] {
        assert!(metrics.contains(line), "{line}\n{metrics}");
    }
    Ok(())
}

#[test]
fn without_a_fleet_nothing_of_it_runs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    assert_eq!(w.daemon.status()?["fleet"], Value::Null);
    assert!(!w.daemon.metrics()?.contains("portcullis_fleet"));
    assert!(w.daemon.ask(&["fleet"], "")?.ok()?.contains("no fleet is configured"));
    let token = w.mint.hs256()?;
    let refused = w.daemon.ask(&["revoke", "--wait", "all"], &token)?;
    assert_eq!(refused.code, 4, "{refused:?}");
    assert!(refused.stderr.contains("there is no fleet to wait for"), "{refused:?}");
    w.assert_passes(&token);
    let local = w.daemon.ask(&["revoke", "--wait", "local"], &token)?;
    assert_eq!(local.code, 0, "{local:?}");
    Ok(())
}

#[test]
fn a_host_that_is_cut_off_catches_up_and_its_own_orders_go_out_then() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&current())? else { return Ok(()) };
    fleet.table = String::from("max_staleness = \"3s\"");
    for _ in 0..3 {
        fleet.add("")?;
    }
    fleet.settle()?;
    let [a, b, c] = &fleet.hosts[..] else { unreachable!("three hosts") };
    let (here, there) = (fleet.mint.hs256()?, fleet.mint.hs256()?);
    b.cut(true)?;
    b.await_fleet(|f| f["server"].is_null())?;
    let (code, told) =
        revoke(a, &here, &["--wait", "all", "--wait-hosts", "host1,host2", "--wait-timeout", "1s"])?;
    assert_eq!((code, &told["fleet"]["stored"]), (6, &json!(true)), "{told}");
    assert_eq!(told["fleet"]["applied"], json!(["host2"]), "{told}");
    assert_eq!(told["fleet"]["missing"][0]["host"], "host1", "{told}");
    let (code, told) = revoke(b, &there, &["--wait", "stored", "--wait-timeout", "200ms"])?;
    assert_eq!((code, &told["fleet"]["stored"]), (6, &json!(false)), "{told}");
    assert_eq!(b.daemon.auth("GET", "/v1/orders", &there)?.status, 401, "in force here all the same");
    assert_eq!(b.daemon.auth("GET", "/v1/orders", &here)?.status, 200, "not known here yet");
    // It may have missed something for too long: not ready, and decisions go on.
    b.await_fleet(|f| f["stale"] == true)?;
    assert_eq!(b.daemon.status()?["ready"], false);
    assert!(b.daemon.ask(&["status"], "")?.ok()?.contains("NOT CONNECTED"));
    assert!(b.daemon.metrics()?.contains("portcullis_fleet_stale 1"));
    b.cut(false)?;
    b.await_refused(&here, true);
    for host in [a, c] {
        host.await_refused(&there, true);
    }
    b.await_fleet(|f| f["stale"] == false)?;
    assert_eq!(b.daemon.status()?["ready"], true);
    Ok(())
}

#[test]
fn a_host_that_was_away_longer_than_the_stream_keeps_asks_the_others() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(3, &current())? else { return Ok(()) };
    fleet.settle()?;
    let tokens: Vec<String> = (0..4).map(|_| fleet.mint.hs256()).collect::<Result<_>>()?;
    let (_, first) = revoke(&fleet.hosts[0], &tokens[0], &["--wait", "all"])?;
    fleet.hosts[2].daemon.stop()?;
    revoke(&fleet.hosts[0], &tokens[1], &["--wait", "stored"])?;
    fleet.hosts[0].daemon.ask(&["unrevoke", &first["id"].to_string(), "--wait", "stored"], "")?.ok()?;
    let purged = fleet.nats[0].api("STREAM.PURGE.PORTCULLIS", "")?;
    assert_eq!(purged["success"], true, "{purged}");
    revoke(&fleet.hosts[0], &tokens[2], &["--wait", "stored"])?;
    assert!(fleet.hosts[2].refuses(&tokens[0])?, "the kernel goes on without the daemon");
    fleet.hosts[2].daemon.restart()?;
    let c = &fleet.hosts[2];
    for (token, refused) in tokens.iter().zip([false, true, true, false]) {
        c.await_refused(token, refused);
    }
    let told = c.await_fleet(|f| f["gaps"] == 0 && f["counts"]["resyncs"] != 0)?;
    assert_eq!(told["counts"]["resyncs"], 1, "{told:#}");
    // A host that is new, while the one that gave the orders is gone for good: another one answers for it.
    revoke(c, &tokens[3], &["--wait", "all"])?;
    fleet.hosts[0].daemon.kill9()?;
    assert_eq!(fleet.nats[0].api("STREAM.PURGE.PORTCULLIS", "")?["success"], true);
    let d = fleet.add("")?;
    for token in &tokens[1..] {
        d.await_refused(token, true);
    }
    Ok(())
}

#[test]
fn a_server_that_is_absent_or_has_lost_all_is_told_again() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&current())? else { return Ok(()) };
    fleet.nats[0].kill()?;
    for _ in 0..2 {
        fleet.add("")?;
    }
    let tokens: Vec<String> = (0..3).map(|_| fleet.mint.hs256()).collect::<Result<_>>()?;
    let before = fleet.hosts[0].fleet()?;
    assert!(before["server"].is_null() && before["error"].is_string(), "{before}");
    revoke(&fleet.hosts[0], &tokens[0], &[])?;
    fleet.hosts[0].await_refused(&tokens[0], true);
    fleet.nats[0].restart()?;
    fleet.hosts[1].await_refused(&tokens[0], true);
    fleet.settle()?;
    // All that was stored is gone, and with it the stream.
    fleet.nats[0].kill()?;
    fleet.nats[0].forget()?;
    revoke(&fleet.hosts[1], &tokens[1], &[])?;
    fleet.nats[0].restart()?;
    fleet.hosts[0].await_refused(&tokens[1], true);
    fleet.hosts[0].await_fleet(|f| f["stored"].as_u64() >= f["head"].as_u64() && f["server"].is_string())?;
    // What was told before stands in it again.
    let own = fleet.hosts[0].id()?;
    let last = json!({"last_by_subj": format!("portcullis.changes.{own}")}).to_string();
    let message = fleet.nats[0].api("STREAM.MSG.GET.PORTCULLIS", &last)?;
    assert_eq!(message["message"]["subject"], format!("portcullis.changes.{own}"), "{message}");
    // And a stream that is deleted under their feet.
    assert_eq!(fleet.nats[0].api("STREAM.DELETE.PORTCULLIS", "")?["success"], true);
    revoke(&fleet.hosts[0], &tokens[2], &[])?;
    fleet.hosts[1].await_refused(&tokens[2], true);
    Ok(())
}

#[test]
fn without_room_nothing_is_acknowledged_and_what_needs_none_is_taken() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(1, &current())? else { return Ok(()) };
    fleet.add_with("", |config, _| {
        (config.max_entries, config.policy_entries) = (8, 2);
        Ok(())
    })?;
    fleet.settle()?;
    let [a, b] = &fleet.hosts[..] else { unreachable!("two hosts") };
    let tokens: Vec<String> = (0..8).map(|_| fleet.mint.hs256()).collect::<Result<_>>()?;
    let mut ids = Vec::new();
    for token in &tokens {
        ids.push(a.daemon.revoke(token)?);
    }
    let told = b.await_fleet(|f| f["error"].as_str().is_some_and(|e| e.contains("find no room here")))?;
    assert!(told["error"].as_str().is_some_and(|e| e.contains("kernel.max_entries")), "{told}");
    b.await_refused(&tokens[0], true);
    assert!(!b.refuses(&tokens[7])?, "there is no room for it");
    // What needs none is not held up by it.
    let selector = ["revoke", "--issuer", ISSUER, "--sub", "nobody", "--json"];
    a.daemon.ask(&selector, "")?.ok()?;
    a.daemon.ask(&["unrevoke", &ids[0], &ids[1], &ids[2]], "")?.ok()?;
    b.await_refused(&tokens[0], false);
    b.await_refused(&tokens[7], true);
    b.await_fleet(|f| f["error"].is_null() && f["hosts"][0]["applied_here"] == f["hosts"][0]["head"])?;
    let kept = b.daemon.json(&["revocations", "list", "--kind", "selector"], "")?;
    assert_eq!(kept.as_array().map(Vec::len), Some(1), "{kept}");
    Ok(())
}

#[test]
fn what_is_no_order_is_refused_and_holds_up_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(fleet) = Fleet::of(2, &current())? else { return Ok(()) };
    fleet.settle()?;
    let [a, b] = &fleet.hosts[..] else { unreachable!("two hosts") };
    let (own, id) = (a.id()?, "0".repeat(32));
    let token = fleet.mint.hs256()?;
    let mut client = fleet.nats[0].client()?;
    let long = " ".repeat(600 * 1024);
    let other = format!(
        r#"{{"v":1,"origin":"{own}","entry":900,"prev":0,"part":0,"parts":1,"key":"00000001","changes":[]}}"#
    );
    let huge = format!(
        r#"{{"v":1,"origin":"{id}","entry":18446744073709551615,"prev":0,"part":0,"parts":1,"key":"00000001","changes":[]}}"#
    );
    for (body, of) in [("", &id), ("{", &id), ("{\"v\":9}", &id), (&long, &id), (&other, &id), (&huge, &id)] {
        client.publish(&format!("portcullis.changes.{of}"), body)?;
    }
    for subject in ["hosts.x", &format!("hosts.{id}"), &format!("applied.{own}.x"), &format!("resync.{own}")]
    {
        client.publish(&format!("portcullis.{subject}"), "[1,2")?;
    }
    let refused = a.await_fleet(|f| f["counts"]["refused"]["malformed"].as_u64() >= Some(7))?;
    let counts = &refused["counts"]["refused"];
    assert_eq!(
        (&counts["version"], &counts["too_long"], &counts["subject"]),
        (&json!(1), &json!(1), &json!(1)),
        "{refused:#}"
    );
    // A message that says it again, and one that is old, change nothing.
    let (_, told) = revoke(a, &token, &["--wait", "all"])?;
    let last = json!({"last_by_subj": format!("portcullis.changes.{own}")}).to_string();
    let message = fleet.nats[0].api("STREAM.MSG.GET.PORTCULLIS", &last)?;
    let data = message["message"]["data"].as_str().context("data")?;
    let again = String::from_utf8(BASE64.decode(data)?)?;
    a.daemon.ask(&["unrevoke", &told["id"].to_string(), "--wait", "all"], "")?.ok()?;
    for _ in 0..3 {
        client.publish(&format!("portcullis.changes.{own}"), &again)?;
    }
    b.await_fleet(|f| f["counts"]["duplicates"].as_u64() >= Some(3))?;
    assert!(!b.refuses(&token)?, "what was lifted does not come back");
    let metrics = b.daemon.metrics()?;
    assert!(metrics.contains("portcullis_fleet_refused_total{reason=\"malformed\"}"), "{metrics}");
    Ok(())
}

#[test]
fn clients_are_answered_when_the_fleet_has_it_and_any_host_unlocks() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&current())? else { return Ok(()) };
    let secret = sha256(b"app-secret");
    let clients = format!(
        "acknowledge = \"applied\"\nacknowledge_timeout = \"1s\"\n[standards]\nlisten = [\"{DOOR}\"]\n[[standards.client]]\nid = \"app\"\nsecret_sha256 = [\"{secret}\"]\nrevoke = \"any\"\n"
    );
    fleet.add(&clients)?;
    fleet.add("")?;
    fleet.settle()?;
    let [a, b] = &fleet.hosts[..] else { unreachable!("two hosts") };
    let head = format!(
        "POST /oauth2/revoke HTTP/1.1\r\nAuthorization: Basic {}\r\nContent-Type: application/x-www-form-urlencoded",
        BASE64.encode("app:app-secret")
    );
    let ask = |token: &str| http(a.namespace(), DOOR.parse()?, &head, format!("token={token}").as_bytes());
    let (first, second) = (fleet.mint.hs256()?, fleet.mint.hs256()?);
    assert_eq!(ask(&first)?.status, 200);
    assert!(b.refuses(&first)?, "nothing is awaited after the answer");
    // Cut off just now, the other one counts as live and cannot have it in time. The client comes again, and nothing is
    // ordered twice.
    b.cut(true)?;
    for _ in 0..2 {
        let answer = ask(&second)?;
        assert_eq!(answer.status, 503, "{answer:?}");
        assert!(answer.body.contains("not in the whole fleet yet"), "{answer:?}");
    }
    assert!(a.refuses(&second)?);
    b.cut(false)?;
    b.await_refused(&second, true);
    assert_eq!(ask(&second)?.status, 200);
    assert_eq!(a.daemon.status()?["revocations"]["claims"], 2);

    let third = fleet.mint.hs256()?;
    assert_eq!(b.daemon.auth("GET", "/v1/orders", &third)?.status, 200);
    a.daemon.ask(&["lockdown", "--all", "--ttl", "10m", "--wait", "all"], "")?.ok()?;
    b.await_refused(&third, true);
    let listed = b.daemon.json(&["revocations", "--source", "lockdown"], "")?;
    assert_eq!(listed[0]["source"], format!("fleet/{}/{}/lockdown", a.id()?, 3), "{listed}");
    let told = b.daemon.ask(&["unlock", "--all"], "")?.ok()?;
    assert!(told.starts_with("unlocked: "), "{told}");
    for host in [a, b] {
        host.await_refused(&third, false);
    }
    // The client's orders stay.
    assert!(a.refuses(&second)?);
    Ok(())
}

#[test]
fn a_host_that_was_restored_from_an_older_copy_hears_again_what_it_had_acknowledged() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(2, &[Setting::alone(Version::Current)])? else { return Ok(()) };
    fleet.settle()?;
    let (before, after) = (fleet.mint.hs256()?, fleet.mint.hs256()?);
    let revoke = |fleet: &Fleet, token: &str| -> Result<()> {
        fleet.hosts[0].daemon.ask(&["revoke", "--wait", "applied"], token)?.ok().map(drop)
    };
    revoke(&fleet, &before)?;
    let copy = fleet.hosts[1].dir.path("copy").display().to_string();
    fleet.hosts[1].daemon.command(&["revocations", "backup", &copy])?.ok()?;
    revoke(&fleet, &after)?;
    // Nobody is there who could be asked.
    fleet.hosts[0].daemon.kill9()?;
    let restored = &mut fleet.hosts[1];
    assert!(restored.daemon.stop()?.success());
    restored.daemon.command(&["revocations", "restore", &copy, "--force"])?.ok()?;
    restored.daemon.restart()?;
    restored.await_refused(&after, true);
    restored.await_refused(&before, true);
    Ok(())
}

/// No order is decided by comparing clocks: what is lifted is what its lifter saw, whatever time either host believes in.
#[test]
fn hosts_whose_clocks_are_wrong_agree_on_what_is_revoked() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(3, &current())? else { return Ok(()) };
    for (host, seconds) in fleet.hosts.iter_mut().zip(["+0", "+1500", "-1500"]) {
        let clock = host.dir.path("clock");
        std::fs::write(&clock, format!("{seconds}\n"))?;
        let Some(environment) = wrong_clock(&clock) else { return Ok(()) };
        assert!(host.daemon.stop()?.success());
        host.daemon.environment = environment;
        host.daemon.restart()?;
    }
    fleet.settle()?;
    let [right, ahead, behind] = &fleet.hosts[..] else { unreachable!("three hosts") };
    let all_refuse =
        |token: &str, refused: bool| fleet.hosts.iter().for_each(|h| h.await_refused(token, refused));
    let on = |host: &portcullis_tests::fleet::Host| -> Result<Vec<String>> {
        let listed = host.daemon.json(&["revocations"], "")?;
        Ok(listed.as_array().into_iter().flatten().map(|c| c["id"].to_string()).collect())
    };
    // Each orders, and each of the others lifts: also the one by whose clock the order is still to come.
    for (from, by) in [(ahead, behind), (behind, ahead), (right, ahead), (ahead, right)] {
        let token = fleet.mint.hs256()?;
        revoke(from, &token, &["--wait", "all"])?;
        all_refuse(&token, true);
        let seen = on(by)?;
        by.daemon.ask(&["unrevoke", seen.last().context("one")?, "--wait", "all"], "")?.ok()?;
        all_refuse(&token, false);
        // An order after that is another one.
        revoke(by, &token, &["--wait", "all"])?;
        all_refuse(&token, true);
    }
    // While one is cut off, it revokes once more what another lifts. Neither knows of the other: the revocation wins, though
    // by the clocks it is the older one, or the newer.
    for (cut, by) in [(behind, ahead), (ahead, behind)] {
        let token = fleet.mint.hs256()?;
        revoke(right, &token, &["--wait", "all"])?;
        cut.cut(true)?;
        cut.await_fleet(|f| f["server"].is_null())?;
        let seen = on(by)?;
        by.daemon.ask(&["unrevoke", seen.last().context("one")?], "")?.ok()?;
        by.await_refused(&token, false);
        revoke(cut, &token, &[])?;
        cut.cut(false)?;
        all_refuse(&token, true);
        // And the first one is lifted everywhere: without the second it does not hold.
        let left = on(cut)?;
        cut.daemon.ask(&["unrevoke", left.last().context("one")?, "--wait", "all"], "")?.ok()?;
        all_refuse(&token, false);
    }
    let counts = fleet.hosts.iter().map(|h| Ok(on(h)?.len())).collect::<Result<Vec<_>>>()?;
    assert_eq!(counts, [4; 3]);
    // Nothing of it changes with a restart, or when the clocks are set right.
    for host in &mut fleet.hosts {
        host.daemon.kill9()?;
        std::fs::write(host.dir.path("clock"), "+0\n")?;
        host.daemon.restart()?;
    }
    fleet.settle()?;
    for host in &fleet.hosts {
        host.await_fleet(|f| f["gaps"] == 0)?;
        assert_eq!(on(host)?.len(), 4);
    }
    Ok(())
}
