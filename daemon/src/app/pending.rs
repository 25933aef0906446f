//! The kernel's part of a start: loaded early, in force last. A start that fails before changes nothing in the kernel.

use std::{
    panic::resume_unwind,
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    kernel::{self, Kernel},
    revoke::{Plane, PlaneHandle, RevokeError, Waiting},
};

/// The revocation plane and the loaded programs, before anything of them is in force.
pub(super) struct Pending {
    waiting: Option<Waiting>,
    settings: Option<kernel::Settings>,
    /// Nothing was pinned before this start: what is now is to go if it fails.
    fresh: bool,
    /// The policy set's, by which it has its generation.
    stamp: String,
}

impl Pending {
    /// Reads the store while the kernel looks at the programs: a start waits for both, and each takes a core. What an
    /// earlier daemon has in force is not touched before the store is known to be whole, and to fit.
    pub fn load(
        read: impl FnOnce() -> Result<Plane, RevokeError>,
        settings: Option<kernel::Settings>,
        stamp: &str,
    ) -> Result<(PlaneHandle, Self)> {
        let fresh = settings.as_ref().is_some_and(|s| kernel::is_unpinned(&s.pin_dir));
        let mut pending = Self { waiting: None, settings, fresh, stamp: stamp.to_owned() };
        let settings = pending.settings.as_ref();
        let (plane, ahead) = thread::scope(|scope| {
            let ahead = settings.filter(|s| !Kernel::changes_guards(s));
            let ahead = ahead.map(|s| scope.spawn(|| Kernel::prepare(s.clone())));
            let plane = read();
            (plane, ahead.map(|kernel| kernel.join().unwrap_or_else(|panic| resume_unwind(panic))))
        });
        let mut plane = plane?;
        if settings.is_some() {
            plane.check_room()?;
        }
        let prepared = ahead.or_else(|| settings.cloned().map(Kernel::prepare)).transpose()?;
        let kernel = prepared.map(|mut kernel| kernel.finish().map(|()| kernel)).transpose()?;
        plane.take_kernel(kernel)?;
        let (handle, waiting) = plane.ready();
        pending.waiting = Some(waiting);
        Ok((handle, pending))
    }

    /// The kernel side, where there is one.
    pub fn kernel_mut(&mut self) -> Option<&mut Kernel> {
        self.waiting.as_mut()?.plane.kernel_mut()
    }

    /// The policy set's generation.
    pub fn generation(&self) -> u64 {
        self.waiting.as_ref().map_or(0, |w| w.plane.generation_of(&self.stamp))
    }

    /// Puts the programs in force and has the plane take orders. Its thread is to be joined.
    pub fn begin(mut self) -> Result<JoinHandle<()>> {
        let Some(mut waiting) = self.waiting.take() else { bail!("the revocation plane was not read") };
        // The generation is settled before a program is attached: the kernel must not judge by an older one.
        waiting.plane.activate_first(&self.stamp)?;
        if let Some(kernel) = waiting.plane.kernel_mut() {
            let in_force = |k: &mut Kernel| {
                k.look_for_older().and_then(|()| k.attach()).and_then(|()| k.look_for_older())
            };
            in_force(kernel).inspect_err(|_| self.detach())?;
        }
        let thread = waiting.start().inspect_err(|_| self.detach());
        let thread = thread.context("the revocation thread cannot be started")?;
        self.fresh = false;
        Ok(thread)
    }

    /// Leaves nothing attached by a start that failed half way, unless an earlier daemon's enforcement was adopted.
    fn detach(&self) {
        if let Some(s) = self.settings.as_ref().filter(|_| self.fresh)
            && let Err(e) = kernel::detach_all(&s.pin_dir, &s.interfaces)
        {
            tracing::warn!(error = %e, "what this start had attached could not be taken away: run `portcullis detach`");
        }
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if let Some(s) = self.settings.as_ref().filter(|_| self.fresh)
            && let Err(e) = kernel::unpin_all(&s.pin_dir)
        {
            tracing::warn!(error = %e, "what this start had pinned could not be taken away: run `portcullis detach`");
        }
    }
}
