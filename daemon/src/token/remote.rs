//! Keys that change: fetched from servers, read again from files. Nothing here is waited for by a decision, but by those
//! about tokens whose key is not known, for a short time.
//!
//! A server that fails in whatever way changes nothing until the keys are older than their bound. Keys are not kept on
//! disk: after a restart without the server an issuer is not ready, for nobody knows what its keys have become.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::{
    RemoteKeys, VerifierError,
    issuer::{Issuer, seconds},
    json,
};
use crate::{
    clock::{Clock as _, SystemClock},
    fetch::{Answer, Bounds, Client, FetchError, Request, Settings, Url},
};

/// Longest key set and discovery document.
const MAX_BODY: usize = 512 * 1024;
/// How often files are looked at.
const LOOK: Duration = Duration::from_secs(2);
/// First wait after a failure, while there are no keys at all.
const FIRST_RETRY: Duration = Duration::from_millis(500);

/// Fetches one issuer's keys.
#[derive(Clone)]
pub(super) struct Fetcher {
    issuer: Arc<Issuer>,
    settings: RemoteKeys,
    client: Client,
}

/// Where the keys lie, and the key set as it was.
#[derive(Default)]
struct Known {
    etag: Option<String>,
    url: Option<Url>,
}

impl Fetcher {
    pub fn new(issuer: Arc<Issuer>, remote: &RemoteKeys) -> Result<Self, VerifierError> {
        let settings = Settings {
            ca_file: remote.ca_file.clone(),
            plain_http: remote.plain_http,
            public_only: false,
            connect: remote.timeout,
        };
        let failed = |source| VerifierError::Fetch { issuer: issuer.name.to_string(), source };
        let client = Client::new(&settings).map_err(failed)?;
        let settings = remote.clone();
        if settings.url.is_none() {
            discovery(&issuer.name).map_err(failed)?;
        }
        Ok(Self { issuer, settings, client })
    }

    /// Fetches at once, and then in its time or when a token wants it.
    pub async fn keep(self) {
        let mut known = Known::default();
        let mut failures = 0_u32;
        loop {
            let wait = if let Ok(max_age) = self.once(&mut known).await {
                failures = 0;
                let refresh = self.settings.refresh;
                max_age.unwrap_or(refresh).max(self.settings.refresh_min).min(refresh)
            } else {
                failures += 1;
                let doubled = FIRST_RETRY.saturating_mul(1 << failures.min(10));
                doubled.min(self.settings.refresh_min)
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.wanted() => {}
            }
        }
    }

    /// A token wants the keys, and they may be fetched again.
    async fn wanted(&self) {
        self.issuer.wanted.notified().await;
        let begun = self.issuer.progress().begun;
        if let Some(begun) = begun {
            tokio::time::sleep_until(begun + self.settings.refresh_min).await;
        }
    }

    async fn once(&self, known: &mut Known) -> Result<Option<Duration>, ()> {
        {
            let mut progress = self.issuer.progress();
            progress.begun = Some(Instant::now());
            progress.is_going = true;
        }
        let fetched = self.fetch(known).await;
        let mut progress = self.issuer.progress();
        progress.is_going = false;
        let (issuer, now) = (&*self.issuer.name, SystemClock.wall().seconds());
        let done = match fetched {
            Ok((max_age, changed)) => {
                if changed {
                    tracing::info!(issuer, "the issuer's keys were read");
                } else if progress.error.is_some() {
                    tracing::info!(issuer, "the issuer's keys can be read again");
                }
                progress.good += 1;
                progress.fetched = Some(now);
                progress.error = None;
                Ok(max_age)
            }
            Err(why) => {
                progress.failed += 1;
                // Once for each cause: a server that is down for a day is one line.
                if progress.error.as_ref() != Some(&why) {
                    tracing::warn!(
                        issuer,
                        reason = why,
                        "the issuer's keys cannot be read; it is tried again"
                    );
                }
                progress.error = Some(why);
                Err(())
            }
        };
        drop(progress);
        self.issuer.ended.send_modify(|n| *n += 1);
        done
    }

    /// How long the answer says it is good, and whether the keys changed.
    async fn fetch(&self, known: &mut Known) -> Result<(Option<Duration>, bool), String> {
        let url = match &self.settings.url {
            Some(url) => url.clone(),
            None => self.discover().await?,
        };
        if known.url.as_ref() != Some(&url) {
            *known = Known { etag: None, url: Some(url.clone()) };
        }
        let asked = SystemClock.wall().seconds();
        let request = Request::get(url).if_none_match(known.etag.as_deref());
        let answer = self.send(request).await.map_err(|e| e.to_string())?;
        let good_until = asked.saturating_add(seconds(self.settings.max_stale));
        let was_good = self.issuer.voucher.is_good(asked);
        let max_age = answer.max_age();
        let changed = if answer.is_unchanged() && known.etag.is_some() {
            false
        } else {
            let answer = answer.success().map_err(|e| e.to_string())?;
            let taken = self.issuer.take(&answer.body, good_until);
            let taken = taken.map_err(|why| format!("the key set of `{}` is refused: {why}", answer.url))?;
            known.etag = answer.etag().map(str::to_owned);
            taken
        };
        self.issuer.voucher.extend(good_until);
        if !was_good && !changed {
            // What was denied for want of keys is to be asked again.
            self.issuer.refresh_generation();
        }
        Ok((max_age, changed))
    }

