//! `portcullis revocations` and `portcullis unrevoke`

use clap::Args as ClapArgs;
use http::Method;
use serde_json::{Value, json};

use super::{
    OK, Outcome,
    client::Target,
    print, print_json,
    revoke::shown,
    table::{table, time},
};

/// List the revocations in force
///
/// Example: portcullis revocations --json | jq '.[].fingerprint'
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Show at most this many
    #[arg(long, value_name = "N", default_value_t = 1000)]
    limit: usize,
    /// Show those behind this id
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: u64,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let (mut all, mut after) = (Vec::new(), self.after);
        while all.len() < self.limit {
            let want = (self.limit - all.len()).min(1000);
            let page = self.target.call(
                Method::GET,
                &format!("/v1/revocations?after={after}&limit={want}"),
                None,
            )?;
            all.extend(page["revocations"].as_array().cloned().unwrap_or_default());
            match page["next"].as_u64() {
                Some(next) => after = next,
                None => break,
            }
        }
        if self.json {
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
                    vec![c["id"].to_string(), token, until, text(c, "actor"), text(c, "reason")]
                })
                .collect();
            print(&table(&["ID", "TOKENS", "UNTIL", "ACTOR", "REASON"], &rows))?;
        }
        Ok(OK)
    }
}

/// Lift revocations by id; other revocations of the same token stay
///
/// Example: portcullis unrevoke 17
#[derive(Debug, ClapArgs)]
pub struct UnrevokeArgs {
    /// Ids, as `portcullis revocations` shows them
    #[arg(required = true, value_name = "ID")]
    ids: Vec<u64>,
    #[command(flatten)]
    target: Target,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl UnrevokeArgs {
    pub fn run(self) -> Outcome {
        for id in self.ids {
            let claim = self.target.call(Method::DELETE, &format!("/v1/revocations/{id}"), None)?;
            if self.json {
                print_json(&json!({"lifted": claim}))?;
            } else {
                let token = match &claim["selector"] {
                    Value::Null => claim["fingerprint"].as_str().unwrap_or_default().to_owned(),
                    selector => shown(selector),
                };
                print(&format!("lifted: revocation {id} of {token}"))?;
            }
        }
        Ok(OK)
    }
}
