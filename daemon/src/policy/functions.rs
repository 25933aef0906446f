//! Functions that modules call: each must be there, with as many arguments as it takes.
//!
//! regorus finds out when a rule calls one, and then every decision fails; OPA says so when it loads a set, and so it is
//! here.

use regorus::unstable::Module;
use serde_json::Value;

use super::{
    LoadError, builtins,
    hazards::{at, dotted, nodes},
};

/// regorus's builtins that are called as they are, with the number of their arguments; others are [`builtins::ALL`].
const OF_REGORUS: &[(&str, usize)] = &[
    ("abs", 1),
    ("array.concat", 2),
    ("array.reverse", 1),
    ("array.slice", 3),
    ("base64.encode", 1),
    ("base64url.encode", 1),
    ("base64url.encode_no_pad", 1),
    ("bits.and", 2),
    ("bits.negate", 1),
    ("bits.or", 2),
    ("bits.rsh", 2),
    ("bits.xor", 2),
    ("ceil", 1),
    ("contains", 2),
    ("count", 1),
    ("endswith", 2),
    ("floor", 1),
    ("format_int", 2),
    ("graph.reachable", 2),
    ("hex.decode", 1),
    ("hex.encode", 1),
    ("intersection", 1),
    ("is_array", 1),
    ("is_boolean", 1),
    ("is_null", 1),
    ("is_number", 1),
    ("is_object", 1),
    ("is_set", 1),
    ("is_string", 1),
    ("json.patch", 2),
    ("max", 1),
    ("min", 1),
    ("object.filter", 2),
    ("object.get", 3),
    ("object.keys", 1),
    ("object.remove", 2),
    ("opa.runtime", 0),
    ("rand.intn", 2),
    ("round", 1),
    ("sort", 1),
    ("split", 2),
    ("startswith", 2),
    ("strings.reverse", 1),
    ("substring", 3),
    ("sum", 1),
    ("time.clock", 1),
    ("time.date", 1),
    ("time.diff", 2),
    ("time.format", 1),
    ("time.now_ns", 0),
    ("time.parse_ns", 2),
    ("time.weekday", 1),
    ("trace", 1),
    ("trim_prefix", 2),
    ("trim_space", 1),
    ("trim_suffix", 2),
    ("type_name", 1),
    ("urlquery.encode", 1),
    ("urlquery.encode_object", 1),
    ("uuid.parse", 1),
    ("uuid.rfc4122", 1),
    ("walk", 1),
    ("yaml.marshal", 1),
];

/// How many inputs a builtin takes, either engine's or ours.
pub(super) fn inputs(name: &str) -> Option<usize> {
    let of_regorus = OF_REGORUS.iter().find(|(of, _)| *of == name).map(|(_, takes)| *takes);
    of_regorus.or_else(|| builtins::find(name).map(|b| b.arity.into()))
}

/// Refuses calls of a module to what is no function; `is_rule` tells of paths below `data`.
pub(super) fn check(
    file: &str,
    module: &Module,
    tree: &Value,
    is_rule: impl Fn(&str) -> bool,
) -> Result<(), LoadError> {
    let package = module.package.refr.span().text();
    for (_, call) in nodes(tree, &[]).filter(|(kind, _)| *kind == "Call") {
        // What is computed is told by the engine.
        let Some(name) = call.get("fcn").and_then(dotted) else { continue };
        let given = call.get("params").and_then(Value::as_array).map_or(0, Vec::len);
        if is_rule(&format!("data.{package}.{name}")) || name == "print" {
            continue;
        }
        // Imports are written out before.
        let is_there = if name.starts_with("data.") {
            is_rule(&name)
        } else if let Some((_, takes)) = OF_REGORUS.iter().find(|(of, _)| *of == name) {
            if given != *takes && given != takes + 1 {
                let message = format!("`{name}` takes {takes} arguments, and perhaps one for its output");
                return Err(at(file, call, message));
            }
            true
        } else {
            // With how many arguments, `hazards::check_arity` knows.
            builtins::find(&name).is_some()
        };
        if !is_there {
            return Err(at(file, call, format!("there is no function `{name}`")));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_ours_is_not_regoruss() {
        let both = OF_REGORUS.iter().find(|(name, _)| builtins::find(name).is_some());
        assert_eq!(both, None, "its row counts for nothing");
    }
}
