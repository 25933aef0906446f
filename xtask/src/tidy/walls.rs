//! Who may use what: crates by room, rooms by room, and `unsafe`.

use super::{Finding, Source, code};

/// A crate of ours or others', and the only places that may name it.
struct Fence {
    crates: &'static [&'static str],
    only_in: &'static [&'static str],
}

#[rustfmt::skip]
const FENCES: &[Fence] = &[
    Fence { crates: &["aya", "aya_obj"],    only_in: &["daemon/src/kernel"] },
    Fence { crates: &["regorus"],           only_in: &["daemon/src/policy"] },
    Fence { crates: &["jsonwebtoken"],      only_in: &["daemon/src/token"] },
    Fence { crates: &["prometheus"],        only_in: &["daemon/src/telemetry"] },
    Fence { crates: &["axum", "tonic", "prost"],     only_in: &["daemon/src/serve"] },
    Fence { crates: &["async_nats"],        only_in: &["daemon/src/revoke/feed"] },
    Fence { crates: &["maxminddb"],         only_in: &["daemon/src/geo"] },
    Fence { crates: &["tar"],               only_in: &["daemon/src/bundle"] },
    Fence { crates: &["rustls_native_certs"], only_in: &["daemon/src/fetch"] },
    Fence { crates: &["tower_service"],     only_in: &["daemon/src/fetch", "daemon/src/serve/admin"] },
    Fence { crates: &["aya_ebpf"],          only_in: &["ebpf"] },
];

/// The daemon's sources, for which the fences stand. Tests, benches and examples may use what they like.
const FENCED: &[&str] = &["common/src", "daemon/src", "ebpf/src"];

/// A room of the daemon, and the rooms it must not know.
struct Room {
    name: &'static str,
    must_not_name: &'static [&'static str],
}

#[rustfmt::skip]
const ROOMS: &[Room] = &[
    Room { name: "token",     must_not_name: &["policy", "record", "decide", "kernel", "serve", "app", "cli"] },
    Room { name: "policy",    must_not_name: &["kernel", "token", "serve", "decide", "record", "app", "cli"] },
    Room { name: "kernel",    must_not_name: &["token", "policy", "decide", "serve", "revoke", "app", "cli"] },
    Room { name: "revoke",    must_not_name: &["policy", "decide", "serve", "app", "cli"] },
    Room { name: "ssf",       must_not_name: &["policy", "kernel", "decide", "record", "serve", "config", "app", "cli"] },
    Room { name: "usage",     must_not_name: &["token", "policy", "kernel", "revoke", "record", "decide", "serve", "telemetry", "app", "cli"] },
    Room { name: "record",    must_not_name: &["kernel", "revoke", "decide", "serve", "app", "cli"] },
    Room { name: "outside",   must_not_name: &["token", "record", "decide", "revoke", "kernel", "serve", "config", "app", "cli"] },
    Room { name: "decide",    must_not_name: &["serve", "app", "cli"] },
    Room { name: "serve",     must_not_name: &["app", "cli"] },
    Room { name: "telemetry", must_not_name: &["token", "policy", "decide", "record", "revoke", "kernel", "serve", "app", "cli"] },
    Room { name: "trace",     must_not_name: &["token", "policy", "decide", "record", "revoke", "kernel", "serve", "config", "app", "cli"] },
    Room { name: "bundle",    must_not_name: &["decide", "record", "revoke", "kernel", "serve", "telemetry", "config", "app", "cli"] },
    Room { name: "fetch",     must_not_name: &["token", "policy", "record", "decide", "revoke", "kernel", "serve", "telemetry", "config", "app", "cli"] },
    Room { name: "config",    must_not_name: &["token", "policy", "decide", "revoke", "kernel", "serve", "telemetry", "app", "cli"] },
];

/// Raw configuration is turned into each room's own types by `app`; commands only load, check and print it.
const CONFIG_READERS: &[&str] = &["config", "app", "cli", "main"];

/// Where `unsafe` may stand, each with its SAFETY line.
const UNSAFE_ALLOWED: &[&str] = &["ebpf", "common", "daemon/src/kernel"];

