//! What guard costs on a wire: a veth pair between two network namespaces, strict mode, rounds with and without guard
//! in turn, client and server each on a core of its own.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    thread,
    time::Instant,
};

use anyhow::{Context as _, Result, ensure};
use nix::{
    sched::{CpuSet, sched_setaffinity},
    unistd::Pid,
};
use portcullis::kernel::{Enforcement, GuardedPort, Interfaces, Kernel, Settings, detach_all};
use portcullis_common::fingerprint::Key;

use super::Effort;
use crate::{
    bpffs::Bpffs,
    figures::{Figures, median},
    frames::{jws, request},
    guard::settings,
    net::{PORT, SERVER_DEVICE, SERVER_V4, guarded},
    world::Ground,
};

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";

/// Guard on the server's interface, for as long as this lives.
struct Attached {
    settings: Settings,
    kernel: Option<Kernel>,
}

impl Attached {
    fn new(settings: &Settings) -> Result<Self> {
        let mut attached = Self { settings: settings.clone(), kernel: Some(Kernel::load(settings.clone())?) };
        attached.kernel.as_mut().context("guard")?.attach()?;
        Ok(attached)
    }
}

impl Drop for Attached {
    fn drop(&mut self) {
        drop(self.kernel.take());
        if let Err(e) = detach_all(&self.settings.pin_dir, &self.settings.interfaces) {
            eprintln!("guard is left attached: {e}");
        }
    }
}

pub(super) fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let ground = Ground::make()?;
    for ns in [&ground.net.server, &ground.net.client] {
        // BBR, which some hosts have, sends at a pace that it has measured: its timers are timed then.
        ns.enter(|| Ok(std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno")?))?;
    }
    let bpffs = Bpffs::mount()?;
    let mut s = settings(&bpffs);
    s.enforcement = Enforcement::Strict;
    s.ports = vec![GuardedPort { address: None, port: PORT }];
    let namespace = format!("/run/netns/{}", ground.net.server.name());
    s.interfaces = vec![Interfaces { namespace: Some(namespace.into()), name: SERVER_DEVICE.to_owned() }];
    let (turns, bulk): (u32, u64) = if effort.quick { (500, 32 << 20) } else { (10_000, 1 << 30) };
    let rounds = if effort.quick { 2 } else { 9 };
    let (mut with, mut without) = ((Vec::new(), Vec::new()), (Vec::new(), Vec::new()));
    for round in 0..2 * rounds {
        // In the order A B B A, so that a drift meets both alike.
        let on = [true, false, false, true][round % 4];
        let attached = on.then(|| Attached::new(&s)).transpose()?;
        let into = if on { &mut with } else { &mut without };
        into.0.push(ping_pong(&ground, turns)?);
        into.1.push(upload(&ground, bulk)?);
        drop(attached);
    }
    let (trip, free_trip) = (median(with.0), median(without.0));
    figures.add("round trip over veth, no guard", free_trip, "µs", "");
    figures.add("round trip over veth, strict mode", trip, "µs", "");
    figures.at_most("round trip over veth: added by strict mode", trip - free_trip, "µs", 3.0, "");
    let (rate, free_rate) = (median(with.1), median(without.1));
    #[allow(clippy::cast_precision_loss, reason = "a size")]
    let size = bulk as f64 / f64::from(1 << 30);
    figures.add(&format!("upload of {size} GiB over veth, no guard"), free_rate, "GB/s", "");
    figures.add(&format!("upload of {size} GiB over veth, strict mode"), rate, "GB/s", "");
    figures.at_most("upload over veth: lost to strict mode", (1.0 - rate / free_rate) * 100.0, "%", 5.0, "");
    two_guards(figures, &ground, &s, (turns, rounds))
}

/// What a second fingerprint key costs: a guard of its own behind the first.
fn two_guards(
    figures: &mut Figures,
    ground: &Ground,
    one: &Settings,
    (turns, rounds): (u32, usize),
) -> Result<()> {
    let two = Settings { other: Some((Key { k0: 3, k1: 4 }, one.key_id + 1)), ..one.clone() };
    let (mut first, mut both) = (Vec::new(), Vec::new());
    for round in 0..2 * rounds {
        let (settings, into) =
            if [true, false, false, true][round % 4] { (one, &mut first) } else { (&two, &mut both) };
        let attached = Attached::new(settings)?;
        into.push(ping_pong(ground, turns)?);
        drop(attached);
    }
    let added = median(both) - median(first);
    figures.add(
        "round trip over veth: added by a second guard",
        added,
        "µs",
        "while two fingerprint keys are in force",
    );
    Ok(())
}

/// Keeps this thread on a core, where there are several.
fn pin(core: usize) {
    let mut set = CpuSet::new();
    if set.set(core).is_ok() {
        // With one core alone there is nothing to choose.
        let _ = sched_setaffinity(Pid::from_raw(0), &set);
    }
}

/// Runs a server's and a client's work on a connection between their namespaces.
fn talk<T: Send>(
    ground: &Ground,
    serve: impl FnOnce(TcpStream) -> Result<()> + Send,
    ask: impl FnOnce(TcpStream) -> Result<T> + Send,
) -> Result<T> {
    let net = &ground.net;
    let listener = net.server.enter(|| Ok(TcpListener::bind(guarded(SERVER_V4))?))?;
    thread::scope(|scope| {
        let server = scope.spawn(|| {
            pin(1);
            let (stream, _) = listener.accept()?;
            stream.set_nodelay(true)?;
            serve(stream)
        });
        let client = scope.spawn(|| {
            pin(0);
            let stream = net.client.enter(|| Ok(TcpStream::connect(guarded(SERVER_V4))?))?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(crate::PATIENCE))?;
            ask(stream)
        });
        let done = client.join().map_err(|_| anyhow::anyhow!("the client panicked"))?;
        server.join().map_err(|_| anyhow::anyhow!("the server panicked"))??;
        done
    })
}

