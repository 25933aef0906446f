//! Embeds the kernel programs, so that the daemon needs no compiler and no file at run time.

use std::{
    env, fs,
    path::{Path, PathBuf},
};

fn main() {
    println!("cargo:rerun-if-env-changed=PORTCULLIS_BPF_OBJECT");
    let Some(out) = env::var_os("OUT_DIR").map(PathBuf::from) else { return };
    let object = env::var_os("PORTCULLIS_BPF_OBJECT").map_or_else(|| beside_target(&out), PathBuf::from);
    println!("cargo:rerun-if-changed={}", object.display());
    let bytes = fs::read(&object).unwrap_or_default();
    if bytes.is_empty() {
        println!(
            "cargo:warning=no kernel programs at {}: this build can decide but not enforce; run `cargo xtask build-ebpf` first",
            object.display()
        );
    }
    if let Err(e) = fs::write(out.join("portcullis.bpf.o"), bytes) {
        println!("cargo::error=cannot write the kernel programs to {}: {e}", out.display());
    }
}

/// Where `cargo xtask build-ebpf` puts the object: `bpf/` in the target directory that `out` lies in.
fn beside_target(out: &Path) -> PathBuf {
    // target/<profile>/build/<package>/out
    let target = out.ancestors().nth(4).unwrap_or(out);
    target.join("bpf/portcullis.bpf.o")
}
