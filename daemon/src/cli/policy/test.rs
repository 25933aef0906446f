//! `portcullis policy test`

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::Context as _;
use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::source::Source;
use crate::{
    cli::{FAILED, OK, Outcome, print, print_json},
    policy::{self, Coverage, Outcome as Ended, TestCase, TestReport},
};

/// Run the set's own tests: rules named test_… in *_test.rego files
///
/// Exit code 1 if one does not pass. Such a set is not taken by the daemon.
///
/// Example: portcullis policy test -v --coverage policies
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print each test, not only those that do not pass
    #[arg(short, long)]
    verbose: bool,
    /// Run only tests whose package and name contain this
    #[arg(short, long, value_name = "TEXT")]
    run: Option<String>,
    /// Tell which lines of the policies the tests reach
    #[arg(short, long)]
    coverage: bool,
    /// Fail if they reach less than this share, in per cent; implies --coverage
    #[arg(long, value_name = "PERCENT")]
    threshold: Option<f64>,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write a JUnit report to this file too
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
}

impl Args {
    pub fn run(self) -> Outcome {
        let chosen = self.source.choose()?;
        let only = self.run.as_deref().unwrap_or_default();
        let covered = self.coverage || self.threshold.is_some();
        let (report, coverage) =
            policy::run_tests(&chosen.dirs, &chosen.options, covered, |name| name.contains(only))?;
        if let Some(path) = &self.junit {
            fs::write(path, junit(&report)).with_context(|| format!("cannot write {}", path.display()))?;
        }
        let share = share(&coverage);
        if self.json {
            print_json(&as_json(&report, covered.then_some((&coverage[..], share))))?;
        } else {
            print(&human(&report, self.verbose))?;
            if covered {
                print(&lines(&coverage, share))?;
            }
        }
        let reached = self.threshold.is_none_or(|least| share >= least);
        if !reached && !self.json {
            print("the tests reach less than --threshold asks for")?;
        }
        Ok(if report.passed() && reached { OK } else { FAILED })
    }
}

/// Per cent of the lines that can be reached.
fn share(coverage: &[Coverage]) -> f64 {
    let count = |f: fn(&Coverage) -> usize| coverage.iter().map(f).sum::<usize>();
    let (covered, not) = (count(|c| c.covered.len()), count(|c| c.not_covered.len()));
    #[allow(clippy::cast_precision_loss, reason = "numbers of lines")]
    let share = if covered + not == 0 { 100.0 } else { covered as f64 * 100.0 / (covered + not) as f64 };
    share
}

fn full_name(case: &TestCase) -> String {
    format!("{}.{}", case.package, case.name)
}

const fn word(outcome: &Ended) -> &'static str {
    match outcome {
        Ended::Passed => "PASS",
        Ended::Failed => "FAIL",
        Ended::Errored(_) => "ERROR",
        Ended::Skipped => "SKIPPED",
    }
}

fn human(report: &TestReport, verbose: bool) -> String {
    let mut text = String::new();
    let mut file = "";
    for case in report.cases.iter().filter(|c| verbose || c.outcome != Ended::Passed) {
        if case.file != file {
            file = &case.file;
            let _ = writeln!(text, "{file}:");
        }
        let _ = writeln!(text, "{}: {} ({:?})", full_name(case), word(&case.outcome), case.duration);
        if let Ended::Errored(why) = &case.outcome {
            let _ = writeln!(text, "  {why}");
        }
    }
    let count = |word_: &str| report.cases.iter().filter(|c| word(&c.outcome) == word_).count();
    if !text.is_empty() {
        text.push_str("--------------------------------------------------------------------------------\n");
    }
    let all = report.cases.len();
    let _ = write!(text, "PASS: {}/{all}", count("PASS"));
    for other in ["FAIL", "ERROR", "SKIPPED"] {
        if count(other) > 0 {
            let _ = write!(text, "\n{other}: {}/{all}", count(other));
        }
    }
    text
}

