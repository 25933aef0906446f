//! How deep evaluation goes: through the rules that rules call, and the expressions they are called from.
//!
//! Both of regorus's engines call themselves for each level, on the stack of the thread that decides; a chain of a
//! thousand rules, each naming the next, would end the process at its first request, and so would a rule that names itself,
//! which Rego forbids and regorus does not refuse. So the longest way through a set is measured when it is loaded, its
//! tests too. It errs to one side: a name that may mean several rules means all of them.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Import, Module, Ref, Rule, RuleHead};
use serde_json::Value;

use super::{LoadError, reads};

/// Most levels of syntax on one way, those of all rules on it together. An ordinary rule has twenty to forty.
/// [`super::STACK`] is made for it.
const MOST: usize = 6000;

/// A module's own words.
struct Scope {
    /// Path of its package, as `data.a.b`.
    package: String,
    /// What its imports of data stand for, by name.
    imports: BTreeMap<String, String>,
}

/// A rule: how deep its own syntax is, and which rules it may call.
#[derive(Default)]
struct Node {
    depth: usize,
    calls: BTreeSet<String>,
}

/// Refuses modules whose evaluation could go too deep, or would never end: rules that depend on themselves.
pub(super) fn check(modules: &[Ref<Module>]) -> Result<(), LoadError> {
    let mut scopes: BTreeMap<&str, Scope> = BTreeMap::new();
    let mut rules: BTreeMap<String, Vec<&Ref<Rule>>> = BTreeMap::new();
    for m in modules {
        let path = |r: &Ref<Expr>| reads::constant(r).map(|names| names.join("."));
        let package = format!("data.{}", path(&m.package.refr).unwrap_or_default());
        let import = |i: &Import| {
            let target = path(&i.refr)?;
            let name = i.r#as.as_ref().map_or(target.rsplit('.').next()?, |s| s.text()).to_owned();
            target.starts_with("data").then_some((name, target))
        };
        for rule in &m.policy {
            let path = format!("{package}.{}", reads::names_of_rule(rule).join("."));
            rules.entry(path).or_default().push(rule);
        }
        let imports = m.imports.iter().filter_map(import).collect();
        scopes.insert(m.package.span.source.get_path(), Scope { package, imports });
    }
    // Sorted, so that what stands below a path stands together.
    let paths: BTreeSet<&str> = rules.keys().map(AsRef::as_ref).collect();
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for (path, definitions) in &rules {
        let node = nodes.entry(path).or_default();
        for rule in definitions {
            let mut tree =
                serde_json::to_value(rule.as_ref()).map_err(|e| LoadError::Compile(e.to_string()))?;
            strip_name(&mut tree);
            let scope = scopes.get(rule.span().source.get_path().as_str());
            node.see(&tree, scope, &paths);
        }
    }
    let mut longest = BTreeMap::new();
    for path in nodes.keys() {
        let Longest { levels, returns, .. } = measure(path, &nodes, &mut longest);
        if levels > MOST {
            return Err(LoadError::Compile(format!(
                "`{path}` needs {levels} levels of rules and expressions, more than an evaluation may have ({MOST}); \
                 shorten the chain of rules that name each other"
            )));
        }
        let is_function =
            |rule: &&Ref<Rule>| matches!(rule.as_ref(), Rule::Spec { head: RuleHead::Func { .. }, .. });
        let definitions = rules.get(*path).map_or(&[][..], Vec::as_slice);
        if returns && !definitions.iter().all(is_function) {
            refuse_recursion(modules, path, definitions)?;
        }
    }
    Ok(())
}

/// Takes a definition's own name out of its tree; what is computed in it stays.
fn strip_name(tree: &mut Value) {
    let Some(definition) = tree.as_object_mut().and_then(|t| t.values_mut().next()) else { return };
    let head = match definition.get_mut("head") {
        Some(head) => head.as_object_mut().and_then(|h| h.values_mut().next()),
        None => Some(definition),
    };
    let Some(refr) = head.and_then(|head| head.get_mut("refr")) else { return };
    let (mut at, mut computed) = (refr.take(), Vec::new());
    while let Some(step) = at.as_object_mut().and_then(|t| t.values_mut().next()) {
        computed.extend(step.get_mut("index").map(Value::take));
        let Some(below) = step.get_mut("refr") else { break };
        at = below.take();
    }
    *refr = Value::Array(computed);
}

/// The longest way from a rule.
#[derive(Clone, Copy, Default)]
struct Longest {
    levels: usize,
    /// Whether a way from it comes back to where it was.
    returns: bool,
    /// Whether it is still being measured.
    open: bool,
}

