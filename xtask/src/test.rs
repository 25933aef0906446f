//! `cargo xtask test`: every test there is, with one line at the end that says how it went.
//!
//! Tests that need root see for themselves whether they have it; one that does not run prints a line that
//! begins with `SKIPPED `. As root everything runs in one go. As another user, the end-to-end tests alone are
//! run by sudo where it does not ask; otherwise one line says what was left out and why.

mod tally;

use std::{
    io::{BufRead as _, BufReader, Write, stdout},
    path::{Path, PathBuf},
    process::Stdio,
};

use anyhow::{Context as _, Result};

use self::tally::Tally;
use crate::{
    ebpf,
    exec::{self, AlreadySaid, Cmd},
    privilege::{self, Way},
    repo,
    setup::{self, Purpose},
    tidy,
};

/// The end-to-end crate: the one whose tests are run by sudo.
const END_TO_END: &str = "portcullis-tests";
/// Tells the end-to-end tests which daemon to start.
pub const DAEMON_ENV: &str = "PORTCULLIS_BIN";
/// Tells tests to run at full length.
const THOROUGH_ENV: &str = "PORTCULLIS_THOROUGH";

#[derive(clap::Args)]
pub struct Args {
    /// Leave out the end-to-end and documentation tests
    #[arg(long)]
    pub quick: bool,
    /// Run long tests at full length: a million differential cases, a hundred restarts under load (some minutes)
    #[arg(long, conflicts_with = "quick")]
    pub thorough: bool,
    /// Run only tests whose name contains one of these
    #[arg(last = true)]
    pub filter: Vec<String>,
}

pub fn run(args: &Args) -> Result<()> {
    // Without nginx some tests cannot run, and say so themselves; all others can.
    if let Err(error) = setup::ensure(&[Purpose::Test]) {
        eprintln!("note: {error:#}");
    }
    let object = ebpf::build()?;
    let walls = tidy::run();

    let setting =
        Setting { root: repo::root()?, daemon: build_daemon(&object)?, object, thorough: args.thorough };
    let mut tally = Tally::default();
    let mut note = None;
    let apart = !args.quick && !privilege::is_root() && privilege::way() == Way::SudoQuiet;
    let mut all_ok = {
        let mut cargo = setting.cargo_test();
        if args.quick {
            cargo = cargo.args(["--exclude", END_TO_END, "--lib", "--bins", "--tests"]);
        } else if apart {
            cargo = cargo.args(["--exclude", END_TO_END]);
        }
        follow(cargo.arg("--no-fail-fast").args(harness_args(args)), &mut tally, &mut stdout())?
    };
    if args.quick {
        note = Some("skipped the end-to-end and documentation tests, as --quick asks".to_owned());
    } else if apart {
        println!(
            "using sudo: to run the end-to-end tests, which make network namespaces and load kernel programs"
        );
        for binary in setting.end_to_end_binaries()? {
            all_ok &= follow(
                setting.by_sudo(&binary).args(harness_args(args).into_iter().skip(1)),
                &mut tally,
                &mut stdout(),
            )?;
        }
    } else if !privilege::is_root() {
        note = Some(
            "skipped the privileged tests: not root, and sudo needs a password or is not there".to_owned(),
        );
    }
    for line in &tally.skipped_lines {
        println!("{line}");
    }
    if let Some(note) = note {
        println!("{note}");
    }
    println!("{tally}");
    walls?;
    if all_ok && tally.failed == 0 { Ok(()) } else { Err(AlreadySaid.into()) }
}

/// What follows cargo's `--`: outputs are shown so that `SKIPPED` lines are seen.
fn harness_args(args: &Args) -> Vec<String> {
    ["--".to_owned(), "--show-output".to_owned()].into_iter().chain(args.filter.iter().cloned()).collect()
}

/// Where the tests find what was built for them.
struct Setting {
    root: PathBuf,
    object: PathBuf,
    daemon: PathBuf,
    thorough: bool,
}

