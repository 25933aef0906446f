//! One transmitter: its keys, its events, and what became of them.

use std::{sync::Arc, time::Duration};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use moka::sync::Cache;
use portcullis_common::reason::Reason;
use serde_json::{Map, Value};
use tokio::{
    sync::{Notify, OnceCell},
    task::JoinSet,
};

use super::{
    Action, Delivery, Orders, Refused, Status, StreamOrder, Told, TransmitterSettings,
    access::Given,
    mapping,
    set::{self, Set},
    state::Shared,
    subject::{MAX_ALIASES, Reader},
};
use crate::{
    clock::SharedClock,
    fetch::{Client, FetchError, Settings, Url},
    revoke::{Once, Selector, SelectorOrder},
    telemetry::Metrics,
    token::{IssuerSettings, KeySource, RemoteKeys, Signers, TokenRules},
};

/// Ids of events that are remembered, of each transmitter.
const SEEN: u64 = 100_000;
/// How often an event under an unknown key is asked for again, for its key may be on its way.
const TRIES: u8 = 3;
const VERIFICATION: &str = "https://schemas.openid.net/secevent/ssf/event-type/verification";
const UPDATED: &str = "https://schemas.openid.net/secevent/ssf/event-type/stream-updated";
/// Orders of one event that are under way at once.
const TOGETHER: usize = 64;
/// Longest event.
const MAX_EVENT: usize = 64 * 1024;

type Digest = [u8; 32];

/// One transmitter.
pub struct Transmitter {
    pub(super) settings: TransmitterSettings,
    pub(super) client: Client,
    pub(super) state: Shared,
    /// The next look at its stream is now.
    pub(super) wake: Notify,
    /// A verification event came.
    pub(super) verified: Notify,
    pub(super) clock: SharedClock,
    pub(super) metrics: Arc<Metrics>,
    /// The token that an authorization server gave.
    pub(super) given: tokio::sync::Mutex<Option<Given>>,
    signers: ArcSwapOption<Signers>,
    orders: Arc<dyn Orders>,
    table: std::collections::BTreeMap<String, Action>,
    /// Events that were taken or are being taken, by the digests of their ids.
    seen: Cache<Digest, Arc<OnceCell<()>>>,
    unknown: Cache<Digest, u8>,
}

impl Transmitter {
    /// Makes one; nothing is asked yet.
    pub fn new(
        settings: TransmitterSettings,
        orders: Arc<dyn Orders>,
        clock: SharedClock,
        metrics: Arc<Metrics>,
    ) -> Result<Self, FetchError> {
        let client = Client::new(&Settings {
            ca_file: settings.ca_file.clone(),
            plain_http: settings.plain_http,
            public_only: false,
            connect: settings.timeout,
        })?;
        super::metadata::address(&settings.issuer)?;
        let state = Shared::default();
        {
            let mut s = state.lock();
            s.status.name.clone_from(&settings.name);
            s.status.issuer.clone_from(&settings.issuer);
            s.status.delivery =
                if matches!(settings.delivery, Delivery::Push { .. }) { "push" } else { "poll" };
            s.audience.clone_from(&settings.audience);
        }
        Ok(Self {
            client,
            state,
            wake: Notify::new(),
            verified: Notify::new(),
            clock,
            metrics,
            given: tokio::sync::Mutex::default(),
            signers: ArcSwapOption::empty(),
            orders,
            table: mapping::table(&settings.actions),
            seen: Cache::new(SEEN),
            unknown: Cache::builder().max_capacity(1000).time_to_live(Duration::from_hours(1)).build(),
            settings,
        })
    }

    /// Its name here.
    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// How it stands.
    pub fn status(&self) -> Status {
        self.state.lock().status.clone()
    }

    /// Whether who pushes shows what it must; never, where events are not pushed.
    pub fn may_push(&self, shown: &str) -> bool {
        matches!(&self.settings.delivery, Delivery::Push { secret, .. } if secret.is(shown))
    }

    /// Somebody pushed without what must be shown.
    pub fn turned_away(&self) {
        self.orders.refused(self.name(), "authentication_failed", "the Authorization header is another one");
    }

    /// What is ordered of its stream.
    pub async fn order(&self, order: StreamOrder) -> Result<(), String> {
        let done = self.manage(order).await;
        self.wake.notify_one();
        done
    }

    /// The types of events that something follows from.
    pub(super) fn wanted(&self) -> Vec<&str> {
        self.table.iter().filter(|(_, a)| **a != Action::Ignore).map(|(name, _)| name.as_str()).collect()
    }

