//! `portcullis revoke`

use clap::Args as ClapArgs;
use http::Method;
use serde_json::json;

use super::{OK, Outcome, client::Target, input::TokenSource, print, print_json, table::time};

/// Revoke a token: when this returns, the revocation is on disk and in force in the kernel
///
/// The token is read from standard input, or from a file; it is never an argument, where `ps` would show it.
///
/// Example: portcullis revoke --ttl 7d --reason "leaked in ticket 42" < token.txt
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    token: TokenSource,
    /// Revoke by fingerprint, as `portcullis fingerprint` and `events` show it
    #[arg(long, value_name = "HEX", conflicts_with = "token_file")]
    fingerprint: Option<String>,
    /// How long it holds, such as 30m, 12h, 7d (default: `revocation.default_ttl`)
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Who ordered it, beside the user id that the daemon notes anyway
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut body = json!({"reason": self.reason});
        match &self.fingerprint {
            Some(f) => body["fingerprint"] = f.as_str().into(),
            None => body["token"] = self.token.read()?.as_str().into(),
        }
        if let Some(ttl) = &self.ttl {
            body["ttl"] = ttl.as_str().into();
        }
        if let Some(actor) = &self.actor {
            body["actor"] = actor.as_str().into();
        }
        let claim = self.target.call(Method::POST, "/v1/revocations", Some(&body))?;
        if self.json {
            print_json(&claim)?;
        } else {
            let until = time(claim["until"].as_i64().unwrap_or(0));
            let fingerprint = claim["fingerprint"].as_str().unwrap_or_default();
            print(&format!("revoked: {fingerprint} until {until} (revocation {})", claim["id"]))?;
        }
        Ok(OK)
    }
}
