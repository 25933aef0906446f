//! Processor time: of the whole machine, and of the processes that take part.
//!
//! The machine's (`/proc/stat`) has everything in it: interrupts, the kernel's own threads, and whatever else runs. The
//! parties' (`schedstat` of each thread) has what ran in their name, which on a veth pair is nearly all, and nothing of
//! others: it is the one to go by on a machine that is not quiet.

use std::{
    fs,
    ops::Sub,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::{
        resource::{UsageWho, getrusage},
        time::TimeValLike as _,
    },
    unistd::{SysconfVar, sysconf},
};

use crate::net::Namespace;

/// Seconds of processor time.
#[derive(Clone, Copy, Debug)]
pub struct Cpu {
    /// Of the whole machine.
    pub machine: f64,
    /// Of this process and those in the server's namespace.
    pub parties: f64,
}

impl Sub for Cpu {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self { machine: self.machine - before.machine, parties: self.parties - before.parties }
    }
}

impl Cpu {
    /// Used up to now.
    pub fn now(server: &Namespace) -> Result<Self> {
        Ok(Self { machine: machine()?, parties: parties(server)? })
    }

    /// Microseconds for each of so many.
    pub fn each(self, n: u32) -> Self {
        Self { machine: self.machine * 1e6 / f64::from(n), parties: self.parties * 1e6 / f64::from(n) }
    }
}

fn machine() -> Result<f64> {
    let stat = fs::read_to_string("/proc/stat").context("read /proc/stat")?;
    let hertz = sysconf(SysconfVar::CLK_TCK)?.and_then(|hz| u32::try_from(hz).ok()).unwrap_or(100);
    read(&stat).map(|ticks| ticks / f64::from(hertz)).context("/proc/stat has no line `cpu`")
}

/// User, nice, system, irq and softirq; not idle, iowait and what the host of a virtual machine took.
fn read(stat: &str) -> Option<f64> {
    let line = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
    let fields: Vec<f64> = line.split_whitespace().map_while(|f| f.parse().ok()).collect();
    [0, 1, 2, 5, 6].into_iter().map(|i| fields.get(i)).sum()
}

fn parties(server: &Namespace) -> Result<f64> {
    let pids = Command::new("ip").args(["netns", "pids", server.name()]).output().context("run `ip`")?;
    let mut all: Vec<String> =
        String::from_utf8_lossy(&pids.stdout).split_whitespace().map(str::to_owned).collect();
    // A thread of this one may be in the namespace. Its flooders' threads have ended, so it is asked as a whole.
    all.retain(|pid| *pid != std::process::id().to_string());
    let own = getrusage(UsageWho::RUSAGE_SELF)?;
    let mut nanos = 0.0;
    for time in [own.user_time(), own.system_time()] {
        #[allow(clippy::cast_precision_loss, reason = "a time")]
        let micros = time.num_microseconds() as f64;
        nanos += micros * 1e3;
    }
    for pid in all {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            // One that has ended meanwhile had done its work.
            let text = fs::read_to_string(task.path().join("schedstat")).unwrap_or_default();
            nanos += text.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).unwrap_or(0.0);
        }
    }
    Ok(nanos / 1e9)
}

/// The share of the machine that is in use while nothing is measured.
pub fn idle_share() -> Result<f64> {
    let (before, start) = (machine()?, Instant::now());
    thread::sleep(Duration::from_millis(500));
    let cores =
        thread::available_parallelism().map_or(1.0, |n| f64::from(u32::try_from(n.get()).unwrap_or(1)));
    Ok((machine()? - before) / start.elapsed().as_secs_f64() / cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_time_is_not_counted() {
        let busy = read("cpu  1 20 300 4000 50000 600000 7000000 8 0 0\ncpu0 9").unwrap();
        assert!((busy - 7_600_321.0).abs() < 0.5, "{busy}");
        assert!(read("intr 1").is_none());
    }
}
