//! What tests and benchmarks of the programs need beside the daemon's own interface.

use std::{
    io,
    net::TcpStream,
    os::fd::AsRawFd as _,
    path::Path,
    time::{Duration, Instant},
};

use aya::{
    maps::{Array, HashMap, MapData},
    programs::{CgroupSkb, Program, SchedClassifier, TestRun, TestRunOptions, Xdp},
};
use portcullis_common::{layout::Flow, shed::Shed};

use super::{
    Kernel, KernelError, ShedHook,
    load::{Plain, map_error},
};

/// What became of a packet.
#[derive(Debug)]
pub struct Ran {
    /// The program's verdict: -1 next, 2 drop, 7 redirect.
    pub action: i32,
    /// The packet afterwards.
    pub packet: Vec<u8>,
    /// Mean time of one run.
    pub time: Duration,
}

/// A program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Which {
    /// The guard itself, as the settings choose it.
    Guard,
    /// A program that does nothing.
    Empty,
    /// One that hashes as many bytes as the packet has behind its Ethernet header, and looks that up.
    Hash,
    /// Strict mode, to which every segment is its connection's first.
    Strict,
    /// Fast mode.
    Fast,
}

impl Which {
    const fn name(self, guard: &'static str) -> &'static str {
        match self {
            Self::Guard => guard,
            Self::Empty => "bench_empty",
            Self::Hash => "bench_hash",
            Self::Strict => "bench_strict",
            Self::Fast => "guard_fast",
        }
    }
}

/// The sequence number that a connection's socket expects next (`TCP_QUEUE_SEQ`, which needs `CAP_NET_ADMIN`).
pub fn expected(stream: &TcpStream) -> io::Result<u32> {
    let set = |option: libc::c_int, value: libc::c_int| {
        // SAFETY: the value is an integer, and its size is told.
        let done = unsafe {
            libc::setsockopt(stream.as_raw_fd(), libc::IPPROTO_TCP, option, (&raw const value).cast(), 4)
        };
        if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
    };
    // TCP_REPAIR_ON, TCP_RECV_QUEUE; TCP_REPAIR_OFF_NO_WP sends no probe.
    set(libc::TCP_REPAIR, 1)?;
    set(libc::TCP_REPAIR_QUEUE, 1)?;
    let (mut seq, mut len) = (0u32, 4);
    // SAFETY: four bytes for an integer of four.
    let got = unsafe {
        libc::getsockopt(
            stream.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_QUEUE_SEQ,
            (&raw mut seq).cast(),
            &raw mut len,
        )
    };
    let got = if got == 0 { Ok(seq) } else { Err(io::Error::last_os_error()) };
    set(libc::TCP_REPAIR, -1)?;
    got
}

/// How many slots for requests that the daemon is shown hold anything, below a directory of pins.
pub fn held_heads(pin_dir: &Path) -> Result<usize, KernelError> {
    let pin = super::pins::maps_dir(pin_dir).join("INQUIRIES");
    let map = MapData::from_pin(pin).map_err(map_error)?;
    super::inquiries::in_use(&map).map_err(|e| KernelError::io("read the slots", e))
}

/// Does `work` after `before`, which is not timed.
fn timed<P, T>(p: &mut P, before: impl FnOnce(&mut P), work: impl FnOnce(&mut P) -> T) -> (T, Duration) {
    before(p);
    let start = Instant::now();
    (work(p), start.elapsed())
}

impl Kernel {
    /// Instructions the verifier walked, by program.
    pub fn verified(&self) -> Vec<(&'static str, u32)> {
        self.verified.iter().map(|(name, n)| (*name, *n)).collect()
    }

    /// Loads the yardsticks of the benchmark beside guard.
    pub fn load_yardsticks(&mut self) -> Result<(), KernelError> {
        for which in [Which::Empty, Which::Hash, Which::Strict, Which::Fast] {
            let name = which.name(self.guard);
            if name == self.guard {
                continue;
            }
            let what = || format!("load {name}");
            self.program(name)?.load().map_err(|e| KernelError::program(what(), &e))?;
        }
        if !self.settings.h2c_ports.is_empty() {
            let what = || "load bench_frames".to_owned();
            self.program("bench_frames")?.load().map_err(|e| KernelError::program(what(), &e))?;
            self.join("PROGRAMS", 2, "bench_frames")?;
        }
        Ok(())
    }

    /// Loads every program that is not loaded yet, the benchmark's aside, and tells of all: name, instructions that the
    /// verifier walked, and the time it took to load it here.
    pub fn load_each(&mut self) -> Result<Vec<(String, u32, Duration)>, KernelError> {
        let mut found = Vec::new();
        for (name, program) in self.ebpf.programs_mut().filter(|(name, _)| !name.starts_with("bench_")) {
            // One that is loaded already is loaded anew: that it was not is no fault.
            let (loaded, took) = match program {
                Program::SchedClassifier(p) => timed(p, |p| drop(p.unload()), SchedClassifier::load),
                Program::CgroupSkb(p) => timed(p, |p| drop(p.unload()), CgroupSkb::load),
                Program::Xdp(p) => timed(p, |p| drop(p.unload()), Xdp::load),
                _ => continue,
            };
            loaded.map_err(|e| KernelError::program(format!("load {name}"), &e))?;
            let n = program.info().ok().and_then(|i| i.verified_instruction_count()).unwrap_or(0);
            found.push((name.to_owned(), n, took));
        }
        found.sort();
        Ok(found)
    }

    /// Has a sender shed until a boot time.
    pub fn shed_until(&mut self, sender: Flow, until: u64) -> Result<(), KernelError> {
        let mut senders: HashMap<_, Plain<Flow>, Plain<Shed>> =
            HashMap::try_from(self.map_mut("SOURCES")?).map_err(map_error)?;
        senders.insert(Plain(sender), Plain(Shed { until, ..Shed::default() }), 0).map_err(map_error)?;
        let mut times: Array<_, u64> = Array::try_from(self.map_mut("SHED_TIMES")?).map_err(map_error)?;
        times.set(1, until, 0).map_err(map_error)
    }

    /// Whether shed drops a packet, and the mean time of one run of so many.
    pub fn sheds_packet(&mut self, packet: &[u8], repeat: u32) -> Result<(bool, Duration), KernelError> {
        let options = TestRunOptions { data_in: Some(packet), repeat, ..TestRunOptions::new() };
        let program = self.xdp(ShedHook::Native)?;
        let ran = program.test_run(options).map_err(|e| KernelError::program("run shed", &e))?;
        // `XDP_DROP`.
        Ok((ran.return_value == 1, ran.duration))
    }

    /// Runs a program over a packet (`BPF_PROG_TEST_RUN`), `repeat` times.
    pub fn test_run(&mut self, which: Which, packet: &[u8], repeat: u32) -> Result<Ran, KernelError> {
        let mut out = vec![0; 65536];
        let options = TestRunOptions {
            data_in: Some(packet),
            data_out: Some(&mut out),
            repeat,
            ..TestRunOptions::new()
        };
        let name = which.name(self.guard);
        let result = self
            .program(name)?
            .test_run(options)
            .map_err(|e| KernelError::program(format!("run {name}"), &e))?;
        out.truncate(result.data_size_out as usize);
        Ok(Ran { action: result.return_value.cast_signed(), packet: out, time: result.duration })
    }
}
