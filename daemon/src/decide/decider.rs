//! The steps of a decision.

use std::{
    collections::HashSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::{ArcSwap, Guard};
use bytes::Bytes;
use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde_json::Value;

use super::{
    Allowance, DecisionId, Permit, Refusal, Request, Ruling,
    attributes::Attributes,
    cache::{self, Found, Hit, Identities, Verdict, Verdicts},
    flights::{Flight, Flights},
    input::request_input,
    known::Known,
    limits::{Asked, Limiter, Rate},
};
use crate::{
    clock::{SharedClock, WallTime},
    geo::Geo,
    outside::Outside,
    policy::{Active, Block, Decision, Grant, Input, Limit, Loaded, PolicyError, asking},
    record::{Asker, Decided, Recorder},
    revoke::{Fingerprints, Index, KeyIds, Named, PlaneHandle},
    telemetry::Metrics,
    token::{Binder, FingerprintKey, Presented, Token, Verifier},
    usage::Book,
};

/// Separates keys of rate limits.
const LIMIT_DOMAIN: u64 = 0x6c69_6d69_746b_6579;

/// How decisions are kept.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Verdicts kept.
    pub cache_entries: u64,
    /// Lifetime of a verdict whose policy gives none.
    pub default_ttl: Duration,
    /// The same of one that denies.
    pub deny_ttl: Duration,
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
    pub verifier: Arc<Verifier>,
    /// Judges proofs of whose a token is.
    pub binder: Binder,
    /// Names tokens.
    pub key: Arc<FingerprintKey>,
    /// Names them too, while the key is being changed.
    pub other_key: Option<Arc<FingerprintKey>>,
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
    /// Where they are recorded, if they are.
    pub recorder: Option<Arc<Recorder>>,
    /// Asks servers for policies, if they may.
    pub outside: Option<Arc<Outside>>,
    /// Where uses of tokens are noted, if they are.
    pub usage: Option<Arc<Book>>,
    /// Knows where addresses are, if anybody does.
    pub geo: Option<Arc<Geo>>,
}

/// Decides requests; shared by all front doors.
pub struct Decider {
    pub(super) parts: DeciderParts,
    pub(super) settings: Settings,
    verdicts: Verdicts,
    pub(super) identities: Identities,
    pub(super) flights: Flights,
    limiter: Limiter,
    ready: AtomicBool,
    overloaded: AtomicBool,
    /// See [`Decider::shape`].
    pub(super) shape: AtomicU64,
    /// See [`Decider::attributes`].
    attributes: ArcSwap<Attributes>,
    /// Tokens that are being condemned because a selector matches them.
    pub(super) following: Following,
    /// Second of the last line about a policy that failed.
    last_log: AtomicI64,
}

/// Tokens that something is being done about.
pub(super) type Following = Arc<Mutex<HashSet<DenyFingerprint>>>;

impl Decider {
    /// A decider that is not ready: it denies until [`Self::set_ready`].
    pub fn new(parts: DeciderParts, settings: Settings) -> Self {
        let entries = settings.cache_entries;
        let (verdicts, identities) = (cache::verdicts(entries), cache::identities(entries));
        let (ready, overloaded) = (AtomicBool::new(false), AtomicBool::new(false));
        let attributes = ArcSwap::from_pointee(Attributes::of(&parts.policy.current()));
        let (shape, last_log) = (AtomicU64::new(0), AtomicI64::new(0));
        let limiter = Limiter::new(settings.limit_entries);
        Self {
            parts,
            settings,
            verdicts,
            identities,
            flights: Flights::default(),
            limiter,
            ready,
            overloaded,
            shape,
            attributes,
            following: Following::default(),
            last_log,
        }
    }

