//! `portcullis policy shadow`, `promote` and `rollback`: the daemon's candidate and live set.

use clap::Args as ClapArgs;
use http::Method;
use serde_json::Value;

use crate::cli::{
    OK, Outcome,
    client::{Ask, Target},
    print, print_json,
};

/// Tell what the running daemon's candidate set would change
///
/// The candidate (`policy.candidate_dirs`) decides beside the live set, without effect.
///
/// Example: portcullis policy shadow
#[derive(Debug, ClapArgs)]
pub struct ShadowArgs {
    #[command(flatten)]
    ask: Ask,
}

impl ShadowArgs {
    pub fn run(self) -> Outcome {
        let told = self.ask.target.call(Method::GET, "/v1/policy/shadow", None)?;
        if self.ask.json {
            print_json(&told)?;
        } else {
            print(&human(&told))?;
        }
        Ok(OK)
    }
}

/// Put the running daemon's candidate set in force
///
/// It is copied, tested and loaded first, and stays in force over a restart until `policy.dirs` hold the same.
///
/// Example: portcullis policy promote
#[derive(Debug, ClapArgs)]
pub struct PromoteArgs {
    #[command(flatten)]
    ask: Ask,
}

/// Go back to the set that was in force before the last promotion
///
/// Example: portcullis policy rollback
#[derive(Debug, ClapArgs)]
pub struct RollbackArgs {
    #[command(flatten)]
    ask: Ask,
}

impl PromoteArgs {
    pub fn run(self) -> Outcome {
        change(&self.ask.target, "/v1/policy/promote", self.ask.json)
    }
}

impl RollbackArgs {
    pub fn run(self) -> Outcome {
        change(&self.ask.target, "/v1/policy/rollback", self.ask.json)
    }
}

fn change(target: &Target, path: &str, json: bool) -> Outcome {
    let done = target.call(Method::POST, path, None)?;
    if json {
        print_json(&done)?;
    } else {
        print(&format!("in force: generation {}, {}", done["generation"], short(&done["revision"])))?;
    }
    Ok(OK)
}

fn short(revision: &Value) -> &str {
    revision.as_str().and_then(|r| r.get(..12)).unwrap_or("none")
}

fn human(told: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut lines = vec![format!(
        "live         generation {}, {}",
        told["live"]["generation"],
        short(&told["live"]["revision"])
    )];
    match told["state"].as_str() {
        Some("none") => {
            lines.push("candidate    none: `policy.candidate_dirs` names no directory".to_owned());
        }
        Some("refused") => lines.push(format!("candidate    refused: {}", text(&told["refused_because"]))),
        state => {
            let c = &told["candidate"];
            let same = if state == Some("same") { ", the same as the live set" } else { "" };
            lines.push(format!(
                "candidate    {}, {}, {} tests{same}",
                short(&c["revision"]),
                text(&c["engine"]),
                c["tests"]
            ));
        }
    }
    let s = &told["shadow"];
    if s.is_object() {
        lines.push(format!("compared     {} decisions, {} skipped", s["compared"], s["skipped"]));
        for kind in ["same", "newly_denied", "newly_allowed", "changed"] {
            lines.push(format!("  {:<14} {}", kind.replace('_', " "), s[kind]));
        }
        let said = |cause: &Value| {
            let word = if cause["allow"] == true { "allow" } else { "deny" };
            match cause["reason"].as_str() {
                Some(reason) if !reason.is_empty() => format!("{word} ({reason})"),
                _ => word.to_owned(),
            }
        };
        for d in s["differences"].as_array().into_iter().flatten() {
            let kind = text(&d["kind"]).replace('_', " ");
            lines.push(format!("{} × {kind}: {} -> {}", d["count"], said(&d["live"]), said(&d["candidate"])));
            let names =
                |list: &Value| list.as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ");
            if d["kind"] == "changed" {
                lines.push(format!("  members: {}", names(&d["members"])));
            }
            if d["rules"] != Value::Array(Vec::new()) {
                lines.push(format!("  rules: {}", names(&d["rules"])));
            }
            if let Some(example) = d["examples"].as_array().and_then(|e| e.first()) {
                lines.push(format!("  example: {}", example["input"]));
            }
        }
    }
    lines.join("\n")
}
