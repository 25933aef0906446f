//! The transmitter's API: its metadata, and its stream made, read, changed, verified and deleted (SSF 1.0 §7, §8).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{Method, StatusCode};
use serde_json::{Map, Value, json};
use tokio::task::JoinSet;

use super::{
    Delivery, StreamOrder, Transmitter,
    metadata::{self, Metadata},
};
use crate::fetch::{Answer, Bounds, Request, Url};

/// Longest answer of the API.
const MAX_BODY: usize = 1 << 20;
/// First and longest wait after a failure.
const RETRY: (Duration, Duration) = (Duration::from_millis(500), Duration::from_mins(1));
/// How often a stream is looked at.
const LOOK: Duration = Duration::from_mins(10);
/// How long a verification event is awaited.
const VERIFICATION: Duration = Duration::from_secs(30);
/// Verifications that may be under way at once.
const PENDING: usize = 16;

/// A stream, ready for events.
pub(super) struct Ready {
    /// Where events are fetched.
    pub poll: Option<Url>,
}

impl Transmitter {
    /// Follows it until dropped: keys, stream, and events where they are fetched.
    pub async fn keep(self: Arc<Self>) {
        let (mut keys, mut failures) = (JoinSet::new(), 0_u32);
        let mut read_from = None;
        loop {
            let done = self.prepare(&mut read_from, &mut keys).await;
            let failed = match done {
                Ok(ready) => {
                    self.note(None);
                    let begun = Instant::now();
                    let failed = self.follow(ready).await.err();
                    // One whose API answers and whose events do not come is left alone for longer and longer, too.
                    if failed.is_none() || begun.elapsed() > RETRY.1 {
                        failures = 0;
                    }
                    failed
                }
                Err(why) => Some(why),
            };
            let wait = match failed {
                None => Duration::ZERO,
                Some(why) => {
                    self.note(Some(why));
                    let doubled = RETRY.0.saturating_mul(1 << failures.min(10));
                    failures += 1;
                    doubled.min(RETRY.1)
                }
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wake.notified() => {}
            }
        }
    }

