//! One list: as it was fetched, and how it is fetched again.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use http::header::ACCEPT;
use tokio::sync::watch;

use super::{
    StatusListSettings,
    bits::List,
    cwt,
    token::{Claims, Opened, Says},
};
use crate::{
    clock::{Clock as _, SystemClock},
    fetch::{Bounds, Client, Request, Url},
    token::{
        issuer::{Issuer, seconds},
        vouch::Voucher,
    },
};

/// Seconds by which the clock of a list's signer may be ahead.
const LEEWAY: i64 = 300;
/// Longest wait after failures in a row.
const LONGEST: Duration = Duration::from_secs(30);
const JWT: &str = "application/statuslist+jwt";
const CWT: &str = "application/statuslist+cwt";

/// A list at one time.
#[derive(Debug)]
pub(super) struct Fetched {
    pub list: Arc<List>,
    pub says: Says,
    /// Unix seconds from which on it is to be fetched again.
    pub refresh_at: i64,
    /// Unix seconds from which on it is not used any more.
    pub good_until: i64,
    /// The voucher's number under which it came.
    pub generation: u64,
}

/// Totals over all lists.
#[derive(Debug, Default)]
pub(super) struct Counts {
    fetched: AtomicU64,
    failed: AtomicU64,
    error: Mutex<Option<String>>,
}

impl Counts {
    pub fn told(&self) -> (u64, u64, Option<String>) {
        let error = self.error.lock().unwrap_or_else(PoisonError::into_inner).clone();
        (self.fetched.load(Ordering::Relaxed), self.failed.load(Ordering::Relaxed), error)
    }

    /// Notes how a fetch went. Whether it went wrong for another reason than the last one.
    fn note(&self, error: Option<&String>) -> bool {
        let count = if error.is_some() { &self.failed } else { &self.fetched };
        count.fetch_add(1, Ordering::Relaxed);
        let mut last = self.error.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = error.is_some() && last.as_ref() != error;
        *last = error.cloned();
        is_new
    }
}

#[derive(Debug, Default)]
struct Progress {
    is_going: bool,
    failures: u32,
    /// Not before this it is tried again.
    next: Option<Instant>,
    etag: Option<String>,
}

/// One list of one issuer.
pub(super) struct Entry {
    issuer: Arc<Issuer>,
    /// Its address as tokens write it.
    uri: String,
    url: Url,
    pub voucher: Arc<Voucher>,
    fetched: ArcSwapOption<Fetched>,
    progress: Mutex<Progress>,
    /// The number of fetches that have ended.
    pub ended: watch::Sender<u64>,
    /// Unix seconds of its last use.
    last_use: AtomicI64,
}

impl Entry {
    pub fn new(issuer: Arc<Issuer>, uri: String, url: Url) -> Self {
        Self {
            issuer,
            uri,
            url,
            voucher: Voucher::new(i64::MIN),
            fetched: ArcSwapOption::empty(),
            progress: Mutex::default(),
            ended: watch::Sender::new(0),
            last_use: AtomicI64::new(i64::MIN),
        }
    }

    pub fn used(&self, now: i64) {
        self.last_use.store(now, Ordering::Relaxed);
    }

    /// The list, while it may be used.
    pub fn good(&self, now: i64) -> Option<Arc<Fetched>> {
        self.fetched.load_full().filter(|f| now < f.good_until)
    }

