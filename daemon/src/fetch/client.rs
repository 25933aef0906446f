//! The client: connections that are kept, deadlines that hold.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{self, connect::capture_connection},
    rt::{TokioExecutor, TokioTimer},
};
use rustls::{
    ClientConfig, RootCertStore,
    crypto::aws_lc_rs,
    pki_types::{CertificateDer, pem::PemObject as _},
};

use super::{
    Answer, Bounds, FetchError, Request, Stage, answer,
    connect::Connector,
    error::{Failed, innermost},
};

/// Longest head of an answer.
const MAX_HEAD: usize = 64 * 1024;
/// How long a connection without a request is kept: shorter than servers do, who close theirs in the middle of one.
const IDLE: Duration = Duration::from_secs(20);

/// How a client connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The only authorities that are believed (PEM); the system's where none is given.
    pub ca_file: Option<PathBuf>,
    /// Whether plain `http` may be spoken to other hosts than this one.
    pub plain_http: bool,
    /// Whether public addresses alone are asked.
    pub public_only: bool,
    /// Longest time for a connection, TLS included.
    pub connect: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { ca_file: None, plain_http: false, public_only: false, connect: Duration::from_secs(5) }
    }
}

/// Asks servers. Clones share their connections.
#[derive(Clone)]
pub struct Client(legacy::Client<Connector, Full<Bytes>>);

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Reads the authorities. Without any of the system's it can ask in plain `http` alone.
    pub fn new(settings: &Settings) -> Result<Self, FetchError> {
        let Settings { ca_file, plain_http, public_only, connect: deadline } = settings;
        let tls = match ca_file {
            Some(path) => Ok(from_file(path)?),
            None => of_system(),
        }
        .and_then(|roots| tls(roots).map(Arc::new));
        let connector =
            Connector { tls, plain_http: *plain_http, public_only: *public_only, deadline: *deadline };
        let client = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(8)
            .http1_max_buf_size(MAX_HEAD)
            .build(connector);
        Ok(Self(client))
    }

    /// Sends a request and reads its answer to the end. Any status is an answer: see [`Answer::success`].
    pub async fn send(&self, request: Request, bounds: Bounds) -> Result<Answer, FetchError> {
        let url = request.url.to_string();
        let mut request = request.built()?;
        let captured = capture_connection(&mut request);
        let end = tokio::time::Instant::now() + bounds.deadline;
        let late = |stage| FetchError::Deadline { url: url.clone(), stage, deadline: bounds.deadline };
        let sent = tokio::time::timeout_at(end, self.0.request(request)).await;
        let answer = match sent {
            Ok(Ok(answer)) => answer,
            Ok(Err(e)) => return Err(told(&url, &e)),
            Err(_) if captured.connection_metadata().is_none() => return Err(late(Stage::Connection)),
            Err(_) => return Err(late(Stage::Answer)),
        };
        let read = answer::read(url.clone(), answer, bounds.max_body);
        tokio::time::timeout_at(end, read).await.unwrap_or_else(|_| Err(late(Stage::Body)))
    }
}

/// What the connector said, or else the innermost cause.
fn told(url: &str, e: &legacy::Error) -> FetchError {
    let mut at: Option<&(dyn std::error::Error + 'static)> = Some(e);
    while let Some(cause) = at {
        if let Some(Failed(why)) = cause.downcast_ref() {
            return FetchError::clone(why);
        }
        at = cause.source();
    }
    FetchError::Protocol { url: url.to_owned(), why: innermost(e) }
}

fn tls(roots: RootCertStore) -> Result<ClientConfig, String> {
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn from_file(path: &Path) -> Result<RootCertStore, FetchError> {
    let fail = |why: String| FetchError::Authorities { path: path.to_owned(), why };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))? {
        let certificate = certificate.map_err(|e| fail(e.to_string()))?;
        roots.add(certificate).map_err(|e| fail(e.to_string()))?;
    }
    if roots.is_empty() { Err(fail("it holds none".to_owned())) } else { Ok(roots) }
}

/// The system's authorities. Those that cannot be read are passed over, as other clients do.
fn of_system() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err(found.errors.first().map_or_else(|| "none was found".to_owned(), ToString::to_string));
    }
    Ok(roots)
}
