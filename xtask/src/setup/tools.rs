//! Programs beside the compilers: what each is for, and the package that has it.

use anyhow::{Result, bail};

use super::{
    Purpose::{self, Bench, Demo, Test},
    Say, apt,
};
use crate::exec;

struct Tool {
    program: &'static str,
    package: &'static str,
    what_for: &'static str,
    needed_by: &'static [Purpose],
}

const TOOLS: &[Tool] = &[
    Tool {
        program: "ip",
        package: "iproute2",
        what_for: "network namespaces",
        needed_by: &[Demo, Test, Bench],
    },
    Tool {
        program: "nsenter",
        package: "util-linux",
        what_for: "running in them",
        needed_by: &[Demo, Test, Bench],
    },
    Tool { program: "curl", package: "curl", what_for: "a client people know", needed_by: &[Demo, Test] },
    Tool {
        program: "nginx",
        package: "nginx-light",
        what_for: "a proxy people run",
        needed_by: &[Test, Bench],
    },
    Tool { program: "haproxy", package: "haproxy", what_for: "another", needed_by: &[Test] },
    Tool { program: "caddy", package: "caddy", what_for: "one more", needed_by: &[Test] },
    Tool {
        program: "node",
        package: "nodejs",
        what_for: "a server and a client in JavaScript",
        needed_by: &[Test],
    },
    Tool {
        program: "nghttpd",
        package: "nghttp2-server",
        what_for: "a server that speaks HTTP/2 in the clear",
        needed_by: &[Test],
    },
    Tool { program: "h2load", package: "nghttp2-client", what_for: "load that does", needed_by: &[Test] },
    Tool {
        program: "faketime",
        package: "faketime",
        what_for: "a wall clock that jumps, for one process",
        needed_by: &[Test],
    },
    Tool {
        program: "nats-server",
        package: "nats-server",
        what_for: "the fleet's server, as Debian has it",
        needed_by: &[Test],
    },
    Tool { program: "wrk", package: "wrk", what_for: "load on the front doors", needed_by: &[Bench] },
];

/// Installs what `purposes` need and the machine lacks.
pub fn ensure(purposes: &[Purpose], say: &Say) -> Result<()> {
    let missing = missing(purposes, &|program| exec::find(program).is_some());
    if missing.is_empty() {
        say.found("tools: all there");
        return Ok(());
    }
    let packages: Vec<&str> = missing.iter().map(|tool| tool.package).collect();
    if !apt::is_here() {
        let programs: Vec<&str> = missing.iter().map(|tool| tool.program).collect();
        bail!(
            "missing: {}; install them with your package manager (on Debian and Ubuntu:\n{}\n)",
            programs.join(", "),
            apt::commands(&packages)
        );
    }
    let why: Vec<String> =
        missing.iter().map(|tool| format!("`{}`: {}", tool.program, tool.what_for)).collect();
    apt::install(&packages, &why.join("; "), say)?;
    for (package, service) in
        [("nginx-light", "nginx"), ("haproxy", "haproxy"), ("caddy", "caddy"), ("nats-server", "nats-server")]
    {
        if packages.contains(&package) {
            println!(
                "note: Debian starts {service} when it is installed; the tests do not need that one running:"
            );
            println!("    sudo systemctl disable --now {service}");
        }
    }
    Ok(())
}

fn missing(purposes: &[Purpose], is_here: &dyn Fn(&str) -> bool) -> Vec<&'static Tool> {
    TOOLS
        .iter()
        .filter(|tool| tool.needed_by.iter().any(|purpose| purposes.contains(purpose)))
        .filter(|tool| !is_here(tool.program))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn programs(purposes: &[Purpose], here: &[&str]) -> Vec<&'static str> {
        missing(purposes, &|p| here.contains(&p)).iter().map(|tool| tool.program).collect()
    }

    #[test]
    fn only_what_a_purpose_needs_is_missed() {
        assert_eq!(programs(&[Purpose::Build], &[]), [""; 0]);
        assert_eq!(programs(&[Demo], &["curl"]), ["ip", "nsenter"]);
        assert_eq!(
            programs(&[Test, Bench], &["ip", "nsenter", "curl"]),
            ["nginx", "haproxy", "caddy", "node", "nghttpd", "h2load", "faketime", "nats-server", "wrk"]
        );
        let all = [
            "ip",
            "nsenter",
            "curl",
            "nginx",
            "haproxy",
            "caddy",
            "node",
            "nghttpd",
            "h2load",
            "faketime",
            "nats-server",
            "wrk",
        ];
        assert_eq!(programs(&[Demo, Test, Bench], &all), [""; 0]);
    }
}
