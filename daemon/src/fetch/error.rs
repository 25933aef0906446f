//! Why nothing was fetched, in words for people.

use std::{fmt, net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use http::StatusCode;
use thiserror::Error;

/// How far a request came before its time was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// No connection yet, TLS included.
    Connection,
    /// Connected, without an answer's head.
    Answer,
    /// The answer's body did not end.
    Body,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Connection => "there was no connection",
            Self::Answer => "it did not answer",
            Self::Body => "its answer did not end",
        })
    }
}

/// Why nothing was fetched. Addresses are told without their query, and never a credential.
#[derive(Clone, Debug, Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("the address {why}")]
    Address { why: String },
    #[error("the certificate authorities in `{path}` cannot be used: {why}; give certificates in PEM")]
    Authorities { path: PathBuf, why: String },
    #[error(
        "this host has no certificate authorities ({why}): install them (`ca-certificates`), or name a file of your own"
    )]
    NoAuthorities { why: String },
    #[error(
        "`{host}` is asked in plain `http`, and {address} is not this host: what is read could be changed on the way; use `https`, or allow plain `http` in the configuration"
    )]
    Plain { host: String, address: IpAddr },
    #[error("`{host}` stands for {address}, which is no public address: it is not asked")]
    NotPublic { host: String, address: IpAddr },
    #[error("the name `{host}` cannot be resolved: {why}")]
    Resolve { host: String, why: String },
    #[error("no connection to `{host}` at {address}: {why}")]
    Connect { host: String, address: String, why: String },
    #[error("no TLS with `{host}`: {why}")]
    Tls { host: String, why: String },
    #[error("`{url}` was given {}, and {stage}", humantime::format_duration(*.deadline))]
    Deadline { url: String, stage: Stage, deadline: Duration },
    #[error("`{url}` broke off or speaks no HTTP: {why}")]
    Protocol { url: String, why: String },
    #[error("the answer of `{url}` is longer than {max} bytes")]
    TooLong { url: String, max: usize },
    #[error("the answer of `{url}` is encoded as {encoding}, which was not asked for or is broken")]
    Encoding { url: String, encoding: String },
    #[error(
        "`{url}` answered with a redirect ({status}), which is not followed: configure the address it leads to"
    )]
    Redirect { url: String, status: StatusCode },
    #[error("`{url}` answered {status}")]
    Status { url: String, status: StatusCode },
    #[error("the request to `{url}` cannot be made: {why}")]
    Request { url: String, why: String },
}

/// A failed connection on its way through hyper's client, which hands errors up in boxes.
#[derive(Clone, Debug, Error)]
#[error("{0}")]
pub(super) struct Failed(pub Arc<FetchError>);

impl From<FetchError> for Failed {
    fn from(e: FetchError) -> Self {
        Self(Arc::new(e))
    }
}

/// The innermost cause: what is around it says the same in longer words.
pub(super) fn innermost(e: &(dyn std::error::Error + 'static)) -> String {
    let mut at = e;
    while let Some(cause) = at.source() {
        at = cause;
    }
    at.to_string()
}