    /// Takes its keys from where its metadata, or the configuration, say.
    pub(super) fn signers_from(&self, published: Option<&Url>) -> Result<Arc<Signers>, String> {
        let s = &self.settings;
        let keys = match (&s.keys, published) {
            (Some(source), _) => source.clone(),
            (None, Some(url)) => KeySource::Remote(RemoteKeys {
                url: Some(url.clone()),
                ca_file: s.ca_file.clone(),
                plain_http: s.plain_http,
                refresh: Duration::from_mins(5),
                refresh_min: Duration::from_secs(1),
                max_stale: Duration::from_hours(24),
                timeout: s.timeout,
                wait: Duration::from_secs(2),
            }),
            (None, None) => {
                return Err("its metadata have no `jwks_uri`: name its keys by `jwks_file`".to_owned());
            }
        };
        let signers = Signers::new(IssuerSettings {
            issuer: s.issuer.clone(),
            audience: Vec::new(),
            algorithms: s.algorithms.clone(),
            keys,
            rules: TokenRules::default(),
        });
        let signers = Arc::new(signers.map_err(|e| e.to_string())?);
        self.signers.store(Some(Arc::clone(&signers)));
        Ok(signers)
    }

    /// Takes an event: its id, once what follows from it is durable and in force.
    pub async fn accept(&self, text: &str) -> Result<String, Refused> {
        let taken = self.take(text.trim_ascii()).await;
        let told = match &taken {
            Ok((_, told)) => *told,
            Err(Refused::Bad { err, description }) => {
                tracing::warn!(transmitter = self.name(), err, description, "a security event is refused");
                self.orders.refused(self.name(), err, description);
                Told::Refused
            }
            Err(Refused::Later(why)) => {
                tracing::warn!(
                    transmitter = self.name(),
                    reason = why,
                    "a security event cannot be taken now"
                );
                self.orders.refused(self.name(), "later", why);
                Told::Later
            }
        };
        self.metrics.standards.ssf_event(self.name(), told.label());
        let mut state = self.state.lock();
        *state.status.events.entry(told.label()).or_default() += 1;
        if taken.is_ok() {
            state.status.last_event = Some(self.clock.wall().seconds());
        }
        drop(state);
        taken.map(|(jti, _)| jti)
    }

    async fn take(&self, text: &str) -> Result<(String, Told), Refused> {
        if text.len() > MAX_EVENT {
            return Err(Refused::bad("invalid_request", "the event is too long"));
        }
        let now = || self.clock.wall().seconds();
        let Some(signers) = self.signers.load_full() else { return Err(Refused::of(Reason::IssuerNotReady)) };
        let document = match signers.open(text, "secevent+jwt", now).await {
            Ok(document) => document,
            Err(Reason::KeyUnknown) if self.may_come(text) => {
                return Err(Refused::Later("the event's key is not known yet".to_owned()));
            }
            Err(reason) => return Err(Refused::of(reason)),
        };
        let audience = self.state.lock().audience.clone();
        let set = Set::read(&document.claims, &self.settings.issuer, &audience)?;
        let cell = self.seen.get_with(digest_of(&set.jti), Arc::default);
        let mut told = Told::Repeated;
        // The same event at the same time waits here for the first, and is then one that was taken.
        cell.get_or_try_init(async || {
            told = self.apply(&set).await?;
            Ok::<_, Refused>(())
        })
        .await?;
        Ok((set.jti, told))
    }

    /// Whether an event under an unknown key is to be delivered again: a few times, while its key may be on its way.
    fn may_come(&self, text: &str) -> bool {
        let name = digest_of(text);
        let tries = self.unknown.get(&name).unwrap_or(0).saturating_add(1);
        self.unknown.insert(name, tries);
        tries < TRIES
    }

    async fn apply(&self, set: &Set) -> Result<Told, Refused> {
        // All of them are read before anything is ordered: a SET is taken or refused as one.
        let planned = set.events.iter().map(|(name, event)| self.consequences(set, name, event));
        let planned = planned.collect::<Result<Vec<_>, _>>()?;
        let mut all = Told::Ignored;
        for ((name, event), planned) in set.events.iter().zip(planned) {
            let told = match (name.as_str(), planned) {
                (VERIFICATION, _) => self.verification(event)?,
                (UPDATED, _) => self.updated(event),
                (_, Err(told)) => told,
                (_, Ok(orders)) => self.ordered(orders).await?,
            };
            if all == Told::Ignored || told == Told::Revoked {
                all = told;
            }
        }
        Ok(all)
    }

    fn verification(&self, event: &Map<String, Value>) -> Result<Told, Refused> {
        let mut state = self.state.lock();
        // Without one it is the transmitter that began it.
        if let Some(told) = event.get("state") {
            let known = state.pending.iter().position(|p| told.as_str() == Some(p));
            let known =
                known.ok_or_else(|| Refused::bad("invalid_state", "`state` is none that was asked for"))?;
            state.pending.remove(known);
        }
        state.status.last_verified = Some(self.clock.wall().seconds());
        drop(state);
        self.verified.notify_waiters();
        Ok(Told::Verified)
    }

