//! Wires the record: the decision log's queue, thread and sink.

use std::{collections::BTreeMap, sync::Arc};

use anyhow::{Context as _, Result};

use super::settings;
use crate::{
    config::{Config, LogSink},
    decide::recorded_input,
    policy::Active,
    record::{
        FileSettings, HttpSettings, Labels, Log, LogParts, Recorder, Redaction, Sink, SinkKind, Waiting,
        queue,
    },
    telemetry::Metrics,
};

/// Decisions that may wait to be written, whatever memory they take.
const ENTRIES: usize = 16_384;

/// The record before its threads are started.
pub(super) struct Records {
    /// What decisions are handed to.
    pub recorder: Option<Arc<Recorder>>,
    log: Option<(Waiting, Sink)>,
}

/// Opens what the record needs: a file that cannot be opened ends the start.
pub(super) fn open(c: &Config) -> Result<Records> {
    let log = &c.decision_log;
    let kind = match log.sink {
        LogSink::Off => return Ok(Records { recorder: None, log: None }),
        LogSink::Stdout => SinkKind::Stdout,
        LogSink::Http => SinkKind::Http(HttpSettings {
            url: log.url.clone(),
            bearer_file: log.bearer_file.clone(),
            ca_file: log.ca_file.clone(),
            batch_bytes: usize::try_from(log.batch_bytes).unwrap_or(usize::MAX),
            batch_time: log.batch_time.0,
            retry_for: log.retry_for.0,
            timeout: log.timeout.0,
        }),
        LogSink::File => SinkKind::File(FileSettings {
            path: log.file.clone(),
            max_bytes: log.max_bytes,
            max_age: log.max_age.0,
            keep: log.keep,
        }),
    };
    let sink = Sink::open(kind).context("the decision log cannot be opened")?;
    let (queue, waiting) = queue(ENTRIES, usize::try_from(log.buffer_bytes).unwrap_or(usize::MAX));
    let recorder = Recorder {
        log: Some(queue),
        sample_allows: log.sample_allows,
        fail_open: c.serve.fail_open.iter().map(|d| settings::door(*d)).collect(),
    };
    Ok(Records { recorder: Some(Arc::new(recorder)), log: Some((waiting, sink)) })
}

impl Records {
    /// Starts the threads.
    pub fn start(self, c: &Config, active: &Arc<Active>, metrics: &Arc<Metrics>) -> Result<Option<Log>> {
        let Some((waiting, sink)) = self.log else { return Ok(None) };
        let doors = settings::doors(c);
        let parts = LogParts {
            waiting,
            sink,
            active: Arc::clone(active),
            metrics: Arc::clone(metrics),
            labels: labels(c),
            redaction: redaction(c),
            input: Box::new(move |event| recorded_input(event, &doors.token_path, &doors.authzen_token)),
        };
        Log::start(parts).map(Some).context("the decision log's thread cannot be started")
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
