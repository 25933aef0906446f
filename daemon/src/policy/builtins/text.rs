//! Builtins over strings whose answer or work could be the product of their arguments.

use std::collections::BTreeSet;

use regorus::Value;

use super::{
    Answer, Fault,
    args::text,
    limits::{room, within, work},
};

/// Most bytes that are compared in one call.
const COMPARED: u64 = 1 << 30;

/// An array or a set of strings.
fn all(args: &[Value], n: usize) -> Result<Vec<&str>, Fault> {
    fn strings<'a>(values: impl Iterator<Item = &'a Value>, n: usize) -> Result<Vec<&'a str>, Fault> {
        let string = |v: &'a Value| match v {
            Value::String(s) => Ok(s.as_ref()),
            _ => Err(Fault::from(format!("operand {} must be a collection of strings", n + 1))),
        };
        values.map(string).collect()
    }
    match args.get(n) {
        Some(Value::Array(list)) => strings(list.iter(), n),
        Some(Value::Set(set)) => strings(set.iter(), n),
        _ => Err(format!("operand {} must be array or set of strings", n + 1).into()),
    }
}

/// The same, or one string.
fn one_or_all(args: &[Value], n: usize) -> Result<Vec<&str>, Fault> {
    match args.get(n) {
        Some(Value::String(s)) => Ok(vec![s.as_ref()]),
        _ => all(args, n),
    }
}

/// `concat(delimiter, strings)`
pub fn concat(args: &[Value]) -> Answer {
    let (delimiter, parts) = (text(args, 0)?, all(args, 1)?);
    let between = delimiter.len().saturating_mul(parts.len().saturating_sub(1));
    room(parts.iter().map(|p| p.len()).sum::<usize>().saturating_add(between))?;
    Ok(Value::from(parts.join(&delimiter)))
}

/// `replace(text, old, new)`
pub fn replace(args: &[Value]) -> Answer {
    let (text, old, new) = (text(args, 0)?, text(args, 1)?, text(args, 2)?);
    let found = text.matches(old.as_ref()).count();
    room((text.len() - found * old.len()).saturating_add(found.saturating_mul(new.len())))?;
    Ok(Value::from(text.replace(old.as_ref(), &new)))
}

/// `strings.replace_n(patterns, text)`: one pass over the text; of two patterns the first by name wins.
pub fn replace_n(args: &[Value]) -> Answer {
    let Some(Value::Object(patterns)) = args.first() else { return Err("operand 1 must be object".into()) };
    let text = text(args, 1)?;
    let mut pairs = Vec::new();
    for pair in patterns.iter() {
        let (Value::String(old), Value::String(new)) = pair else {
            return Err("non-string key or value found in pattern object".into());
        };
        pairs.push((old.as_ref(), new.as_ref()));
    }
    pairs.sort_unstable();
    let longest = pairs.iter().map(|(old, _)| old.len()).max().unwrap_or(0);
    work(text.len().saturating_mul(longest), COMPARED)?;
    let empty = pairs.first().filter(|(old, _)| old.is_empty()).map(|(_, new)| *new);
    // Shorter ones sort first: what begins with another can never be found.
    let mut apart: Vec<(&str, &str)> = Vec::new();
    for pair in pairs.into_iter().filter(|(old, _)| !old.is_empty()) {
        if !apart.last().is_some_and(|(shorter, _)| pair.0.starts_with(shorter)) {
            apart.push(pair);
        }
    }
    let mut out = String::new();
    let (mut rest, mut was_empty) = (text.as_ref(), false);
    loop {
        if let Some(new) = empty.filter(|_| !was_empty) {
            out.push_str(new);
            was_empty = true;
        } else {
            was_empty = false;
            let before = apart.partition_point(|(old, _)| *old <= rest);
            let found = before.checked_sub(1).and_then(|i| apart.get(i));
            if let Some((behind, new)) = found.and_then(|(old, new)| Some((rest.strip_prefix(old)?, new))) {
                out.push_str(new);
                rest = behind;
            } else {
                let Some(next) = rest.chars().next() else { break };
                out.push(next);
                rest = &rest[next.len_utf8()..];
            }
        }
        work(out.len(), super::limits::TEXT)?;
    }
    room(out.len())?;
    Ok(Value::from(out))
}

