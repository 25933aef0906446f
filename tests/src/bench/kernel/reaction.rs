//! What the reaction costs: the 401 to the client and the reset to the server.
//!
//! A reaction rewrites its packet, so a program cannot be run on one packet again and again: each run has a fresh
//! connection, and is a single one, caches as they come. The same connection takes a live request first, which changes
//! nothing of it; the reaction is what the refused one costs beyond that.

use std::net::TcpListener;

use anyhow::{Result, ensure};
use portcullis::kernel::{Enforcement, GuardedPort, Kernel, test_support::Which};

use portcullis_common::reason::Outcome;

use super::{Effort, Pair, VALUE};
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{jws, request},
    guard::{KEY, settings},
};

pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let (live, revoked) = (jws(300, 1), jws(300, 2));
    for (name, enforcement, which) in
        [("fast", Enforcement::Fast, Which::Fast), ("strict", Enforcement::Strict, Which::Strict)]
    {
        let bpffs = Bpffs::mount()?;
        let mut settings = settings(&bpffs);
        settings.enforcement = enforcement;
        settings.ports = vec![GuardedPort { address: None, port: listener.local_addr()?.port() }];
        let mut kernel = Kernel::load(settings)?;
        kernel.load_yardsticks()?;
        kernel.deny.put(KEY.deny(revoked.as_bytes()), VALUE)?;
        let (mut passed, mut refused) = (Vec::new(), Vec::new());
        for _ in 0..effort.rounds * 40 {
            let pair = Pair::to(&listener)?;
            let frame = pair.frame()?;
            let (good, bad) = (frame.build(&request(&live, 500)), frame.build(&request(&revoked, 500)));
            // Twice: the first finds the caches cold.
            let mut run = |packet: &[u8]| -> Result<(i32, Vec<u8>, f64)> {
                let ran = kernel.test_run(which, packet, 1)?;
                #[allow(clippy::cast_precision_loss, reason = "nanoseconds of one run")]
                Ok((ran.action, ran.packet, ran.time.as_nanos() as f64))
            };
            run(&good)?;
            let (_, _, took) = run(&good)?;
            passed.push(took);
            let (action, packet, took) = run(&bad)?;
            // The packet has become the reset to the server: headers alone.
            ensure!(
                action == -1 && packet.len() == 54,
                "it was not refused: {action}, {} bytes",
                packet.len()
            );
            refused.push(took);
        }
        let counts = kernel.counters()?.read()?;
        ensure!(
            counts.get(Outcome::Responded) == refused.len() as u64,
            "{} of {} were answered with 401",
            counts.get(Outcome::Responded),
            refused.len()
        );
        let (passed, refused) = (median(passed), median(refused));
        figures.add(&format!("reaction, {name} mode: the request passed"), passed, "ns", "single runs");
        figures.add(&format!("reaction, {name} mode: the request refused"), refused, "ns", "single runs");
        figures.at_most(
            &format!("reaction, {name} mode: 401 and reset"),
            (refused - passed) / 1e3,
            "µs",
            3.0,
            "",
        );
    }
    Ok(())
}
