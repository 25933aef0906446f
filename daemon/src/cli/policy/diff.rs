//! `portcullis policy diff`

mod lines;
mod report;

use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::PathBuf,
};

use clap::Args as ClapArgs;

use self::{lines::read, report::Report};
use crate::{
    app,
    cli::{Failure, Outcome, print, print_json},
    config::{self, DecisionLog},
    policy::{self, Input, LoadOptions, PolicySet, compare, differing_rules},
    record::Redaction,
};

/// An error: 1 says that there are changes.
const ERROR: u8 = 2;

/// Tell what another policy set would have decided, over a recorded decision log
///
/// Exit code 0 if nothing would change, 1 if something would, 2 on an error.
///
/// Example: portcullis policy diff policies candidate --log decisions.log
#[derive(Debug, ClapArgs)]
pub struct Args {
    /// Directory of the old set
    old: PathBuf,
    /// Directory of the new set
    new: PathBuf,
    /// Decision logs; `-` is standard input
    #[arg(long, value_name = "FILE", required_unless_present = "inputs")]
    log: Vec<PathBuf>,
    /// Inputs as policies see them, one JSON document a line, instead of a decision log
    #[arg(long, value_name = "FILE")]
    inputs: Vec<PathBuf>,
    /// The rule that gives decisions
    #[arg(long, value_name = "PATH")]
    decision: Option<String>,
    /// Examples shown for each kind of difference
    #[arg(long, value_name = "N", default_value_t = 1)]
    examples: usize,
    /// Take limits of evaluations and the host's documents from this configuration
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        self.compare().map_err(|f| Failure { code: ERROR, ..f })
    }

    fn compare(&self) -> Outcome {
        let (mut decision, mut options) = (config::Policy::default().decision, LoadOptions::default());
        if let Some(path) = &self.config {
            let c = config::load(path)?;
            options = app::policy_options(&c);
            decision = c.policy.decision;
        }
        options.run_tests = false;
        let decision = self.decision.clone().unwrap_or(decision);
        let load = |dir: &PathBuf| policy::load(std::slice::from_ref(dir), &decision, &options);
        let (old, new) = (load(&self.old)?, load(&self.new)?);
        for (set, dir) in [(&old, &self.old), (&new, &self.new)] {
            if set.asks() {
                let why = format!(
                    "`{}` calls `http.send`, and no log says what servers answered: its decisions cannot be made again",
                    dir.display()
                );
                return Err(Failure::new(ERROR, why));
            }
        }
        let mut report = Report::new([&old, &new]);
        for (files, bare) in [(&self.log, false), (&self.inputs, true)] {
            for file in files {
                self.read(file, bare, [&old, &new], &mut report)?;
            }
        }
        if self.json {
            print_json(&report.json())?;
        } else {
            print(&report.human())?;
        }
        Ok(u8::from(report.has_changes()))
    }

    fn read(
        &self,
        file: &PathBuf,
        bare: bool,
        sets: [&PolicySet; 2],
        report: &mut Report,
    ) -> Result<(), Failure> {
        let failed =
            |e: std::io::Error| Failure::new(ERROR, format!("{} cannot be read: {e}", file.display()));
        let reader: Box<dyn BufRead> = if file.as_os_str() == "-" {
            Box::new(std::io::stdin().lock())
        } else {
            Box::new(BufReader::new(File::open(file).map_err(failed)?))
        };
        let redaction = Redaction { claims: DecisionLog::default().erase_claims, ..Redaction::default() };
        for line in reader.split(b'\n') {
            let line = line.map_err(failed)?;
            if line.trim_ascii().is_empty() {
                continue;
            }
            let parsed = serde_json::from_slice(&line).map_err(|_| (lines::Skip::Unreadable, Vec::new()));
            let recorded = match parsed.and_then(|line| read(line, bare, sets)) {
                Ok(recorded) => recorded,
                Err((why, places)) => {
                    report.skipped(why, places);
                    continue;
                }
            };
            let input = Input::from(recorded.input.clone());
            let found = compare(sets[0], sets[1], &input);
            report.decided(&recorded, found.as_ref().map(|(d, _)| d));
            let Some((difference, answers)) = found else { continue };
            let examples = self.examples;
            report.add(&recorded, difference, answers, examples, &redaction, || {
                differing_rules(sets[0], sets[1], &input)
            });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
