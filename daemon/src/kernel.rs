//! The kernel side, seen from the daemon: loads and attaches the programs, owns their maps.
//!
//! Knows fingerprints, verdicts, addresses and counters; no tokens, requests or policies. What is pinned
//! (deny map, counters, links) outlives the process: a daemon that starts again adopts it when layout version
//! and fingerprint key fit, and refuses to start when they do not. [`Kernel`] has one owner, so that one task
//! writes the maps.

mod attach;
mod batch;
mod beside;
mod btf;
mod connections;
mod counters;
mod deny;
mod diag;
mod error;
mod events;
mod gate;
mod guard_config;
mod guarding;
mod hooks;
mod inquiries;
mod links;
mod load;
mod netlink;
mod netns;
mod pins;
mod places;
mod requests;
mod settings;
mod shed;
mod unlink;

pub mod test_support;

pub use attach::Hook;
pub use connections::{Connections, Severed};
pub use counters::{CounterReader, Counts};
pub use deny::DenyMap;
pub use error::KernelError;
pub use events::EventSource;
pub use guarding::{Attachment, Guarded, GuardedView, detach_all, is_unpinned, unpin_all};
pub use inquiries::{Question, Questions};
pub use links::LinkWatch;
pub use load::Kernel;
pub use places::{Place, PlacesView, Sights};
pub use settings::{
    Answer, Answers, Attach, Enforcement, Gate, GuardedPort, Interfaces, Older, Opaque, Reaction, Settings,
    Unknown,
};
pub use shed::{Prefix, Sender, Senders, ShedAt, ShedBy, ShedHook, ShedSettings};
