//! Reading a builtin's arguments.

use std::sync::Arc;

use regorus::Value;

/// Why a builtin gives no value.
#[derive(Debug)]
pub enum Fault {
    /// Its arguments are not what it takes.
    Failed(String),
    /// It would give more than a policy may hold.
    Limit {
        /// What it would give.
        wanted: u64,
        /// What it may.
        limit: u64,
    },
    /// It fails the evaluation, whatever the policy makes of it.
    Fatal(String),
    /// It has no answer yet: the evaluation ends here.
    Asks,
}

impl From<String> for Fault {
    fn from(why: String) -> Self {
        Self::Failed(why)
    }
}

impl From<&str> for Fault {
    fn from(why: &str) -> Self {
        Self::Failed(why.to_owned())
    }
}

/// The n-th argument as a string.
pub fn text(args: &[Value], n: usize) -> Result<Arc<str>, Fault> {
    match args.get(n) {
        Some(Value::String(s)) => Ok(Arc::clone(s)),
        _ => Err(format!("operand {} must be string", n + 1).into()),
    }
}

/// A member of an object that is a string, if it is there.
pub fn member<'a>(object: &'a Value, name: &str) -> Option<&'a Value> {
    match object {
        Value::Object(members) => members.get(&Value::from(name)),
        _ => None,
    }
}

/// An object of members.
pub fn object(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
    Value::from(
        members.into_iter().map(|(k, v)| (Value::from(k), v)).collect::<std::collections::BTreeMap<_, _>>(),
    )
}

/// An array of strings; null where there is none, as Go writes an empty slice.
pub fn strings(items: Vec<String>) -> Value {
    if items.is_empty() {
        Value::Null
    } else {
        Value::from(items.into_iter().map(Value::from).collect::<Vec<_>>())
    }
}
