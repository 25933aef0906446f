//! What tests and benchmarks of the programs need beside the daemon's own interface.

use std::{io, net::TcpStream, os::fd::AsRawFd as _, time::Duration};

use aya::programs::{TestRun, TestRunOptions};

use super::{Kernel, KernelError};

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
