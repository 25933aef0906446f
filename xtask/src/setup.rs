//! `cargo xtask setup`: what the other tasks need on this machine, found or installed.
//!
//! Idempotent, and silent when nothing is missing. It never touches the user's default toolchain nor
//! `~/.cargo/bin`: what it builds goes to one directory below the user's cache, shared between clones. Where it
//! cannot install, the error is the commands to run.

mod apt;
mod linker;
mod python;
mod toolchain;
mod tools;

use std::cell::Cell;

use anyhow::Result;
use clap::ValueEnum;

pub use toolchain::{Route, Toolchain, cargo};

/// What the machine is to be made ready for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Purpose {
    /// Building everything, the kernel programs included
    Build,
    /// `cargo xtask demo`
    Demo,
    /// `cargo xtask test`
    Test,
    /// `cargo xtask bench`
    Bench,
}

#[derive(clap::Args)]
pub struct Args {
    /// What to make ready for; may be repeated
    #[arg(long = "for", value_enum, value_name = "PURPOSE", default_values = ["build"])]
    purposes: Vec<Purpose>,
    /// Say what is there as well
    #[arg(long, short)]
    verbose: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let say = Say { verbose: args.verbose, acted: Cell::new(false) };
    prepare(&args.purposes, &say)?;
    if say.verbose && !say.acted.get() {
        println!("nothing to do");
    }
    Ok(())
}

/// The same for other tasks, which want it quiet.
pub fn ensure(purposes: &[Purpose]) -> Result<Toolchain> {
    prepare(purposes, &Say { verbose: false, acted: Cell::new(false) })
}

fn prepare(purposes: &[Purpose], say: &Say) -> Result<Toolchain> {
    let toolchain = toolchain::ensure(say)?;
    tools::ensure(purposes, say)?;
    // Its tests can be skipped: no reason to end here.
    if let Err(error) = python::ensure(purposes, say) {
        eprintln!("note: {error:#}");
    }
    if say.verbose || say.acted.get() {
        println!("kernel programs: {toolchain}");
    }
    Ok(toolchain)
}

/// What setup tells: everything it changes, and what it found only when asked.
struct Say {
    verbose: bool,
    acted: Cell<bool>,
}

impl Say {
    /// Something on this machine is about to change.
    fn acting(&self, what: &str) {
        self.acted.set(true);
        println!("{what}");
    }

    /// Something was looked at.
    fn found(&self, what: &str) {
        if self.verbose {
            println!("{what}");
        }
    }
}
