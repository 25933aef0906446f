//! Changing the fingerprint key of a fleet, host by host, while tokens are revoked on all of them and tried on all of them:
//! at no moment does one pass.

use std::{
    net::SocketAddr,
    sync::{
        RwLock,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result, ensure};
use portcullis_tests::{
    client::{Client, bearer},
    fleet::{Fleet, Host},
    is_root,
    nats::{Setting, Version},
    net::Namespace,
    until,
};
use serde_json::{Value, json};

const OLD: &str = "fingerprint.key";
const NEXT: &str = "next.key";
/// What is asked for with revoked tokens; no server may read of it.
const TRIED: &str = "/tried";

/// Somebody who goes on trying what is revoked, on every host.
struct Tries {
    hub: Namespace,
    hosts: Vec<SocketAddr>,
    /// Tokens that all hosts refuse by now.
    dead: RwLock<Vec<String>>,
    stop: AtomicBool,
    asked: AtomicU64,
    passed: RwLock<Vec<String>>,
}

impl Tries {
    fn run(&self) {
        let mut n = 0usize;
        while !self.stop.load(Ordering::Relaxed) {
            let token = {
                let dead = self.dead.read().unwrap();
                dead[n % dead.len()].clone()
            };
            let host = n % self.hosts.len();
            n += 1;
            let asked =
                Client::connect(&self.hub, self.hosts[host]).and_then(|mut c| c.ask(&bearer(TRIED, &token)));
            self.asked.fetch_add(1, Ordering::Relaxed);
            if let Ok(answer) = asked
                && (answer.is_servers() || answer.status != 401)
            {
                self.passed.write().unwrap().push(format!("host {host}: {answer:?}"));
            }
        }
    }
}

struct Ends<'a>(&'a Tries);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

fn claims(told: &Value) -> u64 {
    told["revocations"]["under_other_key"]["claims"].as_u64().unwrap_or(99)
}

/// Revokes on one host by what is given, and is back when all have it in force.
fn revoke(host: &Host, token: &str, options: &[&str]) -> Result<Value> {
    let told =
        host.daemon.ask(&[&["revoke", "--ttl", "1h", "--json", "--wait", "all"], options].concat(), token)?;
    ensure!(told.code == 0, "{told:?}");
    Ok(serde_json::from_str(&told.stdout)?)
}

/// Asserts that kernels and decision paths of all hosts refuse all these tokens, and the servers read nothing of them.
fn assert_dead(fleet: &Fleet, tokens: &[String], stage: &str) -> Result<()> {
    for (n, host) in fleet.hosts.iter().enumerate() {
        for (t, token) in tokens.iter().enumerate() {
            ensure!(host.refuses(token)?, "{stage}: host {n}'s kernel lets token {t} pass");
            let status = host.daemon.auth("GET", "/v1/orders", token)?.status;
            ensure!(status == 401, "{stage}: host {n}'s decision path says {status} to token {t}");
        }
    }
    Ok(())
}

/// Revokes a new token on each host, by its text; the tokens are tried from here on.
fn more(fleet: &Fleet, tries: &Tries, dead: &mut Vec<String>) -> Result<()> {
    for host in &fleet.hosts {
        let token = fleet.mint.hs256()?;
        revoke(host, &token, &[])?;
        tries.dead.write().unwrap().push(token.clone());
        dead.push(token);
    }
    Ok(())
}

#[test]
fn no_revoked_token_passes_on_any_host_while_a_fleets_key_is_changed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::of(3, &[Setting::alone(Version::Current)])? else { return Ok(()) };
    fleet.settle()?;
    for host in &fleet.hosts {
        host.dir.write(NEXT, "000102030405060708090a0b0c0d0e0f\n")?;
    }
    let first = fleet.mint.hs256()?;
    revoke(&fleet.hosts[0], &first, &[])?;
    let tries = Tries {
        hub: fleet.hub_namespace().clone(),
        hosts: fleet.hosts.iter().map(Host::address).collect::<Result<_>>()?,
        dead: RwLock::new(vec![first.clone()]),
        stop: AtomicBool::new(false),
        asked: AtomicU64::new(0),
        passed: RwLock::default(),
    };
    std::thread::scope(|s| {
        let _ended = Ends(&tries);
        s.spawn(|| tries.run());
        change(&mut fleet, &tries, vec![first])
    })?;
    let (asked, passed) = (tries.asked.load(Ordering::Relaxed), tries.passed.read().unwrap());
    for host in &fleet.hosts {
        let read = host.server.requests().iter().filter(|r| r.contains(TRIED)).count();
        ensure!(read == 0, "{host:?} read {read} of them");
        let parts =
            host.server.connections().iter().filter(|c| c.bytes != 0 && c.requests.is_empty()).count();
        ensure!(parts == 0, "{host:?} read a part of {parts} requests");
    }
    println!("{asked} requests with revoked tokens meanwhile, {} of them passed", passed.len());
    ensure!(asked > 50 && passed.is_empty(), "{passed:#?}");
    Ok(())
}

