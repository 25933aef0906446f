//! `portcullis status`

use clap::Args as ClapArgs;
use http::Method;
use serde_json::Value;

use super::{OK, Outcome, client::Target, print, print_json};

/// Show what is attached where, the maps, the policy set in force and the kernel's counters
///
/// Example: portcullis status
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let status = self.target.call(Method::GET, "/v1/status", None)?;
        if self.json {
            print_json(&status)?;
        } else {
            print(&human(&status))?;
        }
        Ok(OK)
    }
}

fn human(s: &Value) -> String {
    let text = |v: &Value| v.as_str().map_or_else(|| v.to_string(), str::to_owned);
    let mut lines = vec![
        format!(
            "portcullis {}, up {} s, {}",
            text(&s["version"]),
            s["uptime_seconds"],
            if s["ready"] == true { "ready" } else { "NOT READY" }
        ),
        format!(
            "mode         {}{}",
            text(&s["mode"]),
            if s["fail_open"] == true { ", FAIL-OPEN" } else { "" }
        ),
        format!("key          {}", text(&s["key_id"])),
        format!(
            "policy       generation {}, {}, {} modules, {}",
            s["policy"]["generation"],
            text(&s["policy"]["engine"]),
            s["policy"]["modules"],
            text(&s["policy"]["hash"]).get(..12).unwrap_or_default()
        ),
    ];
    let r = &s["revocations"];
    lines.push(format!(
        "revoked      {} tokens of {} by {} revocations",
        r["revoked"], r["revoked_limit"], r["claims"]
    ));
    lines.push(format!("condemned    {} tokens of {} by policy", r["condemned"], r["condemned_limit"]));
    if r["store_failed"] == true {
        lines.push(
            "STORE        a write failed: no revocation is taken until the daemon is restarted".to_owned(),
        );
    }
    if r["kernel_behind"] == true {
        lines.push("KERNEL       a write to the deny map failed: it is tried again".to_owned());
    }
    lines.push(format!(
        "cache        {} verdicts of {}",
        s["verdict_cache"]["entries"], s["verdict_cache"]["capacity"]
    ));
    match &s["kernel"] {
        Value::Object(k) => {
            for a in k["attached"].as_array().into_iter().flatten() {
                lines.push(format!(
                    "guard        {} by {}, ports {}",
                    text(&a["interface"]),
                    text(&a["hook"]),
                    k["ports"]
                ));
            }
            lines.push("kernel       since the maps were made:".to_owned());
            for (outcome, n) in k["counters"].as_object().into_iter().flatten() {
                if n.as_u64() != Some(0) {
                    lines.push(format!("  {outcome:<20} {n}"));
                }
            }
        }
        _ => lines.push("guard        off: nothing is enforced in the kernel".to_owned()),
    }
    lines.join("\n")
}
