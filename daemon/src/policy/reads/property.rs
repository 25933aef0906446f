//! Policies made at random: inputs that agree in what the analysis found must get one decision.

use std::fs;

use proptest::{prelude::*, test_runner::Config};
use serde_json::{Value, json};

use crate::policy::{Input, LoadOptions, PolicySet, load};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// A reference into the input, or to something that stands for a part of it.
fn place() -> impl Strategy<Value = String> {
    let name = || prop::sample::select(&NAMES[..]);
    prop_oneof![
        4 => (name(), name()).prop_map(|(x, y)| format!("input.{x}.{y}")),
        3 => name().prop_map(|x| format!("input.{x}")),
        2 => name().prop_map(|x| format!("part.{x}")),
        1 => name().prop_map(|x| format!("whole.a.{x}")),
        2 => (name(), name()).prop_map(|(x, y)| format!("inner(input.{x}).{y}")),
        1 => (name(), name()).prop_map(|(x, y)| format!("object.get(input.{x}, \"{y}\", 1)")),
        1 => (name(), name()).prop_map(|(x, y)| format!("object.get(part, [\"{x}\", \"{y}\"], input.d)")),
        1 => name().prop_map(|x| format!("input[input.key].{x}")),
        1 => name().prop_map(|x| format!("table[input.{x}]")),
    ]
}

/// A statement that may hold or not.
fn statement() -> impl Strategy<Value = String> {
    let number = 0..3;
    prop_oneof![
        3 => (place(), number.clone()).prop_map(|(p, n)| format!("{p} == {n}")),
        2 => (place(), place()).prop_map(|(p, q)| format!("{p} != {q}")),
        2 => place().prop_map(|p| p),
        2 => place().prop_map(|p| format!("not {p}")),
        2 => (place(), prop::sample::select(&NAMES[..])).prop_map(|(p, x)| format!("not reach({p}, \"{x}\")")),
        2 => (place(), prop::sample::select(&NAMES[..])).prop_map(|(p, x)| format!("v_{x} := {p}\n\tv_{x}.{x} == 1")),
        1 => (place(), prop::sample::select(&NAMES[..])).prop_map(|(p, x)| format!("w_{x} := {p}\n\tnot w_{x}.{x}")),
        1 => (place(), number.clone()).prop_map(|(p, n)| format!("some x in {p}\n\tx == {n}")),
        1 => (place(), number.clone()).prop_map(|(p, n)| format!("count([1 | some x in {p}; x != {n}]) > 0")),
        1 => (place(), place()).prop_map(|(p, q)| format!("every x in {p} {{ x != {q} }}")),
        1 => (place(), place()).prop_map(|(p, q)| format!("{p} in {{{q}, 1}}")),
        1 => (place(), place()).prop_map(|(p, q)| format!("object.keys({p}) == object.keys({q})")),
        1 => (place(), place()).prop_map(|(p, q)| format!("part.a == 1 with input.a as {p} with input.key as {q}")),
        1 => (place(), place()).prop_map(|(p, q)| format!("every k, y in {p} {{ y == {q}[k] }}")),
        1 => (place(), place()).prop_map(|(p, q)| format!("count([1 | some i, y in {p}; y == {q}[i]]) > 0")),
        1 => (place(), place()).prop_map(|(p, q)| format!("count([{q}.a | some _ in {p}]) > 0")),
        1 => (place(), number.clone()).prop_map(|(p, n)| format!("{p}[_] == {n}")),
        1 => (place(), number.clone()).prop_map(|(p, n)| format!("count({{y.b | some y in {p}; t := y.a; t != {n}}}) == 1")),
        1 => place().prop_map(|p| format!("not deep({p})")),
        1 => (place(), number).prop_map(|(p, n)| format!("u = {p}\n\tu == {n}")),
    ]
}

fn policy() -> impl Strategy<Value = String> {
    let lines = || prop::collection::vec(statement(), 1..3).prop_map(|s| s.join("\n\t"));
    (lines(), lines(), lines(), place(), place(), place()).prop_map(|(a, b, c, x, y, z)| {
        format!(
            "package p\nimport rego.v1\n\
             default decision := {{\"allow\": false}}\n\
             decision := {{\"allow\": true}} if {{\n\t{a}\n}} else := {{\"allow\": true, \"ttl\": 2}} if {{\n\t{b}\n\tflag\n}}\n\
             flag if {{\n\t{c}\n}}\nflag if first({x}, {y}) == 1\n\
             first(p, q) := a if {{\n\tp.b\n\ta := p.a\n}} else := q if not q.a\n\
             part := v if {{\n\tinput.c\n\tv := input.a\n}} else := {z_free}\nwhole := input\ninner(x) := y if {{\n\ty := x.b\n}} else := x\n\
             table := {{\"a\": 1, \"b\": 2}}\nreach(x, name) if x[name]\n\
             deep(x) := y if {{\n\ty := x.a\n}} else := z if {{\n\tz := x.b.c\n}} else := 1 if x == 2\n",
            z_free = if z.contains("part") || z.contains("table") { "input.d".to_owned() } else { z },
        )
    })
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        (0..3).prop_map(|n| json!(n)),
        prop::sample::select(&NAMES[..]).prop_map(|s| json!(s)),
        any::<bool>().prop_map(|b| json!(b)),
        Just(json!(null)),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            3 => prop::collection::btree_map(prop::sample::select(&NAMES[..]), inner.clone(), 0..4)
                .prop_map(|m| m.into_iter().map(|(k, v)| (k.to_owned(), v)).collect::<serde_json::Map<_, _>>().into()),
            1 => prop::collection::vec(inner, 0..3).prop_map(Value::from),
        ]
    })
}

