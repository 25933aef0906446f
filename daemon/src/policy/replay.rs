//! Replaying what the set's own tests asked: the interpreter and the RVM must give one answer.
//!
//! Tests run on the interpreter, for they use `with`, which the RVM has not. The inputs and documents that they
//! put in place are noted, and the decision is then evaluated on both engines for each of them. A set whose tests
//! never reach a case is not checked there: the more it tests, the more this proves.

use std::{cell::RefCell, collections::BTreeMap, sync::Arc};

use regorus::{Engine, Value, rvm::program::Program};

use super::{
    rewrite,
    set::{self, Limits},
};

/// Most cases that are replayed.
const MOST: usize = 2000;

/// A case: an input, and documents in place of the set's own.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Case {
    input: Value,
    data: Vec<(String, Value)>,
}

impl Case {
    /// Whether it has the set's own documents.
    pub fn has_own_data(&self) -> bool {
        self.data.is_empty()
    }
}

thread_local! {
    static NOTES: RefCell<Notes> = RefCell::default();
}

#[derive(Default)]
struct Notes {
    /// Statements that not all values were seen of.
    partial: BTreeMap<String, Vec<(String, Value)>>,
    cases: Vec<Case>,
}

/// Lets a test engine note what its modules show.
pub(super) fn listen(engine: &mut Engine) -> anyhow::Result<()> {
    engine.add_extension(
        rewrite::SEEN.to_owned(),
        2,
        Box::new(|args: Vec<Value>| {
            let [Value::String(key), value] = &args[..] else { return Ok(Value::Undefined) };
            NOTES.with_borrow_mut(|notes| notes.see(key, value));
            Ok(value.clone())
        }),
    )
}

/// What was noted on this thread since the last call.
pub(super) fn noted() -> Vec<Case> {
    let mut cases = NOTES.take().cases;
    cases.sort();
    cases.dedup();
    cases
}

impl Notes {
    fn see(&mut self, key: &str, value: &Value) {
        let mut parts = key.splitn(5, '/');
        let (Some(module), Some(statement), Some(index), Some(count), Some(target)) =
            (parts.next(), parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return;
        };
        let values = self.partial.entry(format!("{module}/{statement}")).or_default();
        if index == "0" {
            values.clear();
        }
        values.push((target.to_owned(), value.clone()));
        if count.parse() != Ok(values.len()) || self.cases.len() >= MOST {
            return;
        }
        let mut case = Case { input: Value::Undefined, data: Vec::new() };
        for (target, value) in values.drain(..) {
            let below: Vec<&str> = target.split('.').skip(1).collect();
            if target.starts_with("data.") {
                case.data.push((target, value));
            } else {
                case.input = placed(&case.input, &below, value);
            }
        }
        self.cases.push(case);
    }
}

/// A document with a value put at a path, as `with` does.
fn placed(document: &Value, path: &[&str], value: Value) -> Value {
    let Some((first, rest)) = path.split_first() else { return value };
    let mut members: BTreeMap<Value, Value> = match document {
        Value::Object(members) => members.iter().map(|(k, v)| (k.clone(), v.clone())).collect(),
        _ => BTreeMap::new(),
    };
    let key = Value::from(*first);
    let below = members.get(&key).cloned().unwrap_or(Value::Undefined);
    members.insert(key, placed(&below, rest, value));
    Value::from(members)
}

/// Evaluates the decision for each case on both engines. The error tells the first case they differ in.
pub(super) fn compare(
    engine: &Engine,
    program: &Arc<Program>,
    decision: &str,
    data: &Value,
    rules: &[&str],
    cases: &[Case],
    limits: Limits,
) -> Result<usize, String> {
    let plain = [Value::Null, Value::new_object()].map(|input| Case { input, data: Vec::new() });
    let mut replayed = 0;
    for case in plain.iter().chain(cases) {
        // A document in a rule's place is no document to the RVM.
        if case.data.iter().any(|(path, _)| rules.iter().any(|rule| meets(path, rule))) {
            continue;
        }
        let mut documents = data.clone();
        for (path, value) in &case.data {
            documents = placed(&documents, &path.split('.').skip(1).collect::<Vec<_>>(), value.clone());
        }
        let mut interpreter = engine.clone();
        if !case.data.is_empty() {
            interpreter.clear_data();
            interpreter.add_data(documents.clone()).map_err(|e| e.to_string())?;
        }
        interpreter.set_execution_timer_config(limits.timer());
        interpreter.set_input(case.input.clone());
        let expected = set::guarded(limits.strict, || interpreter.eval_rule(decision.to_owned()));
        let expected = expected.ok().and_then(Result::ok).unwrap_or(Value::Undefined);
        let mut machine = set::machine(program, &documents, limits).map_err(|e| e.to_string())?;
        machine.set_input(case.input.clone());
        let got = set::guarded(limits.strict, || machine.execute()).ok().and_then(Result::ok);
        if got.unwrap_or(Value::Undefined) != expected {
            let input: String = case.input.to_string().chars().take(200).collect();
            return Err(format!("the RVM answers differently for the input {input} of its tests"));
        }
        replayed += 1;
    }
    Ok(replayed)
}

/// Whether one path is the other or lies below it.
fn meets(a: &str, b: &str) -> bool {
    let (short, long) = if a.len() < b.len() { (a, b) } else { (b, a) };
    long.strip_prefix(short).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}
