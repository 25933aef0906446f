//! Decisions that are being made: those who ask the same meanwhile wait, and look into the cache then.
//!
//! They do not take the other's answer from its hands, as moka's future cache would have it: a proof is each
//! request's own, a limit is asked for each, and what is not kept (a denial for want of a server, say) was decided for
//! one request alone. And hits stay with moka's other cache, which needs no future for them.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use tokio::sync::watch;

use super::cache::Uniform;

type Under = HashMap<[u64; 2], watch::Receiver<()>, Uniform>;

/// Decisions under way, by their keys in the cache.
#[derive(Default)]
pub(super) struct Flights(Mutex<Under>);

/// One that this request makes. Its end, in whatever way, lets the others go on.
pub(super) struct Flight<'a> {
    flights: &'a Flights,
    key: [u64; 2],
    _end: watch::Sender<()>,
}

impl Flights {
    /// Begins a decision; or waits for the end of the one that another request makes, and gives none.
    pub async fn join(&self, key: [u64; 2]) -> Option<Flight<'_>> {
        let mut other = {
            let mut under = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(other) = under.get(&key) {
                other.clone()
            } else {
                let (end, other) = watch::channel(());
                under.insert(key, other);
                return Some(Flight { flights: self, key, _end: end });
            }
        };
        // Nothing is ever sent: it ends.
        while other.changed().await.is_ok() {}
        None
    }
}

impl Drop for Flight<'_> {
    fn drop(&mut self) {
        self.flights.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Waker};

    use super::*;

    #[tokio::test]
    async fn others_go_on_when_the_first_ends_or_is_given_up() {
        let flights = Flights::default();
        let first = flights.join([1, 1]).await.unwrap();
        // Another key is nobody's business.
        drop(flights.join([1, 2]).await.unwrap());
        let mut second = std::pin::pin!(flights.join([1, 1]));
        assert!(second.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(first);
        assert!(second.await.is_none());
        assert!(flights.join([1, 1]).await.is_some());
        assert!(flights.0.lock().unwrap().is_empty());
    }
}
