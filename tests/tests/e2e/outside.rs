//! Policies that ask servers (`http.send`), with the daemon, its configuration and its metrics.

use std::{
    fs, thread,
    time::{Duration, Instant},
};

use anyhow::Result;
use portcullis_tests::{
    World, is_root,
    web::{Reply, Web},
};
use serde_json::Value;

/// Asks of what is not `/quick`; the server's own word decides.
const POLICY: &str = r#"package portcullis

import rego.v1

default decision := {"allow": false}

decision := {"allow": true} if input.request.path == "/quick"

decision := {"allow": true} if {
	input.request.path != "/quick"
	answer := http.send({
		"method": "POST",
		"url": concat("", ["http://127.0.0.1:9500", input.request.path]),
		"headers": {"Content-Type": "application/json"},
		"body": {"sub": input.identity.sub},
		"force_cache": input.request.path == "/kept",
		"force_cache_duration_seconds": 60,
	})
	answer.body.allow
}
"#;

const ON: &str =
    "[policy.http_send]\nprivate_hosts = [\"127.0.0.1:9500\"]\ntimeout = \"1s\"\nbudget = \"2s\"\n";

fn world() -> Result<World> {
    World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", POLICY)?;
        config.policies = dir.path("own");
        config.policy = format!("require_tests = false\n{ON}");
        config.mode = "off";
        Ok(())
    })
}

fn counted(w: &World, result: &str) -> Result<u64> {
    let name = format!("portcullis_policy_requests_total{{result=\"{result}\"}} ");
    let metrics = w.daemon.metrics()?;
    Ok(metrics.lines().find_map(|l| l.strip_prefix(&name)?.parse().ok()).unwrap_or(0))
}

#[test]
fn a_policy_asks_a_server_and_its_failures_deny() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let web = Web::start(&w.net.server, "127.0.0.1:9500", |request| match request.split(' ').nth(1) {
        Some("/yes" | "/kept") => Reply::Json(r#"{"allow": true}"#.to_owned()),
        Some("/no") => Reply::Json(r#"{"allow": false}"#.to_owned()),
        Some("/reset") => Reply::Reset,
        _ => Reply::Status(500),
    })?;
    let token = w.mint.hs256()?;
    let status = |path: &str| Ok::<_, anyhow::Error>(w.daemon.auth("GET", path, &token)?.status);
    for (path, expected) in [("/quick", 200), ("/yes", 200), ("/no", 403), ("/broken", 403), ("/reset", 403)]
    {
        assert_eq!(status(path)?, expected, "{path}");
    }
    let asked = web.asked();
    assert!(asked[0].starts_with("POST /yes HTTP/1.1") && asked[0].contains("\"sub\""), "{asked:?}");
    assert!(asked.iter().all(|request| !request.contains(&token)), "the token goes nowhere by itself");
    let before = web.asked().len();
    assert_eq!((status("/kept")?, status("/kept")?), (200, 200));
    assert_eq!(web.asked().len(), before + 1);
    assert_eq!((counted(&w, "cached")?, counted(&w, "failed")?), (1, 1));
    assert_eq!(w.daemon.auth("GET", "/reset", &token)?.header("x-portcullis-reason"), Some("policy_error"));
    Ok(())
}

#[test]
fn a_server_that_stalls_holds_up_no_other_decision() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = world()?;
    let _web = Web::start(&w.net.server, "127.0.0.1:9500", |_| Reply::Stall)?;
    let token = w.mint.hs256()?;
    assert_eq!(w.daemon.auth("GET", "/quick", &token)?.status, 200);
    thread::scope(|scope| -> Result<()> {
        let begun = Instant::now();
        let slow: Vec<_> = (0..32)
            .map(|n| {
                let (w, token) = (&w, &token);
                scope.spawn(move || w.daemon.auth("GET", &format!("/slow{n}"), token).map(|a| a.status))
            })
            .collect();
        let mut longest = Duration::ZERO;
        let mut quick = 0;
        while begun.elapsed() < Duration::from_millis(900) {
            let one = Instant::now();
            assert_eq!(w.daemon.auth("GET", "/quick", &token)?.status, 200);
            longest = longest.max(one.elapsed());
            quick += 1;
        }
        assert!(quick > 20, "{quick}");
        assert!(longest < Duration::from_millis(500), "{longest:?}");
        for one in slow {
            assert_eq!(one.join().unwrap()?, 403);
        }
        Ok(())
    })?;
    assert!(w.daemon.metrics()?.contains("\nportcullis_overloaded 0\n"));
    assert_eq!(counted(&w, "failed")?, 32);
    Ok(())
}

#[test]
fn where_it_is_off_such_a_set_is_refused_and_the_one_in_force_stays() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        let plain = POLICY.split("\ndecision := {\"allow\": true} if {").next().unwrap_or_default();
        dir.write("own/p.rego", plain)?;
        config.policies = dir.path("own");
        config.policy = "watch = false\nrequire_tests = false".to_owned();
        config.mode = "off";
        Ok(())
    })?;
    let token = w.mint.hs256()?;
    w.dir.write("own/p.rego", POLICY)?;
    let refused = w.daemon.ask(&["reload"], "")?;
    let says = format!("{refused:?}");
    assert!(
        says.contains("`http.send` is off: name the hosts it may ask in `policy.http_send.hosts`"),
        "{says}"
    );
    assert_eq!(w.daemon.auth("GET", "/quick", &token)?.status, 200);
    let checked = w.daemon.command(&["policy", "check"])?;
    assert!(format!("{checked:?}").contains("p.rego:"), "{checked:?}");
    // A command without a daemon takes it where it is told to, and sends nothing.
    let dir = w.dir.path("own").display().to_string();
    let input = w.dir.write("input.json", r#"{"request": {"path": "/yes"}, "identity": {"sub": "u"}}"#)?;
    let input = input.display().to_string();
    let evaluated = w.daemon.command(&["policy", "eval", &dir, "--http-send", "--input", &input])?;
    assert!(format!("{evaluated:?}").contains("nothing is sent here"), "{evaluated:?}");
    let status: Value = w.daemon.status()?;
    assert!(status.to_string().contains("\"policy\""), "{status}");
    Ok(())
}
