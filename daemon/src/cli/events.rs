//! `portcullis events`

use clap::Args as ClapArgs;
use serde_json::Value;

use super::{OK, Outcome, client::Target, print, table::time};

/// Show refused requests as the kernel refuses them, until Ctrl-C
///
/// Example: portcullis events --json | jq .source
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// End after this many
    #[arg(long, value_name = "N")]
    count: Option<u64>,
    #[command(flatten)]
    target: Target,
    /// Print JSON, one object a line
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut left = self.count;
        if left == Some(0) {
            return Ok(OK);
        }
        self.target.lines("/v1/events", |line| {
            print(&if self.json { line.to_owned() } else { human(line) })?;
            left = left.map(|n| n - 1);
            Ok(left != Some(0))
        })?;
        Ok(OK)
    }
}

fn human(line: &str) -> String {
    let v: Value = serde_json::from_str(line).unwrap_or_default();
    if let Some(n) = v["missed"].as_u64() {
        return format!("… {n} events missed: this terminal is too slow");
    }
    let text = |k: &str| v[k].as_str().unwrap_or_default().to_owned();
    format!(
        "{}  {:<15}  {:<10}  {} -> {}  {}",
        time(v["time"].as_i64().unwrap_or(0)),
        text("reason"),
        text("action"),
        text("source"),
        text("destination"),
        text("fingerprint")
    )
}
