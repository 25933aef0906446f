//! A decision whose verdict is cached, in process: what a front door waits for on most requests.
#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may panic and documents itself")]

use std::{
    fs,
    hint::black_box,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime},
};

use aws_lc_rs::{
    hmac,
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use criterion::{BenchmarkGroup, Criterion, criterion_group, criterion_main, measurement::WallTime};
use portcullis::{
    clock::{SharedClock, SystemClock},
    decide::{DataQuery, Decider, DeciderParts, Form, Path, Request, Ruling, Settings, recorded_input},
    policy::{Active, LoadOptions, load},
    record::{Asker, FileSettings, Labels, Log, LogParts, Recorder, Redaction, Sink, SinkKind, queue},
    revoke::{Index, Limits, Namer, Plane, PlaneSettings, Store},
    telemetry::{Door, Metrics},
    token::{
        Binder, BindingSettings, Evidence, FingerprintKey, IssuerSettings, KeySource, Presented, TokenRules,
        Verifier,
    },
};
use portcullis_common::reason::Reason;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};

const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";
const POLICY: &str = "package p\n\nimport rego.v1\n\ndefault decision := {\"allow\": false}\n\ndecision := {\"allow\": true, \"ttl\": 3600} if input.token_status == \"valid\"\n";

/// A daemon's decision path with a store of its own and no kernel.
struct Bench {
    dir: PathBuf,
    decider: Decider,
    active: Arc<Active>,
    es256: EcdsaKeyPair,
    runtime: Runtime,
}

impl Bench {
    fn new(recorder: Option<Arc<Recorder>>) -> Self {
        Self::with(recorder, 400_000)
    }

