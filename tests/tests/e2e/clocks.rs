//! A wall clock that jumps, for the daemon alone: revocations end by boot time in the kernel and by wall time on the disk.

use std::{fs, path::Path};

use anyhow::Result;
use portcullis_tests::{World, client::bearer, has, is_root, skip, until};

const LIBRARY: &str = "faketime/libfaketime.so.1";

/// The library by which one process sees another time; `None` where it is not there.
fn library() -> Option<String> {
    let dirs = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib"];
    let found = dirs.map(|dir| format!("{dir}/{LIBRARY}")).into_iter().find(|path| Path::new(path).is_file());
    if found.is_none() || !has("faketime") {
        skip("needs libfaketime");
        return None;
    }
    found
}

/// What a daemon is started with to see the time that is so many seconds (`+7200`) off, as the file says at each look.
/// `None` where the library is not there.
pub fn wrong_clock(file: &Path) -> Option<Vec<(String, String)>> {
    let library = library()?;
    let file = file.display().to_string();
    let all = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME_TIMESTAMP_FILE", &file),
        ("FAKETIME_NO_CACHE", "1"),
        // Boot time goes on as it does.
        ("DONT_FAKE_MONOTONIC", "1"),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    Some(all.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec())
}

/// Whether the server reads a request with this token.
fn passes(w: &World, token: &str) -> Result<bool> {
    Ok(w.connect()?.ask(&bearer("/", token))?.status == 200)
}

#[test]
fn a_wall_clock_that_jumps_ahead_and_back_ends_no_revocation_for_good_and_brings_none_back() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = World::make()?;
    let clock = w.dir.path("clock");
    let Some(environment) = wrong_clock(&clock) else { return Ok(()) };
    let set = |seconds: i64| fs::write(&clock, format!("{seconds:+}\n"));
    set(0)?;
    assert!(w.daemon.stop()?.success());
    w.daemon.environment = environment;
    w.daemon.restart()?;
    let stepped = |w: &World, seen: usize| {
        w.daemon.await_log(seen, "the wall clock was stepped: expiries are written anew", "")
    };
    let (token, other, lifted) = (w.mint.hs256()?, w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&token)?;
    let id = w.daemon.revoke(&lifted)?;
    w.daemon.ask(&["unrevoke", &id], "")?.ok()?;
    w.assert_refused(&token);
    let claims = |w: &World| Ok::<_, anyhow::Error>(w.daemon.status()?["revocations"]["claims"].clone());
    // Ahead, beyond the hour for which it is revoked: it lapses, and is not erased. Then right again.
    let seen = w.daemon.log().len();
    set(7200)?;
    stepped(&w, seen)?;
    until(|| passes(&w, &token))?;
    assert_eq!(claims(&w)?, 1);
    let seen = w.daemon.log().len();
    set(0)?;
    stepped(&w, seen)?;
    until(|| Ok(!passes(&w, &token)?))?;
    w.assert_refused(&token);
    // Behind: it holds, and one that is ordered then holds for its hour.
    let seen = w.daemon.log().len();
    set(-7200)?;
    stepped(&w, seen)?;
    w.assert_refused(&token);
    w.daemon.revoke(&other)?;
    w.assert_refused(&other);
    // Killed with a wrong clock, the kernel goes on by its own; started with one that is wrong the other way, what is over by
    // that lapses, and holds again when it is right. Without a restart.
    w.daemon.kill9()?;
    w.assert_refused(&token);
    set(7200)?;
    w.daemon.restart()?;
    assert!(passes(&w, &token)?);
    assert_eq!(claims(&w)?, 2);
    let seen = w.daemon.log().len();
    set(0)?;
    stepped(&w, seen)?;
    until(|| Ok(!passes(&w, &token)?))?;
    w.assert_refused(&token);
    w.assert_passes(&lifted);
    // By boot time in the kernel: what ends while there is no daemon ends.
    let short = w.mint.hs256()?;
    w.daemon.json(&["revoke", "--ttl", "3s"], &short)?;
    w.assert_refused(&short);
    w.daemon.kill9()?;
    until(|| passes(&w, &short))?;
    w.assert_refused(&token);
    Ok(())
}
