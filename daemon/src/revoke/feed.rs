//! The fleet: orders of this host go to all others, and theirs come here, over NATS JetStream.
//!
//! The local log stays the authority. An order is on this disk and in force here before anybody else hears of it; what a
//! stream loses is told again from the log, and what the log no longer has is asked for and told as a whole. Each message is
//! put in force as the plane does with local orders, and acknowledged to the stream when it is. Knows messages and hosts;
//! what claims mean is the plane's. Without a server the host goes on alone, and says so.

mod apply;
mod connect;
mod consume;
#[cfg(test)]
mod exchange;
mod hosts;
mod listen;
mod message;
mod nkey;
mod orders;
mod publish;
mod resync;
mod session;
mod tracker;
mod trouble;
mod uses;
mod wait;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use serde::Serialize;
use tokio::sync::watch;

#[cfg(test)]
pub use self::exchange::Exchange;
use self::{hosts::Hosts, uses::Uses};
pub use self::{
    hosts::{HostStatus, Missing},
    nkey::Credentials,
    wait::{Level, Receipts, Waited},
};
use super::{
    KeyIds, PlaneHandle, SelectorClaim,
    foreign::{Origin, Position},
};
use crate::{
    clock::SharedClock,
    usage::{Book, Store},
};

/// What a fleet is told at start.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Addresses of the servers.
    pub servers: Vec<String>,
    /// The stream's name.
    pub stream: String,
    /// What subjects begin with.
    pub prefix: String,
    /// This host's name.
    pub name: String,
    /// Authorities that servers are believed from.
    pub ca_file: Option<PathBuf>,
    /// This host's certificate and its key.
    pub certificate: Option<(PathBuf, PathBuf)>,
    /// Who this host is to the servers.
    pub credentials: Credentials,
    /// How often a connection is tried that says nothing.
    pub ping_interval: Duration,
    /// How long after a connection was lost or refused the next is tried.
    pub reconnect: Duration,
    /// Longest time for a connection to come about.
    pub connect_timeout: Duration,
    /// The stream is made where it is not there.
    pub create: bool,
    /// Copies that a stream made here has.
    pub replicas: usize,
    /// How long it keeps messages.
    pub max_age: Duration,
    /// How many bytes it keeps.
    pub max_bytes: i64,
    /// Not ready when it is longer ago that this host knew itself complete.
    pub max_staleness: Option<Duration>,
    /// How far an order must have come before it is answered.
    pub acknowledge: Level,
    /// Longest time for that.
    pub timeout: Duration,
    /// The keys that tokens are fingerprinted under.
    pub keys: KeyIds,
}

/// Condemns tokens that were seen lately and match a selector which another host ordered.
pub trait Follow: Send + Sync {
    /// Does so; the selector is in force already.
    fn follow(&self, claim: SelectorClaim) -> Pin<Box<dyn Future<Output = ()> + Send + '_>>;
}

/// What was counted since the start.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Messages that were told, and stored by the stream.
    pub published: u64,
    /// Messages of others that were put in force.
    pub applied: u64,
    /// Messages that were in force already.
    pub duplicates: u64,
    /// Messages that were refused, by the reason.
    pub refused: BTreeMap<&'static str, u64>,
    /// Claims of others that refuse nobody here: their fingerprints are of another key.
    pub other_key: u64,
    /// Times that orders were asked for which the stream did not have.
    pub resyncs: u64,
    /// Connections that were made.
    pub connections: u64,
}

/// How things stand.
#[derive(Debug)]
struct State {
    /// The server, while connected.
    server: Option<String>,
    /// Since when it is.
    since: Option<Instant>,
    /// Why it is not connected, or what went wrong last.
    error: Option<String>,
    /// When this host last knew itself complete.
    complete: Option<Instant>,
    /// The last entry of the own log that has orders.
    head: u64,
    reached: BTreeMap<Origin, Position>,
    gaps: usize,
    hosts: Hosts,
    counts: Counts,
    /// Messages that the stream has and this host does not, as it said last.
    backlog: u64,
    /// This host's consumer gave no messages; no connection uses it as it is.
    spoilt: bool,
}

