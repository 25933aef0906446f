//! Answers that are kept for other decisions: as long as the policy or the server says, within a bound of bytes.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use http::{StatusCode, header};
use moka::sync::Cache;

use crate::{
    fetch::Answer,
    policy::{Answered, KeepAnswer},
};

/// What an entry costs beside its body.
const ENTRY: usize = 256;
/// Requests that are being made by one for all.
const TURNS: u64 = 4096;

type Name = [u8; 32];

/// The answers.
pub struct Kept {
    answers: Cache<Name, (Arc<Answered>, Instant)>,
    turns: Cache<Name, Arc<tokio::sync::Mutex<()>>>,
    largest: u64,
}

impl Kept {
    pub fn new(bytes: u64) -> Self {
        let weigh = |_: &Name, (answer, _): &(Arc<Answered>, Instant)| {
            let headers: usize = answer.headers.iter().map(|(n, v)| n.len() + v.len() + 48).sum();
            u32::try_from(answer.body.len() + headers + ENTRY).unwrap_or(u32::MAX)
        };
        let answers = Cache::builder().max_capacity(bytes).weigher(weigh).build();
        Self { answers, turns: Cache::new(TURNS), largest: bytes }
    }

    /// One that is fresh.
    pub fn get(&self, name: &Name) -> Option<Arc<Answered>> {
        let (answer, until) = self.answers.get(name)?;
        (Instant::now() < until).then_some(answer)
    }

    /// Whose turn it is to ask.
    pub fn turn(&self, name: Name) -> Arc<tokio::sync::Mutex<()>> {
        self.turns.get_with(name, Arc::default)
    }

    pub fn put(&self, name: Name, answer: &Arc<Answered>, lifetime: Duration) {
        let until = Instant::now().checked_add(lifetime);
        if !lifetime.is_zero()
            && self.largest > 0
            && let Some(until) = until
        {
            self.answers.insert(name, (Arc::clone(answer), until));
        }
    }

    #[cfg(test)]
    pub fn bytes(&self) -> u64 {
        self.answers.run_pending_tasks();
        self.answers.weighted_size()
    }
}

/// How long an answer stays good. Statuses that say nothing lasting are not kept, as in OPA.
pub fn lifetime(keep: KeepAnswer, answer: &Answer) -> Duration {
    const LASTING: [u16; 10] = [200, 203, 204, 206, 300, 301, 404, 405, 410, 414];
    let status = answer.status;
    if !LASTING.contains(&status.as_u16()) && status != StatusCode::NOT_IMPLEMENTED {
        return Duration::ZERO;
    }
    match keep {
        KeepAnswer::Not => Duration::ZERO,
        KeepAnswer::For(time) => time,
        KeepAnswer::AsServed => answer.max_age().or_else(|| until_expires(answer)).unwrap_or_default(),
    }
}

/// `Expires` less `Date`.
fn until_expires(answer: &Answer) -> Option<Duration> {
    let time = |name| answer.header(name).and_then(|text| httpdate::parse_http_date(text).ok());
    let expires = time(header::EXPIRES)?;
    let date = time(header::DATE).unwrap_or_else(SystemTime::now);
    expires.duration_since(date).ok()
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, HeaderValue};

    use super::*;

    fn answer(status: u16, headers: &[(&'static str, &str)]) -> Answer {
        let headers: HeaderMap = headers
            .iter()
            .map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_str(v).unwrap()))
            .collect();
        let status = StatusCode::from_u16(status).unwrap();
        Answer { url: String::new(), status, headers, body: bytes::Bytes::new() }
    }

    #[test]
    fn an_answer_is_kept_as_long_as_the_server_or_the_policy_says() {
        const DATE: &str = "Wed, 25 Nov 2026 10:00:00 GMT";
        const LATER: &str = "Wed, 25 Nov 2026 10:01:00 GMT";
        type Served = (u16, &'static [(&'static str, &'static str)], u64);
        let served: [Served; 9] = [
            (200, &[("cache-control", "max-age=30")], 30),
            (200, &[("cache-control", "max-age=30"), ("age", "10")], 20),
            (200, &[("cache-control", "no-store, max-age=30")], 0),
            (200, &[("cache-control", "no-cache")], 0),
            (200, &[], 0),
            (200, &[("date", DATE), ("expires", LATER)], 60),
            (200, &[("date", LATER), ("expires", DATE)], 0),
            (200, &[("cache-control", "max-age=5"), ("date", DATE), ("expires", LATER)], 5),
            (500, &[("cache-control", "max-age=30")], 0),
        ];
        for (status, headers, seconds) in served {
            let found = lifetime(KeepAnswer::AsServed, &answer(status, headers));
            assert_eq!(found, Duration::from_secs(seconds), "{status} {headers:?}");
        }
        let forced = KeepAnswer::For(Duration::from_secs(7));
        assert_eq!(lifetime(forced, &answer(404, &[("cache-control", "no-store")])), Duration::from_secs(7));
        assert_eq!(lifetime(forced, &answer(503, &[])), Duration::ZERO);
        assert_eq!(
            lifetime(KeepAnswer::Not, &answer(200, &[("cache-control", "max-age=30")])),
            Duration::ZERO
        );
    }

    #[test]
    fn what_is_kept_has_a_bound_in_bytes() {
        let kept = Kept::new(20_000);
        for n in 0..100_u8 {
            let body = vec![n; 1000].into();
            let answer = Arc::new(Answered { status: StatusCode::OK, headers: Vec::new(), body });
            kept.put([n; 32], &answer, Duration::from_mins(1));
        }
        assert!((1..=20_000).contains(&kept.bytes()), "{}", kept.bytes());
    }
}
