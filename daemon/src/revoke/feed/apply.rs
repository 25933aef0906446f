//! Puts in force what was heard, one piece of work after the other.

use std::{collections::BTreeSet, time::Duration};

use tokio::sync::{mpsc, oneshot};

use super::{
    super::{
        RevokeError, Taken,
        foreign::Origin,
        remote::{Only, RemoteClaim, RemoteLift, RemoteTarget, Update},
    },
    Feed,
    connect::Ended,
    hosts::Applied,
    orders::Orders,
    session::Session,
    tracker::{Seen, Tracker},
};

/// Times that a busy plane is asked again.
const TRIES: u32 = 100;
/// Time between two of them.
const BUSY: Duration = Duration::from_millis(20);

/// Something to be put in force, and who waits for it.
pub struct Work {
    pub what: What,
    pub done: oneshot::Sender<()>,
}

/// What is to be put in force.
pub enum What {
    /// Messages, as they came.
    Orders(Vec<Orders>),
    /// Claims and liftings that were told apart from the entries that brought them.
    Apart(Vec<RemoteClaim>, Vec<RemoteLift>),
    /// More is known of a host's orders than it says there are: it is asked for all of them.
    Anew(Origin),
    /// A host's orders are known up to an entry; where all its claims were told, these.
    Reached(Origin, u64, Option<Only>),
}

impl Session {
    /// Has something put in force, and waits until it is.
    pub async fn apply(&self, what: What) -> Result<(), Ended> {
        let (done, wait) = oneshot::channel();
        let ended = || "nothing is put in force any more".to_owned();
        self.work.send(Work { what, done }).await.map_err(|_| ended())?;
        wait.await.map_err(|_| ended())
    }
}

impl Feed {
    pub(super) async fn apply(
        &self,
        session: &Session,
        mut queue: mpsc::Receiver<Work>,
        mut tracker: Tracker,
    ) -> Result<(), Ended> {
        while let Some(work) = queue.recv().await {
            let (mut update, mut touched) = (Update::default(), BTreeSet::new());
            match work.what {
                What::Orders(all) => self.take_in(all, &mut tracker, &mut update, &mut touched),
                What::Apart(add, lift) => (update.add, update.lift) = (add, lift),
                What::Anew(origin) => {
                    tracker.begin_anew(origin);
                    touched.insert(origin);
                }
                What::Reached(origin, entry, only) => {
                    tracker.reach(origin, entry);
                    touched.insert(origin);
                    update.only = only;
                }
            }
            update.reached = touched.iter().map(|o| (*o, tracker.reached(*o))).collect();
            let taken = self.put_in_force(update).await?;
            for claim in taken.selectors {
                self.follow.follow(claim).await;
            }
            {
                let mut state = self.state();
                state.reached.clone_from(tracker.all());
                state.gaps = tracker.gaps().count();
            }
            for origin in touched {
                self.tell_applied(session, origin, tracker.reached(origin).whole()).await?;
            }
            // Who had it put in force may be gone; it is all the same.
            let _ = work.done.send(());
        }
        Ok(())
    }

    fn take_in(
        &self,
        all: Vec<Orders>,
        tracker: &mut Tracker,
        update: &mut Update,
        touched: &mut BTreeSet<Origin>,
    ) {
        let mut state = self.state();
        for orders in all {
            // Told again where it is a duplicate, for whoever waits.
            touched.insert(orders.head.origin);
            match tracker.see(&orders.head) {
                Seen::Duplicate => state.counts.duplicates += 1,
                Seen::New => {
                    state.counts.applied += 1;
                    state.counts.other_key += orders.other_key;
                }
            }
            // Known ones too, which changes nothing: how far a host's orders are known may be a third one's word.
            update.add.extend(orders.add);
            update.lift.extend(orders.lift);
        }
    }

    async fn put_in_force(&self, update: Update) -> Result<Taken, Ended> {
        let mut tries = 0;
        loop {
            match self.plane.take_remote(update.clone()).await {
                Ok(taken) => return Ok(taken),
                Err(RevokeError::Busy) if tries < TRIES => {
                    tries += 1;
                    tokio::time::sleep(BUSY).await;
                }
                Err(e @ RevokeError::Full { .. }) => {
                    // What needs no room is not held up by what does.
                    let mut rest = update.clone();
                    rest.add.retain(|c| matches!(c.on, RemoteTarget::Selector(_)));
                    rest.reached.clear();
                    let taken = self.plane.take_remote(rest).await.map_err(|e| e.to_string())?;
                    for claim in taken.selectors {
                        self.follow.follow(claim).await;
                    }
                    return Err(format!("revocations of other hosts find no room here: {e}"));
                }
                Err(e) => return Err(format!("revocations of other hosts are not in force here: {e}")),
            }
        }
    }

    /// Says to a host that its orders are in force here.
    async fn tell_applied(&self, session: &Session, origin: Origin, entry: u64) -> Result<(), Ended> {
        let text = serde_json::to_vec(&Applied::new(self.own, entry)).unwrap_or_default();
        let subject = self.subject("applied", &format!("{origin}.{}", self.own));
        session.conn.client.publish(subject, text.into()).await.map_err(|e| e.to_string())
    }
}
