//! The decision path whole: a real policy, store and revocation thread, without a kernel.

use std::{fs, sync::Arc, time::Duration};

use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use super::{DataQuery, Decider, DeciderParts, Form, Path, Request, Ruling, Settings};
use crate::{
    clock::{Clock as _, SharedClock, SystemClock},
    outside::Outside,
    policy::{Active, LoadOptions, PolicySet, load},
    record::{Asker, Recorder},
    revoke::{Index, Limits, Order, Plane, PlaneHandle, PlaneSettings, Store},
    telemetry::{Door, Metrics},
    token::{
        ApiKeySettings, ApiKeys, Binder, BindingSettings, Evidence, FingerprintKey, IssuerSettings,
        KeySource, NewApiKey, Presented, Token, Verifier,
    },
    usage::Book,
};

pub(super) const BY: Asker<'static> = Asker { door: Door::ForwardAuth, peer: "192.0.2.9" };
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const OBJECTS: &str = "default decision := {\"allow\": false}\ndecision := {\"allow\": true, \"ttl\": 60, \"reason\": \"fine\"} if input.token_status == \"valid\"";
const BOOLEANS: &str = "default decision := false\ndecision if input.token_status == \"valid\"";

pub(super) struct World {
    _dir: tempfile::TempDir,
    pub decider: Decider,
    pub policy: Arc<Active>,
    plane: PlaneHandle,
}

pub(super) fn set(rules: &str) -> PolicySet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\n\nimport rego.v1\n\n{rules}\n")).unwrap();
    load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default()).unwrap()
}

impl World {
    pub fn new(rules: &str) -> Self {
        Self::recorded(rules, None)
    }

    pub fn recorded(rules: &str, recorder: Option<Arc<Recorder>>) -> Self {
        Self::with(set(rules), recorder, None, Arc::new(SystemClock))
    }

    pub fn with(
        set: PolicySet,
        recorder: Option<Arc<Recorder>>,
        usage: Option<Arc<Book>>,
        clock: SharedClock,
    ) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let key = Arc::new(FingerprintKey::from_bytes(&[1; 16]));
        let index = Arc::new(Index::default());
        let store = Store::open(&dir.path().join("r"), key.id()).unwrap();
        let namer = crate::revoke::Namer::new(key.scan_key());
        let limits = Limits { revoked: 100, condemned: 100 };
        let keys = crate::revoke::KeyIds { own: key.id(), other: Some(other_key().id()) };
        let settings = PlaneSettings { limits, keys, namer };
        let plane = Plane::new(store, None, Arc::clone(&index), Arc::clone(&clock), settings).unwrap();
        let (plane, _) = plane.start().unwrap();
        let issuer = hmac_issuer(dir.path());
        let policy = Arc::new(Active::new(set, 1));
        let parts = DeciderParts {
            verifier: Arc::new(Verifier::new(vec![issuer], Duration::ZERO).unwrap()),
            binder: Binder::new(BindingSettings::default(), Arc::clone(&key)),
            key,
            other_key: None,
            policy: Arc::clone(&policy),
            index,
            plane: plane.clone(),
            clock,
            metrics: Arc::new(Metrics::new().unwrap()),
            recorder,
            outside: None,
            usage,
            geo: None,
        };
        let minute = Duration::from_mins(1);
        let settings = Settings {
            cache_entries: 10_000,
            limit_entries: 1000,
            default_ttl: minute,
            deny_ttl: minute,
            max_ttl: minute,
            leeway: Duration::ZERO,
        };
        let decider = Decider::new(parts, settings);
        decider.set_ready(true);
        Self { _dir: dir, decider, policy, plane }
    }

    /// Has a second fingerprint key in force.
    pub fn two_keys(&mut self) {
        self.decider.parts.other_key = Some(Arc::new(other_key()));
    }

    /// Lets policies ask servers.
    pub fn ask_through(&mut self, outside: Outside) {
        self.decider.parts.outside = Some(Arc::new(outside));
    }

    /// Tells policies where addresses are.
    pub fn place_by(&mut self, geo: Arc<crate::geo::Geo>) {
        self.decider.parts.geo = Some(geo);
    }

    pub async fn auth(&self, token: &str) -> Ruling {
        self.auth_of(token, "/v1/orders").await
    }

    pub async fn auth_of(&self, token: &str, path: &str) -> Ruling {
        let request = bare(path);
        self.decider.request(BY, &request, Ok(Some(Presented::new(token)))).await
    }

    pub async fn data(&self, path: &[&str], token: &str) -> Value {
        let body = json!({"input": {"token": token}}).to_string();
        let token_path = ["token".to_owned()];
        let query = DataQuery {
            path,
            form: Form::Envelope,
            body: body.as_bytes(),
            token_path: &token_path,
            strict: false,
            named: true,
            by: BY,
        };
        let answer = self.decider.data(&query).await.unwrap();
        serde_json::from_slice(&answer.body).unwrap()
    }

    pub async fn revoke(&self, token: &str) {
        let token = self.decider.fingerprints(&Token::new(token.to_owned()));
        let until = SystemClock.wall().plus(Duration::from_mins(1));
        let (reason, actor, source) = ("test".into(), "test".into(), "admin".into());
        self.plane
            .revoke(Order { token, until, reason, actor, ticket: String::new(), source, parent: None })
            .await
            .unwrap();
    }
}

