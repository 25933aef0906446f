//! The tables of the standards' endpoints.

use serde::{Deserialize, Serialize};

use super::ServeTls;
use crate::config::{section::section, values::Endpoint};

/// Whose tokens a client may revoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ClientRevokes {
    /// None.
    Off,
    /// Those that were issued to it.
    Own,
    /// Any.
    Any,
}

section! {
    /// Listeners for what standards define: token revocation (RFC 7009), introspection (RFC 7662), security events
    /// (RFC 8935) and the status list of API keys. They are listeners of their own, and off unless an address is named.
    /// See standards.md.
    Standards as "standards" {
        /// Where to listen in plain text: addresses, and Unix sockets as `"unix:/path"` with the mode and group of
        /// `[serve]`. Tokens and secrets pass here: loopback alone, or behind a proxy that ends TLS.
        listen: Vec<Endpoint> = Vec::new(),
        /// Further listeners, with TLS: `[[standards.tls]]` tables with the keys of `[[serve.tls]]`.
        tls: Vec<ServeTls> = Vec::new(),
        /// Who may revoke and introspect.
        client: Vec<StandardsClient> = Vec::new(),
    }
}

section! {
    /// A client of the revocation and introspection endpoints. It tells who it is by HTTP Basic or `client_secret` in
    /// the form, or by its TLS certificate. `portcullis client-secret` makes a secret and its hash.
    StandardsClient as "standards.client" {
        /// Its `client_id`: letters, digits, `.`, `_`, `~` and `-`.
        id: String = String::new(),
        /// SHA-256 of its secret, in hex; several while one is replaced.
        secret_sha256: Vec<String> = Vec::new(),
        /// SHA-256 of its TLS certificate (DER), in hex; several while one is replaced. The listener's `client_ca` must
        /// have signed it.
        certificate_sha256: Vec<String> = Vec::new(),
        /// Which tokens it may revoke: `"off"`, `"own"` (those whose `azp`, or else `client_id`, is its id) or `"any"`.
        revoke: ClientRevokes = ClientRevokes::Off,
        /// The issuers whose client it is under this id; for `revoke = "own"`.
        issuers: Vec<String> = Vec::new(),
        /// Whether it may introspect tokens.
        introspect: bool = false,
        /// Of introspected tokens, only those with one of these audiences are active to it; all where none is named.
        audience: Vec<String> = Vec::new(),
        /// Its requests a second, with bursts of as many. Beyond them it is told 503 and to come again.
        rate: u32 = 200,
    }
}
