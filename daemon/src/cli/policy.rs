//! `portcullis policy`: tests, checks and questions about a policy set, without a daemon; and the running daemon's
//! candidate.

mod ask;
mod bench;
mod check;
mod diff;
mod inputs;
mod live;
mod source;
mod test;

use clap::{Args as ClapArgs, Subcommand};

use super::Outcome;
use crate::policy;

/// Test, check and examine a policy set; promote a running daemon's candidate
///
/// Example: portcullis policy test -v policies
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Test(test::Args),
    Check(check::Args),
    Eval(ask::EvalArgs),
    Explain(ask::ExplainArgs),
    Bench(bench::Args),
    Inputs(inputs::Args),
    Diff(diff::Args),
    Shadow(live::ShadowArgs),
    Promote(live::PromoteArgs),
    Rollback(live::RollbackArgs),
}

impl Args {
    pub fn run(self) -> Outcome {
        // On a stack as large as the daemon's own.
        let thread = std::thread::Builder::new().stack_size(policy::STACK).spawn(|| self.here())?;
        thread.join().unwrap_or_else(|cause| std::panic::resume_unwind(cause))
    }

    fn here(self) -> Outcome {
        match self.command {
            Command::Test(a) => a.run(),
            Command::Check(a) => a.run(),
            Command::Eval(a) => a.run(),
            Command::Explain(a) => a.run(),
            Command::Bench(a) => a.run(),
            Command::Inputs(a) => a.run(),
            Command::Diff(a) => a.run(),
            Command::Shadow(a) => a.run(),
            Command::Promote(a) => a.run(),
            Command::Rollback(a) => a.run(),
        }
    }
}
