//! Attaches gate to a control group, so that it outlives the daemon and is replaced without a gap.

use std::{
    fs::{self, File},
    mem,
    path::Path,
};

use aya::programs::{
    CgroupAttachMode, CgroupSkb, CgroupSkbAttachType,
    links::{FdLink, LinkError},
};

use super::{
    Gate, Kernel, KernelError,
    load::missing,
    pins::{self, LINK_PREFIX},
};

/// How gate's links are pinned, and what their successors are called until they have taken their place.
const NAMES: [&str; 2] = ["gate-in", "gate-out"];
const NEXT: &str = "-next";

impl Kernel {
    /// Attaches what is configured and takes away what is not.
    pub(super) fn attach_gate(&mut self) -> Result<(), KernelError> {
        let (incoming, outgoing) = match self.settings.gate {
            Gate::Off => (None, None),
            Gate::Door => (Some("gate"), None),
            Gate::Read => (Some("gate_reads"), Some("gate_egress")),
        };
        if self.settings.gate == Gate::Read && !self.settings.h2c_ports.is_empty() {
            for (slot, name) in [(1, "gate_reads"), (0, "gate_frames")] {
                self.load_gate(name)?;
                self.join("GATE_PROGRAMS", slot, name)?;
            }
        }
        // The way out first, as with guard.
        for (name, program, kind) in [
            (NAMES[1], outgoing, CgroupSkbAttachType::Egress),
            (NAMES[0], incoming, CgroupSkbAttachType::Ingress),
        ] {
            let path = self.settings.pin_dir.join(format!("{LINK_PREFIX}{name}"));
            match program {
                Some(program) => self.attach_to_group(program, kind, &path)?,
                None => pins::remove(&path)?,
            }
        }
        Ok(())
    }

    /// Loads one of the programs for control groups, unless that is done.
    fn load_gate(&mut self, name: &'static str) -> Result<&mut CgroupSkb, KernelError> {
        let program = self.ebpf.program_mut(name).ok_or_else(|| missing(name))?;
        let program: &mut CgroupSkb =
            program.try_into().map_err(|e| KernelError::program(format!("find {name}"), &e))?;
        if program.fd().is_err() {
            program.load().map_err(|e| KernelError::program(format!("load {name}"), &e))?;
        }
        if let Some(n) = program.info().ok().and_then(|i| i.verified_instruction_count()) {
            self.verified.insert(name, n);
        }
        Ok(program)
    }

    fn attach_to_group(
        &mut self,
        name: &'static str,
        kind: CgroupSkbAttachType,
        path: &Path,
    ) -> Result<(), KernelError> {
        let group = self.settings.gate_cgroup.clone();
        let what = || format!("attach {name} to {}", group.display());
        let broken = |e: LinkError| KernelError::Program { what: what(), message: e.to_string() };
        let file = File::open(&group).map_err(|e| KernelError::io(format!("open {}", group.display()), e))?;
        let program = self.load_gate(name)?;
        // A link is always one of several, and takes no flags that say so.
        let id = program
            .attach(file, kind, CgroupAttachMode::Single)
            .map_err(|e| KernelError::program(what(), &e))?;
        let link: FdLink = program
            .take_link(id)
            .map_err(|e| KernelError::program(what(), &e))?
            .try_into()
            .map_err(broken)?;
        // Both are in force until the old one goes: what either drops is dropped.
        let next =
            path.with_file_name(format!("{}{NEXT}", path.file_name().unwrap_or_default().to_string_lossy()));
        pins::remove(&next)?;
        let pinned =
            link.pin(&next).map_err(|e| KernelError::Program { what: what(), message: e.to_string() })?;
        mem::forget(pinned);
        pins::remove(path)?;
        fs::rename(&next, path).map_err(|e| KernelError::io(format!("rename {}", next.display()), e))
    }
}
