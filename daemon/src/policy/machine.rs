//! The RVM's own copy of a module, with what it takes for defined made so.
//!
//! In regorus 0.14.1 the RVM goes on where the interpreter, and OPA, end a body without a value:
//!
//! * after `x := e` with an undefined `e`: `allow if { u := input.sub; not blocked[u] }` allows a request without a
//!   `sub`. In the copy stands `x = e`, which the RVM checks; or `x := e; x == x`, which costs more, where `x` hides
//!   another `x` or is an index, for the RVM would take the index of an equation for one that is free.
//! * with an undefined term of a comprehension: `count([x.a | some x in y])` counts it. In the copy stands
//!   `[v | some x in y; v = x.a]`.
//! * with an undefined value of a rule or function that goes on with `else`, and undefined keys or values of partial
//!   objects. So does the interpreter: sets that may have them elsewhere than in the decision, where it denies, are refused
//!   ([`unsound`]).
//! * at an index that is a variable of `every`: it takes `every i, x in a { x == b[i] }` for true where each `x` is
//!   anywhere in `b`; and so with one that is assigned outside of the comprehension it stands in. Such sets run on
//!   the interpreter.
//!
//! Where a copy cannot be made, the error says why, and the interpreter does.

use std::collections::BTreeSet;

use regorus::unstable::{
    AssignOp, Expr, Literal, Module, Parser, Query, Ref, Rule, RuleBody, RuleHead, Source,
};

use super::{
    hazards,
    load::LENGTHS,
    reads::{import_of, is_partial, names_of_rule},
    rewrite::{Edits, children, closed},
};

/// Variables that the copies add; a module that has such a name of its own is not copied.
const FRESH: &str = "portcullis_term_";

type Names = BTreeSet<String>;

/// Reads a module.
pub(super) fn parse(path: &str, text: &str) -> Result<Module, String> {
    parse_as(path, text, true)
}

/// Reads a module of either version, v1 first.
pub(super) fn parse_either(path: &str, text: &str) -> Result<Module, String> {
    parse(path, text).or_else(|_| parse_as(path, text, false))
}

/// Reads a module of one version.
pub(super) fn parse_as(path: &str, text: &str, v1: bool) -> Result<Module, String> {
    let parse = || -> anyhow::Result<Module> {
        let (bytes, lines) = (LENGTHS.max_file_bytes, LENGTHS.max_lines);
        let source = Source::from_contents_with_limits(path.to_owned(), text.to_owned(), bytes, lines)?;
        let mut parser = Parser::new(&source)?;
        parser.set_max_col(LENGTHS.max_col);
        if v1 {
            parser.enable_rego_v1()?;
        }
        parser.parse()
    };
    std::panic::catch_unwind(parse).map_err(|_| "the parser panicked".to_owned())?.map_err(|e| e.to_string())
}

/// Copies modules, all of a set, each with its path and text.
pub(super) fn copies(modules: &[(String, String)]) -> Result<Vec<String>, String> {
    let parsed = modules.iter().map(|(path, text)| parse(path, text)).collect::<Result<Vec<_>, _>>()?;
    let mut out = Vec::with_capacity(modules.len());
    for (module, (_, text)) in parsed.iter().zip(modules) {
        if text.contains(FRESH) {
            return Err(format!("a name begins with `{FRESH}`"));
        }
        let mut copy = Copy::new(module, text, parsed.iter());
        for rule in &module.policy {
            copy.indexes = indexes_in(rule)?;
            copy.rule(rule)?;
        }
        out.push(copy.edits.apply(text));
    }
    Ok(out)
}

/// What both engines take for undefined where OPA goes on, and what a `not` of another rule would turn round: the rule and
/// what of it. Where it is the `decision` itself, an undefined one denies.
pub(super) fn unsound<'a>(
    module: &'a Module,
    all: impl Iterator<Item = &'a Module>,
    decision: &str,
) -> Option<(&'a Rule, String)> {
    let copy = Copy::new(module, "", all);
    let package = module.package.refr.span().text();
    let is_decision = |rule: &Rule| {
        names_of_rule(rule)
            .into_iter()
            .next()
            .is_some_and(|name| format!("data.{package}.{name}") == decision)
    };
    let others = module.policy.iter().filter(|rule| !is_decision(rule));
    others.into_iter().find_map(|rule| Some((rule.as_ref(), copy.unsound(rule)?)))
}