    /// Asks the issuer where its keys are (OpenID Connect Discovery 1.0 §4).
    async fn discover(&self) -> Result<Url, String> {
        let url = discovery(&self.issuer.name).map_err(|e| e.to_string())?;
        let answer =
            self.send(Request::get(url)).await.and_then(Answer::success).map_err(|e| e.to_string())?;
        let refused = |why: &str| format!("the discovery document of `{}` is refused: {why}", answer.url);
        let document = json::object(&answer.body)
            .ok_or_else(|| refused("it is not a JSON object without repeated members"))?;
        if document.get("issuer").and_then(Value::as_str) != Some(&*self.issuer.name) {
            return Err(refused("its `issuer` is not the configured one to the letter"));
        }
        let keys = document
            .get("jwks_uri")
            .and_then(Value::as_str)
            .ok_or_else(|| refused("it has no `jwks_uri`"))?;
        keys.parse().map_err(|e: FetchError| refused(&format!("of its `jwks_uri`, {e}")))
    }

    async fn send(&self, request: Request) -> Result<Answer, FetchError> {
        self.client.send(request, Bounds { deadline: self.settings.timeout, max_body: MAX_BODY }).await
    }
}

fn discovery(issuer: &str) -> Result<Url, FetchError> {
    format!("{}/.well-known/openid-configuration", issuer.strip_suffix('/').unwrap_or(issuer)).parse()
}

/// Has keys fetched for a token that they do not suffice for, and waits a short time. Whether a fetch ended meanwhile.
/// Forged tokens gain little: between two fetches lies the shortest time allowed, and meanwhile nobody waits.
pub(super) async fn awaited(issuer: &Issuer) -> bool {
    let Some(remote) = issuer.remote() else { return false };
    let mut ended = issuer.ended.subscribe();
    ended.mark_unchanged();
    {
        let progress = issuer.progress();
        let may_begin = progress.begun.is_none_or(|begun| begun.elapsed() >= remote.refresh_min);
        if !progress.is_going && !may_begin {
            return false;
        }
    }
    issuer.wanted.notify_one();
    matches!(tokio::time::timeout(remote.wait, ended.changed()).await, Ok(Ok(())))
}

/// Whether the keys at hand are all that the issuer had when it issued a token, at `issued` where the token says so. A file
/// is read again first. `now` is in Unix seconds.
pub(super) async fn are_whole(issuer: &Arc<Issuer>, issued: Option<i64>, now: i64) -> bool {
    let Some(remote) = issuer.remote() else {
        let (before, again) = (issuer.progress().good, Arc::clone(issuer));
        // Where it could not run, the error tells nothing.
        let looked = tokio::task::spawn_blocking(move || look(&again)).await.is_ok();
        let progress = issuer.progress();
        return looked && progress.error.is_none() && progress.good == before;
    };
    let progress = issuer.progress();
    let since = |fetched: i64| match issued {
        Some(issued) => fetched >= issued,
        None => now.saturating_sub(fetched) <= seconds(remote.refresh_min),
    };
    progress.error.is_none() && progress.fetched.is_some_and(since)
}

/// Reads key files again that changed.
pub(super) async fn watch_files(issuers: Vec<Arc<Issuer>>) {
    let mut tick = tokio::time::interval(LOOK);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tick.tick().await;
        let issuers = issuers.clone();
        // A stalled file system holds up this task alone.
        let _ = tokio::task::spawn_blocking(move || issuers.iter().for_each(|i| look(i))).await;
    }
}

fn look(issuer: &Issuer) {
    let Some(path) = issuer.source.path() else { return };
    let read = issuer.read_file(path);
    let mut progress = issuer.progress();
    match read {
        Ok(changed) => {
            progress.error = None;
            progress.fetched = Some(SystemClock.wall().seconds());
            if changed {
                progress.good += 1;
                tracing::info!(issuer = &*issuer.name, "the issuer's keys were read again");
            }
        }
        Err(e) => {
            let why = e.to_string();
            if progress.error.as_ref() != Some(&why) {
                progress.failed += 1;
                tracing::error!(error = %e, "changed keys are refused; the old ones stay");
            }
            progress.error = Some(why);
        }
    }
}

#[cfg(test)]
pub(super) mod tests;
