//! Bodies that end before their time: with what their caller was let in by, so that no stream outlasts a token; and
//! connections that know whether they are at rest.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use axum::body::{Body, Bytes, HttpBody};
use hyper::body::{Frame, SizeHint};

/// A body for as long as its caller may have it.
pub struct Leased {
    body: Body,
    over: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl Leased {
    /// Lets a body go on until `over` is.
    pub fn body(body: Body, over: impl Future<Output = ()> + Send + 'static) -> Body {
        Body::new(Self { body, over: Box::pin(over) })
    }
}

impl HttpBody for Leased {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        if self.over.as_mut().poll(cx).is_ready() {
            let why = "the caller's token or certificate is not good for this any more";
            // Cut off, not ended: what is not whole must not look so.
            self.over = Box::pin(std::future::ready(()));
            return Poll::Ready(Some(Err(axum::Error::new(io::Error::new(
                io::ErrorKind::PermissionDenied,
                why,
            )))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Requests of one connection: how many have begun, and how many have ended.
#[derive(Clone, Debug, Default)]
pub struct Activity(Arc<(AtomicU64, AtomicU64)>);

/// One request, until its answer is out.
#[derive(Debug)]
pub struct Active(Activity);

impl Activity {
    /// A request begins.
    pub fn begin(&self) -> Active {
        self.0.0.fetch_add(1, Ordering::SeqCst);
        Active(self.clone())
    }

    /// Returns when nothing has been under way for so long, or twice that.
    pub async fn rest(&self, idle: Duration) {
        let now = || (self.0.0.load(Ordering::SeqCst), self.0.1.load(Ordering::SeqCst));
        loop {
            let seen = now();
            tokio::time::sleep(idle).await;
            if now() == seen && seen.0 == seen.1 {
                return;
            }
        }
    }
}

impl Active {
    /// Ends with a body.
    pub fn until_sent(self, body: Body) -> Body {
        Body::new(Held { body, _active: self })
    }
}

impl Drop for Active {
    fn drop(&mut self) {
        self.0.0.1.fetch_add(1, Ordering::SeqCst);
    }
}

struct Held {
    body: Body,
    _active: Active,
}

impl HttpBody for Held {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
