//! Metrics of the fleet. They are there only where one is configured.

use prometheus::{Gauge, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::{Maker, follow};

/// How the fleet stands.
#[derive(Clone, Debug, Default)]
pub struct Fleet<'a> {
    /// Whether a server is connected.
    pub connected: bool,
    /// Seconds since the host knew itself complete.
    pub staleness: f64,
    /// Whether that is longer than is allowed.
    pub stale: bool,
    /// Entries of the log that the stream does not have yet.
    pub pending: u64,
    /// Hosts that are live, and that were.
    pub hosts: (usize, usize),
    /// Entries of each host's log that are not in force here.
    pub lag: Vec<(&'a str, u64)>,
    /// Hosts of which earlier orders are missing.
    pub gaps: usize,
    /// Live hosts that fingerprint under another key.
    pub other_keys: usize,
    /// Messages stored by the stream.
    pub published: u64,
    /// Messages put in force.
    pub applied: u64,
    /// Messages that were in force already.
    pub duplicates: u64,
    /// Messages refused, by the reason.
    pub refused: Vec<(&'a str, u64)>,
    /// Claims that cannot be put in force under this host's key.
    pub other_key_claims: u64,
    /// Times that missing orders were asked for.
    pub resyncs: u64,
    /// Connections made.
    pub connections: u64,
}

/// Those of one daemon.
#[derive(Debug)]
pub struct FleetMetrics {
    connected: IntGauge,
    staleness: Gauge,
    stale: IntGauge,
    pending: IntGauge,
    hosts: IntGaugeVec,
    lag: IntGaugeVec,
    gaps: IntGauge,
    other_keys: IntGauge,
    messages: IntCounterVec,
    refused: IntCounterVec,
    other_key_claims: IntCounter,
    resyncs: IntCounter,
    connections: IntCounter,
}

impl FleetMetrics {
    pub(super) fn new(make: &Maker<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            connected: make.gauge("portcullis_fleet_connected", "1 while a server of the fleet is connected.")?,
            staleness: make.keep(Gauge::new(
                "portcullis_fleet_staleness_seconds",
                "Time since this host knew that it has all that others ordered; since its start where it never did.",
            ))?,
            stale: make.gauge("portcullis_fleet_stale", "1 where that is longer than `fleet.max_staleness`.")?,
            pending: make.gauge(
                "portcullis_fleet_pending_entries",
                "Entries of this host's log, up to the last one with orders, that the stream does not have yet.",
            )?,
            hosts: make.gauges(
                "portcullis_fleet_hosts",
                "Other hosts that were heard of, by whether they are live.",
                &["state"],
            )?,
            lag: make.gauges(
                "portcullis_fleet_lag_entries",
                "How far the entries of another host's log that are in force here are behind its last one.",
                &["host"],
            )?,
            gaps: make.gauge("portcullis_fleet_gaps", "Hosts of which earlier orders are missing.")?,
            other_keys: make.gauge(
                "portcullis_fleet_other_keys",
                "Live hosts whose fingerprint key is not this host's: neither obeys the other's orders on single tokens.",
            )?,
            messages: make.counters(
                "portcullis_fleet_messages_total",
                "Messages of orders, by what came of them.",
                &["result"],
            )?,
            refused: make.counters(
                "portcullis_fleet_refused_total",
                "Messages of other hosts that were refused.",
                &["reason"],
            )?,
            other_key_claims: make.counter(
                "portcullis_fleet_other_key_claims_total",
                "Claims of other hosts that are not in force here, for their fingerprints are of another key.",
            )?,
            resyncs: make
                .counter("portcullis_fleet_resyncs_total", "Times that orders were asked for which the stream did not have.")?,
            connections: make.counter("portcullis_fleet_connections_total", "Connections to servers of the fleet.")?,
        })
    }

    pub(super) fn set(&self, f: &Fleet<'_>) {
        let int = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        self.connected.set(f.connected.into());
        self.staleness.set(f.staleness);
        self.stale.set(f.stale.into());
        self.pending.set(i64::try_from(f.pending).unwrap_or(i64::MAX));
        for (state, n) in [("live", f.hosts.0), ("silent", f.hosts.1)] {
            self.hosts.with_label_values(&[state]).set(int(n));
        }
        self.lag.reset();
        for (host, entries) in &f.lag {
            self.lag.with_label_values(&[host]).set(i64::try_from(*entries).unwrap_or(i64::MAX));
        }
        self.gaps.set(int(f.gaps));
        self.other_keys.set(int(f.other_keys));
        for (result, total) in [("stored", f.published), ("applied", f.applied), ("duplicate", f.duplicates)]
        {
            follow(&self.messages.with_label_values(&[result]), total);
        }
        for (reason, total) in &f.refused {
            follow(&self.refused.with_label_values(&[reason]), *total);
        }
        follow(&self.other_key_claims, f.other_key_claims);
        follow(&self.resyncs, f.resyncs);
        follow(&self.connections, f.connections);
    }
}
