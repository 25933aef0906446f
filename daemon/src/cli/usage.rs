//! `portcullis usage`

use clap::{Args as ClapArgs, Subcommand};
use http::Method;
use serde_json::Value;

use super::{
    OK, Outcome,
    client::Ask,
    print, print_json,
    table::{table, time},
};

/// Show when tokens and subjects were used first and last
///
/// Example: portcullis usage list --dormant 90d
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List tokens and subjects, those used longest ago first
    ///
    /// Uses are those of allowed requests on this host, to the hour.
    ///
    /// Example: portcullis usage list --dormant 90d
    List(ListArgs),
}

#[derive(Debug, ClapArgs)]
struct ListArgs {
    /// Only those that were not used for so long
    #[arg(long, value_name = "TIME")]
    dormant: Option<String>,
    /// Most entries shown
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        let Command::List(a) = self.command;
        let mut path = format!("/v1/usage?limit={}", a.limit);
        if let Some(idle) = &a.dormant {
            // A length of time has letters, digits and blanks.
            path.push_str("&dormant=");
            path.extend(idle.chars().filter(char::is_ascii_alphanumeric));
        }
        let listed = a.ask.target.call(Method::GET, &path, None)?;
        if a.ask.json {
            print_json(&listed)?;
        } else {
            print(&human(&listed))?;
        }
        Ok(OK)
    }
}

fn human(listed: &Value) -> String {
    let when = |v: &Value| time(v.as_i64().unwrap_or(0).saturating_mul(1000));
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let rows: Vec<Vec<String>> = listed["usage"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|r| {
            let name = if r["kind"] == "token" { &r["fingerprint"] } else { &Value::Null };
            vec![
                when(&r["last_used"]),
                when(&r["first_used"]),
                text(&r["subject"]),
                text(&r["client"]),
                text(&r["issuer"]),
                text(name),
            ]
        })
        .collect();
    let table = table(&["LAST USE", "FIRST USE", "SUBJECT", "CLIENT", "ISSUER", "TOKEN"], &rows);
    format!("observed since {}: what was used before is not known\n{table}", when(&listed["observed_since"]))
}
