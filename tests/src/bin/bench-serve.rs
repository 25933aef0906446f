//! `cargo xtask bench serve`: the front doors under load, beside Open Policy Agent's figures for the same work.
//!
//! The daemon alone on core 1, `wrk` on core 0, 16 kept-alive connections that take 1,000 tokens in turn, every
//! answer checked. OPA's binary is in no package registry, so its figures come from a like machine (2 cores of a
//! shared VM); the ratio to this server's own no-op answer in the same run is what travels.

use std::{fs, net::SocketAddr};

use anyhow::{Result, ensure};
use portcullis_tests::{
    bench::{
        Args,
        daemon::{Daemon, Setting, quoted, send},
        grpc,
        load::{Load, Run},
        policy::{self, DECISION, Route},
        through_envoy::Envoy,
        tokens::Issuer,
    },
    figures::Figures,
    gateway,
    tokens::forged,
};
use serde_json::json;
use tempfile::TempDir;

const TOKENS: usize = 1000;
const LOAD_CORE: usize = 0;
const SERVER_CORE: usize = 1;
/// Requests a second of OPA 1.9.0 on one core: as it comes, and with the best settings found.
const OPA: [(&str, f64, f64); 3] =
    [("HS256", 6109.0, 8194.0), ("RS256", 4146.0, 6182.0), ("ES256", 3422.0, 5733.0)];
/// Checks a second of opa-envoy-plugin on one core, by algorithm.
const PLUGIN: [(&str, f64); 3] = [("HS256", 3519.0), ("RS256", 2742.0), ("ES256", 2575.0)];
/// Requests a second through Envoy 1.40 and the plugin, ES256, both cores.
const ENVOY_AND_PLUGIN: f64 = 2414.0;
/// What was promised: cached, of OPA with its best settings, for ES256; of the plugin; through Envoy; and uncached, of
/// OPA as it comes.
const TIMES_OPA: f64 = 8.0;
const TIMES_PLUGIN: f64 = 8.0;
const TIMES_ENVOY: f64 = 1.5;
const TIMES_UNCACHED: f64 = 3.0;
const ALLOWED: &str = r#"{"result":{"allow":true,"ttl":60}}"#;

/// What `--only` names.
const PARTS: [(&str, Part); 4] = [
    ("cached", Bench::cached),
    ("envoy", Bench::through_envoy),
    ("policy", Bench::policy),
    ("distinct", Bench::distinct),
];

type Part = fn(&mut Bench, Run) -> Result<()>;

fn main() -> Result<()> {
    let args = Args::read()?;
    let parts: Vec<_> =
        PARTS.iter().filter(|(name, _)| args.only.as_deref().is_none_or(|only| only == *name)).collect();
    ensure!(!parts.is_empty(), "there is no such part; there are {}", PARTS.map(|(name, _)| name).join(", "));
    let mut bench = Bench::new(args.quick)?;
    let noop = bench.noop()?;
    parts.into_iter().try_for_each(|(_, part)| part(&mut bench, noop))?;
    bench.figures.write(args.json.as_deref())
}

struct Bench {
    dir: TempDir,
    issuers: [Issuer; 3],
    routes: Vec<Route>,
    figures: Figures,
    runs: usize,
    seconds: u32,
    quick: bool,
}

impl Bench {
    fn new(quick: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("portcullis-bench-").tempdir()?;
        fs::create_dir(dir.path().join("policies"))?;
        policy::write(&dir.path().join("policies"))?;
        let (runs, seconds) = if quick { (1, 1) } else { (3, 6) };
        let (issuers, routes) = (Issuer::all()?, policy::routes());
        Ok(Self { dir, issuers, routes, figures: Figures::default(), runs, seconds, quick })
    }

    /// Starts a daemon that decides by the policy, and sees that it denies what it must.
    fn daemon(&self, name: &str, core: Option<usize>, decide: &str) -> Result<Daemon> {
        let dir = self.dir.path().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        let mut tables = format!(
            "[kernel]\nmode = \"off\"\n[policy]\ndirs = [{}]\ndecision = \"{DECISION}\"\nwatch = false\n[decide]\nmax_lag = \"0s\"\n{decide}\n[token]\nfingerprint_key = {}\n",
            quoted(&self.dir.path().join("policies")),
            quoted(&dir.join("fingerprint.key")),
        );
        for issuer in &self.issuers {
            tables.push_str(&issuer.configure(&dir)?);
        }
        let daemon = Daemon::start(&Setting { dir: &dir, tables, core })?;
        self.check(&daemon)?;
        Ok(daemon)
    }

