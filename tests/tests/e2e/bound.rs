//! Tokens that are bound to their sender, at each front door.

use std::{
    fs,
    sync::atomic::{AtomicU64, Ordering},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use aws_lc_rs::digest;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use portcullis_tests::{
    World,
    client::{http, request},
    config::{Config, DOORS},
    is_root,
    tokens::Signer,
};
use serde_json::{Value, json};

const ISSUER: &str = "https://bound.test";
const STRICT: &str = "https://strict.test";
const CERTIFICATE: [u8; 32] = [0x5a; 32];

/// Allows what is valid, for ten minutes, and tells what it is bound by.
const POLICY: &str = r#"package portcullis

import rego.v1

default decision := {"allow": false}

decision := {"allow": true, "ttl": 600, "grant": "token", "headers": {"x-bound": input.token_bound}} if input.token_status == "valid"
"#;

fn hash(text: &str) -> String {
    BASE64.encode(digest::digest(&digest::SHA256, text.as_bytes()))
}

fn thumbprint(signer: &Signer) -> String {
    let jwk = signer.jwk();
    let text = |name: &str| jwk[name].as_str().unwrap_or_default().to_owned();
    hash(&format!(r#"{{"crv":"P-256","kty":"EC","x":"{}","y":"{}"}}"#, text("x"), text("y")))
}

/// A proof that no other call makes.
fn proof(sender: &Signer, token: &str, method: &str, url: &str) -> Result<String> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": sender.jwk()});
    let claims = json!({
        "jti": NEXT.fetch_add(1, Ordering::Relaxed).to_string(), "htm": method, "htu": url,
        "iat": SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs(), "ath": hash(token),
    });
    sender.sign(&header, &claims)
}

fn world(issuer: &Signer) -> Result<World> {
    world_with(issuer, |config| config.mode = "off")
}

fn world_with(issuer: &Signer, change: impl FnOnce(&mut Config)) -> Result<World> {
    World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", POLICY)?;
        let jwks = dir.write("bound.jwks", &issuer.jwks())?;
        config.policies = dir.path("own");
        config.policy = String::from("require_tests = false");
        change(config);
        let table = |name: &str, more: &str| {
            format!(
                "[[token.issuer]]\nissuer = \"{name}\"\nalgorithms = [\"ES256\"]\njwks_file = \"{}\"\n{more}\n",
                jwks.display()
            )
        };
        config.serve = table(ISSUER, "")
            + &table(STRICT, "require_bound = true")
            + "[token.binding]\ncertificate_header = \"x-client-cert\"\ncertificate_format = \"thumbprint\"\n";
        Ok(())
    })
}

/// Status, reason and what the policy saw, of a request to `/forward-auth`.
fn ask(w: &World, token: &str, headers: &[String]) -> Result<(u16, String, String)> {
    ask_by(w, "DPoP", token, headers)
}

fn ask_by(w: &World, scheme: &str, token: &str, headers: &[String]) -> Result<(u16, String, String)> {
    let mut head = format!(
        "GET /forward-auth HTTP/1.1\r\nX-Forwarded-Method: GET\r\nX-Forwarded-Uri: /v1/orders?a=b\r\nX-Forwarded-Host: api.test\r\nAuthorization: {scheme} {token}"
    );
    for header in headers {
        head = format!("{head}\r\n{header}");
    }
    let answer = http(&w.net.server, DOORS.parse()?, &head, b"")?;
    let header = |name: &str| answer.header(name).unwrap_or_default().to_owned();
    Ok((answer.status, header("x-portcullis-reason"), header("x-bound")))
}

#[test]
fn a_bound_token_is_good_for_its_sender_alone_cached_or_not() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (issuer, sender, thief) = (Signer::new("i")?, Signer::new("s")?, Signer::new("t")?);
    let w = world(&issuer)?;
    let token = issuer.token(ISSUER, &json!({"cnf": {"jkt": thumbprint(&sender)}}))?;
    let url = "https://api.test/v1/orders";
    let allowed = |by: &str| (200, String::new(), by.to_owned());
    let denied = |reason: &str| (401, reason.to_owned(), String::new());
    for _ in 0..2 {
        // Denied first, then allowed and kept, then denied again where the proof is not there.
        assert_eq!(ask(&w, &token, &[])?, denied("binding_unproved"));
        let theirs = proof(&thief, &token, "GET", url)?;
        assert_eq!(ask(&w, &token, &[format!("DPoP: {theirs}")])?, denied("binding_unproved"));
        let elsewhere = proof(&sender, &token, "GET", "https://other.test/v1/orders")?;
        assert_eq!(ask(&w, &token, &[format!("DPoP: {elsewhere}")])?, denied("proof_invalid"));
        let good = format!("DPoP: {}", proof(&sender, &token, "GET", url)?);
        assert_eq!(ask(&w, &token, &[good.clone(), good.clone()])?, denied("proof_invalid"), "two headers");
        let bearer = ask_by(&w, "Bearer", &token, std::slice::from_ref(&good))?;
        assert_eq!(bearer, denied("binding_unproved"), "RFC 9449 7.2");
        assert_eq!(ask(&w, &token, std::slice::from_ref(&good))?, allowed("dpop"));
        assert_eq!(ask(&w, &token, &[good])?, denied("proof_replayed"));
    }
    // By certificate, which the gateway tells.
    let by_certificate = issuer.token(ISSUER, &json!({"cnf": {"x5t#S256": BASE64.encode(CERTIFICATE)}}))?;
    for _ in 0..2 {
        assert_eq!(ask(&w, &by_certificate, &[])?, denied("binding_unproved"));
        assert_eq!(
            ask(&w, &by_certificate, &[format!("X-Client-Cert: {}", "00".repeat(32))])?,
            denied("binding_unproved")
        );
        assert_eq!(
            ask(&w, &by_certificate, &[format!("X-Client-Cert: {}", "5a".repeat(32))])?,
            allowed("mtls")
        );
    }
    let (free, unbound) = (issuer.token(ISSUER, &json!({}))?, issuer.token(STRICT, &json!({}))?);
    assert_eq!(ask(&w, &free, &[])?, allowed("none"));
    assert_eq!(ask(&w, &unbound, &[])?, denied("binding_required"));
    let unknown = issuer.token(ISSUER, &json!({"cnf": {"kid": "x"}}))?;
    assert_eq!(ask(&w, &unknown, &[])?, denied("binding_unproved"));
    Ok(())
}

