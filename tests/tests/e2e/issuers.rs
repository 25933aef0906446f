//! Issuers whose keys a server publishes: rotated, discovered, gone.

use std::{fs, sync::Mutex};

use anyhow::Result;
use portcullis_tests::{
    World, has, is_root,
    pki::Pki,
    tokens::Signer,
    until,
    web::{Reply, Web},
};
use serde_json::json;

const ISSUER: &str = "http://127.0.0.1:9400";

/// Allows whatever is valid, for ten minutes; so a second answer is the cache's unless something took it away.
const POLICY: &str = r#"package portcullis

import rego.v1

default decision := {"allow": false}

decision := {"allow": true, "ttl": 600} if input.token_status == "valid"
"#;

fn world(issuers: &str) -> Result<World> {
    World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", POLICY)?;
        config.policies = dir.path("own");
        config.policy = String::from("require_tests = false");
        config.mode = "off";
        config.serve = String::from(issuers);
        Ok(())
    })
}

fn reason(w: &World, token: &str) -> Result<String> {
    let answer = w.daemon.auth("GET", "/v1/orders", token)?;
    Ok(match answer.header("x-portcullis-reason") {
        None => format!("{}", answer.status),
        Some(reason) => reason.to_owned(),
    })
}

#[test]
fn discovered_keys_are_rotated_and_cached_verdicts_go_with_the_old_ones() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world(&format!(
        "[[token.issuer]]\nissuer = \"{ISSUER}\"\nalgorithms = [\"ES256\"]\ndiscovery = true\nrefresh_min = \"100ms\"\njwks_timeout = \"500ms\"\njwks_wait = \"2s\"\n"
    ))?;
    let (old, new) = (Signer::new("old")?, Signer::new("new")?);
    let (first, second) = (old.token(ISSUER, &json!({}))?, new.token(ISSUER, &json!({}))?);
    // Its server is not there: it is not ready, and others are.
    assert_eq!(reason(&w, &first)?, "issuer_not_ready");
    assert_eq!(reason(&w, &w.mint.hs256()?)?, "200");
    let status = w.daemon.status()?;
    let ours = |status: &serde_json::Value| status["issuers"].as_array().unwrap()[0].clone();
    assert_eq!(
        (&ours(&status)["issuer"], &ours(&status)["ready"]),
        (&json!(ISSUER), &json!(false)),
        "{status}"
    );

    let shown = w.daemon.ask(&["status"], "")?.ok()?;
    assert!(shown.contains(&format!("NOT READY    {ISSUER}: 0 keys by discovery")), "{shown}");
    assert!(shown.contains("issuer       https://es256.test: 1 keys by file"), "{shown}");

    let document = json!({"issuer": ISSUER, "jwks_uri": format!("{ISSUER}/keys")}).to_string();
    let publish = |signer: &Signer| {
        let (document, keys) = (document.clone(), signer.jwks());
        move |asked: &str| {
            Reply::Json(if asked.starts_with("GET /keys ") { keys.clone() } else { document.clone() })
        }
    };
    let web = Web::start(&w.net.server, "127.0.0.1:9400", publish(&old))?;
    until(|| Ok(reason(&w, &first)? == "200"))?;
    assert_eq!(reason(&w, &first)?, "200");
    assert_eq!(reason(&w, &second.clone())?, "key_unknown");

    web.now(publish(&new));
    until(|| Ok(reason(&w, &second)? == "200"))?;
    assert_eq!(reason(&w, &first)?, "key_unknown", "the cached allow went with its key");
    for broken in [Reply::Stall, Reply::Reset, Reply::Status(500), Reply::Json("{}".to_owned())] {
        let broken = Mutex::new(broken);
        web.now(move |_| broken.lock().unwrap().clone());
        assert_eq!(reason(&w, &second)?, "200");
        assert_eq!(reason(&w, &first)?, "key_unknown");
    }
    let metrics = w.daemon.metrics()?;
    let line = format!("portcullis_issuer_ready{{issuer=\"{ISSUER}\"}} 1");
    assert!(metrics.contains(&line), "{metrics}");
    Ok(())
}

#[test]
fn keys_by_tls_are_believed_from_the_configured_authority_alone() -> Result<()> {
    if !is_root() || !has("openssl") || !has("nginx") {
        return Ok(());
    }
    let issuer = |name: &str, ca: &str| {
        format!(
            "[[token.issuer]]\nissuer = \"{name}\"\nalgorithms = [\"ES256\"]\njwks_url = \"https://127.0.0.1:9443/jwks.json\"\nca_file = \"{ca}\"\nrefresh_min = \"100ms\"\n"
        )
    };
    let signer = Signer::new("k")?;
    let mut w = world("")?;
    let pki = Pki(&w.dir);
    pki.authority("good")?;
    pki.authority("other")?;
    pki.certificate("server", "good")?;
    w.dir.write("jwks.json", &signer.jwks())?;
    let root = w.dir.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let config = w.dir.write(
        "nginx.conf",
        &format!(
            "daemon off;\nuser root;\npid {root}/nginx.pid;\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\nserver {{\nlisten 127.0.0.1:9443 ssl;\nssl_certificate {root}/server.pem;\nssl_certificate_key {root}/server.key;\nlocation = /jwks.json {{ root {root}; default_type application/json; }}\n}}\n}}\n"
        ),
    )?;
    let mut nginx = std::process::Command::new("nginx");
    nginx.arg("-c").arg(&config);
    let _nginx = portcullis_tests::process::Process::start(&w.net.server, &mut nginx)?;
    w.daemon.stop()?;
    w.config.serve = issuer("https://good", &format!("{root}/good.pem"))
        + &issuer("https://other", &format!("{root}/other.pem"));
    w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
    w.daemon.restart()?;
    until(|| Ok(reason(&w, &signer.token("https://good", &json!({}))?)? == "200"))?;
    assert_eq!(reason(&w, &signer.token("https://other", &json!({}))?)?, "issuer_not_ready");
    let status = w.daemon.status()?.to_string();
    assert!(status.contains("no TLS with `127.0.0.1`"), "{status}");
    Ok(())
}
