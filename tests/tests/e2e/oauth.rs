//! Token revocation (RFC 7009) and introspection (RFC 7662), on a listener of their own.

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use portcullis_tests::{
    World,
    client::{Answer, http},
    config::{AUDIENCE, ISSUER},
    is_root,
    pki::{Pki, sha256},
    process::run,
    tokens::{Signer, claim, forged},
    until,
};
use serde_json::{Value, json};

const DOOR: &str = "127.0.0.1:8282";
const MUTUAL: &str = "127.0.0.1:8283";
/// The issuer whose client `app` is.
const OWN: &str = "https://clients.test";
/// Clients and their secrets.
const CLIENTS: [(&str, &str); 3] = [("app", "app-secret"), ("any", "any-secret"), ("rs", "rs-secret")];

/// The tables, with more of them behind.
fn tables(more: &str) -> String {
    let [app, any, rs] = CLIENTS.map(|(id, secret)| {
        format!("[[standards.client]]\nid = \"{id}\"\nsecret_sha256 = [\"{}\"]\n", sha256(secret.as_bytes()))
    });
    format!(
        "[standards]\nlisten = [\"{DOOR}\"]\n{app}revoke = \"own\"\nissuers = [\"{OWN}\", \"https://late.test\"]\n\
         {any}revoke = \"any\"\n{rs}introspect = true\naudience = [\"{AUDIENCE}\"]\n{more}"
    )
}

/// An issuer whose clients' tokens these are, and one whose keys never come.
fn world() -> Result<(World, Signer)> {
    let signer = Signer::new("k")?;
    let keys = signer.jwks();
    let w = World::with(|config, dir| {
        let keys = dir.write("clients.jwks", &keys)?.display().to_string();
        let issuer =
            |name: &str| format!("[[token.issuer]]\nissuer = \"{name}\"\nalgorithms = [\"ES256\"]\n");
        config.serve = tables("")
            + &format!("{}jwks_file = \"{keys}\"\n", issuer(OWN))
            + &format!("{}jwks_url = \"http://127.0.0.1:1/\"\n", issuer("https://late.test"))
            + "[token.api_keys]\nfile = \"keys.json\"\nprefix = \"acme\"\n";
        Ok(())
    })?;
    Ok((w, signer))
}

fn post(w: &World, path: &str, who: &str, form: &str) -> Result<Answer> {
    let secret = CLIENTS.iter().find(|(id, _)| *id == who).map_or("nothing", |(_, secret)| secret);
    let basic = BASE64.encode(format!("{who}:{secret}"));
    let head = format!(
        "POST {path} HTTP/1.1\r\nAuthorization: Basic {basic}\r\nContent-Type: application/x-www-form-urlencoded"
    );
    http(&w.net.server, DOOR.parse()?, &head, form.as_bytes())
}

fn revoke(w: &World, who: &str, form: &str) -> Result<(u16, String)> {
    let answer = post(w, "/oauth2/revoke", who, form)?;
    assert_eq!(answer.header("cache-control"), Some("no-store"), "{answer:?}");
    let body: Value = serde_json::from_str(&answer.body).unwrap_or(Value::Null);
    Ok((answer.status, body["error"].as_str().unwrap_or_default().to_owned()))
}

