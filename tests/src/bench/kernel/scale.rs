//! Ten million condemned tokens: filling, exchanging and reading them, and what a refused request costs among them.

use std::{
    sync::atomic::{AtomicU16, Ordering},
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis::kernel::{Kernel, test_support::Which};

use super::{Effort, VALUE, time};
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{Frame, jws, request},
    guard::{KEY, settings},
};

/// Tokens that are refused in turn, so that each lookup finds its entry as cold as it is in use.
const REVOKED: u64 = 1000;

/// One of them. Seeds that differ in the lowest bit alone give the same.
fn token(i: u64) -> String {
    jws(300, 2 * i + 20_001)
}

/// What a refused request costs. On a packet without a connection the reaction is a reset both ways, the same with few
/// entries as with many.
fn refused(kernel: &mut Kernel, effort: Effort) -> Result<f64> {
    // Tombstones of an earlier call are of other connections.
    static NEXT: AtomicU16 = AtomicU16::new(10_000);
    let mut times = Vec::new();
    for i in 0..if effort.quick { 500 } else { 5_000 } {
        let source_port = NEXT.fetch_add(1, Ordering::Relaxed);
        let packet = Frame { source_port, ..Frame::default() }.build(&request(&token(i % REVOKED), 500));
        let ran = kernel.test_run(Which::Guard, &packet, 1)?;
        ensure!(ran.packet.len() == 54, "it was not refused");
        #[allow(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
        times.push(ran.time.as_nanos() as f64);
    }
    Ok(median(times))
}

/// As many condemned tokens as are said: filling, exchanging, reading, and what a lookup among them takes.
#[allow(clippy::cast_precision_loss, reason = "counts of entries")]
pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    const BLOCK: u32 = 100_000;
    let entries: u32 = if effort.quick { 200_000 } else { 10_000_000 };
    let bpffs = Bpffs::mount()?;
    let mut settings = settings(&bpffs);
    settings.max_entries = entries + 2000;
    let mut kernel = Kernel::load(settings)?;
    kernel.load_yardsticks()?;
    let name = format!("{} million condemned", f64::from(entries) / 1e6);
    let block = |from: u32| -> Vec<_> {
        let f = |i: u32| KEY.deny(&u64::from(i).to_le_bytes());
        (from..from + BLOCK).map(|i| (f(i), VALUE)).collect()
    };
    let same = vec![0; 314];
    // As many as a small installation has, first.
    for i in 0..REVOKED {
        kernel.deny.put(KEY.deny(token(i).as_bytes()), VALUE)?;
    }
    let few = time(&mut kernel, &[(Which::Hash, &same)], effort)?[0];
    let few_refused = refused(&mut kernel, effort)?;
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
    figures.at_least(&format!("{name}: written in batches of 1,024"), million(took), "million/s", 0.5, "");
    figures.add(&format!("{name}: longest batch"), worst.as_secs_f64() * 1e3, "ms", "");
    if let Some(bytes) = kernel.deny.memory() {
        figures.add(
            &format!("{name}: kernel memory of an entry"),
            bytes as f64 / f64::from(entries),
            "bytes",
            "",
        );
    }
    let many = time(&mut kernel, &[(Which::Hash, &same)], effort)?[0];
    figures.add(&format!("{name}: hash and lookup of 300 bytes"), many, "ns", &format!("(none: {few:.0})"));
    let many_refused = refused(&mut kernel, effort)?;
    figures.add(
        &format!("{name}: a refused request"),
        many_refused,
        "ns",
        &format!("(with 1,000: {few_refused:.0})"),
    );
    figures.at_most(
        &format!("{name}: a refused request ÷ with 1,000"),
        many_refused / few_refused,
        "",
        1.5,
        "",
    );
    let start = Instant::now();
    let mut count = 0_u32;
    kernel.deny.each(|_, _| count += 1)?;
    anyhow::ensure!(count == entries + 1000, "{count} entries of {} were read", entries + 1000);
    figures.add(&format!("{name}: read back"), million(start.elapsed()), "million/s", "");
    let mut took = Duration::ZERO;
    let start = Instant::now();
    kernel.deny.begin()?;
    took += start.elapsed();
    for from in (0..entries).step_by(BLOCK as usize) {
        let entries = block(from);
        let start = Instant::now();
        kernel.deny.fill(&entries)?;
        took += start.elapsed();
    }
    let start = Instant::now();
    kernel.deny.swap()?;
    figures.add(&format!("{name}: another set filled beside it"), took.as_secs_f64(), "s", "");
    figures.add(&format!("{name}: the exchange"), start.elapsed().as_secs_f64() * 1e3, "ms", "");
    Ok(())
}
