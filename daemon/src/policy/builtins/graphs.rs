//! Builtins that go over graphs: how many paths one has is known only when they are gone over.

use std::collections::BTreeSet;

use regorus::Value;

use super::{Answer, Fault, limits, native::native};

/// Steps along paths; each takes some microseconds to tell.
const STEPS: u64 = 10_000;

/// `graph.reachable_paths(graph, initial)`
pub fn reachable_paths(args: &[Value]) -> Answer {
    if let [graph, initial] = args {
        let mut steps = 0;
        for node in members(initial) {
            follow(graph, node, &mut BTreeSet::new(), &mut steps)?;
        }
    }
    native("graph.reachable_paths", args)
}

/// Parts of the paths that `walk` makes, all together; each is a copy.
const PARTS: u64 = 200_000;

/// What stands before `walk`, which has no bound: its value, where going over it is not too much.
pub fn walked(args: &[Value]) -> Answer {
    let value = args.first().cloned().unwrap_or(Value::Undefined);
    let mut parts = 0;
    measure(&value, 0, &mut parts)?;
    Ok(value)
}

fn measure(value: &Value, depth: usize, parts: &mut usize) -> Result<(), Fault> {
    // A pair with its path.
    *parts += 2 + depth;
    limits::work(*parts, PARTS)?;
    let mut each = |value: &Value| measure(value, depth + 1, parts);
    match value {
        Value::Array(all) => all.iter().try_for_each(each),
        Value::Set(all) => all.iter().try_for_each(each),
        Value::Object(all) => all.iter().try_for_each(|(_, value)| each(value)),
        _ => Ok(()),
    }
}

fn members(list: &Value) -> Box<dyn Iterator<Item = &Value> + '_> {
    match list {
        Value::Array(all) => Box::new(all.iter()),
        Value::Set(all) => Box::new(all.iter()),
        _ => Box::new(std::iter::empty()),
    }
}

/// Goes on from a node by all paths that come to none of theirs again.
fn follow<'a>(
    graph: &'a Value,
    node: &'a Value,
    path: &mut BTreeSet<&'a Value>,
    steps: &mut usize,
) -> Result<(), Fault> {
    // A path is told with all its nodes.
    *steps += 1 + path.len();
    limits::work(*steps, STEPS)?;
    if !path.insert(node) {
        return Ok(());
    }
    let Value::Object(edges) = graph else { return Ok(()) };
    for next in edges.get(node).into_iter().flat_map(members) {
        follow(graph, next, path, steps)?;
    }
    path.remove(node);
    Ok(())
}
