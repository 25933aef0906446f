//! The candidate set beside the live one: loading it, promoting it, going back.

use std::{path::PathBuf, sync::Arc};

use arc_swap::ArcSwapOption;
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, documents,
    promoted::{Copies, Pointer},
    settings,
    tasks::install,
};
use crate::{
    clock::SharedClock,
    config::Config,
    policy::{self, LoadError, PolicySet},
    record::Findings,
    serve::{Promotion, PromotionKind},
};

/// The candidate as it stands.
#[derive(Default)]
pub(super) struct Candidate {
    /// It, where it was loaded.
    pub set: Arc<ArcSwapOption<PolicySet>>,
    /// Why it was not.
    pub refused: ArcSwapOption<String>,
    /// What the comparison came to.
    pub findings: Arc<Findings>,
}

fn load_candidate(config: &Config, bundles: &[PathBuf]) -> Result<PolicySet, LoadError> {
    let written = config.serve.opa_writes.as_deref().and_then(documents::current);
    let dirs: Vec<_> = config.policy.candidate_dirs.iter().chain(bundles).cloned().chain(written).collect();
    policy::load(&dirs, &config.policy.decision, &settings::policy(config))
}

/// Loads the candidate again. It never stands in the live set's way.
pub(super) async fn reload(shared: &Arc<Shared>) {
    let config = shared.config.load_full();
    if config.policy.candidate_dirs.is_empty() {
        return;
    }
    let bundles = shared.bundles.dirs(&[]);
    let loaded = tokio::task::spawn_blocking(move || load_candidate(&config, &bundles)).await;
    let refused = match loaded {
        Ok(Ok(set)) => {
            let before = shared.candidate.set.swap(Some(Arc::new(set)));
            let (now, live) = (shared.candidate.set.load_full(), shared.policy.current());
            if let Some(now) = now.filter(|now| before.is_none_or(|before| before.stamp() != now.stamp())) {
                let same = now.stamp() == live.set.stamp();
                tracing::info!(revision = now.hash(), same_as_live = same, "candidate policies loaded");
            }
            None
        }
        Ok(Err(e)) => Some(e.to_string()),
        Err(_) => Some("the policy loader failed".to_owned()),
    };
    if let Some(why) = &refused {
        shared.candidate.set.store(None);
        tracing::warn!(reason = why, "candidate policies refused; the live set is not concerned");
    }
    shared.candidate.refused.store(refused.map(Arc::new));
    settle(shared);
}

/// Brings what depends on candidate and live set up to date.
pub(super) fn settle(shared: &Shared) {
    let state = state(shared);
    if let Some(shadow) = shared.recorder.as_ref().and_then(|r| r.shadow.as_ref()) {
        shadow.set_on(state == "shadow");
        shared.metrics.shadow_skipped(shadow.skipped());
    }
    let promoted = Copies::of(&shared.config.load()).live().is_ok_and(|(_, revision)| revision.is_some());
    shared.metrics.candidate(state, promoted);
}

fn state(shared: &Shared) -> &'static str {
    match shared.candidate.set.load().as_deref() {
        Some(set) if set.stamp() == shared.policy.current().set.stamp() => "same",
        Some(_) => "shadow",
        None if shared.candidate.refused.load().is_some() => "refused",
        None => "none",
    }
}

/// What `status` and `portcullis policy shadow` show.
pub(super) fn told(shared: &Shared) -> Value {
    let (live, candidate) = (shared.policy.current(), shared.candidate.set.load_full());
    let mut told = json!({
        "state": state(shared),
        "dirs": shared.config.load().policy.candidate_dirs,
        "live": {"generation": live.generation, "revision": live.set.hash()},
        "refused_because": shared.candidate.refused.load().as_deref(),
    });
    if let Some(set) = &candidate {
        told["candidate"] = json!({
            "revision": set.hash(), "engine": set.engine().name(), "interpreted_because": set.engine().reason(),
            "tests": set.tested().tests, "tests_skipped": set.tested().skipped, "replayed_on_both_engines": set.tested().replayed,
        });
        told["shadow"] = shared.candidate.findings.told([live.set.stamp(), set.stamp()]);
        let shadow = shared.recorder.as_ref().and_then(|r| r.shadow.as_ref());
        told["shadow"]["skipped"] = shadow.map_or(0, crate::record::Shadower::skipped).into();
    }
    told
}

