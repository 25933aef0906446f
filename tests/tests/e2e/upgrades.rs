//! The daemon killed, stopped, reloaded and replaced while traffic goes on: never a gap.

use std::{
    fs,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use anyhow::{Result, ensure};
use portcullis_tests::{
    World,
    client::{Client, bearer},
    is_root, is_thorough,
    net::{Namespace, SERVER_V4, guarded},
    process::Watched,
    server::End,
};

/// What traffic came to.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    live: u64,
    revoked: u64,
    /// Connections of live requests that were ended.
    ended: u64,
    /// A thread has given up.
    failed: bool,
}

#[derive(Default)]
struct Tally {
    counts: Watched<Counts>,
    stop: AtomicBool,
}

/// Marks the tally when a thread gives up.
struct Mark<'a>(&'a Tally);

impl Drop for Mark<'_> {
    fn drop(&mut self) {
        self.0.counts.change(|c| c.failed = true);
    }
}

/// Sends live requests on a connection that it keeps for a while.
fn live(ns: &Namespace, token: &str, tally: &Tally) -> Result<()> {
    let _mark = Mark(tally);
    while !tally.stop.load(SeqCst) {
        let mut client = Client::connect(ns, guarded(SERVER_V4))?;
        for i in 0..20 {
            match client.ask(&bearer("/live", token)) {
                Ok(answer) => ensure!(answer.status == 200 && answer.is_servers(), "{answer:?}"),
                Err(e) => {
                    eprintln!("after {i} requests: {e:#}");
                    tally.counts.change(|c| c.ended += 1);
                    break;
                }
            }
            tally.counts.change(|c| c.live += 1);
        }
    }
    Ok(())
}

/// Sends revoked requests, each on a connection of its own.
fn revoked(ns: &Namespace, token: &str, tally: &Tally) -> Result<()> {
    let _mark = Mark(tally);
    while !tally.stop.load(SeqCst) {
        let mut client = Client::connect(ns, guarded(SERVER_V4))?;
        let sent = client.send(&bearer("/revoked", token));
        let (bytes, end) = if sent.is_ok() { client.rest()? } else { (Vec::new(), End::Reset) };
        let text = String::from_utf8_lossy(&bytes);
        ensure!(end == End::Reset || text.starts_with("HTTP/1.1 401 "), "{end:?}: {text}");
        tally.counts.change(|c| c.revoked += 1);
    }
    Ok(())
}

/// Goes on with `cycle` while live and revoked requests are sent; each cycle sees some of both.
fn under_traffic(
    w: &mut World,
    cycles: u32,
    mut cycle: impl FnMut(&mut World, u32) -> Result<()>,
) -> Result<Counts> {
    let (good, bad) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&bad)?;
    let tally = Tally::default();
    let ns = w.net.client.clone();
    thread::scope(|scope| -> Result<()> {
        let workers = [scope.spawn(|| live(&ns, &good, &tally)), scope.spawn(|| revoked(&ns, &bad, &tally))];
        let done = (0..cycles).try_for_each(|n| {
            let before = *tally.counts.get();
            cycle(w, n)?;
            let seen =
                |c: &Counts| c.failed || (c.live >= before.live + 5 && c.revoked >= before.revoked + 5);
            ensure!(tally.counts.wait(seen), "traffic stands still: {:?}", *tally.counts.get());
            Ok(())
        });
        tally.stop.store(true, SeqCst);
        for worker in workers {
            worker.join().unwrap()?;
        }
        done
    })?;
    let parsed = w.server.requests();
    assert!(!parsed.iter().any(|head| head.contains(&bad)), "a revoked request was parsed");
    let counts = *tally.counts.get();
    assert!(parsed.len() as u64 >= counts.live);
    Ok(counts)
}

#[test]
fn kills_restarts_and_reloads_let_no_revoked_request_through_and_end_no_live_connection() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let counts = under_traffic(&mut w, if is_thorough() { 100 } else { 24 }, |w, n| match n % 3 {
        0 => {
            w.daemon.kill9()?;
            w.daemon.restart()
        }
        1 => {
            w.daemon.stop()?;
            w.daemon.restart()
        }
        _ => {
            // Another size of answer, and now and then the other mode.
            w.config.kernel = format!("answer_body = '{{\"n\":{n}}}'");
            w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
            w.daemon.ask(&["reload"], "")?.ok().map(drop)
        }
    })?;
    assert_eq!(counts.ended, 0, "live connections were ended");
    Ok(())
}

#[test]
fn an_upgrade_with_maps_of_another_layout_has_no_gap_and_ends_what_it_does_not_know() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let pins = w.dir.path(w.config.pin_dir);
    let layout = || -> Result<String> {
        let names = fs::read_dir(&pins)?.filter_map(|e| e.ok()?.file_name().into_string().ok());
        let all: Vec<_> = names.filter(|n| n.starts_with("layout-")).collect();
        ensure!(all.len() == 1, "{all:?}");
        Ok(all[0].clone())
    };
    let own = layout()?;
    let idle = w.mint.hs256()?;
    let counts = under_traffic(&mut w, 5, |w, _| {
        let mut client = w.connect()?;
        ensure!(client.ask(&bearer("/idle", &idle))?.status == 200);
        w.daemon.stop()?;
        // As if a daemon of another layout had made them.
        fs::rename(pins.join(&own), pins.join("layout-1"))?;
        w.daemon.restart()?;
        ensure!(layout()? == own, "the other layout's maps are gone");
        ensure!(client.ask(&bearer("/idle", &idle)).is_err(), "of what came before nothing is known");
        Ok(())
    })?;
    println!("{counts:?}");
    Ok(())
}
