//! A candidate set beside the live one: both are asked what real requests asked, and differences are counted.
//!
//! Off the decision path: decisions are handed in as for the log, so many a second at most; what has no room is counted.
//! Both sets are evaluated on this thread for one input, and nothing comes of it but the count: no verdict is kept, nothing
//! is condemned, limited or noted as used.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU32, AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use super::{
    Event, Queue, Redaction,
    log::InputOf,
    queue::{Entry, Waiting},
    redact::Changed,
};
use crate::{
    clock::WallTime,
    policy::{Active, Difference, Input, Kind, PolicySet, compare, differing_rules},
    telemetry::Metrics,
};

const PACE: Duration = Duration::from_millis(50);
/// Kinds of differences told apart; what comes after them is counted as others.
const GROUPS: usize = 200;
/// Examples kept of each.
const EXAMPLES: usize = 3;
/// Longest example, in bytes of JSON.
const LONGEST: usize = 16 * 1024;

/// Where decisions are handed in.
pub struct Shadower {
    queue: Queue,
    /// Whether there is a candidate that differs from the live set.
    on: AtomicBool,
    /// Most decisions in a second.
    rate: u32,
    second: AtomicI64,
    taken: AtomicU32,
    skipped: AtomicU64,
}

impl Shadower {
    /// Off until there is a candidate.
    pub const fn new(queue: Queue, rate: u32) -> Self {
        Self {
            queue,
            on: AtomicBool::new(false),
            rate,
            second: AtomicI64::new(0),
            taken: AtomicU32::new(0),
            skipped: AtomicU64::new(0),
        }
    }

    /// Says whether there is a candidate.
    pub fn set_on(&self, on: bool) {
        self.on.store(on, Ordering::Relaxed);
    }

    /// Whether a decision is compared: counted where it is not for want of time.
    pub(super) fn takes(&self, now: WallTime) -> bool {
        if !self.on.load(Ordering::Relaxed) {
            return false;
        }
        let second = now.seconds();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.taken.store(0, Ordering::Relaxed);
        }
        let takes = self.taken.fetch_add(1, Ordering::Relaxed) < self.rate;
        if !takes {
            self.skipped.fetch_add(1, Ordering::Relaxed);
        }
        takes
    }

    pub(super) fn offer(&self, event: Arc<Event>) {
        self.queue.offer(event);
    }

    /// Decisions that were not compared: over the rate, or without room.
    pub fn skipped(&self) -> u64 {
        self.skipped.load(Ordering::Relaxed) + self.queue.dropped()
    }
}

/// Differences of one cause.
#[derive(Default)]
struct Group {
    count: u64,
    rules: BTreeSet<String>,
    examples: Vec<Value>,
}

/// What was seen since candidate and live set are what they are.
#[derive(Default)]
struct Seen {
    /// Stamps of the live set and the candidate.
    sets: [String; 2],
    compared: u64,
    same: u64,
    groups: BTreeMap<Difference, Group>,
    others: u64,
}

/// What the comparison came to, for whoever asks.
#[derive(Default)]
pub struct Findings(Mutex<Seen>);

/// What the thread works with.
pub struct ShadowParts {
    /// What is to be compared.
    pub waiting: Waiting,
    /// The live set.
    pub live: Arc<Active>,
    /// The candidate.
    pub candidate: Arc<ArcSwapOption<PolicySet>>,
    /// The input that a decision was asked about.
    pub input: InputOf,
    /// What no example holds.
    pub redaction: Redaction,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Where it is told.
    pub findings: Arc<Findings>,
}

