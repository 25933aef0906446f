//! What the end-to-end tests work with: namespaces, a daemon, servers, clients and tokens.
//!
//! Everything is real: the kernel, the daemon's binary, TCP connections, nginx and curl. Each test makes a
//! [`World`] of its own, in network namespaces and a directory that no other test or process uses, so that
//! tests run side by side and fixed ports cannot be taken. All of it is removed on drop, also on a panic, and
//! what a killed run left is swept by the next. Nothing waits for a length of time: helpers wait for an event
//! or fail when [`PATIENCE`] is over.

#![allow(clippy::missing_panics_doc, reason = "tests panic to fail")]
#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on has failed"))]

pub mod bench;
pub mod bpffs;
pub mod cgroup;
pub mod client;
pub mod config;
pub mod daemon;
pub mod dir;
pub mod figures;
pub mod fleet;
pub mod frames;
pub mod gateway;
pub mod grpc;
pub mod guard;
pub mod h2;
pub mod inside;
pub mod nats;
pub mod net;
pub mod pki;
pub mod process;
pub mod server;
mod shipped;
pub mod six;
pub mod tokens;
pub mod web;
pub mod wire;
pub mod world;

use std::time::Duration;

pub use world::World;

/// How long an event is awaited before a test fails. No test depends on how fast anything is.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Everything that tests make outside their directory begins with this, followed by the process id.
pub const PREFIX: &str = "portcullis-test-";

/// Whether this is root. If not, says that the running test is skipped.
pub fn is_root() -> bool {
    let root = nix::unistd::geteuid().is_root();
    if !root {
        skip("needs root");
    }
    root
}

/// Whether a program is there. If not, says that the running test is skipped.
pub fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    let found = dirs.into_iter().any(|dir| dir.join(program).is_file());
    if !found {
        skip(&format!("needs `{program}`"));
    }
    found
}

/// Whether long tests run at full length: `cargo xtask test --thorough`.
pub fn is_thorough() -> bool {
    std::env::var("PORTCULLIS_THOROUGH").is_ok_and(|v| !v.is_empty())
}

/// Waits until a condition holds that nothing announces.
pub fn until(mut holds: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    while !holds()? {
        anyhow::ensure!(start.elapsed() < PATIENCE, "what was awaited did not come");
    }
    Ok(())
}

/// Says that the running test is skipped, in the words that `cargo xtask test` counts.
pub fn skip(why: &str) {
    println!("SKIPPED {}: {why}", std::thread::current().name().unwrap_or("test"));
}
