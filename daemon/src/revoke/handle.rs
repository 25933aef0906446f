//! How the rest of the daemon gives orders to the plane.

use std::{
    collections::HashSet,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use portcullis_common::fingerprint::DenyFingerprint;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    AnyClaim, Claim, ClaimId, Count, Ended, Fingerprints, LogEntry, Namer, Names, Order, Receipt, Selector,
    SelectorClaim, SelectorOrder, StoreError,
    foreign::{Fleet, Grave, Name, Origin},
    ledger::Condemnation,
    remote::{Taken, Update},
    selecting::{self, Matched},
    store::StoreReader,
};
use crate::{
    clock::{SharedClock, WallTime},
    kernel::{Kernel, KernelError},
};

/// How long the connections of a token live on that a policy condemns. The request that the policy was asked about is
/// still to be answered, by the server itself.
const LAST_ANSWER: Duration = Duration::from_secs(2);

/// Tokens that one entry of the log condemns at a selector's order.
const TOGETHER: usize = 8192;

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
    /// Too many claims on one token, or under one selector.
    #[error(
        "it is revoked {limit} times already, and more revocations of the same token or selector are not taken: lift some of them"
    )]
    TooMany {
        /// As many as there may be.
        limit: usize,
    },
    /// The store did not take it: it is not in force.
    #[error("{0}; the revocation is not in force")]
    Store(Arc<StoreError>),
    /// The store cannot be read.
    #[error("{0}")]
    Read(Arc<StoreError>),
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
    /// An earlier daemon revoked what a store that is new knows nothing of.
    #[error(
        "the kernel refuses {tokens} tokens that were revoked, and the revocation store is new: is its disk mounted? Put the store back, or run `portcullis detach` to begin without them"
    )]
    StoreGone {
        /// Tokens revoked.
        tokens: usize,
    },
    /// Claims hold that no key in force has a name of.
    #[error(
        "{claims} revocations of single tokens that hold until {} stand under fingerprint key {key:08x} alone, which is not configured any more: name its file as `token.other_fingerprint_key` until then, or lift them",
        until.shown()
    )]
    KeyMissing {
        /// Their key.
        key: u32,
        /// How many.
        claims: usize,
        /// Until when the last of them holds.
        until: WallTime,
    },
    /// The claim is not there.
    #[error("there is no revocation {0}: `portcullis revocations` lists those in force")]
    Unknown(ClaimId),
    /// The key of an order was used for another one.
    #[error("the idempotency key was used for another order: use a fresh one for each")]
    KeyReused,
    /// Too many orders wait.
    #[error("too many revocations are under way: try again")]
    Busy,
    /// The daemon stops.
    #[error("the daemon is stopping")]
    Stopping,
}

/// Marks an order that may come twice, as HTTP's `Idempotency-Key` does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Once {
    /// Digest of the key and of who gives it.
    pub key: [u8; 16],
    /// Digest of what is ordered: another order under the same key is refused.
    pub request: [u8; 16],
    /// Until when it may come again; for a day at least.
    pub until: WallTime,
    /// Whether it is an order once more when what came of it was lifted.
    pub renews: bool,
}

impl Once {
    /// Of an order that may come again within a day.
    pub fn new(key: &[&[u8]], request: &[&[u8]]) -> Self {
        Self { key: digest(key), request: digest(request), until: WallTime(0), renews: false }
    }

    /// Of an order that may come again until some time.
    #[must_use]
    pub fn until(self, until: WallTime) -> Self {
        Self { until, ..self }
    }
}

/// Of texts, with their lengths, so that no two lists are one.
fn digest(texts: &[&[u8]]) -> [u8; 16] {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_le_bytes());
        context.update(text);
    }
    let mut half = [0; 16];
    half.copy_from_slice(&context.finish().as_ref()[..16]);
    half
}

