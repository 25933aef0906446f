//! Security events of an identity provider, pushed and polled, against a transmitter of the test's own.

#![allow(clippy::needless_pass_by_value, reason = "JSON as it is written out in a call")]

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::PermissionsExt as _,
    sync::{Arc, Mutex, MutexGuard},
};

use anyhow::{Context as _, Result};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use portcullis_tests::{
    World,
    client::{Answer, http},
    config::ISSUER,
    is_root,
    tokens::{Signer, claim},
    until,
    web::{Reply, Web},
};
use serde_json::{Value, json};

const TRANSMITTER: &str = "http://127.0.0.1:9600";
const DOOR: &str = "127.0.0.1:8282";
const EVENTS: &str = "https://schemas.openid.net/secevent/caep/event-type/";
const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
const SECRET: &str = "push-secret";
const TOKEN: &str = "api-token";
const CLIENT: &str = "client-secret";

/// What the transmitter knows and was told.
#[derive(Default)]
struct Known {
    stream: Option<Value>,
    status: String,
    /// Events that were not acknowledged, by their `jti`.
    queue: BTreeMap<String, String>,
    acknowledged: Vec<String>,
    errors: Value,
    made: u32,
    /// The token for its API, where it is not [`TOKEN`]; and how often one was given.
    token: Option<&'static str>,
    given: u32,
    /// A verification's state, to be sent.
    verify: Option<String>,
}

/// A transmitter. Each event that is polled stays until it is acknowledged.
#[derive(Clone)]
struct Transmitter(Arc<Mutex<Known>>, Arc<Signer>);

impl Transmitter {
    fn new() -> Result<Self> {
        Ok(Self(Arc::default(), Arc::new(Signer::new("tr")?)))
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.0.lock().unwrap()
    }

    fn set(&self, jti: &str, event: &str, subject: Value, content: Value) -> Result<String> {
        let claims = json!({
            "iss": TRANSMITTER, "aud": "portcullis", "jti": jti, "iat": now(), "sub_id": subject,
            "events": {event: content},
        });
        self.1.sign(&json!({"alg": "ES256", "kid": "tr", "typ": "secevent+jwt"}), &claims)
    }

    fn revoked(&self, jti: &str, sub: &str) -> Result<String> {
        let subject = json!({"format": "iss_sub", "iss": ISSUER, "sub": sub});
        self.set(jti, &format!("{EVENTS}session-revoked"), subject, json!({"reason_admin": {"en": "test"}}))
    }

    fn queue(&self, jti: &str, set: String) {
        self.known().queue.insert(jti.to_owned(), set);
    }

