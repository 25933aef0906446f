//! Token Status Lists (IETF draft-ietf-oauth-status-list): whether an issuer has taken back a token that verifies.
//!
//! Guarantees: a list counts only with the signature of the token's own issuer, under its own name, within its `exp`;
//! hosts that are not configured are never asked; a list is bounded before and after it is unpacked. Lists are fetched in
//! the background and renewed in their time. A token whose list is not at hand waits for it for a short time, and nothing
//! else waits at all. Where the list cannot be had, the configuration says what that means: denied, unless it says otherwise.

mod bits;
mod cwt;
mod entry;
mod publish;
mod reference;
mod token;

use std::{path::PathBuf, sync::Arc, time::Duration};

use moka::sync::Cache;
use portcullis_common::reason::Reason;
use serde::Serialize;
use tokio::time::MissedTickBehavior;

use self::{entry::Entry, reference::Reference};
use super::{Judgement, issuer::Issuer};
use crate::{
    clock::{Clock as _, SystemClock},
    fetch::{Client, FetchError, Settings, Url},
};

pub use publish::{PublishError, Published, Publisher, PublisherSettings};

/// How often lists are looked at that may have to be renewed.
const LOOK: Duration = Duration::from_secs(1);
/// Lists fetched at once.
const AT_ONCE: usize = 4;
/// How long a token is believed whose list could not be had, where that is allowed.
const UNSEEN: i64 = 5;

/// How lists are fetched and kept.
#[derive(Clone, Debug)]
pub struct StatusListSettings {
    /// Hosts (with a port where it is not the scheme's) that may be asked.
    pub hosts: Vec<String>,
    /// The only authorities that are believed; the system's where none is given.
    pub ca_file: Option<PathBuf>,
    /// Whether plain `http` may be spoken to other hosts.
    pub plain_http: bool,
    /// Longest time for one request.
    pub timeout: Duration,
    /// How long a token waits for its list.
    pub wait: Duration,
    /// Shortest time between two requests for one list.
    pub ttl_min: Duration,
    /// Longest time that a list is used before it is fetched again.
    pub ttl_max: Duration,
    /// How long beyond that it is used while it cannot be fetched.
    pub max_stale: Duration,
    /// Longest list, unpacked.
    pub max_bytes: usize,
    /// Lists kept.
    pub lists: u64,
    /// Whether tokens pass whose list cannot be had.
    pub allow_unavailable: bool,
}

/// Counts, for people and metrics.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatusListStatus {
    /// Lists in memory.
    pub lists: u64,
    /// Those among them that are good now.
    pub good: u64,
    /// Times one was fetched.
    pub fetched: u64,
    /// Times one could not be.
    pub failed: u64,
    /// Why not, the last time.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// All lists that tokens named lately.
pub struct StatusLists {
    settings: StatusListSettings,
    client: Client,
    /// By issuer and address.
    entries: Cache<(Arc<str>, String), Arc<Entry>>,
    counts: Arc<entry::Counts>,
    slots: Arc<tokio::sync::Semaphore>,
}

impl StatusLists {
    /// Makes it; nothing is fetched yet.
    pub fn new(settings: StatusListSettings) -> Result<Self, FetchError> {
        let client = Client::new(&Settings {
            ca_file: settings.ca_file.clone(),
            plain_http: settings.plain_http,
            public_only: false,
            connect: settings.timeout,
        })?;
        let entries =
            Cache::builder().max_capacity(settings.lists).time_to_idle(Duration::from_hours(1)).build();
        let slots = Arc::new(tokio::sync::Semaphore::new(AT_ONCE));
        Ok(Self { settings, client, entries, counts: Arc::default(), slots })
    }

    /// A good token's judgement, once its list was asked. Others are left as they are.
    pub(super) async fn settle(
        &self,
        issuer: &Arc<Issuer>,
        judged: Judgement,
        now: impl Fn() -> i64,
    ) -> Judgement {
        let Judgement { status: Ok(verified), vouched: Some(mut vouched) } = judged else { return judged };
        let reference = match reference::read(&verified.claims) {
            Ok(Some(reference)) => reference,
            Ok(None) => return Judgement { status: Ok(verified), vouched: Some(vouched) },
            Err(reason) => return Judgement { status: Err(reason), vouched: Some(vouched) },
        };
        let found = match self.entry(issuer, &reference) {
            Some(entry) => self.ask(&entry, &now).await.map(|list| (entry, list)),
            None => None,
        };
        let status = if let Some((entry, list)) = found {
            vouched.also(&entry.voucher, list.generation);
            list.list.status(reference.index)
        } else {
            let allowed = self.settings.allow_unavailable;
            vouched.until = vouched.until.min(now().saturating_add(if allowed { UNSEEN } else { 0 }));
            if allowed { Ok(()) } else { Err(Reason::StatusUnavailable) }
        };
        Judgement { status: status.map(|()| verified), vouched: Some(vouched) }
    }

    /// The list that is meant; `None` where its address is none that may be asked.
    fn entry(&self, issuer: &Arc<Issuer>, reference: &Reference) -> Option<Arc<Entry>> {
        let url: Url = reference.uri.parse().ok()?;
        let default = if url.is_tls() { 443 } else { 80 };
        let named = |host: &String| match host.rsplit_once(':') {
            Some((name, port)) if !name.contains(':') => name == url.host() && port.parse() == Ok(url.port()),
            _ => host.trim_matches(['[', ']']) == url.host() && url.port() == default,
        };
        if !self.settings.hosts.iter().any(named) {
            return None;
        }
        let key = (issuer.name.clone(), reference.uri.clone());
        Some(
            self.entries
                .get_with(key, || Arc::new(Entry::new(Arc::clone(issuer), reference.uri.clone(), url))),
        )
    }

    /// The list as it is; where it is not at hand it is fetched, and awaited for a while.
    async fn ask(&self, entry: &Arc<Entry>, now: &impl Fn() -> i64) -> Option<Arc<entry::Fetched>> {
        entry.used(now());
        if let Some(list) = entry.good(now()) {
            return Some(list);
        }
        let mut ended = entry.ended.subscribe();
        ended.mark_unchanged();
        if !self.fetch(entry) {
            return None;
        }
        let _ = tokio::time::timeout(self.settings.wait, ended.changed()).await;
        entry.good(now())
    }

    /// Has a list fetched, unless that failed a moment ago. Whether one is on its way.
    fn fetch(&self, entry: &Arc<Entry>) -> bool {
        if !entry.begin() {
            return entry.is_going();
        }
        let (entry, client, settings) = (Arc::clone(entry), self.client.clone(), self.settings.clone());
        let (slots, counts) = (Arc::clone(&self.slots), Arc::clone(&self.counts));
        tokio::spawn(async move {
            let _slot = slots.acquire_owned().await;
            entry.fetch(&client, &settings, &counts).await;
        });
        true
    }

    /// Renews lists that are in use, each in its time. It does not end: drop it.
    pub(super) async fn keep(self: Arc<Self>) {
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let now = SystemClock.wall().seconds();
            for (_, entry) in &self.entries {
                if entry.is_due(now) {
                    self.fetch(&entry);
                }
            }
        }
    }

    /// How they stand.
    pub fn status(&self, now: i64) -> StatusListStatus {
        let (mut lists, mut good) = (0, 0);
        for (_, entry) in &self.entries {
            lists += 1;
            good += u64::from(entry.good(now).is_some());
        }
        let (fetched, failed, error) = self.counts.told();
        StatusListStatus { lists, good, fetched, failed, error }
    }
}
#[cfg(test)]
mod tests;
