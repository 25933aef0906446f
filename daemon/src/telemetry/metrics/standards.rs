//! Metrics of the standards' endpoints and feeds.

use prometheus::{IntCounterVec, IntGaugeVec};

use super::Maker;

/// Those of one daemon.
#[derive(Debug)]
pub struct StandardsMetrics {
    oauth: IntCounterVec,
    ssf_events: IntCounterVec,
    ssf_ready: IntGaugeVec,
    lists: IntGaugeVec,
    list_fetches: IntCounterVec,
}

impl StandardsMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            oauth: make.counters(
                "portcullis_oauth_requests_total",
                "Requests for revocation and introspection, by what came of them.",
                &["endpoint", "result"],
            )?,
            ssf_events: make.counters(
                "portcullis_ssf_events_total",
                "Security events by transmitter and what came of them.",
                &["transmitter", "result"],
            )?,
            ssf_ready: make.gauges(
                "portcullis_ssf_ready",
                "1 where a transmitter's keys and stream are as they should be.",
                &["transmitter"],
            )?,
            lists: make.gauges(
                "portcullis_status_lists",
                "Status lists in memory, by whether they are good now.",
                &["state"],
            )?,
            list_fetches: make.counters(
                "portcullis_status_list_fetches_total",
                "Attempts to fetch status lists.",
                &["result"],
            )?,
        })
    }

    /// Counts a request to an OAuth endpoint.
    pub fn oauth(&self, endpoint: &str, result: &str) {
        self.oauth.with_label_values(&[endpoint, result]).inc();
    }

    /// Counts a security event.
    pub fn ssf_event(&self, transmitter: &str, result: &str) {
        self.ssf_events.with_label_values(&[transmitter, result]).inc();
    }

    /// Notes whether a transmitter can be followed.
    pub fn ssf_ready(&self, transmitter: &str, ready: bool) {
        self.ssf_ready.with_label_values(&[transmitter]).set(ready.into());
    }

    /// Notes how status lists stand: good ones, all, and attempts to fetch them so far.
    pub fn status_lists(&self, good: u64, all: u64, fetched: u64, failed: u64) {
        for (state, n) in [("good", good), ("unavailable", all.saturating_sub(good))] {
            self.lists.with_label_values(&[state]).set(i64::try_from(n).unwrap_or(i64::MAX));
        }
        for (result, total) in [("ok", fetched), ("failed", failed)] {
            super::follow(&self.list_fetches.with_label_values(&[result]), total);
        }
    }

    /// Has each show up once, for the test of the documentation.
    #[cfg(test)]
    pub(super) fn touch(&self) {
        self.oauth("revoke", "revoked");
        self.ssf_event("idp", "revoked");
        self.ssf_ready("idp", true);
        self.status_lists(1, 1, 1, 0);
    }
}
