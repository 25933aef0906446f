//! Connections: names resolved, addresses checked, TLS.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::{
    client::legacy::connect::{Connected, Connection},
    rt::TokioIo,
};
use rustls::{ClientConfig, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    FetchError,
    error::{Failed, innermost},
    is_public,
    url::{host, port},
};

/// How connections are made.
#[derive(Clone)]
pub(super) struct Connector {
    /// TLS, or why there is none.
    pub tls: Result<Arc<ClientConfig>, String>,
    /// Whether plain `http` may leave this host.
    pub plain_http: bool,
    /// Whether public addresses alone are asked.
    pub public_only: bool,
    /// For all addresses of one name together.
    pub deadline: Duration,
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection, plain or not.
pub(super) struct Io(TokioIo<Box<dyn Stream>>);

type Connecting = Pin<Box<dyn Future<Output = Result<Io, Failed>> + Send>>;

impl Connector {
    async fn connect(self, uri: Uri) -> Result<Io, FetchError> {
        let (name, is_tls) = (host(&uri).to_owned(), uri.scheme_str() == Some("https"));
        let tls = match (&self.tls, is_tls) {
            (Err(why), true) => return Err(FetchError::NoAuthorities { why: why.clone() }),
            (Ok(config), true) => Some(Arc::clone(config)),
            (_, false) => None,
        };
        let stream = self.reach(&name, port(&uri), is_tls).await?;
        // Small requests: waiting to fill a segment would only add a round trip.
        let _ = stream.set_nodelay(true);
        let Some(config) = tls else { return Ok(Io(TokioIo::new(Box::new(stream)))) };
        let fail = |why: String| FetchError::Tls { host: name.clone(), why };
        let server = ServerName::try_from(name.clone()).map_err(|e| fail(e.to_string()))?;
        let stream = TlsConnector::from(config).connect(server, stream).await;
        Ok(Io(TokioIo::new(Box::new(stream.map_err(|e| fail(innermost(&e)))?))))
    }

    /// A TCP connection to the first address that takes one.
    async fn reach(&self, name: &str, port: u16, is_tls: bool) -> Result<TcpStream, FetchError> {
        let mut last = None;
        for address in self.resolve(name, port).await? {
            // As often written for the same host, and judged as what it is.
            let ip = address.ip().to_canonical();
            if self.public_only && !is_public(ip) {
                last = Some(FetchError::NotPublic { host: name.to_owned(), address: ip });
                continue;
            }
            if !is_tls && !self.plain_http && !ip.is_loopback() {
                last = Some(FetchError::Plain { host: name.to_owned(), address: ip });
                continue;
            }
            match TcpStream::connect(address).await {
                Ok(stream) => return Ok(stream),
                Err(e) => {
                    let (host, address) = (name.to_owned(), address.to_string());
                    last = Some(FetchError::Connect { host, address, why: e.to_string() });
                }
            }
        }
        let none = || FetchError::Resolve { host: name.to_owned(), why: "it has no address".to_owned() };
        Err(last.unwrap_or_else(none))
    }

    async fn resolve(&self, name: &str, port: u16) -> Result<Vec<SocketAddr>, FetchError> {
        if let Ok(address) = name.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let found = tokio::net::lookup_host((name, port)).await;
        found
            .map(Iterator::collect)
            .map_err(|e| FetchError::Resolve { host: name.to_owned(), why: e.to_string() })
    }
}

impl tower_service::Service<Uri> for Connector {
    type Response = Io;
    type Error = Failed;
    type Future = Connecting;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Failed>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Connecting {
        let this = self.clone();
        Box::pin(async move {
            let (deadline, name) = (this.deadline, host(&uri).to_owned());
            match tokio::time::timeout(deadline, this.connect(uri)).await {
                Ok(done) => done.map_err(Failed::from),
                Err(_) => {
                    Err(FetchError::Deadline { url: name, stage: super::Stage::Connection, deadline }.into())
                }
            }
        })
    }
}

impl Connection for Io {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

impl Read for Io {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl Write for Io {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
