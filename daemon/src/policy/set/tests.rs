//! Sets made here, and the example policies of `policies/`.

use std::{fs, path::Path, path::PathBuf};

use serde_json::json;

use super::*;
use crate::policy::{LoadError, LoadOptions, Outcome, load, run_tests};

/// Time enough on any machine, however busy: only the test of timeouts is about time.
fn patient() -> LoadOptions {
    LoadOptions { time_limit: Duration::from_mins(1), ..LoadOptions::default() }
}

/// Writes files below a directory of their own.
fn written(files: &[(&str, &str)]) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text) in files {
        let path = dir.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    dir
}

fn load_with(files: &[(&str, &str)], options: &LoadOptions) -> Result<PolicySet, LoadError> {
    load(&[written(files).path().into()], "p/decision", options)
}

fn load_files(files: &[(&str, &str)]) -> Result<PolicySet, LoadError> {
    load_with(files, &patient())
}

/// A set of one module whose rules are `body`.
fn rules(body: &str) -> PolicySet {
    load_files(&[("p.rego", &format!("package p\nimport rego.v1\n{body}"))]).unwrap()
}

fn decide(set: &PolicySet, input: serde_json::Value) -> Result<Decision, PolicyError> {
    set.eval_decision(&input.into())
}

fn examples() -> PolicySet {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    load(&[dir], "portcullis/decision", &patient()).unwrap_or_else(|e| panic!("{e}"))
}

fn asked(path: &str, scopes: &[&str], age: f64) -> serde_json::Value {
    json!({
        "request": {"method": "GET", "path": path, "segments": path.split('/').skip(1).collect::<Vec<_>>()},
        "time": 1_732_412_345.25,
        "token_status": "valid",
        "identity": {"iss": "i", "sub": "s", "client": "c", "iat": 1_732_412_345.25 - age, "scopes": scopes},
    })
}

#[test]
fn the_examples_run_on_the_machine_and_decide_as_the_interpreter_does() {
    fn shareable<T: Send + Sync>(_: &T) {}
    let set = examples();
    shareable(&set);
    assert_eq!(set.engine(), &EngineKind::Rvm);
    assert_eq!((set.modules(), set.hash().len()), (11, 64));
    let mut inputs = vec![json!({}), json!(null), json!({"token_status": "valid"})];
    for path in [
        "/v1/orders",
        "/v1/orders/7",
        "/v1/reports",
        "/v1/reports/a/b",
        "/v1/reports/..",
        "/health",
        "/",
        "/x",
    ] {
        for scopes in [&[][..], &["orders:read"], &["reports:read", "orders:read"]] {
            inputs.extend([1.0, 3590.0, 3600.0, 9999.0].map(|age| asked(path, scopes, age)));
        }
        let mut missing = asked(path, &[], 0.0);
        missing["token_status"] = json!("token_missing");
        missing.as_object_mut().unwrap().remove("identity");
        inputs.push(missing);
    }
    for input in inputs {
        let text = input.to_string();
        let input = Input::from(input);
        let machine = set.decide(&input).unwrap();
        let interpreter = set.interpret(&input, false, |e| e.eval_rule(set.decision.clone())).unwrap();
        assert_eq!(machine, interpreter, "{text}");
        Decision::read(&machine).unwrap_or_else(|e| panic!("{text}: {e}"));
    }
    let decision = decide(&set, asked("/v1/orders", &["orders:read"], 3590.0)).unwrap();
    assert_eq!((decision.allow, decision.ttl), (true, Some(Duration::from_secs(10))));
    let decision = decide(&set, asked("/v1/orders", &["orders:read"], 3600.0)).unwrap();
    assert_eq!((decision.allow, decision.block), (false, crate::policy::Block::Token));
}

#[test]
fn what_fails_in_a_path_says_where() {
    let body = "package p\nimport rego.v1\ndecision := true\nn := to_number(input.x)\ntwo := 1 if input.x\ntwo := 2 if input.x\n";
    let set = load_files(&[("deep/p.rego", body)]).unwrap();
    let input = json!({"x": "a"}).into();
    let PolicyError::Placed(at) = set.eval_path(&["p", "two"], &input).unwrap_err() else { panic!() };
    assert!(at.is_conflict && !at.message.contains('/'), "{at}");
    assert_eq!((at.file.as_str(), at.line > 4), ("p.rego", true), "{at}");
    let PolicyError::Placed(at) = set.builtin_fault(&["p", "n"], &input).unwrap() else { panic!() };
    assert_eq!((at.is_conflict, at.file.as_str(), at.line), (false, "p.rego", 4), "{at}");
}

