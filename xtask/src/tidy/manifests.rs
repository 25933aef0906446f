//! Rules about manifests: shared lints, and which crates of ours a crate may depend on.

use super::{Finding, Source};

/// Crates of this repository, and the ones of ours each may depend on. Others may depend on any.
#[rustfmt::skip]
const OURS: &[(&str, &[&str])] = &[
    ("common/Cargo.toml", &[]),
    ("ebpf/Cargo.toml",   &["portcullis-common"]),
    ("daemon/Cargo.toml", &["portcullis-common"]),
    ("xtask/Cargo.toml",  &[]),
];

/// Members of the workspace, whose lints are the workspace's. `ebpf` is a workspace of its own.
const MEMBERS: &[&str] = &["common/Cargo.toml", "daemon/Cargo.toml", "tests/Cargo.toml", "xtask/Cargo.toml"];

pub fn check(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    let entries = entries(&source.text);
    if MEMBERS.contains(&source.path.as_str()) {
        let shared = entries.iter().any(|e| {
            e.section == "lints" && e.key == "workspace" && e.value == "true"
                || e.key == "lints.workspace" && e.value == "true"
        });
        if !shared {
            found.push(Finding::new(
                source,
                0,
                "the workspace's lints are not taken: add `[lints]` `workspace = true`",
            ));
        }
    }
    if let Some((_, allowed)) = OURS.iter().find(|(path, _)| *path == source.path) {
        for (line, name) in entries.iter().filter_map(Entry::dependency) {
            if name.starts_with("portcullis") && !allowed.contains(&name) {
                let owner = source.path.split('/').next().unwrap_or_default();
                found.push(Finding::new(source, line, format!("`{owner}` must not depend on `{name}`")));
            }
        }
    }
    found
}

struct Entry<'a> {
    line: usize,
    section: &'a str,
    key: &'a str,
    value: &'a str,
}

impl<'a> Entry<'a> {
    /// The package, if this entry is a dependency or opens the table of one.
    fn dependency(&self) -> Option<(usize, &'a str)> {
        let (head, last) = self.section.rsplit_once('.').unwrap_or(("", self.section));
        if last.ends_with("dependencies") && !self.key.is_empty() {
            return Some((self.line, self.key.split('.').next().unwrap_or(self.key)));
        }
        (head.ends_with("dependencies") && self.key.is_empty()).then_some((self.line, last))
    }
}

/// Sections (with an empty key) and `key = value` lines. As much of TOML as manifests of this repository use.
fn entries(text: &str) -> Vec<Entry<'_>> {
    let mut section = "";
    let mut entries = Vec::new();
    for (at, line) in text.lines().map(str::trim).enumerate() {
        if let Some(name) = line.strip_prefix('[').and_then(|rest| rest.split(']').next()) {
            section = name;
            entries.push(Entry { line: at + 1, section, key: "", value: "" });
        } else if let Some((key, value)) = line.split_once('=').filter(|_| !line.starts_with('#')) {
            entries.push(Entry { line: at + 1, section, key: key.trim(), value: value.trim() });
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    const LINTS: &str = "[lints]\nworkspace = true\n";

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(&source(path, text)).into_iter().map(|f| format!("{}: {}", f.line, f.what)).collect()
    }

    #[test]
    fn members_take_the_workspaces_lints() {
        assert_eq!(whats("tests/Cargo.toml", "[lints]\nworkspace = false\n").len(), 1);
        assert!(whats("tests/Cargo.toml", LINTS).is_empty());
        assert!(whats("ebpf/Cargo.toml", "[package]\n").is_empty());
    }

    #[test]
    fn common_depends_on_no_crate_of_ours() {
        for dependency in [
            "[dependencies]\nportcullis.workspace = true\n",
            "[dev-dependencies]\nportcullis = { path = \"../daemon\" }\n",
            "[dependencies.portcullis]\npath = \"../daemon\"\n",
            "[target.'cfg(unix)'.dependencies]\nportcullis = \"1\"\n",
        ] {
            let found = whats("common/Cargo.toml", &format!("{LINTS}{dependency}"));
            assert_eq!(found.len(), 1, "{dependency}: {found:?}");
            assert!(found[0].ends_with("`common` must not depend on `portcullis`"));
        }
        assert!(
            whats("common/Cargo.toml", &format!("{LINTS}[dev-dependencies]\nsiphasher = \"1\"\n")).is_empty()
        );
    }

    #[test]
    fn the_kernel_programs_depend_on_common_alone() {
        let text = "[dependencies]\naya-ebpf = \"1\"\nportcullis-common = { path = \"../common\" }\n";
        assert!(whats("ebpf/Cargo.toml", text).is_empty());
        assert_eq!(whats("ebpf/Cargo.toml", "[dependencies]\nportcullis = \"1\"\n").len(), 1);
    }
}
