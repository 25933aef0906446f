//! Both engines, both call forms, limits, and OPA's own cases where they are there.

mod bounds;
mod opa;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use serde_json::Value as Json;

use super::{
    super::{load::LENGTHS, rewrite},
    *,
};
use crate::policy::{EngineKind, LoadOptions, PolicyError, load};

fn load_rules(body: &str) -> crate::policy::PolicySet {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{body}")).unwrap();
    let options = LoadOptions { time_limit: std::time::Duration::from_mins(1), ..LoadOptions::default() };
    load(&[dir.path().into()], "p/decision", &options).unwrap_or_else(|e| panic!("{body}: {e}"))
}

#[test]
fn names_are_unique() {
    let names: BTreeSet<_> = ALL.iter().map(|b| b.name).collect();
    assert_eq!(names.len(), ALL.len());
}

#[test]
fn both_forms_run_on_the_machine_and_are_undefined_where_they_fail() {
    for call in [
        "crypto.sha256(input.x) == hash",
        "crypto.sha256(input.x, hash)",
        "crypto.sha256(input.x) = h; h == hash",
    ] {
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let set =
            load_rules(&format!("default decision := false\nhash := \"{hash}\"\ndecision if {{ {call} }}"));
        assert_eq!(set.engine(), &EngineKind::Rvm, "{call}");
        for (x, expected) in
            [(serde_json::json!("abc"), true), ("abd".into(), false), (1.into(), false), (Json::Null, false)]
        {
            let decision = set.eval_decision(&serde_json::json!({"x": x}).into()).unwrap();
            assert_eq!(decision.allow, expected, "{call} {x}");
        }
        assert!(!set.eval_decision(&serde_json::json!({}).into()).unwrap().allow);
    }
    let set = load_rules("decision if not crypto.sha256(input.x)");
    assert!(set.eval_decision(&serde_json::json!({"x": 1}).into()).unwrap().allow, "a failure is undefined");
}

#[test]
fn a_limit_fails_the_decision_even_behind_a_not() {
    for body in [
        "decision if not numbers.range(1, input.n)",
        "decision if not net.cidr_expand(input.net)",
        "decision if not numbers.range_step(1, input.n, 1)",
        "decision if not numbers.range(1, input.n)\ndecision if input.x with input as {}",
    ] {
        let set = load_rules(body);
        let input = serde_json::json!({"n": 1_000_000_000_000_u64, "net": "10.0.0.0/8"});
        let error = set.eval_decision(&input.into()).unwrap_err();
        assert!(matches!(error, PolicyError::Failed(_)), "{body} on {:?}: {error:?}", set.engine());
    }
}

#[test]
fn a_wrong_number_of_arguments_and_a_function_of_the_same_name_are_seen_at_load() {
    let dir = tempfile::tempdir().unwrap();
    let load_text = |text: &str| {
        fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{text}")).unwrap();
        load(&[dir.path().into()], "p/decision", &LoadOptions::default())
    };
    for call in ["io.jwt.decode()", "io.jwt.decode(input.a, input.b, input.c)", "crypto.hmac.equal(input.a)"]
    {
        let error = load_text(&format!("decision if {call}")).err().unwrap().to_string();
        assert!(error.contains("arguments") && error.contains("p.rego:3"), "{error}");
    }
    let set = load_text("decision if crypto.sha256(\"x\") == 1\ncrypto.sha256(x) := 1").unwrap();
    assert!(matches!(set.engine(), EngineKind::Interpreter { .. }));
    let error = load_text("import data.x.net\ndecision if net.cidr_is_valid(input.x)").err().unwrap();
    assert!(error.to_string().contains("there is no function `data.x.net.cidr_is_valid`"), "{error}");
}

#[test]
fn what_one_signs_the_other_verifies() {
    let set = load_rules(
        "k := {\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": input.x, \"y\": input.y, \"d\": input.d}\n\
         public := json.marshal({\"kty\": \"EC\", \"crv\": \"P-256\", \"x\": input.x, \"y\": input.y})\n\
         token := io.jwt.encode_sign({\"alg\": \"ES256\", \"typ\": \"JWT\"}, {\"sub\": \"s\"}, k)\n\
         decision if {\n io.jwt.decode_verify(token, {\"cert\": public, \"alg\": \"ES256\"}, [true, _, claims])\n claims.sub == \"s\"\n\
         io.jwt.verify_es256(token, public)\n not io.jwt.verify_es384(token, public) }",
    );
    assert_eq!(set.engine(), &EngineKind::Rvm);
    // RFC 7515, appendix A.3.
    let key = serde_json::json!({
        "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
        "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
        "d": "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI",
    });
    assert!(set.eval_decision(&key.into()).unwrap().allow);
}

