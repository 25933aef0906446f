//! The only way to run things in this repository: `cargo xtask <task>`.
//!
//! One file a task. A task prints what it does to the machine and why, is silent where there is nothing to
//! do, and fails with one sentence that says what to do next.

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic"))]

mod bench;
mod demo;
mod docs;
mod ebpf;
mod exec;
mod interrupt;
mod privilege;
mod repo;
mod setup;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", about = "Tasks of the Portcullis repository")]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Install what a purpose needs and is missing; quiet when nothing is
    Setup(setup::Args),
    /// Build the kernel programs to `target/bpf/portcullis.bpf.o`
    BuildEbpf(ebpf::Args),
    /// Run every test, the privileged ones included where that is possible
    Test(test::Args),
    /// Check the walls between the rooms and the other rules of docs/ARCHITECTURE.md
    Tidy,
    /// Show the whole of it at work in network namespaces that exist for the demo alone
    Demo(demo::Args),
    /// Measure, print a table and write target/bench/results.json
    Bench(bench::Args),
    /// Write the generated pages of docs/, or check that they are current
    Docs(docs::Args),
    /// The privileged part of `demo`
    #[command(hide = true)]
    DemoStage(demo::StageArgs),
    /// The example API server of `demo`
    #[command(hide = true)]
    DemoServer(demo::server::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().task {
        Task::Setup(args) => setup::run(&args),
        Task::BuildEbpf(args) => ebpf::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Tidy => tidy::run(),
        Task::Demo(args) => demo::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Docs(args) => docs::run(&args),
        Task::DemoStage(args) => demo::stage(&args),
        Task::DemoServer(args) => demo::server::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<interrupt::Interrupted>() => {
            eprintln!("interrupted");
            ExitCode::from(130)
        }
        Err(error) if error.is::<exec::AlreadySaid>() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_test_filter_follows_two_dashes() {
        let Task::Test(args) = Cli::parse_from(["xtask", "test", "--quick", "--", "head"]).task else {
            panic!()
        };
        assert!(args.quick);
        assert_eq!(args.filter, ["head"]);
    }
}
