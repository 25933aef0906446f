//! The daemon's binary: running it, killing it, and its other commands.

use std::{
    env,
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    sync::OnceLock,
};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    PATIENCE,
    client::{Answer, http},
    config::{DOORS, OBSERVE},
    dir::repository,
    net::Namespace,
    process::{Finished, Process, run},
};

/// The executable: what `cargo xtask test` names, else the one in the target directory, built if need be.
pub fn binary() -> Result<PathBuf> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        if let Some(path) = env::var_os("PORTCULLIS_BIN") {
            return Some(path.into());
        }
        let target = env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
        let target = repository().join(target.unwrap_or_else(|| "target".into()));
        let binary = target.join("debug/portcullis");
        let built = || {
            let mut cargo = Command::new("cargo");
            cargo.args(["build", "-p", "portcullis"]).current_dir(repository());
            cargo.status().is_ok_and(|status| status.success())
        };
        (binary.is_file() || built()).then_some(binary)
    });
    found.clone().context("no `portcullis` to test: run `cargo xtask test`, which builds it")
}

/// A daemon in a namespace; killed on drop.
#[derive(Debug)]
pub struct Daemon {
    ns: Namespace,
    config: PathBuf,
    socket: PathBuf,
    /// What it has in its environment from the next start on.
    pub environment: Vec<(String, String)>,
    process: Option<Process>,
}

impl Daemon {
    /// Starts it and waits until it is ready.
    pub fn start(ns: &Namespace, config: &Path, socket: &Path) -> Result<Self> {
        let mut daemon = Self {
            ns: ns.clone(),
            config: config.to_owned(),
            socket: socket.to_owned(),
            environment: Vec::new(),
            process: None,
        };
        daemon.restart()?;
        Ok(daemon)
    }

    /// Starts it again after an end, and waits until it is ready.
    pub fn restart(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "the daemon runs already");
        let mut command = Command::new(binary()?);
        command.args(["run", "--config"]).arg(&self.config);
        command.envs(self.environment.iter().map(|(name, value)| (name, value)));
        let process = Process::start(&self.ns, &mut command)?;
        process.await_line(0, |line| message(line).as_deref() == Some("ready"))?;
        self.process = Some(process);
        Ok(())
    }

    /// kill -9, and its end.
    pub fn kill9(&mut self) -> Result<()> {
        self.end(Signal::SIGKILL).map(drop)
    }

    /// SIGTERM, and its end.
    pub fn stop(&mut self) -> Result<ExitStatus> {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        self.process.take().context("the daemon does not run")?.end(signal)
    }

    /// Stops its processes where they stand (SIGSTOP), or lets them go on (SIGCONT).
    pub fn freeze(&self, frozen: bool) -> Result<()> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        process.signal(if frozen { Signal::SIGSTOP } else { Signal::SIGCONT })
    }

    /// Most memory it has held since its start, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let id = self.process.as_ref().context("the daemon does not run")?.id();
        let status = std::fs::read_to_string(format!("/proc/{id}/status"))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:")).context("no VmHWM")?;
        let kib: u64 = line.split_whitespace().next().context("no number")?.parse()?;
        Ok(kib * 1024)
    }

    /// What it logged since its last start.
    pub fn log(&self) -> Vec<String> {
        self.process.as_ref().map(Process::lines).unwrap_or_default()
    }

    /// Waits for a log line behind the first `from` with this message and `part` somewhere in it.
    pub fn await_log(&self, from: usize, wanted: &str, part: &str) -> Result<()> {
        let process = self.process.as_ref().context("the daemon does not run")?;
        let fits = |line: &str| message(line).as_deref() == Some(wanted) && line.contains(part);
        process.await_line(from, fits).map(drop)
    }

    /// A command of the binary that needs no daemon, to its end.
    pub fn command(&self, args: &[&str]) -> Result<Finished> {
        let mut command = Command::new(binary()?);
        command.args(args).arg("--config").arg(&self.config);
        run(&self.ns, &mut command, b"")
    }

    /// A command that asks the daemon, ready to be started.
    pub fn prepare(&self, args: &[&str]) -> Result<Command> {
        let mut command = Command::new(binary()?);
        command.args(args).arg("--socket").arg(&self.socket);
        Ok(command)
    }

    /// A command that asks the daemon, `input` at its standard input, to its end.
    pub fn ask(&self, args: &[&str], input: &str) -> Result<Finished> {
        run(&self.ns, &mut self.prepare(args)?, input.as_bytes())
    }

    /// The same with `--json`; it must succeed.
    pub fn json(&self, args: &[&str], input: &str) -> Result<Value> {
        let output = self.ask(&[args, &["--json"]].concat(), input)?.ok()?;
        serde_json::from_str(&output).with_context(|| format!("not JSON: {output}"))
    }

    /// Revokes a token for an hour and gives the revocation's id.
    pub fn revoke(&self, token: &str) -> Result<String> {
        Ok(self.json(&["revoke", "--ttl", "1h"], token)?["id"].to_string())
    }

    /// `status`.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"], "")
    }

    /// A counter of the kernel's.
    pub fn counter(&self, name: &str) -> Result<u64> {
        let status = self.status()?;
        status["kernel"]["counters"][name].as_u64().with_context(|| format!("no counter {name}: {status}"))
    }

    /// Waits until a counter of the kernel's is at least `least`: for outcomes that nobody is told of.
    pub fn await_counter(&self, name: &str, least: u64) -> Result<()> {
        let start = std::time::Instant::now();
        while self.counter(name)? < least {
            if start.elapsed() > PATIENCE {
                bail!("counter {name} did not reach {least}: {}", self.status()?);
            }
        }
        Ok(())
    }

    /// A request to `/auth`, as a gateway would ask for this original one.
    pub fn auth(&self, method: &str, uri: &str, token: &str) -> Result<Answer> {
        let head = format!(
            "GET /auth HTTP/1.1\r\nX-Original-Method: {method}\r\nX-Original-URI: {uri}\r\n\
             Authorization: Bearer {token}"
        );
        http(&self.ns, DOORS.parse()?, &head, b"")
    }

    /// A query of the data API.
    pub fn data(&self, path: &str, body: &str) -> Result<Answer> {
        http(&self.ns, DOORS.parse()?, &format!("POST /v1/data/{path} HTTP/1.1"), body.as_bytes())
    }

    /// `/metrics`.
    pub fn metrics(&self) -> Result<String> {
        Ok(http(&self.ns, OBSERVE.parse()?, "GET /metrics HTTP/1.1", b"")?.body)
    }
}

/// The message of a JSON log line.
fn message(line: &str) -> Option<String> {
    serde_json::from_str::<Value>(line).ok()?["message"].as_str().map(str::to_owned)
}
