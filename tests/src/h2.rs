//! HTTP/2 in the clear, byte by byte: a client whose frames a test makes and cuts itself, and a server that people run.

use std::{collections::BTreeMap, io::Read as _, net::SocketAddr, process::Command};

use anyhow::{Context as _, Result, bail};
use httlib_hpack::{Decoder, Encoder};

use crate::{client::Client, dir::Dir, net::Namespace, process::Process, server::End};

/// What a client sends first.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// One frame.
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).unwrap_or(0).to_be_bytes();
    [&len[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// The preface and the settings behind it.
pub fn beginning() -> Vec<u8> {
    [PREFACE, &frame(4, 0, 0, &[])].concat()
}

/// How header fields are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Coding {
    /// As other clients do: Huffman's code and the dynamic table.
    Usual,
    /// Plain, and out of the table.
    Plain,
}

/// Writes the frames of one client.
#[derive(Debug)]
pub struct Writer {
    encoder: Encoder<'static>,
    /// The stream of the next request.
    pub next: u32,
}

impl Default for Writer {
    fn default() -> Self {
        Self { encoder: Encoder::with_dynamic_size(4096), next: 1 }
    }
}

impl Writer {
    /// The header block of a request.
    pub fn fragment(&mut self, path: &str, headers: &[(&str, &str)], coding: Coding) -> Result<Vec<u8>> {
        let flags = match coding {
            Coding::Usual => {
                Encoder::BEST_FORMAT | Encoder::WITH_INDEXING | Encoder::HUFFMAN_NAME | Encoder::HUFFMAN_VALUE
            }
            Coding::Plain => 0,
        };
        let mut out = Vec::new();
        let own = [(":method", "GET"), (":scheme", "http"), (":authority", "api.test"), (":path", path)];
        for (name, value) in own.iter().chain(headers) {
            let field = (name.as_bytes().to_vec(), value.as_bytes().to_vec(), flags);
            self.encoder.encode(field, &mut out).map_err(|e| anyhow::anyhow!("{e:?}"))?;
        }
        Ok(out)
    }

    /// The frames of a request, on the next stream.
    pub fn request(&mut self, path: &str, headers: &[(&str, &str)], coding: Coding) -> Result<Vec<u8>> {
        let fragment = self.fragment(path, headers, coding)?;
        let stream = self.next;
        self.next += 2;
        Ok(frame(1, 5, stream, &fragment))
    }

    /// The frames of a request with a bearer token.
    pub fn bearer(&mut self, path: &str, token: &str, coding: Coding) -> Result<Vec<u8>> {
        self.request(path, &[("authorization", &format!("Bearer {token}"))], coding)
    }
}

/// What a server, or the kernel in its place, has sent.
#[derive(Debug, Default)]
pub struct Told {
    /// Statuses by stream.
    pub statuses: BTreeMap<u32, u16>,
    /// Streams that are finished.
    pub finished: Vec<u32>,
    /// The last stream, the error code and the text of a `GOAWAY`.
    pub goaway: Option<(u32, u32, String)>,
    /// Frames, to the last of which all that came is whole.
    pub frames: usize,
    /// Bytes that make no whole frame.
    pub rest: usize,
    /// How the connection ended, where it was waited for.
    pub end: Option<End>,
}

/// A connection.
#[derive(Debug)]
pub struct Session {
    /// The connection itself.
    pub client: Client,
    /// Writes its frames.
    pub writer: Writer,
    decoder: Decoder<'static>,
    unread: Vec<u8>,
    /// What came so far.
    pub told: Told,
}

impl Session {
    /// Connects; nothing is sent yet.
    pub fn connect(ns: &Namespace, to: SocketAddr) -> Result<Self> {
        Ok(Self {
            client: Client::connect(ns, to)?,
            writer: Writer::default(),
            decoder: Decoder::with_dynamic_size(4096),
            unread: Vec::new(),
            told: Told::default(),
        })
    }

    /// Sends bytes in one write; a connection that is closed by now is no fault.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.client.send(bytes);
    }

    fn take(&mut self) -> Result<()> {
        while let Some(head) = self.unread.first_chunk::<9>().copied() {
            let [a, b, c, kind, flags, stream @ ..] = head;
            let len = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
            if self.unread.len() < 9 + len {
                break;
            }
            let payload: Vec<u8> = self.unread.drain(..9 + len).skip(9).collect();
            let stream = u32::from_be_bytes(stream);
            self.told.frames += 1;
            let word = |at: usize| -> Option<u32> {
                Some(u32::from_be_bytes(payload.get(at..at + 4)?.try_into().ok()?))
            };
            match kind {
                1 => {
                    let mut fields = Vec::new();
                    let mut block = payload.clone();
                    self.decoder.decode(&mut block, &mut fields).map_err(|e| anyhow::anyhow!("{e:?}"))?;
                    let status = fields.iter().find(|(name, _, _)| name == b":status");
                    if let Some((_, value, _)) = status {
                        self.told.statuses.insert(stream, String::from_utf8_lossy(value).parse()?);
                    }
                }
                7 => {
                    let text = String::from_utf8_lossy(payload.get(8..).unwrap_or_default());
                    let (last, code) = (word(0).context("GOAWAY")?, word(4).context("GOAWAY")?);
                    self.told.goaway = Some((last, code, text.trim().to_owned()));
                }
                // Servers end connections whose client does not.
                4 if flags & 1 == 0 => self.send(&frame(4, 1, 0, &[])),
                _ => {}
            }
            if (kind <= 1 && flags & 1 != 0) || kind == 3 {
                self.told.finished.push(stream);
            }
        }
        self.told.rest = self.unread.len();
        Ok(())
    }

    /// Reads until a stream is finished.
    pub fn finish(&mut self, stream: u32) -> Result<u16> {
        let mut buffer = [0; 4096];
        loop {
            self.take()?;
            if self.told.finished.contains(&stream) {
                return self.told.statuses.get(&stream).copied().context("a stream without a status");
            }
            match self.client.0.read(&mut buffer) {
                Ok(0) => bail!("closed before an answer: {:?}", self.told),
                Ok(n) => self.unread.extend_from_slice(buffer.get(..n).unwrap_or_default()),
                Err(e) => bail!("{e} before an answer: {:?}", self.told),
            }
        }
    }

    /// Sends a request with a token and reads its answer.
    pub fn ask(&mut self, path: &str, token: &str, coding: Coding) -> Result<u16> {
        let stream = self.writer.next;
        let bytes = self.writer.bearer(path, token, coding)?;
        self.send(&bytes);
        self.finish(stream)
    }

    /// Reads to the end.
    pub fn end(&mut self) -> Result<&Told> {
        let (bytes, end) = self.client.rest()?;
        self.unread.extend(bytes);
        self.take()?;
        self.told.end = Some(end);
        Ok(&self.told)
    }
}

