//! Two network namespaces joined by a veth pair.
//!
//! Both ends are made inside the namespaces, so the host sees no new interface, address or route, and addresses
//! cannot collide with the host's.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};

use crate::exec::{self, Cmd};

/// Everything the demo makes outside its directory begins with this, followed by its process id.
pub const PREFIX: &str = "portcullis-demo-";
pub const SERVER_DEVICE: &str = "pc-srv";
const CLIENT_DEVICE: &str = "pc-cli";
pub const SERVER_ADDRESS: &str = "10.203.0.1";
const CLIENT_ADDRESS: &str = "10.203.0.2";
const NAMESPACES: &str = "/run/netns";

/// The pair of namespaces; removed when dropped.
pub struct Net {
    server: String,
    client: String,
}

impl Net {
    /// Makes them, with `id` in their names.
    pub fn make(id: &str) -> Result<Self> {
        let net = Self { server: format!("{PREFIX}{id}-server"), client: format!("{PREFIX}{id}-client") };
        let ip = |args: &[&str]| exec::cmd("ip").args(args).read().map(drop);
        for name in [&net.server, &net.client] {
            ip(&["netns", "add", name]).context("cannot make a network namespace")?;
        }
        let (server, client) = (net.server.as_str(), net.client.as_str());
        ip(&[
            "link",
            "add",
            SERVER_DEVICE,
            "netns",
            server,
            "type",
            "veth",
            "peer",
            "name",
            CLIENT_DEVICE,
            "netns",
            client,
        ])
        .context("cannot make a veth pair")?;
        for (name, device, address) in
            [(server, SERVER_DEVICE, SERVER_ADDRESS), (client, CLIENT_DEVICE, CLIENT_ADDRESS)]
        {
            ip(&["-n", name, "address", "add", &format!("{address}/30"), "dev", device])?;
            ip(&["-n", name, "link", "set", device, "up"])?;
            ip(&["-n", name, "link", "set", "lo", "up"])?;
        }
        Ok(net)
    }

    /// A command line that runs what follows beside the server.
    pub fn in_server(&self) -> Cmd {
        inside(&self.server)
    }

    /// A command line that runs what follows beside the client.
    pub fn in_client(&self) -> Cmd {
        inside(&self.client)
    }
}

/// `nsenter`, not `ip netns exec`: that one mounts another /sys, and the daemon would not see the host's.
fn inside(name: &str) -> Cmd {
    exec::cmd("nsenter").arg(format!("--net={NAMESPACES}/{name}")).arg("--")
}

impl Drop for Net {
    fn drop(&mut self) {
        for name in [&self.server, &self.client] {
            remove(name);
        }
    }
}

fn remove(name: &str) {
    if Path::new(NAMESPACES).join(name).exists()
        && let Err(error) = exec::cmd("ip").args(["netns", "delete", name]).read()
    {
        eprintln!("note: a network namespace is left: {error:#}");
    }
}

/// Removes the namespaces of demos that were killed before they could, and what still runs in them.
pub fn sweep() {
    for path in stale(Path::new(NAMESPACES)) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let inside = exec::cmd("ip").args(["netns", "pids", &name]).read().unwrap_or_default();
        for pid in inside.lines().filter_map(|pid| pid.trim().parse().ok()) {
            // Fails only for one that has just ended.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        remove(&name);
    }
}

/// Entries of `dir` that a demo made whose process is gone.
pub fn stale(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| owner(&entry.file_name().to_string_lossy()).is_some_and(|pid| !is_alive(pid)))
        .map(|entry| entry.path())
        .collect()
}

/// The process id in a name of ours.
fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_ours_have_an_owner() {
        assert_eq!(owner("portcullis-demo-12"), Some(12));
        assert_eq!(owner("portcullis-demo-12-client"), Some(12));
        assert_eq!(owner("portcullis-demo-x"), None);
        assert_eq!(owner("other-12"), None);
        assert!(is_alive(std::process::id()));
    }

    #[test]
    fn namespaces_are_joined_apart_from_the_host_and_removed() {
        if !crate::privilege::is_root() {
            println!("SKIPPED namespaces of the demo: not root");
            return;
        }
        let id = format!("{}-test", std::process::id());
        let net = Net::make(&id).unwrap();
        net.in_client().args(["ping", "-c1", "-W2", SERVER_ADDRESS]).read().or_else(ping_is_missing).unwrap();
        let devices = net.in_server().args(["ip", "-brief", "link"]).read().unwrap();
        assert!(devices.contains(SERVER_DEVICE), "{devices}");
        let host = exec::cmd("ip").args(["-brief", "link"]).read().unwrap();
        assert!(!host.contains(SERVER_DEVICE) && !host.contains(CLIENT_DEVICE), "{host}");
        drop(net);
        let left = fs::read_dir(NAMESPACES).map_or(0, |dir| {
            dir.flatten().filter(|entry| entry.file_name().to_string_lossy().contains(&id)).count()
        });
        assert_eq!(left, 0);
    }

    /// Minimal images have no ping; the route then has to do.
    fn ping_is_missing(error: anyhow::Error) -> Result<String> {
        if exec::find("ping").is_none() { Ok(String::new()) } else { Err(error) }
    }
}
