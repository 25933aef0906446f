//! The decision path and its front doors in this process, without a kernel: for what cannot be done to a daemon from
//! outside (a panic, a clock that fails), and for a million requests in little time.

use std::{
    fs,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis::{
    clock::{Clock as _, SharedClock, SystemClock},
    decide::{Decider, DeciderParts, Settings},
    policy::{Active, LoadOptions, PolicySet, load},
    revoke::{Index, Limits, Namer, Order, Plane, PlaneHandle, PlaneSettings, Store},
    serve::{DoorSettings, Doors, Listener},
    telemetry::Metrics,
    token::{
        Binder, BindingSettings, Extraction, FingerprintKey, IssuerSettings, KeySource, Token, TokenRules,
        Verifier,
    },
};
use serde_json::{Value, json};
use tokio::{net::TcpListener, runtime::Runtime, task::JoinHandle};
use tokio_util::sync::CancellationToken;

/// The issuer of [`token`]s.
pub const ISSUER: &str = "https://issuer.test";
/// The decision's path for the data API.
pub const DECISION: &str = "p/decision";
const SECRET: &[u8; 32] = b"0123456789abcdef0123456789abcdef";

/// What differs from one to the other.
pub struct Options {
    /// Rules of package `p`.
    pub rules: String,
    /// The doors' settings.
    pub doors: DoorSettings,
    /// The time.
    pub clock: SharedClock,
    /// Threads that serve.
    pub threads: usize,
    /// Longest time for one evaluation. Patient, where a test is not about that: the machine may be busy.
    pub time_limit: Duration,
    /// A second fingerprint key is in force.
    pub two_keys: bool,
}

impl Options {
    /// The usual ones.
    pub fn new(rules: &str) -> Self {
        let doors = DoorSettings {
            token_path: vec!["token".into()],
            authzen_token: vec!["context".into(), "token".into()],
            max_body: 262_144,
            default_decision: DECISION.into(),
            ext_authz_prefix: "/ext_authz".into(),
            headers: vec!["x-tenant".into()],
            extraction: Extraction {
                schemes: vec!["Bearer".into()],
                key_headers: Vec::new(),
                max_bytes: 4096,
            },
            ..DoorSettings::default()
        };
        Self {
            rules: rules.into(),
            doors,
            clock: Arc::new(SystemClock),
            threads: 2,
            time_limit: Duration::from_mins(1),
            two_keys: false,
        }
    }
}

/// A policy set of one module.
fn set(rules: &str, time_limit: Duration) -> Result<PolicySet> {
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("p.rego"), format!("package p\n\nimport rego.v1\n\n{rules}\n"))?;
    Ok(load(&[dir.path().to_owned()], DECISION, &LoadOptions { time_limit, ..LoadOptions::default() })?)
}

/// Doors that are served.
pub struct Inside {
    /// Decides.
    pub decider: Arc<Decider>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// The policy in force.
    pub policy: Arc<Active>,
    /// Where they are.
    pub address: SocketAddr,
    /// What they run on.
    pub runtime: Runtime,
    plane: PlaneHandle,
    stop: CancellationToken,
    served: Option<JoinHandle<()>>,
    _dir: tempfile::TempDir,
}

