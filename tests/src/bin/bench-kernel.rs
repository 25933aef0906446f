//! `cargo xtask bench kernel`: guard by `BPF_PROG_TEST_RUN`, beside yardsticks of the same run.
//!
//! Each figure is the median of rounds in which every program runs in turn, so that a change of the machine's
//! speed meets all of them. TEST_RUN takes packets of up to about 3.7 KB.

use std::{
    env,
    net::{TcpListener, TcpStream},
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use portcullis::kernel::{
    Enforcement, GuardedPort, Kernel,
    test_support::{Which, expected},
};
use portcullis_common::layout::{DenyValue, FOREVER};
use portcullis_tests::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{Frame, jws, request},
    guard::{KEY, load, settings},
    is_root,
};

fn main() -> Result<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let quick = args.iter().any(|a| a == "--quick");
    let json = args.iter().position(|a| a == "--json").and_then(|i| args.get(i + 1)).map(PathBuf::from);
    let mut figures = Figures::default();
    if is_root() {
        measure(&mut figures, quick)?;
    }
    figures.write(json.as_deref())
}

fn measure(figures: &mut Figures, quick: bool) -> Result<()> {
    let (rounds, repeat) = if quick { (3, 2_000) } else { (15, 50_000) };
    let bpffs = Bpffs::mount()?;
    let mut kernel = load(&bpffs)?;
    kernel.load_yardsticks()?;
    if let Some(n) = kernel.verified_instructions() {
        figures.at_most("guard, verified instructions", f64::from(n), "", 130_000.0, "");
    }
    // Tokens of others, so that a lookup meets what it meets in use.
    for i in 0..1000 {
        kernel.deny.put(KEY.deny(jws(300, i + 10_000).as_bytes()), VALUE)?;
    }
    let open = Frame { port: 81, ..Frame::default() }.build(&request(&jws(300, 1), 500));
    let runs = time(&mut kernel, &[(Which::Empty, &open), (Which::Guard, &open)], rounds, repeat)?;
    figures.add("empty program", runs[0], "ns", "");
    figures.at_most("guard, unguarded port", runs[1], "ns", 1.5 * runs[0] + 15.0, "(1.5 × empty + 15)");
    let bare = Frame::default()
        .build(b"GET /v1/orders/7 HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: curl/7.88.1\r\n\r\n");
    let ack = Frame::default().build(b"");
    let runs = time(&mut kernel, &[(Which::Guard, &ack), (Which::Guard, &bare)], rounds, repeat)?;
    figures.add("guard, segment without payload", runs[0], "ns", "");
    figures.add("guard, 72-byte request without a token", runs[1], "ns", "");
    for (request_len, token_len) in [(500, 300), (1300, 1100), (3400, 3000)] {
        let token = jws(token_len, 1);
        let live = Frame::default().build(&request(&token, request_len));
        let same = vec![0; 14 + token_len];
        let runs = time(&mut kernel, &[(Which::Hash, &same), (Which::Guard, &live)], rounds, repeat)?;
        let name = format!("{request_len}-byte request, {token_len}-byte token");
        figures.add(&format!("{name}: hash and lookup alone"), runs[0], "ns", "");
        figures.add(&format!("{name}: guard"), runs[1], "ns", "");
        if token_len <= 1100 {
            figures.at_most(&format!("{name}: ratio"), runs[1] / runs[0], "", 2.0, "× hash and lookup");
        }
    }
    strict(figures, rounds, repeat)?;
    portcullis_tests::bench::h2c::measure(figures, rounds, repeat)?;
    scale(figures, if quick { 200_000 } else { 10_000_000 }, rounds, repeat)
}

