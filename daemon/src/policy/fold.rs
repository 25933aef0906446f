//! What the documents settle, settled when a set is loaded: modules without the bodies that no input can make true.
//!
//! A body that begins with `data.emergency != {"everything": false}` or `count(data.network.denied) > 0` is decided by a
//! document, which does not change while the set is in force. Where it fails, the body is taken out of the RVM's copy;
//! where all bodies of a rule are, so is what begins with that rule: a policy that is switched off costs nothing.
//!
//! Guarantees: only statements at the beginning of a body are looked at, so nothing that is evaluated before one of them
//! is passed over, an error of it included; lines stay where they are. Rules that collect, functions and defaults are left
//! alone, and so is what is in `data.portcullis` or could be a rule.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
};

use regorus::{
    Engine, Value,
    unstable::{Expr, Literal, LiteralStmt, Module, Ref, Rule, RuleBody, RuleHead},
};

use super::{
    hazards, machine,
    reads::constant,
    rewrite::{Edits, children, closed},
};

/// Times that what was found may lead to more.
const PASSES: usize = 32;

/// What a statement at the beginning of a body comes to for every input.
#[derive(Clone, Copy, PartialEq)]
enum Settled {
    True,
    False,
    Open,
}

/// Copies of a set's modules.
#[derive(Debug)]
pub(super) struct Folded {
    /// Each with its path and text.
    pub modules: Vec<(String, String)>,
    /// Bodies that are not in them.
    pub left_out: usize,
}

/// Copies modules of a set with its documents; `rules` are the paths of its rules, such as `data.a.b`.
pub(super) fn folded(modules: &[(String, String)], data: &Value, rules: &[&str]) -> Result<Folded, String> {
    let parsed =
        modules.iter().map(|(path, text)| machine::parse(path, text)).collect::<Result<Vec<_>, _>>()?;
    let mut engine = Engine::new();
    engine.add_data(data.clone()).map_err(|e| e.to_string())?;
    let has_own_count = rules.iter().any(|rule| rule.rsplit('.').next() == Some("count"));
    let rules = rules.iter().copied().collect();
    let mut fold =
        Fold { engine, rules, has_own_count, asked: BTreeMap::new(), dead: BTreeSet::new(), left_out: 0 };
    let looked: Vec<_> = parsed.iter().map(Looked::new).collect();
    for _ in 0..PASSES {
        let before = fold.dead.len();
        fold.find(&looked);
        if fold.dead.len() == before {
            break;
        }
    }
    let paths = modules.iter().map(|(path, _)| path.clone());
    let modules = paths.zip(looked.iter().map(|module| fold.rewritten(module))).collect();
    Ok(Folded { modules, left_out: fold.left_out })
}

/// A module with what is looked at.
struct Looked<'m> {
    module: &'m Module,
    text: &'m str,
    /// Paths of all rules, and those that are plain.
    rules: Vec<(String, Option<Plain<'m>>)>,
}

impl<'m> Looked<'m> {
    fn new(module: &'m Module) -> Self {
        let path = |rule: &Rule| path_of(module, rule).unwrap_or_default();
        let rules = module.policy.iter().map(|rule| (path(rule), plain(module, rule))).collect();
        Self { module, text: module.package.span.source.get_contents(), rules }
    }
}

struct Fold<'a> {
    /// With the documents and no rules.
    engine: Engine,
    rules: BTreeSet<&'a str>,
    /// Whether a rule has the name of the builtin.
    has_own_count: bool,
    /// Expressions that were asked before.
    asked: BTreeMap<String, Settled>,
    /// Paths of rules that never have a value.
    dead: BTreeSet<String>,
    /// Bodies that were taken out.
    left_out: usize,
}

/// A rule that gives one value, as far as it is looked at: its bodies, each an `else` of the one before.
struct Plain<'m> {
    /// Where its head begins, and where its name ends.
    head: (usize, usize),
    bodies: &'m [RuleBody],
    /// Names that are variables somewhere in it.
    local: BTreeSet<String>,
}