    /// Takes events until the stream is to be looked at again. An error is one of the transmitter's.
    async fn follow(&self, ready: Ready) -> Result<(), String> {
        let until = tokio::time::sleep(LOOK);
        let polled = async {
            match (ready.poll, &self.settings.delivery) {
                (Some(url), Delivery::Poll { hold, interval, max_events, .. }) => {
                    self.poll(&url, *hold, *interval, *max_events).await
                }
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = until => Ok(()),
            () = self.wake.notified() => Ok(()),
            failed = polled => failed,
        }
    }

    /// Says once for each cause what is wrong.
    fn note(&self, error: Option<String>) {
        let mut state = self.state.lock();
        if let Some(why) = error.as_ref().filter(|why| state.status.error.as_ref() != Some(why)) {
            tracing::warn!(
                transmitter = self.name(),
                reason = why,
                "the transmitter of security events cannot be followed; it is tried again"
            );
        }
        state.status.ready = error.is_none();
        if error.is_none() {
            state.status.last_answer = Some(self.clock.wall().seconds());
        }
        self.metrics.standards.ssf_ready(self.name(), error.is_none());
        state.status.error = error;
    }

    /// Brings keys and stream up to date.
    async fn prepare(&self, read_from: &mut Option<String>, keys: &mut JoinSet<()>) -> Result<Ready, String> {
        let metadata = if self.settings.manage { Some(self.metadata().await?) } else { None };
        let url = metadata.as_ref().and_then(|m| m.keys.clone());
        let from = url.as_ref().map(Url::whole).unwrap_or_default();
        if read_from.as_ref() != Some(&from) {
            let signers = self.signers_from(url.as_ref())?;
            keys.abort_all();
            keys.spawn(signers.keep());
            *read_from = Some(from);
        }
        let configured = match &self.settings.delivery {
            Delivery::Poll { url, .. } => url.clone(),
            Delivery::Push { .. } => None,
        };
        let (Some(metadata), false) = (metadata, self.state.lock().deleted) else {
            return Ok(Ready { poll: configured });
        };
        self.state.lock().critical.clone_from(&metadata.critical);
        let stream = self.stream(&metadata).await?;
        let poll = match (&self.settings.delivery, configured) {
            (Delivery::Push { .. }, _) => None,
            (_, Some(url)) => Some(url),
            _ => Some(self.poll_address(&stream)?),
        };
        self.read_status(&metadata).await?;
        if self.state.lock().status.last_verified.is_none() && metadata.verification.is_some() {
            // Nobody waits: the event comes by the stream's own way. One that cannot be asked for now is no reason to
            // take no events.
            if let Err(why) = self.ask_verification(&metadata).await {
                tracing::warn!(
                    transmitter = self.name(),
                    reason = why,
                    "the stream of security events cannot be verified now"
                );
            }
        }
        Ok(Ready { poll })
    }

    fn poll_address(&self, stream: &Map<String, Value>) -> Result<Url, String> {
        let url = stream.get("delivery").and_then(|d| d.get("endpoint_url")).and_then(Value::as_str);
        let url: Url = url
            .ok_or("the stream's configuration has no `delivery.endpoint_url`")?
            .parse()
            .map_err(|e| format!("of the stream's `delivery.endpoint_url`, {e}"))?;
        if self.may_be_asked(&url) {
            Ok(url)
        } else {
            Err(format!("the stream's events are on another host, `{}`: name that in `hosts`", url.host()))
        }
    }

    /// Whether an address may be sent the token: it is on the issuer's own host and port, or on one that is configured.
    pub(super) fn may_be_asked(&self, url: &Url) -> bool {
        let own: Option<Url> = self.settings.issuer.parse().ok();
        let same = own.is_some_and(|own| {
            own.host() == url.host() && own.port() == url.port() && own.is_tls() == url.is_tls()
        });
        let named = format!("{}:{}", url.host(), url.port());
        same || self.settings.hosts.iter().any(|h| *h == named || (*h == url.host() && url.is_tls()))
    }

    async fn metadata(&self) -> Result<Metadata, String> {
        let url = metadata::address(&self.settings.issuer).map_err(|e| e.to_string())?;
        let answer = self.send(Request::get(url)).await?.success().map_err(|e| e.to_string())?;
        let metadata = Metadata::read(&object(&answer)?, &self.settings.issuer, |url| self.may_be_asked(url))
            .map_err(|why| format!("the transmitter's metadata at `{}` are refused: {why}", answer.url))?;
        let method = self.settings.delivery.method();
        if metadata.methods.as_ref().is_some_and(|all| !all.iter().any(|m| m == method)) {
            return Err(format!(
                "the transmitter does not deliver by `{method}`: configure the other `delivery`"
            ));
        }
        Ok(metadata)
    }

    /// The stream's configuration: read, changed where it does not ask for what is wanted, or made.
    async fn stream(&self, metadata: &Metadata) -> Result<Map<String, Value>, String> {
        let endpoint = metadata
            .configuration
            .as_ref()
            .ok_or("the transmitter's metadata have no `configuration_endpoint`")?;
        let stream = match self.find(endpoint).await? {
            Some(stream) => self.updated_stream(endpoint, stream).await?,
            None if self.settings.stream.is_some() => {
                return Err("the transmitter knows no stream of the configured id".to_owned());
            }
            None => self.create(endpoint).await?,
        };
        self.check(&stream)?;
        Ok(stream)
    }

    async fn find(&self, endpoint: &Url) -> Result<Option<Map<String, Value>>, String> {
        let url = match &self.settings.stream {
            Some(id) => with_stream(endpoint, id)?,
            None => endpoint.clone(),
        };
        let answer = self.send(self.signed(Request::get(url)).await?).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let answer = answer.success().map_err(|e| e.to_string())?;
        let found: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| format!("the streams that `{}` tells are not JSON", answer.url))?;
        let all = match found {
            Value::Array(all) => all,
            one => vec![one],
        };
        let ours = |stream: &Map<String, Value>| {
            let delivery = stream.get("delivery");
            let text = |name: &str| delivery.and_then(|d| d.get(name)).and_then(Value::as_str);
            let is_method = text("method") == Some(self.settings.delivery.method());
            match &self.settings.delivery {
                Delivery::Push { url: Some(url), .. } => is_method && text("endpoint_url") == Some(url),
                _ => is_method,
            }
        };
        Ok(all.into_iter().filter_map(as_object).find(ours))
    }