/// The median round trip of a request with a live token, in microseconds.
fn ping_pong(ground: &Ground, turns: u32) -> Result<f64> {
    let text = request(&jws(300, 1), 500);
    let len = text.len();
    let times = talk(
        ground,
        |mut stream| {
            let mut buffer = vec![0; len];
            for _ in 0..turns {
                stream.read_exact(&mut buffer)?;
                stream.write_all(ANSWER)?;
            }
            Ok(())
        },
        |mut stream| {
            let mut buffer = vec![0; ANSWER.len()];
            let mut times = Vec::new();
            for _ in 0..turns {
                let start = Instant::now();
                stream.write_all(&text)?;
                stream.read_exact(&mut buffer)?;
                times.push(start.elapsed().as_secs_f64() * 1e6);
            }
            ensure!(buffer == ANSWER, "another answer: {:?}", String::from_utf8_lossy(&buffer));
            Ok(times)
        },
    )?;
    Ok(median(times))
}

/// The rate of an upload of so many bytes in one request, in GB/s.
fn upload(ground: &Ground, bytes: u64) -> Result<f64> {
    let head = format!(
        "POST /upload HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer {}\r\nContent-Length: {bytes}\r\n\r\n",
        jws(300, 1)
    );
    let whole = bytes + head.len() as u64;
    let took = talk(
        ground,
        |mut stream| {
            let (mut buffer, mut got) = (vec![0; 256 * 1024], 0);
            while got < whole {
                let n = stream.read(&mut buffer)?;
                ensure!(n != 0, "the upload was cut after {got} bytes");
                got += n as u64;
            }
            Ok(stream.write_all(ANSWER)?)
        },
        |mut stream| {
            let body = vec![b'x'; 256 * 1024];
            let start = Instant::now();
            stream.write_all(head.as_bytes())?;
            let mut left = bytes;
            while left > 0 {
                let n = left.min(body.len() as u64);
                stream.write_all(body.get(..usize::try_from(n)?).context("a part")?)?;
                left -= n;
            }
            let mut buffer = vec![0; ANSWER.len()];
            stream.read_exact(&mut buffer)?;
            Ok(start.elapsed().as_secs_f64())
        },
    )?;
    #[allow(clippy::cast_precision_loss, reason = "a size")]
    Ok(bytes as f64 / took / 1e9)
}
