//! The way from a decision to a recorder: bounded in entries and bytes, never waited for.
//!
//! The reader is not woken by what comes in, since waking a thread costs the decision more than the copy: it looks
//! every few milliseconds.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering},
    mpsc::{Receiver, SyncSender, sync_channel},
};

use super::Event;

/// Something to write down.
pub enum Entry {
    /// A decision.
    Decision(Arc<Event>),
    /// A refusal of the kernel's, as events tell it.
    Kernel(Box<serde_json::Value>),
}

impl Entry {
    fn size(&self) -> usize {
        match self {
            Self::Decision(event) => event.size(),
            Self::Kernel(_) => 1024,
        }
    }
}

/// What was counted.
#[derive(Debug, Default)]
struct Counts {
    bytes: AtomicUsize,
    entries: AtomicUsize,
    dropped: AtomicU64,
}

/// The end that decisions hold.
#[derive(Clone)]
pub struct Queue {
    sender: SyncSender<Entry>,
    counts: Arc<Counts>,
    /// Most bytes and entries.
    most: [usize; 2],
}

/// The end that a recorder holds.
pub struct Waiting {
    receiver: Receiver<Entry>,
    counts: Arc<Counts>,
}

/// A queue of so many entries, which together hold no more than `bytes`.
pub fn queue(entries: usize, bytes: usize) -> (Queue, Waiting) {
    let (sender, receiver) = sync_channel(entries);
    let counts = Arc::new(Counts::default());
    (Queue { sender, counts: Arc::clone(&counts), most: [bytes, entries] }, Waiting { receiver, counts })
}

impl Queue {
    /// Whether there is room for another; counted as dropped where there is none. Asked before anything is copied.
    pub fn has_room(&self) -> bool {
        let [bytes, entries] = self.most;
        let has = self.counts.entries.load(Ordering::Relaxed) < entries
            && self.counts.bytes.load(Ordering::Relaxed) < bytes;
        if !has {
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
        has
    }

    /// Hands a decision in, or drops and counts it where there is no room.
    pub fn offer(&self, event: Arc<Event>) {
        self.put(Entry::Decision(event));
    }

    /// The same for a kernel event.
    pub fn offer_kernel(&self, event: serde_json::Value) {
        self.put(Entry::Kernel(Box::new(event)));
    }

    fn put(&self, entry: Entry) {
        let size = entry.size();
        let before = self.counts.bytes.fetch_add(size, Ordering::Relaxed);
        self.counts.entries.fetch_add(1, Ordering::Relaxed);
        if before + size > self.most[0] || self.sender.try_send(entry).is_err() {
            self.counts.bytes.fetch_sub(size, Ordering::Relaxed);
            self.counts.entries.fetch_sub(1, Ordering::Relaxed);
            self.counts.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Entries dropped so far.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

impl Waiting {
    /// The next entry, if one waits.
    pub fn next(&self) -> Option<Entry> {
        let entry = self.receiver.try_recv().ok()?;
        self.counts.bytes.fetch_sub(entry.size(), Ordering::Relaxed);
        self.counts.entries.fetch_sub(1, Ordering::Relaxed);
        Some(entry)
    }

    /// Counts entries that were taken and then lost.
    pub fn lost(&self, n: u64) {
        self.counts.dropped.fetch_add(n, Ordering::Relaxed);
    }

    /// Entries dropped so far.
    pub fn dropped(&self) -> u64 {
        self.counts.dropped.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn what_has_no_room_is_dropped_and_counted() {
        let (queue, waiting) = queue(3, 1 << 20);
        (0..5).for_each(|n| queue.offer_kernel(n.into()));
        assert_eq!(queue.dropped(), 2);
        assert!(!queue.has_room());
        assert_eq!(queue.dropped(), 3, "what is not even copied counts");
        let taken: Vec<Value> = std::iter::from_fn(|| waiting.next())
            .map(|e| match e {
                Entry::Kernel(v) => *v,
                Entry::Decision(_) => panic!(),
            })
            .collect();
        assert_eq!(taken, [0, 1, 2], "the first come stay");
        assert!(queue.has_room());
        queue.offer_kernel(7.into());
        assert!(waiting.next().is_some(), "room is made again");
    }

    #[test]
    fn bytes_are_bounded_too() {
        let (queue, waiting) = queue(100, 2500);
        (0..5).for_each(|n| queue.offer_kernel(n.into()));
        assert_eq!(queue.dropped(), 3);
        while waiting.next().is_some() {}
        queue.offer_kernel(1.into());
        assert_eq!(queue.dropped(), 3);
    }
}
