//! `cargo xtask docs`: the pages of `docs/` that come from the types, written or checked by the daemon itself.

use anyhow::{Context as _, Result};

use crate::{ebpf, exec, repo, setup};

#[derive(clap::Args)]
pub struct Args {
    /// Change nothing; fail if a page is not what the code would write
    #[arg(long)]
    check: bool,
}

pub fn run(args: &Args) -> Result<()> {
    setup::ensure(&[setup::Purpose::Build])?;
    let object = ebpf::build()?;
    let mut generate = exec::cargo()
        .args(["run", "--quiet", "--package", "portcullis", "--", "generate-docs", "docs/"])
        .env(ebpf::OBJECT_ENV, object)
        .current_dir(repo::root()?);
    if args.check {
        generate = generate.arg("--check");
    }
    let next = if args.check { "run `cargo xtask docs` and commit what it changes" } else { "see above" };
    generate.run().context(next)
}