    /// With room for so many verdicts and identities.
    fn with(recorder: Option<Arc<Recorder>>, cache_entries: u64) -> Self {
        let dir = std::env::temp_dir().join(format!(
            "portcullis-bench-decide-{}-{}-{cache_entries}",
            std::process::id(),
            recorder.is_some()
        ));
        fs::create_dir_all(dir.join("policies")).unwrap();
        fs::write(dir.join("policies/p.rego"), POLICY).unwrap();
        fs::write(dir.join("hmac.key"), SECRET).unwrap();
        let set = load(&[dir.join("policies")], "p/decision", &LoadOptions::default()).unwrap();
        let key = Arc::new(FingerprintKey::from_bytes(&[1; 16]));
        let (clock, index): (SharedClock, _) = (Arc::new(SystemClock), Arc::new(Index::default()));
        let store = Store::open(&dir.join("r"), key.id()).unwrap();
        let limits = Limits { revoked: 1000, condemned: 1000 };
        let settings = PlaneSettings { limits, keys: key.id().into(), namer: Namer::new(key.scan_key()) };
        let plane = Plane::new(store, None, Arc::clone(&index), Arc::clone(&clock), settings).unwrap();
        let (plane, _) = plane.start().unwrap();
        let issuer = |name: &str, algorithm: &str, keys| IssuerSettings {
            issuer: name.into(),
            audience: vec!["api".into()],
            algorithms: vec![algorithm.into()],
            keys,
            rules: TokenRules::default(),
        };
        let es256 = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let point = es256.public_key().as_ref();
        let jwk = json!({"keys": [{"kty": "EC", "crv": "P-256", "alg": "ES256",
            "x": URL_SAFE_NO_PAD.encode(&point[1..33]), "y": URL_SAFE_NO_PAD.encode(&point[33..])}]});
        fs::write(dir.join("jwks.json"), jwk.to_string()).unwrap();
        let issuers = vec![
            issuer("https://issuer", "HS256", KeySource::HmacFile { path: dir.join("hmac.key"), kid: None }),
            issuer("https://es256", "ES256", KeySource::JwksFile(dir.join("jwks.json"))),
        ];
        let active = Arc::new(Active::new(set, 1));
        let parts = DeciderParts {
            verifier: Arc::new(Verifier::new(issuers, Duration::from_secs(30)).unwrap()),
            binder: Binder::new(BindingSettings::default(), Arc::clone(&key)),
            key,
            other_key: None,
            policy: Arc::clone(&active),
            index,
            plane,
            clock,
            metrics: Arc::new(Metrics::new().unwrap()),
            recorder,
            outside: None,
            usage: None,
            geo: None,
        };
        let settings = Settings {
            limit_entries: 1000,
            cache_entries,
            default_ttl: Duration::ZERO,
            deny_ttl: Duration::ZERO,
            max_ttl: Duration::from_hours(1),
            leeway: Duration::from_secs(30),
        };
        let decider = Decider::new(parts, settings);
        decider.set_ready(true);
        Self { dir, decider, active, es256, runtime: Builder::new_current_thread().build().unwrap() }
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// A token of 300 bytes.
fn token(n: usize) -> String {
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://issuer", "aud": "api", "sub": "user-1", "jti": format!("{n:08}"), "client_id": "web",
        "iat": now, "exp": now + 7200, "scope": "orders:read reports:read",
    });
    let claims = claims.to_string();
    // White space around claims is JSON too.
    let input = format!("{}.{}", b64(r#"{"alg":"HS256","typ":"JWT"}"#), b64(&format!("{claims:<164}")));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    let token = format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag));
    assert_eq!(token.len(), 300);
    token
}

fn request() -> Request<'static> {
    Request {
        method: "GET",
        path: Path::new("/v1/orders/7").unwrap(),
        query: "",
        host: "api.example.org",
        headers: Vec::new(),
        source: "192.0.2.7",
        foreign: None,
        evidence: Evidence::default(),
    }
}

const BY: Asker<'static> = Asker { door: Door::ForwardAuth, peer: "127.0.0.1" };

fn cached(c: &mut Criterion) {
    measured(c, "decide", &Bench::new(None));
}

/// The same with the decision log on: to a file, every decision, redacted.
fn logged(c: &mut Criterion) {
    let (queue, waiting) = queue(16_384, 16 << 20);
    let recorder =
        Arc::new(Recorder { log: Some(queue), sample_allows: 1, fail_open: Vec::new(), shadow: None });
    let bench = Bench::new(Some(Arc::clone(&recorder)));
    let hour = Duration::from_hours(1);
    let file = FileSettings { path: bench.dir.join("d.log"), max_bytes: 64 << 20, max_age: hour, keep: 1 };
    let log = Log::start(LogParts {
        waiting,
        sink: Sink::open(SinkKind::File(file)).unwrap(),
        active: Arc::clone(&bench.active),
        metrics: Arc::new(Metrics::new().unwrap()),
        labels: Labels::default(),
        redaction: Redaction::default(),
        input: Box::new(|event| recorded_input(event, &["token".to_owned()], &[])),
    });
    measured(c, "decide_logged", &bench);
    println!("{} decisions found no room in the log's queue", recorder.log.as_ref().unwrap().dropped());
    log.unwrap().stop();
}

fn measured(c: &mut Criterion, name: &str, bench: &Bench) {
    let (decider, at) = (&bench.decider, ["token".to_owned()]);
    let asked = request();
    let mut group = c.benchmark_group(name);
    for count in [1000, 100_000] {
        let tokens: Vec<String> = (0..count).map(token).collect();
        let bodies: Vec<String> = tokens
            .iter()
            .map(|t| json!({"input": {"token": t, "method": "GET", "path": ["v1", "orders"]}}).to_string())
            .collect();
        let requests = tokens.iter().map(String::as_str).cycle();
        let ask = |token: &str| {
            let ruling = decider.request(BY, &asked, Ok(Some(Presented::new(token))));
            bench.runtime.block_on(ruling)
        };
        measure(&mut group, &format!("cached_request_{count}_tokens"), count, requests, |token| {
            assert!(matches!(ask(token), Ruling::Allow(_)));
        });
        let ask = |body: &str| {
            let query = data_query(body.as_bytes(), &at);
            bench.runtime.block_on(decider.data(&query)).unwrap()
        };
        let requests = bodies.iter().map(String::as_str).cycle();
        measure(&mut group, &format!("cached_data_{count}_tokens"), count, requests, |body| {
            assert_eq!(ask(body).reason, Reason::Allowed);
        });
    }
    group.finish();
}

/// A question at the data API about a body.
fn data_query<'a>(body: &'a [u8], token_path: &'a [String]) -> DataQuery<'a> {
    let (path, form) = (&["p", "decision"], Form::Envelope);
    DataQuery { path, form, body, token_path, named: false, strict: false, by: BY }
}

/// Nothing is kept: the signature and the policy each time.
fn uncached(c: &mut Criterion) {
    let bench = Bench::with(None, 0);
    let mut group = c.benchmark_group("decide_uncached");
    let (asked, at) = (request(), ["token".to_owned()]);
    for (algorithm, token) in [("HS256", token(1)), ("ES256", es256_token(&bench.es256))] {
        let ask = || {
            let ruling = bench.decider.request(BY, &asked, Ok(Some(Presented::new(black_box(&token)))));
            assert!(matches!(bench.runtime.block_on(ruling), Ruling::Allow(_)));
        };
        group.bench_function(format!("request_{algorithm}"), |b| b.iter(ask));
        let body = json!({"input": {"token": token, "method": "GET", "path": ["v1", "orders"]}}).to_string();
        let ask = || {
            let query = data_query(black_box(body.as_bytes()), &at);
            let answer = bench.runtime.block_on(bench.decider.data(&query)).unwrap();
            assert_eq!(answer.reason, Reason::Allowed);
        };
        group.bench_function(format!("data_{algorithm}"), |b| b.iter(ask));
    }
    group.finish();
}

fn es256_token(key: &EcdsaKeyPair) -> String {
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
    let claims = json!({
        "iss": "https://es256", "aud": "api", "sub": "user-1", "jti": "1", "client_id": "web", "iat": now,
        "exp": now + 7200, "scope": "orders:read reports:read",
    });
    let input = format!("{}.{}", b64(r#"{"alg":"ES256","typ":"JWT"}"#), b64(&claims.to_string()));
    let signature = key.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
    format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature))
}

/// Warms the cache, then times one after the other.
fn measure<'a>(
    group: &mut BenchmarkGroup<'_, WallTime>,
    name: &str,
    count: usize,
    mut requests: impl Iterator<Item = &'a str>,
    mut ask: impl FnMut(&str),
) {
    requests.by_ref().take(count).for_each(&mut ask);
    group.bench_function(name, |b| b.iter(|| ask(black_box(requests.next().unwrap()))));
}

criterion_group!(benches, cached, uncached, logged);
criterion_main!(benches);