fn introspect(w: &World, token: &str) -> Result<Value> {
    let answer = post(w, "/oauth2/introspect", "rs", &format!("token={token}"))?;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/json")));
    Ok(serde_json::from_str(&answer.body)?)
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn refused(status: u16, error: &str) -> (u16, String) {
    (status, error.to_owned())
}

#[test]
fn a_client_revokes_its_own_token_and_the_kernel_refuses_it_when_200_returns() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (mut w, signer) = world()?;
    let own = |more: Value| {
        let mut claims = json!({"client_id": "app"});
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        signer.token(OWN, &claims)
    };
    let (first, second) = (own(json!({}))?, own(json!({}))?);
    w.assert_passes(&first);
    assert_eq!(introspect(&w, &first)?["client_id"], "app");
    for hint in
        ["", "&token_type_hint=access_token", "&token_type_hint=refresh_token", "&token_type_hint=foo"]
    {
        assert_eq!(revoke(&w, "app", &format!("token={first}{hint}"))?, ok());
        w.assert_refused(&first);
    }
    assert_eq!(introspect(&w, &first)?, json!({"active": false}));
    assert_eq!(
        w.daemon.auth("GET", "/v1/orders", &first)?.header("x-portcullis-reason"),
        Some("token_revoked")
    );
    // Said again it makes no further claim.
    let listed = w.daemon.json(&["revocations"], "")?;
    let claims = listed.as_array().context("a list")?;
    assert_eq!(claims.len(), 1, "{listed}");
    assert_eq!((&claims[0]["actor"], &claims[0]["source"]), (&json!("client:app"), &json!("rfc7009")));
    // It is on disk.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.assert_refused(&first);
    w.assert_passes(&second);
    // Nor does it over a restart; unless what came of it was lifted.
    assert_eq!(revoke(&w, "app", &format!("token={first}"))?, ok());
    let listed = w.daemon.json(&["revocations"], "")?;
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    w.daemon.ask(&["unrevoke", &listed[0]["id"].to_string()], "")?.ok()?;
    w.assert_passes(&first);
    assert_eq!(revoke(&w, "app", &format!("token={first}"))?, ok());
    w.assert_refused(&first);

    // Other clients' tokens are not its to revoke, also where another issuer has a client of its name.
    let other = signer.token(OWN, &json!({"client_id": "other"}))?;
    for token in [&other, &w.mint.hs256()?] {
        assert_eq!(revoke(&w, "app", &format!("token={token}"))?, refused(400, "invalid_grant"));
        w.assert_passes(token);
        assert_eq!(revoke(&w, "any", &format!("token={token}"))?, ok());
        w.assert_refused(token);
    }
    // `azp` says whose it is before `client_id` does.
    let lent = own(json!({"azp": "other"}))?;
    assert_eq!(revoke(&w, "app", &format!("token={lent}"))?, refused(400, "invalid_grant"));
    // What is no token here is none that needs to be revoked.
    let forged = forged(&second)?;
    for unknown in ["nonsense", "a.b.c", &forged, &own(json!({"exp": 1_000_000}))?] {
        assert_eq!(revoke(&w, "app", &format!("token={unknown}"))?, ok(), "{unknown}");
    }
    w.assert_passes(&second);
    assert_eq!(
        revoke(&w, "app", "token=rt-1&token_type_hint=refresh_token")?,
        refused(400, "unsupported_token_type")
    );
    // One whose time is still to come is revoked before it does.
    let exp: i64 = 4_000_000_000;
    let later = own(json!({"nbf": exp - 10, "exp": exp}))?;
    assert_eq!(introspect(&w, &later)?, json!({"active": false}));
    assert_eq!(revoke(&w, "app", &format!("token={later}"))?, ok());
    w.assert_refused(&later);
    // Whose it is cannot be told while its issuer's keys are not there: it is told so, and not that all is well.
    let unsure = signer.token("https://late.test", &json!({"client_id": "app", "exp": exp}))?;
    assert_eq!(revoke(&w, "app", &format!("token={unsure}"))?, refused(503, "temporarily_unavailable"));
    assert_eq!(revoke(&w, "any", &format!("token={unsure}"))?, ok());
    w.assert_refused(&unsure);
    // No longer than the token says of itself.
    let listed = w.daemon.json(&["revocations"], "")?;
    let claims = listed.as_array().context("a list")?;
    let held = claims.last().and_then(|c| c["until"].as_i64()).context("an end")?;
    assert!((exp * 1000..=exp * 1000 + 300_000).contains(&held), "{listed}");
    // A key that the issuer does not have is none that its tokens are waited for with, and nothing is kept of them.
    let foreign = Signer::new("foreign")?.token(OWN, &json!({"client_id": "app"}))?;
    for who in ["app", "any"] {
        assert_eq!(revoke(&w, who, &format!("token={foreign}"))?, ok(), "{who}");
    }
    let after = w.daemon.json(&["revocations"], "")?;
    assert_eq!(after.as_array().map(Vec::len), Some(claims.len()), "{after}");
    // What was refused is in the audit log, with who it was as far as that is known.
    assert_eq!(revoke(&w, "stranger", "token=x")?.0, 401);
    let audit = || w.daemon.command(&["audit", "show", "--json"])?.ok();
    until(|| Ok(audit()?.contains("\"unknown\"")))?;
    let lines: Vec<Value> = audit()?.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let of = |actor: &str, code: &str| {
        lines.iter().any(|l| {
            l["action"] == "refused" && l["source"] == "rfc7009" && l["actor"] == actor && l["code"] == code
        })
    };
    assert!(of("client:app", "foreign_token") && of("client:app", "unavailable"), "{lines:#?}");
    assert!(of("unknown", "invalid_client"), "{lines:#?}");
    let log = w.daemon.log().join("\n");
    assert!(!log.contains("app-secret") && !log.contains(&first) && !log.contains(&second[20..60]));
    Ok(())
}

