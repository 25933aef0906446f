//! TLS of the front doors: rustls on aws-lc-rs, with client certificates where the configuration asks for them.
//!
//! Files that change are read again by themselves, so that a renewed certificate needs no restart. What is then not
//! good is said in the log, and the old one stays.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    server::WebPkiClientVerifier,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use super::ServeError;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(5);

/// Where a listener's keys are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// Certificates, the listener's own first (PEM).
    pub certificate: PathBuf,
    /// Its private key (PEM).
    pub key: PathBuf,
    /// Whose certificates clients must show (PEM); none are asked for where it is absent.
    pub client_ca: Option<PathBuf>,
}

/// Answers handshakes.
pub struct Tls {
    settings: TlsSettings,
    config: ArcSwap<ServerConfig>,
    seen: Mutex<Seen>,
}

/// What the files were when they were read.
struct Seen {
    looked: Instant,
    changed: Vec<Option<SystemTime>>,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls").field("settings", &self.settings).finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads the files.
    pub fn load(settings: TlsSettings) -> Result<Self, ServeError> {
        let changed = settings.times();
        let config = ArcSwap::from_pointee(settings.read()?);
        Ok(Self { settings, config, seen: Mutex::new(Seen { looked: Instant::now(), changed }) })
    }

    /// Whether clients show who they are.
    pub(super) fn asks_for_certificates(&self) -> bool {
        self.settings.client_ca.is_some()
    }

    /// Shakes hands, with the files as they are now.
    pub(super) async fn accept(self: &Arc<Self>, stream: TcpStream) -> std::io::Result<TlsStream<TcpStream>> {
        // Files may lie on a disk that is slow: the one handshake that looks waits for it, no thread does.
        if self.is_due(LOOK) {
            let tls = Arc::clone(self);
            let _ = tokio::task::spawn_blocking(move || tls.look()).await;
        }
        TlsAcceptor::from(self.config.load_full()).accept(stream).await
    }

    /// Whether the files were not looked at for a while; they are then counted as looked at.
    fn is_due(&self, every: Duration) -> bool {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let is_due = seen.looked.elapsed() >= every;
        if is_due {
            seen.looked = Instant::now();
        }
        is_due
    }

    /// Reads the files again if they changed. Blocks.
    fn look(&self) {
        let now = self.settings.times();
        if now == self.seen.lock().unwrap_or_else(PoisonError::into_inner).changed {
            return;
        }
        match self.settings.read() {
            Ok(config) => {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).changed = now;
                self.config.store(Arc::new(config));
                tracing::info!(certificate = %self.settings.certificate.display(), "certificate read again");
            }
            // Looked at again: it may be half written.
            Err(e) => {
                tracing::error!(error = %e, "a changed certificate or key is refused; the old one stays");
            }
        }
    }
}

impl TlsSettings {
    fn files(&self) -> impl Iterator<Item = &PathBuf> {
        [&self.certificate, &self.key].into_iter().chain(&self.client_ca)
    }

    fn times(&self) -> Vec<Option<SystemTime>> {
        self.files().map(|f| fs::metadata(f).and_then(|m| m.modified()).ok()).collect()
    }

    fn read(&self) -> Result<ServerConfig, ServeError> {
        let fail = |path: &Path, message: String| ServeError::Tls { path: path.to_owned(), message };
        let provider: Arc<CryptoProvider> = Arc::new(aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(|e| fail(&self.certificate, e.to_string()))?;
        let builder = match &self.client_ca {
            None => builder.with_no_client_auth(),
            Some(path) => {
                let mut roots = RootCertStore::empty();
                for certificate in certificates(path)? {
                    roots.add(certificate).map_err(|e| fail(path, e.to_string()))?;
                }
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.with_client_cert_verifier(verifier.map_err(|e| fail(path, e.to_string()))?)
            }
        };
        let mode = fs::metadata(&self.key).map_err(|e| fail(&self.key, e.to_string()))?.permissions().mode();
        if mode & 0o007 != 0 {
            return Err(fail(&self.key, "everybody on this host may use it: chmod o= it".to_owned()));
        }
        let key = PrivateKeyDer::from_pem_file(&self.key)
            .map_err(|e| fail(&self.key, format!("holds no private key in PEM: {e}")))?;
        let mut config = builder
            .with_single_cert(certificates(&self.certificate)?, key)
            .map_err(|e| fail(&self.certificate, e.to_string()))?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(config)
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ServeError> {
    let fail = |message: String| ServeError::Tls { path: path.to_owned(), message };
    let read = CertificateDer::pem_file_iter(path).map_err(|e| fail(e.to_string()))?;
    let all: Vec<_> = read.collect::<Result<_, _>>().map_err(|e| fail(e.to_string()))?;
    if all.is_empty() { Err(fail("holds no certificate in PEM".to_owned())) } else { Ok(all) }
}
