//! The one task that writes the store, the index and the kernel's deny map.
//!
//! It runs on a thread of its own, for it waits for the disk. Orders that arrive together share one fsync.

use std::{
    collections::HashMap,
    ops::Bound,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use portcullis_common::fingerprint::DenyFingerprint;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{
    Claim, ClaimId, Index, Limits, Order, Store, StoreError,
    ledger::{Condemnation, Ledger},
    store::Changes,
};
use crate::{
    clock::{BootTime, SharedClock, WallTime},
    kernel::{Kernel, KernelError},
};

/// Orders that wait; more are refused with [`RevokeError::Busy`].
const QUEUE: usize = 4096;
/// Orders that share one fsync at most.
const BATCH: usize = 1024;
/// How long an expired claim is kept, in boot time: a day, so that a wrong clock can be put right.
const GRACE_NS: u64 = 24 * 3600 * 1_000_000_000;
/// A difference of the clocks' distance that is taken for a step of the wall clock.
const STEP_NS: i128 = 1_000_000_000;

/// Why an order was not acknowledged.
#[derive(Debug, Error)]
pub enum RevokeError {
    /// No room for another revoked token.
    #[error(
        "the deny map is full: {limit} tokens are revoked and all stay so; raise `kernel.max_entries` and restart the daemon, or lift revocations that are no longer needed"
    )]
    Full {
        /// Its room for revocations.
        limit: usize,
    },
    /// The store did not take it: it is not in force.
    #[error("{0}; the revocation is not in force")]
    Store(Arc<StoreError>),
    /// It is stored and the decision path obeys it, but the kernel's map did not take it.
    #[error("stored and refused by the decision path, but not yet in the kernel: {0}")]
    Kernel(Arc<KernelError>),
    /// The store holds more than the kernel's map has room for.
    #[error(
        "the store holds revocations of {tokens} tokens, the deny map has room for {limit}: raise `kernel.max_entries` (or lower `kernel.policy_entries`) and start again"
    )]
    DoesNotFit {
        /// Tokens revoked.
        tokens: usize,
        /// Room for them.
        limit: usize,
    },
    /// The claim is not there.
    #[error("there is no revocation {0}: `portcullis revocations` lists those in force")]
    Unknown(ClaimId),
    /// Too many orders wait.
    #[error("too many revocations are under way: try again")]
    Busy,
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

enum Command {
    Revoke(Order, oneshot::Sender<Result<Claim, RevokeError>>),
    Lift(ClaimId, oneshot::Sender<Result<Claim, RevokeError>>),
    Condemn(DenyFingerprint, Condemnation, oneshot::Sender<bool>),
    Activate(String, oneshot::Sender<Result<u64, RevokeError>>),
    Sweep(oneshot::Sender<()>),
    List(ClaimId, usize, oneshot::Sender<Vec<Claim>>),
    Kernel(Box<dyn FnOnce(&mut Kernel) + Send>),
    Stop,
}

/// Numbers for `status` and metrics.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct PlaneStatus {
    /// Claims in force.
    pub claims: usize,
    /// Tokens revoked.
    pub revoked: usize,
    /// Tokens condemned by policies.
    pub condemned: usize,
    /// Room for revoked tokens.
    pub revoked_limit: usize,
    /// Room for condemned ones.
    pub condemned_limit: usize,
    /// Condemnations refused for want of room.
    pub condemned_refused: u64,
    /// The kernel's map did not take a write and has not been made whole since.
    pub kernel_behind: bool,
    /// The store did not take a write: nothing more is accepted.
    pub store_failed: bool,
}

/// What the plane is told at start.
#[derive(Clone, Copy, Debug)]
pub struct PlaneSettings {
    /// Room in the deny map.
    pub limits: Limits,
    /// Id of the fingerprint key.
    pub key_id: u32,
}

/// Gives orders to the plane; cheap to clone.
#[derive(Clone, Debug)]
pub struct PlaneHandle {
    commands: mpsc::Sender<Command>,
    status: Arc<RwLock<PlaneStatus>>,
}

/// The plane itself: owner of the store and the kernel.
pub struct Plane {
    store: Store,
    kernel: Option<Kernel>,
    ledger: Ledger,
    index: Arc<Index>,
    clock: SharedClock,
    settings: PlaneSettings,
    generation: u64,
    status: Arc<RwLock<PlaneStatus>>,
    refused: u64,
    behind: bool,
    failed: Option<Arc<StoreError>>,
    offset: i128,
    /// When each expired claim was first seen to be.
    expired_since: HashMap<ClaimId, BootTime>,
}

