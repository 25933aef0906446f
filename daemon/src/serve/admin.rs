//! The admin API: HTTP and JSON on a Unix socket of mode 0600.
//!
//! Who may open the socket may revoke: the file's mode is the permission. The peer's user id is the actor.

mod batch;
mod errors;
mod fleet;
mod import;
mod json;
mod keys;
mod lease;
mod order;
mod remote;
mod revocations;
mod watch;

use std::{path::Path, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{ConnectInfo, DefaultBodyLimit, FromRequestParts, State, connect_info::Connected},
    http::{StatusCode, request::Parts},
    middleware,
    response::{IntoResponse, Response},
    routing::{get, post},
    serve::IncomingStream,
};
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

use self::json::Json;
pub use self::{
    policy::{Promotion, PromotionKind},
    remote::serve_remote_admin,
    usage::UsageLister,
};
use super::{ServeError, unix::UnixSocket};
use crate::{
    clock::SharedClock,
    decide::{self, Decider, Request},
    plain::{beginning, is_odd, is_plain},
    revoke::{Named, PlaneHandle, RevokeError, StoreError, feed::Feed},
    telemetry::Metrics,
    token::{ApiKeys, Evidence, Token},
    usage::Book,
};

/// Longest request body, in bytes.
const MAX_BODY: usize = 64 * 1024;

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
    /// This host's name.
    pub host: Arc<str>,
    /// Whether tokens that were never seen are shown to the daemon, so that a selector refuses them.
    pub sees_unseen: Arc<dyn Fn() -> bool + Send + Sync>,
    /// Other hosts, where there are any.
    pub fleet: Option<Arc<Feed>>,
}

/// Said of selectors where they reach nothing but what was seen.
const UNSEEN: &str = "nobody has asked this daemon for a decision since it was started, and `kernel.unknown` is \"pass\": where no gateway or application asks it, tokens that it has not seen are not refused";

/// The caller's user id.
#[derive(Clone, Debug)]
struct Peer(Option<u32>);

impl Connected<IncomingStream<'_, UnixListener>> for Peer {
    fn connect_info(stream: IncomingStream<'_, UnixListener>) -> Self {
        Self(stream.io().peer_cred().ok().map(|c| c.uid()))
    }
}

/// Who orders, as it is noted.
#[derive(Clone, Debug)]
struct Caller(String, Option<String>);

/// Longest name of a caller, in bytes: what a token says of its subject may be any text.
const MAX_CALLER: usize = 300;
/// Between the actor of another store and who took its order over.
const IMPORTED: &str = " (imported by ";

impl<S: Sync> FromRequestParts<S> for Caller {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        if let Some(known) = parts.extensions.get::<Self>() {
            return Ok(known.clone());
        }
        let peer = parts.extensions.get::<ConnectInfo<Peer>>();
        let uid = peer.and_then(|p| p.0.0);
        Ok(Self(uid.map_or_else(|| "unknown".to_owned(), |u| format!("uid:{u}")), None))
    }
}

impl Caller {
    /// Somebody at an address. The name is cut to what a line can hold and a terminal can show.
    fn remote(name: &str, address: std::net::IpAddr) -> Self {
        let plain: String = name.chars().map(|c| if is_odd(c) { '\u{fffd}' } else { c }).collect();
        let name = beginning(&plain, MAX_CALLER).to_owned();
        Self(format!("{name}@{address}"), Some(name))
    }

    /// Who it is, wherever from.
    fn name(&self) -> &str {
        self.1.as_deref().unwrap_or(&self.0)
    }

    /// With the name that was given, if one was.
    fn named(&self, given: Option<&str>) -> Result<String, ApiError> {
        match given {
            None => Ok(self.0.clone()),
            Some(a) if !a.is_empty() && a.len() <= 100 && is_plain(a) => Ok(format!("{a} ({})", self.0)),
            Some(_) => Err(bad("`actor` must be printable and of at most 100 bytes")),
        }
    }

    /// With the actor of another store, whose order it takes over: both are told apart, and who takes over last stands
    /// alone beside who ordered. Of the other store's as much is kept as `most` bytes have room for.
    fn importing(&self, actor: &str, most: usize) -> String {
        // Parentheses end the part that a later import puts another in place of.
        let whole = actor.strip_suffix(')').and_then(|a| a.rsplit_once(IMPORTED));
        let first = whole.filter(|(_, by)| !by.contains(['(', ')'])).map_or(actor, |(first, _)| first);
        let by = format!("{IMPORTED}{})", self.0.replace('(', "[").replace(')', "]"));
        format!("{}{by}", beginning(first, most.saturating_sub(by.len())))
    }
}

