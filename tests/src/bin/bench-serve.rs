//! `cargo xtask bench serve`: the front doors under load, beside Open Policy Agent's figures for the same work.
//!
//! The daemon alone on core 1, `wrk` on core 0, 16 kept-alive connections that take 1,000 tokens in turn, every
//! answer checked. OPA's binary is in no package registry, so its figures come from a like machine (2 cores of a
//! shared VM); the ratio to this server's own no-op answer in the same run is what travels.

use std::fs;

use anyhow::{Result, ensure};
use portcullis_tests::{
    bench::{
        Args,
        daemon::{Daemon, Setting, quoted, send},
        grpc,
        load::{Load, Run},
        policy::{self, DECISION, Route},
        tokens::Issuer,
    },
    figures::Figures,
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
/// What was promised.
const TIMES_OPA: f64 = 5.0;
const TIMES_PLUGIN: f64 = 8.0;
const ALLOWED: &str = r#"{"result":{"allow":true,"ttl":60}}"#;

fn main() -> Result<()> {
    let args = Args::read()?;
    let mut bench = Bench::new(args.quick)?;
    let cached = bench.daemon("cached", "")?;
    let noop = bench.noop(&cached)?;
    for (algorithm, opa, best) in OPA {
        let requests = bench.requests(algorithm, data_request)?;
        let run = bench.run(&cached, &requests, ALLOWED)?;
        bench.against_opa(&format!("/v1/data {algorithm}"), run, noop, opa, best);
    }
    let (_, opa, best) = OPA[2];
    let requests = bench.requests("ES256", auth_request)?;
    let run = bench.run(&cached, &requests, "")?;
    bench.against_opa("/auth ES256", run, noop, opa, best);
    for (algorithm, plugin) in PLUGIN {
        bench.ext_authz(&cached, algorithm, noop, plugin)?;
    }
    drop(cached);
    // What a miss costs: the policy each time, and with it the signature each time.
    for (name, decide) in [("policy", "max_ttl = \"0s\""), ("verify, policy", "cache_entries = 0")] {
        let daemon = bench.daemon("uncached", decide)?;
        let requests = bench.requests("ES256", data_request)?;
        let run = bench.run(&daemon, &requests, ALLOWED)?;
        bench.row(
            &format!("/v1/data ES256, uncached ({name})"),
            run,
            noop,
            &format!("{:.1} × OPA; server's core {:.0} % busy with it", run.rate / opa, run.busy * 100.0),
        );
    }
    bench.figures.write(args.json.as_deref())
}

struct Bench {
    dir: TempDir,
    issuers: [Issuer; 3],
    routes: Vec<Route>,
    figures: Figures,
    runs: usize,
    seconds: u32,
}

impl Bench {
    fn new(quick: bool) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("portcullis-bench-").tempdir()?;
        fs::create_dir(dir.path().join("policies"))?;
        policy::write(&dir.path().join("policies"))?;
        let (runs, seconds) = if quick { (1, 1) } else { (3, 6) };
        let (issuers, routes) = (Issuer::all()?, policy::routes());
        Ok(Self { dir, issuers, routes, figures: Figures::default(), runs, seconds })
    }

    /// Starts a daemon that decides by the policy, and sees that it denies what it must.
    fn daemon(&self, name: &str, decide: &str) -> Result<Daemon> {
        let dir = self.dir.path().join(name);
        if dir.exists() {
            fs::remove_dir_all(&dir)?;
        }
        fs::create_dir(&dir)?;
        let mut tables = format!(
            "[kernel]\nmode = \"off\"\n[policy]\ndirs = [{}]\ndecision = \"{DECISION}\"\nwatch = false\n[decide]\n{decide}\n[token]\nfingerprint_key = {}\n",
            quoted(&self.dir.path().join("policies")),
            quoted(&dir.join("fingerprint.key")),
        );
        for issuer in &self.issuers {
            tables.push_str(&issuer.configure(&dir)?);
        }
        let daemon = Daemon::start(&Setting { dir: &dir, tables, core: Some(SERVER_CORE) })?;
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

    fn run(&self, daemon: &Daemon, requests: &[String], body: &str) -> Result<Run> {
        let load = Load { requests, body, dir: self.dir.path() };
        load.median(daemon, LOAD_CORE, self.runs, self.seconds)
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

    fn noop(&mut self, daemon: &Daemon) -> Result<Run> {
        let request = "GET /health HTTP/1.1\r\nHost: bench\r\n\r\n".to_owned();
        let run = self.run(daemon, &[request], "{}")?;
        self.row(
            "no-op (/health of the same port)",
            run,
            run,
            &format!("server's core {:.0} % busy with it", run.busy * 100.0),
        );
        Ok(run)
    }

    fn against_opa(&mut self, name: &str, run: Run, noop: Run, opa: f64, best: f64) {
        // Others on the machine take time of the core away; OPA had its own to itself.
        let rate = 1e6 / run.cpu;
        let note = format!(
            "{:.1} × OPA's {opa}, {:.1} × its best {best}; limit: {TIMES_OPA} × OPA",
            rate / opa,
            rate / best
        );
        let wall =
            format!("{:.1} × OPA; server's core {:.0} % busy with it", run.rate / opa, run.busy * 100.0);
        self.figures.add(name, run.rate, "/s", &wall);
        self.figures.at_least(&format!("{name}: a second of its core"), rate, "/s", TIMES_OPA * opa, &note);
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

/// As nginx asks with the configuration of `deploy/nginx`.
fn auth_request(token: &str, route: &Route) -> String {
    let [resource, action] = &route.path;
    format!(
        "GET /auth HTTP/1.1\r\nHost: portcullis\r\nX-Original-Method: {}\r\nX-Original-URI: /{resource}/{action}\r\nX-Forwarded-Host: api.example.org\r\nX-Forwarded-For: 192.0.2.7\r\nX-Forwarded-Proto: https\r\nAuthorization: Bearer {token}\r\n\r\n",
        route.method
    )
}
