//! OPA's data API.

use anyhow::Result;
use portcullis_tests::{World, is_root};
use serde_json::{Value, json};

fn asking(method: &str, token: &str) -> String {
    let request = json!({"method": method, "path": "/v1/orders", "segments": ["v1", "orders"]});
    json!({"input": {"token": token, "request": request}}).to_string()
}

fn result(w: &World, path: &str, body: &str) -> Result<Value> {
    let answer = w.daemon.data(path, body)?;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.header("content-type"), Some("application/json"));
    Ok(serde_json::from_str(&answer.body)?)
}

#[test]
fn the_data_api_allows_denies_and_is_undefined_as_opa() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let token = w.mint.hs256()?;
    let decision = "portcullis/decision";
    assert_eq!(result(&w, decision, &asking("GET", &token))?["result"]["allow"], true);
    assert_eq!(result(&w, &format!("{decision}/allow"), &asking("GET", &token))?, json!({"result": true}));
    let denied = result(&w, decision, &asking("POST", &token))?;
    assert_eq!((&denied["result"]["allow"], &denied["result"]["status"]), (&json!(false), &json!(403)));
    let none = result(&w, decision, r#"{"input": {}}"#)?;
    assert_eq!(none["result"]["allow"], false);
    assert_eq!(result(&w, "portcullis/nothing/here", &asking("GET", &token))?, json!({}));
    assert_eq!(result(&w, "portcullis/scopes/granted", &asking("GET", &token))?, json!({"result": true}));
    Ok(())
}

#[test]
fn a_revoked_token_gets_no_allow_from_any_path() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let (token, asked) = {
        let token = w.mint.hs256()?;
        let asked = asking("GET", &token);
        (token, asked)
    };
    let decision = "portcullis/decision";
    // In the cache by now.
    assert_eq!(result(&w, decision, &asked)?["result"]["allow"], true);
    let id = w.daemon.revoke(&token)?;
    let refused = result(&w, decision, &asked)?;
    assert_eq!(refused["result"]["allow"], false);
    assert_eq!(refused["result"]["reason"], "token_revoked");
    assert_eq!(result(&w, &format!("{decision}/allow"), &asked)?, json!({"result": false}));
    assert_eq!(result(&w, "portcullis/scopes/granted", &asked)?, json!({}));
    w.daemon.json(&["unrevoke", &id], "")?;
    assert_eq!(result(&w, decision, &asked)?["result"]["allow"], true);
    Ok(())
}

#[test]
fn bodies_that_are_malformed_or_too_large_are_refused_clearly() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.max_body = 2048;
        Ok(())
    })?;
    for bad in ["{", "[1,2]", "\u{0}", r#"{"input": {"token": 7}}x"#, "not json"] {
        let answer = w.daemon.data("portcullis/decision", bad)?;
        assert_eq!(answer.status, 400, "{bad:?}: {answer:?}");
        let error: Value = serde_json::from_str(&answer.body)?;
        assert_eq!(error["code"], "invalid_parameter");
        assert!(error["message"].as_str().is_some_and(|m| !m.is_empty()), "{error}");
    }
    let large = json!({"input": {"padding": "p".repeat(4096)}}).to_string();
    let answer = w.daemon.data("portcullis/decision", &large)?;
    assert_eq!(answer.status, 413, "{answer:?}");
    // It serves on.
    assert_eq!(result(&w, "portcullis/decision", &asking("GET", &w.mint.hs256()?))?["result"]["allow"], true);
    Ok(())
}
