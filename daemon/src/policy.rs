//! Policies: Rego in, decisions out.
//!
//! Guarantees: a policy set is immutable once loaded, and is loaded whole or not at all: it parses, compiles
//! and passes its own tests; an evaluation is bounded in time and work, its panics are contained, and what
//! is not a well-formed decision is an error, which callers must answer with a denial.
//!
//! Leaves to others: what the input says, and what a decision does. Evaluation knows JSON alone: no tokens,
//! sockets or kernel. Only [`load()`] and [`watch()`] touch files.

mod active;
mod builtins;
mod compare;
mod decision;
mod depth;
mod files;
mod fold;
mod functions;
mod hazards;
mod http;
mod load;
mod machine;
mod names;
mod owned;
mod pool;
mod reads;
mod replay;
mod reply;
mod rewrite;
mod set;
mod shape;
mod slim;
mod snapshot;
mod stack;
mod suite;
mod watch;
mod yaml;

use std::path::PathBuf;

use portcullis_common::reason::Reason;
use serde::Serialize;
use thiserror::Error;

pub use active::{Active, Loaded};
pub use compare::{Cause as DecisionCause, Difference, Kind, compare, differing_rules};
pub use decision::{Block, Decision, Grant, Limit, MAX_TTL};
pub use http::{
    Answered, Answers, Call, CallFault, CallOutcome, Keep as KeepAnswer, Progress, Question, asking,
};
pub use load::{LoadOptions, load};
pub use owned::{Owned, owned, package_of};
pub use reads::{Extent, InputPath, Reads, Shown, Step};
pub use reply::{Headers, Reply};
pub use set::{Cause, EngineKind, PolicySet, Tested};
pub use snapshot::{copies, revision, snapshot};
pub use stack::STACK;
pub use suite::{Coverage, Outcome, TestCase, TestReport, run_tests};
pub use watch::{WatchError, Watcher, watch};
pub use yaml::check as check_yaml;

/// What a policy is asked about: any JSON. It is cheap to clone.
#[derive(Clone, Debug)]
pub struct Input(regorus::Value);

impl Input {
    /// Takes in anything that serializes to JSON.
    pub fn new(value: &impl Serialize) -> Result<Self, PolicyError> {
        let json = serde_json::to_value(value).map_err(|e| PolicyError::Failed(e.to_string()))?;
        Ok(json.into())
    }
}

impl From<serde_json::Value> for Input {
    fn from(json: serde_json::Value) -> Self {
        Self(builtins::value(json))
    }
}

/// Reads a document in JSON or YAML.
pub fn read_document(text: &str) -> Result<serde_json::Value, String> {
    let value = regorus::Value::from_json_str(text).or_else(|_| yaml::read(text))?;
    serde_json::to_value(&value).map_err(|e| e.to_string())
}

/// Why there is no decision. Each denies; [`Self::reason`] is what the answer, log and metrics say.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum PolicyError {
    /// No rule gave a value.
    #[error("the policy gave no decision for this input")]
    Undefined,
    /// The evaluation ran into its bound of time or instructions.
    #[error("the policy did not finish in time")]
    Timeout,
    /// The evaluation failed or panicked.
    #[error("the policy failed: {0}")]
    Failed(String),
    /// A path that was asked for failed at a place in a module.
    #[error("the policy failed: {0}")]
    Placed(Box<Placed>),
    /// The value is no decision.
    #[error("the policy's decision is not well formed: {0}")]
    BadDecision(String),
}

/// What failed where.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message} ({file}:{line}:{column})")]
pub struct Placed {
    /// What, without the paths of this host.
    pub message: String,
    /// Whether rules contradict each other.
    pub is_conflict: bool,
    /// The module's file, without its directory.
    pub file: String,
    /// From 1.
    pub line: u32,
    /// From 1.
    pub column: u32,
}

impl PolicyError {
    /// The reason code for answers, logs and metrics.
    pub const fn reason(&self) -> Reason {
        match self {
            Self::Undefined => Reason::PolicyUndefined,
            Self::Timeout => Reason::PolicyTimeout,
            Self::Failed(_) | Self::Placed(_) | Self::BadDecision(_) => Reason::PolicyError,
        }
    }
}

/// Why a policy set was not loaded. The one in force stays in force.
#[derive(Debug, Error)]
pub enum LoadError {
    /// A file or directory cannot be read.
    #[error("cannot read `{path}`: {source}")]
    Read {
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A link leads out of the policy directory.
    #[error("`{path}` is a link that leads out of its policy directory; copy the file there instead")]
    OutsideLink {
        /// The link.
        path: PathBuf,
    },
    /// The set is larger than the options allow.
    #[error(
        "the policy set has more than {limit} {unit}; remove what does not belong to it from the policy directories"
    )]
    TooLarge {
        /// The limit.
        limit: u64,
        /// What it counts.
        unit: &'static str,
    },
    /// A module does not parse or compile.
    #[error("{file}:{line}:{column}: {message}")]
    Rego {
        /// The module's file.
        file: String,
        /// Line, from 1.
        line: u32,
        /// Column, from 1.
        column: u32,
        /// What is wrong.
        message: String,
    },
    /// The set does not compile, and the compiler did not say where.
    #[error("the policy set does not compile: {0}")]
    Compile(String),
    /// A data file is not an object, or two give one path different values.
    #[error("`{path}`: {message}")]
    Data {
        /// The data file.
        path: PathBuf,
        /// What is wrong.
        message: String,
    },
    /// The decision's rule is misnamed or absent.
    #[error("the decision `{path}` {message}")]
    Decision {
        /// The decision as configured.
        path: String,
        /// What is wrong.
        message: String,
    },
    /// The set's own tests do not all pass.
    #[error("{} of the policy set's own tests failed: {}", .0.failures().count(), .0.summary())]
    Tests(TestReport),
}
