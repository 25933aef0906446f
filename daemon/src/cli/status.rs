//! `portcullis status`

use clap::Args as ClapArgs;
use http::Method;
use portcullis_common::reason::Sight;
use serde_json::Value;

use super::{
    OK, Outcome,
    client::Ask,
    fleet, print, print_json,
    table::{table, time},
};

/// Show what is attached where, the maps, the policy set in force and the kernel's counters
///
/// Example: portcullis status
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        let status = self.ask.target.call(Method::GET, "/v1/status", None)?;
        if self.ask.json {
            print_json(&status)?;
        } else {
            print(&human(&status))?;
        }
        Ok(OK)
    }
}

/// What was counted at each interface and port, columns that are all zero left out.
fn places(all: &Value) -> String {
    let all: Vec<&Value> = all.as_array().into_iter().flatten().collect();
    let always = [Sight::Packets, Sight::Requests];
    let columns: Vec<Sight> = Sight::ALL
        .iter()
        .copied()
        .filter(|s| always.contains(s) || all.iter().any(|p| p[s.code()] != 0))
        .collect();
    let mut head = vec!["  interface", "port"];
    head.extend(columns.iter().map(|s| s.code()));
    let rows: Vec<Vec<String>> = all
        .iter()
        .map(|p| {
            let port = p["port"].as_u64().map_or_else(|| "other".to_owned(), |n| n.to_string());
            let mut row = vec![format!("  {}", p["interface"].as_str().unwrap_or_default()), port];
            row.extend(columns.iter().map(|s| p[s.code()].to_string()));
            row
        })
        .collect();
    table(&head, &rows)
}

/// How floods are shed, and whose.
fn shed(shed: &Value, lines: &mut Vec<String>) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for a in shed["attached"].as_array().into_iter().flatten() {
        lines.push(format!(
            "shed         by {} on {}, {} XDP",
            text(&shed["by"]),
            text(&a["interface"]),
            text(&a["hook"])
        ));
    }
    for (name, why) in shed["failed"].as_object().into_iter().flatten() {
        lines.push(format!("NOT SHED     {name}: {}", text(why)));
    }
    for s in shed["senders"].as_array().into_iter().flatten() {
        let source = text(&s["source"]);
        if s["shed_for_seconds"] != 0 {
            let times = if s["times_shed"] == 1 { "once" } else { "repeatedly" };
            lines.push(format!("SHED         {source} for {} s more, {times}", s["shed_for_seconds"]));
        }
        if s["many_tokens"] == true {
            lines.push(format!(
                "PROXY?       {source} carries many tokens, refused ones among them: name it in `kernel.shed_never` if it is one"
            ));
        }
    }
}

/// Where the live set came from, and how the candidate stands.
fn candidate(s: &Value, lines: &mut Vec<String>) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    if let Some(revision) = s["policy"]["origin"]["promoted"].as_str() {
        let revision = revision.get(..12).unwrap_or_default();
        lines.push(format!("PROMOTED     {revision}: `policy.dirs` hold another set, which is not in force"));
    }
    match s["candidate"]["state"].as_str() {
        Some("shadow") => {
            let c = &s["candidate"];
            let changes: u64 = ["newly_denied", "newly_allowed", "changed"]
                .iter()
                .filter_map(|kind| c["shadow"][kind].as_u64())
                .sum();
            lines.push(format!(
                "candidate    {}, decides otherwise in {changes} of {} (`portcullis policy shadow`)",
                text(&c["candidate"]["revision"]).get(..12).unwrap_or_default(),
                c["shadow"]["compared"]
            ));
        }
        Some("refused") => {
            lines.push(format!("candidate    REFUSED: {}", text(&s["candidate"]["refused_because"])));
        }
        Some("same") => lines.push("candidate    the same as the live set".to_owned()),
        _ => {}
    }
}

