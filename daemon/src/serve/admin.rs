//! The admin API: HTTP and JSON on a Unix socket of mode 0600.
//!
//! Who may open the socket may revoke: the file's mode is the permission. The peer's user id is the actor.

mod keys;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, Path as UrlPath, Query, State, connect_info::Connected},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{delete, get, post},
    serve::IncomingStream,
};
use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::{
    net::UnixListener,
    sync::{broadcast, broadcast::error::RecvError, mpsc},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;

mod policy;
mod ssf;
mod usage;

pub use self::{
    policy::{Promotion, PromotionKind},
    usage::UsageLister,
};
use super::{ServeError, unix::UnixSocket};
use crate::{
    clock::SharedClock,
    decide::{self, Decider, Request},
    revoke::{AnyClaim, ClaimId, Order, PlaneHandle, RevokeError, Selector, SelectorClaim, SelectorOrder},
    telemetry::Metrics,
    token::{ApiKeys, Evidence, Token},
    usage::Book,
};

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;
/// Longest page of a listing.
const MAX_PAGE: usize = 10_000;
/// Longest reason given for a revocation, in bytes.
const MAX_REASON: usize = 1000;

/// A kernel event as it is shown.
#[derive(Clone, Debug, Serialize)]
pub struct EventRecord {
    /// When (ms since 1970).
    pub time: i64,
    /// Whose token.
    pub fingerprint: String,
    /// The decision that condemned it, where a policy did: its id in the log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub decision: Option<String>,
    /// The client.
    pub source: std::net::SocketAddr,
    /// The server.
    pub destination: std::net::SocketAddr,
    /// Index of the interface.
    pub interface: u32,
    /// Why.
    pub reason: &'static str,
    /// What was done.
    pub action: &'static str,
}

/// What the admin API works with.
#[derive(Clone)]
pub struct AdminState {
    /// Decides and fingerprints.
    pub decider: Arc<Decider>,
    /// Issues API keys, where that is configured.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Takes orders.
    pub plane: PlaneHandle,
    /// The time.
    pub clock: SharedClock,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Kernel events, as they come.
    pub events: broadcast::Sender<EventRecord>,
    /// The rest of `status`, from whoever wired the daemon.
    pub status: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Asks for the policies to be loaded again; gives what came of it.
    pub reload: mpsc::Sender<tokio::sync::oneshot::Sender<Result<u64, String>>>,
    /// Asks for another live policy set; gives what came of it.
    pub promotions: mpsc::Sender<(Promotion, tokio::sync::oneshot::Sender<Result<Value, String>>)>,
    /// What the candidate set would change.
    pub shadow: Arc<dyn Fn() -> Value + Send + Sync>,
    /// Uses of tokens: what is known, and lists of it.
    pub usage: Option<(Arc<Book>, UsageLister)>,
    /// Security events.
    pub ssf: crate::ssf::Receiver,
    /// The daemon's end.
    pub stop: CancellationToken,
    /// Lifetime of a revocation that names none.
    pub default_ttl: Duration,
}

/// The caller's user id.
#[derive(Clone, Debug)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|c| c.uid()))
    }
}

/// An error as the API tells it.
struct ApiError(StatusCode, &'static str, String);

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.0, Json(json!({"code": self.1, "message": self.2}))).into_response()
    }
}

impl From<RevokeError> for ApiError {
    fn from(e: RevokeError) -> Self {
        let (status, code) = match &e {
            RevokeError::Full { .. } | RevokeError::DoesNotFit { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "full")
            }
            RevokeError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_revocation"),
            RevokeError::Store(_) | RevokeError::Read(_) => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store_failed")
            }
            RevokeError::Kernel(_) => (StatusCode::INTERNAL_SERVER_ERROR, "kernel_failed"),
            RevokeError::Busy | RevokeError::Stopping => (StatusCode::SERVICE_UNAVAILABLE, "busy"),
        };
        Self(status, code, e.to_string())
    }
}

fn bad(message: impl Into<String>) -> ApiError {
    ApiError(StatusCode::BAD_REQUEST, "bad_request", message.into())
}

/// The admin API's socket, bound.
#[derive(Debug)]
pub struct AdminSocket(UnixSocket);

/// Serves until `stop`, then removes the socket.
pub async fn serve_admin(socket: AdminSocket, state: AdminState, stop: CancellationToken) {
    let router = Router::new()
        .route("/v1/revocations", post(revoke).get(list))
        .route("/v1/revocations/{id}", delete(unrevoke))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/decide", post(decide))
        .route("/v1/fingerprint", post(fingerprint))
        .route("/v1/reload", post(reload))
        .route("/v1/keys", post(keys::issue).get(keys::list))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/disable", post(keys::disable))
        .route("/v1/usage", get(usage::list))
        .route("/v1/ssf", get(ssf::list))
        .route("/v1/ssf/{name}/{order}", post(ssf::order))
        .route("/v1/policy/shadow", get(policy::shadow))
        .route("/v1/policy/promote", post(policy::promote))
        .route("/v1/policy/rollback", post(policy::rollback))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(state)
        .into_make_service_with_connect_info::<Peer>();
    let (listener, _file) = socket.0.into_parts();
    let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(e) = served.await {
        tracing::error!(error = %e, "the admin API ended");
    }
}

