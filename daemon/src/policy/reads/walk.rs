//! Following references from the decision to the input.
//!
//! Each expression has a value of which this knows no more than the places of the input that it may *be*. A value
//! that is compared, called with, returned or asked for its truth is read whole; one that is only stepped into is
//! read further down. Variables, rules, function arguments and results carry places on. Statements are walked until
//! nothing new is found, for Rego orders them by itself. All of it errs to one side: it may find too much.

use std::collections::{BTreeMap, BTreeSet};

use regorus::unstable::{AssignOp, Expr, Literal, LiteralStmt, Module, Query, Ref, Rule, RuleBody, RuleHead};

use super::{
    Extent, InputPath, Reads, Step,
    index::{Access, DataPath, Index, Placed, chain, constant, is_partial, step},
};

/// Most expressions that are looked at; a set that needs more counts as unknown.
const MOST_STEPS: u64 = 2_000_000;
/// Deepest nesting of expressions and calls.
const MOST_DEPTH: usize = 200;
/// Places that one value may be before it is taken as read.
const MOST_PLACES: usize = 32;
/// Rounds over one query's statements.
const MOST_ROUNDS: usize = 20;
/// Builtins whose value changes by itself. `io.jwt.decode_verify` looks at the clock where it is given no time.
const VOLATILE: [&str; 6] =
    ["time.now_ns", "rand.intn", "uuid.rfc4122", "http.send", "opa.runtime", "io.jwt.decode_verify"];

/// The places that a value may be.
type Places = BTreeSet<InputPath>;
/// Local variables.
type Scope = BTreeMap<String, Places>;

/// Why the walk ended early.
struct Lost(String);

/// What the decision at `data.…` depends on.
pub fn analyse(modules: &[Ref<Module>], decision: &str) -> Reads {
    let Some(index) = Index::new(modules) else {
        return Reads::everything("a package or import is not plain");
    };
    let mut walk = Walk {
        index: &index,
        reads: Reads::default(),
        rules: BTreeMap::new(),
        calls: BTreeMap::new(),
        open: BTreeSet::new(),
        steps: 0,
        depth: 0,
    };
    let path: DataPath = decision.split('.').skip(1).map(str::to_owned).collect();
    let walked = walk.document(&path, &[], 0, &mut Scope::new()).map(|places| walk.read(&places));
    let rules = walk
        .rules
        .keys()
        .filter(|path| index.is_value(path))
        .map(|p| format!("data.{}", p.join(".")))
        .collect();
    match walked {
        Ok(()) => Reads { rules, ..walk.reads },
        Err(Lost(why)) => Reads { data: walk.reads.data, rules, ..Reads::everything(why) },
    }
}

struct Walk<'a> {
    index: &'a Index<'a>,
    reads: Reads,
    /// Values of rules.
    rules: BTreeMap<DataPath, Places>,
    /// Results of functions by their arguments.
    calls: BTreeMap<(DataPath, Vec<Places>), Places>,
    /// Rules and functions being walked.
    open: BTreeSet<DataPath>,
    steps: u64,
    depth: usize,
}

type Found = Result<Places, Lost>;

impl<'a> Walk<'a> {
    fn read(&mut self, places: &Places) {
        for place in places {
            self.reads.add(place, Extent::Whole);
        }
    }

    /// Notes that whether a place is there was seen.
    fn seen(&mut self, places: &Places) {
        for place in places {
            self.reads.add(place, Extent::Kind);
        }
    }

    /// Evaluates and reads.
    fn consume(&mut self, e: &'a Ref<Expr>, unit: usize, scope: &mut Scope) -> Result<(), Lost> {
        let places = self.value(e, unit, scope)?;
        self.read(&places);
        Ok(())
    }

    fn value(&mut self, e: &'a Ref<Expr>, unit: usize, scope: &mut Scope) -> Found {
        self.steps += 1;
        self.depth += 1;
        if self.steps > MOST_STEPS || self.depth > MOST_DEPTH {
            return Err(Lost("the set is too large or too deep to follow".to_owned()));
        }
        let found = self.expression(e, unit, scope);
        self.depth -= 1;
        let places = found?;
        if places.len() > MOST_PLACES {
            self.read(&places);
            return Ok(Places::new());
        }
        Ok(places)
    }

