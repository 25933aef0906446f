//! Debian's and Ubuntu's package manager: what it offers, and installing from it.

use anyhow::{Context as _, Result};

use super::Say;
use crate::{exec, privilege};

pub fn is_here() -> bool {
    exec::find("apt-get").is_some()
}

/// The commands that [`install`] would run, for people.
pub fn commands(packages: &[&str]) -> String {
    format!("    sudo apt-get update\n    sudo apt-get install {}", packages.join(" "))
}

/// Whether all `packages` can be had without removing others, after one refresh of the lists if they are unknown.
pub fn offers(packages: &[&str], say: &Say) -> Result<bool> {
    if !is_here() {
        return Ok(false);
    }
    if known(packages) {
        return Ok(harmless(packages));
    }
    if privilege::way() == privilege::Way::None {
        return Ok(false);
    }
    refresh(say)?;
    Ok(known(packages) && harmless(packages))
}

/// Whether installing removes nothing: rustc-web would push out Debian's own rustc, or its rustup.
fn harmless(packages: &[&str]) -> bool {
    exec::cmd("apt-get")
        .args(["-q", "--simulate", "--no-remove", "--no-install-recommends", "install"])
        .args(packages)
        .succeeds()
}

fn known(packages: &[&str]) -> bool {
    exec::cmd("apt-cache")
        .arg("policy")
        .args(packages)
        .env("LC_ALL", "C")
        .read()
        .is_ok_and(|text| candidates(&text) == packages.len())
}

/// How many packages of `apt-cache policy`'s answer can be installed.
fn candidates(policy: &str) -> usize {
    policy
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Candidate: "))
        .filter(|version| *version != "(none)")
        .count()
}

fn refresh(say: &Say) -> Result<()> {
    say.acting("refreshing the package lists (apt-get update)");
    privilege::root_command("apt-get", "to refresh the package lists")?
        .args(["-q", "-o", "DPkg::Lock::Timeout=120", "update"])
        .run()
}

/// Installs `packages`, saying `why`.
pub fn install(packages: &[&str], why: &str, say: &Say) -> Result<()> {
    let by_hand = || format!("cannot install {}; run\n{}", packages.join(", "), commands(packages));
    if !offers(packages, say).with_context(by_hand)? {
        anyhow::bail!(by_hand());
    }
    say.acting(&format!("installing {} ({why})", packages.join(", ")));
    privilege::root_command("env", &format!("to install {}", packages.join(", ")))
        .with_context(by_hand)?
        .args(["DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-o", "DPkg::Lock::Timeout=120"])
        .args(["install", "--yes", "--no-install-recommends", "--no-remove"])
        .args(packages)
        .run()
        .with_context(by_hand)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packages_without_a_candidate_are_not_offered() {
        let policy = "rustc-web:\n  Installed: (none)\n  Candidate: 1.96.0+dfsg1-1\n\
                      ghost:\n  Installed: (none)\n  Candidate: (none)\n";
        assert_eq!(candidates(policy), 1);
        assert_eq!(candidates(""), 0);
    }
}
