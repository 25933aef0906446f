//! The one task that writes the store, the index and the kernel's deny map.
//!
//! It runs on a thread of its own, for it waits for the disk. Orders that arrive together share one fsync, and one
//! call into the kernel. What takes long is done a part at a time between orders, by [`super::upkeep`].
//! Long because the steps of a batch are read in one piece.

use std::{
    collections::BTreeSet,
    sync::{Arc, PoisonError, RwLock},
    thread,
    time::Duration,
};

use portcullis_common::fingerprint::DenyFingerprint;
use tokio::sync::{mpsc, watch};

use super::{
    AnyClaim, Claim, ClaimId, Index, KeyIds, Limits, Namer, Order, PlaneHandle, PlaneStatus, RevokeError,
    SelectorClaim, SelectorOrder, Store, StoreError,
    foreign::Foreign,
    handle::{Command, Once, Reply, ReplyTo},
    keys::Lost,
    ledger::{Condemnation, Ledger, Moment},
    room::Room,
    store::{Answer, Changes, Loaded},
    upkeep::Upkeep,
};
use crate::{
    clock::SharedClock,
    kernel::{Kernel, KernelError},
};

/// Orders that wait; more are refused with [`RevokeError::Busy`].
const QUEUE: usize = 4096;
/// Commands that share one fsync at most.
const BATCH: usize = 1024;
/// Orders in them after which no more commands are added.
const ORDERS: usize = 16 * 1024;

/// What the plane is told at start.
#[derive(Clone)]
pub struct PlaneSettings {
    /// Room in the deny map.
    pub limits: Limits,
    /// The fingerprint keys in force.
    pub keys: KeyIds,
    /// Names selectors.
    pub namer: Namer,
}

/// The plane itself: owner of the store and the kernel.
pub struct Plane {
    pub(super) store: Store,
    pub(super) kernel: Option<Kernel>,
    pub(super) ledger: Ledger,
    pub(super) clock: SharedClock,
    pub(super) index: Arc<Index>,
    pub(super) settings: PlaneSettings,
    pub(super) generation: u64,
    /// Claims of other hosts.
    pub(super) foreign: Foreign,
    status: Arc<RwLock<PlaneStatus>>,
    head: watch::Sender<u64>,
    refused: u64,
    pub(super) behind: bool,
    /// Tokens of writes to the kernel that failed.
    pub(super) unwritten: Vec<DenyFingerprint>,
    /// What the kernel had allowed was not forgotten when it should have been.
    pub(super) unforgotten: bool,
    pub(super) failed: Option<Arc<StoreError>>,
    pub(super) upkeep: Upkeep,
    /// Claims without a name under the own key are to be counted anew, however many they are.
    pub(super) count: bool,
}

/// A plane that takes no orders yet.
pub struct Waiting {
    /// The plane.
    pub plane: Plane,
    orders: mpsc::Receiver<Command>,
}

