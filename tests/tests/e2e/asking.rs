//! What the kernel asks about, holds back, denies by request and limits: servers here never ask the daemon themselves.

use std::{fs, time::Duration};

use anyhow::Result;
use portcullis::kernel::test_support::held_heads;
use portcullis_tests::{
    World,
    client::{Answer, Client, bearer, request},
    is_root,
    net::{SERVER_V6, guarded},
    server::End,
    tokens::{forged, twin},
};

/// A world whose kernel asks about what it does not know.
fn asking(mode: &str) -> Result<World> {
    World::with(|config, _| {
        config.kernel = format!("unknown = \"{mode}\"");
        Ok(())
    })
}

/// A world with one policy, whose text is this rule's.
fn ruled(unknown: &str, rule: &str) -> Result<World> {
    World::with(|config, dir| {
        config.kernel = format!("unknown = \"{unknown}\"");
        config.policies = dir.path("policies");
        fs::create_dir(&config.policies)?;
        dir.write("policies/rule.rego", &policy(rule))?;
        Ok(())
    })
}

fn policy(rule: &str) -> String {
    format!("package portcullis\n\nimport rego.v1\n\n{rule}\n")
}

/// Denies what is under `/secret` to every token, in the kernel too.
const SECRET: &str = r#"
decision := {"allow": false, "block": "request", "ttl": 60} if {
    input.token_status == "valid"
    input.request.segments[0] == "secret"
} else := {"allow": input.token_status == "valid", "ttl": 60}
"#;

/// Two requests at once, then one in each ten seconds.
const LIMITED: &str = r#"
decision := {
    "allow": true,
    "ttl": 60,
    "grant": "token",
    "limit": {"key": "token", "token": true, "rate": 6, "per": 60, "burst": 2},
} if {
    input.token_status == "valid"
}
"#;

/// Three requests, whoever makes them, then one in each ten minutes.
const SHARED: &str = r#"
decision := {
    "allow": true,
    "ttl": 60,
    "grant": "token",
    "limit": {"key": "all", "rate": 6, "per": 3600, "burst": 3},
} if {
    input.token_status == "valid"
}
"#;

/// The kernel's own answer to a request that comes back whole, with a server that reads none of it.
#[track_caller]
fn refusal(w: &World, bytes: &[u8]) -> Answer {
    let mut received = w.assert_unread(|| {
        let mut client = w.connect()?;
        client.send(bytes)?;
        let (bytes, end) = client.rest()?;
        assert_eq!(end, End::Closed);
        Ok(bytes)
    });
    let answer = Answer::take(&mut received).unwrap();
    assert!(received.is_empty() && !answer.is_servers(), "{answer:?}");
    answer
}

#[test]
fn held_requests_wait_for_their_verdict_and_an_app_that_never_asks_is_enforced() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = asking("hold")?;
    let (good, wrong) = (w.mint.hs256()?, w.mint.aged(60, "profile:read")?);
    for _ in 0..3 {
        w.assert_request_passes(&bearer("/v1/orders", &good));
    }
    assert_eq!(w.daemon.counter("inquiry")?, 1, "decided once, then known");
    assert!(w.daemon.counter("waiting")? >= 1);
    assert_eq!(refusal(&w, &bearer("/v1/orders", &wrong)).status, 403, "a scope that is not its");
    assert_eq!(refusal(&w, &bearer("/v1/orders", &forged(&good)?)).status, 401, "a forgery is another token");
    assert_eq!(refusal(&w, &bearer("/v1/orders", &w.mint.aged(7200, "orders:read")?)).status, 401);
    assert_eq!(refusal(&w, &request("/v1/orders", &[])).status, 401, "no token at all");
    assert_eq!(refusal(&w, &bearer("/v1/a/../orders", &good)).status, 400, "parsers differ on it");
    w.assert_request_passes(&bearer("/v1/orders", &good));
    let es = w.mint.es256()?;
    w.assert_request_passes(&bearer("/v1/orders", &es));
    w.assert_request_passes(&bearer("/v1/orders", &twin(&es)?));
    w.daemon.revoke(&good)?;
    assert_eq!(refusal(&w, &bearer("/v1/orders", &good)).status, 401);
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains(r#"portcullis_decisions_total{door="wire",reason="allowed"}"#), "{metrics}");
    assert_eq!(held_heads(&w.dir.path("bpf/portcullis"))?, 0, "what was shown is overwritten");
    Ok(())
}

