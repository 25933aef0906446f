//! Netlink, as far as it is needed here: requests, their replies, and attributes (`linux/netlink.h`).

use std::{
    io,
    os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd},
};

/// The request's kinds of answer.
pub(super) const REQUEST: u16 = 1;
pub(super) const ACK: u16 = 4;
pub(super) const DUMP: u16 = 0x300;
/// Replies.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// Attribute types without their flags.
const TYPE: u16 = 0x3fff;
/// Size of a message's header.
const HEADER: usize = 16;

/// A netlink socket. It stays in the network namespace that its thread was in when it was opened.
#[derive(Debug)]
pub(super) struct Netlink {
    socket: OwnedFd,
    seq: u32,
}

impl Netlink {
    /// Opens one of a netlink family, such as `NETLINK_ROUTE`.
    pub(super) fn open(family: libc::c_int) -> io::Result<Self> {
        // SAFETY: a system call without pointers.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, family) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel has just made this descriptor for us, and nothing else owns it.
        let socket = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self { socket, seq: 0 })
    }

    /// Joins multicast groups, and reads without waiting from then on.
    pub(super) fn listen(&self, groups: u32) -> io::Result<()> {
        // SAFETY: plain integers, of which zero is a value.
        let mut address: libc::sockaddr_nl = unsafe { std::mem::zeroed() };
        address.nl_family = libc::sa_family_t::try_from(libc::AF_NETLINK).unwrap_or_default();
        address.nl_groups = groups;
        let len = libc::socklen_t::try_from(size_of_val(&address)).unwrap_or_default();
        // SAFETY: the address outlives the call, and its size is told.
        if unsafe { libc::bind(self.socket.as_raw_fd(), (&raw const address).cast(), len) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: a system call without pointers.
        if unsafe { libc::fcntl(self.socket.as_raw_fd(), libc::F_SETFL, libc::O_NONBLOCK) } != 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(())
    }

    /// What tells the socket's network namespace from every other that there was since the machine started.
    pub(super) fn namespace(&self) -> io::Result<u64> {
        // `SO_NETNS_COOKIE`, from Linux 5.14.
        const COOKIE: libc::c_int = 71;
        let (mut cookie, mut len) = (0u64, 8);
        let to = (&raw mut cookie).cast();
        // SAFETY: the option's value has eight bytes, and there is room for as many.
        let done =
            unsafe { libc::getsockopt(self.socket.as_raw_fd(), libc::SOL_SOCKET, COOKIE, to, &raw mut len) };
        if done != 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
    }

    /// Throws away what has come; tells whether anything had.
    pub(super) fn drain(&self) -> io::Result<bool> {
        let mut any = false;
        let mut buffer = vec![0u8; 1 << 15];
        loop {
            match self.read(&mut buffer) {
                Ok(_) => any = true,
                // What was lost on the way is as good as a message: all is looked at anew.
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(e) => return Err(e),
            }
        }
    }

    fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            // SAFETY: the buffer outlives the call, and its size is told.
            let n =
                unsafe { libc::recv(self.socket.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if let Ok(n) = usize::try_from(n) {
                return Ok(n);
            }
            let e = io::Error::last_os_error();
            if e.kind() != io::ErrorKind::Interrupted {
                return Err(e);
            }
        }
    }

    /// Sends a request.
    pub(super) fn send(&mut self, kind: u16, flags: u16, payload: &[u8]) -> io::Result<()> {
        self.seq = self.seq.wrapping_add(1);
        let len = u32::try_from(HEADER + payload.len()).map_err(io::Error::other)?;
        let mut message = Vec::with_capacity(HEADER + payload.len());
        message.extend(len.to_ne_bytes());
        message.extend(kind.to_ne_bytes());
        message.extend(flags.to_ne_bytes());
        message.extend(self.seq.to_ne_bytes());
        message.extend(0u32.to_ne_bytes());
        message.extend(payload);
        // SAFETY: the message outlives the call, and its size is told.
        let sent = unsafe { libc::send(self.socket.as_raw_fd(), message.as_ptr().cast(), message.len(), 0) };
        if sent < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Reads the replies to the last request, up to the last one.
    pub(super) fn receive(&self, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        let mut buffer = vec![0u8; 1 << 16];
        loop {
            let n = self.read(&mut buffer)?;
            let mut rest = buffer.get(..n).unwrap_or_default();
            while let Some((kind, seq, payload, next)) = message(rest) {
                rest = next;
                if seq != self.seq {
                    continue;
                }
                match kind {
                    DONE => return Ok(()),
                    ERROR => {
                        let code = word(payload, 0).unwrap_or_default().cast_signed();
                        return if code == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(-code)) };
                    }
                    _ => each(payload),
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl std::os::fd::AsRawFd for Netlink {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.socket.as_raw_fd()
    }
}

/// Four bytes as a number.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

/// Two bytes as a number.
pub(super) fn half(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

/// Takes a message off the front: its type, sequence number, payload, and what follows.
pub(super) fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let len = word(bytes, 0)? as usize;
    let payload = bytes.get(HEADER..len)?;
    Some((
        half(bytes, 4)?,
        word(bytes, 8)?,
        payload,
        bytes.get(len.next_multiple_of(4)..).unwrap_or_default(),
    ))
}

/// Appends an attribute.
pub(super) fn attribute(to: &mut Vec<u8>, kind: u16, value: &[u8]) {
    let len = u16::try_from(4 + value.len()).unwrap_or(u16::MAX);
    to.extend(len.to_ne_bytes());
    to.extend(kind.to_ne_bytes());
    to.extend(value);
    to.resize(to.len().next_multiple_of(4), 0);
}

/// The attributes in `bytes`, by type.
pub(super) fn attributes(mut bytes: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let len = usize::from(half(bytes, 0)?);
        let found = (half(bytes, 2)? & TYPE, bytes.get(4..len)?);
        bytes = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
        Some(found)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_gives_nothing() {
        let mut bytes = Vec::new();
        attribute(&mut bytes, 7, b"abcde");
        attribute(&mut bytes, 8, b"");
        let all: Vec<_> = attributes(&bytes).collect();
        assert_eq!(all, [(7, &b"abcde"[..]), (8, &b""[..])]);
        for n in 0..bytes.len() {
            assert!(attributes(&bytes[..n]).count() <= 2);
            assert!(message(&bytes[..n]).is_none_or(|m| m.2.len() < n));
        }
    }
}