/// The issuer of the tests' tokens; its key stands in a directory from now on.
fn hmac_issuer(dir: &std::path::Path) -> IssuerSettings {
    let path = dir.join("hmac.key");
    fs::write(&path, SECRET).unwrap();
    IssuerSettings {
        issuer: "https://issuer".into(),
        audience: Vec::new(),
        algorithms: vec!["HS256".into()],
        keys: KeySource::HmacFile { path, kid: None },
        rules: crate::token::TokenRules::default(),
    }
}

fn other_key() -> FingerprintKey {
    FingerprintKey::from_bytes(&[2; 16])
}

pub(super) fn token(jti: &str) -> String {
    let now = SystemClock.wall().seconds();
    token_of(jti, now, now + 600)
}

pub(super) fn token_of(jti: &str, iat: i64, exp: i64) -> String {
    let claims = json!({"iss": "https://issuer", "aud": "a", "sub": "u", "jti": jti, "iat": iat, "exp": exp});
    let b64 = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", b64(br#"{"alg":"HS256"}"#), b64(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    format!("{input}.{}", b64(tag.as_ref()))
}

#[tokio::test]
async fn a_token_that_is_revoked_under_the_other_key_is_refused_from_the_cache_and_without() {
    let (mut world, t, fresh) = (World::new(OBJECTS), token("1"), token("2"));
    world.two_keys();
    let decision = ["p", "decision"];
    for _ in 0..2 {
        assert!(matches!(world.auth(&t).await, Ruling::Allow(_)));
        assert_eq!(world.data(&decision, &t).await["result"]["allow"], true);
    }
    for text in [&t, &fresh] {
        let names = world.decider.fingerprints(&Token::new(text.clone()));
        let token = crate::revoke::Fingerprints { first: names.other.unwrap(), other: None };
        let until = SystemClock.wall().plus(Duration::from_mins(1));
        let (reason, actor, source) = (String::new(), String::new(), "admin".to_owned());
        world
            .plane
            .revoke(Order { token, until, reason, actor, ticket: String::new(), source, parent: None })
            .await
            .unwrap();
    }
    for text in [&t, &fresh] {
        assert_eq!(world.auth(text).await.reason(), Reason::TokenRevoked);
        assert_eq!(world.data(&decision, text).await["result"]["reason"], "token_revoked");
        let inspected = world.decider.inspect(&Token::new(text.clone())).await;
        assert!(inspected.revoked);
        let refusal = world.decider.after_panic(Ok(Some(Presented::new(text))));
        assert_eq!(refusal.reason, Reason::TokenRevoked, "no door that fails open lets it through");
    }
    let status = world.plane.status();
    assert_eq!((status.under_other_key.claims, status.under_no_key.claims), (2, 0));
}

