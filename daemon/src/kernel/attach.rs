//! Attaches programs to interfaces so that enforcement has no gap and outlives the daemon.
//!
//! tcx links are pinned and updated in place. clsact filters have a fixed priority and handle, are replaced in
//! place, and stay because nothing detaches them.

use std::{
    io, mem,
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, Link as _, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use serde::Serialize;

use super::{
    Attach, KernelError,
    beside::BESIDE,
    error::os_error,
    hooks,
    links::Link,
    pins::{self, LINK_PREFIX},
};

/// Priority of the clsact filter: before those that systems add by themselves (49152).
const PRIORITY: u16 = 0x5043;
/// Handle of the clsact filter.
const HANDLE: TcHandle = TcHandle::new(0, 0x5043);
/// Names that our clsact filters may have.
const NAMES: [&str; 3] = ["guard", "guard_fast", "guard_egress"];

/// The kernel hook a program is attached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// A pinned tcx link.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

impl Hook {
    /// Its label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Tcx => "tcx",
            Self::Clsact => "clsact",
        }
    }
}

/// Which way packets go that a program sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    /// They come in.
    In,
    /// They go out.
    Out,
}

impl Side {
    const fn kind(self) -> TcAttachType {
        match self {
            Self::In => TcAttachType::Ingress,
            Self::Out => TcAttachType::Egress,
        }
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::In => "guard-",
            Self::Out => "egress-",
        }
    }
}

/// Attaches `program` to one side of an interface, in place of an earlier one; tells by which hook, and whether
/// there was an earlier one. `pins` are the directory and the link's pin in it.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &Link,
    side: Side,
    how: Attach,
    pins: (&Path, &Path),
) -> Result<(Hook, bool), KernelError> {
    let has_tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
    let (index, interface) = (interface.index, interface.name.as_str());
    let (hook, adopted) = match how {
        Attach::Tcx => (Hook::Tcx, attach_tcx(program, (interface, index), side, pins)?),
        Attach::Auto if has_tcx => (Hook::Tcx, attach_tcx(program, (interface, index), side, pins)?),
        Attach::Auto | Attach::Clsact => {
            (Hook::Clsact, attach_clsact(program, interface, side, priority(pins.0))?)
        }
    };
    match hook {
        // The other kind may be left from an earlier configuration; the new one is in force already.
        Hook::Tcx => detach_clsact(interface, side),
        Hook::Clsact => pins::remove(pins.1)?,
    }
    Ok((hook, adopted))
}

/// Takes our programs away from one side of an interface.
pub(super) fn detach(interface: &str, side: Side, pin: &Path) -> Result<(), KernelError> {
    detach_clsact(interface, side);
    pins::remove(pin)
}

/// Where the link to one side of an interface is pinned; `label` tells its namespace too.
pub(super) fn pin(pin_dir: &Path, label: &str, side: Side) -> PathBuf {
    pin_dir.join(format!("{LINK_PREFIX}{}{}", side.name(), pin_name(label)))
}

/// A label as pins are named. Interface names hold no slash; bpffs refuses dots. No two labels have one name.
pub(super) fn pin_name(label: &str) -> String {
    label.replace('_', "_u").replace('@', "_a").replace('/', "@").replace('.', "_d")
}

fn attach_tcx(
    program: &mut SchedClassifier,
    (interface, index): (&str, u32),
    side: Side,
    (pin_dir, path): (&Path, &Path),
) -> Result<bool, KernelError> {
    let what = || format!("attach guard to `{interface}`");
    hooks::claim(pin_dir, path, index, side)?;
    match PinnedLink::from_pin(path) {
        Ok(old) => {
            let link: SchedClassifierLink = FdLink::from(old)
                .try_into()
                .map_err(|e: LinkError| KernelError::Program { what: what(), message: e.to_string() })?;
            match program.attach_to_link(link) {
                Ok(id) => {
                    // The pin keeps it; dropping this handle must not detach it.
                    let link = program.take_link(id).map_err(|e| KernelError::program(what(), &e))?;
                    mem::forget(link);
                    return Ok(true);
                }
                // The interface went away under the link: it can never carry a packet again.
                Err(e) if os_error(&e) == Some(libc::ENOLINK) => pins::remove(path)?,
                Err(e) => return Err(KernelError::program(what(), &e)),
            }
        }
        Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::Program { what: what(), message: e.to_string() }),
    }
    let id = program
        .attach_with_options(interface, side.kind(), TcAttachOptions::TcxOrder(LinkOrder::first()))
        .map_err(|e| no_interface(interface, &e).unwrap_or_else(|| KernelError::program(what(), &e)))?;
    let link = program.take_link(id).map_err(|e| KernelError::program(what(), &e))?;
    let link: FdLink = link
        .try_into()
        .map_err(|e: LinkError| KernelError::Program { what: what(), message: e.to_string() })?;
    link.pin(path).map_err(|e| KernelError::Program {
        what: format!("pin the link at {}", path.display()),
        message: e.to_string(),
    })?;
    Ok(false)
}