    fn expression(&mut self, e: &'a Ref<Expr>, unit: usize, scope: &mut Scope) -> Found {
        match e.as_ref() {
            Expr::String { .. }
            | Expr::RawString { .. }
            | Expr::Number { .. }
            | Expr::Bool { .. }
            | Expr::Null { .. } => {}
            Expr::Var { .. } | Expr::RefDot { .. } | Expr::RefBrack { .. } => {
                return self.reference(e, unit, scope);
            }
            Expr::Array { items, .. } | Expr::Set { items, .. } => {
                for item in items {
                    self.consume(item, unit, scope)?;
                }
            }
            Expr::Object { fields, .. } => {
                for (_, key, value) in fields {
                    self.consume(key, unit, scope)?;
                    self.consume(value, unit, scope)?;
                }
            }
            Expr::ArrayCompr { term, query, .. } | Expr::SetCompr { term, query, .. } => {
                let mut inner = scope.clone();
                self.query(query, unit, &mut inner)?;
                self.consume(term, unit, &mut inner)?;
            }
            Expr::ObjectCompr { key, value, query, .. } => {
                let mut inner = scope.clone();
                self.query(query, unit, &mut inner)?;
                self.consume(key, unit, &mut inner)?;
                self.consume(value, unit, &mut inner)?;
            }
            Expr::Call { fcn, params, .. } => return self.call(fcn, params, unit, scope),
            Expr::UnaryExpr { expr, .. } => self.consume(expr, unit, scope)?,
            Expr::BinExpr { lhs, rhs, .. }
            | Expr::BoolExpr { lhs, rhs, .. }
            | Expr::ArithExpr { lhs, rhs, .. }
            // Either side may be the one that is known.
            | Expr::AssignExpr { op: AssignOp::Eq, lhs, rhs, .. } => {
                self.consume(lhs, unit, scope)?;
                self.consume(rhs, unit, scope)?;
            }
            Expr::AssignExpr { op: AssignOp::ColEq, lhs, rhs, .. } => {
                let places = self.value(rhs, unit, scope)?;
                if let Expr::Var { span, .. } = lhs.as_ref() {
                    scope.entry(span.text().to_owned()).or_default().extend(places);
                } else {
                    self.read(&places);
                    self.bind(lhs, unit, scope)?;
                }
            }
            Expr::Membership { key, value, collection, .. } => {
                for e in key.iter().chain([value, collection]) {
                    self.consume(e, unit, scope)?;
                }
            }
        }
        Ok(Places::new())
    }

    /// Declares the variables of a pattern; what else is in it is read.
    fn bind(&mut self, pattern: &'a Ref<Expr>, unit: usize, scope: &mut Scope) -> Result<(), Lost> {
        match pattern.as_ref() {
            Expr::Var { span, .. } => {
                scope.entry(span.text().to_owned()).or_default();
                Ok(())
            }
            Expr::Array { items, .. } => items.iter().try_for_each(|item| self.bind(item, unit, scope)),
            Expr::Object { fields, .. } => fields.iter().try_for_each(|(_, key, value)| {
                self.consume(key, unit, scope)?;
                self.bind(value, unit, scope)
            }),
            _ => self.consume(pattern, unit, scope),
        }
    }

    fn reference(&mut self, e: &'a Ref<Expr>, unit: usize, scope: &mut Scope) -> Found {
        let (root, steps) = chain(e);
        let Expr::Var { span, .. } = root.as_ref() else {
            let places = self.value(root, unit, scope)?;
            return self.descend(places, &steps, unit, scope);
        };
        let name = span.text();
        if let Some(places) = scope.get(name).cloned() {
            return self.descend(places, &steps, unit, scope);
        }
        let home = &self.index.units[unit];
        if let Some(import) = home.imports.get(name) {
            if import.is_input {
                let place = import.path.iter().cloned().map(Step::Key).collect();
                return self.descend(Places::from([place]), &steps, unit, scope);
            }
            let path = import.path.clone();
            return self.document(&path, &steps, unit, scope);
        }
        if self.index.has_name(&home.package, name) {
            let path = [home.package.clone(), vec![name.to_owned()]].concat();
            return self.document(&path, &steps, unit, scope);
        }
        match name {
            "input" => self.descend(Places::from([Vec::new()]), &steps, unit, scope),
            "data" => self.document(&[], &steps, unit, scope),
            // A variable that nothing binds yet takes its values from what it is compared with.
            _ => self.descend(Places::new(), &steps, unit, scope),
        }
    }

