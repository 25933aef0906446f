//! Token Status Lists: an issuer's, which this daemon asks, and that of API keys, which it publishes.

use std::{fs, os::unix::fs::PermissionsExt as _};

use anyhow::{Context as _, Result};
use portcullis_tests::{
    World,
    client::{Answer, http},
    is_root,
    tokens::Signer,
    until,
    web::{Reply, Web},
};
use serde_json::{Value, json};

const ISSUER: &str = "https://lists.test";
const LIST: &str = "http://127.0.0.1:9700/lists/1";
const DOOR: &str = "127.0.0.1:8282";
const PUBLISHED: &str = "http://127.0.0.1:8282/statuslists/api-keys";
/// Sixteen entries, of which 0, 3, 4, 5, 7, 8, 9, 13 and 15 are set (the draft's own example); and sixteen zeros.
const SET: &str = "eNrbuRgAAhcBXQ";
const ZEROS: &str = "eJxjYAAAAAIAAQ";

/// Allows whatever is valid, for ten minutes; so a second answer is the cache's unless something took it away.
const POLICY: &str = r#"package portcullis

import rego.v1

default decision := {"allow": false}

decision := {"allow": true, "ttl": 600} if input.token_status == "valid"
"#;

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn list(signer: &Signer, packed: &str) -> Result<Reply> {
    let claims = json!({
        "sub": LIST, "iat": now(), "exp": now() + 600, "ttl": 1, "status_list": {"bits": 1, "lst": packed},
    });
    let token = signer.sign(&json!({"alg": "ES256", "kid": "k", "typ": "statuslist+jwt"}), &claims)?;
    Ok(Reply::Typed("application/statuslist+jwt", token))
}

fn token(signer: &Signer, index: u64, uri: &str) -> Result<String> {
    signer.token(ISSUER, &json!({"status": {"status_list": {"idx": index, "uri": uri}}}))
}

fn world(signer: &Signer, tables: &str) -> Result<World> {
    let (jwks, tables) = (signer.jwks(), tables.to_owned());
    let pem = signer.pem()?;
    World::with(|config, dir| {
        let jwks = dir.write("lists.jwks", &jwks)?.display().to_string();
        fs::set_permissions(dir.write("list.pem", &pem)?, fs::Permissions::from_mode(0o600))?;
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", POLICY)?;
        config.policies = dir.path("own");
        config.policy = String::from("require_tests = false");
        config.serve = format!(
            "[[token.issuer]]\nissuer = \"{ISSUER}\"\nalgorithms = [\"ES256\"]\njwks_file = \"{jwks}\"\n{tables}"
        );
        Ok(())
    })
}

fn outcome(w: &World, token: &str) -> Result<String> {
    let answer = w.daemon.auth("GET", "/v1/orders", token)?;
    let reason = answer.header("x-portcullis-reason").unwrap_or_default();
    Ok(if reason.is_empty() { answer.status.to_string() } else { reason.to_owned() })
}

#[test]
fn a_token_is_denied_when_its_list_says_so_though_an_allow_was_kept() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let signer = Signer::new("k")?;
    let table = "[token.status_list]\nhosts = [\"127.0.0.1:9700\"]\nttl_min = \"1s\"\nttl_max = \"1s\"\nmax_stale = \"2s\"\ntimeout = \"500ms\"\n";
    let w = world(&signer, table)?;
    let (taken, good) = (token(&signer, 3, LIST)?, token(&signer, 2, LIST)?);
    // Nobody serves it: denied, and others are decided as ever.
    assert_eq!(outcome(&w, &taken)?, "status_unavailable");
    assert_eq!(outcome(&w, &w.mint.hs256()?)?, "200");
    let zeros = list(&signer, ZEROS)?;
    let web = Web::start(&w.net.server, "127.0.0.1:9700", move |_| zeros.clone())?;
    until(|| Ok(outcome(&w, &taken)? == "200"))?;
    for _ in 0..3 {
        assert_eq!(outcome(&w, &taken)?, "200");
        assert_eq!(outcome(&w, &good)?, "200");
    }
    assert!(web.asked()[0].contains("accept: application/statuslist+jwt"), "{:?}", web.asked());
    // It flips.
    let set = list(&signer, SET)?;
    web.now(move |_| set.clone());
    until(|| Ok(outcome(&w, &taken)? == "status_invalid"))?;
    assert_eq!(outcome(&w, &good)?, "200");
    assert_eq!(outcome(&w, &token(&signer, 99, LIST)?)?, "status_invalid", "behind the list's end");
    // Addresses elsewhere are not asked, and references that are none are no token.
    let elsewhere = token(&signer, 2, "http://127.0.0.1:9701/lists/1")?;
    assert_eq!(outcome(&w, &elsewhere)?, "status_unavailable");
    let broken = signer.token(ISSUER, &json!({"status": {"status_list": {"idx": "2", "uri": LIST}}}))?;
    assert_eq!(outcome(&w, &broken)?, "claims_invalid");
    // A list of a stranger's, or no list at all, takes nothing's place; when the last one is too old, there is none.
    let stranger = list(&Signer::new("k")?, ZEROS)?;
    web.now(move |_| stranger.clone());
    until(|| Ok(outcome(&w, &good)? == "status_unavailable"))?;
    assert!(["status_invalid", "status_unavailable"].contains(&outcome(&w, &taken)?.as_str()));
    let status = w.daemon.status()?;
    assert!(status["status_lists"]["error"].as_str().is_some_and(|e| e.contains("refused")), "{status}");
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains("portcullis_status_list_fetches_total{result=\"failed\"}"), "{metrics}");
    Ok(())
}