#[tokio::test]
async fn a_cached_allow_does_not_outlive_a_revocation() {
    let (world, t) = (World::new(OBJECTS), token("1"));
    let decision = ["p", "decision"];
    for _ in 0..2 {
        assert!(matches!(world.auth(&t).await, Ruling::Allow(p) if p.subject() == Some("u")));
        assert_eq!(
            world.data(&decision, &t).await,
            json!({"result": {"allow": true, "ttl": 60, "reason": "fine"}})
        );
        assert_eq!(world.data(&["p", "decision", "allow"], &t).await, json!({"result": true}));
    }
    world.revoke(&t).await;
    assert_eq!(world.auth(&t).await.reason(), Reason::TokenRevoked);
    let denial = json!({"result": {"allow": false, "reason": "token_revoked", "status": 401}});
    assert_eq!(world.data(&decision, &t).await, denial, "from the cache");
    assert_eq!(world.data(&["p", "decision", "allow"], &t).await, json!({"result": false}));
    let fresh = token("2");
    world.revoke(&fresh).await;
    assert_eq!(world.data(&decision, &fresh).await, denial, "without the cache");
}

#[tokio::test]
async fn the_daemons_own_denial_is_a_boolean_where_the_policys_are() {
    let (world, cached, fresh) = (World::new(BOOLEANS), token("1"), token("2"));
    let decision = ["p", "decision"];
    world.revoke(&fresh).await;
    assert_eq!(world.data(&decision, &fresh).await, json!({"result": false}), "before any other decision");
    assert_eq!(world.data(&decision, &cached).await, json!({"result": true}));
    world.revoke(&cached).await;
    assert_eq!(world.data(&decision, &cached).await, json!({"result": false}));
    // The next set answers in another shape, and no verdict of the last one counts.
    world.policy.install(set("decision := {\"allow\": input.token_status == \"valid\"}"), 2);
    assert_eq!(world.data(&decision, &cached).await["result"]["allow"], json!(false));
    assert_eq!(world.data(&decision, &token("3")).await, json!({"result": {"allow": true}}));
}

#[tokio::test]
async fn a_decision_that_says_nothing_of_its_shape_is_undefined_for_a_revoked_token() {
    let (world, t) = (World::new("decision := true if input.token_status == \"valid\""), token("1"));
    world.revoke(&t).await;
    assert_eq!(world.data(&["p", "decision"], &t).await, json!({}));
}

#[tokio::test]
async fn a_verdict_of_another_generation_is_not_used() {
    let (world, t) = (World::new(OBJECTS), token("1"));
    assert!(matches!(world.auth(&t).await, Ruling::Allow(_)));
    world.policy.install(set("decision := {\"allow\": false}"), 2);
    assert_eq!(world.auth(&t).await.reason(), Reason::PolicyDenied);
}

/// A request that says nothing but its path.
pub(super) fn bare(path: &str) -> Request<'_> {
    Request {
        method: "GET",
        path: Path::new(path).unwrap(),
        query: "",
        host: "",
        headers: Vec::new(),
        source: "",
        foreign: None,
        evidence: Evidence::default(),
    }
}

#[tokio::test]
async fn what_is_no_token_has_verdicts_of_its_own() {
    let world = World::new("decision := {\"allow\": input.token_status == \"token_missing\", \"ttl\": 60}");
    let request = bare("/");
    let ask = |credential| world.decider.request(BY, &request, credential);
    assert!(matches!(ask(Ok(None)).await, Ruling::Allow(_)));
    for other in [Ok(Some(Presented::new("none"))), Ok(Some(Presented::new(""))), Err(Reason::TokenTooLong)] {
        assert!(matches!(ask(other).await, Ruling::Deny(_)), "{other:?}");
    }
}

