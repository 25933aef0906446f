//! `portcullis ssf`

use std::fmt::Write as _;

use clap::{Args as ClapArgs, Subcommand};
use http::Method;
use serde_json::Value;

use super::{
    OK, Outcome,
    client::Ask,
    print, print_json,
    table::{table, time},
};

/// Show where security events come from, and manage their streams
///
/// Example: portcullis ssf verify idp
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the transmitters and what came of their events
    Status(Common),
    /// Have a verification event sent, and wait until it comes
    Verify(Named),
    /// Ask the transmitter to send events again
    Enable(Named),
    /// Ask the transmitter to keep events back for now
    Pause(Named),
    /// Ask the transmitter to send no events
    Disable(Named),
    /// Delete the stream at the transmitter; the daemon makes another when it starts again
    Delete(Named),
}

#[derive(Debug, ClapArgs)]
struct Common {
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, ClapArgs)]
struct Named {
    /// The transmitter's name in the configuration
    name: String,
    #[command(flatten)]
    common: Common,
}

impl Args {
    pub fn run(self) -> Outcome {
        let (order, named) = match self.command {
            Command::Status(c) => {
                let told = c.ask.target.call(Method::GET, "/v1/ssf", None)?;
                if c.ask.json {
                    print_json(&told)?;
                } else {
                    print(&human(&told))?;
                }
                return Ok(OK);
            }
            Command::Verify(n) => ("verify", n),
            Command::Enable(n) => ("enable", n),
            Command::Pause(n) => ("pause", n),
            Command::Disable(n) => ("disable", n),
            Command::Delete(n) => ("delete", n),
        };
        // Names have letters, digits and dashes.
        let name: String = named.name.chars().filter(|c| c.is_ascii_alphanumeric() || *c == '-').collect();
        let told = named.common.ask.target.call(Method::POST, &format!("/v1/ssf/{name}/{order}"), None)?;
        if named.common.ask.json {
            print_json(&told)?;
        } else {
            let stream = told["transmitter"]["stream"].as_str().unwrap_or("none");
            let status = told["transmitter"]["stream_status"].as_str().unwrap_or("unknown");
            print(&format!("{name}: {order} done; stream {stream}, {status}"))?;
        }
        Ok(OK)
    }
}

fn human(told: &Value) -> String {
    let when = |v: &Value| v.as_i64().map_or_else(|| "never".to_owned(), |t| time(t.saturating_mul(1000)));
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let all = told["transmitters"].as_array().cloned().unwrap_or_default();
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|t| {
            let events = t["events"].as_object().into_iter().flatten();
            let events: Vec<String> = events.map(|(what, n)| format!("{n} {what}")).collect();
            vec![
                text(&t["name"]),
                text(&t["delivery"]),
                if t["ready"] == true { "ready" } else { "NOT READY" }.to_owned(),
                text(&t["stream_status"]),
                when(&t["last_event"]),
                when(&t["last_verified"]),
                if events.is_empty() { "-".to_owned() } else { events.join(", ") },
            ]
        })
        .collect();
    let mut shown =
        table(&["NAME", "DELIVERY", "STATE", "STREAM", "LAST EVENT", "VERIFIED", "EVENTS"], &rows);
    for t in &all {
        if let Some(error) = t["error"].as_str() {
            let _ = write!(shown, "\n{}: {error}", text(&t["name"]));
        }
    }
    shown
}
