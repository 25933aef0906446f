//! Wires traces: the tracer that the front doors note decisions with, and the task that sends them.

use std::sync::Arc;

use anyhow::{Context as _, Result};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, settings};
use crate::{
    config::Config,
    fetch::{self, Client},
    trace::{self, ExportSettings, Tracer},
};

/// Starts what `[trace]` asks for.
pub(super) fn start(
    shared: &Arc<Shared>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<Option<Tracer>> {
    let config = shared.config.load();
    let Some(settings) = export(&config)? else { return Ok(None) };
    let (tracer, spans) = Tracer::new(config.trace.sample);
    tasks.spawn(trace::run(spans, settings, Arc::clone(&shared.metrics), stop.clone()));
    Ok(Some(tracer))
}

/// Where spans go, if anywhere.
pub(super) fn export(config: &Config) -> Result<Option<ExportSettings>> {
    let t = &config.trace;
    let Some(endpoint) = &t.endpoint else { return Ok(None) };
    let bearer = settings::bearer(t.bearer_file.as_deref(), "trace.bearer_file")?;
    let client = fetch::Settings {
        ca_file: t.ca_file.clone(),
        plain_http: t.plain_http,
        ..fetch::Settings::default()
    };
    Ok(Some(ExportSettings {
        url: endpoint.parse().context("`trace.endpoint`")?,
        client: Client::new(&client).context("`trace`")?,
        bearer,
        service: t.service.clone(),
        host: settings::host_name(config),
    }))
}
