//! How deep evaluation goes: through the rules that rules call, and the expressions they are called from.
//!
//! Both of regorus's engines call themselves for each level, on the stack of the thread that decides; a chain of a
//! thousand rules, each naming the next, would end the process at its first request, and so would a rule that names itself,
//! which Rego forbids and regorus does not refuse. So the longest way through a set is measured when it is loaded, its
//! tests too. It errs to one side: a name that may mean several rules means all of them.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{Expr, Module, Ref, Rule};
use serde_json::Value;

use super::{LoadError, hazards, names, reads};

/// Most levels of syntax on one way, those of all rules on it together. An ordinary rule has twenty to forty.
/// [`super::STACK`] is made for it.
const MOST: usize = 6000;

/// A rule: how deep its own syntax is, and which rules it may call.
#[derive(Default)]
struct Node {
    depth: usize,
    calls: BTreeSet<String>,
}

/// Refuses modules whose evaluation could go too deep, or would never end: rules that depend on themselves.
pub(super) fn check(modules: &[Ref<Module>]) -> Result<(), LoadError> {
    let mut rules: BTreeMap<String, Vec<(&str, &Ref<Rule>)>> = BTreeMap::new();
    for m in modules {
        let package = m.package.refr.span().text();
        for rule in &m.policy {
            let path = format!("data.{package}.{}", reads::names_of_rule(rule).join("."));
            rules.entry(path).or_default().push((package, rule));
        }
    }
    // Sorted, so that what stands below a path stands together.
    let paths: BTreeSet<&str> = rules.keys().map(AsRef::as_ref).collect();
    let mut nodes: BTreeMap<&str, Node> = BTreeMap::new();
    for (path, definitions) in &rules {
        let node = nodes.entry(path).or_default();
        for (package, rule) in definitions {
            let tree = serde_json::to_value(rule.as_ref()).map_err(|e| LoadError::Compile(e.to_string()))?;
            node.depth = node.depth.max(depth(&tree));
            names::of_rule(rule, &mut |found| node.call(found.whole, package, &paths));
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
        if returns {
            let message = format!(
                "`{path}` depends on itself, or on rules that do, by whatever way: Rego has no recursion"
            );
            let rule = rules.get(*path).and_then(|definitions| definitions.first());
            return Err(match rule {
                Some((_, rule)) => hazards::at_span(rule.span(), message),
                None => LoadError::Compile(message),
            });
        }
    }
    Ok(())
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

/// How deep a syntax tree is.
fn depth(tree: &Value) -> usize {
    let (mut todo, mut deepest) = (vec![(tree, 0)], 0);
    while let Some((value, depth)) = todo.pop() {
        deepest = deepest.max(depth);
        match value {
            Value::Array(items) => todo.extend(items.iter().map(|v| (v, depth + 1))),
            Value::Object(members) => todo.extend(members.values().map(|v| (v, depth + 1))),
            _ => {}
        }
    }
    deepest
}

impl Node {
    /// Notes the rules that a reference may mean.
    fn call(&mut self, reference: &Ref<Expr>, package: &str, paths: &BTreeSet<&str>) {
        let names = prefix(reference);
        let Some((root, rest)) = names.split_first() else { return };
        let target = if *root == "data" { "data".to_owned() } else { format!("data.{package}.{root}") };
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

/// A reference's first name, and the constant names that follow it.
fn prefix(reference: &Ref<Expr>) -> Vec<&str> {
    let (mut at, mut names) = (reference, Vec::new());
    loop {
        at = match at.as_ref() {
            Expr::RefDot { refr, field, .. } => {
                names.push(Some(field.0.text()));
                refr
            }
            Expr::RefBrack { refr, index, .. } => {
                names.push(match index.as_ref() {
                    Expr::String { span, .. } | Expr::RawString { span, .. } => Some(span.text()),
                    _ => None,
                });
                refr
            }
            Expr::Var { span, .. } => {
                names.push(Some(span.text()));
                break;
            }
            _ => return Vec::new(),
        };
    }
    names.into_iter().rev().map_while(|name| name).collect()
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
            assert!(refused.contains("no recursion"), "{rules}: {refused}");
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
        for (tests, expected) in [("test_a if test_a\n", "no recursion"), (deep.as_str(), "levels of rules")]
        {
            let text = format!("package p_test\nimport rego.v1\n{tests}");
            std::fs::write(dir.path().join("p_test.rego"), text).unwrap();
            let refused = load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default());
            let refused = refused.map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }

    /// Files of modules, each a package and its rules.
    fn several(modules: &[(&str, &str)]) -> Result<PolicySet, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        for (n, (package, rules)) in modules.iter().enumerate() {
            let text = format!("package {package}\nimport rego.v1\n{rules}\n");
            std::fs::write(dir.path().join(format!("{n}.rego")), text).unwrap();
        }
        load(&[dir.path().to_owned()], "p/decision", &LoadOptions::default())
    }

    #[test]
    fn an_imported_package_is_asked_for_what_is_named_alone() {
        let allows = |set: &PolicySet, input| set.eval_decision(&json!(input).into()).unwrap().allow;
        let set = several(&[
            ("p", "import data.lib\ndecision := {\"allow\": data.p.h}\ndefault h := false\nh if lib.ready"),
            ("lib", "ready if input.z"),
            ("lib.audit", "e if not data.p.h"),
        ])
        .unwrap();
        assert!(allows(&set, json!({"z": 1})) && !allows(&set, json!({})));
        let set = several(&[
            ("p", "import data.q\ndecision := {\"allow\": true} if not r2\ndefault decision := {\"allow\": false}\nr2 if { input.z == 2; not q.r1 }"),
            ("q", "r1 if input.x"),
            ("q.de", "e2 if data.p.r2"),
        ])
        .unwrap();
        assert!(allows(&set, json!({})) && !allows(&set, json!({"z": 2})));
        // Its own package, by its name.
        let set = several(&[(
            "p",
            "import data.p\ndefault decision := {\"allow\": true}\ndecision := {\"allow\": false} if p.blocked\nblocked if input.user == \"m\"",
        )])
        .unwrap();
        assert!(!allows(&set, json!({"user": "m"})) && allows(&set, json!({})));
        // An import hides the rule of its name.
        let set = several(&[
            ("p", "import data.q.r\ndefault decision := {\"allow\": false}\ndecision := {\"allow\": true} if r\nr if { input.z; r }"),
            ("q", "r if input.y"),
        ])
        .unwrap();
        assert!(allows(&set, json!({"y": 1})) && !allows(&set, json!({"z": 1})));
        assert!(set.reads().input.iter().any(|path| format!("{path:?}").contains('y')), "{:?}", set.reads());
    }

    #[test]
    fn chains_of_packages_are_as_deep_as_what_is_asked_for() {
        let line = |n: usize| format!("r{n} := r{}\n", n + 1);
        let package = |k: usize| {
            let chain: String = (0..400).map(line).collect();
            (format!("l{k}"), format!("import data.l{}\nx := 1\n{chain}r400 := l{}.x", k + 1, k + 1))
        };
        let mut all: Vec<_> = (0..20).map(package).collect();
        all.push(("l20".to_owned(), "x := 1".to_owned()));
        all.push((
            "p".to_owned(),
            "import data.l0\ndecision := {\"allow\": true} if { input.z; l0.x == 1 }".to_owned(),
        ));
        let all: Vec<_> = all.iter().map(|(package, rules)| (package.as_str(), rules.as_str())).collect();
        assert!(several(&all).unwrap().eval_decision(&json!({"z": 1}).into()).unwrap().allow);
    }

    #[test]
    fn packages_in_brackets_or_in_the_way_of_a_rule_are_refused() {
        for (package, rules) in
            [("tenants[\"acme-corp\"]", "deny if input.z"), ("a[\"b\"]", "x := 1"), ("p[\"q.r\"]", "x := 1")]
        {
            let refused = several(&[("p", "decision := {\"allow\": true}"), (package, rules)]);
            let refused = refused.map(|_| ()).unwrap_err().to_string();
            assert!(refused.contains("names of packages"), "{refused}");
        }
        let refused =
            several(&[("p", "decision := {\"allow\": true}\nb if input.x"), ("p.b", "c if input.y")]);
        assert!(refused.map(|_| ()).unwrap_err().to_string().contains("in each other's way"));
    }
}
