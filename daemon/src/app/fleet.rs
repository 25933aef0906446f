//! Wires the fleet: who tells and hears of revocations, and what follows from those of others.

use std::{pin::Pin, sync::Arc};

use crate::{
    clock::SharedClock,
    config::{Acknowledge, Config},
    decide::Decider,
    revoke::{
        PlaneHandle, SelectorClaim,
        feed::{Credentials, Feed, Follow, Level, Settings, Status},
    },
    telemetry::Fleet,
    usage::Keeper,
};

use super::settings;

struct Follower(Arc<Decider>);

impl Follow for Follower {
    fn follow(&self, claim: SelectorClaim) -> Pin<Box<dyn Future<Output = ()> + Send + '_>> {
        Box::pin(self.0.follow_selected(claim))
    }
}

/// The fleet, where one is configured; nothing of it runs yet. It shares the uses of tokens that `keeper` keeps.
pub fn feed(
    config: &Config,
    plane: &PlaneHandle,
    decider: &Arc<Decider>,
    keeper: Option<&Keeper>,
    clock: &SharedClock,
) -> Option<Arc<Feed>> {
    let f = &config.fleet;
    if f.servers.is_empty() {
        return None;
    }
    let settings = Settings {
        servers: f.servers.clone(),
        stream: f.stream.clone().unwrap_or_else(|| f.prefix.to_uppercase().replace('.', "_")),
        prefix: f.prefix.clone(),
        name: settings::host_name(config),
        ca_file: f.ca_file.clone(),
        certificate: f.certificate.clone().zip(f.key.clone()),
        credentials: Credentials {
            nkey_file: f.nkey_file.clone(),
            credentials_file: f.credentials_file.clone(),
            user: f.user.clone().zip(f.password_file.clone()),
            token_file: f.token_file.clone(),
        },
        ping_interval: f.ping_interval.0,
        reconnect: f.reconnect.0,
        connect_timeout: f.connect_timeout.0,
        create: f.create_stream,
        replicas: f.replicas.into(),
        max_age: f.stream_max_age.0,
        max_bytes: i64::try_from(f.stream_max_bytes).unwrap_or(i64::MAX),
        max_staleness: f.max_staleness.map(|s| s.0),
        acknowledge: match f.acknowledge {
            Acknowledge::Local => Level::Local,
            Acknowledge::Stored => Level::Stored,
            Acknowledge::Applied => Level::Applied,
        },
        timeout: f.acknowledge_timeout.0,
        keys: decider.key_ids(),
    };
    let follower = Arc::new(Follower(Arc::clone(decider)));
    let feed = Feed::new(settings, plane.clone(), follower);
    Some(Arc::new(match keeper {
        Some(keeper) => feed.sharing(Arc::clone(keeper.book()), keeper.store(), Arc::clone(clock)),
        None => feed,
    }))
}

/// How it stands, as gauges show it.
pub fn gauges(s: &Status) -> Fleet<'_> {
    let live = s.hosts.iter().filter(|h| h.live).count();
    Fleet {
        connected: s.server.is_some(),
        staleness: s.staleness_seconds,
        stale: s.stale,
        pending: s.head.saturating_sub(s.stored.min(s.head)),
        hosts: (live, s.hosts.len() - live),
        lag: s.hosts.iter().map(|h| (h.name.as_str(), h.head.saturating_sub(h.applied_here))).collect(),
        gaps: s.gaps,
        other_keys: s.other_keys,
        published: s.counts.published,
        applied: s.counts.applied,
        duplicates: s.counts.duplicates,
        refused: s.counts.refused.iter().map(|(why, n)| (*why, *n)).collect(),
        other_key_claims: s.counts.other_key,
        resyncs: s.counts.resyncs,
        connections: s.counts.connections,
    }
}
