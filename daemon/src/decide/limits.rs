//! Rate limits, by the generic cell rate algorithm: one instant for each key, and no window that opens for all at once.
//!
//! Guarantees: a limit never lets through more than `burst` requests at once, nor more than `burst` and `rate / per`
//! for each second after; asking is one lock of many, and no allocation for a key that is known. An instant that has passed says
//! nothing any more and is forgotten; where there is no room for another key, its request is denied.
//! Leaves to others: who is limited by what (policies say it), and how an answer shows it.

use std::{
    collections::HashMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use super::cache::Uniform;
use crate::{clock::BootTime, policy::Limit};

/// Locks that keys are spread over.
const SHARDS: usize = 64;

/// A limit made ready: what a verdict holds of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Whose it is, as a digest under the secret key.
    pub key: [u64; 2],
    /// Nanoseconds that a request takes up.
    interval: u64,
    /// Nanoseconds that may be taken up ahead.
    depth: u64,
    /// Requests at once.
    burst: u32,
    /// Requests in `per`, as the policy has it.
    requests: u32,
    per: Duration,
    /// Whether the kernel keeps it too.
    pub in_kernel: bool,
}

/// What is left of a limit, for the `RateLimit` headers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// Requests in `window`.
    pub limit: u32,
    /// Seconds that `limit` is meant for.
    pub window: u32,
    /// Requests that would pass now.
    pub remaining: u32,
    /// Seconds until the limit is as if nothing had been asked.
    pub reset: u32,
    /// Seconds until another request would pass; 0 where one would now.
    pub retry_after: u32,
}

impl Rate {
    /// Of a policy's limit, for a key.
    pub fn new(limit: &Limit, key: [u64; 2], in_kernel: bool) -> Self {
        let per = nanoseconds(limit.per);
        let interval = (per / u64::from(limit.rate.max(1))).max(1);
        let depth = interval.saturating_mul(u64::from(limit.burst.max(1)));
        let burst = limit.burst.max(1);
        Self { key, interval, depth, burst, requests: limit.rate, per: limit.per, in_kernel }
    }

    /// What a request at `now` finds where the key's instant is `at`, and the instant after it where it passes.
    fn ask(&self, at: u64, now: u64) -> (Option<u64>, Allowance) {
        let begun = at.max(now);
        let next = begun.saturating_add(self.interval);
        let passes = next - now <= self.depth;
        let taken = if passes { next } else { begun } - now;
        let remaining = u32::try_from(self.depth.saturating_sub(taken) / self.interval).unwrap_or(u32::MAX);
        let wait = if passes { 0 } else { (next - now).saturating_sub(self.depth) };
        let allowance = Allowance {
            limit: self.requests,
            window: seconds(nanoseconds(self.per)),
            remaining: remaining.min(self.burst),
            reset: seconds(taken),
            retry_after: seconds(wait),
        };
        (passes.then_some(next), allowance)
    }
}

fn nanoseconds(d: Duration) -> u64 {
    u64::try_from(d.as_nanos()).unwrap_or(u64::MAX)
}

/// Whole seconds, rounded up.
fn seconds(nanoseconds: u64) -> u32 {
    u32::try_from(nanoseconds.div_ceil(1_000_000_000)).unwrap_or(u32::MAX)
}

impl Allowance {
    /// The headers of draft-ietf-httpapi-ratelimit-headers, and `Retry-After` where the request does not pass.
    pub fn headers(&self) -> impl Iterator<Item = (&'static str, String)> {
        let policy = format!("\"portcullis\";q={};w={}", self.limit, self.window);
        let state = format!("\"portcullis\";r={};t={}", self.remaining, self.reset);
        let retry = (self.retry_after > 0).then(|| ("retry-after", self.retry_after.to_string()));
        [("ratelimit-policy", policy), ("ratelimit", state)].into_iter().chain(retry)
    }

    /// The one that is nearer to its end.
    fn tighter(self, other: Self) -> Self {
        let (a, b) = ((self.remaining, u32::MAX - self.reset), (other.remaining, u32::MAX - other.reset));
        if b < a { other } else { self }
    }
}

/// How a request stands with its limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// It passes; the tightest limit.
    Passes(Option<Allowance>),
    /// It does not; the limit that it ran into.
    Limited(Allowance),
    /// There is no room for its key.
    Full,
}

/// The instants of all keys.
pub struct Limiter {
    shards: [Mutex<HashMap<[u64; 2], u64, Uniform>>; SHARDS],
    /// Most keys in a shard.
    room: usize,
    keys: AtomicUsize,
}

impl Limiter {
    /// With room for so many keys.
    pub fn new(keys: u64) -> Self {
        let room = usize::try_from(keys).unwrap_or(usize::MAX).div_ceil(SHARDS).max(1);
        Self { shards: std::array::from_fn(|_| Mutex::default()), room, keys: AtomicUsize::new(0) }
    }

    /// Keys whose instants are kept.
    pub fn keys(&self) -> usize {
        self.keys.load(Ordering::Relaxed)
    }

    /// Asks each limit in turn. One that does not let the request pass ends it; what those before it took is taken.
    pub fn ask(&self, rates: &[Rate], now: BootTime) -> Asked {
        let mut tightest: Option<Allowance> = None;
        for rate in rates {
            match self.ask_one(rate, now.0) {
                Asked::Passes(Some(a)) => tightest = Some(tightest.map_or(a, |t| t.tighter(a))),
                other => return other,
            }
        }
        Asked::Passes(tightest)
    }

