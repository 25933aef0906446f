//! What standards define, on listeners of their own: revocation (RFC 7009), introspection (RFC 7662) and security events
//! that are pushed (RFC 8935).
//!
//! Guarantees: nothing is answered to whom it does not concern, secrets are compared in constant time as hashes, and an
//! order is acknowledged when it is durable and in force, and has come as far in the fleet as `fleet.acknowledge` says. Leaves to others: what a token is (`token`), how it is revoked
//! (`decide`, `revoke`).

mod client;
mod form;
mod introspect;
mod list;
mod push;
mod revoke;

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use serde_json::json;
use tokio_util::sync::CancellationToken;

pub use self::client::{ClientSettings, Clients, Revokes};
use super::{
    contained::contained,
    doors::{Answer, json, plain, read_body},
    listen::{Connections, Front, Listener},
    peer::Peer,
};
use crate::{
    clock::SharedClock,
    decide::Decider,
    revoke::{Refusals, feed::Feed},
    ssf::Receiver,
    telemetry::Metrics,
    token::{ApiKeys, Publisher},
};
use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};

/// Longest form: a token and what goes with it.
const MAX_FORM: usize = 80 * 1024;

/// Clients and the tokens that they revoked lately.
pub type Lately = moka::sync::Cache<(String, DenyFingerprint), ()>;

/// What the standards' endpoints share.
pub struct Standards {
    /// Knows and revokes tokens.
    pub decider: Arc<Decider>,
    /// API keys, where there are any.
    pub api_keys: Option<Arc<ApiKeys>>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Who may ask.
    pub clients: Clients,
    /// The time.
    pub clock: SharedClock,
    /// Lifetime of a revocation of a token without `exp`.
    pub default_ttl: Duration,
    /// Takes security events.
    pub ssf: Receiver,
    /// Publishes the status list of API keys, where that is configured.
    pub publisher: Option<Publisher>,
    /// What clients revoked lately, so that saying it again makes no further claim.
    pub lately: Lately,
    /// Notes what is refused.
    pub refusals: Refusals,
    /// Other hosts, where there are any.
    pub fleet: Option<Arc<Feed>>,
}

/// Why a request is refused, in the words of RFC 6749 §5.2.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    /// It is not what the standard says; how.
    Request(&'static str),
    /// Nobody that is known, or not by the right secret.
    Client,
    /// The client may not do this.
    Unauthorized(&'static str),
    /// The token is another client's.
    Foreign,
    /// Tokens of this type cannot be revoked here.
    TokenType,
    /// Not now.
    Unavailable(&'static str),
}

impl Fault {
    /// How metrics name it.
    const fn label(self) -> &'static str {
        match self {
            Self::Request(_) => "invalid_request",
            Self::Client => "invalid_client",
            Self::Unauthorized(_) => "unauthorized_client",
            Self::Foreign => "foreign_token",
            Self::TokenType => "unsupported_token_type",
            Self::Unavailable(_) => "unavailable",
        }
    }

    fn answer(self) -> Answer {
        let (status, error, description) = match self {
            Self::Request(why) => (StatusCode::BAD_REQUEST, "invalid_request", why),
            Self::Client => {
                (StatusCode::UNAUTHORIZED, "invalid_client", "the client is not known by these credentials")
            }
            Self::Unauthorized(why) => (StatusCode::BAD_REQUEST, "unauthorized_client", why),
            Self::Foreign => {
                (StatusCode::BAD_REQUEST, "invalid_grant", "the token was issued to another client")
            }
            Self::TokenType => (
                StatusCode::BAD_REQUEST,
                "unsupported_token_type",
                "refresh tokens are revoked by their issuer",
            ),
            Self::Unavailable(why) => (StatusCode::SERVICE_UNAVAILABLE, "temporarily_unavailable", why),
        };
        let body = json!({"error": error, "error_description": description}).to_string();
        let mut answer = json(status, body.into());
        let mut add = |name: HeaderName, value| {
            answer.headers_mut().insert(name, HeaderValue::from_static(value));
        };
        match self {
            Self::Client => add(header::WWW_AUTHENTICATE, "Basic realm=\"portcullis\", charset=\"UTF-8\""),
            Self::Unavailable(_) => add(header::RETRY_AFTER, "1"),
            _ => {}
        }
        answer
    }
}

impl Front for Standards {
    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    fn gateways(&self) -> &[(IpAddr, u8)] {
        &[]
    }

    async fn route(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let answered = contained(std::pin::pin!(self.answer(request, peer))).await;
        let mut answer =
            answered.unwrap_or_else(|_| Fault::Unavailable("the request could not be answered").answer());
        // Nobody on the way keeps what is said of tokens (RFC 7662 §4).
        let headers = answer.headers_mut();
        headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        answer
    }
}

impl Standards {
    /// Serves connections until `stop`, then lets those in progress finish.
    pub async fn serve(self: Arc<Self>, listener: Listener, stop: CancellationToken) {
        Connections(self).serve(listener, stop).await;
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        let (endpoint, done) = match request.uri().path() {
            "/oauth2/revoke" if request.method() == Method::POST => {
                ("revoke", self.revoke(request, peer).await)
            }
            "/oauth2/introspect" if request.method() == Method::POST => {
                ("introspect", self.introspect(request, peer).await)
            }
            "/oauth2/revoke" | "/oauth2/introspect" => return only("POST"),
            list::LIST | list::KEYS if self.publisher.is_some() => return self.list(&request),
            path => match path.strip_prefix(push::PATH).map(|name| self.ssf.get(name).cloned()) {
                Some(Some(_)) if request.method() != Method::POST => return only("POST"),
                Some(Some(transmitter)) => return push::take(&transmitter, request).await,
                _ => return plain(StatusCode::NOT_FOUND),
            },
        };
        self.metrics.standards.oauth(endpoint, done.as_ref().map_or_else(|f| f.label(), |(label, _)| *label));
        done.map_or_else(Fault::answer, |(_, answer)| answer)
    }

    /// Reads a request's form and finds out who sent it.
    async fn asked(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<(form::Form, &client::Client), Fault> {
        if !self.decider.is_ready() {
            return Err(Fault::Unavailable("the daemon is not ready"));
        }
        if !form::is_form(request.headers()) {
            return Err(Fault::Request("the body must be application/x-www-form-urlencoded"));
        }
        let (head, body) = request.into_parts();
        let body = read_body(body, MAX_FORM).await.map_err(|reason| match reason {
            Reason::RequestTooLarge => Fault::Request("the body is too long"),
            _ => Fault::Request("the body did not come whole"),
        })?;
        let form = form::Form::read(&body)
            .ok_or(Fault::Request("the form is malformed or gives a parameter twice"))?;
        let client = self.clients.authenticate(&head.headers, &form, peer)?;
        if !client.may_ask_now() {
            return Err(Fault::Unavailable("too many requests"));
        }
        Ok((form, client))
    }
}

/// An answer to another method.
fn only(allowed: &'static str) -> Answer {
    let mut answer = Response::new(super::body::Whole::default());
    *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
    answer.headers_mut().insert(header::ALLOW, HeaderValue::from_static(allowed));
    answer
}