/// Measures the ways from a rule. One that comes back ends there.
fn measure<'a>(
    path: &'a str,
    nodes: &'a BTreeMap<&str, Node>,
    longest: &mut BTreeMap<&'a str, Longest>,
) -> Longest {
    if let Some(known) = longest.get(path) {
        return Longest { returns: known.returns || known.open, ..*known };
    }
    let Some(node) = nodes.get(path) else { return Longest::default() };
    longest.insert(path, Longest { open: true, ..Longest::default() });
    let mut all = Longest::default();
    for called in &node.calls {
        let below = measure(called, nodes, longest);
        all.levels = all.levels.max(below.levels);
        all.returns |= below.returns;
    }
    all.levels += node.depth;
    longest.insert(path, all);
    all
}

/// Refuses a rule that may depend on itself by its names, unless a closer look, which tells variables from rules, shows that
/// it does not.
fn refuse_recursion(
    modules: &[Ref<Module>],
    path: &str,
    definitions: &[&Ref<Rule>],
) -> Result<(), LoadError> {
    let Some(why) = reads::analyse(modules, path).unknown else { return Ok(()) };
    let Some(span) = definitions.first().map(|rule| rule.span()) else { return Ok(()) };
    let message = format!(
        "{why}: a rule that could depend on itself, by whatever way, is none in Rego; give variables other names than \
         rules have"
    );
    Err(LoadError::Rego { file: span.source.get_path().clone(), line: span.line, column: span.col, message })
}

impl Node {
    /// Looks at a definition.
    fn see(&mut self, tree: &Value, scope: Option<&Scope>, paths: &BTreeSet<&str>) {
        // What is still to be seen, its depth, and whether it is the inside of a reference.
        let mut todo = vec![(tree, 0, false)];
        while let Some((value, depth, inner)) = todo.pop() {
            self.depth = self.depth.max(depth);
            match value {
                Value::Array(items) => todo.extend(items.iter().map(|v| (v, depth + 1, false))),
                Value::Object(members) => {
                    for (kind, below) in members {
                        let is_reference = matches!(kind.as_str(), "RefDot" | "RefBrack" | "Var");
                        if is_reference && !inner {
                            self.call(value, scope, paths);
                        }
                        let steps = kind == "refr"
                            && (members.contains_key("field") || members.contains_key("index"));
                        todo.push((below, depth + 1, steps || (inner && is_reference)));
                    }
                }
                _ => {}
            }
        }
    }

    /// Notes the rules that a reference may mean.
    fn call(&mut self, reference: &Value, scope: Option<&Scope>, paths: &BTreeSet<&str>) {
        let Some((root, rest)) = prefix(reference) else { return };
        let Some(scope) = scope else { return };
        let target = match scope.imports.get(root) {
            _ if root == "data" => root.to_owned(),
            Some(import) => import.clone(),
            None => format!("{}.{root}", scope.package),
        };
        let target = rest.iter().fold(target, |path, name| path + "." + name);
        let below = format!("{target}.");
        self.calls.extend(
            paths.range(below.as_str()..).take_while(|p| p.starts_with(&below)).map(|p| (*p).to_owned()),
        );
        // A rule whose value the reference steps into.
        let ends = target.match_indices('.').map(|(at, _)| at).chain([target.len()]);
        self.calls.extend(ends.map(|at| &target[..at]).filter(|p| paths.contains(p)).map(str::to_owned));
    }
}

