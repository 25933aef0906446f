//! What policies ask of servers: `http.send`.
//!
//! An evaluation neither waits nor touches a socket. A call whose answer is not at hand ends it; who drives the
//! evaluation ([`crate::outside`]) has the call answered and evaluates anew, with all answers so far. So a slow server
//! holds up no thread, and the limits of an evaluation hold as they are.
//!
//! Guarantees: a call is made of the fields that OPA knows, and nothing else; one that fails denies, unless it says
//! `raise_error: false`; an evaluation that nobody drives asks nothing, and fails.

mod request;
mod response;

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderName, HeaderValue, Method};
use regorus::Value;

use super::PolicyError;
pub(super) use request::{is_quiet, read};
pub(super) use response::{Decode, answered, failed};

/// A request that a policy wants sent.
#[derive(Clone)]
pub struct Call {
    /// Its method.
    pub method: Method,
    /// Its address, as the policy wrote it.
    pub url: String,
    /// Its headers.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Its body.
    pub body: Bytes,
    /// The time that the policy gives it.
    pub timeout: Option<Duration>,
    /// How often it may be sent again after a failure.
    pub retries: u32,
    /// Whether its answer may be kept.
    pub keep: Keep,
    /// Stands for all of it, but for headers that are to be ignored: what its answer is kept under.
    pub name: [u8; 32],
}

/// Bodies and headers may hold secrets, and so may an address's query.
impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("method", &self.method).field("keep", &self.keep).finish_non_exhaustive()
    }
}

/// How long an answer is kept for other decisions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Keep {
    /// Not at all.
    Not,
    /// As the server says.
    AsServed,
    /// So long, whatever the server says.
    For(Duration),
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Its status.
    pub status: http::StatusCode,
    /// Its headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CallFault {
    /// The server was not reached, or did not answer as it should.
    Network(String),
    /// The call was not sent.
    Internal(String),
}

/// What came of a call.
pub type CallOutcome = Result<Arc<Answered>, CallFault>;

/// What was answered in one decision so far. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Answers(Arc<BTreeMap<Value, CallOutcome>>);

impl Answers {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds one.
    pub fn add(&mut self, question: Question, outcome: CallOutcome) {
        Arc::make_mut(&mut self.0).insert(question.request, outcome);
    }

    pub(super) fn of(&self, request: &Value) -> Option<&CallOutcome> {
        self.0.get(request)
    }
}

/// A call whose answer an evaluation needs to go on.
pub struct Question {
    pub(super) request: Value,
    pub(super) call: Call,
}

impl Question {
    /// What is to be sent.
    pub const fn call(&self) -> &Call {
        &self.call
    }
}

/// How far an evaluation came.
pub enum Progress<T> {
    /// To its end.
    Done(T),
    /// To a call that is to be answered first.
    Asks(Box<Question>),
}

/// Evaluates with the answers so far. Other evaluations than within this ask nobody: their calls fail.
pub fn asking<T>(
    answers: &Answers,
    evaluation: impl FnOnce() -> Result<T, PolicyError>,
) -> Result<Progress<T>, PolicyError> {
    let (value, question) = super::builtins::asking(answers.clone(), evaluation);
    question.map_or_else(|| value.map(Progress::Done), |q| Ok(Progress::Asks(q)))
}
