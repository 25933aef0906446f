//! bpf-linker, built once for each LLVM and kept below the user's cache.

use std::{
    env, fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use super::{
    Say, apt,
    toolchain::{self, LlvmVersion, Route},
};
use crate::exec;

const VERSION: &str = "0.13.0";
/// The LLVMs this version of bpf-linker can be built on.
const LLVMS: std::ops::RangeInclusive<u32> = 21..=23;

/// The linker for a route's LLVM, built if it is not there.
pub fn ensure(route: Route, llvm: &LlvmVersion, say: &Say) -> Result<PathBuf> {
    // Version and LLVM are in the path, so that clones of different ages share the directory without a fight.
    let flavour = match route {
        Route::Debian => "debian",
        Route::Nightly => "rustup",
    };
    let root = directory()?.join(format!("bpf-linker-{VERSION}-llvm{}-{flavour}", llvm.major));
    let linker = root.join("bin/bpf-linker");
    if works(&linker) {
        say.found(&format!("bpf-linker {VERSION} for LLVM {}: `{}`", llvm.major, linker.display()));
        return Ok(linker);
    }
    if !LLVMS.contains(&llvm.major) {
        bail!(
            "the compiler stands on LLVM {}, and bpf-linker {VERSION} knows LLVM {} to {}; \
             set VERSION and LLVMS in xtask/src/setup/linker.rs to a release of bpf-linker that knows it",
            llvm.major,
            LLVMS.start(),
            LLVMS.end()
        );
    }
    say.acting(&format!(
        "building bpf-linker {VERSION} on LLVM {} (links the kernel programs; about a minute, once) to `{}`",
        llvm.major,
        root.display()
    ));
    ensure_cxx(say)?;
    let prefix = llvm_prefix(route, llvm, &root, say)?;
    let install = toolchain::cargo(route)
        .args(["install", "bpf-linker", "--version", VERSION, "--locked", "--force", "--quiet"])
        .args(["--no-default-features", "--features", &format!("llvm-{}", llvm.major), "--root"])
        .arg(&root)
        .env("LLVM_PREFIX", &prefix)
        .current_dir("/");
    let by_hand = format!("cannot build bpf-linker; to see why, run\n    {install}");
    install.run().context(by_hand)?;
    if !works(&linker) {
        bail!(
            "`{}` was built and does not start; remove `{}` and try again",
            linker.display(),
            root.display()
        );
    }
    Ok(linker)
}

fn works(linker: &Path) -> bool {
    // It is linked against libLLVM, which an upgrade of the system can take away: seeing the file is not enough.
    linker.is_file() && exec::cmd(linker).arg("--version").succeeds()
}

/// Where tools are kept: below the user's cache.
fn directory() -> Result<PathBuf> {
    let cache = match env::var_os("XDG_CACHE_HOME").map(PathBuf::from).filter(|dir| dir.is_absolute()) {
        Some(dir) => dir,
        None => match env::var_os("HOME") {
            Some(home) => PathBuf::from(home).join(".cache"),
            None => bail!(
                "neither `XDG_CACHE_HOME` nor `HOME` is set, so there is no place to keep tools; set one"
            ),
        },
    };
    Ok(cache.join("portcullis/tools"))
}

/// A directory whose `lib` holds the compiler's own libLLVM.
fn llvm_prefix(route: Route, llvm: &LlvmVersion, root: &Path, say: &Say) -> Result<PathBuf> {
    match route {
        Route::Debian => {
            let prefix = PathBuf::from(format!("/usr/lib/llvm-{}", llvm.major));
            if !prefix.join("lib/libLLVM.so").exists() {
                let package = format!("llvm-{}-dev", llvm.major);
                apt::install(&[&package], "the LLVM that bpf-linker links with", say)?;
            }
            Ok(prefix)
        }
        Route::Nightly => nightly_prefix(root),
    }
}

/// libLLVM is C++, so its library is linked too; a compiler for C alone does not bring it.
fn ensure_cxx(say: &Say) -> Result<()> {
    // Where it finds nothing, the C compiler prints the bare name back.
    let found = exec::cmd("cc").arg("-print-file-name=libstdc++.so").read().unwrap_or_default();
    if Path::new(found.trim()).is_absolute() {
        return Ok(());
    }
    apt::install(&["g++"], "the C++ library that bpf-linker links with", say)
}

/// rustup's compilers bring libLLVM under a name the linker does not look for; give it that name.
///
/// Using the compiler's own library needs no LLVM from elsewhere, and cannot be the wrong version.
fn nightly_prefix(root: &Path) -> Result<PathBuf> {
    let sysroot =
        toolchain::sysroot(toolchain::rustc(Route::Nightly)).context("rustup's nightly has no sysroot")?;
    let theirs = fs::read_dir(sysroot.join("lib"))
        .with_context(|| format!("cannot read `{}`", sysroot.join("lib").display()))?
        .flatten()
        .map(|file| file.path())
        .find(|file| file.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libLLVM.so.")))
        .with_context(|| {
            format!("no libLLVM in `{}`; reinstall the toolchain", sysroot.join("lib").display())
        })?;
    let prefix = root.join("llvm");
    let lib = prefix.join("lib");
    // Start afresh: a link to a toolchain that was updated away would be found, and dangle.
    if lib.exists() {
        fs::remove_dir_all(&lib).with_context(|| format!("cannot clear `{}`", lib.display()))?;
    }
    fs::create_dir_all(&lib).with_context(|| format!("cannot make `{}`", lib.display()))?;
    for name in ["libLLVM.so".as_ref(), theirs.file_name().unwrap_or_default()] {
        symlink(&theirs, lib.join(name))
            .with_context(|| format!("cannot link libLLVM into `{}`", lib.display()))?;
    }
    Ok(prefix)
}
