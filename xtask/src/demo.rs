//! `cargo xtask demo`: the whole of Portcullis at work, on real traffic, in about a minute.
//!
//! Two network namespaces are made, one for an example server and the daemon, one for a client, joined by a veth
//! pair; nothing of the host's network changes. Each step says what it expects, shows what was seen, and the demo
//! fails if they differ. Everything made is removed at the end, also on Ctrl-C and on failure.
//!
//! Building happens as the user who asks; the part that needs root is this program again, started by sudo.

mod client;
mod daemon;
mod expect;
mod net;
mod process;
mod script;
pub mod server;
mod stage;

use std::path::PathBuf;

use anyhow::{Context as _, Result};

use crate::{
    ebpf,
    exec::AlreadySaid,
    interrupt,
    privilege::{self, Way},
    repo,
    setup::{self, Purpose},
    test,
};

#[derive(clap::Args)]
pub struct Args {}

/// What the privileged part is told: it builds nothing and looks for nothing.
#[derive(clap::Args)]
pub struct StageArgs {
    /// The daemon's executable
    #[arg(long)]
    portcullis: PathBuf,
    /// The example policies
    #[arg(long)]
    policies: PathBuf,
}

pub fn run(_: &Args) -> Result<()> {
    println!("Setting up and building (the first time takes a few minutes) …");
    setup::ensure(&[Purpose::Build, Purpose::Demo])?;
    let object = ebpf::build()?;
    let args =
        StageArgs { portcullis: test::build_daemon(&object)?, policies: repo::root()?.join("policies") };
    if privilege::way() == Way::Root {
        return stage(&args);
    }
    let me = std::env::current_exe().context("cannot find this program's own path")?;
    let why = "to make network namespaces and load the kernel programs; everything else ran as you";
    // Ctrl-C goes to both; this one waits until the other has cleared its stage.
    interrupt::catch()?;
    let status = privilege::root_command(&me.to_string_lossy(), why)?
        .args(["demo-stage", "--portcullis"])
        .arg(&args.portcullis)
        .arg("--policies")
        .arg(&args.policies)
        .status()?;
    match status.code() {
        Some(0) => Ok(()),
        Some(130) => Err(interrupt::Interrupted.into()),
        _ => Err(AlreadySaid.into()),
    }
}

/// The part that needs root.
pub fn stage(args: &StageArgs) -> Result<()> {
    interrupt::catch()?;
    let mut stage = stage::Stage::set(args.portcullis.clone())?;
    let played = script::play(&mut stage, &args.policies);
    if played.as_ref().is_err_and(|error| !error.is::<interrupt::Interrupted>()) {
        stage.show_logs();
    }
    // Said before the error, so that the last line is why it failed.
    stage.clear();
    played
}
