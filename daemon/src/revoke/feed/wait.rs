//! Waiting until an order has come as far as is asked: to this disk, to the stream, to the other hosts' kernels.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    super::{AnyClaim, Change, Fingerprints},
    Feed,
    hosts::Missing,
};

/// Time in which every live host says that it is there.
pub const HEARD: Duration = Duration::from_millis(2500);

/// How far an order has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// It is on this host's disk and in force here.
    #[default]
    Local,
    /// The stream has it, as many of its servers as make a majority.
    Stored,
    /// The other hosts have it in force. `all` is another word for it.
    #[serde(alias = "all")]
    Applied,
}

/// How far an order came in time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Waited {
    /// What was asked.
    pub level: Level,
    /// Whether it came so far.
    pub reached: bool,
    /// Whether the stream has it. Whether its servers have it on their disks they do not say.
    pub stored: bool,
    /// Hosts that have it in force.
    pub applied: Vec<String>,
    /// Hosts that do not, as far as is known.
    pub missing: Vec<Missing>,
}

/// How far an order has come by now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Receipts {
    /// Whether the stream has it.
    pub stored: bool,
    /// Hosts that have it in force.
    pub applied: Vec<String>,
    /// Hosts that do not, as far as is known.
    pub missing: Vec<Missing>,
}

impl Feed {
    /// The level that is waited for where nobody asks for another, and how long.
    pub const fn usual(&self) -> (Level, Duration) {
        (self.settings.acknowledge, self.settings.timeout)
    }

    /// Waits until all that was ordered here so far has come as far as is usual. Whether it has.
    pub async fn usually(&self) -> bool {
        let (level, timeout) = self.usual();
        // The log is not read for what is so already.
        if level == Level::Local {
            return true;
        }
        let entry = *self.plane.head().borrow();
        self.wait(level, entry, &BTreeSet::new(), timeout).await.reached
    }

    /// Waits until all that this host's log says up to an entry has come as far as `level`, but no longer than `timeout`.
    /// `named` are hosts that are waited for whether they are there or not; without any, all live ones.
    pub async fn wait(
        &self,
        level: Level,
        entry: u64,
        named: &BTreeSet<String>,
        timeout: Duration,
    ) -> Waited {
        let tokens = self.tokens(entry).await;
        let wait = async {
            if level == Level::Local {
                return;
            }
            if self.stored.subscribe().wait_for(|stored| *stored >= entry).await.is_err()
                || level == Level::Stored
            {
                return;
            }
            let target = self.state().head;
            let mut heard = self.heard.subscribe();
            loop {
                heard.borrow_and_update();
                let missing = self.state().hosts.standing(target, &tokens, named, Instant::now()).1;
                if missing.is_empty() && self.knows_who_is_there() {
                    return;
                }
                // A host that falls silent is missed by nobody after a while, and nothing is heard of that.
                let _ = tokio::time::timeout(Duration::from_secs(1), heard.changed()).await;
            }
        };
        let _ = tokio::time::timeout(timeout, wait).await;
        let Receipts { stored, applied, missing } = self.standing(entry, &tokens, named);
        let reached = match level {
            Level::Local => true,
            Level::Stored => stored,
            Level::Applied => stored && missing.is_empty() && self.knows_who_is_there(),
        };
        Waited { level, reached, stored, applied, missing }
    }

    /// Whether it has been connected for long enough to have heard of everybody.
    fn knows_who_is_there(&self) -> bool {
        self.state().since.is_some_and(|since| since.elapsed() >= HEARD)
    }

    /// How far the orders up to an entry have come by now.
    pub async fn receipts(&self, entry: u64, named: &BTreeSet<String>) -> Receipts {
        self.standing(entry, &self.tokens(entry).await, named)
    }

    /// The keys under which the tokens have names that an entry refuses, each set of them once.
    async fn tokens(&self, entry: u64) -> Vec<Vec<u32>> {
        let read = self.plane.entries(entry.saturating_sub(1), 1).await;
        let Some(read) = read.ok().flatten().and_then(|mut all| all.pop()).filter(|e| e.entry == entry)
        else {
            // Compacted away: by the keys that claims are named under here.
            return vec![self.settings.keys.all().collect()];
        };
        let claims = read.changes.iter().filter_map(|change| {
            let Change::Revoked(claim) = change else { return None };
            let AnyClaim::Token(c) = &**claim else { return None };
            c.parent.is_none().then(|| c.fingerprints())
        });
        let under = |f: Fingerprints| f.named().map(|n| n.key_id).collect();
        claims.map(under).collect::<BTreeSet<_>>().into_iter().collect()
    }

    fn standing(&self, entry: u64, tokens: &[Vec<u32>], named: &BTreeSet<String>) -> Receipts {
        let stored = *self.stored.borrow() >= entry;
        let state = self.state();
        // Entries without orders are told to nobody: the last one with some is what others have, once the stream has it.
        let target = if stored { entry.min(state.head) } else { entry };
        let (applied, missing) = state.hosts.standing(target, tokens, named, Instant::now());
        Receipts { stored, applied, missing }
    }
}
