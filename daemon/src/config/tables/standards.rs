//! The tables of the standards' endpoints.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};

use super::ServeTls;
use crate::config::{
    section::section,
    values::{Endpoint, Span},
};

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
        /// The status list of API keys.
        status_list: PublishedList = PublishedList::default(),
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

/// How security events come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SsfDelivery {
    /// The transmitter sends them.
    Push,
    /// They are fetched.
    Poll,
}

/// What follows from a security event.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SsfAction {
    /// The session's tokens are revoked, or the user's.
    Session,
    /// The user's tokens are revoked.
    Subject,
    /// Nothing.
    Ignore,
}

section! {
    /// Receives security events (Shared Signals Framework, CAEP, RISC): see standards.md.
    Ssf as "ssf" {
        /// Who sends them.
        transmitter: Vec<SsfTransmitter> = Vec::new(),
    }
}

section! {
    /// A transmitter of security events. Its events revoke tokens of `token_issuers`.
    SsfTransmitter as "ssf.transmitter" {
        /// Its name here: letters, digits and dashes. Pushed events come to `/ssf/events/<name>`.
        name: String = String::new(),
        /// The exact `iss` of its events; its metadata are at `/.well-known/ssf-configuration` of this address.
        issuer: String = String::new(),
        /// Accepted values of `aud`; where none is given, that of the stream which is managed here.
        audience: Vec<String> = Vec::new(),
        /// Accepted algorithms. The interoperability profile has `RS256`.
        algorithms: Vec<String> = vec!["RS256".to_owned(), "ES256".to_owned()],
        /// JWK set file with its keys, in place of the `jwks_uri` of its metadata.
        jwks_file: Option<PathBuf> = None,
        /// Address of its JWK set, likewise.
        jwks_url: Option<String> = None,
        /// Whether its metadata are asked for, and a stream is made there, kept as it is wanted, and verified. Otherwise
        /// `audience`, its keys, and for `"poll"` `poll_url` must be given.
        manage: bool = true,
        /// The stream's id, where it was made by others; then none is made.
        stream: Option<String> = None,
        /// `"push"` or `"poll"`.
        delivery: SsfDelivery = SsfDelivery::Poll,
        /// For `"push"`: our address as the transmitter is told it.
        push_url: Option<String> = None,
        /// For `"push"`: file with the secret that it must send as `Authorization: Bearer`. Others may not read it.
        push_secret_file: Option<PathBuf> = None,
        /// For `"poll"`: where events are fetched, in place of what the stream's configuration says.
        poll_url: Option<String> = None,
        /// For `"poll"`: how long the transmitter may hold a request until there is an event; 0 s asks for none of that.
        poll_hold: Span = Span::seconds(30),
        /// For `"poll"`: the time from one request that brings nothing to the next, where the transmitter holds none.
        poll_interval: Span = Span::seconds(5),
        /// For `"poll"`: most events of one answer.
        max_events: u32 = 100,
        /// File with the bearer token for its API, read for each request. Others may not read it.
        token_file: Option<PathBuf> = None,
        /// In place of `token_file`: the token endpoint of an authorization server that gives the bearer token (client
        /// credentials grant), with `client_id` and `client_secret_file`.
        token_url: Option<String> = None,
        /// The client that asks there, by HTTP Basic.
        client_id: Option<String> = None,
        /// File with its secret. Others may not read it.
        client_secret_file: Option<PathBuf> = None,
        /// The scopes that it asks for.
        scope: String = "ssf.manage ssf.read".to_owned(),
        /// Authorities that it is believed from (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Whether it may be on another host and asked without TLS.
        plain_http: bool = false,
        /// Further hosts (`"host"`, or `"host:port"`) on which its API may be: the token goes nowhere else.
        hosts: Vec<String> = Vec::new(),
        /// Longest time for one request.
        timeout: Span = Span::seconds(5),
        /// The issuers whose tokens its events may revoke; `issuer` where none is given.
        token_issuers: Vec<String> = Vec::new(),
        /// Whether the address of an `email` subject is the `sub` of tokens. Otherwise nobody is revoked by such events.
        email_is_subject: bool = true,
        /// What follows from which event, over the built-in table: `"session"`, `"subject"` or `"ignore"` by the event's
        /// type, whole or as `"caep/…"` and `"risc/…"`.
        events: BTreeMap<String, SsfAction> = BTreeMap::new(),
    }
}

section! {
    /// The status list of the API keys that this daemon issues, served at `/statuslists/api-keys` and verified by the key
    /// set at `/statuslists/jwks.json`. See standards.md.
    PublishedList as "standards.status_list" {
        /// Its address as API keys and others name it, which ends in `/statuslists/api-keys`. Without it none is published.
        uri: Option<String> = None,
        /// The private key that signs it (PEM, P-256), mode 0600.
        key_file: PathBuf = PathBuf::new(),
        /// The key's name.
        kid: String = "status-1".to_owned(),
        /// How long consumers may keep it, and so how late they may see a change.
        ttl: Span = Span::seconds(60),
        /// How long it is good where it cannot be had anew.
        lifetime: Span = Span::seconds(3600),
    }
}

/// What a token comes to whose status list cannot be had.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum UnavailableMode {
    /// It is denied.
    Deny,
    /// It passes.
    Allow,
}

section! {
    /// Status lists (IETF Token Status List) of tokens that name one by `status.status_list`: see standards.md.
    TokenStatusList as "token.status_list" {
        /// Hosts that may be asked (`"host"` at the usual port, or `"host:port"`). Without any, lists are not looked at, and
        /// tokens count whatever their list says.
        hosts: Vec<String> = Vec::new(),
        /// Authorities that they are believed from (PEM); the system's where none is given.
        ca_file: Option<PathBuf> = None,
        /// Whether they may be on another host and asked without TLS. Lists are signed all the same.
        plain_http: bool = false,
        /// Longest time for one request.
        timeout: Span = Span::seconds(5),
        /// How long a token waits whose list is not at hand, at most 2 s; others do not wait.
        wait: Span = Span(std::time::Duration::from_millis(500)),
        /// Shortest time between two requests for one list.
        ttl_min: Span = Span::seconds(5),
        /// Longest time that a list is used before it is fetched again, whatever its `ttl`: so late a change may be seen.
        ttl_max: Span = Span::seconds(60),
        /// How long beyond that it is used while it cannot be fetched; never beyond its `exp`.
        max_stale: Span = Span::seconds(600),
        /// Longest list, in bytes as it is unpacked.
        max_bytes: u32 = 8 << 20,
        /// Lists kept.
        lists: u64 = 1000,
        /// What a token comes to whose list cannot be had: `"deny"` (as `status_unavailable`) or `"allow"`.
        unavailable: UnavailableMode = UnavailableMode::Deny,
    }
}