    /// Steps down from places of the input.
    fn descend(&mut self, mut places: Places, steps: &[Access<'a>], unit: usize, scope: &mut Scope) -> Found {
        for step in steps {
            match step {
                Access::Constant(step) => {
                    places = places
                        .into_iter()
                        .map(|mut place| {
                            place.push(step.clone());
                            place
                        })
                        .collect();
                }
                Access::Computed(index) => {
                    self.consume(index, unit, scope)?;
                    self.read(&places);
                    places.clear();
                }
            }
        }
        self.seen(&places);
        Ok(places)
    }

    /// A path in `data`: rules, documents, or both below it.
    fn document(&mut self, base: &[String], steps: &[Access<'a>], unit: usize, scope: &mut Scope) -> Found {
        let mut path = base.to_vec();
        let mut constant = 0;
        for step in steps {
            let Access::Constant(Step::Key(name)) = step else { break };
            path.push(name.clone());
            constant += 1;
        }
        let mut found = Places::new();
        let mut is_rule = false;
        for end in 1..=path.len() {
            if self.index.at(&path[..end]).is_empty() {
                continue;
            }
            is_rule = true;
            let value = self.rule(&path[..end])?;
            // What of the path lies behind the rule's name is stepped down in its value.
            let inside = path[end..].iter().map(|name| Access::Constant(Step::Key(name.clone())));
            let places = self.descend(value, &inside.collect::<Vec<_>>(), unit, scope)?;
            found.extend(self.descend(places, &steps[constant..], unit, scope)?);
        }
        // Rules further down are part of the value.
        let below: Vec<DataPath> =
            self.index.below(&path).into_iter().filter(|p| p.len() > path.len()).collect();
        for rule in below {
            let value = self.rule(&rule)?;
            self.read(&value);
        }
        if !is_rule {
            self.reads.data.insert(["data".to_owned()].into_iter().chain(path).collect::<Vec<_>>().join("."));
        }
        // Also where the value is no place of the input, what it is stepped down by is read.
        self.descend(Places::new(), &steps[constant..], unit, scope)?;
        Ok(found)
    }

    /// The value of a rule that is no function.
    fn rule(&mut self, path: &[String]) -> Found {
        if let Some(places) = self.rules.get(path) {
            return Ok(places.clone());
        }
        self.enter(path)?;
        let mut places = Places::new();
        for Placed { unit, rule } in self.index.at(path).to_vec() {
            match rule {
                Rule::Default { value, args, .. } if args.is_empty() => {
                    places.extend(self.value(value, unit, &mut Scope::new())?);
                }
                Rule::Spec { head: RuleHead::Compr { refr, assign, .. }, bodies, .. } => {
                    let value = assign.as_ref().map(|a| &a.value);
                    let got = self.bodies(value, bodies, unit, &Scope::new(), Some(refr))?;
                    if is_partial(refr) {
                        self.read(&got);
                    } else {
                        places.extend(got);
                    }
                }
                Rule::Spec { head: RuleHead::Set { refr, key, .. }, bodies, .. } => {
                    let got = self.bodies(key.as_ref(), bodies, unit, &Scope::new(), Some(refr))?;
                    self.read(&got);
                }
                // Functions have a value where they are called.
                Rule::Default { .. } | Rule::Spec { head: RuleHead::Func { .. }, .. } => {}
            }
        }
        self.open.remove(path);
        self.rules.insert(path.to_vec(), places.clone());
        Ok(places)
    }

    fn enter(&mut self, path: &[String]) -> Result<(), Lost> {
        if self.open.insert(path.to_vec()) {
            Ok(())
        } else {
            Err(Lost(format!("`data.{}` depends on itself", path.join("."))))
        }
    }

    /// The values that a definition's bodies give.
    fn bodies(
        &mut self,
        value: Option<&'a Ref<Expr>>,
        bodies: &'a [RuleBody],
        unit: usize,
        outer: &Scope,
        name: Option<&'a Ref<Expr>>,
    ) -> Found {
        let mut places = Places::new();
        let mut give = |walk: &mut Self, value: Option<&'a Ref<Expr>>, scope: &mut Scope| {
            if let Some(name) = name {
                for step in chain(name).1 {
                    if let Access::Computed(key) = step {
                        walk.consume(key, unit, scope)?;
                    }
                }
            }
            if let Some(value) = value {
                places.extend(walk.value(value, unit, scope)?);
            }
            Ok(())
        };
        if bodies.is_empty() {
            give(self, value, &mut outer.clone())?;
        }
        for body in bodies {
            let mut scope = outer.clone();
            self.query(&body.query, unit, &mut scope)?;
            give(self, body.assign.as_ref().map_or(value, |a| Some(&a.value)), &mut scope)?;
        }
        Ok(places)
    }

    fn query(&mut self, query: &'a Ref<Query>, unit: usize, scope: &mut Scope) -> Result<(), Lost> {
        for _ in 0..MOST_ROUNDS {
            let before = scope.clone();
            for statement in &query.stmts {
                self.statement(statement, unit, scope)?;
            }
            if *scope == before {
                return Ok(());
            }
        }
        Err(Lost("its variables depend on each other in too many ways".to_owned()))
    }

    fn statement(&mut self, s: &'a LiteralStmt, unit: usize, scope: &mut Scope) -> Result<(), Lost> {
        for modifier in &s.with_mods {
            // What it puts in place is read here; rules are followed as if it were the input itself, which is more.
            match constant(&modifier.refr).as_deref() {
                Some([root, ..]) if root == "input" || root == "data" => {}
                _ => return Err(Lost("`with` replaces a function".to_owned())),
            }
            self.consume(&modifier.r#as, unit, scope)?;
        }
        match &s.literal {
            Literal::SomeVars { vars, .. } => {
                for var in vars {
                    scope.entry(var.text().to_owned()).or_default();
                }
                Ok(())
            }
            Literal::SomeIn { key, value, collection, .. } => {
                self.consume(collection, unit, scope)?;
                key.iter().chain([value]).try_for_each(|pattern| self.bind(pattern, unit, scope))
            }
            Literal::Expr { expr, .. } | Literal::NotExpr { expr, .. } => self.consume(expr, unit, scope),
            Literal::Every { key, value, domain, query, .. } => {
                self.consume(domain, unit, scope)?;
                let mut inner = scope.clone();
                for name in key.iter().chain([value]) {
                    inner.insert(name.text().to_owned(), Places::new());
                }
                self.query(query, unit, &mut inner)
            }
        }
    }

    fn call(
        &mut self,
        name: &'a Ref<Expr>,
        params: &'a [Ref<Expr>],
        unit: usize,
        scope: &mut Scope,
    ) -> Found {
        let Some(names) = constant(name) else { return Err(Lost("it calls what it computes".to_owned())) };
        if let Some(path) = self.function(&names, unit) {
            let mut arguments = Vec::with_capacity(params.len());
            for param in params {
                arguments.push(self.value(param, unit, scope)?);
            }
            return self.apply(&path, arguments);
        }
        let builtin = names.join(".");
        if let Some(name) = VOLATILE.iter().find(|v| **v == builtin) {
            self.reads.volatile.insert(name);
        }
        if let ("object.get", [object, key, default]) = (builtin.as_str(), params)
            && let Some(steps) = literal_path(key)
        {
            let mut places = self.value(object, unit, scope)?;
            for step in steps {
                // Whether there is an object to look into decides between the default and no value at all.
                self.seen(&places);
                places = self.descend(places, &[Access::Constant(step)], unit, scope)?;
            }
            places.extend(self.value(default, unit, scope)?);
            return Ok(places);
        }
        for param in params {
            self.consume(param, unit, scope)?;
        }
        Ok(Places::new())
    }

    /// The path of a function of the set's own.
    fn function(&self, names: &[String], unit: usize) -> Option<DataPath> {
        let home = &self.index.units[unit];
        let (first, rest) = names.split_first()?;
        let imported = home.imports.get(first).filter(|i| !i.is_input).map(|i| [&i.path, rest].concat());
        let absolute = (first == "data").then(|| rest.to_vec());
        let local = [&home.package[..], names].concat();
        [imported, absolute, Some(local)].into_iter().flatten().find(|path| !self.index.at(path).is_empty())
    }

    fn apply(&mut self, path: &DataPath, mut arguments: Vec<Places>) -> Found {
        let definitions = self.index.at(path).to_vec();
        // One more than it takes: what its result is compared with.
        let arity = definitions.iter().find_map(|d| match d.rule {
            Rule::Spec { head: RuleHead::Func { args, .. }, .. } | Rule::Default { args, .. } => {
                Some(args.len())
            }
            Rule::Spec { .. } => None,
        });
        let output = (arity.unwrap_or(0) + 1 == arguments.len()).then(|| arguments.pop()).flatten();
        let key = (path.clone(), arguments);
        let places = if let Some(known) = self.calls.get(&key) {
            known.clone()
        } else {
            self.enter(path)?;
            let mut places = Places::new();
            for Placed { unit, rule } in definitions {
                match rule {
                    Rule::Spec { head: RuleHead::Func { args, assign, .. }, bodies, .. } => {
                        let mut scope = Scope::new();
                        for (pattern, value) in args.iter().zip(&key.1) {
                            if let Expr::Var { span, .. } = pattern.as_ref() {
                                scope
                                    .entry(span.text().to_owned())
                                    .or_default()
                                    .extend(value.iter().cloned());
                            } else {
                                self.read(value);
                                self.bind(pattern, unit, &mut scope)?;
                            }
                        }
                        let value = assign.as_ref().map(|a| &a.value);
                        places.extend(self.bodies(value, bodies, unit, &scope, None)?);
                    }
                    Rule::Default { value, .. } => {
                        places.extend(self.value(value, unit, &mut Scope::new())?);
                    }
                    Rule::Spec { .. } => {}
                }
            }
            self.open.remove(path);
            self.calls.insert(key, places.clone());
            places
        };
        match output {
            Some(compared) => {
                self.read(&compared);
                self.read(&places);
                Ok(Places::new())
            }
            None => Ok(places),
        }
    }
}

/// A key or a list of keys, all literals.
fn literal_path(key: &Ref<Expr>) -> Option<Vec<Step>> {
    match key.as_ref() {
        Expr::Array { items, .. } => items.iter().map(step).collect(),
        _ => step(key).map(|s| vec![s]),
    }
}