fn change(fleet: &mut Fleet, tries: &Tries, mut dead: Vec<String>) -> Result<()> {
    let good = fleet.mint.hs256()?;
    let lifted = fleet.mint.hs256()?;
    let told = revoke(&fleet.hosts[1], &lifted, &[])?;
    let old_name = told["fingerprint"].as_str().context("a fingerprint")?.to_owned();
    more(fleet, tries, &mut dead)?;
    let old = fleet.hosts[0].daemon.status()?["key_id"].as_str().context("a key")?.to_owned();
    // 1. The next key beside the old one, host by host; on all before any goes on.
    for n in 0..3 {
        fleet.hosts[n].config.other_key = Some(NEXT);
        fleet.hosts[n].restart(n == 1)?;
        fleet.settle()?;
        more(fleet, tries, &mut dead)?;
        assert_dead(fleet, &dead, &format!("the next key is on {} hosts", n + 1))?;
    }
    let shown = fleet.hosts[0].fleet()?;
    let next = shown["hosts"][0]["other_key_id"].as_str().context("another key")?.to_owned();
    // 2. They change places, host by host.
    for n in 0..3 {
        (fleet.hosts[n].config.key, fleet.hosts[n].config.other_key) = (NEXT, Some(OLD));
        fleet.hosts[n].restart(n != 1)?;
        fleet.settle()?;
        more(fleet, tries, &mut dead)?;
        assert_dead(fleet, &dead, &format!("the keys have changed places on {} hosts", n + 1))?;
        for host in &fleet.hosts {
            assert_eq!(host.fleet()?["other_keys"], 0, "all share a key");
        }
        if n == 0 {
            // What was ordered under the old key alone is lifted everywhere, and ordered again by that name.
            let there = fleet.hosts[0].daemon.json(&["revocations", "--fingerprint", &old_name], "")?;
            let id = there[0]["id"].to_string();
            fleet.hosts[0].daemon.ask(&["unrevoke", &id, "--wait", "all"], "")?.ok()?;
            for host in &fleet.hosts {
                host.await_refused(&lifted, false);
                assert_eq!(host.daemon.auth("GET", "/v1/orders", &lifted)?.status, 200);
            }
            revoke(&fleet.hosts[0], "", &["--fingerprint", &old_name, "--key-id", &old])?;
            dead.push(lifted.clone());
            tries.dead.write().unwrap().push(lifted.clone());
        }
    }
    assert_dead(fleet, &dead, "all work with the next key")?;
    for host in &fleet.hosts {
        assert!(!host.refuses(&good)?);
        assert_eq!(host.daemon.status()?["key_id"], json!(next));
    }
    // 3. The old key goes where nothing needs it any more: what stands under it alone is ordered anew by its text here.
    let needed = claims(&fleet.hosts[2].daemon.status()?);
    assert!(needed >= 5, "{needed} revocations were ordered before there was a next key");
    fleet.hosts[2].config.other_key = None;
    let toml = fleet.hosts[2].config.toml(&fleet.hosts[2].dir);
    fleet.hosts[2].dir.write("portcullis.toml", &toml)?;
    fleet.hosts[2].daemon.kill9()?;
    let refused = fleet.hosts[2].daemon.command(&["run"])?;
    assert!(
        refused.code != 0 && refused.stderr.contains(&format!("fingerprint key {old} alone")),
        "{refused:?}"
    );
    assert!(fleet.hosts[2].refuses(&dead[0])?, "its guards go on");
    fleet.hosts[2].config.other_key = Some(OLD);
    let toml = fleet.hosts[2].config.toml(&fleet.hosts[2].dir);
    fleet.hosts[2].dir.write("portcullis.toml", &toml)?;
    fleet.hosts[2].daemon.restart()?;
    fleet.settle()?;
    for token in &dead {
        revoke(&fleet.hosts[0], token, &[])?;
    }
    let all =
        fleet.hosts[0].daemon.json(&["revocations", "list", "--kind", "token", "--limit", "1000"], "")?;
    let key = u64::from_str_radix(&old, 16)?;
    for claim in all.as_array().into_iter().flatten().filter(|c| c["key_id"] == key && c["other"].is_null()) {
        fleet.hosts[0].daemon.ask(&["unrevoke", &claim["id"].to_string(), "--wait", "all"], "")?.ok()?;
    }
    for host in &fleet.hosts {
        until(|| Ok(claims(&host.daemon.status()?) == 0))?;
        // All of that is seen from any host.
        host.await_fleet(|f| {
            f["hosts"].as_array().is_some_and(|all| all.iter().all(|h| h["needs_other"] == 0))
        })?;
    }
    for n in 0..3 {
        fleet.hosts[n].config.other_key = None;
        fleet.hosts[n].restart(n != 0)?;
        fleet.settle()?;
        more(fleet, tries, &mut dead)?;
        assert_dead(fleet, &dead, &format!("the old key is gone from {} hosts", n + 1))?;
    }
    for host in &fleet.hosts {
        assert!(!host.refuses(&good)?);
    }
    Ok(())
}
