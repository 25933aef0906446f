//! What `portcullis status` and the gauges show.

use std::sync::{Arc, atomic::Ordering};

use serde_json::{Map, Value, json};

use super::{Shared, candidate, fleet, floods};
use crate::{
    clock::{Clock as _, SystemClock},
    config::{KernelMode, ShedMode, UnknownMode},
    kernel::Guarded,
    policy::{Reads, Shown},
    telemetry,
};

const fn mode(m: KernelMode) -> &'static str {
    match m {
        KernelMode::Enforce => "enforce",
        KernelMode::Observe => "observe",
        KernelMode::Off => "off",
    }
}

/// Whether tokens that were never seen are shown to the decision path: somebody asks at a front door, or the kernel does.
pub fn sees_unseen(shared: &Arc<Shared>) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let shared = Arc::downgrade(shared);
    Arc::new(move || {
        shared.upgrade().is_none_or(|s| {
            let config = s.config.load();
            let shows =
                config.kernel.mode == KernelMode::Enforce && config.kernel.unknown != UnknownMode::Pass;
            shows || s.metrics.was_asked()
        })
    })
}

/// Gives the whole state as JSON.
pub fn reader(shared: &Arc<Shared>) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let shared = Arc::downgrade(shared);
    Arc::new(move || shared.upgrade().map_or(Value::Null, |s| read(&s)))
}

fn read(s: &Shared) -> Value {
    let loaded = s.policy.current();
    let config = s.config.load();
    let plane = s.plane.status();
    let kernel = s.kernel.as_ref().map(|k| {
        let counters: Map<String, Value> = k
            .counters
            .read()
            .map(|c| c.iter().map(|(o, n)| (o.code().to_owned(), n.into())).collect())
            .unwrap_or_default();
        let guarded = k.guarded();
        json!({
            "attached": guarded.attached,
            "waiting": guarded.waiting,
            "misplaced": guarded.misplaced,
            "enforcement": guarded.enforcement,
            "adopted": k.adopted,
            "capacity": k.capacity,
            "verified_instructions": guarded.verified_instructions,
            "ports": guarded.ports,
            "older_connections": guarded.older_connections,
            "older_by_port": guarded.older_by_port,
            "places": k.places(),
            "shed": shed(s, config.kernel.shed, &guarded),
            "destroyed_connections": guarded.destroyed_connections,
            "pin_dir": config.kernel.pin_dir,
            "counters": counters,
            "events_seen": s.events_seen.load(Ordering::Relaxed),
        })
    });
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_seconds": s.started.elapsed().as_secs(),
        "ready": is_ready(s),
        "mode": mode(config.kernel.mode),
        "fail_open": config.serve.fail_open,
        "key_id": format!("{:08x}", s.decider.key().id()),
        "other_key_id": s.decider.key_ids().other.map(|id| format!("{id:08x}")),
        "policy": {
            "generation": loaded.generation,
            "hash": loaded.set.hash(),
            "engine": loaded.set.engine().name(),
            "interpreted_because": loaded.set.engine().reason(),
            "modules": loaded.set.modules(),
            "tests_required": loaded.set.tested().required,
            "tests": loaded.set.tested().tests,
            "tests_skipped": loaded.set.tested().skipped,
            "replayed_on_both_engines": loaded.set.tested().replayed,
            "reads": inputs(loaded.set.reads()),
            "dirs": config.policy.dirs,
            "bundles": s.bundles.show(),
            "origin": candidate::origin(s),
        },
        "candidate": summary(candidate::told(s)),
        "issuers": s.verifier.issuers(SystemClock.wall().seconds()),
        "api_keys": s.api_keys.as_ref().map(|keys| {
            let (good, all) = keys.count(SystemClock.wall().seconds());
            json!({"good": good, "all": all})
        }),
        "introspection": s.introspector.as_ref().map(|i| i.status()),
        "status_lists": s.status_lists.as_ref().map(|l| l.status(SystemClock.wall().seconds())),
        "revocations": plane,
        "fleet": s.fleet.as_ref().map(|f| f.status()),
        "usage": s.usage.as_ref().map(|book| {
            let (entries, missed) = book.counts();
            json!({
                "entries": entries, "capacity": config.usage.max_entries, "missed": missed,
                "observed_since": u64::from(book.observed()) * 3600,
            })
        }),
        "geo": s.decider.geo().map(|geo| {
            geo.built().into_iter().map(|(file, built)| json!({"file": file, "built": built})).collect::<Vec<_>>()
        }),
        "limited_keys": s.decider.limited_keys(),
        "verdict_cache": {"entries": s.decider.cached(), "capacity": config.decide.cache_entries},
        "kernel": kernel,
    })
}

/// Gives what the candidate set would change.
pub fn shadow_reader(shared: &Arc<Shared>) -> Arc<dyn Fn() -> Value + Send + Sync> {
    let shared = Arc::downgrade(shared);
    Arc::new(move || shared.upgrade().map_or(Value::Null, |s| candidate::told(&s)))
}

