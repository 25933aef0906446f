//! What the plane does besides taking orders: bringing the kernel's map in line at start, taking out what has
//! lapsed, and writing all anew where it must be. Long work is cut into parts of about a thousand entries, and orders
//! go between them.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::Duration,
};

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    ClaimId, Plane,
    ledger::{Condemnation, Moment},
    store::Changes,
};
use crate::{
    clock::{BootTime, SharedClock},
    kernel::KernelError,
};

/// How long an expired claim is kept, in boot time: a day, so that a wrong clock can be put right.
pub(super) const GRACE_NS: u64 = 24 * 3600 * 1_000_000_000;
/// How often it is kept what was seen of the clock, in boot time; and how fine.
const KEEP_NS: u64 = 10 * 60 * 1_000_000_000;
/// A difference of the clocks' distance that is taken for a step of the wall clock.
const STEP_NS: i128 = 1_000_000_000;
/// Claims that one sweep takes out, and condemnations that it looks at.
const SWEEP: usize = 1024;
/// Threads that fill the kernel's map at start, at most.
const MOST_THREADS: usize = 4;

/// Where upkeep stands.
#[derive(Debug)]
pub(super) struct Upkeep {
    /// How far wall time was ahead of boot time.
    offset: i128,
    /// The part that is written next, where all is written anew.
    next: Option<usize>,
    /// Condemnations that are still to be looked at in this round.
    left: usize,
    /// When it was kept what was seen of the clock.
    kept: BootTime,
}

impl Upkeep {
    pub fn new(clock: &SharedClock) -> Self {
        Self { offset: offset(clock), next: None, left: 0, kept: clock.boot() }
    }

    /// Whether there is something to do at once.
    pub fn is_busy(&self) -> bool {
        self.next.is_some()
    }
}

/// How far wall time is ahead of boot time; it changes only when the wall clock is stepped.
fn offset(clock: &SharedClock) -> i128 {
    i128::from(clock.wall().0) * 1_000_000 - i128::from(clock.boot().0)
}

