//! What becomes of decisions that were made: the decision log, and the comparison with a candidate policy set.
//!
//! Guarantees: no decision waits for it. A decision is copied into a bounded queue; where that is full, it is dropped
//! and counted. Everything else (redaction, the policy's mask, writing) is done on a thread of its own. No token's text
//! leaves that thread. Leaves to others: what is decided, and who asks.

mod event;
mod line;
mod log;
mod mask;
mod queue;
mod redact;
mod shadow;
mod sink;

use std::{cell::Cell, sync::Arc};

pub use event::{Asked, Decided, Event, Secret, Texts};
pub use line::Labels;
pub use log::{InputOf, Log, LogParts};
pub use queue::{Queue, Waiting, queue};
pub use redact::{Changed, Redaction};
pub use shadow::{Findings, Shadow, ShadowParts, Shadower};
pub use sink::{FileSettings, HttpSettings, Sink, SinkError, SinkKind};

use crate::{clock::WallTime, telemetry::Door};

/// Who asks for a decision.
#[derive(Clone, Copy, Debug)]
pub struct Asker<'a> {
    /// By which door.
    pub door: Door,
    /// From where; empty where that is not known.
    pub peer: &'a str,
}

/// Where decisions are handed in.
pub struct Recorder {
    /// The decision log, where it is on.
    pub log: Option<Queue>,
    /// One of so many allows is logged.
    pub sample_allows: u32,
    /// A candidate set beside the live one, where one is configured.
    pub shadow: Option<Shadower>,
    /// The doors that let pass where no decision can be made.
    pub fail_open: Vec<Door>,
}

/// Who wants to know of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// The log, as one of so many.
    log: Option<u32>,
    shadow: bool,
}

impl Wanted {
    /// Whether it is the log.
    pub const fn is_log(self) -> bool {
        self.log.is_some()
    }

    /// The line stands for so many.
    pub fn sampled(self) -> u32 {
        self.log.unwrap_or(1)
    }
}

impl Recorder {
    /// Who wants to know of a decision, if anybody does.
    pub fn wanted(&self, allow: bool, now: WallTime) -> Option<Wanted> {
        let log = self.is_logged(allow);
        let shadow = self.shadow.as_ref().is_some_and(|s| s.takes(now));
        (log.is_some() || shadow).then_some(Wanted { log, shadow })
    }

    /// Whether a decision is logged, and as one of how many.
    fn is_logged(&self, allow: bool) -> Option<u32> {
        let log = self.log.as_ref()?;
        let sampled = if allow { self.sample_allows.max(1) } else { 1 };
        let is_chosen = sampled == 1 || random().is_multiple_of(u64::from(sampled));
        (is_chosen && log.has_room()).then_some(sampled)
    }

    /// Hands a decision in.
    pub fn note(&self, event: Event, wanted: Wanted) {
        let event = Arc::new(event);
        if let Some(shadow) = self.shadow.as_ref().filter(|_| wanted.shadow) {
            shadow.offer(Arc::clone(&event));
        }
        if let Some(log) = self.log.as_ref().filter(|_| wanted.log.is_some()) {
            log.offer(event);
        }
    }
}

/// A number that is good enough to sample by, from this thread's own sequence (xorshift64*).
fn random() -> u64 {
    thread_local! {
        static STATE: Cell<u64> = const { Cell::new(0) };
    }
    STATE.with(|state| {
        let mut x = state.get();
        if x == 0 {
            let mut bytes = [0; 8];
            let _ = aws_lc_rs::rand::fill(&mut bytes);
            x = u64::from_ne_bytes(bytes) | 1;
        }
        x ^= x >> 12;
        x ^= x << 25;
        x ^= x >> 27;
        state.set(x);
        x.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 16
    })
}
