//! `cargo xtask tidy`: rules that no compiler checks.
//!
//! The walls between the rooms of the daemon, module headers, file sizes, manifests, the documentation of every
//! reason, and nothing of one machine in what is tracked. Each rule looks at texts, not at the disk, so that its
//! test is a few lines. All findings are told at once.

mod code;
mod files;
mod manifests;
mod reasons;
mod walls;

use std::{fmt, fs, path::Path};

use anyhow::{Result, bail};

use crate::repo;

/// A tracked text file, by its path from the root.
pub struct Source {
    pub path: String,
    pub text: String,
}

/// A broken rule.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    pub path: String,
    /// 0: the file as a whole.
    pub line: usize,
    pub what: String,
}

impl Finding {
    pub fn new(source: &Source, line: usize, what: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, what: what.into() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.line {
            0 => write!(f, "{}: {}", self.path, self.what),
            line => write!(f, "{}:{line}: {}", self.path, self.what),
        }
    }
}

pub fn run() -> Result<()> {
    let sources = read(&repo::root()?)?;
    let findings = check(&sources);
    if findings.is_empty() {
        return Ok(());
    }
    for finding in &findings {
        eprintln!("{finding}");
    }
    bail!(
        "tidy: {} findings, listed above; docs/ARCHITECTURE.md says why each rule is there",
        findings.len()
    );
}

/// Every rule over every file.
fn check(sources: &[Source]) -> Vec<Finding> {
    let mut findings: Vec<Finding> = sources
        .iter()
        .flat_map(|source| {
            let mut found = files::check(source);
            found.extend(walls::check(source));
            found.extend(manifests::check(source));
            found
        })
        .collect();
    findings.extend(reasons::check(sources));
    findings.sort();
    findings
}

/// The tracked files that are text.
fn read(root: &Path) -> Result<Vec<Source>> {
    let mut sources = Vec::new();
    for file in repo::files(root)? {
        let bytes = fs::read(root.join(&file))?;
        // Pictures and captures are tracked too; no rule is about them.
        if let Ok(text) = String::from_utf8(bytes) {
            sources.push(Source { path: file.to_string_lossy().into_owned(), text });
        }
    }
    Ok(sources)
}

#[cfg(test)]
mod tests {
    use super::*;

    pub fn source(path: &str, text: &str) -> Source {
        Source { path: path.to_owned(), text: text.to_owned() }
    }

    #[test]
    fn findings_of_all_rules_come_together_and_in_order() {
        let found = check(&[
            source("daemon/src/token/jwt.rs", "use crate::kernel::Maps;\n"),
            source("daemon/Cargo.toml", "[package]\n"),
        ]);
        let shown: Vec<String> = found.iter().map(ToString::to_string).collect();
        assert_eq!(shown.len(), 3, "{shown:#?}");
        assert!(shown[0].starts_with("daemon/Cargo.toml: "));
        assert!(shown[1].starts_with("daemon/src/token/jwt.rs:1: "));
    }
}
