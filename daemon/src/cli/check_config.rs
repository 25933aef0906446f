//! `portcullis check-config`

use std::path::PathBuf;

use clap::Args as ClapArgs;
use serde_json::json;

use super::{FAILED, OK, Outcome, print, print_json};
use crate::{
    app,
    config::{self, ConfigError},
    policy,
};

/// Check a configuration and the policies it names, without touching the kernel
///
/// Every fault is named with file, line and key. Exit code 1 if there is one.
///
/// Example: portcullis check-config /etc/portcullis/portcullis.toml
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The configuration file
    #[arg(value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let checked = config::load(&self.config);
        let faults: Vec<String> = match &checked {
            Ok(c) => {
                let load = |bundles: &[PathBuf]| {
                    let dirs: Vec<PathBuf> = c.policy.dirs.iter().chain(bundles).cloned().collect();
                    policy::load(&dirs, &c.policy.decision, &app::policy_options(c))
                };
                let loaded = app::with_bundles(c, load).and_then(|l| l.map_err(|e| e.to_string()));
                let rehearsed = app::rehearse(c, loaded.as_ref().ok());
                loaded.err().into_iter().chain(rehearsed).collect()
            }
            Err(ConfigError(faults)) => faults.iter().map(ToString::to_string).collect(),
        };
        if self.json {
            print_json(&json!({"good": faults.is_empty(), "faults": faults}))?;
        } else if faults.is_empty() {
            print(&format!("{}: good", self.config.display()))?;
        } else {
            print(&faults.join("\n"))?;
        }
        Ok(if faults.is_empty() { OK } else { FAILED })
    }
}
