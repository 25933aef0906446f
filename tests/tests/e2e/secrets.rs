//! No token, signature or key stands in anything that the daemon writes or shows.

use std::{fs, thread};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{http, request},
    config::DOORS,
    is_root,
    process::run,
    tokens::{forged, twin},
};
use serde_json::json;

/// Shows the daemon every token in every way there is.
fn present(w: &World, tokens: &[String]) -> Result<()> {
    for token in tokens {
        w.daemon.auth("GET", "/v1/orders", token)?;
        w.daemon.auth("DELETE", "/v1/nowhere", token)?;
        w.daemon.auth("GET", "not/a/path", token)?;
        // Two credentials, a key header, an unknown scheme, a broken header.
        for lines in [
            format!("Authorization: Bearer {token}\r\nAuthorization: Bearer {token}"),
            format!("X-Api-Key: {token}"),
            format!("Authorization: Basic {token}"),
            format!("Authorization: Bearer {token} {token}"),
            format!("X-Original-URI {token}"),
        ] {
            let head = format!("GET /auth HTTP/1.1\r\nX-Original-URI: /v1/orders\r\n{lines}");
            http(&w.net.server, DOORS.parse()?, &head, b"")?;
        }
        let input = json!({"input": {"token": token, "request": {"method": "GET", "path": "/v1/orders"}}});
        w.daemon.data("portcullis/decision", &input.to_string())?;
        w.daemon.data("portcullis/decision", &format!("{{\"input\": {{\"token\": \"{token}\""))?;
        w.daemon.data("portcullis/decision", &json!({"input": {"token": [token]}}).to_string())?;
        w.daemon.ask(&["decide", "--path", "/v1/orders", "--json"], token)?;
        w.daemon.ask(&["fingerprint"], token)?;
        w.daemon.ask(&["revoke", "--ttl", token], token)?;
        w.connect()?.send(&request("/", &[&format!("Authorization: Bearer {token}")]))?;
    }
    Ok(())
}

#[test]
fn no_token_signature_or_key_is_in_logs_metrics_events_status_or_store() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.log = "trace";
        Ok(())
    })?;
    let (good, old, es) = (w.mint.hs256()?, w.mint.aged(7200, "orders:read")?, w.mint.es256()?);
    let revoked = w.mint.hs256()?;
    let key = "sk_live_9aX3kQ7mWv2Lr8Tz".to_owned();
    let tokens = [good.clone(), old, twin(&es)?, forged(&good)?, es, revoked.clone(), key.clone(), {
        let (head, rest) = good.split_once('.').unwrap();
        format!("{head}.{}x.{}", rest.split_once('.').unwrap().0, "bm8tc2lnbmF0dXJlLWF0LWFsbA")
    }];
    present(&w, &tokens)?;
    w.daemon.revoke(&revoked)?;
    w.daemon.revoke(&key)?;
    // Events end when as many came as were asked for; until the reader has begun, none are for it.
    let mut command = w.daemon.prepare(&["events", "--json", "--count", "3"])?;
    let events = thread::scope(|scope| {
        let reader = scope.spawn(|| run(&w.net.server, &mut command, b""));
        while !reader.is_finished() {
            w.assert_refused(&revoked);
        }
        reader.join().unwrap()
    })?
    .ok()?;
    assert_eq!(events.lines().count(), 3, "{events}");
    present(&w, &tokens)?;
    let mut shown = vec![
        ("events", events),
        ("metrics", w.daemon.metrics()?),
        ("status", w.daemon.status()?.to_string()),
        ("revocations", w.daemon.json(&["revocations"], "")?.to_string()),
        ("log", w.daemon.log().join("\n")),
    ];
    assert!(shown.iter().all(|(_, text)| text.len() > 100));
    assert!(w.daemon.stop()?.success());
    let mut store = Vec::new();
    for file in fs::read_dir(w.dir.path("revocations"))? {
        store.extend(fs::read(file?.path())?);
    }
    shown.push(("store", store.iter().map(|byte| char::from(*byte)).collect()));
    let secret_file = |name: &str| fs::read_to_string(w.dir.path(name)).map(|text| text.trim().to_owned());
    let mut secrets = vec![secret_file("fingerprint.key")?, secret_file("hmac.key")?];
    for token in &tokens {
        secrets.push(token.clone());
        // Payload and signature alone.
        secrets.extend(token.split('.').skip(1).map(str::to_owned));
    }
    for (place, text) in &shown {
        for secret in &secrets {
            assert!(secret.len() >= 20, "too short to be looked for");
            assert!(!text.contains(secret.as_str()), "a secret is in the {place}: {}", around(text, secret));
        }
    }
    Ok(())
}

/// Where a secret stands, for who must mend it.
fn around(text: &str, secret: &str) -> String {
    let at = text.find(secret).unwrap_or_default();
    text.get(at.saturating_sub(300)..at).unwrap_or_default().to_owned()
}
