//! Checks of the fleet's table.

use std::{path::PathBuf, time::Duration};

use super::{super::tables::Config, Faults, is_name};

/// Whether an address means this machine.
fn is_here(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback())
}

/// The `[fleet]` table.
pub fn check(c: &Config, f: &mut Faults<'_>) {
    let t = &c.fleet;
    if t.servers.is_empty() {
        return;
    }
    for server in &t.servers {
        let uri: Option<http::Uri> = server.parse().ok();
        let host = uri.as_ref().and_then(|u| u.host().filter(|h| !h.is_empty()));
        let scheme = uri.as_ref().and_then(|u| u.scheme_str()).unwrap_or_default();
        let good = matches!(scheme, "nats" | "tls") && host.is_some() && !server.contains('@');
        f.unless(
            good,
            "fleet.servers",
            &format!("`{server}` is not an address such as \"tls://nats.example.com:4222\", without user or password"),
        );
        f.unless(
            !good || scheme == "tls" || t.ca_file.is_some() || t.plain_text || host.is_some_and(is_here),
            "fleet.servers",
            &format!("`{server}` is on another host: use tls://, give `ca_file`, or set `plain_text` where the network is trusted"),
        );
    }
    let prefix = t.prefix.split('.').all(|part| is_name(part, 60)) && t.prefix.len() <= 100;
    f.unless(prefix, "fleet.prefix", "is not of names of letters, digits, `-` and `_`, joined by dots");
    f.unless(
        t.stream.as_ref().is_none_or(|s| is_name(s, 60)),
        "fleet.stream",
        "is not a name of letters, digits, `-` and `_`",
    );
    f.unless(matches!(t.replicas, 1..=5), "fleet.replicas", "must be from 1 to 5");
    f.unless(t.certificate.is_some() == t.key.is_some(), "fleet.key", "and `certificate` go together");
    f.unless(t.user.is_some() == t.password_file.is_some(), "fleet.password_file", "and `user` go together");
    let ways = [&t.credentials_file, &t.nkey_file, &t.password_file, &t.token_file];
    f.unless(
        ways.into_iter().flatten().count() <= 1,
        "fleet.credentials_file",
        "or one of `nkey_file`, `user` and `token_file` is given, not several",
    );
    let (second, hour) = (Duration::from_secs(1), Duration::from_hours(1));
    for (key, span, least, most) in [
        ("ping_interval", t.ping_interval, second / 10, 60 * second),
        ("reconnect", t.reconnect, second / 20, 60 * second),
        ("connect_timeout", t.connect_timeout, second / 10, 60 * second),
        ("acknowledge_timeout", t.acknowledge_timeout, second / 10, 60 * second),
        ("stream_max_age", t.stream_max_age, hour, 24 * 366 * hour),
    ] {
        f.unless(
            (least..=most).contains(&span.0),
            &format!("fleet.{key}"),
            &format!(
                "must be from {} to {}",
                humantime::format_duration(least),
                humantime::format_duration(most)
            ),
        );
    }
    f.unless(
        t.max_staleness.is_none_or(|s| s.0 >= 3 * second),
        "fleet.max_staleness",
        "must be at least 3s: a host knows itself complete once a second",
    );
    f.unless(
        (1 << 20..=1 << 40).contains(&t.stream_max_bytes),
        "fleet.stream_max_bytes",
        "must be from 1048576 to 1099511627776",
    );
}

/// Makes its relative paths absolute.
pub fn resolve(c: &mut Config, fix: impl Fn(&mut PathBuf)) {
    let t = &mut c.fleet;
    [&mut t.ca_file, &mut t.certificate, &mut t.key, &mut t.credentials_file, &mut t.nkey_file]
        .into_iter()
        .chain([&mut t.password_file, &mut t.token_file])
        .flatten()
        .for_each(fix);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    fn faults(text: &str) -> String {
        let issuer = "[kernel]\nmode = \"off\"\n[[token.issuer]]\nissuer = \"i\"\nalgorithms = [\"HS256\"]\nhmac_file = \"k\"\n";
        match super::super::parse(Path::new("/x.toml"), &format!("{issuer}[fleet]\n{text}")) {
            Ok(_) => String::new(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn what_could_not_work_is_said_by_its_key() {
        let local = "servers = [\"nats://127.0.0.1:4222\"]\n";
        for (text, said) in [
            ("servers = [\"http://a\"]\n", "is not an address"),
            ("servers = [\"nats://u:p@127.0.0.1\"]\n", "without user or password"),
            ("servers = [\"nats://nats.test:4222\"]\n", "use tls://"),
            (&format!("{local}prefix = \"a..b\"\n"), "fleet.prefix"),
            (&format!("{local}replicas = 9\n"), "fleet.replicas"),
            (&format!("{local}user = \"a\"\n"), "fleet.password_file"),
            (&format!("{local}nkey_file = \"a\"\ntoken_file = \"b\"\n"), "not several"),
            (&format!("{local}certificate = \"a\"\n"), "fleet.key"),
            (&format!("{local}ping_interval = \"1ms\"\n"), "fleet.ping_interval"),
            (&format!("{local}max_staleness = \"1s\"\n"), "fleet.max_staleness"),
        ] {
            let found = faults(text);
            assert!(found.contains(said), "{text}: {found}");
        }
        assert_eq!(faults(local), "");
        assert_eq!(faults("servers = [\"tls://nats.test:4222\"]\nprefix = \"a.b\"\n"), "");
        assert_eq!(faults("servers = [\"nats://nats.test\"]\nplain_text = true\n"), "");
    }
}
