//! RFC 7662: another server is asked what an opaque token is.
//!
//! Guarantees: a token's text goes to the configured server and nowhere else; `active` counts only as the boolean `true`;
//! whatever is not a whole, good answer within the deadline denies. Requests about one token at one time are one request;
//! a server that keeps failing is left alone for a while (a circuit breaker), and so are decisions about its tokens:
//! they are denied at once. An answer is kept for a bounded time, never beyond the token's `exp`.

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use moka::sync::Cache;
use portcullis_common::reason::Reason;
use serde::Serialize;
use serde_json::Value;
use tokio::sync::{OnceCell, Semaphore};

use super::{
    FingerprintKey, Identity, Judgement, Token, Verified, claims,
    issuer::seconds,
    json,
    vouch::{Vouched, Voucher},
};
use crate::fetch::{Answer, Bounds, Client, FetchError, Request, Secret, Settings, Url};

/// Longest answer.
const MAX_BODY: usize = 64 * 1024;
/// Requests under way at once; a token behind that is denied, not queued.
const AT_ONCE: usize = 64;
/// Separates names of tokens here from all others under the fingerprint key.
const DOMAIN: u64 = 0x696e_7472_6f73_7063;

/// How a server is asked.
#[derive(Clone, Debug)]
pub struct IntrospectionSettings {
    /// Its address.
    pub url: Url,
    /// `iss` of its tokens: what it says otherwise is refused.
    pub issuer: Arc<str>,
    /// Accepted `aud` values; empty accepts any.
    pub audience: Vec<String>,
    /// How this daemon tells who it is.
    pub credential: Credential,
    /// The authorities that it is believed from; the system's where none is given.
    pub ca_file: Option<PathBuf>,
    /// Whether plain `http` may be spoken to another host.
    pub plain_http: bool,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Longest time that a good answer is kept.
    pub ttl: Duration,
    /// How long it is kept that a token is not active.
    pub negative_ttl: Duration,
    /// Answers kept.
    pub entries: u64,
    /// Failures in a row after which the server is left alone.
    pub failures: u32,
    /// For how long.
    pub pause: Duration,
    /// Clock skew borne.
    pub leeway: Duration,
    /// Whether a token must be bound to its sender.
    pub require_bound: bool,
}

/// Who asks.
#[derive(Clone, Debug)]
pub enum Credential {
    /// Nobody: the server knows by other means.
    None,
    /// An OAuth client, by HTTP Basic.
    Client(String, Secret),
    /// The bearer of a token.
    Bearer(Secret),
}

/// Counts and state, for people and metrics.
#[derive(Clone, Debug, Serialize)]
pub struct IntrospectionStatus {
    /// The server.
    pub url: String,
    /// Tokens that it called active.
    pub active: u64,
    /// Tokens that it called inactive.
    pub inactive: u64,
    /// Requests without a good answer.
    pub failed: u64,
    /// Tokens denied unasked, because it was being left alone or too many requests were under way.
    pub unasked: u64,
    /// Tokens whose answer was at hand.
    pub kept: u64,
    /// Whether it is being left alone.
    pub paused: bool,
}

/// What is known of a token, and until when, in Unix seconds.
#[derive(Clone, Debug)]
struct Known {
    /// With its claims as JSON.
    status: Result<(Identity, Box<str>), Reason>,
    until: i64,
}

#[derive(Debug, Default)]
struct Breaker {
    failures: u32,
    open_until: Option<Instant>,
}

#[derive(Debug, Default)]
struct Counts {
    active: AtomicU64,
    inactive: AtomicU64,
    failed: AtomicU64,
    unasked: AtomicU64,
    kept: AtomicU64,
}

/// Asks one server.
pub struct Introspector {
    settings: IntrospectionSettings,
    client: Client,
    names: Arc<FingerprintKey>,
    answers: Cache<[u64; 2], Arc<OnceCell<Known>>>,
    voucher: Arc<Voucher>,
    breaker: Mutex<Breaker>,
    slots: Semaphore,
    counts: Counts,
}

impl Introspector {
    /// Makes one; nothing is asked yet.
    pub fn new(settings: IntrospectionSettings, names: Arc<FingerprintKey>) -> Result<Self, FetchError> {
        let client = Client::new(&Settings {
            ca_file: settings.ca_file.clone(),
            plain_http: settings.plain_http,
            public_only: false,
            connect: settings.timeout,
        })?;
        Ok(Self {
            answers: Cache::new(settings.entries),
            settings,
            client,
            names,
            voucher: Voucher::new(i64::MAX),
            breaker: Mutex::default(),
            slots: Semaphore::new(AT_ONCE),
            counts: Counts::default(),
        })
    }

    /// What a token is. Nothing but requests about this very token waits for it.
    pub(super) async fn judge(&self, token: &Token, now: impl Fn() -> i64) -> Judgement {
        let name = self.names.digest(DOMAIN, token.as_bytes());
        let cell = self.answers.get_with(name, Arc::default);
        let was_known = cell.get().is_some();
        let known = cell.get_or_init(|| self.ask(token, now())).await.clone();
        let (known, fresh) = if now() < known.until || !was_known {
            (known, !was_known)
        } else {
            // Its time is over. The first of those who find it so puts an empty one in its place; they all ask by that.
            let renewed = self.answers.entry(name).and_upsert_with(|held| match held {
                Some(held) if !Arc::ptr_eq(held.value(), &cell) => held.into_value(),
                _ => Arc::default(),
            });
            let cell = renewed.into_value();
            (cell.get_or_init(|| self.ask(token, now())).await.clone(), true)
        };
        if !fresh {
            self.counts.kept.fetch_add(1, Ordering::Relaxed);
        }
        let mut vouched = Vouched::by(&self.voucher);
        vouched.until = known.until;
        // What was written as JSON is read as such.
        let status = known.status.map(|(identity, claims)| {
            let claims = json::object(claims.as_bytes()).unwrap_or_default();
            Verified { identity, claims }
        });
        Judgement { status, vouched: Some(vouched) }
    }