#[test]
fn any_path_can_be_asked_for() {
    let set = load_files(&[
        ("p.rego", "package p\nimport rego.v1\ndecision := true\nname := input.name\nfalsehood := false\ndefault d := {1}"),
        ("lists/data.json", r#"{"names": ["a", "b"]}"#),
        ("lists/deep/data.yaml", "number: 1"),
    ])
    .unwrap();
    let ask = |path: &[&str]| set.eval_path(path, &json!({"name": "x"}).into()).unwrap();
    assert_eq!(ask(&["p", "decision"]), Some(json!(true)));
    assert_eq!(ask(&["p", "name"]), Some(json!("x")));
    assert_eq!(ask(&["p", "falsehood"]), Some(json!(false)));
    assert_eq!(ask(&["p", "d"]), Some(json!([1])));
    assert_eq!(ask(&["p"]).unwrap()["name"], json!("x"));
    assert_eq!(ask(&["lists", "names"]), Some(json!(["a", "b"])));
    assert_eq!(ask(&["lists", "deep", "number"]), Some(json!(1)));
    for absent in
        [&["p", "other"][..], &["other"], &["lists", "names", "x"], &["p", "\"] = 1; x := [1"], &["p", "\n"]]
    {
        assert_eq!(ask(absent), None, "{absent:?}");
    }
    assert_eq!(set.eval_path(&["p", "name"], &json!({}).into()), Ok(None));
    assert_eq!(set.eval_path(&[], &json!({}).into()).unwrap().unwrap()["lists"]["names"], json!(["a", "b"]));
}

#[test]
fn an_undefined_decision_is_an_error() {
    assert_eq!(decide(&rules("decision if input.x == 1"), json!({})), Err(PolicyError::Undefined));
    let error = decide(&rules("decision := {\"alow\": true}"), json!({})).unwrap_err();
    assert_eq!(error.reason(), portcullis_common::reason::Reason::PolicyError);
}

#[test]
fn an_endless_evaluation_ends_in_a_timeout() {
    let body =
        "decision if count([1 | some i in input.n; some j in input.n; some k in input.n; i + j + k < 0]) > 0";
    let text = format!("package p\nimport rego.v1\n{body}");
    let set = load_with(&[("p.rego", &text)], &LoadOptions::default()).unwrap();
    assert_eq!(set.engine(), &EngineKind::Rvm);
    let numbers: Vec<_> = (0..1000).collect();
    assert_eq!(decide(&set, json!({"n": numbers})), Err(PolicyError::Timeout));
    let input = json!({"n": numbers}).into();
    let interpreted = set.interpret(&input, false, |e| e.eval_rule(set.decision.clone()));
    assert_eq!(interpreted, Err(PolicyError::Timeout));
    assert_eq!(decide(&set, json!({"n": [-1]})).map(|d| d.allow), Ok(true), "the set can be used again");
}

#[test]
fn a_panic_is_contained() {
    let panicked = guarded(false, || panic!("of an engine"));
    let panicked: Result<(), PolicyError> = panicked;
    assert!(matches!(&panicked, Err(PolicyError::Failed(m)) if m.contains("panicked")), "{panicked:?}");
}

#[test]
fn a_builtin_that_fails_is_undefined_as_in_opa_and_denies_where_strict() {
    let text =
        "package p\nimport rego.v1\ndefault decision := true\ndecision := false if to_number(input.x) > 1";
    let load = |strict_builtin_errors| {
        load_with(&[("p.rego", text)], &LoadOptions { strict_builtin_errors, ..LoadOptions::default() })
            .unwrap()
    };
    let input = json!({"x": "no number"});
    let lax = load(false);
    assert_eq!(lax.engine(), &EngineKind::Rvm);
    assert_eq!(decide(&lax, input.clone()).map(|d| d.allow), Ok(true));
    let interpreted = lax.interpret(&input.clone().into(), false, |e| e.eval_rule(lax.decision.clone()));
    assert_eq!(interpreted, Ok(Value::Bool(true)));
    let strict = load(true);
    assert!(matches!(strict.engine(), EngineKind::Interpreter { .. }));
    assert!(matches!(decide(&strict, input), Err(PolicyError::Failed(_))));
}

#[test]
fn rules_that_contradict_each_other_deny_also_behind_a_not() {
    for body in [
        "decision := true if input.a\ndecision := false if input.b",
        "decision if not blocked\nblocked := true if input.a\nblocked := false if input.b",
        "decision if not blocked(1)\nblocked(x) := x if input.a\nblocked(x) := x + 1 if input.b",
        "decision if not blocked\nblocked := 1 if input.a\nblocked := 2 if input.b else := 3 if input.a",
        "decision if not blocked\nblocked := v if some v in input.list",
        "decision if not blocked\nblocked := v if { some i; v := input.list[i] }",
        "decision if not blocked\nblocked := input.list[_]",
        "decision if not blocked\nblocked := v if v := input.list[i]",
        "decision if not blocked(1)\nblocked(x) := v if { some i; v := input.list[i] }",
        "decision if not {k: v | some k in [\"a\"]; some v in input.list}.a",
    ] {
        let set = rules(body);
        assert!(
            matches!(set.engine(), EngineKind::Interpreter { reason, .. } if reason.contains("contradict")),
            "{body}"
        );
        let got = decide(&set, json!({"a": 1, "b": 1, "list": [true, false]}));
        assert!(matches!(got, Err(PolicyError::Failed(_))), "{body}: {got:?}");
    }
    for body in [
        "decision if input.a\ndecision if input.b",
        "decision := true if input.a else := false if input.b",
        "decision if some x in input.list",
        "decision := v if { v := count([x | some x in input.list]) > 1 }",
        "decision := m.a if { i := \"a\"; m := {\"a\": true}; m[i] }",
        "decision if count(p) == 2\np contains 1 if input.a\np contains 2 if input.b",
    ] {
        let set = rules(body);
        assert_eq!(set.engine(), &EngineKind::Rvm, "{body}");
        assert_eq!(
            decide(&set, json!({"a": 1, "b": 1, "list": [1, 2]})).map(|d| d.allow),
            Ok(true),
            "{body}"
        );
    }
}

#[test]
fn what_the_machine_has_not_runs_on_the_interpreter() {
    let set = rules("decision if x with input as {\"a\": 1}\nx if input.a == 1");
    assert!(
        matches!(set.engine(), EngineKind::Interpreter { reason, .. } if !reason.is_empty()),
        "{:?}",
        set.engine()
    );
    assert_eq!(decide(&set, json!({})).map(|d| d.allow), Ok(true));
    assert_eq!(
        decide(&rules("decision if x with input as input.y\nx if input.a"), json!({})),
        Err(PolicyError::Undefined)
    );
}

#[test]
fn calls_of_more_than_eight_arguments_are_refused() {
    let text = |n: usize| {
        let list = |f: &dyn Fn(usize) -> String| (0..n).map(f).collect::<Vec<_>>().join(", ");
        format!(
            "package p\nimport rego.v1\ndecision if not blocked({})\nblocked({}) if a0 == 0\n",
            list(&|i| i.to_string()),
            list(&|i| format!("a{i}"))
        )
    };
    assert!(load_files(&[("p.rego", &text(8))]).is_ok());
    let error = load_files(&[("p.rego", &text(9))]).err().unwrap();
    let LoadError::Rego { file, line, message, .. } = error else { panic!("{error}") };
    assert!(
        file.ends_with("p.rego") && (3..=4).contains(&line) && message.contains("9 arguments"),
        "{message}"
    );
}

#[test]
fn a_syntax_error_names_its_place() {
    for body in ["package p\nimport rego.v1\ndecision if {", "package p\nimport rego.v1\ndecision if x == 1"]
    {
        let error = load_files(&[("deep/p.rego", body)]).err().unwrap();
        let LoadError::Rego { file, line, column, message } = &error else { panic!("{error}") };
        assert!(file.ends_with("deep/p.rego") && *line == 3 && *column > 0 && !message.is_empty(), "{error}");
    }
}

#[test]
fn a_decision_that_is_not_there_is_refused() {
    for (decision, files) in [
        ("p/decision", &[("p.rego", "package p\nx := 1")][..]),
        ("p/decision", &[]),
        ("p/decision", &[("p/data.json", r#"{"decision": true}"#)]),
        ("decision", &[("p.rego", "package p\ndecision := true")]),
        ("p/../decision", &[("p.rego", "package p\ndecision := true")]),
        ("", &[("p.rego", "package p\ndecision := true")]),
    ] {
        let dir = written(files);
        let error = load(&[dir.path().into()], decision, &LoadOptions::default()).err();
        assert!(matches!(error, Some(LoadError::Decision { .. })), "{decision} {files:?}: {error:?}");
    }
}

#[test]
fn a_failing_test_refuses_the_set_and_is_named() {
    let policy = ("p.rego", "package p\nimport rego.v1\ndecision := input.x > 0");
    let test = "package p_test\nimport rego.v1\nimport data.p\n\
        test_good if p.decision with input as {\"x\": 1}\n\
        test_bad if p.decision with input as {\"x\": -1}\n\
        test_broken if torn\n\
        todo_test_later if false\n\
        todo_test_cases[x] if some x in [1]\n\
        torn := 1 if true\n\
        torn := 2 if true\n\
        helper := false\n";
    let dir = written(&[policy, ("p_test.rego", test)]);
    let dirs = [PathBuf::from(dir.path())];
    let error = load(&dirs, "p/decision", &LoadOptions::default()).err().unwrap();
    let text = error.to_string();
    assert!(
        text.contains("2 of") && text.contains("`test_bad` in") && text.contains("p_test.rego"),
        "{text}"
    );
    let report = run_tests(&dirs, &LoadOptions::default(), false, |_| true).unwrap().0;
    let outcomes: Vec<_> =
        report.cases.iter().map(|c| (c.name.as_str(), c.package.as_str(), &c.outcome)).collect();
    let skipped: Vec<_> = outcomes.iter().filter(|o| *o.2 == Outcome::Skipped).map(|o| o.0).collect();
    assert_eq!((skipped.len(), outcomes.len()), (2, 5), "{outcomes:?}");
    let outcomes: Vec<_> = outcomes.into_iter().filter(|o| *o.2 != Outcome::Skipped).collect();
    assert_eq!(outcomes[0], ("test_good", "data.p_test", &Outcome::Passed));
    assert_eq!(outcomes[1].2, &Outcome::Failed);
    assert!(matches!(outcomes[2].2, Outcome::Errored(_)), "{outcomes:?}");
    let untested = LoadOptions { run_tests: false, ..LoadOptions::default() };
    assert!(load(&dirs, "p/decision", &untested).is_ok());
}

#[test]
fn data_that_clashes_or_is_no_object_is_refused() {
    let policy = ("p.rego", "package p\ndecision := true");
    for data in [
        &[("data.json", "[]")][..],
        &[("data.json", "{")],
        &[("data.yaml", "a: [")],
        &[("data.json", r#"{"a": {"x": 1}}"#), ("a/data.json", r#"{"x": 2}"#)],
    ] {
        let files: Vec<_> = std::iter::once(policy).chain(data.iter().copied()).collect();
        let error = load_files(&files).err();
        assert!(matches!(error, Some(LoadError::Data { .. })), "{data:?}: {error:?}");
    }
    assert!(
        load_files(&[policy, ("data.json", r#"{"p": {"decision": false}}"#)]).is_err(),
        "a rule over data"
    );
}

#[test]
fn links_may_lead_inside_but_not_out() {
    use std::os::unix::fs::symlink;

    let dir = written(&[("..2024/p.rego", "package p\ndecision := true")]);
    symlink("..2024", dir.path().join("..data")).unwrap();
    symlink("..data/p.rego", dir.path().join("p.rego")).unwrap();
    let dirs = [PathBuf::from(dir.path())];
    assert_eq!(load(&dirs, "p/decision", &LoadOptions::default()).unwrap().modules(), 1);
    let other = written(&[("q.rego", "package q")]);
    symlink(other.path().join("q.rego"), dir.path().join("q.rego")).unwrap();
    assert!(matches!(load(&dirs, "p/decision", &LoadOptions::default()), Err(LoadError::OutsideLink { .. })));
    fs::remove_file(dir.path().join("q.rego")).unwrap();
    symlink(".", dir.path().join("round")).unwrap();
    assert!(matches!(load(&dirs, "p/decision", &LoadOptions::default()), Err(LoadError::TooLarge { .. })));
}

#[test]
fn sets_over_the_limits_are_refused() {
    let files = [("p.rego", "package p\ndecision := true"), ("q.rego", "package q")];
    let few = LoadOptions { max_files: 1, ..LoadOptions::default() };
    assert!(matches!(load_with(&files, &few), Err(LoadError::TooLarge { unit: "files", .. })));
    let small = LoadOptions { max_bytes: 20, ..LoadOptions::default() };
    assert!(matches!(load_with(&files, &small), Err(LoadError::TooLarge { unit: "bytes", .. })));
    let absent = load(&["/nonexistent".into()], "p/decision", &LoadOptions::default());
    assert!(matches!(absent, Err(LoadError::Read { .. })));
}

#[test]
fn equal_sets_have_equal_hashes() {
    let hash = |text| load_files(&[("p.rego", text)]).unwrap().hash().to_owned();
    let (a, b) = ("package p\ndecision := true", "package p\ndecision := false");
    assert_eq!(hash(a), hash(a));
    assert_ne!(hash(a), hash(b));
}

#[test]
fn many_threads_decide_at_once() {
    let set = Arc::new(examples());
    std::thread::scope(|scope| {
        for thread in 0..8 {
            let set = set.clone();
            scope.spawn(move || {
                for n in 0..200 {
                    let good = (n + thread) % 2 == 0;
                    let scopes = if good { &["orders:read"][..] } else { &[] };
                    let decision = decide(&set, asked("/v1/orders", scopes, 1.0)).unwrap();
                    assert_eq!(decision.allow, good);
                }
            });
        }
    });
}

#[test]
fn each_installed_set_has_its_own_generation() {
    let active = crate::policy::Active::new(rules("decision := true"), 7);
    let before = active.current();
    active.install(rules("decision := false"), 8);
    assert_eq!(active.generation(), 8);
    assert_eq!((before.generation, active.current().generation), (7, 8));
    assert_eq!(before.set.eval_decision(&json!({}).into()).map(|d| d.allow), Ok(true));
    assert_eq!(active.current().set.eval_decision(&json!({}).into()).map(|d| d.allow), Ok(false));
}

#[test]
fn rego_v0_is_read_where_it_is_asked_for_and_runs_on_the_interpreter() {
    let dir = tempfile::tempdir().unwrap();
    let v0 = "package p\n\ndefault decision = false\n\ndecision {\n\tinput.roles[_] == \"admin\"\n\tnot banned[input.sub]\n\t\
        crypto.sha256(input.sub, h)\n\tcount(h) == 64\n}\n\nbanned[who] {\n\twho := data.banned[_]\n}\n";
    let v1 = "package p\n\nimport rego.v1\n\ndecision if input.roles == {\"root\"}\n\ndecision if \"root\" in input.roles\n";
    fs::write(dir.path().join("p.rego"), v0).unwrap();
    fs::write(dir.path().join("q.rego"), v1).unwrap();
    fs::write(dir.path().join("data.json"), r#"{"banned": ["eve"]}"#).unwrap();
    let test = "package p_test\n\ntest_allowed {\n\tdata.p.decision with input as {\"roles\": [\"admin\"], \"sub\": \"a\"}\n}\n";
    fs::write(dir.path().join("p_test.rego"), test).unwrap();
    let load = |rego_v0| {
        load(&[dir.path().into()], "p/decision", &LoadOptions { rego_v0, ..LoadOptions::default() })
    };
    assert!(load(false).err().unwrap().to_string().contains("p.rego:"), "v0 is not v1");
    let set = load(true).unwrap();
    assert!(matches!(set.engine(), EngineKind::Interpreter { cause: Cause::V0, .. }));
    assert_eq!(set.tested().tests, 1);
    for (roles, sub, allow) in
        [("admin", "ann", true), ("admin", "eve", false), ("guest", "ann", false), ("root", "eve", true)]
    {
        let input = Input::from(json!({"roles": [roles], "sub": sub}));
        assert_eq!(set.eval_decision(&input).unwrap().allow, allow, "{roles} {sub}");
    }
    assert!(set.reads().touches(&["roles"]) && set.reads().touches(&["sub"]));
}

/// Each gave the machine another document than OPA, and a rule that denies by it denied nobody.
#[test]
fn heads_that_the_machine_gets_wrong_run_on_the_interpreter() {
    for rules in [
        "a[x] contains 1 if some x in input.roles\ndecision if not a.u",
        "a[x].b if some x in input.roles\ndecision if not a.u",
        "a.q[x] contains 1 if some x in input.roles\ndecision if not a.q.u",
        "e.f := 1 if \"u\" in input.roles\ndecision if { some k in [\"f\"]; not e[k] }",
    ] {
        let set = load_files(&[(
            "p.rego",
            &format!("package p\nimport rego.v1\ndefault decision := false\n{rules}"),
        )])
        .unwrap();
        assert_eq!(set.engine().cause(), Cause::Heads.code(), "{rules}");
        assert!(!decide(&set, json!({"roles": ["u"]})).unwrap().allow, "{rules}");
        assert!(decide(&set, json!({"roles": []})).unwrap().allow, "{rules}");
    }
    let plain = rules(
        "default decision := false\na[x] := 1 if some x in input.roles\nb.c[x] := 1 if some x in input.roles\ndecision if { a.u; b.c.u }",
    );
    assert_eq!(plain.engine().cause(), "none");
    assert!(decide(&plain, json!({"roles": ["u"]})).unwrap().allow);
}

#[test]
fn what_would_be_read_otherwise_than_in_opa_is_refused_with_its_line() {
    let told = |rules: &str| {
        let text = format!(
            "package p\nimport rego.v1\nimport input.user as user\ndefault decision := false\n{rules}"
        );
        load_files(&[("p.rego", &text)]).err().map(|e| e.to_string())
    };
    for (rules, part) in [
        ("n := 7\ndecision if { some n; input.roles[n] == \"w\" }", "`some n` would mean the rule"),
        (
            "f(x) := x\ng(x) := 2\ndecision if f(1) == 2 with data.p.f as g",
            "in the place of the function `data.p.f`",
        ),
        ("decision if [1, {\"a\": 1}] = input.pair", "an object as a pattern"),
        ("decision if { some v in input.l; v = {\"a\": 1} }", "an object as a pattern"),
        ("decision if { some [_, {\"a\": 1}] in input.l }", "an object as a pattern"),
        ("decision if f(input.x)\nf([1, {\"a\": y}]) if y == 1", "an object as a pattern"),
        ("decision if walk(input, [_, {\"a\": 1}])", "an object as a pattern"),
        ("decision if [_, {\"a\": 1}] = walk(input)", "an object as a pattern"),
        ("decision if object.get(input, \"o\", {}, {\"a\": 1})", "an object as a pattern"),
        ("portcullis_pair_1_1 := 1\ndecision if input.x", "kept for this daemon's own"),
        ("decision if portcullis_walked(input)", "kept for this daemon's own"),
    ] {
        let error = told(rules).unwrap_or_else(|| panic!("taken: {rules}"));
        assert!(error.contains(part), "{rules}: {error}");
    }
    for rules in [
        "decision if { some n; input.roles[n] == \"w\" }",
        // The import is hidden, as in OPA.
        "decision if { some user; input.blocked[user] }",
        "decision if { x := {\"a\": 1}; input.o == x; [1, {\"a\": 1}] == input.pair }",
        "decision if object.get(input, \"o\", {\"a\": 1}) == {\"a\": 1}",
    ] {
        assert_eq!(told(rules), None, "{rules}");
    }
}

#[test]
fn a_comment_that_ends_in_if_is_no_head() {
    for body in [
        "decision if {\n\t# only if\n\tnot startswith(input.y, \"b\")\n}",
        "decision if # says\n\tnot startswith(input.y, \"b\")",
        "decision if # says \"if\" if\n\tnot startswith(input.y, \"b\")",
    ] {
        let set = rules(&format!("default decision := false\n{body}"));
        assert!(decide(&set, json!({"y": "a"})).unwrap().allow, "{body}");
        assert!(!decide(&set, json!({"y": "b"})).unwrap().allow, "{body}");
    }
}

#[test]
fn an_else_behind_a_body_that_iterates_is_come_to() {
    for body in [
        "some z in input.b; z == 1",
        "input.b[_] == 1",
        "some i; input.b[i] == 1",
        "x := input.b[i]; x == 1",
        "some k, v in input.b; k == v",
        "input.a == 1; f(1)",
        "count([z | some z in input.b; z == 1]) > 0",
        "1 in input.b",
    ] {
        let set = rules(&format!(
            "default decision := false\ndecision if {{ input.a == 1; s == 3 }}\n\
             s := 0 if {{ input.a == 1; {body} }} else := 3\n\
             f(x) := 0 if {{ some y in input.b; y == x; y == 7 }} else := false"
        ));
        for list in [json!([2]), json!([]), json!({})] {
            assert!(decide(&set, json!({"a": 1, "b": list})).unwrap().allow, "{body} {list}");
        }
    }
    let set =
        rules("default decision := false\ndecision if s == 3\ns := 0 if input.roles[0] == input.x else := 3");
    assert_eq!(set.engine(), &EngineKind::Rvm);
}
