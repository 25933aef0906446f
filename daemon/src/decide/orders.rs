//! What a decision orders of the kernel beyond its answer: tokens condemned, requests denied, rates limited, and the
//! verdicts that learn and hold mode ask for.

use std::{sync::Arc, time::Duration};

use portcullis_common::{
    layout::{
        ANSWER_DENIED, ANSWER_LIMITED, ANSWER_MALFORMED, ANSWER_TOKEN, ANSWER_TOO_LONG, Limit, RequestKey,
        RequestValue, VERDICT_DENY, VERDICT_ONCE,
    },
    reason::Reason,
};

use super::{
    Decider, DecisionId, Request, Ruling,
    cache::Verdict,
    known::Known,
    limits::Rate,
    recording::{Ruled, asked_about},
};
use crate::{
    clock::WallTime,
    policy::{self, Decision, Grant, Loaded},
    record::Asker,
    revoke::Condemnation,
    telemetry::Door,
    token::Presented,
};

/// How long a denial lives at least that a held request waits for: the client may take some time to send it again.
const DENIAL: Duration = Duration::from_secs(2);
/// How long an allow may wait for its request that the policy lets be used once.
const ONCE: Duration = Duration::from_secs(5);
/// How long learn mode takes no second look at a request that was allowed.
const LEARNT: Duration = Duration::from_mins(1);
/// How long a token's rate limit stays in the kernel that has no `exp`.
const LIMIT: Duration = Duration::from_hours(24);

/// A request that the kernel asks about.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Its token and its target, as the kernel names them.
    pub key: RequestKey,
    /// It waits for the verdict (hold mode); else it has passed (learn mode).
    pub held: bool,
}

