//! Events as transmitters send them: what follows, what is refused, and what is taken once.

#![allow(clippy::needless_pass_by_value, reason = "JSON as it is written out in a call")]

use std::{
    collections::BTreeMap,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::json;

use super::*;
use crate::{
    clock::{Clock as _, SystemClock},
    ssf::PushSecret,
};

const ISSUER: &str = "https://idp.example.com/123456789/";
const CAEP: &str = "https://schemas.openid.net/secevent/caep/event-type/";

/// Notes what is ordered.
#[derive(Default)]
struct Noted {
    selectors: Mutex<Vec<String>>,
    once: Mutex<Vec<Once>>,
    refused: Mutex<Vec<String>>,
    fails: AtomicBool,
}

impl Orders for Noted {
    fn revoke(
        &self,
        order: SelectorOrder,
        once: Once,
    ) -> std::pin::Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            if self.fails.load(Ordering::SeqCst) {
                return Err("the disk is full".to_owned());
            }
            self.selectors.lock().unwrap().push(order.selector.to_string());
            assert_eq!(once.until, order.until, "remembered for as long as it stands");
            self.once.lock().unwrap().push(once);
            Ok(())
        })
    }

    fn refused(&self, transmitter: &str, code: &str, why: &str) {
        self.refused.lock().unwrap().push(format!("{transmitter} {code} {why}"));
    }
}

struct World {
    transmitter: Transmitter,
    noted: Arc<Noted>,
    pair: EcdsaKeyPair,
    _dir: tempfile::TempDir,
}

fn world(change: impl FnOnce(&mut TransmitterSettings)) -> World {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let half = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let jwk =
        json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": half(&point[1..33]), "y": half(&point[33..65])});
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("keys");
    std::fs::write(&file, json!({"keys": [jwk]}).to_string()).unwrap();
    let mut settings = TransmitterSettings {
        name: "idp".to_owned(),
        issuer: ISSUER.to_owned(),
        audience: vec!["https://sp.example.com/caep".to_owned()],
        algorithms: vec!["ES256".to_owned()],
        keys: Some(KeySource::JwksFile(file)),
        manage: false,
        stream: None,
        delivery: Delivery::Push { url: None, secret: PushSecret::new("s3cret".to_owned()) },
        access: crate::ssf::Access::None,
        ca_file: None,
        plain_http: false,
        hosts: Vec::new(),
        timeout: Duration::from_secs(1),
        token_issuers: vec!["https://idp".to_owned()],
        email_is_subject: true,
        actions: BTreeMap::new(),
        ttl: Duration::from_hours(1),
    };
    change(&mut settings);
    let noted = Arc::new(Noted::default());
    let metrics = Arc::new(Metrics::new().unwrap());
    let orders = Arc::clone(&noted) as Arc<dyn Orders>;
    let transmitter = Transmitter::new(settings, orders, Arc::new(SystemClock), metrics).unwrap();
    transmitter.signers_from(None).unwrap();
    World { transmitter, noted, pair, _dir: dir }
}

