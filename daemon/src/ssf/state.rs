//! How a transmitter and its stream stand.

use std::{
    collections::VecDeque,
    sync::{Mutex, MutexGuard, PoisonError},
};

use serde::Serialize;

/// For people and metrics.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Status {
    /// The transmitter's name here.
    pub name: String,
    /// Its `iss`.
    pub issuer: String,
    /// `push` or `poll`.
    pub delivery: &'static str,
    /// Whether events can be taken: its keys are known, and its stream where it is managed here.
    pub ready: bool,
    /// The stream's id.
    pub stream: Option<String>,
    /// What the transmitter says of it: `enabled`, `paused`, `disabled`.
    pub stream_status: Option<String>,
    /// Why, if it says so.
    pub stream_reason: Option<String>,
    /// Unix seconds of the last event that was taken.
    pub last_event: Option<i64>,
    /// Unix seconds of the last verification event.
    pub last_verified: Option<i64>,
    /// Unix seconds of the last answer of its API.
    pub last_answer: Option<i64>,
    /// Events by what came of them.
    pub events: std::collections::BTreeMap<&'static str, u64>,
    /// What is wrong now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// What came of an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Told {
    /// Tokens were revoked.
    Revoked,
    /// It is none that anything follows from.
    Ignored,
    /// Its subject cannot be said by a selector.
    Unmapped,
    /// It verified the stream.
    Verified,
    /// It told of the stream's state.
    Updated,
    /// It was taken before.
    Repeated,
    /// It was refused for good.
    Refused,
    /// It could not be taken now.
    Later,
}

impl Told {
    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Revoked => "revoked",
            Self::Ignored => "ignored",
            Self::Unmapped => "unmapped",
            Self::Verified => "verified",
            Self::Updated => "stream_updated",
            Self::Repeated => "repeated",
            Self::Refused => "refused",
            Self::Later => "later",
        }
    }
}

/// What changes.
#[derive(Debug, Default)]
pub(super) struct State {
    pub status: Status,
    /// `aud` of the stream.
    pub audience: Vec<String>,
    /// Members of complex subjects that must be understood.
    pub critical: Vec<String>,
    /// States of verifications that were asked for and have not come.
    pub pending: VecDeque<String>,
    /// Somebody had it deleted: it is not made again.
    pub deleted: bool,
}

/// The state behind its lock.
#[derive(Debug, Default)]
pub(super) struct Shared(Mutex<State>);

impl Shared {
    pub fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
