//! NATS servers: a current one from Python's package index and Debian's, and a few words of their protocol.

use std::{
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{PATIENCE, dir::repository, net::Namespace, process::Process, skip, until};

/// Which server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// From Python's package index.
    Current,
    /// Debian's 2.9, which has no `sync_interval`.
    Debian,
}

impl Version {
    /// Its program; says that the running test is skipped where it is not there.
    pub fn program(self) -> Option<PathBuf> {
        let target = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
        let target = repository().join(target.unwrap_or_else(|| "target".into()));
        let found = match self {
            Self::Current => target.join("tools/python/bin/nats-server"),
            // A path of its own, for machines where the package cannot be installed.
            Self::Debian => std::env::var_os("PORTCULLIS_NATS_DEBIAN")
                .map_or_else(|| "/usr/sbin/nats-server".into(), Into::into),
        };
        if !found.is_file() {
            skip(&format!("needs `{}`", found.display()));
            return None;
        }
        Some(found)
    }
}

/// A running server; killed on drop.
#[derive(Debug)]
pub struct Nats {
    ns: Namespace,
    program: PathBuf,
    config: PathBuf,
    store: PathBuf,
    port: u16,
    process: Option<Process>,
}

/// What differs between servers.
#[derive(Clone, Debug)]
pub struct Setting {
    /// Which.
    pub version: Version,
    /// Its port.
    pub port: u16,
    /// Further lines of its configuration.
    pub more: String,
    /// Where it keeps its stream, if not beside its configuration.
    pub store: Option<PathBuf>,
}

impl Setting {
    /// One server alone.
    pub fn alone(version: Version) -> Self {
        Self { version, port: 4222, more: String::new(), store: None }
    }

    /// The `n`th of three.
    pub fn of_three(version: Version, n: u16) -> Self {
        let routes: Vec<String> = (0..3).map(|n| format!("\"nats://127.0.0.1:{}\"", 6222 + n)).collect();
        let more = format!(
            "cluster {{ name: c, listen: \"127.0.0.1:{}\", routes: [{}], no_advertise: true }}\n",
            6222 + n,
            routes.join(", ")
        );
        Self { version, port: 4222 + n, more, store: None }
    }
}

impl Nats {
    /// Starts one, which keeps its stream below `dir`, and waits until it listens. `None` where the program is not there.
    pub fn start(ns: &Namespace, dir: &Path, setting: &Setting) -> Result<Option<Self>> {
        let Some(program) = setting.version.program() else { return Ok(None) };
        let port = setting.port;
        let store = setting.store.as_deref().unwrap_or(dir).join(format!("nats-{port}"));
        let sync = if setting.version == Version::Current { "sync_interval: always" } else { "" };
        let text = format!(
            "server_name: n{port}\nlisten: \"0.0.0.0:{port}\"\njetstream {{ store_dir: \"{}\"\n {sync} }}\n{}",
            store.display(),
            setting.more
        );
        let config = dir.join(format!("nats-{port}.conf"));
        std::fs::write(&config, text)?;
        let mut server = Self { ns: ns.clone(), program, config, store, port, process: None };
        server.restart()?;
        Ok(Some(server))
    }

    /// Starts it again after an end.
    pub fn restart(&mut self) -> Result<()> {
        let mut command = Command::new(&self.program);
        let process = Process::start(&self.ns, command.arg("-c").arg(&self.config))?;
        process.await_line(0, |line| line.contains("Server is ready"))?;
        self.process = Some(process);
        Ok(())
    }

    /// kill -9, and its end.
    pub fn kill(&mut self) -> Result<()> {
        self.process.take().context("the server does not run")?.end(Signal::SIGKILL).map(drop)
    }

    /// Loses all it has stored, while it is stopped.
    pub fn forget(&self) -> Result<()> {
        Ok(std::fs::remove_dir_all(&self.store)?)
    }

    /// A connection of a client that knows as much of the protocol as it must.
    pub fn client(&self) -> Result<RawClient> {
        self.ns.enter(|| RawClient::connect(self.port, ""))
    }

    /// The same as a user.
    pub fn client_as(&self, user: &str, password: &str) -> Result<RawClient> {
        let who = format!(",\"user\":\"{user}\",\"pass\":\"{password}\"");
        self.ns.enter(|| RawClient::connect(self.port, &who))
    }