    /// How events are to come.
    fn delivery(&self) -> Result<Value, String> {
        let mut delivery = json!({"method": self.settings.delivery.method()});
        if let Delivery::Push { url, secret } = &self.settings.delivery {
            let url =
                url.as_ref().ok_or("`push_url` must be given: the address that the transmitter is told")?;
            delivery["endpoint_url"] = url.as_str().into();
            delivery["authorization_header"] = format!("Bearer {}", &*secret.0).into();
        }
        Ok(delivery)
    }

    async fn create(&self, endpoint: &Url) -> Result<Map<String, Value>, String> {
        let delivery = self.delivery()?;
        let wanted = json!({
            "delivery": delivery, "events_requested": self.wanted(),
            "description": format!("Portcullis: {}", self.name()),
        });
        let request = self.signed(Request::new(Method::POST, endpoint.clone())).await?;
        let answer = self.send(request.body("application/json", sent(&wanted))).await?;
        let stream = object(&answer.success().map_err(|e| e.to_string())?)?;
        tracing::info!(transmitter = self.name(), "a stream of security events was made");
        Ok(stream)
    }

    /// Asks for the events that are wanted, where the stream does not already. Where they are pushed it is told the secret
    /// anew, which may be another one than when the stream was made and which no transmitter tells.
    async fn updated_stream(
        &self,
        endpoint: &Url,
        stream: Map<String, Value>,
    ) -> Result<Map<String, Value>, String> {
        let requested = stream.get("events_requested").and_then(Value::as_array);
        let has = |name: &&str| requested.is_some_and(|all| all.iter().any(|e| e == name));
        let (complete, pushed) =
            (self.wanted().iter().all(has), matches!(self.settings.delivery, Delivery::Push { .. }));
        if self.settings.stream.is_some() || complete && !pushed {
            return Ok(stream);
        }
        let mut change = json!({"stream_id": stream.get("stream_id"), "events_requested": self.wanted()});
        if pushed {
            change["delivery"] = self.delivery()?;
        }
        let request = self.signed(Request::new(Method::PATCH, endpoint.clone())).await?;
        let answer = self.send(request.body("application/json", sent(&change))).await?;
        match answer.success() {
            Ok(answer) => object(&answer),
            Err(e) if complete => {
                tracing::warn!(transmitter = self.name(), error = %e, "the transmitter was not told the push secret anew: events are refused if it was changed; `portcullis ssf delete` and a restart make a new stream");
                Ok(stream)
            }
            Err(e) => Err(e.to_string()),
        }
    }

