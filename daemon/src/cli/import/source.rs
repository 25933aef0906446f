//! OPA's configuration as it is read: settings are taken out one by one, so that what is left has no counterpart.

use serde_json::Value;

/// Fills in `${NAME}`, as OPA does: what the environment does not have is empty.
pub fn substituted(text: &str, get: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        out.push_str(before);
        match after.split_once('}') {
            Some((name, behind)) if !name.is_empty() && !name.contains(['\n', '$']) => {
                out.push_str(&get(name).unwrap_or_default());
                rest = behind;
            }
            _ => {
                out.push_str("${");
                rest = after;
            }
        }
    }
    out + rest
}

/// A configuration, and what was taken out of it.
pub struct Source(pub Value);

impl Source {
    /// Takes a setting out.
    pub fn take(&mut self, path: &[&str]) -> Option<Value> {
        let (last, above) = path.split_last()?;
        let mut at = &mut self.0;
        for name in above {
            at = at.get_mut(name)?;
        }
        at.as_object_mut()?.remove(*last).filter(|v| !v.is_null())
    }

    /// The same of a string.
    pub fn text(&mut self, path: &[&str]) -> Option<String> {
        match self.take(path)? {
            Value::String(s) => Some(s),
            Value::Number(n) => Some(n.to_string()),
            Value::Bool(b) => Some(b.to_string()),
            _ => None,
        }
    }

    /// The same of a whole number.
    pub fn number(&mut self, path: &[&str]) -> Option<u64> {
        self.take(path)?.as_u64()
    }

    /// Names of an object's members.
    pub fn names(&self, path: &[&str]) -> Vec<String> {
        let at = path.iter().try_fold(&self.0, |at, name| at.get(name));
        at.and_then(Value::as_object).map(|m| m.keys().cloned().collect()).unwrap_or_default()
    }

    /// Paths of everything that is left.
    pub fn left(&self) -> Vec<String> {
        fn walk(at: &Value, path: &str, out: &mut Vec<String>) {
            match at {
                Value::Object(members) => {
                    for (name, value) in members {
                        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                        walk(value, &path, out);
                    }
                }
                Value::Null => {}
                _ => out.push(path.to_owned()),
            }
        }
        let mut out = Vec::new();
        walk(&self.0, "", &mut out);
        out
    }
}
