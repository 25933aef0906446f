//! Which attributes of a request belong to the cache key: those that the active policy reads.
//!
//! The token always does, whatever the policy reads of it: revocation, `exp` and condemnation are its own. The time
//! never does, or nothing would ever hit: where the policy looks at a clock, or at anything else that changes by
//! itself, a verdict is kept for the ttl that the policy gives it, and for none if it gives none.

use crate::policy::{Extent, Loaded, Reads, Step};

/// Members of the input that the decision path itself puts there.
pub const OWN: [&str; 5] = ["time", "token_status", "token_bound", "identity", "usage"];

/// What one policy set reads of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "one for each attribute")]
pub struct Attributes {
    /// The set's generation, part of the key: under another set the same attributes may mean something else.
    pub generation: u64,
    pub method: bool,
    pub path: bool,
    pub query: bool,
    pub host: bool,
    pub source: bool,
    /// What is known of the source's address.
    pub geo: bool,
    pub headers: Headers,
    /// Whether the decision also depends on what changes by itself.
    pub volatile: bool,
}

/// Which headers are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Headers {
    /// Each.
    All,
    /// Those of these names.
    Named(Vec<String>),
}

impl Attributes {
    /// Takes them from what the analysis found.
    pub fn of(loaded: &Loaded) -> Self {
        let reads = loaded.set.reads();
        let request = |name: &str| reads.touches(&["request", name]);
        Self {
            generation: loaded.generation,
            method: request("method"),
            // The segments are made of the path.
            path: request("path") || request("segments"),
            query: request("query"),
            host: request("host"),
            // Where an address is follows from it, and from the databases.
            source: request("source") || request("geo"),
            geo: request("geo"),
            headers: headers(reads),
            volatile: !reads.volatile.is_empty() || reads.touches(&["time"]) || reads.touches(&["usage"]),
        }
    }
}

impl Attributes {
    /// Whether two requests of one key have one method and target.
    pub const fn names_target(&self) -> bool {
        self.method && self.path && self.query
    }
}

fn headers(reads: &Reads) -> Headers {
    let mut names = Vec::new();
    for (path, extent) in &reads.input {
        let is = |n: usize, name: &str| matches!(path.get(n), Some(Step::Key(k)) if k == name);
        match path.len() {
            0 if *extent == Extent::Whole => return Headers::All,
            1 if is(0, "request") && *extent == Extent::Whole => return Headers::All,
            2 if is(0, "request") && is(1, "headers") && *extent == Extent::Whole => return Headers::All,
            3.. if is(0, "request") && is(1, "headers") => {
                if let Step::Key(name) = &path[2] {
                    names.push(name.clone());
                }
            }
            _ => {}
        }
    }
    Headers::Named(names)
}
