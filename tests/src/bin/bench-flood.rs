//! `cargo xtask bench flood`: see [`portcullis_tests::bench::flood`].

use anyhow::Result;
use portcullis_tests::{
    bench::{Args, flood::measure, kernel::Effort},
    figures::Figures,
    has, is_root,
};

fn main() -> Result<()> {
    let args = Args::read()?;
    let mut figures = Figures::default();
    if is_root() && has("nginx") {
        measure(&mut figures, Effort::new(args.quick))?;
    }
    figures.write(args.json.as_deref())
}
