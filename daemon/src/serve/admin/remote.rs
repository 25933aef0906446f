//! The admin API over TLS, for those who are not on the host: known by a certificate or a bearer token, and allowed what
//! a rule of the policy set says.
//!
//! Nothing is allowed by default: the rule must be `true` for this very request.

use std::{convert::Infallible, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower_service::Service as _;

use super::{
    super::{contained::contained, peer::Peer, tls::Tls},
    AdminState, ApiError, Caller,
};
use crate::{hex, token::Token};

/// Connections at once.
const CONNECTIONS: usize = 256;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 32;
/// How often a silent HTTP/2 connection is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// So much of a path is noted.
const MAX_PATH: usize = 200;
/// For a handshake, and for a request's head.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
struct Remote {
    address: IpAddr,
    certificate: Option<[u8; 32]>,
}

/// What requests are asked by.
#[derive(Clone)]
struct Gate {
    state: AdminState,
    /// The rule's path below `data`.
    rule: Arc<[String]>,
}

/// Serves one listener until `stop`, then lets requests in progress finish for a while.
pub async fn serve_remote_admin(
    listener: TcpListener,
    tls: Arc<Tls>,
    state: AdminState,
    rule: Vec<String>,
    stop: CancellationToken,
) {
    let gate = Gate { state: state.clone(), rule: rule.into() };
    let router = super::routes(state).layer(middleware::from_fn_with_state(gate, admit));
    let (connections, permits) = (TaskTracker::new(), Arc::new(Semaphore::new(CONNECTIONS)));
    loop {
        let Ok(permit) = Arc::clone(&permits).acquire_owned().await else { break };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, address) = match accepted {
            Ok(accepted) => accepted,
            Err(e) => {
                tracing::warn!(error = %e, "cannot accept a connection");
                tokio::time::sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        let (tls, router, stop) = (Arc::clone(&tls), router.clone(), stop.clone());
        connections.spawn(async move {
            match tokio::time::timeout(READ_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => {
                    let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first);
                    let peer = Peer::at(address.ip(), &[]).with_certificate(shown.map(AsRef::as_ref));
                    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
                    let remote = Remote { address: address.ip(), certificate: peer.certificate };
                    connection(TokioIo::new(stream), is_http2, router, remote, stop).await;
                }
                Ok(Err(e)) => tracing::debug!(error = %e, "a TLS handshake failed"),
                Err(_) => tracing::debug!("a TLS handshake took too long"),
            }
            drop(permit);
        });
    }
    drop(listener);
    connections.close();
    let _ = tokio::time::timeout(READ_TIMEOUT, connections.wait()).await;
}

async fn connection(
    io: impl hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
    is_http2: bool,
    router: Router,
    remote: Remote,
    stop: CancellationToken,
) {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(remote.clone());
        let mut router = router.clone();
        async move {
            let answered = contained(pin!(router.call(request.map(Body::new)))).await;
            Ok::<_, Infallible>(match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            })
        }
    });
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.timer(TokioTimer::new()).max_concurrent_streams(STREAMS).keep_alive_interval(ASK_EVERY);
        let mut served = pin!(builder.serve_connection(io, service));
        tokio::select! {
            ended = served.as_mut() => log_end(ended),
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                log_end(served.await);
            }
        }
    } else {
        let mut builder = http1::Builder::new();
        builder.timer(TokioTimer::new()).header_read_timeout(READ_TIMEOUT).max_buf_size(64 * 1024);
        let mut served = pin!(builder.serve_connection(io, service));
        tokio::select! {
            ended = served.as_mut() => log_end(ended),
            () = stop.cancelled() => {
                served.as_mut().graceful_shutdown();
                log_end(served.await);
            }
        }
    }
}

fn log_end(ended: Result<(), hyper::Error>) {
    if let Err(e) = ended {
        tracing::debug!(error = %e, "an admin connection ended");
    }
}

