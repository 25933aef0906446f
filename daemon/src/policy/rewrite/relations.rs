//! `walk` as OPA reads it: a relation, which gives one pair of path and value after the other.
//!
//! regorus has that for `walk(x, [path, value])` alone; `[path, value] := walk(x)` asks it for all pairs at once, in a list
//! that the pattern does not match, and nothing says so. Here each such call gets a statement before its own:
//! `walk(x, portcullis_pair_1); [path, value] := portcullis_pair_1`. What is left (the value of a rule, a negation) is
//! refused by [`super::super::hazards`]. What `walk` goes over is measured before, for regorus's has no bound.

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Module, Query, Ref};

use super::{super::machine, Edits, RuleNames, children, closed, put_before, queries_of, queries_within};

/// What the bound names begin with.
pub const FRESH: &str = "portcullis_pair_";
/// The builtin that measures what is to be gone over.
pub const WALKED: &str = "portcullis_walked";
/// How deep calls stand in each other, at most; what is deeper is refused.
const PASSES: usize = 32;

/// A module's text as OPA reads it. Once more for what stands in the argument of another.
///
/// A function of the package's own of that name is what it is called for, and left alone.
pub fn mended(path: &str, text: &str, names: &RuleNames) -> String {
    let is_own = |module: &Module| {
        names.get(module.package.refr.span().text()).is_some_and(|own| own.contains("walk"))
    };
    if parsed(path, text).is_none_or(|module| is_own(&module)) {
        return text.to_owned();
    }
    let mut text = text.to_owned();
    for pass in 1..=PASSES {
        let Some(module) = parsed(path, &text) else { return text };
        let mut walk = Walk { text: &text, edits: Edits::default(), pass, fresh: 0, bound: Vec::new() };
        for rule in &module.policy {
            queries_of(rule, &mut |query| walk.query(query));
        }
        if walk.edits.is_empty() {
            break;
        }
        text = walk.edits.apply(&text);
    }
    let Some(module) = parsed(path, &text) else { return text };
    let mut walk = Walk { text: &text, edits: Edits::default(), pass: 0, fresh: 0, bound: Vec::new() };
    for rule in &module.policy {
        queries_of(rule, &mut |query| walk.measure(query));
    }
    walk.edits.apply(&text)
}

fn parsed(path: &str, text: &str) -> Option<Module> {
    if !text.contains("walk") {
        return None;
    }
    machine::parse_either(path, text).ok()
}

/// The arguments of a call of `walk`.
fn walked(e: &Expr) -> Option<(&Ref<Expr>, &[Ref<Expr>])> {
    let Expr::Call { fcn, params, .. } = e else { return None };
    matches!(fcn.as_ref(), Expr::Var { span, .. } if span.text() == "walk").then_some((fcn, params))
}

/// Whether there is such a call in an expression, but for what stands in queries of its own.
fn has_calls(e: &Expr) -> bool {
    matches!(walked(e), Some((_, [_]))) || children(e).into_iter().any(|e| has_calls(e))
}

fn has_variables(e: &Expr) -> bool {
    matches!(e, Expr::Var { span, .. } if span.text() != "_")
        || children(e).into_iter().any(|e| has_variables(e))
}

struct Walk<'a> {
    text: &'a str,
    edits: Edits,
    /// Tells its names from those of another pass.
    pass: usize,
    fresh: usize,
    /// Of the statement at hand: the names, and what is gone over for each.
    bound: Vec<(String, String)>,
}