    /// A load whose every answer is an allow would not see a server that allows all.
    fn check(&self, daemon: &Daemon) -> Result<()> {
        let (route, other) = (&self.routes[0], &self.routes[1]);
        for issuer in &self.issuers {
            let revoked = issuer.token(&policy::revoked_id(7), &route.scope)?;
            let without = issuer.token("t-without", &other.scope)?;
            let good = issuer.token("t-good", &route.scope)?;
            let forged = forged(&good)?;
            for (token, allowed) in [(&good, true), (&revoked, false), (&without, false), (&forged, false)] {
                let (data, auth) = (data_request(token, route), auth_request(token, route));
                let close = |r: String| r.replacen("\r\n", "\r\nConnection: close\r\n", 1);
                let (data, auth) = (send(daemon.doors, &close(data))?, send(daemon.doors, &close(auth))?);
                ensure!(data.contains("\"allow\":true") == allowed, "a wrong answer to begin with: {data}");
                ensure!(auth.starts_with("HTTP/1.1 200 ") == allowed, "a wrong answer to begin with: {auth}");
            }
        }
        Ok(())
    }

    /// A request for each token of an issuer's, each with a route that its scopes open.
    fn requests(&self, algorithm: &str, make: fn(&str, &Route) -> String) -> Result<Vec<String>> {
        let mut requests = Vec::with_capacity(TOKENS);
        for issuer in self.issuers.iter().filter(|i| i.algorithm == algorithm) {
            for n in 0..TOKENS {
                let route = &self.routes[n % self.routes.len()];
                let token = issuer.token(&format!("t-{n:06}"), &format!("profile {}", route.scope))?;
                requests.push(make(&token, route));
            }
        }
        Ok(requests)
    }

    fn run(&self, daemon: &Daemon, requests: &[String], body: &str, to: Option<SocketAddr>) -> Result<Run> {
        let load = Load { requests, body, dir: self.dir.path(), to };
        load.median(daemon, LOAD_CORE, self.runs, self.seconds)
    }

    /// Tokens whose verdict is there.
    fn cached(&mut self, noop: Run) -> Result<()> {
        let daemon = self.daemon("cached", Some(SERVER_CORE), "")?;
        for (algorithm, opa, best) in OPA {
            let requests = self.requests(algorithm, data_request)?;
            let run = self.run(&daemon, &requests, ALLOWED, None)?;
            self.against_opa(&format!("/v1/data {algorithm}"), run, noop, opa, best, algorithm == "ES256");
        }
        let (_, opa, best) = OPA[2];
        let requests = self.requests("ES256", auth_request)?;
        let run = self.run(&daemon, &requests, "", None)?;
        self.against_opa("/auth ES256", run, noop, opa, best, true);
        PLUGIN.iter().try_for_each(|(algorithm, plugin)| self.ext_authz(&daemon, algorithm, noop, *plugin))
    }

    /// What the policy costs: no verdict is kept.
    fn policy(&mut self, noop: Run) -> Result<()> {
        let daemon = self.daemon("uncached", Some(SERVER_CORE), "max_ttl = \"0s\"")?;
        let requests = self.requests("ES256", data_request)?;
        let run = self.run(&daemon, &requests, ALLOWED, None)?;
        let note =
            format!("{:.1} × OPA; server's core {:.0} % busy with it", run.rate / OPA[2].1, run.busy * 100.0);
        self.row("/v1/data ES256, uncached (policy)", run, noop, &note);
        Ok(())
    }

    /// Envoy before the daemon; it answers by itself what may pass.
    fn through_envoy(&mut self, noop: Run) -> Result<()> {
        let Some(binary) = gateway::envoy() else { return Ok(()) };
        let daemon = self.daemon("behind-envoy", None, "")?;
        let envoy = Envoy::start(&binary, self.dir.path(), daemon.doors)?;
        let requests = self.requests("ES256", plain_request)?;
        let alone = self.run(&daemon, &requests, "served", Some(envoy.alone))?;
        let run = self.run(&daemon, &requests, "served", Some(envoy.asks))?;
        let name = "through Envoy 1.40, ES256";
        self.figures.add(&format!("{name}: Envoy alone"), alone.rate, "/s", "asks nobody");
        let note = format!(
            "{:.2} × Envoy and plugin's {ENVOY_AND_PLUGIN}; {:.2} × Envoy alone",
            run.rate / ENVOY_AND_PLUGIN,
            run.rate / alone.rate
        );
        self.figures.at_least(name, run.rate, "/s", TIMES_ENVOY * ENVOY_AND_PLUGIN, &note);
        self.details(name, run, noop);
        Ok(())
    }

    /// A million tokens, none of which is seen twice.
    fn distinct(&mut self, noop: Run) -> Result<()> {
        let (_, opa, _) = OPA[2];
        let daemon = self.daemon("distinct", Some(SERVER_CORE), "")?;
        let each: u32 = if self.quick { 20_000 } else { 250_000 };
        let Some(issuer) = self.issuers.iter().find(|i| i.algorithm == "ES256") else { return Ok(()) };
        let mut runs = Vec::new();
        for n in 0..=self.runs {
            let make = |m: u32| {
                let route = &self.routes[m as usize % self.routes.len()];
                let token = issuer.token(&format!("d-{n}-{m:06}"), &format!("profile {}", route.scope))?;
                Ok(data_request(&token, route))
            };
            let requests = (0..each).map(make).collect::<Result<Vec<_>>>()?;
            let load = Load { requests: &requests, body: ALLOWED, dir: self.dir.path(), to: None };
            let run = load.run(&daemon, LOAD_CORE, if n == 0 { 1 } else { self.seconds })?;
            ensure!(run.rate * f64::from(self.seconds) < f64::from(each), "a token was seen twice");
            // The first warms up.
            if n > 0 {
                runs.push(run);
            }
        }
        runs.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        let run = runs[runs.len() / 2];
        let (name, rate) = ("/v1/data ES256, uncached (distinct tokens)", 1e6 / run.cpu);
        self.figures.add(name, run.rate, "/s", &format!("{:.1} × OPA", run.rate / opa));
        let note = format!("{:.1} × OPA's {opa}", rate / opa);
        let limit = TIMES_UNCACHED * opa;
        self.figures.at_least(&format!("{name}: a second of its core"), rate, "/s", limit, &note);
        self.details(name, run, noop);
        Ok(())
    }

