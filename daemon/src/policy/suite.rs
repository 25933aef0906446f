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

use super::{LoadError, LoadOptions, builtins, depth, files::Files, hazards, load, replay, stack};

/// Longest time for one test.
pub(super) const TEST_TIME: Duration = Duration::from_secs(30);
const TEST_LIMIT: ExecutionTimerConfig =
    ExecutionTimerConfig { limit: TEST_TIME, check_interval: NonZeroU32::new(64).unwrap() };

/// Before the name of a test that is not to be run yet.
const TODO: &str = "todo_";

/// How a test ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The rule is true.
    Passed,
    /// The rule is undefined, false or anything else.
    Failed,
    /// The evaluation failed.
    Errored(String),
    /// It was not run: its name begins with `todo_`, as OPA has it.
    Skipped,
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
    /// Whether every test passed that is to be run.
    pub fn passed(&self) -> bool {
        self.failures().next().is_none()
    }

    /// The tests that did not pass.
    pub fn failures(&self) -> impl Iterator<Item = &TestCase> {
        self.cases.iter().filter(|c| !matches!(c.outcome, Outcome::Passed | Outcome::Skipped))
    }

    /// How many were not to be run.
    pub fn skipped(&self) -> usize {
        self.cases.iter().filter(|c| c.outcome == Outcome::Skipped).count()
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

/// Runs the tests of the set in `dirs` that `wanted` takes by package and name, without loading the set; and tells
/// which lines of its modules they reached, where that is asked for.
pub fn run_tests(
    dirs: &[PathBuf],
    options: &LoadOptions,
    cover: bool,
    wanted: impl Fn(&str) -> bool + Send,
) -> Result<(TestReport, Vec<Coverage>), LoadError> {
    stack::roomy(|| {
        let run = run(&Files::collect(dirs, options)?, options, cover, wanted)?;
        Ok((run.report, run.coverage))
    })
}

/// Which lines of a file were evaluated.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Coverage {
    /// The file.
    pub file: String,
    /// Lines that were evaluated.
    pub covered: Vec<u32>,
    /// Lines that could have been and were not.
    pub not_covered: Vec<u32>,
}

/// A run of tests.
#[derive(Default)]
pub(super) struct Run {
    pub report: TestReport,
    /// What the tests put in place of input and data.
    pub seen: Vec<replay::Case>,
    /// Of the modules, where it was asked for.
    pub coverage: Vec<Coverage>,
}

pub(super) fn run(
    files: &Files,
    options: &LoadOptions,
    cover: bool,
    wanted: impl Fn(&str) -> bool,
) -> Result<Run, LoadError> {
    let mut report = TestReport::default();
    if files.tests.is_empty() {
        return Ok(Run::default());
    }
    // Nothing of a run that failed half way.
    replay::noted();
    let strict = options.strict_builtin_errors;
    let mut engine = load::engine(files, options, true)?;
    hazards::check_packages(engine.get_modules())?;
    depth::check(engine.get_modules())?;
    engine.set_execution_timer_config(TEST_LIMIT);
    engine.set_strict_builtin_errors(strict);
    engine.set_enable_coverage(cover);
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
            if let Some(name) = cases_name(rule) {
                if name.starts_with(TODO) {
                    let (file, package) = (file.clone(), package.clone());
                    let outcome = Outcome::Skipped;
                    report.cases.push(TestCase { file, package, name, outcome, duration: Duration::ZERO });
                    continue;
                }
                let outcome = Outcome::Errored(
                    "it is a test with cases, which are not told apart here: write a rule for each"
                        .to_owned(),
                );
                let (file, package) = (file.clone(), package.clone());
                report.cases.push(TestCase { file, package, name, outcome, duration: Duration::ZERO });
                continue;
            }
            let Some(name) = test_name(rule) else { continue };
            let case = (file.clone(), package.clone(), name);
            if wanted(&format!("{}.{}", case.1, case.2)) && !found.contains(&case) {
                found.push(case);
            }
        }
    }
    for (file, package, name) in found {
        let begun = Instant::now();
        let outcome = if name.starts_with(TODO) {
            Outcome::Skipped
        } else {
            run_one(&mut engine, strict, format!("{package}.{name}"))
        };
        report.cases.push(TestCase { file, package, name, outcome, duration: begun.elapsed() });
    }
    let coverage = if cover { coverage(&engine, in_test_file)? } else { Vec::new() };
    Ok(Run { report, seen: replay::noted(), coverage })
}

fn coverage(engine: &Engine, in_test_file: impl Fn(&str) -> bool) -> Result<Vec<Coverage>, LoadError> {
    let report = engine.get_coverage_report().map_err(|e| LoadError::Compile(e.to_string()))?;
    let modules = report.files.into_iter().filter(|f| !in_test_file(&f.path));
    let lines = |set: std::collections::BTreeSet<u32>| set.into_iter().collect();
    Ok(modules
        .map(|f| Coverage { file: f.path, covered: lines(f.covered), not_covered: lines(f.not_covered) })
        .collect())
}

/// The rule's name where it is a test.
fn test_name(rule: &Rule) -> Option<String> {
    let Rule::Spec { head: RuleHead::Compr { refr, .. }, .. } = rule else { return None };
    let Expr::Var { span, .. } = refr.as_ref() else { return None };
    Some(span.text()).filter(|name| is_test(name)).map(str::to_owned)
}

/// The rule's name where it is a test whose cases OPA tells apart (`test_x[case] if …`), or a set of that name.
fn cases_name(rule: &Rule) -> Option<String> {
    let Rule::Spec { head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. }, .. } = rule else {
        return None;
    };
    let name = refr.span().text().split('[').next().unwrap_or_default();
    let is_plain = test_name(rule).is_some();
    (is_test(name) && !is_plain).then(|| name.to_owned())
}

fn is_test(name: &str) -> bool {
    name.strip_prefix(TODO).unwrap_or(name).starts_with("test_")
}

fn run_one(engine: &mut Engine, strict: bool, path: String) -> Outcome {
    builtins::begin(strict);
    let done = catch_unwind(AssertUnwindSafe(|| engine.eval_rule(path)));
    if let Some(why) = builtins::fatal() {
        return Outcome::Errored(why);
    }
    match done {
        Ok(Ok(Value::Bool(true))) => Outcome::Passed,
        Ok(Ok(_)) => Outcome::Failed,
        Ok(Err(e)) => Outcome::Errored(load::located(&e.to_string()).to_string()),
        Err(_) => Outcome::Errored("the evaluation panicked".into()),
    }
}
