//! The tasks that run beside the sockets: sweeping, reading kernel events, reloading policies.

use std::{
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use portcullis_common::{
    layout::Event,
    reason::{Outcome, Reason},
};
use serde_json::Value;
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::{broadcast, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, bundles, candidate, settings};
use crate::{
    clock::{Clock, SharedClock, WallTime},
    config::{self, Config, KernelMode},
    decide::DecisionId,
    geo::Geo,
    kernel::{EventSource, Kernel, LinkWatch},
    policy::{PolicySet, Watcher, watch},
    serve::EventRecord,
};

/// Keys that may change while the daemon runs.
const RELOADABLE: &[&str] = &[
    "kernel.mode",
    "kernel.enforcement",
    "kernel.interfaces",
    "kernel.missing_interfaces",
    "kernel.namespaces",
    "kernel.gate",
    "kernel.gate_cgroup",
    "kernel.container_veth",
    "kernel.ports",
    "kernel.reaction",
    "kernel.max_head",
    "kernel.proxy_protocol_ports",
    "kernel.opaque",
    "kernel.unknown",
    "kernel.older_connections",
    "kernel.answer_body",
    "kernel.answer_challenge",
    "kernel.denied_body",
    "kernel.limited_body",
    "kernel.retry_after",
    "kernel.attach",
    "kernel.shed",
    "kernel.shed_after",
    "kernel.shed_window",
    "kernel.shed_time",
    "kernel.shed_never",
    "kernel.shed_ipv6_prefix",
    "kernel.shed_attach",
];

/// How often lapsed entries are taken out. The kernel itself does not count them meanwhile.
const SWEEP: Duration = Duration::from_secs(10);

/// How often databases of places are looked at.
const PLACES: Duration = Duration::from_secs(10);

/// Keeps issuers' keys up to date, until `stop`.
pub async fn keys(shared: Arc<Shared>, stop: CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = Arc::clone(&shared.verifier).keep() => {}
    }
}

/// Reads databases of places anew when they are replaced, until `stop`.
pub async fn places(geo: Arc<Geo>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(PLACES);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut failed = String::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let reader = Arc::clone(&geo);
        match tokio::task::spawn_blocking(move || reader.refresh()).await {
            Ok(Ok(changed)) => {
                failed.clear();
                if changed {
                    tracing::info!("geo databases were read anew");
                }
            }
            Ok(Err(e)) if e.to_string() != failed => {
                failed = e.to_string();
                tracing::warn!(error = %e, "the geo databases stay as they were");
            }
            _ => {}
        }
    }
}

/// Takes out what has lapsed, until `stop`.
pub async fn sweep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        loop {
            match shared.plane.sweep().await {
                Ok(true) if !stop.is_cancelled() => {}
                Ok(_) => break,
                Err(e) => {
                    tracing::warn!(error = %e, "lapsed entries were not swept; it is tried again");
                    break;
                }
            }
        }
    }
}

/// Hands kernel events to whoever listens, until `stop`.
pub async fn events(
    shared: Arc<Shared>,
    mut source: EventSource,
    clock: SharedClock,
    sender: broadcast::Sender<EventRecord>,
    stop: CancellationToken,
) {
    loop {
        let mut stopped = Vec::new();
        let read = source.next(|event| {
            shared.events_seen.fetch_add(1, Ordering::Relaxed);
            if event.action == Outcome::GateRefused as u8 {
                stopped.push(event.flow);
            }
            let event = record(&event, &*clock);
            let log = shared.recorder.as_ref().and_then(|r| r.log.as_ref());
            if let Some(log) = log.filter(|_| shared.config.load().decision_log.kernel) {
                log.offer_kernel(serde_json::to_value(&event).unwrap_or_default());
            }
            // Nobody listens: nothing is lost that somebody wanted.
            let _ = sender.send(event);
        });
        tokio::select! {
            () = stop.cancelled() => return,
            done = read => if let Err(e) = done {
                tracing::error!(error = %e, "the kernel's events cannot be read any more; enforcement goes on");
                return;
            }
        }
        if !stopped.is_empty() {
            // Where the plane is busy their connections hang until they time out: nothing gets in.
            let _ = shared.plane.with_kernel(move |k| k.end_flows(stopped)).await;
        }
    }
}

