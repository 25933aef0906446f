//! Loading a policy set: read, parse, check, compile, test. Any fault refuses the whole.

use std::{
    collections::BTreeSet,
    num::{NonZeroU32, NonZeroUsize},
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use regorus::{
    CompiledPolicy, Engine, PolicyLengthConfig, Value,
    languages::rego::compiler::Compiler,
    rvm::program::Program,
    unstable::{Module, Ref},
};

use super::{
    EngineKind, LoadError, PolicySet, builtins, depth,
    files::{self, File, Files},
    fold, functions, hazards, machine,
    reads::{self, Reads},
    replay, rewrite,
    set::{Cause, Limits, Tested},
    slim, stack, suite, yaml,
};

/// What a module may measure: certificates in a policy make long lines. The set as a whole has limits of its own.
pub(super) const LENGTHS: PolicyLengthConfig = PolicyLengthConfig {
    max_col: NonZeroU32::new(1 << 16).unwrap(),
    max_file_bytes: NonZeroUsize::new(16 << 20).unwrap(),
    max_lines: NonZeroUsize::new(200_000).unwrap(),
};

/// How a set is loaded and how far its evaluations may go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoadOptions {
    /// Longest time for one evaluation.
    pub time_limit: Duration,
    /// Most RVM instructions for one evaluation.
    pub max_instructions: usize,
    /// Whether a builtin that fails (`to_number("x")`) fails the decision, which then denies. OPA makes it
    /// undefined instead, which can switch a denying rule off. The RVM knows OPA's way alone, so strict
    /// sets run on the interpreter.
    pub strict_builtin_errors: bool,
    /// Whether modules are read as Rego v0, but for those that `import rego.v1`.
    pub rego_v0: bool,
    /// Whether `http.send` may be called. Nothing is sent by this alone: see [`super::asking`].
    pub http_send: bool,
    /// Most files in a set.
    pub max_files: usize,
    /// Most bytes in a set.
    pub max_bytes: u64,
    /// Whether the set must pass its own tests.
    pub run_tests: bool,
    /// Documents of the host, which stand in `data` beside those of the files.
    pub documents: Option<serde_json::Value>,
}

impl Default for LoadOptions {
    fn default() -> Self {
        Self {
            time_limit: Duration::from_millis(50),
            max_instructions: 1_000_000,
            strict_builtin_errors: false,
            rego_v0: false,
            http_send: false,
            max_files: 1000,
            max_bytes: 16 << 20,
            run_tests: true,
            documents: None,
        }
    }
}

/// Loads the set in `dirs` whose answer is the rule `decision`, such as `portcullis/decision`.
///
/// Modules are `*.rego` files at any depth; `data.json` and `data.yaml` stand in `data` under their
/// directory's path, as in OPA; `*_test.rego` files are the set's own tests.
pub fn load(dirs: &[PathBuf], decision: &str, options: &LoadOptions) -> Result<PolicySet, LoadError> {
    stack::roomy(|| load_here(dirs, decision, options))
}

