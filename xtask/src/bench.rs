//! `cargo xtask bench`: runs the benchmarks and gathers their figures.
//!
//! Two kinds exist. Criterion benches live beside what they measure; programs of the `portcullis-tests` crate
//! need a kernel, sockets or a disk. Each program takes `--quick` and `--json FILE` and writes an array of
//! `{"name", "value", "unit", "note", "limit"?, "holds"?}`. All end in one table and one file.

mod criterion;
mod envoy;

use std::{
    fs,
    path::{Path, PathBuf},
    time::SystemTime,
};

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::{
    ebpf,
    exec::{self, AlreadySaid},
    privilege, repo,
    setup::{self, Purpose},
    test::DAEMON_ENV,
};

/// A part that is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// The kernel programs, by BPF_PROG_TEST_RUN and over veth
    Kernel,
    /// A flood of refused requests, beside nginx and Envoy; wants a quiet machine
    Flood,
    /// The decision path in process, by criterion
    Decide,
    /// The front doors under load
    Serve,
    /// From a revocation to its acknowledgement
    Revoke,
}

impl Part {
    /// The program that measures it, and whether that must be root. `None`: criterion does.
    fn program(self) -> Option<(&'static str, bool)> {
        match self {
            Self::Kernel => Some(("bench-kernel", true)),
            Self::Flood => Some(("bench-flood", true)),
            Self::Decide => None,
            Self::Serve => Some(("bench-serve", false)),
            Self::Revoke => Some(("bench-revoke", true)),
        }
    }
}

#[derive(clap::Args)]
pub struct Args {
    /// What to measure; everything if not given
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Fewer rounds of a build that is not optimized: to see that the benchmarks run, not for figures of record
    #[arg(long)]
    quick: bool,
    /// Where to write the figures [default: target/bench/results.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[Purpose::Bench])?;
    let bench =
        Bench { object: ebpf::build()?, root: repo::root()?, target: repo::target()?, quick: args.quick };
    let dir = bench.target.join("bench");
    fs::create_dir_all(&dir).with_context(|| format!("cannot make `{}`", dir.display()))?;

    let parts = if args.parts.is_empty() { Part::value_variants() } else { &args.parts };
    let targets = bench.targets()?;
    let mut results = Vec::new();
    for part in parts {
        if *part == Part::Flood {
            envoy::ensure(&dir);
        }
        results.extend(match part.program() {
            Some((program, _)) if !has(&targets, "bin", program) => not_there(program),
            Some((program, as_root)) => bench.program(program, as_root, &dir)?,
            None if !targets.iter().any(|(kind, _)| kind == "bench") => not_there("criterion benches"),
            None => bench.criterion()?,
        });
    }
    let file = args.json.clone().unwrap_or_else(|| dir.join("results.json"));
    let text = serde_json::to_string_pretty(&results).context("cannot encode the figures")?;
    fs::write(&file, text + "\n").with_context(|| format!("cannot write `{}`", file.display()))?;

    println!("\n{}", table(&results));
    println!("written to `{}`", file.display());
    if args.quick {
        println!(
            "quick figures, of a build that is not optimized: they show that the benchmarks run, not how fast it is"
        );
        return Ok(());
    }
    if results.iter().any(|row| row["holds"] == false) {
        eprintln!("error: a limit does not hold");
        return Err(AlreadySaid.into());
    }
    Ok(())
}

fn has(targets: &[(String, String)], kind: &str, name: &str) -> bool {
    targets.iter().any(|(k, n)| k == kind && n == name)
}

fn not_there(what: &str) -> Vec<Value> {
    println!("note: no {what} in the workspace yet; nothing measured");
    Vec::new()
}

struct Bench {
    root: PathBuf,
    target: PathBuf,
    object: PathBuf,
    quick: bool,
}