fn input() -> impl Strategy<Value = Value> {
    (
        prop::collection::btree_map(prop::sample::select(&NAMES[..]), value(), 1..5),
        prop::sample::select(&NAMES[..]),
    )
        .prop_map(|(members, key)| {
            let mut input: serde_json::Map<_, _> =
                members.into_iter().map(|(k, v)| (k.to_owned(), v)).collect();
            input.insert("key".to_owned(), json!(key));
            input.into()
        })
}

/// An input with one of its parts changed.
fn changed(input: &Value, path: &[usize], to: &Value) -> Value {
    match (path.split_first(), input) {
        (Some((n, rest)), Value::Object(members)) if !members.is_empty() => {
            let mut out = members.clone();
            if let Some(part) = out.values_mut().nth(n % members.len()) {
                *part = changed(part, rest, to);
            }
            out.into()
        }
        _ => to.clone(),
    }
}

fn decided(set: &PolicySet, input: &Value) -> Result<Value, String> {
    set.eval_decision_value(&Input::from(input.clone())).map(|(_, v)| v).map_err(|e| e.to_string())
}

#[test]
fn inputs_that_agree_in_what_is_read_get_one_decision() {
    let reasons = std::cell::RefCell::new(std::collections::BTreeMap::new());
    let on_machine = std::cell::Cell::new(0);
    let (same, different, analysed) =
        (std::cell::Cell::new(0), std::cell::Cell::new(0), std::cell::Cell::new(0));
    let dir = tempfile::tempdir().unwrap();
    let change = (prop::collection::vec(0..4_usize, 1..4), value());
    let strategy = (policy(), prop::collection::vec((input(), prop::collection::vec(change, 6)), 8));
    let cases = std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(200);
    let mut runner = proptest::test_runner::TestRunner::new(Config {
        failure_persistence: None,
        ..Config::with_cases(cases)
    });
    runner
        .run(&strategy, |(policy, inputs)| {
            fs::write(dir.path().join("p.rego"), &policy).unwrap();
            let options =
                LoadOptions { time_limit: std::time::Duration::from_mins(1), ..LoadOptions::default() };
            let Ok(set) = load(&[dir.path().into()], "p/decision", &options) else { return Ok(()) };
            if let crate::policy::EngineKind::Interpreter { reason, .. } = set.engine() {
                let reason: String = reason.split('`').step_by(2).collect();
                *reasons.borrow_mut().entry(reason).or_insert(0) += 1;
            }
            analysed.set(analysed.get() + u32::from(set.reads().unknown.is_none()));
            for (input, changes) in &inputs {
                let engines = set.on_both(&Input::from(input.clone()));
                prop_assert!(engines.as_ref().is_none_or(|(a, b)| a == b), "{policy}\n{input}\n{engines:?}");
                on_machine.set(on_machine.get() + u32::from(engines.is_some()));
                let (key, decision) = (set.reads().pick(input, &[]), decided(&set, input));
                for (path, to) in changes {
                    let other = changed(input, path, to);
                    if !other.is_object() || other == *input {
                        continue;
                    }
                    let agrees = decided(&set, &other) == decision;
                    if set.reads().pick(&other, &[]) == key {
                        same.set(same.get() + 1);
                        prop_assert!(agrees, "{policy}\n{input}\n{other}\n{:?}", set.reads());
                    } else if !agrees {
                        different.set(different.get() + 1);
                    }
                }
            }
            Ok(())
        })
        .unwrap();
    let (same, different, analysed) = (same.get(), different.get(), analysed.get());
    println!("on the interpreter: {:?}", reasons.borrow());
    println!("{} decisions agree on both engines", on_machine.get());
    assert!(on_machine.get() > cases, "the machine was not asked");
    println!(
        "{analysed} policies analysed; {same} changes of what is not read, {different} that changed the decision"
    );
    assert!(analysed > cases / 2 && same > cases && different > cases / 4, "the test says nothing");
}