fn record(e: &Event, clock: &dyn Clock) -> EventRecord {
    let age = clock.boot().0.saturating_sub(e.time) / 1_000_000;
    let WallTime(now) = clock.wall();
    EventRecord {
        time: now - i64::try_from(age).unwrap_or(0),
        fingerprint: e.fingerprint.to_string(),
        decision: (e.decision != 0).then(|| DecisionId(e.decision).to_string()),
        source: SocketAddr::new(address(e.flow.source), e.flow.source_port),
        destination: SocketAddr::new(address(e.flow.destination), e.flow.destination_port),
        interface: e.flow.interface,
        reason: Reason::from_number(e.reason).map_or("unknown", Reason::code),
        action: Outcome::from_number(e.action).map_or("unknown", Outcome::code),
    }
}

/// An address from the two words in which the kernel programs keep its bytes.
pub fn address(words: [u64; 2]) -> IpAddr {
    let mut octets = [0; 16];
    octets[..8].copy_from_slice(&words[0].to_ne_bytes());
    octets[8..].copy_from_slice(&words[1].to_ne_bytes());
    Ipv6Addr::from(octets).to_canonical()
}

type Reply = oneshot::Sender<Result<u64, String>>;

/// Loads policies again when asked to or when a file changed, until `stop`. The watcher is to be kept.
pub fn reload(
    shared: &Arc<Shared>,
    mut asked: mpsc::Receiver<Reply>,
    tasks: &TaskTracker,
    stop: CancellationToken,
) -> anyhow::Result<Option<Watcher>> {
    let (changed, mut changes) = mpsc::channel(1);
    let config = shared.config.load_full();
    let mut hangup = signal(SignalKind::hangup())?;
    let dirs: Vec<_> = config.policy.dirs.iter().chain(&config.policy.candidate_dirs).cloned().collect();
    let watched = config.policy.watch && !dirs.is_empty();
    let watcher = watched.then(|| watch(&dirs, changed.clone())).transpose()?;
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        // Keeps the channel open where nothing is watched.
        let _changed = changed;
        candidate::reload(&shared).await;
        loop {
            let (reply, all) = tokio::select! {
                () = stop.cancelled() => return,
                reply = asked.recv() => (reply, true),
                _ = hangup.recv() => (None, true),
                _ = changes.recv() => (None, false),
            };
            let configured = if all { reconfigure(&shared).await } else { Ok(()) };
            let done = match configured {
                Ok(()) => reload_once(&shared).await,
                Err(message) => {
                    tracing::error!(reason = message, "the configuration is refused; the one in force stays");
                    Err(message)
                }
            };
            candidate::reload(&shared).await;
            if let Some(reply) = reply {
                let _ = reply.send(done);
            }
        }
    });
    Ok(watcher)
}

/// Reads the configuration again and puts in force what can be changed while the daemon runs: all of it, or nothing.
async fn reconfigure(shared: &Arc<Shared>) -> Result<(), String> {
    let path = shared.path.clone();
    let read = tokio::task::spawn_blocking(move || config::load(&path)).await;
    let new =
        read.map_err(|_| "the configuration could not be read".to_owned())?.map_err(|e| e.to_string())?;
    let old = shared.config.load_full();
    let changed = changes(&old, &new);
    if changed.is_empty() {
        return Ok(());
    }
    let fixed: Vec<_> = changed.iter().filter(|key| !RELOADABLE.contains(&key.as_str())).cloned().collect();
    if !fixed.is_empty() {
        return Err(format!("{} cannot be changed without a restart; nothing was changed", fixed.join(", ")));
    }
    if (old.kernel.mode == KernelMode::Off) != (new.kernel.mode == KernelMode::Off) {
        return Err(
            "kernel.mode cannot be turned \"off\" or on without a restart; nothing was changed".to_owned()
        );
    }
    let settings = settings::kernel(&new, &shared.keys.0, &shared.keys.1).map_err(|e| e.to_string())?;
    if let Some(settings) = settings {
        let done = shared.plane.with_kernel(move |k| k.reconfigure(settings)).await;
        done.map_err(|e| e.to_string())?.map_err(|e| e.to_string())?;
    }
    shared.config.store(Arc::new(new));
    tracing::info!(changed = changed.join(", "), "the configuration was read again");
    Ok(())
}

