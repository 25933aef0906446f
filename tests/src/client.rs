//! Clients: raw TCP, Python's sockets for what Rust's do not offer, and curl.

use std::{
    io::{ErrorKind, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    process::Command,
};

use anyhow::{Context as _, Result, bail};

use crate::{
    PATIENCE,
    net::Namespace,
    process::{Finished, run},
    server::{End, NAME},
};

/// An HTTP response, read to its end as its head says.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The head, status line first.
    pub head: String,
    /// The body.
    pub body: String,
}

impl Answer {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        let fields = self.head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.into_iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
    }

    /// Whether the test's own server wrote it; otherwise the kernel did.
    pub fn is_servers(&self) -> bool {
        self.header("server") == Some(NAME)
    }

    /// Takes one response off the front of `bytes`, which must be well formed and whole.
    pub fn take(bytes: &mut Vec<u8>) -> Result<Self> {
        let shown = String::from_utf8_lossy(bytes).into_owned();
        let end = shown.find("\r\n\r\n").with_context(|| format!("no whole head: {shown:?}"))? + 4;
        let head = shown.get(..end).unwrap_or_default().trim_end().to_owned();
        let status = head.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3)?.parse().ok());
        let status = status.with_context(|| format!("no status line: {head:?}"))?;
        let mut answer = Self { status, head, body: String::new() };
        let length: usize = answer
            .header("content-length")
            .with_context(|| format!("no Content-Length: {}", answer.head))?
            .parse()?;
        if bytes.len() < end + length {
            bail!("the body is cut off: {shown:?}");
        }
        answer.body = String::from_utf8_lossy(bytes.get(end..end + length).unwrap_or_default()).into_owned();
        bytes.drain(..end + length);
        Ok(answer)
    }
}

/// A raw connection. It stays in its namespace wherever it is used.
#[derive(Debug)]
pub struct Client(pub TcpStream);

impl Client {
    /// Connects from inside a namespace.
    pub fn connect(ns: &Namespace, to: SocketAddr) -> Result<Self> {
        let stream = ns.enter(|| TcpStream::connect(to).with_context(|| format!("connect to {to}")))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_nodelay(true)?;
        Ok(Self(stream))
    }

    /// Sends `bytes` in one write.
    pub fn send(&mut self, bytes: &[u8]) -> Result<()> {
        Ok(self.0.write_all(bytes)?)
    }

    /// Reads one response, and not a byte more than has come with it.
    pub fn answer(&mut self) -> Result<Answer> {
        let (mut bytes, mut buffer) = (Vec::new(), [0u8; 4096]);
        loop {
            if let Ok(answer) = Answer::take(&mut bytes) {
                assert!(bytes.is_empty(), "more than one answer: {:?}", String::from_utf8_lossy(&bytes));
                return Ok(answer);
            }
            match self.0.read(&mut buffer) {
                Ok(0) => bail!("closed before an answer: {:?}", String::from_utf8_lossy(&bytes)),
                Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) => bail!("{e} before an answer: {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    }

    /// Sends a request on a live connection and reads its answer.
    pub fn ask(&mut self, bytes: &[u8]) -> Result<Answer> {
        self.send(bytes)?;
        self.answer()
    }

    /// Reads to the end and says how it ended.
    pub fn rest(&mut self) -> Result<(Vec<u8>, End)> {
        let (mut bytes, mut buffer) = (Vec::new(), [0u8; 4096]);
        loop {
            match self.0.read(&mut buffer) {
                Ok(0) => return Ok((bytes, End::Closed)),
                Ok(n) => bytes.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) if e.kind() == ErrorKind::ConnectionReset => return Ok((bytes, End::Reset)),
                Err(e) => bail!("{e} after {:?}", String::from_utf8_lossy(&bytes)),
            }
        }
    }
}

/// A request with these header lines.
pub fn request(path: &str, headers: &[&str]) -> Vec<u8> {
    let mut text = format!("GET {path} HTTP/1.1\r\nHost: api.test\r\n");
    for line in headers {
        text.push_str(line);
        text.push_str("\r\n");
    }
    text.push_str("\r\n");
    text.into_bytes()
}

/// A request with a bearer token.
pub fn bearer(path: &str, token: &str) -> Vec<u8> {
    request(path, &[&format!("Authorization: Bearer {token}")])
}

/// One request on a connection of its own, with a body, and its answer.
pub fn http(ns: &Namespace, to: SocketAddr, head: &str, body: &[u8]) -> Result<Answer> {
    let mut client = Client::connect(ns, to)?;
    let head = format!("{head}\r\nHost: {to}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send(&[head.as_bytes(), body].concat())?;
    let (mut bytes, _) = client.rest()?;
    Answer::take(&mut bytes)
}

/// curl without any configuration of the user's; `headers` come by standard input, where `ps` shows nothing.
pub fn curl(ns: &Namespace, url: &str, headers: &[&str]) -> Result<Finished> {
    let mut command = Command::new("curl");
    command.args(["-q", "-sS", "-i", "--noproxy", "*", "--max-time", "30", "-H", "@-", url]);
    run(ns, &mut command, headers.join("\n").as_bytes())
}

/// Sends a request through a Python socket with an option set (its value in hex), and gives what came until the end. Rust's
/// standard library sets no such options without `unsafe`.
pub fn with_socket_option(
    ns: &Namespace,
    to: SocketAddr,
    (level, option, value): (i32, i32, &str),
    request: &[u8],
) -> Result<Vec<u8>> {
    const SCRIPT: &str = "
import socket, sys
host, port, level, option, value = sys.argv[1:]
family = socket.AF_INET6 if ':' in host else socket.AF_INET
s = socket.socket(family, socket.SOCK_STREAM)
s.settimeout(30)
s.setsockopt(int(level), int(option), bytes.fromhex(value))
s.connect((host, int(port)))
s.sendall(sys.stdin.buffer.read())
while True:
    b = s.recv(4096)
    if not b:
        break
    sys.stdout.buffer.write(b)
";
    let mut command = Command::new("python3");
    command.args(["-c", SCRIPT, &to.ip().to_string(), &to.port().to_string()]);
    command.args([&level.to_string(), &option.to_string(), value]);
    run(ns, &mut command, request)?.ok().map(String::into_bytes)
}
