//! Other network namespaces than the daemon's own.
//!
//! A socket that is opened in one keeps it alive, and with it the interfaces of a container that is gone; so nothing is
//! kept open there.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    thread,
};

use nix::sched::{CloneFlags, setns};

/// Runs `work` on a thread inside a namespace, or in place where `namespace` is none.
pub(super) fn within<T: Send>(namespace: Option<&PathBuf>, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    match namespace {
        None => Ok(work()),
        Some(path) => enter(path, work),
    }
}

fn enter<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    let file = File::open(path)?;
    thread::scope(|scope| {
        let thread = scope.spawn(|| {
            // The namespace is the thread's alone, and ends with it.
            setns(&file, CloneFlags::CLONE_NEWNET)?;
            Ok(work())
        });
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the work in it panicked")))
    })
}
