//! Connecting to a server, and the stream.

use std::{sync::Arc, time::Duration};

use async_nats::{
    AuthError, Client, ConnectOptions, Event,
    jetstream::{
        self, Context,
        context::{ContextBuilder, GetStreamErrorKind},
        stream::{Config, RetentionPolicy, StorageType, Stream},
    },
};
use tokio::sync::mpsc;

use super::Feed;

/// Longest time for a question to a server.
pub const ASKING: Duration = Duration::from_secs(3);
/// Longest time for a message to be stored.
const STORING: Duration = Duration::from_secs(5);
/// Messages told within this time are known again as the same by the stream.
const SAME: Duration = Duration::from_mins(2);

/// Why it came to an end.
pub type Ended = String;

/// A connection.
pub struct Connected {
    pub client: Client,
    pub context: Context,
    pub stream: Stream,
    /// Something when it is lost.
    pub lost: mpsc::Receiver<String>,
}

/// A message of an error with what caused it.
pub fn because(what: &str, e: &dyn std::error::Error) -> String {
    let mut text = format!("{what}: {e}");
    let mut source = e.source();
    while let Some(e) = source {
        let more = e.to_string();
        // Many say their cause themselves.
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        source = e.source();
    }
    text
}

impl Feed {
    pub(super) async fn connect(&self) -> Result<Connected, Ended> {
        let s = &self.settings;
        let (tell, lost) = mpsc::channel(4);
        let credentials = Arc::new(s.credentials.clone());
        let mut options = if credentials.are_some() {
            ConnectOptions::with_auth_callback(move |nonce| {
                let credentials = Arc::clone(&credentials);
                async move { credentials.answer(&nonce).map_err(AuthError::new) }
            })
        } else {
            ConnectOptions::new()
        };
        if let Some(ca) = &s.ca_file {
            options = options.add_root_certificates(ca.clone()).require_tls(true);
        }
        if let Some((certificate, key)) = &s.certificate {
            options = options.add_client_certificate(certificate.clone(), key.clone());
        }
        let client = options
            .name(format!("portcullis {}", s.name))
            .ping_interval(s.ping_interval)
            .connection_timeout(s.connect_timeout)
            .request_timeout(Some(ASKING))
            // A lost connection is made anew from here, with all that follows from it.
            .max_reconnects(1)
            .no_echo()
            .event_callback(move |event| {
                let tell = tell.clone();
                async move {
                    match event {
                        Event::Disconnected | Event::Closed => {
                            let _ = tell.try_send("the connection was lost".to_owned());
                        }
                        Event::ServerError(e) => tracing::warn!(error = %e, "the fleet's server said"),
                        _ => {}
                    }
                }
            })
            .connect(s.servers.as_slice())
            .await
            .map_err(|e| because("no server of the fleet can be reached", &e))?;
        let context = ContextBuilder::new().timeout(ASKING).ack_timeout(STORING).build(client.clone());
        let stream = self.stream(&context).await?;
        Ok(Connected { client, context, stream, lost })
    }

    /// Whether the server says that there is no stream; not so where it says nothing.
    pub(super) async fn lacks_stream(&self, context: &Context) -> bool {
        context.get_stream(&self.settings.stream).await.is_err_and(|e| is_absent(e.kind()))
    }

    /// The stream; made where that is wanted and it is not there. One that is there stays as it is.
    async fn stream(&self, context: &Context) -> Result<Stream, Ended> {
        let s = &self.settings;
        let subject = self.subject("changes", "*");
        let stream = match context.get_stream(&s.stream).await {
            Ok(stream) => stream,
            Err(e) if s.create && is_absent(e.kind()) => {
                let config = Config {
                    name: s.stream.clone(),
                    subjects: vec![subject.clone()],
                    retention: RetentionPolicy::Limits,
                    storage: StorageType::File,
                    num_replicas: s.replicas,
                    max_age: s.max_age,
                    max_bytes: s.max_bytes,
                    duplicate_window: SAME,
                    ..Config::default()
                };
                let made = context.create_stream(config).await;
                made.map_err(|e| because(&format!("the stream {} cannot be made", s.stream), &e))?
            }
            Err(e) if is_absent(e.kind()) => {
                return Err(format!("there is no stream {} and `fleet.create_stream` is off", s.stream));
            }
            Err(e) => return Err(because(&format!("the stream {} cannot be asked about", s.stream), &e)),
        };
        let config = &stream.cached_info().config;
        if config.retention != RetentionPolicy::Limits || config.subjects != [subject.clone()] {
            return Err(format!(
                "the stream {} is none of a fleet: it must have the one subject {subject} and the retention \"limits\"",
                s.stream
            ));
        }
        Ok(stream)
    }
}

fn is_absent(kind: GetStreamErrorKind) -> bool {
    matches!(kind, GetStreamErrorKind::JetStream(e) if e.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND)
}