/// OPA's own cases. Those it marks as an error must be undefined, and an error where builtins are strict.
#[test]
fn opas_cases_for_these_builtins_pass_on_both_engines() {
    let Some(dir) = std::env::var_os("PORTCULLIS_VECTORS").map_or_else(
        || Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors")).filter(|p| p.is_dir()),
        |dir| Some(PathBuf::from(dir)),
    ) else {
        println!("SKIPPED: no vectors; name their directory in PORTCULLIS_VECTORS");
        return;
    };
    let (mut passed, mut machine, mut failed) = (0, 0, Vec::new());
    let mut files: Vec<_> = fs::read_dir(dir.join("rego_compliance"))
        .unwrap()
        .flat_map(|d| fs::read_dir(d.unwrap().path()).unwrap().map(|f| f.unwrap().path()))
        .collect();
    files.sort();
    for file in files {
        let json: Json = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
        for case in json["cases"].as_array().unwrap() {
            let text = case["modules"].to_string();
            if text.contains("test.sleep") {
                println!("SKIPPED {}: it calls `test.sleep`, which only OPA's own tests have", case["note"]);
                continue;
            }
            match run_case(case) {
                Ok(on_machine) => {
                    passed += 1;
                    machine += usize::from(on_machine);
                }
                Err(why) => failed.push(format!("{}: {why}", case["note"])),
            }
        }
    }
    println!("{passed} cases pass, {machine} of them on both engines; {} fail", failed.len());
    for f in &failed {
        println!("{f}");
    }
    assert!(failed.is_empty());
}

/// A query is `data.<package>.<rule> = x`, or several of them. The answer says whether the machine gave it too.
fn run_case(case: &Json) -> Result<bool, String> {
    let queries = case["query"].as_str().unwrap().split("; ");
    let mut on_machine = true;
    for query in queries {
        let (rule, variable) = query.trim().split_once(" = ").ok_or(format!("another query: {query}"))?;
        on_machine &= run_query(case, rule, variable)?;
    }
    Ok(on_machine)
}

fn run_query(case: &Json, rule: &str, variable: &str) -> Result<bool, String> {
    let build = || {
        let mut engine = Engine::new();
        engine.set_policy_length_config(LENGTHS);
        extend(&mut engine).unwrap();
        if case["data"].is_object() {
            engine.add_data(case["data"].clone().into()).map_err(|e| e.to_string())?;
        }
        let modules: Vec<_> = case["modules"].as_array().unwrap().iter().filter_map(Json::as_str).collect();
        let names = rewrite::rule_names(modules.iter().map(|text| ("m.rego", *text)));
        for (i, module) in modules.into_iter().enumerate() {
            let name = format!("m{i}.rego");
            let text = rewrite::mended(&name, module, &names);
            engine.add_policy(name, text).map_err(|e| format!("does not parse: {e}"))?;
        }
        if !case["input"].is_null() {
            engine.set_input(case["input"].clone().into());
        }
        Ok::<_, String>(engine)
    };
    let expects_error = !case["want_error"].is_null() || !case["want_error_code"].is_null();
    let expected = match case["want_result"].as_array() {
        Some(list) if !list.is_empty() => Some(list[0][variable].clone()),
        _ => None,
    };
    let evaluate = |strict: bool| {
        let mut engine = build()?;
        engine.set_strict_builtin_errors(strict);
        begin(strict);
        engine.eval_rule(rule.to_owned()).map_err(|e| e.to_string())
    };
    let sorted = |v: &Value| {
        let json = serde_json::to_value(v).unwrap();
        match json {
            Json::Array(mut items) if case["sort_bindings"] == true => {
                items.sort_by_key(ToString::to_string);
                Json::Array(items)
            }
            json => json,
        }
    };
    if expects_error {
        return match (evaluate(true), evaluate(false)) {
            (Err(_), Ok(Value::Undefined) | Err(_)) => Ok(false),
            (Err(_), Ok(v)) if v.as_set().is_ok_and(|s| s.iter().next().is_none()) => Ok(false),
            (strict, lax) => Err(format!("no error: strict {strict:?}, lax {lax:?}")),
        };
    }
    let got = evaluate(false)?;
    let same = |got: &Value| match &expected {
        None => *got == Value::Undefined,
        Some(expected) => {
            let mut expected = expected.clone();
            if case["sort_bindings"] == true
                && let Some(items) = expected.as_array_mut()
            {
                items.sort_by_key(ToString::to_string);
            }
            *got != Value::Undefined && numbers(&sorted(got)) == numbers(&expected)
        }
    };
    if !same(&got) {
        return Err(format!("interpreter gives {got}, expected {expected:?}"));
    }
    let mut engine = build()?;
    let data = engine.get_data();
    let compiled =
        engine.compile_with_entrypoint(&rule.into()).map_err(|e| format!("does not compile: {e}"))?;
    let declared = declared();
    let program = regorus::languages::rego::compiler::Compiler::compile_from_policy_with_host_await(
        &compiled,
        &[rule],
        &declared,
    );
    let Ok(program) = program.map_err(|e| e.to_string()).and_then(link) else { return Ok(false) };
    let mut vm = regorus::rvm::vm::RegoVM::new();
    vm.load_program(program);
    vm.set_data(data).map_err(|e| e.to_string())?;
    vm.set_input(case["input"].clone().into());
    begin(false);
    let got = vm.execute().map_err(|e| format!("the machine fails: {e}"))?;
    if same(&got) { Ok(true) } else { Err(format!("the machine gives {got}, expected {expected:?}")) }
}

/// One and the same number may be written in several ways.
fn numbers(json: &Json) -> Json {
    match json {
        Json::Number(n) => n.as_f64().map_or(Json::Null, Json::from),
        Json::Array(items) => items.iter().map(numbers).collect(),
        Json::Object(members) => members.iter().map(|(k, v)| (k.clone(), numbers(v))).collect(),
        other => other.clone(),
    }
}