impl AdminSocket {
    /// Binds with mode 0600: who may open it may revoke.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        UnixSocket::bind(path, "admin.socket", 0o600, None).map(Self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RevokeRequest {
    token: Option<String>,
    fingerprint: Option<String>,
    selector: Option<Selector>,
    ttl: Option<String>,
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    /// Only tells what it would do.
    #[serde(default)]
    dry_run: bool,
}

/// Who is meant.
enum Target {
    Token(DenyFingerprint),
    Selector(Selector),
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, ApiError> {
    // serde's messages may quote what they choke on, and that may be a token.
    serde_json::from_slice(body).map_err(|e| {
        let what =
            if e.is_data() { "has a member that is unknown or of the wrong type" } else { "is not JSON" };
        bad(format!("the body {what} (line {}, column {})", e.line(), e.column()))
    })
}

async fn revoke(
    State(s): State<AdminState>,
    ConnectInfo(Peer(uid)): ConnectInfo<Peer>,
    body: Bytes,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let r: RevokeRequest = parse(&body)?;
    let target = match (r.token, r.fingerprint, r.selector) {
        (Some(token), None, None) => Target::Token(s.decider.key().deny(&read_token(&token)?)),
        (None, Some(f), None) => Target::Token(f.parse::<DenyFingerprint>().map_err(|e| bad(e.to_string()))?),
        (None, None, Some(selector)) => {
            selector.check().map_err(|e| bad(e.to_string()))?;
            Target::Selector(selector)
        }
        _ => return Err(bad("give one of `token`, `fingerprint` and `selector`")),
    };
    let ttl = match r.ttl.as_deref() {
        None => s.default_ttl,
        Some(text) => humantime::parse_duration(text).ok().filter(|d| !d.is_zero()).ok_or_else(|| {
            bad(format!("`ttl` \"{text}\" is not a length of time such as \"30m\" or \"7d\""))
        })?,
    };
    if r.reason.len() > MAX_REASON || r.reason.chars().any(char::is_control) {
        return Err(bad(format!("`reason` must be printable and of at most {MAX_REASON} bytes")));
    }
    let peer = uid.map_or_else(|| "unknown".to_owned(), |u| format!("uid:{u}"));
    let actor = match r.actor {
        None => peer,
        Some(a) if !a.is_empty() && a.len() <= 100 && !a.chars().any(char::is_control) => {
            format!("{a} ({peer})")
        }
        Some(_) => return Err(bad("`actor` must be printable and of at most 100 bytes")),
    };
    let until = s.clock.wall().plus(ttl);
    let (reason, source) = (r.reason, "admin".to_owned());
    match target {
        Target::Selector(selector) => {
            by_selector(&s, SelectorOrder { selector, until, reason, actor, source }, r.dry_run, start).await
        }
        Target::Token(fingerprint) if r.dry_run => {
            Ok(Json(json!({"dry_run": true, "fingerprint": fingerprint.to_string(), "live": 1}))
                .into_response())
        }
        Target::Token(fingerprint) => {
            let order = Order { fingerprint, until, reason, actor, source, parent: None };
            let claim = s.plane.revoke(order).await?;
            s.metrics.revocation("admin", start.elapsed());
            tracing::info!(id = claim.id.0, fingerprint = %claim.fingerprint, actor = claim.actor, reason = claim.reason, "revoked");
            Ok((StatusCode::CREATED, Json(claim)).into_response())
        }
    }
}

/// Revokes all that a selector matches: the decision path refuses it from here on, seen or not, and what was seen lately
/// is in the kernel when this is answered.
async fn by_selector(
    s: &AdminState,
    order: SelectorOrder,
    dry_run: bool,
    start: Instant,
) -> Result<Response, ApiError> {
    if dry_run {
        let (id, created) = (ClaimId(0), s.clock.wall());
        let SelectorOrder { selector, until, reason, actor, source } = order;
        let claim = SelectorClaim { id, selector, created, until, reason, actor, source };
        let live = s.decider.matched(&claim).len();
        return Ok(Json(json!({"dry_run": true, "selector": claim.selector, "live": live})).into_response());
    }
    let claim = s.plane.select(order).await?;
    let matched = s.decider.matched(&claim);
    let live = matched.len();
    let condemned = s.plane.follow(claim.id, matched).await?;
    s.metrics.revocation("admin", start.elapsed());
    tracing::info!(id = claim.id.0, selector = %claim.selector, actor = claim.actor, reason = claim.reason, live, condemned, "revoked by selector");
    let mut told = serde_json::to_value(&claim).unwrap_or_default();
    told["live"] = live.into();
    told["condemned"] = condemned.into();
    Ok((StatusCode::CREATED, Json(told)).into_response())
}

/// A token as it may stand in a request: whatever else is there could never be condemned by its text.
fn read_token(text: &str) -> Result<Token, ApiError> {
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(bad(
            "the token is empty or holds white space, control or non-ASCII characters: give its text alone, without `Bearer`",
        ));
    }
    if text.len() > portcullis_common::head::MAX_TOKEN as usize {
        return Err(bad("the token is longer than 4096 bytes, which is what the kernel reads"));
    }
    Ok(Token::new(text.to_owned()))
}

