//! How large the programs are to the verifier, and how long it takes over them.

use anyhow::{Context as _, Result};
use portcullis::kernel::{Kernel, ShedBy, ShedHook, ShedSettings};

use super::Effort;
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    guard::settings,
};

/// The limit for each program.
const INSTRUCTIONS: f64 = 200_000.0;

pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let mut found = Vec::new();
    for _ in 0..effort.rounds.min(5) {
        let bpffs = Bpffs::mount()?;
        let mut s = settings(&bpffs);
        s.shed = ShedSettings {
            by: ShedBy::Source,
            hooks: vec![ShedHook::Native, ShedHook::Generic],
            ..ShedSettings::off()
        };
        found.push(Kernel::load(s)?.load_each()?);
    }
    let first = found.first().context("no round was made")?.clone();
    for (name, instructions, _) in &first {
        figures.at_most(
            &format!("{name}: verified instructions"),
            f64::from(*instructions),
            "",
            INSTRUCTIONS,
            "",
        );
    }
    for (i, (name, ..)) in first.iter().enumerate() {
        let times = found.iter().filter_map(|round| round.get(i)).map(|(.., took)| took.as_secs_f64() * 1e3);
        figures.at_most(&format!("{name}: load"), median(times.collect()), "ms", 1000.0, "");
    }
    Ok(())
}