impl Inside {
    /// Serves on a port of loopback.
    pub fn start(options: Options) -> Result<Self> {
        let Options { rules, doors, clock, threads, time_limit, two_keys } = options;
        let dir = tempfile::tempdir()?;
        let secret = dir.path().join("hmac.key");
        fs::write(&secret, SECRET)?;
        let key = Arc::new(FingerprintKey::from_bytes(&[7; 16]));
        let index = Arc::new(Index::default());
        let store = Store::open(&dir.path().join("r.redb"), key.id())?;
        let limits = Limits { revoked: 2_000_000, condemned: 1000 };
        let settings = PlaneSettings { limits, keys: key.id().into(), namer: Namer::new(key.scan_key()) };
        let (plane, _) =
            Plane::new(store, None, Arc::clone(&index), Arc::clone(&clock), settings)?.start()?;
        let issuer = IssuerSettings {
            issuer: ISSUER.into(),
            audience: Vec::new(),
            algorithms: vec!["HS256".into()],
            keys: KeySource::HmacFile { path: secret, kid: None },
            rules: TokenRules::default(),
        };
        let (policy, metrics) =
            (Arc::new(Active::new(set(&rules, time_limit)?, 1)), Arc::new(Metrics::new()?));
        let parts = DeciderParts {
            verifier: Arc::new(Verifier::new(vec![issuer], Duration::from_secs(30))?),
            binder: Binder::new(BindingSettings::default(), Arc::clone(&key)),
            key,
            other_key: two_keys.then(|| Arc::new(FingerprintKey::from_bytes(&[8; 16]))),
            policy: Arc::clone(&policy),
            index,
            plane: plane.clone(),
            clock,
            metrics: Arc::clone(&metrics),
            recorder: None,
            outside: None,
            usage: None,
            geo: None,
        };
        let settings = Settings {
            cache_entries: 100_000,
            limit_entries: 1000,
            default_ttl: Duration::ZERO,
            deny_ttl: Duration::ZERO,
            max_ttl: Duration::from_mins(5),
            leeway: Duration::from_secs(30),
        };
        let decider = Arc::new(Decider::new(parts, settings));
        decider.set_ready(true);
        let doors = Doors {
            decider: Arc::clone(&decider),
            metrics: Arc::clone(&metrics),
            settings: doors,
            documents: None,
            tracer: None,
        };
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(threads).enable_all().build()?;
        let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0"))?;
        let (address, stop) = (listener.local_addr()?, CancellationToken::new());
        let served = runtime.spawn(Arc::new(doors).serve(Listener::Tcp(listener), stop.clone()));
        Ok(Self { decider, metrics, policy, address, runtime, plane, stop, served: Some(served), _dir: dir })
    }

    /// Revokes a token, and is back when that is acknowledged.
    pub fn revoke(&self, token: &str) -> Result<()> {
        self.runtime.block_on(self.revoked(token))
    }

    /// The same, to be awaited.
    pub async fn revoked(&self, token: &str) -> Result<()> {
        let token = self.decider.fingerprints(&Token::new(token.to_owned()));
        let until = SystemClock.wall().plus(Duration::from_hours(1));
        let (reason, actor, source) = ("test".into(), "test".into(), "admin".into());
        let order = Order { token, until, reason, actor, ticket: String::new(), source, parent: None };
        self.plane.revoke(order).await.map(drop).context("not revoked")
    }

    /// What all six doors say.
    pub fn ask(&self, path: &str, token: &str) -> Result<[String; 6]> {
        super::six::ask_from(self.address, DECISION, path, token)
    }

    /// The same, with something done before each.
    pub fn ask_after(&self, path: &str, token: &str, before: impl Fn()) -> Result<[String; 6]> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(super::six::ask_after(self.address, DECISION, path, token, before))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        self.stop.cancel();
        if let Some(served) = self.served.take() {
            // Connections of the test's own may still be open: they are not waited for.
            served.abort();
        }
        self.runtime.block_on(self.plane.stop());
    }
}

/// A good token for a day: thorough tests take long.
pub fn token(jti: &str) -> String {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |d| d.as_secs());
    signed(
        &json!({"alg": "HS256"}),
        &json!({"iss": ISSUER, "sub": "u", "jti": jti, "iat": now, "exp": now + 86_400}),
    )
}

/// A token of these parts, with the issuer's signature.
pub fn signed(header: &Value, claims: &Value) -> String {
    let b64 = |text: &[u8]| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", b64(header.to_string().as_bytes()), b64(claims.to_string().as_bytes()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, SECRET), input.as_bytes());
    format!("{input}.{}", b64(tag.as_ref()))
}
