//! How the rest of the daemon gives orders to the plane.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use portcullis_common::fingerprint::DenyFingerprint;
use serde::Serialize;
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{
    AnyClaim, Claim, ClaimId, Namer, Names, Order, SelectorClaim, SelectorOrder, StoreError,
    ledger::Condemnation,
    selecting::{self, Matched},
    store::StoreReader,
};
use crate::{
    clock::SharedClock,
    kernel::{Kernel, KernelError},
};

/// How long the connections of a token live on that a policy condemns. The request that the policy was asked about is
/// still to be answered, by the server itself.
const LAST_ANSWER: Duration = Duration::from_secs(2);

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

/// What the plane is asked.
pub(super) enum Command {
    Revoke(Order, oneshot::Sender<Result<Claim, RevokeError>>),
    Lift(ClaimId, oneshot::Sender<Result<Claim, RevokeError>>),
    Select(SelectorOrder, oneshot::Sender<Result<SelectorClaim, RevokeError>>),
    Follow(ClaimId, Vec<Matched>, oneshot::Sender<Result<usize, RevokeError>>),
    Unselect(SelectorClaim, oneshot::Sender<Result<(), RevokeError>>),
    Condemn(DenyFingerprint, Condemnation, oneshot::Sender<bool>),
    End(DenyFingerprint),
    Activate(String, oneshot::Sender<Result<u64, RevokeError>>),
    Sweep(oneshot::Sender<bool>),
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

/// Gives orders to the plane; cheap to clone.
#[derive(Clone)]
pub struct PlaneHandle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) status: Arc<RwLock<PlaneStatus>>,
    pub(super) reader: StoreReader,
    pub(super) clock: SharedClock,
    pub(super) namer: Namer,
}

impl PlaneHandle {
    /// Revokes. Returns when the revocation is on disk and in force.
    pub async fn revoke(&self, order: Order) -> Result<Claim, RevokeError> {
        self.ask(|reply| Command::Revoke(order, reply)).await?
    }

    /// Revokes by selector. Returns when every token that it matches is refused by the decision path; those seen lately
    /// are then condemned by [`Self::follow`].
    pub async fn select(&self, order: SelectorOrder) -> Result<SelectorClaim, RevokeError> {
        self.ask(|reply| Command::Select(order, reply)).await?
    }

    /// Condemns tokens that a selector's claim matches; tells how many were new. In the kernel when this returns.
    pub async fn follow(&self, parent: ClaimId, tokens: Vec<Matched>) -> Result<usize, RevokeError> {
        self.ask(|reply| Command::Follow(parent, tokens, reply)).await?
    }

    /// Whether a selector's claim matches a token.
    pub fn is_match(&self, claim: &SelectorClaim, names: &Names) -> bool {
        selecting::is_match(self, claim, names)
    }

    /// Makes names of tokens.
    pub fn namer(&self) -> &Namer {
        &self.namer
    }

    /// Lifts one claim; of a selector's, all that follow from it too. Returns when that is on disk and in force.
    pub async fn lift(&self, id: ClaimId) -> Result<AnyClaim, RevokeError> {
        let reader = self.reader.clone();
        let selector = tokio::task::spawn_blocking(move || reader.selector(id))
            .await
            .map_err(|_| RevokeError::Stopping)?
            .map_err(|e| RevokeError::Read(Arc::new(e)))?;
        let Some(claim) = selector else {
            return self.ask(|reply| Command::Lift(id, reply)).await?.map(AnyClaim::Token);
        };
        self.ask(|reply| Command::Unselect(claim.clone(), reply)).await??;
        Ok(AnyClaim::Selector(claim))
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

    /// Up to `limit` claims in force of either kind with an id above `after`, in order of their ids.
    pub async fn list(&self, after: ClaimId, limit: usize) -> Result<Vec<AnyClaim>, RevokeError> {
        let (reader, now) = (self.reader.clone(), self.clock.wall());
        let both = move || {
            let mut all: Vec<AnyClaim> =
                reader.list(after, limit, now)?.into_iter().map(AnyClaim::Token).collect();
            all.extend(reader.list_selectors(after, limit, now)?.into_iter().map(AnyClaim::Selector));
            all.sort_by_key(AnyClaim::id);
            all.truncate(limit);
            Ok(all)
        };
        tokio::task::spawn_blocking(both)
            .await
            .map_err(|_| RevokeError::Stopping)?
            .map_err(|e| RevokeError::Read(Arc::new(e)))
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
