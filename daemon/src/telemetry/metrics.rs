//! Every metric, declared in one place and documented in `docs/metrics.md`.

mod fleet;
mod standards;

use std::{sync::OnceLock, time::Duration};

use super::rules::{Counted, Rules};
use portcullis_common::reason::{Outcome, Reason, Sight};
use prometheus::{
    Encoder as _, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec,
    Opts, Registry, TextEncoder, core::Collector,
};

pub use fleet::Fleet;
pub use standards::StandardsMetrics;

/// How the kernel side stands, as gauges show it.
#[derive(Clone, Debug, Default)]
pub struct KernelSide<'a> {
    /// `kernel.mode`
    pub mode: &'a str,
    /// Guarded interfaces and their hooks.
    pub attached: Vec<(&'a str, &'a str)>,
    /// Interfaces that are waited for.
    pub waiting: Vec<&'a str>,
    /// Interfaces on which floods are shed, and how.
    pub shed: Vec<(&'a str, &'a str)>,
    /// Interfaces on which they cannot be.
    pub shed_failed: Vec<&'a str>,
    /// Instructions the verifier walked for the largest program.
    pub instructions: u32,
    /// Connections that were there before guard.
    pub older: usize,
    /// Connections destroyed so far.
    pub destroyed: u64,
}

/// How an issuer's keys stand.
#[derive(Clone, Copy, Debug)]
pub struct IssuerKeys<'a> {
    /// The issuer.
    pub issuer: &'a str,
    /// Whether its tokens are verified.
    pub ready: bool,
    /// Seconds since its keys were last read.
    pub age: Option<i64>,
    /// Times they were read.
    pub refreshes: u64,
    /// Times they could not be.
    pub failures: u64,
}

/// A front door, as metrics name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/auth`.
    ForwardAuth,
    /// `/v1/data` and what else of OPA's API decides.
    Data,
    /// `portcullis decide`.
    Admin,
    /// The kernel itself, in learn and hold mode.
    Wire,
    /// Envoy's `ext_authz` by gRPC.
    ExtAuthz,
    /// The same by HTTP.
    ExtAuthzHttp,
    /// AuthZEN.
    Authzen,
}

impl Door {
    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ForwardAuth => "forward_auth",
            Self::Data => "data",
            Self::Admin => "admin",
            Self::Wire => "wire",
            Self::ExtAuthz => "ext_authz",
            Self::ExtAuthzHttp => "ext_authz_http",
            Self::Authzen => "authzen",
        }
    }
}

/// All metrics of one daemon.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    decisions: [Vec<IntCounter>; DOORS.len()],
    decision_seconds: [Histogram; DOORS.len()],
    cache_hits: IntCounter,
    cache_misses: IntCounter,
    cache_entries: IntGauge,
    limits_full: IntCounter,
    unreadable: IntCounter,
    limited_keys: IntGauge,
    fail_open: IntCounterVec,
    policy_generation: IntGauge,
    policy_reloads: IntCounterVec,
    policy_engine: IntGaugeVec,
    policy_untested: IntGauge,
    policy_requests: IntCounterVec,
    rules: Rules,
    bundles: IntGaugeVec,
    geo: IntGaugeVec,
    bundle_requests: IntCounterVec,
    revocations: IntCounterVec,
    revocation_seconds: Histogram,
    claims: IntGauge,
    under_keys: [IntGauge; 2],
    entries: IntGaugeVec,
    limits: IntGaugeVec,
    condemnations: IntCounter,
    condemnations_refused: IntCounter,
    kernel: IntCounterVec,
    kernel_places: IntCounterVec,
    kernel_mode: IntGaugeVec,
    kernel_attached: IntGaugeVec,
    shed_attached: IntGaugeVec,
    kernel_instructions: IntGauge,
    older_connections: IntGauge,
    destroyed_connections: IntCounter,
    api_keys: IntGaugeVec,
    introspection: IntCounterVec,
    introspection_paused: IntGauge,
    issuer_ready: IntGaugeVec,
    issuer_age: IntGaugeVec,
    issuer_refreshes: IntCounterVec,
    ready: IntGauge,
    overloaded: IntGauge,
    spans: IntCounterVec,
    shadow_decisions: IntCounterVec,
    shadow_skipped: IntCounter,
    candidate: IntGaugeVec,
    promoted: IntGauge,
    usage_entries: IntGauge,
    usage_missed: IntCounter,
    usage_observed: IntGauge,
    log_lines: IntCounter,
    log_dropped: IntCounterVec,
    /// Those of the fleet, where there is one.
    fleet: OnceLock<fleet::FleetMetrics>,
    /// Those of the standards' endpoints and feeds.
    pub standards: StandardsMetrics,
}