    /// Its answers.
    fn answer(&self, asked: &str) -> Reply {
        let (head, body) = asked.split_once("\r\n\r\n").unwrap_or_default();
        let line: Vec<&str> = head.lines().next().unwrap_or_default().split(' ').collect();
        let (method, target) = (line[0], line[1]);
        let body: Value = serde_json::from_str(body).unwrap_or(Value::Null);
        let path = target.split('?').next().unwrap_or_default();
        let ok = |value: Value| Reply::Json(value.to_string());
        match path {
            "/.well-known/ssf-configuration" => {
                return ok(json!({
                    "spec_version": "1_0", "issuer": TRANSMITTER, "jwks_uri": format!("{TRANSMITTER}/keys"),
                    "configuration_endpoint": format!("{TRANSMITTER}/streams"),
                    "status_endpoint": format!("{TRANSMITTER}/status"),
                    "verification_endpoint": format!("{TRANSMITTER}/verify"),
                    "delivery_methods_supported": ["urn:ietf:rfc:8935", "urn:ietf:rfc:8936"],
                    "authorization_schemes": [{"spec_urn": "urn:ietf:rfc:6749"}],
                }));
            }
            "/keys" => return Reply::Json(self.1.jwks()),
            "/token" => {
                let basic = BASE64.encode(format!("portcullis:{CLIENT}")).to_lowercase();
                let form = "grant_type=client_credentials&scope=ssf.manage+ssf.read";
                if head.to_lowercase().contains(&format!("authorization: basic {basic}"))
                    && asked.ends_with(form)
                {
                    let mut known = self.known();
                    known.given += 1;
                    let token = known.token.unwrap_or(TOKEN);
                    return ok(json!({"access_token": token, "token_type": "Bearer", "expires_in": 3600}));
                }
                return Reply::Status(401);
            }
            _ => {}
        }
        let mut known = self.known();
        let token = known.token.unwrap_or(TOKEN);
        if !head.to_lowercase().contains(&format!("authorization: bearer {token}")) {
            return Reply::Status(401);
        }
        match (method, path) {
            ("GET", "/streams") => ok(known.stream.iter().cloned().collect()),
            ("POST", "/streams") => {
                known.made += 1;
                let mut stream = body;
                stream["stream_id"] = format!("s {}", known.made).into();
                (stream["iss"], stream["aud"]) = (TRANSMITTER.into(), "portcullis".into());
                if stream["delivery"]["method"] == "urn:ietf:rfc:8936" {
                    stream["delivery"]["endpoint_url"] = format!("{TRANSMITTER}/poll").into();
                }
                known.status = String::from("enabled");
                known.stream = Some(stream.clone());
                ok(stream)
            }
            ("PATCH", "/streams") => {
                let mut stream = known.stream.clone().unwrap_or_default();
                for (name, value) in body.as_object().into_iter().flatten() {
                    stream[name.as_str()] = value.clone();
                }
                known.stream = Some(stream.clone());
                ok(stream)
            }
            ("DELETE", "/streams") => {
                known.stream = None;
                Reply::Status(204)
            }
            ("GET", "/status") => ok(json!({"stream_id": "s", "status": known.status})),
            ("POST", "/status") => {
                known.status = String::from(body["status"].as_str().unwrap_or_default());
                ok(body)
            }
            ("POST", "/verify") => {
                known.verify = body["state"].as_str().map(str::to_owned);
                Reply::Status(204)
            }
            ("POST", "/poll") => {
                for jti in body["ack"].as_array().into_iter().flatten().filter_map(Value::as_str) {
                    known.queue.remove(jti);
                    known.acknowledged.push(jti.to_owned());
                }
                for (jti, error) in body["setErrs"].as_object().into_iter().flatten() {
                    known.queue.remove(jti);
                    known.errors[jti.as_str()] = error.clone();
                }
                if let Some(state) = known.verify.take() {
                    let jti = format!("v-{state}");
                    let subject = json!({"format": "opaque", "id": "s"});
                    let set =
                        self.set(&jti, VERIFICATION, subject, json!({"state": state})).unwrap_or_default();
                    known.queue.insert(jti, set);
                }
                let most = usize::try_from(body["maxEvents"].as_u64().unwrap_or(100)).unwrap_or(100);
                let sets: BTreeMap<_, _> = known.queue.iter().take(most).collect();
                ok(json!({"sets": sets, "moreAvailable": known.queue.len() > most}))
            }
            _ => Reply::Status(404),
        }
    }
}

fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// A daemon that follows the transmitter, by these lines of its table.
fn world(transmitter: &Transmitter, lines: &str) -> Result<(World, Web)> {
    let w = World::with(|config, dir| {
        for (name, text) in [("push.secret", SECRET), ("api.token", TOKEN), ("client.secret", CLIENT)] {
            fs::set_permissions(dir.write(name, text)?, fs::Permissions::from_mode(0o600))?;
        }
        config.serve = format!(
            "[standards]\nlisten = [\"{DOOR}\"]\n[[ssf.transmitter]]\nname = \"idp\"\nissuer = \"{TRANSMITTER}\"\n\
             token_issuers = [\"{ISSUER}\"]\ntimeout = \"1s\"\npoll_interval = \"100ms\"\n{lines}"
        );
        Ok(())
    })?;
    let answers = transmitter.clone();
    let web = Web::start(&w.net.server, "127.0.0.1:9600", move |asked| answers.answer(asked))?;
    Ok((w, web))
}

/// The same, which the transmitter pushes its events to, and which follows it.
fn pushed(transmitter: &Transmitter) -> Result<(World, Web)> {
    let lines = format!(
        "token_url = \"{TRANSMITTER}/token\"\nclient_id = \"portcullis\"\nclient_secret_file = \"client.secret\"\n\
         delivery = \"push\"\npush_url = \"http://{DOOR}/ssf/events/idp\"\npush_secret_file = \"push.secret\"\n"
    );
    let (w, web) = world(transmitter, &lines)?;
    until(|| Ok(status(&w)?["ready"] == true))?;
    Ok((w, web))
}

