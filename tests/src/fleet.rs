//! Several hosts, each a guarded server and a daemon in a namespace of its own, around a hub where the NATS servers and the
//! clients are.

use std::{
    fs,
    net::SocketAddr,
    sync::{
        Once,
        atomic::{AtomicU32, Ordering},
    },
};

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::{
    PREFIX,
    client::{Client, bearer},
    config::Config,
    daemon::Daemon,
    dir::{self, Dir},
    nats::{Nats, Setting},
    net::{self, Namespace, PORT, SERVER_DEVICE},
    server::Server,
    tokens::Mint,
    until,
};

/// A namespace; removed on drop.
#[derive(Debug)]
struct Owned(Namespace);

impl Drop for Owned {
    fn drop(&mut self) {
        self.0.remove();
    }
}

/// One host.
#[derive(Debug)]
pub struct Host {
    // Fields drop in order of declaration: processes before what they stand on.
    /// Its daemon.
    pub daemon: Daemon,
    /// Its server.
    pub server: Server,
    ns: Owned,
    /// Its directory.
    pub dir: Dir,
    /// What its daemon was started with.
    pub config: Config,
    /// Its number.
    n: usize,
    hub: Namespace,
}

impl Host {
    /// Its guarded server, as the hub reaches it.
    pub fn address(&self) -> Result<SocketAddr> {
        Ok(SocketAddr::new(format!("10.78.{}.2", self.n).parse()?, PORT))
    }

    /// Whether the kernel answers a request with this token, which the server does not read then.
    pub fn refuses(&self, token: &str) -> Result<bool> {
        let answer = Client::connect(&self.hub, self.address()?)?.ask(&bearer("/fleet", token))?;
        Ok(answer.status == 401 && !answer.is_servers())
    }

    /// Waits until it does, or does no more.
    #[track_caller]
    pub fn await_refused(&self, token: &str, refused: bool) {
        // A revocation ends connections on which its token is asked about just then.
        if let Err(e) = until(|| Ok(self.refuses(token).is_ok_and(|is| is == refused))) {
            panic!("host {}: refused = {refused} did not come: {e:#}\n{:?}", self.n, self.fleet());
        }
    }

    /// Has its daemon end, in this way or that, and start with its configuration as it is now.
    pub fn restart(&mut self, hard: bool) -> Result<()> {
        self.dir.write("portcullis.toml", &self.config.toml(&self.dir))?;
        if hard {
            self.daemon.kill9()?;
        } else {
            self.daemon.stop()?;
        }
        self.daemon.restart()
    }

    /// Cuts it off from the hub, or joins it again.
    pub fn cut(&self, cut: bool) -> Result<()> {
        let state = if cut { "down" } else { "up" };
        self.hub.ip(&["link", "set", &format!("h{}", self.n), state]).map(drop)
    }

    /// `portcullis fleet`.
    pub fn fleet(&self) -> Result<Value> {
        self.daemon.json(&["fleet"], "")
    }

    /// Waits until it says so of the fleet.
    pub fn await_fleet(&self, mut holds: impl FnMut(&Value) -> bool) -> Result<Value> {
        let mut last = Value::Null;
        until(|| {
            last = self.fleet()?;
            Ok(holds(&last))
        })
        .with_context(|| format!("host {}: {last:#}\n{}", self.n, self.daemon.log().join("\n")))?;
        Ok(last)
    }

    /// Its id in the fleet.
    pub fn id(&self) -> Result<String> {
        Ok(self.fleet()?["id"].as_str().context("an id")?.to_owned())
    }
}

/// All of them.
#[derive(Debug)]
pub struct Fleet {
    /// The hosts.
    pub hosts: Vec<Host>,
    /// The servers.
    pub nats: Vec<Nats>,
    /// Signs tokens that all of them accept.
    pub mint: Mint,
    /// The directory of servers and keys.
    pub dir: Dir,
    hub: Owned,
    id: String,
    /// Lines of the `[fleet]` table that hosts are given.
    pub table: String,
}

