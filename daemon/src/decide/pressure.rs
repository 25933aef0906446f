//! Whether there is more to decide than can be decided in time.
//!
//! A task asks to be woken every few milliseconds. How late it is woken is how long a request waits before anybody
//! looks at it: it stands in the same queue. While that is too long, requests whose verdict is not in the cache are
//! refused without evaluation, so that the queue gets shorter and gateways get an answer before they give up.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Decider;

/// How often it is looked.
const PACE: Duration = Duration::from_millis(10);
/// Looks in a row that must be late: one alone may be a single slow policy, or the machine's own pause.
const IN_A_ROW: u32 = 2;

/// What the last looks said.
#[derive(Debug, Default)]
struct Pressure {
    late: u32,
}

impl Pressure {
    /// Takes in how late a look was; says whether there is too much to decide.
    fn note(&mut self, lag: Duration, limit: Duration) -> bool {
        self.late = if lag > limit { self.late.saturating_add(1) } else { 0 };
        self.late >= IN_A_ROW
    }
}

/// Watches until `stop`.
pub async fn watch_pressure(decider: Arc<Decider>, limit: Duration, stop: CancellationToken) {
    let (mut pressure, mut before) = (Pressure::default(), false);
    loop {
        let due = Instant::now() + PACE;
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep_until(due) => {}
        }
        let over = pressure.note(due.elapsed(), limit);
        if over != before {
            decider.set_overloaded(over);
            if over {
                tracing::warn!(
                    "overloaded: requests that are not in the verdict cache are refused until it is better"
                );
            }
            before = over;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_late_look_is_no_overload_and_one_in_time_ends_it() {
        let (mut p, limit) = (Pressure::default(), Duration::from_millis(100));
        let late = Duration::from_millis(101);
        assert_eq!(
            [late, late, late, limit, late].map(|lag| p.note(lag, limit)),
            [false, true, true, false, false]
        );
    }
}
