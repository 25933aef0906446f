//! Detaches a pinned link at once.
//!
//! Removing the pin is not enough: the kernel lets go of what it held some time later, and until then the
//! program goes on refusing.

use std::{
    ffi::CString,
    io,
    os::{
        fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
        unix::ffi::OsStrExt as _,
    },
    path::Path,
};

/// `BPF_OBJ_GET` and its attributes (`linux/bpf.h`).
const OBJ_GET: libc::c_long = 7;
#[repr(C)]
struct ObjGet {
    pathname: u64,
    bpf_fd: u32,
    file_flags: u32,
}

/// `BPF_LINK_DETACH`, from Linux 5.9, and its attributes.
const LINK_DETACH: libc::c_long = 34;
#[repr(C)]
struct LinkDetach {
    link_fd: u32,
}

/// Detaches the link pinned at `path`; the pin stays.
pub(super) fn detach(path: &Path) -> io::Result<()> {
    let link = open(path)?;
    let detach = LinkDetach { link_fd: link.as_raw_fd().unsigned_abs() };
    // SAFETY: the command reads `LinkDetach`, whose descriptor is open.
    unsafe { bpf(LINK_DETACH, &detach) }.map(drop)
}

/// Opens what is pinned at `path`.
pub(super) fn open(path: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    let get = ObjGet { pathname: path.as_ptr() as u64, bpf_fd: 0, file_flags: 0 };
    // SAFETY: the command reads `ObjGet`, whose path is a C string that outlives the call.
    let fd = unsafe { bpf(OBJ_GET, &get) }?;
    let fd = i32::try_from(fd).map_err(io::Error::other)?;
    // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The bpf system call.
///
/// # Safety
/// `attributes` are those that `command` reads, and what they point at outlives the call.
unsafe fn bpf<T>(command: libc::c_long, attributes: &T) -> io::Result<libc::c_long> {
    // SAFETY: the kernel reads no more than the size it is told.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const *attributes, size_of::<T>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}
