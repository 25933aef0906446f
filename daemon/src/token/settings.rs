//! What a verifier is built from, and why it may not be.

use std::{io, path::PathBuf, time::Duration};

use thiserror::Error;

use crate::fetch::{FetchError, Url};

/// One issuer whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerSettings {
    /// `iss`, matched exactly.
    pub issuer: String,
    /// Accepted `aud` values; empty accepts any audience.
    pub audience: Vec<String>,
    /// Accepted `alg` values.
    pub algorithms: Vec<String>,
    /// Where its keys are.
    pub keys: KeySource,
    /// What else is asked of its tokens.
    pub rules: TokenRules,
}

/// What is asked of an issuer's tokens beside signature, audience and times.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TokenRules {
    /// Accepted `typ` values; where empty, `JWT`, `at+jwt` and none at all.
    pub typ: Vec<String>,
    /// The clock skew borne, where it is another than the verifier's.
    pub leeway: Option<Duration>,
    /// Longest time since `iat`, whatever `exp` says.
    pub max_age: Option<Duration>,
    /// Claims that must be there.
    pub required_claims: Vec<String>,
    /// Whether a token must be bound to its sender (`cnf`).
    pub require_bound: bool,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// A JSON Web Key Set (RFC 7517).
    JwksFile(PathBuf),
    /// One public key in PEM: `PUBLIC KEY` or `RSA PUBLIC KEY`.
    PemFile {
        /// The file.
        path: PathBuf,
        /// The `kid` it answers to; `None` for any.
        kid: Option<String>,
    },
    /// One HMAC secret: the file's bytes, without the line end that a text file ends in.
    HmacFile {
        /// The file.
        path: PathBuf,
        /// The `kid` it answers to; `None` for any.
        kid: Option<String>,
    },
    /// A JSON Web Key Set that a server publishes.
    Remote(RemoteKeys),
}

impl KeySource {
    /// The file that holds the keys, where one does.
    pub fn path(&self) -> Option<&PathBuf> {
        match self {
            Self::JwksFile(path) | Self::PemFile { path, .. } | Self::HmacFile { path, .. } => Some(path),
            Self::Remote(_) => None,
        }
    }
}

/// How a key set is fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoteKeys {
    /// The key set's address; `None` where the issuer's own discovery document says it.
    pub url: Option<Url>,
    /// The authorities that its server is believed from; the system's where none is given.
    pub ca_file: Option<PathBuf>,
    /// Whether plain `http` may be spoken to other hosts.
    pub plain_http: bool,
    /// Longest time between two fetches.
    pub refresh: Duration,
    /// Shortest time between two fetches, whatever asks for one.
    pub refresh_min: Duration,
    /// How old keys may become while their server fails.
    pub max_stale: Duration,
    /// Longest time for one request.
    pub timeout: Duration,
    /// How long a token waits whose `kid` is unknown, while the keys are fetched.
    pub wait: Duration,
}

/// Why a verifier could not be built. Messages name the issuer and the file, and never a key's content.
#[derive(Debug, Error)]
pub enum VerifierError {
    /// One issuer is given twice.
    #[error("the issuer `{issuer}` is configured twice; give all its audiences and algorithms in one entry")]
    DuplicateIssuer {
        /// The issuer.
        issuer: String,
    },
    /// An algorithm is not one of JWS, or refused.
    #[error(
        "the issuer `{issuer}` lists the algorithm `{name}`, which is not supported; use some of HS256, HS384, HS512, RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, ES512, EdDSA"
    )]
    Algorithm {
        /// The issuer.
        issuer: String,
        /// The algorithm as configured.
        name: String,
    },
    /// No algorithm is listed.
    #[error(
        "the issuer `{issuer}` lists no algorithms; name those that its tokens are signed with, such as `ES256`"
    )]
    NoAlgorithms {
        /// The issuer.
        issuer: String,
    },
    /// The file of keys cannot be read.
    #[error(
        "the keys of issuer `{issuer}` cannot be read from `{path}`: {source}; check the path and its permissions"
    )]
    Read {
        /// The issuer.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The file of keys holds something that must not be used.
    #[error("the keys of issuer `{issuer}` in `{path}` are refused: {why}")]
    Keys {
        /// The issuer.
        issuer: String,
        /// The file.
        path: PathBuf,
        /// What is wrong, and what to do.
        why: String,
    },
    /// Its server cannot be asked at all.
    #[error("the keys of issuer `{issuer}` cannot be fetched: {source}")]
    Fetch {
        /// The issuer.
        issuer: String,
        /// The cause.
        source: FetchError,
    },
}
