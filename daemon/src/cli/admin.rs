//! `portcullis reload`

use clap::Args as ClapArgs;
use http::Method;

use super::{OK, Outcome, client::Target, print, print_json};

/// Load the policies again, all or nothing
///
/// A set that does not parse, compile or pass its tests is refused, and the one in force stays.
///
/// Example: portcullis reload
#[derive(Debug, ClapArgs)]
pub struct ReloadArgs {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ReloadArgs {
    pub fn run(self) -> Outcome {
        let answer = self.target.call(Method::POST, "/v1/reload", None)?;
        if self.json {
            print_json(&answer)?;
        } else {
            print(&format!("policy generation {} is in force", answer["generation"]))?;
        }
        Ok(OK)
    }
}