#[test]
fn where_that_is_allowed_a_token_passes_whose_list_cannot_be_had() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let signer = Signer::new("k")?;
    let w = world(&signer, "[token.status_list]\nhosts = [\"127.0.0.1:9700\"]\nunavailable = \"allow\"\n")?;
    assert_eq!(outcome(&w, &token(&signer, 3, LIST)?)?, "200");
    let set = list(&signer, SET)?;
    let _web = Web::start(&w.net.server, "127.0.0.1:9700", move |_| set.clone())?;
    let taken = token(&signer, 3, LIST)?;
    until(|| Ok(outcome(&w, &taken)? == "status_invalid"))?;
    Ok(())
}

fn get(w: &World, path: &str, headers: &str) -> Result<Answer> {
    http(&w.net.server, DOOR.parse()?, &format!("GET {path} HTTP/1.1{headers}"), b"")
}

/// The daemon publishes the list and, as somebody else would, fetches it too: tokens of `ISSUER` name entries of API keys.
#[test]
fn the_list_of_api_keys_is_published_and_a_disabled_key_is_seen_in_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let signer = Signer::new("k")?;
    let tables = format!(
        "[token.api_keys]\nfile = \"keys.json\"\n[standards]\nlisten = [\"{DOOR}\"]\n\
         [standards.status_list]\nuri = \"{PUBLISHED}\"\nkey_file = \"list.pem\"\nkid = \"k\"\nttl = \"1s\"\n\
         [token.status_list]\nhosts = [\"{DOOR}\"]\nttl_min = \"1s\"\nttl_max = \"1s\"\n"
    );
    let w = world(&signer, &tables)?;
    let issue = || -> Result<(String, String, u64)> {
        let told = w.daemon.json(&["keys", "issue", "--subject", "ci"], "")?;
        let text = |v: &Value| v.as_str().map(str::to_owned).context("a text");
        let index = told["key"]["status_index"].as_u64().context("an entry in the list")?;
        Ok((text(&told["key"]["id"])?, text(&told["token"])?, index))
    };
    let ((id, key, index), (_, second, other)) = (issue()?, issue()?);
    assert_eq!(outcome(&w, &key)?, "200");
    let (by_list, by_other) = (token(&signer, index, PUBLISHED)?, token(&signer, other, PUBLISHED)?);
    for t in [&by_list, &by_other] {
        assert_eq!(outcome(&w, t)?, "200", "{}", w.daemon.status()?["status_lists"]);
    }
    let first = get(&w, "/statuslists/api-keys", "")?;
    assert_eq!((first.status, first.header("content-type")), (200, Some("application/statuslist+jwt")));
    assert_eq!(
        (first.header("cache-control"), first.header("vary")),
        (Some("public, max-age=1"), Some("accept"))
    );
    let tag = first.header("etag").context("a tag")?.to_owned();
    let known = get(&w, "/statuslists/api-keys", &format!("\r\nIf-None-Match: {tag}"));
    // Without a body there is no length, which the test's client wants.
    assert!(known.is_err() || known.is_ok_and(|a| a.status == 304));
    for (accept, status) in [("application/statuslist+cwt", 200), ("text/html", 406)] {
        let head = format!("\r\nAccept: {accept}");
        let answer = get(&w, "/statuslists/api-keys", &head)?;
        assert_eq!(answer.status, status, "{accept}");
        assert!(status != 200 || answer.header("content-type") == Some(accept));
    }
    assert_eq!(get(&w, "/statuslists/api-keys?time=1", "")?.status, 501);
    let post = http(&w.net.server, DOOR.parse()?, "POST /statuslists/api-keys HTTP/1.1", b"")?;
    assert_eq!((post.status, post.header("allow")), (405, Some("GET, HEAD")));
    let keys: Value = serde_json::from_str(&get(&w, "/statuslists/jwks.json", "")?.body)?;
    assert_eq!((&keys["keys"][0]["x"], &keys["keys"][0]["d"]), (&signer.jwk()["x"], &Value::Null));

    // Disabled, and revoked: both are seen.
    w.daemon.json(&["keys", "disable", &id], "")?;
    until(|| Ok(outcome(&w, &by_list)? == "status_invalid"))?;
    assert_eq!(outcome(&w, &by_other)?, "200");
    assert_ne!(get(&w, "/statuslists/api-keys", "")?.header("etag"), Some(tag.as_str()));
    w.daemon.revoke(&second)?;
    until(|| Ok(outcome(&w, &by_other)? == "status_invalid"))?;
    Ok(())
}
