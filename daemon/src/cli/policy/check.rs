//! `portcullis policy check`

use clap::Args as ClapArgs;
use serde_json::json;

use super::source::Source;
use crate::cli::{OK, Outcome, print, print_json};

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
                "modules": set.modules(),
                "tests_required": tested.required,
                "tests": tested.tests,
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
        lines.push(match (tested.required, tested.replayed) {
            (false, _) => "tests     not run: `policy.require_tests` is off".to_owned(),
            (true, 0) => format!("tests     {} passed", tested.tests),
            (true, n) => format!(
                "tests     {} passed; {n} of their cases give one answer on both engines",
                tested.tests
            ),
        });
        lines.push(match &reads.unknown {
            None => {
                format!("reads     {} places of the input (`portcullis policy inputs`)", reads.input.len())
            }
            Some(why) => format!("reads     the whole input: {why}"),
        });
        print(&lines.join("\n"))?;
        Ok(OK)
    }
}