fn load_here(dirs: &[PathBuf], decision: &str, options: &LoadOptions) -> Result<PolicySet, LoadError> {
    let path = entrypoint(decision)?;
    let files = Files::collect(dirs, options)?;
    let hash = files.hash(decision);
    let mut stamp = files::stamp(&hash, options.documents.as_ref());
    if options.rego_v0 {
        // The same files mean another thing.
        stamp.push_str("-v0");
    }
    let mut engine = engine(&files, options, false)?;
    engine.set_strict_builtin_errors(options.strict_builtin_errors);
    let data = engine.get_data();
    let compiled = compile(&mut engine, &path, decision)?;
    let asks = vetted(&compiled, &path, options)?;
    for rule in compiled.get_rules().keys() {
        if overlaps(&data, rule) {
            let message = format!("the rule `{rule}` and a data file give the same path; move one of them");
            return Err(LoadError::Compile(message));
        }
    }
    let mut tested = Tested { required: options.run_tests, ..Tested::default() };
    let mut cases = Vec::new();
    if options.run_tests {
        let run = suite::run(&files, options, false, |_| true)?;
        if !run.report.passed() {
            return Err(LoadError::Tests(run.report));
        }
        tested.skipped = run.report.skipped();
        tested.tests = run.report.cases.len() - tested.skipped;
        cases = run.seen;
    }
    let limits = Limits {
        time: options.time_limit,
        instructions: options.max_instructions,
        strict: options.strict_builtin_errors,
    };
    let rules: Vec<&str> = compiled.get_rules().keys().map(AsRef::as_ref).collect();
    // Tests have more time than decisions: a slow machine must not make the engines differ.
    let patient = Limits { time: suite::TEST_TIME, ..limits };
    let agrees = |program: &Arc<Program>, cases: &[replay::Case]| {
        replay::compare(&engine, program, &path, &data, &rules, cases, patient)
    };
    let mut left_out = 0;
    let program = suits_the_machine(&compiled, options).and_then(|()| {
        let own = sources(&compiled);
        let program = to_program(&own, &path, &data).map_err(|why| (Cause::Uncompiled, why))?;
        tested.replayed = agrees(&program, &cases).map_err(|reason| (Cause::Disagrees, reason))?;
        // With other documents than the set's own, other bodies would be left.
        cases.retain(replay::Case::has_own_data);
        let folded = contained(|| fold::folded(&own, &data, &rules)).and_then(|folded| {
            let folded = folded?;
            if folded.left_out == 0 {
                return Ok(None);
            }
            let program = to_program(&folded.modules, &path, &data)?;
            agrees(&program, &cases)?;
            Ok(Some((program, folded.left_out)))
        });
        Ok(match folded {
            Ok(Some((folded, bodies))) => {
                left_out = bodies;
                folded
            }
            Ok(None) => program,
            Err(why) => {
                tracing::warn!(
                    why,
                    "what the documents switch off in a policy set is evaluated all the same"
                );
                program
            }
        })
    });
    let (program, kind) = match program {
        Ok(program) => (Some(program), EngineKind::Rvm),
        Err((cause, reason)) => (None, EngineKind::Interpreter { cause, reason }),
    };
    let reads = contained(|| reads::analyse(compiled.get_modules(), &path)).unwrap_or_else(Reads::everything);
    Ok(PolicySet::new(
        engine,
        program,
        kind,
        path,
        data,
        limits,
        hash,
        stamp,
        files.modules.len(),
        tested,
        reads,
        asks,
    )
    .leaving_out(left_out))
}

/// Refuses modules that neither engine reads as OPA does. Whether they ask servers.
fn vetted(compiled: &CompiledPolicy, path: &str, options: &LoadOptions) -> Result<bool, LoadError> {
    hazards::check_packages(compiled.get_modules())?;
    depth::check(compiled.get_modules())?;
    let mut asks = false;
    for module in compiled.get_modules() {
        let file = module.package.span.source.get_path();
        let tree = hazards::tree_of(module)?;
        hazards::check_arity(file, module, &tree, |path| compiled.get_rules().contains_key(path))?;
        hazards::check_mocks(file, &tree, |path| {
            let definitions = compiled.get_rules().get(path);
            definitions.is_some_and(|all| hazards::is_function(all.iter().map(AsRef::as_ref)))
        })?;
        hazards::check_patterns(file, &tree)?;
        hazards::check_locals(file, module, &tree, |path| compiled.get_rules().contains_key(path))?;
        functions::check(file, module, &tree, |path| compiled.get_rules().contains_key(path))?;
        if let Some((rule, what)) =
            machine::unsound(module, compiled.get_modules().iter().map(AsRef::as_ref), path)
        {
            let message = format!("{what}, and OPA goes on then: bind it to a variable in the body first");
            return Err(hazards::at_span(rule.span(), message));
        }
        asks |= hazards::asks(file, &tree, options.http_send)?;
    }
    Ok(asks)
}

/// The rule's path in `data`.
fn entrypoint(decision: &str) -> Result<String, LoadError> {
    let segments: Vec<_> = decision.split('/').collect();
    let identifier = |s: &&str| {
        s.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
            && s.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    };
    if segments.len() < 2 || !segments.iter().all(identifier) {
        let message = "is not a path of a package and a rule, such as `portcullis/decision`".into();
        return Err(LoadError::Decision { path: decision.into(), message });
    }
    Ok(format!("data.{}", segments.join(".")))
}

