//! `portcullis demo-token`: signs a token for the demonstration and for tests.

use std::{fs, path::PathBuf};

use anyhow::Context as _;
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use clap::Args as ClapArgs;

use super::{OK, Outcome, print};

/// Sign a token with an HMAC key (HS256), for demonstrations and tests
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// The secret, as `hmac_file` names it
    #[arg(long, value_name = "FILE")]
    hmac_file: PathBuf,
    /// The claims, as JSON
    #[arg(long, value_name = "JSON")]
    claims: String,
}

impl Args {
    pub fn run(self) -> Outcome {
        let claims: serde_json::Value = serde_json::from_str(&self.claims).context("--claims is not JSON")?;
        let secret =
            fs::read(&self.hmac_file).with_context(|| format!("cannot read {}", self.hmac_file.display()))?;
        // The verifier reads the file the same way: without the line end of a text file.
        let secret = secret.strip_suffix(b"\n").unwrap_or(&secret);
        let secret = secret.strip_suffix(b"\r").unwrap_or(secret);
        let head = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        let input = format!("{head}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
        print(&format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag)))?;
        Ok(OK)
    }
}
