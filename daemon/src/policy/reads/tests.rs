//! What is found for given policies.

use std::fs;

use serde_json::json;

use super::*;
use crate::policy::{LoadOptions, load};

/// The reads of a set of one module.
fn reads(body: &str) -> Reads {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{body}")).unwrap();
    let set = load(&[dir.path().into()], "p/decision", &LoadOptions::default());
    set.unwrap_or_else(|e| panic!("{body}: {e}")).reads().clone()
}

/// Places that are read whole, as text.
fn whole(body: &str) -> Vec<String> {
    let reads = reads(body);
    assert_eq!(reads.unknown, None, "{body}");
    reads.input.iter().filter(|(_, e)| **e == Extent::Whole).map(|(p, _)| Shown(p).to_string()).collect()
}

#[test]
fn references_are_followed_to_where_they_are_used() {
    for (body, expected) in [
        ("decision if input.a.b == 1", &["input.a.b"][..]),
        ("decision if input[\"x-y\"][0] == 1", &["input[\"x-y\"][0]"]),
        ("decision if { x := input.a; x.b == 1 }", &["input.a.b"]),
        ("decision if { x := input.a; y := x.b; not y.c }", &["input.a.b.c"]),
        ("decision if r.b == 1\nr := input.a", &["input.a.b"]),
        ("decision if data.p.r.b == 1\nr := input.a if input.c", &["input.a.b", "input.c"]),
        ("decision if f(input.a)\nf(x) if x.b == 1", &["input.a.b"]),
        ("decision if f(input.a).c == 1\nf(x) := x.b", &["input.a.b.c"]),
        ("decision if f(input.a, 1)\nf(x, y) if x.b == y", &["input.a.b"]),
        ("decision if { some x in input.list; x.a == input.b }", &["input.b", "input.list"]),
        ("decision if every x in input.list { x > input.b }", &["input.b", "input.list"]),
        ("decision if count([x | some x in input.l; x == input.b]) > 0", &["input.b", "input.l"]),
        ("decision if input.list[i] == input.c[i]", &["input.c", "input.list"]),
        ("decision if input.a[input.b] == 1", &["input.a", "input.b"]),
        ("decision if object.get(input.a, \"b\", 0) == 1", &["input.a.b"]),
        ("decision if object.get(input, [\"a\", \"b\"], {}).c == 1", &["input.a.b.c"]),
        ("decision := {\"allow\": input.a}", &["input.a"]),
        (
            "default decision := false\ndecision if input.a else := input.b if input.c",
            &["input.a", "input.b", "input.c"],
        ),
        ("decision if \"x\" in s\ns contains input.a", &["input.a"]),
        ("decision if m.x\nm[a] := b if { a := input.a; b := input.b }", &["input.a", "input.b"]),
        ("decision if x.a with input as {\"a\": input.b}\nx := input", &["input.a", "input.b"]),
        ("import input.a as q\ndecision if q.b", &["input.a.b"]),
        ("decision if input == {}", &["input"]),
        ("decision if { [a, _] := input.x; a.b == 1 }", &["input.x"]),
        ("decision if { a = input.x; a.b == 1 }", &["input.x"]),
        ("decision := true", &[]),
    ] {
        assert_eq!(whole(body), expected, "{body}");
    }
}

#[test]
fn a_place_that_is_only_stepped_into_is_asked_for_its_kind() {
    let found = reads("decision if { x := input.a; not x.b }");
    let a = vec![Step::Key("a".into())];
    assert_eq!(found.input.get(&a), Some(&Extent::Kind));
    assert_ne!(found.pick(&json!({}), &[]), found.pick(&json!({"a": {}}), &[]));
    assert_eq!(found.pick(&json!({"a": {"c": 1}}), &[]), found.pick(&json!({"a": {}}), &[]));
}

#[test]
fn what_cannot_be_followed_counts_as_everything() {
    for body in [
        "decision if f(1) with f as g\nf(x) if x == input.a\ng(x) if x == input.b",
        "decision if time.now_ns() > 1 with time.now_ns as 5",
    ] {
        let found = reads(body);
        assert!(found.unknown.is_some() && found.reads_all() && !found.volatile.is_empty(), "{body}");
    }
}

#[test]
fn documents_and_what_changes_by_itself_are_named() {
    let found = reads("decision if { data.x.y[input.a] == 1; time.now_ns() > data.z }");
    assert_eq!(found.data, BTreeSet::from(["data.x.y".to_owned(), "data.z".to_owned()]));
    assert_eq!(found.volatile, BTreeSet::from(["time.now_ns"]));
    assert_eq!(found.input.len(), 1 + usize::from(found.input.len() > 1), "{found:?}");
}

#[test]
fn parts_are_told_apart_and_exceptions_left_out() {
    let found = reads("decision if { input.a == 1; input.b == 2; input.id.sub == 3 }");
    let pick = |v: Value| found.pick(&v, &["id"]);
    assert_eq!(pick(json!({"a": 1, "c": 1, "id": {"sub": 1}})), pick(json!({"a": 1, "c": 2})));
    for (x, y) in [
        (json!({"a": 1}), json!({"b": 1})),
        (json!({"a": "1"}), json!({"a": 1})),
        (json!({"a": null}), json!({})),
        (json!({"a": "x", "b": "y"}), json!({"a": "xy", "b": ""})),
        (json!({"a": [1, 2]}), json!({"a": [12]})),
    ] {
        assert_ne!(pick(x.clone()), pick(y.clone()), "{x} {y}");
    }
    assert!(found.touches(&["a"]) && found.touches(&["id", "sub"]) && !found.touches(&["id", "iss"]));
    let all = Reads::everything("");
    assert_eq!(all.pick(&json!({"a": 1, "id": 1}), &["id"]), all.pick(&json!({"a": 1, "id": 2}), &["id"]));
    assert_ne!(all.pick(&json!({"a": 1}), &[]), all.pick(&json!({"b": 1}), &[]));
}

#[test]
fn the_library_reads_no_more_than_it_needs() {
    let dir = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let set = load(&[dir], "portcullis/decision", &LoadOptions::default()).unwrap_or_else(|e| panic!("{e}"));
    let found = set.reads();
    assert_eq!(found.unknown, None);
    assert!(!found.touches(&["request", "query"]) && !found.touches(&["request", "host"]), "{found:?}");
    assert!(found.touches(&["request", "method"]) && found.touches(&["time"]), "{found:?}");
}