#[test]
fn held_requests_get_through_however_their_head_is_cut() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = asking("hold")?;
    for cut in [1, 17, 40, 90, 150, 200] {
        let (good, wrong) = (w.mint.hs256()?, w.mint.aged(60, "profile:read")?);
        let head = bearer("/v1/orders", &good);
        let mut client = w.connect()?;
        for piece in [&head[..cut], &head[cut..]] {
            client.send(piece)?;
            // The pieces are segments of their own.
            w.server.wait(|log| log.iter().map(|c| c.bytes).sum::<usize>() >= cut)?;
        }
        assert!(client.answer()?.is_servers(), "cut at {cut}");
        let head = bearer("/v1/orders", &wrong);
        let mut client = w.connect()?;
        client.send(&head[..cut])?;
        client.send(&head[cut..])?;
        let (mut bytes, _) = client.rest()?;
        assert_eq!(Answer::take(&mut bytes)?.status, 403, "cut at {cut}");
    }
    let all = w.server.requests();
    assert!(all.iter().all(|head| !head.is_empty()) && all.len() == 6, "{all:?}");
    Ok(())
}

#[test]
fn held_requests_on_one_connection_are_answered_in_order() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = asking("hold")?;
    let (a, b, wrong) = (w.mint.hs256()?, w.mint.es256()?, w.mint.aged(60, "profile:read")?);
    let mut client = Client::connect(&w.net.client, guarded(SERVER_V6))?;
    assert!(client.ask(&bearer("/v1/orders", &a))?.is_servers());
    assert!(client.ask(&bearer("/v1/orders", &b))?.is_servers());
    // Two in one segment: the first is known, the second is not.
    let unknown = w.mint.hs256()?;
    client.send(&[bearer("/v1/orders", &a), bearer("/v1/orders", &unknown)].concat())?;
    assert!(client.answer()?.is_servers());
    assert!(client.answer()?.is_servers());
    client.send(&bearer("/v1/orders", &wrong))?;
    let (mut bytes, _) = client.rest()?;
    assert_eq!(Answer::take(&mut bytes)?.status, 403);
    assert_eq!(w.server.requests().len(), 4);
    Ok(())
}

#[test]
fn without_the_daemon_known_requests_pass_and_unknown_ones_wait_for_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = ruled("hold", r#"decision := {"allow": input.token_status == "valid", "ttl": 300}"#)?;
    let (known, unknown) = (w.mint.hs256()?, w.mint.hs256()?);
    w.assert_request_passes(&bearer("/a", &known));
    w.daemon.kill9()?;
    w.assert_request_passes(&bearer("/a", &known));
    let mut client = w.connect()?;
    client.send(&bearer("/a", &unknown))?;
    client.0.set_read_timeout(Some(Duration::from_secs(1)))?;
    assert!(client.answer().is_err(), "nothing is answered, and nothing passes");
    assert_eq!(w.server.requests().len(), 2);
    w.daemon.restart()?;
    client.0.set_read_timeout(Some(portcullis_tests::PATIENCE))?;
    assert!(client.answer()?.is_servers(), "it is decided when the daemon is back");
    Ok(())
}