/// Who vouches for tokens: issuers, API keys, the introspection server.
fn vouchers(s: &Value, lines: &mut Vec<String>) {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    for i in s["issuers"].as_array().into_iter().flatten() {
        let label = if i["ready"] == true { "issuer     " } else { "NOT READY  " };
        let age = i["age_seconds"].as_i64().map(|age| format!(", read {age} s ago")).unwrap_or_default();
        let (name, source) = (text(&i["issuer"]), text(&i["source"]));
        lines.push(format!("{label}  {name}: {} keys by {source}{age}", i["keys"]));
        if let Some(why) = i["error"].as_str() {
            lines.push(format!("  {why}"));
        }
    }
    if s["api_keys"].is_object() {
        lines.push(format!("API keys     {} good of {}", s["api_keys"]["good"], s["api_keys"]["all"]));
    }
    let i = &s["introspection"];
    if i.is_object() {
        let label = if i["paused"] == true { "LEFT ALONE " } else { "asked about" };
        lines.push(format!(
            "{label}  opaque tokens: {}: {} active, {} inactive, {} failed, {} unasked",
            text(&i["url"]),
            i["active"],
            i["inactive"],
            i["failed"],
            i["unasked"]
        ));
    }
}

/// Under which fingerprint keys revocations stand, while the key is being changed.
fn keys(s: &Value, lines: &mut Vec<String>) {
    let r = &s["revocations"];
    let count = |name: &str| r[name]["claims"].as_u64().unwrap_or(0);
    if let Some(other) = s["other_key_id"].as_str() {
        let (n, until) = (count("under_other_key"), r["under_other_key"]["until"].as_i64());
        lines.push(match until {
            Some(until) => format!(
                "other key    {other}: needed by {n} revocations, until {}: `token.other_fingerprint_key` must stay",
                time(until)
            ),
            None => format!("other key    {other}: no revocation here needs it"),
        });
    }
    let n = count("under_no_key");
    if n > 0 {
        lines.push(format!(
            "NO SUCH KEY  {n} revocations of other hosts stand under a fingerprint key that is not in force here: they refuse nobody"
        ));
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
            if s["fail_open"].as_array().is_some_and(|doors| !doors.is_empty()) { ", FAIL-OPEN" } else { "" }
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
    for b in s["policy"]["bundles"].as_array().into_iter().flatten() {
        let revision = b["revision"].as_str().filter(|r| !r.is_empty()).unwrap_or("without a revision");
        let signed = if b["signed"] == true { "signed" } else { "not signed" };
        lines.push(format!("bundle       {} {revision}, {signed}", text(&b["name"])));
        if let Some(why) = b["error"].as_str() {
            lines.push(format!("             the last one that came is not used: {why}"));
        }
    }
    if let Some(why) = s["policy"]["interpreted_because"].as_str() {
        lines.push(format!("interpreted  {why}"));
    }
    candidate(s, &mut lines);
    if s["policy"]["tests_required"] == false {
        lines
            .push("UNTESTED     `policy.require_tests` is off: policies come into force untested".to_owned());
    }
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
    keys(s, &mut lines);
    if s["fleet"].is_object() {
        lines.push(format!("fleet        {}", fleet::line(&s["fleet"])));
    }
    vouchers(s, &mut lines);
    lines.push(format!(
        "cache        {} verdicts of {}",
        s["verdict_cache"]["entries"], s["verdict_cache"]["capacity"]
    ));
    match &s["kernel"] {
        Value::Object(k) => {
            for a in k["attached"].as_array().into_iter().flatten() {
                lines.push(format!(
                    "guard        {} on {} by {}, ports {}",
                    text(&k["enforcement"]),
                    text(&a["interface"]),
                    text(&a["hook"]),
                    k["ports"].as_array().into_iter().flatten().map(text).collect::<Vec<_>>().join(", ")
                ));
            }
            for name in k["waiting"].as_array().into_iter().flatten() {
                lines.push(format!("NOT GUARDED  {}: it is not there yet", text(name)));
            }
            for (name, why) in k["misplaced"].as_object().into_iter().flatten() {
                lines.push(format!("NOT GUARDED  {name}: {}", text(why)));
            }
            for (port, n) in k["older_by_port"].as_object().into_iter().flatten() {
                lines.push(format!("UNGUARDED    {n} connections at port {port}, older than guard"));
            }
            shed(&k["shed"], &mut lines);
            lines.push("places       since the programs in force were loaded:".to_owned());
            lines.push(places(&k["places"]));
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
