//! Bodies that are taken out, bodies that stay, and sets made at random.

use std::{cell::Cell, fs, path::Path};

use proptest::{prelude::*, test_runner::Config};
use serde_json::json;

use super::*;
use crate::policy::{EngineKind, Input, LoadOptions, load};

/// Folds a module's rules with documents, and gives it without its first three lines.
fn fold(body: &str, data: serde_json::Value) -> String {
    let module = ("p.rego".to_owned(), format!("package p\nimport rego.v1\nimport data.p.q\n{body}"));
    let data = crate::policy::builtins::value(data);
    let all = folded(
        std::slice::from_ref(&module),
        &data,
        &["data.p.a", "data.p.b", "data.p.q", "data.p.c", "data.p.c.d"],
    )
    .unwrap();
    let out = &all.modules[0].1;
    assert_eq!(out.matches('\n').count(), module.1.matches('\n').count(), "{out}");
    out.lines().skip(3).collect::<Vec<_>>().join("\n")
}

#[test]
fn bodies_that_documents_switch_off_are_taken_out() {
    for (body, expected) in [
        ("a := 1 if { data.x.on; input.z }", "a := 1 if { false; input.z }"),
        ("a := 1 if data.x.on == true else := 2 if input.z", "a  := 2 if input.z"),
        ("a := 1 if input.z else := 2 if data.x.on else := 3", "a := 1 if input.z  else := 3"),
        ("a := 1 if input.z else := 2 if data.x.on == \"y\"", "a := 1 if input.z "),
        ("a if count(data.x.list) > 0", "a if false"),
        ("a if { data.x != {\"on\": false, \"list\": []}; input.z }", "a if { false; input.z }"),
        ("a if { {\"on\": false, \"list\": []} != data.x; input.z }", "a if { false; input.z }"),
        ("a if { data.x.list == []; input.z }", "a if { true; input.z }"),
        ("a if data.nowhere.at.all", "a if false"),
        ("b if data.x.on\na if { b; input.z } else := 2", "b if false\na  := 2"),
        ("b if data.x.on\na := 1 if { not b; input.z }", "b if false\na := 1 if { true; input.z }"),
        ("b if data.x.on\na := 1 if { data.p.b.c; input.z }", "b if false\na := 1 if { false; input.z }"),
        ("b if data.x.on\nb if data.x.list == 1\na if b", "b if false\nb if false\na if false"),
    ] {
        assert_eq!(fold(body, json!({"x": {"on": false, "list": []}})), expected);
    }
    let lines = "a := 1 if {\n\tdata.x.on\n\tinput.z\n}\n\nelse := 2 if {\n\tinput.z\n}\n\nelse := 3 if {\n\tdata.x.on\n}";
    let out = fold(lines, json!({"x": {"on": false}}));
    assert_eq!(out.split_whitespace().collect::<Vec<_>>().join(" "), "a := 2 if { input.z }", "{out}");
    // The line of what is left is its own.
    assert_eq!(out.lines().position(|line| line.contains("input.z")), Some(6), "{out}");
}

#[test]
fn what_inputs_may_decide_stays_as_it_is() {
    for body in [
        // Behind what an input decides; in a rule that has another definition, or a default, or collects, or takes arguments.
        "a := 1 if { input.z; data.x.on }",
        "b if { data.x.on } \nb if input.z\na := 1 if { b; input.z }",
        "default b := false\na := 1 if { b; input.z }",
        "b contains 1 if { data.x.on; input.z }\na := 1 if { b; input.z }",
        "b(y) if { data.x.on; y }\na := 1 if { b(1); input.z }",
        "b[y] := 1 if { some y in data.x.list }\na := 1 if { b; input.z }",
        // Another's name, the daemon's own documents, and what is no document.
        "b if data.x.on\na := 1 if { b := 1; b == 1 }",
        "a := 1 if { some q in input.list; q.on }",
        "a := 1 if { data.portcullis.region == 1; input.z }",
        "a := 1 if { data.p.a.x; input.z }",
        "a := 1 if { data.x[input.z]; input.y }",
        "a := 1 if { not data.x.on; input.y }",
        "a := 1 if { data.x.on == input.z }",
        "a := 1 if { count(data.x.on, 1) }",
        "c if data.x.on\na := 1 if { c.d; input.z }",
    ] {
        let out = fold(body, json!({"x": {"on": false, "list": []}}));
        let kept = |line: &&str| !line.starts_with(['b', 'c']);
        assert_eq!(
            out.lines().filter(kept).collect::<Vec<_>>(),
            body.lines().filter(kept).collect::<Vec<_>>(),
            "{out}"
        );
    }
}