#[tokio::test]
async fn under_too_much_load_cached_verdicts_are_given_and_all_else_is_refused() {
    let (world, cached, fresh, revoked) = (World::new(OBJECTS), token("1"), token("2"), token("3"));
    let decision = ["p", "decision"];
    assert!(matches!(world.auth(&cached).await, Ruling::Allow(_)));
    assert_eq!(world.data(&decision, &cached).await["result"]["allow"], true);
    world.revoke(&revoked).await;
    world.decider.set_overloaded(true);
    assert!(matches!(world.auth(&cached).await, Ruling::Allow(_)));
    assert_eq!(world.data(&decision, &cached).await["result"]["allow"], true);
    assert_eq!(world.auth(&fresh).await, Ruling::deny(Reason::Overloaded));
    // A door that fails open lets an overload pass, but no revoked token.
    assert_eq!(world.auth(&revoked).await, Ruling::deny(Reason::TokenRevoked));
    let refused = world.data(&decision, &fresh).await;
    assert_eq!(
        (&refused["result"]["allow"], &refused["result"]["reason"]),
        (&json!(false), &json!("overloaded"))
    );
    assert_eq!(world.data(&["p"], &fresh).await, json!({}), "no value that a client could take for an allow");
    world.decider.set_overloaded(false);
    assert!(matches!(world.auth(&fresh).await, Ruling::Allow(_)));
}

#[tokio::test]
async fn limits_run_on_every_hit_and_hold_for_their_key() {
    let limited = |token: bool| {
        format!(
            "decision := {{\"allow\": true, \"ttl\": 60, \"limit\": {{\"key\": \"k\", \"token\": {token}, \"rate\": 2, \"per\": 3600}}}}"
        )
    };
    let (world, a, b) = (World::new(&limited(true)), token("1"), token("2"));
    for _ in 0..2 {
        for t in [&a, &b] {
            let ruling = world.auth(t).await;
            assert!(
                matches!(&ruling, Ruling::Allow(p) if p.allowance().is_some_and(|a| a.limit == 2)),
                "{ruling:?}"
            );
        }
    }
    let Ruling::Deny(refusal) = world.auth(&a).await else { panic!("not limited") };
    assert_eq!((refusal.reason, refusal.status), (Reason::RateLimited, 429));
    assert!(refusal.allowance.is_some_and(|a| a.retry_after > 1700 && a.remaining == 0));
    let denial = json!({"result": {"allow": false, "reason": "rate_limited", "status": 429}});
    for _ in 0..2 {
        assert_eq!(world.data(&["p", "decision"], &a).await, denial, "the other door asks the same limit");
        assert_eq!(world.data(&["p", "decision", "allow"], &b).await, json!({"result": false}));
    }
    // Without the token in its key, one limit is for all of them.
    let world = World::new(&limited(false));
    assert!(matches!(world.auth(&a).await, Ruling::Allow(_)));
    assert!(matches!(world.auth(&b).await, Ruling::Allow(_)));
    assert_eq!(world.auth(&token("3")).await.reason(), Reason::RateLimited);
}

#[tokio::test]
async fn a_path_above_the_decision_charges_its_limits_and_holds_it_as_it_is_answered() {
    let rules = "decision := {\"allow\": true, \"ttl\": 60, \"limit\": {\"key\": \"k\", \"rate\": 3, \"per\": 3600}} if {\n\tinput.token_status == \"valid\"\n} else := {\"allow\": false}\n\nbeside := 7";
    let (world, t) = (World::new(rules), token("1"));
    let all = |answer: &Value| answer["result"]["p"]["decision"]["allow"].clone();
    assert_eq!(all(&world.data(&[], &t).await), json!(true));
    assert_eq!(world.data(&["p", "beside"], &t).await, json!({"result": 7}));
    for _ in 0..2 {
        let answer = world.data(&["p"], &t).await;
        assert_eq!(
            (&answer["result"]["decision"]["allow"], &answer["result"]["beside"]),
            (&json!(true), &json!(7))
        );
    }
    let denial = json!({"allow": false, "reason": "rate_limited", "status": 429});
    assert_eq!(world.data(&["p"], &t).await, json!({"result": {"beside": 7, "decision": denial}}));
    assert_eq!(world.auth(&t).await.reason(), Reason::RateLimited);
    assert_eq!(all(&world.data(&[], &t).await), json!(false));
    let forged = world.data(&["p"], &format!("{t}x")).await;
    assert_eq!(forged["result"]["decision"]["allow"], json!(false));
    world.revoke(&t).await;
    for path in [&[][..], &["p"]] {
        assert_eq!(world.data(path, &t).await, json!({}));
    }
}

