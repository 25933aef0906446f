//! The thread that writes what was noted, in batches, and takes out what is old.

use std::{
    path::PathBuf,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use super::{
    Book, Row, UsageError,
    book::{Noticed, hour},
    store::Store,
};
use crate::clock::SharedClock;

/// How often a batch is written.
const BATCH: Duration = Duration::from_secs(5);
/// How often it is looked for what is old.
const PRUNE: Duration = Duration::from_hours(1);

/// How usage is kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The file.
    pub file: PathBuf,
    /// Most entries.
    pub max_entries: u64,
    /// How long an entry stays that is not used.
    pub keep: Duration,
}

/// Keeps the book on the disk.
pub struct Keeper {
    book: Arc<Book>,
    store: Store,
    orders: mpsc::Sender<Order>,
    thread: JoinHandle<()>,
}

/// What the thread is told.
enum Order {
    /// To write what was noted, and to drop the sender then.
    Write(mpsc::Sender<()>),
    /// To write it, and to end.
    Stop,
}

struct Writer {
    book: Arc<Book>,
    store: Store,
    clock: SharedClock,
    keep: u32,
    /// What could not be written.
    left: Vec<Noticed>,
    pruned: Option<Instant>,
    failed: bool,
}

impl Keeper {
    /// Opens the file and starts the thread.
    pub fn start(settings: &Settings, key_id: u32, clock: SharedClock) -> Result<Self, UsageError> {
        let loaded = Store::open(&settings.file, key_id, hour(clock.wall()))?;
        let book = Arc::new(Book::new(loaded.spans, loaded.observed, settings.max_entries));
        let (orders, told) = mpsc::channel();
        let mut writer = Writer {
            book: Arc::clone(&book),
            store: loaded.store.clone(),
            clock,
            keep: u32::try_from(settings.keep.as_secs() / 3600).unwrap_or(u32::MAX),
            left: Vec::new(),
            pruned: None,
            failed: false,
        };
        let run = move || {
            loop {
                let asked = told.recv_timeout(BATCH);
                writer.round();
                match asked {
                    Ok(Order::Write(done)) => drop(done),
                    Err(mpsc::RecvTimeoutError::Timeout) => {}
                    Ok(Order::Stop) | Err(mpsc::RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        let thread = std::thread::Builder::new().name("usage".into()).spawn(run);
        let thread =
            thread.map_err(|e| UsageError::Open { path: settings.file.clone(), message: e.to_string() })?;
        Ok(Self { book, store: loaded.store, orders, thread })
    }

    /// What is known.
    pub const fn book(&self) -> &Arc<Book> {
        &self.book
    }

    /// Entries that were used last before an hour, those used longest ago first, after all that was noted is written.
    pub fn lister(&self) -> impl Fn(u32, usize) -> Result<Vec<Row>, UsageError> + Send + Sync + use<> {
        let (store, orders) = (self.store.clone(), self.orders.clone());
        move |before, most| {
            let (done, written) = mpsc::channel();
            if orders.send(Order::Write(done)).is_ok() {
                // It ends when the sender is dropped: when it was written.
                let _ = written.recv_timeout(BATCH);
            }
            store.list(before, most)
        }
    }

    /// What is on the disk, for other hosts.
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Writes what was noted, and ends.
    pub fn stop(self) {
        let _ = self.orders.send(Order::Stop);
        if self.thread.join().is_err() {
            tracing::error!("the usage thread ended badly; the last uses may be lost");
        }
    }
}

impl Writer {
    fn round(&mut self) {
        let mut batch = std::mem::take(&mut self.left);
        batch.extend(self.book.take());
        let due = self.pruned.is_none_or(|at| at.elapsed() >= PRUNE);
        let gone = if due || self.book.is_full() {
            self.pruned = Some(Instant::now());
            self.book.prune(hour(self.clock.wall()).saturating_sub(self.keep))
        } else {
            Vec::new()
        };
        if batch.is_empty() && gone.is_empty() {
            return;
        }
        match self.store.write(&batch, &gone, self.book.observed()) {
            Ok(()) => self.failed = false,
            Err(e) => {
                if !self.failed {
                    tracing::error!(error = %e, "uses of tokens are not on the disk: it is tried again");
                }
                self.failed = true;
                self.left = batch;
                self.left.truncate(1 << 16);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        clock::{BootTime, Clock, WallTime},
        usage::{Label, Uses},
    };

    struct Fixed(i64);

    impl Clock for Fixed {
        fn wall(&self) -> WallTime {
            WallTime::from_seconds(self.0 * 3600)
        }
        fn boot(&self) -> BootTime {
            BootTime(0)
        }
    }

    #[test]
    fn uses_are_there_after_a_restart_and_in_lists_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let settings =
            Settings { file: dir.path().join("u.redb"), max_entries: 100, keep: Duration::from_hours(1000) };
        let start = |hour| Keeper::start(&settings, 1, Arc::new(Fixed(hour))).unwrap();
        let uses = Uses::new([1, 1], [2, 2], Label { subject: Some("s".into()), ..Label::default() });
        let keeper = start(100);
        keeper.book().used(&uses, WallTime::from_seconds(100 * 3600));
        let list = keeper.lister();
        assert_eq!(list(101, 10).unwrap().len(), 2);
        assert_eq!(list(100, 10).unwrap().len(), 0);
        drop(list);
        keeper.stop();
        let keeper = start(200);
        assert_eq!((keeper.book().span([1, 1]).unwrap().last, keeper.book().observed()), (100, 100));
        keeper.stop();
        // Two thousand hours later it is forgotten, and not called unused.
        let keeper = start(2100);
        let list = keeper.lister();
        assert_eq!(list(u32::MAX, 10).unwrap().len(), 0);
        assert_eq!((keeper.book().span([1, 1]), keeper.book().observed()), (None, 1100));
    }
}
