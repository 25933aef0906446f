//! `cargo xtask build-ebpf`: the kernel programs, built apart from the workspace.
//!
//! They have a compiler, a target and a lock file of their own. The object ends at
//! `<target>/bpf/portcullis.bpf.o`; it is replaced in one step and only when it differs, so that a build that
//! changes nothing does not rebuild the daemon, which embeds it.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    repo,
    setup::{self, Purpose, Route, Toolchain},
};

/// The variable by which the daemon's build script is told where the object is.
pub const OBJECT_ENV: &str = "PORTCULLIS_BPF_OBJECT";
const TARGET: &str = "bpfel-unknown-none";
const BINARY: &str = "portcullis-ebpf";

#[derive(clap::Args)]
pub struct Args {
    /// Build from nothing, also when nothing changed
    #[arg(long)]
    force: bool,
}

pub fn run(args: &Args) -> Result<()> {
    let out = target_dir()?;
    if args.force && out.exists() {
        fs::remove_dir_all(&out).with_context(|| format!("cannot remove `{}`", out.display()))?;
    }
    println!("{}", build()?.display());
    Ok(())
}

/// Builds the kernel programs and gives the object's path.
pub fn build() -> Result<PathBuf> {
    let root = repo::root()?;
    let source = root.join("ebpf");
    if !source.join("Cargo.toml").is_file() {
        bail!("`{}` holds no crate, so there are no kernel programs to build", source.display());
    }
    let toolchain = setup::ensure(&[Purpose::Build])?;
    let out = target_dir()?;
    compile(&toolchain, &root, &source, &out)?;

    let built = out.join(TARGET).join("release").join(BINARY);
    let bytes = fs::read(&built)
        .with_context(|| format!("the build of the kernel programs left no `{}`", built.display()))?;
    if !is_bpf_object(&bytes) {
        bail!("`{}` is not an ELF object for BPF; run `cargo xtask build-ebpf --force`", built.display());
    }
    let object = repo::target()?.join("bpf/portcullis.bpf.o");
    replace_if_changed(&object, &bytes)?;
    Ok(object)
}

fn target_dir() -> Result<PathBuf> {
    Ok(repo::target()?.join("ebpf"))
}

fn compile(toolchain: &Toolchain, root: &Path, source: &Path, out: &Path) -> Result<()> {
    let mut flags = vec![
        format!("-Clinker={}", toolchain.linker.display()),
        // The kernel wants types, and shows source lines when the verifier refuses.
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        // 32-bit arithmetic and jumps: the verifier follows them far better than shift pairs.
        "-Ctarget-cpu=v3".to_owned(),
        // The same source gives the same object in every clone, and no path of the builder goes with it.
        format!("--remap-path-prefix={}=portcullis", root.display()),
    ];
    if cfg!(target_arch = "x86_64") {
        // The kernel that loads the programs is of the architecture that they are built on.
        flags.push("--cfg=store_order=\"total\"".to_owned());
    }
    if let Some(home) = cargo_home() {
        flags.push(format!("--remap-path-prefix={}=cargo", home.display()));
    }
    let mut cargo = setup::cargo(toolchain.route)
        .args(["build", "--quiet", "--release", "--target", TARGET])
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
        .env("CARGO_TARGET_DIR", out)
        .current_dir(source);
    cargo = match toolchain.route {
        // For the one feature gate in aya-ebpf, `asm_experimental_arch`.
        Route::Debian => cargo.env("RUSTC_BOOTSTRAP", "1"),
        Route::Nightly => cargo.args(["-Z", "build-std=core"]),
    };
    if source.join("Cargo.lock").is_file() {
        cargo = cargo.arg("--locked");
    }
    cargo.run().with_context(|| format!("cannot build the kernel programs with {toolchain}"))
}

/// Where the sources of dependencies are.
fn cargo_home() -> Option<PathBuf> {
    let given = env::var_os("CARGO_HOME").filter(|dir| !dir.is_empty()).map(PathBuf::from);
    given.or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(".cargo")))
}

/// An ELF header whose machine is BPF.
fn is_bpf_object(bytes: &[u8]) -> bool {
    const EM_BPF: [u8; 2] = 247u16.to_le_bytes();
    bytes.starts_with(b"\x7fELF") && bytes.get(18..20) == Some(&EM_BPF)
}

fn replace_if_changed(path: &Path, bytes: &[u8]) -> Result<()> {
    if fs::read(path).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    let dir = path.parent().context("the object's path has no directory")?;
    fs::create_dir_all(dir).with_context(|| format!("cannot make `{}`", dir.display()))?;
    let fresh = path.with_extension(format!("new-{}", std::process::id()));
    fs::write(&fresh, bytes).with_context(|| format!("cannot write `{}`", fresh.display()))?;
    fs::rename(&fresh, path).with_context(|| format!("cannot replace `{}`", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_for_another_machine_is_refused() {
        let mut elf = b"\x7fELF".to_vec();
        elf.resize(20, 0);
        assert!(!is_bpf_object(&elf));
        elf[18] = 247;
        assert!(is_bpf_object(&elf));
        assert!(!is_bpf_object(b"\x7fELF"));
    }

    #[test]
    fn an_unchanged_object_is_left_alone() {
        let dir = env::temp_dir().join(format!("portcullis-xtask-{}", std::process::id()));
        let file = dir.join("bpf/o");
        replace_if_changed(&file, b"one").unwrap();
        let before = fs::metadata(&file).unwrap().modified().unwrap();
        replace_if_changed(&file, b"one").unwrap();
        assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), before);
        replace_if_changed(&file, b"two").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"two");
        fs::remove_dir_all(&dir).unwrap();
    }
}
