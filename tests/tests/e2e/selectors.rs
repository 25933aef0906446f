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

#[test]
fn a_preview_counts_tokens_and_living_connections_and_ends_none() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let sub = claim(&token, "sub")?;
    for t in [&token, &other] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", t)?.status, 200);
    }
    // Two with a request under way; one that carried the token before; one of another token.
    let half = |token: &str| {
        format!(
            "POST /slow HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\nContent-Length: 4\r\n\r\nbo"
        )
    };
    let mut open = Vec::new();
    for t in [&token, &token, &other] {
        let mut client = w.connect()?;
        client.send(half(t).as_bytes())?;
        open.push(client);
    }
    let mut idle = w.connect()?;
    assert_eq!(idle.ask(&bearer("/before", &token))?.status, 200);
    let selector = ["--issuer", ISSUER, "--sub", &sub, "--dry-run"];
    until(|| Ok(revoke(&w, &selector)?["connections"] == 2))?;
    let dry = revoke(&w, &selector)?;
    assert_eq!((&dry["live"], &dry["connections"]), (&1.into(), &2.into()), "{dry}");
    assert!(dry.get("warning").is_none(), "there is a front door: {dry}");
    let one = w.daemon.json(&["revoke", "--dry-run"], &token)?;
    assert_eq!(one["connections"], 2, "{one}");
    let shown = w.daemon.ask(&[&["revoke"], &selector[..]].concat(), "")?.ok()?;
    assert!(shown.contains("would be ended: 2 connections"), "{shown}");
    // None of them was ended.
    for client in &mut open {
        client.send(b"dy")?;
        assert_eq!(client.answer()?.status, 200);
    }
    assert_eq!(idle.ask(&bearer("/after", &token))?.status, 200);
    Ok(())
}

#[test]
fn a_selector_where_nobody_asks_says_whom_it_does_not_reach() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let done = revoke(&w, &["--issuer", ISSUER, "--sub", "alice"])?;
    let warning = done["warning"].as_str().unwrap_or_default();
    assert!(warning.contains("not refused"), "{done}");
    let receipt = w.daemon.json(&["revocations", "receipt", &done["id"].to_string()], "")?;
    assert_eq!(receipt["warning"], done["warning"]);
    let said = w.daemon.ask(&["revoke", "--issuer", ISSUER, "--sub", "bob"], "")?;
    assert!(said.stderr.contains("warning: nobody has asked"), "{said:?}");
    // A token's own revocation reaches all that there is of it.
    let token = w.mint.hs256()?;
    let id = w.daemon.revoke(&token)?;
    assert!(w.daemon.json(&["revocations", "receipt", &id], "")?.get("warning").is_none());
    w.assert_refused(&token);
    // Once somebody asks there is nothing to warn of.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 401);
    assert!(revoke(&w, &["--issuer", ISSUER, "--sub", "carol"])?.get("warning").is_none());
    Ok(())
}
