//! Listeners of the front doors: TCP, TLS and Unix sockets, HTTP/1 and HTTP/2 on each, told apart by how a client begins.

use std::{
    convert::Infallible,
    io,
    net::IpAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, StatusCode};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    doors::{Answer, Doors, READ_TIMEOUT, plain},
    peer::Peer,
    tls::Tls,
};
use crate::telemetry::Metrics;

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 8192;
/// Requests at once on one HTTP/2 connection; more wait at the client.
const STREAMS: u32 = 256;
/// Largest head of a request, in bytes.
const LARGEST: usize = 64 * 1024;
/// The same as far as it is read to be answered, over HTTP/2.
const LARGEST_READ: u32 = 1024 * 1024;
/// How often a silent HTTP/2 connection is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// What an HTTP/2 client sends first (RFC 9113 §3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// TCP.
    Tcp(TcpListener),
    /// TLS over TCP.
    Tls(TcpListener, Arc<Tls>),
    /// A Unix socket; its file is removed at the end.
    Unix(super::unix::UnixSocket),
}

/// What stands behind a listener.
pub(super) trait Front: Send + Sync + 'static {
    /// The networks of peers whose word is taken; everybody's where none is named.
    fn gateways(&self) -> &[(IpAddr, u8)];
    /// Where what cannot be read is counted.
    fn metrics(&self) -> &Arc<Metrics>;
    /// Answers one request.
    fn route(&self, request: Request<Incoming>, peer: &Peer) -> impl Future<Output = Answer> + Send;
}

impl Doors {
    /// Serves connections until `stop`, then lets those in progress finish.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        Connections(self).serve(listener, stop).await;
    }
}

/// Takes connections for a front.
pub(super) struct Connections<F>(pub Arc<F>);

impl<F: Front> Connections<F> {
    /// Serves connections until `stop`, then lets those in progress finish.
    pub async fn serve(self, listener: Listener, stop: CancellationToken) {
        let (connections, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = accept(&listener) => accepted,
            };
            let (doors, stop) = (Self(Arc::clone(&self.0)), stop.clone());
            match accepted {
                Ok(Accepted::Tcp(stream, peer)) => connections.spawn(async move {
                    let peer = Peer::at(peer, doors.0.gateways());
                    doors.connection(stream, peer, stop).await;
                    drop(permit);
                }),
                Ok(Accepted::Tls(stream, peer, tls)) => connections.spawn(async move {
                    match tokio::time::timeout(READ_TIMEOUT, tls.accept(stream)).await {
                        Ok(Ok(stream)) => {
                            let known = tls.asks_for_certificates();
                            let peer = Peer::at(peer, if known { &[] } else { doors.0.gateways() });
                            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                            let peer = peer.with_certificate(shown.map(AsRef::as_ref));
                            doors.connection(stream, peer, stop).await;
                        }
                        Ok(Err(e)) => tracing::debug!(error = %e, "a TLS handshake failed"),
                        Err(_) => tracing::debug!("a TLS handshake took too long"),
                    }
                    drop(permit);
                }),
                Ok(Accepted::Unix(stream)) => connections.spawn(async move {
                    doors.connection(stream, Peer::unix(), stop).await;
                    drop(permit);
                }),
                // Out of descriptors, or the peer is gone already: neither is mended by giving up.
                Err(e) => {
                    tracing::warn!(error = %e, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    continue;
                }
            };
        }
        drop(listener);
        connections.close();
        let _ = tokio::time::timeout(READ_TIMEOUT, connections.wait()).await;
    }

