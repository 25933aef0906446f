//! Reads a token without showing it.

use std::{
    fs,
    io::{IsTerminal as _, Read as _, stdin},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use clap::Args;
use zeroize::Zeroizing;

use super::Failure;

/// Longest input read for one token.
const MAX: u64 = 64 * 1024;

/// Where a token comes from.
#[derive(Debug, Args)]
pub struct TokenSource {
    /// Read the token from this file instead of standard input
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<PathBuf>,
}

impl TokenSource {
    /// The token's text, white space around it taken off.
    pub fn read(&self) -> Result<Zeroizing<String>, Failure> {
        let text = match &self.token_file {
            Some(path) => from_file(path)?,
            None => from_stdin()?,
        };
        let token = Zeroizing::new(text.trim().to_owned());
        if token.is_empty() {
            return Err(Failure::new(
                super::FAILED,
                "no token was given: pipe it in, or name a file with --token-file",
            ));
        }
        Ok(token)
    }
}

fn from_file(path: &Path) -> Result<Zeroizing<String>, Failure> {
    let file = fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    read(file).with_context(|| format!("cannot read {}", path.display())).map_err(Into::into)
}

fn from_stdin() -> Result<Zeroizing<String>, Failure> {
    if stdin().is_terminal() {
        eprintln!("Paste the token, then press Enter and Ctrl-D.");
    }
    read(stdin().lock()).context("cannot read standard input").map_err(Into::into)
}

fn read(from: impl std::io::Read) -> std::io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    from.take(MAX).read_to_string(&mut text)?;
    Ok(text)
}