impl Plane {
    /// Loads the store and brings index and kernel map in line with it. Nothing is attached yet.
    pub fn new(
        store: Store,
        kernel: Option<Kernel>,
        index: Arc<Index>,
        clock: SharedClock,
        settings: PlaneSettings,
    ) -> Result<Self, RevokeError> {
        let claims = store.claims().map_err(|e| RevokeError::Store(Arc::new(e)))?;
        let offset = offset(&clock);
        let mut plane = Self {
            store,
            kernel,
            ledger: Ledger::new(settings.limits),
            index,
            clock,
            settings,
            generation: 0,
            status: Arc::default(),
            refused: 0,
            behind: false,
            failed: None,
            offset,
            expired_since: HashMap::new(),
        };
        for claim in claims {
            plane.ledger.add(claim);
        }
        let tokens = plane.ledger.revoked();
        if plane.kernel.is_some() && tokens > settings.limits.revoked {
            return Err(RevokeError::DoesNotFit { tokens, limit: settings.limits.revoked });
        }
        plane.reconcile().map_err(|e| RevokeError::Kernel(Arc::new(e)))?;
        plane.publish();
        Ok(plane)
    }

    /// Makes index and kernel map what the ledger says. Condemnations that an earlier daemon left in the map
    /// are taken over; revocations there that the store does not have were lifted, and go.
    fn reconcile(&mut self) -> Result<(), KernelError> {
        let found: Vec<_> = self.kernel.as_ref().map(|k| k.deny.entries().collect()).unwrap_or_default();
        let (boot, wall) = (self.clock.boot(), self.clock.wall());
        for (f, value) in found {
            if value.condemned_until > boot.0 {
                let left = Duration::from_nanos(value.condemned_until - boot.0);
                let c = Condemnation { until: wall.plus(left), generation: value.generation };
                self.ledger.condemn(f, c);
            }
            if self.ledger.value(f, &*self.clock).is_none()
                && let Some(k) = &mut self.kernel
            {
                k.deny.remove(f)?;
            }
        }
        let tokens: Vec<_> = self.ledger.tokens().collect();
        for f in tokens {
            self.index.set(f, self.ledger.revoked_until(f));
            self.write(f)?;
        }
        Ok(())
    }

    /// Makes a policy set the active one before anything runs; gives its generation.
    pub fn activate_first(&mut self, hash: &str) -> Result<u64, RevokeError> {
        let generation = self.next_generation(hash);
        let changes = Changes { policy: Some((hash.to_owned(), generation)), ..Changes::default() };
        self.commit(&changes).map_err(RevokeError::Store)?;
        self.activate(generation)
    }

    /// The kernel side, where there is one.
    pub fn kernel_mut(&mut self) -> Option<&mut Kernel> {
        self.kernel.as_mut()
    }

    /// Runs on a thread of its own until every handle is gone. The thread is to be joined.
    pub fn start(mut self) -> std::io::Result<(PlaneHandle, thread::JoinHandle<()>)> {
        let (commands, mut orders) = mpsc::channel(QUEUE);
        let handle = PlaneHandle { commands, status: Arc::clone(&self.status) };
        let thread = thread::Builder::new().name("revocations".into()).spawn(move || {
            let mut batch = Vec::new();
            while let Some(first) = orders.blocking_recv() {
                batch.push(first);
                while batch.len() < BATCH
                    && let Ok(more) = orders.try_recv()
                {
                    batch.push(more);
                }
                let stop = batch.iter().any(|c| matches!(c, Command::Stop));
                self.run(batch.drain(..));
                if stop {
                    return;
                }
            }
        })?;
        Ok((handle, thread))
    }

