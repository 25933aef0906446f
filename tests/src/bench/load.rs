//! Load by `wrk`: requests in turn on kept-alive connections, every answer checked.

use std::{fmt::Write as _, fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::daemon::Daemon;

/// Connections that are kept alive, as in the peers' figures.
pub const CONNECTIONS: usize = 16;

/// Reads requests (separated by NUL) and the answer that each must get.
const SCRIPT: &str = r"
local list, at, total = {}, 0, 0
bad, last = 0, ''
local mine = {}
function setup(thread) table.insert(mine, thread) end
function init(args)
    local file = io.open(REQUESTS, 'rb')
    for text in file:read('*a'):gmatch('%Z+') do
        total = total + 1
        list[total] = text
    end
    file:close()
end
function request()
    at = at % total + 1
    return list[at]
end
function response(status, headers, body)
    if status ~= 200 or body ~= BODY then
        bad = bad + 1
        last = status .. ' ' .. body
    end
end
function done(summary, latency)
    local wrong, example = 0, ''
    for _, thread in ipairs(mine) do
        wrong = wrong + thread:get('bad')
        example = thread:get('last')
    end
    local e = summary.errors
    print(string.format('FIGURES %d %d %d %d %d %d %s', summary.requests, summary.duration,
        latency:percentile(50), latency:percentile(99), wrong, e.connect + e.read + e.write + e.timeout, example))
end
";

/// Requests and the answer that each must get.
pub struct Load<'a> {
    /// Whole requests, as they go over the wire.
    pub requests: &'a [String],
    /// Body of every answer; its status is 200.
    pub body: &'a str,
    /// Where the script is written.
    pub dir: &'a Path,
    /// Where they go; the daemon's front doors if nowhere else.
    pub to: Option<SocketAddr>,
}

/// One run.
#[derive(Clone, Copy, Debug)]
pub struct Run {
    /// Requests a second.
    pub rate: f64,
    /// The server's processor time a request, in microseconds.
    pub cpu: f64,
    /// The share of its core that the server used.
    pub busy: f64,
    /// Median latency, in milliseconds.
    pub p50: f64,
    /// 99th percentile, in milliseconds.
    pub p99: f64,
}

impl Load<'_> {
    /// Warms up, then gives the run with the median rate of several.
    pub fn median(&self, daemon: &Daemon, core: usize, runs: usize, seconds: u32) -> Result<Run> {
        self.run(daemon, core, 1)?;
        let mut done = (0..runs).map(|_| self.run(daemon, core, seconds)).collect::<Result<Vec<_>>>()?;
        done.sort_by(|a, b| a.rate.total_cmp(&b.rate));
        done.get(done.len() / 2).copied().context("no run was made")
    }

    /// One run.
    pub fn run(&self, daemon: &Daemon, core: usize, seconds: u32) -> Result<Run> {
        let script = self.write()?;
        let before = daemon.cpu()?;
        let out = Command::new("taskset")
            .args(["-c", &core.to_string(), "wrk", "-t1", &format!("-c{CONNECTIONS}")])
            .arg(format!("-d{seconds}s"))
            .arg("-s")
            .arg(&script)
            .arg(url(self.to.unwrap_or(daemon.doors)))
            .output()
            .context("cannot start `taskset` and `wrk`: apt-get install util-linux wrk")?;
        let used = daemon.cpu()? - before;
        let text = String::from_utf8_lossy(&out.stdout);
        let Some(line) = text.lines().find_map(|l| l.strip_prefix("FIGURES ")) else {
            bail!("`wrk` gave no figures:\n{text}{}", String::from_utf8_lossy(&out.stderr));
        };
        let mut fields = line.splitn(7, ' ');
        let mut number = || fields.next().and_then(|f| f.parse::<f64>().ok()).context("`wrk` gave no number");
        let (requests, micros, p50, p99, wrong, failed) =
            (number()?, number()?, number()?, number()?, number()?, number()?);
        if wrong + failed > 0.0 || requests < 1.0 {
            let example = fields.next().unwrap_or_default();
            bail!(
                "{wrong} of {requests} answers were not `{}`, {failed} connections failed; such as: {example}\n{}",
                self.body,
                daemon.said()
            );
        }
        Ok(Run {
            rate: requests / micros * 1e6,
            cpu: used / requests * 1e6,
            busy: used / micros * 1e6,
            p50: p50 / 1e3,
            p99: p99 / 1e3,
        })
    }

    fn write(&self) -> Result<std::path::PathBuf> {
        let (script, requests) = (self.dir.join("load.lua"), self.dir.join("requests"));
        fs::write(&requests, self.requests.join("\0"))?;
        let mut text = String::new();
        // A JSON string of printable ASCII is a Lua string.
        writeln!(
            text,
            "local REQUESTS, BODY = {}, {}",
            Value::from(requests.to_string_lossy()),
            Value::from(self.body)
        )?;
        text.push_str(SCRIPT);
        fs::write(&script, text)?;
        Ok(script)
    }
}

fn url(address: SocketAddr) -> String {
    format!("http://{address}/")
}