/// An engine with a set's modules and data, and its tests where asked.
pub(super) fn engine(files: &Files, options: &LoadOptions, with_tests: bool) -> Result<Engine, LoadError> {
    let documents = options.documents.as_ref();
    let mut engine = Engine::new();
    engine.set_rego_v0(options.rego_v0);
    engine.set_policy_length_config(LENGTHS);
    builtins::extend(&mut engine).map_err(|e| LoadError::Compile(e.to_string()))?;
    if with_tests {
        replay::listen(&mut engine).map_err(|e| LoadError::Compile(e.to_string()))?;
    }
    for file in &files.data {
        let data = nested(file)?;
        engine.add_data(data).map_err(|e| bad_data(file, &e))?;
    }
    if let Some(documents) = documents {
        let told = |e: &dyn std::fmt::Display| {
            LoadError::Compile(format!("a data file gives what the daemon itself says of its host: {e}"))
        };
        engine.add_data(Value::from(documents.clone())).map_err(|e| told(&e))?;
    }
    let mut add = |file: &File, text: String| {
        let added = contained(|| engine.add_policy(file.path.display().to_string(), text));
        added.and_then(|r| r.map_err(|e| e.to_string())).map_err(|e| located(&e))
    };
    let names = rule_names(files);
    for file in &files.modules {
        for name in rewrite::OWN_NAMES {
            if file.text.contains(name) {
                let message = format!(
                    "{}: a name begins with `{name}`, which is kept for this daemon's own",
                    file.path.display()
                );
                return Err(LoadError::Compile(message));
            }
        }
        add(file, rewrite::mended(&file.path.to_string_lossy(), &file.text, &names))?;
    }
    let functions = if with_tests { functions(files) } else { BTreeSet::new() };
    for (n, file) in files.tests.iter().enumerate().filter(|_| with_tests) {
        let path = file.path.to_string_lossy();
        let mended = rewrite::mended(&path, &file.text, &names);
        add(file, rewrite::shown(n, &path, &mended, |path| functions.contains(path)))?;
    }
    Ok(engine)
}

/// Paths of a set's functions, those of its tests too.
fn functions(files: &Files) -> BTreeSet<String> {
    let mut paths = BTreeSet::new();
    for file in files.modules.iter().chain(&files.tests) {
        let path = file.path.to_string_lossy();
        let parsed = machine::parse_either(&path, &file.text);
        // Of one that does not parse the engine tells.
        let Ok(module) = parsed else { continue };
        let package = module.package.refr.span().text();
        let functions = module.policy.iter().filter(|rule| hazards::is_function([rule.as_ref()]));
        paths.extend(functions.map(|f| format!("data.{package}.{}", reads::names_of_rule(f).join("."))));
    }
    paths
}

/// The names of rules of a set, of its tests too.
fn rule_names(files: &Files) -> rewrite::RuleNames {
    let paths: Vec<_> =
        files.modules.iter().chain(&files.tests).map(|f| (f.path.to_string_lossy(), &f.text)).collect();
    rewrite::rule_names(paths.iter().map(|(path, text)| (path.as_ref(), text.as_str())))
}

/// Reads a data file into an object under its directory's path.
fn nested(file: &File) -> Result<Value, LoadError> {
    let is_json = file.path.extension().is_some_and(|e| e == "json");
    let parsed = if is_json {
        Value::from_json_str(&file.text).map_err(|e| e.to_string())
    } else {
        yaml::read(&file.text)
    };
    let mut value = parsed.map_err(|e| bad_data(file, &e))?;
    if !matches!(value, Value::Object(_)) {
        return Err(bad_data(file, &"a data file holds one object"));
    }
    let dir = file.relative.parent().into_iter().flat_map(|p| p.components().rev());
    for component in dir {
        let name = component.as_os_str().to_str().ok_or_else(|| bad_data(file, &"its path is not UTF-8"))?;
        value = Value::from(std::collections::BTreeMap::from([(Value::from(name), value)]));
    }
    Ok(value)
}

fn bad_data(file: &File, message: &dyn std::fmt::Display) -> LoadError {
    LoadError::Data { path: file.path.clone(), message: message.to_string() }
}

fn compile(engine: &mut Engine, path: &str, decision: &str) -> Result<CompiledPolicy, LoadError> {
    let rule = path.into();
    let compiled = contained(|| engine.compile_with_entrypoint(&rule)).map_err(LoadError::Compile)?;
    compiled.map_err(|e| match e.to_string() {
        m if m.contains("not a valid rule path") => LoadError::Decision {
            path: decision.into(),
            message: "is not a rule of the policy set; check `policy.decision` and the package's name".into(),
        },
        m => located(&m),
    })
}

