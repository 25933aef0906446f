//! `portcullis decide`

use clap::Args as ClapArgs;
use http::Method;
use serde_json::{Value, json};

use super::{DENIED, Failure, OK, Outcome, client::Ask, input::TokenSource, print, print_json};

/// Ask the running daemon for one decision, with each step that led to it
///
/// Nothing is cached, counted or condemned. Exit code 0 if the request is allowed, 5 if it is denied.
///
/// Example: portcullis decide --method POST --path /v1/orders < token.txt
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    token: TokenSource,
    /// Ask without a token
    #[arg(long, conflicts_with = "token_file")]
    no_token: bool,
    /// The request's method
    #[arg(long, default_value = "GET")]
    method: String,
    /// The request's path, with its query
    #[arg(long)]
    path: String,
    /// The request's host
    #[arg(long, default_value = "")]
    host: String,
    /// The client's address
    #[arg(long, default_value = "")]
    source: String,
    /// A header that policies may read, as name:value
    #[arg(long = "header", value_name = "NAME:VALUE")]
    headers: Vec<String>,
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut headers = serde_json::Map::new();
        for h in &self.headers {
            let (name, value) = h
                .split_once(':')
                .ok_or_else(|| Failure::new(super::FAILED, format!("--header \"{h}\" is not name:value")))?;
            headers.insert(name.trim().to_ascii_lowercase(), value.trim().into());
        }
        let mut body = json!({"method": self.method, "path": self.path, "host": self.host, "source": self.source, "headers": headers});
        if !self.no_token {
            body["token"] = self.token.read()?.as_str().into();
        }
        let e = self.ask.target.call(Method::POST, "/v1/decide", Some(&body))?;
        if self.ask.json {
            print_json(&e)?;
        } else {
            print(&human(&e))?;
        }
        Ok(if e["allow"] == true { OK } else { DENIED })
    }
}

fn human(e: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut lines = Vec::new();
    match e["fingerprint"].as_str() {
        Some(f) => lines.push(format!("1. token     {f}: {}", text(&e["token_status"]))),
        None => lines.push(format!("1. token     {}", text(&e["token_status"]))),
    }
    if let Value::Object(identity) = &e["identity"] {
        for (k, v) in identity.iter().filter(|(k, _)| *k != "claims") {
            lines.push(format!("     {k:<10} {}", text(v)));
        }
    }
    lines.push(format!("2. revoked   {}", if e["revoked"] == true { "yes" } else { "no" }));
    lines.push(format!("3. policy    {}", e["policy"]));
    let allow = if e["allow"] == true { "allow" } else { "deny" };
    lines.push(format!("=> {allow} {} ({})", e["status"], text(&e["reason"])));
    lines.join("\n")
}
