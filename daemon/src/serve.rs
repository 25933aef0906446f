//! The sockets: front doors, admin API, observability. Knows protocols; storage and policy are others'.
//!
//! Each protocol has one function in which a ruling or an error becomes an answer.

mod admin;
mod auth;
mod data;
mod doors;
mod observe;
mod wire;

pub use admin::{AdminSocket, AdminState, EventRecord, serve_admin};
pub use doors::{DoorSettings, Doors};
pub use observe::{ObserveState, serve_observe};
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
    /// The admin socket.
    #[error("cannot listen on {path} (`admin.socket`): {message}")]
    Socket {
        /// The path.
        path: std::path::PathBuf,
        /// Why, and what to do.
        message: String,
    },
}
