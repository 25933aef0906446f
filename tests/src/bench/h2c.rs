//! What a request in HTTP/2 costs guard, beside the same request in HTTP/1: one segment, on a real connection.

use std::net::{SocketAddr, TcpListener, TcpStream};

use anyhow::Result;
use portcullis::kernel::{
    Enforcement, GuardedPort, Kernel,
    test_support::{Which, expected},
};

use super::kernel::Effort;
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{Frame, jws, request},
    guard::{KEY, settings},
    h2::{Coding, Writer, beginning},
};

/// A connection over loopback, and the frame that comes next on it.
struct Pair {
    port: u16,
    client: SocketAddr,
    next: u32,
    _ends: (TcpStream, TcpStream),
}

impl Pair {
    fn make() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, from) = listener.accept()?;
        let next = expected(&server)?;
        Ok(Self { port: listener.local_addr()?.port(), client: from, next, _ends: (client, server) })
    }

    fn frame(&self) -> Frame {
        Frame {
            addresses: [[127, 0, 0, 1]; 2],
            source_port: self.client.port(),
            port: self.port,
            seq: self.next,
            ..Frame::default()
        }
    }
}

/// Measures both.
pub fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let Effort { rounds, repeat, .. } = effort;
    let bpffs = Bpffs::mount()?;
    let (plain, framed) = (Pair::make()?, Pair::make()?);
    let mut settings = settings(&bpffs);
    settings.enforcement = Enforcement::Strict;
    settings.ports = [plain.port, framed.port].map(|port| GuardedPort { address: None, port }).into();
    settings.h2c_ports = vec![framed.port];
    let mut kernel = Kernel::load(settings)?;
    kernel.load_yardsticks()?;
    for (name, n) in kernel.verified() {
        if name == "guard_frames" {
            figures.at_most("HTTP/2, verified instructions", f64::from(n), "", 200_000.0, "");
        }
    }
    for token_len in [300, 1100] {
        let token = jws(token_len, 1);
        kernel.deny.remove(KEY.deny(token.as_bytes()))?;
        let fields =
            [("user-agent", "curl/7.88.1"), ("accept", "*/*"), ("authorization", &format!("Bearer {token}"))];
        let frames = |coding| -> Result<Vec<u8>> {
            let request = Writer::default().request("/v1/orders/7", &fields, coding)?;
            Ok(framed.frame().build(&[beginning(), request].concat()))
        };
        let packets = [
            plain.frame().build(&request(&token, token_len + 160)),
            frames(Coding::Plain)?,
            frames(Coding::Usual)?,
        ];
        let mut took = [const { Vec::new() }; 3];
        for _ in 0..rounds {
            for (packet, took) in packets.iter().zip(&mut took) {
                let ran = kernel.test_run(Which::Strict, packet, repeat)?;
                anyhow::ensure!(ran.action == -1, "a request of the benchmark did not pass: {ran:?}");
                took.push(ran.time.as_secs_f64() * 1e9);
            }
        }
        let [http1, plain, coded] = took.map(median);
        let name = format!("first request of a connection, {token_len}-byte token");
        figures.add(&format!("{name}: HTTP/1"), http1, "ns", "");
        figures.add(
            &format!("{name}: HTTP/2, plain strings"),
            plain,
            "ns",
            &format!("({:.1} × HTTP/1)", plain / http1),
        );
        figures.add(
            &format!("{name}: HTTP/2, Huffman's code"),
            coded,
            "ns",
            &format!("({:.1} × HTTP/1)", coded / http1),
        );
    }
    Ok(())
}
