//! Wires the standards' endpoints.

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use serde_json::json;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Shared, door, settings, tls_listeners};
use crate::{
    clock::SharedClock,
    config::{ClientRevokes, Config, Endpoint, SsfAction, SsfDelivery, SsfTransmitter, StandardsClient},
    decide::Decider,
    fetch, hex,
    revoke::{Once, Refusals, RevokeError, SelectorOrder},
    serve::{ClientSettings, Clients, Lately, Listener, Revokes, ServeError, Standards},
    ssf::{Access, Action, Delivery, Orders, PushSecret, Receiver, Transmitter, TransmitterSettings},
    token::{KeySource, Publisher, RemoteKeys},
};

/// Revocations by clients that are remembered.
const LATELY: u64 = 100_000;

/// Binds their listeners.
pub async fn bind(config: &Config) -> Result<Vec<(Endpoint, Listener)>, ServeError> {
    let mut all = Vec::new();
    for endpoint in &config.standards.listen {
        all.push((endpoint.clone(), door(endpoint, config, "standards.listen").await?));
    }
    for (address, listener, tls) in tls_listeners(&config.standards.tls, "standards.tls.listen").await? {
        all.push((Endpoint::Tcp(address), Listener::Tls(listener, tls)));
    }
    Ok(all)
}

/// Serves them until `stop`.
pub fn serve(
    shared: &Arc<Shared>,
    listeners: Vec<(Endpoint, Listener)>,
    ssf: &Receiver,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    for transmitter in &ssf.0 {
        let (transmitter, stop) = (Arc::clone(transmitter), stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = transmitter.keep() => {}
            }
        });
    }
    if listeners.is_empty() {
        return Ok(());
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
        ssf: ssf.clone(),
        publisher: publisher(&config, shared)?,
        lately: Lately::new(LATELY),
        refusals: Refusals::new(shared.plane.clone()),
        fleet: shared.fleet.clone(),
    });
    for (endpoint, listener) in listeners {
        tracing::info!(address = %endpoint, "standards' endpoints");
        tasks.spawn(Arc::clone(&standards).serve(listener, stop.clone()));
    }
    Ok(())
}

fn publisher(config: &Config, shared: &Shared) -> Result<Option<Publisher>> {
    let (Some(settings), Some(keys)) = (settings::publisher(config), &shared.api_keys) else {
        return Ok(None);
    };
    Ok(Some(Publisher::new(settings, Arc::clone(keys))?))
}

/// Takes orders of transmitters.
struct Taker(Arc<Decider>, Refusals);

impl Orders for Taker {
    fn revoke(
        &self,
        order: SelectorOrder,
        once: Once,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>> {
        Box::pin(async move {
            match self.0.revoke_selected(order, Some(once)).await {
                // Given before, and lifted since by somebody who knows better: it stays so.
                Ok(_) | Err(RevokeError::Unknown(_)) => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        })
    }

    fn refused(&self, transmitter: &str, code: &str, why: &str) {
        let actor = format!("ssf:{transmitter}");
        self.1.note(json!({"action": "refused", "of": "revoke", "source": "ssf", "actor": actor, "code": code, "why": why}));
    }
}

/// The transmitters of security events; nothing is asked of them yet.
pub fn transmitters(shared: &Arc<Shared>) -> Result<Receiver> {
    let config = shared.config.load();
    let orders: Arc<dyn Orders> =
        Arc::new(Taker(Arc::clone(&shared.decider), Refusals::new(shared.plane.clone())));
    let all = config.ssf.transmitter.iter().map(|table| {
        let settings = transmitter(table, &config)?;
        let (clock, metrics) = (Arc::clone(&shared.clock), Arc::clone(&shared.metrics));
        Transmitter::new(settings, Arc::clone(&orders), clock, metrics)
            .map(Arc::new)
            .with_context(|| format!("the transmitter of security events `{}`", table.name))
    });
    all.collect::<Result<_>>().map(Receiver)
}

/// Looks at what the configuration names for them.
pub fn check(config: &Config) -> Vec<String> {
    let look = |t: &SsfTransmitter| {
        let wrong = transmitter(t, config).map(drop).and_then(|()| {
            fetch::Client::new(&fetch::Settings {
                ca_file: t.ca_file.clone(),
                plain_http: t.plain_http,
                ..fetch::Settings::default()
            })
            .map(drop)
            .map_err(Into::into)
        });
        wrong.err().map(|e| format!("the transmitter of security events `{}`: {e:#}", t.name))
    };
    config.ssf.transmitter.iter().filter_map(look).collect()
}

fn transmitter(t: &SsfTransmitter, config: &Config) -> Result<TransmitterSettings> {
    let delivery = match (t.delivery, &t.push_secret_file) {
        (SsfDelivery::Push, Some(file)) => {
            Delivery::Push { url: t.push_url.clone(), secret: PushSecret::read(file)? }
        }
        _ => Delivery::Poll {
            url: t.poll_url.as_ref().map(|url| url.parse()).transpose()?,
            hold: t.poll_hold.0,
            interval: t.poll_interval.0,
            max_events: t.max_events,
        },
    };
    let access = match (&t.token_file, &t.token_url, &t.client_id, &t.client_secret_file) {
        (Some(file), ..) => {
            // Read for each request; what is wrong with it now is said now.
            settings::secret(file)?;
            Access::File(file.clone())
        }
        (None, Some(url), Some(id), Some(secret)) => Access::Client {
            url: url.parse()?,
            id: id.clone(),
            secret: settings::secret(secret)?,
            scope: t.scope.clone(),
        },
        _ => Access::None,
    };
    let keys = match (&t.jwks_file, &t.jwks_url) {
        (Some(file), _) => Some(KeySource::JwksFile(file.clone())),
        (None, Some(url)) => Some(KeySource::Remote(RemoteKeys {
            url: Some(url.parse()?),
            ca_file: t.ca_file.clone(),
            plain_http: t.plain_http,
            refresh: Duration::from_mins(5),
            refresh_min: Duration::from_secs(1),
            max_stale: Duration::from_hours(24),
            timeout: t.timeout.0,
            wait: Duration::from_secs(2),
        })),
        (None, None) => None,
    };
    let own = || vec![t.issuer.clone()];
    Ok(TransmitterSettings {
        name: t.name.clone(),
        issuer: t.issuer.clone(),
        audience: t.audience.clone(),
        algorithms: t.algorithms.clone(),
        keys,
        manage: t.manage,
        stream: t.stream.clone(),
        delivery,
        access,
        ca_file: t.ca_file.clone(),
        plain_http: t.plain_http,
        hosts: t.hosts.clone(),
        timeout: t.timeout.0,
        token_issuers: if t.token_issuers.is_empty() { own() } else { t.token_issuers.clone() },
        email_is_subject: t.email_is_subject,
        actions: t.events.iter().map(|(name, action)| (name.clone(), action_of(*action))).collect(),
        ttl: config.revocation.default_ttl.0,
    })
}

const fn action_of(action: SsfAction) -> Action {
    match action {
        SsfAction::Session => Action::Session,
        SsfAction::Subject => Action::Subject,
        SsfAction::Ignore => Action::Ignore,
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
