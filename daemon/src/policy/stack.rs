//! Threads with stacks that are large enough for regorus.

use std::{panic, thread};

use super::LoadError;

/// Stack of a thread that evaluates policies, in bytes. Only what is used of it takes memory. [`super::depth`] sees to
/// it that no set needs more.
pub const STACK: usize = 16 << 20;

/// Stack of a thread that loads one: it reads what is not yet known to be shallow, and [`super::shape`] bounds it.
const LOADING: usize = 256 << 20;

/// Runs a step of loading on a stack of its own.
pub(super) fn roomy<T: Send>(step: impl FnOnce() -> Result<T, LoadError> + Send) -> Result<T, LoadError> {
    let failed = |e: std::io::Error| LoadError::Compile(format!("no thread can be started to load it: {e}"));
    thread::scope(|scope| {
        let builder = thread::Builder::new().name("load".into()).stack_size(LOADING);
        match builder.spawn_scoped(scope, step).map_err(failed)?.join() {
            Ok(done) => done,
            Err(cause) => panic::resume_unwind(cause),
        }
    })
}
