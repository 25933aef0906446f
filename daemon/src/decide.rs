//! The decision path: a request and its token in, a ruling out.
//!
//! Every step that can fail denies. A ruling that allows holds a [`Permit`], which only this room can make. A
//! cached verdict is used only while its policy generation is active, its time has not come, and its token is
//! not revoked, which is asked on every hit. The cache key is the token's text and every attribute that the active
//! policy reads, found by analysing it.

mod attributes;
mod cache;
mod data;
mod decider;
mod document;
mod explain;
mod flights;
mod id;
mod input;
mod inspect;
mod keys;
mod known;
mod limits;
mod orders;
mod pressure;
mod proof;
mod recording;
mod request;
mod rule;
mod ruling;
mod select;
mod using;

pub use data::{DataAnswer, DataFault, DataQuery, Form};
pub use decider::{Decider, DeciderParts, Settings};
pub use explain::Explanation;
pub use id::DecisionId;
pub use inspect::Inspected;
pub use limits::Allowance;
pub use orders::Asked;
pub use pressure::watch_pressure;
pub use recording::recorded_input;
pub use request::{BadPath, Path, Request, segments};
pub use ruling::{FailOpen, Permit, Refusal, Ruling};

#[cfg(test)]
mod asking_tests;
#[cfg(test)]
mod key_tests;
#[cfg(test)]
mod record_tests;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod usage_tests;