/// The fleet, as the rest of the daemon sees it.
#[derive(Debug, Serialize)]
pub struct Status {
    /// This host's id.
    pub id: Origin,
    /// Its name.
    pub name: String,
    /// The server that it is connected to.
    pub server: Option<String>,
    /// What went wrong last, while that lasts.
    pub error: Option<String>,
    /// Seconds since this host knew itself complete; since its start where it never did.
    pub staleness_seconds: f64,
    /// Whether it ever did.
    pub was_complete: bool,
    /// Whether that is longer than is allowed.
    pub stale: bool,
    /// The last entry of its log that has orders.
    pub head: u64,
    /// The entry up to which the stream has them.
    pub stored: u64,
    /// Hosts of which earlier orders are missing.
    pub gaps: usize,
    /// Live hosts that share no fingerprint key with this one.
    pub other_keys: usize,
    /// The other hosts.
    pub hosts: Vec<HostStatus>,
    /// What was counted.
    pub counts: Counts,
}

/// Tells and hears of orders.
pub struct Feed {
    settings: Settings,
    /// Uses of tokens, where they are noted and shared.
    uses: Option<Uses>,
    plane: PlaneHandle,
    follow: Arc<dyn Follow>,
    own: Origin,
    /// The own key's id as it is told.
    key: String,
    instance: String,
    started: Instant,
    state: Mutex<State>,
    /// The entry up to which the stream has this host's orders.
    stored: watch::Sender<u64>,
    /// Changes when something was heard of a host.
    heard: watch::Sender<u64>,
}

impl std::fmt::Debug for Feed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Feed").field("own", &self.own).finish_non_exhaustive()
    }
}

impl Feed {
    /// Makes it; nothing is connected before [`Self::run`].
    pub fn new(settings: Settings, plane: PlaneHandle, follow: Arc<dyn Follow>) -> Self {
        let own = plane.origin();
        let key = message::key(settings.keys.own);
        let mut drawn = [0; 8];
        // Without randomness two hosts of one id are not told apart, and that is all.
        let _ = aws_lc_rs::rand::fill(&mut drawn);
        let state = State {
            server: None,
            since: None,
            error: Some("not connected yet".to_owned()),
            complete: None,
            head: 0,
            reached: plane.fleet().reached,
            gaps: 0,
            hosts: Hosts::default(),
            counts: Counts::default(),
            backlog: u64::MAX,
            spoilt: false,
        };
        Self {
            settings,
            uses: None,
            plane,
            follow,
            own,
            key,
            instance: crate::hex::encode(&drawn),
            started: Instant::now(),
            state: Mutex::new(state),
            stored: watch::Sender::new(0),
            heard: watch::Sender::new(0),
        }
    }

    /// Shares uses of tokens with the other hosts, too.
    #[must_use]
    pub fn sharing(self, book: Arc<Book>, store: Store, clock: SharedClock) -> Self {
        book.share();
        Self { uses: Some(Uses::new(book, store, clock)), ..self }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn subject(&self, what: &str, of: &str) -> String {
        format!("{}.{what}.{of}", self.settings.prefix)
    }

    /// The last entry of this host's log.
    fn log_head(&self) -> u64 {
        *self.plane.head().borrow()
    }

    fn heard(&self) {
        self.heard.send_modify(|n| *n += 1);
    }

    fn refuse(&self, why: message::Refused, what: &str, from: &str) {
        *self.state().counts.refused.entry(why.label()).or_default() += 1;
        tracing::warn!(reason = %why, from, "{what} of the fleet was refused");
    }

    fn staleness(&self, state: &State) -> Duration {
        state.complete.unwrap_or(self.started).elapsed()
    }

    /// Whether this host may have missed orders for longer than is allowed.
    pub fn is_stale(&self) -> bool {
        let state = self.state();
        let most = self.settings.max_staleness;
        most.is_some_and(|most| state.complete.is_none() || self.staleness(&state) > most)
    }

    /// How things stand.
    pub fn status(&self) -> Status {
        let stale = self.is_stale();
        let state = self.state();
        let now = Instant::now();
        let reached = |origin| state.reached.get(&origin).map_or(0, |p: &Position| p.whole());
        Status {
            id: self.own,
            name: self.settings.name.clone(),
            server: state.server.clone(),
            error: state.error.clone(),
            staleness_seconds: self.staleness(&state).as_secs_f64(),
            was_complete: state.complete.is_some(),
            stale,
            head: state.head,
            stored: *self.stored.borrow(),
            gaps: state.gaps,
            other_keys: state.hosts.other_keys(self.settings.keys, now),
            hosts: state.hosts.show(reached, now),
            counts: state.counts.clone(),
        }
    }
}