impl World {
    fn sign_as(&self, header: &Value, claims: &Value) -> String {
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    fn sign(&self, claims: &Value) -> String {
        self.sign_as(&json!({"alg": "ES256", "kid": "k", "typ": "secevent+jwt"}), claims)
    }

    async fn accept(&self, claims: &Value) -> Result<String, Refused> {
        self.transmitter.accept(&self.sign(claims)).await
    }

    /// What is ordered by an event about a subject.
    async fn ordered(&self, event: &str, subject: Value, content: Value) -> Vec<String> {
        self.noted.selectors.lock().unwrap().clear();
        self.accept(&set(event, subject, content)).await.unwrap();
        self.noted.selectors.lock().unwrap().clone()
    }
}

fn set(event: &str, subject: Value, content: Value) -> Value {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let event = if event.contains("://") { event.to_owned() } else { format!("{CAEP}{event}") };
    json!({
        "iss": ISSUER, "jti": format!("j{}", NEXT.fetch_add(1, Ordering::SeqCst)), "iat": 1_615_305_159,
        "aud": "https://sp.example.com/caep", "sub_id": subject, "events": {event: content},
    })
}

#[tokio::test]
async fn events_become_selectors_of_the_transmitters_own_issuers() {
    let w = world(|_| {});
    let at = json!({"event_timestamp": 1_615_304_991});
    let user = json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"});
    let jane = ["iss=https://idp sub=jane issued_before=1615304992".to_owned()];
    assert_eq!(w.ordered("session-revoked", user.clone(), at.clone()).await, jane);
    let own = json!({"format": "iss_sub", "iss": "https://idp", "sub": "jane"});
    assert_eq!(w.ordered("session-revoked", own, at.clone()).await, jane);
    let foreign = json!({"format": "iss_sub", "iss": "https://other", "sub": "jane"});
    assert!(w.ordered("session-revoked", foreign, at.clone()).await.is_empty());
    let opaque = json!({"format": "opaque", "id": "x|1"});
    assert_eq!(
        w.ordered("session-revoked", opaque.clone(), at.clone()).await,
        ["iss=https://idp sid=x|1", "iss=https://idp sub=x|1 issued_before=1615304992"]
    );
    let complex = json!({"format": "complex", "session": opaque, "user": user, "tenant": {"format": "opaque", "id": "t"}});
    assert_eq!(w.ordered("session-revoked", complex.clone(), at.clone()).await, ["iss=https://idp sid=x|1"]);
    assert_eq!(w.ordered("credential-change", complex, at.clone()).await, jane);
    let device = json!({"format": "complex", "user": user, "device": {"format": "opaque", "id": "d"}});
    assert_eq!(w.ordered("session-revoked", device, at.clone()).await, jane);
    let email = json!({"format": "email", "email": "j@x.test"});
    assert_eq!(
        w.ordered("credential-change", email, json!({"change_type": "revoke"})).await,
        ["iss=https://idp sub=j@x.test issued_before=1615305160"],
        "without a time of its own it is the event token's"
    );
    let token = json!({"format": "jwt_id", "iss": "https://idp", "jti": "t1"});
    assert_eq!(w.ordered("session-revoked", token, at.clone()).await, ["iss=https://idp jti=t1"]);
    let aliases = json!({"format": "aliases", "identifiers": [
        {"format": "email", "email": "a@x"}, {"format": "phone_number", "phone_number": "+1"},
        {"format": "aliases", "identifiers": [{"format": "email", "email": "nested"}]},
    ]});
    assert_eq!(w.ordered("credential-change", aliases, at.clone()).await.len(), 1);
    for nobody in [
        json!({"format": "complex", "tenant": {"format": "opaque", "id": "t"}}),
        json!({"format": "did", "url": "did:x:1"}),
        json!({"format": "iss_sub", "iss": "https://idp"}),
        json!({}),
    ] {
        assert!(w.ordered("session-revoked", nobody.clone(), at.clone()).await.is_empty(), "{nobody}");
    }
    let status = w.transmitter.status();
    assert_eq!(status.events.get("unmapped"), Some(&5), "{status:?}");
}

#[tokio::test]
async fn all_names_of_one_subject_are_revoked_and_more_than_are_read_are_refused() {
    let w = world(|s| s.token_issuers = vec!["https://idp".to_owned(), "https://two".to_owned()]);
    let aliases = |count: usize| {
        let id = |n| json!({"format": "email", "email": format!("u{n}")});
        json!({"format": "aliases", "identifiers": (0..count).map(id).collect::<Vec<_>>()})
    };
    for count in [17, 500, 1000] {
        let ordered = w.ordered("credential-change", aliases(count), json!({})).await;
        let distinct: std::collections::BTreeSet<_> = ordered.iter().collect();
        assert_eq!((ordered.len(), distinct.len()), (2 * count, 2 * count), "one for each issuer");
        for n in [0, 15, 16, count - 1] {
            assert!(ordered.iter().any(|s| s.starts_with(&format!("iss=https://two sub=u{n} "))), "{n}");
        }
    }
    w.noted.selectors.lock().unwrap().clear();
    for subject in [aliases(1001), json!({"format": "complex", "user": aliases(1001)})] {
        let refused = w.accept(&set("credential-change", subject, json!({}))).await.unwrap_err();
        let Refused::Bad { err, description } = refused else { panic!("{refused:?}") };
        assert!(err == "invalid_request" && description.contains("more than 1000"), "{description}");
    }
    // Where one order of many fails the event is to come again.
    w.noted.fails.store(true, Ordering::SeqCst);
    let later = w.accept(&set("credential-change", aliases(200), json!({}))).await;
    assert!(matches!(later, Err(Refused::Later(_))), "{later:?}");
    assert!(w.noted.selectors.lock().unwrap().is_empty());
    let events = w.transmitter.status().events;
    assert_eq!((events["revoked"], events["refused"], events["later"]), (3, 2, 1));
}

#[tokio::test]
async fn a_subject_whom_no_order_may_name_is_refused_and_nothing_of_its_event_is_done() {
    let w = world(|_| {});
    let good = || json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"});
    for (count, odd) in
        (1..).zip(["a\u{1b}[2J", "\u{7f}", "a\u{85}b", "a\u{2028}b", "\u{202e}b", "", &"x".repeat(1025)])
    {
        let bad = json!({"format": "iss_sub", "iss": ISSUER, "sub": odd});
        let subject = json!({"format": "aliases", "identifiers": [good(), bad]});
        // An event beside it that would be good is of the same SET.
        let mut claims = set("session-revoked", subject, json!({}));
        claims["events"][format!("{CAEP}credential-change")] = json!({});
        let refused = w.accept(&claims).await.unwrap_err();
        assert!(matches!(refused, Refused::Bad { err: "invalid_request", .. }), "{odd:?}: {refused:?}");
        assert!(w.noted.selectors.lock().unwrap().is_empty(), "{odd:?}");
        assert_eq!(w.transmitter.status().events["refused"], count);
        let told = w.noted.refused.lock().unwrap().last().cloned().unwrap_or_default();
        assert!(told.starts_with("idp invalid_request the subject cannot be named"), "{told}");
        assert!(!told.chars().any(char::is_control), "{told:?}");
    }
    assert_eq!(w.ordered("session-revoked", good(), json!({})).await.len(), 1);
}

#[tokio::test]
async fn times_that_are_none_revoke_what_was_issued_until_now_and_no_later() {
    let w = world(|_| {});
    let user = || json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"});
    let now = SystemClock.wall().seconds();
    for time in [json!(9_999_999_999_999_i64), json!(1e300), json!(now + 500)] {
        let ordered = w.ordered("session-revoked", user(), json!({"event_timestamp": time})).await;
        let before: i64 = ordered[0].rsplit_once('=').unwrap().1.parse().unwrap();
        assert!((now..=now + 60).contains(&before), "{time}: {ordered:?}");
    }
    let mut ahead = set("session-revoked", user(), json!({}));
    ahead["iat"] = json!(now + 100_000);
    w.noted.selectors.lock().unwrap().clear();
    w.accept(&ahead).await.unwrap();
    let before: i64 = w.noted.selectors.lock().unwrap()[0].rsplit_once('=').unwrap().1.parse().unwrap();
    assert!((now..=now + 60).contains(&before));
    for time in [json!("x"), json!(-5), json!(0), Value::Null] {
        let ordered = w.ordered("session-revoked", user(), json!({"event_timestamp": time})).await;
        assert!(ordered[0].ends_with("issued_before=1615305160"), "{time}: {ordered:?}");
    }
}

#[tokio::test]
async fn only_what_takes_away_revokes_and_the_configuration_may_say_more() {
    let w = world(|s| {
        s.actions = [
            ("caep/device-compliance-change".to_owned(), Action::Subject),
            ("caep/session-revoked".to_owned(), Action::Ignore),
            ("https://own.test/left".to_owned(), Action::Subject),
        ]
        .into();
    });
    let user = || json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"});
    for (event, content, count) in [
        ("credential-change", json!({"change_type": "create"}), 0),
        ("credential-change", json!({"change_type": "delete"}), 1),
        ("device-compliance-change", json!({"current_status": "not-compliant"}), 1),
        ("device-compliance-change", json!({"current_status": "compliant"}), 0),
        ("token-claims-change", json!({}), 0),
        ("session-revoked", json!({}), 0),
        ("https://own.test/left", json!({}), 1),
        ("https://schemas.openid.net/secevent/risc/event-type/account-disabled", json!({}), 1),
        ("https://unknown.test/x", json!({}), 0),
    ] {
        assert_eq!(w.ordered(event, user(), content.clone()).await.len(), count, "{event} {content}");
    }
}

#[tokio::test]
async fn an_event_counts_once_and_again_where_its_order_failed() {
    let w = world(|_| {});
    let event = set("session-revoked", json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"}), json!({}));
    w.noted.fails.store(true, Ordering::SeqCst);
    assert!(matches!(w.accept(&event).await, Err(Refused::Later(_))));
    w.noted.fails.store(false, Ordering::SeqCst);
    for _ in 0..3 {
        assert_eq!(w.accept(&event).await.as_ref().unwrap(), event["jti"].as_str().unwrap());
    }
    assert_eq!(w.noted.selectors.lock().unwrap().len(), 1);
    let events = w.transmitter.status().events;
    assert_eq!((events["later"], events["revoked"], events["repeated"]), (1, 1, 2));
}

/// Another signature.
fn forged(signature: &str) -> String {
    let first = if signature.starts_with('A') { 'B' } else { 'A' };
    format!("{first}{}", &signature[1..])
}

/// Every `iss` in an event token.
fn issuers(value: &Value, out: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            out.extend(members.get("iss").and_then(Value::as_str).map(str::to_owned));
            members.values().for_each(|v| issuers(v, out));
        }
        Value::Array(all) => all.iter().for_each(|v| issuers(v, out)),
        _ => {}
    }
}

