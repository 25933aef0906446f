//! Revocation by what tokens say of themselves.

use anyhow::Result;
use portcullis_tests::{World, client::bearer, config::ISSUER, is_root, tokens::claim, until};
use serde_json::Value;

/// `portcullis revoke` with these options; what it prints as JSON.
fn revoke(w: &World, options: &[&str]) -> Result<Value> {
    w.daemon.json(&[&["revoke", "--reason", "test"], options].concat(), "")
}

#[test]
fn a_users_tokens_die_in_the_kernel_if_seen_and_at_first_sight_if_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let (seen, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let sub = claim(&seen, "sub")?;
    // Of the same user, and never seen by anybody.
    let unseen = w.mint.of_subject(&sub)?;
    for token in [&seen, &other] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", token)?.status, 200);
    }
    let dry = revoke(&w, &["--issuer", ISSUER, "--sub", &sub, "--dry-run"])?;
    assert_eq!((&dry["live"], &dry["dry_run"]), (&1.into(), &true.into()), "{dry}");
    w.assert_passes(&seen);
    let done = revoke(&w, &["--issuer", ISSUER, "--sub", &sub])?;
    assert_eq!(done["condemned"], 1, "{done}");
    w.assert_refused(&seen);
    assert_eq!(
        w.daemon.auth("GET", "/v1/orders", &seen)?.header("x-portcullis-reason"),
        Some("token_revoked")
    );
    let answer = w.daemon.auth("GET", "/v1/orders", &unseen)?;
    assert_eq!((answer.status, answer.header("x-portcullis-reason")), (401, Some("token_revoked")));
    until(|| Ok(w.daemon.counter("revoked")? > 0 && w.daemon.status()?["revocations"]["revoked"] == 2))?;
    w.assert_refused(&unseen);
    w.assert_passes(&other);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &other)?.status, 200);
    // It outlives the daemon, in the kernel and on disk.
    w.daemon.kill9()?;
    w.assert_refused(&seen);
    w.daemon.restart()?;
    w.assert_refused(&unseen);
    let third = w.mint.of_subject(&sub)?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &third)?.status, 401);
    // Lifting it lifts what followed from it, and nothing else.
    w.daemon.revoke(&other)?;
    let id = done["id"].to_string();
    let listed = w.daemon.ask(&["revocations"], "")?.ok()?;
    assert!(listed.contains(&format!("sub={sub}")), "{listed}");
    w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
    for token in [&seen, &unseen, &third] {
        w.assert_passes(token);
        assert_eq!(w.daemon.auth("GET", "/v1/orders", token)?.status, 200);
    }
    w.assert_refused(&other);
    Ok(())
}

#[test]
fn every_selector_reaches_the_tokens_it_names() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let bystander = w.mint.es256()?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &bystander)?.status, 200);
    let token = w.mint.hs256()?;
    let jti = claim(&token, "jti")?;
    for options in [
        &["--issuer", ISSUER, "--jti", &jti][..],
        &["--issuer", ISSUER],
        &["--issuer", ISSUER, "--scope", "orders:read"],
        &["--issuer", ISSUER, "--issued-before", "2099-01-01T00:00:00Z"],
    ] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200, "{options:?}");
        let done = revoke(&w, options)?;
        w.assert_refused(&token);
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 401, "{options:?}");
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &bystander)?.status, 200, "{options:?}");
        w.daemon.ask(&["unrevoke", &done["id"].to_string()], "")?.ok()?;
        w.assert_passes(&token);
    }
    let done = revoke(&w, &["--everything", "--ttl", "10m"])?;
    assert_eq!(done["condemned"], 2, "{done}");
    w.assert_refused(&bystander);
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 401);
    Ok(())
}

#[test]
fn what_hold_mode_allowed_ends_with_a_selector_whoever_remembers_the_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.kernel = "unknown = \"hold\"".to_owned();
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.assert_request_passes(&bearer("/v1/orders", &token));
    // The daemon forgets whom it has seen; the kernel does not.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.assert_request_passes(&bearer("/v1/orders", &token));
    let done = revoke(&w, &["--issuer", ISSUER, "--sub", &claim(&token, "sub")?])?;
    assert_eq!(done["condemned"], 0, "{done}");
    w.assert_request_refused(&bearer("/v1/orders", &token));
    Ok(())
}

#[test]
fn a_selector_that_names_too_little_is_refused_in_words() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    for (options, said) in [
        (&["--sub", "alice"][..], "--issuer"),
        (&["--issuer", ISSUER, "--sub", "a", "--jti", "b"], "not several"),
        (&["--everything", "--issuer", ISSUER], "`everything`"),
    ] {
        let refused = w.daemon.ask(&[&["revoke"], options].concat(), "")?;
        assert!(refused.stderr.contains(said), "{options:?}: {}", refused.stderr);
    }
    Ok(())
}