/// Who waits for revocations.
pub(super) enum ReplyTo {
    /// For one.
    One(Reply<Claim>),
    /// For several, which come together or not at all.
    Many(Reply<Vec<Claim>>),
}

impl ReplyTo {
    /// Answers; who has gone away does not hear it.
    pub fn send(self, answer: Result<Vec<Claim>, RevokeError>) {
        match self {
            Self::One(to) => {
                let one = answer.and_then(|mut claims| claims.pop().ok_or(RevokeError::Stopping));
                let _ = to.send(one);
            }
            Self::Many(to) => {
                let _ = to.send(answer);
            }
        }
    }
}

/// Who waits for something.
pub(super) type Reply<T> = oneshot::Sender<Result<T, RevokeError>>;

/// When tokens were found to match a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum When {
    /// By its order, which counts them.
    AtOnce,
    /// At first sight.
    Presented,
}

/// What the plane is asked.
pub(super) enum Command {
    Revoke(Vec<Order>, Option<Once>, ReplyTo),
    Lift(ClaimId, Vec<u8>, Reply<AnyClaim>),
    Select(Box<SelectorOrder>, Option<Once>, Reply<SelectorClaim>),
    Follow(ClaimId, Vec<Matched>, When, Reply<usize>),
    Note(Vec<u8>, Option<Reply<()>>),
    Standing(Vec<Fingerprints>, Vec<Selector>, oneshot::Sender<Vec<Vec<ClaimId>>>),
    Remote(Box<Update>, Reply<Taken>),
    Condemn(DenyFingerprint, Condemnation, oneshot::Sender<bool>),
    End(DenyFingerprint),
    Activate(String, Reply<u64>),
    Sweep(oneshot::Sender<bool>),
    Kernel(Box<dyn FnOnce(&mut Kernel) + Send>),
    Stop,
}

impl Command {
    /// How many orders to revoke it brings.
    pub fn orders(&self) -> usize {
        match self {
            Self::Revoke(orders, ..) => orders.len(),
            Self::Follow(_, tokens, ..) => tokens.len(),
            _ => 0,
        }
    }
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
    /// Claims in force under the other fingerprint key alone.
    pub under_other_key: Count,
    /// Claims that another host ordered under a key that is not in force here: they refuse nobody.
    pub under_no_key: Count,
}

/// Gives orders to the plane; cheap to clone.
#[derive(Clone)]
pub struct PlaneHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: Arc<RwLock<PlaneStatus>>,
    pub(super) reader: StoreReader,
    pub(super) clock: SharedClock,
    pub(super) namer: Namer,
    pub(super) head: watch::Receiver<u64>,
    pub(super) origin: Origin,
}

impl PlaneHandle {
    /// Revokes. Returns when the revocation is on disk and in force.
    pub async fn revoke(&self, order: Order) -> Result<Claim, RevokeError> {
        self.revoke_once(order, None).await
    }

    /// The same of an order that may come twice: the second time it gives the claim of the first.
    pub async fn revoke_once(&self, order: Order, once: Option<Once>) -> Result<Claim, RevokeError> {
        self.ask(|reply| Command::Revoke(vec![order], once, ReplyTo::One(reply))).await?
    }

    /// Revokes several at once, all or none of them; some thousands are as many as should come together.
    pub async fn revoke_all(
        &self,
        orders: Vec<Order>,
        once: Option<Once>,
    ) -> Result<Vec<Claim>, RevokeError> {
        self.ask(|reply| Command::Revoke(orders, once, ReplyTo::Many(reply))).await?
    }

    /// What came of an order that was given before, as far as it was the same.
    pub fn given(&self, once: &Once) -> Option<Vec<ClaimId>> {
        self.reader.answered(&once.key).filter(|a| a.request == once.request).map(|a| a.claims)
    }

    /// Revokes by selector. Returns when every token that it matches is refused by the decision path; those seen lately
    /// are then condemned by [`Self::follow`].
    pub async fn select(&self, order: SelectorOrder) -> Result<SelectorClaim, RevokeError> {
        self.select_once(order, None).await
    }

