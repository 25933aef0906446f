//! The demo's steps, in the order they are told.

use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::{
    client, daemon,
    expect::Expected,
    net::{SERVER_ADDRESS, SERVER_DEVICE},
    process::Process,
    server,
    stage::Stage,
};
use crate::{
    exec::{self, Cmd},
    interrupt,
};

/// The example policy lets a token live for an hour from its `iat`, whatever its `exp` says.
const TOO_OLD: u64 = 4000;

pub fn play(stage: &mut Stage, policies: &Path) -> Result<()> {
    let mut told = Steps { number: 0 };
    let request = client::request;

    told.step("An example API server and the daemon start in a network namespace of their own")?;
    daemon::prepare(stage, policies)?;
    daemon::start(stage)?;
    start_server(stage)?;
    println!(
        "      guarded: port {} on {SERVER_DEVICE}; the server asks the daemon at http://{}/auth",
        daemon::GUARDED_PORT,
        daemon::AUTH_ADDRESS
    );
    daemon::mint(stage, "alice", "orders:read orders:write", 0)?;
    daemon::mint(stage, "bob", "orders:read", 0)?;
    daemon::mint(stage, "carol", "orders:read", TOO_OLD)?;

    told.step("A good token is let through")?;
    told.check(Expected::from_server(&[200]), || request(stage, "GET", "/v1/orders", "alice"))?;
    told.check(Expected::from_server(&[200]), || request(stage, "GET", "/v1/orders", "bob"))?;

    told.step("A token without the scope for writing is denied by the policy")?;
    told.check(Expected::from_server(&[403]), || request(stage, "POST", "/v1/orders", "bob"))?;

    told.step(
        "Alice's token is revoked; from the acknowledgement on the kernel answers, the server reads nothing",
    )?;
    command(stage, &["revoke", "--reason", "demo"], Some("alice.token"))?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "alice"))?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "alice"))?;

    told.step(
        "Carol's token is older than the policy allows: denied once by the daemon, then by the kernel",
    )?;
    told.check(Expected::from_server(&[401, 403]), || request(stage, "GET", "/v1/orders", "carol"))?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "carol"))?;

    told.step("Others are not touched")?;
    told.check(Expected::from_server(&[200]), || request(stage, "GET", "/v1/orders", "bob"))?;

    told.step("What was counted")?;
    command(stage, &["status"], None)?;

    told.step("The daemon is killed with -9: the kernel goes on; whom no one can judge is refused")?;
    let daemon = stage.daemon.as_mut().context("the daemon is not running")?;
    println!("      $ kill -9 {}", daemon.id());
    daemon.kill()?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "alice"))?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "carol"))?;
    told.check(Expected::from_server(&[503]), || request(stage, "GET", "/v1/orders", "bob"))?;

    told.step("It starts again, adopts what is pinned, and all is still so")?;
    daemon::start(stage)?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "alice"))?;
    told.check(Expected::FROM_KERNEL, || request(stage, "GET", "/v1/orders", "carol"))?;
    told.check(Expected::from_server(&[200]), || request(stage, "GET", "/v1/orders", "bob"))?;

    println!("\nAll {} steps were as expected.", told.number);
    println!("{FOR_REAL}");
    Ok(())
}

const FOR_REAL: &str = "
To run it for real:
    cargo build --release -p portcullis        # after `cargo xtask build-ebpf`
    portcullis check-config portcullis.toml
    sudo portcullis run --config portcullis.toml
README.md has a configuration to begin with; deploy/ has a systemd unit and nginx in front of a service.";

struct Steps {
    number: usize,
}

impl Steps {
    fn step(&mut self, title: &str) -> Result<()> {
        interrupt::check()?;
        self.number += 1;
        println!("\n[{}] {title}", self.number);
        Ok(())
    }

    /// Does something and holds what was seen against what is expected.
    fn check(&self, expected: Expected, act: impl FnOnce() -> Result<super::expect::Seen>) -> Result<()> {
        interrupt::check()?;
        let seen = act().with_context(|| format!("step {}: expected {expected}", self.number));
        // A client killed by the same Ctrl-C is not a finding.
        interrupt::check()?;
        let seen = seen?;
        println!("        expected  {expected}");
        if !expected.holds(&seen) {
            println!("        seen      {seen}   ✗");
            bail!("step {}: expected {expected}; seen {seen}", self.number);
        }
        println!("        seen      {seen}   ✓");
        Ok(())
    }
}

fn start_server(stage: &mut Stage) -> Result<()> {
    let me = std::env::current_exe().context("cannot find this program's own path")?;
    let log = stage.write("server.log", "")?;
    let address = format!("{SERVER_ADDRESS}:{}", daemon::GUARDED_PORT);
    let command = stage
        .net
        .in_server()
        .arg(me)
        .args(["demo-server", "--listen", &address, "--auth", daemon::AUTH_ADDRESS, "--log"])
        .arg(log);
    let said = stage.path("server.out");
    let mut process = Process::start("server", command, &said)?;
    // The line, not a connection: that would be traffic before the first step.
    process.wait_until("listening", || {
        std::fs::read_to_string(&said).is_ok_and(|text| text.contains(server::LISTENING))
    })?;
    stage.server = Some(process);
    Ok(())
}

/// Runs a command of the daemon at its admin socket and shows what it printed.
fn command(stage: &Stage, args: &[&str], token_file: Option<&str>) -> Result<()> {
    let complete = |mut run: Cmd| {
        if let Some(file) = token_file {
            run = run.arg("--token-file").arg(stage.path(file));
        }
        run.arg("--socket").arg(stage.path("admin.sock"))
    };
    // Shown as a user would type it, without the way into the namespace.
    println!("      $ {}", complete(exec::cmd("portcullis").args(args)));
    let run = complete(daemon::portcullis(stage, args));
    for line in run.read()?.lines() {
        println!("        {line}");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::expect::{Answerer, Seen};

    #[test]
    fn a_step_fails_when_something_else_is_seen() {
        let steps = Steps { number: 4 };
        let seen = |status| Seen { status, by: Answerer::Server, before: 0, after: 1 };
        assert!(steps.check(Expected::from_server(&[200]), || Ok(seen(200))).is_ok());
        let error = steps.check(Expected::from_server(&[200]), || Ok(seen(403))).unwrap_err().to_string();
        assert!(error.starts_with("step 4: expected 200 from the server"), "{error}");
        assert!(steps.check(Expected::FROM_KERNEL, || bail!("no answer")).is_err());
    }
}