struct Copy<'a> {
    text: &'a str,
    globals: Names,
    /// Rules that are a literal, and so defined.
    constants: Names,
    edits: Edits,
    /// Variables that are indexes somewhere in the rule.
    indexes: Names,
    fresh: usize,
}

/// What stands at one level of a query, that of its comprehensions left out.
#[derive(Default)]
struct Level<'a> {
    /// Variables that are mentioned.
    mentioned: Names,
    /// Comprehensions and `every`, each a level of its own.
    inner: Vec<Inner<'a>>,
}

enum Inner<'a> {
    Comprehension(&'a Ref<Expr>),
    Every(&'a Literal),
}

impl Inner<'_> {
    /// Whether a variable of this name stands anywhere in it.
    fn mentions(&self, name: &str) -> bool {
        let tree = match self {
            Self::Comprehension(e) => serde_json::to_value(e.as_ref()),
            Self::Every(literal) => serde_json::to_value(literal),
        };
        // What cannot be looked at may mention it.
        let Ok(tree) = tree else { return true };
        let is = |var: &serde_json::Value| var.get("value").and_then(serde_json::Value::as_str) == Some(name);
        hazards::nodes(&tree, &[]).any(|(kind, node)| kind == "Var" && is(node))
    }
}

impl<'a> Copy<'a> {
    fn new<'m>(module: &Module, text: &'a str, all: impl Iterator<Item = &'m Module>) -> Self {
        let package = |m: &Module| m.package.refr.span().text().to_owned();
        let mut globals = Names::from(["input".to_owned(), "data".to_owned()]);
        globals.extend(module.imports.iter().map(|import| import_of(import).0.to_owned()));
        let mut constants = Names::new();
        for other in all.filter(|m| package(m) == package(module)) {
            globals.extend(other.policy.iter().filter_map(|rule| names_of_rule(rule).into_iter().next()));
            constants.extend(other.policy.iter().filter_map(|rule| constant_of(rule)));
        }
        let (edits, indexes) = (Edits::default(), Names::new());
        Self { text, globals, constants, edits, indexes, fresh: 0 }
    }

    fn rule(&mut self, rule: &Rule) -> Result<(), String> {
        let Rule::Spec { head, bodies, .. } = rule else { return Ok(()) };
        if let Some(what) = self.unsound(rule) {
            return Err(format!("{what}: bind it in the body first"));
        }
        let mut outer = self.globals.clone();
        let (name, value) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref().map(|a| &a.value)),
            RuleHead::Set { refr, key, .. } => (refr, key.as_ref()),
            RuleHead::Func { refr, args, assign, .. } => {
                let mut level = Level::default();
                for arg in args {
                    level.expression(arg);
                }
                outer.extend(level.mentioned);
                (refr, assign.as_ref().map(|a| &a.value))
            }
        };
        if bodies.is_empty() {
            return self.level(None, value.into_iter().chain([name]), &outer);
        }
        for (i, body) in bodies.iter().enumerate() {
            let own = body.assign.as_ref().map(|a| &a.value).or(value.filter(|_| i == 0));
            self.level(Some(&body.query), own.into_iter().chain([name]), &outer)?;
        }
        Ok(())
    }

    /// What of a rule neither engine evaluates as OPA does.
    fn unsound(&self, rule: &Rule) -> Option<String> {
        let Rule::Spec { head, bodies, .. } = rule else { return None };
        let (name, value) = match head {
            RuleHead::Compr { refr, assign, .. } | RuleHead::Func { refr, assign, .. } => {
                (refr, assign.as_ref().map(|a| &a.value))
            }
            RuleHead::Set { .. } => return None,
        };
        if matches!(head, RuleHead::Compr { .. })
            && is_partial(name)
            && !keys(name).into_iter().chain(value).all(|e| self.is_defined(e, None))
        {
            let name = text(name).split('[').next().unwrap_or_default();
            return Some(format!("a key or value of `{name}` may be undefined"));
        }
        let goes_on = |i: usize| bodies.get(i + 1).is_some_and(|next| next.is_else);
        let open = bodies.iter().enumerate().any(|(i, body)| {
            let own = body.assign.as_ref().map(|a| &a.value).or(value.filter(|_| i == 0));
            goes_on(i) && own.is_some_and(|value| !self.is_defined(value, Some(body)))
        });
        open.then(|| format!("a value of `{}` that an `else` follows may be undefined", text(name)))
    }

    /// A query with what is evaluated after it.
    fn level<'b>(
        &mut self,
        query: Option<&'b Ref<Query>>,
        after: impl IntoIterator<Item = &'b Ref<Expr>>,
        outer: &Names,
    ) -> Result<(), String> {
        let mut level = Level::default();
        let (mut declared, mut indexes) = (Names::new(), Names::new());
        for statement in query.iter().flat_map(|q| &q.stmts) {
            level.literal(&statement.literal);
            if let Literal::Expr { expr, .. } = &statement.literal
                && let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref()
            {
                let mut pattern = Level::default();
                pattern.expression(lhs);
                indexes.extend(pattern.mentioned.intersection(&self.indexes).cloned());
                let as_it_is = pattern.mentioned.iter().any(|name| {
                    let hides = outer.contains(name) || !declared.insert(name.clone());
                    hides || self.indexes.contains(name)
                });
                let (start, end) = (lhs.span().start as usize, lhs.span().end as usize);
                let at = self.text.get(end..).and_then(|rest| rest.find(":=")).map(|at| end + at);
                let at = at.ok_or("an assignment was not found in its text")?;
                if !as_it_is {
                    self.edits.replace(at, at + 2, "=");
                } else if let Expr::Var { span, .. } = lhs.as_ref() {
                    let end = closed(self.text, expr.span().end as usize);
                    let (name, before) = (span.text(), self.text.get(..start).unwrap_or_default().trim_end());
                    // A body of one statement may have no braces.
                    let (open, close) = if before.ends_with("if") { ("{ ", " }") } else { ("", "") };
                    self.edits.replace(start, start, open);
                    self.edits.replace(end, end, &format!("; {name} == {name}{close}"));
                }
                // A pattern of several is checked as it is.
            }
        }
        after.into_iter().for_each(|e| level.expression(e));
        if let Some(name) = indexes.iter().find(|name| level.inner.iter().any(|inner| inner.mentions(name))) {
            return Err(format!(
                "the variable `{name}` may be an index in a comprehension further in: use `some` there"
            ));
        }
        let mut visible = outer.clone();
        visible.extend(level.mentioned);
        for inner in level.inner {
            match inner {
                Inner::Every(Literal::Every { key, value, query, .. }) => {
                    let mut visible = visible.clone();
                    let names: Vec<_> =
                        key.iter().chain([value]).map(|name| name.text().to_owned()).collect();
                    if let Some(name) = names.iter().find(|name| self.indexes.contains(*name)) {
                        return Err(format!(
                            "the variable `{name}` of an `every` is an index: use `some` and `not`"
                        ));
                    }
                    visible.extend(names);
                    self.level(Some(query), [], &visible)?;
                }
                Inner::Every(_) => {}
                Inner::Comprehension(e) => self.comprehension(e, &visible)?,
            }
        }
        Ok(())
    }

    fn comprehension(&mut self, e: &Ref<Expr>, outer: &Names) -> Result<(), String> {
        let (span, term, query) = match e.as_ref() {
            Expr::ArrayCompr { span, term, query, .. } | Expr::SetCompr { span, term, query, .. } => {
                (span, term, query)
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                return self.level(Some(query), [key, value], outer);
            }
            _ => return Ok(()),
        };
        self.level(Some(query), [term], outer)?;
        if self.is_defined(term, None) {
            return Ok(());
        }
        // From the bracket to the bar, from the bar to the other bracket.
        let (start, bar, end) = (span.start as usize + 1, query.span.start as usize, span.end as usize - 1);
        if self.text.get(bar..=bar) != Some("|") {
            return Err("a comprehension was not found in its text".to_owned());
        }
        let moved = self.edits.cut(self.text, start, bar).ok_or("a term was not found in its text")?;
        self.fresh += 1;
        let name = format!("{FRESH}{}", self.fresh);
        self.edits.replace(start, bar, &format!("{name} "));
        self.edits.replace(end, end, &format!("\n; {name} = {}\n", moved.trim()));
        Ok(())
    }

    /// Whether an expression has a value whenever its variables have. A reference has where the body asks for it.
    fn is_defined(&self, e: &Ref<Expr>, body: Option<&RuleBody>) -> bool {
        let asked = |e: &Ref<Expr>| {
            body.is_some_and(|body| {
                body.query.stmts.iter().any(|s| match &s.literal {
                    Literal::Expr { expr, .. } => s.with_mods.is_empty() && text(expr) == text(e),
                    _ => false,
                })
            })
        };
        match e.as_ref() {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. }
            | Expr::ArrayCompr { .. }
            | Expr::SetCompr { .. }
            | Expr::ObjectCompr { .. } => true,
            Expr::Var { span, .. } => {
                let name = span.text();
                !self.globals.contains(name) || self.constants.contains(name) || asked(e)
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                items.iter().all(|e| self.is_defined(e, body))
            }
            Expr::Object { fields, .. } => {
                fields.iter().all(|(_, k, v)| self.is_defined(k, body) && self.is_defined(v, body))
            }
            Expr::RefDot { .. } | Expr::RefBrack { .. } => asked(e),
            _ => false,
        }
    }
}

