//! A TCP client that is nothing but frames: it speaks from an address with no host behind it, so that no stack
//! answers in its place, and sends exactly the segments that a test says.
//!
//! Frames pass through a small Python process that holds the packet socket, for Rust's standard library has none.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU16, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};

use crate::{
    frames::Frame,
    net::{CLIENT_DEVICE, Net, SERVER_DEVICE},
    process::Watched,
    server::End,
};

/// The server's address on the ghost's network.
pub const SERVER: &str = "10.79.0.1";
const SERVER_BYTES: [u8; 4] = [10, 79, 0, 1];
/// The ghost's own.
const GHOST: &str = "10.79.0.2";
const GHOST_BYTES: [u8; 4] = [10, 79, 0, 2];
/// Link addresses that [`Frame`] writes: the server's and the ghost's.
const SERVER_LINK: &str = "02:00:00:00:00:02";
const GHOST_LINK: &str = "02:00:00:00:00:01";

/// Relays frames, each with its length before it, between a packet socket and its standard streams.
const RELAY: &str = r"
import select, socket, struct, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
s.bind((sys.argv[1], 0))
i, o = sys.stdin.buffer.raw, sys.stdout.buffer
def exactly(n):
    b = b''
    while len(b) < n:
        more = i.read(n - len(b))
        if not more:
            sys.exit(0)
        b += more
    return b
o.write(b'\0\0\0\0'); o.flush()
while True:
    for ready in select.select([s, i], [], [])[0]:
        if ready is s:
            frame, at = s.recvfrom(65536)
            if at[2] == 4:
                continue
            o.write(struct.pack('<I', len(frame)) + frame); o.flush()
        else:
            s.send(exactly(struct.unpack('<I', exactly(4))[0]))
";

/// TCP flags.
pub const FIN: u8 = 1;
/// SYN.
pub const SYN: u8 = 2;
/// RST.
pub const RST: u8 = 4;
/// PSH and ACK, as data carries them.
pub const DATA: u8 = 0x18;
/// ACK.
pub const ACK: u8 = 0x10;
/// URG.
pub const URG: u8 = 0x20;

/// The wire at the client's end of the pair.
#[derive(Debug)]
pub struct Wire {
    child: Child,
    to: Option<ChildStdin>,
    heard: Arc<Watched<Vec<Segment>>>,
    reader: Option<JoinHandle<()>>,
    next_port: AtomicU16,
}

/// A TCP segment that the server sent.
#[derive(Clone, Debug, Default)]
pub struct Segment {
    /// The ghost's port.
    pub port: u16,
    /// Sequence number.
    pub seq: u32,
    /// Acknowledgement number.
    pub ack: u32,
    /// Flags.
    pub flags: u8,
    /// Its options, as they came.
    pub options: Vec<u8>,
    /// Payload.
    pub payload: Vec<u8>,
}

impl Wire {
    /// Gives the server an address and a neighbour on the ghost's network, and opens the wire.
    pub fn open(net: &Net) -> Result<Self> {
        let server = &net.server;
        server.ip(&["link", "set", SERVER_DEVICE, "address", SERVER_LINK])?;
        server.ip(&["address", "add", &format!("{SERVER}/24"), "dev", SERVER_DEVICE])?;
        server.ip(&[
            "neighbour",
            "replace",
            GHOST,
            "lladdr",
            GHOST_LINK,
            "dev",
            SERVER_DEVICE,
            "nud",
            "permanent",
        ])?;
        let mut command = Command::new("python3");
        command.args(["-u", "-c", RELAY, CLIENT_DEVICE]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = net.client.enter(|| command.spawn().context("start `python3`"))?;
        let to = child.stdin.take();
        let mut from = child.stdout.take().context("no standard output")?;
        // The first, empty one says that it listens.
        let mut hello = [0; 4];
        from.read_exact(&mut hello).context("the relay did not start")?;
        let heard = Arc::new(Watched::<Vec<Segment>>::default());
        let writer = Arc::clone(&heard);
        let reader = thread::spawn(move || {
            let mut length = [0; 4];
            while from.read_exact(&mut length).is_ok() {
                let mut frame = vec![0; u32::from_le_bytes(length) as usize];
                if from.read_exact(&mut frame).is_err() {
                    break;
                }
                if let Some(segment) = parse(&frame) {
                    writer.change(|heard| heard.push(segment));
                }
            }
        });
        Ok(Self { child, to, heard, reader: Some(reader), next_port: AtomicU16::new(20_000) })
    }

    /// Sends a frame as it is.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        let to = self.to.as_mut().context("the wire is closed")?;
        let length = u32::try_from(frame.len()).context("a long frame")?;
        to.write_all(&[&length.to_le_bytes(), frame].concat())?;
        Ok(())
    }

