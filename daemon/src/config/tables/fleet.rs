//! The table of the fleet.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::{section::section, values::Span};

/// How far an order must have come before it is answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Acknowledge {
    /// On this host's disk and in force here.
    Local,
    /// In the stream.
    Stored,
    /// In force on the other hosts.
    #[serde(alias = "all")]
    Applied,
}

section! {
    /// Shares revocations with other hosts over NATS JetStream: see fleet.md. It is off unless a server is named. Changes of
    /// this table take a restart.
    Fleet as "fleet" {
        /// The servers: `"tls://nats-1.example.com:4222"`, or `"nats://…"`.
        servers: Vec<String> = Vec::new(),
        /// What subjects begin with: hosts with the same one are a fleet.
        prefix: String = "portcullis".to_owned(),
        /// The stream's name; the prefix in capitals where none is given.
        stream: Option<String> = None,
        /// Whether the stream is made where it is not there. One that is there is used as it is.
        create_stream: bool = true,
        /// Copies that a stream made here has: 3 for a cluster of three servers.
        replicas: u8 = 1,
        /// How long a stream made here keeps messages. Who was away longer asks the hosts.
        stream_max_age: Span = Span::seconds(30 * 24 * 3600),
        /// How many bytes it keeps; the oldest go first.
        stream_max_bytes: u64 = 1 << 30,
        /// The only authorities that servers are believed from (PEM); the system's where none are given.
        ca_file: Option<PathBuf> = None,
        /// This host's certificate (PEM), where servers ask for one.
        certificate: Option<PathBuf> = None,
        /// Its private key (PEM).
        key: Option<PathBuf> = None,
        /// Whether servers on other hosts may be spoken to without TLS: whoever is on the way can then revoke.
        plain_text: bool = false,
        /// A `.creds` file (JWT and seed), as `nsc` writes it. This and the files below are read for each connection; others
        /// may not read them.
        credentials_file: Option<PathBuf> = None,
        /// File with the seed of an nkey.
        nkey_file: Option<PathBuf> = None,
        /// User name; with `password_file`.
        user: Option<String> = None,
        /// File with the user's password.
        password_file: Option<PathBuf> = None,
        /// File with a token.
        token_file: Option<PathBuf> = None,
        /// How often a silent connection is tried; three that are not answered end it.
        ping_interval: Span = Span::seconds(1),
        /// How long after a lost or refused connection the next one is tried.
        reconnect: Span = Span(std::time::Duration::from_millis(250)),
        /// Longest time for a connection to come about, TLS and all.
        connect_timeout: Span = Span::seconds(1),
        /// The host is not ready when it is longer ago that it knew itself complete; without it, it stays ready.
        max_staleness: Option<Span> = None,
        /// How far an order of the admin API (where it does not say) or of RFC 7009 must have come before it is answered: `"local"` (on this
        /// host's disk and in force here), `"stored"` (in the stream) or `"applied"`, which may be written
        /// `"all"` (in force on all live hosts).
        acknowledge: Acknowledge = Acknowledge::Local,
        /// Longest time that is waited for it. Then the answer says who is missing; the order is in force here all the same.
        acknowledge_timeout: Span = Span::seconds(5),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_another_word_for_applied() {
        let read = |word: &str| serde_json::from_value::<Acknowledge>(word.into()).ok();
        assert_eq!((read("all"), read("applied")), (Some(Acknowledge::Applied), Some(Acknowledge::Applied)));
        assert_eq!(read("everybody"), None);
    }
}