/// Lets a request pass whose sender is known and whom the rule allows it.
async fn admit(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(remote) = request.extensions().get::<Remote>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let (identity, name) = match gate.identify(request.headers(), &remote).await {
        Ok(known) => known,
        Err(error) => {
            drain(request).await;
            return unknown(error);
        }
    };
    let caller = Caller::remote(&name, remote.address);
    let certificate = remote.certificate.map(|c| json!({"sha256": hex::encode(&c)}));
    let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
    let input = json!({
        "request": {"method": request.method().as_str(), "path": path, "query": request.uri().query().unwrap_or("")},
        "identity": identity,
        "certificate": certificate,
        "source": remote.address.to_string(),
    });
    let rule: Vec<&str> = gate.rule.iter().map(String::as_str).collect();
    if !gate.state.decider.holds(&rule, input) {
        // Cut: it goes into the audit log, and whoever may do nothing may fill nothing.
        let path: String = request.uri().path().chars().take(MAX_PATH).collect();
        let method = request.method().to_string();
        tracing::warn!(actor = caller.0, method, path, "an admin request was refused by policy");
        let note =
            json!({"action": "refused", "of": "admin", "actor": caller.0, "method": method, "path": path});
        gate.state.plane.note_later(&note);
        drain(request).await;
        let message = "the policy does not allow you this (`admin.decision`)".to_owned();
        return ApiError(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

/// Takes what a refused client is still sending, if it is not much: some do not read an answer before.
async fn drain(request: Request) {
    let body = axum::body::to_bytes(request.into_body(), super::MAX_BODY);
    // What does not come in time, or is too long, is cut off with its stream.
    let _ = tokio::time::timeout(Duration::from_secs(1), body).await;
}

impl Gate {
    /// Who asks: what the token says, or nothing of one that is known by its certificate; and a name for the audit log.
    /// Otherwise an error of RFC 6750 §3.1, or nothing where no credential was shown.
    async fn identify(
        &self,
        headers: &HeaderMap,
        remote: &Remote,
    ) -> Result<(Option<Value>, String), &'static str> {
        let mut given = headers.get_all(header::AUTHORIZATION).iter();
        let token = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(value), None) => Some(bearer(value).ok_or("invalid_request")?),
            (Some(_), Some(_)) => return Err("invalid_request"),
        };
        let Some(token) = token else {
            let certificate = remote.certificate.ok_or("")?;
            return Ok((None, format!("certificate:{}", hex::encode(&certificate[..8]))));
        };
        let found = self.state.decider.inspect(&token).await;
        let identity = match found.status {
            Ok(identity) if !found.revoked => identity,
            _ => return Err("invalid_token"),
        };
        // One that is bound to a key is good from its holder alone; of keys, a certificate is the one that is shown here.
        if let Some(confirmation) = &identity.confirmation
            && !remote.certificate.is_some_and(|c| confirmation.is_certificate(&c))
        {
            return Err("invalid_token");
        }
        let subject = identity.subject.as_deref().unwrap_or("-");
        let name = format!("sub:{subject} iss:{}", identity.issuer);
        Ok((serde_json::to_value(&*identity).ok(), name))
    }
}

fn bearer(value: &HeaderValue) -> Option<Token> {
    let (scheme, token) = value.to_str().ok()?.split_once(' ')?;
    let good = scheme.eq_ignore_ascii_case("bearer")
        && !token.is_empty()
        && token.len() <= portcullis_common::head::MAX_TOKEN as usize
        && token.bytes().all(|b| b.is_ascii_graphic());
    good.then(|| Token::new(token.to_owned()))
}

fn unknown(error: &str) -> Response {
    let message =
        "show a certificate that this listener's `client_ca` has signed, or a bearer token that is good";
    let mut answer = ApiError(StatusCode::UNAUTHORIZED, "unauthorized", message.to_owned()).into_response();
    let challenge = match error {
        "" => "Bearer realm=\"portcullis-admin\"".to_owned(),
        error => format!("Bearer realm=\"portcullis-admin\", error=\"{error}\""),
    };
    if let Ok(challenge) = HeaderValue::from_str(&challenge) {
        answer.headers_mut().insert(header::WWW_AUTHENTICATE, challenge);
    }
    answer
}
