//! The `portcullis` command: one file a command, each a struct of arguments and a `run`.
//!
//! Output for people and JSON come from the same value. Tokens are read from standard input or a file, never
//! from the command line, where `ps` shows them.

mod admin;
mod audit;
mod backup;
mod check_config;
mod client;
mod client_secret;
mod decide;
mod detach;
mod docs;
mod events;
mod fingerprint;
mod fleet;
mod import;
mod input;
mod keys;
mod lockdown;
mod mint;
mod policy;
mod revocations;
mod revoke;
mod run;
mod ssf;
mod status;
mod table;
mod upload;
mod usage;
mod wait;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

/// Success.
pub const OK: u8 = 0;
/// Something failed.
pub const FAILED: u8 = 1;
/// The daemon cannot be reached.
pub const UNREACHABLE: u8 = 3;
/// The daemon refused the order.
pub const REFUSED: u8 = 4;
/// `decide`: the request is denied.
pub const DENIED: u8 = 5;
/// An order is in force here, but has not come as far in the fleet as was asked, in time.
pub const WAITING: u8 = 6;

#[derive(Debug, Parser)]
#[command(
    name = "portcullis",
    version,
    about = "Decides API-token requests with Rego policies and answers revoked tokens in the kernel",
    after_help = "Exit codes: 0 success, 1 failure, 2 wrong usage, 3 daemon not reachable, 4 order refused by the daemon, 5 request denied (decide), 6 in force here but not in the fleet in time (--wait).\n\nExample:\n  portcullis run --config /etc/portcullis/portcullis.toml\n  portcullis revoke --reason leaked < token.txt"
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Run(run::Args),
    CheckConfig(check_config::Args),
    Revoke(revoke::Args),
    Unrevoke(revocations::UnrevokeArgs),
    Revocations(revocations::Args),
    Lockdown(lockdown::Args),
    Unlock(lockdown::UnlockArgs),
    Audit(audit::Args),
    Status(status::Args),
    Events(events::Args),
    Decide(decide::Args),
    Fingerprint(fingerprint::Args),
    Fleet(fleet::Args),
    Import(import::Args),
    Keys(keys::Args),
    Policy(policy::Args),
    Usage(usage::Args),
    ClientSecret(client_secret::Args),
    Ssf(ssf::Args),
    Reload(admin::ReloadArgs),
    Detach(detach::Args),
    /// Print completions for a shell
    ///
    /// Example: portcullis completions bash > /etc/bash_completion.d/portcullis
    Completions {
        /// The shell
        shell: clap_complete::Shell,
    },
    #[command(hide = true)]
    DemoToken(mint::Args),
    #[command(hide = true)]
    GenerateDocs(docs::Args),
}

/// An error of a command, with its exit code.
#[derive(Debug)]
struct Failure {
    code: u8,
    error: anyhow::Error,
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(e: E) -> Self {
        Self { code: FAILED, error: e.into() }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:#}", self.error)
    }
}

impl Failure {
    fn new(code: u8, message: impl Into<String>) -> Self {
        Self { code, error: anyhow::anyhow!(message.into()) }
    }
}

type Outcome = Result<u8, Failure>;

/// Parses the arguments, runs the command, and says what went wrong in one line.
pub fn main() -> ExitCode {
    let outcome = match Cli::parse().command {
        Command::Run(a) => a.run(),
        Command::CheckConfig(a) => a.run(),
        Command::Revoke(a) => a.run(),
        Command::Unrevoke(a) => a.run(),
        Command::Revocations(a) => a.run(),
        Command::Lockdown(a) => a.run(),
        Command::Unlock(a) => a.run(),
        Command::Audit(a) => a.run(),
        Command::Status(a) => a.run(),
        Command::Events(a) => a.run(),
        Command::Decide(a) => a.run(),
        Command::Fingerprint(a) => a.run(),
        Command::Fleet(a) => a.run(),
        Command::Import(a) => a.run(),
        Command::Keys(a) => a.run(),
        Command::Policy(a) => a.run(),
        Command::Usage(a) => a.run(),
        Command::ClientSecret(a) => a.run(),
        Command::Ssf(a) => a.run(),
        Command::Reload(a) => a.run(),
        Command::Detach(a) => a.run(),
        Command::Completions { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "portcullis", &mut std::io::stdout());
            Ok(OK)
        }
        Command::DemoToken(a) => a.run(),
        Command::GenerateDocs(a) => a.run(),
    };
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(f) => {
            eprintln!("portcullis: {:#}", f.error);
            ExitCode::from(f.code)
        }
    }
}

/// Writes to standard output; a reader that went away ends the command quietly.
fn print(text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    match writeln!(std::io::stdout(), "{text}") {
        Err(e) if e.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        written => Ok(written?),
    }
}

fn print_json(value: &serde_json::Value) -> Result<(), Failure> {
    print(&serde_json::to_string_pretty(value)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_token_cannot_be_given_on_the_command_line() {
        assert!(Cli::try_parse_from(["portcullis", "revoke", "eyJhbGciOiJ"]).is_err());
    }

    #[test]
    fn help_reads_as_it_should() {
        insta::assert_snapshot!(Cli::command().term_width(100).render_long_help());
    }
}
