//! Running a policy set's own tests: rules named `test_*` in `*_test.rego` files, on the interpreter.

use std::{
    fmt::Write,
    num::NonZeroU32,
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
    time::{Duration, Instant},
};

use regorus::{
    Engine, Value,
    unstable::{Expr, Rule, RuleHead},
    utils::limits::ExecutionTimerConfig,
};

use super::{LoadError, LoadOptions, files::Files, load};

/// Longest time for one test.
const TEST_LIMIT: ExecutionTimerConfig =
    ExecutionTimerConfig { limit: Duration::from_secs(5), check_interval: NonZeroU32::new(64).unwrap() };

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is true.
    Passed,
    /// The rule is undefined, false or anything else.
    Failed,
    /// The evaluation failed.
    Errored(String),
}

/// One test and its outcome.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestCase {
    /// The file that holds it.
    pub file: String,
    /// Its package, such as `data.portcullis.scopes_test`.
    pub package: String,
    /// Its rule's name.
    pub name: String,
    /// How it ended.
    pub outcome: Outcome,
    /// How long it took.
    pub duration: Duration,
}

/// All tests of a set.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TestReport {
    /// In order of file and place.
    pub cases: Vec<TestCase>,
}

impl TestReport {
    /// Whether every test passed.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The tests that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &TestCase> {
        self.cases.iter().filter(|c| c.outcome != Outcome::Passed)
    }

    /// The tests that did not pass, by file and name, on one line.
    pub fn summary(&self) -> String {
        let mut out = String::new();
        for case in self.failures() {
            let separator = if out.is_empty() { "" } else { "; " };
            let _ = write!(out, "{separator}`{}` in {}", case.name, case.file);
            if let Outcome::Errored(message) = &case.outcome {
                let _ = write!(out, " ({message})");
            }
        }
        out
    }
}

/// Runs the tests of the set in `dirs`, without loading the set.
pub fn test_set(dirs: &[PathBuf], options: &LoadOptions) -> Result<TestReport, LoadError> {
    run(&Files::collect(dirs, options)?, options.strict_builtin_errors)
}

pub(super) fn run(files: &Files, strict: bool) -> Result<TestReport, LoadError> {
    let mut report = TestReport::default();
    if files.tests.is_empty() {
        return Ok(report);
    }
    let mut engine = load::engine(files, true)?;
    engine.set_execution_timer_config(TEST_LIMIT);
    engine.set_strict_builtin_errors(strict);
    let in_test_file = |path: &str| files.tests.iter().any(|f| f.path.as_os_str() == path);
    let mut found: Vec<(String, String, String)> = Vec::new();
    for module in engine.get_modules() {
        let file = module.package.span.source.get_path();
        if !in_test_file(file) {
            continue;
        }
        // The reference as written behind `package`.
        let package = format!("data.{}", module.package.refr.span().text());
        for rule in &module.policy {
            let Some(name) = test_name(rule) else { continue };
            let case = (file.clone(), package.clone(), name);
            if !found.contains(&case) {
                found.push(case);
            }
        }
    }
    for (file, package, name) in found {
        let begun = Instant::now();
        let outcome = run_one(&mut engine, format!("{package}.{name}"));
        report.cases.push(TestCase { file, package, name, outcome, duration: begun.elapsed() });
    }
    Ok(report)
}

/// The rule's name where it is a test.
fn test_name(rule: &Rule) -> Option<String> {
    let Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } = rule else { return None };
    let Expr::Var { span, .. } = refr.as_ref() else { return None };
    Some(span.text()).filter(|name| name.starts_with("test_")).map(str::to_owned)
}

fn run_one(engine: &mut Engine, path: String) -> Outcome {
    match catch_unwind(AssertUnwindSafe(|| engine.eval_rule(path))) {
        Ok(Ok(Value::Bool(true))) => Outcome::Passed,
        Ok(Ok(_)) => Outcome::Failed,
        Ok(Err(e)) => Outcome::Errored(load::located(&e.to_string()).to_string()),
        Err(_) => Outcome::Errored("the evaluation panicked".into()),
    }
}