impl Waiting {
    /// Has it take orders, on a thread of its own until every handle is gone. The thread is to be joined.
    pub fn start(self) -> std::io::Result<thread::JoinHandle<()>> {
        let Self { mut plane, orders } = self;
        thread::Builder::new().name("revocations".into()).spawn(move || plane.serve(orders))
    }
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
        let mut plane = Self::read(store, index, clock, settings)?;
        plane.take_kernel(kernel)?;
        Ok(plane)
    }

    /// Loads the store alone, and refuses one that would not hold under the keys in force: before the kernel is touched.
    pub fn read(
        store: Store,
        index: Arc<Index>,
        clock: SharedClock,
        settings: PlaneSettings,
    ) -> Result<Self, RevokeError> {
        let mut ledger = Ledger::new(settings.limits, Arc::clone(&index));
        let (mut selectors, mut foreign) = (Vec::new(), Foreign::default());
        let (mut lost, known) = (Lost::default(), store.keys());
        let read = store.load(|one| match one {
            Loaded::Token(head) => {
                lost.look(&head, &known, clock.wall());
                ledger.add(head);
            }
            Loaded::Selector(claim) => selectors.push(*claim),
            Loaded::Foreign(here, name) => foreign.add(name, here),
        });
        read.map_err(|e| RevokeError::Read(Arc::new(e)))?;
        lost.refuse()?;
        ledger.calendar().resume(store.seen(), clock.boot());
        let upkeep = Upkeep::new(&clock);
        let mut plane = Self {
            store,
            kernel: None,
            ledger,
            clock,
            index,
            settings,
            generation: 0,
            foreign,
            status: Arc::default(),
            head: watch::Sender::default(),
            refused: 0,
            behind: false,
            unwritten: Vec::new(),
            unforgotten: false,
            failed: None,
            upkeep,
            count: true,
        };
        for claim in &selectors {
            plane.select_in_force(claim);
        }
        plane.publish();
        Ok(plane)
    }

    /// Brings the kernel's map in line with what was read.
    pub fn take_kernel(&mut self, kernel: Option<Kernel>) -> Result<(), RevokeError> {
        if kernel.is_some() {
            self.check_room()?;
        }
        self.kernel = kernel;
        self.check_store()?;
        if self.index.selectors.count() > 0 {
            // An earlier daemon may have died between taking one and forgetting what the kernel had allowed.
            self.forget_verdicts().map_err(|e| RevokeError::Kernel(Arc::new(e)))?;
        }
        self.reconcile().map_err(|e| RevokeError::Kernel(Arc::new(e)))?;
        self.publish();
        Ok(())
    }

    /// Refuses a store that is new where the kernel has revocations: it would lift them all.
    fn check_store(&mut self) -> Result<(), RevokeError> {
        let Some(kernel) = self.kernel.as_mut().filter(|_| self.store.is_new()) else { return Ok(()) };
        let (now, mut revoked) = (self.clock.boot().0, BTreeSet::new());
        let read = kernel.each_refused(|f, value| {
            if value.revoked_until > now {
                revoked.insert(f);
            }
        });
        read.map_err(|e| RevokeError::Kernel(Arc::new(e)))?;
        if revoked.is_empty() { Ok(()) } else { Err(RevokeError::StoreGone { tokens: revoked.len() }) }
    }

    /// Makes a policy set the active one before anything runs; gives its generation.
    pub fn activate_first(&mut self, hash: &str) -> Result<u64, RevokeError> {
        let generation = self.next_generation(hash);
        let keys = self.store.new_keys(self.settings.keys);
        let changes = Changes { policy: Some((hash.to_owned(), generation)), keys, ..Changes::default() };
        self.commit(&changes).map_err(RevokeError::Store)?;
        self.activate(generation)
    }

    /// The kernel side, where there is one.
    pub fn kernel_mut(&mut self) -> Option<&mut Kernel> {
        self.kernel.as_mut()
    }

    /// The generation that a policy set is going to have, by its hash.
    pub fn generation_of(&self, hash: &str) -> u64 {
        self.next_generation(hash)
    }

    /// Whether the kernel's map has room for what was read.
    pub fn check_room(&self) -> Result<(), RevokeError> {
        let (tokens, limit) = (self.ledger.revoked(), self.settings.limits.revoked);
        if tokens > limit { Err(RevokeError::DoesNotFit { tokens, limit }) } else { Ok(()) }
    }

    /// Runs on a thread of its own until every handle is gone. The thread is to be joined.
    pub fn start(self) -> std::io::Result<(PlaneHandle, thread::JoinHandle<()>)> {
        let (handle, waiting) = self.ready();
        Ok((handle, waiting.start()?))
    }

    /// A way to give it orders, which wait until it is started.
    pub fn ready(self) -> (PlaneHandle, Waiting) {
        let (commands, orders) = mpsc::channel(QUEUE);
        let handle = PlaneHandle {
            commands,
            status: Arc::clone(&self.status),
            reader: self.store.reader(),
            clock: Arc::clone(&self.clock),
            namer: self.settings.namer.clone(),
            head: self.head.subscribe(),
            origin: self.store.origin(),
        };
        (handle, Waiting { plane: self, orders })
    }

    fn serve(&mut self, orders: mpsc::Receiver<Command>) {
        self.take_orders(orders);
        self.keep_seen();
    }

    fn take_orders(&mut self, mut orders: mpsc::Receiver<Command>) {
        let mut batch = Vec::new();
        loop {
            // Upkeep that is under way goes on where nobody waits.
            let first = if self.upkeep.is_busy() { orders.try_recv().ok() } else { orders.blocking_recv() };
            match first {
                Some(first) => batch.push(first),
                None if self.upkeep.is_busy() && !orders.is_closed() => {
                    self.step();
                    continue;
                }
                None => return,
            }
            let mut count = batch.iter().map(Command::orders).sum::<usize>();
            while batch.len() < BATCH
                && count < ORDERS
                && let Ok(more) = orders.try_recv()
            {
                count += more.orders();
                batch.push(more);
            }
            let stop = batch.iter().any(|c| matches!(c, Command::Stop));
            self.run(batch.drain(..));
            if stop {
                return;
            }
            // A stream of orders must not hold it up for ever.
            self.step();
        }
    }

    pub(super) fn run(&mut self, batch: impl Iterator<Item = Command>) {
        let mut orders: Vec<Ordered> = Vec::new();
        let mut selects: Vec<Selects> = Vec::new();
        let mut follows = Vec::new();
        let mut room = Room::default();
        let mut lifted = Vec::new();
        let mut noted = Vec::new();
        let mut policy = None;
        let mut sweeps = Vec::new();
        let mut remote = Vec::new();
        for command in batch {
            match command {
                Command::Revoke(new, once, reply) => {
                    if is_under_way(once, &orders, &selects) {
                        reply.send(Err(RevokeError::Busy));
                    } else if let Some(answer) = self.repeated(once) {
                        reply.send(answer);
                    } else if let Err(e) = room.take_all(&self.ledger, &new, self.settings.keys) {
                        reply.send(Err(e));
                    } else {
                        orders.push((new, once, reply));
                    }
                }
                Command::Select(order, once, reply) => {
                    if is_under_way(once, &orders, &selects) {
                        let _ = reply.send(Err(RevokeError::Busy));
                    } else if let Some(answer) = self.selected(once) {
                        let _ = reply.send(answer);
                    } else if let Err(e) = self.room_for(&order, &selects) {
                        let _ = reply.send(Err(e));
                    } else {
                        selects.push((*order, once, reply));
                    }
                }
                Command::Follow(parent, tokens, when, reply) => follows.push((parent, tokens, when, reply)),
                Command::Lift(id, by, reply) => match self.store.reader().get(id) {
                    Ok(Some(claim)) => lifted.push(self.lifting(claim, by, reply)),
                    Ok(None) => {
                        let _ = reply.send(Err(RevokeError::Unknown(id)));
                    }
                    Err(e) => {
                        let _ = reply.send(Err(RevokeError::Read(Arc::new(e))));
                    }
                },
                Command::Remote(update, reply) => remote.push((update, reply)),
                Command::Condemn(f, c, reply) => {
                    let _ = reply.send(self.condemn(f, c));
                }
                Command::End(f) => self.end_connections(&[f]),
                Command::Activate(hash, reply) => policy = Some((hash, reply)),
                Command::Note(note, reply) => noted.push((note, reply)),
                Command::Standing(tokens, selectors, reply) => {
                    let _ = reply.send(self.standing(&tokens, &selectors));
                }
                Command::Kernel(work) => {
                    if let Some(kernel) = &mut self.kernel {
                        work(kernel);
                    }
                }
                Command::Stop => {}
                Command::Sweep(reply) => sweeps.push(reply),
            }
        }
        // Behind the orders of the batch, wherever in it they came: they make room for those.
        let follows = self.following(follows, &lifted, &mut room);
        self.carry_out(Batch { orders, selects, follows, lifted, policy, noted });
        // Other hosts' orders are entries of their own.
        for (update, reply) in remote {
            let taken = self.take_remote(*update);
            self.publish();
            let _ = reply.send(taken);
        }
        let more = !sweeps.is_empty() && self.sweep();
        self.publish();
        for reply in sweeps {
            let _ = reply.send(more);
        }
    }

    /// Stores what a batch orders by one entry and one sync, puts it in force, and answers.
    fn carry_out(&mut self, batch: Batch) {
        let Batch { orders, selects, follows, lifted, policy, noted } = batch;
        let taken = Moment::now(&*self.clock);
        // Ids ascend in the log: they are drawn when nothing else can be written in between, in the order of the entry.
        let accepted: Vec<Accepted> = orders
            .into_iter()
            .map(|(orders, once, reply)| {
                let claims = orders.into_iter().map(|o| self.claim(o, taken)).collect();
                Accepted { claims, once, reply }
            })
            .collect();
        let condemned = self.condemned(&follows);
        let followed: Vec<Followed> = follows
            .into_iter()
            .map(|(orders, _, reply)| (orders.into_iter().map(|o| self.claim(o, taken)).collect(), reply))
            .collect();
        let selected: Vec<Selected> = selects
            .into_iter()
            .map(|(o, once, reply)| (self.selector_claim(o, taken), once, reply))
            .collect();
        let ids = |a: &Accepted| a.claims.iter().map(|c| c.id).collect();
        let answer = |once: Option<Once>, ids| once.map(|once| Answer { once, ids });
        let by_token = accepted.iter().filter_map(|a| answer(a.once, ids(a)));
        let by_selector = selected.iter().filter_map(|(c, once, _)| answer(*once, vec![c.id]));
        let mut changes = Changes {
            add: accepted.iter().flat_map(|a| &a.claims).chain(followed.iter().flat_map(|f| &f.0)).collect(),
            select: selected.iter().map(|(c, ..)| c).collect(),
            lift: lifted.iter().map(|l| (l.ids(), l.by.clone())).collect(),
            answered: by_token.chain(by_selector).collect(),
            notes: noted.iter().map(|(note, _)| note.clone()).collect(),
            condemned,
            ..Changes::default()
        };
        self.bury(lifted.iter().map(|l| &l.claim), &mut changes);
        if let Some((hash, _)) = &policy {
            changes.policy = Some((hash.clone(), self.next_generation(hash)));
        }
        // Notes that nobody waits for do not make anybody wait, nor does it that a selector condemned nobody at once.
        changes.lazy = changes.is_notes_alone() && noted.iter().all(|(_, reply)| reply.is_none());
        match self.commit(&changes) {
            Err(e) => {
                let refuse = || RevokeError::Store(Arc::clone(&e));
                for a in accepted {
                    a.reply.send(Err(refuse()));
                }
                for (_, reply) in followed {
                    let _ = reply.send(Err(refuse()));
                }
                for (.., reply) in selected {
                    let _ = reply.send(Err(refuse()));
                }
                for l in lifted {
                    let _ = l.reply.send(Err(refuse()));
                }
                if let Some((_, reply)) = policy {
                    let _ = reply.send(Err(refuse()));
                }
                for reply in noted.into_iter().filter_map(|(_, reply)| reply) {
                    let _ = reply.send(Err(refuse()));
                }
            }
            Ok(seq) => {
                let generation = changes.policy.take().map(|(_, g)| g);
                let orders =
                    !(changes.add.is_empty() && changes.select.is_empty() && changes.lift.is_empty());
                drop(changes);
                let synced = self.since(taken);
                self.apply(
                    Durable { accepted, followed, selected, lifted },
                    orders.then_some((seq, taken, synced)),
                );
                if let (Some((_, reply)), Some(g)) = (policy, generation) {
                    let _ = reply.send(self.activate(g));
                }
                for reply in noted.into_iter().filter_map(|(_, reply)| reply) {
                    let _ = reply.send(Ok(()));
                }
            }
        }
    }

    pub(super) fn since(&self, taken: Moment) -> Duration {
        Duration::from_nanos(self.clock.boot().0.saturating_sub(taken.boot.0))
    }

    /// What an order that was given before comes to; `None` for one that was not.
    fn repeated(&mut self, once: Option<Once>) -> Option<Result<Vec<Claim>, RevokeError>> {
        let once = once?;
        let claims = match self.answered(once)? {
            Ok(claims) => claims,
            Err(e) => return Some(Err(e)),
        };
        let reader = self.store.reader();
        let read = |id: ClaimId| match reader.claim(id) {
            Ok(claim) => claim.ok_or(RevokeError::Unknown(id)),
            Err(e) => Err(RevokeError::Read(Arc::new(e))),
        };
        let claims: Vec<_> = claims.into_iter().map(read).collect();
        // The first time the kernel may not have taken it: nothing of it is acknowledged before it has.
        let tokens: Vec<_> = claims.iter().flatten().map(|c| self.name_of(c)).collect();
        let claims = claims.into_iter().collect::<Result<Vec<_>, _>>();
        if once.renews && matches!(claims, Err(RevokeError::Unknown(_))) {
            return None;
        }
        let written = self.write(&tokens).map_err(|e| RevokeError::Kernel(Arc::new(self.noted(e))));
        Some(written.and(claims))
    }

    /// The claims of an order that was given before.
    pub(super) fn answered(&self, once: Once) -> Option<Result<Vec<ClaimId>, RevokeError>> {
        let found = self.store.reader().answered(&once.key)?;
        Some(if found.request == once.request { Ok(found.claims) } else { Err(RevokeError::KeyReused) })
    }

    /// By which name a claim's token stands here.
    pub(super) fn name_of(&self, c: &Claim) -> DenyFingerprint {
        self.settings.keys.name(&c.fingerprints())
    }

    fn claim(&mut self, o: Order, taken: Moment) -> Claim {
        Claim {
            id: self.store.next_id(),
            fingerprint: o.token.first.fingerprint,
            key_id: o.token.first.key_id,
            other: o.token.other,
            created: taken.wall,
            until: o.until,
            reason: o.reason,
            actor: o.actor,
            ticket: o.ticket,
            source: o.source,
            parent: o.parent,
        }
    }

    pub(super) fn commit(&mut self, changes: &Changes<'_>) -> Result<u64, Arc<StoreError>> {
        if let Some(e) = &self.failed {
            return Err(Arc::clone(e));
        }
        if changes.is_empty() {
            return Ok(0);
        }
        let result = self.store.commit(changes, self.clock.wall());
        result.map_err(|e| self.store_refused(e))
    }

    /// Notes that the store did not take a write.
    pub(super) fn store_refused(&mut self, e: StoreError) -> Arc<StoreError> {
        let e = Arc::new(e);
        if matches!(*e, StoreError::NoRoom { .. }) {
            tracing::error!(error = %e, "a revocation was refused");
        } else {
            // After a failed fsync what the disk holds is not known: nothing is acknowledged until a restart.
            tracing::error!(error = %e, "no further revocations are accepted until the daemon is restarted");
            self.failed = Some(Arc::clone(&e));
        }
        e
    }

    /// Puts in force what is on disk. Numbers are brought up to date before anybody is told.
    fn apply(&mut self, durable: Durable, entry: Option<(u64, Moment, Duration)>) {
        let Durable { accepted, followed, selected, lifted } = durable;
        let mut revoked = Vec::new();
        for claim in accepted.iter().flat_map(|a| &a.claims).chain(followed.iter().flat_map(|f| &f.0)) {
            let head = self.settings.keys.head(claim);
            self.ledger.add(head);
            revoked.push(head.fingerprint);
        }
        for (claim, ..) in &selected {
            self.select_in_force(claim);
        }
        let mut tokens = revoked.clone();
        for one in &lifted {
            self.lift(one);
            self.foreign.remove(one.claim.id());
            tokens.extend(one.tokens.iter().map(|(_, f)| *f));
        }
        tokens.sort_unstable_by_key(|f| f.0);
        tokens.dedup();
        let written = self.write(&tokens).map_err(|e| Arc::new(self.noted(e)));
        // The kernel's own allows know no selectors; tokens that these do not match are asked about once more.
        let forgotten = if selected.is_empty() { Ok(()) } else { self.forget().map_err(Arc::new) };
        if let Some((seq, taken, synced)) = entry {
            let in_force = (written.is_ok() && forgotten.is_ok()).then(|| self.since(taken));
            self.store.done(seq, taken.wall, synced, in_force);
        }
        if !revoked.is_empty() {
            self.end_connections(&revoked);
        }
        self.publish();
        let failed = |e: &Arc<KernelError>| RevokeError::Kernel(Arc::clone(e));
        let written = || written.as_ref().copied().map_err(failed);
        for a in accepted {
            a.reply.send(written().map(|()| a.claims));
        }
        for (claims, reply) in followed {
            let _ = reply.send(written().map(|()| claims.len()));
        }
        for (claim, _, reply) in selected {
            let _ = reply.send(forgotten.as_ref().map(|()| claim).map_err(failed));
        }
        for one in lifted {
            let _ = one.reply.send(written().map(|()| one.claim));
        }
    }

    /// Has living connections of these tokens end.
    pub(super) fn end_connections(&mut self, tokens: &[DenyFingerprint]) {
        let Some(kernel) = &mut self.kernel else { return };
        if let Err(e) = kernel.end_connections(tokens) {
            self.noted(e);
        }
    }

    /// Says that the kernel's map is behind, and remembers it.
    pub(super) fn noted(&mut self, e: KernelError) -> KernelError {
        tracing::error!(error = %e, "the kernel's deny map is behind the store; it is tried again");
        self.behind = true;
        e
    }

    fn condemn(&mut self, f: DenyFingerprint, c: Condemnation) -> bool {
        if c.generation != self.generation || c.until <= self.clock.wall() {
            return false;
        }
        if !self.ledger.condemn(f, c) {
            self.refused += 1;
            return false;
        }
        if let Err(e) = self.write(&[f]) {
            self.noted(e);
            return false;
        }
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
        if let Some(k) = &mut self.kernel
            && let Err(e) = k.set_generation(generation)
        {
            return Err(RevokeError::Kernel(Arc::new(self.noted(e))));
        }
        Ok(generation)
    }

    /// Puts into the kernel what the ledger says of these tokens. Those of a write that failed are written again by the
    /// sweep: it is they alone whose removal nobody else would see to.
    pub(super) fn write(&mut self, tokens: &[DenyFingerprint]) -> Result<(), KernelError> {
        let written = self.try_write(tokens);
        if written.is_err() {
            self.unwritten.extend(tokens);
        }
        written
    }

    fn try_write(&mut self, tokens: &[DenyFingerprint]) -> Result<(), KernelError> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let now = Moment::now(&*self.clock);
        let (mut put, mut remove) = (Vec::new(), Vec::new());
        for f in tokens {
            match self.ledger.value(*f, now) {
                Some(value) => put.push((*f, value)),
                None => remove.push(*f),
            }
        }
        let added = kernel.refuse(&put);
        kernel.release(&remove)?;
        added
    }

    pub(super) fn publish(&mut self) {
        let limits = self.ledger.limits();
        let (under_other_key, under_no_key) = self.ledger.unnamed(self.clock.wall(), self.count);
        self.count = false;
        let status = PlaneStatus {
            under_other_key,
            under_no_key,
            claims: self.ledger.claims(),
            revoked: self.ledger.revoked(),
            condemned: self.ledger.condemned(),
            revoked_limit: limits.revoked,
            condemned_limit: limits.condemned,
            condemned_refused: self.refused,
            kernel_behind: self.behind,
            store_failed: self.failed.is_some(),
        };
        *self.status.write().unwrap_or_else(PoisonError::into_inner) = status;
        let head = self.store.head().seq;
        self.head.send_if_modified(|known| std::mem::replace(known, head) != head);
    }
}