    fn run(&mut self, batch: impl Iterator<Item = Command>) {
        let mut accepted = Vec::new();
        let mut lifted = Vec::new();
        let mut policy = None;
        let mut sweeps = Vec::new();
        for command in batch {
            match command {
                Command::Revoke(order, reply) => {
                    if self.ledger.has_room(order.fingerprint, accepted.len()) {
                        accepted.push((self.claim(order), reply));
                    } else {
                        let limit = self.settings.limits.revoked;
                        let _ = reply.send(Err(RevokeError::Full { limit }));
                    }
                }
                Command::Lift(id, reply) => match self.ledger.claims().get(&id) {
                    Some(claim) => lifted.push((claim.clone(), reply)),
                    None => {
                        let _ = reply.send(Err(RevokeError::Unknown(id)));
                    }
                },
                Command::Condemn(f, c, reply) => {
                    let _ = reply.send(self.condemn(f, c));
                }
                Command::Activate(hash, reply) => policy = Some((hash, reply)),
                Command::Kernel(work) => {
                    if let Some(kernel) = &mut self.kernel {
                        work(kernel);
                    }
                }
                Command::Stop => {}
                Command::Sweep(reply) => sweeps.push(reply),
                Command::List(after, limit, reply) => {
                    let from = (Bound::Excluded(after), Bound::Unbounded);
                    let now = self.clock.wall();
                    let claims = self.ledger.claims().range(from).map(|(_, c)| c);
                    let page = claims.filter(|c| c.until > now).take(limit).cloned();
                    let _ = reply.send(page.collect());
                }
            }
        }
        let expired = if sweeps.is_empty() { Vec::new() } else { self.long_expired() };
        let mut changes = Changes {
            add: accepted.iter().map(|(c, _)| c).collect(),
            lift: lifted.iter().map(|(c, _)| c.id).chain(expired.iter().copied()).collect(),
            policy: None,
        };
        if let Some((hash, _)) = &policy {
            changes.policy = Some((hash.clone(), self.next_generation(hash)));
        }
        if let Err(e) = self.commit(&changes) {
            refuse_all(accepted, lifted, policy, &e);
        } else {
            let generation = changes.policy.take().map(|(_, g)| g);
            self.apply(accepted, lifted, &expired);
            if let (Some((_, reply)), Some(g)) = (policy, generation) {
                let _ = reply.send(self.activate(g));
            }
        }
        if !sweeps.is_empty() {
            self.sweep();
        }
        self.publish();
        for reply in sweeps {
            let _ = reply.send(());
        }
    }

    /// Claims that have been expired for [`GRACE`] of boot time without a break. A wall clock that is wrong for a
    /// while lets revocations lapse while it is; it must not erase them.
    fn long_expired(&mut self) -> Vec<ClaimId> {
        let (now, boot) = (self.ledger.expired(self.clock.wall()), self.clock.boot());
        let before = std::mem::take(&mut self.expired_since);
        self.expired_since = now.iter().map(|id| (*id, before.get(id).copied().unwrap_or(boot))).collect();
        let grace = |since: &BootTime| boot.0.saturating_sub(since.0) >= GRACE_NS;
        now.into_iter().filter(|id| self.expired_since.get(id).is_some_and(grace)).collect()
    }

    fn claim(&mut self, o: Order) -> Claim {
        Claim {
            id: self.store.next_id(),
            fingerprint: o.fingerprint,
            key_id: self.settings.key_id,
            created: self.clock.wall(),
            until: o.until,
            reason: o.reason,
            actor: o.actor,
            source: o.source,
        }
    }

    fn commit(&mut self, changes: &Changes<'_>) -> Result<(), Arc<StoreError>> {
        if let Some(e) = &self.failed {
            return Err(Arc::clone(e));
        }
        if changes.add.is_empty() && changes.lift.is_empty() && changes.policy.is_none() {
            return Ok(());
        }
        self.store.commit(changes).map_err(|e| {
            // After a failed fsync the file's state is not known: nothing is acknowledged until a restart.
            let e = Arc::new(e);
            tracing::error!(error = %e, "no further revocations are accepted until the daemon is restarted");
            self.failed = Some(Arc::clone(&e));
            e
        })
    }

    /// Puts in force what is on disk. Numbers are brought up to date before anybody is told.
    fn apply(&mut self, accepted: Vec<Reply>, lifted: Vec<Reply>, expired: &[ClaimId]) {
        for (claim, _) in &accepted {
            self.ledger.add(claim.clone());
            self.index.set(claim.fingerprint, self.ledger.revoked_until(claim.fingerprint));
        }
        let revoked: Vec<_> = accepted.iter().map(|(claim, _)| claim.fingerprint).collect();
        let mut replies = Vec::with_capacity(accepted.len() + lifted.len());
        for (claim, reply) in accepted {
            let done = self.write(claim.fingerprint);
            replies.push((reply, self.noted(done).map(|()| claim)));
        }
        for (claim, reply) in lifted {
            let done = self.lift(claim.id);
            replies.push((reply, self.noted(done).map(|()| claim)));
        }
        for id in expired {
            let done = self.lift(*id);
            let _ = self.noted(done);
        }
        if !revoked.is_empty() {
            self.end_connections(revoked);
        }
        self.publish();
        for (reply, result) in replies {
            let _ = reply.send(result);
        }
    }

