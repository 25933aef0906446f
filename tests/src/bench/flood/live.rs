//! What a live token feels of a flood.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, ensure};

use super::{
    Effort, Ground,
    load::{Expect, Flood},
};
use crate::{
    bench::percentile,
    client::Answer,
    figures::{Figures, median},
    net::{PORT, SERVER_V4, at},
};

/// Refused requests a second: what one flooder may do that is not the fastest there is. The flooder runs on the same
/// machine, and one that takes all of it would measure the scheduler.
const RATE: u32 = 2_000;
/// Between two requests of the live token.
const PACE: Duration = Duration::from_millis(1);

pub(super) fn measure(
    figures: &mut Figures,
    effort: Effort,
    ground: &Ground,
    tokens: &[String],
) -> Result<()> {
    let (requests, rounds) = if effort.quick { (100, 1) } else { (3_000, 5) };
    let live = ground.mint.es256()?;
    let (mut alone, mut beside) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        alone.push(ask(ground, &live, requests)?);
        let stop = AtomicBool::new(false);
        let (took, floods) = thread::scope(|scope| -> Result<(f64, u32)> {
            let flooder = scope.spawn(|| flood(ground, tokens, &stop));
            let took = ask(ground, &live, requests);
            stop.store(true, Ordering::SeqCst);
            let floods = flooder.join().map_err(|_| anyhow!("the flooder panicked"))??;
            Ok((took?, floods))
        })?;
        ensure!(floods > 0, "there was no flood");
        beside.push(took);
    }
    let (alone, beside) = (median(alone), median(beside));
    figures.add(
        "flood: a live token's p99, without",
        alone,
        "µs",
        "kept-alive connection, 1 ms between requests",
    );
    figures.add(
        "flood: a live token's p99, beside it",
        beside,
        "µs",
        &format!("{RATE} refused requests a second"),
    );
    figures.at_most("flood: a live token's p99, beside ÷ without", beside / alone, "", 2.0, "");
    Ok(())
}

/// Refused requests at the rate, until told to stop; gives their number.
fn flood(ground: &Ground, tokens: &[String], stop: &AtomicBool) -> Result<u32> {
    let flood = Flood { net: &ground.net, to: at(SERVER_V4, PORT), tokens, expect: Expect::Refused };
    ground.net.client.enter(|| {
        let start = Instant::now();
        let mut done = 0;
        while !stop.load(Ordering::SeqCst) {
            flood.one(done)?;
            done += 1;
            let due = Duration::from_secs(1) * done / RATE;
            if let Some(early) = due.checked_sub(start.elapsed()) {
                thread::sleep(early);
            }
        }
        Ok(done)
    })
}

/// The 99th percentile of a live token's requests, in microseconds.
fn ask(ground: &Ground, token: &str, requests: u32) -> Result<f64> {
    let text = format!(
        "GET /live HTTP/1.1\r\nHost: api.example.com\r\nUser-Agent: live\r\nAuthorization: Bearer {token}\r\n\r\n"
    );
    ground.net.client.enter(|| {
        let mut stream = TcpStream::connect(at(SERVER_V4, PORT))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(crate::PATIENCE))?;
        let mut times = Vec::new();
        let mut bytes = Vec::new();
        for _ in 0..requests {
            let mut buffer = [0; 1024];
            let start = Instant::now();
            stream.write_all(text.as_bytes())?;
            let answer = loop {
                let n = stream.read(&mut buffer)?;
                ensure!(n != 0, "the live connection was closed");
                bytes.extend_from_slice(buffer.get(..n).context("a part")?);
                if let Ok(answer) = Answer::take(&mut bytes) {
                    break answer;
                }
            };
            times.push(start.elapsed().as_secs_f64() * 1e6);
            ensure!(answer.status == 200 && bytes.is_empty(), "another answer: {answer:?}");
            thread::sleep(PACE);
        }
        times.sort_by(f64::total_cmp);
        Ok(percentile(&times, 0.99))
    })
}
