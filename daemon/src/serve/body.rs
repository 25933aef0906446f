//! The body of a front door's answer: one piece, and behind it gRPC's trailer where that is spoken.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use hyper::body::{Body, Frame, SizeHint};

/// A whole body. It is never waited for.
#[derive(Debug, Default)]
pub(super) struct Whole {
    data: Bytes,
    /// gRPC says how it went behind the message: here always that it went well.
    trailer: bool,
}

impl Whole {
    /// A gRPC message, framed, with the trailer that ends it.
    pub(super) const fn message(data: Bytes) -> Self {
        Self { data, trailer: true }
    }
}

impl From<Bytes> for Whole {
    fn from(data: Bytes) -> Self {
        Self { data, trailer: false }
    }
}

impl Body for Whole {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if !self.data.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.data)))));
        }
        if std::mem::take(&mut self.trailer) {
            let trailers = HeaderMap::from_iter([(
                http::HeaderName::from_static("grpc-status"),
                HeaderValue::from_static("0"),
            )]);
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Poll::Ready(None)
    }

    fn is_end_stream(&self) -> bool {
        self.data.is_empty() && !self.trailer
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.data.len() as u64)
    }
}