/// From a microsecond to a second.
const SECONDS: &[f64] = &[
    1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1,
    0.25, 1.0,
];

/// In order of their numbers.
const DOORS: [Door; 7] = [
    Door::ForwardAuth,
    Door::Data,
    Door::Admin,
    Door::Wire,
    Door::ExtAuthz,
    Door::ExtAuthzHttp,
    Door::Authzen,
];

struct Maker<'a>(&'a Registry);

impl Maker<'_> {
    fn keep<C: Collector + Clone + 'static>(&self, made: prometheus::Result<C>) -> prometheus::Result<C> {
        let c = made?;
        self.0.register(Box::new(c.clone()))?;
        Ok(c)
    }
    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        self.keep(IntCounter::new(name, help))
    }
    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
        self.keep(IntCounterVec::new(Opts::new(name, help), labels))
    }
    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        self.keep(IntGauge::new(name, help))
    }
    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
        self.keep(IntGaugeVec::new(Opts::new(name, help), labels))
    }
    fn histogram(&self, name: &str, help: &str) -> prometheus::Result<Histogram> {
        self.keep(Histogram::with_opts(HistogramOpts::new(name, help).buckets(SECONDS.to_vec())))
    }
    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> prometheus::Result<HistogramVec> {
        self.keep(HistogramVec::new(HistogramOpts::new(name, help).buckets(SECONDS.to_vec()), labels))
    }
}

