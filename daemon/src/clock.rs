//! Time, injected: wall time for what people and tokens mean, boot time for what the kernel obeys.
//!
//! The two are types of their own and meet in one place, the revocations' ledger.

use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// Milliseconds since 1970 (UTC).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WallTime(pub i64);

/// Nanoseconds of `CLOCK_BOOTTIME`: counts suspended time, ignores steps of the wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct BootTime(pub u64);

impl WallTime {
    /// The last moment that can be written as people write times (RFC 3339 has years of four digits).
    pub const LAST: Self = Self(253_402_300_799_999);

    /// Whole seconds since 1970.
    pub const fn seconds(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// From whole seconds since 1970.
    pub const fn from_seconds(s: i64) -> Self {
        Self(s.saturating_mul(1000))
    }

    /// Later by a length of time; the far future where that does not fit.
    #[must_use]
    pub fn plus(self, d: std::time::Duration) -> Self {
        Self(self.0.saturating_add(i64::try_from(d.as_millis()).unwrap_or(i64::MAX)))
    }

    /// As people read it: RFC 3339, to the second; what is before 1970 as 1970, and what is after the year 9999 as
    /// "for ever".
    pub fn shown(self) -> String {
        if self > Self::LAST {
            return "for ever".to_owned();
        }
        let ms = u64::try_from(self.0).unwrap_or(0);
        let at = std::time::UNIX_EPOCH + std::time::Duration::from_millis(ms);
        humantime::format_rfc3339_seconds(at).to_string()
    }
}

/// A source of time.
pub trait Clock: Send + Sync + 'static {
    /// Wall time now.
    fn wall(&self) -> WallTime;
    /// Boot time now.
    fn boot(&self) -> BootTime;
}

/// A clock that is shared.
pub type SharedClock = Arc<dyn Clock>;

/// The machine's clocks.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn wall(&self) -> WallTime {
        clock_gettime(ClockId::CLOCK_REALTIME)
            .map_or(WallTime(i64::MAX), |t| WallTime(t.tv_sec() * 1000 + t.tv_nsec() / 1_000_000))
    }

    fn boot(&self) -> BootTime {
        clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(BootTime(0), |t| {
            BootTime(t.tv_sec().unsigned_abs() * 1_000_000_000 + t.tv_nsec().unsigned_abs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_shown() {
        assert_eq!(WallTime(1_732_412_345_123).shown(), "2024-11-24T01:39:05Z");
        assert_eq!(WallTime(-1).shown(), "1970-01-01T00:00:00Z");
        assert_eq!(WallTime::LAST.shown(), "9999-12-31T23:59:59Z");
        for late in [WallTime::LAST.0 + 1, 632_892_441_600_000, i64::MAX] {
            assert_eq!(WallTime(late).shown(), "for ever");
        }
    }
}
