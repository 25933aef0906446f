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
    /// What stands there.
    pub fn get(&self, path: &[&str]) -> Option<&Value> {
        path.iter().try_fold(&self.0, |at, name| at.get(name)).filter(|v| !v.is_null())
    }

    /// Takes a setting out, and with it what holds nothing else.
    pub fn take(&mut self, path: &[&str]) -> Option<Value> {
        let (last, above) = path.split_last()?;
        let at = above.iter().try_fold(&mut self.0, |at, name| at.get_mut(name))?.as_object_mut()?;
        let taken = at.remove(*last);
        if at.is_empty() && !above.is_empty() {
            self.take(above);
        }
        taken.filter(|v| !v.is_null())
    }

    /// The same of what is read as a string; anything else stays, to be listed.
    pub fn text(&mut self, path: &[&str]) -> Option<String> {
        let text = match self.get(path)? {
            Value::String(s) => s.clone(),
            Value::Number(n) => n.to_string(),
            Value::Bool(b) => b.to_string(),
            _ => return None,
        };
        self.take(path);
        Some(text)
    }

    /// The same of a whole number.
    pub fn number(&mut self, path: &[&str]) -> Option<u64> {
        let number = self.get(path)?.as_u64()?;
        self.take(path);
        Some(number)
    }

    /// Takes out an object that holds nothing (more).
    pub fn done(&mut self, path: &[&str]) {
        if self.get(path).and_then(Value::as_object).is_some_and(serde_json::Map::is_empty) {
            self.take(path);
        }
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
                Value::Object(members) if path.is_empty() || !members.is_empty() => {
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