    /// Has living connections of these tokens end.
    fn end_connections(&mut self, tokens: Vec<DenyFingerprint>) {
        let Some(kernel) = &mut self.kernel else { return };
        let done = kernel.end_connections(tokens);
        let _ = self.noted(done);
    }

    fn lift(&mut self, id: ClaimId) -> Result<(), KernelError> {
        let Some(claim) = self.ledger.lift(id) else { return Ok(()) };
        self.index.set(claim.fingerprint, self.ledger.revoked_until(claim.fingerprint));
        self.write(claim.fingerprint)
    }

    fn noted(&mut self, done: Result<(), KernelError>) -> Result<(), RevokeError> {
        done.map_err(|e| {
            tracing::error!(error = %e, "the kernel's deny map is behind the store; it is tried again");
            self.behind = true;
            RevokeError::Kernel(Arc::new(e))
        })
    }

    fn condemn(&mut self, f: DenyFingerprint, c: Condemnation) -> bool {
        if c.generation != self.generation || c.until <= self.clock.wall() {
            return false;
        }
        if !self.ledger.condemn(f, c) {
            self.refused += 1;
            return false;
        }
        let done = self.write(f);
        if self.noted(done).is_err() {
            return false;
        }
        self.end_connections(vec![f]);
        true
    }

    /// The same policy set keeps its generation over a restart, so that its condemnations stay in force.
    fn next_generation(&self, hash: &str) -> u64 {
        match self.store.policy() {
            Some((last, g)) if last == hash => g,
            Some((_, g)) => g + 1,
            None => 1,
        }
    }

    fn activate(&mut self, generation: u64) -> Result<u64, RevokeError> {
        self.generation = generation;
        if let Some(k) = &mut self.kernel {
            let done = k.set_generation(generation);
            self.noted(done)?;
        }
        Ok(generation)
    }

