//! Finding what the RVM gets wrong, where the interpreter does not. Each is a way to fail open.
//!
//! * It drops arguments past the eighth in silence, so that `allow if not blocked(<nine arguments>)` allows
//!   what the interpreter refuses. Such calls are refused on either engine.
//! * It takes definitions that contradict each other (an error in OPA) for an undefined rule, so that
//!   `allow if not blocked` allows. Rules whose definitions could contradict run on the interpreter.

use std::collections::BTreeSet;

use regorus::{
    CompiledPolicy,
    unstable::{Expr, Module, Ref, Rule, RuleHead, Span},
};
use serde_json::Value;

use super::{LoadError, builtins, functions, reads};

/// Arguments of a call that the RVM passes on.
const MOST: usize = 8;

/// A module's syntax tree as these look at it.
pub(super) fn tree_of(module: &Module) -> Result<Value, LoadError> {
    serde_json::to_value(module).map_err(|e| LoadError::Compile(e.to_string()))
}

/// Refuses packages whose names need brackets, which regorus and what looks at sets here would take for others, and rules that
/// have the path of a package, or one above it: which of them is meant is nobody's guess.
pub(super) fn check_packages(modules: &[Ref<Module>]) -> Result<(), LoadError> {
    let mut packages = BTreeSet::new();
    for module in modules {
        let span = module.package.refr.span();
        let name = span.text();
        let is_plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !name.split('.').all(is_plain) {
            let message = format!(
                "the package `{name}`: names of packages are letters, digits and `_` with dots between"
            );
            return Err(at_span(span, message));
        }
        packages.insert(format!("data.{name}."));
    }
    for module in modules {
        for rule in &module.policy {
            let names = reads::names_of_rule(rule).join(".");
            let path = format!("data.{}.{names}.", module.package.refr.span().text());
            let next = packages.range(path.clone()..).next();
            if let Some(package) = next.filter(|package| package.starts_with(&path)) {
                let (rule_path, package) = (path.trim_end_matches('.'), package.trim_end_matches('.'));
                let message = format!(
                    "the rule `{rule_path}` and the package `{package}` are in each other's way: rename one"
                );
                return Err(at_span(rule.span(), message));
            }
        }
    }
    Ok(())
}

/// Refuses calls and function heads of a module that have too many arguments.
pub(super) fn check_arity(
    file: &str,
    module: &Module,
    tree: &Value,
    is_rule: impl Fn(&str) -> bool,
) -> Result<(), LoadError> {
    let own_walk = is_rule(&format!("data.{}.walk", module.package.refr.span().text()));
    for (kind, node) in nodes(tree, &[]) {
        let arguments = match kind {
            "Call" => node.get("params"),
            "Func" => node.get("args"),
            _ => None,
        };
        let count = arguments.and_then(Value::as_array).map_or(0, Vec::len);
        if count > MOST {
            let message = format!(
                "{count} arguments are more than the engine passes on ({MOST}); pass one object instead"
            );
            return Err(at(file, node, message));
        }
        let called = node.get("fcn").filter(|_| kind == "Call").and_then(dotted);
        if called.as_deref() == Some("walk") && count == 1 && !own_walk {
            let message =
                "`walk` gives many values, and has no place for them here: bind each in a statement of \
                           its own, as `walk(x, [path, value])`"
                    .to_owned();
            return Err(at(file, node, message));
        }
        if let Some(builtin) = called.as_deref().and_then(builtins::find)
            && count != usize::from(builtin.arity)
        {
            let message = format!(
                "`{}` takes {} arguments, and perhaps one for its output",
                builtin.name, builtin.arity
            );
            return Err(at(file, node, message));
        }
    }
    Ok(())
}

/// Refuses `with` of a function by its path, which has no effect here: `with f as g` has, in the function's own package.
pub(super) fn check_mocks(
    file: &str,
    tree: &Value,
    is_function: impl Fn(&str) -> bool,
) -> Result<(), LoadError> {
    for (_, list) in nodes(tree, &[]).filter(|(kind, _)| *kind == "with_mods") {
        for modifier in list.as_array().into_iter().flatten() {
            let target = modifier.get("refr").and_then(dotted);
            if let Some(target) = target.filter(|target| is_function(target)) {
                let message =
                    format!("`with` cannot put anything in the place of the function `{target}` here");
                return Err(at(file, modifier, message));
            }
        }
    }
    Ok(())
}

/// Whether definitions are a function's.
pub(super) fn is_function<'a>(definitions: impl IntoIterator<Item = &'a Rule>) -> bool {
    let is_one = |rule: &Rule| matches!(rule, Rule::Spec { head: RuleHead::Func { .. }, .. });
    definitions.into_iter().any(is_one)
}

