//! `portcullis audit`

use std::path::PathBuf;

use clap::{Args as ClapArgs, Subcommand};
use serde_json::{Value, json};

use super::{FAILED, Failure, OK, Outcome, print, print_json, table::time};
use crate::{
    config, hex,
    plain::escaped,
    revoke::{AuditLog, KeyIds},
    token::FingerprintKeys,
};

/// Read the audit log, and check that nobody changed it
///
/// It is read from the store's files, which belong to root; the daemon may run meanwhile. Every entry holds the hash of the
/// one before it: `verify` finds what was changed, left out or added between any two of them. To know that the whole was
/// not written anew, keep entries' hashes elsewhere, as receipts have them, and give them with --expect.
///
/// Example: portcullis audit verify --expect 17:5f3c…
///
/// Example: portcullis audit show --json | jq 'select(.actor == "uid:1000")'
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check the chain from the oldest entry that is kept to the last
    Verify {
        #[command(flatten)]
        from: From,
        /// An entry and its hash, which must be in the chain
        #[arg(long, value_name = "ENTRY:HASH")]
        expect: Vec<String>,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print what was ordered, by whom, when, and what came of it
    Show {
        #[command(flatten)]
        from: From,
        /// Only what comes after this entry
        #[arg(long, value_name = "ENTRY", default_value_t = 0)]
        after: u64,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
pub struct From {
    /// Configuration file, whose `revocation.store` names the directory
    #[arg(long, short, value_name = "FILE", default_value = "/etc/portcullis/portcullis.toml")]
    config: PathBuf,
    /// The store's directory, where there is no configuration, as of a copy
    #[arg(long, value_name = "DIR", conflicts_with = "config")]
    store: Option<PathBuf>,
}

impl From {
    /// The store's directory.
    pub fn dir(&self) -> Result<PathBuf, Failure> {
        Ok(match &self.store {
            Some(dir) => dir.clone(),
            None => config::load(&self.config)?.revocation.store,
        })
    }

    /// Ids of this host's fingerprint keys, where there is a configuration and the keys.
    pub fn keys(&self) -> Result<Option<KeyIds>, Failure> {
        if self.store.is_some() {
            return Ok(None);
        }
        let token = config::load(&self.config)?.token;
        if !token.fingerprint_key.exists() {
            return Ok(None);
        }
        let keys = FingerprintKeys::load(&token.fingerprint_key, token.other_fingerprint_key.as_deref())?;
        Ok(Some(KeyIds { own: keys.own.id(), other: keys.other.map(|k| k.id()) }))
    }

    fn open(&self) -> Result<AuditLog, Failure> {
        Ok(AuditLog::open(&self.dir()?)?)
    }
}

impl Args {
    pub fn run(self) -> Outcome {
        match self.command {
            Command::Verify { from, expect, json } => verify(&from, &expect, json),
            Command::Show { from, after, json } => show(&from, after, json),
        }
    }
}

fn verify(from: &From, expect: &[String], json: bool) -> Outcome {
    let mut expected = Vec::new();
    for text in expect {
        let (entry, hash) = text.split_once(':').unwrap_or_default();
        let entry: u64 = entry.parse().map_err(|_| {
            Failure::new(2, format!("--expect \"{text}\" is not an entry's number, a colon and its hash"))
        })?;
        expected.push((entry, hash.to_ascii_lowercase(), false));
    }
    let (mut count, mut last) = (0_u64, 0);
    let (start, end) = from.open()?.read(|e| {
        count += 1;
        last = e.time;
        for (entry, hash, seen) in &mut expected {
            *seen |= *entry == e.entry && *hash == hex::encode(&e.hash);
        }
    })?;
    if let Some((entry, ..)) = expected.iter().find(|(.., seen)| !seen) {
        let why = if *entry <= start.seq {
            "is older than what is kept"
        } else {
            "is not in the log with this hash"
        };
        return Err(Failure::new(FAILED, format!("the audit log does not verify: entry {entry} {why}")));
    }
    let hash = hex::encode(&end.hash);
    if json {
        print_json(
            &json!({"verified": true, "after": start.seq, "last": end.seq, "hash": hash, "lines": count}),
        )?;
    } else {
        print(&format!(
            "the audit log verifies: entries {} to {}, {count} lines, the last of {}\nhash of entry {}: {hash}",
            start.seq + 1,
            end.seq,
            time(last),
            end.seq,
        ))?;
    }
    Ok(OK)
}

fn show(from: &From, after: u64, json: bool) -> Outcome {
    let mut failed = None;
    from.open()?.read(|e| {
        if e.entry <= after || failed.is_some() {
            return;
        }
        let printed = if json { print(&e.json().to_string()) } else { print(&line(&e.json())) };
        failed = printed.err();
    })?;
    failed.map_or(Ok(OK), Err)
}

/// A line for people.
fn line(e: &Value) -> String {
    let text = |name: &str| escaped(e[name].as_str().unwrap_or("-"));
    let mut what: Vec<String> = Vec::new();
    for (name, value) in e.as_object().into_iter().flatten() {
        if !["entry", "time", "hash", "action", "actor"].contains(&name.as_str()) {
            let shown = escaped(&value.as_str().map_or_else(|| value.to_string(), str::to_owned));
            if !shown.is_empty() {
                what.push(format!("{name}={shown}"));
            }
        }
    }
    let at = time(e["time"].as_i64().unwrap_or(0));
    format!("{:>6}  {at}  {:<8}  {:<16}  {}", e["entry"], text("action"), text("actor"), what.join(" "))
}