/// As many condemned tokens as are said: filling, exchanging, reading, and what a lookup among them takes.
#[allow(clippy::cast_precision_loss, reason = "counts of entries")]
fn scale(figures: &mut Figures, entries: u32, rounds: usize, repeat: u32) -> Result<()> {
    const BLOCK: u32 = 100_000;
    let bpffs = Bpffs::mount()?;
    let mut settings = settings(&bpffs);
    settings.max_entries = entries;
    let mut kernel = Kernel::load(settings)?;
    kernel.load_yardsticks()?;
    let name = format!("{} million condemned", f64::from(entries) / 1e6);
    let block = |from: u32| -> Vec<_> {
        let f = |i: u32| KEY.deny(&u64::from(i).to_le_bytes());
        (from..from + BLOCK).map(|i| (f(i), VALUE)).collect()
    };
    let same = vec![0; 314];
    let few = time(&mut kernel, &[(Which::Hash, &same)], rounds, repeat)?[0];
    let mut took = Duration::ZERO;
    let mut worst = Duration::ZERO;
    for from in (0..entries).step_by(BLOCK as usize) {
        let entries = block(from);
        for part in entries.chunks(1024) {
            let start = Instant::now();
            kernel.deny.put_all(part)?;
            let part = start.elapsed();
            (took, worst) = (took + part, worst.max(part));
        }
    }
    let million = |d: Duration| f64::from(entries) / d.as_secs_f64() / 1e6;
    figures.add(&format!("{name}: written in batches of 1,024"), million(took), "million/s", "");
    figures.add(&format!("{name}: longest batch"), worst.as_secs_f64() * 1e3, "ms", "");
    if let Some(bytes) = kernel.deny.memory() {
        figures.add(
            &format!("{name}: kernel memory of an entry"),
            bytes as f64 / f64::from(entries),
            "bytes",
            "",
        );
    }
    let many = time(&mut kernel, &[(Which::Hash, &same)], rounds, repeat)?[0];
    figures.add(&format!("{name}: hash and lookup of 300 bytes"), many, "ns", &format!("(none: {few:.0})"));
    let start = Instant::now();
    let mut count = 0_u32;
    kernel.deny.each(|_, _| count += 1)?;
    anyhow::ensure!(count == entries, "{count} entries of {entries} were read");
    figures.add(&format!("{name}: read back"), million(start.elapsed()), "million/s", "");
    let mut took = Duration::ZERO;
    let start = Instant::now();
    kernel.deny.begin()?;
    took += start.elapsed();
    for from in (0..entries).step_by(BLOCK as usize) {
        let entries = block(from);
        let start = Instant::now();
        kernel.deny.put_next(&entries)?;
        took += start.elapsed();
    }
    let start = Instant::now();
    kernel.deny.swap()?;
    figures.add(&format!("{name}: another set filled beside it"), took.as_secs_f64(), "s", "");
    figures.add(&format!("{name}: the exchange"), start.elapsed().as_secs_f64() * 1e3, "ms", "");
    Ok(())
}

/// What stands for the tokens of a benchmark.
const VALUE: DenyValue =
    DenyValue { revoked_until: FOREVER, condemned_until: 0, generation: 0, answer: 0, decision: 0 };

/// Strict mode beside fast mode, for whole requests on a real connection.
fn strict(figures: &mut Figures, rounds: usize, repeat: u32) -> Result<()> {
    let bpffs = Bpffs::mount()?;
    let mut settings = settings(&bpffs);
    settings.enforcement = Enforcement::Strict;
    let pair = Pair::make()?;
    settings.ports = vec![GuardedPort { address: None, port: pair.port }];
    let mut kernel = Kernel::load(settings)?;
    if let Some(n) = kernel.verified_instructions() {
        figures.at_most("strict mode, verified instructions", f64::from(n), "", 200_000.0, "");
    }
    kernel.load_yardsticks()?;
    for (request_len, token_len) in [(500, 300), (1300, 1100), (3400, 3000)] {
        let packet = pair.frame().build(&request(&jws(token_len, 1), request_len));
        let runs = time(&mut kernel, &[(Which::Fast, &packet), (Which::Strict, &packet)], rounds, repeat)?;
        let name = format!("{request_len}-byte request, {token_len}-byte token");
        figures.add(&format!("{name}: fast mode, on a connection"), runs[0], "ns", "");
        figures.add(&format!("{name}: strict mode, on a connection"), runs[1], "ns", "");
        figures.at_most(&format!("{name}: strict / fast"), runs[1] / runs[0], "", 1.6, "");
    }
    Ok(())
}

/// A TCP connection over loopback, of which a test knows the sequence numbers.
struct Pair {
    port: u16,
    client: TcpStream,
    server: TcpStream,
}

impl Pair {
    fn make() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let client = TcpStream::connect(listener.local_addr()?)?;
        let (server, _) = listener.accept()?;
        Ok(Self { port: listener.local_addr()?.port(), client, server })
    }

    /// A frame of the client's whose sequence number is the next that the server expects.
    fn frame(&self) -> Frame {
        Frame {
            addresses: [[127, 0, 0, 1]; 2],
            source_port: self.client.local_addr().map_or(0, |a| a.port()),
            port: self.port,
            seq: expected(&self.server).unwrap_or(0),
            ..Frame::default()
        }
    }
}
/// Median times in ns, each program once a round.
fn time(kernel: &mut Kernel, what: &[(Which, &[u8])], rounds: usize, repeat: u32) -> Result<Vec<f64>> {
    let mut times = vec![Vec::new(); what.len()];
    for _ in 0..rounds {
        for (slot, (which, packet)) in times.iter_mut().zip(what) {
            #[allow(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
            slot.push(kernel.test_run(*which, packet, repeat)?.time.as_nanos() as f64);
        }
    }
    Ok(times.into_iter().map(median).collect())
}
