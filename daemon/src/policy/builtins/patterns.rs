//! `regex.*` and `glob.*`, with patterns that mean what they mean to OPA.
//!
//! One search is linear in the text, all of them together may not be: so the clock is looked at between them.

use std::{
    cell::RefCell,
    collections::HashMap,
    fmt::Write as _,
    time::{Duration, Instant},
};

use regex::{Regex, RegexBuilder};
use regorus::Value;

use super::{
    Answer, Fault,
    args::text,
    ascii::ascii,
    limits::{room, within, work},
};

/// Largest compiled pattern in bytes, as in regorus.
const COMPILED: usize = 100 << 10;
/// Longest pattern in bytes.
const PATTERN: u64 = 16 << 10;
/// Patterns that a thread keeps compiled.
const KEPT: usize = 256;
/// Longest time for all searches of one call.
const TIME: Duration = Duration::from_millis(50);
/// Most of pattern times text that is searched, in bytes.
const SEARCHED: u64 = 1 << 30;

thread_local! {
    static PATTERNS: RefCell<HashMap<String, Regex>> = RefCell::default();
}

/// A pattern of the `regex` crate, compiled.
fn compiled(pattern: String) -> Result<Regex, Fault> {
    if let Some(known) = PATTERNS.with_borrow(|all| all.get(&pattern).cloned()) {
        return Ok(known);
    }
    work(pattern.len(), PATTERN)?;
    let regex = RegexBuilder::new(&pattern).size_limit(COMPILED).build().map_err(|e| match e {
        regex::Error::CompiledTooBig(limit) => {
            Fault::Fatal(format!("the pattern is too large when compiled, more than {limit} bytes"))
        }
        other => Fault::Failed(other.to_string()),
    })?;
    PATTERNS.with_borrow_mut(|all| {
        if all.len() >= KEPT {
            all.clear();
        }
        all.insert(pattern, regex.clone());
    });
    Ok(regex)
}

/// A pattern and the text it is for.
fn pattern(args: &[Value], pattern: usize, at: usize) -> Result<(Regex, std::sync::Arc<str>), Fault> {
    let (pattern, text) = (text(args, pattern)?, text(args, at)?);
    work(pattern.len().saturating_mul(text.len()), SEARCHED)?;
    Ok((compiled(ascii(&pattern))?, text))
}

/// So many of what a search finds.
fn found<T>(all: impl Iterator<Item = T>, most: usize) -> Result<Vec<T>, Fault> {
    let begun = Instant::now();
    let mut out = Vec::new();
    for one in all.take(most) {
        out.push(one);
        within(u64::try_from(out.len()).unwrap_or(u64::MAX))?;
        if begun.elapsed() > TIME {
            return Err(Fault::Fatal(format!("it searches for more than {} ms", TIME.as_millis())));
        }
    }
    Ok(out)
}

/// How many matches are wanted: below nought is all.
fn wanted(args: &[Value]) -> Result<usize, Fault> {
    match args.get(2).and_then(|n| n.as_i64().ok()) {
        Some(n) => Ok(usize::try_from(n).unwrap_or(usize::MAX)),
        None => Err("operand 3 must be integer".into()),
    }
}

/// `regex.match(pattern, text)`
pub fn is_match(args: &[Value]) -> Answer {
    let (regex, text) = pattern(args, 0, 1)?;
    Ok(Value::from(regex.is_match(&text)))
}

/// `regex.is_valid(pattern)`
pub fn is_valid(args: &[Value]) -> Answer {
    let Ok(pattern) = text(args, 0) else { return Ok(Value::from(false)) };
    match compiled(ascii(&pattern)) {
        Ok(_) => Ok(Value::from(true)),
        Err(Fault::Failed(_)) => Ok(Value::from(false)),
        Err(other) => Err(other),
    }
}

/// `regex.find_n(pattern, text, n)`
pub fn find_n(args: &[Value]) -> Answer {
    let (regex, text) = pattern(args, 0, 1)?;
    let found = found(regex.find_iter(&text).map(|m| Value::from(m.as_str())), wanted(args)?)?;
    Ok(Value::from(found))
}

/// `regex.find_all_string_submatch_n(pattern, text, n)`
pub fn find_all_string_submatch_n(args: &[Value]) -> Answer {
    let (regex, text) = pattern(args, 0, 1)?;
    let mut size = 0_usize;
    let all = regex.captures_iter(&text).map(|groups| {
        let mut list = Vec::new();
        for group in groups.iter() {
            let group = group.map_or("", |m| m.as_str());
            size = size.saturating_add(group.len());
            list.push(Value::from(group));
        }
        work(size, super::limits::TEXT).map(|()| Value::from(list))
    });
    let found = found(all, wanted(args)?)?;
    Ok(Value::from(found.into_iter().collect::<Result<Vec<_>, _>>()?))
}

