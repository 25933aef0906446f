//! `portcullis revoke`

use std::{path::PathBuf, time::SystemTime};

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::{
    Outcome,
    client::Ask,
    input::TokenSource,
    print, print_json,
    table::time,
    upload::Upload,
    wait::{self, WaitArgs},
};
use crate::plain::escaped;

/// Revoke a token: when this returns, the revocation is on disk and in force in the kernel
///
/// The token is read from standard input, or from a file; it is never an argument, where `ps` would show it.
///
/// Instead of a token, options say which tokens are meant by what they say of themselves: all that match are refused by
/// the decision path at once, and those seen lately are condemned in the kernel.
///
/// Example: portcullis revoke --ttl 7d --reason "leaked in ticket 42" < token.txt
///
/// Example: portcullis revoke --issuer https://issuer.example.com --sub alice --reason "left the company"
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    token: TokenSource,
    /// Revoke by fingerprint, as `portcullis fingerprint` and `events` show it
    #[arg(long, value_name = "HEX", conflicts_with = "token_file")]
    fingerprint: Option<String>,
    /// The key that the fingerprint was made under, while the fingerprint key is being changed (default: the host's own)
    #[arg(long, value_name = "ID", requires = "fingerprint")]
    key_id: Option<String>,
    /// Revoke many: a line each of a file, or of standard input for `-`. A line is a token, or JSON as the API takes it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["token_file", "fingerprint", "dry_run", "selector"])]
    many: Option<PathBuf>,
    /// Give the same key with the same order again, and nothing is revoked twice
    #[arg(long, value_name = "KEY")]
    idempotency_key: Option<String>,
    /// Only tell how many tokens seen lately it would condemn, and how many living connections it would end
    #[arg(long)]
    dry_run: bool,
    /// How long it holds, such as 30m, 12h, 7d (default: `revocation.default_ttl`)
    #[arg(long, value_name = "TIME")]
    ttl: Option<String>,
    /// It holds until the token's own end (`exp`, and `token.leeway`)
    #[arg(long, conflicts_with_all = ["ttl", "fingerprint", "selector"])]
    until_expiry: bool,
    /// Why, for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    reason: String,
    /// Who ordered it, beside the user id that the daemon notes anyway
    #[arg(long, value_name = "NAME")]
    actor: Option<String>,
    /// Where it is kept, such as an incident's number
    #[arg(long, value_name = "TEXT")]
    ticket: Option<String>,
    #[command(flatten)]
    wait: WaitArgs,
    #[command(flatten)]
    ask: Ask,
    // Last, for its heading is every later option's too.
    #[command(flatten)]
    selector: SelectorArgs,
}

/// Which tokens, by what they say of themselves
#[derive(Debug, Default, ClapArgs)]
#[command(next_help_heading = "By what tokens say of themselves")]
#[group(id = "selector", multiple = true, conflicts_with_all = ["token_file", "fingerprint"])]
struct SelectorArgs {
    /// Every token of this issuer, or with another option those of its that match
    #[arg(long, value_name = "ISS")]
    issuer: Option<String>,
    /// The token with this `jti`, in all its texts
    #[arg(long, requires = "issuer")]
    jti: Option<String>,
    /// A user's tokens
    #[arg(long, requires = "issuer")]
    sub: Option<String>,
    /// A session's tokens
    #[arg(long, requires = "issuer")]
    sid: Option<String>,
    /// A client's tokens (`azp` or `client_id`), of any issuer where none is named
    #[arg(long)]
    client: Option<String>,
    /// Tokens signed with this key, which leaked
    #[arg(long, requires = "issuer")]
    kid: Option<String>,
    /// Tokens with this scope
    #[arg(long)]
    scope: Option<String>,
    /// Tokens with this role (claim `roles`)
    #[arg(long)]
    role: Option<String>,
    /// Every token, on hosts of this region (`host.region`)
    #[arg(long)]
    region: Option<String>,
    /// Of those, tokens issued before this time (RFC 3339, Unix seconds, or `now`), or that do not say when
    #[arg(long, value_name = "TIME", value_parser = unix_seconds)]
    issued_before: Option<i64>,
    /// Every token
    #[arg(long)]
    everything: bool,
}

impl SelectorArgs {
    /// The selector as the API takes it; `None` where no option names one.
    fn json(&self) -> Option<Value> {
        let mut selector = serde_json::Map::new();
        for (name, value) in [
            ("iss", &self.issuer),
            ("jti", &self.jti),
            ("sub", &self.sub),
            ("sid", &self.sid),
            ("client", &self.client),
            ("kid", &self.kid),
            ("scope", &self.scope),
            ("role", &self.role),
            ("region", &self.region),
        ] {
            if let Some(value) = value {
                selector.insert(name.to_owned(), value.as_str().into());
            }
        }
        if let Some(time) = self.issued_before {
            selector.insert("issued_before".to_owned(), time.into());
        }
        if self.everything {
            selector.insert("everything".to_owned(), true.into());
        }
        (!selector.is_empty()).then_some(Value::Object(selector))
    }
}