/// Orders that came together.
type Ordered = (Vec<Order>, Option<Once>, ReplyTo);
/// A selector that is ordered.
type Selects = (SelectorOrder, Option<Once>, Reply<SelectorClaim>);
/// Orders that follow from a selector's, the selector's claim where its order counts them, and who waits for their number.
pub(super) type Follows = (Vec<Order>, Option<ClaimId>, Reply<usize>);
/// Claims that follow from a selector's, and who waits for their number.
type Followed = (Vec<Claim>, Reply<usize>);
/// A selector that was accepted.
type Selected = (SelectorClaim, Option<Once>, Reply<SelectorClaim>);

/// What is ordered at about the same time.
struct Batch {
    orders: Vec<Ordered>,
    selects: Vec<Selects>,
    follows: Vec<Follows>,
    lifted: Vec<Lifted>,
    policy: Option<(String, Reply<u64>)>,
    noted: Vec<(Vec<u8>, Option<Reply<()>>)>,
}

/// What of it is on the disk.
struct Durable {
    accepted: Vec<Accepted>,
    followed: Vec<Followed>,
    selected: Vec<Selected>,
    lifted: Vec<Lifted>,
}

/// Orders that were accepted together, as claims.
struct Accepted {
    claims: Vec<Claim>,
    once: Option<Once>,
    reply: ReplyTo,
}

/// A claim that is lifted.
pub(super) struct Lifted {
    pub claim: AnyClaim,
    /// Claims on tokens that go: itself, or those that follow from it.
    pub tokens: Vec<(ClaimId, DenyFingerprint)>,
    /// Who has it done (JSON).
    pub by: Vec<u8>,
    pub reply: Reply<AnyClaim>,
}

/// Whether an order of this key is in the batch already.
fn is_under_way(once: Option<Once>, orders: &[Ordered], selects: &[Selects]) -> bool {
    let same = |other: &Option<Once>| other.zip(once).is_some_and(|(a, b)| a.key == b.key);
    orders.iter().any(|(_, o, _)| same(o)) || selects.iter().any(|(_, o, _)| same(o))
}

#[cfg(test)]
mod tests;
