//! A compiled program without what the machine copies at each call of a rule and does not read.
//!
//! regorus's machine clones all that is known of a rule whenever a body refers to it, also where its value is at hand: its
//! name, its parameters' names, and a list for each definition that says nothing in most. Empty ones cost no allocation.

use std::sync::Arc;

use regorus::rvm::program::{Program, RuleType};

/// The same program to the machine.
pub(super) fn slim(program: Arc<Program>) -> Arc<Program> {
    let mut program = Arc::unwrap_or_clone(program);
    for rule in &mut program.rule_infos {
        rule.name = String::new();
        if let Some(function) = &mut rule.function_info {
            function.param_names = Vec::new();
        }
        if rule.destructuring_blocks.iter().all(Option::is_none) {
            rule.destructuring_blocks = Vec::new();
        }
        // Asked of rules that collect alone: where a body is no `else`, the next one has its turn too.
        let collects = matches!(rule.rule_type, RuleType::PartialSet | RuleType::PartialObject);
        if !collects || !rule.else_bodies.iter().flatten().any(|is_else| *is_else) {
            rule.else_bodies = Vec::new();
        }
    }
    Arc::new(program)
}
