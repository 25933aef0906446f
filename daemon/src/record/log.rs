//! The decision log's thread: takes decisions from the queue, makes lines of them, hands them to a sink.

use std::{
    collections::BTreeMap,
    sync::{Arc, mpsc},
    thread::JoinHandle,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{
    Event, Labels, Redaction,
    line::{self, Frame},
    mask,
    queue::{Entry, Waiting},
    redact::Changed,
    sink::{Flushed, Sink},
};
use crate::{
    policy::{Active, Input, Loaded},
    telemetry::Metrics,
};

/// How often the queue is looked at: a decision wakes nobody.
const PACE: Duration = Duration::from_millis(20);
/// The same when nothing has come for a while.
const IDLE: Duration = Duration::from_millis(100);
/// Lines made before they are handed to the sink.
const AT_ONCE: usize = 512;
/// How long the last lines may take.
const LAST_WORDS: Duration = Duration::from_secs(8);
/// How often losses are told in the daemon's own log.
const TELL: Duration = Duration::from_mins(1);

/// Makes the input that a decision was asked about.
pub type InputOf = Box<dyn Fn(&Event) -> Option<Value> + Send>;

/// What the log is made of.
pub struct LogParts {
    /// What is to be written.
    pub waiting: Waiting,
    /// Where it goes.
    pub sink: Sink,
    /// Whose mask is applied.
    pub active: Arc<Active>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// In each line.
    pub labels: Labels,
    /// What no line holds.
    pub redaction: Redaction,
    /// The input that a decision was asked about.
    pub input: InputOf,
}

/// The running log.
pub struct Log {
    stop: mpsc::Sender<()>,
    thread: JoinHandle<()>,
}

impl Log {
    /// Starts the thread.
    pub fn start(parts: LogParts) -> std::io::Result<Self> {
        let (stop, stopped) = mpsc::channel();
        let mut writer = Writer::new(parts);
        let builder =
            std::thread::Builder::new().name("decision-log".into()).stack_size(crate::policy::STACK);
        let thread = builder.spawn(move || writer.run(&stopped))?;
        Ok(Self { stop, thread })
    }

    /// Writes what waits, and ends. A sink that takes nothing (a pipe that nobody reads) does not hold up the daemon's end
    /// for long.
    pub fn stop(self) {
        drop(self.stop);
        let asked = Instant::now();
        while !self.thread.is_finished() {
            if asked.elapsed() > LAST_WORDS {
                tracing::warn!("the decision log's sink takes nothing: its last lines are lost");
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        if self.thread.join().is_err() {
            tracing::error!("the decision log ended badly; its last lines may be lost");
        }
    }
}

struct Writer {
    parts: LogParts,
    /// Hashes of the sets in force lately, by generation.
    revisions: BTreeMap<u64, String>,
    /// Whether the set in force may have a mask; its generation.
    masks: (u64, bool),
    told: Told,
}

/// Losses, and when they were told last.
#[derive(Default)]
struct Told {
    at: Option<Instant>,
    queue: u64,
    sink: u64,
    /// Both, as they were then.
    sum: u64,
    error: Option<String>,
}

impl Writer {
    fn new(parts: LogParts) -> Self {
        let mut writer =
            Self { parts, revisions: BTreeMap::new(), masks: (u64::MAX, false), told: Told::default() };
        writer.look_at_policy();
        writer
    }

    fn run(&mut self, stopped: &mpsc::Receiver<()>) {
        let mut quiet = 0_u32;
        loop {
            let more = self.round();
            if more {
                quiet = 0;
                continue;
            }
            quiet = quiet.saturating_add(1);
            let pace = if quiet > 50 { IDLE } else { PACE };
            if stopped.recv_timeout(pace) != Err(mpsc::RecvTimeoutError::Timeout) {
                break;
            }
        }
        while self.round() {}
        let last = self.parts.sink.finish();
        self.count(last);
        self.tell(true);
    }

    /// Writes some of what waits. Whether there was as much as is taken at once.
    fn round(&mut self) -> bool {
        let loaded = self.look_at_policy();
        let mut lines = 0;
        while lines < AT_ONCE {
            let Some(entry) = self.parts.waiting.next() else { break };
            let line = self.line(entry, &loaded);
            self.parts.sink.put(&line.to_string());
            lines += 1;
        }
        let flushed = self.parts.sink.flush();
        self.count(flushed);
        self.tell(false);
        lines == AT_ONCE
    }

    fn count(&mut self, flushed: Flushed) {
        self.told.sink += flushed.lost;
        self.told.error = flushed.error.or(self.told.error.take());
        self.parts.metrics.decision_log(flushed.written, self.parts.waiting.dropped(), flushed.lost);
    }

    /// Takes note of the set in force.
    fn look_at_policy(&mut self) -> Arc<Loaded> {
        let loaded = self.parts.active.current();
        if self.masks.0 != loaded.generation {
            self.masks = (loaded.generation, loaded.set.may_hold(&mask::RULE));
            self.revisions.insert(loaded.generation, loaded.set.hash().to_owned());
            while self.revisions.len() > 16 {
                self.revisions.pop_first();
            }
        }
        loaded
    }

    fn line(&self, entry: Entry, loaded: &Loaded) -> Value {
        let event = match entry {
            Entry::Kernel(event) => return line::kernel(*event, fresh(), &self.parts.labels),
            Entry::Decision(event) => event,
        };
        let decided = event.decided.as_deref();
        let frame = Frame {
            labels: &self.parts.labels,
            decision: &loaded.set.decision()["data.".len()..].replace('.', "/"),
            revision: decided.and_then(|d| self.revisions.get(&d.generation)).map(String::as_str),
            id: event.id,
        };
        let mut line = line::decision(&event, (self.parts.input)(&event), &frame);
        let mut changed = Changed::default();
        for member in ["input", "result"] {
            if let Some(value) = line.get_mut(member) {
                self.parts.redaction.apply(value, &format!("/{member}"), &mut changed);
            }
        }
        if self.masks.1 {
            masked(&mut line, loaded, &mut changed);
        }
        for (member, places) in [("erased", changed.erased), ("masked", changed.masked)] {
            if !places.is_empty() {
                line[member] = json!(places);
            }
        }
        line
    }

    /// Says what was lost, at most once a minute.
    fn tell(&mut self, last: bool) {
        self.told.queue = self.parts.waiting.dropped();
        let lost = self.told.queue + self.told.sink;
        let due = last || self.told.at.is_none_or(|at| at.elapsed() >= TELL);
        if lost == self.told.sum || !due {
            return;
        }
        tracing::warn!(
            queue = self.told.queue,
            sink = self.told.sink,
            error = self.told.error.take().unwrap_or_default(),
            "decisions are missing from the decision log: numbers since the start"
        );
        self.told.sum = lost;
        self.told.at = Some(Instant::now());
    }
}

/// Applies the policy's mask. Where it fails, nothing that it might have masked is written.
fn masked(line: &mut Value, loaded: &Loaded, changed: &mut Changed) {
    let asked = loaded.set.eval_path(&mask::RULE, &Input::from(line.clone()));
    let mut copy = line.clone();
    let mut places = changed.clone();
    let done = match asked {
        Ok(None) => return,
        Ok(Some(orders)) => mask::apply(&mut copy, &orders, &mut places),
        Err(e) => Err(e.to_string()),
    };
    match done {
        Ok(()) => (*line, *changed) = (copy, places),
        Err(why) => {
            for member in ["input", "result"] {
                if line.as_object_mut().is_some_and(|l| l.remove(member).is_some()) {
                    changed.erased.push(format!("/{member}"));
                }
            }
            line["portcullis"]["mask_failed"] = why.into();
        }
    }
}

/// The id of a line that is no evaluation's.
fn fresh() -> u64 {
    let mut bytes = [0; 8];
    // Without randomness ids repeat, which harms the log's readers alone.
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    u64::from_ne_bytes(bytes) | 1
}