    fn ask_one(&self, rate: &Rate, now: u64) -> Asked {
        #[allow(clippy::cast_possible_truncation, reason = "fewer than 64")]
        let shard = &self.shards[(rate.key[0] % SHARDS as u64) as usize];
        // Nothing that can panic runs under the lock, so a poisoned one holds good instants.
        let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(at) = shard.get_mut(&rate.key) {
            let (next, allowance) = rate.ask(*at, now);
            return match next {
                Some(next) => {
                    *at = next;
                    Asked::Passes(Some(allowance))
                }
                None => Asked::Limited(allowance),
            };
        }
        if shard.len() >= self.room {
            let before = shard.len();
            shard.retain(|_, at| *at > now);
            self.keys.fetch_sub(before - shard.len(), Ordering::Relaxed);
            if shard.len() >= self.room {
                return Asked::Full;
            }
        }
        let (next, allowance) = rate.ask(now, now);
        shard.insert(rate.key, next.unwrap_or(now));
        self.keys.fetch_add(1, Ordering::Relaxed);
        Asked::Passes(Some(allowance))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: u64 = 1_000_000_000;

    fn rate(requests: u32, per: u64, burst: u32, key: u64) -> Rate {
        let limit =
            Limit { key: String::new(), token: false, rate: requests, per: Duration::from_secs(per), burst };
        Rate::new(&limit, [key, 0], false)
    }

    fn passes(limiter: &Limiter, rate: Rate, at: u64) -> bool {
        matches!(limiter.ask(&[rate], BootTime(at)), Asked::Passes(_))
    }

    #[test]
    fn a_burst_passes_and_then_one_for_each_interval() {
        let (limiter, r) = (Limiter::new(100), rate(2, 1, 3, 1));
        assert_eq!((0..5).filter(|_| passes(&limiter, r, SECOND)).count(), 3);
        assert!(!passes(&limiter, r, SECOND + SECOND / 2 - 1));
        assert!(passes(&limiter, r, SECOND + SECOND / 2));
        assert!(!passes(&limiter, r, SECOND + SECOND / 2));
        assert_eq!((0..9).filter(|_| passes(&limiter, r, 9 * SECOND)).count(), 3);
    }

    #[test]
    fn what_is_left_is_told() {
        let (limiter, r) = (Limiter::new(100), rate(2, 10, 2, 1));
        let Asked::Passes(Some(a)) = limiter.ask(&[r], BootTime(0)) else { panic!() };
        assert_eq!((a.limit, a.window, a.remaining, a.reset, a.retry_after), (2, 10, 1, 5, 0));
        limiter.ask(&[r], BootTime(0));
        let Asked::Limited(a) = limiter.ask(&[r], BootTime(SECOND)) else { panic!() };
        assert_eq!((a.remaining, a.reset, a.retry_after), (0, 9, 4));
        let headers: Vec<_> = a.headers().map(|(n, v)| format!("{n}: {v}")).collect();
        assert_eq!(
            headers,
            [
                "ratelimit-policy: \"portcullis\";q=2;w=10",
                "ratelimit: \"portcullis\";r=0;t=9",
                "retry-after: 4"
            ]
        );
    }

    #[test]
    fn the_tightest_of_several_counts() {
        let limiter = Limiter::new(100);
        let (wide, narrow) = (rate(100, 1, 100, 1), rate(1, 60, 1, 2));
        let Asked::Passes(Some(a)) = limiter.ask(&[wide, narrow], BootTime(0)) else { panic!() };
        assert_eq!((a.limit, a.remaining), (1, 0));
        assert!(matches!(limiter.ask(&[wide, narrow], BootTime(1)), Asked::Limited(a) if a.limit == 1));
        assert_eq!(limiter.ask(&[], BootTime(1)), Asked::Passes(None));
    }

    #[test]
    fn no_room_denies_and_instants_that_passed_make_room() {
        let limiter = Limiter::new(1);
        // Keys of one shard.
        let key = |n: u64| rate(1, 1, 1, n * SHARDS as u64);
        assert!(passes(&limiter, key(1), 0));
        assert_eq!(limiter.ask(&[key(2)], BootTime(1)), Asked::Full);
        assert!(passes(&limiter, key(2), 2 * SECOND));
        assert_eq!(limiter.keys(), 1);
    }

    #[test]
    fn threads_together_get_no_more_than_one_would() {
        let (limiter, r) = (Limiter::new(100), rate(1, 60, 50, 7));
        let passed: usize = std::thread::scope(|s| {
            let threads: Vec<_> = (0..8)
                .map(|_| s.spawn(|| (0..100).filter(|_| passes(&limiter, r, SECOND)).count()))
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).sum()
        });
        assert_eq!(passed, 50);
    }

    proptest! {
        /// Over any stretch of time no more passes than the burst and what the stretch allows.
        #[test]
        fn no_stretch_of_time_lets_more_through(
            requests in 1_u32..20, per in 1_u64..10, burst in 1_u32..20, gaps in prop::collection::vec(0_u64..SECOND, 1..200),
        ) {
            let (limiter, r) = (Limiter::new(10), rate(requests, per, burst, 1));
            let (mut now, mut passed) = (0, Vec::new());
            for gap in gaps {
                now += gap;
                if passes(&limiter, r, now) {
                    passed.push(now);
                }
            }
            for (i, from) in passed.iter().enumerate() {
                for (n, to) in passed[i..].iter().enumerate() {
                    let allowed = u64::from(burst) + (to - from) / r.interval;
                    prop_assert!(allowed > n as u64, "{n} in {}", to - from);
                }
            }
        }
    }
}
