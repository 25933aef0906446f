//! Sending spans: OTLP over HTTP, in JSON.

use std::{
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{Span, Spans};
use crate::{
    fetch::{Bounds, Client, Request, Secret, Url},
    hex,
    telemetry::Metrics,
};

/// Spans in one message.
const BATCH: usize = 512;
/// Time after which a message is sent whatever it holds.
const PAUSE: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(10);
/// The span is an answer to a request.
const SERVER: u8 = 2;

/// Where to, and as whom.
#[derive(Debug)]
pub struct ExportSettings {
    /// The collector's address, with its path (`/v1/traces`).
    pub url: Url,
    /// How it is asked.
    pub client: Client,
    /// A bearer token for it.
    pub bearer: Option<Secret>,
    /// `service.name`.
    pub service: String,
    /// `host.name`.
    pub host: String,
}

/// Sends spans as they come, until `stop`; then those that are there.
pub async fn run(mut spans: Spans, settings: ExportSettings, metrics: Arc<Metrics>, stop: CancellationToken) {
    let mut told = false;
    loop {
        let mut batch = Vec::new();
        let first = tokio::select! {
            () = stop.cancelled() => None,
            n = spans.receiver.recv_many(&mut batch, BATCH) => Some(n),
        };
        match first {
            Some(0) => return,
            Some(_) => {
                // Others are given the time to come: one message for many.
                let more = async {
                    while batch.len() < BATCH && spans.receiver.recv_many(&mut batch, BATCH).await > 0 {}
                };
                tokio::select! {
                    () = stop.cancelled() => {}
                    _ = tokio::time::timeout(PAUSE, more) => {}
                }
            }
            None => {
                while let Ok(span) = spans.receiver.try_recv() {
                    batch.push(span);
                }
            }
        }
        metrics.spans("dropped", spans.dropped.swap(0, Ordering::Relaxed));
        if !batch.is_empty() {
            let count = batch.len() as u64;
            match send(&settings, &batch).await {
                Ok(()) => {
                    told = false;
                    metrics.spans("sent", count);
                }
                Err(why) => {
                    metrics.spans("dropped", count);
                    if !told {
                        tracing::warn!(
                            error = why,
                            spans = count,
                            "spans are lost: the collector does not take them"
                        );
                        told = true;
                    }
                }
            }
        }
        if first.is_none() {
            return;
        }
    }
}

async fn send(settings: &ExportSettings, batch: &[Span]) -> Result<(), String> {
    let body = Bytes::from(message(settings, batch).to_string());
    let mut request = Request::new(Method::POST, settings.url.clone()).body("application/json", body);
    if let Some(token) = &settings.bearer {
        request = request.bearer(token);
    }
    let bounds = Bounds { deadline: DEADLINE, max_body: 64 * 1024 };
    let answer = settings.client.send(request, bounds).await.map_err(|e| e.to_string())?;
    answer.success().map(drop).map_err(|e| e.to_string())
}

/// `ExportTraceServiceRequest`, in protobuf's JSON with ids in hexadecimal, as OTLP has it.
fn message(settings: &ExportSettings, batch: &[Span]) -> Value {
    let resource = [
        text("service.name", &settings.service),
        text("service.version", env!("CARGO_PKG_VERSION")),
        text("host.name", &settings.host),
    ];
    let spans: Vec<Value> = batch.iter().map(span).collect();
    json!({"resourceSpans": [{
        "resource": {"attributes": resource},
        "scopeSpans": [{"scope": {"name": "portcullis"}, "spans": spans}],
    }]})
}

fn span(s: &Span) -> Value {
    let mut all = json!({
        "traceId": hex::encode(&s.trace),
        "spanId": hex::encode(&s.id),
        "name": "portcullis.decide",
        "kind": SERVER,
        "startTimeUnixNano": nanos(s.start),
        "endTimeUnixNano": nanos(s.start + s.took),
        "attributes": [
            text("portcullis.door", s.door.label()),
            text("portcullis.decision", if s.allow { "allow" } else { "deny" }),
            text("portcullis.reason", s.reason.code()),
        ],
    });
    if let Some(parent) = &s.parent {
        all["parentSpanId"] = hex::encode(parent).into();
    }
    all
}

fn text(key: &str, value: &str) -> Value {
    json!({"key": key, "value": {"stringValue": value}})
}

/// As protobuf's JSON writes 64 bits.
fn nanos(at: SystemTime) -> String {
    at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_nanos().to_string()
}