    /// The same of an order that may come twice.
    pub async fn select_once(
        &self,
        order: SelectorOrder,
        once: Option<Once>,
    ) -> Result<SelectorClaim, RevokeError> {
        self.ask(|reply| Command::Select(Box::new(order), once, reply)).await?
    }

    /// The same of several, each by itself; they share what syncs they can.
    pub async fn select_all(
        &self,
        orders: Vec<(SelectorOrder, Option<Once>)>,
    ) -> Vec<Result<SelectorClaim, RevokeError>> {
        let asked: Vec<_> = orders
            .into_iter()
            .map(|(order, once)| self.send(|reply| Command::Select(Box::new(order), once, reply)))
            .collect();
        let mut all = Vec::with_capacity(asked.len());
        for answer in asked {
            all.push(match answer {
                Ok(answer) => answer.await.map_err(|_| RevokeError::Stopping).flatten(),
                Err(e) => Err(e),
            });
        }
        all
    }

    /// Notes in the audit log what changes no claim. Returns when it is on the disk.
    pub async fn note(&self, what: &serde_json::Value) -> Result<(), RevokeError> {
        let note = what.to_string().into_bytes();
        self.ask(|reply| Command::Note(note, Some(reply))).await?
    }

    /// The same, without waiting: it is on the disk within seconds, unless the machine stops before.
    pub fn note_later(&self, what: &serde_json::Value) {
        let room = self.commands.capacity() >= self.commands.max_capacity() / 2;
        let note = || Command::Note(what.to_string().into_bytes(), None);
        if !room || self.commands.try_send(note()).is_err() {
            tracing::warn!("a line of the audit log was dropped: too many orders wait, or the daemon stops");
        }
    }

    /// Takes what other hosts of a fleet told. Returns when it is on the disk and in force; selectors are then to be
    /// followed, as those ordered here are.
    pub async fn take_remote(&self, update: Update) -> Result<Taken, RevokeError> {
        self.ask(|reply| Command::Remote(Box::new(update), reply)).await?
    }

    /// What the store keeps of a fleet.
    pub fn fleet(&self) -> Fleet {
        self.reader.fleet()
    }

    /// Up to `limit` claims of other hosts that were lifted, in order of their names, behind one.
    pub fn graves(&self, after: Option<Name>, limit: usize) -> Vec<Grave> {
        self.reader.graves(after, limit)
    }

    /// The id that this host's log was given when it was made: its name in a fleet.
    pub const fn origin(&self) -> Origin {
        self.origin
    }

    /// The entry before the oldest that [`Self::entries`] has.
    pub fn oldest(&self) -> u64 {
        self.reader.oldest().unwrap_or(0)
    }

    /// Ids of claims below this one are used up.
    pub fn next_id(&self) -> u64 {
        self.reader.next_id()
    }

    /// How a claim's order was carried out; `None` where there is no such claim in force.
    pub async fn receipt(&self, id: ClaimId) -> Result<Option<Receipt>, RevokeError> {
        self.read(move |reader| reader.receipt(id)).await
    }

    /// What took a claim away that is not in force any more, as far as the log tells.
    pub async fn ended(&self, id: ClaimId) -> Result<Option<Ended>, RevokeError> {
        self.read(move |reader| reader.ended(id)).await
    }

    /// Up to `limit` entries of the log after one; `None` where some of them are not kept any more.
    pub async fn entries(&self, after: u64, limit: usize) -> Result<Option<Vec<LogEntry>>, RevokeError> {
        self.read(move |reader| reader.entries(after, limit)).await
    }

    /// The number of the log's last entry, as it grows: what it says is in force.
    pub fn head(&self) -> watch::Receiver<u64> {
        self.head.clone()
    }

