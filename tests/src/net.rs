//! Network namespaces, and closures that run inside one.

use std::{
    fs::{self, File},
    net::{IpAddr, SocketAddr},
    panic::resume_unwind,
    path::{Path, PathBuf},
    process::Command,
    thread,
};

use anyhow::{Context as _, Result, bail};
use nix::{
    sched::{CloneFlags, setns},
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::PREFIX;

const NAMESPACES: &str = "/run/netns";
/// The server's end of the veth pair.
pub const SERVER_DEVICE: &str = "srv0";
/// The client's end.
pub const CLIENT_DEVICE: &str = "cli0";
/// The server's addresses.
pub const SERVER_V4: &str = "10.77.0.1";
/// As above.
pub const SERVER_V6: &str = "fd77::1";
/// The guarded port.
pub const PORT: u16 = 8080;

/// A network namespace; removed on drop.
#[derive(Clone, Debug)]
pub struct Namespace(String);

impl Namespace {
    /// Makes one, with `lo` up; it is to be removed by [`Self::remove`].
    pub fn make(name: &str) -> Result<Self> {
        ip(&["netns", "add", name])?;
        let ns = Self(name.to_owned());
        ns.ip(&["link", "set", "lo", "up"])?;
        Ok(ns)
    }

    /// Removes it.
    pub fn remove(&self) {
        remove(&self.0);
    }

    /// Its name, for `ip`.
    pub fn name(&self) -> &str {
        &self.0
    }

    /// Where `setns` finds it.
    fn path(&self) -> PathBuf {
        Path::new(NAMESPACES).join(&self.0)
    }

    /// Runs `work` on a thread inside the namespace. Sockets, threads and processes made there stay in it.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        thread::scope(|scope| {
            let inside = scope.spawn(|| {
                let namespace = File::open(self.path()).with_context(|| format!("open {}", self.0))?;
                setns(namespace, CloneFlags::CLONE_NEWNET).context("enter a network namespace")?;
                work()
            });
            inside.join().unwrap_or_else(|panic| resume_unwind(panic))
        })
    }

    /// `ip` on it.
    pub fn ip(&self, args: &[&str]) -> Result<String> {
        ip(&[&["-n", &self.0], args].concat())
    }
}

/// What `ethtool -K rx off tx off tso off gso off gro off` does, on machines that have no ethtool. Loopback keeps its
/// checksum offload, which cannot be switched off.
pub fn switch_offloads_off(ns: &Namespace, device: &str) -> Result<()> {
    const SCRIPT: &str = "
import array, fcntl, socket, struct, sys
s = socket.socket()
# ETHTOOL_SRXCSUM, STXCSUM, STSO, SGSO, SGRO: each with the value 0; then GTXCSUM, which must read 0.
for command in (0x15, 0x17, 0x1f, 0x24, 0x2c, 0x16):
    value = array.array('B', struct.pack('II', command, 0))
    request = struct.pack('16sP', sys.argv[1].encode(), value.buffer_info()[0])
    try:
        fcntl.ioctl(s, 0x8946, request + bytes(16))
    except OSError as e:
        if command != 0x15 and sys.argv[1] != 'lo':
            raise
assert sys.argv[1] == 'lo' or struct.unpack('II', value.tobytes())[1] == 0
";
    let mut command = Command::new("python3");
    crate::process::run(ns, command.args(["-c", SCRIPT, device]), b"")?.ok().map(drop)
}

/// A server's and a client's namespace, joined by a veth pair, each with `lo`.
#[derive(Debug)]
pub struct Net {
    /// Where server and daemon are.
    pub server: Namespace,
    /// Where clients are.
    pub client: Namespace,
}

impl Net {
    /// Makes both.
    pub fn make(id: &str) -> Result<Self> {
        let net =
            Self { server: Namespace(format!("{id}-server")), client: Namespace(format!("{id}-client")) };
        for ns in [&net.server, &net.client] {
            ip(&["netns", "add", &ns.0])?;
        }
        let (server, client) = (net.server.0.as_str(), net.client.0.as_str());
        ip(&["link", "add", SERVER_DEVICE, "netns", server, "type", "veth"]
            .iter()
            .chain(&["peer", "name", CLIENT_DEVICE, "netns", client])
            .copied()
            .collect::<Vec<_>>())?;
        for (ns, device, v4, v6) in [
            (&net.server, SERVER_DEVICE, SERVER_V4, SERVER_V6),
            (&net.client, CLIENT_DEVICE, "10.77.0.2", "fd77::2"),
        ] {
            ns.ip(&["address", "add", &format!("{v4}/30"), "dev", device])?;
            // Without `nodad` the address could not be used for a second.
            ns.ip(&["address", "add", &format!("{v6}/64"), "dev", device, "nodad"])?;
            ns.ip(&["link", "set", device, "up"])?;
            ns.ip(&["link", "set", "lo", "up"])?;
        }
        Ok(net)
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for ns in [&self.server, &self.client] {
            remove(&ns.0);
        }
    }
}

/// The guarded port at one of the server's addresses.
pub fn guarded(address: &str) -> SocketAddr {
    at(address, PORT)
}

/// A socket address; tests name only literal ones.
pub fn at(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])), port)
}

fn ip(args: &[&str]) -> Result<String> {
    let output = Command::new("ip").args(args).output().context("run `ip` (iproute2)")?;
    if !output.status.success() {
        bail!("`ip {}`: {}", args.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn remove(name: &str) {
    if Path::new(NAMESPACES).join(name).exists()
        && let Err(e) = ip(&["netns", "delete", name])
    {
        eprintln!("note: a network namespace is left: {e:#}");
    }
}

/// Removes the namespaces of runs that were killed, and what still runs in them.
pub fn sweep() {
    for path in stale(Path::new(NAMESPACES)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let pids = ip(&["netns", "pids", &name]).unwrap_or_default();
        for pid in pids.lines().filter_map(|pid| pid.trim().parse().ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        remove(&name);
    }
}

/// Entries of `dir` that a run of these tests made whose process is gone.
pub fn stale(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| {
            owner(&entry.file_name().to_string_lossy())
                .is_some_and(|pid| !Path::new("/proc").join(pid.to_string()).exists())
        })
        .map(|entry| entry.path())
        .collect()
}

/// The process id in a name of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("portcullis-test-12-0"), Some(12));
        assert_eq!(owner("portcullis-test-12-0-client"), Some(12));
        assert_eq!(owner("portcullis-demo-12"), None);
        assert_eq!(owner("portcullis-test-x"), None);
    }
}