pub fn check(source: &Source) -> Vec<Finding> {
    if !is_rust(&source.path) {
        return Vec::new();
    }
    let bare = code::bare(&source.text);
    let mut found = unsafe_code(source, &bare);
    if is_test_file(&source.path) {
        return found;
    }
    let product = code::without_tests(&bare);
    found.extend(fences(source, product));
    found.extend(rooms(source, product));
    found
}

fn is_rust(path: &str) -> bool {
    std::path::Path::new(path).extension().is_some_and(|ext| ext == "rs")
}

fn is_test_file(path: &str) -> bool {
    path.ends_with("/tests.rs") || path.contains("/tests/") || path.starts_with("tests/")
}

/// Whether `path` is `place.rs`, `place` itself, or below it.
fn is_in(path: &str, place: &str) -> bool {
    path.strip_prefix(place).is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".rs")
}

fn is_in_any(path: &str, places: &[&str]) -> bool {
    places.iter().any(|place| is_in(path, place))
}

fn unsafe_code(source: &Source, bare: &str) -> Vec<Finding> {
    if is_in_any(&source.path, UNSAFE_ALLOWED) {
        return Vec::new();
    }
    code::words(bare, "unsafe")
        .into_iter()
        .map(|(line, ..)| {
            Finding::new(source, line, format!("`unsafe` stands only in {}", UNSAFE_ALLOWED.join(", ")))
        })
        .collect()
}

fn fences(source: &Source, product: &str) -> Vec<Finding> {
    let mut found = Vec::new();
    if !is_in_any(&source.path, FENCED) {
        return found;
    }
    for fence in FENCES.iter().filter(|fence| !is_in_any(&source.path, fence.only_in)) {
        for name in fence.crates {
            for (line, before, after) in code::words(product, name) {
                // `x::aya` and `.aya` are someone else's item; `::aya` alone is the crate.
                let before = before.trim_end();
                let item =
                    before.strip_suffix("::").is_some_and(|b| b.ends_with(code::is_word) || b.ends_with('>'));
                let in_use = after.trim_start().starts_with([';', ',', '}']) && before.ends_with("use");
                let is_crate =
                    !item && !before.ends_with('.') && (after.trim_start().starts_with("::") || in_use);
                if is_crate {
                    let only = fence.only_in.join(", ");
                    found.push(Finding::new(source, line, format!("`{name}` is used only in {only}")));
                }
            }
        }
    }
    found
}

fn rooms(source: &Source, product: &str) -> Vec<Finding> {
    let Some(module) = source.path.strip_prefix("daemon/src/").and_then(|path| path.strip_suffix(".rs"))
    else {
        return Vec::new();
    };
    let own = module.split('/').next().unwrap_or_default();
    let depth = module.split('/').filter(|part| *part != "mod").count();
    let room = ROOMS.iter().find(|room| room.name == own);
    let mut found = Vec::new();
    for (line, named) in named_rooms(product, depth) {
        if room.is_some_and(|room| room.must_not_name.contains(&named.as_str())) {
            found.push(Finding::new(source, line, format!("`{own}` must not know `{named}`")));
        }
        if named == "config" && !CONFIG_READERS.contains(&own) {
            let readers = CONFIG_READERS.join(", ");
            found.push(Finding::new(source, line, format!("raw configuration is read only in {readers}")));
        }
    }
    found
}

/// The first segment of every path that begins at the crate's root: `(line, name)`.
///
/// `depth` is the depth of the module: that many `super::` lead to the root as well.
fn named_rooms(product: &str, depth: usize) -> Vec<(usize, String)> {
    let mut found = Vec::new();
    let mut take = |line: usize, after: &str| {
        if let Some(path) = after.trim_start().strip_prefix("::") {
            found.extend(first_segments(path).into_iter().map(|name| (line, name)));
        }
    };
    for root in ["crate", "portcullis"] {
        for (line, _, after) in code::words(product, root) {
            take(line, after);
        }
    }
    for (line, before, after) in code::words(product, "super") {
        // Count from the first of a run of `super::`; the later ones are seen as part of it.
        if before.trim_end().ends_with("super::") {
            continue;
        }
        let mut rest = after;
        let mut run = 1;
        while let Some(next) =
            rest.trim_start().strip_prefix("::").and_then(|r| r.trim_start().strip_prefix("super"))
        {
            rest = next;
            run += 1;
        }
        if run == depth {
            take(line, rest);
        }
    }
    found
}