/// `regex.split(pattern, text)`, as Go splits: nothing before a first empty match, nor behind a last one.
pub fn split(args: &[Value]) -> Answer {
    let (regex, text) = pattern(args, 0, 1)?;
    if text.is_empty() {
        return Ok(Value::from(vec![Value::from("")]));
    }
    let (mut parts, mut begin, mut end) = (Vec::new(), 0, 0);
    for m in found(regex.find_iter(&text), usize::MAX)? {
        end = m.start();
        if m.end() != 0 {
            parts.push(Value::from(text.get(begin..end).unwrap_or_default()));
        }
        begin = m.end();
    }
    if end != text.len() {
        parts.push(Value::from(text.get(begin..).unwrap_or_default()));
    }
    Ok(Value::from(parts))
}

/// `regex.replace(text, pattern, new)`
pub fn replace(args: &[Value]) -> Answer {
    let (regex, text) = pattern(args, 1, 0)?;
    let new = super::args::text(args, 2)?;
    let (mut out, mut begin) = (String::new(), 0);
    let mut too_long = Ok(());
    let each = regex.captures_iter(&text).map_while(|groups| {
        let all = groups.get(0)?;
        out.push_str(text.get(begin..all.start()).unwrap_or_default());
        begin = all.end();
        // What one replacement can come to, before it is made.
        let once = all.len().saturating_add(1).saturating_mul(new.matches('$').count());
        too_long = work(out.len().saturating_add(once).saturating_add(new.len()), super::limits::TEXT);
        too_long.is_ok().then(|| groups.expand(&new, &mut out))
    });
    found(each, usize::MAX)?;
    too_long?;
    out.push_str(text.get(begin..).unwrap_or_default());
    room(out.len())?;
    Ok(Value::from(out))
}

/// `regex.template_match(template, text, start, end)`
pub fn template_match(args: &[Value]) -> Answer {
    let (template, text) = (text(args, 0)?, text(args, 1)?);
    let delimiter = |n: usize| {
        let given = super::args::text(args, n)?;
        let mut chars = given.chars();
        match (chars.next(), chars.next()) {
            (Some(c), None) => Ok(c),
            _ => Err(Fault::from("a delimiter has to be exactly one character long")),
        }
    };
    let (open, close) = (delimiter(2)?, delimiter(3)?);
    work(template.len().saturating_mul(text.len()), SEARCHED)?;
    let unbalanced = || Fault::from("unbalanced braces");
    let (mut out, mut level, mut from) = (String::from("^"), 0_usize, 0);
    for (at, c) in template.char_indices() {
        if c == open {
            if level == 0 {
                out.push_str(&regex::escape(template.get(from..at).unwrap_or_default()));
                from = at + c.len_utf8();
            }
            level += 1;
        } else if c == close {
            level = level.checked_sub(1).ok_or_else(unbalanced)?;
            if level == 0 {
                let pattern = ascii(template.get(from..at).unwrap_or_default());
                // By itself too: what is no pattern alone is none within another.
                compiled(pattern.clone())?;
                let _ = write!(out, "({pattern})");
                from = at + c.len_utf8();
            }
        }
    }
    if level != 0 {
        return Err(unbalanced());
    }
    out.push_str(&regex::escape(template.get(from..).unwrap_or_default()));
    out.push('$');
    Ok(Value::from(compiled(out)?.is_match(&text)))
}

/// `glob.match(pattern, delimiters, text)`
pub fn glob_match(args: &[Value]) -> Answer {
    let (glob, text) = (text(args, 0)?, text(args, 2)?);
    let mut apart = String::new();
    match args.get(1) {
        Some(Value::Null) => {}
        Some(Value::Array(all)) if all.is_empty() => apart.push('.'),
        Some(Value::Array(all)) => {
            for one in all.iter() {
                match one {
                    Value::String(s) if s.chars().count() == 1 => apart.push_str(s),
                    _ => return Err("operand 2 must be array of single characters".into()),
                }
            }
        }
        _ => return Err("operand 2 must be array or null".into()),
    }
    work(glob.len().saturating_mul(text.len()), SEARCHED)?;
    work(glob.len().saturating_mul(apart.len()), 4 * PATTERN)?;
    Ok(Value::from(compiled(super::globs::regex(&glob, &apart)?)?.is_match(&text)))
}

/// `glob.quote_meta(text)`
pub fn quote_meta(args: &[Value]) -> Answer {
    let mut out = String::new();
    for c in text(args, 0)?.chars() {
        if matches!(c, '*' | '?' | '\\' | '[' | ']' | '{' | '}') {
            out.push('\\');
        }
        out.push(c);
    }
    Ok(Value::from(out))
}