    /// Waits until all servers of the cluster that keep the stream have all of it.
    pub fn await_whole(&self, stream: &str) -> Result<()> {
        let mut last = Value::Null;
        until(|| {
            let mut client = self.client()?;
            // While nobody leads, nobody answers.
            client.stream.get_ref().set_read_timeout(Some(Duration::from_secs(1)))?;
            let answer = client.request(&format!("$JS.API.STREAM.INFO.{stream}"), "");
            last = answer.map_or(Value::Null, |text| serde_json::from_str(&text).unwrap_or_default());
            let cluster = &last["cluster"];
            let others = cluster["replicas"].as_array().map_or(&[][..], |all| all);
            let whole = others.iter().all(|r| r["current"] == true && r["offline"] != true);
            Ok(cluster["leader"].is_string() && !others.is_empty() && whole)
        })
        .with_context(|| format!("{stream} is whole on all servers: {last:#}"))
    }

    /// A question to JetStream.
    pub fn api(&self, subject: &str, body: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.client()?.request(&format!("$JS.API.{subject}"), body)?)?)
    }
}

/// A client of the protocol in plain text.
pub struct RawClient {
    stream: BufReader<TcpStream>,
}

impl RawClient {
    fn connect(port: u16, who: &str) -> Result<Self> {
        let stream = TcpStream::connect(SocketAddr::from(([127, 0, 0, 1], port)))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut client = Self { stream: BufReader::new(stream) };
        let mut info = String::new();
        client.stream.read_line(&mut info)?;
        client.send(&format!(
            "CONNECT {{\"verbose\":false,\"headers\":true,\"no_responders\":true{who}}}\r\n"
        ))?;
        Ok(client)
    }

    fn send(&mut self, text: &str) -> Result<()> {
        Ok(self.stream.get_mut().write_all(text.as_bytes())?)
    }

    /// Publishes, and waits until the server has it.
    pub fn publish(&mut self, subject: &str, body: &str) -> Result<()> {
        self.send(&format!("PUB {subject} {}\r\n{body}\r\nPING\r\n", body.len()))?;
        self.until("PONG")
    }

    fn until(&mut self, wanted: &str) -> Result<()> {
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the server hung up");
            }
            if line.trim() == wanted {
                return Ok(());
            }
            if line.starts_with("-ERR") {
                bail!("the server says {line}");
            }
        }
    }

    /// Asks, and gives the answer.
    pub fn request(&mut self, subject: &str, body: &str) -> Result<String> {
        self.send(&format!("SUB answer 1 1\r\nPUB {subject} answer {}\r\n{body}\r\n", body.len()))?;
        let mut line = String::new();
        loop {
            line.clear();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the server hung up");
            }
            if line.starts_with("-ERR") || line.starts_with("HMSG") {
                bail!("the server says {line}");
            }
            if line.starts_with("MSG") {
                let len: usize = line.trim().rsplit(' ').next().unwrap_or_default().parse()?;
                let mut body = vec![0; len + 2];
                self.stream.read_exact(&mut body)?;
                body.truncate(len);
                return Ok(String::from_utf8(body)?);
            }
        }
    }
}

/// A user's nkey, made anew: its seed and its public key, in the texts that NATS has for them.
pub fn user_key() -> (String, String) {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    /// The kind of a user's key.
    const USER: u8 = 20 << 3;
    let mut seed = [0; 32];
    aws_lc_rs::rand::fill(&mut seed).unwrap_or_else(|_| unreachable!("the system has randomness"));
    let pair = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap_or_else(|_| unreachable!("any seed is one"));
    let text = |head: &[u8], body: &[u8]| {
        let mut bytes = [head, body].concat();
        let crc = bytes.iter().fold(0u16, |crc, b| {
            (0..8)
                .fold(crc ^ u16::from(*b) << 8, |c, _| if c & 0x8000 == 0 { c << 1 } else { c << 1 ^ 0x1021 })
        });
        bytes.extend(crc.to_le_bytes());
        base32(&bytes)
    };
    let kind = [18 << 3 | USER >> 5, (USER & 31) << 3];
    (text(&kind, &seed), text(&[USER], pair.public_key().as_ref()))
}

fn base32(bytes: &[u8]) -> String {
    let bits = bytes.iter().flat_map(|b| (0..8).rev().map(move |n| b >> n & 1)).collect::<Vec<_>>();
    let digit = |five: &[u8]| {
        let n = (0..5).fold(0, |n, i| n << 1 | five.get(i).copied().unwrap_or(0));
        char::from(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567"[usize::from(n)])
    };
    bits.chunks(5).map(digit).collect()
}
