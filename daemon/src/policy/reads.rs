//! Which parts of the input, and which documents, a policy's decision depends on.
//!
//! Guarantee: two inputs that agree in every part listed here, and documents that agree, give one decision,
//! unless it also depends on what [`Reads::volatile`] names. Whatever cannot be followed counts as a reading of the
//! whole input. [`walk`] finds the parts by following references through rules, functions, loops and
//! comprehensions over the syntax tree; a property test compares it with evaluation.

mod index;
mod walk;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::Serialize;
use serde_json::Value;

pub(super) use index::{constant, head as names_of_rule, import_of, is_partial};
pub(super) use walk::analyse;

/// One step down a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(untagged)]
pub enum Step {
    /// A member of an object.
    Key(String),
    /// An element of an array.
    Index(u64),
}

/// A place in the input.
pub type InputPath = Vec<Step>;

/// How much of a place is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Extent {
    /// Whether it is there, and of which type.
    Kind,
    /// All of it.
    Whole,
}

/// What a decision depends on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reads {
    /// Why the whole input counts as read, if it does for want of an analysis.
    pub unknown: Option<String>,
    /// Places of the input; the empty path is all of it.
    pub input: BTreeMap<InputPath, Extent>,
    /// Documents, by path in `data`.
    pub data: BTreeSet<String>,
    /// Rules that are looked at on the way, functions left out.
    pub rules: BTreeSet<String>,
    /// What may change from one moment to the next: clocks, randomness.
    pub volatile: BTreeSet<&'static str>,
}

impl Reads {
    /// Everything, for a reason.
    pub(super) fn everything(reason: impl Into<String>) -> Self {
        Self {
            unknown: Some(reason.into()),
            input: BTreeMap::from([(Vec::new(), Extent::Whole)]),
            // Nothing is known, so it may depend on the time too.
            volatile: BTreeSet::from(["unknown"]),
            ..Self::default()
        }
    }

    /// Whether any input matters as a whole.
    pub fn reads_all(&self) -> bool {
        self.input.get(&[][..]) == Some(&Extent::Whole)
    }

    /// Whether a place that begins with these members is read, or one that holds it.
    pub fn touches(&self, members: &[&str]) -> bool {
        self.input.iter().any(|(path, extent)| {
            let meets =
                path.iter().zip(members).all(|(step, name)| matches!(step, Step::Key(k) if k == name));
            meets && (path.len() >= members.len() || *extent == Extent::Whole)
        })
    }

    /// The parts of an input that are read, in a form that is the same for two inputs if and only if they agree in
    /// all of them. Members of the input named in `except` are left out: who asks covers them in another way.
    pub fn pick(&self, input: &Value, except: &[&str]) -> Vec<u8> {
        let mut out = Vec::new();
        for (path, extent) in &self.input {
            match path.first() {
                Some(Step::Key(name)) if except.contains(&name.as_str()) => continue,
                None if *extent == Extent::Whole => {
                    let members = input.as_object().into_iter().flatten();
                    for (name, value) in members.filter(|(name, _)| !except.contains(&name.as_str())) {
                        part(&mut out, name.as_bytes());
                        part(&mut out, value.to_string().as_bytes());
                    }
                    part(&mut out, b"end");
                    continue;
                }
                _ => {}
            }
            let found = path.iter().try_fold(input, |at, step| match (step, at) {
                (Step::Key(name), Value::Object(members)) => members.get(name),
                (Step::Index(i), Value::Array(items)) => items.get(usize::try_from(*i).ok()?),
                _ => None,
            });
            match (found, extent) {
                (None, _) => out.push(0),
                (Some(value), Extent::Kind) => out.push(kind(value)),
                (Some(value), Extent::Whole) => {
                    out.push(kind(value));
                    part(&mut out, value.to_string().as_bytes());
                }
            }
        }
        out
    }

    fn add(&mut self, path: &InputPath, extent: Extent) {
        // What lies in a place that is read whole adds nothing.
        let covered = (0..=path.len()).any(|n| self.input.get(&path[..n]) == Some(&Extent::Whole));
        if covered {
            return;
        }
        if extent == Extent::Whole {
            self.input.retain(|known, _| !known.starts_with(path));
        }
        self.input.insert(path.clone(), extent);
    }
}

fn kind(value: &Value) -> u8 {
    match value {
        Value::Null => 1,
        Value::Bool(_) => 2,
        Value::Number(_) => 3,
        Value::String(_) => 4,
        Value::Array(_) => 5,
        Value::Object(_) => 6,
    }
}

fn part(out: &mut Vec<u8>, bytes: &[u8]) {
    out.extend((bytes.len() as u64).to_le_bytes());
    out.extend(bytes);
}

/// A place in Rego's notation, such as `input.request.headers["x-id"]`.
pub struct Shown<'a>(pub &'a InputPath);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("input")?;
        for step in self.0 {
            match step {
                Step::Index(i) => write!(f, "[{i}]")?,
                Step::Key(k) if k.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') => {
                    write!(f, ".{k}")?;
                }
                Step::Key(k) => write!(f, "[{}]", Value::from(k.as_str()))?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod property;
#[cfg(test)]
mod tests;
