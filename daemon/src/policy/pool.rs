//! A pool of evaluators, sharded so that threads do not meet on one lock.

use std::{
    cell::Cell,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Locks that threads are spread over; more than the cores of most hosts.
const SHARDS: usize = 16;
/// Idle evaluators kept in a shard: one suffices while its threads do not outnumber it.
const IDLE: usize = 4;

thread_local! {
    /// The thread's shard, handed out in turn.
    static SHARD: Cell<usize> = {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        Cell::new(NEXT.fetch_add(1, Ordering::Relaxed) % SHARDS)
    };
}

/// Idle evaluators. One that is taken and not given back is gone: so a broken one is thrown away.
pub(super) struct Pool<T>([Mutex<Vec<T>>; SHARDS]);

impl<T> Pool<T> {
    pub fn new() -> Self {
        Self(std::array::from_fn(|_| Mutex::new(Vec::new())))
    }

    /// An idle evaluator, if this thread's shard has one.
    pub fn take(&self) -> Option<T> {
        self.shard(Vec::pop)
    }

    /// Takes an evaluator back.
    pub fn give(&self, item: T) {
        self.shard(|idle| {
            if idle.len() < IDLE {
                idle.push(item);
            }
        });
    }

    fn shard<R>(&self, work: impl FnOnce(&mut Vec<T>) -> R) -> R {
        let shard = &self.0[SHARD.get()];
        // Nothing that can panic runs under the lock, so a poisoned one holds good items.
        work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
