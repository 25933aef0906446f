//! A panic while a request is decided is that request's denial, not a connection that ends without one.

use std::{
    future::{Future, poll_fn},
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    task::Poll,
};

/// The work panicked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Panicked;

/// Runs `work`. What it shares with others is behind locks and atomics that a panic leaves whole.
/// It comes pinned, for a future that is handed over is stored twice, and this one is large.
pub(super) async fn contained<T>(mut work: Pin<&mut impl Future<Output = T>>) -> Result<T, Panicked> {
    poll_fn(|cx| match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(cx))) {
        Ok(Poll::Pending) => Poll::Pending,
        Ok(Poll::Ready(done)) => Poll::Ready(Ok(done)),
        Err(_) => {
            tracing::error!("a decision panicked: denied");
            Poll::Ready(Err(Panicked))
        }
    })
    .await
}

/// The same for work that does not wait.
pub(super) fn at_once<T>(work: impl FnOnce() -> T) -> Result<T, Panicked> {
    catch_unwind(AssertUnwindSafe(work)).map_err(|_| Panicked)
}

#[cfg(test)]
mod tests {
    use std::pin::pin;

    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error_of_its_own_request() {
        assert_eq!(contained(pin!(async { 7 })).await, Ok(7));
        let panics = async {
            tokio::task::yield_now().await;
            assert!(std::hint::black_box(false), "on purpose");
        };
        assert_eq!(contained(pin!(panics)).await, Err(Panicked));
    }
}