/// Refuses what neither engine reads as OPA does, and what it would be taken for opens doors: defaults of functions, which
/// have no effect, and objects as patterns, which match larger ones too.
pub(super) fn check_patterns(file: &str, tree: &Value) -> Result<(), LoadError> {
    for (kind, node) in nodes(tree, &[]) {
        let list = |name: &str| node.get(name).and_then(Value::as_array).is_some_and(|l| !l.is_empty());
        if kind == "Default" && list("args") {
            let message =
                "defaults of functions are not known here: give the function an `else` instead".to_owned();
            return Err(at(file, node, message));
        }
        let holds = |name: &str| node.get(name).is_some_and(has_object);
        let all = |name: &str| node.get(name).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
        let declares = node.get("op").and_then(Value::as_str) == Some("ColEq");
        let pattern = match kind {
            // What is declared is on the left; either side of an equation may be a pattern.
            "AssignExpr" => holds("lhs") || !declares && holds("rhs"),
            "SomeIn" => holds("value") || holds("key"),
            "Func" => all("args").iter().any(has_object),
            // The output of a builtin.
            "Call" => {
                let inputs = node.get("fcn").and_then(dotted).and_then(|name| functions::inputs(&name));
                let output = inputs.and_then(|n| all("params").get(n));
                output.is_some_and(has_object)
            }
            _ => false,
        };
        if pattern {
            let message =
                "an object as a pattern, or beside `=`, would match larger ones here, which it does not in \
                           OPA: compare with `==`, assign with `:=`, or compare its members one by one"
                    .to_owned();
            return Err(at(file, node, message));
        }
    }
    Ok(())
}

/// Whether an expression is an object, or holds one as an item.
fn has_object(expression: &Value) -> bool {
    let items = |kind: &str| expression.get(kind).and_then(|e| e.get("items")).and_then(Value::as_array);
    let within = |kind: &str| items(kind).is_some_and(|all| all.iter().any(has_object));
    expression.get("Object").is_some() || within("Array") || within("Set")
}

/// Refuses `some x` where `x` is a rule or an import: both engines would take it for that, and not for a fresh variable.
pub(super) fn check_locals(
    file: &str,
    module: &Module,
    tree: &Value,
    is_rule: impl Fn(&str) -> bool,
) -> Result<(), LoadError> {
    let package = module.package.refr.span().text();
    let is_global = |name: &str| {
        is_rule(&format!("data.{package}.{name}"))
            || module.imports.iter().any(|i| reads::import_of(i).0 == name)
    };
    let text = module.package.span.source.get_contents();
    for (_, node) in nodes(tree, &[]).filter(|(kind, _)| *kind == "SomeVars") {
        for var in node.get("vars").and_then(Value::as_array).into_iter().flatten() {
            let place =
                |name: &str| var.get(name).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok());
            let name = place("start").zip(place("end")).and_then(|(start, end)| text.get(start..end));
            if let Some(name) = name.filter(|name| is_global(name)) {
                let message = format!(
                    "`some {name}` would mean the rule or import of that name here, and not a variable: give it another name"
                );
                return Err(at(file, node, message));
            }
        }
    }
    Ok(())
}

/// Heads that the RVM takes for what they are not: parts behind a computed one, sets below a key, members of a constant name.
/// `a[x] := v` and `a.b[x] := v` are right.
pub(super) fn long_heads(policy: &CompiledPolicy) -> Option<String> {
    let is_constant = |e: &Expr| matches!(e, Expr::String { .. } | Expr::RawString { .. });
    let is_plain = |e: &Expr| matches!(e, Expr::Var { .. });
    policy.get_rules().values().flatten().find_map(|rule| {
        let Rule::Spec { head, .. } = rule.as_ref() else { return None };
        let (refr, is_right) = match head {
            RuleHead::Set { refr, .. } => (refr, is_plain(refr)),
            RuleHead::Func { .. } => return None,
            RuleHead::Compr { refr, .. } => {
                let mut at = match refr.as_ref() {
                    Expr::RefBrack { refr, index, .. } if !is_constant(index) => Some(refr),
                    e if is_plain(e) => Some(refr),
                    _ => None,
                };
                while let Some(Expr::RefDot { refr, .. }) = at.map(AsRef::as_ref) {
                    at = Some(refr);
                }
                (refr, at.is_some_and(|e| is_plain(e)))
            }
        };
        (!is_right).then(|| format!("the head `{}`", refr.span().text()))
    })
}