#[test]
fn an_api_key_revoked_by_a_client_is_disabled_for_good() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (mut w, _) = world()?;
    let issued = w.daemon.json(&["keys", "issue", "--subject", "ci", "--scope", "orders:read"], "")?;
    let key = issued["token"].as_str().context("a key")?.to_owned();
    w.assert_passes(&key);
    assert_eq!(revoke(&w, "app", &format!("token={key}"))?, refused(400, "invalid_grant"));
    assert_eq!(revoke(&w, "any", &format!("token={key}"))?, ok());
    w.assert_refused(&key);
    let id = w.daemon.json(&["revocations"], "")?[0]["id"].to_string();
    w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
    w.daemon.kill9()?;
    w.daemon.restart()?;
    let answer = w.daemon.auth("GET", "/v1/orders", &key)?;
    assert_eq!(answer.header("x-portcullis-reason"), Some("api_key_disabled"));
    Ok(())
}

#[test]
fn introspection_tells_what_is_active_and_of_the_rest_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (w, signer) = world()?;
    let token = w.mint.hs256()?;
    let told = introspect(&w, &token)?;
    assert_eq!(
        (&told["active"], &told["iss"], &told["scope"]),
        (&json!(true), &json!(ISSUER), &json!("orders:read"))
    );
    assert_eq!((&told["sub"], &told["token_type"]), (&claim(&token, "sub")?.into(), &json!("Bearer")));
    let revoked = w.mint.hs256()?;
    w.daemon.revoke(&revoked)?;
    let selected = w.mint.hs256()?;
    w.daemon.json(&["revoke", "--issuer", ISSUER, "--jti", &claim(&selected, "jti")?], "")?;
    let of = |more: Value| signer.token(OWN, &more);
    for (inactive, why) in [
        (&revoked, "revoked"),
        (&selected, "revoked by selector"),
        (&forged(&token)?, "forged"),
        (&of(json!({"aud": "elsewhere"}))?, "for others"),
        (&of(json!({"exp": 1_000_000}))?, "expired"),
        (&of(json!({"nbf": 4_000_000_000_i64}))?, "to come"),
        (&signer.token("https://nobody.test", &json!({}))?, "of a foreign issuer"),
        (&"x".to_owned(), "nonsense"),
    ] {
        let answer = post(&w, "/oauth2/introspect", "rs", &format!("token={inactive}"))?;
        assert_eq!((answer.status, answer.body.as_str()), (200, "{\"active\":false}"), "{why}");
    }
    let metrics = w.daemon.metrics()?;
    let line = "portcullis_oauth_requests_total{endpoint=\"introspect\",result=\"inactive\"} 8";
    assert!(metrics.contains(line), "{metrics}");
    Ok(())
}

