//! More than can be decided in time, and requests that nobody should send, at every front door.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::Result;
use portcullis_tests::{
    PATIENCE, World,
    client::{Client, http},
    config::DOORS,
    gateway::{self, ask, bearer, envoy, start_envoy},
    has, is_root,
    net::SERVER_V4,
};
use serde_json::Value;

/// Takes about thirty milliseconds, and cannot be kept.
const SLOW: &str = r#"package slow

import rego.v1

default decision := {"allow": false}

work := sum([z | some x in numbers.range(1, 300); some y in numbers.range(1, 60); z := x * y])

decision := {"allow": true, "ttl": 60} if {
	input.request.path == "/quick"
} else := {"allow": true} if {
	work > 0
}
"#;

fn reason(w: &World, door: &str, path: &str) -> Result<(u16, String)> {
    let head = format!("GET {door} HTTP/1.1\r\nX-Original-Method: GET\r\nX-Original-URI: {path}");
    let answer = http(&w.net.server, DOORS.parse()?, &head, b"")?;
    Ok((answer.status, answer.header("x-portcullis-reason").unwrap_or("allowed").to_owned()))
}

#[test]
fn under_too_much_load_each_door_refuses_in_its_own_words_and_serves_what_it_has() -> Result<()> {
    if !is_root() || !has("curl") {
        return Ok(());
    }
    let w = World::with(|config, dir| {
        std::fs::create_dir(dir.path("own"))?;
        dir.write("own/slow.rego", SLOW)?;
        config.policies = dir.path("own");
        // Tight, so that a few clients on any machine are too many.
        config.policy = "decision = \"slow/decision\"\n[decide]\nmax_lag = \"20ms\"".to_owned();
        config.interface = "lo".to_owned();
        Ok(())
    })?;
    let envoy = match envoy() {
        Some(binary) => {
            let shipped =
                std::fs::read_to_string(portcullis_tests::dir::repository().join("deploy/envoy/envoy.yaml"))?;
            let here = shipped
                .replace(
                    "address: 127.0.0.1, port_value: 8000",
                    &format!("address: {SERVER_V4}, port_value: 8000"),
                )
                // The machine is busy: an answer that comes late must not be taken for none.
                .replace("timeout: 0.25s", "timeout: 20s");
            Some(start_envoy(&w.net.server, &w.dir, &binary, &here)?)
        }
        None => None,
    };
    assert_eq!(reason(&w, "/auth", "/quick")?.0, 200);
    let stop = Arc::new(AtomicBool::new(false));
    thread::scope(|scope| -> Result<()> {
        for n in 0..24 {
            let (stop, w) = (Arc::clone(&stop), &w);
            scope.spawn(move || {
                let Ok(mut client) = Client::connect(&w.net.server, DOORS.parse().unwrap()) else { return };
                while !stop.load(Ordering::Relaxed) {
                    let request = format!("GET /auth HTTP/1.1\r\nHost: x\r\nX-Original-Method: GET\r\nX-Original-URI: /slow{n}\r\n\r\n");
                    if client.ask(request.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
        let done = (|| {
            let until = |what: &str, held: &dyn Fn() -> Result<bool>| -> Result<()> {
                let start = std::time::Instant::now();
                while !held()? {
                    anyhow::ensure!(start.elapsed() < PATIENCE, "{what}: {}", w.daemon.metrics()?);
                }
                Ok(())
            };
            until("nginx", &|| Ok(reason(&w, "/auth", "/a")? == (403, "overloaded".to_owned())))?;
            until("forward-auth", &|| {
                Ok(reason(&w, "/forward-auth", "/b")? == (503, "overloaded".to_owned()))
            })?;
            until("envoy by http", &|| {
                let answer = http(&w.net.server, DOORS.parse()?, "GET /ext_authz/c HTTP/1.1", b"")?;
                Ok((answer.status, answer.header("x-portcullis-reason")) == (403, Some("overloaded")))
            })?;
            until("data", &|| {
                let body: Value = serde_json::from_str(&w.daemon.data("slow/decision", "{}")?.body)?;
                Ok(body["result"]["allow"] == false && body["result"]["reason"] == "overloaded")
            })?;
            until("authzen", &|| {
                let asked = r#"{"subject":{"type":"a","id":"b"},"resource":{"type":"a","id":"b"},"action":{"name":"c"}}"#;
                let answer = http(
                    &w.net.server,
                    DOORS.parse()?,
                    "POST /access/v1/evaluation HTTP/1.1",
                    asked.as_bytes(),
                )?;
                let body: Value = serde_json::from_str(&answer.body)?;
                Ok(answer.status == 200
                    && body["decision"] == false
                    && body["context"]["reason"] == "overloaded")
            })?;
            if envoy.is_some() {
                until("envoy by grpc", &|| {
                    let answer = ask(&w, 8000, "/d", &[])?;
                    Ok((answer.status, answer.header("x-portcullis-reason")) == (503, Some("overloaded")))
                })?;
            }
            assert_eq!(reason(&w, "/auth", "/quick")?.0, 200, "what is in the cache is served all the while");
            Ok(())
        })();
        stop.store(true, Ordering::Relaxed);
        done
    })?;
    // It recovers by itself.
    let start = std::time::Instant::now();
    while reason(&w, "/forward-auth", "/slow")?.0 != 200 {
        assert!(start.elapsed() < PATIENCE, "it did not recover");
    }
    Ok(())
}

#[test]
fn what_a_stranger_says_of_a_request_is_not_believed() -> Result<()> {
    if !is_root() || !has("curl") {
        return Ok(());
    }
    let Some(binary) = envoy() else { return Ok(()) };
    let w = gateway::world("gateways = [\"10.77.0.0/24\", \"fd77::/64\"]")?;
    let token = w.mint.hs256()?;
    for (door, status) in [("/auth", 403), ("/forward-auth", 403), ("/ext_authz/v1/orders", 403)] {
        let head = format!(
            "GET {door} HTTP/1.1\r\nX-Original-Method: GET\r\nX-Original-URI: /v1/orders\r\nX-Forwarded-For: 10.77.0.1\r\nAuthorization: Bearer {token}"
        );
        let answer = http(&w.net.server, DOORS.parse()?, &head, b"")?;
        assert_eq!(
            (answer.status, answer.header("x-portcullis-reason")),
            (status, Some("peer_untrusted")),
            "{door}"
        );
    }
    let shipped =
        std::fs::read_to_string(portcullis_tests::dir::repository().join("deploy/envoy/envoy.yaml"))?;
    let here = shipped
        .replace("address: 127.0.0.1, port_value: 8000", &format!("address: {SERVER_V4}, port_value: 8000"));
    let _envoy = start_envoy(&w.net.server, &w.dir, &binary, &here)?;
    let refused = ask(&w, 8000, "/v1/orders", &[&bearer(&token)])?;
    assert_eq!((refused.status, refused.header("x-portcullis-reason")), (403, Some("peer_untrusted")));
    assert!(w.daemon.metrics()?.contains("door=\"forward_auth\",reason=\"peer_untrusted\"} 2"));
    Ok(())
}

#[test]
fn heads_and_bodies_beyond_all_measure_are_refused_and_the_door_stays_open() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::make()?;
    let refused = |bytes: &[u8]| -> Result<String> {
        let mut client = Client::connect(&w.net.server, DOORS.parse()?)?;
        // It may be refused while it is still being sent.
        let _ = client.send(bytes);
        let answer = client.rest().map(|(bytes, _)| bytes).unwrap_or_default();
        Ok(String::from_utf8_lossy(&answer).lines().next().unwrap_or_default().to_owned())
    };
    let start = "GET /auth HTTP/1.1\r\nHost: x\r\nX-Original-Method: GET\r\nX-Original-URI: /v1/orders\r\n";
    for (name, bytes) in [
        ("1 MB header", [start.as_bytes(), b"X-Large: ", &vec![b'a'; 1 << 20], b"\r\n\r\n"].concat()),
        ("folded", format!("{start}Authorization: Bearer\r\n x\r\n\r\n").into_bytes()),
        (
            "bare line feed in a value",
            format!("{start}X-Forwarded-Host: a\nX-Original-URI: /x\r\n\r\n").into_bytes(),
        ),
        (
            "non-UTF-8",
            [start.as_bytes(), b"X-Forwarded-Host: \xff\xfe\r\nConnection: close\r\n\r\n"].concat(),
        ),
        ("100,000 deep", {
            let body = "[".repeat(100_000);
            format!(
                "POST /v1/data HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            )
            .into_bytes()
        }),
        (
            "two lengths",
            b"POST /v1/data HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\n{}".to_vec(),
        ),
    ] {
        let line = refused(&bytes)?;
        // What is a megabyte long may be cut off before the answer is read.
        let is_cut = line.is_empty() && bytes.len() > 1 << 20;
        assert!(line.starts_with("HTTP/1.1 4") || is_cut, "{name}: {line}");
    }
    // Those whose head hyper could not read are counted too.
    let counted = w.daemon.metrics()?;
    let unreadable = counted.lines().find_map(|l| l.strip_prefix("portcullis_unreadable_requests_total "));
    assert!(unreadable.is_some_and(|n| n.parse::<u32>().is_ok_and(|n| n >= 3)), "{unreadable:?}");
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &w.mint.hs256()?)?.status, 200);
    Ok(())
}
