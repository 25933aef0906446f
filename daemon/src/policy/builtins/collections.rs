//! Builtins over objects and sets that regorus works on once for each element of each.

use std::collections::{BTreeMap, BTreeSet};

use regorus::Value;

use super::{Answer, Fault, limits::work};

/// Most comparisons in one call.
const COMPARED: u64 = 4_000_000;

/// `union({{…}, …})`
pub fn union(args: &[Value]) -> Answer {
    let Some(Value::Set(sets)) = args.first() else { return Err("operand 1 must be set".into()) };
    let mut out = BTreeSet::new();
    for set in sets.iter() {
        let Value::Set(set) = set else { return Err("operand 1 must be set of sets".into()) };
        out.extend(set.iter().cloned());
    }
    Ok(Value::from(out))
}

/// `object.union(a, b)`
pub fn object_union(args: &[Value]) -> Answer {
    let [a @ Value::Object(_), b @ Value::Object(_)] = args else {
        return Err("operands must be objects".into());
    };
    Ok(merged(&[a, b]))
}

/// `object.union_n([a, …])`
pub fn object_union_n(args: &[Value]) -> Answer {
    let Some(Value::Array(all)) = args.first() else { return Err("operand 1 must be array".into()) };
    let all: Vec<&Value> = all.iter().collect();
    if !all.iter().all(|v| matches!(v, Value::Object(_))) {
        return Err("operand 1 must be array of objects".into());
    }
    Ok(merged(&all))
}

/// Later values over earlier ones; objects at the same place become one.
fn merged(all: &[&Value]) -> Value {
    // What is no object hides all before it, and is hidden by all behind it.
    let from = all.iter().rposition(|v| !matches!(v, Value::Object(_))).unwrap_or(0);
    match all.get(from..) {
        None | Some([]) => Value::new_object(),
        Some([.., last]) if !matches!(last, Value::Object(_)) => (*last).clone(),
        Some(rest) => {
            let mut members: BTreeMap<&Value, Vec<&Value>> = BTreeMap::new();
            for object in rest {
                let Value::Object(object) = object else { continue };
                for (key, value) in object.iter() {
                    members.entry(key).or_default().push(value);
                }
            }
            let member = |(key, values): (&Value, Vec<&Value>)| {
                let value = match values.as_slice() {
                    [one] => (*one).clone(),
                    several => merged(several),
                };
                (key.clone(), value)
            };
            Value::from(members.into_iter().map(member).collect::<BTreeMap<_, _>>())
        }
    }
}

/// `object.subset(whole, part)`
pub fn subset(args: &[Value]) -> Answer {
    let is = match args {
        [Value::Array(whole), Value::Set(part)] => {
            let all: BTreeSet<&Value> = whole.iter().collect();
            !all.is_empty() && part.iter().all(|v| all.contains(v))
        }
        [whole, part] => {
            is_subset(whole, part)?.ok_or("operands must be objects, sets or arrays, both of one kind")?
        }
        _ => return Err("two operands are needed".into()),
    };
    Ok(Value::from(is))
}

/// None where they are not of one kind that has parts.
fn is_subset(whole: &Value, part: &Value) -> Result<Option<bool>, Fault> {
    match (whole, part) {
        (Value::Object(whole), Value::Object(part)) => {
            for (key, part) in part.iter() {
                match whole.get(key) {
                    Some(whole) if whole == part || is_subset(whole, part)? == Some(true) => {}
                    _ => return Ok(Some(false)),
                }
            }
            Ok(Some(true))
        }
        (Value::Set(whole), Value::Set(part)) => Ok(Some(part.is_subset(whole))),
        // Side by side.
        (Value::Array(whole), Value::Array(part)) => {
            let places = (whole.len() + 1).saturating_sub(part.len());
            work(places.saturating_mul(part.len()), COMPARED)?;
            let (whole, part) = (whole.as_slice(), part.as_slice());
            Ok(Some(part.is_empty() || whole.windows(part.len()).any(|w| w == part)))
        }
        _ => Ok(None),
    }
}