/// Whether a base document stands at a rule's path, or in its way: which of them counts is nobody's guess.
fn overlaps(data: &Value, rule: &str) -> bool {
    let mut here = data;
    for segment in rule.split('.').skip(1) {
        let Value::Object(members) = here else { return true };
        match members.get(&Value::from(segment)) {
            Some(value) => here = value,
            None => return false,
        }
    }
    true
}

/// A set's modules with their texts, as the engine has them: with what was mended.
fn sources(compiled: &CompiledPolicy) -> Vec<(String, String)> {
    let source = |module: &Ref<Module>| {
        let source = &module.package.span.source;
        (source.get_path().clone(), source.get_contents().clone())
    };
    compiled.get_modules().iter().map(source).collect()
}

/// Whether the RVM evaluates a set as the interpreter does; the error says why the interpreter must do.
fn suits_the_machine(compiled: &CompiledPolicy, options: &LoadOptions) -> Result<(), (Cause, String)> {
    if options.strict_builtin_errors {
        // The machine takes any error in a rule's body for an undefined body.
        return Err((Cause::Strict, "strict builtin errors are asked for".to_owned()));
    }
    if options.rego_v0 {
        // What the RVM's copies mend is known of v1 alone.
        return Err((Cause::V0, "it is read as Rego v0 (`policy.rego_v0`)".to_owned()));
    }
    if let Some(what) = hazards::contradictable(compiled) {
        let reason = format!("{what} could contradict each other, which only the interpreter notices");
        return Err((Cause::Contradictable, reason));
    }
    if let Some(what) = hazards::long_heads(compiled) {
        return Err((Cause::Heads, format!("{what} gives the machine other documents than OPA")));
    }
    if let Some(what) = hazards::iterating_else(compiled) {
        return Err((Cause::Uncompiled, format!("{what}, which the machine never comes to")));
    }
    if let Some(what) = hazards::shadows(compiled) {
        return Err((Cause::Shadowed, format!("{what}, which the engines read differently")));
    }
    Ok(())
}

/// Compiles modules, each with its path and text, to the RVM.
fn to_program(modules: &[(String, String)], path: &str, data: &Value) -> Result<Arc<Program>, String> {
    let mut engine = Engine::new();
    engine.set_policy_length_config(LENGTHS);
    builtins::extend(&mut engine).map_err(|e| e.to_string())?;
    engine.add_data(data.clone()).map_err(|e| e.to_string())?;
    for ((path, _), copy) in modules.iter().zip(machine::copies(modules)?) {
        contained(|| engine.add_policy(path.clone(), copy))?
            .map_err(|e| located(&e.to_string()).to_string())?;
    }
    let rule = path.into();
    let compiled = contained(|| engine.compile_with_entrypoint(&rule))?;
    let compiled = compiled.map_err(|e| located(&e.to_string()).to_string())?;
    let declared = builtins::declared();
    let program = contained(|| Compiler::compile_from_policy_with_host_await(&compiled, &[path], &declared))?;
    let program = program.map_err(|e| located(&e.to_string()).to_string())?;
    program.check_rule_data_conflicts(data).map_err(|e| e.to_string())?;
    builtins::link(program).map(slim::slim)
}

/// Runs a step of regorus; a panic in it is an error like any other.
fn contained<T>(step: impl FnOnce() -> T) -> Result<T, String> {
    catch_unwind(AssertUnwindSafe(step)).map_err(|_| "the compiler panicked".to_owned())
}

/// Takes `--> file:line:column` and the message out of what regorus says over several lines.
pub(super) fn located(text: &str) -> LoadError {
    let place = text.lines().find_map(|l| {
        let mut parts = l.strip_prefix("--> ")?.rsplitn(3, ':');
        let (column, line) = (parts.next()?.parse().ok()?, parts.next()?.parse().ok()?);
        Some((parts.next()?.to_owned(), line, column))
    });
    let message =
        text.lines().rev().find_map(|l| l.strip_prefix("error: ")).unwrap_or(text).trim().to_owned();
    match place {
        Some((file, line, column)) => LoadError::Rego { file, line, column, message },
        None => LoadError::Compile(message),
    }
}
