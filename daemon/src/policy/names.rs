//! Names in rules: which of them are variables, and which stand for something else.
//!
//! A variable is an argument of a function, or declared in a body by `:=`, `some` or `every`, and is one in all of that
//! body, as in OPA. Every other name is a rule's, an import's, `input`, `data`, a builtin's, or of a variable that nothing declares,
//! which can have none of the others' names.

use std::collections::BTreeSet;

use regorus::unstable::{AssignOp, Expr, Literal, Query, Ref, Rule, RuleBody, RuleHead, Span};

use super::rewrite::children;

/// A reference that begins with a name that is no variable: the whole of it, and its first name.
pub(super) struct Found<'a> {
    /// From the first name to the last step, or the name alone.
    pub whole: &'a Ref<Expr>,
    /// The first name.
    pub root: &'a Ref<Expr>,
}

/// Looks at all such references of a rule, its own name left out.
pub(super) fn of_rule<'a>(rule: &'a Rule, look: &mut dyn FnMut(Found<'a>)) {
    let mut walk = Walk { look, declared: Vec::new() };
    match rule {
        Rule::Default { refr, value, .. } => {
            walk.own_name(refr);
            walk.expression(value);
        }
        Rule::Spec { head, bodies, .. } => walk.rule(head, bodies),
    }
}

struct Walk<'a, 'l> {
    look: &'l mut dyn FnMut(Found<'a>),
    /// Variables, from the outside in.
    declared: Vec<BTreeSet<&'a str>>,
}

impl<'a> Walk<'a, '_> {
    fn rule(&mut self, head: &'a RuleHead, bodies: &'a [RuleBody]) {
        let (refr, value, args) = match head {
            RuleHead::Compr { refr, assign, .. } => (refr, assign.as_ref().map(|a| &a.value), &[][..]),
            RuleHead::Set { refr, key, .. } => (refr, key.as_ref(), &[][..]),
            RuleHead::Func { refr, args, assign, .. } => (refr, assign.as_ref().map(|a| &a.value), &args[..]),
        };
        let mut own = BTreeSet::new();
        for arg in args {
            variables(arg, &mut own);
        }
        self.declared.push(own);
        self.expressions(args);
        if bodies.is_empty() {
            self.own_name(refr);
            self.expressions(value);
        }
        for (i, body) in bodies.iter().enumerate() {
            self.declared.push(declared(&body.query));
            // What the head says is said of each body that is no `else` with words of its own.
            if i == 0 || !body.is_else {
                self.expressions(value);
            }
            self.own_name(refr);
            self.expressions(body.assign.as_ref().map(|assign| &assign.value));
            self.statements(&body.query);
            self.declared.pop();
        }
        self.declared.pop();
    }

    /// What is computed in a rule's own name.
    fn own_name(&mut self, refr: &'a Ref<Expr>) {
        match refr.as_ref() {
            Expr::RefDot { refr, .. } => self.own_name(refr),
            Expr::RefBrack { refr, index, .. } => {
                self.own_name(refr);
                self.expression(index);
            }
            _ => {}
        }
    }

    fn query(&mut self, query: &'a Ref<Query>) {
        self.declared.push(declared(query));
        self.statements(query);
        self.declared.pop();
    }

    fn statements(&mut self, query: &'a Ref<Query>) {
        for statement in &query.stmts {
            match &statement.literal {
                Literal::SomeVars { .. } => {}
                Literal::SomeIn { key, value, collection, .. } => {
                    self.expressions(key.iter().chain([value, collection]));
                }
                Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.expression(expr),
                Literal::Every { key, value, domain, query, .. } => {
                    self.expression(domain);
                    self.declared.push(key.iter().chain([value]).map(Span::text).collect());
                    self.query(query);
                    self.declared.pop();
                }
            }
            for with in &statement.with_mods {
                self.expression(&with.refr);
                self.expression(&with.r#as);
            }
        }
    }

    fn expressions(&mut self, all: impl IntoIterator<Item = &'a Ref<Expr>>) {
        for e in all {
            self.expression(e);
        }
    }

    fn expression(&mut self, e: &'a Ref<Expr>) {
        match e.as_ref() {
            Expr::Var { .. } => self.reference(e, e),
            Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                let mut root = e;
                while let Expr::RefDot { refr, .. } | Expr::RefBrack { refr, .. } = root.as_ref() {
                    if let Expr::RefBrack { index, .. } = root.as_ref() {
                        self.expression(index);
                    }
                    root = refr;
                }
                match root.as_ref() {
                    Expr::Var { .. } => self.reference(e, root),
                    _ => self.expression(root),
                }
            }
            Expr::Call { fcn, params, .. } => {
                self.expression(fcn);
                self.expressions(params);
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                self.declared.push(declared(query));
                self.expression(term);
                self.statements(query);
                self.declared.pop();
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                self.declared.push(declared(query));
                self.expression(key);
                self.expression(value);
                self.statements(query);
                self.declared.pop();
            }
            _ => self.expressions(children(e)),
        }
    }

    fn reference(&mut self, whole: &'a Ref<Expr>, root: &'a Ref<Expr>) {
        let Expr::Var { span, .. } = root.as_ref() else { return };
        if !self.declared.iter().any(|names| names.contains(span.text())) {
            (self.look)(Found { whole, root });
        }
    }
}

/// Variables that a query declares for itself and all within.
fn declared(query: &Query) -> BTreeSet<&str> {
    let mut names = BTreeSet::new();
    for statement in &query.stmts {
        match &statement.literal {
            Literal::SomeVars { vars, .. } => names.extend(vars.iter().map(Span::text)),
            Literal::SomeIn { key, value, .. } => {
                for pattern in key.iter().chain([value]) {
                    variables(pattern, &mut names);
                }
            }
            Literal::Expr { expr, .. } => {
                if let Expr::AssignExpr { op: AssignOp::ColEq, lhs, .. } = expr.as_ref() {
                    variables(lhs, &mut names);
                }
            }
            Literal::NotExpr { .. } | Literal::Every { .. } => {}
        }
    }
    names
}

/// The variables of a pattern.
fn variables<'a>(pattern: &'a Ref<Expr>, names: &mut BTreeSet<&'a str>) {
    match pattern.as_ref() {
        Expr::Var { span, .. } => {
            names.insert(span.text());
        }
        // What is taken a step into is no variable's declaration.
        Expr::Array { items, .. } => {
            for item in items {
                variables(item, names);
            }
        }
        Expr::Object { fields, .. } => {
            for (_, _, value) in fields {
                variables(value, names);
            }
        }
        _ => {}
    }
}
