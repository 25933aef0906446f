//! `portcullis reload`

use clap::Args as ClapArgs;
use http::Method;

use super::{OK, Outcome, client::Ask, print, print_json};

/// Load the policies again, all or nothing
///
/// A set that does not parse, compile or pass its tests is refused, and the one in force stays.
///
/// Example: portcullis reload
#[derive(Debug, ClapArgs)]
pub struct ReloadArgs {
    #[command(flatten)]
    ask: Ask,
}

impl ReloadArgs {
    pub fn run(self) -> Outcome {
        let answer = self.ask.target.call(Method::POST, "/v1/reload", None)?;
        if self.ask.json {
            print_json(&answer)?;
        } else {
            print(&format!("policy generation {} is in force", answer["generation"]))?;
        }
        Ok(OK)
    }
}
