//! Copies, and the differences that they are made for.

use std::fs;

use serde_json::json;

use super::*;
use crate::policy::{Cause, EngineKind, Input, LoadOptions, PolicySet, load};

fn copy(body: &str) -> Result<String, String> {
    let module = ("p.rego".to_owned(), format!("package p\nimport rego.v1\n{body}"));
    copies(&[module]).map(|mut all| all.remove(0).lines().skip(2).collect::<Vec<_>>().join("\n"))
}

fn set(body: &str) -> PolicySet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{body}")).unwrap();
    load(&[dir.path().into()], "p/decision", &LoadOptions::default())
        .unwrap_or_else(|e| panic!("{body}: {e}"))
}

#[test]
fn assignments_become_equations_where_nothing_is_hidden() {
    for (body, expected) in [
        ("a if { x := input.a; x > 1 }", "a if { x = input.a; x > 1 }"),
        ("a := x if x := input.a", "a := x if x = input.a"),
        ("f(y) if { x := y }", "f(y) if { x = y }"),
        ("a if { every v in input.l { x := v; x > 1 } }", "a if { every v in input.l { x = v; x > 1 } }"),
        ("a := x if { x := 1 } else := x if { x := 2 }", "a := x if { x = 1 } else := x if { x = 2 }"),
        ("a if { [x, _] := input.a; x }", "a if { [x, _] = input.a; x }"),
    ] {
        assert_eq!(copy(body).as_deref(), Ok(expected));
    }
    for (body, expected) in [
        ("a if { x := 1; count([1 | x := 2]) == 1 }", "a if { x = 1; count([1 | x := 2; x == x]) == 1 }"),
        ("a if { x := f(1); input.l[x] }", "a if { x := f(1); x == x; input.l[x] }"),
        ("f(x) if { x := 1 }", "f(x) if { x := 1; x == x }"),
        ("f(x) if x := \"a\"", "f(x) if { x := \"a\"; x == x }"),
    ] {
        assert_eq!(copy(body).as_deref(), Ok(expected));
    }
}

#[test]
fn terms_that_may_be_undefined_are_bound_in_the_query() {
    let text = copy("a := [x.n | some x in input.l]").unwrap();
    assert_eq!(text, "a := [portcullis_term_1 | some x in input.l\n; portcullis_term_1 = x.n\n]");
    let nested = copy("a := [{y.m | some y in x.n; z := y} | some x in input.l]").unwrap();
    assert!(nested.starts_with("a := [{portcullis_term_1 | some y in x.n; z = y\n"), "{nested}");
    let nested = copy("a := [count([y.m | some y in x.n]) | some x in input.l]").unwrap();
    assert!(nested.contains("portcullis_term_2 = count([portcullis_term_1 | some y in x.n"), "{nested}");
    assert_eq!(copy("a := [x | some x in input.l]").unwrap(), "a := [x | some x in input.l]");
    for body in [&text, &nested] {
        parse("p.rego", &format!("package p\nimport rego.v1\n{body}"))
            .unwrap_or_else(|e| panic!("{body}: {e}"));
    }
}

/// Each of these got another answer from the RVM than from the interpreter.
#[test]
fn the_machine_ends_a_body_where_the_interpreter_does() {
    for (body, engine) in [
        ("default decision := false\ndecision if { x := input.a }", None),
        (
            "default decision := false\ndecision if { u := input.sub; not blocked[u] }\nblocked := {\"x\"}",
            None,
        ),
        ("decision if { x := input.a } else := false", None),
        ("decision := x if { x := upper(input.a) } else := false", None),
        ("decision := count([input.a | 1 == 1]) > 0", None),
        ("decision := count({x.a | some x in [{}, {}]}) > 0", None),
        ("decision := f(1)\nf(y) := x if { x := input.a } else := false", None),
        ("decision := {\"allow\": x} if { x := input.a } else := {\"allow\": false}", None),
        ("decision := input.a if { 1 == 1 } else := false", Some(Cause::Uncompiled)),
        ("decision := count([1 | b := input.a]) > 0\nb := 1", None),
        ("decision if { b := input.a; b == 1 } else := false\nb := 1", None),
        (
            "decision := count([1 | k := \"b\"; count([1 | m[k] == 1]) == 1]) > 0\nm := {\"a\": 1, \"b\": 2}",
            Some(Cause::Uncompiled),
        ),
        ("decision if { every i, x in [1, 2] { x == [2, 1][i] } } else := false", Some(Cause::Uncompiled)),
        (
            "decision if { every k in [\"z\"] { m[k] } } else := false\nm := {\"a\": 1}",
            Some(Cause::Uncompiled),
        ),
    ] {
        let set = set(body);
        match (set.engine(), engine) {
            (EngineKind::Rvm, None) => {}
            (EngineKind::Interpreter { cause, .. }, Some(expected)) if *cause == expected => {}
            (found, _) => panic!("{body} on {found:?}"),
        }
        let decision = set.eval_decision(&Input::from(json!({}))).unwrap_or_else(|e| panic!("{body}: {e}"));
        assert!(!decision.allow, "{body}");
    }
}

