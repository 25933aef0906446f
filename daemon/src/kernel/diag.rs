//! TCP sockets as the kernel lists them, and their end (`sock_diag(7)`, `SOCK_DESTROY`).
//!
//! The messages are encoded by hand: no crate at hand sends `SOCK_DESTROY` or asks for socket storages.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::fd::{AsRawFd as _, BorrowedFd},
};

use super::netlink::{ACK, DUMP, Netlink, REQUEST, attribute, attributes, word};

/// `SOCK_DIAG_BY_FAMILY` and `SOCK_DESTROY` (`linux/sock_diag.h`).
const BY_FAMILY: u16 = 20;
const DESTROY: u16 = 21;
/// Attribute of the request that names storages, and its own attribute (`linux/inet_diag.h`, `linux/sock_diag.h`).
const REQ_STORAGES: u16 = 2;
const REQ_MAP_FD: u16 = 1;
/// Attribute of the reply that holds them, and its own two levels.
const STORAGES: u16 = 20;
const STORAGE: u16 = 1;
const MAP_ID: u16 = 2;
const MAP_VALUE: u16 = 3;
/// Bit of every TCP state but `LISTEN`, `CLOSE` and `TIME_WAIT`, which have no connection's data.
const CONNECTED: u32 = 0xfff & !(1 << 10) & !(1 << 7) & !(1 << 6);
/// Size of a request's body, and of a reply's before its attributes.
const BODY: usize = 56;
const REPLY: usize = 72;

/// Names one socket to the kernel: `struct inet_diag_sockid` and its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SocketId {
    family: u8,
    id: [u8; 48],
}

/// One connection's socket.
#[derive(Clone, Debug)]
pub struct Socket {
    /// Its name.
    pub id: SocketId,
    /// This host's side.
    pub local: SocketAddr,
    /// The other side.
    pub remote: SocketAddr,
    /// Storages that were asked for, by map id.
    pub storages: Vec<(u32, Vec<u8>)>,
}

/// A netlink socket in one network namespace.
#[derive(Debug)]
pub struct Diag(Netlink);

impl Diag {
    /// Opens one in the calling thread's network namespace.
    pub fn open() -> io::Result<Self> {
        Netlink::open(libc::NETLINK_SOCK_DIAG).map(Self)
    }

    /// Lists the TCP connections at a local port, with what `storages` (socket storage maps) keep of each.
    pub fn connections(&mut self, port: u16, storages: &[BorrowedFd<'_>]) -> io::Result<Vec<Socket>> {
        let mut found = Vec::new();
        for family in [libc::AF_INET, libc::AF_INET6] {
            let mut body = [0u8; BODY];
            body[0] = u8::try_from(family).unwrap_or_default();
            body[1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
            body[4..8].copy_from_slice(&CONNECTED.to_ne_bytes());
            body[8..10].copy_from_slice(&port.to_be_bytes());
            let mut nested = Vec::new();
            for map in storages {
                attribute(&mut nested, REQ_MAP_FD, &map.as_raw_fd().to_ne_bytes());
            }
            let mut message = body.to_vec();
            if !nested.is_empty() {
                attribute(&mut message, REQ_STORAGES, &nested);
            }
            self.0.send(BY_FAMILY, REQUEST | DUMP, &message)?;
            self.0.receive(|payload| found.extend(socket(payload)))?;
        }
        // A dual-stack listener's sockets may be told of twice.
        found.retain(|s: &Socket| s.local.port() == port);
        Ok(found)
    }

    /// Ends a connection: its peer gets a reset, its owner an error. One that is gone is no error.
    pub fn destroy(&mut self, socket: &SocketId) -> io::Result<()> {
        let mut body = [0u8; BODY];
        body[0] = socket.family;
        body[1] = u8::try_from(libc::IPPROTO_TCP).unwrap_or_default();
        body[4..8].copy_from_slice(&u32::MAX.to_ne_bytes());
        body[8..].copy_from_slice(&socket.id);
        self.0.send(DESTROY, REQUEST | ACK, &body)?;
        match self.0.receive(|_| {}) {
            Err(e) if e.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            done => done,
        }
    }
}

/// Reads one `struct inet_diag_msg`.
fn socket(payload: &[u8]) -> Option<Socket> {
    let head = payload.get(..REPLY)?;
    let family = *head.first()?;
    let id: [u8; 48] = head.get(4..52)?.try_into().ok()?;
    let port = |at: usize| Some(u16::from_be_bytes(id.get(at..at + 2)?.try_into().ok()?));
    let address = |at: usize| {
        let bytes: [u8; 16] = id.get(at..at + 16)?.try_into().ok()?;
        let [a, b, c, d, ..] = bytes;
        Some(if i32::from(family) == libc::AF_INET {
            IpAddr::V4(Ipv4Addr::new(a, b, c, d))
        } else {
            IpAddr::V6(Ipv6Addr::from(bytes))
        })
    };
    let mut storages = Vec::new();
    for (kind, value) in attributes(payload.get(REPLY..)?) {
        if kind != STORAGES {
            continue;
        }
        for (_, one) in attributes(value).filter(|(kind, _)| *kind == STORAGE) {
            let part = |wanted| attributes(one).find(|(kind, _)| *kind == wanted).map(|(_, v)| v);
            if let (Some(map), Some(value)) = (part(MAP_ID).and_then(|v| word(v, 0)), part(MAP_VALUE)) {
                storages.push((map, value.to_vec()));
            }
        }
    }
    Some(Socket {
        id: SocketId { family, id },
        local: SocketAddr::new(address(4)?, port(0)?),
        remote: SocketAddr::new(address(20)?, port(2)?),
        storages,
    })
}

#[cfg(test)]
mod tests {
    use std::{
        io::Read as _,
        net::{TcpListener, TcpStream},
    };

    use super::*;

    #[test]
    fn a_connection_is_listed_and_destroyed_and_its_neighbour_lives() {
        if !nix::unistd::geteuid().is_root() {
            return;
        }
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let pairs: Vec<_> =
            (0..2).map(|_| (TcpStream::connect(to).unwrap(), listener.accept().unwrap().0)).collect();
        let mut diag = Diag::open().unwrap();
        let sockets = diag.connections(to.port(), &[]).unwrap();
        assert_eq!(sockets.len(), 2, "{sockets:?}");
        let first = pairs[0].0.local_addr().unwrap();
        let socket = sockets.iter().find(|s| s.remote == first).unwrap();
        assert_eq!(socket.local, to);
        diag.destroy(&socket.id).unwrap();
        diag.destroy(&socket.id).unwrap();
        let mut client = &pairs[0].0;
        assert_eq!(client.read(&mut [0; 8]).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(diag.connections(to.port(), &[]).unwrap().len(), 1);
    }

    #[test]
    fn a_reply_that_is_cut_gives_nothing() {
        assert!(socket(&[2; REPLY - 1]).is_none());
    }
}
