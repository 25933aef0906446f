//! A candidate set beside the live one: what it would change, promoting it, going back.

use std::{
    fs,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis_tests::{PATIENCE, World, is_root};
use serde_json::{Value, json};

/// Allows what is below `/v1`, or, as the candidate, what is below `/v2`; condemns what it denies.
fn policy(path: &str) -> String {
    format!(
        "package portcullis\n\nimport rego.v1\n\ndefault decision := {{\"allow\": false, \"reason\": \"not below {path}\", \"block\": \"token\", \"ttl\": 600}}\n\n\
         decision := {{\"allow\": true, \"ttl\": 60}} if inside\n\ninside if {{\n\tinput.token_status == \"valid\"\n\tinput.request.segments[0] == \"{path}\"\n}}\n"
    )
}

fn world() -> Result<World> {
    World::with(|config, dir| {
        for (name, path) in [("own", "v1"), ("candidate", "v2")] {
            fs::create_dir(dir.path(name))?;
            dir.write(&format!("{name}/decision.rego"), &policy(path))?;
        }
        config.policies = dir.path("own");
        let (candidate, state) = (dir.path("candidate"), dir.path("state"));
        config.policy =
            format!("candidate_dirs = [\"{}\"]\nstate_dir = \"{}\"", candidate.display(), state.display());
        Ok(())
    })
}

fn shadow(w: &World) -> Result<Value> {
    w.daemon.json(&["policy", "shadow"], "")
}

/// Waits until the comparison says so.
fn await_shadow(w: &World, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
    let start = Instant::now();
    loop {
        let told = shadow(w)?;
        if wanted(&told) {
            return Ok(told);
        }
        ensure!(start.elapsed() < PATIENCE, "the comparison stays at {told}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_candidate_decides_beside_the_live_set_without_effect_and_is_promoted_and_rolled_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = world()?;
    await_shadow(&w, |told| told["state"] == "shadow")?;
    let token = w.mint.hs256()?;
    for _ in 0..3 {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    }
    let told = await_shadow(&w, |told| told["shadow"]["compared"] == 3)?;
    assert_eq!(
        (&told["shadow"]["newly_denied"], &told["shadow"]["same"]),
        (&json!(3), &json!(0)),
        "{told:#}"
    );
    let difference = &told["shadow"]["differences"][0];
    assert_eq!(difference["candidate"], json!({"allow": false, "reason": "not below v2"}));
    assert_eq!(difference["rules"], json!(["data.portcullis.inside"]));
    assert_eq!(difference["examples"][0]["input"]["request"]["path"], "/v1/orders");
    assert_eq!(
        difference["examples"][0]["fingerprint"],
        w.daemon.json(&["fingerprint"], &token)?["fingerprint"]
    );
    // The candidate would condemn it; nothing of the kind happened.
    w.assert_passes(&token);
    assert_eq!(w.daemon.status()?["revocations"]["condemned"], 0);
    let human = w.daemon.ask(&["policy", "shadow"], "")?.ok()?;
    assert!(human.contains("3 × newly denied: allow -> deny (not below v2)"), "{human}");

    let (before, other) = (w.daemon.status()?["policy"]["generation"].as_u64().unwrap(), w.mint.hs256()?);
    let promoted = w.daemon.json(&["policy", "promote"], "")?;
    assert!(promoted["generation"].as_u64().unwrap() > before, "{promoted}");
    assert_eq!(w.daemon.auth("GET", "/v2/orders", &other)?.status, 200);
    let origin = |w: &World| Ok::<_, anyhow::Error>(w.daemon.status()?["policy"]["origin"].clone());
    assert!(origin(&w)?["promoted"].is_string(), "{}", origin(&w)?);
    assert_eq!(shadow(&w)?["state"], "same");
    assert!(w.daemon.log().iter().any(|line| line.contains("the candidate was promoted")));
    // It stays over a restart, though `policy.dirs` hold the old set; and a reload does not bring that back.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.daemon.json(&["reload"], "")?;
    assert_eq!(w.daemon.auth("GET", "/v2/orders", &other)?.status, 200);
    assert!(w.daemon.log().iter().any(|line| line.contains("hold another, which is not in force")));
    assert!(w.daemon.ask(&["status"], "")?.ok()?.contains("PROMOTED"));

    w.daemon.json(&["policy", "rollback"], "")?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &other)?.status, 200);
    assert_eq!(origin(&w)?["promoted"], Value::Null, "`policy.dirs` hold it");
    // Back and forth.
    w.daemon.json(&["policy", "rollback"], "")?;
    assert_eq!(w.daemon.auth("GET", "/v2/orders", &other)?.status, 200);
    // Once the directories have caught up, they count again.
    let lines = w.daemon.log().len();
    w.dir.write("own/decision.rego", &policy("v2"))?;
    w.daemon.json(&["reload"], "")?;
    w.daemon.await_log(lines, "`policy.dirs` hold what was promoted: they are the live set again", "")?;
    w.dir.write("own/decision.rego", &policy("v3"))?;
    w.daemon.json(&["reload"], "")?;
    assert_eq!(w.daemon.auth("GET", "/v3/orders", &w.mint.hs256()?)?.status, 200);
    Ok(())
}

#[test]
fn a_candidate_that_does_not_load_or_fails_its_tests_is_not_promoted_and_disturbs_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    await_shadow(&w, |told| told["state"] == "shadow")?;
    let token = w.mint.hs256()?;
    w.dir.write("candidate/x_test.rego", "package x_test\n\ntest_that_fails if false\n")?;
    await_shadow(&w, |told| told["refused_because"].to_string().contains("test_that_fails"))?;
    let refused = w.daemon.ask(&["policy", "promote"], "")?;
    assert!(refused.code == 4 && refused.stderr.contains("test_that_fails"), "{refused:?}");
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let nothing = w.daemon.ask(&["policy", "rollback"], "")?;
    assert!(nothing.code == 4 && nothing.stderr.contains("nothing was promoted"), "{nothing:?}");
    assert!(w.daemon.metrics()?.contains("portcullis_policy_candidate{state=\"refused\"} 1"));
    Ok(())
}
