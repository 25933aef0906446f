//! Attaches programs to interfaces so that enforcement has no gap and outlives the daemon.
//!
//! tcx links are pinned and updated in place. clsact filters have a fixed priority and handle, are replaced in
//! place, and stay because nothing detaches them.

use std::{
    fs, io, mem,
    path::{Path, PathBuf},
};

use aya::{
    programs::{
        LinkOrder, SchedClassifier, TcAttachType,
        links::{FdLink, LinkError, PinnedLink},
        tc::{self, NlOptions, SchedClassifierLink, TcAttachOptions, TcError, TcHandle},
    },
    util::KernelVersion,
};
use serde::Serialize;

use super::{Attach, KernelError, error::os_error, unlink};

/// Priority of the clsact filter: before those that systems add by themselves (49152).
const PRIORITY: u16 = 0x5043;
/// Handle of the clsact filter.
const HANDLE: TcHandle = TcHandle::new(0, 0x5043);
/// How link pins are named.
const LINK_PREFIX: &str = "link-guard-";

/// The kernel hook a program is attached by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// A pinned tcx link.
    Tcx,
    /// A filter of the clsact qdisc.
    Clsact,
}

/// One program on one interface.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Attachment {
    /// The interface.
    pub interface: String,
    /// The hook.
    pub hook: Hook,
    /// An earlier daemon's attachment was taken over in place.
    pub adopted: bool,
}

/// Attaches `program` to an interface's ingress, in place of an earlier one.
pub(super) fn attach(
    program: &mut SchedClassifier,
    interface: &str,
    how: Attach,
    pin_dir: &Path,
) -> Result<Attachment, KernelError> {
    let has_tcx = KernelVersion::current().is_ok_and(|v| v >= KernelVersion::new(6, 6, 0));
    let (hook, adopted) = match how {
        Attach::Tcx => (Hook::Tcx, attach_tcx(program, interface, pin_dir)?),
        Attach::Auto if has_tcx => (Hook::Tcx, attach_tcx(program, interface, pin_dir)?),
        Attach::Auto | Attach::Clsact => (Hook::Clsact, attach_clsact(program, interface)?),
    };
    match hook {
        // The other kind may be left from an earlier configuration; the new one is in force already.
        Hook::Tcx => detach_clsact(interface),
        Hook::Clsact => drop_pin(&pin(pin_dir, interface))?,
    }
    Ok(Attachment { interface: interface.to_owned(), hook, adopted })
}

fn pin(pin_dir: &Path, interface: &str) -> PathBuf {
    // Interface names hold no slash; bpffs refuses dots.
    pin_dir.join(format!("{LINK_PREFIX}{}", interface.replace('.', "_")))
}

fn attach_tcx(program: &mut SchedClassifier, interface: &str, pin_dir: &Path) -> Result<bool, KernelError> {
    let path = pin(pin_dir, interface);
    let what = || format!("attach guard to `{interface}`");
    match PinnedLink::from_pin(&path) {
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
                Err(e) if os_error(&e) == Some(libc::ENOLINK) => drop_pin(&path)?,
                Err(e) => return Err(KernelError::program(what(), &e)),
            }
        }
        Err(LinkError::SyscallError(e)) if e.io_error.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(KernelError::Program { what: what(), message: e.to_string() }),
    }
    let id = program
        .attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::TcxOrder(LinkOrder::first()))
        .map_err(|e| no_interface(interface, &e).unwrap_or_else(|| KernelError::program(what(), &e)))?;
    let link = program.take_link(id).map_err(|e| KernelError::program(what(), &e))?;
    let link: FdLink = link
        .try_into()
        .map_err(|e: LinkError| KernelError::Program { what: what(), message: e.to_string() })?;
    link.pin(&path).map_err(|e| KernelError::Program {
        what: format!("pin the link at {}", path.display()),
        message: e.to_string(),
    })?;
    Ok(false)
}

fn attach_clsact(program: &mut SchedClassifier, interface: &str) -> Result<bool, KernelError> {
    match tc::qdisc_add_clsact(interface) {
        Ok(()) | Err(TcError::AlreadyAttached) => {}
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {}
        Err(e) if os_error(&e) == Some(libc::ENODEV) => {
            return Err(KernelError::NoInterface { interface: interface.to_owned() });
        }
        Err(e) => return Err(KernelError::tc(interface, &e)),
    }
    let what = || format!("attach guard to `{interface}` by clsact");
    let options = NlOptions { priority: PRIORITY, handle: HANDLE, classid: None };
    let made =
        program.attach_with_options(interface, TcAttachType::Ingress, TcAttachOptions::Netlink(options));
    let (id, adopted) = match made {
        Ok(id) => (id, false),
        Err(e) if os_error(&e) == Some(libc::EEXIST) => {
            let old = SchedClassifierLink::attached(interface, TcAttachType::Ingress, PRIORITY, HANDLE, None)
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

/// Removes our clsact filter, if there is one.
fn detach_clsact(interface: &str) {
    // It is found by name, so that filters of others are never touched. None there is the usual case.
    let _ = tc::qdisc_detach_program(interface, TcAttachType::Ingress, "guard");
}

fn drop_pin(path: &Path) -> Result<(), KernelError> {
    if path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX)) {
        // Usually there is none, or its interface is gone; what matters is that the pin goes, below.
        let _ = unlink::detach(path);
    }
    match fs::remove_file(path) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove the pin {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Detaches from every interface that is not in `keep`; tells which.
pub(super) fn detach_others(pin_dir: &Path, keep: &[String]) -> Result<Vec<String>, KernelError> {
    let keep: Vec<PathBuf> = keep.iter().map(|i| pin(pin_dir, i)).collect();
    let mut gone = Vec::new();
    for entry in entries(pin_dir)? {
        let name = entry.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if let Some(interface) = name.strip_prefix(LINK_PREFIX)
            && !keep.contains(&entry)
        {
            drop_pin(&entry)?;
            gone.push(interface.to_owned());
        }
    }
    Ok(gone)
}

/// Removes every pin and filter.
pub(super) fn remove_all(pin_dir: &Path, interfaces: &[String]) -> Result<(), KernelError> {
    for interface in interfaces {
        detach_clsact(interface);
    }
    // Links first: a program must not outlive its map of condemned tokens.
    let mut all = entries(pin_dir)?;
    all.sort_by_key(|p| !p.file_name().unwrap_or_default().to_string_lossy().starts_with(LINK_PREFIX));
    all.iter().try_for_each(|p| drop_pin(p))?;
    match fs::remove_dir(pin_dir) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove {}", pin_dir.display()), e))
        }
        _ => Ok(()),
    }
}

fn entries(pin_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    match fs::read_dir(pin_dir) {
        Ok(dir) => Ok(dir.filter_map(Result::ok).map(|e| e.path()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(KernelError::io(format!("list {}", pin_dir.display()), e)),
    }
}