impl Decider {
    /// Decides a request that the kernel asks about, and puts the verdict where it finds it. `request` is `None` where
    /// the head is none that this daemon reads: then it is denied.
    pub async fn settle(
        &self,
        asked: Asked,
        request: Option<&Request<'_>>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> Reason {
        if !self.is_ready() {
            // Not a verdict: it is asked again.
            let _ = self.parts.plane.with_kernel(move |k| k.forget_question(asked.key)).await;
            return Reason::NotReady;
        }
        let mut about = (None, false);
        let verdict = match request {
            None => Err(Reason::RequestMalformed),
            Some(request) => {
                let found = self.verdict(request, credential).await;
                about = (found.about, found.cached);
                found.ruled.map_err(|refusal| refusal.reason)
            }
        };
        let now = self.parts.clock.wall();
        let rest = verdict.as_ref().map_or_else(|_| Vec::new(), |v| limits_of_the_daemon(v));
        let (reason, status, until, generation, grant) = match (&verdict, self.charge(&rest)) {
            (Ok(v), Err(limited)) => (limited.reason, limited.status, now, v.generation, Grant::Request),
            // The next request is asked about too, since only here it is counted, and only here its sender proves whose
            // its token is.
            (Ok(v), Ok(_)) if !rest.is_empty() || v.whose.confirmation().is_some() => {
                (v.ruling.reason(), 200, now, v.generation, Grant::Request)
            }
            (Ok(v), Ok(_)) => {
                let status = match &v.ruling {
                    Ruling::Allow(permit) => permit.status(),
                    // The kernel's answers have no `location`.
                    Ruling::Deny(refusal) if refusal.status < 400 => 403,
                    Ruling::Deny(refusal) => refusal.status,
                };
                (v.ruling.reason(), status, v.until, v.generation, v.grant)
            }
            (Err(reason), _) => {
                (*reason, reason.status(), now, self.parts.policy.generation(), Grant::Request)
            }
        };
        if reason == Reason::Allowed
            && let Ok(verdict) = &verdict
        {
            self.used(verdict);
        }
        if let (Some(recorder), Some(request)) = (&self.parts.recorder, request) {
            let by = Asker { door: Door::Wire, peer: request.source };
            let ruled = Ruled { allow: reason == Reason::Allowed, reason, status, failed_open: false };
            self.record(recorder, by.door, || asked_about(by, request), ruled, about.0, about.1);
        }
        let mut key = asked.key;
        let mut kind = 0;
        let least = if reason == Reason::Allowed {
            // Requests without a token have no token to be granted anything.
            if grant == Grant::Token && key.token != [0; 2] {
                key.request = [0; 2];
            }
            if asked.held && until <= now {
                kind = VERDICT_ONCE;
            }
            if asked.held { ONCE } else { LEARNT }
        } else {
            kind = VERDICT_DENY;
            DENIAL
        };
        let lasts = if kind == 0 && asked.held { until } else { until.max(now.plus(least)) };
        let value = RequestValue {
            until: self.boot(lasts, now),
            decision: DecisionId::make().0,
            generation: low(generation),
            answer: answer_to(status),
            verdict: kind,
            reason: reason as u32,
        };
        // Learn mode has no verdict that is used once: the request has passed.
        let is_bound = verdict.as_ref().is_ok_and(|v| v.whose.confirmation().is_some());
        let is_told = rest.is_empty() && !is_bound || asked.held || kind & VERDICT_DENY != 0;
        let whose = verdict.as_ref().ok().map(|v| v.whose.clone());
        let index = Arc::clone(&self.parts.index);
        let put = self.parts.plane.with_kernel(move |k| {
            // Asked where selectors are taken, too: what was taken since the decision counts.
            let selected = whose
                .as_ref()
                .and_then(|w| w.names())
                .is_some_and(|n| index.selectors.find(n, now).is_some());
            if kind & VERDICT_DENY != 0 || is_told && !selected {
                k.put_verdict(key, value)?;
            }
            k.forget_question(asked.key)
        });
        match put.await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::error!(error = %e, "a verdict did not reach the kernel; it asks again"),
            Err(e) => tracing::warn!(error = %e, "a verdict did not reach the kernel; it asks again"),
        }
        reason
    }

    /// Has the kernel deny requests of a verified token with this method and target, for as long as the verdict counts.
    pub(super) async fn deny_request(
        &self,
        known: &Known,
        request: &Request<'_>,
        loaded: &Loaded,
        decision: &Decision,
        until: WallTime,
        id: DecisionId,
    ) {
        let (Ok(_), Some(token)) = (&known.status, known.fingerprint()) else { return };
        let now = self.parts.clock.wall();
        if until <= now {
            return;
        }
        let mut text = format!("{} {}", request.method, request.path.as_str());
        if !request.query.is_empty() {
            text.push('?');
            text.push_str(request.query);
        }
        let key = RequestKey { token: token.0, request: self.parts.key.request(text.as_bytes()) };
        let value = RequestValue {
            until: self.boot(until, now),
            decision: id.0,
            generation: low(loaded.generation),
            answer: answer_to(decision.status.unwrap_or(403)),
            verdict: VERDICT_DENY,
            reason: Reason::PolicyDenied as u32,
        };
        // Where there is no kernel side the decision path goes on denying it.
        if let Ok(Err(e)) = self.parts.plane.with_kernel(move |k| k.deny_request(key, value)).await {
            tracing::error!(error = %e, "a denied request is denied by the decision path alone");
        }
    }

    /// Has the kernel limit the rate of a verified token's requests. Whether it does.
    pub(super) async fn limit(
        &self,
        known: &Known,
        loaded: &Loaded,
        limit: &policy::Limit,
        exp: Option<WallTime>,
        now: WallTime,
        id: DecisionId,
    ) -> bool {
        let (Ok(_), Some(token)) = (&known.status, known.fingerprint()) else { return false };
        let interval = nanoseconds(limit.interval());
        let value = Limit {
            arrival: 0,
            interval,
            tolerance: interval.saturating_mul(u64::from(limit.burst.max(1) - 1)),
            until: self.boot(exp.unwrap_or(now.plus(LIMIT)), now),
            generation: low(loaded.generation),
            pad: 0,
            decision: id.0,
        };
        // Where there is no kernel side the decision path counts alone.
        match self.parts.plane.with_kernel(move |k| k.limit(token, value)).await {
            Ok(Ok(())) => true,
            Ok(Err(e)) => {
                tracing::error!(error = %e, "a rate limit is kept by the decision path alone");
                false
            }
            Err(_) => false,
        }
    }

    /// Condemns a verified token until its `exp` and the leeway, or for the decision's ttl where the token
    /// has expired or the policy asks for less. A token that does not verify condemns nothing.
    pub(super) async fn condemn(
        &self,
        known: &Known,
        loaded: &Loaded,
        decision: &Decision,
        exp: Option<WallTime>,
        now: WallTime,
        id: DecisionId,
    ) {
        let (Ok(_), Some(f)) = (&known.status, known.fingerprint()) else { return };
        let asked = decision.ttl.map(|ttl| now.plus(ttl));
        let until = match (exp.map(|e| e.plus(self.settings.leeway)).filter(|e| *e > now), asked) {
            (Some(exp), Some(asked)) => exp.min(asked),
            (Some(exp), None) => exp,
            (None, Some(asked)) => asked,
            (None, None) => now.plus(self.settings.max_ttl),
        };
        let answer = answer_to(decision.status.unwrap_or(403));
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

    /// A wall time as the kernel counts.
    fn boot(&self, until: WallTime, now: WallTime) -> u64 {
        let ahead = u64::try_from(until.0.saturating_sub(now.0)).unwrap_or(0);
        self.parts.clock.boot().0.saturating_add(ahead.saturating_mul(1_000_000))
    }
}

/// The limits of a verdict that the kernel does not keep: its questions are counted under these.
fn limits_of_the_daemon(verdict: &Verdict) -> Vec<Rate> {
    verdict.limits.iter().filter(|rate| !rate.in_kernel).copied().collect()
}

/// What the kernel tells a client of a denial with this status.
const fn answer_to(status: u16) -> u32 {
    match status {
        400 => ANSWER_MALFORMED,
        401 => ANSWER_TOKEN,
        413 | 431 => ANSWER_TOO_LONG,
        429 => ANSWER_LIMITED,
        _ => ANSWER_DENIED,
    }
}

/// The half of a generation that entries carry.
#[allow(clippy::cast_possible_truncation, reason = "the low half is meant")]
const fn low(generation: u64) -> u32 {
    generation as u32
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}