    /// Connects to a port of the server's; `options` go into the SYN.
    pub fn connect(&mut self, port: u16, options: &[u8]) -> Result<Talk<'_>> {
        let mut talk = self.talk(port);
        talk.frame.tcp_options = options.to_vec();
        let syn = Frame { flags: SYN, seq: talk.start, ack: 0, ..talk.frame.clone() };
        talk.wire.send(&syn.build(&[]))?;
        talk.handshake()?;
        Ok(talk)
    }

    /// A connection of which nothing was sent yet.
    pub fn talk(&mut self, port: u16) -> Talk<'_> {
        let source_port = self.next_port.fetch_add(1, Ordering::Relaxed);
        let start = 0xffff_ff00_u32.wrapping_add(u32::from(source_port) * 7919);
        let frame = Frame { source_port, port, addresses: [GHOST_BYTES, SERVER_BYTES], ..Frame::default() };
        let from = self.heard.get().len();
        Talk {
            wire: self,
            frame,
            start,
            next: 0,
            from,
            taken: 0,
            stream: Vec::new(),
            end: None,
            synack: Vec::new(),
        }
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        // End of input ends it.
        self.to = None;
        let _ = self.child.wait();
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// Reads a TCP segment to the ghost.
fn parse(frame: &[u8]) -> Option<Segment> {
    if frame.get(12..14)? != [8, 0] || *frame.get(23)? != 6 || frame.get(30..34)? != GHOST_BYTES {
        return None;
    }
    let ip = frame.get(14..)?;
    let total = usize::from(u16::from_be_bytes(ip.get(2..4)?.try_into().ok()?));
    let tcp = ip.get(usize::from(ip.first()? & 15) * 4..total)?;
    let word = |at: usize| Some(u32::from_be_bytes(tcp.get(at..at + 4)?.try_into().ok()?));
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    Some(Segment {
        port: u16::from_be_bytes(tcp.get(2..4)?.try_into().ok()?),
        seq: word(4)?,
        ack: word(8)?,
        flags: *tcp.get(13)?,
        options: tcp.get(20..header)?.to_vec(),
        payload: tcp.get(header..)?.to_vec(),
    })
}

/// One connection of the ghost's.
#[derive(Debug)]
pub struct Talk<'a> {
    wire: &'a mut Wire,
    /// What its segments look like; `seq` and `ack` are set for each.
    pub frame: Frame,
    /// The initial sequence number.
    pub start: u32,
    /// The next sequence number that the server sends.
    pub next: u32,
    from: usize,
    /// Bytes of the stream that the server has acknowledged.
    pub taken: u32,
    /// What the server has sent.
    pub stream: Vec<u8>,
    /// How the server ended it.
    pub end: Option<End>,
    /// Options of the server's SYN.
    pub synack: Vec<u8>,
}

