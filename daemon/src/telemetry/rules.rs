//! Decisions by issuer and by the policy's own reason.
//!
//! The counters of a verdict are found once, when it is made, and counted up whenever it is given. A policy may word a
//! reason for each request: so many are told apart, the others are counted together.

use std::{
    collections::BTreeSet,
    sync::{Mutex, PoisonError},
};

use portcullis_common::reason::Reason;
use prometheus::{IntCounter, IntCounterVec};

/// Reasons that are told apart.
const MOST: usize = 100;
/// Longest reason that is one of them.
const LONGEST: usize = 64;

/// What is counted when a verdict is given.
#[derive(Clone, Debug)]
pub struct Counted {
    by_issuer: IntCounter,
    by_rule: IntCounter,
}

impl Counted {
    /// The verdict was given.
    pub fn note(&self) {
        self.by_issuer.inc();
        self.by_rule.inc();
    }
}

/// The counters of all verdicts.
#[derive(Debug)]
pub(super) struct Rules {
    pub by_issuer: IntCounterVec,
    pub by_rule: IntCounterVec,
    known: Mutex<BTreeSet<String>>,
}

impl Rules {
    pub fn new(by_issuer: IntCounterVec, by_rule: IntCounterVec) -> Self {
        Self { by_issuer, by_rule, known: Mutex::default() }
    }

    pub fn counted(&self, issuer: Option<&str>, reason: Reason, said: Option<&str>) -> Counted {
        let decision = if reason == Reason::Allowed { "allow" } else { "deny" };
        let said = said.map_or("", |said| self.bounded(said));
        Counted {
            by_issuer: self.by_issuer.with_label_values(&[issuer.unwrap_or("none"), reason.code()]),
            by_rule: self.by_rule.with_label_values(&[decision, said]),
        }
    }

    fn bounded<'a>(&self, said: &'a str) -> &'a str {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.contains(said) {
            return said;
        }
        if known.len() >= MOST || said.len() > LONGEST || said.chars().any(char::is_control) {
            return "(others)";
        }
        known.insert(said.to_owned());
        said
    }
}

#[cfg(test)]
mod tests {
    use crate::telemetry::Metrics;

    use super::*;

    #[test]
    fn issuers_and_reasons_are_counted_when_a_verdict_is_given_and_reasons_are_bounded() {
        let m = Metrics::new().unwrap();
        let verdict = m.counted(Some("https://a"), Reason::Allowed, None);
        assert!(m.render().unwrap().contains("issuer=\"https://a\",reason=\"allowed\"} 0"));
        verdict.note();
        verdict.clone().note();
        for n in 0..300 {
            m.counted(None, Reason::PolicyDenied, Some(&format!("no {n}"))).note();
        }
        m.counted(None, Reason::PolicyDenied, Some(&"x".repeat(65))).note();
        m.counted(None, Reason::PolicyDenied, Some("no 7")).note();
        let text = m.render().unwrap();
        for line in [
            "portcullis_policy_decisions_total{issuer=\"https://a\",reason=\"allowed\"} 2",
            "portcullis_policy_decisions_total{issuer=\"none\",reason=\"policy_denied\"} 302",
            "portcullis_policy_rules_total{decision=\"deny\",rule=\"no 7\"} 2",
            "portcullis_policy_rules_total{decision=\"deny\",rule=\"(others)\"} 201",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