/// Whether a module names `http.send`, which is refused where it is off.
pub(super) fn asks(file: &str, tree: &Value, allowed: bool) -> Result<bool, LoadError> {
    let mut asks = false;
    // By name too, as `with` takes functions.
    for (kind, node) in nodes(tree, &[]).filter(|(kind, _)| matches!(*kind, "RefDot" | "RefBrack")) {
        let last = node.get("field").and_then(|f| f.get(1));
        let last = last.or_else(|| node.get("index")?.get("String")?.get("value"));
        if last.and_then(Value::as_str) != Some("send")
            || dotted(&serde_json::json!({kind: node})).as_deref() != Some("http.send")
        {
            continue;
        }
        if !allowed {
            let message =
                "`http.send` is off: name the hosts it may ask in `policy.http_send.hosts`, or take the \
                           call out"
                    .to_owned();
            return Err(at(file, node, message));
        }
        asks = true;
    }
    Ok(asks)
}

/// An error at a place of a module.
pub(super) fn at_span(span: &Span, message: String) -> LoadError {
    LoadError::Rego { file: span.source.get_path().clone(), line: span.line, column: span.col, message }
}

pub(super) fn at(file: &str, node: &Value, message: String) -> LoadError {
    let position = |name: &str| {
        let n = node.get("span").and_then(|span| span.get(name)).and_then(Value::as_u64);
        n.and_then(|n| u32::try_from(n).ok()).unwrap_or_default()
    };
    LoadError::Rego { file: file.to_owned(), line: position("line"), column: position("col"), message }
}

/// What in the set the two engines would take for different functions: a rule under the name of a builtin of
/// ours, or an import that such a name could begin with.
pub(super) fn shadows(policy: &CompiledPolicy) -> Option<String> {
    for path in policy.get_rules().keys() {
        if builtins::ALL.iter().any(|b| path.strip_suffix(b.name).is_some_and(|rest| rest.ends_with('.'))) {
            return Some(format!("`{path}` has the name of a builtin"));
        }
    }
    for import in policy.get_modules().iter().flat_map(|m| &m.imports) {
        let (alias, text) = reads::import_of(import);
        if builtins::ALL.iter().any(|b| b.name.split('.').next() == Some(alias)) {
            return Some(format!("the import `{text}` has the name of builtins"));
        }
    }
    None
}

/// A reference as its dotted text; `None` if anything in it is computed.
pub(super) fn dotted(reference: &Value) -> Option<String> {
    // From the end to the root.
    let (mut at, mut names) = (reference, Vec::new());
    loop {
        if let Some(var) = at.get("Var") {
            names.push(var.get("value")?.as_str()?);
            names.reverse();
            return Some(names.join("."));
        }
        let below = if let Some(dot) = at.get("RefDot") {
            names.push(dot.get("field")?.get(1)?.as_str()?);
            dot
        } else {
            let brack = at.get("RefBrack")?;
            names.push(
                brack.get("index")?.get("String")?.get("value")?.as_str().filter(|s| !s.contains('.'))?,
            );
            brack
        };
        at = below.get("refr")?;
    }
}

/// What in the set could contradict itself, if anything; where in doubt, something.
pub(super) fn contradictable(policy: &CompiledPolicy) -> Option<String> {
    let mut rules: Vec<_> = policy.get_rules().iter().collect();
    rules.sort_by_key(|(path, _)| path.as_str());
    for (path, definitions) in rules {
        if differ(definitions.iter().map(AsRef::as_ref)) {
            return Some(format!("the definitions of `{path}`"));
        }
        for rule in definitions {
            let Ok(tree) = serde_json::to_value(rule.as_ref()) else {
                return Some(format!("what `{path}` gives, which cannot be analysed,"));
            };
            let is_rule = |name: &str| named_in_package(policy, rule, name);
            if values(rule).is_some_and(|v| v.contains(&None)) && iterates(&tree, is_rule) {
                return Some(format!("the values that `{path}` takes in turn"));
            }
            if nodes(&tree, &[]).any(|(kind, _)| kind == "ObjectCompr") {
                return Some(format!("the members of an object comprehension in `{path}`"));
            }
        }
    }
    None
}