impl Plane {
    /// Makes the kernel's map what the ledger says. Condemnations that an earlier daemon left in the map are taken
    /// over; revocations there that the store does not have were lifted, and go. A map of another size is filled
    /// beside the one in force and takes its place.
    pub(super) fn reconcile(&mut self) -> Result<(), KernelError> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let now = Moment::now(&*self.clock);
        let mut strange = Vec::new();
        let ledger = &mut self.ledger;
        kernel.each_refused(|f, value| {
            if value.condemned_until > now.boot.0 {
                let left = Duration::from_nanos(value.condemned_until - now.boot.0);
                let until = now.wall.plus(left);
                let generation = u64::from(value.generation);
                ledger.condemn(
                    f,
                    Condemnation { until, generation, answer: value.answer, decision: value.decision },
                );
            }
            if ledger.value(f, now).is_none() {
                strange.push(f);
            }
        })?;
        strange.sort_unstable();
        strange.dedup();
        // What is strange may be a token's name under the key of before: it goes when the new one is there, and where there
        // is no room for both, all is filled beside what is in force.
        let limits = ledger.limits();
        let all = ledger.revoked() + ledger.condemned() + strange.len();
        kernel.resize(all > limits.revoked + limits.condemned)?;
        self.fill()?;
        self.kernel.as_mut().map_or(Ok(()), |kernel| kernel.release(&strange))
    }

    /// Writes all parts at once, on as many threads as there are cores: a start waits for it.
    fn fill(&mut self) -> Result<(), KernelError> {
        let Some(kernel) = &mut self.kernel else { return Ok(()) };
        let (maps, ledger, now) = (kernel.maps(), &self.ledger, Moment::now(&*self.clock));
        let next = AtomicUsize::new(0);
        let work = || {
            loop {
                let n = next.fetch_add(1, Ordering::Relaxed);
                if n >= ledger.parts() {
                    return Ok(());
                }
                let entries = ledger.part(n, now);
                maps.iter().try_for_each(|map| map.fill(&entries))?;
            }
        };
        let threads = thread::available_parallelism().map_or(1, |n| n.get().min(MOST_THREADS));
        thread::scope(|scope| {
            let others: Vec<_> = (1..threads).map(|_| scope.spawn(work)).collect();
            let mut done: Result<(), KernelError> = work();
            for other in others {
                done = done.and(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            done
        })?;
        kernel.swap()
    }

    /// Goes on with what is under way.
    pub(super) fn step(&mut self) {
        if !self.upkeep.is_busy() {
            return;
        }
        if let Err(e) = self.part() {
            self.upkeep.next = None;
            if let Some(kernel) = &mut self.kernel {
                kernel.give_up();
            }
            self.noted(e);
            self.publish();
        }
    }

    /// Writes a part of all entries; after the last of a map made anew, puts that in force.
    fn part(&mut self) -> Result<(), KernelError> {
        let (Some(n), Some(kernel)) = (self.upkeep.next, &mut self.kernel) else {
            self.upkeep.next = None;
            return Ok(());
        };
        if n < self.ledger.parts() {
            let entries = self.ledger.part(n, Moment::now(&*self.clock));
            kernel.fill(&entries)?;
            self.upkeep.next = Some(n + 1);
            return Ok(());
        }
        self.upkeep.next = None;
        kernel.swap()
    }

    /// Takes out some of what has lapsed, and has all written anew where the wall clock was stepped or a write had
    /// failed. Tells whether it is to be called again at once.
    pub(super) fn sweep(&mut self) -> bool {
        let now = offset(&self.clock);
        let stepped = (now - self.upkeep.offset).abs() > STEP_NS;
        if stepped {
            tracing::warn!(
                seconds = (now - self.upkeep.offset) / 1_000_000_000,
                "the wall clock was stepped: expiries are written anew"
            );
            self.upkeep.offset = now;
        }
        self.count = true;
        if self.unforgotten {
            // Failed once more, it is tried again by the next sweep.
            let _ = self.forget();
        }
        if stepped || self.behind {
            self.behind = self.unforgotten;
            // A removal that failed is in no part of the ledger.
            let tokens = std::mem::take(&mut self.unwritten);
            if let Err(e) = self.write(&tokens) {
                self.noted(e);
            }
            self.upkeep.next = Some(0);
        }
        let claims = self.sweep_claims();
        // Parts are counted in the order of condemnations, which a sweep changes.
        claims || (!self.upkeep.is_busy() && self.sweep_condemned())
    }

    /// Keeps what was seen of the clock for the next daemon.
    pub(super) fn keep_seen(&mut self) {
        let Moment { wall, boot } = Moment::now(&*self.clock);
        self.upkeep.kept = boot;
        self.ledger.calendar().look(wall, boot);
        self.store.keep_seen(&self.ledger.calendar().seen().coarse(KEEP_NS));
    }

    /// Erases claims that have been over for [`GRACE_NS`] of boot time, this daemon's and those before it, without a
    /// break. A wall clock that is wrong
    /// for a while lets revocations lapse while it is; it must not erase them.
    fn sweep_claims(&mut self) -> bool {
        let Moment { wall, boot } = Moment::now(&*self.clock);
        let calendar = self.ledger.calendar();
        let back = calendar.look(wall, boot);
        let taken = calendar.take(GRACE_NS, SWEEP);
        let over = calendar.over_for(GRACE_NS);
        if back || boot.0.saturating_sub(self.upkeep.kept.0) >= KEEP_NS {
            self.keep_seen();
        }
        if taken.is_empty() {
            // What was left for later goes to the disk where no order has taken it along.
            let now = self.clock.wall();
            if self.failed.is_none()
                && let Err(e) = self.store.flush(now)
            {
                self.store_refused(e);
            }
            self.store.tend(now, over);
            return false;
        }
        let (mut over, mut tokens) = (Vec::new(), Vec::new());
        for (id, f) in taken {
            match f {
                // Some were lifted before their time.
                Some(f) => {
                    if self.ledger.lift(id, f) {
                        self.foreign.remove(id);
                        over.push(id);
                        tokens.push(f);
                    }
                }
                None => self.end_selector(id, &mut over, &mut tokens),
            }
        }
        // It need not be on the disk at once: read again after a crash, they are over all the same.
        if self.commit(&Changes { over, lazy: true, ..Changes::default() }).is_err() {
            return false;
        }
        if let Err(e) = self.write(&tokens) {
            self.noted(e);
        }
        true
    }

    /// Takes a selector out whose time is over. What follows from it ended no later.
    fn end_selector(&mut self, id: ClaimId, over: &mut Vec<ClaimId>, tokens: &mut Vec<DenyFingerprint>) {
        let claim = match self.store.reader().selector(id) {
            Ok(Some(claim)) => claim,
            // Lifted before its time.
            Ok(None) => return,
            Err(e) => {
                tracing::error!(error = %e, "an expired revocation stays in the store");
                return;
            }
        };
        over.push(id);
        self.foreign.remove(id);
        self.index.selectors.remove(self.settings.namer.of(&claim.selector), id);
        let children: Vec<_> = self.ledger.children(id).collect();
        self.ledger.forget_children(id);
        for (child, f) in children {
            if self.ledger.lift(child, f) {
                over.push(child);
                tokens.push(f);
            }
        }
    }

    /// Looks over condemnations, each once in a round.
    fn sweep_condemned(&mut self) -> bool {
        if self.upkeep.left == 0 {
            self.upkeep.left = self.ledger.condemned();
        }
        let count = SWEEP.min(self.upkeep.left);
        self.upkeep.left -= count;
        let gone = self.ledger.sweep_condemned(self.clock.wall(), self.generation, count);
        if let Err(e) = self.write(&gone) {
            self.noted(e);
        }
        self.upkeep.left != 0
    }
}
