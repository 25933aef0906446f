//! Servers that policies ask (`http.send`), within bounds.
//!
//! Guarantees: only hosts that the configuration names are asked, by `https`, at public addresses unless they are named
//! as hosts of one's own; redirects are not followed; a decision asks no more than so many times and waits no longer
//! than its budget, whatever servers do; no thread waits; what is kept of answers is bounded in bytes, and kept no
//! longer than the policy or the server says.
//!
//! Leaves to others: what a call means (`policy`), how it is sent (`fetch`), and how long a decision is kept.

mod kept;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::sync::Semaphore;

use self::kept::{Kept, lifetime};
use crate::{
    fetch::{Bounds, Client, FetchError, Request, Settings as FetchSettings, Url},
    policy::{Answered, Answers, Call, CallFault, CallOutcome, KeepAnswer, PolicyError, Progress},
    telemetry::Metrics,
};

/// Between a failure and the next try; doubled each time.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(2);

/// A host that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Its name or address, in lower case.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// What may be asked, and how much it may cost.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Hosts that are asked by `https`, at public addresses alone.
    pub hosts: Vec<Host>,
    /// Hosts of one's own: at any address, and at this host's by plain `http` too.
    pub private_hosts: Vec<Host>,
    /// The only authorities that are believed; the system's where none is given.
    pub ca_file: Option<std::path::PathBuf>,
    /// Longest time for one request.
    pub timeout: Duration,
    /// Longest time that a decision waits, for all its requests together.
    pub budget: Duration,
    /// Most requests of one decision.
    pub max_calls: usize,
    /// Longest answer.
    pub max_body: usize,
    /// Bytes of answers that are kept.
    pub cache_bytes: u64,
    /// Most requests under way at once.
    pub at_once: usize,
    /// Longest time for all evaluations of a decision together.
    pub evaluation: Duration,
}

/// Asks servers for policies.
pub struct Outside {
    settings: Settings,
    public: Client,
    own: Client,
    turns: Semaphore,
    kept: Kept,
    metrics: Arc<Metrics>,
}

impl Outside {
    /// Ready to ask.
    pub fn new(settings: Settings, metrics: Arc<Metrics>) -> Result<Self, FetchError> {
        let client = |public_only| {
            let connect = CONNECT.min(settings.timeout);
            let ca_file = settings.ca_file.clone();
            Client::new(&FetchSettings { ca_file, plain_http: false, public_only, connect })
        };
        let (public, own) = (client(true)?, client(false)?);
        let (turns, kept) = (Semaphore::new(settings.at_once), Kept::new(settings.cache_bytes));
        Ok(Self { settings, public, own, turns, kept, metrics })
    }

    /// Evaluates to the end: has what is asked for answered, and goes on.
    pub async fn evaluate<T>(
        &self,
        mut step: impl FnMut(&Answers) -> Result<Progress<T>, PolicyError>,
    ) -> Result<T, PolicyError> {
        let (mut answers, mut spent) = (Answers::default(), Duration::ZERO);
        let end = Instant::now() + self.settings.budget;
        loop {
            let begun = Instant::now();
            let question = match step(&answers)? {
                Progress::Done(value) => return Ok(value),
                Progress::Asks(question) => question,
            };
            spent += begun.elapsed();
            if spent > self.settings.evaluation {
                return Err(PolicyError::Timeout);
            }
            if answers.len() >= self.settings.max_calls {
                let most = self.settings.max_calls;
                return Err(PolicyError::Failed(format!("http.send: it asks more than {most} times")));
            }
            let outcome = self.ask(question.call(), end).await;
            answers.add(*question, outcome);
        }
    }