impl Talk<'_> {
    /// Awaits the server's SYN and acknowledges it.
    pub fn handshake(&mut self) -> Result<()> {
        self.await_synack()?;
        self.frame.tcp_options.clear();
        self.send_at(0, ACK, &[], |_| {})
    }

    /// Awaits the server's SYN.
    pub fn await_synack(&mut self) -> Result<()> {
        let (port, mut found) = (self.frame.source_port, None);
        self.wire.heard.wait(|heard| {
            found = heard.iter().position(|s| s.port == port && s.flags & SYN != 0);
            found.is_some()
        });
        let at = found.context("no SYN from the server")?;
        let segment = self.wire.heard.get()[at].clone();
        self.from = at + 1;
        self.next = segment.seq.wrapping_add(1);
        self.synack = segment.options;
        Ok(())
    }

    /// Sends the bytes that stand at `at` in the stream.
    pub fn put(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        self.send_at(at, DATA, bytes, |_| {})
    }

    /// Sends them in a frame that `change` has gone over, and not as a well-meant one might be.
    pub fn put_odd(&mut self, at: usize, bytes: &[u8], change: impl FnOnce(&mut Frame)) -> Result<()> {
        self.send_at(at, DATA, bytes, change)
    }

    /// Sends a segment.
    pub fn send_at(
        &mut self,
        at: usize,
        flags: u8,
        bytes: &[u8],
        change: impl FnOnce(&mut Frame),
    ) -> Result<()> {
        let mut frame = Frame {
            flags,
            seq: self.start.wrapping_add(1).wrapping_add(u32::try_from(at)?),
            ack: self.next,
            ..self.frame.clone()
        };
        change(&mut frame);
        self.wire.send(&frame.build(bytes))
    }

    /// Sends a frame as it is.
    pub fn send(&mut self, frame: &[u8]) -> Result<()> {
        self.wire.send(frame)
    }

    /// Takes in what the server has sent meanwhile, acknowledging it; waits for something new, but not long. Tells
    /// whether there was any.
    pub fn listen(&mut self, at_most: Duration) -> Result<bool> {
        let (port, from) = (self.frame.source_port, self.from);
        let mine = |heard: &Vec<Segment>| heard.iter().skip(from).any(|s| s.port == port);
        self.wire.heard.wait_for(at_most, mine);
        let heard: Vec<Segment> = self.wire.heard.get().get(from..).unwrap_or_default().to_vec();
        self.from = from + heard.len();
        let mut any = false;
        for s in heard.into_iter().filter(|s| s.port == port) {
            any = true;
            if s.flags & RST != 0 {
                self.end = Some(End::Reset);
                continue;
            }
            let taken = s.ack.wrapping_sub(self.start.wrapping_add(1));
            if taken < 1 << 30 && taken > self.taken {
                self.taken = taken;
            }
            if s.seq != self.next || (s.payload.is_empty() && s.flags & FIN == 0) {
                continue;
            }
            self.next = self.next.wrapping_add(u32::try_from(s.payload.len())?);
            self.stream.extend(&s.payload);
            if s.flags & FIN != 0 {
                self.next = self.next.wrapping_add(1);
                self.end.get_or_insert(End::Closed);
            }
            let at = self.taken as usize;
            self.send_at(at, ACK, &[], |_| {})?;
        }
        Ok(any)
    }

    /// Does as a TCP would with `stream`: sends again what is not acknowledged, in segments of up to `piece` bytes,
    /// until the server has answered `answers` times, has ended the connection, or does not take the bytes.
    pub fn carry_through(&mut self, stream: &[u8], piece: usize, answers: usize) -> Result<()> {
        for _ in 0..16 {
            while self.listen(Duration::from_millis(60))? {
                if self.end.is_some() || self.answers() >= answers {
                    return Ok(());
                }
            }
            let taken = (self.taken as usize).min(stream.len());
            ensure!(self.taken as usize <= stream.len(), "the server took more than there is");
            for (i, bytes) in stream[taken..].chunks(piece).enumerate() {
                self.put(taken + i * piece, bytes)?;
            }
        }
        Ok(())
    }

    /// All segments that the server has sent on it.
    pub fn heard(&self) -> Vec<Segment> {
        let port = self.frame.source_port;
        self.wire.heard.get().iter().filter(|s| s.port == port).cloned().collect()
    }

    /// What the server has sent, for people.
    pub fn story(&self) -> String {
        let (ours, mut text) = (self.start.wrapping_add(1), String::new());
        let theirs = self.heard().first().map_or(0, |s| s.seq.wrapping_add(1));
        for s in self.heard() {
            let (seq, ack) = (s.seq.wrapping_sub(theirs), s.ack.wrapping_sub(ours));
            let _ = write!(text, "[{seq}+{} ack {ack} flags {:#x}] ", s.payload.len(), s.flags);
        }
        text + &String::from_utf8_lossy(&self.stream)
    }

    /// Answers that the server, or the kernel in its place, has sent.
    pub fn answers(&self) -> usize {
        String::from_utf8_lossy(&self.stream).matches("HTTP/1.1 ").count()
    }

    /// Whether the kernel has answered.
    pub fn is_refused(&self) -> bool {
        let text = String::from_utf8_lossy(&self.stream);
        self.end == Some(End::Reset) || text.contains("HTTP/1.1 40") || text.contains("HTTP/1.1 431")
    }
}
