//! A million revocations at once, and ten: how fast they are taken, the memory they need, with tokens in the caches too,
//! and how long a start takes.

#![allow(clippy::cast_precision_loss, reason = "counts and bytes, far below 2^52")]

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::TcpStream,
    os::unix::net::UnixStream,
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result, bail, ensure};

use super::{
    admin::answer,
    daemon::{Daemon, Setting},
    tokens::Issuer,
};
use crate::figures::Figures;

/// Lines written at once.
const PART: usize = 4096;
/// What was promised.
const RATE: f64 = 200_000.0;
const START_SECONDS_A_MILLION: f64 = 2.0;
const BYTES_AN_ENTRY: f64 = 150.0;
const MEGABYTES: f64 = 250.0;
/// Tokens whose verdicts are kept.
const TOKENS: usize = 100_000;

/// Measures with a daemon whose configuration begins with `tables`.
pub fn measure(figures: &mut Figures, dir: &Path, tables: &str, count: usize) -> Result<()> {
    let millions = count as f64 / 1e6;
    let name = format!("{millions} million");
    let [issuer, ..] = Issuer::all()?;
    let tables = format!("{tables}{}[decide]\nmax_lag = \"0s\"\n", issuer.configure(dir)?);
    let setting = Setting { dir, tables, core: None };
    let daemon = Daemon::start(&setting)?;
    let (memory, cpu) = (daemon.memory()?, daemon.cpu()?);
    let seconds = upload(&daemon.socket, count)?;
    let what =
        "JSON lines with fingerprints on the admin socket, each batch synced, the kernel's map written";
    figures.at_least(&format!("{name} revoked in bulk"), count as f64 / seconds, "/s", RATE, what);
    let used = (daemon.cpu()? - cpu) / count as f64 * 1e6;
    figures.add(&format!("{name} revoked in bulk: CPU"), used, "µs", "of the daemon, a revocation");
    let entry = (daemon.memory()?.saturating_sub(memory)) as f64 / count as f64;
    figures.add(&format!("{name}: daemon memory an entry, after the upload"), entry, "bytes", "resident");
    // Killed: the start must bring all back from the disk. The kernel's map is pinned and goes with it.
    drop(daemon);
    fs::remove_dir_all(dir.join("bpf/portcullis"))?;
    let started = Instant::now();
    let daemon = Daemon::start(&setting)?;
    let seconds = started.elapsed().as_secs_f64();
    let limit = START_SECONDS_A_MILLION * millions.max(1.0);
    let what = "from the start of the process to ready, an empty kernel map filled";
    figures.at_most(&format!("{name}: start"), seconds, "s", limit, what);
    let entry = (daemon.memory()?.saturating_sub(memory)) as f64 / count as f64;
    figures.at_most(
        &format!("{name}: daemon memory an entry"),
        entry,
        "bytes",
        BYTES_AN_ENTRY,
        "resident, after the start",
    );
    figures.add(
        &format!("{name}: daemon memory"),
        daemon.memory()? as f64 / 1e6,
        "MB",
        "resident, all of it",
    );
    if count <= 1_000_000 {
        decide(&daemon, &issuer)?;
        let all = daemon.memory()? as f64 / 1e6;
        let name = format!("{name}, and verdicts of {TOKENS} tokens: daemon memory");
        figures.at_most(&name, all, "MB", MEGABYTES, "resident, all of it");
    }
    Ok(())
}

/// Has the daemon decide for as many tokens, each of 480 bytes, and keep that.
fn decide(daemon: &Daemon, issuer: &Issuer) -> Result<()> {
    let mut to = TcpStream::connect(daemon.doors)?;
    to.set_nodelay(true)?;
    let mut reader = BufReader::new(to.try_clone()?);
    for n in 0..TOKENS {
        let token = issuer.token(&format!("m-{n:06}"), "read")?;
        let request = format!(
            "GET /auth HTTP/1.1\r\nHost: bench\r\nX-Original-Method: GET\r\nX-Original-URI: /orders\r\nAuthorization: Bearer {token}\r\n\r\n"
        );
        to.write_all(request.as_bytes())?;
        let (status, _) = answer(&mut reader)?;
        ensure!(status == "200", "a wrong answer: {status}");
    }
    // The cache's own count lags behind by what it has not tidied up.
    let kept = daemon.gauge("portcullis_verdict_cache_entries")?;
    ensure!(kept >= TOKENS as f64 * 0.9, "{kept} verdicts are kept");
    Ok(())
}

/// Sends as many revocations and waits for the last answer; seconds.
fn upload(socket: &Path, count: usize) -> Result<f64> {
    let stream = UnixStream::connect(socket)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let started = Instant::now();
    let writing = std::thread::spawn(move || -> Result<()> {
        let mut to = stream;
        to.write_all(b"POST /v1/revocations/batch?results=errors HTTP/1.1\r\nHost: bench\r\nTransfer-Encoding: chunked\r\n\r\n")?;
        for from in (0..count).step_by(PART) {
            let line = |n: usize| {
                // Spread as fingerprints are.
                let n = (n as u128 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
                format!("{{\"fingerprint\":\"{n:032x}\",\"ttl\":\"30d\",\"reason\":\"bulk\"}}\n")
            };
            let lines: String = (from..count.min(from + PART)).map(line).collect();
            write!(to, "{:x}\r\n{lines}\r\n", lines.len())?;
        }
        Ok(to.write_all(b"0\r\n\r\n")?)
    });
    let mut line = String::new();
    loop {
        line.clear();
        if reader.read_line(&mut line)? == 0 {
            bail!("the daemon hung up");
        }
        if line.contains("\"done\":") {
            break;
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    writing.join().ok().context("the writer panicked")??;
    let wanted = format!("\"accepted\":{count}");
    if !line.contains(&wanted) {
        bail!("not all were taken: {line}");
    }
    Ok(seconds)
}
