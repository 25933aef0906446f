//! What the kernel programs are told: parsed values only.

use std::{net::IpAddr, path::PathBuf};

use super::ShedSettings;
use portcullis_common::{
    fingerprint::Key,
    layout::{
        ANSWER_DENIED, ANSWER_LIMITED, ANSWER_MALFORMED, ANSWER_MAX, ANSWER_TOKEN, ANSWER_TOO_LONG, ANSWERS,
        OPAQUE_PASS, OPAQUE_REFUSE, REACT_DROP, REACT_OBSERVE, REACT_RESET, REACT_RESPOND, UNKNOWN_HOLD,
        UNKNOWN_LEARN, UNKNOWN_PASS,
    },
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

/// How much is kept of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Enforcement {
    /// All that soundness needs: a head is read whole, however it is cut.
    Strict,
    /// Nothing: each segment is read by itself.
    Fast,
}

/// What is done with TLS and other opaque traffic in strict mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opaque {
    /// It passes, counted.
    Pass,
    /// Its connection is reset.
    Refuse,
}

impl Opaque {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Pass => OPAQUE_PASS,
            Self::Refuse => OPAQUE_REFUSE,
        }
    }
}

/// What is done with requests that have no verdict yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unknown {
    /// They pass.
    Pass,
    /// They pass, and are asked about.
    Learn,
    /// They are asked about, and wait.
    Hold,
}

impl Unknown {
    pub(super) const fn number(self) -> u32 {
        match self {
            Self::Pass => UNKNOWN_PASS,
            Self::Learn => UNKNOWN_LEARN,
            Self::Hold => UNKNOWN_HOLD,
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
    /// An answer with this status line text (such as `401 Unauthorized`), further headers and JSON body. `None`
    /// where it does not fit in [`ANSWER_MAX`] bytes.
    pub fn new(status: &str, headers: &[(&str, &str)], body: &str) -> Option<Self> {
        use std::fmt::Write as _;
        let mut body = body.to_owned();
        loop {
            let mut text = format!("HTTP/1.1 {status}\r\nConnection: close\r\nCache-Control: no-store\r\n");
            for (name, value) in headers {
                write!(text, "{name}: {value}\r\n").ok()?;
            }
            if !body.is_empty() {
                text.push_str("Content-Type: application/json\r\n");
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

    /// One of these bytes, a multiple of four.
    pub(super) fn raw(bytes: Vec<u8>) -> Self {
        Self(bytes)
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

/// What the clients of refused requests are told, by cause.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answers {
    /// The token is revoked or expired: 401.
    pub token: Answer,
    /// The policy denies the token: 403.
    pub denied: Answer,
    /// The token's requests are limited: 429.
    pub limited: Answer,
    /// Parsers would read the request differently: 400.
    pub malformed: Answer,
    /// The head is too long: 431.
    pub too_long: Answer,
}

impl Answers {
    /// In the order of the `ANSWER_` constants.
    pub(super) fn in_order(&self) -> [&Answer; ANSWERS] {
        let mut all = [&self.token; ANSWERS];
        all[ANSWER_TOKEN as usize] = &self.token;
        all[ANSWER_DENIED as usize] = &self.denied;
        all[ANSWER_LIMITED as usize] = &self.limited;
        all[ANSWER_MALFORMED as usize] = &self.malformed;
        all[ANSWER_TOO_LONG as usize] = &self.too_long;
        all
    }
}

/// What becomes of connections that were there before guard, in strict mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Older {
    /// Their segments are read by themselves, as in fast mode.
    Pass,
    /// They are ended.
    Reset,
}

/// Interfaces by name, or by a pattern with `*`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interfaces {
    /// The network namespace they are in, where it is not the daemon's own.
    pub namespace: Option<PathBuf>,
    /// The name or pattern.
    pub name: String,
}

impl Interfaces {
    /// Reads a name or pattern, perhaps behind the path of a namespace and a colon: `/run/netns/blue:eth0`.
    pub fn read(text: &str) -> Self {
        match text.rsplit_once(':') {
            Some((path, name)) if path.starts_with('/') => {
                Self { namespace: Some(path.into()), name: name.to_owned() }
            }
            _ => Self { namespace: None, name: text.to_owned() },
        }
    }

    /// One of them by its name: what people and pins call it.
    pub fn label(&self, name: &str) -> String {
        self.namespace.as_ref().map_or_else(|| name.to_owned(), |path| format!("{}:{name}", path.display()))
    }
}

/// What watches a control group's sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Nothing.
    Off,
    /// A second door: what guard has not passed does not get in.
    Door,
    /// A reader in guard's place.
    Read,
}

/// Everything the kernel side is told at start.
#[derive(Clone)]
pub struct Settings {
    /// Directory on a bpffs for maps and links.
    pub pin_dir: PathBuf,
    /// Interfaces that are guarded.
    pub interfaces: Vec<Interfaces>,
    /// Further network namespaces whose connections end with their tokens.
    pub namespaces: Vec<PathBuf>,
    /// What watches a control group's sockets.
    pub gate: Gate,
    /// The control group.
    pub gate_cgroup: PathBuf,
    /// An interface that is named and not there is waited for.
    pub wait_for_interfaces: bool,
    /// Guard also attaches to the host's end of a container's veth, where it sees what the container sends.
    pub container_veth: bool,
    /// What becomes of connections older than guard.
    pub older: Older,
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
    /// What its client is told.
    pub answers: Answers,
    /// How much is kept of a connection.
    pub enforcement: Enforcement,
    /// What is done with opaque traffic.
    pub opaque: Opaque,
    /// What is done with requests that have no verdict yet.
    pub unknown: Unknown,
    /// Longest head read, in bytes.
    pub max_head: u32,
    /// Ports whose connections begin with a PROXY protocol header.
    pub proxy_ports: Vec<u16>,
    /// Whose floods are shed.
    pub shed: ShedSettings,
    /// Ports whose connections may speak HTTP/2 from their first byte, which strict mode then reads.
    pub h2c_ports: Vec<u16>,
    /// Entries of the deny map.
    pub max_entries: u32,
    /// The fingerprint key.
    pub key: Key,
    /// Its id.
    pub key_id: u32,
    /// Another key that is in force too, and its id: it has a guard of its own.
    pub other: Option<(Key, u32)>,
    /// Keys that were in force and are no more: what is pinned of them goes.
    pub former: Vec<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_whole_words_and_fit() {
        for body in ["", "{}", "{\"error\":\"invalid_token\"}", "abcd"] {
            let challenge = [("WWW-Authenticate", "Bearer error=\"invalid_token\"")];
            let a = Answer::new("401 Unauthorized", &challenge, body).unwrap();
            assert_eq!(a.bytes().len() % 4, 0);
            let text = String::from_utf8(a.bytes().to_vec()).unwrap();
            let (head, sent) = text.split_once("\r\n\r\n").unwrap();
            assert!(head.contains(&format!("Content-Length: {}", sent.len())), "{text}");
            assert_eq!(sent.trim_end(), body);
        }
        assert_eq!(Answer::new("401 Unauthorized", &[], &"x".repeat(500)), None);
    }
}
