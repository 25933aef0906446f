//! Opaque tokens that another server knows (RFC 7662).

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::Mutex,
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use portcullis_tests::{
    World, is_root, until,
    web::{Reply, Web},
};
use serde_json::json;

const TABLE: &str = "[token.introspection]\nurl = \"http://127.0.0.1:9500/introspect\"\nissuer = \"https://as.test\"\nclient_id = \"portcullis\"\ntimeout = \"300ms\"\nttl = \"10m\"\nfailures = 2\npause = \"300ms\"\n";

/// Knows the tokens that begin with `good`.
fn knows(asked: &str) -> Reply {
    let (_, form) = asked.split_once("\r\n\r\n").unwrap_or_default();
    let body = if !asked.to_lowercase().contains("authorization: basic cg9ydgn1bgxpczpzm2nyzxq=") {
        return Reply::Status(401);
    } else if form.starts_with("token=good") {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        json!({"active": true, "sub": "alice", "client_id": "app", "scope": "orders:read", "iss": "https://as.test", "iat": now})
    } else {
        json!({"active": false})
    };
    Reply::Json(body.to_string())
}

#[test]
fn opaque_tokens_are_asked_about_once_and_failures_deny_at_once() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, dir| {
        let secret = dir.write("introspection.secret", "s3cret\n")?;
        fs::set_permissions(&secret, fs::Permissions::from_mode(0o600))?;
        config.serve = format!("{TABLE}secret_file = \"{}\"\n", secret.display());
        Ok(())
    })?;
    let web = Web::start(&w.net.server, "127.0.0.1:9500", knows)?;
    let outcome = |token: &str| -> Result<(u16, String)> {
        let answer = w.daemon.auth("GET", "/v1/orders", token)?;
        Ok((answer.status, answer.header("x-portcullis-reason").unwrap_or_default().to_owned()))
    };
    // 503, which nginx would not understand.
    let failed = || (403, "introspection_failed".to_owned());
    for _ in 0..3 {
        assert_eq!(outcome("good-1")?, (200, String::new()), "{:?}", web.asked());
        assert_eq!(outcome("bad-1")?, (401, "token_inactive".to_owned()));
    }
    assert_eq!(web.asked().len(), 2);
    // Its text goes nowhere but there.
    assert_eq!(outcome(&w.mint.hs256()?)?.0, 200);
    assert_eq!(outcome("ey.bad.jwt")?, (401, "token_malformed".to_owned()));
    assert_eq!(web.asked().len(), 2);
    // It is a token like any other: revoked here, it is refused in the kernel, whatever its server says.
    w.assert_passes("good-2");
    assert_eq!(outcome("good-2")?.0, 200);
    w.daemon.json(&["revoke", "--sub", "alice", "--issuer", "https://as.test"], "")?;
    assert_eq!(outcome("good-2")?, (401, "token_revoked".to_owned()));
    w.assert_refused("good-2");

    for (n, broken) in
        [Reply::Stall, Reply::Reset, Reply::Status(500), Reply::Json("{".to_owned())].into_iter().enumerate()
    {
        let broken = Mutex::new(broken);
        web.now(move |_| broken.lock().unwrap().clone());
        assert_eq!(outcome(&format!("good-broken-{n}"))?, failed());
    }
    until(|| {
        Ok(w.daemon.status()?["introspection"]["unasked"].as_u64() > Some(0)
            || outcome("good-3")? != failed())
    })?;
    assert_eq!(outcome("bad-1")?.1, "token_inactive", "what is at hand counts");
    web.now(knows);
    until(|| Ok(outcome("good-4")? == (401, "token_revoked".to_owned())))?;
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains("portcullis_introspection_total{result=\"inactive\"} 1\n"), "{metrics}");
    assert!(!w.daemon.log().join("\n").contains("good-"), "a token's text is in the log");
    Ok(())
}
