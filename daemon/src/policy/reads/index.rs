//! The set's modules and rules by path, as references find them.

use std::collections::BTreeMap;

use regorus::unstable::{Expr, Module, Ref, Rule, RuleHead};

use super::Step;

/// A path in `data`, without `data` itself.
pub type DataPath = Vec<String>;

/// One step of a reference.
pub enum Access<'a> {
    /// A constant.
    Constant(Step),
    /// Computed, or a variable.
    Computed(&'a Ref<Expr>),
}

/// What an import makes a name stand for: `data` or `input`, and the steps from there.
pub struct Import {
    pub is_input: bool,
    pub path: Vec<String>,
}

/// A module with its package and imports.
pub struct Unit<'a> {
    pub package: DataPath,
    pub imports: BTreeMap<String, Import>,
    module: &'a Module,
}

/// A rule and the module it stands in.
#[derive(Clone, Copy)]
pub struct Placed<'a> {
    pub unit: usize,
    pub rule: &'a Rule,
}

/// Modules and rules.
pub struct Index<'a> {
    pub units: Vec<Unit<'a>>,
    rules: BTreeMap<DataPath, Vec<Placed<'a>>>,
}

impl<'a> Index<'a> {
    /// Indexes a set. `None` where a package or an import is not what it looks like.
    pub fn new(modules: &'a [Ref<Module>]) -> Option<Self> {
        let mut index = Self { units: Vec::new(), rules: BTreeMap::new() };
        for (n, module) in modules.iter().enumerate() {
            let package = constant(&module.package.refr)?;
            let mut imports = BTreeMap::new();
            for import in &module.imports {
                let path = constant(&import.refr)?;
                let (root, below) = path.split_first()?;
                let alias = match &import.r#as {
                    Some(span) => span.text().to_owned(),
                    None => path.last()?.clone(),
                };
                match root.as_str() {
                    "data" | "input" => {
                        imports.insert(alias, Import { is_input: root == "input", path: below.to_vec() });
                    }
                    // `rego.v1` and the like bind no name.
                    _ => {}
                }
            }
            for rule in &module.policy {
                let path = [package.clone(), head(rule)].concat();
                index.rules.entry(path).or_default().push(Placed { unit: n, rule });
            }
            index.units.push(Unit { package, imports, module });
        }
        Some(index)
    }

    /// The definitions at a path.
    pub fn at(&self, path: &[String]) -> &[Placed<'a>] {
        self.rules.get(path).map_or(&[], Vec::as_slice)
    }

    /// Whether a path is a rule's that has a value of its own.
    pub fn is_value(&self, path: &[String]) -> bool {
        self.at(path).iter().any(|p| !matches!(p.rule, Rule::Spec { head: RuleHead::Func { .. }, .. }))
    }

    /// Paths of rules at a path or below it.
    pub fn below(&self, path: &[String]) -> Vec<DataPath> {
        self.rules.keys().filter(|p| p.starts_with(path)).cloned().collect()
    }

    /// Whether the package's own modules have a rule whose path begins with a name.
    pub fn has_name(&self, package: &[String], name: &str) -> bool {
        self.units
            .iter()
            .filter(|u| u.package == package)
            .any(|u| u.module.policy.iter().any(|rule| head(rule).first().is_some_and(|first| first == name)))
    }
}

/// A rule's name as far as it is constant.
pub fn head(rule: &Rule) -> DataPath {
    let reference = match rule {
        Rule::Spec {
            head: RuleHead::Compr { refr, .. } | RuleHead::Set { refr, .. } | RuleHead::Func { refr, .. },
            ..
        }
        | Rule::Default { refr, .. } => refr,
    };
    let (root, steps) = chain(reference);
    let mut path: DataPath = match root.as_ref() {
        Expr::Var { span, .. } => vec![span.text().to_owned()],
        _ => Vec::new(),
    };
    for step in steps {
        match step {
            Access::Constant(Step::Key(name)) => path.push(name),
            _ => break,
        }
    }
    path
}

/// The name that an import makes, and the path that it stands for, as they are written.
pub fn import_of(import: &regorus::unstable::Import) -> (&str, &str) {
    let path = import.refr.span().text();
    let last = || path.rsplit('.').next().unwrap_or(path);
    (import.r#as.as_ref().map_or_else(last, |name| name.text()), path)
}

/// Whether a rule's name ends in something computed: then each definition gives one member.
pub fn is_partial(reference: &Ref<Expr>) -> bool {
    chain(reference).1.iter().any(|step| !matches!(step, Access::Constant(Step::Key(_))))
}

/// A reference as its root and the steps from there.
pub fn chain(reference: &Ref<Expr>) -> (&Ref<Expr>, Vec<Access<'_>>) {
    let (mut at, mut steps) = (reference, Vec::new());
    loop {
        match at.as_ref() {
            Expr::RefDot { refr, field, .. } => {
                steps.push(Access::Constant(Step::Key(field.0.text().to_owned())));
                at = refr;
            }
            Expr::RefBrack { refr, index, .. } => {
                steps.push(match step(index) {
                    Some(step) => Access::Constant(step),
                    None => Access::Computed(index),
                });
                at = refr;
            }
            _ => break,
        }
    }
    steps.reverse();
    (at, steps)
}

/// A literal as a step.
pub fn step(literal: &Ref<Expr>) -> Option<Step> {
    match literal.as_ref() {
        Expr::String { value, .. } | Expr::RawString { value, .. } => {
            value.as_string().ok().map(|s| Step::Key(s.to_string()))
        }
        Expr::Number { value, .. } => value.as_u64().ok().map(Step::Index),
        _ => None,
    }
}

/// A reference of constants alone, as its names.
pub fn constant(reference: &Ref<Expr>) -> Option<Vec<String>> {
    let (root, steps) = chain(reference);
    let mut names = match root.as_ref() {
        Expr::Var { span, .. } => vec![span.text().to_owned()],
        _ => return None,
    };
    for step in steps {
        match step {
            Access::Constant(Step::Key(name)) => names.push(name),
            _ => return None,
        }
    }
    Some(names)
}
