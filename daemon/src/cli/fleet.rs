//! `portcullis fleet`

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use http::Method;
use serde_json::Value;

use super::{OK, Outcome, client::Ask, print, print_json, table::table};

/// Show the hosts that share revocations, and what each has in force
///
/// Example: portcullis fleet
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        let told = self.ask.target.call(Method::GET, "/v1/fleet", None)?;
        if self.ask.json {
            print_json(&told)?;
        } else {
            print(&human(&told))?;
        }
        Ok(OK)
    }
}

/// In one line, for `status`.
pub fn line(f: &Value) -> String {
    let live = f["hosts"].as_array().into_iter().flatten().filter(|h| h["live"] == true).count();
    let server = f["server"].as_str();
    let at = server.map_or_else(|| "NOT CONNECTED".to_owned(), |s| format!("connected to {s}"));
    let stale = if f["stale"] == true { ", STALE" } else { "" };
    let complete = if f["was_complete"] == true {
        format!("complete {} s ago", f["staleness_seconds"].as_f64().unwrap_or(0.0).round())
    } else {
        "not complete yet".to_owned()
    };
    format!("{at}, {live} other hosts live, {complete}{stale}")
}

/// A host's keys, and how many revocations there need the other one.
fn keys(h: &Value) -> String {
    let own = h["key_id"].as_str().unwrap_or("-");
    let needs = || match h["needs_other"].as_u64() {
        Some(n) if n > 0 => format!(" (needed by {n})"),
        Some(_) => " (not needed)".to_owned(),
        None => String::new(),
    };
    h["other_key_id"].as_str().map_or_else(|| own.to_owned(), |other| format!("{own}, {other}{}", needs()))
}

fn human(f: &Value) -> String {
    if f["configured"] != true {
        return "no fleet is configured (`fleet.servers`)".to_owned();
    }
    let text = |v: &Value| v.as_str().unwrap_or("-").to_owned();
    let mut shown = format!("{} ({})\n{}", text(&f["name"]), text(&f["id"]), line(f));
    if let Some(error) = f["error"].as_str() {
        let _ = write!(shown, "\n{error}");
    }
    let behind = f["head"].as_u64().unwrap_or(0).saturating_sub(f["stored"].as_u64().unwrap_or(0));
    if behind > 0 {
        let _ = write!(shown, "\norders up to entry {} are not in the stream yet", f["head"]);
    }
    if f["gaps"] != 0 {
        let _ = write!(shown, "\nearlier orders of {} hosts are missing, and asked for", f["gaps"]);
    }
    if f["other_keys"] != 0 {
        let _ = write!(
            shown,
            "\nOTHER KEY: {} hosts share no fingerprint key with this one; revocations of single tokens are not shared with them",
            f["other_keys"]
        );
    }
    let hosts: Vec<&Value> = f["hosts"].as_array().into_iter().flatten().collect();
    let rows: Vec<Vec<String>> = hosts
        .iter()
        .map(|h| {
            let lag = |head: &Value, at: &Value| {
                let n = head.as_u64().unwrap_or(0).saturating_sub(at.as_u64().unwrap_or(0));
                if n == 0 { "all".to_owned() } else { format!("{n} entries behind") }
            };
            vec![
                text(&h["name"]),
                if h["live"] == true {
                    "live".to_owned()
                } else {
                    format!("SILENT for {} s", h["heard_seconds"])
                },
                text(&h["version"]),
                keys(h),
                lag(&h["head"], &h["applied_here"]),
                lag(&f["head"], &h["applied_there"]),
                h["staleness_seconds"].as_u64().map_or_else(|| "never".to_owned(), |s| format!("{s} s ago")),
            ]
        })
        .collect();
    if !rows.is_empty() {
        shown.push('\n');
        let head = ["HOST", "STATE", "VERSION", "KEY", "ITS ORDERS HERE", "OURS THERE", "COMPLETE"];
        shown.push_str(&table(&head, &rows));
    }
    shown
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_fleet_is_shown() {
        let fleet = json!({
            "configured": true, "name": "a", "id": "00ff", "server": "n1 2.15.1", "error": null, "was_complete": true,
            "staleness_seconds": 0.4, "stale": false, "head": 31, "stored": 30, "gaps": 0, "other_keys": 1,
            "hosts": [
                {"name": "b", "live": true, "version": "0.1.0", "key_id": "0000002a", "head": 7, "applied_here": 7,
                 "applied_there": 29, "heard_seconds": 0, "staleness_seconds": 1},
                {"name": "c", "live": false, "version": "0.1.0", "key_id": "0000002b",
                 "other_key_id": "0000002a", "needs_other": 3, "head": 9, "applied_here": 4,
                 "applied_there": 0, "heard_seconds": 61, "staleness_seconds": null},
            ],
        });
        insta::assert_snapshot!(human(&fleet));
        assert!(human(&json!({"configured": false})).starts_with("no fleet"));
    }
}
