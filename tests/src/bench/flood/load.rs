//! The flooder: one connection after the other, each with one request, bounded in number.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::fd::AsRawFd as _,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

use anyhow::{Context as _, Result, anyhow, bail};
use nix::{
    errno::Errno,
    sys::socket::{AddressFamily, SockFlag, SockType, SockaddrStorage, connect, socket},
};

use super::cpu::Cpu;
use crate::net::{Namespace, Net};

/// Connections that are open at once.
const AT_ONCE: u32 = 4;

/// What every connection must get.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// A 401.
    Refused,
    /// Nothing but its end; nothing is asked.
    Closed,
}

/// Who floods whom with what.
#[derive(Clone, Copy)]
pub struct Flood<'a> {
    pub net: &'a Net,
    pub to: SocketAddr,
    pub tokens: &'a [String],
    pub expect: Expect,
}

impl Flood<'_> {
    /// So many connections, a few at once; every answer is checked.
    pub fn run(&self, connections: u32) -> Result<()> {
        let next = AtomicU32::new(0);
        thread::scope(|scope| {
            let threads: Vec<_> = (0..AT_ONCE)
                .map(|_| {
                    scope.spawn(|| {
                        self.net.client.enter(|| {
                            loop {
                                let i = next.fetch_add(1, Ordering::Relaxed);
                                if i >= connections {
                                    return Ok(());
                                }
                                self.one(i)?;
                            }
                        })
                    })
                })
                .collect();
            threads.into_iter().try_for_each(|t| t.join().map_err(|_| anyhow!("a flooder panicked"))?)
        })
    }

    /// Runs so many and gives what each cost, in microseconds.
    pub fn cost(&self, server: &Namespace, connections: u32) -> Result<Cpu> {
        let before = Cpu::now(server)?;
        self.run(connections)?;
        Ok((Cpu::now(server)? - before).each(connections))
    }

    /// One connection, in the client's namespace.
    pub fn one(&self, i: u32) -> Result<()> {
        let mut stream = TcpStream::connect(self.to).with_context(|| format!("connect to {}", self.to))?;
        let mut answer = [0; 1024];
        if self.expect == Expect::Refused {
            let token = self.tokens.get(i as usize % self.tokens.len().max(1)).context("a token")?;
            stream.write_all(request(token).as_bytes())?;
        }
        let mut len = 0;
        loop {
            match stream.read(answer.get_mut(len..).unwrap_or_default()) {
                Ok(0) => break,
                Ok(n) => len += n,
                Err(e) if e.kind() == ErrorKind::Interrupted => {}
                Err(e) => bail!("{e} from {}", self.to),
            }
        }
        let refused = answer.starts_with(b"HTTP/1.1 401 ");
        if refused != (self.expect == Expect::Refused) {
            let got = String::from_utf8_lossy(answer.get(..len).unwrap_or_default()).into_owned();
            bail!("another answer from {}: {got:?}", self.to);
        }
        Ok(())
    }
}

/// A request of a flood. Envoy asks the daemon by this path, which reads the original one from headers.
pub fn request(token: &str) -> String {
    format!(
        "GET /auth HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: flood\r\nAccept: */*\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
    )
}

/// Attempts to connect that are given up at once: a SYN each.
pub fn attempts(ns: &Namespace, to: SocketAddr, n: u32) -> Result<()> {
    ns.enter(|| {
        let to = SockaddrStorage::from(to);
        for _ in 0..n {
            let s = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_NONBLOCK, None)?;
            match connect(s.as_raw_fd(), &to) {
                Err(Errno::EINPROGRESS) => {}
                other => bail!("a connection that should be shed: {other:?}"),
            }
        }
        Ok(())
    })
}
