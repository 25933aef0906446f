//! Tells people of floods that are shed, and of sources that are likely proxies which nobody configured.

use std::{collections::HashSet, sync::Arc, time::Duration};

use portcullis_common::reason::Outcome;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::Shared;
use crate::{
    clock::{Clock as _, SystemClock},
    kernel::Sender,
};

/// How often the kernel's counters are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// Most senders that are looked at, and shown by `status`.
pub const MOST: usize = 100;
/// Most sources that are remembered as told.
const TOLD: usize = 10_000;

/// Looks whether anybody began to be shed or carried many tokens, until `stop`.
pub async fn watch(shared: Arc<Shared>, stop: CancellationToken) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = None;
    let mut told = HashSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = tick.tick() => {}
        }
        let Some(Ok(counts)) = shared.kernel.as_ref().map(|k| k.counters.read()) else { continue };
        let now = (counts.get(Outcome::ShedBegun), counts.get(Outcome::ShedManyTokens));
        // What an earlier daemon has told of is told again, once.
        let (begun, many) = before.replace(now).unwrap_or((now.0, 0));
        if now.0 > begun {
            tracing::warn!(
                senders = now.0 - begun,
                "refused so often that their packets are dropped for a while: `portcullis status` names them"
            );
        }
        if now.1 != many {
            for s in senders(&shared).into_iter().filter(|s| s.many_tokens) {
                if told.insert(s.source.clone()) {
                    tracing::warn!(
                        source = s.source,
                        times_shed = s.times_shed,
                        "a source with refused tokens carries many tokens: if it is a proxy, name it in `kernel.shed_never`, or all behind it are shed"
                    );
                }
            }
            if told.len() > TOLD {
                told.clear();
            }
        }
    }
}

/// Who is shed or likely a proxy now.
pub fn senders(shared: &Shared) -> Vec<Sender> {
    let now = SystemClock.boot().0;
    shared.kernel.as_ref().map(|k| k.senders.read(now, MOST)).unwrap_or_default()
}