    async fn connection<S>(self, mut stream: S, peer: Peer, stop: CancellationToken)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let begun = tokio::select! {
            () = stop.cancelled() => return,
            begun = tokio::time::timeout(READ_TIMEOUT, begin(&mut stream)) => begun,
        };
        // Nothing came, or not in time: there is nobody to answer.
        let Ok(Ok(Some(start))) = begun else { return };
        let is_http2 = start == PREFACE;
        let io = TokioIo::new(Begun { start, read: 0, stream });
        let peer = Arc::new(peer);
        let metrics = Arc::clone(self.0.metrics());
        let log_end = |ended| ended_early(ended, &metrics);
        let service = service_fn(move |request| {
            let (doors, peer) = (Arc::clone(&self.0), Arc::clone(&peer));
            async move {
                if is_http2 && head_size(&request) > LARGEST {
                    doors.metrics().unreadable();
                    return Ok::<_, Infallible>(plain(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE));
                }
                Ok(doors.route(request, &peer).await)
            }
        });
        if is_http2 {
            let connection = http2::Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .max_concurrent_streams(STREAMS)
                // What is longer than a head may be is answered, where it can be read at all.
                .max_header_list_size(LARGEST_READ)
                .keep_alive_interval(ASK_EVERY)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = &mut connection => log_end(ended),
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    log_end(connection.await);
                }
            }
        } else {
            let connection = http1::Builder::new()
                // A client may say that nothing more comes from it, and wait for its answer.
                .half_close(true)
                .timer(TokioTimer::new())
                .header_read_timeout(READ_TIMEOUT)
                .max_buf_size(LARGEST)
                .serve_connection(io, service);
            tokio::pin!(connection);
            tokio::select! {
                ended = &mut connection => log_end(ended),
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    log_end(connection.await);
                }
            }
        }
    }
}

/// About the size of a request's head.
fn head_size<B>(request: &Request<B>) -> usize {
    let fields = request.headers().iter().map(|(name, value)| name.as_str().len() + value.len() + 4);
    fields.sum::<usize>() + request.uri().path_and_query().map_or(0, |p| p.as_str().len())
}

/// Notes a connection's end that is none: of heads that cannot be read, hyper has told the client already.
fn ended_early(ended: hyper::Result<()>, metrics: &Metrics) {
    if let Err(e) = ended {
        if e.is_parse() {
            metrics.unreadable();
        }
        tracing::debug!(error = %e, "a connection ended early");
    }
}

enum Accepted {
    Tcp(TcpStream, IpAddr),
    Tls(TcpStream, IpAddr, Arc<Tls>),
    Unix(tokio::net::UnixStream),
}

async fn accept(listener: &Listener) -> io::Result<Accepted> {
    match listener {
        Listener::Tcp(l) => tcp(l).await.map(|(stream, peer)| Accepted::Tcp(stream, peer)),
        Listener::Tls(l, tls) => {
            tcp(l).await.map(|(stream, peer)| Accepted::Tls(stream, peer, Arc::clone(tls)))
        }
        Listener::Unix(l) => l.accept().await.map(Accepted::Unix),
    }
}

async fn tcp(listener: &TcpListener) -> io::Result<(TcpStream, IpAddr)> {
    let (stream, peer) = listener.accept().await?;
    let _ = stream.set_nodelay(true);
    Ok((stream, peer.ip().to_canonical()))
}

/// Reads as far as it takes to tell HTTP/2 from HTTP/1; `None` where the client ends before that.
async fn begin(stream: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Vec<u8>>> {
    let mut start = Vec::with_capacity(PREFACE.len());
    let mut left = PREFACE.len();
    while left > 0 && PREFACE.starts_with(&start) {
        let mut piece = [0; PREFACE.len()];
        let Some(room) = piece.get_mut(..left) else { break };
        let n = stream.read(room).await?;
        if n == 0 {
            return Ok(None);
        }
        start.extend_from_slice(room.get(..n).unwrap_or_default());
        left -= n;
    }
    Ok(Some(start))
}

/// A stream whose first bytes were read already.
struct Begun<S> {
    start: Vec<u8>,
    read: usize,
    stream: S,
}

impl<S: AsyncRead + Unpin> AsyncRead for Begun<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(rest) = this.start.get(this.read..).filter(|rest| !rest.is_empty()) {
            let n = rest.len().min(into.remaining());
            into.put_slice(rest.get(..n).unwrap_or_default());
            this.read += n;
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut this.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Begun<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
