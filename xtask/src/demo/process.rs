//! Child processes that do not outlive the demo, with their output in files.

use std::{
    fs::File,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Stdio},
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{exec::Cmd, interrupt};

const PATIENCE: Duration = Duration::from_secs(20);
const PAUSE: Duration = Duration::from_millis(50);

/// A running program; killed when dropped.
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts it with everything it prints added to `log`.
    ///
    /// In a process group of its own: Ctrl-C on the terminal is for the demo, which ends its children in order.
    pub fn start(name: &'static str, command: Cmd, log: &Path) -> Result<Self> {
        let shown = command.to_string();
        let out = File::options()
            .create(true)
            .append(true)
            .open(log)
            .with_context(|| format!("cannot open `{}`", log.display()))?;
        let err = out.try_clone().context("cannot share the log between output and errors")?;
        let child = command
            .into_inner()
            .stdin(Stdio::null())
            .stdout(out)
            .stderr(err)
            .process_group(0)
            .spawn()
            .with_context(|| format!("cannot start `{shown}`"))?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until `is_ready`; an error if the process ends first or takes too long.
    pub fn wait_until(&mut self, what: &str, mut is_ready: impl FnMut() -> bool) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            interrupt::check()?;
            if let Some(status) = self.child.try_wait().context("cannot wait for a child process")? {
                bail!("the {} ended ({status}) before it was {what}; it said:\n{}", self.name, self.tail());
            }
            if is_ready() {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the {} is not {what} after {PATIENCE:?}; it said:\n{}", self.name, self.tail());
            }
            sleep(PAUSE);
        }
    }

    /// Kills it with -9 and takes its body away.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill the {}", self.name))?;
        self.child.wait().with_context(|| format!("cannot wait for the {}", self.name))?;
        Ok(())
    }

    /// The end of what it printed.
    pub fn tail(&self) -> String {
        const LINES: usize = 25;
        let text = std::fs::read(&self.log).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
        let text = text.unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let tail = &lines[lines.len().saturating_sub(LINES)..];
        tail.iter().fold(String::new(), |said, line| said + "    " + line + "\n")
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec;

    #[test]
    fn a_process_that_ends_early_is_reported_with_what_it_said() {
        let log = std::env::temp_dir().join(format!("portcullis-xtask-process-{}", std::process::id()));
        let mut process =
            Process::start("daemon", exec::cmd("sh").args(["-c", "echo no such interface; exit 1"]), &log)
                .unwrap();
        let error = process.wait_until("ready", || false).unwrap_err().to_string();
        assert!(error.contains("before it was ready") && error.contains("no such interface"), "{error}");
        std::fs::remove_file(log).unwrap();
    }

    #[test]
    fn a_dropped_process_is_gone() {
        let log = std::env::temp_dir().join(format!("portcullis-xtask-drop-{}", std::process::id()));
        let process = Process::start("server", exec::cmd("sleep").arg("1000"), &log).unwrap();
        let proc = Path::new("/proc").join(process.id().to_string());
        assert!(proc.exists());
        drop(process);
        assert!(!proc.exists());
        std::fs::remove_file(log).unwrap();
    }
}
