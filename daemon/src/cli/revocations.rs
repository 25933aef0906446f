//! `portcullis revocations` and `portcullis unrevoke`

use std::{fmt::Write as _, path::PathBuf};

use clap::{Args as ClapArgs, Subcommand};
use http::Method;
use serde_json::{Map, Value, json};

use super::{
    Failure, OK, Outcome, REFUSED,
    backup::{BackupArgs, RestoreArgs},
    client::{Ask, Target},
    print, print_json,
    revoke::{shown, unix_seconds},
    table::{table, time},
    upload::Upload,
    wait::{self, WaitArgs},
};

/// List the revocations in force; show one, its receipt, or changes as they come; take them to another store
///
/// Example: portcullis revocations --json | jq '.[].fingerprint'
#[derive(Debug, ClapArgs)]
#[command(args_conflicts_with_subcommands = true)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    list: ListArgs,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// List those in force, as without a command
    List(Box<ListArgs>),
    /// Show one
    Show(OneArgs),
    /// Show when one was accepted, on the disk and in force, and its entry in the audit log
    Receipt(OneArgs),
    /// Print all as JSON lines, for `import`
    Export {
        #[command(flatten)]
        target: Target,
    },
    /// Revoke what `export` printed, of this or another host with the same fingerprint key
    ///
    /// Example: portcullis revocations import revocations.ndjson
    Import {
        /// The file; `-` is standard input
        #[arg(value_name = "FILE", default_value = "-")]
        file: PathBuf,
        #[command(flatten)]
        target: Target,
        /// Print the daemon's lines
        #[arg(long)]
        json: bool,
    },
    Backup(BackupArgs),
    Restore(RestoreArgs),
    /// Print changes as they come
    Watch {
        /// Begin behind this event, instead of now: an entry of the log, or an event's `id` as `--json` prints it
        #[arg(long, value_name = "ID")]
        after: Option<String>,
        #[command(flatten)]
        target: Target,
        /// Print JSON lines
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, ClapArgs)]
struct OneArgs {
    /// Its id
    #[arg(value_name = "ID")]
    id: u64,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, ClapArgs)]
struct ListArgs {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Show those behind this id
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    /// Only those of tokens, or by selector
    #[arg(long, value_name = "KIND", value_parser = ["token", "selector"])]
    kind: Option<String>,
    /// Only those of this token
    #[arg(long, value_name = "HEX")]
    fingerprint: Option<String>,
    /// Only those whose actor contains this
    #[arg(long, value_name = "TEXT")]
    actor: Option<String>,
    /// Only those whose reason contains this
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// Only those with this very ticket
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    /// Only those that came this way: `admin`, `lockdown`, `import`, `selector`, or a feed's name
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// Only those by selectors that name this issuer
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// Only those by selectors that name this subject
    #[arg(long)]
    sub: Option<String>,
    /// Only those that follow from this revocation by selector
    #[arg(long, value_name = "ID")]
    parent: Option<u64>,
    /// Only those accepted at this time or later (RFC 3339, Unix seconds, or `now`)
    #[arg(long, value_name = "TIME", value_parser = unix_seconds)]
    since: Option<i64>,
    /// Only those accepted before this time
    #[arg(long, value_name = "TIME", value_parser = unix_seconds)]
    before: Option<i64>,
    #[command(flatten)]
    ask: Ask,
}

impl Args {
    pub fn run(self) -> Outcome {
        match self.command {
            None => self.list.run(),
            Some(Command::List(list)) => list.run(),
            Some(Command::Show(one)) => one.run("", |claim| {
                let mut rows = Vec::new();
                for (name, value) in claim.as_object().into_iter().flatten() {
                    let shown = match (name.as_str(), value) {
                        ("created" | "until", at) => time(at.as_i64().unwrap_or(0)),
                        ("selector", selector) => shown(selector),
                        (_, Value::String(text)) => text.clone(),
                        (_, other) => other.to_string(),
                    };
                    rows.push(vec![name.clone(), shown]);
                }
                table(&["", ""], &rows).trim_start().to_owned()
            }),
            Some(Command::Receipt(one)) => one.run("/receipt", receipt),
            Some(Command::Export { target }) => {
                target.lines("/v1/revocations/export", |line| print(line).map(|()| true))?;
                Ok(OK)
            }
            Some(Command::Import { file, target, json }) => {
                let defaults = Map::new();
                Upload {
                    target: &target,
                    wait: &WaitArgs::default(),
                    defaults,
                    exported: true,
                    json,
                    key: None,
                }
                .run(&file)
            }
            Some(Command::Backup(args)) => args.run(),
            Some(Command::Restore(args)) => args.run(),
            Some(Command::Watch { after, target, json }) => watch(&target, after.as_deref(), json),
        }
    }
}

