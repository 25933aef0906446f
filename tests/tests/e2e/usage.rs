//! Uses of tokens: what is noted, listed, kept over a restart, and told to policies.

use std::fs;

use anyhow::Result;
use portcullis_tests::{
    World,
    daemon::Daemon,
    fleet::Fleet,
    is_root,
    nats::{Setting, Version},
    tokens::claim,
    until,
};
use serde_json::{Value, json};

/// A policy that says what it is told of a token's use and of its host.
const POLICY: &str = r#"package portcullis

import rego.v1

default decision := {"allow": false}

decision := {"allow": true, "dynamic_metadata": {"usage": input.usage, "host": data.portcullis.host, "region": data.portcullis.region}} if {
	input.token_status == "valid"
	input.request.path != "/no"
}
"#;

fn world() -> Result<World> {
    World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/decision.rego", POLICY)?;
        config.policies = dir.path("own");
        config.serve = format!(
            "[host]\nname = \"edge-1\"\nregion = \"eu\"\nlabels = {{ rack = \"7\" }}\n[usage]\nfile = \"{}\"",
            dir.path("usage.redb").display()
        );
        Ok(())
    })
}

/// What the policy was told.
fn told(w: &World, token: &str) -> Result<Value> {
    told_by(&w.daemon, token)
}

fn told_by(daemon: &Daemon, token: &str) -> Result<Value> {
    let body = json!({"input": {"token": token, "request": {"path": "/"}}}).to_string();
    let answer = daemon.data("portcullis/decision/dynamic_metadata", &body)?;
    Ok(serde_json::from_str::<Value>(&answer.body)?["result"].take())
}

#[test]
fn uses_are_noted_for_allowed_requests_listed_kept_and_told_to_policies() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = world()?;
    let (used, denied) = (w.mint.hs256()?, w.mint.hs256()?);
    let first = told(&w, &used)?;
    assert_eq!(first["host"], json!({"name": "edge-1", "labels": {"rack": "7"}}));
    assert_eq!(first["region"], "eu");
    let since = first["usage"]["observed_since"].as_u64().unwrap();
    assert_eq!(
        (since % 3600, first["usage"].get("last_used")),
        (0, None),
        "its own request is no use before it"
    );
    assert_eq!(w.daemon.auth("GET", "/no", &denied)?.status, 403);
    let second = told(&w, &used)?;
    let last = second["usage"]["last_used"].as_u64().unwrap();
    assert!(last >= since && last % 3600 == 0, "{second}");
    assert_eq!(second["usage"]["subject"]["first_used"], last);
    for round in 0..2 {
        let listed = w.daemon.json(&["usage", "list"], "")?;
        let rows = listed["usage"].as_array().unwrap();
        assert_eq!(rows.len(), 2, "round {round}: {listed}");
        assert!(rows.iter().all(|r| r["subject"] == claim(&used, "sub").unwrap().as_str()));
        let token = rows.iter().find(|r| r["kind"] == "token").unwrap();
        assert_eq!(token["fingerprint"], w.daemon.json(&["fingerprint"], &used)?["fingerprint"]);
        let dormant = w.daemon.json(&["usage", "list", "--dormant", "30d"], "")?;
        assert_eq!(dormant["usage"], json!([]));
        assert_eq!(dormant["observed_since"], since);
        assert!(w.daemon.stop()?.success());
        w.daemon.restart()?;
    }
    let table = w.daemon.ask(&["usage", "list"], "")?.ok()?;
    assert!(table.starts_with("observed since ") && table.lines().count() == 4, "{table}");
    assert_eq!(w.daemon.status()?["usage"]["entries"], 2);
    // A damaged file is moved away, and nothing is known before now.
    assert!(w.daemon.stop()?.success());
    fs::write(w.dir.path("usage.redb"), "nothing of the kind")?;
    w.daemon.restart()?;
    assert_eq!(told(&w, &used)?["usage"].get("last_used"), None);
    assert!(w.daemon.log().iter().any(|line| line.contains("the usage file is begun anew")));
    Ok(())
}

#[test]
fn without_a_file_nothing_is_noted_and_it_is_said() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let refused = w.daemon.ask(&["usage", "list"], "")?;
    assert!(refused.code == 4 && refused.stderr.contains("usage.file"), "{refused:?}");
    Ok(())
}

#[test]
fn hosts_of_a_fleet_know_of_each_others_uses_also_of_those_that_they_missed() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let Some(mut fleet) = Fleet::hub(&[Setting::alone(Version::Current)])? else { return Ok(()) };
    for _ in 0..2 {
        fleet.add_with("", |config, dir| {
            fs::create_dir(dir.path("own"))?;
            // These hosts have no region.
            dir.write("own/decision.rego", &POLICY.replace(", \"region\": data.portcullis.region", ""))?;
            config.policies = dir.path("own");
            let file = dir.path("usage.redb").display().to_string();
            config.serve.extend(["[usage]\nfile = \"", &file, "\"\n"]);
            Ok(())
        })?;
    }
    fleet.settle()?;
    let (first, second) = (fleet.mint.hs256()?, fleet.mint.hs256()?);
    let is_known = |daemon: &Daemon, token: &str| -> Result<bool> {
        let id = claim(token, "jti")?;
        let listed = daemon.json(&["usage", "list"], "")?;
        Ok(listed["usage"].as_array().is_some_and(|all| all.iter().any(|row| row["token_id"] == *id)))
    };
    assert!(told_by(&fleet.hosts[0].daemon, &first)?.is_object());
    until(|| is_known(&fleet.hosts[1].daemon, &first))?;
    assert!(!is_known(&fleet.hosts[1].daemon, &second)?);
    // One that was away asks.
    fleet.hosts[1].daemon.kill9()?;
    told_by(&fleet.hosts[0].daemon, &second)?;
    assert!(is_known(&fleet.hosts[0].daemon, &second)?);
    fleet.hosts[1].daemon.restart()?;
    until(|| is_known(&fleet.hosts[1].daemon, &second))?;
    assert!(told_by(&fleet.hosts[1].daemon, &second)?["usage"]["last_used"].is_u64());
    Ok(())
}