    async fn ask(&self, token: &Token, now: i64) -> Known {
        let failed = Known { status: Err(Reason::IntrospectionFailed), until: now };
        let slot = self.slots.try_acquire();
        if slot.is_err() || !self.may_ask() {
            self.counts.unasked.fetch_add(1, Ordering::Relaxed);
            return failed;
        }
        let asked = self.send(token).await.map_err(|e| e.to_string());
        match asked.and_then(|answer| read(&answer)) {
            Ok(claims) => {
                self.note(true);
                self.judged(&claims, now)
            }
            Err(why) => {
                self.counts.failed.fetch_add(1, Ordering::Relaxed);
                if self.note(false) {
                    let url = self.settings.url.to_string();
                    tracing::warn!(
                        url,
                        reason = why,
                        "the introspection server is left alone for a while; its tokens are denied"
                    );
                }
                failed
            }
        }
    }

    async fn send(&self, token: &Token) -> Result<Answer, FetchError> {
        let IntrospectionSettings { url, timeout, credential, .. } = &self.settings;
        let fields = [("token", token.as_str()), ("token_type_hint", "access_token")];
        let request = Request::form(url.clone(), &fields).header(http::header::ACCEPT, "application/json");
        let request = match credential {
            Credential::None => request,
            Credential::Client(id, secret) => request.oauth_client(id, secret),
            Credential::Bearer(token) => request.bearer(token),
        };
        let bounds = Bounds { deadline: *timeout, max_body: MAX_BODY };
        self.client.send(request, bounds).await?.success()
    }

    /// Judges what the server says of a token.
    fn judged(&self, told: &serde_json::Map<String, Value>, now: i64) -> Known {
        // Not `"true"`, not `1`: RFC 7662 §2.2 has a boolean.
        if told.get("active") != Some(&Value::Bool(true)) {
            self.counts.inactive.fetch_add(1, Ordering::Relaxed);
            let until = now.saturating_add(seconds(self.settings.negative_ttl));
            return Known { status: Err(Reason::TokenInactive), until };
        }
        self.counts.active.fetch_add(1, Ordering::Relaxed);
        let mut until = now.saturating_add(seconds(self.settings.ttl));
        let foreign = told.get("iss").is_some_and(|iss| iss.as_str() != Some(&*self.settings.issuer));
        let expect = claims::Expect {
            audience: &self.settings.audience,
            leeway: seconds(self.settings.leeway),
            now,
            max_age: None,
            required: &[],
            needs_expiry: false,
            require_bound: self.settings.require_bound,
        };
        let about = claims::About { issuer: &self.settings.issuer, algorithm: "introspection", key_id: None };
        let status = if foreign {
            Err(Reason::IssuerUnknown)
        } else {
            let checked = claims::check(told, about, &expect);
            // As a text: a tree of them takes four times the room.
            checked.map(|(identity, _)| (identity, serde_json::to_string(told).unwrap_or_default().into()))
        };
        if let Ok((Identity { expires_at: Some(exp), .. }, _)) = &status {
            until = until.min(*exp);
        }
        Known { status, until }
    }

    /// Whether the server may be asked: after a pause by one request alone, until that is answered well.
    fn may_ask(&self) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        match breaker.open_until {
            Some(until) if Instant::now() < until => false,
            Some(_) => {
                breaker.open_until = Some(Instant::now() + self.settings.pause);
                true
            }
            None => true,
        }
    }

    /// Notes how a request ended. Whether the server begins to be left alone.
    fn note(&self, good: bool) -> bool {
        let mut breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        if good {
            *breaker = Breaker::default();
            return false;
        }
        breaker.failures = breaker.failures.saturating_add(1);
        let begins = breaker.failures == self.settings.failures;
        if breaker.failures >= self.settings.failures {
            breaker.open_until = Some(Instant::now() + self.settings.pause);
        }
        begins
    }

    /// How it stands.
    pub fn status(&self) -> IntrospectionStatus {
        let n = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let breaker = self.breaker.lock().unwrap_or_else(PoisonError::into_inner);
        IntrospectionStatus {
            url: self.settings.url.to_string(),
            active: n(&self.counts.active),
            inactive: n(&self.counts.inactive),
            failed: n(&self.counts.failed),
            unasked: n(&self.counts.unasked),
            kept: n(&self.counts.kept),
            paused: breaker.open_until.is_some_and(|until| Instant::now() < until),
        }
    }
}

/// An answer's members: one JSON object that is said to be one.
fn read(answer: &Answer) -> Result<serde_json::Map<String, Value>, String> {
    let kind = answer.content_type();
    if kind != "application/json" {
        return Err(format!("`{}` answered with something other than application/json", answer.url));
    }
    json::object(&answer.body).ok_or_else(|| {
        format!("the answer of `{}` is not a JSON object without repeated members", answer.url)
    })
}

#[cfg(test)]
mod tests;
