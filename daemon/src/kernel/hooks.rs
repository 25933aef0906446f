//! Which pinned links are at an interface now.
//!
//! A link stays with its interface whatever that is called later, and its pin has the name of before. So a pin is taken
//! for an interface's only where its link is seen there.

use std::{
    fs, io,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
};

use super::{
    KernelError,
    attach::Side,
    pins::{self, LINK_PREFIX},
    unlink,
};

/// `BPF_OBJ_GET_INFO_BY_FD` and `BPF_PROG_QUERY`.
const INFO: libc::c_long = 15;
const QUERY: libc::c_long = 16;
/// `BPF_TCX_INGRESS` and `BPF_TCX_EGRESS`.
const INGRESS: u32 = 46;
const EGRESS: u32 = 47;
/// Programs that an interface may have on one side (`BPF_MPROG_MAX`).
const MOST: usize = 64;

/// Attributes of the two commands (`linux/bpf.h`).
#[repr(C)]
#[derive(Default)]
struct Info {
    fd: u32,
    len: u32,
    to: u64,
}

#[repr(C)]
#[derive(Default)]
struct Query {
    index: u32,
    side: u32,
    flags: u32,
    attach_flags: u32,
    programs: u64,
    count: u32,
    pad: u32,
    program_flags: u64,
    links: u64,
    link_flags: u64,
    revision: u64,
}

/// The ids of the links at an interface of the calling thread's network namespace; none where it is gone.
fn at(index: u32, side: Side) -> io::Result<Vec<u32>> {
    let (mut programs, mut links) = ([0u32; MOST], [0u32; MOST]);
    let mut query = Query {
        index,
        side: if side == Side::In { INGRESS } else { EGRESS },
        programs: programs.as_mut_ptr() as u64,
        links: links.as_mut_ptr() as u64,
        count: 64,
        ..Query::default()
    };
    // SAFETY: the attributes are those of the command; what they point at has room for as many as they say.
    let done = unsafe { libc::syscall(libc::SYS_bpf, QUERY, &raw mut query, size_of::<Query>()) };
    if done < 0 {
        let e = io::Error::last_os_error();
        return if matches!(e.raw_os_error(), Some(libc::ENODEV | libc::ENOENT)) {
            Ok(Vec::new())
        } else {
            Err(e)
        };
    }
    Ok(links.into_iter().take(query.count as usize).filter(|id| *id != 0).collect())
}

/// The id of a pinned link.
fn id(path: &Path) -> io::Result<u32> {
    let link: OwnedFd = unlink::open(path)?;
    // Its kind, its id, and more that is not looked at.
    let mut told = [0u32; 32];
    let mut info = Info { fd: link.as_raw_fd().unsigned_abs(), len: 128, to: told.as_mut_ptr() as u64 };
    // SAFETY: as above; `told` has 128 bytes.
    let done = unsafe { libc::syscall(libc::SYS_bpf, INFO, &raw mut info, size_of::<Info>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(told[1]) }
}

/// Puts the pin of our link at an interface to `path`, whatever the interface was called when it was pinned; `false`
/// where there is none. Another interface's that stands there is put aside: it is found again if it is still wanted.
pub(super) fn claim(pin_dir: &Path, path: &Path, index: u32, side: Side) -> Result<bool, KernelError> {
    let broken = |e| KernelError::io(format!("find guard's link to interface number {index}"), e);
    let here = at(index, side).map_err(broken)?;
    let is_here = |p: &PathBuf| id(p).is_ok_and(|id| here.contains(&id));
    let own = path.to_owned();
    if is_here(&own) {
        return Ok(true);
    }
    let prefix = format!("{LINK_PREFIX}{}", side.name());
    let name = |p: &Path| p.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let mut ours = pins::list(pin_dir)?.into_iter().filter(|p| name(p).starts_with(&prefix));
    let found = ours.find(is_here);
    let moved = |from: &Path, to: &Path| {
        fs::rename(from, to).map_err(|e| KernelError::io(format!("move the pin {}", from.display()), e))
    };
    if own.exists() {
        let aside = name(path).replacen(&prefix, &format!("{prefix}{ASIDE}"), 1);
        moved(path, &pin_dir.join(aside))?;
    }
    found.map_or(Ok(false), |from| moved(&from, path).map(|()| true))
}

/// Stands in the names of pins that no interface is called by: see [`super::attach::pin`].
const ASIDE: &str = "_w";
