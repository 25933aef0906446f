//! The front doors: which path leads to which, and what they share.

use std::{future::poll_fn, net::IpAddr, pin::pin, sync::Arc, task::Poll, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;

use super::{
    authzen,
    body::Whole,
    contained::{Panicked, at_once, contained},
    denial::Dialect,
    ext_authz, forward,
    listen::Front,
    opa::{self, Documents},
    peer::Peer,
};
use crate::{
    decide::{self, Decider, FailOpen, Ruling},
    record::Asker,
    telemetry::{Door, Metrics},
    token::{Evidence, Extraction, Once, Presented},
    trace::Tracer,
};

/// Longest wait for a request's head or body.
pub(super) const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// How the front doors are set.
#[derive(Clone, Debug, Default)]
pub struct DoorSettings {
    /// Where the token sits in the data API's input.
    pub token_path: Vec<String>,
    /// The networks of gateways; everybody where none is named.
    pub gateways: Vec<(IpAddr, u8)>,
    /// Where the token sits in an AuthZEN evaluation.
    pub authzen_token: Vec<String>,
    /// Longest request body, in bytes.
    pub max_body: usize,
    /// The doors that let pass where no decision can be made.
    pub fail_open: Vec<(Door, FailOpen)>,
    /// Headers that policies may read.
    pub headers: Vec<String>,
    /// Where a request's token may stand.
    pub extraction: Extraction,
    /// The header in which gateways tell a client's certificate, in lower case.
    pub certificate_header: Option<String>,
    /// Path of the decision that `POST /` asks for.
    pub default_decision: String,
    /// What `/v1/config` shows.
    pub shown: serde_json::Value,
    /// Below which path Envoy's HTTP form is answered; empty where it is not.
    pub ext_authz_prefix: String,
    /// Whether checks of Envoy's carry the input of OPA's plugin too.
    pub envoy_input: bool,
}

/// What every connection shares.
pub struct Doors {
    /// Decides.
    pub decider: Arc<Decider>,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Settings.
    pub settings: DoorSettings,
    /// Takes policies and data, where that is configured.
    pub documents: Option<Documents>,
    /// Takes spans, where traces are sent.
    pub tracer: Option<Tracer>,
}

/// A response of the front doors.
pub(super) type Answer = Response<Whole>;

impl DoorSettings {
    /// What a request's headers prove of its token. `value` gives a header that stands there once.
    pub(super) fn evidence<'a>(&self, value: impl Fn(&str) -> Once<'a>) -> Evidence<'a> {
        let certificate = self.certificate_header.as_deref().map_or(Once::None, &value);
        let by_other_scheme =
            matches!(value("authorization"), Once::One(text) if self.extraction.is_other_scheme(text));
        Evidence { dpop: value("dpop"), certificate, by_other_scheme }
    }
}

impl Doors {
    /// Counts a decision, and traces it where the request's `traceparent` or chance says so.
    pub(super) fn decided(&self, door: Door, headers: Option<&HeaderMap>, reason: Reason, took: Duration) {
        self.metrics.decision(door, reason, took);
        if let Some(tracer) = &self.tracer {
            let parent = headers.and_then(|h| h.get("traceparent")?.to_str().ok());
            tracer.note(parent, door, (reason == Reason::Allowed, reason), took);
        }
    }

    /// What a ruling comes to at a door that fails open: a permit where there is no decision.
    pub(super) fn settle(&self, door: Door, ruling: Ruling) -> Ruling {
        let Ruling::Deny(refusal) = &ruling else { return ruling };
        let word = self.settings.fail_open.iter().find(|(d, _)| *d == door);
        match word.and_then(|(_, word)| refusal.fail_open(*word)) {
            Some(permit) => {
                self.metrics.fail_open(door);
                Ruling::Allow(permit)
            }
            None => ruling,
        }
    }

    /// Decides a request. After a panic it is still asked whether the token is revoked, for the door may fail open;
    /// where that cannot be answered either, nothing is known, and the caller must not let pass.
    pub(super) async fn request(
        &self,
        by: Asker<'_>,
        request: &decide::Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> Result<Ruling, Panicked> {
        match contained(pin!(self.decider.request(by, request, credential))).await {
            Ok(ruling) => Ok(ruling),
            Err(Panicked) => at_once(|| Ruling::Deny(self.decider.after_panic(credential))),
        }
    }

    /// [`Self::settle`], where something is known at all.
    pub(super) fn settle_known(&self, door: Door, ruling: Result<Ruling, Panicked>) -> Ruling {
        ruling.map_or(Ruling::deny(Reason::InternalError), |ruling| self.settle(door, ruling))
    }

    async fn answer(&self, request: Request<Incoming>, peer: &Peer) -> Answer {
        if ext_authz::is_grpc(&request) {
            return ext_authz::answer(self, request, peer).await;
        }
        match request.uri().path() {
            "/auth" => return forward::answer(self, &request, peer, Dialect::Nginx).await,
            "/forward-auth" => return forward::answer(self, &request, peer, Dialect::Plain).await,
            authzen::EVALUATION => return authzen::one(self, request, peer).await,
            authzen::EVALUATIONS => return authzen::many(self, request, peer).await,
            _ => {}
        }
        let request = match opa::answer(self, request, peer).await {
            Ok(answer) => return answer,
            Err(request) => request,
        };
        let (path, prefix) = (request.uri().path(), self.settings.ext_authz_prefix.as_str());
        match path.strip_prefix(prefix).filter(|rest| !prefix.is_empty() && rest.starts_with('/')) {
            Some(rest) => forward::envoy(self, &request, rest, peer).await,
            None => plain(StatusCode::NOT_FOUND),
        }
    }
}

impl Front for Doors {
    fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    fn gateways(&self) -> &[(IpAddr, u8)] {
        &self.settings.gateways
    }

    fn route(&self, request: Request<Incoming>, peer: &Peer) -> impl Future<Output = Answer> + Send {
        self.answer(request, peer)
    }
}

/// Reads a body whole.
pub(super) async fn read_body(body: Incoming, most: usize) -> Result<Bytes, Reason> {
    let mut read = pin!(Limited::new(body, most).collect());
    // Most bodies came with their head: only those that did not are waited for, and so need a timer.
    let read = match poll_fn(|cx| Poll::Ready(read.as_mut().poll(cx))).await {
        Poll::Ready(done) => Ok(done),
        Poll::Pending => tokio::time::timeout(READ_TIMEOUT, read).await,
    };
    match read {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(e)) if e.is::<LengthLimitError>() => Err(Reason::RequestTooLarge),
        _ => Err(Reason::RequestMalformed),
    }
}

/// A response without a body.
pub(super) fn plain(status: StatusCode) -> Answer {
    let mut answer = Response::new(Whole::default());
    *answer.status_mut() = status;
    answer
}

/// A JSON response.
pub(super) fn json(status: StatusCode, body: Bytes) -> Answer {
    let mut answer = Response::new(body.into());
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    answer
}
