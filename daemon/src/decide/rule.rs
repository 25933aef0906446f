//! A rule of the policy set that is asked by itself, beside decisions on requests.

use serde_json::Value;

use super::Decider;
use crate::policy::Input;

impl Decider {
    /// Whether a rule is `true` for an input. Undefined, another value, and whatever goes wrong are no.
    pub fn holds(&self, rule: &[&str], input: Value) -> bool {
        let loaded = self.parts.policy.current();
        match loaded.set.eval_path(rule, &Input::from(input)) {
            Ok(value) => value == Some(Value::Bool(true)),
            Err(e) => {
                tracing::warn!(error = %e, rule = rule.join("/"), "a rule could not be evaluated: the answer is no");
                false
            }
        }
    }

    /// Whether the set may say anything under a path.
    pub fn may_hold(&self, rule: &[&str]) -> bool {
        self.parts.policy.current().set.may_hold(rule)
    }
}