/// Without each difference: `portcullis policy shadow` has them.
fn summary(mut candidate: Value) -> Value {
    if let Some(shadow) = candidate.get_mut("shadow").and_then(Value::as_object_mut) {
        shadow.remove("differences");
    }
    candidate
}

/// How floods are shed, and whose.
fn shed(s: &Shared, by: ShedMode, guarded: &Guarded) -> Value {
    if by == ShedMode::Off {
        return json!({"by": by});
    }
    json!({
        "by": by,
        "attached": guarded.shed,
        "failed": guarded.shed_failed,
        "senders": floods::senders(s),
    })
}

/// What the decision depends on, in short.
fn inputs(reads: &Reads) -> Value {
    let places: Vec<String> = reads.input.keys().map(|path| Shown(path).to_string()).collect();
    json!({"input": places, "data": reads.data, "volatile": reads.volatile, "unknown": reads.unknown})
}

/// Whether decisions are made and revocations taken. After a failed write to the store decisions go on.
pub fn readiness(shared: &Arc<Shared>) -> Arc<dyn Fn() -> bool + Send + Sync> {
    let shared = Arc::downgrade(shared);
    Arc::new(move || shared.upgrade().is_some_and(|s| is_ready(&s)))
}

fn is_ready(s: &Shared) -> bool {
    s.decider.is_ready() && !s.plane.status().store_failed && !s.fleet.as_ref().is_some_and(|f| f.is_stale())
}

/// Brings the gauges up to date.
pub fn refresher(shared: &Arc<Shared>) -> Arc<dyn Fn() + Send + Sync> {
    let shared = Arc::downgrade(shared);
    Arc::new(move || {
        if let Some(s) = shared.upgrade() {
            refresh(&s);
        }
    })
}

fn refresh(s: &Shared) {
    let plane = s.plane.status();
    s.metrics.deny_map(
        plane.claims,
        (plane.revoked, plane.revoked_limit),
        (plane.condemned, plane.condemned_limit),
    );
    s.metrics.under_keys([plane.under_other_key.claims, plane.under_no_key.claims]);
    for issuer in s.verifier.issuers(SystemClock.wall().seconds()) {
        s.metrics.issuer(&telemetry::IssuerKeys {
            issuer: &issuer.issuer,
            ready: issuer.ready,
            age: issuer.age_seconds,
            refreshes: issuer.refreshes,
            failures: issuer.failures,
        });
    }
    if let Some(i) = s.introspector.as_ref().map(|i| i.status()) {
        let counts = [
            ("active", i.active),
            ("inactive", i.inactive),
            ("failed", i.failed),
            ("unasked", i.unasked),
            ("kept", i.kept),
        ];
        s.metrics.introspection(&counts, i.paused);
    }
    if let Some(lists) = s.status_lists.as_ref().map(|l| l.status(SystemClock.wall().seconds())) {
        s.metrics.standards.status_lists(lists.good, lists.lists, lists.fetched, lists.failed);
    }
    let (good, all) = s.api_keys.as_ref().map(|k| k.count(SystemClock.wall().seconds())).unwrap_or_default();
    s.metrics.api_keys(good, all - good);
    s.metrics.cache_entries(s.decider.cached());
    s.metrics.limited_keys(s.decider.limited_keys());
    candidate::settle(s);
    if let Some(book) = &s.usage {
        let (entries, missed) = book.counts();
        s.metrics.usage(entries, missed, u64::from(book.observed()) * 3600);
    }
    for (file, built) in s.decider.geo().into_iter().flat_map(|geo| geo.built()) {
        s.metrics.geo(&file.display().to_string(), built);
    }
    if let Some(f) = &s.fleet {
        s.metrics.fleet(&fleet::gauges(&f.status()));
    }
    s.metrics.ready(is_ready(s));
    s.metrics.bundles(&s.bundles.gauges());
    let guarded = s.kernel.as_ref().map(super::KernelSide::guarded).unwrap_or_default();
    s.metrics.kernel_side(&telemetry::KernelSide {
        mode: mode(s.config.load().kernel.mode),
        attached: guarded.attached.iter().map(|a| (a.interface.as_str(), a.hook.label())).collect(),
        waiting: guarded.waiting.iter().map(String::as_str).collect(),
        shed: guarded.shed.iter().map(|a| (a.interface.as_str(), a.hook.label())).collect(),
        shed_failed: guarded.shed_failed.keys().map(String::as_str).collect(),
        instructions: guarded.verified_instructions.values().max().copied().unwrap_or(0),
        older: guarded.older_connections,
        destroyed: guarded.destroyed_connections,
    });
    if let Some(Ok(counts)) = s.kernel.as_ref().map(|k| k.counters.read()) {
        for (outcome, total) in counts.iter() {
            s.metrics.kernel_outcome(outcome, total);
        }
    }
    if let Some(places) = s.kernel.as_ref().map(super::KernelSide::places) {
        for place in &places {
            for (sight, total) in place.sights.iter() {
                s.metrics.kernel_place(&place.interface, place.port, sight, total);
            }
        }
    }
}
