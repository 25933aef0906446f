//! `cargo xtask bench kernel`: the kernel programs by `BPF_PROG_TEST_RUN`, over veth, and with many entries.
//!
//! Each figure is the median of rounds in which what is compared runs in turn, so that a change of the machine's
//! speed meets all of it. TEST_RUN takes packets of up to about 3.7 KB.

pub mod cost;
pub mod reaction;
pub mod scale;
pub mod size;
pub mod strict;
pub mod wire;

use std::net::{TcpListener, TcpStream};

use anyhow::{Result, bail};
use portcullis::kernel::{
    Kernel,
    test_support::{Which, expected},
};
use portcullis_common::layout::{DenyValue, FOREVER};

use crate::{
    figures::{Figures, median},
    frames::Frame,
};

/// What stands for the tokens of a benchmark.
pub const VALUE: DenyValue =
    DenyValue { revoked_until: FOREVER, condemned_until: 0, generation: 0, answer: 0, decision: 0 };

/// Requests and tokens that are measured, in bytes.
const SIZES: [(usize, usize); 3] = [(500, 300), (1300, 1100), (3400, 3000)];

/// How much is run.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Only to see that it runs.
    pub quick: bool,
    /// Rounds.
    pub rounds: usize,
    /// Runs of a program in each.
    pub repeat: u32,
}

impl Effort {
    /// Enough for figures of record, or to see that it runs.
    pub const fn new(quick: bool) -> Self {
        let (rounds, repeat) = if quick { (3, 2_000) } else { (15, 50_000) };
        Self { quick, rounds, repeat }
    }
}

/// Measures one part.
type Measure = fn(&mut Figures, Effort) -> Result<()>;

/// The parts, by name.
const PARTS: [(&str, Measure); 7] = [
    ("size", size::measure),
    ("cost", cost::measure),
    ("strict", strict::measure),
    ("h2c", super::h2c::measure),
    ("reaction", reaction::measure),
    ("wire", wire::measure),
    ("scale", scale::measure),
];

/// Everything, or the one part that is named.
pub fn measure(figures: &mut Figures, effort: Effort, only: Option<&str>) -> Result<()> {
    let parts: Vec<_> = PARTS.iter().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if parts.is_empty() {
        bail!("there is no such part; there are {}", PARTS.map(|(name, _)| name).join(", "));
    }
    parts.into_iter().try_for_each(|(_, measure)| measure(figures, effort))
}

/// Median times in ns, each program once a round.
fn time(kernel: &mut Kernel, what: &[(Which, &[u8])], effort: Effort) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); what.len()];
    for _ in 0..effort.rounds {
        for (slot, (which, packet)) in times.iter_mut().zip(what) {
            #[allow(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
            slot.push(kernel.test_run(*which, packet, effort.repeat)?.time.as_nanos() as f64);
        }
    }
    Ok(times.into_iter().map(median).collect())
}

/// A TCP connection over loopback, of which the sequence numbers are known.
struct Pair {
    port: u16,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    /// Connects to a listener.
    fn to(listener: &TcpListener) -> Result<Self> {
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        Ok(Self { port: listener.local_addr()?.port(), client, server })
    }

    /// A frame of the client's whose numbers are the next that the server expects.
    fn frame(&self) -> Result<Frame> {
        Ok(Frame {
            addresses: [[127, 0, 0, 1]; 2],
            source_port: self.client.local_addr()?.port(),
            port: self.port,
            seq: expected(&self.server)?,
            // What the client has of the server is what it expects from it.
            ack: expected(&self.client)?,
            ..Frame::default()
        })
    }
}
