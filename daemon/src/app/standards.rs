//! Wires the standards' endpoints.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, door, settings};
use crate::{
    clock::SharedClock,
    config::{ClientRevokes, Config, Endpoint, StandardsClient},
    hex,
    serve::{self, ClientSettings, Clients, Lately, Listener, Revokes, ServeError, Standards, Tls},
};

/// Revocations by clients that are remembered.
const LATELY: u64 = 100_000;

/// Binds their listeners.
pub async fn bind(config: &Config) -> Result<Vec<(Endpoint, Listener)>, ServeError> {
    let mut all = Vec::new();
    for endpoint in &config.standards.listen {
        all.push((endpoint.clone(), door(endpoint, config, "standards.listen").await?));
    }
    for table in &config.standards.tls {
        let tls = Arc::new(Tls::load(settings::tls(table))?);
        for address in &table.listen {
            let listener = serve::bind(*address, "standards.tls.listen").await?;
            all.push((Endpoint::Tcp(*address), Listener::Tls(listener, Arc::clone(&tls))));
        }
    }
    Ok(all)
}

/// Serves them until `stop`.
pub fn serve(
    shared: &Arc<Shared>,
    listeners: Vec<(Endpoint, Listener)>,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) {
    if listeners.is_empty() {
        return;
    }
    let config = shared.config.load();
    let clock: SharedClock = Arc::clone(&shared.clock);
    let standards = Arc::new(Standards {
        decider: Arc::clone(&shared.decider),
        api_keys: shared.api_keys.clone(),
        metrics: Arc::clone(&shared.metrics),
        clients: Clients::new(config.standards.client.iter().map(client).collect()),
        clock,
        default_ttl: config.revocation.default_ttl.0,
        lately: Lately::new(LATELY),
    });
    for (endpoint, listener) in listeners {
        tracing::info!(address = %endpoint, "standards' endpoints");
        tasks.spawn(Arc::clone(&standards).serve(listener, stop.clone()));
    }
}

fn client(c: &StandardsClient) -> ClientSettings {
    // The configuration was checked: each is of 64 hexadecimal digits.
    let hashes = |all: &[String]| all.iter().filter_map(|h| hex::decode(h)?.try_into().ok()).collect();
    ClientSettings {
        id: c.id.clone(),
        secrets: hashes(&c.secret_sha256),
        certificates: hashes(&c.certificate_sha256),
        revokes: match c.revoke {
            ClientRevokes::Off => Revokes::Off,
            ClientRevokes::Own => Revokes::Own,
            ClientRevokes::Any => Revokes::Any,
        },
        issuers: c.issuers.clone(),
        introspects: c.introspect,
        audience: c.audience.clone(),
        rate: c.rate,
    }
}
