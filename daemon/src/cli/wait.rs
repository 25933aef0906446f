//! Waiting until the fleet has an order, for commands that give one.

use std::fmt::Write as _;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::{OK, WAITING, print, revocations::encoded};

/// How far an order must come before the command returns
#[derive(Debug, Default, Args)]
pub struct WaitArgs {
    /// Return when it is on this host's disk and in force here (`local`), stored by the fleet's stream (`stored`), or in force
    /// on all live hosts (`applied`, or `all`); by default as `fleet.acknowledge` says. Exit code 6: in force here, and not
    /// that far in time
    #[arg(long, value_name = "LEVEL")]
    wait: Option<WaitLevel>,
    /// Wait for these hosts, whether they are live or not
    #[arg(long, value_name = "NAME,…", value_delimiter = ',', requires = "wait")]
    wait_hosts: Vec<String>,
    /// Wait no longer than this, 1m at most (default: `fleet.acknowledge_timeout`)
    #[arg(long, value_name = "TIME")]
    wait_timeout: Option<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum WaitLevel {
    Local,
    Stored,
    Applied,
    All,
}

impl WaitArgs {
    /// A path with what is asked in its query.
    pub fn path(&self, path: &str) -> String {
        let mut parts = Vec::new();
        if let Some(level) = self.wait {
            let level = match level {
                WaitLevel::Local => "local",
                WaitLevel::Stored => "stored",
                WaitLevel::Applied => "applied",
                WaitLevel::All => "all",
            };
            parts.push(format!("wait={level}"));
        }
        if !self.wait_hosts.is_empty() {
            parts.push(format!("hosts={}", encoded(&self.wait_hosts.join(","))));
        }
        if let Some(timeout) = &self.wait_timeout {
            parts.push(format!("timeout={}", encoded(timeout)));
        }
        if parts.is_empty() {
            return path.to_owned();
        }
        format!("{path}{}{}", if path.contains('?') { '&' } else { '?' }, parts.join("&"))
    }
}

/// What the fleet has of an order, for people; nothing where nobody waited.
pub fn shown(fleet: &Value) -> Option<String> {
    let level = fleet["level"].as_str()?;
    let names = |v: &Value| {
        let all = v.as_array().into_iter().flatten();
        all.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>().join(", ")
    };
    if fleet["reached"] == true {
        return Some(match level {
            "stored" => "the fleet's stream has it".to_owned(),
            _ if fleet["applied"].as_array().is_some_and(Vec::is_empty) => {
                "the fleet's stream has it; no other host is live".to_owned()
            }
            _ => format!("in force on {}", names(&fleet["applied"])),
        });
    }
    let mut text = "in force here, but not in the fleet yet".to_owned();
    if fleet["stored"] == false {
        text.push_str("\n  the stream does not have it: it is told when a server is reached");
    }
    for m in fleet["missing"].as_array().into_iter().flatten() {
        let part = |name: &str| m[name].as_str().unwrap_or_default().to_owned();
        let _ = write!(text, "\n  {}: {}", part("host"), part("why"));
    }
    Some(text)
}

/// Prints that, and gives the exit code.
pub fn finish(told: &Value, json: bool) -> super::Outcome {
    if !json && let Some(text) = shown(&told["fleet"]) {
        print(&text)?;
    }
    Ok(if told["fleet"]["reached"] == false { WAITING } else { OK })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_asked_stands_in_the_query() {
        assert_eq!(WaitArgs::default().path("/a"), "/a");
        let args = WaitArgs {
            wait: Some(WaitLevel::All),
            wait_hosts: vec!["a b".to_owned(), "c".to_owned()],
            wait_timeout: Some("3s".to_owned()),
        };
        assert_eq!(args.path("/a?b=c"), "/a?b=c&wait=all&hosts=a%20b%2Cc&timeout=3s");
    }

    #[test]
    fn who_is_missing_is_said() {
        let fleet = json!({"level": "applied", "reached": false, "stored": true, "missing": [{"host": "b", "why": "x"}]});
        assert_eq!(shown(&fleet).unwrap(), "in force here, but not in the fleet yet\n  b: x");
        assert_eq!(shown(&Value::Null), None);
    }
}