/// The names a path goes on with: one, or those of a `{…}` group.
fn first_segments(path: &str) -> Vec<String> {
    let path = path.trim_start();
    let word = |text: &str| text.trim_start().chars().take_while(|c| code::is_word(*c)).collect::<String>();
    let Some(group) = path.strip_prefix('{') else {
        return vec![word(path)];
    };
    let mut names = vec![word(group)];
    let mut depth = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => names.push(word(&group[at + 1..])),
            _ => {}
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tidy::tests::source;

    fn whats(path: &str, text: &str) -> Vec<String> {
        check(&source(path, text)).into_iter().map(|f| format!("{}: {}", f.line, f.what)).collect()
    }

    #[test]
    fn a_fenced_crate_is_used_in_its_room_alone() {
        let text = "//! x\nuse regorus::Engine;\n";
        assert_eq!(
            whats("daemon/src/decide/path.rs", text),
            ["2: `regorus` is used only in daemon/src/policy"]
        );
        assert!(whats("daemon/src/policy/engine.rs", text).is_empty());
        assert!(whats("daemon/src/policy.rs", text).is_empty());
        assert!(whats("tests/tests/policy.rs", text).is_empty());
        assert_eq!(whats("daemon/src/policy_x.rs", text).len(), 1);
    }

    #[test]
    fn every_spelling_of_a_use_is_seen_and_other_items_are_not() {
        for text in ["use aya;", "use ::aya::maps;", "fn f(m: &aya::Ebpf) {}", "use {aya::maps, std::fs};"] {
            assert_eq!(whats("daemon/src/app.rs", text).len(), 1, "{text}");
        }
        for text in [
            "// aya::x",
            "let x = \"aya::y\";",
            "use crate::kernel::aya::z;",
            "self.aya::<u8>()",
            "aya_log::x()",
        ] {
            assert!(whats("daemon/src/app.rs", text).is_empty(), "{text}");
        }
    }

    #[test]
    fn a_lower_room_must_not_know_an_upper_one() {
        let said = ["1: `token` must not know `kernel`"];
        assert_eq!(whats("daemon/src/token/jwt.rs", "use crate::kernel::Maps;"), said);
        assert_eq!(whats("daemon/src/token/jwt.rs", "use crate::{clock, kernel::{Maps, Keys}};"), said);
        assert_eq!(whats("daemon/src/token/jwt.rs", "use super::super::kernel::Maps;"), said);
        assert_eq!(whats("daemon/src/token.rs", "use super::kernel::Maps;"), said);
        assert_eq!(whats("daemon/src/token.rs", "fn f() { crate::kernel::now() }"), said);
        assert!(whats("daemon/src/token/jwt.rs", "use super::kernel::Maps;").is_empty());
        assert!(whats("daemon/src/token/jwt.rs", "use crate::{clock, x::{self, kernel}};").is_empty());
        assert!(whats("daemon/src/decide/path.rs", "use crate::{kernel, policy, token, revoke};").is_empty());
        assert!(whats("daemon/src/app.rs", "use crate::{serve, decide, kernel};").is_empty());
    }

    #[test]
    fn raw_configuration_is_read_in_few_places() {
        assert_eq!(whats("daemon/src/clock.rs", "use crate::config::Root;").len(), 1);
        assert!(whats("daemon/src/app/wire.rs", "use crate::config::Root;").is_empty());
        assert!(whats("daemon/src/config/load.rs", "use crate::config::Root;").is_empty());
    }

    #[test]
    fn tests_may_reach_over_walls_but_not_for_unsafe() {
        let text = "//! x\n#[cfg(test)]\nmod tests {\n use crate::serve::x;\n unsafe { y() }\n}\n";
        let found = whats("daemon/src/token/jwt.rs", text);
        assert_eq!(found, ["5: `unsafe` stands only in ebpf, common, daemon/src/kernel"]);
        assert!(whats("daemon/src/kernel/load.rs", text).is_empty());
        assert!(whats("common/src/layout.rs", text).is_empty());
    }

    #[test]
    fn attributes_about_unsafe_are_not_unsafe() {
        assert!(whats("daemon/src/lib.rs", "#![forbid(unsafe_code)]").is_empty());
    }
}