/// A reference's root, and the constant names that follow it.
fn prefix(reference: &Value) -> Option<(&str, Vec<&str>)> {
    let (mut at, mut names) = (reference, Vec::new());
    loop {
        if let Some(var) = at.get("Var") {
            names.reverse();
            let constant = names.into_iter().map_while(|name| name).collect();
            return Some((var.get("value")?.as_str()?, constant));
        }
        let step = if let Some(dot) = at.get("RefDot") {
            names.push(dot.get("field").and_then(|f| f.get(1)?.as_str()));
            dot
        } else {
            let brack = at.get("RefBrack")?;
            names.push(brack.get("index").and_then(|i| i.get("String")?.get("value")?.as_str()));
            brack
        };
        at = step.get("refr")?;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::policy::{EngineKind, LoadOptions, PolicySet, STACK, load};

    fn loaded(rules: &str) -> Result<PolicySet, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("p.rego"), format!("package p\nimport rego.v1\n{rules}")).unwrap();
        let time_limit = std::time::Duration::from_mins(1);
        load(&[dir.path().to_owned()], "p/decision", &LoadOptions { time_limit, ..LoadOptions::default() })
    }

    /// Rules that name each other, `line` for each with `{n}` and `{next}` in it.
    fn chain(count: usize, line: &str, first: &str) -> String {
        let lines = (0..count)
            .map(|n| line.replace("{n}", &n.to_string()).replace("{next}", &(n + 1).to_string()) + "\n");
        lines.collect::<String>() + &first.replace("{n}", &count.to_string())
    }

    #[test]
    fn the_deepest_set_that_is_taken_leaves_half_of_the_stack() {
        let rules = chain(700, "r{n} := r{next}", "r{n} := input.a\ndecision := {\"allow\": r0}\n");
        let functions = chain(
            200,
            "f{n}(a) if { [1 | every y in [1] { not f{next}(a) }] }",
            "f{n}(a) if a\ndecision := {\"allow\": f0(input.a)}\n",
        );
        // What could contradict itself runs on the interpreter, which needs more.
        for (text, rvm) in [(&rules, true), (&functions, true), (&rules, false), (&functions, false)] {
            let twist = if rvm { "" } else { "z := 1 if input.b\nz := 2 if input.c\n" };
            let set = loaded(&format!("{text}{twist}")).unwrap();
            assert_eq!(matches!(set.engine(), EngineKind::Rvm), rvm);
            let eval = move || set.eval_decision(&json!({"a": true}).into()).unwrap();
            std::thread::Builder::new().stack_size(STACK / 2).spawn(eval).unwrap().join().unwrap();
        }
    }

    #[test]
    fn longer_chains_are_refused_whatever_way_they_go() {
        for (line, last) in [
            ("r{n} := r{next}", "r{n} := 1\ndecision := {\"allow\": r0 == 1}\n"),
            ("r{n} := data.p.r{next}", "r{n} := 1\ndecision := {\"allow\": data[\"p\"].r0 == 1}\n"),
            ("q.r{n} := q[\"r{next}\"]", "q.r{n} := 1\ndecision := {\"allow\": q.r0 == 1}\n"),
            ("f{n}(x) := f{next}(x)", "f{n}(x) := x\ndecision := {\"allow\": f0(true)}\n"),
            (
                "r{n} contains x if some x in r{next}",
                "r{n} := {1}\ndecision := {\"allow\": count(r0) == 1}\n",
            ),
            ("r{n} if not r{next}", "r{n} if input.x\ndecision := {\"allow\": r0}\n"),
        ] {
            let refused = loaded(&chain(3000, line, last)).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("levels of rules"), "{line}: {refused}");
        }
    }

    #[test]
    fn wide_sets_are_not_deep() {
        let wide = chain(1000, "r{n} := input.a + {next}", "decision := {\"allow\": r1 + r{n} == 1}\n");
        assert!(loaded(&wide.replace("r1000", "r999")).is_ok());
    }

    #[test]
    fn rules_that_depend_on_themselves_are_refused_and_names_that_only_look_so_are_not() {
        let decision = "decision := {\"allow\": true} if r\n";
        for rules in [
            "r := 1 if r",
            "r if { input.b; r }",
            "r if not r",
            "r if s\ns if data.p.r",
            "r if s\ns if data.p[\"r\"]",
            "r if s\ns if data.p[input.x]",
            "r if s\ns if data[input.x]",
            "r if s\ns if count(data) > 1",
            "r if f(1)\nf(x) := f(x + 1)",
            "r if f(1)\nf(x) if g(x)\ng(x) if f(x)",
            "r if 1 in s\ns contains x if some x in s",
            "r if s.a\ns[k] := v if some k, v in s",
            "r if [x | x := r] == []",
            "r := 1\nother if other",
        ] {
            let refused = loaded(&format!("{decision}{rules}\n")).map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("depend on itself"), "{rules}: {refused}");
        }
        for rules in [
            "r if { s := input.a; s == 1 }\ns if r",
            "r if f(input.a)\nf(s) := s\ns if r",
            "r if { some s in input.a; s == 1 }\nt if r",
            "r if { every t in input.a { t == 1 } }\nt if r",
            "r if 1 in [s | s := input.a]\ns if r",
            "r if data.lists[input.a]\ns if r",
        ] {
            assert!(loaded(&format!("{decision}{rules}\n")).is_ok(), "{rules}");
        }
    }

    #[test]
    fn tests_that_depend_on_themselves_or_go_too_deep_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(
            dir.path().join("p.rego"),
            "package p\nimport rego.v1\ndecision := {\"allow\": true}\n",
        )
        .unwrap();
        let deep = chain(3000, "r{n} := r{next}", "r{n} := 1\ntest_a if r0 == 1\n");
        for (tests, expected) in
            [("test_a if test_a\n", "depend on itself"), (deep.as_str(), "levels of rules")]
        {
            let text = format!("package p_test\nimport rego.v1\n{tests}");
            std::fs::write(dir.path().join("p_test.rego"), text).unwrap();
            let refused = load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default());
            let refused = refused.map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
