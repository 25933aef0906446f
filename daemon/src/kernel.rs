//! The kernel side, seen from the daemon: loads and attaches the programs, owns their maps.
//!
//! Knows fingerprints, verdicts, addresses and counters; no tokens, requests or policies. What is pinned
//! (deny map, counters, links) outlives the process: a daemon that starts again adopts it when layout version
//! and fingerprint key fit, and refuses to start when they do not. [`Kernel`] has one owner, so that one task
//! writes the maps.

mod attach;
mod counters;
mod deny;
mod error;
mod events;
mod load;
mod settings;
mod unlink;

pub use attach::{Attachment, Hook};
pub use counters::{CounterReader, Counts};
pub use deny::DenyMap;
pub use error::KernelError;
pub use events::EventSource;
pub use load::{Kernel, detach_all, test_support};
pub use settings::{Answer, Attach, GuardedPort, Reaction, Settings};