    /// The answer to one call, kept or fetched.
    async fn ask(&self, call: &Call, end: Instant) -> CallOutcome {
        let (url, client) = match self.allowed(&call.url) {
            Ok(allowed) => allowed,
            Err(why) => {
                self.metrics.policy_request("refused");
                return Err(CallFault::Internal(why));
            }
        };
        if call.keep == KeepAnswer::Not {
            return self.sent(call, url, client, end).await;
        }
        if let Some(answer) = self.kept.get(&call.name) {
            self.metrics.policy_request("cached");
            return Ok(answer);
        }
        // One asks, the others wait for its answer: a cache that runs out must not send all of them.
        let alone = self.kept.turn(call.name);
        let left = end.saturating_duration_since(Instant::now()).min(self.settings.timeout);
        let Ok(_turn) = tokio::time::timeout(left, alone.lock()).await else {
            self.metrics.policy_request("failed");
            return Err(CallFault::Network(format!("{} {url}: request timed out", call.method)));
        };
        if let Some(answer) = self.kept.get(&call.name) {
            self.metrics.policy_request("cached");
            return Ok(answer);
        }
        self.sent(call, url, client, end).await
    }

    /// The address, if it may be asked, and by which way.
    fn allowed(&self, text: &str) -> Result<(Url, &Client), String> {
        let url: Url = text.parse().map_err(|e: FetchError| e.to_string())?;
        let host = Host { name: url.host().to_ascii_lowercase(), port: url.port() };
        if self.settings.private_hosts.contains(&host) {
            return Ok((url, &self.own));
        }
        if !self.settings.hosts.contains(&host) {
            return Err(format!(
                "`{}` at port {} is not among `policy.http_send.hosts`: it is not asked",
                host.name, host.port
            ));
        }
        if !url.is_tls() {
            return Err(format!("`{}` is asked by `https` alone", host.name));
        }
        Ok((url, &self.public))
    }

    async fn sent(&self, call: &Call, url: Url, client: &Client, end: Instant) -> CallOutcome {
        // No queue: who has to wait for a turn would wait for servers that do not answer.
        let Ok(_turn) = self.turns.try_acquire() else {
            self.metrics.policy_request("refused");
            return Err(CallFault::Internal(format!(
                "{} requests of policies are under way already",
                self.settings.at_once
            )));
        };
        let most = call.timeout.unwrap_or(self.settings.timeout).min(self.settings.timeout);
        let end = end.min(Instant::now() + most);
        let mut pause = PAUSE;
        for attempt in 0.. {
            let deadline = end.saturating_duration_since(Instant::now());
            if deadline.is_zero() {
                break;
            }
            let mut request = Request::new(call.method.clone(), url.clone());
            for (name, value) in &call.headers {
                request = request.header(name.clone(), value.to_str().unwrap_or_default());
            }
            let request = request.with_body(call.body.clone());
            let failed =
                match client.send(request, Bounds { deadline, max_body: self.settings.max_body }).await {
                    Ok(answer) => {
                        self.metrics.policy_request("answered");
                        let lifetime = lifetime(call.keep, &answer);
                        let answer = Arc::new(taken(answer));
                        self.kept.put(call.name, &answer, lifetime);
                        return Ok(answer);
                    }
                    Err(FetchError::Deadline { .. }) => break,
                    Err(e) => e,
                };
            let left = end.saturating_duration_since(Instant::now());
            if attempt >= call.retries || left <= pause {
                self.metrics.policy_request("failed");
                return Err(CallFault::Network(failed.to_string()));
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        self.metrics.policy_request("failed");
        Err(CallFault::Network(format!("{} {url}: request timed out", call.method)))
    }
}

/// An answer as policies are given it.
fn taken(answer: crate::fetch::Answer) -> Answered {
    let text = |v: &http::HeaderValue| String::from_utf8_lossy(v.as_bytes()).into_owned();
    let headers =
        answer.headers.iter().map(|(name, value)| (name.as_str().to_owned(), text(value))).collect();
    Answered { status: answer.status, headers, body: answer.body }
}

#[cfg(test)]
pub(crate) mod tests;