impl AdminState {
    /// Notes in the audit log what was done; it is on the disk when this returns. That it is not is said in the log
    /// and is no error: what was done is done.
    async fn noted(&self, by: &Caller, action: &str, what: Value) {
        let mut note = json!({"action": action, "actor": by.0});
        if let (Value::Object(note), Value::Object(what)) = (&mut note, what) {
            note.extend(what);
        }
        if let Err(e) = self.plane.note(&note).await {
            tracing::error!(error = %e, action, "the audit log has no line of what was done");
        }
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
            RevokeError::Full { .. } | RevokeError::DoesNotFit { .. } | RevokeError::StoreGone { .. } => {
                (StatusCode::INSUFFICIENT_STORAGE, "full")
            }
            RevokeError::TooMany { .. } => (StatusCode::CONFLICT, "too_many"),
            RevokeError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_revocation"),
            RevokeError::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
            RevokeError::Store(e) if matches!(**e, StoreError::NoRoom { .. }) => {
                (StatusCode::INSUFFICIENT_STORAGE, "disk_full")
            }
            RevokeError::Store(_) | RevokeError::Read(_) | RevokeError::KeyMissing { .. } => {
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
    let service = routes(state).into_make_service_with_connect_info::<Peer>();
    let (listener, _file) = socket.0.into_parts();
    let served = axum::serve(listener, service).with_graceful_shutdown(stop.cancelled_owned());
    if let Err(e) = served.await {
        tracing::error!(error = %e, "the admin API ended");
    }
}

/// Everything that the API answers.
fn routes(state: AdminState) -> Router {
    Router::new()
        .route("/v1/revocations", post(revocations::revoke).get(revocations::list))
        .route("/v1/revocations/{id}", get(revocations::get).delete(revocations::lift))
        .route("/v1/revocations/{id}/receipt", get(revocations::receipt))
        .route("/v1/revocations/batch", post(batch::revoke))
        .route("/v1/revocations/export", get(batch::export))
        .route("/v1/revocations/stats", get(revocations::stats))
        .route("/v1/revocations/watch", get(watch::watch))
        .route("/v1/openapi.json", get(openapi))
        .route("/v1/status", get(status))
        .route("/v1/events", get(events))
        .route("/v1/decide", post(decide))
        .route("/v1/fingerprint", post(fingerprint))
        .route("/v1/reload", post(reload))
        .route("/v1/keys", post(keys::issue).get(keys::list))
        .route("/v1/keys/{id}/rotate", post(keys::rotate))
        .route("/v1/keys/{id}/disable", post(keys::disable))
        .route("/v1/usage", get(usage::list))
        .route("/v1/fleet", get(fleet::show))
        .route("/v1/ssf", get(ssf::list))
        .route("/v1/ssf/{name}/{order}", post(ssf::order))
        .route("/v1/policy/shadow", get(policy::shadow))
        .route("/v1/policy/promote", post(policy::promote))
        .route("/v1/policy/rollback", post(policy::rollback))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::map_response(errors::in_json))
        .with_state(state)
}

impl AdminSocket {
    /// Binds with mode 0600: who may open it may revoke.
    pub fn bind(path: &Path) -> Result<Self, ServeError> {
        UnixSocket::bind(path, "admin.socket", 0o600, None).map(Self)
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, ApiError> {
    // serde's messages may quote what they choke on, and that may be a token.
    serde_json::from_slice(body).map_err(|e| {
        let what = match member_named(&e.to_string()) {
            Some(named) => format!("has {named}"),
            None if e.is_data() => "has a member that is unknown or of the wrong type".to_owned(),
            None => "is not JSON".to_owned(),
        };
        bad(format!("the body {what} (line {}, column {})", e.line(), e.column()))
    })
}

/// The member that serde names, where the name can be nothing but one.
fn member_named(message: &str) -> Option<String> {
    let (what, rest) = [("unknown field `", "an unknown member"), ("missing field `", "no member")]
        .into_iter()
        .find_map(|(prefix, what)| Some((what, message.strip_prefix(prefix)?)))?;
    let name = rest.split('`').next()?;
    let is_name = (1..=24).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
    is_name.then(|| format!("{what} `{name}`"))
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

/// What the API is, as OpenAPI 3.1.
const OPENAPI: &str = include_str!("admin/openapi.json");

async fn openapi() -> Response {
    ([("content-type", "application/json")], OPENAPI).into_response()
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
    let path = decide::Path::new(path).map_err(|_| bad(format!("`path` {}", decide::BadPath::WHY)))?;
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
    let names = s.decider.fingerprints(&read_token(&r.token)?);
    let shown =
        |n: &Named| json!({"fingerprint": n.fingerprint.to_string(), "key_id": format!("{:08x}", n.key_id)});
    let mut told = shown(&names.first);
    if let Some(other) = &names.other {
        told["other"] = shown(other);
    }
    Ok(Json(told).into_response())
}

async fn reload(State(s): State<AdminState>, by: Caller) -> Result<Response, ApiError> {
    let (reply, answer) = tokio::sync::oneshot::channel();
    let stopping = || ApiError(StatusCode::SERVICE_UNAVAILABLE, "busy", "the daemon is stopping".to_owned());
    s.reload.send(reply).await.map_err(|_| stopping())?;
    match answer.await.map_err(|_| stopping())? {
        Ok(generation) => {
            s.noted(&by, "reload", json!({"generation": generation})).await;
            Ok(Json(json!({"generation": generation})).into_response())
        }
        Err(message) => Err(ApiError(StatusCode::UNPROCESSABLE_ENTITY, "policy_refused", message)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_names_every_route_and_no_other() {
        let document: Value = serde_json::from_str(OPENAPI).unwrap();
        let written: Vec<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, methods)| {
                methods.as_object().unwrap().keys().map(move |m| format!("{m} {path}"))
            })
            .collect();
        // As they stand in `routes` above: a router does not tell its own.
        let mut served = Vec::new();
        for line in include_str!("admin.rs").lines().filter_map(|l| l.trim().strip_prefix(".route(\"")) {
            let (path, methods) = line.split_once('"').unwrap();
            for method in ["get", "post", "delete", "put", "patch"] {
                if methods.contains(&format!(" {method}(")) || methods.contains(&format!(".{method}(")) {
                    served.push(format!("{method} {path}"));
                }
            }
        }
        let sorted = |mut all: Vec<String>| {
            all.sort();
            all
        };
        assert!(served.len() > 20, "{served:?}");
        assert_eq!(sorted(served), sorted(written));
    }

    #[test]
    fn who_imports_is_told_beside_who_ordered_however_often_and_is_never_cut() {
        let root = Caller("uid:0".into(), None);
        assert_eq!(root.importing("ceo", 1000), "ceo (imported by uid:0)");
        let odd = Caller::remote("sub:a) (imported by uid:0", [10, 0, 0, 1].into());
        let forged = odd.importing("ceo (imported by uid:0)", 1000);
        assert_eq!(forged, "ceo (imported by sub:a] [imported by uid:0@10.0.0.1)");
        assert_eq!(root.importing(&forged, 1000), "ceo (imported by uid:0)", "it does not grow");
        let named = "pager (sub:a iss:b@10.0.0.1)";
        assert_eq!(root.importing(named, 1000), format!("{named} (imported by uid:0)"));
        let long = root.importing(&"ö".repeat(600), 1000);
        assert!((998..=1000).contains(&long.len()) && long.ends_with("ö (imported by uid:0)"), "{long}");
        assert_eq!(root.importing(&long, 1000), long);
        let wide = Caller::remote(&"x".repeat(900), [10, 0, 0, 1].into());
        assert!(wide.importing(&long, 1000).ends_with(&format!("{}@10.0.0.1)", "x".repeat(300))));
    }

    #[test]
    fn a_members_name_is_said_where_it_can_be_nothing_else() {
        let said = |text: &'static str| match parse::<DecideRequest>(&Bytes::from(text)) {
            Ok(_) => panic!("{text}"),
            Err(ApiError(_, _, message)) => message,
        };
        assert!(said(r#"{"method": "GET", "path": "/", "issuer": "i"}"#).contains("unknown member `issuer`"));
        assert!(said(r#"{"method": "GET"}"#).contains("no member `path`"));
        // What could be a token is never repeated.
        for odd in [r#"{"eyJhbGciOi": 1}"#, r#"{"method": "s3cret", "path": 1}"#, "{\"method\": s3cret}"] {
            let message = said(odd);
            assert!(!message.contains("eyJ") && !message.contains("s3cret"), "{message}");
        }
    }
}
