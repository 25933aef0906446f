//! Changing the fingerprint key of one host: no revoked token passes at any moment of it, and the old key goes when
//! nothing needs it any more.

use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    client::{Client, bearer},
    is_root,
    net::{SERVER_V4, guarded},
    until,
};
use serde_json::{Value, json};

const OLD: &str = "fingerprint.key";
const NEXT: &str = "next.key";
const THIRD: &str = "third.key";
/// What is asked for with a revoked token; the server may read nothing of it.
const TRIED: &str = "/tried";

/// Has the daemon end, in this way or that, and start with these keys.
fn restart(w: &mut World, key: &'static str, other: Option<&'static str>, hard: bool) -> Result<()> {
    (w.config.key, w.config.other_key) = (key, other);
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    if hard {
        w.daemon.kill9()?;
    } else {
        assert!(w.daemon.stop()?.success());
    }
    w.daemon.restart()
}

/// Asserts that kernel and decision path refuse a token.
#[track_caller]
fn assert_dead(w: &World, token: &str) {
    w.assert_refused(token);
    let status = w.daemon.auth("GET", "/v1/orders", token).map(|a| a.status);
    assert!(matches!(status, Ok(401)), "the decision path: {status:?}");
}

fn id(w: &World, name: &str) -> Result<String> {
    Ok(w.daemon.status()?[name].as_str().with_context(|| format!("no {name}"))?.to_owned())
}

/// How many revocations need the other key, as status says.
fn needed(w: &World) -> Result<Value> {
    Ok(w.daemon.status()?["revocations"]["under_other_key"]["claims"].clone())
}

/// Has the one who goes on trying end, also where the test fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn no_revoked_token_passes_while_a_hosts_key_is_changed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let token = |w: &World| w.mint.hs256();
    let (good, before, lifted) = (token(&w)?, token(&w)?, token(&w)?);
    w.daemon.revoke(&before)?;
    let lift = w.daemon.revoke(&lifted)?;
    let old = id(&w, "key_id")?;
    w.dir.write(NEXT, "000102030405060708090a0b0c0d0e0f\n")?;
    let stop = AtomicBool::new(false);
    let (client, address) = (w.net.client.clone(), guarded(SERVER_V4));
    std::thread::scope(|s| -> Result<()> {
        // Somebody who goes on trying.
        let tried = s.spawn(|| {
            let (mut n, mut passed) = (0, 0);
            while !stop.load(Ordering::Relaxed) {
                let asked =
                    Client::connect(&client, address).and_then(|mut c| c.ask(&bearer(TRIED, &before)));
                n += 1;
                passed += u32::from(asked.is_ok_and(|a| a.is_servers() || a.status != 401));
            }
            (n, passed)
        });
        let changed = {
            let _ended = Ends(&stop);
            change(&mut w, &good, &before, &lifted, &lift, &old)
        };
        let (n, passed) = tried.join().unwrap();
        println!("{n} requests with a revoked token meanwhile, {passed} of them passed");
        changed?;
        assert!(n > 20 && passed == 0, "{passed} of {n} passed");
        Ok(())
    })?;
    let seen = w.server.connections();
    assert!(!w.server.requests().iter().any(|r| r.contains(TRIED)));
    assert!(seen.iter().all(|c| c.bytes == 0 || !c.requests.is_empty()), "a part of a request was read");
    Ok(())
}

