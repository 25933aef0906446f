//! The policy's own mask: `data.system.log.mask`, as OPA has it.
//!
//! It is a set of JSON pointers to take out (`"/input/password"`), or of objects with `op` (`"remove"` or `"upsert"`),
//! `path`, and `value` for an upsert. Paths begin with `/input`, `/result` or `/portcullis`. It is asked about the whole
//! line, already redacted, on the log's own thread.

use serde_json::Value;

use super::redact::Changed;

/// The rule's path below `data`.
pub const RULE: [&str; 3] = ["system", "log", "mask"];
/// What may be masked.
const ROOTS: [&str; 3] = ["input", "result", "portcullis"];

/// Applies a mask to a line. The error says what is wrong with the mask.
pub fn apply(line: &mut Value, mask: &Value, changed: &mut Changed) -> Result<(), String> {
    let Value::Array(orders) = mask else { return Err("it is not a set".to_owned()) };
    for order in orders {
        let (path, value) = match order {
            Value::String(path) => (path.as_str(), None),
            Value::Object(members) => {
                let Some(path) = members.get("path").and_then(Value::as_str) else {
                    return Err("an object of it has no `path`".to_owned());
                };
                match members.get("op").and_then(Value::as_str) {
                    Some("remove") => (path, None),
                    Some("upsert") => (path, Some(members.get("value").cloned().unwrap_or_default())),
                    _ => return Err("`op` is neither \"remove\" nor \"upsert\"".to_owned()),
                }
            }
            _ => return Err("it holds what is neither a text nor an object".to_owned()),
        };
        let steps = segments(path);
        if !steps.first().is_some_and(|root| ROOTS.contains(&root.as_str())) {
            return Err("a path of it begins with none of /input, /result and /portcullis".to_owned());
        }
        let (done, list) = match value {
            None => (remove(line, &steps), &mut changed.erased),
            Some(value) => (put(line, &steps, value), &mut changed.masked),
        };
        if done {
            list.push(path.to_owned());
        }
    }
    Ok(())
}

/// The steps of a JSON pointer.
pub fn segments(pointer: &str) -> Vec<String> {
    pointer.split('/').skip(1).map(|s| s.replace("~1", "/").replace("~0", "~")).collect()
}

fn find<'a>(mut at: &'a mut Value, steps: &[String]) -> Option<&'a mut Value> {
    for step in steps {
        at = match at {
            Value::Object(members) => members.get_mut(step)?,
            Value::Array(items) => items.get_mut(step.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(at)
}

/// Whether there was something to take out. An element of an array becomes null: its neighbours keep their places.
fn remove(line: &mut Value, steps: &[String]) -> bool {
    let Some((last, above)) = steps.split_last() else { return false };
    match find(line, above) {
        Some(Value::Object(members)) => members.remove(last).is_some(),
        Some(Value::Array(items)) => {
            last.parse::<usize>().ok().and_then(|n| items.get_mut(n)).map(Value::take).is_some()
        }
        _ => false,
    }
}

/// Whether there was a place to put it.
fn put(line: &mut Value, steps: &[String], value: Value) -> bool {
    let Some((last, above)) = steps.split_last() else { return false };
    match find(line, above) {
        Some(Value::Object(members)) => {
            members.insert(last.clone(), value);
            true
        }
        Some(Value::Array(items)) => {
            last.parse::<usize>().ok().and_then(|n| items.get_mut(n)).map(|at| *at = value).is_some()
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_taken_out_and_put_in_as_opa_does() {
        let mut line = json!({"input": {"a": {"b/c": 1, "d": 2}, "l": [1, 2]}, "result": {"x": 1}});
        let mask = json!([
            "/input/a/b~1c", "/input/l/0", "/input/none/x", {"op": "remove", "path": "/result"},
            {"op": "upsert", "path": "/input/a/d", "value": "**"}, {"op": "upsert", "path": "/input/new", "value": 1},
            {"op": "upsert", "path": "/input/no/parent", "value": 1},
        ]);
        let mut changed = Changed::default();
        apply(&mut line, &mask, &mut changed).unwrap();
        assert_eq!(line, json!({"input": {"a": {"d": "**"}, "l": [null, 2], "new": 1}}));
        assert_eq!(changed.erased, ["/input/a/b~1c", "/input/l/0", "/result"]);
        assert_eq!(changed.masked, ["/input/a/d", "/input/new"]);
    }

    #[test]
    fn a_mask_that_is_none_is_an_error() {
        for bad in [
            json!({}),
            json!([1]),
            json!(["/labels/id"]),
            json!(["input/x"]),
            json!([{"op": "upsert"}]),
            json!([{"op": "add", "path": "/input/x"}]),
        ] {
            let mut line = json!({"input": {"x": 1}});
            assert!(apply(&mut line, &bad, &mut Changed::default()).is_err(), "{bad}");
        }
    }
}
