//! API keys: issued, used, rotated, disabled, over kill -9.

use anyhow::{Context as _, Result};
use portcullis_tests::{World, is_root};
use serde_json::Value;

fn world() -> Result<World> {
    World::with(|config, dir| {
        let file = dir.path("keys.json").display().to_string();
        config.serve = format!("[token.api_keys]\nfile = \"{file}\"\nprefix = \"acme\"\n");
        Ok(())
    })
}

fn issue(w: &World, more: &[&str]) -> Result<(String, String)> {
    let args = [&["keys", "issue", "--subject", "ci", "--scope", "orders:read"], more].concat();
    let told = w.daemon.json(&args, "")?;
    let text = |v: &Value| v.as_str().map(str::to_owned).context("a text");
    Ok((text(&told["key"]["id"])?, text(&told["token"])?))
}

fn outcome(w: &World, key: &str) -> Result<(u16, String)> {
    let answer = w.daemon.auth("GET", "/v1/orders", key)?;
    Ok((answer.status, answer.header("x-portcullis-reason").unwrap_or_default().to_owned()))
}

#[test]
fn an_api_key_is_issued_used_rotated_and_disabled_in_the_kernel_too() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = world()?;
    let text = w.daemon.ask(&["keys", "issue", "--subject", "ci", "--scope", "orders:read"], "")?.ok()?;
    assert!(text.starts_with("acme_") && text.trim().len() == 5 + 11 + 1 + 49, "{text}");
    let (id, key) = issue(&w, &["--ttl", "90d", "--role", "robot"])?;
    for _ in 0..2 {
        assert_eq!(outcome(&w, &key)?.0, 200);
    }
    w.assert_passes(&key);
    // kill -9 behind the acknowledgement loses nothing.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    assert_eq!(outcome(&w, &key)?.0, 200);

    let rotated = w.daemon.json(&["keys", "rotate", &id, "--overlap", "1h"], "")?;
    let second = rotated["token"].as_str().context("a token")?.to_owned();
    assert_eq!((outcome(&w, &key)?.0, outcome(&w, &second)?.0), (200, 200));
    w.assert_passes(&second);
    let disabled = w.daemon.json(&["keys", "disable", &id], "")?;
    assert!(disabled["revocation"].is_u64(), "{disabled}");
    assert_eq!(outcome(&w, &key)?, (401, "token_revoked".to_owned()));
    w.assert_refused(&key);
    w.assert_passes(&second);
    // Lifted by mistake, it is disabled all the same.
    w.daemon.ask(&["unrevoke", &disabled["revocation"].to_string()], "")?.ok()?;
    assert_eq!(outcome(&w, &key)?, (401, "api_key_disabled".to_owned()));
    w.daemon.kill9()?;
    w.daemon.restart()?;
    assert_eq!(outcome(&w, &key)?, (401, "api_key_disabled".to_owned()));
    assert_eq!(outcome(&w, &second)?.0, 200);

    let mut wrong = second.clone();
    wrong.replace_range(20..21, if &second[20..21] == "a" { "b" } else { "a" });
    assert_eq!(outcome(&w, &wrong)?, (401, "token_malformed".to_owned()));
    let list = w.daemon.ask(&["keys", "list"], "")?.ok()?;
    assert!(list.contains(&id) && !list.contains(&second[20..40]), "{list}");
    let log = w.daemon.log().join("\n");
    assert!(!log.contains(&second[20..40]), "a key's text is in the log");
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains("portcullis_api_keys{state=\"good\"} 2"), "{metrics}");
    Ok(())
}

#[test]
fn without_a_file_there_are_no_api_keys() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let refused = w.daemon.ask(&["keys", "list"], "")?;
    assert!(format!("{refused:?}").contains("API keys are off"), "{refused:?}");
    Ok(())
}

#[test]
fn orders_about_keys_that_are_refused_are_in_the_audit_log() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let (id, _) = issue(&w, &[])?;
    let soon = ["keys", "issue", "--subject", "x", "--ttl", "soon"];
    for args in [&["keys", "disable", "nobody"][..], &["keys", "rotate", "nobody"], &soon] {
        assert_eq!(w.daemon.ask(args, "")?.code, 4, "{args:?}");
    }
    // The next order takes them along.
    w.daemon.ask(&["keys", "disable", &id], "")?.ok()?;
    let text = w.daemon.command(&["audit", "show", "--json"])?.ok()?;
    let lines: Vec<Value> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let wanted =
        [("disable_key", "unknown_key"), ("rotate_key", "unknown_key"), ("issue_key", "bad_request")];
    for (of, code) in wanted {
        let is = |l: &Value| {
            l["action"] == "refused" && l["of"] == of && l["code"] == code && l["actor"] == "uid:0"
        };
        assert!(lines.iter().any(is), "{of}: {lines:#?}");
    }
    Ok(())
}