    fn check(&self, stream: &Map<String, Value>) -> Result<(), String> {
        let text = |name: &str| stream.get(name).and_then(Value::as_str);
        let id = text("stream_id").ok_or("the stream's configuration has no `stream_id`")?;
        if text("iss") != Some(&self.settings.issuer) {
            return Err("the stream's `iss` is not the transmitter's".to_owned());
        }
        let audience: Vec<String> = match stream.get("aud") {
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(all)) => all.iter().filter_map(|a| a.as_str().map(str::to_owned)).collect(),
            _ => Vec::new(),
        };
        let mut state = self.state.lock();
        state.status.stream = Some(id.to_owned());
        if self.settings.audience.is_empty() {
            state.audience = audience;
        } else if !audience.is_empty() && !audience.iter().any(|a| self.settings.audience.contains(a)) {
            return Err(
                "the stream's `aud` is none of the configured `audience`: its events would be refused"
                    .to_owned(),
            );
        }
        let delivered = stream.get("events_delivered").and_then(Value::as_array);
        if let Some(delivered) = delivered {
            let missing: Vec<&str> =
                self.wanted().into_iter().filter(|w| !delivered.iter().any(|e| e == w)).collect();
            tracing::debug!(
                transmitter = self.name(),
                missing = missing.join(" "),
                "events that the transmitter does not deliver"
            );
        }
        Ok(())
    }

    async fn read_status(&self, metadata: &Metadata) -> Result<(), String> {
        let (Some(url), Some(id)) = (&metadata.status, self.state.lock().status.stream.clone()) else {
            return Ok(());
        };
        let answer = self.send(self.signed(Request::get(with_stream(url, &id)?)).await?).await?;
        let told = object(&answer.success().map_err(|e| e.to_string())?)?;
        let text = |name: &str| told.get(name).and_then(Value::as_str).map(str::to_owned);
        let mut state = self.state.lock();
        state.status.stream_status = text("status");
        state.status.stream_reason = text("reason");
        if state.status.stream_status.as_deref() != Some("enabled") {
            tracing::warn!(
                transmitter = self.name(),
                status = text("status"),
                "the stream of security events is not enabled: `portcullis ssf enable` asks for that"
            );
        }
        Ok(())
    }

    async fn ask_verification(&self, metadata: &Metadata) -> Result<(), String> {
        let url = metadata.verification.as_ref().ok_or("the transmitter has no `verification_endpoint`")?;
        let mut random = [0; 24];
        aws_lc_rs::rand::fill(&mut random).map_err(|_| "the system gave no random bytes")?;
        let text = crate::hex::encode(&random);
        let stream = {
            let mut state = self.state.lock();
            if state.pending.len() >= PENDING {
                state.pending.pop_front();
            }
            state.pending.push_back(text.clone());
            state.status.stream.clone()
        };
        let body = sent(&json!({"stream_id": stream, "state": text}));
        let request =
            self.signed(Request::new(Method::POST, url.clone())).await?.body("application/json", body);
        self.send(request).await?.success().map_err(|e| e.to_string()).map(drop)
    }

    /// Does what somebody orders.
    pub(super) async fn manage(&self, order: StreamOrder) -> Result<(), String> {
        if !self.settings.manage {
            return Err("its stream is not managed here (`manage = false`)".to_owned());
        }
        let metadata = self.metadata().await?;
        let id = self.state.lock().status.stream.clone().ok_or("it has no stream yet")?;
        match order {
            StreamOrder::Verify => {
                let came = self.verified.notified();
                self.ask_verification(&metadata).await?;
                tokio::time::timeout(VERIFICATION, came).await.map_err(|_| {
                    format!("no verification event came within {}", humantime::format_duration(VERIFICATION))
                })
            }
            StreamOrder::Enable => self.set_status(&metadata, &id, "enabled").await,
            StreamOrder::Pause => self.set_status(&metadata, &id, "paused").await,
            StreamOrder::Disable => self.set_status(&metadata, &id, "disabled").await,
            StreamOrder::Delete => {
                let url = metadata
                    .configuration
                    .as_ref()
                    .ok_or("the transmitter has no `configuration_endpoint`")?;
                let request = self.signed(Request::new(Method::DELETE, with_stream(url, &id)?)).await?;
                self.send(request).await?.success().map_err(|e| e.to_string())?;
                let mut state = self.state.lock();
                state.deleted = true;
                (state.status.stream, state.status.stream_status) = (None, None);
                Ok(())
            }
        }
    }

    async fn set_status(&self, metadata: &Metadata, id: &str, status: &str) -> Result<(), String> {
        let url = metadata.status.as_ref().ok_or("the transmitter has no `status_endpoint`")?;
        let body = sent(&json!({"stream_id": id, "status": status}));
        let request =
            self.signed(Request::new(Method::POST, url.clone())).await?.body("application/json", body);
        self.send(request).await?.success().map_err(|e| e.to_string())?;
        self.state.lock().status.stream_status = Some(status.to_owned());
        Ok(())
    }

    async fn send(&self, request: Request) -> Result<Answer, String> {
        let bounds = Bounds { deadline: self.settings.timeout, max_body: MAX_BODY };
        let answer = self.client.send(request, bounds).await.map_err(|e| e.to_string())?;
        if answer.status == StatusCode::UNAUTHORIZED {
            self.forget_token().await;
        }
        Ok(answer)
    }
}

fn sent(value: &Value) -> Bytes {
    value.to_string().into()
}

fn as_object(value: Value) -> Option<Map<String, Value>> {
    if let Value::Object(members) = value { Some(members) } else { None }
}

fn object(answer: &Answer) -> Result<Map<String, Value>, String> {
    serde_json::from_slice(&answer.body)
        .map_err(|_| format!("the answer of `{}` is not a JSON object", answer.url))
}

/// An address with `stream_id` in its query.
fn with_stream(url: &Url, id: &str) -> Result<Url, String> {
    let mut query = String::new();
    for byte in id.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            query.push(byte.into());
        } else {
            query.push('%');
            query.push_str(&crate::hex::encode(&[byte]));
        }
    }
    let whole = url.whole();
    let joint = if whole.contains('?') { '&' } else { '?' };
    format!("{whole}{joint}stream_id={query}").parse().map_err(|e| format!("the stream's id: {e}"))
}
