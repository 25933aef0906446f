//! A server that notes every byte it was given and every request it parsed.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result, bail};

use crate::{net::Namespace, process::Watched};

/// Stands in the head of every answer; what the kernel writes does not have it.
pub const NAME: &str = "portcullis-tests";

/// How a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client closed.
    Closed,
    /// It was reset.
    Reset,
}

/// What the server saw of one connection.
#[derive(Clone, Debug, Default)]
pub struct Connection {
    /// Bytes read.
    pub bytes: usize,
    /// Heads of the requests it parsed and answered.
    pub requests: Vec<String>,
    /// How it ended, if it did.
    pub end: Option<End>,
}

/// A thread that accepts, and one for each connection; all end on drop.
#[derive(Debug)]
pub struct Server {
    log: Arc<Watched<Vec<Connection>>>,
    stop: Arc<AtomicBool>,
    accepting: Vec<(SocketAddr, JoinHandle<()>)>,
    ns: Namespace,
}

impl Server {
    /// Listens on each of `addresses` in a namespace.
    pub fn start(ns: &Namespace, addresses: &[SocketAddr]) -> Result<Self> {
        let mut server =
            Self { log: Arc::default(), stop: Arc::default(), accepting: Vec::new(), ns: ns.clone() };
        for address in addresses {
            let listener =
                ns.enter(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
            let (log, stop) = (Arc::clone(&server.log), Arc::clone(&server.stop));
            let thread = thread::spawn(move || accept(&listener, &log, &stop));
            server.accepting.push((*address, thread));
        }
        Ok(server)
    }

    /// Everything so far, by connection in the order they were accepted.
    pub fn connections(&self) -> Vec<Connection> {
        self.log.get().clone()
    }

    /// Heads of all requests so far.
    pub fn requests(&self) -> Vec<String> {
        self.log.get().iter().flat_map(|c| c.requests.clone()).collect()
    }

    /// Waits until the log is as wanted.
    pub fn wait(&self, wanted: impl Fn(&[Connection]) -> bool) -> Result<Vec<Connection>> {
        if self.log.wait(|log| wanted(log)) {
            return Ok(self.connections());
        }
        bail!("the server's log did not become as awaited: {:?}", self.connections())
    }

    /// Waits until the connection accepted as the `n`th (from 0) has ended.
    pub fn ended(&self, n: usize) -> Result<Connection> {
        let log = self.wait(|log| log.get(n).is_some_and(|c| c.end.is_some()))?;
        log.into_iter().nth(n).context("a connection")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        for (address, thread) in self.accepting.drain(..) {
            // Wakes the thread, from inside: what is guarded does not matter to it.
            if self.ns.enter(|| Ok(TcpStream::connect(address)?)).is_ok() {
                let _ = thread.join();
            }
        }
    }
}

fn accept(listener: &TcpListener, log: &Arc<Watched<Vec<Connection>>>, stop: &AtomicBool) {
    let mut open = Vec::new();
    for stream in listener.incoming() {
        if stop.load(Ordering::SeqCst) {
            break;
        }
        let Ok(stream) = stream else { continue };
        // Descriptors are few, connections may be many.
        open.retain(|(_, thread): &(TcpStream, JoinHandle<()>)| !thread.is_finished());
        let Ok(handle) = stream.try_clone() else { continue };
        let index = log.change(|log| {
            log.push(Connection::default());
            log.len() - 1
        });
        let log = Arc::clone(log);
        open.push((handle, thread::spawn(move || converse(stream, index, &log))));
    }
    for (stream, thread) in open {
        let _ = stream.shutdown(Shutdown::Both);
        let _ = thread.join();
    }
}

fn converse(mut stream: TcpStream, index: usize, log: &Watched<Vec<Connection>>) {
    let note = |work: &dyn Fn(&mut Connection)| log.change(|log| log.get_mut(index).map(work));
    let (mut pending, mut buffer) = (Vec::new(), vec![0u8; 65536]);
    let end = loop {
        let n = match stream.read(&mut buffer) {
            Ok(0) => break End::Closed,
            Ok(n) => n,
            Err(e) if e.kind() == ErrorKind::Interrupted => continue,
            Err(_) => break End::Reset,
        };
        pending.extend_from_slice(buffer.get(..n).unwrap_or_default());
        let mut heads = Vec::new();
        while let Some(head) = take_request(&mut pending) {
            heads.push(head);
        }
        // Noted before it is answered, so that who has an answer may count on the log.
        note(&|c| {
            c.bytes += n;
            c.requests.extend(heads.iter().cloned());
        });
        for _ in heads {
            let answer = format!("HTTP/1.1 200 OK\r\nServer: {NAME}\r\nContent-Length: 3\r\n\r\nok\n");
            let _ = stream.write_all(answer.as_bytes());
        }
    };
    note(&|c| c.end = Some(end));
}

/// Takes one whole request, body and all, off the front and gives its head.
fn take_request(pending: &mut Vec<u8>) -> Option<String> {
    let end = pending.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head = String::from_utf8_lossy(pending.get(..end)?).into_owned();
    let length = head
        .lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
        .and_then(|(_, value)| value.trim().parse::<usize>().ok())
        .unwrap_or(0);
    if pending.len() < end + length {
        return None;
    }
    pending.drain(..end + length);
    Some(head)
}