/// The keys that differ, by their full names.
fn changes(old: &Config, new: &Config) -> Vec<String> {
    let (old, new) = (serde_json::to_value(old), serde_json::to_value(new));
    let (Ok(Value::Object(old)), Ok(Value::Object(new))) = (old, new) else { return vec!["all".to_owned()] };
    let mut changed = Vec::new();
    for (table, values) in &new {
        let before = &old[table];
        for (key, value) in values.as_object().into_iter().flatten() {
            if before.get(key) != Some(value) {
                changed.push(format!("{table}.{key}"));
            }
        }
    }
    changed
}

/// How often other network namespaces are looked at, for nothing tells of what comes and goes there; and how soon what
/// failed is tried again.
const LOOK: Duration = Duration::from_secs(5);

/// Guards interfaces as they come, until `stop`.
pub async fn interfaces(shared: Arc<Shared>, mut watch: LinkWatch, stop: CancellationToken) {
    loop {
        // Once at first: what came since the start was not told.
        let failed = match shared.plane.with_kernel(Kernel::follow_interfaces).await {
            Ok(Ok(_)) => false,
            Ok(Err(e)) => {
                tracing::error!(error = %e, "an interface is not guarded; it is tried again in a moment");
                true
            }
            Err(_) => return,
        };
        let elsewhere = failed || shared.config.load().kernel.interfaces.iter().any(|i| i.starts_with('/'));
        let look =
            async { if elsewhere { tokio::time::sleep(LOOK).await } else { std::future::pending().await } };
        tokio::select! {
            () = stop.cancelled() => return,
            () = look => {}
            changed = watch.changed() => if let Err(e) = changed {
                tracing::error!(error = %e, "changes of network interfaces are not seen any more: new ones are not guarded");
                return;
            }
        }
    }
}

/// All or nothing: a set that is refused leaves the old one in force.
async fn reload_once(shared: &Arc<Shared>) -> Result<u64, String> {
    let _one_at_a_time = shared.loading.lock().await;
    let reader = Arc::clone(shared);
    let read = tokio::task::spawn_blocking(move || reader.bundles.reread()).await;
    match read.unwrap_or_else(|_| Err("the bundles could not be read".to_owned())) {
        Ok(arrived) => bundles::take(shared, arrived).await,
        Err(message) => Err(refused(shared, message)),
    }
}

pub(super) fn refused(shared: &Shared, message: String) -> String {
    shared.metrics.policy_reload(false);
    tracing::error!(reason = message, "policies refused; the set in force stays");
    message
}

/// Puts a set in force, under its generation. The caller holds `loading`.
pub(super) async fn install(shared: &Shared, set: PolicySet) -> Result<u64, String> {
    if set.stamp() == shared.policy.current().set.stamp() {
        return Ok(shared.policy.generation());
    }
    let activated = shared.plane.activate(set.stamp().to_owned()).await;
    let generation = activated.map_err(|e| refused(shared, e.to_string()))?;
    let (engine, tested) = (set.engine().clone(), set.tested());
    shared.policy.install(set, generation);
    shared.metrics.policy(generation, engine.name(), engine.cause(), !tested.required);
    shared.metrics.policy_reload(true);
    let because = engine.reason().unwrap_or_default();
    tracing::info!(generation, engine = engine.name(), because, tests = tested.tests, "policies loaded");
    Ok(generation)
}