/// The running comparison.
pub struct Shadow {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Shadow {
    /// Starts the thread.
    pub fn start(parts: ShadowParts) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel::<()>();
        let run = move || {
            loop {
                while let Some(entry) = parts.waiting.next() {
                    if let Entry::Decision(event) = entry {
                        parts.compare(&event);
                    }
                    if stopped.try_recv() == Err(mpsc::TryRecvError::Disconnected) {
                        return;
                    }
                }
                if stopped.recv_timeout(PACE) == Err(mpsc::RecvTimeoutError::Disconnected) {
                    return;
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("shadow".into()).stack_size(crate::policy::STACK).spawn(run)?;
        Ok(Self { stop, thread })
    }

    /// Ends it; what waits is not compared.
    pub fn stop(self) {
        drop(self.stop);
        if self.thread.join().is_err() {
            tracing::error!("the comparison with the candidate policies ended badly");
        }
    }
}

impl ShadowParts {
    fn compare(&self, event: &Event) {
        // Where the policy was not asked, its candidate is not either.
        let Some(decided) = &event.decided else { return };
        let failed = [Reason::PolicyError, Reason::PolicyTimeout, Reason::PolicyUndefined];
        if event.reason == Reason::TokenRevoked || decided.value.is_none() && !failed.contains(&event.reason)
        {
            return;
        }
        let (Some(candidate), Some(input)) = (self.candidate.load_full(), (self.input)(event)) else {
            return;
        };
        let live = self.live.current();
        // What a server said then is not known now, and nobody is asked twice for one request.
        if live.set.asks() || candidate.asks() {
            self.metrics.shadow("asks");
            return;
        }
        let asked = Input::from(input.clone());
        let found = compare(&live.set, &candidate, &asked);
        let kind = found.as_ref().map_or("same", |(d, _)| d.kind.code());
        self.metrics.shadow(kind);
        let mut seen = self.findings.lock();
        seen.begin([live.set.stamp(), candidate.stamp()]);
        seen.compared += 1;
        let Some((difference, [old, new])) = found else {
            seen.same += 1;
            return;
        };
        if seen.groups.len() >= GROUPS && !seen.groups.contains_key(&difference) {
            seen.others += 1;
            return;
        }
        let group = seen.groups.entry(difference).or_default();
        group.count += 1;
        if group.examples.len() >= EXAMPLES {
            return;
        }
        let fingerprint = decided.fingerprint.map(|f| f.to_string());
        let mut example = json!({"input": input, "live": old, "candidate": new, "fingerprint": fingerprint});
        for member in ["input", "live", "candidate"] {
            self.redaction.apply(&mut example[member], &format!("/{member}"), &mut Changed::default());
        }
        if example.to_string().len() > LONGEST {
            example = json!({"fingerprint": fingerprint, "too_long": true});
        }
        group.rules.extend(differing_rules(&live.set, &candidate, &asked));
        group.examples.push(example);
    }
}

impl Seen {
    /// Begins anew where either set is another.
    fn begin(&mut self, sets: [&str; 2]) {
        if self.sets != sets {
            *self = Self { sets: sets.map(str::to_owned), ..Self::default() };
        }
    }
}

impl Findings {
    fn lock(&self) -> std::sync::MutexGuard<'_, Seen> {
        // What an evaluation that panics leaves is a count too few.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found about these two sets.
    pub fn told(&self, sets: [&str; 2]) -> Value {
        let mut seen = self.lock();
        seen.begin(sets);
        let count =
            |kind| seen.groups.iter().filter(|(d, _)| d.kind == kind).map(|(_, g)| g.count).sum::<u64>();
        let mut groups: Vec<_> = seen.groups.iter().collect();
        groups.sort_by_key(|(d, g)| (d.kind, std::cmp::Reverse(g.count)));
        let differences: Vec<Value> = groups
            .into_iter()
            .map(|(d, g)| {
                json!({
                    "kind": d.kind, "live": d.old, "candidate": d.new, "members": d.members, "count": g.count,
                    "rules": g.rules, "examples": g.examples,
                })
            })
            .collect();
        json!({
            "compared": seen.compared, "same": seen.same, "newly_denied": count(Kind::NewlyDenied),
            "newly_allowed": count(Kind::NewlyAllowed), "changed": count(Kind::Changed), "others": seen.others,
            "differences": differences,
        })
    }
}