/// nghttpd in a namespace: it says each header that it reads.
#[derive(Debug)]
pub struct Nghttpd(Process);

impl Nghttpd {
    /// Starts it; it serves the file `/ok`.
    pub fn start(ns: &Namespace, dir: &Dir, to: SocketAddr, options: &[&str]) -> Result<Self> {
        let documents = dir.path("documents");
        std::fs::create_dir_all(&documents)?;
        std::fs::write(documents.join("ok"), "ok\n")?;
        let mut command = Command::new("sh");
        // What it says goes to its standard output.
        command.args(["-c", "exec \"$@\" 1>&2", "sh", "nghttpd", "--no-tls", "-v"]);
        command.args(options);
        command.args(["-a", &to.ip().to_string(), "-d"]).arg(&documents).arg(to.port().to_string());
        let process = Process::start(ns, &mut command)?;
        process.await_line(0, |line| line.contains("listen"))?;
        Ok(Self(process))
    }

    /// How many requests it has read whose path is this, and how many fields with this text.
    pub fn read(&self, text: &str) -> usize {
        self.0.lines().iter().filter(|line| line.contains(text)).count()
    }

    /// How many header blocks it has read whole, once it has read as many as are said.
    pub fn blocks(&self, at_least: usize) -> Result<usize> {
        const BLOCK: &str = "recv HEADERS frame";
        let read = |lines: &[String]| lines.iter().filter(|line| line.contains(BLOCK)).count();
        anyhow::ensure!(
            self.0.await_lines(|lines| read(lines) >= at_least),
            "too few: {}",
            read(&self.0.lines())
        );
        Ok(read(&self.0.lines()))
    }

    /// Waits until it has read that.
    pub fn await_read(&self, text: &str) -> Result<String> {
        self.0.await_line(0, |line| line.contains(text))
    }
}
