//! Where lines go.

mod file;
mod http;

use std::io::Write as _;

pub use file::{FileSettings, FileSink};
pub use http::{HttpSettings, HttpSink};
use thiserror::Error;

/// Where lines go, as the configuration says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// A file.
    File(FileSettings),
    /// Standard output.
    Stdout,
    /// A server.
    Http(HttpSettings),
}

/// Why a sink cannot be opened.
#[derive(Debug, Error)]
pub enum SinkError {
    /// The file.
    #[error("{0}; `decision_log.file` must be a file in a directory that exists and is writable")]
    File(#[from] std::io::Error),
    /// The server.
    #[error("`decision_log.url`: {0}")]
    Http(#[from] crate::fetch::FetchError),
}

/// What came of handing lines on.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Flushed {
    /// Lines that are where they belong.
    pub written: u64,
    /// Lines that are nowhere.
    pub lost: u64,
    /// Why.
    pub error: Option<String>,
}

/// An open sink.
pub enum Sink {
    /// A file.
    File(FileSink),
    /// Standard output, and the lines that wait for it.
    Stdout(Lines),
    /// A server.
    Http(Box<HttpSink>),
}

/// Lines that wait.
#[derive(Debug, Default)]
pub struct Lines {
    text: Vec<u8>,
    count: u64,
}

impl Lines {
    fn put(&mut self, line: &str) {
        self.text.extend(line.as_bytes());
        self.text.push(b'\n');
        self.count += 1;
    }

    /// Hands all of them to `write`.
    fn flush(&mut self, write: impl FnOnce(&[u8]) -> std::io::Result<()>) -> Flushed {
        if self.count == 0 {
            return Flushed::default();
        }
        let count = std::mem::take(&mut self.count);
        let written = write(&self.text);
        self.text.clear();
        match written {
            Ok(()) => Flushed { written: count, ..Flushed::default() },
            Err(e) => Flushed { lost: count, error: Some(e.to_string()), ..Flushed::default() },
        }
    }
}

impl Sink {
    /// Opens it. The error names what cannot be opened.
    pub fn open(kind: SinkKind) -> Result<Self, SinkError> {
        Ok(match kind {
            SinkKind::File(settings) => Self::File(FileSink::open(settings)?),
            SinkKind::Stdout => Self::Stdout(Lines::default()),
            SinkKind::Http(settings) => Self::Http(Box::new(HttpSink::open(settings)?)),
        })
    }

    /// Takes a line.
    pub fn put(&mut self, line: &str) {
        match self {
            Self::File(file) => file.lines.put(line),
            Self::Stdout(lines) => lines.put(line),
            Self::Http(server) => server.put(line),
        }
    }

    /// Hands on what was taken.
    pub fn flush(&mut self) -> Flushed {
        match self {
            Self::Http(server) => server.flush(),
            Self::File(file) => file.flush(),
            Self::Stdout(lines) => lines.flush(|text| {
                let mut out = std::io::stdout().lock();
                out.write_all(text)?;
                out.flush()
            }),
        }
    }

    /// Hands on the last of it.
    pub fn finish(&mut self) -> Flushed {
        match self {
            Self::Http(server) => server.finish(),
            _ => self.flush(),
        }
    }
}
