//! The steps of a decision.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{ANSWER_DENIED, ANSWER_LIMITED, ANSWER_TOKEN},
    reason::Reason,
};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Allowance, DecisionId, Permit, Refusal, Request, Ruling,
    attributes::{Attributes, Headers},
    cache::{Identities, Verdict, Verdicts, bounded},
    limits::{Asked, Limiter, Rate},
};
use crate::{
    clock::{SharedClock, WallTime},
    policy::{Active, Block, Decision, Input, Limit, Loaded, PolicyError},
    revoke::{Condemnation, Index, PlaneHandle},
    telemetry::Metrics,
    token::{FingerprintKey, Identity, Presented, Token, Verifier},
};

/// Separates keys of the verdict cache from other digests under the fingerprint key.
const REQUEST_DOMAIN: u64 = 0x7265_7175_6573_7431;

/// Separates keys of rate limits.
const LIMIT_DOMAIN: u64 = 0x6c69_6d69_746b_6579;

/// How decisions are kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Verdicts kept.
    pub cache_entries: u64,
    /// Lifetime of a verdict whose policy gives none.
    pub default_ttl: Duration,
    /// Longest lifetime.
    pub max_ttl: Duration,
    /// Keys of rate limits kept.
    pub limit_entries: u64,
    /// Tolerance for clocks that differ, as the verifier has it.
    pub leeway: Duration,
}

/// What a decider is made of.
pub struct DeciderParts {
    /// Verifies tokens.
    pub verifier: Verifier,
    /// Names tokens.
    pub key: Arc<FingerprintKey>,
    /// The policy set in force.
    pub policy: Arc<Active>,
    /// Who is revoked.
    pub index: Arc<Index>,
    /// Takes condemnations.
    pub plane: PlaneHandle,
    /// The time.
    pub clock: SharedClock,
    /// Where decisions are counted.
    pub metrics: Arc<Metrics>,
}

/// Decides requests; shared by all front doors.
pub struct Decider {
    pub(super) parts: DeciderParts,
    pub(super) settings: Settings,
    verdicts: Verdicts,
    identities: Identities,
    limiter: Limiter,
    ready: AtomicBool,
    /// See [`Decider::shape`].
    pub(super) shape: AtomicU64,
    /// See [`Decider::attributes`].
    attributes: ArcSwap<Attributes>,
    /// Second of the last line about a policy that failed.
    last_log: AtomicI64,
}

/// A token as the path has read it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// `valid`, or the reason why it is not.
    pub status: Result<Arc<Identity>, Reason>,
    pub fingerprint: Option<DenyFingerprint>,
}

/// What the cache says of a request.
pub(super) enum Hit {
    /// A verdict that counts.
    Verdict(Arc<Verdict>),
    /// One whose token was revoked since.
    Revoked,
}

/// How a decision came to be, step by step, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The token's deny fingerprint.
    pub fingerprint: Option<String>,
    /// `valid`, or the reason why the token is not.
    pub token_status: String,
    /// What the token says of itself, if it is valid.
    pub identity: Option<Value>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// What the policy was asked about.
    pub input: Value,
    /// What it said, or why it said nothing.
    pub policy: Value,
    /// What the request gets.
    pub allow: bool,
    /// Why.
    pub reason: &'static str,
    /// With which status.
    pub status: u16,
}

impl Decider {
    /// A decider that is not ready: it denies until [`Self::set_ready`].
    pub fn new(parts: DeciderParts, settings: Settings) -> Self {
        let (verdicts, identities) = (bounded(settings.cache_entries), bounded(settings.cache_entries));
        let (ready, shape) = (AtomicBool::new(false), AtomicU64::new(0));
        let attributes = ArcSwap::from_pointee(Attributes::of(&parts.policy.current()));
        let (last_log, limiter) = (AtomicI64::new(0), Limiter::new(settings.limit_entries));
        Self { parts, settings, verdicts, identities, limiter, ready, shape, attributes, last_log }
    }

