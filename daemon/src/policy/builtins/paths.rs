//! `json.filter` and `json.remove`: documents with or without what paths lead to, which are arrays of keys or texts such as
//! `"user/ssn"` and `"/user/ssn"`, with `~1` for a slash in a key and `~0` for a tilde (RFC 6901).

use std::collections::BTreeMap;

use regorus::Value;

use super::{Answer, Fault, limits::work};

/// Longest path. What is nested deeper cannot be let go of on the stack of a thread that decides.
const PATH: u64 = 512;

/// Where paths lead: to the end of one, or further.
enum Way {
    End,
    On(BTreeMap<Value, Way>),
}

impl Way {
    fn at(&self, key: &Value) -> Option<&Self> {
        match self {
            Self::End => None,
            Self::On(ways) => ways.get(key),
        }
    }

    /// The way to an element: paths name it by a text.
    fn to(&self, element: usize) -> Option<&Self> {
        self.at(&Value::from(element.to_string()))
    }
}

/// `json.filter(document, paths)`
pub fn filter(args: &[Value]) -> Answer {
    let (document, ways) = read(args)?;
    Ok(kept(document, &ways))
}

/// `json.remove(document, paths)`
pub fn remove(args: &[Value]) -> Answer {
    let (document, ways) = read(args)?;
    Ok(left(document, Some(&ways)).unwrap_or(Value::Undefined))
}

fn read(args: &[Value]) -> Result<(&Value, Way), Fault> {
    let [document @ Value::Object(_), paths] = args else { return Err("operand 1 must be object".into()) };
    let mut ways = BTreeMap::new();
    let mut add = |path: &Value| {
        let keys = keys(path)?;
        work(keys.len(), PATH)?;
        let Some((last, before)) = keys.split_last() else { return Ok(()) };
        let mut here = &mut ways;
        for key in before {
            match here.entry(key.clone()).or_insert_with(|| Way::On(BTreeMap::new())) {
                // A shorter path says all.
                Way::End => return Ok(()),
                Way::On(further) => here = further,
            }
        }
        here.insert(last.clone(), Way::End);
        Ok::<_, Fault>(())
    };
    match paths {
        Value::Array(all) => all.iter().try_for_each(&mut add)?,
        Value::Set(all) => all.iter().try_for_each(&mut add)?,
        _ => return Err("operand 2 must be array or set of paths".into()),
    }
    Ok((document, Way::On(ways)))
}

/// A path's keys; none of an empty one, which leads nowhere.
fn keys(path: &Value) -> Result<Vec<Value>, Fault> {
    match path {
        Value::String(path) if path.is_empty() => Ok(Vec::new()),
        Value::String(path) => {
            let key = |part: &str| Value::from(part.replace("~1", "/").replace("~0", "~"));
            Ok(path.trim_start_matches('/').split('/').map(key).collect())
        }
        Value::Array(keys) => Ok(keys.iter().cloned().collect()),
        _ => Err("operand 2 must hold paths as strings or arrays".into()),
    }
}

/// What of a document paths lead to.
fn kept(document: &Value, way: &Way) -> Value {
    let Way::On(ways) = way else { return document.clone() };
    match document {
        Value::Object(members) => {
            let member = |(key, way): (&Value, &Way)| Some((key.clone(), kept(members.get(key)?, way)));
            Value::from(ways.iter().filter_map(member).collect::<BTreeMap<_, _>>())
        }
        Value::Set(all) => {
            let one = |v: &Value| way.at(v).map(|way| kept(v, way));
            Value::from(all.iter().filter_map(one).collect::<std::collections::BTreeSet<_>>())
        }
        Value::Array(items) => {
            let item = |(n, v): (usize, &Value)| way.to(n).map(|way| kept(v, way));
            Value::from(items.iter().enumerate().filter_map(item).collect::<Vec<_>>())
        }
        other => other.clone(),
    }
}

/// What of a document paths do not lead to; none where one leads to all of it.
fn left(document: &Value, way: Option<&Way>) -> Option<Value> {
    let Some(way) = way else { return Some(document.clone()) };
    if matches!(way, Way::End) {
        return None;
    }
    Some(match document {
        Value::Object(members) => {
            let member = |(key, v): (&Value, &Value)| Some((key.clone(), left(v, way.at(key))?));
            Value::from(members.iter().filter_map(member).collect::<BTreeMap<_, _>>())
        }
        Value::Set(all) => {
            let one = |v: &Value| left(v, way.at(v));
            Value::from(all.iter().filter_map(one).collect::<std::collections::BTreeSet<_>>())
        }
        Value::Array(items) => {
            let item = |(n, v): (usize, &Value)| left(v, way.to(n));
            Value::from(items.iter().enumerate().filter_map(item).collect::<Vec<_>>())
        }
        other => other.clone(),
    })
}
