//! Shared signals: security events of identity providers, received by push (RFC 8935) and poll (RFC 8936), become
//! revocations by selector.
//!
//! Guarantees: an event is acknowledged when what follows from it is durable and in force; it counts only with the
//! signature, `iss` and `aud` of its transmitter; delivered again it does nothing more; a transmitter reaches tokens of
//! the issuers that the configuration gives it and no others. Leaves to others: how a selector is obeyed (`revoke`), who
//! may push (`serve`).

mod access;
mod mapping;
mod metadata;
mod poll;
mod set;
mod state;
mod stream;
mod subject;
mod transmitter;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use aws_lc_rs::digest;
use serde::Serialize;
use subtle::ConstantTimeEq as _;
use zeroize::Zeroizing;

pub use self::{
    mapping::Action,
    set::Refused,
    state::{Status, Told},
    transmitter::Transmitter,
};
use crate::{
    fetch::{Secret, SecretError, Url, one_line},
    revoke::{Once, SelectorOrder},
    token::KeySource,
};

/// Takes orders; done when they are durable and in force.
pub trait Orders: Send + Sync {
    /// Gives one, which may come again. The error says why it is not in force.
    fn revoke(
        &self,
        order: SelectorOrder,
        once: Once,
    ) -> Pin<Box<dyn Future<Output = Result<(), String>> + Send + '_>>;

    /// Notes an event that was refused, and why, for the audit log.
    fn refused(&self, transmitter: &str, code: &str, why: &str);
}

/// A secret text that is sent or compared, and never printed.
#[derive(Clone)]
pub struct PushSecret(Zeroizing<String>);

impl PushSecret {
    /// Takes a text for one.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// Reads it from a file of one line that others may not read, as it stands there.
    pub fn read(path: &Path) -> Result<Self, SecretError> {
        one_line(path, |text| text.trim_end_matches(['\r', '\n'])).map(Self)
    }

    /// Whether a text is the same, in a time that does not tell.
    pub fn is(&self, text: &str) -> bool {
        let of = |t: &str| digest::digest(&digest::SHA256, t.as_bytes());
        of(&self.0).as_ref().ct_eq(of(text).as_ref()).into()
    }
}

impl std::fmt::Debug for PushSecret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PushSecret(…)")
    }
}

/// How events come.
#[derive(Clone, Debug)]
pub enum Delivery {
    /// The transmitter sends them.
    Push {
        /// Where to: what the transmitter is told.
        url: Option<String>,
        /// What it must show.
        secret: PushSecret,
    },
    /// They are fetched.
    Poll {
        /// Where, if no stream's configuration says it.
        url: Option<Url>,
        /// How long the transmitter may hold a request until there is an event.
        hold: Duration,
        /// The time between two requests that bring nothing.
        interval: Duration,
        /// Most events of one answer.
        max_events: u32,
    },
}

impl Delivery {
    /// The method's name in stream configurations.
    pub(crate) const fn method(&self) -> &'static str {
        match self {
            Self::Push { .. } => "urn:ietf:rfc:8935",
            Self::Poll { .. } => "urn:ietf:rfc:8936",
        }
    }
}

/// How a transmitter's API is told who asks.
#[derive(Clone, Debug)]
pub enum Access {
    /// Not at all.
    None,
    /// By the bearer token in a file, read for each request.
    File(PathBuf),
    /// By a token that an authorization server gives (RFC 6749 §4.4).
    Client {
        /// Its token endpoint.
        url: Url,
        /// The client's id.
        id: String,
        /// Its secret.
        secret: Secret,
        /// What is asked for; empty for what the server gives by itself.
        scope: String,
    },
}

/// One transmitter as it is configured.
#[derive(Clone, Debug)]
pub struct TransmitterSettings {
    /// Its name here.
    pub name: String,
    /// `iss` of its events, and where its metadata is.
    pub issuer: String,
    /// Accepted `aud` values; where none is given, that of the stream.
    pub audience: Vec<String>,
    /// Accepted algorithms.
    pub algorithms: Vec<String>,
    /// Its keys, where its metadata do not say.
    pub keys: Option<KeySource>,
    /// Whether its metadata are asked for, and its stream is made and kept.
    pub manage: bool,
    /// The stream, where somebody else made it.
    pub stream: Option<String>,
    /// How events come.
    pub delivery: Delivery,
    /// How this receiver tells its API who it is.
    pub access: Access,
    /// The only authorities that are believed; the system's where none is given.
    pub ca_file: Option<PathBuf>,
    /// Whether plain `http` may be spoken to other hosts.
    pub plain_http: bool,
    /// Further hosts that its API may be on.
    pub hosts: Vec<String>,
    /// Longest time for one request.
    pub timeout: Duration,
    /// The issuers whose tokens it may speak of.
    pub token_issuers: Vec<String>,
    /// Whether `email` subjects are the `sub` of tokens.
    pub email_is_subject: bool,
    /// What follows from which event.
    pub actions: BTreeMap<String, Action>,
    /// How long a revocation stands.
    pub ttl: Duration,
}

/// All transmitters.
#[derive(Clone, Default)]
pub struct Receiver(pub Vec<Arc<Transmitter>>);

impl Receiver {
    /// The one of this name.
    pub fn get(&self, name: &str) -> Option<&Arc<Transmitter>> {
        self.0.iter().find(|t| t.name() == name)
    }

    /// How each stands.
    pub fn status(&self) -> Vec<Status> {
        self.0.iter().map(|t| t.status()).collect()
    }
}

/// What may be ordered of a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamOrder {
    /// A verification event is asked for, and awaited.
    Verify,
    /// It is to be enabled.
    Enable,
    /// It is to be paused.
    Pause,
    /// It is to be disabled.
    Disable,
    /// It is to be deleted; it is not made again until the next start.
    Delete,
}
