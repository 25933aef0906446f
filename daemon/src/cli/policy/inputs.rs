//! `portcullis policy inputs`

use clap::Args as ClapArgs;
use serde_json::json;

use super::source::Source;
use crate::{
    cli::{OK, Outcome, print, print_json},
    policy::{Extent, Shown},
};

/// Tell which parts of the input and which documents the decision depends on
///
/// They and the token are the cache key: requests that agree in all of them share a verdict.
///
/// Example: portcullis policy inputs policies
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
        let set = self.source.load(false)?;
        let reads = set.reads();
        if self.json {
            let input: Vec<_> = reads
                .input
                .iter()
                .map(
                    |(path, extent)| json!({"path": path, "text": Shown(path).to_string(), "extent": extent}),
                )
                .collect();
            print_json(&json!({
                "input": input, "data": reads.data, "volatile": reads.volatile, "unknown_because": reads.unknown,
            }))?;
            return Ok(OK);
        }
        let mut lines = Vec::new();
        if let Some(why) = &reads.unknown {
            lines.push(format!("the whole input, since {why}"));
        }
        for (path, extent) in reads.input.iter().filter(|_| reads.unknown.is_none()) {
            let note = if *extent == Extent::Kind { "  (whether it is there, and its type)" } else { "" };
            lines.push(format!("{}{note}", Shown(path)));
        }
        lines.extend(reads.data.iter().cloned());
        for what in &reads.volatile {
            lines.push(format!("{what}  (changes by itself: kept only for the decision's ttl)"));
        }
        print(&lines.join("\n"))?;
        Ok(OK)
    }
}