fn push(w: &World, secret: &str, kind: &str, set: &str) -> Result<Answer> {
    let authorization =
        if secret.is_empty() { String::new() } else { format!("\r\nAuthorization: Bearer {secret}") };
    let head = format!(
        "POST /ssf/events/idp HTTP/1.1\r\nContent-Type: {kind}\r\nAccept: application/json{authorization}"
    );
    http(&w.net.server, DOOR.parse()?, &head, set.as_bytes())
}

fn status(w: &World) -> Result<Value> {
    Ok(w.daemon.json(&["ssf", "status"], "")?["transmitters"][0].clone())
}

#[test]
fn a_polled_event_revokes_in_the_kernel_and_is_acknowledged_behind_that() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let transmitter = Transmitter::new()?;
    let (mut w, web) = world(&transmitter, "token_file = \"api.token\"\n")?;
    until(|| Ok(status(&w)?["last_verified"].is_i64()))?;
    let told = status(&w)?;
    assert_eq!(
        (&told["ready"], &told["stream"], &told["stream_status"]),
        (&json!(true), &json!("s 1"), &json!("enabled"))
    );

    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    let sub = claim(&token, "sub")?;
    let unseen = w.mint.of_subject(&sub)?;
    for t in [&token, &other] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", t)?.status, 200);
    }
    // With a forged one and one of another type beside it.
    transmitter.queue("e1", transmitter.revoked("e1", &sub)?);
    let stranger = Transmitter::new()?;
    transmitter.queue("e2", stranger.revoked("e2", &claim(&other, "sub")?)?);
    let nobody = json!({"format": "opaque", "id": "x"});
    transmitter.queue("e3", transmitter.set("e3", "https://unknown.test/event", nobody, json!({}))?);
    until(|| Ok(transmitter.known().queue.is_empty()))?;
    {
        let known = transmitter.known();
        assert!(
            known.acknowledged.contains(&"e1".to_owned()) && known.acknowledged.contains(&"e3".to_owned())
        );
        assert_eq!(known.errors["e2"]["err"], "authentication_failed", "{}", known.errors);
    }
    // Acknowledged is enforced.
    w.assert_refused(&token);
    assert_eq!(
        w.daemon.auth("GET", "/v1/orders", &unseen)?.header("x-portcullis-reason"),
        Some("token_revoked")
    );
    w.assert_passes(&other);
    let listed = w.daemon.json(&["revocations"], "")?;
    let ours =
        listed.as_array().context("a list")?.iter().find(|c| c["source"] == "ssf").context("a claim")?;
    assert_eq!(
        (&ours["actor"], &ours["reason"]),
        (&json!("ssf:idp"), &json!("session-revoked: test")),
        "{listed}"
    );
    // And durable: killed, it refuses, and makes no other stream.
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.assert_refused(&token);
    until(|| Ok(status(&w)?["last_verified"].is_i64()))?;
    assert_eq!(transmitter.known().made, 1);

    // The transmitter fails for a while: nothing is lost.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &other)?.status, 200);
    web.now(|_| Reply::Status(500));
    until(|| Ok(status(&w)?["ready"] == false))?;
    transmitter.queue("e4", transmitter.revoked("e4", &claim(&other, "sub")?)?);
    let answers = transmitter.clone();
    web.now(move |asked| answers.answer(asked));
    until(|| Ok(transmitter.known().queue.is_empty()))?;
    w.assert_refused(&other);

    // Its stream is managed.
    w.daemon.ask(&["ssf", "verify", "idp"], "")?.ok()?;
    w.daemon.ask(&["ssf", "pause", "idp"], "")?.ok()?;
    assert_eq!(transmitter.known().status, "paused");
    w.daemon.ask(&["ssf", "enable", "idp"], "")?.ok()?;
    let shown = w.daemon.ask(&["ssf", "status"], "")?.ok()?;
    assert!(shown.contains("idp") && shown.contains("enabled"), "{shown}");
    w.daemon.ask(&["ssf", "delete", "idp"], "")?.ok()?;
    assert!(transmitter.known().stream.is_none());
    let unknown = w.daemon.ask(&["ssf", "verify", "other"], "")?;
    assert!(unknown.stderr.contains("there is no transmitter"), "{}", unknown.stderr);
    let metrics = w.daemon.metrics()?;
    assert!(
        metrics.contains("portcullis_ssf_events_total{result=\"revoked\",transmitter=\"idp\"} 1"),
        "{metrics}"
    );
    assert!(!w.daemon.log().join("\n").contains(TOKEN));
    Ok(())
}

