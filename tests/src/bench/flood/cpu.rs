//! Processor time of the whole machine.

use std::{fs, thread, time::Duration, time::Instant};

use anyhow::{Context as _, Result};
use nix::unistd::{SysconfVar, sysconf};

/// Processor time that was used since the machine started, all cores together.
#[derive(Clone, Copy, Debug)]
pub struct Busy(f64);

impl Busy {
    /// Up to now.
    pub fn now() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
        let hertz = sysconf(SysconfVar::CLK_TCK)?.and_then(|hz| u32::try_from(hz).ok()).unwrap_or(100);
        read(&stat).map(|ticks| Self(ticks / f64::from(hertz))).context("/proc/stat has no line `cpu`")
    }

    /// Seconds of it.
    pub fn since(self, before: Self) -> f64 {
        self.0 - before.0
    }
}

/// User, nice, system, irq and softirq; not idle, iowait and what the host of a virtual machine took.
fn read(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|f| f.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().map(|i| fields.get(i)).sum()
}

/// The share of the machine that is in use while nothing is measured.
pub fn idle_share() -> Result<f64> {
    let (before, start) = (Busy::now()?, Instant::now());
    thread::sleep(Duration::from_millis(500));
    let cores =
        thread::available_parallelism().map_or(1.0, |n| f64::from(u32::try_from(n.get()).unwrap_or(1)));
    Ok(Busy::now()?.since(before) / start.elapsed().as_secs_f64() / cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_counted() {
        let busy = read("cpu  1 20 300 4000 50000 600000 7000000 8 0 0\ncpu0 9").unwrap();
        assert!((busy - 7_600_321.0).abs() < 0.5, "{busy}");
        assert_eq!(read("intr 1"), None);
    }
}
