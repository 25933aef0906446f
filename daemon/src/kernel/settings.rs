//! What the kernel programs are told: parsed values only.

use std::{net::IpAddr, path::PathBuf};

use portcullis_common::{
    fingerprint::Key,
    layout::{ANSWER_MAX, REACT_DROP, REACT_OBSERVE, REACT_RESET, REACT_RESPOND},
};

/// A guarded destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct GuardedPort {
    /// The address, or every one.
    pub address: Option<IpAddr>,
    /// The TCP port.
    pub port: u16,
}

/// What is done with a refused request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// The client gets an HTTP answer, the server a reset.
    Respond,
    /// Both get a reset.
    Reset,
    /// Nobody gets anything.
    Drop,
    /// It is counted and passed on.
    Observe,
}

impl Reaction {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Respond => REACT_RESPOND,
            Self::Reset => REACT_RESET,
            Self::Drop => REACT_DROP,
            Self::Observe => REACT_OBSERVE,
        }
    }
}

/// How programs are attached to interfaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attach {
    /// tcx where the kernel has it (6.6 and later), else clsact.
    Auto,
    /// tcx links, pinned.
    Tcx,
    /// Filters of the clsact qdisc.
    Clsact,
}

/// The HTTP response for refused requests, laid out for the kernel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer(Vec<u8>);

impl Answer {
    /// An answer with this status line text (such as `401 Unauthorized`), challenge and body. `None` where
    /// it does not fit in [`ANSWER_MAX`] bytes.
    pub fn new(status: &str, challenge: Option<&str>, content_type: &str, body: &str) -> Option<Self> {
        use std::fmt::Write as _;
        let mut body = body.to_owned();
        loop {
            let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-store\r\n");
            if let Some(c) = challenge {
                write!(text, "WWW-Authenticate: {c}\r\n").ok()?;
            }
            if !body.is_empty() {
                write!(text, "Content-Type: {content_type}\r\n").ok()?;
            }
            write!(text, "Content-Length: {}\r\n\r\n{body}", body.len()).ok()?;
            if text.len() >= ANSWER_MAX {
                return None;
            }
            if text.len() % 4 == 0 {
                return Some(Self(text.into_bytes()));
            }
            // Checksums are taken over whole words; white space at the end of a body changes nothing.
            body.push(if body.is_empty() { '\n' } else { ' ' });
        }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The one's complement sum over native 16-bit words, folded into 16 bits (RFC 1071).
    pub(super) fn sum(&self) -> u32 {
        let mut sum: u32 = self.0.chunks_exact(2).map(|w| u32::from(u16::from_ne_bytes([w[0], w[1]]))).sum();
        while sum > 0xffff {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum
    }
}

/// Everything the kernel side is told at start.
pub struct Settings {
    /// Directory on a bpffs for maps and links.
    pub pin_dir: PathBuf,
    /// Interfaces whose ingress is guarded.
    pub interfaces: Vec<String>,
    /// How to attach.
    pub attach: Attach,
    /// Guarded ports.
    pub ports: Vec<GuardedPort>,
    /// `Authorization` schemes that carry a token.
    pub schemes: Vec<String>,
    /// Headers whose value is a token.
    pub key_headers: Vec<String>,
    /// What is done with a refused request.
    pub reaction: Reaction,
    /// The answer to one.
    pub answer: Answer,
    /// Entries of the deny map.
    pub max_entries: u32,
    /// The fingerprint key.
    pub key: Key,
    /// Its id.
    pub key_id: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_words_and_fit() {
        for body in ["", "{}", "{\"error\":\"invalid_token\"}", "abcd"] {
            let a = Answer::new(
                "401 Unauthorized",
                Some("Bearer error=\"invalid_token\""),
                "application/json",
                body,
            )
            .unwrap();
            assert_eq!(a.bytes().len() % 4, 0);
            let text = String::from_utf8(a.bytes().to_vec()).unwrap();
            let (head, sent) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", sent.len())), "{text}");
            assert_eq!(sent.trim_end(), body);
        }
        assert_eq!(Answer::new("401 Unauthorized", None, "text/plain", &"x".repeat(500)), None);
    }
}
