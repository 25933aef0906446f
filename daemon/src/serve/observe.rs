//! `/metrics`, `/health` and `/ready`.

use std::sync::Arc;

use axum::{Router, extract::State, http::StatusCode, response::IntoResponse, routing::get};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::telemetry::Metrics;

/// What the observability listener reads.
#[derive(Clone)]
pub struct ObserveState {
    /// The metrics.
    pub metrics: Arc<Metrics>,
    /// Says whether it is ready: decisions are made and revocations taken.
    pub ready: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Brings gauges up to date before a scrape.
    pub refresh: Arc<dyn Fn() + Send + Sync>,
}

/// Serves until `stop`.
pub async fn serve_observe(listener: TcpListener, state: ObserveState, stop: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        // Alive: the process answers. Ready: decisions are made and revocations taken.
        .route("/health", get(|| async { "ok\n" }))
        .route("/ready", get(ready))
        .with_state(state);
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(e) = served.await {
        tracing::error!(error = %e, "the observability listener ended");
    }
}

async fn metrics(State(s): State<ObserveState>) -> impl IntoResponse {
    (s.refresh)();
    match s.metrics.render() {
        Ok(text) => (StatusCode::OK, [("content-type", "text/plain; version=0.0.4")], text),
        Err(e) => (StatusCode::INTERNAL_SERVER_ERROR, [("content-type", "text/plain")], e.to_string()),
    }
}

async fn ready(State(s): State<ObserveState>) -> impl IntoResponse {
    if (s.ready)() { (StatusCode::OK, "ready\n") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ready\n") }
}
