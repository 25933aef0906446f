//! Three hosts and a NATS server that syncs each message: from the acknowledgement on one host to the first request that the
//! others' kernels refuse, and how soon a host that was cut off refuses what it missed.

use std::{
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{admin::Admin, percentile};
use crate::{
    PATIENCE,
    client::{Client, bearer},
    figures::Figures,
    fleet::{Fleet, Host},
    nats::{Setting, Version},
};

/// What was promised, for the 99th percentile.
const LIMIT_MS: f64 = 20.0;
/// What was promised after a minute.
const HEALED_S: f64 = 2.0;

/// Measures, with all that is synced on the disk of `dir`.
pub fn measure(figures: &mut Figures, dir: &Path, quick: bool) -> Result<()> {
    fs::create_dir(dir)?;
    let setting = Setting { store: Some(dir.to_owned()), ..Setting::alone(Version::Current) };
    let Some(mut fleet) = Fleet::hub(&[setting])? else { return Ok(()) };
    for n in 0..3 {
        // Joined to a directory, a whole path stays what it is.
        let store: &'static str =
            Box::leak(dir.join(format!("host{n}")).display().to_string().into_boxed_str());
        fleet.add_with("", |config, _| {
            (config.store, config.log, config.max_entries) = (store, "info", 65_536);
            Ok(())
        })?;
    }
    fleet.settle()?;
    let others = &fleet.hosts[1..];
    let mut admin = Admin::connect(&fleet.hosts[0].dir.path("admin.sock"))?;
    let (mut late, mut first) = (Vec::new(), Vec::new());
    for n in 0..if quick { 30 } else { 500 } {
        let took = one(&mut admin, others, &token(n))?;
        first.push(took.0);
        late.extend(took.1);
    }
    late.sort_by(f64::total_cmp);
    first.sort_by(f64::total_cmp);
    let what = "from the acknowledgement on one host; by requests one after the other on one connection";
    figures.add("fleet: acknowledged on the host itself: p50", percentile(&first, 0.5), "ms", "");
    figures.add("fleet: refused by another host's kernel: p50", percentile(&late, 0.5), "ms", what);
    figures.at_most(
        "fleet: refused by another host's kernel: p99",
        percentile(&late, 0.99),
        "ms",
        LIMIT_MS,
        what,
    );
    figures.add("fleet: refused by another host's kernel: max", percentile(&late, 1.0), "ms", what);
    let (cut, rounds) = if quick { (Duration::from_secs(6), 1) } else { (Duration::from_mins(1), 3) };
    let mut healed = Vec::new();
    for n in 0..rounds {
        healed.push(heal(&mut admin, &others[0], cut, 1_000_000 + 100 * n)?);
    }
    healed.sort_by(f64::total_cmp);
    let what =
        format!("a host was cut off for {} s; 20 revocations meanwhile; {rounds} times", cut.as_secs());
    figures.at_most(
        "fleet: all refused after a partition: max",
        percentile(&healed, 1.0),
        "s",
        HEALED_S,
        &what,
    );
    Ok(())
}

/// Tokens as long as one that is signed by ES256.
fn token(n: usize) -> String {
    format!("ey{n:0>420}.{n:0>12}.{}", "s".repeat(86))
}

/// Milliseconds until the acknowledgement, and from there until each other host refuses; 0 where it did before.
fn one(admin: &mut Admin, others: &[Host], token: &str) -> Result<(f64, Vec<f64>)> {
    let asking: Vec<AtomicBool> = others.iter().map(|_| AtomicBool::new(false)).collect();
    thread::scope(|scope| {
        let watched: Vec<_> = others
            .iter()
            .zip(&asking)
            .map(|(host, asking)| scope.spawn(move || refused(host, token, asking)))
            .collect();
        let start = Instant::now();
        while !asking.iter().all(|a| a.load(Ordering::Relaxed)) {
            ensure!(start.elapsed() < PATIENCE, "the other hosts are not asked");
            thread::yield_now();
        }
        let took = admin.revoke(token)?;
        let acknowledged = Instant::now();
        let mut late = Vec::new();
        for w in watched {
            let at = w.join().map_err(|_| anyhow!("a client panicked"))??;
            late.push(at.saturating_duration_since(acknowledged).as_secs_f64() * 1e3);
        }
        Ok((took, late))
    })
}

/// When a host's kernel refused a request first, or ended the connection on which they came.
fn refused(host: &Host, token: &str, asking: &AtomicBool) -> Result<Instant> {
    let request = bearer("/bench", token);
    let mut client = Client::connect(host.hub(), host.address()?)?;
    let start = Instant::now();
    while start.elapsed() < PATIENCE {
        match client.ask(&request) {
            Ok(answer) if answer.is_servers() => asking.store(true, Ordering::Relaxed),
            Ok(_) => return Ok(Instant::now()),
            // The revocation ended the connection, in the middle of an answer.
            Err(_) if asking.load(Ordering::Relaxed) => return Ok(Instant::now()),
            Err(e) => return Err(e),
        }
    }
    Err(anyhow!("it was not refused"))
}

/// Seconds from the end of a partition until the host refuses all that was revoked meanwhile.
fn heal(admin: &mut Admin, host: &Host, cut: Duration, from: usize) -> Result<f64> {
    host.cut(true)?;
    let begun = Instant::now();
    let tokens: Vec<String> = (from..from + 20).map(token).collect();
    for token in &tokens {
        admin.revoke(token)?;
        thread::sleep(cut / 25);
    }
    thread::sleep(cut.saturating_sub(begun.elapsed()));
    host.cut(false)?;
    let healed = Instant::now();
    for token in &tokens {
        while !host.refuses(token).unwrap_or(false) {
            ensure!(healed.elapsed() < PATIENCE, "what was missed did not come");
        }
    }
    let seconds = healed.elapsed().as_secs_f64();
    host.await_fleet(|f| f["server"].is_string()).context("it is connected again")?;
    Ok(seconds)
}
