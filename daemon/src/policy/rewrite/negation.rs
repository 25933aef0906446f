//! `not` as OPA reads it: what a negated expression asks for is asked for before it.
//!
//! OPA binds the references and calls in the operands of `not f(input.x)` ahead of the `not`: where `input.x` is
//! undefined, the body ends, and nothing is negated. regorus negates that too, so that `not input.client in blocked`
//! lets a request without a client pass. Here it becomes `portcullis_not_1 := input.client; not portcullis_not_1 in …`.
//! A lone reference stays as it is: `not input.x` is true where there is no `x`, in OPA too.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{BoolOp, Expr, Literal, LiteralStmt, Module, Query, Ref};

use super::{
    super::{
        machine,
        reads::{import_of, names_of_rule},
    },
    Edits, put_before, queries_of, queries_within,
};

/// What the bound names begin with.
pub const FRESH: &str = "portcullis_not_";
/// How deep negations stand in each other, at most; the loader bounds what is deeper.
const PASSES: usize = 32;

/// Names of rules, by package.
pub type RuleNames = BTreeMap<String, BTreeSet<String>>;

/// Notes the names of a module's rules.
pub fn note(names: &mut RuleNames, module: &Module) {
    let own = names.entry(module.package.refr.span().text().to_owned()).or_default();
    own.extend(module.policy.iter().filter_map(|rule| names_of_rule(rule).into_iter().next()));
}

/// A module's text as OPA reads it. Once more for what stands in a negation within another.
pub fn mended(path: &str, text: &str, names: &RuleNames) -> String {
    let mut text = text.to_owned();
    for pass in 1..=PASSES {
        if !text.contains("not") {
            break;
        }
        let parsed = machine::parse_either(path, &text);
        let Ok(module) = parsed else { break };
        let mut all = Edits::default();
        edits(&module, &text, names, pass, &mut all);
        if all.is_empty() {
            break;
        }
        text = all.apply(&text);
    }
    text
}

/// Adds the edits that a module needs.
/// `pass` tells its names from those of another.
fn edits(module: &Module, text: &str, names: &RuleNames, pass: usize, edits: &mut Edits) {
    let mut global = names.get(module.package.refr.span().text()).cloned().unwrap_or_default();
    global.extend(["input".to_owned(), "data".to_owned()]);
    global.extend(module.imports.iter().map(|import| import_of(import).0.to_owned()));
    let mut walk = Walk { text, global, edits, pass, fresh: 0, bound: Vec::new() };
    for rule in &module.policy {
        queries_of(rule, &mut |query| walk.query(query));
    }
}

struct Walk<'a> {
    text: &'a str,
    /// Names that are no variables.
    global: BTreeSet<String>,
    edits: &'a mut Edits,
    pass: usize,
    fresh: usize,
    /// Of the statement at hand: the names and what they stand for.
    bound: Vec<(String, String)>,
}

impl Walk<'_> {
    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::NotExpr { expr, .. } => self.negated(statement, expr, query.stmts.len() == 1),
                Literal::Expr { expr, .. } => self.within(expr),
                Literal::SomeIn { collection, .. } => self.within(collection),
                Literal::Every { domain, query, .. } => {
                    self.within(domain);
                    self.query(query);
                }
                Literal::SomeVars { .. } => {}
            }
        }
    }

    /// Queries within an expression.
    fn within(&mut self, e: &Ref<Expr>) {
        queries_within(e, &mut |query| self.query(query));
    }

    fn negated(&mut self, statement: &LiteralStmt, e: &Ref<Expr>, alone: bool) {
        match e.as_ref() {
            Expr::RefDot { .. } | Expr::RefBrack { .. } => self.inside(e),
            // A unification takes its sides as they are, and so does `==`, which OPA makes one of.
            Expr::AssignExpr { lhs, rhs, .. } | Expr::BoolExpr { op: BoolOp::Eq, lhs, rhs, .. } => {
                self.side(lhs);
                self.side(rhs);
            }
            _ => children(e).into_iter().for_each(|e| self.operand(e)),
        }
        // Of what stays in place, the queries within.
        let bound = std::mem::take(&mut self.bound);
        if bound.is_empty() {
            return self.within(e);
        }
        let first =
            |with: &str| bound.iter().map(|(name, e)| [name, " := ", e, with, "; "].concat()).collect();
        put_before(self.text, self.edits, statement, alone, first);
    }

    /// A side of an equation: a reference is taken as it is, and what is made of some is not.
    fn side(&mut self, e: &Ref<Expr>) {
        match e.as_ref() {
            Expr::RefDot { .. } | Expr::RefBrack { .. } | Expr::Var { .. } => self.inside(e),
            _ => self.operand(e),
        }
    }

    /// An operand of what is negated.
    fn operand(&mut self, e: &Ref<Expr>) {
        match e.as_ref() {
            Expr::RefDot { .. } | Expr::RefBrack { .. } | Expr::Call { .. } => self.bind(e),
            Expr::Var { span, .. } if self.global.contains(span.text()) => self.bind(e),
            _ if is_comprehension(e) => {}
            _ => children(e).into_iter().for_each(|e| self.operand(e)),
        }
    }

    /// What a reference takes its steps by, and what it starts from.
    fn inside(&mut self, e: &Ref<Expr>) {
        match e.as_ref() {
            Expr::RefDot { refr, .. } => self.inside(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.inside(refr);
                self.operand(index);
            }
            Expr::Call { .. } => self.bind(e),
            _ => {}
        }
    }

    fn bind(&mut self, e: &Ref<Expr>) {
        let (start, end) = (e.span().start as usize, e.span().end as usize);
        let Some(text) = self.text.get(start..end) else { return };
        self.fresh += 1;
        let name = format!("{FRESH}{}_{}", self.pass, self.fresh);
        self.edits.replace(start, end, &name);
        self.bound.push((name, text.to_owned()));
    }
}

fn is_comprehension(e: &Expr) -> bool {
    matches!(e, Expr::ArrayCompr { .. } | Expr::SetCompr { .. } | Expr::ObjectCompr { .. })
}

/// What an expression consists of; of comprehensions nothing.
pub fn children(e: &Expr) -> Vec<&Ref<Expr>> {
    match e {
        Expr::Array { items, .. } | Expr::Set { items, .. } => items.iter().collect(),
        Expr::Object { fields, .. } => fields.iter().flat_map(|(_, k, v)| [k, v]).collect(),
        Expr::Call { params, .. } => params.iter().collect(),
        Expr::UnaryExpr { expr, .. } => vec![expr],
        Expr::RefDot { refr, .. } => vec![refr],
        Expr::RefBrack { refr, index, .. } => vec![refr, index],
        Expr::BinExpr { lhs, rhs, .. }
        | Expr::BoolExpr { lhs, rhs, .. }
        | Expr::ArithExpr { lhs, rhs, .. }
        | Expr::AssignExpr { lhs, rhs, .. } => vec![lhs, rhs],
        Expr::Membership { key, value, collection, .. } => key.iter().chain([value, collection]).collect(),
        _ => Vec::new(),
    }
}