#[tokio::test]
async fn what_is_no_event_of_this_transmitter_is_refused_by_its_code() {
    let w = world(|_| {});
    let good =
        || set("session-revoked", json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"}), json!({}));
    let with = |name: &str, value: Value| {
        let mut claims = good();
        claims[name] = value;
        claims
    };
    let without = |name: &str| {
        let mut claims = good();
        claims.as_object_mut().unwrap().remove(name);
        claims
    };
    for (claims, code) in [
        (with("iss", json!("https://other")), "invalid_issuer"),
        (without("iss"), "invalid_issuer"),
        (with("aud", json!("https://other")), "invalid_audience"),
        (with("aud", json!(["x", 1])), "invalid_audience"),
        (without("aud"), "invalid_audience"),
        (without("jti"), "invalid_request"),
        (with("jti", json!(1)), "invalid_request"),
        (with("jti", json!("")), "invalid_request"),
        (without("iat"), "invalid_request"),
        (with("iat", json!("now")), "invalid_request"),
        (without("events"), "invalid_request"),
        (with("events", json!({})), "invalid_request"),
        (with("events", json!([])), "invalid_request"),
        (with("events", json!({"x": 1})), "invalid_request"),
        (with("sub_id", json!("x")), "invalid_request"),
    ] {
        match w.accept(&claims).await {
            Err(Refused::Bad { err, .. }) => assert_eq!(err, code, "{claims}"),
            other => panic!("{claims}: {other:?}"),
        }
    }
    let signed = w.sign(&good());
    let (input, signature) = signed.rsplit_once('.').unwrap();
    let header = |v: Value| w.sign_as(&v, &good());
    let stranger = world(|_| {});
    for (text, code) in [
        (format!("{input}.{}", forged(signature)), "authentication_failed"),
        (stranger.sign(&good()), "authentication_failed"),
        (header(json!({"alg": "none", "typ": "secevent+jwt"})), "invalid_key"),
        (header(json!({"alg": "HS256", "kid": "k", "typ": "secevent+jwt"})), "invalid_key"),
        (header(json!({"alg": "ES256", "kid": "k"})), "invalid_request"),
        (header(json!({"alg": "ES256", "kid": "k", "typ": "JWT"})), "invalid_request"),
        (
            header(json!({"alg": "ES256", "kid": "k", "typ": "secevent+jwt", "crit": ["x"]})),
            "invalid_request",
        ),
        ("x".to_owned(), "invalid_request"),
        (String::new(), "invalid_request"),
        ("a.b.c".to_owned(), "invalid_request"),
        ("x".repeat(100_000), "invalid_request"),
    ] {
        match w.transmitter.accept(&text).await {
            Err(Refused::Bad { err, .. }) => assert_eq!(err, code, "{text:.80}"),
            other => panic!("{text:.80}: {other:?}"),
        }
    }
    // Its key may be on its way, so an unknown one is asked for again, but not without end.
    let unknown = header(json!({"alg": "ES256", "kid": "new", "typ": "secevent+jwt"}));
    for _ in 1..TRIES {
        assert!(matches!(w.transmitter.accept(&unknown).await, Err(Refused::Later(_))));
    }
    assert!(matches!(w.transmitter.accept(&unknown).await, Err(Refused::Bad { err: "invalid_key", .. })));
    assert!(w.noted.selectors.lock().unwrap().is_empty());
    assert!(
        w.transmitter.accept(&format!("{}\n", w.sign(&good()))).await.is_ok(),
        "a line's end is no part of it"
    );
}

#[tokio::test]
async fn a_verification_counts_where_its_state_was_asked_for() {
    let w = world(|_| {});
    let verification = |state: Value| {
        let content = if state.is_null() { json!({}) } else { json!({"state": state}) };
        set(VERIFICATION, json!({"format": "opaque", "id": "stream-1"}), content)
    };
    for wrong in [json!("x"), json!(1)] {
        let refused = w.accept(&verification(wrong)).await;
        assert!(matches!(refused, Err(Refused::Bad { err: "invalid_state", .. })), "{refused:?}");
    }
    assert_eq!(w.transmitter.status().last_verified, None);
    w.transmitter.state.lock().pending.push_back("abc".to_owned());
    w.accept(&verification(json!("abc"))).await.unwrap();
    assert!(w.transmitter.status().last_verified.is_some());
    assert!(w.accept(&verification(json!("abc"))).await.is_err(), "once");
    w.accept(&verification(Value::Null)).await.unwrap();
    let paused = json!({"status": "paused", "reason": "upkeep"});
    w.accept(&set(UPDATED, json!({"format": "opaque", "id": "stream-1"}), paused)).await.unwrap();
    let status = w.transmitter.status();
    assert_eq!(
        (status.stream_status.as_deref(), status.stream_reason.as_deref()),
        (Some("paused"), Some("upkeep"))
    );
}

#[tokio::test]
async fn a_critical_member_that_is_not_understood_discards_the_event() {
    let w = world(|_| {});
    let subject = json!({
        "format": "complex", "user": {"format": "iss_sub", "iss": ISSUER, "sub": "jane"},
        "tenant": {"format": "opaque", "id": "t"},
    });
    w.transmitter.state.lock().critical = vec!["tenant".to_owned()];
    assert!(w.ordered("session-revoked", subject.clone(), json!({})).await.is_empty());
    w.transmitter.state.lock().critical = vec!["user".to_owned()];
    assert_eq!(w.ordered("session-revoked", subject, json!({})).await.len(), 1);
}

/// Every event of the specifications' examples is taken, whatever follows from it.
#[tokio::test]
async fn the_examples_of_the_specifications_are_taken() {
    let root = std::env::var("PORTCULLIS_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into());
    let dir = std::path::Path::new(&root).join("caep");
    let Ok(files) = std::fs::read_dir(&dir) else {
        println!("SKIPPED caep: no vectors at {}", dir.display());
        return;
    };
    let (mut taken, mut revoked) = (0, 0);
    for file in files {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        for block in text.split("~~~").flat_map(|part| part.split("```")) {
            let Some(start) = block.find('{') else { continue };
            let Ok(claims) = serde_json::from_str::<Value>(&block[start..]) else { continue };
            if !claims["events"].is_object() || !claims["jti"].is_string() {
                continue;
            }
            // Each under its own issuer and audience, and for the first time.
            let issuer = claims["iss"].as_str().unwrap().to_owned();
            let audience = match &claims["aud"] {
                Value::Array(all) => all[0].as_str().unwrap().to_owned(),
                one => one.as_str().unwrap_or("none").to_owned(),
            };
            let w = world(|s| {
                s.issuer.clone_from(&issuer);
                s.audience = vec![audience];
                s.token_issuers.clear();
                issuers(&claims, &mut s.token_issuers);
            });
            w.transmitter
                .state
                .lock()
                .pending
                .extend(claims["events"][VERIFICATION]["state"].as_str().map(str::to_owned));
            let accepted = w.accept(&claims).await;
            assert!(accepted.is_ok(), "{accepted:?}: {claims}");
            taken += 1;
            let ordered = !w.noted.selectors.lock().unwrap().is_empty();
            revoked += u32::from(ordered);
            let events = claims["events"].as_object().unwrap();
            if events.contains_key(&format!("{CAEP}session-revoked")) {
                assert!(ordered, "{claims}");
            }
        }
    }
    assert!(taken >= 22 && revoked >= 4, "{taken} taken, {revoked} revoked");
}

#[tokio::test]
async fn an_event_has_a_name_that_outlasts_the_daemon_and_refusals_are_noted() {
    let user = || json!({"format": "iss_sub", "iss": ISSUER, "sub": "jane"});
    let (first, other) =
        (set("session-revoked", user(), json!({})), set("session-revoked", user(), json!({})));
    let mut names = Vec::new();
    for event in [&first, &first, &other] {
        // A transmitter of a daemon that was started anew remembers nothing itself.
        let w = world(|_| {});
        w.accept(event).await.unwrap();
        w.accept(event).await.unwrap();
        let once = w.noted.once.lock().unwrap().clone();
        assert_eq!(once.len(), 1);
        names.push((once[0].key, once[0].request));
        assert!(w.noted.refused.lock().unwrap().is_empty());
        w.accept(&json!({"iss": "https://somebody"})).await.unwrap_err();
        w.transmitter.turned_away();
        w.noted.fails.store(true, Ordering::SeqCst);
        w.accept(&set("session-revoked", user(), json!({}))).await.unwrap_err();
        let refused = w.noted.refused.lock().unwrap().clone();
        assert_eq!(refused.len(), 3, "{refused:?}");
        assert!(
            refused[0].starts_with("idp invalid_") && refused[1].starts_with("idp authentication_failed")
        );
        assert_eq!(refused[2], "idp later the disk is full");
    }
    assert_eq!(names[0], names[1]);
    assert_ne!(names[0], names[2]);
}
