//! A server whose answers a test chooses while it runs: key sets, introspection, whatever the daemon fetches.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use anyhow::{Context as _, Result};

use crate::net::Namespace;

/// What is answered.
#[derive(Clone, Debug)]
pub enum Reply {
    /// 200 with this JSON.
    Json(String),
    /// 200 with a body of this type.
    Typed(&'static str, String),
    /// Another status, without a body.
    Status(u16),
    /// Nothing, for as long as the client waits.
    Stall,
    /// The connection is reset.
    Reset,
}

type Answers = Box<dyn Fn(&str) -> Reply + Send>;

/// A thread that accepts and one for each connection; the first ends on drop, the others with their connections.
pub struct Web {
    address: SocketAddr,
    ns: Namespace,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Web {
    /// Listens in a namespace; `answers` is given each request's head and body.
    pub fn start(
        ns: &Namespace,
        address: &str,
        answers: impl Fn(&str) -> Reply + Send + 'static,
    ) -> Result<Self> {
        let address: SocketAddr = address.parse()?;
        let listener =
            ns.enter(|| TcpListener::bind(address).with_context(|| format!("listen on {address}")))?;
        let answers: Arc<Mutex<Answers>> = Arc::new(Mutex::new(Box::new(answers)));
        let (asked, stop) = (Arc::new(Mutex::new(Vec::new())), Arc::new(AtomicBool::new(false)));
        let shared = (Arc::clone(&answers), Arc::clone(&asked), Arc::clone(&stop));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                if shared.2.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (answers, asked) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                thread::spawn(move || converse(stream, &answers, &asked));
            }
        });
        Ok(Self { address, ns: ns.clone(), answers, asked, stop, thread: Some(thread) })
    }

    /// Answers otherwise from here on.
    pub fn now(&self, answers: impl Fn(&str) -> Reply + Send + 'static) {
        *self.answers.lock().unwrap_or_else(PoisonError::into_inner) = Box::new(answers);
    }

    /// All requests so far, head and body.
    pub fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Web {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let (address, thread) = (self.address, self.thread.take());
        if self.ns.enter(|| Ok(TcpStream::connect(address)?)).is_ok() {
            let _ = thread.map(JoinHandle::join);
        }
    }
}

fn converse(mut stream: TcpStream, answers: &Mutex<Answers>, asked: &Mutex<Vec<String>>) {
    let (mut pending, mut buffer) = (Vec::new(), [0u8; 16384]);
    loop {
        while let Some(request) = take(&mut pending) {
            asked.lock().unwrap_or_else(PoisonError::into_inner).push(request.clone());
            let reply = (answers.lock().unwrap_or_else(PoisonError::into_inner))(&request);
            let answer = match reply {
                Reply::Json(body) => whole("application/json", &body),
                Reply::Typed(kind, body) => whole(kind, &body),
                Reply::Status(status) => format!("HTTP/1.1 {status} X\r\nContent-Length: 0\r\n\r\n"),
                Reply::Stall => continue,
                Reply::Reset => {
                    let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
                    let _ = nix::sys::socket::setsockopt(&stream, nix::sys::socket::sockopt::Linger, &linger);
                    return;
                }
            };
            let _ = stream.write_all(answer.as_bytes());
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return,
            Ok(n) => pending.extend_from_slice(buffer.get(..n).unwrap_or_default()),
        }
    }
}

fn whole(kind: &str, body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n{body}", body.len())
}

/// Takes one whole request off the front.
fn take(pending: &mut Vec<u8>) -> Option<String> {
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
    let whole: Vec<u8> = pending.drain(..end + length).collect();
    Some(String::from_utf8_lossy(&whole).into_owned())
}
