//! Becoming root for single steps, never silently.

use anyhow::{Result, bail};
use nix::unistd::geteuid;
use std::io::IsTerminal as _;

use crate::exec::{self, Cmd};

/// How this process can run a step as root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// It is root.
    Root,
    /// `sudo` works without asking.
    SudoQuiet,
    /// `sudo` may ask on this terminal.
    SudoAsking,
    /// No way.
    None,
}

pub fn is_root() -> bool {
    geteuid().is_root()
}

pub fn way() -> Way {
    if is_root() {
        Way::Root
    } else if exec::find("sudo").is_none() {
        Way::None
    } else if exec::cmd("sudo").args(["-n", "true"]).succeeds() {
        Way::SudoQuiet
    } else if std::io::stdin().is_terminal() {
        Way::SudoAsking
    } else {
        Way::None
    }
}

/// A command line that runs what follows as root.
///
/// `why` is told to the user when that takes sudo.
pub fn root_command(program: &str, why: &str) -> Result<Cmd> {
    Ok(match way() {
        Way::Root => exec::cmd(program),
        Way::SudoQuiet => {
            println!("using sudo: {why}");
            exec::cmd("sudo").args(["-n", program])
        }
        Way::SudoAsking => {
            println!("using sudo: {why}");
            exec::cmd("sudo").arg(program)
        }
        Way::None => {
            bail!("this needs root ({why}), and sudo is not there or needs a password and no terminal is")
        }
    })
}
