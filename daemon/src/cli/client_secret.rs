//! `portcullis client-secret`

use anyhow::anyhow;
use aws_lc_rs::{digest, rand};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args as ClapArgs;
use serde_json::json;
use zeroize::Zeroizing;

use super::{OK, Outcome, print, print_json};
use crate::hex;

/// Make a secret for an OAuth client of the standards' endpoints, and its hash for the configuration
///
/// The secret is shown once and kept nowhere.
///
/// Example: portcullis client-secret
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut *bytes).map_err(|_| anyhow!("the system gave no random bytes"))?;
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(*bytes));
        let hash = hex::encode(digest::digest(&digest::SHA256, secret.as_bytes()).as_ref());
        if self.json {
            print_json(&json!({"client_secret": *secret, "secret_sha256": hash}))?;
        } else {
            print(&format!(
                "client_secret: {}\nsecret_sha256 = [\"{hash}\"]   # in its [[standards.client]] table",
                *secret
            ))?;
        }
        Ok(OK)
    }
}
