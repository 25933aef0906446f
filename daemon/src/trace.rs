//! Traces: a span for each decision, in the gateway's own trace, sent to an OpenTelemetry collector.
//!
//! Guarantees: nothing waits for the collector; spans that find no room, or that it does not take, are counted and gone.
//! A span says which door decided what and why, never a token or a header. Its trace is the one that the gateway's
//! `traceparent` (W3C Trace Context) names, and it is made where that says so; requests without one are sampled.
//!
//! The protocol is OTLP over HTTP in JSON, written out here: one message, for which the SDK would bring a second gRPC
//! and TLS stack.

mod context;
mod export;

use std::time::{Duration, SystemTime};

use aws_lc_rs::rand;
use portcullis_common::reason::Reason;
use tokio::sync::mpsc;

use crate::telemetry::Door;

pub use context::Context;
pub use export::{ExportSettings, run};

/// Spans that wait to be sent.
const WAITING: usize = 4096;

/// Takes spans.
#[derive(Clone, Debug)]
pub struct Tracer {
    spans: mpsc::Sender<Span>,
    /// Of requests without a trace of their own, the share that is traced, of 2^32.
    share: u64,
    dropped: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

/// One decision.
#[derive(Clone, Debug)]
pub struct Span {
    trace: [u8; 16],
    id: [u8; 8],
    parent: Option<[u8; 8]>,
    start: SystemTime,
    took: Duration,
    door: Door,
    allow: bool,
    reason: Reason,
}

/// Spans on their way to [`run`].
pub struct Spans {
    receiver: mpsc::Receiver<Span>,
    dropped: std::sync::Arc<std::sync::atomic::AtomicU64>,
}

impl Tracer {
    /// `share`, from 0 to 1, of requests without a trace are traced.
    pub fn new(share: f64) -> (Self, Spans) {
        let (spans, receiver) = mpsc::channel(WAITING);
        let dropped = std::sync::Arc::default();
        #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 2^32")]
        let share = (share.clamp(0.0, 1.0) * 4_294_967_296.0) as u64;
        (Self { spans, share, dropped: std::sync::Arc::clone(&dropped) }, Spans { receiver, dropped })
    }

    /// Notes a decision that took `took` until now. `traceparent` is the gateway's header, where there is one.
    pub fn note(&self, traceparent: Option<&str>, door: Door, ruled: (bool, Reason), took: Duration) {
        let context = traceparent.and_then(Context::read);
        let traced = match &context {
            Some(context) => context.sampled,
            None => self.share > 0 && u64::from(u32::from_le_bytes(random())) < self.share,
        };
        if !traced {
            return;
        }
        let (trace, parent) = context.map_or_else(|| (random(), None), |c| (c.trace, Some(c.parent)));
        let start = SystemTime::now().checked_sub(took).unwrap_or(SystemTime::UNIX_EPOCH);
        let (allow, reason) = ruled;
        let span = Span { trace, id: random(), parent, start, took, door, allow, reason };
        if self.spans.try_send(span).is_err() {
            self.dropped.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        }
    }
}

fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    // Without randomness ids are all zero, which collectors drop.
    let _ = rand::fill(&mut bytes);
    bytes
}

#[cfg(test)]
mod tests;
