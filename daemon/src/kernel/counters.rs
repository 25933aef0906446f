//! The kernel programs' counters, summed over CPUs.

use aya::maps::{MapData, PerCpuArray};
use portcullis_common::reason::{OUTCOMES, Outcome};

use super::KernelError;

/// One number per [`Outcome`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Counts(Vec<u64>);

impl Counts {
    /// The counter of one outcome.
    pub fn get(&self, outcome: Outcome) -> u64 {
        self.0.get(outcome as usize).copied().unwrap_or(0)
    }

    /// All counters, in the outcomes' order.
    pub fn iter(&self) -> impl Iterator<Item = (Outcome, u64)> + '_ {
        Outcome::ALL.iter().map(|o| (*o, self.get(*o)))
    }
}

/// Reads the counters; shared freely.
pub struct CounterReader(PerCpuArray<MapData, [u64; OUTCOMES as usize]>);

impl CounterReader {
    pub(super) fn new(map: PerCpuArray<MapData, [u64; OUTCOMES as usize]>) -> Self {
        Self(map)
    }

    /// The sums now. They start again when the pinned maps are made anew.
    pub fn read(&self) -> Result<Counts, KernelError> {
        let per_cpu = self.0.get(&0, 0).map_err(|e| KernelError::map("read the kernel's counters", e))?;
        let sum = |o: &Outcome| per_cpu.iter().filter_map(|c| c.get(*o as usize)).sum();
        Ok(Counts(Outcome::ALL.iter().map(sum).collect()))
    }
}
