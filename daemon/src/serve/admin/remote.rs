//! The admin API over TLS, for those who are not on the host: known by a certificate or a bearer token, and allowed what
//! a rule of the policy set says.
//!
//! Nothing is allowed by default: the rule must be `true` for this very request.

use std::{convert::Infallible, net::IpAddr, pin::pin, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, HttpBody as _},
    extract::{Request, State},
    http::{HeaderValue, StatusCode, header},
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
    lease::{Activity, Leased},
};
use crate::{hex, token::Token};

/// Connections at once.
const CONNECTIONS: usize = 256;
/// Requests at once on one HTTP/2 connection.
const STREAMS: u32 = 32;
/// How often a silent HTTP/2 connection is asked whether it is still there.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// A connection on which nothing is under way for so long is closed.
const IDLE: Duration = Duration::from_mins(1);
/// How often it is asked whether a caller may still have what it is being sent, or sends.
const ASK_AGAIN: Duration = Duration::from_secs(1);
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
                    connection(TokioIo::new(stream), is_http2, router, remote, stop, IDLE).await;
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
    idle: Duration,
) {
    let activity = Activity::default();
    let requests = activity.clone();
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        let active = requests.begin();
        request.extensions_mut().insert(remote.clone());
        let mut router = router.clone();
        async move {
            let answered = contained(pin!(router.call(request.map(Body::new)))).await;
            let answer = match answered {
                Ok(Ok(answer)) => answer,
                Ok(Err(never)) => match never {},
                Err(_) => StatusCode::INTERNAL_SERVER_ERROR.into_response(),
            };
            Ok::<_, Infallible>(answer.map(|body| active.until_sent(body)))
        }
    });
    let ends = async {
        tokio::select! {
            () = stop.cancelled() => {}
            () = activity.rest(idle) => tracing::debug!("an admin connection is closed: nothing is under way on it"),
        }
    };
    if is_http2 {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(STREAMS)
            .keep_alive_interval(ASK_EVERY)
            .keep_alive_timeout(READ_TIMEOUT);
        let mut served = pin!(builder.serve_connection(io, service));
        tokio::select! {
            ended = served.as_mut() => log_end(ended),
            () = ends => {
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
            () = ends => {
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

/// Lets a request pass whose sender is known and whom the rule allows it; and its bodies, for as long as that is so.
async fn admit(State(gate): State<Gate>, mut request: Request, next: Next) -> Response {
    let Some(remote) = request.extensions().get::<Remote>().cloned() else {
        return StatusCode::INTERNAL_SERVER_ERROR.into_response();
    };
    let asked = match Asked::read(gate, &request, remote) {
        Ok(asked) => Arc::new(asked),
        Err(error) => {
            drain(request).await;
            return unknown(error);
        }
    };
    let (caller, allowed) = match asked.may().await {
        Ok(Known { caller, allowed, .. }) => (caller, allowed),
        Err(error) => {
            drain(request).await;
            return unknown(error);
        }
    };
    if !allowed {
        // Cut: it goes into the audit log, and whoever may do nothing may fill nothing.
        let path: String = request.uri().path().chars().take(MAX_PATH).collect();
        let method = request.method().to_string();
        tracing::warn!(actor = caller.0, method, path, "an admin request was refused by policy");
        let note =
            json!({"action": "refused", "of": "admin", "actor": caller.0, "method": method, "path": path});
        asked.gate.state.plane.note_later(&note);
        drain(request).await;
        let message = "the policy does not allow you this (`admin.decision`)".to_owned();
        return ApiError(StatusCode::FORBIDDEN, "forbidden", message).into_response();
    }
    request.extensions_mut().insert(caller);
    let lease = Arc::clone(&asked);
    let request =
        request.map(|body| if body.is_end_stream() { body } else { Leased::body(body, lease.over()) });
    let answer = next.run(request).await;
    answer
        .map(|body| if body.size_hint().exact().is_some() { body } else { Leased::body(body, asked.over()) })
}

/// What is asked by whom, so that it can be asked again.
struct Asked {
    gate: Gate,
    remote: Remote,
    token: Option<Token>,
    /// For the rule.
    request: Value,
}

/// Who asks.
struct Known {
    caller: Caller,
    /// Whether the rule allows it.
    allowed: bool,
    /// When the token is over.
    until: Option<i64>,
}

impl Asked {
    fn read(gate: Gate, request: &Request, remote: Remote) -> Result<Self, &'static str> {
        let mut given = request.headers().get_all(header::AUTHORIZATION).iter();
        let token = match (given.next(), given.next()) {
            (None, _) => None,
            (Some(value), None) => Some(bearer(value).ok_or("invalid_request")?),
            (Some(_), Some(_)) => return Err("invalid_request"),
        };
        let path: Vec<&str> = request.uri().path().split('/').skip(1).collect();
        let query = request.uri().query().unwrap_or("");
        let request = json!({"method": request.method().as_str(), "path": path, "query": query});
        Ok(Self { gate, remote, token, request })
    }

    /// Who asks, and whether it may. Otherwise an error of RFC 6750 §3.1, or nothing where no credential was shown.
    async fn may(&self) -> Result<Known, &'static str> {
        let (identity, name, until) = self.identify().await?;
        let certificate = self.remote.certificate.map(|c| json!({"sha256": hex::encode(&c)}));
        let input = json!({
            "request": self.request,
            "identity": identity,
            "certificate": certificate,
            "source": self.remote.address.to_string(),
        });
        let rule: Vec<&str> = self.gate.rule.iter().map(String::as_str).collect();
        let allowed = self.gate.state.decider.holds(&rule, input);
        Ok(Known { caller: Caller::remote(&name, self.remote.address), allowed, until })
    }

    /// What the token says, or nothing of one that is known by its certificate; a name for the audit log; and when the token
    /// is over.
    async fn identify(&self) -> Result<(Option<Value>, String, Option<i64>), &'static str> {
        let Some(token) = &self.token else {
            let certificate = self.remote.certificate.ok_or("")?;
            return Ok((None, format!("certificate:{}", hex::encode(&certificate[..8])), None));
        };
        let found = self.gate.state.decider.inspect(token).await;
        let identity = match found.status {
            Ok(identity) if !found.revoked => identity,
            _ => return Err("invalid_token"),
        };
        // One that is bound to a key is good from its holder alone; of keys, a certificate is the one that is shown here.
        if let Some(confirmation) = &identity.confirmation
            && !self.remote.certificate.is_some_and(|c| confirmation.is_certificate(&c))
        {
            return Err("invalid_token");
        }
        let subject = identity.subject.as_deref().unwrap_or("-");
        let name = format!("sub:{subject} iss:{}", identity.issuer);
        Ok((Some(identity.document(found.claims)), name, identity.expires_at))
    }

    /// Returns when the caller may not have it any more: its token is over or revoked, or the rule says otherwise.
    async fn over(self: Arc<Self>) {
        loop {
            let now = self.gate.state.clock.wall();
            let left = match self.may().await {
                Ok(Known { allowed: true, until, .. }) => {
                    until.map_or(i64::MAX, |t| t.saturating_mul(1000).saturating_sub(now.0))
                }
                _ => 0,
            };
            if left <= 0 {
                tracing::info!(source = %self.remote.address, "an admin stream is ended: its caller may not have it any more");
                return;
            }
            tokio::time::sleep(ASK_AGAIN.min(Duration::from_millis(left.unsigned_abs()))).await;
        }
    }
}

/// Takes what a refused client is still sending, if it is not much: some do not read an answer before.
async fn drain(request: Request) {
    let body = axum::body::to_bytes(request.into_body(), super::MAX_BODY);
    // What does not come in time, or is too long, is cut off with its stream.
    let _ = tokio::time::timeout(Duration::from_secs(1), body).await;
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

#[cfg(test)]
mod tests {
    use std::io;

    use axum::routing::get;
    use http_body_util::{BodyExt as _, Empty};
    use tokio_stream::StreamExt as _;

    use super::*;

    const IDLE: Duration = Duration::from_millis(100);

    /// A connection on which idleness is short; its end is seen.
    async fn served()
    -> (hyper::client::conn::http2::SendRequest<Empty<bytes::Bytes>>, tokio::task::JoinHandle<()>) {
        let (here, there) = tokio::io::duplex(64 * 1024);
        let ticks = || async {
            let ticks = tokio_stream::iter(0..).then(|_: u64| async {
                tokio::time::sleep(IDLE / 4).await;
                Ok::<_, io::Error>("tick")
            });
            Body::from_stream(ticks)
        };
        let router = Router::new().route("/", get(|| async { "here" })).route("/ticks", get(ticks));
        let remote = Remote { address: [127, 0, 0, 1].into(), certificate: None };
        let stop = CancellationToken::new();
        let ended = tokio::spawn(connection(TokioIo::new(there), true, router, remote, stop, IDLE));
        let (client, driver) =
            hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(here)).await.unwrap();
        tokio::spawn(driver);
        (client, ended)
    }

    fn asked(path: &str) -> http::Request<Empty<bytes::Bytes>> {
        http::Request::get(format!("http://admin{path}")).body(Empty::new()).unwrap()
    }

    #[tokio::test]
    async fn a_connection_without_requests_is_closed_and_one_with_a_stream_is_not() {
        let long = Duration::from_secs(30);
        let (_client, ended) = served().await;
        tokio::time::timeout(long, ended).await.expect("nothing was asked on it").unwrap();
        let (mut client, ended) = served().await;
        let answer = client.send_request(asked("/")).await.unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "here");
        tokio::time::timeout(long, ended).await.expect("all that was asked on it is answered").unwrap();
        let (mut client, ended) = served().await;
        let mut stream = client.send_request(asked("/ticks")).await.unwrap().into_body();
        for _ in 0..30 {
            assert!(stream.frame().await.unwrap().is_ok(), "a stream is not at rest");
        }
        assert!(!ended.is_finished());
        drop(stream);
        tokio::time::timeout(long, ended).await.expect("its stream was given up").unwrap();
    }

    #[tokio::test]
    async fn a_body_is_cut_off_when_its_lease_is_over() {
        let (end, over) = tokio::sync::oneshot::channel::<()>();
        let never = tokio_stream::iter([Ok::<_, io::Error>("first")]).chain(tokio_stream::pending());
        let mut body = Leased::body(Body::from_stream(never), async { drop(over.await) });
        assert!(body.frame().await.unwrap().is_ok());
        end.send(()).unwrap();
        for _ in 0..2 {
            assert!(body.frame().await.unwrap().is_err(), "not an end, which would look whole");
        }
    }
}
