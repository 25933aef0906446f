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
use tokio::{
    sync::{broadcast, mpsc, oneshot},
    time::MissedTickBehavior,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, load_policies};
use crate::{
    clock::{Clock, SharedClock, WallTime},
    kernel::EventSource,
    policy::{WatchError, Watcher, watch},
    serve::EventRecord,
};

/// How often lapsed entries are taken out. The kernel itself does not count them meanwhile.
const SWEEP: Duration = Duration::from_secs(10);

/// Takes out what has lapsed, until `stop`.
pub async fn sweep(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(SWEEP);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        if let Err(e) = shared.plane.sweep().await {
            tracing::warn!(error = %e, "lapsed entries were not swept; it is tried again");
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
        let read = source.next(|event| {
            shared.events_seen.fetch_add(1, Ordering::Relaxed);
            // Nobody listens: nothing is lost that somebody wanted.
            let _ = sender.send(record(&event, &*clock));
        });
        tokio::select! {
            () = stop.cancelled() => return,
            done = read => if let Err(e) = done {
                tracing::error!(error = %e, "the kernel's events cannot be read any more; enforcement goes on");
                return;
            }
        }
    }
}

fn record(e: &Event, clock: &dyn Clock) -> EventRecord {
    let age = clock.boot().0.saturating_sub(e.time) / 1_000_000;
    let WallTime(now) = clock.wall();
    EventRecord {
        time: now - i64::try_from(age).unwrap_or(0),
        fingerprint: e.fingerprint.to_string(),
        source: SocketAddr::new(address(e.flow.source), e.flow.source_port),
        destination: SocketAddr::new(address(e.flow.destination), e.flow.destination_port),
        interface: e.flow.interface,
        reason: Reason::from_number(e.reason).map_or("unknown", Reason::code),
        action: Outcome::from_number(e.action).map_or("unknown", Outcome::code),
    }
}

/// An address from the two words in which the kernel programs keep its bytes.
fn address(words: [u64; 2]) -> IpAddr {
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
) -> Result<Option<Watcher>, WatchError> {
    let (changed, mut changes) = mpsc::channel(1);
    let watcher =
        shared.config.policy.watch.then(|| watch(&shared.config.policy.dirs, changed.clone())).transpose()?;
    let shared = Arc::clone(shared);
    tasks.spawn(async move {
        // Keeps the channel open where nothing is watched.
        let _changed = changed;
        loop {
            let reply = tokio::select! {
                () = stop.cancelled() => return,
                reply = asked.recv() => reply,
                _ = changes.recv() => None,
            };
            let done = reload_once(&shared).await;
            if let Some(reply) = reply {
                let _ = reply.send(done);
            }
        }
    });
    Ok(watcher)
}

/// All or nothing: a set that is refused leaves the old one in force.
async fn reload_once(shared: &Arc<Shared>) -> Result<u64, String> {
    let config = shared.config.clone();
    let loaded = tokio::task::spawn_blocking(move || load_policies(&config)).await;
    let refused = |message: String| {
        shared.metrics.policy_reload(false);
        tracing::error!(reason = message, "policies refused; the set in force stays");
        message
    };
    let set = match loaded {
        Ok(Ok(set)) => set,
        Ok(Err(e)) => return Err(refused(e.to_string())),
        Err(_) => return Err(refused("the policy loader failed".to_owned())),
    };
    if set.hash() == shared.policy.current().set.hash() {
        return Ok(shared.policy.generation());
    }
    let generation =
        shared.plane.activate(set.hash().to_owned()).await.map_err(|e| refused(e.to_string()))?;
    let engine = set.engine().name();
    shared.policy.install(set, generation);
    shared.metrics.policy(generation, engine);
    shared.metrics.policy_reload(true);
    tracing::info!(generation, engine, "policies loaded");
    Ok(generation)
}
