//! Fetching a bundle by HTTP, as OPA does: by its tag, again and again, or by long polling where the server does.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, header};

use super::BundleError;
use crate::fetch::{Bounds, Client, Request, Secret, Settings, Url};

/// By this type servers say that they hold requests until there is something new.
const LONG_POLL: &str = "application/vnd.openpolicyagent.bundles";
/// Time for the answer itself, beside what a long poll waits.
const DEADLINE: Duration = Duration::from_secs(30);

/// Where a bundle comes from.
#[derive(Debug)]
pub struct RemoteSettings {
    /// Its address.
    pub url: Url,
    /// How it is asked.
    pub client: Settings,
    /// A bearer token for the server.
    pub bearer: Option<Secret>,
    /// Shortest and longest time from one answer to the next request.
    pub pause: (Duration, Duration),
    /// How long a request may wait for something new; zero asks for none.
    pub wait: Duration,
    /// Longest archive.
    pub max: u64,
}

/// A server that has a bundle.
#[derive(Debug)]
pub struct Remote {
    client: Client,
    settings: RemoteSettings,
    etag: Option<String>,
    /// Whether the last answer was held by the server.
    held: bool,
    failures: u32,
}

/// What an answer brought.
#[derive(Debug)]
pub struct Came {
    /// The archive.
    pub archive: Bytes,
    /// Its tag.
    pub etag: Option<String>,
}

impl Remote {
    /// Asks nobody yet. `etag` is that of the bundle in force.
    pub fn new(settings: RemoteSettings, etag: Option<String>) -> Result<Self, BundleError> {
        Ok(Self { client: Client::new(&settings.client)?, settings, etag, held: false, failures: 0 })
    }

    /// Asks once: nothing where what lies there is what was taken last.
    pub async fn ask(&mut self) -> Result<Option<Came>, BundleError> {
        let asked = self.exchange().await;
        match &asked {
            Ok(_) => self.failures = 0,
            Err(_) => self.failures = self.failures.saturating_add(1),
        }
        asked
    }

    async fn exchange(&mut self) -> Result<Option<Came>, BundleError> {
        let wait = self.settings.wait;
        let prefer = match wait.as_secs() {
            0 => "modes=snapshot".to_owned(),
            seconds => format!("modes=snapshot;wait={seconds}"),
        };
        let mut request = Request::get(self.settings.url.clone())
            .header(HeaderName::from_static("prefer"), &prefer)
            // The archive itself is compressed.
            .header(header::ACCEPT_ENCODING, "identity")
            .if_none_match(self.etag.as_deref());
        if let Some(token) = &self.settings.bearer {
            request = request.bearer(token);
        }
        let max_body = usize::try_from(self.settings.max).unwrap_or(usize::MAX);
        let answer = self.client.send(request, Bounds { deadline: DEADLINE + wait, max_body }).await?;
        self.held = !wait.is_zero() && answer.content_type() == LONG_POLL;
        if answer.is_unchanged() {
            return Ok(None);
        }
        let answer = answer.success()?;
        let etag = answer.etag().map(str::to_owned);
        Ok(Some(Came { archive: answer.body.clone(), etag }))
    }

    /// Notes that what came last is in force: it is not sent again.
    pub fn taken(&mut self, etag: Option<String>) {
        self.etag = etag;
    }

    /// Notes that what came last is not taken: it is asked for again, after a while.
    pub fn refused(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// Time until the next request. `random` is from 0 to 1: hosts that started together are not to ask together.
    pub fn pause(&self, random: f64) -> Duration {
        let (least, most) = self.settings.pause;
        if self.failures > 0 {
            let doubled = least.saturating_mul(1 << self.failures.min(10).saturating_sub(1));
            return doubled.min(most).mul_f64(0.5 + random / 2.0);
        }
        if self.held {
            return Duration::ZERO;
        }
        least + most.saturating_sub(least).mul_f64(random)
    }
}
