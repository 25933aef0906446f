//! No builtin runs long or takes much memory, whatever it is given.

use serde_json::json;

use super::{super::*, load_rules};
use crate::policy::{Input, PolicyError};

/// Calls a builtin as an engine does.
fn call(name: &str, args: &serde_json::Value) -> Answer {
    begin(false);
    let args: Vec<Value> = args.as_array().unwrap().iter().cloned().map(value).collect();
    (find(name).unwrap().call)(&args)
}

#[test]
fn what_would_be_too_much_is_refused() {
    let long = "a".repeat(50_000);
    let list = vec![long.clone(); 50];
    let big = "9".repeat(10_001);
    let refused = [
        ("units.parse", json!(["1e10001"])),
        ("units.parse", json!([big])),
        ("units.parse_bytes", json!(["1e-10001k"])),
        ("concat", json!([long, list])),
        ("concat", json!(["-".repeat(1000), vec!["a"; 5000]])),
        ("replace", json!([long, "a", long])),
        ("replace", json!([long, "", long])),
        ("strings.replace_n", json!([{"a": long}, long])),
        ("strings.replace_n", json!([{"": long}, long])),
        ("sprintf", json!(["%9999999d", [1]])),
        ("sprintf", json!(["%.9999999f", [1.5]])),
        ("sprintf", json!(["%.9999999U%999999999d", [1, 1]])),
        ("sprintf", json!(["%*s".repeat(3), [1_000_000, "a", 1_000_000, "a", 1, "b"]])),
        ("sprintf", json!(["%[1]s".repeat(100), [long]])),
        ("sprintf", json!(["%[1]x".repeat(100), [long]])),
        ("regex.replace", json!([long, "a", long])),
        ("regex.replace", json!([long, "a+", "$0".repeat(100)])),
        ("regex.match", json!([long, "a"])),
        ("regex.find_n", json!(["", "a".repeat(100_001), -1])),
        (
            "regex.find_all_string_submatch_n",
            json!([format!("{}.*{}", "(".repeat(30), ")".repeat(30)), long, -1]),
        ),
        ("regex.template_match", json!([long, long, "{", "}"])),
        ("glob.match", json!([long, [], long])),
        ("bits.lsh", json!([1, 4_000_000_000_u32])),
        ("product", json!([vec![u64::MAX; 2000]])),
        ("object.subset", json!([vec![1; 10_000], vec![1; 5000]])),
        ("json.filter", json!([{}, ["a/".repeat(10_000)]])),
        ("json.remove", json!([{}, [vec!["a"; 10_000]]])),
        ("graph.reachable_paths", json!([layers(24), ["a0"]])),
        ("portcullis_walked", json!([vec![vec![1; 100]; 1000]])),
        ("net.cidr_contains_matches", json!([vec!["10.0.0.0/8"; 2000], vec!["11.0.0.1"; 2000]])),
        ("json.marshal_with_options", json!([vec![1; 10_000], {"prefix": long}])),
        ("json.marshal_with_options", json!([[[[[vec![1; 1000]]]]], {"indent": long}])),
    ];
    for (name, args) in refused {
        let answer = call(name, &args);
        // Searches end by the clock too, on a slow machine.
        assert!(matches!(answer, Err(Fault::Limit { .. } | Fault::Fatal(_))), "{name}: {answer:?}");
    }
    let line = |i: usize| format!("a{i}: &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","));
    let aliases = (1..9).map(line).collect::<Vec<_>>().concat();
    let answer = call("yaml.unmarshal", &json!([format!("a0: &a0 x\n{aliases}")]));
    assert!(matches!(answer, Err(Fault::Failed(_))), "refused by the reader: {answer:?}");
    let answer = call("yaml.unmarshal", &json!([format!("[{}]", vec!["x"; 100_001].join(","))]));
    assert!(matches!(answer, Err(Fault::Limit { .. })), "{answer:?}");
    // Each is small, all are not.
    begin(false);
    let args = [Value::from(""), Value::from(vec![Value::from("a".repeat(1 << 20))])];
    let all = (0..65).map(|_| (find("concat").unwrap().call)(&args));
    let all: Vec<_> = all.collect();
    assert!(all[0].is_ok() && matches!(all[64], Err(Fault::Limit { .. })));
}

#[test]
fn exponents_are_not_multiplied_out() {
    for name in ["units.parse", "units.parse_bytes"] {
        for text in ["1e999999999", "1e1000001", "-1e-99999999999999999999Ki"] {
            let answer = call(name, &json!([text]));
            assert!(
                matches!(&answer, Err(Fault::Failed(why)) if why.contains("exponent")),
                "{text} {answer:?}"
            );
        }
    }
    // What regorus makes a number of on the sly.
    let sly = json!({"$serde_json::private::Number": "1e999999999"});
    let text = sly.to_string();
    assert!(matches!(call("to_number", &json!([text])), Err(Fault::Failed(_))));
    assert!(matches!(call("to_number", &json!(["1e999999999"])), Err(Fault::Failed(_))));
    for name in ["json.unmarshal", "yaml.unmarshal"] {
        assert_eq!(serde_json::to_value(call(name, &json!([text])).unwrap()).unwrap(), sly, "{name}");
    }
    assert_eq!(call("json.is_valid", &json!([text])).unwrap(), Value::from(true));
    let set = load_rules("default decision := false\ndecision if is_object(input)");
    assert!(set.eval_decision(&sly.into()).unwrap().allow);
}

#[test]
fn a_role_with_a_large_exponent_decides_at_once() {
    let set = load_rules(
        "default decision := false\ndecision if units.parse(input.role) < 100\ndecision if not units.parse(input.role)",
    );
    let ask = |role: &str| set.eval_decision(&Input::from(json!({"role": role})));
    assert!(ask("1e1").unwrap().allow);
    assert!(!ask("1e3").unwrap().allow);
    assert!(ask("1e999999999").unwrap().allow, "undefined, as in OPA");
    assert!(matches!(ask("1e99999"), Err(PolicyError::Failed(_))), "OPA has a number there and we have none");
}

#[test]
fn walk_goes_over_what_it_can_and_refuses_what_would_take_long() {
    let set = load_rules(
        "default decision := false\ndecision if {\n\twalk(input.x, [path, 7])\n\tcount(path) == input.n\n}",
    );
    let ask = |input: serde_json::Value| set.eval_decision(&Input::from(input));
    assert!(ask(json!({"x": {"a": [1, {"b": 7}]}, "n": 3})).unwrap().allow);
    assert!(!ask(json!({"x": {"a": [1, {"b": 7}]}, "n": 2})).unwrap().allow);
    assert!(!ask(json!({"n": 0})).unwrap().allow);
    let deep = (0..60).fold(json!(vec![1; 4000]), |inner, _| json!([inner]));
    assert!(matches!(ask(json!({"x": deep, "n": 1})), Err(PolicyError::Failed(_))), "240,000 parts of paths");
}

/// As OPA 1.20 answers.
#[test]
fn walk_gives_one_pair_after_the_other() {
    let input = json!({"x": [[8]]});
    let all = json!([[[], [[8]]], [[0], [8]], [[0, 0], 8]]);
    for (rule, answer) in [
        ("[p | walk(input.x, [p, 8])]", json!([[0, 0]])),
        ("[p | [p, 8] = walk(input.x)]", json!([[0, 0]])),
        ("[v | [_, v] := walk(input.x)]", json!([[[8]], [8], 8])),
        ("[v | v := walk(input.x)]", all),
        ("[v | walk(input.x) = [_, v]]", json!([[[8]], [8], 8])),
        ("[y | y := walk(input.x)[0]]", json!([[], [0], [0, 0]])),
        ("[v | some [_, v] in walk(input.x)]", json!([0])),
        ("[1 | walk(input.x) == [[0, 0], 8]]", json!([1])),
        ("count([v | [_, v] = walk(walk(input.x))])", json!(15)),
        ("{v | some x in [1]; walk([x], [_, v])}", json!([1, [1]])),
        ("[1 | [_, 9] = walk(input.x)]", json!([])),
        ("[1 | [_, 8] := walk(input.x)]", json!([1])),
        ("[1 | p := [0, 0]; walk(input.x) =\n[p, 8]]", json!([1])),
        ("[p | p := [7]; x := [p | [p, 8] := walk(input.x)]; x == [[0, 0]]]", json!([[7]])),
        ("[v | [_, v] := walk(input.y)]", json!([])),
        ("[v | [_, v] := walk(input) with input as [3]]", json!([[3], 3])),
    ] {
        let set = load_rules(&format!("default decision := false\nfound := {rule}"));
        let found = set.eval_path(&["p", "found"], &Input::from(input.clone())).unwrap();
        assert_eq!(found, Some(answer), "{rule}");
    }
}

/// What OPA 1.20 answers; null is an error.
#[test]
fn answers_are_opas() {
    for (text, amount, bytes) in [
        ("1e3", json!(1000), json!(1000)),
        ("1e3Mi", json!(1_048_576_000), json!(1_048_576_000)),
        ("1E", json!(1_000_000_000_000_000_000_u64), json!(1_000_000_000_000_000_000_u64)),
        ("1eI", json!(1_152_921_504_606_846_976_u64), json!(1_152_921_504_606_846_976_u64)),
        ("-1k", json!(-1000), json!(-1000)),
        ("+1", json!(1), json!(1)),
        ("1/3", json!(null), json!(null)),
        ("0x10", json!(null), json!(null)),
        ("1_000", json!(null), json!(null)),
        ("\"10\"K", json!(10_000), json!(10_000)),
        ("1 K", json!(null), json!(null)),
        ("1m", json!(0.001), json!(1_000_000)),
        ("1.5mi", json!(1_572_864), json!(1_572_864)),
        ("0.00000000005", json!(1e-10), json!(0)),
        ("0.00000000004", json!(0), json!(0)),
        (".5k", json!(500), json!(500)),
        ("5.k", json!(5000), json!(5000)),
        ("..5", json!(null), json!(null)),
        ("K", json!(null), json!(null)),
        ("", json!(null), json!(null)),
        ("\u{661}", json!(null), json!(null)),
        ("1.5", json!(1.5), json!(1)),
        ("-1.5", json!(-1.5), json!(-1)),
        ("2.6666kB", json!(null), json!(2666)),
        ("1zb", json!(null), json!(null)),
        ("1k5", json!(null), json!(null)),
        ("1-5", json!(null), json!(null)),
        ("1e+", json!(null), json!(null)),
        ("1e5e3", json!(null), json!(null)),
        ("-0.5m", json!(-0.0005), json!(-500_000)),
        ("1b", json!(null), json!(null)),
        ("99.99999999995", json!(100), json!(99)),
    ] {
        for (name, expected) in [("units.parse", amount), ("units.parse_bytes", bytes)] {
            check(name, &json!([text]), &expected);
        }
    }
    for (name, args, expected) in [
        ("indexof", json!(["äbc", "c"]), json!(2)),
        ("indexof", json!(["abc", "x"]), json!(-1)),
        ("indexof", json!(["abc", ""]), json!(null)),
        ("indexof_n", json!(["aaaa", "aa"]), json!([0, 1, 2])),
        ("indexof_n", json!(["äbäbäc", "äbä"]), json!([0, 2])),
        ("indexof_n", json!(["abc", ""]), json!(null)),
        ("strings.count", json!(["aaaa", "aa"]), json!(2)),
        ("strings.count", json!(["äb", ""]), json!(3)),
        ("strings.replace_n", json!([{"a": "b", "b": "c"}, "ab"]), json!("bc")),
        ("strings.replace_n", json!([{"ab": "1", "a": "2"}, "ab"]), json!("2b")),
        ("strings.replace_n", json!([{"": "-", "a": "2"}, "ab"]), json!("-2-b-")),
        ("strings.replace_n", json!([{"a": 1}, "ab"]), json!(null)),
        ("strings.any_prefix_match", json!(["abc", ["b", "ab", "abd", "a/"]]), json!(true)),
        ("strings.any_prefix_match", json!([["abc"], ["b", "abcd", "abb"]]), json!(false)),
        ("strings.any_suffix_match", json!([["abc", "xyz"], ["b", "yz"]]), json!(true)),
        ("strings.any_suffix_match", json!(["abc", "b"]), json!(false)),
        ("trim", json!(["abxba", "ab"]), json!("x")),
        ("trim_left", json!(["aab", ""]), json!("aab")),
        ("trim_right", json!(["xaa", "a"]), json!("x")),
        ("concat", json!([",", ["a", "b"]]), json!("a,b")),
        ("concat", json!([",", ["a", 1]]), json!(null)),
        ("replace", json!(["a.b.c", ".", ""]), json!("abc")),
        ("product", json!([[2, 3.5]]), json!(7.0)),
        ("bits.lsh", json!([1, 10]), json!(1024)),
        ("object.union", json!([{"a": {"b": 1}}, {"a": {"c": 2}}]), json!({"a": {"b": 1, "c": 2}})),
        ("object.union_n", json!([[{"a": {"b": 1}}, {"a": 1}, {"a": {"c": 2}}]]), json!({"a": {"c": 2}})),
        ("object.union_n", json!([[{"a": {"b": 1}}, {"a": 1}]]), json!({"a": 1})),
        ("object.union_n", json!([[]]), json!({})),
        ("object.union_n", json!([[1]]), json!(null)),
        ("object.subset", json!([[1, 2, 3], [2, 3]]), json!(true)),
        ("object.subset", json!([[1, 2, 3], [3, 2]]), json!(false)),
        ("object.subset", json!([[1, 2, 3], []]), json!(true)),
        ("object.subset", json!([{"a": {"b": 1, "c": 2}}, {"a": {"b": 1}}]), json!(true)),
        ("object.subset", json!([{"a": {"b": 1}}, {"b": 1}]), json!(false)),
        ("to_number", json!(["1.0"]), json!(1.0)),
        ("to_number", json!([true]), json!(1)),
        ("to_number", json!([" 1"]), json!(null)),
        ("to_number", json!(["0x10"]), json!(null)),
        ("to_number", json!(["{}"]), json!(null)),
        ("json.unmarshal", json!(["{\"a\": [1, -1, 1.5, null]}"]), json!({"a": [1, -1, 1.5, null]})),
        ("json.unmarshal", json!(["{"]), json!(null)),
        // As OPA 1.20 answers.
        (
            "json.marshal",
            json!([{"a<b": "x>&y\u{2028}"}]),
            json!("{\"a\\u003cb\":\"x\\u003e\\u0026y\u{2028}\"}"),
        ),
        ("json.marshal_with_options", json!(["<", {"pretty": false}]), json!("\"\\u003c\"")),
        ("base64.decode", json!(["YR=="]), json!("a")),
        ("base64.decode", json!(["Y\nQ=="]), json!("a")),
        ("base64.decode", json!(["YQ"]), json!(null)),
        ("base64.is_valid", json!(["YR=="]), json!(true)),
        ("base64.is_valid", json!(["YQ"]), json!(false)),
        ("base64url.decode", json!(["YR"]), json!("a")),
        ("base64url.decode", json!(["YQ=="]), json!("a")),
        ("base64url.decode", json!(["Y\nQ"]), json!(null)),
        ("yaml.unmarshal", json!(["a: [1, x]\nb: 1.5"]), json!({"a": [1, "x"], "b": 1.5})),
        ("yaml.is_valid", json!(["a: ["]), json!(false)),
    ] {
        check(name, &args, &expected);
    }
}

/// A graph of layers of two nodes, each with an edge to both of the next.
fn layers(count: usize) -> serde_json::Value {
    let next = |n: usize| json!([format!("a{}", n + 1), format!("b{}", n + 1)]);
    (0..count)
        .flat_map(|n| [(format!("a{n}"), next(n)), (format!("b{n}"), next(n))])
        .collect::<serde_json::Map<_, _>>()
        .into()
}

fn check(name: &str, args: &serde_json::Value, expected: &serde_json::Value) {
    match call(name, args) {
        Ok(got) => assert_eq!(got, value(expected.clone()), "{name} {args}"),
        Err(Fault::Failed(_)) => assert!(expected.is_null(), "{name} {args}: no value"),
        Err(other) => panic!("{name} {args}: {other:?}"),
    }
}