#[test]
fn the_library_folds_and_decides_as_it_did() {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let set = load(&[dir], "portcullis/decision", &LoadOptions::default()).unwrap();
    assert_eq!(set.engine(), &EngineKind::Rvm);
    assert!(set.left_out() > 20, "{}", set.left_out());
}

/// A statement at a body's beginning, or further in.
fn statement() -> impl Strategy<Value = String> {
    let on =
        || prop::sample::select(&["data.x.on", "data.x.off", "data.x.list", "data.x.none", "data.y.n"][..]);
    let asked = || prop::sample::select(&["input.a", "input.b", "input.c"][..]);
    let rule = || prop::sample::select(&["r1", "r2", "r3", "data.p.r2", "other.s", "data.o.s"][..]);
    prop_oneof![
        3 => on().prop_map(str::to_owned),
        2 => (on(), 0..3).prop_map(|(on, n)| format!("{on} == {n}")),
        1 => (on(), 0..3).prop_map(|(on, n)| format!("{on} > {n}")),
        2 => on().prop_map(|on| format!("{on} != [1]")),
        1 => on().prop_map(|on| format!("count({on}) > 0")),
        3 => rule().prop_map(str::to_owned),
        2 => rule().prop_map(|rule| format!("not {rule}")),
        1 => rule().prop_map(|rule| format!("{rule} == 1")),
        3 => (asked(), 0..3).prop_map(|(asked, n)| format!("{asked} == {n}")),
        1 => asked().prop_map(|asked| format!("not {asked}")),
        1 => asked().prop_map(|asked| format!("other := {asked}\n\tother == 1")),
        1 => asked().prop_map(|asked| format!("some r1 in {asked}\n\tr1 == 1")),
    ]
}

/// Rules that may be chains.
fn rule(name: &'static str) -> impl Strategy<Value = String> {
    let body = || prop::collection::vec(statement(), 1..4).prop_map(|all| all.join("\n\t"));
    (body(), prop::collection::vec((0..4, body()), 0..3), any::<bool>()).prop_map(
        move |(first, more, last)| {
            let more: Vec<_> =
                more.iter().map(|(n, body)| format!("\n\nelse := {n} if {{\n\t{body}\n}}")).collect();
            let more = more.concat();
            let last = if last { " else := 3" } else { "" };
            format!("{name} := 1 if {{\n\t{first}\n}}{more}{last}\n\n")
        },
    )
}

