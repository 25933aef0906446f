//! The sockets: front doors, admin API, observability. Knows protocols; storage and policy are others'.
//!
//! Each protocol has one function in which a ruling or an error becomes an answer.

mod admin;
mod authzen;
mod body;
mod contained;
mod denial;
mod doors;
mod ext_authz;
mod forward;
mod listen;
mod observe;
mod opa;
mod peer;
mod standards;
mod tls;
mod unix;
mod wire;

pub use admin::{
    AdminSocket, AdminState, EventRecord, Promotion, PromotionKind, UsageLister, serve_admin,
    serve_remote_admin,
};
pub use doors::{DoorSettings, Doors};
pub use listen::Listener;
pub use observe::{ObserveState, serve_observe};
pub use opa::{Change, DocumentError, Documents, Patch, PatchKind};
pub use standards::{ClientSettings, Clients, Lately, Revokes, Standards};
pub use tls::{Tls, TlsSettings};
pub use unix::UnixSocket;
pub use wire::answer_kernel;

use std::{io, net::SocketAddr};

use thiserror::Error;
use tokio::net::TcpListener;

/// Binds an address that the configuration names under `key`.
pub async fn bind(address: SocketAddr, key: &'static str) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Listen { address, key, source })
}

/// A listener that could not be opened.
#[derive(Debug, Error)]
pub enum ServeError {
    /// A TCP address.
    #[error(
        "cannot listen on {address} (`{key}`): {source}; another process may hold it, or the address is not this host's"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The configuration key.
        key: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A certificate, key or authority.
    #[error("`{path}` (`serve.tls`): {message}")]
    Tls {
        /// The file.
        path: std::path::PathBuf,
        /// Why, and what to do.
        message: String,
    },
    /// A Unix socket.
    #[error("cannot listen on {path} (`{key}`): {message}")]
    Socket {
        /// The path.
        path: std::path::PathBuf,
        /// The configuration key.
        key: &'static str,
        /// Why, and what to do.
        message: String,
    },
}