impl Fold<'_> {
    /// Finds rules that are never true.
    fn find(&mut self, modules: &[Looked<'_>]) {
        // A path has all its definitions dead, or is not.
        let mut all: BTreeMap<&str, bool> = BTreeMap::new();
        for module in modules {
            for (path, plain) in &module.rules {
                let is_dead = plain.as_ref().is_some_and(|plain| {
                    plain.bodies.iter().all(|body| self.body(module, plain, body).0 == Settled::False)
                });
                // A package of a rule's name has rules of its own.
                let is_dead = is_dead && !self.has_below(path);
                all.entry(path).and_modify(|dead| *dead &= is_dead).or_insert(is_dead);
            }
        }
        self.dead.extend(all.into_iter().filter(|(_, dead)| *dead).map(|(path, _)| path.to_owned()));
    }

    /// Whether a rule's path lies below another.
    fn has_below(&self, path: &str) -> bool {
        ['.', '['].iter().any(|end| {
            let below = format!("{path}{end}");
            self.rules.range(below.as_str()..).next().is_some_and(|rule| rule.starts_with(&below))
        })
    }

    /// Whether a path is a rule's, or lies below one or above.
    fn meets_a_rule(&self, path: &str) -> bool {
        let ends = path.match_indices(['.', '[']).map(|(at, _)| at).chain([path.len()]);
        ends.map(|at| &path[..at]).any(|above| self.rules.contains(above)) || self.has_below(path)
    }

    /// Whether a body is dead; if not, how many of its first statements are true whatever is asked.
    fn body(&mut self, module: &Looked<'_>, plain: &Plain<'_>, body: &RuleBody) -> (Settled, usize) {
        for (n, statement) in body.query.stmts.iter().enumerate() {
            match self.statement(module, plain, statement) {
                Settled::True => {}
                Settled::False => return (Settled::False, n),
                Settled::Open => return (Settled::Open, n),
            }
        }
        (Settled::Open, body.query.stmts.len())
    }

    fn statement(&mut self, module: &Looked<'_>, plain: &Plain<'_>, statement: &LiteralStmt) -> Settled {
        if !statement.with_mods.is_empty() {
            return Settled::Open;
        }
        match &statement.literal {
            Literal::Expr { expr, .. } if self.is_dead(module.module, plain, expr) => Settled::False,
            Literal::NotExpr { expr, .. } if self.is_dead(module.module, plain, expr) => Settled::True,
            Literal::Expr { expr, .. } if self.is_settled(plain, expr) => {
                self.ask(module.text.get(place(module.text, statement)).unwrap_or_default())
            }
            _ => Settled::Open,
        }
    }

    /// Whether an expression is a rule that has no value, or lies below one.
    fn is_dead(&self, module: &Module, plain: &Plain<'_>, e: &Ref<Expr>) -> bool {
        let is_clear = |names: &Vec<String>| {
            !plain.local.contains(&names[0]) && !names.iter().any(|name| name.contains('.'))
        };
        let Some(names) = constant(e).filter(is_clear) else { return false };
        let (first, rest) = (names[0].as_str(), &names[1..]);
        // Imports are written out before.
        let mut path = match first {
            "data" => "data".to_owned(),
            own => format!("data.{}.{own}", module.package.refr.span().text()),
        };
        for name in std::iter::once(None).chain(rest.iter().map(Some)) {
            if let Some(name) = name {
                path = format!("{path}.{name}");
            }
            if self.dead.contains(&path) {
                return true;
            }
        }
        false
    }

    /// Whether an expression depends on documents alone: literals, constant paths of `data`, comparisons and counts.
    fn is_settled(&self, plain: &Plain<'_>, e: &Ref<Expr>) -> bool {
        match e.as_ref() {
            Expr::RefDot { .. } | Expr::RefBrack { .. } => constant(e).is_some_and(|names| {
                let own = names.get(1).is_none_or(|name| name == "portcullis");
                let odd = names.iter().any(|name| name.contains('.'));
                let path = names.join(".");
                names[0] == "data"
                    && !own
                    && !odd
                    && !plain.local.contains("data")
                    && !self.meets_a_rule(&path)
            }),
            Expr::BoolExpr { lhs, rhs, .. } => self.is_settled(plain, lhs) && self.is_settled(plain, rhs),
            Expr::Call { fcn, params, .. } => {
                let is_count = matches!(fcn.as_ref(), Expr::Var { span, .. } if span.text() == "count");
                is_count
                    && params.len() == 1
                    && !plain.local.contains("count")
                    && !self.has_own_count
                    && self.is_settled(plain, &params[0])
            }
            Expr::Array { .. } | Expr::Object { .. } | Expr::Set { .. } => {
                children(e).into_iter().all(|e| self.is_settled(plain, e))
            }
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => true,
            _ => false,
        }
    }

    /// What such an expression is.
    fn ask(&mut self, text: &str) -> Settled {
        if let Some(known) = self.asked.get(text) {
            return *known;
        }
        let found = match self.engine.eval_query(text.to_owned(), false) {
            Ok(found) => {
                let value = found.result.first().and_then(|r| r.expressions.first()).map(|e| &e.value);
                match value {
                    None | Some(Value::Undefined | Value::Bool(false)) => Settled::False,
                    Some(_) => Settled::True,
                }
            }
            Err(_) => Settled::Open,
        };
        self.asked.insert(text.to_owned(), found);
        found
    }

    fn rewritten(&mut self, module: &Looked<'_>) -> String {
        let (mut edits, text) = (Edits::default(), module.text);
        for plain in module.rules.iter().filter_map(|(_, plain)| plain.as_ref()) {
            let judged: Vec<_> = plain.bodies.iter().map(|body| self.body(module, plain, body)).collect();
            let is_dead = |i: usize| judged[i].0 == Settled::False;
            let first = (0..judged.len()).find(|i| !is_dead(*i));
            self.left_out += (0..judged.len()).filter(|i| is_dead(*i)).count();
            for (i, body) in plain.bodies.iter().enumerate() {
                let (start, end) = (body.span.start as usize, closed(text, body.span.end as usize));
                match first {
                    // Of a rule that has none left, the first one stays, as one that fails.
                    None if i == 0 => put(&mut edits, text, &body.query.stmts[judged[i].1], "false"),
                    // The head goes on with the first that is left, behind its `else`.
                    Some(first) if i == first && i > 0 => {
                        let (head, name_end) = plain.head;
                        let end = start + "else".len();
                        edits.replace(head, head, &lines(text, name_end..end));
                        edits.replace(name_end, end, " ");
                    }
                    Some(first) if i < first => {}
                    _ if is_dead(i) => edits.replace(start, end, &lines(text, start..end)),
                    _ => {}
                }
                if !is_dead(i) {
                    body.query.stmts.iter().take(judged[i].1).for_each(|s| put(&mut edits, text, s, "true"));
                }
            }
        }
        edits.apply(text)
    }
}

