//! The front doors' listener: HTTP/1 with keep-alive, straight on hyper.

use std::{convert::Infallible, future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use portcullis_common::reason::Reason;
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{auth, data};
use crate::{decide::Decider, telemetry::Metrics, token::Extraction};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS: usize = 8192;
/// Longest wait for a request's head or body.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How the front doors are set.
#[derive(Clone, Debug)]
pub struct DoorSettings {
    /// Where the token sits in the data API's input.
    pub token_path: Vec<String>,
    /// Longest request body, in bytes.
    pub max_body: usize,
    /// Allow where no decision can be made.
    pub fail_open: bool,
    /// Headers that policies may read.
    pub headers: Vec<String>,
    /// Where a request's token may stand.
    pub extraction: Extraction,
}

/// What every connection shares.
pub struct Doors {
    /// Decides.
    pub decider: Arc<Decider>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub settings: DoorSettings,
}

/// A response of the front doors.
pub(super) type Answer = Response<Full<Bytes>>;

impl Doors {
    /// Serves connections until `stop`, then lets those in progress finish.
    pub async fn serve(self: Arc<Self>, listener: TcpListener, stop: CancellationToken) {
        let (connections, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
        loop {
            let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
            let stream = tokio::select! {
                () = stop.cancelled() => break,
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => stream,
                    // Out of descriptors, or the peer is gone already: neither is mended by giving up.
                    Err(e) => {
                        tracing::warn!(error = %e, "cannot accept a connection");
                        tokio::time::sleep(Duration::from_millis(10)).await;
                        continue;
                    }
                },
            };
            let _ = stream.set_nodelay(true);
            let (doors, stop) = (Arc::clone(&self), stop.clone());
            connections.spawn(async move {
                doors.connection(stream, stop).await;
                drop(permit);
            });
        }
        connections.close();
        let _ = tokio::time::timeout(READ_TIMEOUT, connections.wait()).await;
    }

    async fn connection(self: Arc<Self>, stream: tokio::net::TcpStream, stop: CancellationToken) {
        // Written once for a connection, for policies that read the source where no header tells it.
        let peer: Arc<str> = stream.peer_addr().map(|p| p.ip().to_string()).unwrap_or_default().into();
        let service = service_fn(move |request| {
            let (doors, peer) = (Arc::clone(&self), Arc::clone(&peer));
            async move { Ok::<_, Infallible>(doors.route(request, &peer).await) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(READ_TIMEOUT)
            .max_buf_size(64 * 1024)
            .serve_connection(TokioIo::new(stream), service);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => ended,
            () = stop.cancelled() => {
                connection.as_mut().graceful_shutdown();
                connection.await
            }
        };
        if let Err(e) = ended {
            tracing::debug!(error = %e, "a connection ended early");
        }
    }

    async fn route(&self, request: Request<Incoming>, peer: &str) -> Answer {
        let path = request.uri().path();
        if path == "/auth" {
            return auth::answer(self, &request, peer).await;
        }
        if path == "/v1/data" || path.starts_with("/v1/data/") {
            return match *request.method() {
                Method::POST => self.with_body(request).await,
                _ => plain(StatusCode::METHOD_NOT_ALLOWED),
            };
        }
        if path == "/health" {
            return plain(if self.decider.is_ready() {
                StatusCode::OK
            } else {
                StatusCode::SERVICE_UNAVAILABLE
            });
        }
        plain(StatusCode::NOT_FOUND)
    }

    async fn with_body(&self, request: Request<Incoming>) -> Answer {
        let (parts, body) = request.into_parts();
        let mut read = pin!(Limited::new(body, self.settings.max_body).collect());
        // Most bodies came with their head: only those that did not are waited for, and so need a timer.
        let read = match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
            Poll::Ready(done) => Ok(done),
            Poll::Pending => tokio::time::timeout(READ_TIMEOUT, read).await,
        };
        let body = match read {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Reason::RequestTooLarge),
            _ => Err(Reason::RequestMalformed),
        };
        data::answer(self, parts.uri.path(), body).await
    }
}

/// A response without a body.
pub(super) fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer
}

/// A JSON response.
pub(super) fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