impl Bench {
    /// Kind and name of every target of the workspace.
    fn targets(&self) -> Result<Vec<(String, String)>> {
        let text = exec::cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&self.root)
            .read()?;
        let metadata: Value = serde_json::from_str(&text).context("cargo's metadata is not JSON")?;
        let packages = metadata["packages"].as_array().into_iter().flatten();
        Ok(packages
            .flat_map(|package| package["targets"].as_array().into_iter().flatten())
            .filter_map(|target| {
                Some((target["kind"][0].as_str()?.to_owned(), target["name"].as_str()?.to_owned()))
            })
            .collect())
    }

    fn program(&self, program: &str, as_root: bool, dir: &Path) -> Result<Vec<Value>> {
        let mut build = exec::cargo()
            .args(["build", "--package", "portcullis", "--package", "portcullis-tests"])
            .args(["--bin", "portcullis", "--bin", program])
            .env(ebpf::OBJECT_ENV, &self.object)
            .current_dir(&self.root);
        // What the tests have built does to see that a benchmark runs; all of it once more takes minutes.
        if !self.quick {
            build = build.arg("--release");
        }
        build.run()?;
        let built = self.target.join(if self.quick { "debug" } else { "release" });
        let json = dir.join(format!("{program}.json"));
        // A figure of an earlier run must not pass for one of this.
        if json.exists() {
            fs::remove_file(&json).with_context(|| format!("cannot remove `{}`", json.display()))?;
        }
        let binary = built.join(program);
        let daemon = format!("{DAEMON_ENV}={}", built.join("portcullis").display());
        let mut command = if as_root {
            privilege::root_command("env", &format!("to run `{program}`, which loads kernel programs"))?
        } else {
            exec::cmd("env")
        };
        command = command.arg(daemon).arg(binary).arg("--json").arg(&json).current_dir(&self.root);
        if self.quick {
            command = command.arg("--quick");
        }
        println!("\n== {program}");
        command.run()?;
        let text = fs::read_to_string(&json)
            .with_context(|| format!("`{program}` wrote no `{}`", json.display()))?;
        match serde_json::from_str(&text) {
            Ok(Value::Array(rows)) => Ok(rows),
            _ => bail!("`{}` is not a JSON array of figures", json.display()),
        }
    }

    fn criterion(&self) -> Result<Vec<Value>> {
        println!("\n== criterion");
        let started = SystemTime::now();
        let mut cargo = exec::cargo()
            .args(["bench", "--workspace", "--bench", "*"])
            .env(ebpf::OBJECT_ENV, &self.object)
            .current_dir(&self.root);
        if self.quick {
            cargo = cargo.args(["--", "--quick"]);
        }
        cargo.run()?;
        criterion::gather(&self.target.join("criterion"), started)
    }
}

/// The figures for people.
fn table(results: &[Value]) -> String {
    let text = |row: &Value, key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let number = |row: &Value, key: &str| row[key].as_f64().map(figure).unwrap_or_default();
    let rows: Vec<[String; 5]> = results
        .iter()
        .map(|row| {
            let holds = match row["holds"].as_bool() {
                Some(true) => "holds",
                Some(false) => "DOES NOT HOLD",
                None => "",
            };
            let limit = number(row, "limit");
            let limit = if limit.is_empty() { limit } else { format!("{} {limit} {holds}", bound(row)) };
            [text(row, "name"), number(row, "value"), text(row, "unit"), limit, text(row, "note")]
        })
        .collect();
    let width = |i: usize| rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0);
    let widths: [usize; 4] = std::array::from_fn(width);
    let mut out = String::new();
    for [name, value, unit, limit, note] in &rows {
        let line = format!(
            "{name:<0$}  {value:>1$} {unit:<2$}  {limit:<3$}  {note}",
            widths[0], widths[1], widths[2], widths[3]
        );
        out.push_str(line.trim_end());
        out.push('\n');
    }
    out
}

/// Which way a limit is meant: it holds by being above the value, or does not by being below, or the reverse.
fn bound(row: &Value) -> char {
    let above = row["value"].as_f64() > row["limit"].as_f64();
    if above == (row["holds"] == true) { '≥' } else { '≤' }
}

fn figure(value: f64) -> String {
    if value.fract() == 0.0 && value.abs() < 1e15 || value.abs() >= 1000.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_shows_limits_and_whether_they_hold() {
        let rows = [
            json!({"name": "guard 500 B", "value": 1.874, "unit": "×", "limit": 2.0, "holds": true, "note": "of the hash"}),
            json!({"name": "revoke p99", "value": 7, "unit": "ms", "limit": 5, "holds": false, "note": ""}),
            json!({"name": "requests", "value": 41250.5, "unit": "/s", "note": "wrk"}),
            json!({"name": "of OPA", "value": 9, "unit": "×", "limit": 5, "holds": true}),
        ];
        assert_eq!(
            table(&rows),
            "guard 500 B   1.87 ×   ≤ 2 holds          of the hash\n\
             revoke p99       7 ms  ≤ 5 DOES NOT HOLD\n\
             requests     41250 /s                     wrk\n\
             of OPA           9 ×   ≥ 5 holds\n"
        );
    }

    #[test]
    fn an_empty_table_is_empty() {
        assert_eq!(table(&[]), "");
    }
}
