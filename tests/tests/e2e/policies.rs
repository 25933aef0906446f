//! What policies condemn, and what a reload does to it.

use std::fs;

use anyhow::Result;
use portcullis_tests::{World, client::bearer, is_root, tokens::forged};

/// A world whose policies may be changed.
fn with_own_policies() -> Result<World> {
    World::with(|config, dir| {
        config.policies = dir.copy_policies()?;
        Ok(())
    })
}

fn generation(w: &World) -> Result<u64> {
    Ok(w.daemon.status()?["policy"]["generation"].as_u64().unwrap())
}

const WIDER: &str = r#"{"max_age_seconds": 36000, "max_age_seconds_by_client": {}}"#;

#[test]
fn a_token_past_its_window_is_denied_by_the_daemon_once_and_by_the_kernel_from_then_on() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let old = w.mint.aged(7200, "orders:read")?;
    w.assert_passes(&old);
    let answer = w.daemon.auth("GET", "/v1/orders", &old)?;
    assert_eq!(answer.status, 401, "{answer:?}");
    assert_eq!(answer.header("x-portcullis-reason"), Some("policy_denied"));
    w.assert_refused(&old);
    assert_eq!((w.daemon.counter("condemned")?, w.daemon.counter("revoked")?), (1, 0));
    w.daemon.kill9()?;
    w.assert_refused(&old);
    w.daemon.restart()?;
    w.assert_refused(&old);
    Ok(())
}

#[test]
fn a_denial_of_one_request_condemns_no_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    assert_eq!(w.daemon.auth("POST", "/v1/orders", &token)?.status, 403);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    w.assert_passes(&token);
    assert_eq!(w.daemon.status()?["revocations"]["condemned"], 0);
    Ok(())
}

#[test]
fn a_reload_lifts_condemnations_at_once_and_leaves_revocations() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = with_own_policies()?;
    let (old, revoked) = (w.mint.aged(7200, "orders:read")?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &old)?.status, 401);
    w.assert_refused(&old);
    let (before, lines) = (generation(&w)?, w.daemon.log().len());
    fs::write(w.dir.path("policies/window/data.json"), WIDER)?;
    // Nobody asks for it: the watcher sees the file.
    w.daemon.await_log(lines, "policies loaded", "")?;
    assert!(generation(&w)? > before);
    w.assert_passes(&old);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &old)?.status, 200);
    w.assert_refused(&revoked);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &revoked)?.status, 401);
    Ok(())
}

#[test]
fn policies_that_do_not_load_leave_the_old_in_force_and_it_is_said_why() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = with_own_policies()?;
    let (old, live) = (w.mint.aged(7200, "orders:read")?, w.mint.hs256()?);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &old)?.status, 401);
    let before = generation(&w)?;
    let scopes = w.dir.path("policies/scopes/scopes.rego");
    let good = fs::read_to_string(&scopes)?;
    let failing_test = format!(
        "{}\ntest_that_fails if false\n",
        fs::read_to_string(w.dir.path("policies/scopes/scopes_test.rego"))?
    );
    for (file, broken, named) in [
        ("scopes.rego", "package portcullis.scopes\n\ngranted if {".to_owned(), "scopes.rego"),
        ("scopes_test.rego", failing_test, "test_that_fails"),
        ("data.json", "{\"routes\": [".to_owned(), "data.json"),
    ] {
        let path = w.dir.path("policies/scopes").join(file);
        let (whole, lines) = (fs::read_to_string(&path)?, w.daemon.log().len());
        fs::write(&path, broken)?;
        let refused = w.daemon.ask(&["reload"], "")?;
        assert_eq!(refused.code, 4, "{refused:?}");
        assert!(refused.stderr.contains(named), "{file}: {refused:?}");
        w.daemon.await_log(lines, "policies refused; the set in force stays", named)?;
        assert_eq!(generation(&w)?, before);
        w.assert_refused(&old);
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &live)?.status, 200);
        assert_eq!(w.daemon.auth("POST", "/v1/orders", &live)?.status, 403);
        fs::write(&path, whole)?;
    }
    assert_eq!(fs::read_to_string(&scopes)?, good);
    // The set is the old one again: the same generation, and what it condemned stays so.
    assert_eq!(w.daemon.json(&["reload"], "")?["generation"], before);
    w.assert_refused(&old);
    Ok(())
}

#[test]
fn a_forged_token_condemns_nothing_of_the_genuine_one() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    // A token that the policy would condemn were it genuine, and one that is good.
    for token in [w.mint.aged(7200, "orders:read")?, w.mint.hs256()?, w.mint.es256()?] {
        let forged = forged(&token)?;
        for _ in 0..3 {
            let answer = w.daemon.auth("GET", "/v1/orders", &forged)?;
            assert_eq!(answer.status, 401);
            assert_eq!(answer.header("x-portcullis-reason"), Some("signature_invalid"));
        }
        w.assert_passes(&token);
    }
    assert_eq!(w.daemon.counter("condemned")?, 0);
    let good = w.mint.hs256()?;
    w.daemon.auth("GET", "/v1/orders", &forged(&good)?)?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &good)?.status, 200);
    // And an allow for the genuine one is none for the forged.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &forged(&good)?)?.status, 401);
    Ok(())
}

#[test]
fn the_kernel_answers_by_the_cause_of_a_condemnation_and_names_the_decision() -> Result<()> {
    const POLICY: &str = r#"package portcullis

default decision := {"allow": true}

decision := {"allow": false, "status": status, "block": "token", "ttl": 3600, "reason": "asked for"} if {
    some status in [401, 403, 429]
    input.request.segments[1] == sprintf("%d", [status])
}
"#;
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/decision.rego", POLICY)?;
        config.policies = dir.path("own");
        config.kernel = "retry_after = \"17s\"\ndenied_body = '{\"error\":\"no\"}'".to_owned();
        Ok(())
    })?;
    for status in [401_u16, 403, 429] {
        let token = w.mint.hs256()?;
        w.assert_passes(&token);
        // nginx understands no 429 from this door.
        let told = if status == 429 { 403 } else { status };
        assert_eq!(w.daemon.auth("GET", &format!("/status/{status}"), &token)?.status, told);
        let mut client = w.connect()?;
        let answer = client.ask(&bearer("/refused", &token))?;
        assert!(answer.status == status && !answer.is_servers(), "{answer:?}");
        assert_eq!(answer.header("www-authenticate").is_some(), status != 429, "{answer:?}");
        assert_eq!(answer.header("retry-after"), (status == 429).then_some("17"), "{answer:?}");
        assert_eq!(answer.body.contains("no"), status == 403, "{answer:?}");
        // The same connection is not used again.
        assert_eq!(answer.header("connection"), Some("close"));
    }
    let condemned = w.daemon.log().iter().filter(|line| line.contains("condemned by the policy")).count();
    assert_eq!(condemned, 3);
    Ok(())
}