/// A rule with an `else` behind a body that iterates, if there is one: where no round of such a body is true, the RVM takes the
/// rule for undefined and never asks the `else`.
pub(super) fn iterating_else(policy: &CompiledPolicy) -> Option<String> {
    policy.get_rules().iter().find_map(|(path, definitions)| {
        let goes_wrong = definitions.iter().any(|rule| {
            let Rule::Spec { bodies, .. } = rule.as_ref() else { return false };
            if !bodies.iter().any(|body| body.is_else) {
                return false;
            }
            // What cannot be looked at may iterate.
            let Ok(tree) = serde_json::to_value(rule.as_ref()) else { return true };
            let is_rule = |name: &str| named_in_package(policy, rule, name);
            bodies.windows(2).enumerate().any(|(i, pair)| {
                let parts = || [&tree["Spec"]["head"], &tree["Spec"]["bodies"][i]].map(Clone::clone).to_vec();
                pair[1].is_else && iterates(&Value::from(parts()), is_rule)
            })
        });
        goes_wrong.then(|| format!("`{path}` has an `else` behind a body that iterates"))
    })
}

/// Whether definitions of one rule may give different values. Those of one `else` chain exclude each other.
fn differ<'a>(definitions: impl Iterator<Item = &'a Rule>) -> bool {
    let chains: Vec<_> = definitions.filter_map(values).collect();
    let mut all = chains.iter().flatten();
    let Some(first) = all.next() else { return false };
    chains.len() > 1 && (first.is_none() || all.any(|v| v != first))
}

/// The values that a definition's head and `else`s give: a literal's text, or `None` for what is computed.
/// A default, and a rule that collects a set, gives no value that another could contradict.
fn values(rule: &Rule) -> Option<Vec<Option<&str>>> {
    let Rule::Spec { head: RuleHead::Compr { assign, .. } | RuleHead::Func { assign, .. }, bodies, .. } =
        rule
    else {
        return None;
    };
    let elses = bodies.iter().filter(|b| b.is_else).map(|b| &b.assign);
    Some(
        std::iter::once(assign)
            .chain(elses)
            .map(|a| a.as_ref().map_or(Some("true"), |a| literal(&a.value)))
            .collect(),
    )
}

/// Whether a name is a rule's of the package that a rule stands in: an index of that name is no variable.
fn named_in_package(policy: &CompiledPolicy, rule: &Rule, name: &str) -> bool {
    let file = rule.span().source.get_path();
    let module = policy.get_modules().iter().find(|m| m.package.span.source.get_path() == file);
    let package = module.and_then(|m| reads::constant(&m.package.refr));
    package
        .is_some_and(|package| policy.get_rules().contains_key(&format!("data.{}.{name}", package.join("."))))
}

/// Whether a definition's body can be true in several ways. Comprehensions and `every` iterate within.
fn iterates(rule: &Value, is_rule: impl Fn(&str) -> bool) -> bool {
    const INNER: [&str; 4] = ["ArrayCompr", "SetCompr", "ObjectCompr", "Every"];
    let variable = |node: &Value| {
        node.get("Var").and_then(|v| v.get("value")).and_then(Value::as_str).map(str::to_owned)
    };
    let mut bound = Vec::new();
    for (kind, node) in nodes(rule, &INNER) {
        match kind {
            "AssignExpr" => bound.extend(node.get("lhs").and_then(variable)),
            "Func" => bound.extend(
                node.get("args").and_then(Value::as_array).into_iter().flatten().filter_map(variable),
            ),
            _ => {}
        }
    }
    nodes(rule, &INNER).any(|(kind, node)| match kind {
        "SomeVars" | "SomeIn" => true,
        // An index that nothing binds runs over the whole collection.
        "RefBrack" => {
            node.get("index").and_then(variable).is_some_and(|name| !bound.contains(&name) && !is_rule(&name))
        }
        _ => false,
    })
}

/// Every member of a syntax tree by name, but nothing within members named in `except`.
pub(super) fn nodes<'a>(tree: &'a Value, except: &'a [&str]) -> impl Iterator<Item = (&'a str, &'a Value)> {
    // A list of what is still to be seen, not recursion: the tree is as deep as its author made it.
    let (mut todo, mut members) = (vec![tree], Vec::new());
    while let Some(node) = todo.pop() {
        match node {
            Value::Array(items) => todo.extend(items),
            Value::Object(object) => {
                for (name, node) in object.iter().filter(|(name, _)| !except.contains(&name.as_str())) {
                    members.push((name.as_str(), node));
                    todo.push(node);
                }
            }
            _ => {}
        }
    }
    members.into_iter()
}

/// A literal's text; `None` for what is computed.
fn literal(value: &Expr) -> Option<&str> {
    match value {
        Expr::String { span, .. }
        | Expr::RawString { span, .. }
        | Expr::Number { span, .. }
        | Expr::Bool { span, .. }
        | Expr::Null { span, .. } => Some(span.text()),
        _ => None,
    }
}
