//! Imports written out: `import data.lib` and `lib.allow` become `data.lib.allow`.
//!
//! regorus evaluates the whole package for a name below an imported one, rules that nobody asks about and packages below it
//! too, and takes a rule of an import's name for the rule where OPA takes the import. Written out, both engines evaluate what
//! is named, and nothing else has to know imports.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Module};

use super::{
    super::{machine, names, reads::import_of},
    Edits, closed,
};

/// A module's text without imports of `data` and `input`.
pub fn mended(path: &str, text: &str) -> String {
    if !text.contains("import") {
        return text.to_owned();
    }
    let parsed = machine::parse_either(path, text);
    // Of one that does not parse the engine tells.
    let Ok(module) = parsed else { return text.to_owned() };
    let mut edits = Edits::default();
    edit(&module, text, &mut edits);
    edits.apply(text)
}

fn edit(module: &Module, text: &str, edits: &mut Edits) {
    let mut all: BTreeMap<&str, &str> = BTreeMap::new();
    for import in &module.imports {
        let (alias, target) = import_of(import);
        if !matches!(target.split(['.', '[']).next(), Some("data" | "input")) {
            continue;
        }
        all.entry(alias).or_insert(target);
        edits.replace(import.span.start as usize, closed(text, import.span.end as usize), "");
    }
    // What a head says is met once for each of its bodies.
    let mut done = BTreeSet::new();
    for rule in &module.policy {
        names::of_rule(rule, &mut |found| {
            let Expr::Var { span, .. } = found.root.as_ref() else { return };
            if let Some(target) = all.get(span.text()).filter(|_| done.insert(span.start)) {
                edits.replace(span.start as usize, span.end as usize, target);
            }
        });
    }
}