fn lines(coverage: &[Coverage], share: f64) -> String {
    let mut text = String::new();
    for c in coverage {
        let missed: Vec<String> = c.not_covered.iter().map(ToString::to_string).collect();
        let missed = if missed.is_empty() { "all".to_owned() } else { format!("not {}", missed.join(", ")) };
        let _ = writeln!(text, "{}: {} lines reached, {missed}", c.file, c.covered.len());
    }
    let _ = write!(text, "COVERAGE: {share:.1} %");
    text
}

fn as_json(report: &TestReport, coverage: Option<(&[Coverage], f64)>) -> Value {
    let cases: Vec<Value> = report
        .cases
        .iter()
        .map(|c| {
            let mut case = json!({
                "location": {"file": c.file},
                "package": c.package,
                "name": c.name,
                "duration": u64::try_from(c.duration.as_nanos()).unwrap_or(u64::MAX),
            });
            match &c.outcome {
                Ended::Passed => {}
                Ended::Failed => case["fail"] = true.into(),
                Ended::Errored(why) => case["error"] = json!({"message": why}),
                Ended::Skipped => case["skip"] = true.into(),
            }
            case
        })
        .collect();
    match coverage {
        None => cases.into(),
        Some((files, share)) => json!({"tests": cases, "coverage": share, "files": files}),
    }
}

fn junit(report: &TestReport) -> String {
    let mut packages: Vec<&str> = report.cases.iter().map(|c| c.package.as_str()).collect();
    packages.dedup();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n");
    for package in packages {
        let cases: Vec<&TestCase> = report.cases.iter().filter(|c| c.package == package).collect();
        let count = |word_: &str| cases.iter().filter(|c| word(&c.outcome) == word_).count();
        let time: f64 = cases.iter().map(|c| c.duration.as_secs_f64()).sum();
        let (failures, errors, skipped) = (count("FAIL"), count("ERROR"), count("SKIPPED"));
        let _ = writeln!(
            text,
            "  <testsuite name=\"{}\" tests=\"{}\" failures=\"{failures}\" errors=\"{errors}\" skipped=\"{skipped}\" time=\"{time:.6}\">",
            escaped(package),
            cases.len()
        );
        for case in cases {
            let (name, class) = (escaped(&case.name), escaped(&case.package));
            let head = format!(
                "    <testcase name=\"{name}\" classname=\"{class}\" time=\"{:.6}\"",
                case.duration.as_secs_f64()
            );
            let _ = match &case.outcome {
                Ended::Passed => writeln!(text, "{head}/>"),
                Ended::Skipped => writeln!(text, "{head}><skipped/></testcase>"),
                Ended::Failed => writeln!(text, "{head}><failure message=\"not true\"/></testcase>"),
                Ended::Errored(why) => {
                    writeln!(text, "{head}><error message=\"{}\"/></testcase>", escaped(why))
                }
            };
        }
        text.push_str("  </testsuite>\n");
    }
    text.push_str("</testsuites>\n");
    text
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\n' | '\t' | '\r' => out.push(' '),
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn report() -> TestReport {
        let case = |name: &str, outcome| TestCase {
            file: "p_test.rego".into(),
            package: "data.p_test".into(),
            name: name.into(),
            outcome,
            duration: Duration::from_micros(1500),
        };
        let broken = Ended::Errored("p.rego:3:1: a \"rule\" & <more>".into());
        TestReport {
            cases: vec![
                case("test_a", Ended::Passed),
                case("test_b", Ended::Failed),
                case("test_c", broken),
                case("todo_test_d", Ended::Skipped),
            ],
        }
    }

    #[test]
    fn reports_read_as_they_should() {
        insta::assert_snapshot!("verbose", human(&report(), true));
        insta::assert_snapshot!("short", human(&report(), false));
        insta::assert_snapshot!("junit", junit(&report()));
        let coverage = [Coverage { file: "p.rego".into(), covered: vec![3, 4, 5], not_covered: vec![7] }];
        insta::assert_snapshot!("coverage", lines(&coverage, share(&coverage)));
        insta::assert_snapshot!("json", serde_json::to_string_pretty(&as_json(&report(), None)).unwrap());
    }
}
