//! How a rate limit stands is told with each answer, at every front door.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Answer, http},
    config::DOORS,
    gateway::{self, envoy, start_envoy},
    is_root,
};
use serde_json::{Value, json};

/// Two requests a token and an hour, counted by who it is: each door shares them.
const POLICY: &str = r#"package limits

default decision := {"allow": false}

decision := {"allow": true, "ttl": 60, "limit": {"key": input.identity.sub, "rate": 2, "per": 3600, "burst": 2}} if {
	input.token_status == "valid"
}
"#;

fn world() -> Result<World> {
    World::with(|c, dir| {
        std::fs::create_dir(dir.path("limited"))?;
        dir.write("limited/limits.rego", POLICY)?;
        c.policies = dir.path("limited");
        c.policy = String::from("decision = \"limits/decision\"");
        c.interface = String::from("lo");
        Ok(())
    })
}

fn authzen(w: &World, token: &str) -> Result<Value> {
    let body = json!({
        "subject": {"type": "identity", "id": "x"}, "action": {"name": "GET"},
        "resource": {"type": "route", "id": "r", "properties": {"path": "/v1/orders"}},
        "context": {"token": token},
    });
    let answer = http(
        &w.net.server,
        DOORS.parse()?,
        "POST /access/v1/evaluation HTTP/1.1",
        body.to_string().as_bytes(),
    )?;
    Ok(serde_json::from_str(&answer.body)?)
}

fn assert_stands(answer: &Answer, left: u32) {
    assert_eq!(answer.header("ratelimit-policy"), Some("\"portcullis\";q=2;w=3600"), "{answer:?}");
    let state = answer.header("ratelimit").unwrap_or_default();
    assert!(state.starts_with(&format!("\"portcullis\";r={left};t=")), "{answer:?}");
}

#[test]
fn each_answer_says_how_much_is_left() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let token = w.mint.hs256()?;
    for left in [1, 0] {
        let allowed = w.daemon.auth("GET", "/v1/orders", &token)?;
        assert_eq!(allowed.status, 200);
        assert_stands(&allowed, left);
    }
    let forwarded = format!(
        "GET /forward-auth HTTP/1.1\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /v1/orders\r\n\
         Authorization: Bearer {token}"
    );
    let limited = http(&w.net.server, DOORS.parse()?, &forwarded, b"")?;
    assert_eq!(limited.status, 429, "{limited:?}");
    assert_stands(&limited, 0);
    assert!(limited.header("retry-after").is_some(), "{limited:?}");

    let token = w.mint.hs256()?;
    let body = json!({"input": {"token": token}}).to_string();
    for left in [1, 0, 0] {
        assert_stands(&w.daemon.data("limits/decision", &body)?, left);
    }
    let token = w.mint.hs256()?;
    for (left, decision) in [(1, true), (0, true), (0, false)] {
        let said = authzen(&w, &token)?;
        assert_eq!(
            (&said["decision"], &said["context"]["rate_limit"]["remaining"]),
            (&json!(decision), &json!(left))
        );
        assert_eq!(said["context"]["rate_limit"]["limit"], 2, "{said}");
    }
    Ok(())
}

#[test]
fn envoys_client_is_told_too() -> Result<()> {
    if !is_root() || !portcullis_tests::has("curl") {
        return Ok(());
    }
    let Some(binary) = envoy() else { return Ok(()) };
    let w = world()?;
    let _envoy = start_envoy(&w.net.server, &w.dir, &binary, &super::envoy::config())?;
    let token = w.mint.hs256()?;
    for left in [1, 0] {
        let allowed = gateway::ask(&w, super::envoy::GRPC, "/v1/orders", &[&gateway::bearer(&token)])?;
        assert_eq!(allowed.status, 200, "{allowed:?}");
        assert_stands(&allowed, left);
    }
    let limited = gateway::ask(&w, super::envoy::GRPC, "/v1/orders", &[&gateway::bearer(&token)])?;
    assert_eq!(limited.status, 429, "{limited:?}");
    assert_stands(&limited, 0);
    Ok(())
}
