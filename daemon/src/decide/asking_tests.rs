//! Decisions that ask servers: kept for the declared time alone, and waited for by nobody else.

use std::{
    fs,
    sync::Arc,
    time::{Duration, Instant},
};

use portcullis_common::reason::Reason;
use serde_json::json;

use super::{
    Ruling,
    tests::{World, token},
};
use crate::{
    clock::SystemClock,
    outside::tests::{Server, outside},
    policy::{LoadOptions, PolicySet, load},
};

fn set(rules: &str) -> PolicySet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\n\nimport rego.v1\n\n{rules}\n")).unwrap();
    let options = LoadOptions { http_send: true, ..LoadOptions::default() };
    load(&[dir.path().to_owned()], "p/decision", &options).unwrap()
}

async fn world(rules: &str) -> (World, Server) {
    let server = Server::start().await;
    let rules = rules.replace("AT", &format!("http://127.0.0.1:{}", server.port));
    let mut world = World::with(set(&rules), None, None, Arc::new(SystemClock));
    world.ask_through(outside(server.port));
    (world, server)
}

#[tokio::test]
async fn a_decision_that_asked_is_kept_for_the_time_it_declares_and_no_other() {
    for (decision, asked) in [("{\"allow\": ok}", 2), ("{\"allow\": ok, \"ttl\": 60}", 1)] {
        let rules = format!(
            "decision := {decision}\nok := http.send({{\"method\": \"get\", \"url\": \"AT/role\"}}).body.role == \"admin\""
        );
        let (world, server) = world(&rules).await;
        let t = token("1");
        for _ in 0..2 {
            assert!(matches!(world.auth(&t).await, Ruling::Allow(_)));
        }
        assert_eq!(server.count(), asked, "{decision}");
        // Whatever asks it, also a path that is no decision.
        assert_eq!(world.data(&["p", "decision", "allow"], &t).await, json!({"result": true}));
        assert_eq!(world.data(&["p", "ok"], &t).await, json!({"result": true}));
    }
}

#[tokio::test]
async fn a_stalled_server_holds_up_no_other_decision_and_the_one_that_asks_it_is_denied() {
    let rules = "decision := {\"allow\": true} if input.request.path == \"/v1/orders\"\n\
        else := {\"allow\": http.send({\"method\": \"get\", \"url\": \"AT/stall\"}).status_code == 200}";
    let (world, _server) = world(rules).await;
    let (world, t) = (Arc::new(world), token("1"));
    let slow: Vec<_> = (0..3)
        .map(|_| {
            let (world, t) = (Arc::clone(&world), t.clone());
            tokio::spawn(async move { world.auth_of(&t, "/other").await.reason() })
        })
        .collect();
    // One thread runs all of this: a decision that waited on it would let nothing else happen.
    let begun = Instant::now();
    for n in 0..20 {
        tokio::task::yield_now().await;
        assert!(matches!(world.auth(&token(&n.to_string())).await, Ruling::Allow(_)));
    }
    let took = begun.elapsed();
    assert!(took < Duration::from_millis(350), "{took:?}");
    assert!(slow.iter().all(|s| !s.is_finished()), "the servers' time is not over");
    for one in slow {
        assert_eq!(one.await.unwrap(), Reason::PolicyError);
    }
}

#[tokio::test]
async fn a_token_that_is_revoked_while_a_server_is_asked_is_denied() {
    let rules = "decision := {\"allow\": true, \"ttl\": 60} if http.send({\"method\": \"get\", \"url\": \"AT/stall\", \"raise_error\": false}).status_code == 0";
    let (world, server) = world(rules).await;
    let (world, t) = (Arc::new(world), token("1"));
    let asked = {
        let (world, t) = (Arc::clone(&world), t.clone());
        tokio::spawn(async move { world.auth(&t).await.reason() })
    };
    while server.count() == 0 {
        tokio::task::yield_now().await;
    }
    world.revoke(&t).await;
    assert!(!asked.is_finished());
    assert_eq!(asked.await.unwrap(), Reason::TokenRevoked);
    assert!(!world.decider.has_verdicts());
}

#[tokio::test]
async fn who_asks_the_same_meanwhile_waits_for_the_answer_and_asks_no_server_itself() {
    let ask = "http.send({\"method\": \"get\", \"url\": \"AT/role\"}).status_code == 200";
    for (decision, asked) in [("{\"allow\": ok, \"ttl\": 60}", 2), ("{\"allow\": ok}", 4)] {
        let (world, server) = world(&format!("decision := {decision}\nok := {ask}")).await;
        let (world, t) = (Arc::new(world), token("1"));
        let all: Vec<_> = (0..4)
            .map(|n| {
                let (world, t) = (Arc::clone(&world), t.clone());
                tokio::spawn(async move {
                    if n % 2 == 0 {
                        return json!(world.auth(&t).await.reason().code());
                    }
                    world.data(&["p", "decision", "allow"], &t).await
                })
            })
            .collect();
        for (n, one) in all.into_iter().enumerate() {
            let expected = if n % 2 == 0 { json!("allowed") } else { json!({"result": true}) };
            assert_eq!(one.await.unwrap(), expected);
        }
        // Each door asks once; what is not kept is decided for each request.
        assert_eq!(server.count(), asked);
    }
}
