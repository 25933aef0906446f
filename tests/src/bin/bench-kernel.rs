//! `cargo xtask bench kernel`: see [`portcullis_tests::bench::kernel`].

use anyhow::Result;
use portcullis_tests::{
    bench::{
        Args,
        kernel::{Effort, measure},
    },
    figures::Figures,
    is_root,
};

fn main() -> Result<()> {
    let args = Args::read()?;
    let mut figures = Figures::default();
    if is_root() {
        measure(&mut figures, Effort::new(args.quick), args.only.as_deref())?;
    }
    figures.write(args.json.as_deref())
}