/// Variables in the indexes of a rule.
fn indexes_in(rule: &Rule) -> Result<Names, String> {
    let tree = serde_json::to_value(rule).map_err(|e| e.to_string())?;
    let mut names = Names::new();
    for (_, node) in hazards::nodes(&tree, &[]).filter(|(kind, _)| *kind == "RefBrack") {
        let Some(index) = node.get("index") else { continue };
        let own = index.get("Var").into_iter();
        let inner = hazards::nodes(index, &[]).filter(|(kind, _)| *kind == "Var").map(|(_, var)| var);
        names.extend(own.chain(inner).filter_map(|var| Some(var.get("value")?.as_str()?.to_owned())));
    }
    Ok(names)
}

/// The name of a rule that is no more than a literal.
fn constant_of(rule: &Rule) -> Option<String> {
    let Rule::Spec { head: RuleHead::Compr { refr, assign: Some(assign), .. }, bodies, .. } = rule else {
        return None;
    };
    let literal =
        matches!(assign.value.as_ref(), Expr::String { .. } | Expr::Number { .. } | Expr::Bool { .. });
    match refr.as_ref() {
        Expr::Var { span, .. } if bodies.is_empty() && literal => Some(span.text().to_owned()),
        _ => None,
    }
}

fn text(e: &Ref<Expr>) -> &str {
    e.span().text()
}