impl Setting {
    fn cargo_test(&self) -> Cmd {
        exec::cargo()
            .args(["test", "--workspace"])
            .env(ebpf::OBJECT_ENV, &self.object)
            .env(DAEMON_ENV, &self.daemon)
            .env(THOROUGH_ENV, self.length())
            .current_dir(&self.root)
    }

    fn length(&self) -> &'static str {
        if self.thorough { "1" } else { "" }
    }

    /// Builds the end-to-end tests as this user and gives their executables.
    fn end_to_end_binaries(&self) -> Result<Vec<PathBuf>> {
        let messages = exec::cargo()
            .args(["test", "--package", END_TO_END, "--no-run", "--message-format=json"])
            .env(ebpf::OBJECT_ENV, &self.object)
            .current_dir(&self.root)
            .read()?;
        Ok(executables(&messages))
    }

    fn by_sudo(&self, binary: &Path) -> Cmd {
        let pass = |name: &str, value: &Path| format!("{name}={}", value.display());
        exec::cmd("sudo")
            .args(["-n", "env"])
            .arg(pass(ebpf::OBJECT_ENV, &self.object))
            .arg(pass(DAEMON_ENV, &self.daemon))
            .arg(format!("{THOROUGH_ENV}={}", self.length()))
            .arg(pass("CARGO_MANIFEST_DIR", &self.root.join("tests")))
            .arg(binary)
            .current_dir(self.root.join("tests"))
    }
}

/// Builds the daemon that tests, demo and benchmarks start, and gives its path.
pub fn build_daemon(object: &Path) -> Result<PathBuf> {
    exec::cargo()
        .args(["build", "--package", "portcullis", "--bin", "portcullis"])
        .env(ebpf::OBJECT_ENV, object)
        .current_dir(repo::root()?)
        .run()?;
    Ok(repo::target()?.join("debug/portcullis"))
}

/// The test executables that cargo's messages name.
fn executables(messages: &str) -> Vec<PathBuf> {
    messages
        .lines()
        .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
        .filter(|message| message["profile"]["test"] == true)
        .filter_map(|message| message["executable"].as_str().map(PathBuf::from))
        .collect()
}

/// Runs a test command, showing its output as it comes, and adds its results to `tally`.
fn follow(command: Cmd, tally: &mut Tally, screen: &mut impl Write) -> Result<bool> {
    let shown = command.to_string();
    let mut child = command
        .into_inner()
        .stdout(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot start `{shown}`"))?;
    let output = child.stdout.take().context("the test command has no output to read")?;
    let mut reader = tally.reader();
    let mut line = Vec::new();
    let mut output = BufReader::new(output);
    loop {
        line.clear();
        if output.read_until(b'\n', &mut line).context("cannot read the test output")? == 0 {
            break;
        }
        // Tests may print what is not UTF-8; it must not end the run.
        let text = String::from_utf8_lossy(&line);
        if reader.take(text.trim_end_matches(['\n', '\r'])) {
            screen.write_all(text.as_bytes()).context("cannot write to the terminal")?;
        }
    }
    Ok(child.wait().context("cannot wait for the test command")?.success())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_test_executables_are_taken_from_cargos_messages() {
        let messages = r#"{"reason":"compiler-artifact","profile":{"test":false},"executable":"/t/daemon"}
not json
{"reason":"compiler-artifact","profile":{"test":true},"executable":"/t/end_to_end-1"}
{"reason":"compiler-artifact","profile":{"test":true},"executable":null}"#;
        assert_eq!(executables(messages), [PathBuf::from("/t/end_to_end-1")]);
    }

    #[test]
    fn a_failing_command_is_told_from_a_passing_one_and_its_results_are_counted() {
        let mut tally = Tally::default();
        // Not the screen: whoever counts this crate's own tests would count these.
        let mut shown = Vec::new();
        let script = "echo 'test result: FAILED. 1 passed; 2 failed; 0 ignored; 0 measured'; exit 101";
        assert!(!follow(exec::cmd("sh").args(["-c", script]), &mut tally, &mut shown).unwrap());
        assert!(follow(exec::cmd("true"), &mut tally, &mut shown).unwrap());
        assert_eq!(tally.to_string(), "1 passed, 2 failed, 0 skipped");
    }
}