    /// Says whether decisions can be made.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether decisions can be made.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Verdicts in the cache.
    pub fn cached(&self) -> u64 {
        self.verdicts.entry_count()
    }

    /// Verdicts in the cache, counted now.
    #[cfg(test)]
    pub(super) fn stored(&self) -> u64 {
        self.verdicts.run_pending_tasks();
        self.verdicts.entry_count()
    }

    #[cfg(test)]
    pub(super) fn has_verdicts(&self) -> bool {
        self.stored() > 0
    }

    /// The fingerprint key in use.
    pub fn key(&self) -> &FingerprintKey {
        &self.parts.key
    }

    /// Decides a request. `credential` is its token, or why none could be read. A hit copies and allocates
    /// nothing.
    pub async fn request(
        &self,
        request: &Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> Ruling {
        if !self.is_ready() {
            // A door that fails open must not let a revoked token through with the rest.
            let fingerprint = credential.ok().flatten().map(|t| self.parts.key.deny(&t.to_token()));
            let revoked = self.is_revoked(fingerprint);
            return Ruling::Deny(Refusal::of(if revoked { Reason::TokenRevoked } else { Reason::NotReady }));
        }
        let attributes = self.attributes();
        let key = self.request_key(&attributes, request, credential);
        let hit = self.hit(key);
        self.parts.metrics.cache(hit.is_some());
        match hit {
            Some(Hit::Revoked) => return Ruling::Deny(Refusal::of(Reason::TokenRevoked)),
            Some(Hit::Verdict(verdict)) => return self.charged(&verdict),
            None => {}
        }
        let known = self.know(credential.map(|token| token.map(Presented::to_token)));
        let (verdict, _) = self.evaluate(&known, |time| request_input(request, &known, time)).await;
        self.charged(&self.keep(&[key], attributes.generation, verdict))
    }

    /// A verdict's ruling, once its rate limits were asked.
    fn charged(&self, verdict: &Verdict) -> Ruling {
        match (&verdict.ruling, self.charge(verdict)) {
            (Ruling::Allow(permit), Ok(allowance)) => Ruling::Allow(permit.clone().limited(allowance)),
            (denied, Ok(_)) => denied.clone(),
            (_, Err(refusal)) => Ruling::Deny(refusal),
        }
    }

    /// Asks a verdict's rate limits: what is left of the tightest, or the refusal.
    pub(super) fn charge(&self, verdict: &Verdict) -> Result<Option<Allowance>, Refusal> {
        if verdict.limits.is_empty() {
            return Ok(None);
        }
        match self.limiter.ask(&verdict.limits, self.parts.clock.boot()) {
            Asked::Passes(allowance) => Ok(allowance),
            Asked::Limited(a) => Err(Refusal { allowance: Some(a), ..Refusal::of(Reason::RateLimited) }),
            Asked::Full => {
                self.parts.metrics.limits_full();
                Err(Refusal::of(Reason::RateLimited))
            }
        }
    }

    /// Keys of rate limits in use.
    pub fn limited_keys(&self) -> usize {
        self.limiter.keys()
    }

    /// What the active policy reads of a request. Found once for a generation.
    pub(super) fn attributes(&self) -> Guard<Arc<Attributes>> {
        let known = self.attributes.load();
        if known.generation == self.parts.policy.generation() {
            return known;
        }
        self.attributes.store(Arc::new(Attributes::of(&self.parts.policy.current())));
        self.attributes.load()
    }

    /// A verdict of the cache that still counts: its time has not come, its policy set is the active one, and
    /// its token is not revoked, all asked of the same instant.
    pub(super) fn hit(&self, key: [u64; 2]) -> Option<Hit> {
        let verdict = self.verdicts.get(&key)?;
        let now = self.parts.clock.wall();
        if verdict.until <= now || verdict.generation != self.parts.policy.generation() {
            return None;
        }
        let revoked = verdict.fingerprint.is_some_and(|f| self.parts.index.is_revoked(f, now));
        Some(if revoked { Hit::Revoked } else { Hit::Verdict(verdict) })
    }

    pub(super) fn is_revoked(&self, f: Option<DenyFingerprint>) -> bool {
        f.is_some_and(|f| self.parts.index.is_revoked(f, self.parts.clock.wall()))
    }

    /// Keeps a verdict for its time; one that has none is answered and forgotten. So is one of another set than the
    /// keys were made for.
    pub(super) fn keep(&self, keys: &[[u64; 2]], generation: u64, verdict: Verdict) -> Arc<Verdict> {
        let verdict = Arc::new(verdict);
        if verdict.until > self.parts.clock.wall() && verdict.generation == generation {
            for key in keys {
                self.verdicts.insert(*key, Arc::clone(&verdict));
            }
        }
        verdict
    }

    /// Keeps a verdict of the cache under another key too.
    pub(super) fn also(&self, key: [u64; 2], verdict: &Arc<Verdict>) {
        self.verdicts.insert(key, Arc::clone(verdict));
    }

    /// The attributes that the policy reads and the token, each with its length before it, under the secret key.
    fn request_key(
        &self,
        a: &Attributes,
        r: &Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> [u64; 2] {
        let (kind, credential): (&[u8], _) = match credential {
            Ok(Some(token)) => (b"token", token.as_bytes()),
            Ok(None) => (b"none", b"".as_slice()),
            Err(reason) => (b"fault", reason.code().as_bytes()),
        };
        // Taken apart, so that an attribute that is added later is not forgotten here.
        let Request { method, path, query, host, headers, source } = r;
        let read = [
            (a.method, *method),
            (a.path, path.as_str()),
            (a.query, *query),
            (a.host, *host),
            (a.source, *source),
        ];
        let attributes = read.into_iter().map(|(read, text)| if read { text } else { "" }.as_bytes());
        let headers = headers.iter().filter(|(name, _)| match &a.headers {
            Headers::All => true,
            Headers::Named(names) => names.iter().any(|n| n == name),
        });
        let headers = headers.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        let generation = a.generation.to_le_bytes();
        let fixed = [&generation[..], kind, credential];
        self.parts.key.digest_all(REQUEST_DOMAIN, attributes.chain(fixed).chain(headers))
    }

    /// Fingerprints and verifies a token.
    pub(super) fn know(&self, credential: Result<Option<Token>, Reason>) -> Known {
        let token = match credential {
            Ok(Some(token)) => token,
            Ok(None) => return Known { status: Err(Reason::TokenMissing), fingerprint: None },
            Err(reason) => return Known { status: Err(reason), fingerprint: None },
        };
        let fingerprint = Some(self.parts.key.deny(&token));
        let name = self.parts.key.allow(&token);
        let now = self.parts.clock.wall().seconds();
        if let Some(identity) = self.identities.get(&name)
            && identity.expires_at.is_none_or(|exp| now < exp)
        {
            return Known { status: Ok(identity), fingerprint };
        }
        let status = self.parts.verifier.verify(&token, now).map(Arc::new);
        if let Ok(identity) = &status {
            self.identities.insert(name, Arc::clone(identity));
        }
        Known { status, fingerprint }
    }

    /// Asks the policy, and does what its answer orders. Beside the verdict stand the policy's own words; none
    /// where it is the daemon that denies.
    pub(super) async fn evaluate(
        &self,
        known: &Known,
        input: impl FnOnce(WallTime) -> Value,
    ) -> (Verdict, Option<Value>) {
        let now = self.parts.clock.wall();
        let loaded = self.parts.policy.current();
        if self.is_revoked(known.fingerprint) {
            return (forgotten(known, &loaded, Refusal::of(Reason::TokenRevoked)), None);
        }
        let answer = loaded.set.eval_decision_value(&Input::from(input(now)));
        // Asked again: a revocation that was acknowledged meanwhile counts.
        if self.is_revoked(known.fingerprint) {
            return (forgotten(known, &loaded, Refusal::of(Reason::TokenRevoked)), None);
        }
        match answer {
            Ok((decision, value)) => (self.decided(known, &loaded, decision, now).await, Some(value)),
            Err(e) => {
                self.log_policy_error(&e);
                (forgotten(known, &loaded, Refusal::of(e.reason())), None)
            }
        }
    }

    /// At most one line a second: whoever can make a policy fail must not be able to fill the disk.
    fn log_policy_error(&self, e: &PolicyError) {
        let now = self.parts.clock.wall().seconds();
        if self.last_log.swap(now, Ordering::Relaxed) != now {
            tracing::warn!(error = %e, "the policy gave no decision: denied (the metric counts each)");
        }
    }

    async fn decided(&self, known: &Known, loaded: &Loaded, decision: Decision, now: WallTime) -> Verdict {
        // What changes by itself is kept only where the policy says for how long.
        let volatile = self.attributes().volatile || loaded.generation != self.attributes().generation;
        let default = if volatile { Duration::ZERO } else { self.settings.default_ttl };
        let ttl = decision.ttl.unwrap_or(default).min(self.settings.max_ttl);
        let exp = known.status.as_ref().ok().and_then(|i| i.expires_at).map(WallTime::from_seconds);
        let until = exp.map_or(now.plus(ttl), |exp| now.plus(ttl).min(exp));
        let ruling = if decision.allow {
            let subject = known.status.as_ref().ok().and_then(|i| i.subject.as_deref().map(Arc::from));
            Ruling::Allow(Permit::new(decision.status.unwrap_or(200), subject))
        } else {
            if decision.block == Block::Token {
                self.condemn(known, loaded, &decision, exp, now).await;
            }
            // What is wrong with the token says more than that the policy wants a good one.
            let reason = known.status.as_ref().err().copied().unwrap_or(Reason::PolicyDenied);
            let status = decision.status.unwrap_or(reason.status());
            Ruling::Deny(Refusal { reason, detail: decision.reason.map(Arc::from), status, allowance: None })
        };
        let limits =
            decision.limits.iter().map(|limit| Rate::new(limit, self.limit_key(known, limit))).collect();
        let (fingerprint, generation) = (known.fingerprint, loaded.generation);
        Verdict { ruling, body: Bytes::new(), fingerprint, limits, until, generation }
    }

    /// The secret name of a limit's key, with the token where it is part of it.
    fn limit_key(&self, known: &Known, limit: &Limit) -> [u64; 2] {
        let token = known.fingerprint.filter(|_| limit.token).map(|f| f.to_string()).unwrap_or_default();
        self.parts.key.digest_all(LIMIT_DOMAIN, [limit.key.as_bytes(), token.as_bytes()])
    }

    /// Condemns a verified token until its `exp` and the leeway, or for the decision's ttl where the token
    /// has expired or the policy asks for less. A token that does not verify condemns nothing.
    async fn condemn(
        &self,
        known: &Known,
        loaded: &Loaded,
        decision: &Decision,
        exp: Option<WallTime>,
        now: WallTime,
    ) {
        let (Ok(_), Some(f)) = (&known.status, known.fingerprint) else { return };
        let asked = decision.ttl.map(|ttl| now.plus(ttl));
        let until = match (exp.map(|e| e.plus(self.settings.leeway)).filter(|e| *e > now), asked) {
            (Some(exp), Some(asked)) => exp.min(asked),
            (Some(exp), None) => exp,
            (None, Some(asked)) => asked,
            (None, None) => now.plus(self.settings.max_ttl),
        };
        let id = DecisionId::make();
        let answer = match decision.status {
            Some(401) => ANSWER_TOKEN,
            Some(429) => ANSWER_LIMITED,
            _ => ANSWER_DENIED,
        };
        let c = Condemnation { until, generation: loaded.generation, answer, decision: id.0 };
        let in_force = self.parts.plane.condemn(f, c).await;
        tracing::info!(
            decision = %id,
            token = %f,
            reason = decision.reason.as_deref().unwrap_or_default(),
            in_force,
            "condemned by the policy"
        );
        self.parts.metrics.condemnation(in_force);
    }

    /// Decides a request anew and tells each step. Nothing is cached and nothing is condemned.
    pub fn explain(&self, request: &Request<'_>, credential: Result<Option<Token>, Reason>) -> Explanation {
        let known = self.know(credential);
        let revoked = self.is_revoked(known.fingerprint);
        let input = request_input(request, &known, self.parts.clock.wall());
        let answer = self.parts.policy.current().set.eval_decision_value(&Input::from(input.clone()));
        let (policy, ruling) = match answer {
            Ok((d, value)) if d.allow && !revoked => {
                (value, Ruling::Allow(Permit::new(d.status.unwrap_or(200), None)))
            }
            Ok((d, value)) => {
                let reason = match (&known.status, revoked) {
                    (_, true) => Reason::TokenRevoked,
                    (Err(reason), _) => *reason,
                    (Ok(_), _) => Reason::PolicyDenied,
                };
                let status = if revoked { reason.status() } else { d.status.unwrap_or(reason.status()) };
                let detail = d.reason.map(Arc::from);
                (value, Ruling::Deny(Refusal { reason, detail, status, allowance: None }))
            }
            Err(e) => (json!({"error": e.to_string()}), Ruling::Deny(Refusal::of(e.reason()))),
        };
        Explanation {
            fingerprint: known.fingerprint.map(|f| f.to_string()),
            token_status: status_code(&known).to_owned(),
            identity: known.status.as_ref().ok().and_then(|i| serde_json::to_value(&**i).ok()),
            revoked,
            input,
            policy,
            allow: matches!(ruling, Ruling::Allow(_)),
            reason: ruling.reason().code(),
            status: match &ruling {
                Ruling::Allow(p) => p.status(),
                Ruling::Deny(r) => r.status,
            },
        }
    }
}

/// A denial that is not kept.
fn forgotten(known: &Known, loaded: &Loaded, refusal: Refusal) -> Verdict {
    Verdict {
        ruling: Ruling::Deny(refusal),
        body: Bytes::new(),
        fingerprint: known.fingerprint,
        limits: Arc::default(),
        until: WallTime(i64::MIN),
        generation: loaded.generation,
    }
}

/// `valid`, or the reason's code.
pub(super) fn status_code(known: &Known) -> &'static str {
    known.status.as_ref().map_or_else(|r| r.code(), |_| "valid")
}

/// The input of policies for a request; see `policies/README.md`.
fn request_input(r: &Request<'_>, known: &Known, now: WallTime) -> Value {
    let headers: serde_json::Map<String, Value> =
        r.headers.iter().map(|(k, v)| ((*k).to_owned(), Value::from(*v))).collect();
    let mut input = json!({
        "request": {
            "method": r.method, "path": r.path.as_str(), "segments": r.path.segments(), "query": r.query,
            "host": r.host, "headers": headers, "source": r.source,
        },
    });
    add_token(&mut input, known, now);
    input
}

/// Puts what is known of the token, and the time, into an input, in place of whatever the caller wrote there.
pub(super) fn add_token(input: &mut Value, known: &Known, now: WallTime) {
    let Value::Object(members) = input else { return };
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in a double")]
    members.insert("time".to_owned(), Value::from(now.0 as f64 / 1000.0));
    members.insert("token_status".to_owned(), Value::from(status_code(known)));
    match known.status.as_ref().ok().and_then(|i| serde_json::to_value(&**i).ok()) {
        Some(identity) => members.insert("identity".to_owned(), identity),
        None => members.remove("identity"),
    };
}
