//! Telling that policy files changed. It says no more than that: the receiver loads the set anew.
//!
//! Guarantees: after the last of a run of changes, one message is sent, or one is already waiting; this also
//! holds for editors that rename over a file, for links that are swapped (a Kubernetes `ConfigMap`, a release
//! directory), and for directories that are removed and made again. To that end each directory's parent is
//! watched too, and all watches are set anew before a message is sent.

use std::{
    path::{Path, PathBuf},
    sync::mpsc::{self, RecvTimeoutError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use thiserror::Error;
use tokio::sync::mpsc::{Sender, error::TrySendError};

/// Quiet that ends a run of changes.
const QUIET: Duration = Duration::from_millis(200);
/// Longest that a message waits for quiet.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why policy files are not watched.
#[derive(Debug, Error)]
pub enum WatchError {
    /// The system gave no watch.
    #[error(
        "`{path}` cannot be watched for changes: {source}; check that it exists, and `fs.inotify.max_user_watches`"
    )]
    Watch {
        /// The directory.
        path: PathBuf,
        /// The cause.
        source: notify::Error,
    },
    /// The watching thread could not be started.
    #[error("the thread that watches policy files could not be started: {0}")]
    Thread(std::io::Error),
}

/// Watches until it is dropped.
pub struct Watcher {
    stop: mpsc::Sender<Message>,
    thread: Option<JoinHandle<()>>,
}

enum Message {
    Changed,
    Stop,
}

/// Watches `dirs` and sends on `tx` when something in them changed. A channel of one place suffices.
pub fn watch(dirs: &[PathBuf], tx: Sender<()>) -> Result<Watcher, WatchError> {
    let dirs: Vec<PathBuf> =
        dirs.iter().map(|dir| std::path::absolute(dir).unwrap_or_else(|_| dir.clone())).collect();
    let (stop, messages) = mpsc::channel();
    let (changes, roots) = (stop.clone(), dirs.clone());
    let handler = move |event: notify::Result<Event>| {
        // An error (a queue that overflowed, say) may hide a change.
        if event.is_ok_and(|event| !concerns(&event, &roots)) {
            return;
        }
        let _ = changes.send(Message::Changed);
    };
    let first = dirs.first().cloned().unwrap_or_default();
    let mut watches =
        notify::recommended_watcher(handler).map_err(|source| WatchError::Watch { path: first, source })?;
    for dir in &dirs {
        set(&mut watches, dir, &dirs).map_err(|source| WatchError::Watch { path: dir.clone(), source })?;
    }
    let thread = thread::Builder::new()
        .name("policy-watch".into())
        .spawn(move || run(&messages, &mut watches, &dirs, &tx))
        .map_err(WatchError::Thread)?;
    Ok(Watcher { stop, thread: Some(thread) })
}