/// Where a statement stands.
fn place(text: &str, statement: &LiteralStmt) -> Range<usize> {
    statement.span.start as usize..closed(text, statement.span.end as usize)
}

/// Puts a word in a statement's place.
fn put(edits: &mut Edits, text: &str, statement: &LiteralStmt, word: &str) {
    let at = place(text, statement);
    edits.replace(at.start, at.end, &format!("{word}{}", lines(text, at.clone())));
}

/// The ends of lines in a part of a text.
fn lines(text: &str, at: Range<usize>) -> String {
    text.get(at).unwrap_or_default().chars().filter(|c| *c == '\n').collect()
}

/// The path of a rule of any kind; none of one whose name is computed.
fn path_of(module: &Module, rule: &Rule) -> Option<String> {
    let refr = match rule {
        Rule::Default { refr, .. } => refr,
        Rule::Spec { head, .. } => match head {
            RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. } => refr,
        },
    };
    // Of `a.b` and `a[x]` the first name: the whole of it has then a definition that is not looked at.
    let mut root = refr;
    while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = root.as_ref() {
        root = refr;
    }
    let Expr::Var { span, .. } = root.as_ref() else { return None };
    Some(format!("data.{}.{}", module.package.refr.span().text(), span.text()))
}

/// A rule as it is looked at; none of one that is left alone.
fn plain<'m>(module: &Module, rule: &'m Rule) -> Option<Plain<'m>> {
    let Rule::Spec { head: RuleHead::Compr { refr, .. }, bodies, .. } = rule else { return None };
    let is_chain = bodies.iter().skip(1).all(|body| body.is_else);
    if bodies.is_empty() || !is_chain || !matches!(refr.as_ref(), Expr::Var { .. }) {
        return None;
    }
    let tree = serde_json::to_value(rule).ok()?;
    let text = module.package.span.source.get_contents();
    let mut local = BTreeSet::new();
    for (kind, node) in hazards::nodes(&tree, &[]) {
        // Whatever declares or binds: what is a variable there may be one anywhere in the rule.
        let bound = match kind {
            "SomeVars" | "SomeIn" | "Every" | "SomeDecl" => Some(node),
            "AssignExpr" => node.get("lhs"),
            _ => None,
        };
        if let Some(node) = bound {
            words(node, text, &mut local);
        }
    }
    let head = (refr.span().start as usize, refr.span().end as usize);
    Some(Plain { head, bodies, local })
}

/// Every name in a part of a syntax tree: of variables, and what spans of variables cover.
fn words(node: &serde_json::Value, text: &str, names: &mut BTreeSet<String>) {
    let mut spans = Vec::new();
    for (kind, below) in hazards::nodes(node, &[]) {
        match kind {
            "Var" => names.extend(below.get("value").and_then(serde_json::Value::as_str).map(str::to_owned)),
            "vars" | "key" | "value" => spans.push(below),
            _ => {}
        }
    }
    for span in spans.into_iter().flat_map(|s| s.as_array().cloned().unwrap_or_else(|| vec![s.clone()])) {
        let at = |name: &str| {
            span.get(name).and_then(serde_json::Value::as_u64).and_then(|n| usize::try_from(n).ok())
        };
        let word = at("start").zip(at("end")).and_then(|(start, end)| text.get(start..end));
        names.extend(word.map(str::to_owned));
    }
}

#[cfg(test)]
mod tests;