/// How the live set came to be it, for `status`.
pub(super) fn origin(shared: &Shared) -> Value {
    let config = shared.config.load();
    let copies = Copies::of(&config);
    let pointer = copies.pointer().unwrap_or_default();
    let promoted = copies.live().ok().and_then(|(_, revision)| revision);
    json!({
        "promoted": promoted, "since": promoted.as_ref().map(|_| pointer.since),
        "actor": promoted.as_ref().map(|_| pointer.actor), "previous": pointer.previous,
    })
}

type Reply = oneshot::Sender<Result<Value, String>>;

/// Carries out promotions, one after the other, until `stop`.
pub(super) async fn keep(
    shared: Arc<Shared>,
    clock: SharedClock,
    mut orders: mpsc::Receiver<(Promotion, Reply)>,
    stop: CancellationToken,
) {
    loop {
        let (order, reply) = tokio::select! {
            () = stop.cancelled() => return,
            next = orders.recv() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let done = change(&shared, &clock, order).await;
        if let Err(why) = &done {
            tracing::warn!(reason = why, "the live policies were not changed");
        }
        let _ = reply.send(done);
    }
}

/// One step: copy, load with tests and both engines, point, install. What fails leaves all as it was.
async fn change(shared: &Arc<Shared>, clock: &SharedClock, order: Promotion) -> Result<Value, String> {
    let _one_at_a_time = shared.loading.lock().await;
    let config = shared.config.load_full();
    let seen = shared.candidate.set.load_full().map(|set| set.hash().to_owned());
    let (since, actor) = (clock.wall().0, order.actor.clone());
    let bundles = shared.bundles.dirs(&[]);
    let stage = move || stage(&config, &bundles, order.kind, seen.as_deref(), since, actor);
    let staged =
        tokio::task::spawn_blocking(stage).await.map_err(|_| "the policy loader failed".to_owned())??;
    let Staged { set, pointer, before } = staged;
    let (config, next) = (shared.config.load_full(), pointer.clone());
    let point = tokio::task::spawn_blocking(move || Copies::of(&config).point(&next)).await;
    point
        .map_err(|_| "the pointer was not moved".to_owned())?
        .map_err(|e| format!("`policy.state_dir`: {e}"))?;
    let revision = set.hash().to_owned();
    let generation = match install(shared, set).await {
        Ok(generation) => generation,
        Err(why) => {
            // What is in force and what a restart would load must be one.
            let back = Copies::of(&shared.config.load()).point(&before);
            return Err(match back {
                Ok(()) => why,
                Err(e) => format!("{why}; and the pointer could not be moved back: {e}"),
            });
        }
    };
    let what = match order.kind {
        PromotionKind::Promote => "the candidate was promoted",
        PromotionKind::Rollback => "the policies were rolled back",
    };
    tracing::info!(revision, generation, actor = pointer.actor, "{what}");
    settle(shared);
    Ok(json!({"generation": generation, "revision": revision, "previous": pointer.previous}))
}

struct Staged {
    set: PolicySet,
    pointer: Pointer,
    before: Pointer,
}

fn stage(
    config: &Config,
    bundles: &[PathBuf],
    kind: PromotionKind,
    seen: Option<&str>,
    since: i64,
    actor: String,
) -> Result<Staged, String> {
    let copies = Copies::of(config);
    let text = |e: LoadError| e.to_string();
    let before = copies.pointer().map_err(text)?;
    let next = match kind {
        PromotionKind::Promote if config.policy.candidate_dirs.is_empty() => {
            return Err("there is no candidate: set `policy.candidate_dirs`".to_owned());
        }
        PromotionKind::Promote => copies.take(&config.policy.candidate_dirs).map_err(text)?,
        PromotionKind::Rollback => before
            .previous
            .clone()
            .ok_or_else(|| "nothing was promoted: there is no set before this one".to_owned())?,
    };
    let current = copies.take(&copies.live().map_err(text)?.0).map_err(text)?;
    if next == current {
        return Err("it is the live set already".to_owned());
    }
    let written = config.serve.opa_writes.as_deref().and_then(documents::current);
    let dirs: Vec<_> = copies.copy(&next).into_iter().chain(bundles.iter().cloned()).chain(written).collect();
    let set = policy::load(&dirs, &config.policy.decision, &settings::policy(config)).map_err(text)?;
    if kind == PromotionKind::Promote && seen != Some(set.hash()) {
        return Err("the candidate's files are not those that were compared: run `portcullis reload`, look at `portcullis policy shadow`, and promote then".to_owned());
    }
    Ok(Staged { set, pointer: Pointer { live: Some(next), previous: Some(current), since, actor }, before })
}
