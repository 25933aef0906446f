//! `portcullis revocations backup` and `restore`: the store's files, not the daemon's answers. Both belong to root.

use std::path::PathBuf;

use clap::Args as ClapArgs;

use super::{OK, Outcome, audit::From, print, print_json, table::time};
use crate::revoke::{self, Held};

/// Copy the store to a directory, while the daemon runs or not
///
/// The copy is of one moment: all that was acknowledged then. It is opened and its chain checked before it has its name. It
/// needs the fingerprint key beside it, which this does not copy.
///
/// Example: portcullis revocations backup /var/backups/revocations-$(date +%F)
#[derive(Debug, ClapArgs)]
pub struct BackupArgs {
    /// A directory that is not there yet
    #[arg(value_name = "DIR")]
    to: PathBuf,
    #[command(flatten)]
    from: From,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Put a copy in the place of the store, while the daemon is stopped
///
/// What was ordered or lifted since the copy was made is then as it was. A store that is there is set aside, and that only
/// with --force.
///
/// Example: portcullis revocations restore /var/backups/revocations-2026-11-25 --force
#[derive(Debug, ClapArgs)]
pub struct RestoreArgs {
    /// The copy
    #[arg(value_name = "DIR")]
    copy: PathBuf,
    /// Set aside what is there
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    to: From,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl BackupArgs {
    pub fn run(self) -> Outcome {
        let held = revoke::backup(&self.from.dir()?, &self.to)?;
        if self.json {
            print_json(&serde_json::to_value(&held)?)?;
        } else {
            print(&format!("copied to {}, and verified: {}", self.to.display(), shown(&held)))?;
        }
        Ok(OK)
    }
}

impl RestoreArgs {
    pub fn run(self) -> Outcome {
        let store = self.to.dir()?;
        let actor = format!("uid:{}", nix::unistd::getuid());
        let done = revoke::restore(&self.copy, &store, self.to.keys()?, self.force, &actor)?;
        if self.json {
            print_json(&serde_json::to_value(&done)?)?;
            return Ok(OK);
        }
        let before = match (&done.before, &done.kept) {
            (Some(before), Some(kept)) => {
                format!("\nwas there: {}\n  kept in {}", shown(before), kept.display())
            }
            (None, Some(kept)) => format!("\nwhat was there could not be read\n  kept in {}", kept.display()),
            _ => "\nnothing was there".to_owned(),
        };
        print(&format!(
            "restored to {}: {}{before}\nstart the daemon to have it in force",
            store.display(),
            shown(&done.now)
        ))?;
        Ok(OK)
    }
}

fn shown(held: &Held) -> String {
    let at = if held.time == 0 { "empty".to_owned() } else { time(held.time) };
    format!(
        "{} revocations up to entry {} of {at} (hash {}), key {:08x}, {} KiB",
        held.revocations,
        held.entry,
        held.hash,
        held.key_id,
        held.bytes >> 10
    )
}