impl Fleet {
    /// The hub with these servers, and no host yet. `None` where a server's program is not there.
    pub fn hub(servers: &[Setting]) -> Result<Option<Self>> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(0);
        SWEPT.call_once(|| {
            net::sweep();
            dir::sweep();
        });
        let id = format!("{PREFIX}{}-f{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = Dir::make(&id)?;
        let hub = Owned(Namespace::make(&format!("{id}-hub"))?);
        let mut nats = Vec::new();
        for setting in servers {
            let Some(server) = Nats::start(&hub.0, &dir.path(""), setting)? else { return Ok(None) };
            nats.push(server);
        }
        let mint = Mint::make(&dir)?;
        let table = String::new();
        Ok(Some(Self { hosts: Vec::new(), nats, mint, dir, hub, id, table }))
    }

    /// The same with so many hosts.
    pub fn of(count: usize, servers: &[Setting]) -> Result<Option<Self>> {
        let Some(mut fleet) = Self::hub(servers)? else { return Ok(None) };
        for _ in 0..count {
            fleet.add("")?;
        }
        Ok(Some(fleet))
    }

    /// The namespace of servers and clients.
    pub fn hub_namespace(&self) -> &Namespace {
        &self.hub.0
    }

    /// Adds a host; `more` are further lines of its `[fleet]` table.
    pub fn add(&mut self, more: &str) -> Result<&Host> {
        self.add_with(more, |_, _| Ok(()))
    }

    /// The same with a configuration that `change` has gone over.
    pub fn add_with(
        &mut self,
        more: &str,
        change: impl FnOnce(&mut Config, &Dir) -> Result<()>,
    ) -> Result<&Host> {
        let n = self.hosts.len();
        let ns = Owned(Namespace::make(&format!("{}-host{n}", self.id))?);
        let dir = Dir::make(&format!("{}-host{n}", self.id))?;
        let hub = self.hub.0.name();
        let device = format!("h{n}");
        let pair =
            ["link", "add", &device, "type", "veth", "peer", "name", SERVER_DEVICE, "netns", ns.0.name()];
        self.hub.0.ip(&pair)?;
        for (ns, device, address) in [(&self.hub.0, device.as_str(), 1), (&ns.0, SERVER_DEVICE, 2)] {
            ns.ip(&["address", "add", &format!("10.78.{n}.{address}/30"), "dev", device])?;
            ns.ip(&["link", "set", device, "up"])?;
        }
        for file in ["hmac.key", "es256.jwks", "fingerprint.key"] {
            if self.dir.path(file).exists() {
                fs::copy(self.dir.path(file), dir.path(file)).with_context(|| format!("{file} of {hub}"))?;
            }
        }
        let servers: Vec<String> =
            (0..self.nats.len().max(1)).map(|s| format!("\"nats://10.78.{n}.1:{}\"", 4222 + s)).collect();
        let mut config = Config {
            serve: format!(
                "[host]\nname = \"host{n}\"\n[fleet]\nservers = [{}]\nplain_text = true\n{}\n{more}\n",
                servers.join(", "),
                self.table
            ),
            ..Config::default()
        };
        change(&mut config, &dir)?;
        let path = dir.write("portcullis.toml", &config.toml(&dir))?;
        let address = SocketAddr::new(format!("10.78.{n}.2").parse()?, PORT);
        let server = Server::start(&ns.0, &[address])?;
        let daemon = Daemon::start(&ns.0, &path, &dir.path("admin.sock"))?;
        if !self.dir.path("fingerprint.key").exists() {
            // The first one's is all hosts'.
            fs::copy(dir.path("fingerprint.key"), self.dir.path("fingerprint.key"))?;
        }
        let host = Host { daemon, server, ns, dir, config, n, hub: self.hub.0.clone() };
        self.hosts.push(host);
        Ok(&self.hosts[n])
    }

    /// Waits until every host that is connected hears of all others and is complete.
    pub fn settle(&self) -> Result<()> {
        let others = self.hosts.len() - 1;
        for host in &self.hosts {
            host.await_fleet(|f| {
                let live =
                    f["hosts"].as_array().map_or(0, |all| all.iter().filter(|h| h["live"] == true).count());
                live == others && f["was_complete"] == true && f["server"].is_string()
            })?;
        }
        Ok(())
    }
}

impl Host {
    /// The namespace of servers and clients.
    pub const fn hub(&self) -> &Namespace {
        &self.hub
    }

    /// Its namespace.
    pub fn namespace(&self) -> &Namespace {
        &self.ns.0
    }
}
