//! Gateways before the guarded server, and a policy that says more than allow or deny.

use std::{fs, path::PathBuf, process::Command};

use anyhow::{Context as _, Result};

use crate::{
    World,
    client::{Answer, curl},
    config::Config,
    dir::{Dir, repository},
    net::{Namespace, SERVER_V4},
    process::Process,
    skip,
};

/// Decisions with all that a gateway can be told. `policy.decision` is `gateway/decision`.
pub const POLICY: &str = r#"package gateway

import rego.v1

default decision := {"allow": false, "reason": "nothing settles this"}

what := input.request.segments[0]

decision := {"allow": "yes"} if {
	what == "broken"
} else := {
	"allow": false, "status": 429, "reason": "too many",
	"headers": {"x-quota": "0", "content-type": "text/x-test"}, "body": "slow down",
} if {
	what == "limited"
} else := {"allow": false, "status": 503} if {
	what == "closed"
} else := {
	"allowed": true,
	"headers": {"x-user": input.identity.sub, "x-groups": ["red", "blue"]},
	"response_headers_to_add": {"x-decided": "yes", "x-source": input.request.source},
	"request_headers_to_remove": ["x-secret"],
	"dynamic_metadata": {"plan": "gold"},
} if {
	what == "rich"
	input.token_status == "valid"
} else := {"allow": true} if {
	what == "nobody"
} else := {"allow": true, "ttl": 60} if {
	input.token_status == "valid"
}
"#;

/// A program of the Python environment that `cargo xtask setup` makes. If it is not there, says that the running test is
/// skipped.
pub fn python(program: &str) -> Option<PathBuf> {
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    let dir = repository().join(target.unwrap_or_else(|| "target".into())).join("tools/python/bin");
    let found = dir.join(program);
    if !found.is_file() {
        skip(&format!("needs {program}: `cargo xtask setup --for test` fetches it"));
        return None;
    }
    Some(found)
}

/// Envoy's binary, which `cargo xtask test` fetches. If it is not there, says that the running test is skipped.
pub fn envoy() -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("PORTCULLIS_ENVOY") {
        return Some(path.into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty());
    let lib = repository().join(target.unwrap_or_else(|| "target".into())).join("tools/python/lib");
    let versions = fs::read_dir(lib).into_iter().flatten().filter_map(Result::ok);
    let found = versions
        .map(|version| version.path().join("site-packages/envoy/_bin/envoy"))
        .find(|binary| binary.is_file());
    if found.is_none() {
        skip("needs Envoy: `cargo xtask setup` fetches it");
    }
    found
}

/// Starts Envoy with a configuration and waits until it serves.
pub fn start_envoy(ns: &Namespace, dir: &Dir, binary: &PathBuf, config: &str) -> Result<Process> {
    let file = dir.write("envoy.yaml", config)?;
    let mut command = Command::new(binary);
    let level = ["--log-level", "warning", "--component-log-level", "config:info"];
    command.args(["--disable-hot-restart", "--concurrency", "1"]).args(level).arg("-c").arg(file);
    let process = Process::start(ns, &mut command)?;
    process.await_line(0, |line| line.contains("starting workers"))?;
    Ok(process)
}

/// A world whose daemon decides by [`POLICY`].
pub fn world(serve: &str) -> Result<World> {
    world_with(serve, |_| ())
}

/// The same, with a configuration that `change` has gone over.
pub fn world_with(serve: &str, change: impl FnOnce(&mut Config)) -> Result<World> {
    World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/gateway.rego", POLICY)?;
        config.policies = dir.path("own");
        config.policy = String::from("decision = \"gateway/decision\"");
        config.interface = String::from("lo");
        config.serve = String::from(serve);
        change(config);
        Ok(())
    })
}

/// A request from outside to a port of the gateway's.
pub fn ask(w: &World, port: u16, path: &str, headers: &[&str]) -> Result<Answer> {
    let url = format!("http://{SERVER_V4}:{port}{path}");
    let text = curl(&w.net.client, &url, headers)?.ok()?;
    let mut bytes = text.into_bytes();
    Answer::take(&mut bytes).with_context(|| format!("asked {url}"))
}

/// The header line with a token.
pub fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// Whether the service itself answered, behind whatever gateway.
pub fn is_the_services(answer: &Answer) -> bool {
    answer.status == 200 && answer.body == "ok\n"
}