impl OneArgs {
    fn run(self, what: &str, show: impl FnOnce(&Value) -> String) -> Outcome {
        let told = self.ask.target.call(Method::GET, &format!("/v1/revocations/{}{what}", self.id), None)?;
        if self.ask.json {
            print_json(&told)?;
        } else {
            print(&show(&told))?;
        }
        Ok(OK)
    }
}

/// A receipt for people.
fn receipt(r: &Value) -> String {
    if let Some(lifted) = r["lifted"].as_bool() {
        let by = |name: &str| r["by"][name].as_str().filter(|text| !text.is_empty());
        let who = by("actor").map_or_else(String::new, |actor| format!(" by {actor}"));
        let why = by("reason").map_or_else(String::new, |reason| format!(": {reason}"));
        return format!(
            "revocation {} on host {}\n  {}  {}{who}{why}\n  audit     entry {} (hash {})",
            r["id"],
            r["host"].as_str().unwrap_or_default(),
            if lifted { "lifted  " } else { "over    " },
            time(r["at"].as_i64().unwrap_or(0)),
            r["entry"],
            r["hash"].as_str().unwrap_or_default(),
        );
    }
    let after = |name: &str| match r[name].as_u64() {
        Some(us) => format!("{}.{:03} ms later", us / 1000, us % 1000),
        None => "not known: the daemon was stopped in between, and put it in force at its start".to_owned(),
    };
    let condemned = r["unseen"].as_str().map_or_else(String::new, |unseen| {
        let at_once = match r["condemned"].as_u64() {
            Some(n) => format!("{n} of the tokens seen lately, at once"),
            None => "how many tokens at once is not known".to_owned(),
        };
        format!("\n  condemned {at_once}; others: {unseen}")
    });
    let hash = r["hash"].as_str().unwrap_or("no longer kept");
    let warning = r["warning"].as_str().map_or_else(String::new, |why| format!("\n  warning   {why}"));
    let mut text = format!(
        "revocation {} on host {}\n  accepted  {}\n  on disk   {}\n  in force  {}\n  audit     entry {} (hash {hash}){condemned}{warning}",
        r["id"],
        r["host"].as_str().unwrap_or_default(),
        time(r["accepted"].as_i64().unwrap_or(0)),
        after("synced_us"),
        after("in_force_us"),
        r["entry"],
    );
    let fleet = &r["fleet"];
    if fleet["stored"].is_boolean() {
        let names = fleet["applied"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let names: Vec<&str> = names.collect();
        let stored =
            if fleet["stored"] == true { "the stream has it" } else { "the stream does not have it yet" };
        let on = if names.is_empty() {
            "no other host known to have it".to_owned()
        } else {
            format!("in force on {}", names.join(", "))
        };
        let _ = write!(text, "\n  fleet     {stored}; {on}");
        for m in fleet["missing"].as_array().into_iter().flatten() {
            let part = |name: &str| m[name].as_str().unwrap_or_default().to_owned();
            let _ = write!(text, "\n            {}: {}", part("host"), part("why"));
        }
    } else if let Some(host) = fleet["ordered_on"].as_str() {
        let id = &fleet["id_there"];
        let _ = write!(text, "\n  fleet     ordered on host {host}, as its revocation {id}");
    }
    text
}

fn watch(target: &Target, after: Option<&str>, json: bool) -> Outcome {
    let path = after.map_or_else(
        || "/v1/revocations/watch".to_owned(),
        |id| format!("/v1/revocations/watch?after={}", encoded(id)),
    );
    let (mut id, mut event) = (String::new(), String::new());
    target.lines(&path, |line| {
        let (field, value) = line.split_once(": ").unwrap_or((line, ""));
        match field {
            "id" => value.clone_into(&mut id),
            "event" => value.clone_into(&mut event),
            "data" => {
                let data: Value = serde_json::from_str(value).unwrap_or_default();
                if json {
                    let entry = id.split('.').next().and_then(|n| n.parse().ok()).unwrap_or(0_u64);
                    print(&json!({"entry": entry, "id": id, "event": event, "data": data}).to_string())?;
                } else {
                    print(&change(&event, &data))?;
                }
            }
            _ => {}
        }
        Ok(true)
    })?;
    Ok(OK)
}

/// A change for people.
fn change(event: &str, data: &Value) -> String {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    match event {
        "revoked" => {
            let whom = if data["selector"].is_object() {
                shown(&data["selector"])
            } else {
                text(&data["fingerprint"])
            };
            let until = time(data["until"].as_i64().unwrap_or(0));
            let texts = ["actor", "ticket", "reason"].map(|name| text(&data[name]));
            let said: Vec<String> = texts.into_iter().filter(|t| !t.is_empty()).collect();
            format!("revoked  {:>6}  {whom}  until {until}  {}", data["id"], said.join("  "))
        }
        "lifted" => format!("lifted   {}  {}", data["ids"], text(&data["by"]["actor"])),
        "expired" => format!("expired  {}", data["ids"]),
        _ => "reset    older changes are no longer kept: list all anew".to_owned(),
    }
}

impl ListArgs {
    fn filters(&self) -> String {
        let named = [
            ("kind", &self.kind),
            ("fingerprint", &self.fingerprint),
            ("actor", &self.actor),
            ("reason", &self.reason),
            ("ticket", &self.ticket),
            ("source", &self.source),
            ("issuer", &self.issuer),
            ("sub", &self.sub),
        ];
        let mut given = String::new();
        for (name, value) in named {
            if let Some(value) = value {
                // To a string, which takes all.
                let _ = write!(given, "&{name}={}", encoded(value));
            }
        }
        if let Some(parent) = self.parent {
            let _ = write!(given, "&parent={parent}");
        }
        for (name, seconds) in [("since", self.since), ("before", self.before)] {
            if let Some(seconds) = seconds {
                let _ = write!(given, "&{name}={}", seconds.saturating_mul(1000));
            }
        }
        given
    }

    fn run(self) -> Outcome {
        let (mut all, mut after, filters) = (Vec::new(), self.after, self.filters());
        while all.len() < self.limit {
            let want = (self.limit - all.len()).min(1000);
            let page = self.ask.target.call(
                Method::GET,
                &format!("/v1/revocations?after={after}&limit={want}{filters}"),
                None,
            )?;
            all.extend(page["revocations"].as_array().cloned().unwrap_or_default());
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        if self.ask.json {
            print_json(&Value::Array(all))?;
        } else if all.is_empty() {
            print("no revocations in force")?;
        } else {
            let text = |c: &Value, k: &str| c[k].as_str().unwrap_or_default().to_owned();
            let rows: Vec<Vec<String>> = all
                .iter()
                .map(|c| {
                    let until = time(c["until"].as_i64().unwrap_or(0));
                    let token = match &c["selector"] {
                        Value::Null => text(c, "fingerprint"),
                        selector => shown(selector),
                    };
                    vec![
                        c["id"].to_string(),
                        token,
                        until,
                        text(c, "actor"),
                        text(c, "ticket"),
                        text(c, "reason"),
                    ]
                })
                .collect();
            print(&table(&["ID", "TOKENS", "UNTIL", "ACTOR", "TICKET", "REASON"], &rows))?;
        }
        Ok(OK)
    }
}

/// Percent-encodes what is not plain (RFC 3986, section 2.3).
pub fn encoded(text: &str) -> String {
    let one = |b: u8| match b {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => char::from(b).to_string(),
        b => format!("%{b:02X}"),
    };
    text.bytes().map(one).collect()
}

/// Lift revocations by id; other revocations of the same token stay
///
/// Example: portcullis unrevoke 17
#[derive(Debug, ClapArgs)]
pub struct UnrevokeArgs {
    /// Ids, as `portcullis revocations` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
    /// Why, for the audit log
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    ask: Ask,
}

impl UnrevokeArgs {
    pub fn run(self) -> Outcome {
        let (mut code, mut refused) = (OK, 0);
        for id in &self.ids {
            match self.lift(*id) {
                Ok(one) => code = code.max(one),
                // The others do not depend on it. Where nobody answers, nobody answers for them either.
                Err(e) if e.code == REFUSED && self.ids.len() > 1 => {
                    eprintln!("not lifted: revocation {id}: {e}");
                    refused += 1;
                }
                Err(e) => return Err(e),
            }
        }
        if refused > 0 {
            let all = self.ids.len();
            return Err(Failure::new(REFUSED, format!("{refused} of {all} revocations were not lifted")));
        }
        Ok(code)
    }

    fn lift(&self, id: u64) -> Outcome {
        let path = format!("/v1/revocations/{id}?reason={}", encoded(&self.reason));
        let claim = self.ask.target.call(Method::DELETE, &self.wait.path(&path), None)?;
        if self.ask.json {
            print_json(&json!({"lifted": claim}))?;
        } else {
            let token = match &claim["selector"] {
                Value::Null => claim["fingerprint"].as_str().unwrap_or_default().to_owned(),
                selector => shown(selector),
            };
            print(&format!("lifted: revocation {id} of {token}"))?;
        }
        wait::finish(&claim, self.ask.json)
    }
}