    /// Puts into the kernel what the ledger says of a token.
    fn write(&mut self, f: DenyFingerprint) -> Result<(), KernelError> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        match self.ledger.value(f, &*self.clock) {
            Some(value) => kernel.deny.put(f, value),
            None => kernel.deny.remove(f),
        }
    }

    /// Takes out what has lapsed, and writes all anew where the wall clock was stepped or a write had failed.
    fn sweep(&mut self) {
        for f in self.ledger.sweep_condemned(self.clock.wall(), self.generation) {
            let done = self.write(f);
            let _ = self.noted(done);
        }
        let now = offset(&self.clock);
        let stepped = (now - self.offset).abs() > STEP_NS;
        if !stepped && !self.behind {
            return;
        }
        if stepped {
            tracing::warn!(
                seconds = (now - self.offset) / 1_000_000_000,
                "the wall clock was stepped: expiries are written anew"
            );
        }
        self.offset = now;
        self.behind = false;
        let tokens: Vec<_> = self.ledger.tokens().collect();
        for f in tokens {
            let done = self.write(f);
            let _ = self.noted(done);
        }
    }

    fn publish(&self) {
        let limits = self.ledger.limits();
        let status = PlaneStatus {
            claims: self.ledger.claims().len(),
            revoked: self.ledger.revoked(),
            condemned: self.ledger.condemned(),
            revoked_limit: limits.revoked,
            condemned_limit: limits.condemned,
            condemned_refused: self.refused,
            kernel_behind: self.behind,
            store_failed: self.failed.is_some(),
        };
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

type Reply = (Claim, oneshot::Sender<Result<Claim, RevokeError>>);

fn refuse_all(
    accepted: Vec<Reply>,
    lifted: Vec<Reply>,
    policy: Option<(String, oneshot::Sender<Result<u64, RevokeError>>)>,
    e: &Arc<StoreError>,
) {
    for (_, reply) in accepted.into_iter().chain(lifted) {
        let _ = reply.send(Err(RevokeError::Store(Arc::clone(e))));
    }
    if let Some((_, reply)) = policy {
        let _ = reply.send(Err(RevokeError::Store(Arc::clone(e))));
    }
}

/// How far wall time is ahead of boot time; it changes only when the wall clock is stepped.
fn offset(clock: &SharedClock) -> i128 {
    i128::from(clock.wall().0) * 1_000_000 - i128::from(clock.boot().0)
}

impl PlaneHandle {
    /// Revokes. Returns when the revocation is on disk and in force.
    pub async fn revoke(&self, order: Order) -> Result<Claim, RevokeError> {
        self.ask(|reply| Command::Revoke(order, reply)).await?
    }

    /// Lifts one claim. Returns when that is on disk and in force.
    pub async fn lift(&self, id: ClaimId) -> Result<Claim, RevokeError> {
        self.ask(|reply| Command::Lift(id, reply)).await?
    }

    /// Makes a policy set, named by its hash, the active one; gives its generation.
    pub async fn activate(&self, hash: String) -> Result<u64, RevokeError> {
        self.ask(|reply| Command::Activate(hash, reply)).await?
    }

    /// Takes out what has lapsed.
    pub async fn sweep(&self) -> Result<(), RevokeError> {
        self.ask(Command::Sweep).await
    }

    /// Condemns a token by a policy's decision. `true` when that is in force; `false` where the policy set
    /// is no longer the active one or its quota is used up.
    pub async fn condemn(&self, f: DenyFingerprint, until: WallTime, generation: u64) -> bool {
        let c = Condemnation { until, generation };
        self.ask(|reply| Command::Condemn(f, c, reply)).await.unwrap_or(false)
    }

    /// Numbers now.
    pub fn status(&self) -> PlaneStatus {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Up to `limit` claims in force with an id above `after`, in order of their ids.
    pub async fn list(&self, after: ClaimId, limit: usize) -> Result<Vec<Claim>, RevokeError> {
        self.ask(|reply| Command::List(after, limit, reply)).await
    }

    /// Does something with the kernel side, which the plane owns; [`RevokeError::Stopping`] where there is none.
    pub async fn with_kernel<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Kernel) -> T + Send + 'static,
    ) -> Result<T, RevokeError> {
        self.ask(|reply| {
            Command::Kernel(Box::new(move |kernel| {
                // Nobody waits: the work is done all the same.
                let _ = reply.send(work(kernel));
            }))
        })
        .await
    }

    /// Ends the plane's thread when it has answered what is queued before this.
    pub async fn stop(&self) {
        // Closed already: it has ended.
        let _ = self.commands.send(Command::Stop).await;
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, RevokeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(make(reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => RevokeError::Busy,
            mpsc::error::TrySendError::Closed(_) => RevokeError::Stopping,
        })?;
        answer.await.map_err(|_| RevokeError::Stopping)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::SeqCst};

    use super::*;
    use crate::clock::Clock;

    #[derive(Default)]
    struct Hands {
        wall: AtomicI64,
        boot: AtomicU64,
    }

    impl Clock for Hands {
        fn wall(&self) -> WallTime {
            WallTime(self.wall.load(SeqCst))
        }
        fn boot(&self) -> BootTime {
            BootTime(self.boot.load(SeqCst))
        }
    }

    fn sweep(plane: &mut Plane) {
        plane.run(std::iter::once(Command::Sweep(oneshot::channel().0)));
    }

    #[test]
    fn a_wall_clock_that_is_wrong_for_a_while_erases_no_revocation() {
        let dir = tempfile::tempdir().unwrap();
        let hands = Arc::new(Hands::default());
        let index = Arc::new(Index::default());
        let settings = PlaneSettings { limits: Limits { revoked: 8, condemned: 8 }, key_id: 7 };
        let store = Store::open(&dir.path().join("r.redb"), 7).unwrap();
        let mut plane = Plane::new(store, None, Arc::clone(&index), hands.clone(), settings).unwrap();
        let f = DenyFingerprint([1, 2]);
        let text = String::new;
        let order =
            Order { fingerprint: f, until: WallTime(1000), reason: text(), actor: text(), source: text() };
        plane.run(std::iter::once(Command::Revoke(order, oneshot::channel().0)));
        assert!(index.is_revoked(f, hands.wall()));
        hands.wall.store(i64::MAX / 2, SeqCst);
        sweep(&mut plane);
        assert!(!index.is_revoked(f, hands.wall()), "it lapses while the clock says so");
        hands.wall.store(500, SeqCst);
        sweep(&mut plane);
        assert!(index.is_revoked(f, hands.wall()), "and holds again when the clock is right");
        hands.wall.store(2000, SeqCst);
        sweep(&mut plane);
        hands.boot.store(GRACE_NS, SeqCst);
        sweep(&mut plane);
        assert!(plane.ledger.claims().is_empty(), "a day of running time after its end it is erased");
        assert!(plane.store.claims().unwrap().is_empty());
    }
}