    /// Whether it is to be renewed: its time has come, and it was used in the last one or two of its lifetimes.
    pub fn is_due(&self, now: i64) -> bool {
        let used = self.last_use.load(Ordering::Relaxed);
        self.fetched.load().as_ref().is_some_and(|f| now >= f.refresh_at && used.saturating_add(900) > now)
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it is being fetched.
    pub fn is_going(&self) -> bool {
        self.progress().is_going
    }

    /// Begins a fetch, unless one is under way or the last ones failed a moment ago.
    pub fn begin(&self) -> bool {
        let mut progress = self.progress();
        if progress.is_going || progress.next.is_some_and(|t| Instant::now() < t) {
            return false;
        }
        progress.is_going = true;
        true
    }

    /// Fetches it, after [`Self::begin`].
    pub async fn fetch(&self, client: &Client, settings: &StatusListSettings, counts: &Counts) {
        let done = self.get(client, settings).await;
        if counts.note(done.as_ref().err())
            && let Err(why) = &done
        {
            tracing::warn!(
                issuer = &*self.issuer.name,
                reason = why,
                "a status list cannot be had; it is tried again"
            );
        }
        let mut progress = self.progress();
        progress.is_going = false;
        let wait = if done.is_ok() {
            progress.failures = 0;
            settings.ttl_min
        } else {
            progress.failures = progress.failures.saturating_add(1);
            let doubled = Duration::from_millis(500).saturating_mul(1 << progress.failures.min(10));
            doubled.min(LONGEST)
        };
        progress.next = Some(Instant::now() + wait);
        drop(progress);
        self.ended.send_modify(|n| *n += 1);
    }

    async fn get(&self, client: &Client, settings: &StatusListSettings) -> Result<(), String> {
        let asked = SystemClock.wall().seconds();
        let known = self.fetched.load_full();
        let etag = self.progress().etag.clone().filter(|_| known.is_some());
        let request = Request::get(self.url.clone())
            .header(ACCEPT, &format!("{JWT}, {CWT};q=0.9"))
            .if_none_match(etag.as_deref());
        let bounds = Bounds {
            deadline: settings.timeout,
            max_body: settings.max_bytes.saturating_add(settings.max_bytes / 2).saturating_add(64 * 1024),
        };
        let answer = client.send(request, bounds).await.map_err(|e| e.to_string())?;
        if answer.is_unchanged()
            && let Some(known) = known.as_ref().filter(|_| etag.is_some())
        {
            self.keep(Arc::clone(&known.list), known.says, asked, settings);
            return Ok(());
        }
        let answer = answer.success().map_err(|e| e.to_string())?;
        let refused = |why: String| format!("the status list `{}` is refused: {why}", answer.url);
        let claims = match answer.content_type().as_str() {
            JWT => {
                let text =
                    std::str::from_utf8(&answer.body).map_err(|_| refused("it is no text".to_owned()))?;
                let document = self.issuer.open(text.trim_ascii(), "statuslist+jwt", asked);
                Claims::of_jwt(&document.map_err(|reason| refused(reason.describe().to_owned()))?.claims)
            }
            CWT => self.open_cwt(&answer.body, asked).map_err(refused)?,
            _ => return Err(refused("it is of another type".to_owned())),
        };
        let Opened { list, says } =
            claims.open(&self.uri, asked, LEEWAY, settings.max_bytes).map_err(refused)?;
        if known.as_ref().is_some_and(|k| says.issued_at < k.says.issued_at) {
            return Err(refused("it is older than the one at hand".to_owned()));
        }
        self.progress().etag = answer.etag().map(str::to_owned);
        let list = known.filter(|k| *k.list == list).map_or_else(|| Arc::new(list), |k| Arc::clone(&k.list));
        self.keep(list, says, asked, settings);
        Ok(())
    }

    /// Puts a list in force that was asked for at a time.
    fn keep(&self, list: Arc<List>, says: Says, asked: i64, settings: &StatusListSettings) {
        let ends = says.expires_at.unwrap_or(i64::MAX);
        let (least, most) = (seconds(settings.ttl_min).max(1), seconds(settings.ttl_max).max(1));
        let refresh_at = asked.saturating_add(says.ttl.unwrap_or(most).min(most).max(least)).min(ends);
        let good_until = refresh_at.saturating_add(seconds(settings.max_stale)).min(ends);
        let known = self.fetched.load_full().filter(|k| Arc::ptr_eq(&k.list, &list));
        let generation = known.as_ref().map_or_else(|| self.voucher.generation() + 1, |k| k.generation);
        self.fetched.store(Some(Arc::new(Fetched { list, says, refresh_at, good_until, generation })));
        self.voucher.extend(good_until);
        if known.is_none() {
            // After the list: who finds the new number finds the new list.
            self.voucher.renew();
        }
    }

    fn open_cwt(&self, bytes: &[u8], now: i64) -> Result<Claims, String> {
        let cwt = cwt::parse(bytes).ok_or("it is no COSE_Sign1 with the type of a status list")?;
        let opened = self.issuer.authenticate_raw(
            cwt.algorithm,
            cwt.kid.as_deref(),
            (&cwt.signed, &cwt.signature),
            now,
        );
        opened.map_err(|reason| reason.describe().to_owned()).map(|()| cwt.claims)
    }
}
