//! `portcullis policy eval` and `portcullis policy explain`

use clap::Args as ClapArgs;
use serde_json::{Value, json};

use super::source::{InputArg, Source};
use crate::{
    cli::{FAILED, Failure, OK, Outcome, print, print_json},
    policy::{Input, PolicySet},
};

/// Evaluate the decision, or any other path, for an input
///
/// Exit code 1 if it is undefined or fails.
///
/// Example: portcullis policy eval policies --input request.json
#[derive(Debug, ClapArgs)]
pub struct EvalArgs {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    input: InputArg,
    /// Another path than the decision, such as portcullis/scopes/missing
    #[arg(long, value_name = "PATH")]
    path: Option<String>,
}

impl EvalArgs {
    pub fn run(self) -> Outcome {
        let (set, input) = (self.source.load(false)?, Input::from(self.input.read()?));
        let path = self.path.map_or_else(|| set.decision().replace('.', "/"), |p| p.replace('.', "/"));
        match value(&set, path.strip_prefix("data/").unwrap_or(&path), &input)? {
            Some(value) => print_json(&value).map(|()| OK),
            None => Err(Failure::new(FAILED, format!("`{path}` is undefined for this input"))),
        }
    }
}

fn value(set: &PolicySet, path: &str, input: &Input) -> Result<Option<Value>, Failure> {
    let segments: Vec<&str> = path.split('/').filter(|s| !s.is_empty()).collect();
    Ok(set.eval_path(&segments, input)?)
}

/// Tell the decision for an input, and the value of every rule that it looks at
///
/// Example: portcullis policy explain policies --input request.json
#[derive(Debug, ClapArgs)]
pub struct ExplainArgs {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    input: InputArg,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl ExplainArgs {
    pub fn run(self) -> Outcome {
        let (set, input) = (self.source.load(false)?, Input::from(self.input.read()?));
        let decision = set.eval_decision_value(&input);
        let answer = match &decision {
            Ok((_, value)) => json!({"value": value}),
            Err(e) => json!({"error": e.to_string(), "reason": e.reason().code()}),
        };
        let mut rules = Vec::new();
        for rule in set.reads().rules.iter().filter(|r| *r != set.decision()) {
            let path = rule.trim_start_matches("data.").replace('.', "/");
            let value = value(&set, &path, &input);
            rules.push((rule, value.map_err(|f| f.to_string())));
        }
        if self.json {
            let rules: serde_json::Map<String, Value> = rules
                .into_iter()
                .map(|(rule, value)| {
                    let value = match value {
                        Ok(Some(value)) => json!({"value": value}),
                        Ok(None) => json!({"undefined": true}),
                        Err(e) => json!({"error": e}),
                    };
                    (rule.clone(), value)
                })
                .collect();
            print_json(&json!({"decision": answer, "rules": rules}))?;
            return Ok(OK);
        }
        let mut lines = vec![format!("{} on the {}", set.decision(), set.engine().name())];
        lines.push(match decision {
            Ok((_, value)) => format!("  = {value}"),
            Err(e) => format!("  denied: {e}"),
        });
        for (rule, value) in rules {
            lines.push(match value {
                Ok(Some(value)) => format!("{rule}\n  = {value}"),
                Ok(None) => format!("{rule}\n  is undefined"),
                Err(e) => format!("{rule}\n  fails: {e}"),
            });
        }
        print(&lines.join("\n"))?;
        Ok(OK)
    }
}
