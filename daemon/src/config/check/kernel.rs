//! Faults of the `[kernel]` table.

use super::Faults;
use crate::config::tables::{Config, EnforcementMode, GateMode, KernelMode, ShedMode, UnknownMode};

/// The `[kernel]` table.
pub(super) fn check_kernel(c: &Config, f: &mut Faults<'_>) {
    let on = c.kernel.mode != KernelMode::Off;
    f.unless(!on || !c.kernel.interfaces.is_empty() || c.kernel.gate == GateMode::Read, "kernel.interfaces", "names no interface: list those whose traffic is guarded, such as [\"lo\"], or set kernel.mode = \"off\"");
    f.unless(
        !on || !c.kernel.ports.is_empty(),
        "kernel.ports",
        "names no port: list the ports of the guarded services, or set kernel.mode = \"off\"",
    );
    for name in &c.kernel.interfaces {
        let bare = match name.rsplit_once(':') {
            Some((path, bare)) if path.starts_with('/') => bare,
            _ => name,
        };
        let good = !bare.is_empty() && bare.len() < 16 && !bare.contains(['/', ' ', ':']);
        f.unless(good, "kernel.interfaces", &format!("`{name}` is not a network interface's name, nor one behind the path of a network namespace (\"/run/netns/blue:eth0\")"));
    }
    for path in &c.kernel.namespaces {
        f.unless(
            path.is_absolute(),
            "kernel.namespaces",
            "must name network namespaces by whole paths, such as \"/run/netns/blue\"",
        );
    }
    let follows = c.kernel.mode == KernelMode::Enforce && c.kernel.enforcement == EnforcementMode::Strict;
    f.unless(
        !on || c.kernel.gate == GateMode::Off || follows,
        "kernel.gate",
        "works with kernel.mode = \"enforce\" and kernel.enforcement = \"strict\" alone: it goes by what those keep",
    );
    f.unless(
        !on || c.kernel.unknown == UnknownMode::Pass || follows,
        "kernel.unknown",
        "can be \"learn\" or \"hold\" with kernel.mode = \"enforce\" and kernel.enforcement = \"strict\" alone: no other mode reads every head whole",
    );
    f.unless(c.kernel.max_entries > 0, "kernel.max_entries", "must be at least 1");
    f.unless(
        (1024..=65_536).contains(&c.kernel.max_head),
        "kernel.max_head",
        "must be from 1024 to 65536 bytes",
    );
    for port in &c.kernel.proxy_protocol_ports {
        f.unless(
            c.kernel.ports.iter().any(|p| p.port == *port),
            "kernel.proxy_protocol_ports",
            &format!("names {port}, which is not among kernel.ports"),
        );
    }
    f.unless(
        c.kernel.h2c_ports.is_empty() || c.kernel.unknown == UnknownMode::Pass,
        "kernel.h2c_ports",
        "works with kernel.unknown = \"pass\" alone: requests in HTTP/2 are not shown to the daemon, so none would wait for a decision",
    );
    for port in &c.kernel.h2c_ports {
        f.unless(
            c.kernel.ports.iter().any(|p| p.port == *port),
            "kernel.h2c_ports",
            &format!("names {port}, which is not among kernel.ports"),
        );
        f.unless(
            !c.kernel.proxy_protocol_ports.contains(port),
            "kernel.h2c_ports",
            &format!(
                "names {port}, which is among kernel.proxy_protocol_ports: guard reads one or the other"
            ),
        );
    }
    f.unless(
        c.kernel.policy_entries < c.kernel.max_entries,
        "kernel.policy_entries",
        "must be less than kernel.max_entries, or policies could crowd out revocations",
    );
    for (key, text) in [
        ("kernel.answer_body", &c.kernel.answer_body),
        ("kernel.answer_challenge", &c.kernel.answer_challenge),
        ("kernel.denied_body", &c.kernel.denied_body),
        ("kernel.limited_body", &c.kernel.limited_body),
    ] {
        f.unless(!text.contains(['\r', '\n', '\0']), key, "must be one line");
        f.unless(text.len() <= 300, key, "is too long: the whole answer must stay below 512 bytes");
    }
}

/// What floods are shed.
pub(super) fn check_shed(c: &Config, f: &mut Faults<'_>) {
    let k = &c.kernel;
    f.unless(
        k.shed == ShedMode::Off || k.mode == KernelMode::Enforce,
        "kernel.shed",
        "works with kernel.mode = \"enforce\" alone: where nothing is refused, nothing is shed",
    );
    f.unless(k.shed_after > 0, "kernel.shed_after", "must be at least 1");
    for (key, span) in [("kernel.shed_window", k.shed_window), ("kernel.shed_time", k.shed_time)] {
        let seconds = span.0.as_secs_f64();
        f.unless((0.001..=86_400.0).contains(&seconds), key, "must be from 1ms to 1d");
    }
    f.unless((32..=128).contains(&k.shed_ipv6_prefix), "kernel.shed_ipv6_prefix", "must be from 32 to 128");
    f.unless(k.shed_never.len() <= 1000, "kernel.shed_never", "has more than 1000 entries");
}