    /// A claim in force.
    pub async fn get(&self, id: ClaimId) -> Result<Option<AnyClaim>, RevokeError> {
        self.read(move |reader| reader.get(id)).await
    }

    /// What stands for each of some tokens, and then under the name of each of some selectors: claims that were ordered, in
    /// time or not, by ascending ids.
    pub async fn standing(
        &self,
        tokens: Vec<Fingerprints>,
        selectors: Vec<Selector>,
    ) -> Result<Vec<Vec<AnyClaim>>, RevokeError> {
        let all = self.ask(|reply| Command::Standing(tokens, selectors, reply)).await?;
        self.read(move |reader| {
            let read = |ids: Vec<ClaimId>| -> Result<Vec<AnyClaim>, StoreError> {
                let claims = ids.into_iter().filter_map(|id| reader.get(id).transpose());
                let is_ordered = |c: &AnyClaim| !matches!(c, AnyClaim::Token(c) if c.parent.is_some());
                claims.filter(|c| c.as_ref().map_or(true, is_ordered)).collect()
            };
            all.into_iter().map(read).collect()
        })
        .await
    }

    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&StoreReader) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, RevokeError> {
        let reader = self.reader.clone();
        tokio::task::spawn_blocking(move || work(&reader))
            .await
            .map_err(|_| RevokeError::Stopping)?
            .map_err(|e| RevokeError::Read(Arc::new(e)))
    }

    /// The same for a token that was presented, where nobody waits: it gives way to orders where many wait. The decision
    /// path refuses the token anyway, and the next request asks again.
    pub async fn follow_presented(&self, parent: ClaimId, token: Matched) -> Result<usize, RevokeError> {
        if self.commands.capacity() < self.commands.max_capacity() / 2 {
            return Err(RevokeError::Busy);
        }
        self.ask(|reply| Command::Follow(parent, vec![token], When::Presented, reply)).await?
    }

    /// Condemns tokens that a selector's claim matches; tells how many were new. In the kernel when this returns.
    pub async fn follow(&self, parent: ClaimId, tokens: Vec<Matched>) -> Result<usize, RevokeError> {
        self.follow_all(vec![(parent, tokens)]).await.pop().unwrap_or(Ok(0))
    }

    /// The same for several selectors' claims; they share what syncs they can.
    pub async fn follow_all(&self, matched: Vec<(ClaimId, Vec<Matched>)>) -> Vec<Result<usize, RevokeError>> {
        let ask = |parent, some: &[Matched]| {
            self.send(|reply| Command::Follow(parent, some.to_vec(), When::AtOnce, reply))
        };
        // That there are none is told too, for the receipt.
        let parts = |tokens: &[Matched]| tokens.len().div_ceil(TOGETHER).max(1);
        let part = |tokens: &'_ [Matched], n: usize| {
            let from = (n * TOGETHER).min(tokens.len());
            tokens[from..tokens.len().min(from + TOGETHER)].to_vec()
        };
        let asked: Vec<Vec<_>> = matched
            .iter()
            .map(|(parent, tokens)| (0..parts(tokens)).map(|n| ask(*parent, &part(tokens, n))).collect())
            .collect();
        let mut all = Vec::with_capacity(asked.len());
        for parts in asked {
            let mut condemned = Ok(0);
            for part in parts {
                let told = match part {
                    Ok(answer) => answer.await.map_err(|_| RevokeError::Stopping).flatten(),
                    Err(e) => Err(e),
                };
                condemned = condemned.and_then(|n| told.map(|more| n + more));
            }
            all.push(condemned);
        }
        all
    }

    /// Whether a selector's claim matches a token.
    pub fn is_match(&self, claim: &SelectorClaim, names: &Names) -> bool {
        selecting::is_match(self, claim, names)
    }

    /// Makes names of tokens.
    pub fn namer(&self) -> &Namer {
        &self.namer
    }

    /// Lifts one claim; of a selector's, all that follow from it too. Returns when that is on disk and in force. `by` is
    /// for the audit log: who has it done, and why.
    pub async fn lift(&self, id: ClaimId, by: &serde_json::Value) -> Result<AnyClaim, RevokeError> {
        let by = by.to_string().into_bytes();
        self.ask(|reply| Command::Lift(id, by, reply)).await?
    }

    /// Makes a policy set, named by its hash, the active one; gives its generation.
    pub async fn activate(&self, hash: String) -> Result<u64, RevokeError> {
        self.ask(|reply| Command::Activate(hash, reply)).await?
    }

    /// Takes out some of what has lapsed; tells whether there is more to take out at once.
    pub async fn sweep(&self) -> Result<bool, RevokeError> {
        self.ask(Command::Sweep).await
    }

    /// Condemns a token by a policy's decision; its living connections end a little later. `true` when that is in force; `false` where the policy set
    /// is no longer the active one or its quota is used up.
    pub async fn condemn(&self, f: DenyFingerprint, c: Condemnation) -> bool {
        let in_force = self.ask(|reply| Command::Condemn(f, c, reply)).await.unwrap_or(false);
        if in_force {
            let commands = self.commands.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LAST_ANSWER).await;
                // Where the plane is gone, so is who would end them.
                let _ = commands.send(Command::End(f)).await;
            });
        }
        in_force
    }

    /// Numbers now.
    pub fn status(&self) -> PlaneStatus {
        self.status.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Up to `limit` claims in force of either kind with an id above `after`, as far as `keep` says, in order of their
    /// ids.
    pub async fn list(
        &self,
        after: ClaimId,
        limit: usize,
        keep: impl Fn(&AnyClaim) -> bool + Send + 'static,
    ) -> Result<Vec<AnyClaim>, RevokeError> {
        let now = self.clock.wall();
        self.read(move |reader| reader.list(after, limit, now, keep)).await
    }

    /// The same of all that are stored, over by this host's clock or not.
    pub async fn list_all(
        &self,
        after: ClaimId,
        limit: usize,
        keep: impl Fn(&AnyClaim) -> bool + Send + 'static,
    ) -> Result<Vec<AnyClaim>, RevokeError> {
        self.read(move |reader| reader.list(after, limit, WallTime(i64::MIN), keep)).await
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

    /// How many living connections would end with these tokens, as the kernel sees them now: those on which a request with
    /// one of them is under way, or that are a tunnel of one. `None` where it does not see that (fast mode, or no kernel
    /// side).
    pub async fn count_connections(&self, tokens: HashSet<DenyFingerprint>) -> Option<usize> {
        let (tell, told) = oneshot::channel();
        let tell = move |n| {
            // Who asked may have gone.
            let _ = tell.send(n);
        };
        let ask = move |kernel: &mut Kernel| kernel.count_connections(tokens, Box::new(tell));
        self.with_kernel(ask).await.ok()?;
        told.await.ok().flatten()
    }

    /// Ends the plane's thread when it has answered what is queued before this.
    pub async fn stop(&self) {
        // Closed already: it has ended.
        let _ = self.commands.send(Command::Stop).await;
    }

    async fn ask<T>(&self, make: impl FnOnce(oneshot::Sender<T>) -> Command) -> Result<T, RevokeError> {
        self.send(make)?.await.map_err(|_| RevokeError::Stopping)
    }

    fn send<T>(
        &self,
        make: impl FnOnce(oneshot::Sender<T>) -> Command,
    ) -> Result<oneshot::Receiver<T>, RevokeError> {
        let (reply, answer) = oneshot::channel();
        self.commands.try_send(make(reply)).map_err(|e| match e {
            mpsc::error::TrySendError::Full(_) => RevokeError::Busy,
            mpsc::error::TrySendError::Closed(_) => RevokeError::Stopping,
        })?;
        Ok(answer)
    }
}
