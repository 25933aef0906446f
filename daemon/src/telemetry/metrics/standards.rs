//! Metrics of the standards' endpoints and feeds.

use prometheus::IntCounterVec;

use super::Maker;

/// Those of one daemon.
#[derive(Debug)]
pub struct StandardsMetrics {
    oauth: IntCounterVec,
}

impl StandardsMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            oauth: make.counters(
                "portcullis_oauth_requests_total",
                "Requests for revocation and introspection, by what came of them.",
                &["endpoint", "result"],
            )?,
        })
    }

    /// Counts a request to an OAuth endpoint.
    pub fn oauth(&self, endpoint: &str, result: &str) {
        self.oauth.with_label_values(&[endpoint, result]).inc();
    }

    /// Has each show up once, for the test of the documentation.
    #[cfg(test)]
    pub(super) fn touch(&self) {
        self.oauth("revoke", "revoked");
    }
}