#[test]
fn the_other_doors_take_the_same_proofs() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (issuer, sender) = (Signer::new("i")?, Signer::new("s")?);
    let w = world(&issuer)?;
    let token = issuer.token(STRICT, &json!({"cnf": {"jkt": thumbprint(&sender)}}))?;
    let url = "https://api.test/v1/orders";
    let given = || -> Result<Value> {
        Ok(
            json!({"dpop": proof(&sender, &token, "POST", url)?, "method": "POST", "url": format!("{url}?a=b")}),
        )
    };
    // OPA's API.
    let body = json!({"input": {"token": token, "token_proof": given()?}}).to_string();
    let data = |body: &str| -> Result<Value> {
        Ok(serde_json::from_str(&w.daemon.data("portcullis/decision", body)?.body)?)
    };
    let first = data(&body)?;
    assert_eq!(
        (&first["result"]["allow"], &first["result"]["headers"]["x-bound"]),
        (&json!(true), &json!("dpop")),
        "{first}"
    );
    assert_eq!(data(&body)?["result"]["allow"], false, "the same body again is the same proof again");
    assert_eq!(data(&json!({"input": {"token": token}}).to_string())?["result"]["allow"], false);
    // AuthZEN.
    let evaluate = |proof: Value| -> Result<Value> {
        let body = json!({
            "subject": {"type": "identity", "id": "whoever"}, "action": {"name": "GET"},
            "resource": {"type": "account", "id": "1"}, "context": {"token": token, "token_proof": proof},
        });
        let answer = http(
            &w.net.server,
            DOORS.parse()?,
            "POST /access/v1/evaluation HTTP/1.1",
            body.to_string().as_bytes(),
        )?;
        Ok(serde_json::from_str(&answer.body)?)
    };
    assert_eq!(evaluate(given()?)?["decision"], true);
    assert_eq!(evaluate(Value::Null)?["context"]["reason"], "binding_unproved");
    assert_eq!(evaluate(json!(7))?["context"]["reason"], "proof_invalid");
    // Envoy's HTTP form: the request's own host and path.
    let envoy = |more: &str| -> Result<u16> {
        let head = format!("GET /ext_authz/v1/orders HTTP/1.1\r\nAuthorization: DPoP {token}{more}");
        Ok(http(&w.net.server, DOORS.parse()?, &head, b"")?.status)
    };
    let good = proof(&sender, &token, "GET", &format!("https://{DOORS}/v1/orders"))?;
    assert_eq!((envoy("")?, envoy(&format!("\r\nDPoP: {good}"))?), (401, 200));
    Ok(())
}

/// The policy grants whole tokens; a bound one's requests are all asked about all the same.
#[test]
fn in_hold_mode_no_request_of_a_bound_token_passes_without_its_proof() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let (issuer, sender) = (Signer::new("i")?, Signer::new("s")?);
    let w = world_with(&issuer, |config| config.kernel = String::from("unknown = \"hold\""))?;
    let token = issuer.token(ISSUER, &json!({"cnf": {"jkt": thumbprint(&sender)}}))?;
    let asked = |path: &str, proof: Option<String>| {
        let authorization = format!("Authorization: DPoP {token}");
        let proof = proof.map(|p| format!("DPoP: {p}"));
        let headers: Vec<&str> =
            [Some(authorization.as_str()), proof.as_deref()].into_iter().flatten().collect();
        request(path, &headers)
    };
    let host = String::from_utf8(request("/", &[]))?;
    let host = host.lines().find_map(|l| l.strip_prefix("Host: ")).unwrap_or_default().to_owned();
    for path in ["/a", "/b"] {
        let proof = proof(&sender, &token, "GET", &format!("https://{host}{path}"))?;
        w.assert_request_passes(&asked(path, Some(proof.clone())));
        w.assert_request_refused(&asked(path, None));
        w.assert_request_refused(&asked(&format!("{path}/replayed"), Some(proof)));
    }
    let free = issuer.token(ISSUER, &json!({}))?;
    w.assert_passes(&free);
    Ok(())
}