impl Walk<'_> {
    fn query(&mut self, query: &Query) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::Expr { expr: e, .. } | Literal::SomeIn { collection: e, .. } => {
                    self.statement(statement, e, query.stmts.len() == 1);
                }
                Literal::NotExpr { expr, .. } => queries_within(expr, &mut |query| self.query(query)),
                Literal::Every { domain, query, .. } => {
                    queries_within(domain, &mut |query| self.query(query));
                    self.query(query);
                }
                Literal::SomeVars { .. } => {}
            }
        }
    }

    fn statement(&mut self, statement: &LiteralStmt, e: &Ref<Expr>, alone: bool) {
        if self.equation(e) {
            return;
        }
        self.calls(e);
        let bound = std::mem::take(&mut self.bound);
        if bound.is_empty() {
            return queries_within(e, &mut |query| self.query(query));
        }
        let call =
            |(name, x): &(String, String), with: &str| ["walk(", x, ", ", name, ")", with, "; "].concat();
        let first = |with: &str| bound.iter().map(|one| call(one, with)).collect();
        put_before(self.text, &mut self.edits, statement, alone, first);
    }

    /// `pattern = walk(x)`, and `:=` where nothing is declared: the same as `walk(x, pattern)`, with which regorus can compare
    /// constants. Tells whether it was one.
    fn equation(&mut self, e: &Ref<Expr>) -> bool {
        let Expr::AssignExpr { op, lhs, rhs, .. } = e.as_ref() else { return false };
        let (call, pattern) = if walked(rhs).is_some() { (rhs, lhs) } else { (lhs, rhs) };
        let Some((_, [x])) = walked(call) else { return false };
        let declares = *op == AssignOp::ColEq && has_variables(pattern);
        if declares || !matches!(pattern.as_ref(), Expr::Array { .. }) || has_calls(x) || has_calls(pattern) {
            return false;
        }
        let part = |e: &Expr| {
            let end = closed(self.text, e.span().end as usize);
            (e.span().start as usize, end, self.text.get(e.span().start as usize..end).unwrap_or_default())
        };
        let ((a, b, call), (c, d, pattern)) = (part(call), part(pattern));
        let Some(call) = call.trim_end().strip_suffix(')') else { return false };
        let (start, end) = (a.min(c), b.max(d));
        let lines = |text: &str| text.matches('\n').count();
        let whole = self.text.get(start..end).map_or(0, lines);
        let rest = "\n".repeat(whole.saturating_sub(lines(call) + lines(pattern)));
        self.edits.replace(start, end, &format!("{call}, {pattern}{rest})"));
        true
    }

    /// Binds calls in an expression that give a pair; of such that stand in each other the innermost.
    fn calls(&mut self, e: &Ref<Expr>) {
        let before = self.bound.len();
        for e in children(e) {
            self.calls(e);
        }
        let Some((fcn, [x])) = walked(e).filter(|_| self.bound.len() == before) else { return };
        let (start, end) = (e.span().start as usize, closed(self.text, x.span().end as usize));
        // Objects' spans begin somewhere inside of them: the argument is what is between the parentheses.
        let open = (fcn.span().end as usize).max(start);
        let call = self.text.get(open..e.span().end as usize).unwrap_or_default();
        let Some(inside) = call.find('(').map(|at| open + at + 1).filter(|at| *at <= end) else { return };
        let Some(argument) = self.text.get(inside..end) else { return };
        self.fresh += 1;
        let name = format!("{FRESH}{}_{}", self.pass, self.fresh);
        self.bound.push((name.clone(), argument.to_owned()));
        self.edits.replace(start, e.span().end as usize, &name);
    }

    fn measure(&mut self, query: &Query) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::Expr { expr: e, .. }
                | Literal::NotExpr { expr: e, .. }
                | Literal::SomeIn { collection: e, .. } => self.measured(e),
                Literal::Every { domain, query, .. } => {
                    self.measured(domain);
                    self.measure(query);
                }
                Literal::SomeVars { .. } => {}
            }
        }
    }

    /// Has what a call goes over shown to [`WALKED`] first.
    fn measured(&mut self, e: &Ref<Expr>) {
        if let Some((fcn, [x, pair])) = walked(e) {
            let (open, end) = (fcn.span().end as usize, closed(self.text, x.span().end as usize));
            self.edits.between(self.text, open, end, '(', &format!("({WALKED}("));
            self.edits.between(self.text, end, pair.span().start as usize, ',', "),");
        }
        queries_within(e, &mut |query| self.measure(query));
        for e in children(e) {
            self.measured(e);
        }
    }
}