fn change(w: &mut World, good: &str, before: &str, lifted: &str, lift: &str, old: &str) -> Result<()> {
    // The next key beside the old one.
    restart(w, OLD, Some(NEXT), true)?;
    assert_eq!((id(w, "key_id")?, needed(w)?), (old.to_owned(), json!(0)));
    let next = id(w, "other_key_id")?;
    assert_dead(w, before);
    w.assert_passes(good);
    let (between, bare) = (w.mint.hs256()?, w.mint.hs256()?);
    let told = w.daemon.json(&["revoke", "--ttl", "1h"], &between)?;
    assert!(told["other"]["fingerprint"].is_string(), "{told}");
    assert_dead(w, &between);
    // By its name under the next key alone: the second guard knows it.
    let names = w.daemon.json(&["fingerprint"], &bare)?;
    assert_eq!(names["other"]["key_id"], json!(next));
    let name = names["other"]["fingerprint"].as_str().context("a name")?.to_owned();
    w.daemon.json(&["revoke", "--fingerprint", &name, "--key-id", &next], "")?;
    assert_dead(w, &bare);
    assert_eq!(needed(w)?, json!(1));
    let strange = w.daemon.ask(&["revoke", "--fingerprint", &name, "--key-id", "00000001"], "")?;
    assert!(strange.stderr.contains(&format!("{old} and {next}")), "{strange:?}");
    // They change places.
    restart(w, NEXT, Some(OLD), true)?;
    assert_eq!((id(w, "key_id")?, id(w, "other_key_id")?), (next.clone(), old.to_owned()));
    assert_eq!(needed(w)?, json!(2), "those of before");
    for token in [before, &between, &bare, lifted] {
        assert_dead(w, token);
    }
    w.assert_passes(good);
    let after = w.mint.hs256()?;
    w.daemon.revoke(&after)?;
    assert_dead(w, &after);
    // What was ordered under the old key can be lifted, and ordered again under it.
    w.daemon.ask(&["unrevoke", lift], "")?.ok()?;
    w.assert_passes(lifted);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", lifted)?.status, 200);
    let names = w.daemon.json(&["fingerprint"], lifted)?;
    let name = names["other"]["fingerprint"].as_str().context("a name")?.to_owned();
    let again = w.daemon.json(&["revoke", "--fingerprint", &name, "--key-id", old], "")?;
    assert_dead(w, lifted);
    let shown = w.daemon.ask(&["status"], "")?.ok()?;
    assert!(shown.contains(&format!("other key    {old}: needed by 2 revocations, until ")), "{shown}");
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains("portcullis_revocations_under_other_key 2"), "{metrics}");
    restart(w, NEXT, Some(OLD), false)?;
    for token in [before, &between, &bare, lifted, &after] {
        assert_dead(w, token);
    }
    // Without the old key it does not start while that is needed.
    w.config.other_key = None;
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    w.daemon.kill9()?;
    let refused = w.daemon.command(&["run"])?;
    let alone = format!("fingerprint key {old} alone");
    for part in ["2 revocations of single tokens that hold until", &alone, "`token.other_fingerprint_key`"] {
        assert!(refused.code != 0 && refused.stderr.contains(part), "{part}: {refused:?}");
    }
    w.assert_refused(before);
    restart_only(w, Some(OLD))?;
    // What needs it is lifted: then it can go, and another one come.
    let first = w.daemon.json(&["revocations", "list", "--kind", "token"], "")?;
    let key = u64::from_str_radix(old, 16)?;
    let alone = first.as_array().into_iter().flatten().filter(|c| c["key_id"] == key && c["other"].is_null());
    let alone: Vec<String> = alone.map(|c| c["id"].to_string()).collect();
    assert!(alone.len() == 2 && alone.contains(&again["id"].to_string()), "{first:#}");
    // The one that goes on trying means `before`: it stays revoked, by its text.
    w.daemon.revoke(before)?;
    for id in &alone {
        w.daemon.ask(&["unrevoke", id], "")?.ok()?;
    }
    until(|| Ok(needed(w)? == json!(0)))?;
    restart(w, NEXT, None, true)?;
    assert!(w.daemon.log().iter().any(|l| l.contains("was taken away")), "{:#?}", w.daemon.log());
    for token in [before, &between, &bare, &after] {
        assert_dead(w, token);
    }
    w.assert_passes(lifted);
    w.assert_passes(good);
    w.dir.write(THIRD, "ffeeddccbbaa99887766554433221100\n")?;
    restart(w, NEXT, Some(THIRD), false)?;
    restart(w, THIRD, Some(NEXT), false)?;
    for token in [before, &between, &bare, &after] {
        assert_dead(w, token);
    }
    w.assert_passes(good);
    let noted = w.daemon.command(&["audit", "show"])?.ok()?;
    assert!(noted.contains(&next), "{noted}");
    w.daemon.command(&["audit", "verify"])?.ok()?;
    Ok(())
}

fn restart_only(w: &mut World, other: Option<&'static str>) -> Result<()> {
    w.config.other_key = other;
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    w.daemon.restart()
}

#[test]
fn by_each_way_of_attaching_a_second_guard_refuses_beside_the_first() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for (attach, enforcement) in [("clsact", "strict"), ("tcx", "fast"), ("clsact", "fast")] {
        let mut w = World::with(|config, _| {
            (config.attach, config.enforcement) = (attach, enforcement);
            Ok(())
        })?;
        let (good, old, new) = (w.mint.hs256()?, w.mint.hs256()?, w.mint.hs256()?);
        let id = w.daemon.revoke(&old)?;
        w.dir.write(NEXT, "000102030405060708090a0b0c0d0e0f\n")?;
        restart(&mut w, NEXT, Some(OLD), true)?;
        w.daemon.revoke(&new)?;
        for token in [&old, &new] {
            assert_dead(&w, token);
        }
        w.assert_passes(&good);
        // Refusals of both are counted, and a request that passes is counted once.
        let (refused, requests) = (w.daemon.counter("revoked")?, w.daemon.counter("requests")?);
        w.assert_refused(&old);
        w.assert_passes(&good);
        assert_eq!(w.daemon.counter("revoked")?, refused + 1, "{attach} {enforcement}");
        assert!(w.daemon.counter("requests")? <= requests + 2, "{attach} {enforcement}");
        w.daemon.kill9()?;
        for token in [&old, &new] {
            w.assert_refused(token);
        }
        w.daemon.restart()?;
        w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
        restart(&mut w, NEXT, None, false)?;
        w.assert_passes(&old);
        assert_dead(&w, &new);
        assert!(w.daemon.stop()?.success());
        w.daemon.command(&["detach"])?.ok()?;
        w.assert_passes(&new);
    }
    Ok(())
}
