//! Running other programs, with errors that name the program and what it said.

use std::{
    ffi::{OsStr, OsString},
    fmt,
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
};

use anyhow::{Context as _, Result, anyhow, bail};

/// A failure whose explanation is on the screen already, such as a failed test run.
#[derive(Debug)]
pub struct AlreadySaid;

impl fmt::Display for AlreadySaid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("see above")
    }
}

impl std::error::Error for AlreadySaid {}

/// A command that can print itself the way a shell takes it.
#[derive(Debug)]
pub struct Cmd {
    inner: Command,
    shown_env: Vec<(OsString, OsString)>,
}

/// Starts a command line.
pub fn cmd(program: impl AsRef<OsStr>) -> Cmd {
    Cmd { inner: Command::new(program), shown_env: Vec::new() }
}

/// Cargo as the user called it, so that `cargo +toolchain xtask` carries through.
pub fn cargo() -> Cmd {
    cmd(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

impl Cmd {
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.inner.args(args);
        self
    }

    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.shown_env.push((key.as_ref().to_owned(), value.as_ref().to_owned()));
        self.inner.env(key, value);
        self
    }

    pub fn env_remove(mut self, key: impl AsRef<OsStr>) -> Self {
        self.inner.env_remove(key);
        self
    }

    pub fn current_dir(mut self, dir: impl AsRef<Path>) -> Self {
        self.inner.current_dir(dir);
        self
    }

    /// The underlying command, for callers that wire its pipes themselves.
    pub fn into_inner(self) -> Command {
        self.inner
    }

    /// Runs with the terminal as it is.
    pub fn status(&mut self) -> Result<ExitStatus> {
        let shown = self.to_string();
        self.inner.status().map_err(|error| could_not_start(&shown, &error))
    }

    /// Runs with the terminal as it is; anything but success is an error.
    pub fn run(mut self) -> Result<()> {
        let status = self.status()?;
        if !status.success() {
            bail!("`{self}` failed ({status})");
        }
        Ok(())
    }

    /// Runs in silence; on failure the error carries what it wrote to standard error.
    pub fn read(mut self) -> Result<String> {
        let output = self.output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{self}` failed ({}): {}", output.status, said.trim());
        }
        String::from_utf8(output.stdout)
            .with_context(|| format!("`{self}` printed something that is not UTF-8"))
    }

    /// Runs in silence and gives all that came of it.
    pub fn output(&mut self) -> Result<Output> {
        let shown = self.to_string();
        self.inner.stdin(Stdio::null()).output().map_err(|error| could_not_start(&shown, &error))
    }

    /// Whether it can be started and succeeds, in silence.
    pub fn succeeds(mut self) -> bool {
        self.output().is_ok_and(|output| output.status.success())
    }
}

fn could_not_start(shown: &str, error: &std::io::Error) -> anyhow::Error {
    anyhow!("cannot start `{shown}`: {error}")
}

impl fmt::Display for Cmd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (key, value) in &self.shown_env {
            write!(f, "{}={} ", key.display(), quoted(value))?;
        }
        f.write_str(&quoted(self.inner.get_program()))?;
        for arg in self.inner.get_args() {
            write!(f, " {}", quoted(arg))?;
        }
        Ok(())
    }
}

/// `text` as a POSIX shell reads it back.
fn quoted(text: &OsStr) -> String {
    let text = text.to_string_lossy();
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=./:@,+%".contains(c);
    if !text.is_empty() && text.chars().all(plain) {
        return text.into_owned();
    }
    // Cargo's separator between encoded flags is a control character; show it as people write it.
    format!("'{}'", text.replace('\u{1f}', " ").replace('\'', "'\\''"))
}

/// The first directory of PATH, or of the places root's tools live, that holds `program`.
pub fn find(program: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    // A user's PATH on Debian lacks the sbin directories, yet the tools there can be asked for and run by sudo.
    std::env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(Into::into))
        .map(|dir| dir.join(program))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_prints_as_a_shell_takes_it() {
        let shown = cmd("prog").env("A", "x y").args(["--flag=1", "it's", ""]).to_string();
        assert_eq!(shown, r"A='x y' prog --flag=1 'it'\''s' ''");
    }

    #[test]
    fn a_failure_carries_what_the_program_said() {
        let error = cmd("sh").args(["-c", "echo no luck >&2; exit 3"]).read().unwrap_err().to_string();
        assert!(error.contains("no luck") && error.contains("exit status: 3"), "{error}");
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = cmd("no-such-program-here").run().unwrap_err().to_string();
        assert!(error.starts_with("cannot start `no-such-program-here`"), "{error}");
    }
}