/// `indexof(text, part)`, in characters.
pub fn indexof(args: &[Value]) -> Answer {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    if part.is_empty() {
        return Err("empty search character".into());
    }
    let found = text.find(part.as_ref()).and_then(|at| text.get(..at));
    Ok(found.map_or_else(|| Value::from(-1_i64), |before| Value::from(before.chars().count())))
}

/// `indexof_n(text, part)`: all of them, also such as overlap.
pub fn indexof_n(args: &[Value]) -> Answer {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    if part.is_empty() {
        return Err("empty search character".into());
    }
    let (text, part): (Vec<char>, Vec<char>) = (text.chars().collect(), part.chars().collect());
    // Knuth, Morris and Pratt: how long a beginning of the part ends at each of its characters.
    let mut borders = vec![0; part.len()];
    let mut matched = 0;
    for i in 1..part.len() {
        while matched > 0 && part[i] != part[matched] {
            matched = borders[matched - 1];
        }
        matched += usize::from(part[i] == part[matched]);
        borders[i] = matched;
    }
    let (mut found, mut matched) = (Vec::new(), 0);
    for (i, c) in text.iter().enumerate() {
        while matched > 0 && part.get(matched) != Some(c) {
            matched = borders[matched - 1];
        }
        matched += usize::from(part.get(matched) == Some(c));
        if matched == part.len() {
            found.push(Value::from(i + 1 - matched));
            matched = borders[matched - 1];
        }
    }
    within(u64::try_from(found.len()).unwrap_or(u64::MAX))?;
    Ok(Value::from(found))
}

/// `strings.count(text, part)`, of such as do not overlap.
pub fn count(args: &[Value]) -> Answer {
    let (text, part) = (text(args, 0)?, text(args, 1)?);
    Ok(Value::from(text.matches(part.as_ref()).count()))
}

/// `strings.any_prefix_match(texts, prefixes)`
pub fn any_prefix_match(args: &[Value]) -> Answer {
    let (texts, prefixes) = (one_or_all(args, 0)?, one_or_all(args, 1)?);
    Ok(Value::from(any_begins(&texts, prefixes)))
}

/// `strings.any_suffix_match(texts, suffixes)`
pub fn any_suffix_match(args: &[Value]) -> Answer {
    let backwards = |all: Vec<&str>| all.iter().map(|s| s.chars().rev().collect()).collect::<Vec<String>>();
    let (texts, suffixes) = (backwards(one_or_all(args, 0)?), backwards(one_or_all(args, 1)?));
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    Ok(Value::from(any_begins(&texts, suffixes.iter().map(String::as_str).collect())))
}

/// Whether any of the texts begins with any of the others.
fn any_begins(texts: &[&str], mut with: Vec<&str>) -> bool {
    // Without those that begin with another, only the last one not above a text can be its beginning.
    with.sort_unstable();
    let mut apart: Vec<&str> = Vec::new();
    for s in with {
        if !apart.last().is_some_and(|shorter| s.starts_with(shorter)) {
            apart.push(s);
        }
    }
    texts.iter().any(|text| {
        let before = apart.partition_point(|s| s <= text);
        before.checked_sub(1).and_then(|i| apart.get(i)).is_some_and(|s| text.starts_with(s))
    })
}

/// `trim(text, characters)`
pub fn trim(args: &[Value]) -> Answer {
    let (text, cut) = to_trim(args)?;
    Ok(Value::from(text.trim_matches(|c| cut.contains(&c))))
}

/// `trim_left(text, characters)`
pub fn trim_left(args: &[Value]) -> Answer {
    let (text, cut) = to_trim(args)?;
    Ok(Value::from(text.trim_start_matches(|c| cut.contains(&c))))
}

/// `trim_right(text, characters)`
pub fn trim_right(args: &[Value]) -> Answer {
    let (text, cut) = to_trim(args)?;
    Ok(Value::from(text.trim_end_matches(|c| cut.contains(&c))))
}

fn to_trim(args: &[Value]) -> Result<(std::sync::Arc<str>, BTreeSet<char>), Fault> {
    Ok((text(args, 0)?, text(args, 1)?.chars().collect()))
}