impl Metrics {
    /// Makes and registers them all.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let make = Maker(&registry);
        let decisions = make.counters(
            "portcullis_decisions_total",
            "Decisions by front door and reason; every reason but `allowed` is a denial.",
            &["door", "reason"],
        )?;
        let seconds = make.histograms(
            "portcullis_decision_seconds",
            "Time from a request's last byte to its answer's first.",
            &["door"],
        )?;
        let build = make.gauges("portcullis_build_info", "Always 1.", &["version"])?;
        build.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1);
        Ok(Self {
            decisions: DOORS.map(|d| {
                Reason::ALL.iter().map(|r| decisions.with_label_values(&[d.label(), r.code()])).collect()
            }),
            decision_seconds: DOORS.map(|d| seconds.with_label_values(&[d.label()])),
            cache_hits: make.counter("portcullis_verdict_cache_hits_total", "Decisions answered from the verdict cache.")?,
            cache_misses: make.counter("portcullis_verdict_cache_misses_total", "Decisions that were evaluated.")?,
            cache_entries: make.gauge("portcullis_verdict_cache_entries", "Verdicts in the cache.")?,
            unreadable: make.counter("portcullis_unreadable_requests_total", "Connections of the front doors that ended with a request whose head could not be read, or was too large.")?,
            limits_full: make.counter("portcullis_limits_full_total", "Requests denied because there was no room for the key of their rate limit.")?,
            limited_keys: make.gauge("portcullis_limited_keys", "Keys of rate limits in use.")?,
            fail_open: make.counters("portcullis_fail_open_total", "Requests let through because no decision could be made and `serve.fail_open` names the front door.", &["door"])?,
            policy_generation: make.gauge("portcullis_policy_generation", "Number of the active policy set.")?,
            policy_reloads: make.counters("portcullis_policy_reloads_total", "Attempts to load the policies again.", &["result"])?,
            policy_engine: make.gauges("portcullis_policy_engine", "1 for the engine that evaluates the active policy set, with the kind of reason where it is the interpreter.", &["engine", "cause"])?,
            policy_untested: make.gauge("portcullis_policy_untested", "1 where `policy.require_tests` is off: the active set was not tested.")?,
            bundles: make.gauges("portcullis_bundle_activated_timestamp_seconds", "When the bundle in force came into force, with its revision.", &["bundle", "revision"])?,
            geo: make.gauges("portcullis_geo_database_built_timestamp_seconds", "When the database in use was built.", &["file"])?,
            bundle_requests: make.counters("portcullis_bundle_requests_total", "Requests for bundles, by what came of them: taken, unchanged, refused, failed.", &["bundle", "result"])?,
            revocations: make.counters("portcullis_revocations_total", "Revocations acknowledged, by the way they came.", &["source"])?,
            revocation_seconds: make.histogram("portcullis_revocation_seconds", "Time from an order to its acknowledgement: on disk and in force.")?,
            claims: make.gauge("portcullis_revocations", "Revocations in force.")?,
            under_keys: [
                make.gauge("portcullis_revocations_under_other_key", "Revocations in force that stand under the other fingerprint key alone.")?,
                make.gauge("portcullis_revocations_under_no_key", "Revocations of other hosts under a fingerprint key that is not in force here: they refuse nobody.")?,
            ],
            entries: make.gauges("portcullis_deny_map_entries", "Tokens condemned in the kernel, by revocation or by policy.", &["kind"])?,
            limits: make.gauges("portcullis_deny_map_limit", "Room for them.", &["kind"])?,
            condemnations: make.counter("portcullis_condemnations_total", "Tokens condemned by a policy's token-wide denial.")?,
            condemnations_refused: make.counter("portcullis_condemnations_refused_total", "Token-wide denials that did not reach the kernel: the quota was used up or the policy had changed.")?,
            kernel: make.counters("portcullis_kernel_outcomes_total", "What the kernel programs did, by outcome.", &["outcome"])?,
            kernel_places: make.counters("portcullis_kernel_guarded_total", "What was seen at each guarded interface and port, since the programs in force were loaded.", &["interface", "port", "what"])?,
            kernel_mode: make.gauges("portcullis_kernel_mode", "1 for the mode in force: enforce, observe or off.", &["mode"])?,
            kernel_attached: make.gauges("portcullis_kernel_attached", "1 for each interface that is guarded.", &["interface", "hook"])?,
            shed_attached: make.gauges("portcullis_kernel_shed_attached", "1 for each interface on which floods are shed, 0 where they cannot be.", &["interface", "hook"])?,
            kernel_instructions: make.gauge("portcullis_kernel_verified_instructions", "Instructions the verifier walked for the largest program.")?,
            older_connections: make.gauge("portcullis_kernel_older_connections", "Connections at guarded ports that were there before guard.")?,
            destroyed_connections: make.counter("portcullis_kernel_connections_destroyed_total", "Connections destroyed because their token was condemned while they were silent.")?,
            spans: make.counters("portcullis_spans_total", "Spans of decisions: sent to the collector, or dropped.", &["result"])?,
            shadow_decisions: make.counters("portcullis_shadow_decisions_total", "Decisions that the candidate set made beside the live one, by what came of it.", &["result"])?,
            shadow_skipped: make.counter("portcullis_shadow_skipped_total", "Decisions that the candidate set did not make, for want of time or room.")?,
            candidate: make.gauges("portcullis_policy_candidate", "1 for the state of the candidate set.", &["state"])?,
            promoted: make.gauge("portcullis_policy_promoted", "1 while the live set is a promoted one that `policy.dirs` do not hold.")?,
            usage_entries: make.gauge("portcullis_usage_entries", "Tokens and subjects whose use is known.")?,
            usage_missed: make.counter("portcullis_usage_missed_total", "Uses that could not be noted for want of room.")?,
            usage_observed: make.gauge("portcullis_usage_observed_since_seconds", "Since when every use is known (Unix time); 0 where none is noted.")?,
            log_lines: make.counter("portcullis_decision_log_lines_total", "Lines of the decision log that were written or sent.")?,
            log_dropped: make.counters("portcullis_decision_log_dropped_total", "Decisions missing from the decision log: no room in the queue, or lost by the sink.", &["where"])?,
            api_keys: make.gauges("portcullis_api_keys", "API keys that may be used, and those that were disabled or have expired.", &["state"])?,
            rules: Rules::new(
                make.counters("portcullis_policy_decisions_total", "Decisions of the policy by the token's issuer.", &["issuer", "reason"])?,
                make.counters("portcullis_policy_rules_total", "Decisions of the policy by the reason that it gave.", &["decision", "rule"])?,
            ),
            policy_requests: make.counters("portcullis_policy_requests_total", "Calls of `http.send` by what came of them.", &["result"])?,
            introspection: make.counters("portcullis_introspection_total", "Opaque tokens by what the introspection server said, or why it was not asked.", &["result"])?,
            introspection_paused: make.gauge("portcullis_introspection_paused", "1 while the introspection server is left alone because it keeps failing.")?,
            issuer_ready: make.gauges("portcullis_issuer_ready", "1 where an issuer's keys are there and not stale.", &["issuer"])?,
            issuer_age: make.gauges("portcullis_issuer_keys_age_seconds", "Time since an issuer's keys were last read.", &["issuer"])?,
            issuer_refreshes: make.counters("portcullis_issuer_refreshes_total", "Attempts to read an issuer's keys.", &["issuer", "result"])?,
            ready: make.gauge("portcullis_ready", "1 when decisions are made and revocations taken.")?,
            overloaded: make.gauge("portcullis_overloaded", "1 while what is not in the verdict cache is refused for want of time.")?,
            fleet: OnceLock::new(),
            standards: StandardsMetrics::new(&make)?,
            registry,
        })
    }

    /// Whether a gateway, an application or the kernel has asked for a decision since the start.
    pub fn was_asked(&self) -> bool {
        let by_hand = Door::Admin as usize;
        self.decision_seconds.iter().enumerate().any(|(door, h)| door != by_hand && h.get_sample_count() > 0)
    }

    /// Counts a decision.
    pub fn decision(&self, door: Door, reason: Reason, took: Duration) {
        if let Some(c) = self.decisions[door as usize].get(reason as usize) {
            c.inc();
        }
        self.decision_seconds[door as usize].observe(took.as_secs_f64());
    }

    /// Counts a look into the verdict cache.
    pub fn cache(&self, hit: bool) {
        if hit { self.cache_hits.inc() } else { self.cache_misses.inc() }
    }

    /// Notes how many verdicts are kept.
    pub fn cache_entries(&self, n: u64) {
        self.cache_entries.set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// Counts a request whose head could not be read.
    pub fn unreadable(&self) {
        self.unreadable.inc();
    }

    /// Counts a request whose rate limit found no room.
    pub fn limits_full(&self) {
        self.limits_full.inc();
    }

    /// Notes how many keys of rate limits are in use.
    pub fn limited_keys(&self, n: usize) {
        self.limited_keys.set(i64::try_from(n).unwrap_or(i64::MAX));
    }

    /// Counts a request let through without a decision.
    pub fn fail_open(&self, door: Door) {
        self.fail_open.with_label_values(&[door.label()]).inc();
    }

    /// Notes the active policy set.
    pub fn policy(&self, generation: u64, engine: &str, cause: &str, untested: bool) {
        self.policy_generation.set(i64::try_from(generation).unwrap_or(i64::MAX));
        self.policy_engine.reset();
        self.policy_engine.with_label_values(&[engine, cause]).set(1);
        self.policy_untested.set(untested.into());
    }

    /// What is to be counted whenever a verdict is given: of whose token it is, and what the policy said.
    pub fn counted(&self, issuer: Option<&str>, reason: Reason, said: Option<&str>) -> Counted {
        self.rules.counted(issuer, reason, said)
    }

    /// Counts a call of `http.send`.
    pub fn policy_request(&self, result: &str) {
        self.policy_requests.with_label_values(&[result]).inc();
    }

    /// Notes what became of opaque tokens.
    pub fn introspection(&self, counts: &[(&str, u64)], paused: bool) {
        for (result, total) in counts {
            let counter = self.introspection.with_label_values(&[result]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
        self.introspection_paused.set(paused.into());
    }

    /// Notes how many API keys there are.
    pub fn api_keys(&self, good: usize, over: usize) {
        for (state, n) in [("good", good), ("over", over)] {
            self.api_keys.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    /// Notes how an issuer's keys stand.
    pub fn issuer(&self, keys: &IssuerKeys<'_>) {
        self.issuer_ready.with_label_values(&[keys.issuer]).set(keys.ready.into());
        if let Some(age) = keys.age {
            self.issuer_age.with_label_values(&[keys.issuer]).set(age);
        }
        for (result, total) in [("ok", keys.refreshes), ("failed", keys.failures)] {
            let counter = self.issuer_refreshes.with_label_values(&[keys.issuer, result]);
            counter.inc_by(total.saturating_sub(counter.get()));
        }
    }

    /// Counts an attempt to load policies.
    pub fn policy_reload(&self, good: bool) {
        self.policy_reloads.with_label_values(&[if good { "ok" } else { "refused" }]).inc();
    }

    /// Notes which bundles are in force: name, revision, since when (s since 1970).
    pub fn bundles(&self, bundles: &[(String, String, i64)]) {
        self.bundles.reset();
        for (name, revision, since) in bundles {
            self.bundles.with_label_values(&[name, revision]).set(*since);
        }
    }

    /// Counts spans.
    pub fn spans(&self, result: &str, count: u64) {
        if count > 0 {
            self.spans.with_label_values(&[result]).inc_by(count);
        }
    }

    /// Notes when a database of places was built.
    pub fn geo(&self, file: &str, built: u64) {
        self.geo.with_label_values(&[file]).set(i64::try_from(built).unwrap_or(i64::MAX));
    }

    /// Counts a request for a bundle.
    pub fn bundle(&self, name: &str, result: &str) {
        self.bundle_requests.with_label_values(&[name, result]).inc();
    }

    /// Counts an acknowledged revocation.
    pub fn revocation(&self, source: &str, took: Duration) {
        self.revocations.with_label_values(&[source]).inc();
        self.revocation_seconds.observe(took.as_secs_f64());
    }

    /// Counts revocations that were acknowledged together.
    pub fn revocations(&self, source: &str, count: u64, took: Duration) {
        self.revocations.with_label_values(&[source]).inc_by(count);
        self.revocation_seconds.observe(took.as_secs_f64());
    }

    /// Notes what the deny map holds: claims, then entries and room by revocation and by policy.
    pub fn deny_map(&self, claims: usize, revoked: (usize, usize), condemned: (usize, usize)) {
        let number = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.claims.set(number(claims));
        for (kind, (entries, limit)) in [("revoked", revoked), ("condemned", condemned)] {
            self.entries.with_label_values(&[kind]).set(number(entries));
            self.limits.with_label_values(&[kind]).set(number(limit));
        }
    }

    /// Notes how many revocations stand under the other fingerprint key alone, and under none in force.
    pub fn under_keys(&self, counts: [usize; 2]) {
        for (gauge, n) in self.under_keys.iter().zip(counts) {
            gauge.set(i64::try_from(n).unwrap_or(i64::MAX));
        }
    }

    /// Counts a token-wide denial.
    pub fn condemnation(&self, in_force: bool) {
        if in_force { self.condemnations.inc() } else { self.condemnations_refused.inc() }
    }

    /// Takes over a counter of the kernel's, which may have started again from nothing.
    pub fn kernel_outcome(&self, outcome: Outcome, total: u64) {
        follow(&self.kernel.with_label_values(&[outcome.code()]), total);
    }

    /// Takes over a counter of one interface and port, likewise.
    pub fn kernel_place(&self, interface: &str, port: Option<u16>, what: Sight, total: u64) {
        let port = port.map_or_else(|| "other".to_owned(), |p| p.to_string());
        follow(&self.kernel_places.with_label_values(&[interface, port.as_str(), what.code()]), total);
    }

    /// Notes how the kernel side stands.
    pub fn kernel_side(&self, side: &KernelSide<'_>) {
        self.kernel_mode.reset();
        self.kernel_mode.with_label_values(&[side.mode]).set(1);
        self.kernel_attached.reset();
        for (interface, hook) in &side.attached {
            self.kernel_attached.with_label_values(&[*interface, *hook]).set(1);
        }
        for interface in &side.waiting {
            self.kernel_attached.with_label_values(&[*interface, "none"]).set(0);
        }
        self.shed_attached.reset();
        for (interface, hook) in &side.shed {
            self.shed_attached.with_label_values(&[*interface, *hook]).set(1);
        }
        for interface in &side.shed_failed {
            self.shed_attached.with_label_values(&[*interface, "none"]).set(0);
        }
        self.kernel_instructions.set(side.instructions.into());
        self.older_connections.set(i64::try_from(side.older).unwrap_or(i64::MAX));
        let before = self.destroyed_connections.get();
        self.destroyed_connections.inc_by(side.destroyed.saturating_sub(before));
    }

    /// Counts a decision of the candidate set beside the live one.
    pub fn shadow(&self, result: &str) {
        self.shadow_decisions.with_label_values(&[result]).inc();
    }

    /// Notes decisions that the candidate set did not make so far.
    pub fn shadow_skipped(&self, total: u64) {
        follow(&self.shadow_skipped, total);
    }

    /// Notes how the candidate set stands, and whether the live one was promoted.
    pub fn candidate(&self, state: &str, promoted: bool) {
        self.candidate.reset();
        self.candidate.with_label_values(&[state]).set(1);
        self.promoted.set(promoted.into());
    }

    /// Notes how much is known of uses, and since when.
    pub fn usage(&self, entries: u64, missed: u64, observed: u64) {
        self.usage_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        follow(&self.usage_missed, missed);
        self.usage_observed.set(i64::try_from(observed).unwrap_or(i64::MAX));
    }

    /// Counts lines of the decision log: written now, dropped by the queue so far, lost by the sink now.
    pub fn decision_log(&self, written: u64, dropped: u64, lost: u64) {
        self.log_lines.inc_by(written);
        follow(&self.log_dropped.with_label_values(&["queue"]), dropped);
        self.log_dropped.with_label_values(&["sink"]).inc_by(lost);
    }

    /// Notes whether the daemon is ready.
    pub fn ready(&self, ready: bool) {
        self.ready.set(ready.into());
    }

    /// Notes whether requests are refused for want of time.
    pub fn overloaded(&self, overloaded: bool) {
        self.overloaded.set(overloaded.into());
    }

    /// All of them, in Prometheus's text format.
    pub fn render(&self) -> prometheus::Result<String> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut text)?;
        Ok(String::from_utf8_lossy(&text).into_owned())
    }
}

impl Metrics {
    /// Shows how the fleet stands; its metrics are there from the first time on.
    pub fn fleet(&self, f: &Fleet<'_>) {
        if self.fleet.get().is_none()
            && let Ok(made) = fleet::FleetMetrics::new(&Maker(&self.registry))
        {
            // Another thread's are as good.
            let _ = self.fleet.set(made);
        }
        if let Some(metrics) = self.fleet.get() {
            metrics.set(f);
        }
    }
}

/// Brings a counter to a total that may have started again from nothing.
fn follow(counter: &IntCounter, total: u64) {
    let seen = counter.get();
    if total < seen {
        counter.reset();
        counter.inc_by(total);
    } else {
        counter.inc_by(total - seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_metric_is_documented() {
        let m = Metrics::new().unwrap();
        m.revocation("admin", Duration::ZERO);
        m.policy(1, "rvm", "none", false);
        m.policy_reload(true);
        m.bundles(&[("a".to_owned(), "1".to_owned(), 1)]);
        m.bundle("a", "taken");
        m.spans("sent", 1);
        m.fail_open(Door::ExtAuthz);
        m.decision_log(1, 1, 1);
        m.shadow("same");
        m.policy_request("answered");
        m.standards.touch();
        m.fleet(&Fleet { lag: vec![("a", 1)], refused: vec![("version", 1)], ..Fleet::default() });
        m.counted(None, Reason::Allowed, None).note();
        m.candidate("none", false);
        m.deny_map(0, (0, 0), (0, 0));
        m.kernel_outcome(Outcome::Segments, 1);
        m.kernel_place("lo", Some(80), Sight::Packets, 1);
        m.kernel_side(&KernelSide {
            mode: "enforce",
            waiting: vec!["lo"],
            shed_failed: vec!["lo"],
            ..KernelSide::default()
        });
        let page = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/metrics.md"));
        for family in m.registry.gather() {
            assert!(
                page.contains(&format!("`{}`", family.name())),
                "{} is not in docs/metrics.md",
                family.name()
            );
        }
    }

    #[test]
    fn kernel_counters_may_start_again() {
        let m = Metrics::new().unwrap();
        m.kernel_outcome(Outcome::Segments, 5);
        m.kernel_outcome(Outcome::Segments, 7);
        assert!(m.render().unwrap().contains("portcullis_kernel_outcomes_total{outcome=\"segments\"} 7"));
        m.kernel_outcome(Outcome::Segments, 2);
        assert!(m.render().unwrap().contains("portcullis_kernel_outcomes_total{outcome=\"segments\"} 2"));
    }
}