    fn updated(&self, event: &Map<String, Value>) -> Told {
        let text = |name: &str| {
            event.get(name).and_then(Value::as_str).map(|t| t.chars().take(200).collect::<String>())
        };
        let status = text("status");
        if status.as_deref() != Some("enabled") {
            tracing::warn!(
                transmitter = self.name(),
                status,
                reason = text("reason"),
                "the transmitter says that its stream is not enabled: events do not come"
            );
        }
        let mut state = self.state.lock();
        state.status.stream_status = status;
        state.status.stream_reason = text("reason");
        Told::Updated
    }

    /// The orders that an event comes to; or what else it is.
    fn consequences(
        &self,
        set: &Set,
        name: &str,
        event: &Map<String, Value>,
    ) -> Result<Result<Vec<(SelectorOrder, Once)>, Told>, Refused> {
        let action = self.table.get(name).copied().unwrap_or(Action::Ignore);
        if action == Action::Ignore || !mapping::takes_away(name, event) {
            return Ok(Err(Told::Ignored));
        }
        let selectors = self.selectors(set, action, event)?;
        if selectors.is_empty() {
            tracing::warn!(
                transmitter = self.name(),
                event = name,
                jti = set.jti,
                "nobody is revoked: the event's subject is none that selectors can name, or of an issuer that this transmitter may not speak of"
            );
            return Ok(Err(Told::Unmapped));
        }
        let until = self.clock.wall().plus(self.settings.ttl);
        let order = |(n, selector): (u64, Selector)| {
            // The event's id, its transmitter's, says that it is the same one, over restarts too: for as long as what came
            // of it stands, and a day at least.
            let parts: [&[u8]; 5] = [
                b"ssf",
                self.settings.issuer.as_bytes(),
                set.jti.as_bytes(),
                name.as_bytes(),
                &n.to_le_bytes(),
            ];
            let once = Once::new(&parts, &[]).until(until);
            let order = SelectorOrder {
                selector,
                until,
                reason: set::reason(mapping::short(name), event),
                actor: format!("ssf:{}", self.name()),
                ticket: String::new(),
                source: "ssf".to_owned(),
            };
            (order, once)
        };
        Ok(Ok((0_u64..).zip(selectors).map(order).collect()))
    }

    /// Gives orders, some at a time: those share syncs.
    async fn ordered(&self, orders: Vec<(SelectorOrder, Once)>) -> Result<Told, Refused> {
        let (mut under_way, mut failed) = (JoinSet::new(), None);
        let mut orders = orders.into_iter();
        loop {
            while under_way.len() < TOGETHER
                && failed.is_none()
                && let Some((order, once)) = orders.next()
            {
                let to = Arc::clone(&self.orders);
                under_way.spawn(async move { to.revoke(order, once).await });
            }
            match under_way.join_next().await {
                None => break,
                Some(Ok(Ok(()))) => {}
                Some(Ok(Err(why))) => failed = Some(why),
                Some(Err(_)) => failed = Some("an order ended before its time".to_owned()),
            }
        }
        failed.map_or(Ok(Told::Revoked), |why| Err(Refused::Later(why)))
    }

    fn selectors(
        &self,
        set: &Set,
        action: Action,
        event: &Map<String, Value>,
    ) -> Result<Vec<Selector>, Refused> {
        let s = &self.settings;
        let reader = Reader {
            transmitter: &s.issuer,
            issuers: &s.token_issuers,
            email_is_subject: s.email_is_subject,
        };
        let Some(id) = set.subject_of(event) else { return Ok(Vec::new()) };
        if !Reader::is_readable(id) {
            let why =
                format!("the subject has more than {MAX_ALIASES} identifiers: send them in several events");
            return Err(Refused::bad("invalid_request", why));
        }
        let subject = reader.read(id);
        // The framework has such events discarded.
        let critical = self.state.lock().critical.clone();
        if subject.unread.iter().any(|member| critical.contains(member)) {
            return Ok(Vec::new());
        }
        let before = set.before(event, self.clock.wall().seconds());
        mapping::selectors(action, &subject, &s.token_issuers, before)
            .map_err(|e| Refused::bad("invalid_request", format!("the subject cannot be named: {e}")))
    }
}

fn digest_of(text: &str) -> Digest {
    let digest = digest::digest(&digest::SHA256, text.as_bytes());
    digest.as_ref().try_into().unwrap_or_default()
}

#[cfg(test)]
mod tests;
