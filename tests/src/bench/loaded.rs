//! Revocations while the daemon decides as fast as it is asked.

#![allow(clippy::cast_precision_loss, reason = "counts, far below 2^52")]

use std::{
    fs,
    io::{BufReader, Write as _},
    net::{SocketAddr, TcpStream},
    path::Path,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::Instant,
};

use anyhow::{Result, bail, ensure};

use super::{
    admin::{Admin, answer},
    daemon::{Daemon, Setting},
    percentile,
    tokens::Issuer,
};
use crate::figures::Figures;

/// Connections that ask without a pause.
const CLIENTS: usize = 4;
/// Requests that a client sends at once.
const AT_ONCE: usize = 16;
/// Tokens that they have between them.
const TOKENS: usize = 100;
/// What was promised: twice what an idle daemon may take.
const P50_MS: f64 = 2.0;
const P99_MS: f64 = 10.0;

/// Measures with a daemon in `dir` whose configuration begins with `tables`, and these tokens to revoke.
pub fn measure(figures: &mut Figures, dir: &Path, tables: &str, orders: &[String]) -> Result<()> {
    fs::create_dir_all(dir)?;
    let [issuer, ..] = Issuer::all()?;
    let tables = format!("{tables}{}", issuer.configure(dir)?);
    let daemon = Daemon::start(&Setting { dir, tables, core: None })?;
    let asked: Vec<String> = (0..TOKENS)
        .map(|n| {
            let token = issuer.token(&format!("l-{n}"), "read")?;
            Ok(format!(
                "GET /auth HTTP/1.1\r\nHost: bench\r\nX-Original-Method: GET\r\nX-Original-URI: /orders\r\nAuthorization: Bearer {token}\r\n\r\n"
            ))
        })
        .collect::<Result<_>>()?;
    let (stop, answered) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut took = Vec::new();
    let mut rate = 0.0;
    thread::scope(|scope| {
        let clients: Vec<_> = asked
            .chunks(TOKENS / CLIENTS)
            .map(|mine| scope.spawn(|| ask(daemon.doors, mine, &stop, &answered)))
            .collect();
        let measured = (|| {
            // Each has been answered, so that all verdicts are in the cache.
            while answered.load(Ordering::Relaxed) < (CLIENTS * TOKENS) as u64 {
                ensure!(clients.iter().all(|c| !c.is_finished()), "a client ended");
                thread::yield_now();
            }
            let mut admin = Admin::connect(&daemon.socket)?;
            let (begun, before) = (Instant::now(), answered.load(Ordering::Relaxed));
            took = orders.iter().map(|token| admin.revoke(token)).collect::<Result<_>>()?;
            rate = (answered.load(Ordering::Relaxed) - before) as f64 / begun.elapsed().as_secs_f64();
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            client.join().unwrap_or_else(|_| bail!("a client panicked"))?;
        }
        measured
    })?;
    took.sort_by(f64::total_cmp);
    let name = "revocation under full decision load";
    let what = format!("one after the other, while {CLIENTS} connections ask without a pause");
    figures.add(&format!("{name}: decisions meanwhile"), rate, "/s", "cached, clients on the same cores");
    figures.at_most(&format!("{name}: p50"), percentile(&took, 0.5), "ms", P50_MS, &what);
    figures.at_most(&format!("{name}: p99"), percentile(&took, 0.99), "ms", P99_MS, &what);
    Ok(())
}

/// Asks until it is to stop.
fn ask(doors: SocketAddr, requests: &[String], stop: &AtomicBool, answered: &AtomicU64) -> Result<()> {
    let mut to = TcpStream::connect(doors)?;
    to.set_nodelay(true)?;
    let mut reader = BufReader::new(to.try_clone()?);
    let mut next = requests.iter().cycle();
    while !stop.load(Ordering::Relaxed) {
        let together: String = next.by_ref().take(AT_ONCE).map(String::as_str).collect();
        to.write_all(together.as_bytes())?;
        for _ in 0..AT_ONCE {
            let (status, _) = answer(&mut reader)?;
            ensure!(status == "200", "a wrong answer: {status}");
        }
        answered.fetch_add(AT_ONCE as u64, Ordering::Relaxed);
    }
    Ok(())
}
