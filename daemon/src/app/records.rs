//! Wires the record: queues and threads of the decision log and of the candidate set.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};

use super::{candidate::Candidate, settings};
use crate::{
    config::{Config, LogSink},
    decide::recorded_input,
    policy::Active,
    record::{
        FileSettings, HttpSettings, InputOf, Labels, Log, LogParts, Recorder, Redaction, Shadow, ShadowParts,
        Shadower, Sink, SinkKind, Waiting, queue,
    },
    telemetry::Metrics,
};

/// Decisions that may wait to be written, whatever memory they take.
const ENTRIES: usize = 16_384;

/// Decisions that may wait for the candidate, and the memory that they may take.
const SHADOW_ENTRIES: usize = 2048;
const SHADOW_BYTES: usize = 8 << 20;

/// The record before its threads are started.
#[derive(Default)]
pub(super) struct Records {
    /// What decisions are handed to.
    pub recorder: Option<Arc<Recorder>>,
    log: Option<(Waiting, Sink)>,
    shadow: Option<Waiting>,
}

/// Opens what the record needs: a file that cannot be opened ends the start.
pub(super) fn open(c: &Config) -> Result<Records> {
    let log = &c.decision_log;
    let kind = match log.sink {
        LogSink::Off => None,
        LogSink::Stdout => Some(SinkKind::Stdout),
        LogSink::Http => Some(SinkKind::Http(HttpSettings {
            url: log.url.clone(),
            bearer_file: log.bearer_file.clone(),
            ca_file: log.ca_file.clone(),
            batch_bytes: usize::try_from(log.batch_bytes).unwrap_or(usize::MAX),
            batch_time: log.batch_time.0,
            retry_for: log.retry_for.0,
            timeout: log.timeout.0,
        })),
        LogSink::File => Some(SinkKind::File(FileSettings {
            path: log.file.clone(),
            max_bytes: log.max_bytes,
            max_age: log.max_age.0,
            keep: log.keep,
        })),
    };
    let sink = kind.map(Sink::open).transpose().context("the decision log cannot be opened")?;
    let log = sink.map(|sink| {
        let (queue, waiting) = queue(ENTRIES, usize::try_from(log.buffer_bytes).unwrap_or(usize::MAX));
        (queue, waiting, sink)
    });
    let shadow = (!c.policy.candidate_dirs.is_empty()).then(|| queue(SHADOW_ENTRIES, SHADOW_BYTES));
    if log.is_none() && shadow.is_none() {
        return Ok(Records::default());
    }
    let recorder = Recorder {
        log: log.as_ref().map(|(queue, ..)| queue.clone()),
        sample_allows: c.decision_log.sample_allows,
        shadow: shadow.as_ref().map(|(queue, _)| Shadower::new(queue.clone(), c.policy.candidate_rate)),
        fail_open: c.serve.fail_open.iter().map(|d| settings::door(*d)).collect(),
    };
    Ok(Records {
        recorder: Some(Arc::new(recorder)),
        log: log.map(|(_, waiting, sink)| (waiting, sink)),
        shadow: shadow.map(|(_, waiting)| waiting),
    })
}

/// The record's threads.
#[derive(Default)]
pub(super) struct Threads {
    log: Option<Log>,
    shadow: Option<Shadow>,
}

impl Threads {
    /// Writes what waits, and ends them.
    pub fn stop(self) {
        if let Some(shadow) = self.shadow {
            shadow.stop();
        }
        if let Some(log) = self.log {
            log.stop();
        }
    }
}

impl Records {
    /// Starts the threads.
    pub fn start(
        self,
        c: &Config,
        active: &Arc<Active>,
        candidate: &Candidate,
        metrics: &Arc<Metrics>,
    ) -> Result<Threads> {
        let input = || -> InputOf {
            let doors = settings::doors(c);
            Box::new(move |event| recorded_input(event, &doors.token_path, &doors.authzen_token))
        };
        let mut threads = Threads::default();
        if let Some((waiting, sink)) = self.log {
            let parts = LogParts {
                waiting,
                sink,
                active: Arc::clone(active),
                metrics: Arc::clone(metrics),
                labels: labels(c),
                redaction: redaction(c),
                input: input(),
            };
            threads.log = Some(Log::start(parts).context("the decision log's thread cannot be started")?);
        }
        if let Some(waiting) = self.shadow {
            let parts = ShadowParts {
                waiting,
                live: Arc::clone(active),
                candidate: Arc::clone(&candidate.set),
                input: input(),
                redaction: redaction(c),
                metrics: Arc::clone(metrics),
                findings: Arc::clone(&candidate.findings),
            };
            let shadow = Shadow::start(parts).context("the candidate's thread cannot be started")?;
            threads.shadow = Some(shadow);
        }
        Ok(threads)
    }
}

/// What no line holds.
fn redaction(c: &Config) -> Redaction {
    let last = |path: &str| path.rsplit('.').next().unwrap_or_default().to_ascii_lowercase();
    let keys = c.token.key_headers.iter().map(|h| h.to_ascii_lowercase());
    Redaction {
        headers: c.decision_log.headers.clone(),
        claims: c.decision_log.erase_claims.clone(),
        secrets: keys.chain([last(&c.serve.token_path), last(&c.serve.authzen_token)]).collect(),
    }
}

/// Who writes. The operator's own labels do not stand in for ours.
fn labels(c: &Config) -> Labels {
    let mut labels: BTreeMap<String, String> = c.host.labels.clone();
    labels.insert("id".to_owned(), instance());
    labels.insert("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    labels.insert("host".to_owned(), settings::host_name(c));
    if let Some(region) = &c.host.region {
        labels.insert("region".to_owned(), region.clone());
    }
    Labels(labels)
}

/// A name of this run of the daemon.
fn instance() -> String {
    crate::decide::DecisionId::make().to_string()
}