/// Reads a time as people and programs write it.
pub fn unix_seconds(text: &str) -> Result<i64, String> {
    let since = |t: SystemTime| {
        t.duration_since(SystemTime::UNIX_EPOCH).ok().and_then(|d| i64::try_from(d.as_secs()).ok())
    };
    if text == "now" {
        return since(SystemTime::now()).ok_or_else(|| "the clock is before 1970".to_owned());
    }
    if let Ok(seconds) = text.parse() {
        return Ok(seconds);
    }
    humantime::parse_rfc3339_weak(text).ok().and_then(since).ok_or_else(|| {
        "is no time such as 2026-11-25T12:00:00Z, no number of Unix seconds, and not `now`".to_owned()
    })
}

impl Args {
    pub fn run(self) -> Outcome {
        let mut body = json!({"reason": self.reason});
        if let Some(ttl) = &self.ttl {
            body["ttl"] = ttl.as_str().into();
        }
        if self.until_expiry {
            body["until_expiry"] = true.into();
        }
        if let Some(actor) = &self.actor {
            body["actor"] = actor.as_str().into();
        }
        if let Some(ticket) = &self.ticket {
            body["ticket"] = ticket.as_str().into();
        }
        let key = self.idempotency_key.as_deref();
        if let (Some(from), Value::Object(defaults)) = (&self.many, &body) {
            let (target, defaults) = (&self.ask.target, defaults.clone());
            let wait = &self.wait;
            return Upload { target, wait, defaults, exported: false, json: self.ask.json, key }.run(from);
        }
        match (&self.fingerprint, self.selector.json()) {
            (Some(f), _) => body["fingerprint"] = f.as_str().into(),
            (None, Some(selector)) => body["selector"] = selector,
            (None, None) => body["token"] = self.token.read()?.as_str().into(),
        }
        if let Some(id) = &self.key_id {
            body["key_id"] = id.as_str().into();
        }
        if self.dry_run {
            body["dry_run"] = true.into();
        }
        let claim = self.ask.target.order(&self.wait.path("/v1/revocations"), &body, key)?;
        if self.ask.json {
            print_json(&claim)?;
        } else if self.dry_run {
            print(&preview(&claim))?;
        } else if claim["selector"].is_object() {
            let until = time(claim["until"].as_i64().unwrap_or(0));
            print(&format!(
                "revoked: {} until {until} (revocation {})\n{} of the tokens seen lately match and are condemned; the decision path refuses others at first sight",
                shown(&claim["selector"]),
                claim["id"],
                claim["condemned"],
            ))?;
            warn(&claim);
        } else {
            let until = time(claim["until"].as_i64().unwrap_or(0));
            let fingerprint = claim["fingerprint"].as_str().unwrap_or_default();
            print(&format!("revoked: {fingerprint} until {until} (revocation {})", claim["id"]))?;
        }
        wait::finish(&claim, self.ask.json)
    }
}

/// What an order would do, for people.
pub fn preview(told: &Value) -> String {
    let tokens = if told["selector"].is_object() {
        format!("would be condemned at once: {} of the tokens seen lately", told["live"])
    } else if told["live"].is_null() {
        "would be condemned: this token, which was not seen lately".to_owned()
    } else {
        "would be condemned: this token, which was seen lately".to_owned()
    };
    let connections = match told["connections"].as_u64() {
        Some(n) => format!("would be ended: {n} connections on which requests with them are under way"),
        None => "connections are not counted: the kernel follows none here (strict mode does)".to_owned(),
    };
    let warning = told["warning"].as_str().map_or_else(String::new, |why| format!("\nwarning: {why}"));
    format!("{tokens}\n{connections}{warning}")
}

/// What an order does not reach, for people; the answer itself is for programs.
pub fn warn(told: &Value) {
    if let Some(why) = told["warning"].as_str() {
        eprintln!("warning: {why}");
    }
}

/// A selector for people.
pub fn shown(selector: &Value) -> String {
    let parts: Vec<String> = selector
        .as_object()
        .into_iter()
        .flatten()
        .map(|(name, value)| match value {
            Value::Bool(_) => name.clone(),
            Value::String(text) => format!("{name}={}", escaped(text)),
            other => format!("{name}={other}"),
        })
        .collect();
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        assert_eq!(unix_seconds("1700000000"), Ok(1_700_000_000));
        assert_eq!(unix_seconds("2023-11-14T22:13:20Z"), Ok(1_700_000_000));
        assert_eq!(unix_seconds("2023-11-14 22:13:20"), Ok(1_700_000_000));
        assert!(unix_seconds("now").is_ok_and(|t| t > 1_700_000_000));
        assert!(unix_seconds("soon").is_err());
    }

    #[test]
    fn options_make_a_selector() {
        let args = SelectorArgs {
            issuer: Some("https://a".to_owned()),
            sub: Some("alice".to_owned()),
            issued_before: Some(7),
            ..SelectorArgs::default()
        };
        let selector = args.json().unwrap();
        assert_eq!(selector, json!({"iss": "https://a", "sub": "alice", "issued_before": 7}));
        assert_eq!(shown(&selector), "iss=https://a issued_before=7 sub=alice");
        assert_eq!(shown(&json!({"sub": "a\u{1b}[2J"})), "sub=a\\u{1b}[2J", "what an old log may have");
        assert_eq!(SelectorArgs::default().json(), None);
    }
}
