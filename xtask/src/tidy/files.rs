//! Rules about single files: headers, length, and nothing of one machine.

use super::{Finding, Source, code};

const LONGEST: usize = 600;
/// In a module's header, followed by the reason why the file is long.
const LONG_MARK: &str = "//! Long because ";

/// Rust sources that must say what they are for.
const WITH_HEADER: &[&str] = &["common/", "daemon/", "ebpf/", "tests/", "xtask/"];

/// Directories of one machine. In pieces, since this file is tracked too.
const MACHINE_PATHS: &[&str] = &[concat!("/ro", "ot/"), concat!("/ho", "me/"), concat!("/wo", "rk/")];

/// Hosts of package registries; names of packages suffice, and each user's tools know where theirs are.
const REGISTRIES: &[&str] = &[
    concat!("crates", ".io"),
    concat!("static.rust-", "lang.org"),
    concat!("py", "pi.org"),
    concat!("registry.npm", "js.org"),
    concat!("proxy.go", "lang.org"),
    concat!("ruby", "gems.org"),
    concat!("deb.deb", "ian.org"),
    concat!("archive.ubu", "ntu.com"),
];

pub fn check(source: &Source) -> Vec<Finding> {
    // Cargo writes lock files, and their registry is part of the format.
    if source.path.ends_with("Cargo.lock") {
        return Vec::new();
    }
    let mut found = machine(source);
    if std::path::Path::new(&source.path).extension().is_some_and(|ext| ext == "rs") {
        found.extend(header(source));
        found.extend(length(source));
    }
    found
}

fn header(source: &Source) -> Option<Finding> {
    let needs = WITH_HEADER.iter().any(|place| source.path.starts_with(place));
    let first = source.text.lines().map(str::trim).find(|line| !line.is_empty());
    let has = first.is_some_and(|line| line.strip_prefix("//!").is_some_and(|rest| !rest.trim().is_empty()));
    (needs && !has)
        .then(|| Finding::new(source, 1, "begin with a `//!` header: what it is for, what it guarantees"))
}

fn length(source: &Source) -> Option<Finding> {
    let has_reason =
        source.text.lines().take_while(|line| line.starts_with("//!")).any(|l| l.starts_with(LONG_MARK));
    let lines = code::without_tests(&code::bare(&source.text)).lines().count();
    (lines > LONGEST && !has_reason).then(|| {
        let what =
            format!("{lines} lines without its tests; split it, or say why in the header: `{LONG_MARK}…`");
        Finding::new(source, 0, what)
    })
}

fn machine(source: &Source) -> Vec<Finding> {
    let mut found = Vec::new();
    for (at, line) in source.text.lines().enumerate() {
        for path in MACHINE_PATHS {
            // A placeholder or a longer path before it (`<dir>/…`, `x/…`) is not a path of this machine.
            let absolute = line
                .match_indices(path)
                .any(|(i, _)| !line[..i].ends_with(|c: char| code::is_word(c) || "}>.~)-*]/".contains(c)));
            if absolute {
                found.push(Finding::new(source, at + 1, format!("`{path}…` is a path of one machine")));
            }
        }
        for host in REGISTRIES {
            let is_url = line.match_indices(host).any(|(i, _)| {
                let authority = line[..i].rsplit([' ', '"', '\'', '`', '(', '<']).next().unwrap_or_default();
                authority.contains("://")
            });
            if is_url {
                found.push(Finding::new(source, at + 1, format!("`{host}` is a package registry's address")));
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    fn lines(path: &str, text: &str) -> Vec<usize> {
        check(&source(path, text)).into_iter().map(|f| f.line).collect()
    }

    #[test]
    fn a_module_begins_with_what_it_is_for() {
        assert_eq!(lines("daemon/src/a.rs", "use x;\n"), [1]);
        assert_eq!(lines("daemon/src/a.rs", "//!\nuse x;\n"), [1]);
        assert_eq!(lines("daemon/src/a.rs", ""), [1]);
        assert!(lines("daemon/src/a.rs", "\n//! For x.\nuse x;\n").is_empty());
        assert!(lines("docs/example.rs", "use x;\n").is_empty());
    }

    #[test]
    fn a_long_file_says_why() {
        let long = |header: &str, tail: &str| format!("{header}\n{}{tail}", "fn f() {}\n".repeat(LONGEST));
        assert_eq!(lines("common/src/a.rs", &long("//! X.", "")), [0]);
        assert!(lines("common/src/a.rs", &long("//! X.\n//! Long because one table.", "")).is_empty());
        let short_with_tests =
            format!("//! X.\n#[cfg(test)]\nmod tests {{\n{}}}\n", "fn f() {}\n".repeat(LONGEST));
        assert!(lines("common/src/a.rs", &short_with_tests).is_empty());
    }

    #[test]
    fn paths_of_one_machine_are_found_and_placeholders_are_not() {
        let dir = MACHINE_PATHS[2];
        assert_eq!(lines("docs/a.md", &format!("x\nsee {dir}main\n")), [2]);
        assert_eq!(lines("docs/a.md", &format!("`{dir}main`")), [1]);
        for fine in [format!("$HOME{dir}x"), format!("<dir>{dir}x"), format!("~{dir}"), format!("a{dir}b")] {
            assert!(lines("docs/a.md", &fine).is_empty(), "{fine}");
        }
    }

    #[test]
    fn a_registry_may_be_named_but_not_addressed() {
        let host = REGISTRIES[0];
        assert_eq!(lines("a.toml", &format!("index = \"sparse+https://index.{host}/\"")), [1]);
        assert!(lines("a.md", &format!("packages from {host} only; see https://example.org")).is_empty());
        assert!(lines("Cargo.lock", &format!("https://{host}")).is_empty());
    }
}