    /// Says whether decisions can be made.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Release);
    }

    /// Whether decisions can be made.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    /// Says whether there is more to decide than can be in time: then cached verdicts alone are given.
    pub fn set_overloaded(&self, overloaded: bool) {
        self.overloaded.store(overloaded, Ordering::Relaxed);
        self.parts.metrics.overloaded(overloaded);
    }

    /// Whether what is not in the cache is refused.
    pub(super) fn is_overloaded(&self) -> bool {
        self.overloaded.load(Ordering::Relaxed)
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

    /// Those in force, by their ids.
    pub fn key_ids(&self) -> KeyIds {
        KeyIds { own: self.parts.key.id(), other: self.parts.other_key.as_ref().map(|k| k.id()) }
    }

    /// A token's names under the keys in force.
    pub fn fingerprints(&self, token: &Token) -> Fingerprints {
        let named = |k: &Arc<FingerprintKey>| Named { fingerprint: k.deny(token), key_id: k.id() };
        Fingerprints { first: named(&self.parts.key), other: self.parts.other_key.as_ref().map(named) }
    }

    /// Decides a request. `credential` is its token, or why none could be read. A hit copies and allocates
    /// nothing.
    pub async fn request(
        &self,
        by: Asker<'_>,
        request: &Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> Ruling {
        let found = if self.is_ready() {
            self.verdict(request, credential).await
        } else {
            Found::refused(self.without_decision(owned(credential), Reason::NotReady), None, false)
        };
        let ruling = match &found.ruled {
            Ok(verdict) => self.charged(verdict),
            Err(refusal) => Ruling::Deny(refusal.clone()),
        };
        let Some(recorder) = &self.parts.recorder else { return ruling };
        let id = self.record_request(recorder, by, request, &ruling, found.about, found.cached);
        ruling.logged(id)
    }

    /// The verdict on a request, from the cache where it holds one that counts.
    pub(super) async fn verdict(
        &self,
        request: &Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> Found {
        let attributes = self.attributes();
        let key = self.request_key(&attributes, false, request, credential);
        // A denial that the kernel was told of for one target is not to be met by the others: it is to be told of each.
        let by_target = || self.request_key(&attributes, true, request, credential);
        let look =
            || self.hit(key).or_else(|| if attributes.names_target() { None } else { self.hit(by_target()) });
        let (hit, flight) = self.look_or_lead(key, look).await;
        match hit {
            Some(Hit::Revoked(v)) => {
                return Found::refused(Refusal::of(Reason::TokenRevoked), v.about.clone(), true);
            }
            Some(Hit::Verdict(verdict)) => {
                if let (Some(cnf), Ok(Some(token))) = (verdict.whose.confirmation(), credential) {
                    let (evidence, now) = (&request.evidence, self.parts.clock.wall().seconds());
                    let proved =
                        self.parts.binder.prove(cnf, token.as_bytes(), evidence, &request.target(), now);
                    if let Err(reason) = proved {
                        return Found::refused(Refusal::of(reason), verdict.about.clone(), true);
                    }
                }
                return Found::verdict(verdict, true);
            }
            None if self.is_overloaded() => {
                let refusal = self.without_decision(owned(credential), Reason::Overloaded);
                return Found::refused(refusal, None, false);
            }
            None => {}
        }
        let mut known = self.know(owned(credential), &request.evidence, &request.target()).await;
        known.place = self.place(&attributes, request);
        let input = |time| request_input(request, &known, time);
        let (verdict, _) = self.evaluate(&known, Some(request), input).await;
        let key = if verdict.by_target && !attributes.names_target() { by_target() } else { key };
        let kept = self.keep(&[key], attributes.generation, verdict);
        drop(flight);
        Found::verdict(kept, false)
    }

    /// What the cache says, once nobody else is deciding the same; or, where it says nothing, the lead in deciding it.
    pub(super) async fn look_or_lead(
        &self,
        key: [u64; 2],
        look: impl Fn() -> Option<Hit>,
    ) -> (Option<Hit>, Option<Flight<'_>>) {
        let (mut hit, mut flight) = (look(), None);
        if hit.is_none() && !self.is_overloaded() {
            flight = self.flights.join(key).await;
            if flight.is_none() {
                hit = look();
            }
        }
        self.parts.metrics.cache(hit.is_some());
        (hit, flight)
    }

    /// A denial for a decision that panicked; may itself panic of the same cause.
    pub fn after_panic(&self, credential: Result<Option<Presented<'_>>, Reason>) -> Refusal {
        self.without_decision(owned(credential), Reason::InternalError)
    }

    /// A denial for want of a decision. A door that fails open must not let a revoked token through with the rest.
    pub(super) fn without_decision(&self, token: Result<Option<Token>, Reason>, reason: Reason) -> Refusal {
        let Some(token) = token.ok().flatten() else { return Refusal::of(reason) };
        let now = self.parts.clock.wall();
        if self.is_revoked(Some(self.fingerprints(&token)), now) {
            return Refusal::of(Reason::TokenRevoked);
        }
        let selectors = &self.parts.index.selectors;
        if selectors.count() == 0 {
            return Refusal::of(reason);
        }
        // What a selector matches is known of tokens that were verified. Of others nobody can tell now.
        Refusal::of(match self.identities.get(&self.parts.key.allow(&token)) {
            Some(live) if selectors.find(&live.names, now).is_none() => reason,
            Some(_) => Reason::TokenRevoked,
            None => Reason::StatusUnavailable,
        })
    }

    /// A verdict's ruling, once its rate limits were asked.
    pub(super) fn charged(&self, verdict: &Verdict) -> Ruling {
        verdict.count();
        match (&verdict.ruling, self.charge(&verdict.limits)) {
            (Ruling::Allow(permit), Ok(allowance)) => {
                self.used(verdict);
                Ruling::Allow(permit.clone().limited(allowance))
            }
            (denied, Ok(_)) => denied.clone(),
            (_, Err(refusal)) => Ruling::Deny(refusal),
        }
    }

    /// Asks rate limits of a verdict: what is left of the tightest, or the refusal.
    pub(super) fn charge(&self, limits: &[Rate]) -> Result<Option<Allowance>, Refusal> {
        if limits.is_empty() {
            return Ok(None);
        }
        match self.limiter.ask(limits, self.parts.clock.boot()) {
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

    /// The databases that say where addresses are.
    pub const fn geo(&self) -> Option<&Arc<Geo>> {
        self.parts.geo.as_ref()
    }

    /// Where a request comes from, for a policy that asks that.
    pub(super) fn place(&self, attributes: &Attributes, request: &Request<'_>) -> Option<Value> {
        let geo = self.parts.geo.as_ref().filter(|_| attributes.geo)?;
        Some(geo.find(request.source))
    }

    /// A verdict of the cache that still counts: its time has not come, its policy set is the active one, and
    /// its token is not revoked, all asked of the same instant.
    pub(super) fn hit(&self, key: [u64; 2]) -> Option<Hit> {
        let verdict = self.verdicts.get(&key)?;
        let now = self.parts.clock.wall();
        if verdict.until <= now || verdict.generation != self.parts.policy.generation() {
            return None;
        }
        if !verdict.whose.is_current(now.seconds()) {
            return None;
        }
        let revoked = self.is_revoked(verdict.whose.token(), now)
            || verdict.whose.names().is_some_and(|n| self.parts.index.selectors.find(n, now).is_some());
        Some(if revoked { Hit::Revoked(verdict) } else { Hit::Verdict(verdict) })
    }

    /// Whether a token is revoked by itself, under either of its names.
    fn is_revoked(&self, token: Option<Fingerprints>, now: WallTime) -> bool {
        token.is_some_and(|names| names.each().any(|f| self.parts.index.is_revoked(f, now)))
    }

    /// Whether a token is revoked, by itself or by a selector. One that a selector matches is condemned in the kernel
    /// from here on.
    pub(super) fn refuses(&self, known: &Known) -> bool {
        let now = self.parts.clock.wall();
        if self.is_revoked(known.token, now) {
            return true;
        }
        let Some(claim) = known.names().and_then(|n| self.parts.index.selectors.find(n, now)) else {
            return false;
        };
        self.follow(claim, known);
        true
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

    /// Asks the policy, and does what its answer orders; `request` is the one that is asked about, where the door
    /// knows it. Beside the verdict stand the policy's own words; none where it is the daemon that denies.
    pub(super) async fn evaluate(
        &self,
        known: &Known,
        request: Option<&Request<'_>>,
        input: impl FnOnce(WallTime) -> Value,
    ) -> (Verdict, Option<Value>) {
        let now = self.parts.clock.wall();
        let loaded = self.parts.policy.current();
        let id = DecisionId::make();
        let about = |value: Option<&Value>, took: Duration| self.about(id, known, &loaded, value, took);
        let revoked = || Refusal::of(Reason::TokenRevoked);
        if self.refuses(known) {
            return (forgotten(known, &loaded, revoked(), about(None, Duration::ZERO)), None);
        }
        let begun = Instant::now();
        let input = Input::from(input(now));
        let answer = self.asked(&loaded, || loaded.set.eval_decision_value(&input)).await;
        let took = begun.elapsed();
        // Asked again: a revocation that was acknowledged meanwhile counts.
        if self.refuses(known) {
            return (forgotten(known, &loaded, revoked(), about(None, took)), None);
        }
        match answer {
            Ok((decision, value)) => {
                let about = about(Some(&value), took);
                (self.decided(known, request, &loaded, decision, now, id, about).await, Some(value))
            }
            Err(e) => {
                self.log_policy_error(&e);
                (forgotten(known, &loaded, Refusal::of(e.reason()), about(None, took)), None)
            }
        }
    }

    /// Evaluates, and has servers asked where the policy wants that and may.
    pub(super) async fn asked<T: Send>(
        &self,
        loaded: &Loaded,
        evaluation: impl Fn() -> Result<T, PolicyError> + Sync,
    ) -> Result<T, PolicyError> {
        match &self.parts.outside {
            // Boxed: few policies ask, and all decisions would carry its state.
            Some(outside) if loaded.set.asks() => {
                Box::pin(outside.evaluate(|answers| asking(answers, &evaluation))).await
            }
            _ => evaluation(),
        }
    }

    /// At most one line a second: whoever can make a policy fail must not be able to fill the disk.
    fn log_policy_error(&self, e: &PolicyError) {
        let now = self.parts.clock.wall().seconds();
        if self.last_log.swap(now, Ordering::Relaxed) != now {
            tracing::warn!(error = %e, "the policy gave no decision: denied (the metric counts each)");
        }
    }

    #[allow(clippy::too_many_arguments, reason = "one caller, which names each")]
    async fn decided(
        &self,
        known: &Known,
        request: Option<&Request<'_>>,
        loaded: &Loaded,
        decision: Decision,
        now: WallTime,
        id: DecisionId,
        about: Option<Arc<Decided>>,
    ) -> Verdict {
        // What changes by itself is kept only where the policy says for how long.
        let volatile = self.attributes().volatile || loaded.generation != self.attributes().generation;
        let default = match decision.allow {
            _ if volatile => Duration::ZERO,
            true => self.settings.default_ttl,
            false => self.settings.deny_ttl,
        };
        let ttl = decision.ttl.unwrap_or(default).min(self.settings.max_ttl);
        let exp = known.status.as_ref().ok().and_then(|i| i.expires_at).map(WallTime::from_seconds);
        let until = exp.map_or(now.plus(ttl), |exp| now.plus(ttl).min(exp));
        let limits = self.limits(known, loaded, &decision, exp, now, id).await;
        let counts = decision.counts;
        let said: Option<Arc<str>> = decision.reason.as_deref().filter(|_| decision.allow).map(Arc::from);
        let ruling = if decision.allow {
            let subject = known.status.as_ref().ok().and_then(|i| i.subject.clone());
            Ruling::Allow(Permit::new(decision.status.unwrap_or(200), subject, decision.reply))
        } else {
            match (decision.block, request) {
                (Block::Token, _) => self.condemn(known, loaded, &decision, exp, now, id).await,
                (Block::Request, Some(r)) => self.deny_request(known, r, loaded, &decision, until, id).await,
                (Block::Request, None) | (Block::None, _) => {}
            }
            // What is wrong with the token says more than that the policy wants a good one.
            let reason = known.status.as_ref().err().copied().unwrap_or(Reason::PolicyDenied);
            let status = decision.status.unwrap_or(reason.status());
            Ruling::Deny(Refusal {
                reason,
                detail: decision.reason.map(Arc::from),
                status,
                reply: decision.reply,
                allowance: None,
                id: None,
            })
        };
        let said = match &ruling {
            Ruling::Deny(refusal) => refusal.detail.clone(),
            Ruling::Allow(_) => said,
        };
        let issuer = known.status.as_ref().ok().map(|i| &*i.issuer);
        let counted = Some(self.parts.metrics.counted(issuer, ruling.reason(), said.as_deref()));
        let (generation, grant) = (loaded.generation, decision.grant);
        let by_target = decision.block == Block::Request && request.is_some();
        let (body, whose) = (Bytes::new(), known.whose());
        Verdict {
            ruling,
            body,
            whose,
            limits,
            until,
            generation,
            grant,
            by_target,
            about,
            is_use: counts,
            counted,
        }
    }

    /// A decision's limits made ready, and what the kernel keeps of them put there.
    async fn limits(
        &self,
        known: &Known,
        loaded: &Loaded,
        decision: &Decision,
        exp: Option<WallTime>,
        now: WallTime,
        id: DecisionId,
    ) -> Arc<[Rate]> {
        let kept = match decision.of_token() {
            Some(limit) if self.limit(known, loaded, limit, exp, now, id).await => Some(limit),
            _ => None,
        };
        if decision.limits.is_empty() {
            // Without an allocation, for most have none.
            return Arc::default();
        }
        let ready = |limit: &Limit| {
            let in_kernel = kept.is_some_and(|kept| std::ptr::eq(kept, limit));
            Rate::new(limit, self.limit_key(known, limit), in_kernel)
        };
        decision.limits.iter().map(ready).collect()
    }

    /// The secret name of a limit's key, with the token where it is part of it.
    fn limit_key(&self, known: &Known, limit: &Limit) -> [u64; 2] {
        let token = known.fingerprint().filter(|_| limit.token).map(|f| f.to_string()).unwrap_or_default();
        self.parts.key.digest_all(LIMIT_DOMAIN, [limit.key.as_bytes(), token.as_bytes()])
    }
}

/// A copy of a token to keep.
fn owned(credential: Result<Option<Presented<'_>>, Reason>) -> Result<Option<Token>, Reason> {
    credential.map(|token| token.map(Presented::to_token))
}

/// A denial that is not kept.
fn forgotten(known: &Known, loaded: &Loaded, refusal: Refusal, about: Option<Arc<Decided>>) -> Verdict {
    Verdict {
        ruling: Ruling::Deny(refusal),
        body: Bytes::new(),
        whose: known.whose(),
        limits: Arc::default(),
        until: WallTime(i64::MIN),
        generation: loaded.generation,
        grant: Grant::Request,
        by_target: false,
        about,
        is_use: false,
        counted: None,
    }
}