fn set() -> impl Strategy<Value = (String, String, String)> {
    let n = || {
        prop_oneof![Just(json!(true)), Just(json!(false)), Just(json!(1)), Just(json!([])), Just(json!([1]))]
    };
    let data = (n(), n(), n(), n()).prop_map(|(on, off, list, n)| {
        json!({"x": {"on": on, "off": off, "list": list}, "y": {"n": n}}).to_string()
    });
    // A rule may ask those behind it, so that none asks itself.
    let rules = (rule("v"), rule("r1"), rule("r2"), rule("r3")).prop_map(|(v, r1, r2, r3)| {
        let of = |rule: String, names: &[&str]| {
            names.iter().fold(rule, |rule, name| rule.replace(name, "input.a"))
        };
        let r1 = of(r1, &["not r1", "data.p.r1", "not r3"]).replace("\n\tr1\n", "\n\tinput.b\n");
        let r1 = r1.replace("\n\tr1 == 1\n", "\n\tinput.b\n").replace("some input.a", "some r1");
        let r2 = r2.replace("data.p.r2", "input.c").replace("r2\n", "r3\n").replace("r1\n", "r3\n");
        let r3 = ["data.p.r2", "r1", "r2", "r3"].iter().fold(r3, |rule, name| rule.replace(name, "input.c"));
        let r3 = r3.replace("input.c :=", "r3 :=").replace("some input.c in", "some z in");
        format!("package p\nimport rego.v1\nimport data.o as other\n\ndefault decision := {{\"allow\": false}}\n\ndecision := {{\"allow\": true, \"ttl\": v}} if v\n\n{v}{r1}{r2}{r3}")
    });
    let other = rule("s").prop_map(|rule| {
        let rule = ["data.p.r2", "data.o.s", "other.s", "r1", "r2", "r3"]
            .iter()
            .fold(rule, |rule, name| rule.replace(name, "input.b"));
        format!(
            "package o\nimport rego.v1\n\n{}",
            rule.replace("some input.b in", "some z in")
                .replace("other := ", "y := ")
                .replace("other ==", "y ==")
        )
    });
    (rules, other, data)
}

#[test]
fn folded_sets_decide_as_the_interpreter_does() {
    let cases = if std::env::var_os("PORTCULLIS_THOROUGH").is_some() { 20_000 } else { 400 };
    let (loaded, compared, folds) = (Cell::new(0), Cell::new(0), Cell::new(0));
    let inputs: Vec<_> = (0..27)
        .map(|n: u8| {
            let part = |n: u8| match n % 3 {
                0 => json!(null),
                n => json!(n),
            };
            let mut input = json!({"a": part(n), "b": part(n / 3), "c": [part(n / 9)]});
            if n.is_multiple_of(5) {
                input.as_object_mut().unwrap().remove("b");
            }
            Input::from(input)
        })
        .collect();
    let mut runner = proptest::test_runner::TestRunner::new_with_rng(
        Config { cases, max_global_rejects: 1_000_000, ..Config::default() },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let run = runner.run(&set(), |(rules, other, data)| {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.rego"), &rules).unwrap();
        fs::write(dir.path().join("o.rego"), &other).unwrap();
        fs::write(dir.path().join("data.json"), &data).unwrap();
        // Sets that regorus cannot take are refused or interpreted: not our matter here.
        let Ok(set) = load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default()) else {
            return Ok(());
        };
        loaded.set(loaded.get() + 1);
        folds.set(folds.get() + u32::from(set.left_out() > 0));
        for input in &inputs {
            let Some((machine, interpreter)) = set.on_both(input) else { continue };
            compared.set(compared.get() + 1);
            prop_assert_eq!(machine, interpreter, "{}\n{}\n{}", rules, other, data);
        }
        Ok(())
    });
    run.unwrap();
    let enough = cases / 10;
    let reached = [loaded.get(), folds.get(), compared.get()];
    assert!(reached.iter().all(|n| *n > enough), "{reached:?}");
}

#[test]
fn tests_with_documents_of_their_own_ask_the_program_that_has_all_bodies() {
    let dir = tempfile::tempdir().unwrap();
    let rules = "package p\nimport rego.v1\n\ndefault decision := {\"allow\": true}\n\ndecision := {\"allow\": false} if data.x.stopped\n";
    let tests = "package p_test\nimport rego.v1\n\ntest_on if not data.p.decision.allow with data.x.stopped as true\n\ntest_off if data.p.decision.allow with input as {}\n";
    fs::write(dir.path().join("p.rego"), rules).unwrap();
    fs::write(dir.path().join("p_test.rego"), tests).unwrap();
    fs::write(dir.path().join("data.json"), "{\"x\": {\"stopped\": false}}").unwrap();
    let set = load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default()).unwrap();
    assert_eq!((set.engine(), set.tested().replayed, set.left_out()), (&EngineKind::Rvm, 4, 1));
    assert!(set.eval_decision(&Input::from(json!({}))).unwrap().allow);
}