#[test]
fn a_pushed_event_is_refused_by_the_kernel_when_202_returns() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let transmitter = Transmitter::new()?;
    let (mut w, _web) = pushed(&transmitter)?;
    let delivery = transmitter.known().stream.clone().unwrap_or_default()["delivery"].clone();
    assert_eq!(delivery["authorization_header"], format!("Bearer {SECRET}"));
    // One token serves until it ends or is not taken any more; then another one is had.
    assert_eq!(transmitter.known().given, 1);
    transmitter.known().token = Some("second-token");
    until(|| Ok(w.daemon.ask(&["ssf", "enable", "idp"], "")?.code == 0))?;
    assert_eq!(transmitter.known().given, 2);
    transmitter.known().token = None;
    until(|| Ok(w.daemon.ask(&["ssf", "enable", "idp"], "")?.code == 0))?;

    let kind = "application/secevent+jwt";
    let (token, other) = (w.mint.hs256()?, w.mint.hs256()?);
    for t in [&token, &other] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", t)?.status, 200);
    }
    let event = transmitter.revoked("p1", &claim(&token, "sub")?)?;
    // Nobody without the secret gets anywhere, with a good event or without.
    for wrong in ["", "x", "push-secret-2", TOKEN] {
        let refused = push(&w, wrong, kind, &event)?;
        assert_eq!(refused.status, 401, "{wrong}");
        assert!(refused.body.contains("authentication_failed"), "{refused:?}");
    }
    let error = |answer: Answer| -> Result<String> {
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, Some("application/json")),
            "{answer:?}"
        );
        assert_eq!(answer.header("content-language"), Some("en"));
        let body: Value = serde_json::from_str(&answer.body)?;
        assert!(body["description"].is_string());
        Ok(body["err"].as_str().unwrap_or_default().to_owned())
    };
    assert_eq!(error(push(&w, SECRET, "application/json", &event)?)?, "invalid_request");
    assert_eq!(error(push(&w, SECRET, kind, "nonsense")?)?, "invalid_request");
    assert_eq!(error(push(&w, SECRET, kind, &"x".repeat(100_000))?)?, "invalid_request");
    let stranger = Transmitter::new()?;
    assert_eq!(error(push(&w, SECRET, kind, &stranger.revoked("p1", "x")?)?)?, "authentication_failed");
    w.assert_passes(&token);

    for _ in 0..2 {
        let taken = push(&w, SECRET, kind, &event)?;
        assert_eq!((taken.status, taken.body.as_str()), (202, ""), "{taken:?}");
        w.assert_refused(&token);
    }
    assert_eq!(status(&w)?["events"]["repeated"], 1);
    w.daemon.kill9()?;
    w.daemon.restart()?;
    w.assert_refused(&token);
    w.assert_passes(&other);
    // Replayed over the restart it is the same order, and none where what came of it was lifted.
    let claims = |w: &World| -> Result<Vec<Value>> {
        let all = w.daemon.json(&["revocations", "--source", "ssf"], "")?;
        Ok(all.as_array().cloned().unwrap_or_default())
    };
    let before = claims(&w)?;
    until(|| Ok(status(&w)?["ready"] == true))?;
    assert_eq!(push(&w, SECRET, kind, &event)?.status, 202);
    assert_eq!((before.len(), claims(&w)?), (1, before.clone()));
    w.daemon.ask(&["unrevoke", &before[0]["id"].to_string()], "")?.ok()?;
    w.daemon.kill9()?;
    w.daemon.restart()?;
    until(|| Ok(status(&w)?["ready"] == true))?;
    assert_eq!(push(&w, SECRET, kind, &event)?.status, 202);
    assert!(claims(&w)?.is_empty());
    w.assert_passes(&token);
    // What was refused is in the audit log.
    let audit = || w.daemon.command(&["audit", "show", "--json"])?.ok();
    until(|| Ok(audit()?.contains("authentication_failed")))?;
    let lines = audit()?;
    let refused: Vec<Value> = lines.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    let refused: Vec<_> =
        refused.iter().filter(|l| l["action"] == "refused" && l["actor"] == "ssf:idp").collect();
    let codes = |code: &str| refused.iter().filter(|l| l["code"] == code).count();
    assert_eq!((codes("authentication_failed"), codes("invalid_request")), (5, 1), "{refused:#?}");
    // A verification that nobody asked for is an error that the transmitter understands.
    until(|| Ok(status(&w)?["ready"] == true))?;
    let subject = json!({"format": "opaque", "id": "s"});
    let verification = transmitter.set("p2", VERIFICATION, subject.clone(), json!({"state": "x"}))?;
    assert_eq!(error(push(&w, SECRET, kind, &verification)?)?, "invalid_state");
    let asked = transmitter.known().verify.clone().context("it was asked for")?;
    let verification = transmitter.set("p3", VERIFICATION, subject, json!({"state": asked}))?;
    assert_eq!(push(&w, SECRET, kind, &verification)?.status, 202);
    assert!(status(&w)?["last_verified"].is_i64());
    // An event is no token.
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &event)?.status, 401);
    assert_eq!(http(&w.net.server, DOOR.parse()?, "POST /ssf/events/other HTTP/1.1", b"")?.status, 404);
    assert_eq!(http(&w.net.server, DOOR.parse()?, "GET /ssf/events/idp HTTP/1.1", b"")?.status, 405);
    let log = w.daemon.log().join("\n");
    assert!(!log.contains(SECRET) && !log.contains(TOKEN) && !log.contains(CLIENT));
    Ok(())
}