    /// Envoy's checks, without Envoy.
    fn ext_authz(&mut self, daemon: &Daemon, algorithm: &str, noop: Run, plugin: f64) -> Result<()> {
        let mut checks = Vec::with_capacity(TOKENS);
        for issuer in self.issuers.iter().filter(|i| i.algorithm == algorithm) {
            for n in 0..TOKENS {
                let route = &self.routes[n % self.routes.len()];
                let token = issuer.token(&format!("t-{n:06}"), &format!("profile {}", route.scope))?;
                checks.push(grpc::check(route.method, &format!("/{}", route.path.join("/")), &token));
            }
        }
        let run = grpc::median(daemon, &checks, LOAD_CORE, self.runs, self.seconds)?;
        let (name, rate) = (format!("ext_authz gRPC {algorithm}"), 1e6 / run.cpu);
        let times = |rate: f64| format!("{:.1} × the plugin's {plugin}", rate / plugin);
        self.figures.add(
            &name,
            run.rate,
            "/s",
            &format!("{}; the client's core is the limit", times(run.rate)),
        );
        let limit = TIMES_PLUGIN * plugin;
        self.figures.at_least(&format!("{name}: a second of its core"), rate, "/s", limit, &times(rate));
        self.details(&name, run, noop);
        Ok(())
    }

    fn noop(&mut self) -> Result<Run> {
        let daemon = self.daemon("no-op", Some(SERVER_CORE), "")?;
        let request = "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n".to_owned();
        let run = self.run(&daemon, &[request], "{}", None)?;
        self.row(
            "no-op (/health of the same port)",
            run,
            run,
            &format!("server's core {:.0} % busy with it", run.busy * 100.0),
        );
        Ok(run)
    }

    fn against_opa(&mut self, name: &str, run: Run, noop: Run, opa: f64, best: f64, is_held: bool) {
        // Others on the machine take time of the core away; OPA had its own to itself.
        let rate = 1e6 / run.cpu;
        let note = format!("{:.1} × OPA's {opa}, {:.1} × its best {best}", rate / opa, rate / best);
        let wall =
            format!("{:.1} × OPA; server's core {:.0} % busy with it", run.rate / opa, run.busy * 100.0);
        self.figures.add(name, run.rate, "/s", &wall);
        let second = format!("{name}: a second of its core");
        if is_held {
            self.figures.at_least(&second, rate, "/s", TIMES_OPA * best, &note);
        } else {
            self.figures.add(&second, rate, "/s", &note);
        }
        self.details(name, run, noop);
    }

    fn row(&mut self, name: &str, run: Run, noop: Run, note: &str) {
        self.figures.add(name, run.rate, "/s", note);
        self.details(name, run, noop);
    }

    fn details(&mut self, name: &str, run: Run, noop: Run) {
        let note = format!("server's core {:.0} % busy", run.busy * 100.0);
        self.figures.add(&format!("{name}: server CPU"), run.cpu, "µs", &note);
        self.figures.add(
            &format!("{name}: × no-op"),
            run.rate / noop.rate,
            "×",
            "requests/s over the no-op's",
        );
        self.figures.add(&format!("{name}: p50"), run.p50, "ms", "16 connections");
        self.figures.add(&format!("{name}: p99"), run.p99, "ms", "16 connections");
    }
}

fn data_request(token: &str, route: &Route) -> String {
    let body = json!({"input": {"token": token, "method": route.method, "path": route.path}}).to_string();
    format!(
        "POST /v1/data/{DECISION} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

/// As a client asks a service.
fn plain_request(token: &str, route: &Route) -> String {
    let [resource, action] = &route.path;
    format!(
        "{} /{resource}/{action} HTTP/1.1\r\nHost: api.example.org\r\nAuthorization: Bearer {token}\r\n\r\n",
        route.method
    )
}

/// As nginx asks with the configuration of `deploy/nginx`.
fn auth_request(token: &str, route: &Route) -> String {
    let [resource, action] = &route.path;
    format!(
        "GET /auth HTTP/1.1\r\nHost: portcullis\r\nX-Original-Method: {}\r\nX-Original-URI: /{resource}/{action}\r\nX-Forwarded-Host: api.example.org\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer {token}\r\n\r\n",
        route.method
    )
}