impl Drop for Watcher {
    fn drop(&mut self) {
        let _ = self.stop.send(Message::Stop);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whether an event may mean a change of the set: no mere reading, and nothing of a directory's siblings.
fn concerns(event: &Event, dirs: &[PathBuf]) -> bool {
    let read = matches!(event.kind, EventKind::Access(kind) if kind != AccessKind::Close(AccessMode::Write));
    let inside = |path: &PathBuf| dirs.iter().any(|dir| path.starts_with(dir));
    !read && (event.need_rescan() || event.paths.is_empty() || event.paths.iter().any(inside))
}

/// Watches a directory with all below it, and its parent for its replacement.
fn set(watches: &mut RecommendedWatcher, dir: &Path, dirs: &[PathBuf]) -> notify::Result<()> {
    watches.watch(dir, RecursiveMode::Recursive)?;
    match dir.parent() {
        // A parent inside another watched directory is watched already, and with all below it.
        Some(parent) if !dirs.iter().any(|d| parent.starts_with(d)) => {
            watches.watch(parent, RecursiveMode::NonRecursive)
        }
        _ => Ok(()),
    }
}

fn run(
    messages: &mpsc::Receiver<Message>,
    watches: &mut RecommendedWatcher,
    dirs: &[PathBuf],
    tx: &Sender<()>,
) {
    while let Ok(Message::Changed) = messages.recv() {
        let begun = Instant::now();
        while begun.elapsed() < PATIENCE {
            match messages.recv_timeout(QUIET) {
                Ok(Message::Changed) => {}
                Ok(Message::Stop) | Err(RecvTimeoutError::Disconnected) => return,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        for dir in dirs {
            // Either may fail while a directory is away; its parent's watch tells of its return.
            let _ = watches.unwatch(dir);
            let _ = set(watches, dir, dirs);
        }
        // Sent after the watches stand again, so that what changed meanwhile is read by who receives it.
        if let Err(TrySendError::Closed(())) = tx.try_send(()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use tokio::{sync::mpsc, time::timeout};

    use super::*;

    /// Awaits one message; the limit only keeps a broken test from hanging.
    async fn told(rx: &mut mpsc::Receiver<()>) {
        timeout(Duration::from_secs(30), rx.recv())
            .await
            .expect("no change was seen")
            .expect("the watcher ended");
    }

    #[tokio::test]
    async fn writing_renaming_and_making_directories_anew_are_seen() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("policies");
        fs::create_dir(&dir).unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        let _watcher = watch(std::slice::from_ref(&dir), tx).unwrap();

        fs::write(dir.join("a.rego"), "package a").unwrap();
        told(&mut rx).await;
        fs::write(home.path().join("new"), "package b").unwrap();
        fs::rename(home.path().join("new"), dir.join("a.rego")).unwrap();
        told(&mut rx).await;
        fs::create_dir_all(dir.join("deep/er")).unwrap();
        told(&mut rx).await;
        fs::write(dir.join("deep/er/c.rego"), "package c").unwrap();
        told(&mut rx).await;

        fs::remove_dir_all(&dir).unwrap();
        told(&mut rx).await;
        fs::create_dir(&dir).unwrap();
        told(&mut rx).await;
        fs::write(dir.join("d.rego"), "package d").unwrap();
        told(&mut rx).await;
    }

    #[tokio::test]
    async fn swapped_links_are_seen_again_and_again() {
        let home = tempfile::tempdir().unwrap();
        let dir = home.path().join("mounted");
        fs::create_dir_all(dir.join("..1")).unwrap();
        fs::write(dir.join("..1/a.rego"), "package a").unwrap();
        symlink("..1", dir.join("..data")).unwrap();
        symlink("..data/a.rego", dir.join("a.rego")).unwrap();
        let (tx, mut rx) = mpsc::channel(1);
        let _watcher = watch(std::slice::from_ref(&dir), tx).unwrap();
        for n in 2..4 {
            let version = dir.join(format!("..{n}"));
            fs::create_dir(&version).unwrap();
            fs::write(version.join("a.rego"), "package b").unwrap();
            symlink(format!("..{n}"), dir.join("..data_tmp")).unwrap();
            fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
            told(&mut rx).await;
        }
    }

    #[test]
    fn reading_and_siblings_concern_nobody() {
        let dirs = [PathBuf::from("/a/policies")];
        let event = |kind, path: &str| Event::new(kind).add_path(path.into());
        let write = EventKind::Modify(notify::event::ModifyKind::Any);
        assert!(concerns(&event(write, "/a/policies/x"), &dirs));
        assert!(concerns(&event(write, "/a/policies"), &dirs));
        assert!(!concerns(&event(write, "/a/other"), &dirs));
        assert!(!concerns(
            &event(EventKind::Access(AccessKind::Open(AccessMode::Any)), "/a/policies/x"),
            &dirs
        ));
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let (tx, _rx) = mpsc::channel(1);
        let error = watch(&["/nonexistent/policies".into()], tx).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/policies"));
    }
}