#[test]
fn a_stream_that_is_there_is_told_another_secret() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let transmitter = Transmitter::new()?;
    let (mut w, _web) = pushed(&transmitter)?;
    w.dir.write("push.secret", "another-push-secret-0123456789abcdef\n")?;
    w.daemon.kill9()?;
    w.daemon.restart()?;
    until(|| {
        let delivery = transmitter.known().stream.clone().unwrap_or_default()["delivery"].clone();
        Ok(delivery["authorization_header"] == "Bearer another-push-secret-0123456789abcdef")
    })?;
    assert_eq!(transmitter.known().made, 1);
    Ok(())
}

#[test]
fn an_event_with_many_names_revokes_them_all_and_one_that_names_nobody_well_is_refused() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let transmitter = Transmitter::new()?;
    let (w, _web) = pushed(&transmitter)?;
    let token = w.mint.hs256()?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let user = |sub: &str| json!({"format": "iss_sub", "iss": ISSUER, "sub": sub});
    let event = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    let sent = |jti: &str, names: Vec<Value>| -> Result<Answer> {
        let subject = json!({"format": "aliases", "identifiers": names});
        push(&w, SECRET, "application/secevent+jwt", &transmitter.set(jti, event, subject, json!({}))?)
    };
    // The last of 500 is the token's.
    let mut names: Vec<Value> = (0..499).map(|n| user(&format!("u{n}"))).collect();
    names.push(user(&claim(&token, "sub")?));
    for _ in 0..2 {
        assert_eq!(sent("many", names.clone())?.status, 202);
    }
    w.assert_refused(&token);
    let listed = w.daemon.json(&["revocations", "--kind", "selector"], "")?;
    assert_eq!(listed.as_array().map(Vec::len), Some(500), "each of them once");
    for (jti, names) in [
        ("odd", vec![user("fine"), user("a\u{1b}[2J")]),
        ("more", (0..1001).map(|n| json!({"format": "email", "email": format!("u{n}")})).collect()),
    ] {
        let refused = sent(jti, names)?;
        assert!(refused.status == 400 && refused.body.contains("invalid_request"), "{jti}: {refused:?}");
    }
    let listed = w.daemon.json(&["revocations", "--kind", "selector"], "")?;
    assert_eq!(listed.as_array().map(Vec::len), Some(500), "nothing of them is done");
    let metrics = w.daemon.metrics()?;
    assert!(
        metrics.contains("portcullis_ssf_events_total{result=\"refused\",transmitter=\"idp\"} 2"),
        "{metrics}"
    );
    Ok(())
}