#[tokio::test]
async fn what_a_token_claims_is_the_same_however_often_it_is_asked_about() {
    let rules = "decision := {\"allow\": true, \"ttl\": 60}\n\nclaims := input.identity.claims";
    let mut world = World::new(rules);
    let dir = tempfile::tempdir().unwrap();
    let settings = ApiKeySettings {
        file: dir.path().join("keys.json"),
        prefix: "pk".into(),
        issuer: "keys".into(),
        status_uri: None,
    };
    let keys = Arc::new(ApiKeys::open(settings, Arc::clone(&world.decider.parts.key)).unwrap());
    let new = NewApiKey {
        subject: "ci".into(),
        client: None,
        scopes: Vec::new(),
        roles: vec!["robot".into()],
        expires: None,
        actor: "uid:0".into(),
    };
    let (_, key) = keys.issue(new, SystemClock.wall().seconds()).unwrap();
    let verifier = Verifier::new(vec![hmac_issuer(dir.path())], Duration::ZERO).unwrap();
    world.decider.parts.verifier = Arc::new(verifier.with_api_keys(Some(keys)));
    for (text, subject) in [(token("1").as_str(), "u"), (key.as_str(), "ci")] {
        let first = world.data(&["p", "claims"], text).await;
        assert_eq!(first["result"]["sub"], subject, "{first}");
        for _ in 0..2 {
            assert_eq!(world.data(&["p", "claims"], text).await, first);
            let explained = world.decider.explain(&bare("/x"), Ok(Some(Token::new(text.to_owned())))).await;
            assert_eq!(explained.identity.unwrap()["claims"], first["result"]);
            assert_eq!(explained.input["identity"]["claims"], first["result"]);
            let inspected = world.decider.inspect(&Token::new(text.to_owned())).await;
            assert_eq!(Value::Object(inspected.claims), first["result"]);
        }
    }
}

#[tokio::test]
async fn a_path_within_the_decision_charges_its_limits_however_deep_it_is() {
    let rules = "decision := {\"allow\": true, \"ttl\": 60, \"limit\": [{\"key\": \"k\", \"rate\": 2, \"per\": 3600}]}";
    let (world, t) = (World::new(rules), token("1"));
    let path = ["p", "decision", "limit", "0", "key"];
    for _ in 0..2 {
        assert_eq!(world.data(&path, &t).await, json!({"result": "k"}));
    }
    assert_eq!(world.data(&path, &t).await, json!({}), "the daemon's denial has no such member");
    assert_eq!(world.auth(&t).await.reason(), Reason::RateLimited);
}

#[tokio::test]
async fn a_path_above_a_decision_without_a_value_has_none_of_it() {
    let (world, t) =
        (World::new("decision := true if input.token_status == \"valid\"\n\nbeside := 7"), token("1"));
    assert_eq!(world.data(&["p"], &t).await, json!({"result": {"beside": 7, "decision": true}}));
    assert_eq!(world.data(&["p"], "forged").await, json!({"result": {"beside": 7}}));
    assert_eq!(world.data(&["q"], &t).await, json!({}));
}

/// What an idle connection holds room for: its next request's future is part of it.
#[tokio::test]
async fn a_requests_future_is_small() {
    let world = World::new(OBJECTS);
    let request = bare("/");
    let size = size_of_val(&world.decider.request(BY, &request, Ok(None)));
    assert!(size <= 4096, "{size} bytes");
    let query = DataQuery {
        path: &[],
        form: Form::Bare,
        body: b"",
        token_path: &[],
        strict: false,
        named: false,
        by: BY,
    };
    let size = size_of_val(&world.decider.data(&query));
    assert!(size <= 6144, "{size} bytes");
}
