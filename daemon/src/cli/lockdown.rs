//! `portcullis lockdown` and `portcullis unlock`: break-glass that ends by itself.

use clap::Args as ClapArgs;
use http::Method;
use serde_json::{Value, json};

use super::{
    Failure, OK, Outcome, REFUSED,
    client::Ask,
    print, print_json,
    revoke::{preview, shown, warn},
    table::time,
    wait::{self, WaitArgs},
};

/// Refuse a role, a client, a region or everything for a time, at once and on disk
///
/// It ends by itself, or with `portcullis unlock`. What it stops is printed as a change of the policy's data too, which
/// makes it permanent once it is committed.
///
/// Example: portcullis lockdown --role contractor --ttl 2h --reason "incident 7"
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    what: What,
    /// How long it holds, such as 30m, 12h
    #[arg(long, value_name = "TIME", default_value = "1h")]
    ttl: String,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Who ordered it, beside the user id that the daemon notes anyway
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Where it is kept, such as an incident's number
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    /// Only tell how many tokens seen lately it would condemn
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    ask: Ask,
}

#[derive(Debug, ClapArgs)]
#[group(required = true, multiple = false)]
struct What {
    /// Tokens with this role (claim `roles`)
    #[arg(long)]
    role: Option<String>,
    /// Tokens of this client (`azp` or `client_id`), whoever issued them
    #[arg(long)]
    client: Option<String>,
    /// Every token, on hosts of this region (`host.region`)
    #[arg(long)]
    region: Option<String>,
    /// Every token
    #[arg(long)]
    all: bool,
}

impl What {
    fn selector(&self) -> Value {
        match self {
            Self { role: Some(role), .. } => json!({"role": role}),
            Self { client: Some(client), .. } => json!({"client": client}),
            Self { region: Some(region), .. } => json!({"region": region}),
            Self { .. } => json!({"everything": true}),
        }
    }

    /// The same in the data of the library's `emergency` policy.
    fn data(&self) -> Value {
        match self {
            Self { role: Some(role), .. } => json!({"roles": [role]}),
            Self { client: Some(client), .. } => json!({"clients": [client]}),
            Self { region: Some(region), .. } => json!({"regions": [region]}),
            Self { .. } => json!({"everything": true}),
        }
    }
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut body = json!({
            "selector": self.what.selector(),
            "ttl": self.ttl,
            "reason": self.reason,
            "source": "lockdown",
            "dry_run": self.dry_run,
        });
        if let Some(actor) = &self.actor {
            body["actor"] = actor.as_str().into();
        }
        if let Some(ticket) = &self.ticket {
            body["ticket"] = ticket.as_str().into();
        }
        let told = self.ask.target.call(Method::POST, &self.wait.path("/v1/revocations"), Some(&body))?;
        if self.ask.json {
            print_json(&told)?;
        } else if self.dry_run {
            print(&preview(&told))?;
        } else {
            let until = time(told["until"].as_i64().unwrap_or(0));
            let data = serde_json::to_string(&json!({"emergency": self.what.data()}))?;
            print(&format!(
                "locked down: {} until {until} (revocation {})\n{} of the tokens seen lately match and are condemned; the decision path refuses others at first sight\nTo end it: portcullis unlock {}\nTo make it permanent, merge this into the data of the `emergency` policy and commit it:\n  {data}\n  git commit -am 'emergency: {} (revocation {})'",
                shown(&told["selector"]),
                told["id"],
                told["condemned"],
                told["id"],
                // To be pasted into a shell.
                shown(&told["selector"]).replace('\'', "'\\''"),
                told["id"],
            ))?;
            warn(&told);
        }
        wait::finish(&told, self.ask.json)
    }
}

/// End lockdowns before their time
///
/// Example: portcullis unlock --all
#[derive(Debug, ClapArgs)]
pub struct UnlockArgs {
    /// Their ids, as `lockdown` and `revocations` show them
    #[arg(value_name = "ID", required_unless_present = "all")]
    ids: Vec<u64>,
    /// All that are in force
    #[arg(long, conflicts_with = "ids")]
    all: bool,
    #[command(flatten)]
    ask: Ask,
}

impl UnlockArgs {
    pub fn run(self) -> Outcome {
        let page = "/v1/revocations?kind=selector&source=lockdown&limit=10000";
        let found = self.ask.target.call(Method::GET, page, None)?;
        let all: Vec<u64> =
            found["revocations"].as_array().into_iter().flatten().filter_map(|c| c["id"].as_u64()).collect();
        if let Some(other) = self.ids.iter().find(|id| !all.contains(id)) {
            return Err(Failure::new(
                REFUSED,
                format!(
                    "{other} is no lockdown in force: `portcullis revocations --source lockdown` lists them"
                ),
            ));
        }
        let ids = if self.all { all } else { self.ids };
        if ids.is_empty() && !self.ask.json {
            print("no lockdown is in force")?;
        }
        for id in ids {
            let claim =
                self.ask.target.call(Method::DELETE, &format!("/v1/revocations/{id}?reason=unlock"), None)?;
            if self.ask.json {
                print_json(&json!({"lifted": claim}))?;
            } else {
                print(&format!("unlocked: {} (revocation {id})", shown(&claim["selector"])))?;
            }
        }
        Ok(OK)
    }
}
