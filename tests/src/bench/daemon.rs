//! The daemon under measurement.

use std::{
    env, fs,
    fs::File,
    io::{Read as _, Write as _},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use nix::unistd::{SysconfVar, sysconf};

const PATIENCE: Duration = Duration::from_mins(1);

/// A running daemon; killed when dropped.
pub struct Daemon {
    child: Child,
    /// Its front doors.
    pub doors: SocketAddr,
    /// Its admin socket.
    pub socket: PathBuf,
    observe: SocketAddr,
    log: PathBuf,
}

/// What differs between the daemons that are measured.
pub struct Setting<'a> {
    /// Its directory: everything of its own is there.
    pub dir: &'a Path,
    /// Tables of the configuration beside those made here: `[kernel]`, `[token]`, `[policy]`, `[decide]`.
    pub tables: String,
    /// The one core it may run on.
    pub core: Option<usize>,
}

impl Daemon {
    /// Starts the one that `PORTCULLIS_BIN` names and waits until it is ready.
    pub fn start(setting: &Setting<'_>) -> Result<Self> {
        let binary = env::var_os("PORTCULLIS_BIN")
            .context("PORTCULLIS_BIN names no daemon: run this by `cargo xtask bench`")?;
        let dir = setting.dir;
        let (doors, observe) = (free_address()?, free_address()?);
        let (socket, config, log) =
            (dir.join("admin.sock"), dir.join("portcullis.toml"), dir.join("daemon.log"));
        let text = format!(
            "{}\n[revocation]\nstore = {}\n[serve]\nlisten = [\"{doors}\"]\n[admin]\nsocket = {}\n[observe]\nlisten = \"{observe}\"\n[log]\nlevel = \"warn\"\n",
            setting.tables,
            quoted(&dir.join("revocations")),
            quoted(&socket),
        );
        fs::write(&config, text).with_context(|| format!("cannot write `{}`", config.display()))?;
        let mut command = match setting.core {
            Some(core) => {
                let mut taskset = Command::new("taskset");
                taskset.args(["-c", &core.to_string()]).arg(&binary);
                taskset
            }
            None => Command::new(&binary),
        };
        let out = File::create(&log).with_context(|| format!("cannot write `{}`", log.display()))?;
        // taskset replaces itself by the daemon: the child's id is the daemon's.
        let child = command
            .args(["run", "--config"])
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("cannot start `{}`", Path::new(&binary).display()))?;
        let mut daemon = Self { child, doors, socket, observe, log };
        daemon.wait()?;
        Ok(daemon)
    }

    fn wait(&mut self) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(status) = self.child.try_wait()? {
                bail!("the daemon ended ({status}):\n{}", self.said());
            }
            if get(self.observe, "/ready").is_ok_and(|answer| answer.starts_with("HTTP/1.1 200 ")) {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("the daemon is not ready after {PATIENCE:?}:\n{}", self.said());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// What it logged.
    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What its metrics say, of one without labels.
    pub fn gauge(&self, name: &str) -> Result<f64> {
        let all = get(self.observe, "/metrics")?;
        let line = all.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(' '));
        line.with_context(|| format!("no `{name}` among the metrics"))?.parse().context("a number")
    }

    /// Resident memory, in bytes.
    pub fn memory(&self) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
        Ok(kib * 1024)
    }

    /// Processor time it has used, in seconds, in user and kernel mode together.
    pub fn cpu(&self) -> Result<f64> {
        let stat = fs::read_to_string(format!("/proc/{}/stat", self.child.id()))?;
        // Fields 14 and 15; the second is a name in parentheses that may hold spaces.
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks = |i: usize| fields.get(i).and_then(|f| f.parse::<u32>().ok());
        let (Some(user), Some(system)) = (ticks(11), ticks(12)) else {
            bail!("`{stat}` is no process's stat")
        };
        let hertz = sysconf(SysconfVar::CLK_TCK)?.and_then(|hz| u32::try_from(hz).ok()).unwrap_or(100);
        Ok(f64::from(user + system) / f64::from(hertz))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A path as TOML writes it: its basic strings escape as JSON's do.
pub fn quoted(path: &Path) -> String {
    serde_json::Value::from(path.to_string_lossy()).to_string()
}

/// Fetches a path on a connection of its own.
fn get(address: SocketAddr, path: &str) -> Result<String> {
    send(address, &format!("GET {path} HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"))
}

/// Sends a request that asks for its connection to be closed, and reads the answer.
pub fn send(address: SocketAddr, request: &str) -> Result<String> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}

/// An address of loopback that is free now.
pub(super) fn free_address() -> Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}
