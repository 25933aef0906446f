//! Inputs out of a recorded decision log, and why a line has none that can be decided again.

use serde_json::Value;

use crate::policy::PolicySet;

/// Why a line is not decided again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Skip {
    /// It is no line of a decision log, or no JSON.
    Unreadable,
    /// It is of another kind: a refusal by the kernel.
    OtherKind,
    /// It is about another path than the decision.
    OtherPath,
    /// The daemon denied before it asked the policy: revoked, overloaded, not ready.
    NotAsked,
    /// It has no input.
    NoInput,
    /// What was taken out of it is read by one of the sets.
    Masked,
}

impl Skip {
    pub const fn code(self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::OtherKind => "other_kind",
            Self::OtherPath => "other_path",
            Self::NotAsked => "policy_not_asked",
            Self::NoInput => "no_input",
            Self::Masked => "masked",
        }
    }

    pub const fn describe(self) -> &'static str {
        match self {
            Self::Unreadable => "no line of a decision log",
            Self::OtherKind => "refusals by the kernel: no decisions",
            Self::OtherPath => "about another path than the decision",
            Self::NotAsked => "denied by the daemon before the policy was asked",
            Self::NoInput => "without an input",
            Self::Masked => "read by a set what was taken out of the line",
        }
    }
}

/// A decision that can be made again.
#[derive(Clone, Debug)]
pub struct Recorded {
    pub input: Value,
    /// What was answered then.
    pub allow: Option<bool>,
    /// The token's name, where there is one.
    pub token: Option<String>,
    /// It stands for so many.
    pub weight: u64,
}

/// A line, or why it cannot be decided again, with the places that are to blame.
pub fn read(line: Value, bare: bool, sets: [&PolicySet; 2]) -> Result<Recorded, (Skip, Vec<String>)> {
    if bare {
        let token = name(&line);
        return Ok(Recorded { input: line, allow: None, token, weight: 1 });
    }
    let skip = |why| Err((why, Vec::new()));
    let Value::Object(mut line) = line else { return skip(Skip::Unreadable) };
    let ours = line.remove("portcullis").unwrap_or_default();
    if ours["kind"].as_str().is_some_and(|kind| kind != "decision") {
        return skip(Skip::OtherKind);
    }
    if !line.contains_key("decision_id") {
        return skip(Skip::Unreadable);
    }
    // `portcullis/decision/allow` has the input of `portcullis/decision`.
    let decision = sets[0].decision().trim_start_matches("data.").replace('.', "/");
    let path = line.get("path").and_then(Value::as_str).unwrap_or(&decision).trim_start_matches('/');
    if path.strip_prefix(&decision).is_none_or(|rest| !rest.is_empty() && !rest.starts_with('/')) {
        return skip(Skip::OtherPath);
    }
    let reason = ours["reason"].as_str();
    if reason.is_some_and(|r| ["token_revoked", "overloaded", "not_ready", "internal_error"].contains(&r)) {
        return skip(Skip::NotAsked);
    }
    let places = ["erased", "masked"].into_iter().filter_map(|list| line.get(list)?.as_array());
    let places = places.flatten().filter_map(Value::as_str);
    let read: Vec<String> =
        places.filter(|p| sets.iter().any(|set| reads(set, p))).map(str::to_owned).collect();
    let Some(input) = line.remove("input") else { return skip(Skip::NoInput) };
    if !read.is_empty() {
        return Err((Skip::Masked, read));
    }
    let token = ours["fingerprint"].as_str().map(str::to_owned).or_else(|| name(&input));
    let allow = ours["allow"].as_bool().filter(|_| reason != Some("rate_limited"));
    Ok(Recorded { input, allow, token, weight: ours["sampled_one_in"].as_u64().unwrap_or(1) })
}

/// Whose token it is, where no fingerprint says it.
fn name(input: &Value) -> Option<String> {
    let identity = &input["identity"];
    let part = |name: &str| identity[name].as_str();
    Some(format!("{}|{}", part("iss")?, part("jti").or_else(|| part("sub"))?))
}

/// Whether a set reads what stood at a place.
fn reads(set: &PolicySet, pointer: &str) -> bool {
    let steps: Vec<String> =
        pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    let Some((root, below)) = steps.split_first() else { return true };
    // An element of an array counts as the array.
    let names: Vec<&str> =
        below.iter().map(String::as_str).take_while(|s| s.parse::<usize>().is_err()).collect();
    root == "input" && set.reads().touches(&names)
}
