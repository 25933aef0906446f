//! Finding what the RVM gets wrong, where the interpreter does not. Each is a way to fail open.
//!
//! * It drops arguments past the eighth in silence, so that `allow if not blocked(<nine arguments>)` allows
//!   what the interpreter refuses. Such calls are refused on either engine.
//! * It takes definitions that contradict each other (an error in OPA) for an undefined rule, so that
//!   `allow if not blocked` allows. Rules whose definitions could contradict run on the interpreter.

use regorus::{
    CompiledPolicy,
    unstable::{Expr, Rule, RuleHead},
};
use serde_json::Value;

use super::LoadError;

/// Arguments of a call that the RVM passes on.
const MOST: usize = 8;

/// Refuses calls and function heads of a module that have too many arguments.
pub(super) fn check_arity(file: &str, module: &regorus::unstable::Module) -> Result<(), LoadError> {
    let tree = serde_json::to_value(module).map_err(|e| LoadError::Compile(e.to_string()))?;
    // A list of what is still to be seen, not recursion: the tree is as deep as its author made it.
    let mut todo = vec![&tree];
    while let Some(node) = todo.pop() {
        match node {
            Value::Array(items) => todo.extend(items),
            Value::Object(members) => {
                for (kind, node) in members {
                    let arguments = match kind.as_str() {
                        "Call" => node.get("params"),
                        "Func" => node.get("args"),
                        _ => None,
                    };
                    let count = arguments.and_then(Value::as_array).map_or(0, Vec::len);
                    if count > MOST {
                        return Err(too_many(file, node, count));
                    }
                    todo.push(node);
                }
            }
            _ => {}
        }
    }
    Ok(())
}

fn too_many(file: &str, node: &Value, count: usize) -> LoadError {
    let position = |name: &str| {
        let n = node.get("span").and_then(|span| span.get(name)).and_then(Value::as_u64);
        n.and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    };
    LoadError::Rego {
        file: file.to_owned(),
        line: position("line"),
        column: position("col"),
        message: format!(
            "{count} arguments are more than the engine passes on ({MOST}); pass one object instead"
        ),
    }
}

/// The first rule with definitions that could give different values for one input.
pub(super) fn contradictable(policy: &CompiledPolicy) -> Option<String> {
    let mut rules: Vec<_> =
        policy.get_rules().iter().filter(|(_, rules)| differ(rules.iter().map(AsRef::as_ref))).collect();
    rules.sort_by_key(|(path, _)| path.as_str());
    rules.first().map(|(path, _)| (*path).clone())
}

/// Whether definitions of one rule may give different values. Those of one `else` chain exclude each other.
fn differ<'a>(definitions: impl Iterator<Item = &'a Rule>) -> bool {
    let (mut chains, mut values) = (0, Vec::new());
    for rule in definitions {
        let Rule::Spec { head, bodies, .. } = rule else { continue };
        let (RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. }) = head else { continue };
        chains += 1;
        values.push(assign.as_ref().map_or(Some("true"), |a| literal(&a.value)));
        // The first body is the head's own; the others are its `else`s.
        let elses = bodies.iter().skip(1);
        values.extend(elses.map(|b| b.assign.as_ref().map_or(Some("true"), |a| literal(&a.value))));
    }
    chains > 1 && values.iter().any(|v| v.is_none() || *v != values[0])
}

/// A literal's text; `None` for what is computed.
fn literal(value: &Expr) -> Option<&str> {
    match value {
        Expr::String { span, .. }
        | Expr::RawString { span, .. }
        | Expr::Number { span, .. }
        | Expr::Bool { span, .. }
        | Expr::Null { span, .. } => Some(span.text()),
        _ => None,
    }
}
