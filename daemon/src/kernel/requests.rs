//! Verdicts on requests, and rate limits: what the programs enforce beyond condemned tokens.
//!
//! All of these maps are LRUs whose evictions merely ask again, and every entry has its policy generation. The
//! programs look for denied requests and limits only once there has been one.

use aya::maps::{HashMap, Map, MapData};
use portcullis_common::{
    fingerprint::DenyFingerprint,
    layout::{FEATURE_LIMITS, FEATURE_REQUESTS, Limit, RequestKey, RequestValue},
};

use super::{Kernel, KernelError, error::os_error, load::map_error};

type Key = [u64; 4];
type Value = [u64; 4];

/// The maps.
pub(super) struct Requests {
    denied: HashMap<MapData, Key, Value>,
    verdicts: HashMap<MapData, Key, Value>,
    asked: HashMap<MapData, Key, u64>,
    limits: HashMap<MapData, [u64; 2], [u64; 6]>,
}

impl Requests {
    pub(super) fn new(mut take: impl FnMut(&str) -> Result<Map, KernelError>) -> Result<Self, KernelError> {
        Ok(Self {
            denied: HashMap::try_from(take("DENIED")?).map_err(map_error)?,
            verdicts: HashMap::try_from(take("VERDICTS")?).map_err(map_error)?,
            asked: HashMap::try_from(take("ASKED")?).map_err(map_error)?,
            limits: HashMap::try_from(take("LIMITS")?).map_err(map_error)?,
        })
    }
}

impl Kernel {
    /// Denies requests of one token for one target; in force when this returns.
    pub fn deny_request(&mut self, key: RequestKey, value: RequestValue) -> Result<(), KernelError> {
        let put = self.requests.denied.insert(words(key), value_words(value), 0);
        put.map_err(|e| KernelError::map("deny a request", e))?;
        self.look_for(FEATURE_REQUESTS)
    }

    /// Puts a verdict of learn or hold mode, which a request may be waiting for.
    pub fn put_verdict(&mut self, key: RequestKey, value: RequestValue) -> Result<(), KernelError> {
        let put = self.requests.verdicts.insert(words(key), value_words(value), 0);
        put.map_err(|e| KernelError::map("put a verdict", e))
    }

    /// Forgets every verdict of learn and hold mode: what is asked next is decided anew.
    pub fn forget_verdicts(&mut self) -> Result<(), KernelError> {
        let keys: Vec<Key> = self.requests.verdicts.keys().filter_map(Result::ok).collect();
        for key in keys {
            match self.requests.verdicts.remove(&key) {
                Ok(()) => {}
                // It was evicted meanwhile.
                Err(e) if os_error(&e) == Some(libc::ENOENT) => {}
                Err(e) => return Err(KernelError::map("forget verdicts", e)),
            }
        }
        Ok(())
    }

    /// Lets a request be asked about again at once.
    pub fn forget_question(&mut self, key: RequestKey) -> Result<(), KernelError> {
        match self.requests.asked.remove(&words(key)) {
            Ok(()) => Ok(()),
            Err(e) if os_error(&e) == Some(libc::ENOENT) => Ok(()),
            Err(e) => Err(KernelError::map("forget a question", e)),
        }
    }

    /// Sets a token's rate limit. One that is the same goes on as it stands.
    pub fn limit(&mut self, token: DenyFingerprint, limit: Limit) -> Result<(), KernelError> {
        let mut limit = limit;
        if let Ok([arrival, interval, tolerance, _, generation, _]) = self.requests.limits.get(&token.0, 0)
            && (interval, tolerance, generation)
                == (limit.interval, limit.tolerance, u64::from(limit.generation))
        {
            limit.arrival = arrival;
        }
        let words = [
            limit.arrival,
            limit.interval,
            limit.tolerance,
            limit.until,
            u64::from(limit.generation),
            limit.decision,
        ];
        let put = self.requests.limits.insert(token.0, words, 0);
        put.map_err(|e| KernelError::map("set a token's rate limit", e))?;
        self.look_for(FEATURE_LIMITS)
    }

    /// What the programs hold of denied requests, for tests.
    pub fn denied_request(&self, key: RequestKey) -> Option<RequestValue> {
        self.requests.denied.get(&words(key), 0).ok().map(value)
    }
}

const fn words(key: RequestKey) -> Key {
    [key.token[0], key.token[1], key.request[0], key.request[1]]
}

const fn pair(low: u32, high: u32) -> u64 {
    (low as u64) | (high as u64) << 32
}

const fn value_words(v: RequestValue) -> Value {
    [v.until, v.decision, pair(v.generation, v.answer), pair(v.verdict, v.reason)]
}

#[allow(clippy::cast_possible_truncation, reason = "the two halves of a word")]
const fn value(w: Value) -> RequestValue {
    RequestValue {
        until: w[0],
        decision: w[1],
        generation: w[2] as u32,
        answer: (w[2] >> 32) as u32,
        verdict: w[3] as u32,
        reason: (w[3] >> 32) as u32,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_laid_out_as_the_programs_read_them() {
        let v = RequestValue { until: 1, decision: 2, generation: 3, answer: 4, verdict: 5, reason: 6 };
        assert_eq!(value(value_words(v)), v);
        assert_eq!(value_words(v), [1, 2, 3 | 4 << 32, 5 | 6 << 32]);
    }
}
