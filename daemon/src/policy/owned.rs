//! What a set of policy directories holds, so that nobody else writes there.

use std::path::PathBuf;

use regorus::{Engine, Value};

use super::{
    LoadError, LoadOptions,
    files::Files,
    load::{engine, located},
    shape::Shape,
    stack,
};

/// Packages and documents of policy directories.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Owned {
    /// Packages, as `data.portcullis.scopes`.
    packages: Vec<String>,
    /// First segments of the data files' paths.
    roots: Vec<String>,
}

/// Reads the directories. They parse: they are in force, or would have been refused.
pub fn owned(dirs: &[PathBuf], options: &LoadOptions) -> Result<Owned, LoadError> {
    stack::roomy(|| owned_here(dirs, options))
}

fn owned_here(dirs: &[PathBuf], options: &LoadOptions) -> Result<Owned, LoadError> {
    let files = Files::collect(dirs, options)?;
    // The host's own documents are no file's.
    let engine = engine(&files, &LoadOptions { documents: None, ..options.clone() }, false)?;
    let packages = engine.get_packages().map_err(|e| LoadError::Compile(e.to_string()))?;
    let roots = match engine.get_data() {
        Value::Object(members) => {
            members.keys().filter_map(|k| k.as_string().ok()).map(ToString::to_string).collect()
        }
        _ => Vec::new(),
    };
    Ok(Owned { packages, roots })
}

/// The package of a module, as `data.portcullis.scopes`.
pub fn package_of(id: &str, text: &str) -> Result<String, LoadError> {
    Shape::default().see(id, text)?;
    let of = |v0| {
        let mut engine = Engine::new();
        engine.set_rego_v0(v0);
        engine.add_policy(id.to_owned(), text.to_owned())
    };
    // A package is named in the same way in both versions; whether it may be v0 is asked when it is loaded.
    stack::roomy(|| of(false).or_else(|e| of(true).map_err(|_| located(&e.to_string()))))
}

impl Owned {
    /// The package or document that a module of this package would add to, or that would add to it.
    pub fn package(&self, package: &str) -> Option<String> {
        let roots = self.roots.iter().map(|r| format!("data.{r}"));
        self.packages.iter().cloned().chain(roots).find(|p| within(p, package) || within(package, p))
    }

    /// What a document at this path would change.
    pub fn document(&self, path: &[String]) -> Option<String> {
        let Some(first) = path.first() else {
            // The root is above everything.
            return self
                .roots
                .first()
                .map(|r| format!("data.{r}"))
                .or_else(|| self.packages.first().cloned());
        };
        if self.roots.contains(first) {
            return Some(format!("data.{first}"));
        }
        let asked = format!("data.{}", path.join("."));
        self.package(&asked)
    }
}

/// Whether a path is another or below it.
fn within(path: &str, above: &str) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn packages_above_and_below_and_whole_documents_are_owned() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("scopes")).unwrap();
        fs::write(dir.path().join("p.rego"), "package a.b\n\nimport rego.v1\n\nx := 1\n").unwrap();
        fs::write(dir.path().join("scopes/data.json"), r#"{"routes": []}"#).unwrap();
        let owned = owned(&[dir.path().to_owned()], &LoadOptions::default()).unwrap();
        for package in ["data.a.b", "data.a.b.c", "data.a", "data.a.b[\"c/d\"]"] {
            assert_eq!(owned.package(package).as_deref(), Some("data.a.b"), "{package}");
        }
        assert!(owned.package("data.scopes.more").is_some(), "beside what a data file says");
        for package in ["data.a.bc", "data.b", "data.scopes2"] {
            assert_eq!(owned.package(package), None, "{package}");
        }
        let path = |text: &str| text.split('/').map(str::to_owned).collect::<Vec<_>>();
        for mine in [vec![], path("scopes"), path("scopes/routes/0"), path("a"), path("a/b/c")] {
            assert!(owned.document(&mine).is_some(), "{mine:?}");
        }
        for free in ["users", "a/c", "scope"] {
            assert_eq!(owned.document(&path(free)), None, "{free}");
        }
        assert_eq!(package_of("x", "package test.deep\n").unwrap(), "data.test.deep");
        assert!(matches!(package_of("x", "package test\nallow if {"), Err(LoadError::Rego { .. })));
    }

    #[test]
    fn what_would_hold_up_the_parser_or_end_it_is_refused_unread() {
        let nested = |open: &str, n| format!("package p\nx := {}", open.repeat(n));
        for text in [
            nested("[", 60),
            nested("{", 5000),
            nested("(", 100_000),
            nested("{\"a\": [", 40),
            nested("-", 100_000),
            nested("1 + ", 100_000),
            nested("a.", 100_000),
            nested("a[", 100_000),
            format!("package p{}", ".a".repeat(50_000)),
            format!("package p\nx if {{\n{}}}", "y := 1\n".repeat(100_000)),
        ] {
            let refused = package_of("p.rego", &text).unwrap_err();
            assert!(matches!(refused, LoadError::Rego { .. }), "{refused}");
        }
    }
}
