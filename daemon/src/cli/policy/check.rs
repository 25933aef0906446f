//! `portcullis policy check`

use std::fmt::Write as _;

use clap::Args as ClapArgs;
use serde_json::json;

use super::source::Source;
use crate::{
    cli::{OK, Outcome, print, print_json},
    policy::Tested,
};

/// Load a set as the daemon would, its tests included, and tell what runs it
///
/// Example: portcullis policy check policies
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(flatten)]
    source: Source,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Args {
    pub fn run(self) -> Outcome {
        let set = self.source.load(true)?;
        let (engine, tested, reads) = (set.engine(), set.tested(), set.reads());
        if self.json {
            print_json(&json!({
                "decision": set.decision(),
                "engine": engine.name(),
                "interpreted_because": engine.reason(),
                "bodies_left_out": set.left_out(),
                "modules": set.modules(),
                "tests_required": tested.required,
                "tests": tested.tests,
                "tests_skipped": tested.skipped,
                "replayed_on_both_engines": tested.replayed,
                "hash": set.hash(),
                "inputs_unknown_because": reads.unknown,
            }))?;
            return Ok(OK);
        }
        let mut lines = vec![
            format!("good: {} in {} modules, {}", set.decision(), set.modules(), set.hash()),
            format!("engine    {}", engine.name()),
        ];
        lines.extend(engine.reason().map(|why| format!("          {why}")));
        lines.extend(
            Some(set.left_out())
                .filter(|n| *n > 0)
                .map(|n| format!("          without {n} bodies of rules that the documents switch off")),
        );
        lines.push(tests(tested));
        lines.push(match &reads.unknown {
            None => {
                let places = if reads.input.len() == 1 { "place" } else { "places" };
                format!("reads     {} {places} of the input (`portcullis policy inputs`)", reads.input.len())
            }
            Some(why) => format!("reads     the whole input: {why}"),
        });
        print(&lines.join("\n"))?;
        Ok(OK)
    }
}

/// How far the set's own tests went.
fn tests(tested: Tested) -> String {
    if !tested.required {
        return "tests     not run: `policy.require_tests` is off".to_owned();
    }
    let mut line = match tested.tests {
        0 => "tests     none: the engines were compared for empty inputs alone".to_owned(),
        n => format!("tests     {n} passed"),
    };
    if tested.skipped > 0 {
        let _ = write!(line, ", {} not run (`todo_test_…`)", tested.skipped);
    }
    if tested.tests > 0 && tested.replayed > 0 {
        let _ = write!(line, "; {} of their cases give one answer on both engines", tested.replayed);
    }
    line
}