async fn unrevoke(State(s): State<AdminState>, UrlPath(id): UrlPath<u64>) -> Result<Response, ApiError> {
    let claim = s.plane.lift(ClaimId(id)).await?;
    match &claim {
        AnyClaim::Token(c) => tracing::info!(id, fingerprint = %c.fingerprint, "revocation lifted"),
        AnyClaim::Selector(c) => tracing::info!(id, selector = %c.selector, "revocation lifted"),
    }
    Ok(Json(claim).into_response())
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
}

async fn list(State(s): State<AdminState>, Query(page): Query<Page>) -> Result<Response, ApiError> {
    let limit = page.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let claims = s.plane.list(ClaimId(page.after), limit).await?;
    let next = claims.last().filter(|_| claims.len() == limit).map(AnyClaim::id);
    Ok(Json(json!({"revocations": claims, "next": next})).into_response())
}

async fn status(State(s): State<AdminState>) -> Json<Value> {
    Json((s.status)())
}

/// Streams events as JSON lines. A reader that is too slow is told how many it missed.
async fn events(State(s): State<AdminState>) -> Response {
    let receiver = s.events.subscribe();
    ([("content-type", "application/x-ndjson")], Body::from_stream(lines(receiver, s.stop.clone())))
        .into_response()
}

/// Events as lines, until the reader goes or the daemon stops: an open stream must not hold up its end.
fn lines(
    mut receiver: broadcast::Receiver<EventRecord>,
    stop: CancellationToken,
) -> impl futures_core::Stream<Item = Result<String, std::io::Error>> {
    let (sender, lines) = mpsc::channel(256);
    tokio::spawn(async move {
        loop {
            let value = tokio::select! {
                () = stop.cancelled() => return,
                () = sender.closed() => return,
                event = receiver.recv() => match event {
                    Ok(event) => serde_json::to_value(event).unwrap_or_default(),
                    Err(RecvError::Lagged(n)) => json!({"missed": n}),
                    Err(RecvError::Closed) => return,
                },
            };
            if sender.send(Ok(format!("{value}\n"))).await.is_err() {
                return;
            }
        }
    });
    ReceiverStream::new(lines)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DecideRequest {
    token: Option<String>,
    method: String,
    path: String,
    #[serde(default)]
    host: String,
    #[serde(default)]
    source: String,
    #[serde(default)]
    headers: std::collections::BTreeMap<String, String>,
}

async fn decide(State(s): State<AdminState>, body: Bytes) -> Result<Response, ApiError> {
    let r: DecideRequest = parse(&body)?;
    let (path, query) = r.path.split_once('?').unwrap_or((&r.path, ""));
    let path = decide::Path::new(path)
        .map_err(|_| bad(format!("`path`: {}", Reason::RequestMalformed.describe())))?;
    let token = r.token.as_deref().map(read_token).transpose()?;
    let headers = r.headers.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    // A proof is good for one request, which is not this one.
    let evidence = Evidence::default();
    let request = Request {
        method: &r.method,
        path,
        query,
        host: &r.host,
        headers,
        source: &r.source,
        foreign: None,
        evidence,
    };
    Ok(Json(s.decider.explain(&request, Ok(token)).await).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FingerprintRequest {
    token: String,
}

async fn fingerprint(State(s): State<AdminState>, body: Bytes) -> Result<Response, ApiError> {
    let r: FingerprintRequest = parse(&body)?;
    let key = s.decider.key();
    let f = key.deny(&read_token(&r.token)?);
    Ok(Json(json!({"fingerprint": f.to_string(), "key_id": format!("{:08x}", key.id())})).into_response())
}

async fn reload(State(s): State<AdminState>) -> Result<Response, ApiError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let stopping = || ApiError(StatusCode::SERVICE_UNAVAILABLE, "busy", "the daemon is stopping".to_owned());
    s.reload.send(reply).await.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(generation) => Ok(Json(json!({"generation": generation})).into_response()),
        Err(message) => Err(ApiError(StatusCode::UNPROCESSABLE_ENTITY, "policy_refused", message)),
    }
}
