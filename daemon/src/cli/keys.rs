//! `portcullis keys`: API keys that the daemon issues.

use clap::{Args as ClapArgs, Subcommand};
use http::Method;
use serde_json::{Value, json};

use super::{
    OK, Outcome,
    client::Ask,
    print, print_json,
    table::{table, time},
};

/// Issue, list, rotate and disable API keys
///
/// Example: portcullis keys issue --subject ci --scope orders:read --ttl 90d > key.txt
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a key and print its text, which is shown once
    Issue {
        /// Whose it is: `sub` of its identity
        #[arg(long)]
        subject: String,
        /// The application that uses it
        #[arg(long)]
        client: Option<String>,
        /// What it may be used for; may be given several times
        #[arg(long = "scope", value_name = "SCOPE")]
        scopes: Vec<String>,
        /// Its holder's roles; may be given several times
        #[arg(long = "role", value_name = "ROLE")]
        roles: Vec<String>,
        /// How long it is good, such as 90d; for ever where it is not given
        #[arg(long, value_name = "TIME")]
        ttl: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// List all keys; their texts are not kept
    List {
        #[command(flatten)]
        common: Common,
    },
    /// Make a key in place of another and print its text, which is shown once
    Rotate {
        /// The id, as `keys list` shows it
        id: String,
        /// How long the old one goes on; not at all where it is not given
        #[arg(long, value_name = "TIME")]
        overlap: Option<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Disable a key for good, in the kernel too
    Disable {
        /// The id, as `keys list` shows it
        id: String,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, ClapArgs)]
struct Common {
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        match self.command {
            Command::Issue { subject, client, scopes, roles, ttl, common } => {
                let body = json!({
                    "subject": subject, "client": client, "scopes": scopes, "roles": roles, "ttl": ttl,
                });
                made(&common, &common.ask.target.call(Method::POST, "/v1/keys", Some(&body))?)
            }
            Command::Rotate { id, overlap, common } => {
                let path = format!("/v1/keys/{id}/rotate");
                made(
                    &common,
                    &common.ask.target.call(Method::POST, &path, Some(&json!({"overlap": overlap})))?,
                )
            }
            Command::List { common } => list(&common),
            Command::Disable { id, common } => {
                let told = common.ask.target.call(Method::POST, &format!("/v1/keys/{id}/disable"), None)?;
                if common.ask.json {
                    print_json(&told)?;
                } else if let Some(revocation) = told["revocation"].as_u64() {
                    print(&format!("disabled: {id}, and in the kernel as revocation {revocation}"))?;
                } else {
                    print(&format!("disabled: {id}"))?;
                }
                Ok(OK)
            }
        }
    }
}

/// The text alone goes to standard output, so that it can be put where it belongs without being shown.
fn made(common: &Common, told: &Value) -> Outcome {
    if common.ask.json {
        print_json(told)?;
    } else {
        print(told["token"].as_str().unwrap_or_default())?;
        eprintln!(
            "portcullis: key {}; its text is not shown again",
            told["key"]["id"].as_str().unwrap_or_default()
        );
    }
    Ok(OK)
}

fn list(common: &Common) -> Outcome {
    let told = common.ask.target.call(Method::GET, "/v1/keys", None)?;
    let keys = told["keys"].as_array().cloned().unwrap_or_default();
    if common.ask.json {
        print_json(&Value::Array(keys))?;
    } else if keys.is_empty() {
        print("no API keys")?;
    } else {
        let text = |k: &Value, name: &str| k[name].as_str().unwrap_or_default().to_owned();
        let when = |k: &Value, name: &str| {
            k[name].as_i64().map(|s| time(s.saturating_mul(1000))).unwrap_or_default()
        };
        let words = |k: &Value, name: &str| {
            let words = k[name].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.collect::<Vec<_>>().join(" ")
        };
        let rows: Vec<Vec<String>> = keys
            .iter()
            .map(|k| {
                let (id, subject, client) = (text(k, "id"), text(k, "subject"), text(k, "client"));
                vec![id, subject, client, words(k, "scopes"), when(k, "expires"), when(k, "disabled")]
            })
            .collect();
        print(&table(&["ID", "SUBJECT", "CLIENT", "SCOPES", "EXPIRES", "DISABLED"], &rows))?;
    }
    Ok(OK)
}
