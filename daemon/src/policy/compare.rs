//! What two policy sets say of one input: for `policy diff`, and for a candidate beside the live set.

use std::fmt;

use serde::Serialize;
use serde_json::{Value, json};

use super::{Decision, Input, PolicyError, PolicySet};

/// In which way they differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// The old one allows, the new one denies.
    NewlyDenied,
    /// The old one denies, the new one allows.
    NewlyAllowed,
    /// Both allow or both deny, and say something else beside that.
    Changed,
}

impl Kind {
    /// Its name, in metrics and JSON.
    pub const fn code(self) -> &'static str {
        match self {
            Self::NewlyDenied => "newly_denied",
            Self::NewlyAllowed => "newly_allowed",
            Self::Changed => "changed",
        }
    }

    /// Each.
    pub const ALL: [Self; 3] = [Self::NewlyDenied, Self::NewlyAllowed, Self::Changed];
}

/// Why a set says what it says: the reason it gives, or what went wrong.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Cause {
    /// Whether it allows.
    pub allow: bool,
    /// The reason, as the policy words it; the code of a failure.
    pub reason: String,
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.allow { "allow" } else { "deny" })?;
        if self.reason.is_empty() { Ok(()) } else { write!(f, " ({})", self.reason) }
    }
}

/// What a difference is about; those of one key are counted together.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Difference {
    /// In which way.
    pub kind: Kind,
    /// Why the old set says what it says.
    pub old: Cause,
    /// Why the new one does.
    pub new: Cause,
    /// Members of the decision that differ.
    pub members: Vec<&'static str>,
}

/// One set's answer.
struct Answer(Result<(Decision, Value), PolicyError>);

/// Evaluates both. None where they agree in everything; else the difference and both answers.
pub fn compare(old: &PolicySet, new: &PolicySet, input: &Input) -> Option<(Difference, [Value; 2])> {
    let answers = [old, new].map(|set| Answer(set.eval_decision_value(input)));
    let [old, new] = &answers;
    let kind = match (old.allows(), new.allows()) {
        (true, false) => Kind::NewlyDenied,
        (false, true) => Kind::NewlyAllowed,
        _ => Kind::Changed,
    };
    let members = members(old, new);
    if kind == Kind::Changed && members.is_empty() {
        return None;
    }
    let difference = Difference { kind, old: old.cause(), new: new.cause(), members };
    Some((difference, answers.map(Answer::shown)))
}

/// Rules of either set whose values differ for an input, with what they are: the place where the sets part.
pub fn differing_rules(old: &PolicySet, new: &PolicySet, input: &Input) -> Vec<String> {
    let rules = old.reads().rules.union(&new.reads().rules);
    let value = |set: &PolicySet, rule: &str| {
        let path: Vec<&str> = rule.split('.').skip(1).collect();
        set.eval_path(&path, input)
    };
    let own = [old.decision(), new.decision()];
    rules
        .filter(|rule| !own.contains(&rule.as_str()) && value(old, rule) != value(new, rule))
        .cloned()
        .collect()
}

impl Answer {
    fn allows(&self) -> bool {
        self.0.as_ref().is_ok_and(|(decision, _)| decision.allow)
    }

    fn cause(&self) -> Cause {
        let reason = match &self.0 {
            Ok((decision, _)) => decision.reason.clone().unwrap_or_default(),
            Err(e) => e.reason().code().to_owned(),
        };
        Cause { allow: self.allows(), reason }
    }

    fn shown(self) -> Value {
        match self.0 {
            Ok((_, value)) => value,
            Err(e) => json!({"error": e.to_string()}),
        }
    }
}

fn members(old: &Answer, new: &Answer) -> Vec<&'static str> {
    let (old, new) = match (&old.0, &new.0) {
        (Ok((old, _)), Ok((new, _))) => (old, new),
        (Err(old), Err(new)) if old.reason() == new.reason() => return Vec::new(),
        _ => return vec!["error"],
    };
    // Taken apart, so that a member that is added later is not forgotten here.
    let Decision { allow, reason, status, block, ttl, grant, limits, counts, reply } = old;
    let differ = [
        ("allow", *allow != new.allow),
        ("reason", *reason != new.reason),
        ("status", *status != new.status),
        ("block", *block != new.block),
        ("ttl", *ttl != new.ttl),
        ("grant", *grant != new.grant),
        ("limit", *limits != new.limits),
        ("use", *counts != new.counts),
        ("headers, body or metadata", *reply != new.reply),
    ];
    differ.into_iter().filter(|(_, differs)| *differs).map(|(name, _)| name).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::policy::{LoadOptions, load};

    fn set(rules: &str) -> PolicySet {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.rego"), format!("package p\n\nimport rego.v1\n\n{rules}\n")).unwrap();
        load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default()).unwrap()
    }

    #[test]
    fn each_way_of_differing_is_told_with_its_causes_and_rules() {
        let rules = |limit: u32, status: u16| {
            set(&format!(
                "default decision := {{\"allow\": false, \"reason\": \"too much\", \"status\": {status}}}\n\
                 decision := {{\"allow\": true}} if few\nfew if input.n < {limit}\nsame if input.n > 0\n\
                 fails := 1 / input.n"
            ))
        };
        let (old, new) = (rules(5, 403), rules(3, 429));
        let of = |n: u32| compare(&old, &new, &Input::from(json!({"n": n})));
        assert_eq!(of(1), None);
        let (d, values) = of(4).unwrap();
        assert_eq!(
            (d.kind, d.old.to_string(), d.new.to_string()),
            (Kind::NewlyDenied, "allow".into(), "deny (too much)".into())
        );
        assert_eq!(values[0], json!({"allow": true}));
        assert_eq!(differing_rules(&old, &new, &Input::from(json!({"n": 4}))), ["data.p.few"]);
        let (d, _) = of(9).unwrap();
        assert_eq!((d.kind, d.members), (Kind::Changed, vec!["status"]));
        let (d, _) = compare(&new, &old, &Input::from(json!({"n": 4}))).unwrap();
        assert_eq!(d.kind, Kind::NewlyAllowed);
    }

    #[test]
    fn a_set_that_fails_denies() {
        let (old, new) = (set("decision := true"), set("decision := \"yes\" if input.n"));
        let (d, values) = compare(&old, &new, &Input::from(json!({"n": 1}))).unwrap();
        assert_eq!((d.kind, d.new.reason.as_str()), (Kind::NewlyDenied, "policy_error"));
        assert!(values[1]["error"].is_string());
        let (d, _) = compare(&old, &new, &Input::from(json!({}))).unwrap();
        assert_eq!((d.kind, d.new.reason.as_str()), (Kind::NewlyDenied, "policy_undefined"));
    }
}
