//! A compiler with a `core` for the BPF target, by one of two routes.
//!
//! Debian's `rustc-web` carries a ready `core` and needs no nightly; it is taken wherever it is or can be had.
//! Elsewhere it is rustup's nightly, which builds `core` from `rust-src`.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{Say, apt, linker};
use crate::exec::{self, Cmd};

pub const TARGET: &str = "bpfel-unknown-none";
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_PACKAGES: &[&str] = &["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf", "rust-web-llvm"];
const NIGHTLY_COMMAND: &str = "rustup toolchain install nightly --profile minimal --component rust-src";

/// Which compiler builds the kernel programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// Debian's rustc-web, with a prebuilt `core`.
    Debian,
    /// rustup's nightly, with `-Z build-std=core`.
    Nightly,
}

/// A compiler and the linker that fits its LLVM.
#[derive(Debug)]
pub struct Toolchain {
    pub route: Route,
    pub linker: PathBuf,
    why: &'static str,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let compiler = match self.route {
            Route::Debian => "Debian's rustc-web",
            Route::Nightly => "rustup's nightly with build-std",
        };
        write!(f, "{compiler} ({}), linked by `{}`", self.why, self.linker.display())
    }
}

/// Finds a compiler, else installs one, and its linker.
pub fn ensure(say: &Say) -> Result<Toolchain> {
    let (route, why) = choose(say)?;
    let llvm = LlvmVersion::of(route)?;
    let linker = linker::ensure(route, &llvm, say)?;
    Ok(Toolchain { route, linker, why })
}

fn choose(say: &Say) -> Result<(Route, &'static str)> {
    if debian_is_here() {
        return Ok((Route::Debian, "it is installed, with a core for BPF"));
    }
    if nightly_is_here() {
        return Ok((Route::Nightly, "rustc-web is not installed; nightly and rust-src are"));
    }
    if apt::offers(DEBIAN_PACKAGES, say)? {
        apt::install(
            DEBIAN_PACKAGES,
            "a Rust compiler with a core for BPF; your own toolchain stays as it is",
            say,
        )?;
        if debian_is_here() {
            return Ok((Route::Debian, "the distribution offers it, with a core for BPF"));
        }
        bail!("{DEBIAN_RUSTC} has no core for `{TARGET}` after installing {}", DEBIAN_PACKAGES.join(", "));
    }
    if exec::find("rustup").is_some() {
        say.acting("installing rustup's nightly and rust-src (this distribution has no rustc-web; your default toolchain stays)");
        let words: Vec<&str> = NIGHTLY_COMMAND.split(' ').collect();
        exec::cmd(words[0])
            .args(&words[1..])
            .run()
            .with_context(|| format!("cannot install a compiler for BPF; run\n    {NIGHTLY_COMMAND}"))?;
        return Ok((Route::Nightly, "the distribution offers no rustc-web"));
    }
    bail!(
        "no Rust compiler for BPF is here; on Debian 12 or later (with the security suite) run\n{}\n\
         elsewhere install rustup, then run\n    {NIGHTLY_COMMAND}",
        apt::commands(DEBIAN_PACKAGES)
    )
}

fn debian_is_here() -> bool {
    if !Path::new(DEBIAN_RUSTC).is_file() || !Path::new(DEBIAN_CARGO).is_file() {
        return false;
    }
    sysroot(rustc(Route::Debian)).is_some_and(|root| {
        // The directory alone can be left over from a package removed half-way; the library is what counts.
        std::fs::read_dir(root.join("lib/rustlib").join(TARGET).join("lib")).is_ok_and(|files| {
            files.flatten().any(|f| f.file_name().to_string_lossy().starts_with("libcore-"))
        })
    })
}

fn nightly_is_here() -> bool {
    // `rustup run` could install; `toolchain list` only looks.
    let listed = exec::cmd("rustup").args(["toolchain", "list"]).read().unwrap_or_default();
    listed.lines().any(|line| line.starts_with("nightly-") && !line.starts_with("nightly-2"))
        && sysroot(rustc(Route::Nightly))
            .is_some_and(|root| root.join("lib/rustlib/src/rust/library/core").is_dir())
}

/// `rustc` of a route, cleared of what the cargo that runs this task has set for its own.
pub fn rustc(route: Route) -> Cmd {
    clean(match route {
        Route::Debian => exec::cmd(DEBIAN_RUSTC),
        Route::Nightly => exec::cmd("rustup").args(["run", "nightly", "rustc"]),
    })
}

/// `cargo` of a route, with its own `rustc`.
pub fn cargo(route: Route) -> Cmd {
    match route {
        Route::Debian => clean(exec::cmd(DEBIAN_CARGO)).env("RUSTC", DEBIAN_RUSTC),
        Route::Nightly => clean(exec::cmd("rustup").args(["run", "nightly", "cargo"])),
    }
}

/// `cargo run` tells its children about its own toolchain, wrappers and libraries; none of it fits another one.
fn clean(mut command: Cmd) -> Cmd {
    const FOREIGN: &[&str] = &[
        "CARGO",
        "RUSTC",
        "RUSTDOC",
        "RUSTUP_TOOLCHAIN",
        "RUST_RECURSION_COUNT",
        "LD_LIBRARY_PATH",
        "RUSTFLAGS",
        "CARGO_ENCODED_RUSTFLAGS",
        "CARGO_BUILD_RUSTFLAGS",
        "CARGO_BUILD_TARGET",
        "CARGO_BUILD_RUSTC",
        "CARGO_TARGET_DIR",
        "RUSTC_WRAPPER",
        "RUSTC_WORKSPACE_WRAPPER",
        "CARGO_MANIFEST_DIR",
        "CARGO_MANIFEST_PATH",
    ];
    for name in FOREIGN {
        command = command.env_remove(name);
    }
    command
}

pub fn sysroot(rustc: Cmd) -> Option<PathBuf> {
    rustc.args(["--print", "sysroot"]).read().ok().map(|text| PathBuf::from(text.trim()))
}

/// The LLVM a compiler stands on; its linker must be built on the same one.
#[derive(Debug, PartialEq, Eq)]
pub struct LlvmVersion {
    pub major: u32,
}

impl LlvmVersion {
    fn of(route: Route) -> Result<Self> {
        let text = rustc(route).arg("-vV").read()?;
        Self::parse(&text).with_context(|| format!("`rustc -vV` names no LLVM version:\n{text}"))
    }

    fn parse(verbose: &str) -> Option<Self> {
        let version = verbose.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        Some(Self { major: version.split('.').next()?.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_llvm_version_is_read_from_rustc() {
        let text = "rustc 1.96.0\nbinary: rustc\nLLVM version: 22.1.8\n";
        assert_eq!(LlvmVersion::parse(text), Some(LlvmVersion { major: 22 }));
        assert_eq!(LlvmVersion::parse("rustc 1.96.0\n"), None);
    }
}
