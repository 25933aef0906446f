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

type Counters = PerCpuArray<MapData, [u64; OUTCOMES as usize]>;

/// Reads the counters; shared freely. A second guard's are added as far as they are of what it alone did: it sees what the
/// first one lets through.
pub struct CounterReader {
    own: Counters,
    beside: Option<Counters>,
}

/// What a second guard's counters are added of.
const ADDED: &[Outcome] = &[
    Outcome::Revoked,
    Outcome::Condemned,
    Outcome::Responded,
    Outcome::Reset,
    Outcome::Dropped,
    Outcome::Observed,
    Outcome::Cut,
    Outcome::TombstoneDropped,
    Outcome::TombstoneReset,
    Outcome::EventsLost,
    Outcome::AnswerFailed,
    Outcome::Held,
    Outcome::Severed,
    Outcome::Denied,
    Outcome::Limited,
    Outcome::StreamsLost,
];

impl CounterReader {
    pub(super) const fn new(own: Counters, beside: Option<Counters>) -> Self {
        Self { own, beside }
    }

    /// The sums now. They start again when the pinned maps are made anew.
    pub fn read(&self) -> Result<Counts, KernelError> {
        let read = |counters: &Counters, of: &[Outcome], counts: &mut [u64]| {
            let per_cpu =
                counters.get(&0, 0).map_err(|e| KernelError::map("read the kernel's counters", e))?;
            for outcome in of {
                let at = *outcome as usize;
                if let Some(count) = counts.get_mut(at) {
                    *count += per_cpu.iter().filter_map(|c| c.get(at)).sum::<u64>();
                }
            }
            Ok(())
        };
        let mut counts = vec![0; Outcome::ALL.len()];
        read(&self.own, Outcome::ALL, &mut counts)?;
        if let Some(beside) = &self.beside {
            read(beside, ADDED, &mut counts)?;
        }
        Ok(Counts(counts))
    }
}