/// The computed steps of a reference.
fn keys(name: &Ref<Expr>) -> Vec<&Ref<Expr>> {
    let (mut at, mut keys) = (name, Vec::new());
    loop {
        match at.as_ref() {
            Expr::RefBrack { refr, index, .. } => {
                keys.push(index);
                at = refr;
            }
            Expr::RefDot { refr, .. } => at = refr,
            _ => return keys,
        }
    }
}

impl<'a> Level<'a> {
    fn literal(&mut self, literal: &'a Literal) {
        match literal {
            Literal::SomeVars { vars, .. } => self.mentioned.extend(vars.iter().map(|v| v.text().to_owned())),
            Literal::SomeIn { key, value, collection, .. } => {
                key.iter().chain([value, collection]).for_each(|e| self.expression(e));
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expression(expr),
            Literal::Every { domain, .. } => {
                self.expression(domain);
                self.inner.push(Inner::Every(literal));
            }
        }
    }

    fn expression(&mut self, e: &'a Ref<Expr>) {
        match e.as_ref() {
            Expr::Var { span, .. } => {
                if span.text() != "_" {
                    self.mentioned.insert(span.text().to_owned());
                }
            }
            Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. } => {
                self.inner.push(Inner::Comprehension(e));
            }
            _ => children(e).into_iter().for_each(|e| self.expression(e)),
        }
    }
}

#[cfg(test)]
mod tests;