/// What both engines would get wrong, and OPA does not.
#[test]
fn what_no_engine_evaluates_as_opa_does_is_refused() {
    for (body, told) in [
        ("decision if not other\nother := input.a if { 1 == 1 } else := false", "may be undefined"),
        ("decision := count(m) > 0\nm[input.a] := 1 if 1 == 1", "may be undefined"),
        ("decision if not f(input.u)\nf(x) := x.blocked if { x } else := true", "may be undefined"),
        (
            "decision if not f(input.u)\ndefault f(_) := true\nf(x) := false if x == 1",
            "defaults of functions",
        ),
        ("decision if {\"role\": r} = input.claims", "an object as a pattern"),
        ("decision if { some {\"role\": r} in input.all; r == 1 }", "an object as a pattern"),
        ("decision if f(input.x)\nf({\"a\": x}) if x == 1", "an object as a pattern"),
        ("decision if startwith(input.a, \"b\")", "there is no function `startwith`"),
        ("decision if startswith(input.a)", "takes 2 arguments"),
        ("decision if data.p.nosuch(1)", "there is no function `data.p.nosuch`"),
    ] {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{body}")).unwrap();
        let error = load(&[dir.path().into()], "p/decision", &LoadOptions::default()).err();
        let error = error.unwrap_or_else(|| panic!("{body} is taken")).to_string();
        assert!(error.contains(told) && error.contains("p.rego"), "{body}: {error}");
    }
}

/// Each allowed what OPA denies: it asks for what a `not` asks for before it.
#[test]
fn not_of_what_is_undefined_is_not_true() {
    for body in [
        "decision if not input.client in {\"evil\"}",
        "decision if not startswith(input.path, \"/admin\")",
        "decision if not blocked(input.u)\nblocked(u) if u == \"evil\"",
        "decision if not blocked[input.u]\nblocked := {\"evil\"}",
        "decision if not input.x < 5",
        "decision if not count(input.a) > 2",
        "decision if not \"admin\" in input.roles",
        "decision if not [input.role] == [\"admin\"]",
        "decision if not {\"a\": input.role} == {\"a\": 1}",
        "decision if not input.n + 1 == 2",
        "decision if not input.role != \"admin\"",
        "decision if not input.roles[input.n] == \"admin\"",
        "decision if count([x | some x in [1]; not x in input.ok]) == 1",
        "decision if { every x in [1] { not x in input.ok } }",
    ] {
        let set = set(&format!("default decision := false\n{body}"));
        assert_eq!(set.engine(), &EngineKind::Rvm, "{body}");
        let decision = set.eval_decision(&Input::from(json!({}))).unwrap_or_else(|e| panic!("{body}: {e}"));
        assert!(!decision.allow, "{body}");
    }
    // A lone reference is what it was.
    for body in [
        "decision if not input.x",
        "decision if not blocked[\"a\"].b\nblocked := {}",
        // And so is one on a side of an equation, whatever it is equal to.
        "decision if not input.role == \"admin\"",
        "decision if not \"admin\" == input.role",
        "decision if not role == \"admin\"\nrole := input.role",
        "decision if not input.role == input.other",
        "decision if { # only if\n\tnot input.role == f(1)\n}\nf(x) := x",
    ] {
        assert!(set(body).eval_decision(&Input::from(json!({}))).unwrap().allow, "{body}");
    }
}