#[test]
fn who_is_not_known_or_not_allowed_gets_nowhere() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (w, _) = world()?;
    let token = w.mint.hs256()?;
    let form = format!("token={token}");
    // The right client for the other endpoint.
    assert_eq!(revoke(&w, "rs", &form)?, refused(400, "unauthorized_client"));
    assert_eq!(post(&w, "/oauth2/introspect", "any", &form)?.status, 400);
    // Nobody, and wrong secrets.
    let unknown = post(&w, "/oauth2/revoke", "nobody", &form)?;
    assert_eq!(unknown.status, 401);
    assert!(unknown.header("www-authenticate").is_some_and(|c| c.starts_with("Basic ")), "{unknown:?}");
    let to = DOOR.parse()?;
    let kind = "Content-Type: application/x-www-form-urlencoded";
    for path in ["/oauth2/revoke", "/oauth2/introspect"] {
        for credentials in
            ["", "&client_id=any", "&client_id=any&client_secret=rs-secret", "&client_secret=any-secret"]
        {
            let body = format!("{form}{credentials}");
            let answer =
                http(&w.net.server, to, &format!("POST {path} HTTP/1.1\r\n{kind}"), body.as_bytes())?;
            assert_eq!(answer.status, 401, "{path} {credentials}");
            assert!(answer.body.contains("invalid_client"), "{answer:?}");
        }
        assert_eq!(http(&w.net.server, to, &format!("GET {path}?{form} HTTP/1.1"), b"")?.status, 405);
    }
    // Malformed, with the right secret.
    for bad in
        ["", "token=", "token_type_hint=access_token", &format!("{form}&{form}"), &format!("{form}&x=%zz")]
    {
        assert_eq!(revoke(&w, "any", bad)?, refused(400, "invalid_request"), "{bad}");
    }
    let basic = BASE64.encode("any:any-secret");
    let json = format!(
        "POST /oauth2/revoke HTTP/1.1\r\nAuthorization: Basic {basic}\r\nContent-Type: application/json"
    );
    assert_eq!(http(&w.net.server, to, &json, format!("{{\"token\":\"{token}\"}}").as_bytes())?.status, 400);
    let long = format!("token={}", "x".repeat(100_000));
    assert_eq!(revoke(&w, "any", &long)?, refused(400, "invalid_request"));
    w.assert_passes(&token);
    // It answers nothing else, and the front doors answer none of this.
    assert_eq!(http(&w.net.server, to, "GET /auth HTTP/1.1", b"")?.status, 404);
    let front = http(
        &w.net.server,
        "127.0.0.1:8181".parse()?,
        &format!("POST /oauth2/revoke HTTP/1.1\r\n{kind}"),
        b"",
    )?;
    assert_eq!(front.status, 404);
    Ok(())
}

#[test]
fn a_certificate_is_a_credential_where_its_authority_and_its_hash_are_the_configured_ones() -> Result<()> {
    if !is_root() || !portcullis_tests::has("openssl") || !portcullis_tests::has("curl") {
        return Ok(());
    }
    let w = World::with(|config, dir| {
        let pki = Pki(dir);
        for authority in ["ca", "strangers"] {
            pki.authority(authority)?;
        }
        for (name, authority) in
            [("server", "ca"), ("good", "ca"), ("other", "ca"), ("stranger", "strangers")]
        {
            pki.certificate(name, authority)?;
        }
        let path = |name: &str| dir.path(name).display().to_string();
        let hash = pki.fingerprint("good")?;
        config.serve = tables(&format!(
            "[[standards.client]]\nid = \"mtls\"\ncertificate_sha256 = [\"{hash}\"]\nrevoke = \"any\"\n\
             [[standards.tls]]\nlisten = [\"{MUTUAL}\"]\ncertificate = \"{}\"\nkey = \"{}\"\nclient_ca = \"{}\"\n",
            path("server.pem"),
            path("server.key"),
            path("ca.pem")
        ));
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    let ask = |name: &str, form: &str| -> Result<String> {
        let file = |ending: &str| w.dir.path(&format!("{name}.{ending}")).display().to_string();
        let mut curl = std::process::Command::new("curl");
        curl.args([
            "-q",
            "-sS",
            "--noproxy",
            "*",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "30",
        ]);
        curl.args(["--cacert", &w.dir.path("ca.pem").display().to_string(), "--data", "@-"]);
        curl.arg(format!("https://{MUTUAL}/oauth2/revoke"));
        if name != "none" {
            curl.args(["--cert", &file("pem"), "--key", &file("key")]);
        }
        Ok(run(&w.net.server, &mut curl, form.as_bytes())?.stdout)
    };
    let form = format!("token={token}");
    assert_eq!(ask("none", &form)?, "000");
    assert_eq!(ask("stranger", &form)?, "000");
    assert_eq!(ask("other", &format!("{form}&client_id=mtls"))?, "401");
    assert_eq!(ask("good", &format!("{form}&client_id=app"))?, "401");
    w.assert_passes(&token);
    assert_eq!(ask("good", &format!("{form}&client_id=mtls"))?, "200");
    w.assert_refused(&token);
    Ok(())
}