#[test]
fn learn_mode_lets_the_first_pass_and_the_verdict_meets_the_next() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = asking("learn")?;
    let (good, wrong) = (w.mint.hs256()?, w.mint.aged(60, "profile:read")?);
    let old = w.mint.aged(7200, "orders:read")?;
    w.assert_request_passes(&bearer("/v1/orders", &good));
    w.assert_request_passes(&bearer("/v1/orders", &wrong));
    w.assert_request_passes(&bearer("/v1/orders", &old));
    let decided = |w: &World| {
        let metrics = w.daemon.metrics()?;
        let sum = metrics.lines().filter(|l| l.starts_with(r#"portcullis_decisions_total{door="wire""#));
        anyhow::Ok(sum.filter_map(|l| l.rsplit_once(' ')?.1.parse::<u64>().ok()).sum::<u64>())
    };
    portcullis_tests::until(|| Ok(decided(&w)? >= 3))?;
    assert_eq!(refusal(&w, &bearer("/v1/orders", &wrong)).status, 403);
    assert_eq!(refusal(&w, &bearer("/anywhere", &old)).status, 401, "a bad token is condemned");
    w.assert_request_passes(&bearer("/v1/orders", &good));
    assert_eq!(w.daemon.counter("inquiry")?, 3);
    Ok(())
}

#[test]
fn a_request_that_a_policy_blocks_is_denied_in_the_kernel_until_the_policy_changes() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    for enforcement in ["strict", "fast"] {
        let w = World::with(|config, dir| {
            config.enforcement = enforcement;
            config.policies = dir.path("policies");
            fs::create_dir(&config.policies)?;
            dir.write("policies/rule.rego", &policy(SECRET))?;
            Ok(())
        })?;
        let (token, other) = (w.mint.hs256()?, w.mint.es256()?);
        w.assert_request_passes(&bearer("/secret/a", &token));
        assert_eq!(w.daemon.auth("GET", "/secret/a", &token)?.status, 403);
        assert_eq!(refusal(&w, &bearer("/secret/a", &token)).status, 403);
        w.assert_request_passes(&bearer("/secret/b", &token));
        w.assert_request_passes(&bearer("/secret/a?x", &token));
        w.assert_request_passes(&bearer("/secret/a", &other));
        assert_eq!(w.daemon.counter("denied")?, 1);
        let lines = w.daemon.log().len();
        w.dir.write("policies/rule.rego", &policy("decision := input.token_status == \"valid\""))?;
        w.daemon.await_log(lines, "policies loaded", "")?;
        w.assert_request_passes(&bearer("/secret/a", &token));
    }
    Ok(())
}

#[test]
fn a_tokens_rate_limit_is_kept_by_the_kernel() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = ruled("pass", LIMITED)?;
    let (token, other) = (w.mint.hs256()?, w.mint.es256()?);
    assert_eq!(w.daemon.auth("GET", "/a", &token)?.status, 200);
    w.assert_request_passes(&bearer("/a", &token));
    w.assert_request_passes(&bearer("/b", &token));
    let answer = refusal(&w, &bearer("/c", &token));
    assert_eq!((answer.status, answer.header("retry-after")), (429, Some("1")), "{answer:?}");
    assert_eq!(w.daemon.counter("limited")?, 1);
    for _ in 0..4 {
        w.assert_request_passes(&bearer("/a", &other));
    }
    // Asked about again, the limit goes on as it stands.
    assert_eq!(w.daemon.auth("GET", "/other", &token)?.status, 200);
    assert_eq!(refusal(&w, &bearer("/c", &token)).status, 429);
    Ok(())
}

#[test]
fn a_limit_that_the_daemon_counts_holds_for_held_requests_of_all_tokens() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = ruled("hold", SHARED)?;
    let (a, b) = (w.mint.hs256()?, w.mint.es256()?);
    w.assert_request_passes(&bearer("/a", &a));
    w.assert_request_passes(&bearer("/a", &a));
    w.assert_request_passes(&bearer("/b", &b));
    assert_eq!(w.daemon.counter("inquiry")?, 3, "an allow is used once");
    let answer = refusal(&w, &bearer("/a", &a));
    assert_eq!(answer.status, 429, "{answer:?}");
    assert_eq!(refusal(&w, &bearer("/c", &b)).status, 429);
    let metrics = w.daemon.metrics()?;
    assert!(
        metrics.contains(r#"portcullis_decisions_total{door="wire",reason="rate_limited"}"#),
        "{metrics}"
    );
    Ok(())
}

#[test]
fn modes_that_cannot_hold_are_refused_by_the_configuration() {
    if !is_root() {
        return;
    }
    let refused = World::with(|config, _| {
        config.enforcement = "fast";
        config.kernel = "unknown = \"hold\"".to_owned();
        Ok(())
    });
    let Err(e) = refused else { panic!("it started") };
    assert!(format!("{e:#}").contains("kernel.unknown"), "{e:#}");
}
