//! Processes in a namespace, whose standard error is read line by line and can be waited for.

use std::{
    io::{BufRead as _, BufReader, Write as _},
    os::unix::process::CommandExt as _,
    process::{Child, Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sys::signal::{Signal, kill, killpg},
    unistd::Pid,
};

use crate::{PATIENCE, net::Namespace};

/// A value that threads change and others wait for.
#[derive(Debug, Default)]
pub struct Watched<T> {
    value: Mutex<T>,
    changed: Condvar,
}

impl<T> Watched<T> {
    /// Looks at it.
    pub fn get(&self) -> MutexGuard<'_, T> {
        self.value.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes it and wakes who waits.
    pub fn change<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let result = work(&mut self.get());
        self.changed.notify_all();
        result
    }

    /// Waits until `holds`, or until patience is over; says which.
    pub fn wait(&self, holds: impl FnMut(&T) -> bool) -> bool {
        self.wait_for(PATIENCE, holds)
    }

    /// Waits until `holds`, but no longer than `at_most`; says which.
    pub fn wait_for(&self, at_most: std::time::Duration, mut holds: impl FnMut(&T) -> bool) -> bool {
        let waited = self.changed.wait_timeout_while(self.get(), at_most, |value| !holds(value));
        let (_guard, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        !timeout.timed_out()
    }
}

/// What a process wrote to standard error.
#[derive(Debug, Default)]
pub struct Said {
    /// Its lines.
    pub lines: Vec<String>,
    /// Nothing more will come.
    pub ended: bool,
}

/// A running process; killed on drop.
#[derive(Debug)]
pub struct Process {
    child: Child,
    said: Arc<Watched<Said>>,
    reader: Option<JoinHandle<()>>,
}

impl Process {
    /// Starts `command` in a namespace. A child has the namespace of the thread that starts it.
    pub fn start(ns: &Namespace, command: &mut Command) -> Result<Self> {
        let name = command.get_program().to_string_lossy().into_owned();
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        // A group of its own, so that its children can be ended with it.
        command.process_group(0);
        let mut child = ns.enter(|| command.spawn().with_context(|| format!("start `{name}`")))?;
        let stderr = child.stderr.take().context("no standard error to read")?;
        let said = Arc::new(Watched::<Said>::default());
        let writer = Arc::clone(&said);
        let reader = thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                writer.change(|said| said.lines.push(line));
            }
            writer.change(|said| said.ended = true);
        });
        Ok(Self { child, said, reader: Some(reader) })
    }

    /// Its lines so far.
    pub fn lines(&self) -> Vec<String> {
        self.said.get().lines.clone()
    }

    /// Waits for a line behind the first `from` that `wanted` accepts.
    pub fn await_line(&self, from: usize, wanted: impl Fn(&str) -> bool) -> Result<String> {
        let found =
            |said: &Said| said.lines.iter().skip(from).find(|line| wanted(line)).map(String::to_owned);
        self.said.wait(|said| said.ended || found(said).is_some());
        let said = self.said.get();
        found(&said).with_context(|| format!("the awaited line did not come:\n{}", said.lines.join("\n")))
    }

    /// Waits until its lines are as `wanted`; says whether they are.
    pub fn await_lines(&self, wanted: impl Fn(&[String]) -> bool) -> bool {
        self.said.wait(|said| said.ended || wanted(&said.lines))
    }

    /// Whether its standard error has ended, and it with that.
    pub fn has_ended(&self) -> bool {
        self.said.get().ended
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("process id")?);
        kill(pid, signal).context("signal a process")
    }

    /// Sends a signal and waits for the end.
    pub fn end(&mut self, signal: Signal) -> Result<ExitStatus> {
        let pid = Pid::from_raw(i32::try_from(self.child.id()).context("process id")?);
        if self.child.try_wait()?.is_none() {
            kill(pid, signal).context("signal a process")?;
        }
        let status = self.child.wait()?;
        // Children of its own would keep its standard error open. Usually there are none.
        let _ = killpg(pid, Signal::SIGKILL);
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
        Ok(status)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.reader.is_some() {
            let _ = self.end(Signal::SIGKILL);
        }
        if thread::panicking() {
            eprintln!("--- said by process {}:\n{}", self.child.id(), self.lines().join("\n"));
        }
    }
}

/// What a finished command gave.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Its exit code; -1 if a signal ended it.
    pub code: i32,
    /// Standard output, as text.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// Standard output, if it succeeded.
    pub fn ok(self) -> Result<String> {
        if self.code != 0 {
            bail!("exit code {}: {}{}", self.code, self.stderr, self.stdout);
        }
        Ok(self.stdout)
    }
}

/// Runs `command` in a namespace to its end, `input` at its standard input.
pub fn run(ns: &Namespace, command: &mut Command, input: &[u8]) -> Result<Finished> {
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = ns.enter(|| command.spawn().with_context(|| format!("start `{name}`")))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A command that does not read is no fault.
        let _ = stdin.write_all(input);
    }
    let output = child.wait_with_output()?;
    Ok(Finished {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}
