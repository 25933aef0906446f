//! `portcullis fingerprint`

use clap::Args as ClapArgs;
use http::Method;
use serde_json::json;

use super::{OK, Outcome, client::Ask, input::TokenSource, print, print_json};

/// Print a token's fingerprint, its only name in maps, store, events and logs
///
/// Example: portcullis fingerprint < token.txt
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    token: TokenSource,
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        let body = json!({"token": self.token.read()?.as_str()});
        let answer = self.ask.target.call(Method::POST, "/v1/fingerprint", Some(&body))?;
        if self.ask.json {
            print_json(&answer)?;
        } else {
            print(answer["fingerprint"].as_str().unwrap_or_default())?;
        }
        Ok(OK)
    }
}