fn attach_clsact(
    program: &mut SchedClassifier,
    interface: &str,
    side: Side,
    priority: u16,
) -> Result<bool, KernelError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {}
        Err(e) if os_error(&e) == Some(libc::ENODEV) => {
            return Err(KernelError::NoInterface { interface: interface.to_owned() });
        }
        Err(e) => return Err(KernelError::tc(interface, &e)),
    }
    let what = || format!("attach guard to `{interface}` by clsact");
    let options = NlOptions { priority, handle: HANDLE, classid: None };
    let made = program.attach_with_options(interface, side.kind(), TcAttachOptions::Netlink(options));
    let (id, adopted) = match made {
        Ok(id) => (id, false),
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {
            let old = SchedClassifierLink::attached(interface, side.kind(), priority, HANDLE, None)
                .map_err(|e| KernelError::io(what(), e))?;
            (program.attach_to_link(old).map_err(|e| KernelError::program(what(), &e))?, true)
        }
        Err(e) => return Err(KernelError::program(what(), &e)),
    };
    let link = program.take_link(id).map_err(|e| KernelError::program(what(), &e))?;
    mem::forget(link);
    Ok(adopted)
}

fn no_interface(interface: &str, e: &(dyn std::error::Error + 'static)) -> Option<KernelError> {
    (os_error(e) == Some(libc::ENODEV)).then(|| KernelError::NoInterface { interface: interface.to_owned() })
}

/// The priority of the filter of a guard that is pinned here: a second one stands behind the first.
fn priority(pin_dir: &Path) -> u16 {
    if pin_dir.ends_with(BESIDE) { PRIORITY + 1 } else { PRIORITY }
}

/// Removes the clsact filter of the guard that is pinned here, if there is one.
pub(super) fn detach_filter(interface: &str, side: Side, pin_dir: &Path) {
    let link = SchedClassifierLink::attached(interface, side.kind(), priority(pin_dir), HANDLE, None);
    // None there is the usual case.
    let _ = link.map(SchedClassifierLink::detach);
}

/// Removes our clsact filters, if there are any.
pub(super) fn detach_clsact(interface: &str, side: Side) {
    for name in NAMES {
        // It is found by name, so that filters of others are never touched. None there is the usual case.
        let _ = tc::qdisc_detach_program(interface, side.kind(), name);
    }
}

/// Removes links to interfaces whose labels are not in `keep`, and out of the ones in it where `out` is not wanted;
/// tells from which. Links with other names than those of interfaces stay.
pub(super) fn detach_others(pin_dir: &Path, keep: &[String], out: bool) -> Result<Vec<String>, KernelError> {
    let mut wanted: Vec<PathBuf> = keep.iter().map(|i| pin(pin_dir, i, Side::In)).collect();
    if out {
        wanted.extend(keep.iter().map(|i| pin(pin_dir, i, Side::Out)));
    }
    let mut gone = Vec::new();
    for entry in pins::list(pin_dir)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let of_interface = |side: Side| name.starts_with(&format!("{LINK_PREFIX}{}", side.name()));
        if (of_interface(Side::In) || of_interface(Side::Out)) && !wanted.contains(&entry) {
            pins::remove(&entry)?;
            if let Some(interface) =
                name.strip_prefix(LINK_PREFIX).and_then(|n| n.strip_prefix(Side::In.name()))
            {
                gone.push(interface.to_owned());
            }
        }
    }
    Ok(gone)
}
