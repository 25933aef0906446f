//! What each front door answers when something is wrong, compared with the tables of `docs/failure-posture.md`: who
//! changes one changes the other.

use std::{
    collections::BTreeMap,
    fs,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use anyhow::{Result, ensure};
use portcullis::{
    clock::{BootTime, Clock, SystemClock, WallTime},
    decide::FailOpen,
    telemetry::Door,
};
use portcullis_tests::{
    World,
    client::http,
    config::{DOORS, OBSERVE},
    dir::repository,
    gateway::{self, bearer, envoy, is_the_services, start_envoy},
    has,
    inside::{DECISION, Inside, Options, token},
    is_root,
    net::SERVER_V4,
    process::{Process, run},
    six, until,
};

use super::plane::admin;

const PAGE: &str = include_str!("../../../docs/failure-posture.md");

/// The table under a heading: rows by their first cell, without marks.
fn table(heading: &str) -> BTreeMap<String, Vec<String>> {
    let (_, section) =
        PAGE.split_once(&format!("## {heading}\n")).unwrap_or_else(|| panic!("no `{heading}`"));
    let section = section.split("\n## ").next().unwrap_or_default();
    let cells = |line: &str| -> Vec<String> {
        line.trim_matches('|').split('|').map(|cell| cell.replace('`', "").trim().to_owned()).collect()
    };
    let rows = section.lines().filter(|l| l.starts_with("| ")).map(cells);
    rows.map(|mut row| (row.remove(0), row)).collect()
}

/// Compares what was seen with the table, both ways.
fn assert_table(heading: &str, columns: &[&str], seen: &BTreeMap<String, Vec<String>>) {
    let mut written = table(heading);
    let columns: Vec<String> = columns.iter().map(|c| c.replace('`', "")).collect();
    assert_eq!(written.remove(""), Some(columns), "{heading}: its columns");
    for (row, answers) in seen {
        assert_eq!(written.get(row), Some(answers), "{heading}: the row `{row}`; seen: {seen:#?}");
    }
    assert_eq!(written.keys().collect::<Vec<_>>(), seen.keys().collect::<Vec<_>>(), "{heading}: its rows");
}

/// A clock that panics on the threads that serve, so many times as it is told to.
#[derive(Default)]
struct Bad(AtomicU32);

impl Clock for Bad {
    fn wall(&self) -> WallTime {
        let serves = std::thread::current().name().is_some_and(|name| name.starts_with("tokio"));
        let count = |left: u32| left.checked_sub(1);
        let panics = serves && self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, count).is_ok();
        assert!(!panics, "on purpose");
        SystemClock.wall()
    }

    fn boot(&self) -> BootTime {
        SystemClock.boot()
    }
}

/// By path: what the policy does. `/fine` is kept, the others are not.
const RULES: &str = r#"
decision := {"allow": true, "ttl": 60} if input.request.path == "/fine"

# What denials of the daemon's own have the shape of.
decision := {"allow": false} if not input.request

decision := {"allow": "yes"} if input.request.path == "/fails"

decision := {"allow": work > 0} if input.request.path == "/slow"

work := sum([z | some x in numbers.range(1, 2000); some y in numbers.range(1, 2000); z := x * y])
"#;

/// The rows that a process can be brought into from inside.
fn from_inside(doors: &[Door]) -> Result<BTreeMap<String, Vec<String>>> {
    let clock = Arc::new(Bad::default());
    let mut options = Options::new(RULES);
    options.clock = clock.clone();
    options.time_limit = Duration::from_millis(500);
    options.doors.fail_open = doors.iter().map(|door| (*door, FailOpen)).collect();
    let w = Inside::start(options)?;
    let (good, cached, revoked) = (token("good"), token("cached"), token("revoked"));
    w.revoke(&revoked)?;
    let mut seen = BTreeMap::new();
    let mut note = |row: &str, answers: [String; 6]| {
        assert!(seen.insert(row.to_owned(), answers.to_vec()).is_none(), "{row}");
    };
    note("all is well", w.ask("/fine", &cached)?);
    note("the token is revoked", w.ask("/fine", &revoked)?);
    note("the policy gives no decision", w.ask("/nothing", &good)?);
    note("the policy fails", w.ask("/fails", &good)?);
    note("the policy takes too long", w.ask("/slow", &good)?);
    w.decider.set_overloaded(true);
    note("overloaded", w.ask("/fine", &good)?);
    note("overloaded, the verdict is in the cache", w.ask("/fine", &cached)?);
    note("overloaded, the token is revoked", w.ask("/fine", &revoked)?);
    w.decider.set_overloaded(false);
    w.decider.set_ready(false);
    note("starting or stopping", w.ask("/fine", &cached)?);
    note("starting or stopping, the token is revoked", w.ask("/fine", &revoked)?);
    w.decider.set_ready(true);
    let (once, always) =
        (|| clock.0.store(1, Ordering::SeqCst), || clock.0.store(u32::MAX, Ordering::SeqCst));
    note("a fault of the daemon's own (a panic)", w.ask_after("/other", &good, once)?);
    note("a panic, the token is revoked", w.ask_after("/other", &revoked, once)?);
    note("a panic, and also when it is asked about revocation", w.ask_after("/other", &good, always)?);
    clock.0.store(0, Ordering::SeqCst);
    assert_eq!(w.ask("/fine", &cached)?, ["passes"; 6].map(String::from), "it is well again");
    Ok(seen)
}

#[test]
fn each_door_answers_each_failure_as_the_page_says() -> Result<()> {
    let mut seen = from_inside(&[])?;
    seen.extend(from_outside()?);
    let rows = table("What the front doors answer");
    // Without root the daemon itself is not run: its rows are then taken as they stand.
    if !is_root() {
        for (row, answers) in rows.into_iter().filter(|(row, _)| !row.is_empty()) {
            seen.entry(row).or_insert(answers);
        }
    }
    assert_table("What the front doors answer", &six::DOORS, &seen);
    Ok(())
}

#[test]
fn doors_that_fail_open_let_pass_what_the_page_says_and_no_revoked_token() -> Result<()> {
    let doors = [Door::ForwardAuth, Door::ExtAuthz, Door::ExtAuthzHttp, Door::Authzen];
    assert_table("With `serve.fail_open`", &six::DOORS, &from_inside(&doors)?);
    Ok(())
}

/// A file system of its own that can be full, and can fail; unmounted on drop.
struct Small(std::path::PathBuf);

impl Drop for Small {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// The rows of a store whose disk fails, after it was full: which refuses orders and is no failure.
fn with_a_failed_store(rules: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let mut small = None;
    let w = World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        fs::create_dir(dir.path("small"))?;
        dir.write("own/p.rego", rules)?;
        let image = dir.path("small.img");
        fs::File::create(&image)?.set_len(16 << 20)?;
        let made = Command::new("mkfs.ext4").args(["-q", "-m", "0"]).arg(&image).status()?;
        let mounted =
            Command::new("mount").args(["-o", "loop"]).arg(&image).arg(dir.path("small")).status()?;
        ensure!(made.success() && mounted.success(), "no file system in a file");
        small = Some(Small(dir.path("small")));
        config.policies = dir.path("own");
        config.policy = format!("decision = \"{DECISION}\"");
        config.store = "small/revocations";
        config.max_entries = 1 << 17;
        Ok(())
    })?;
    // Unmounted before the directory goes.
    let small = small;
    let ask = |path: &str, token: &str| -> Result<Vec<String>> {
        let answers = w.net.server.enter(|| six::ask_from(DOORS.parse()?, DECISION, path, token))?;
        Ok(answers.to_vec())
    };
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // Full: the order is refused, and one after it is taken when there is room again. As many as the zeros hold that were
    // written ahead are taken before.
    let fill = w.dir.path("small/fill");
    ensure!(fs::write(&fill, vec![0; 32 << 20]).is_err(), "the file system is not full");
    let lines: Vec<String> = (1..60_000).map(|n| format!("{{\"fingerprint\":\"{n:032x}\"}}\n")).collect();
    let full = w.daemon.ask(&["revoke", "--many", "-"], &lines.concat())?;
    assert!(full.stderr.contains("no room on the disk"), "{full:?}");
    assert_eq!(w.daemon.status()?["revocations"]["store_failed"], false);
    fs::remove_file(&fill)?;
    w.daemon.revoke(&w.mint.hs256()?)?;
    let ready =
        || Ok::<_, anyhow::Error>(http(&w.net.server, OBSERVE.parse()?, "GET /ready HTTP/1.1", b"")?.status);
    assert_eq!((ready()?, w.daemon.status()?["ready"].as_bool()), (200, Some(true)), "full is no failure");
    // Failed: the file system ends itself, as after an error of its disk.
    let ended = Command::new("mount").args(["-o", "remount,abort"]).arg(w.dir.path("small")).status()?;
    ensure!(ended.success(), "the file system cannot be made to fail");
    let refused = w.daemon.ask(&["revoke"], &w.mint.hs256()?)?;
    assert!(refused.code == 4 && refused.stderr.contains("did not take the write"), "{refused:?}");
    assert_eq!(w.daemon.status()?["revocations"]["store_failed"], true);
    // Not acknowledged, not tried again as if it were whole, and said to whoever asks: 5xx and not ready.
    for _ in 0..2 {
        let order = format!("{{\"token\":\"{}\"}}", w.mint.hs256()?);
        let (status, body) = admin(&w, "POST", "/v1/revocations", "", &order)?;
        assert!(status == 500 && body.contains("store_failed"), "{status} {body}");
        let (status, body) = admin(&w, "DELETE", "/v1/revocations/1", "", "")?;
        assert!(status == 500 && body.contains("store_failed"), "{status} {body}");
    }
    assert_eq!((ready()?, w.daemon.status()?["ready"].as_bool()), (503, Some(false)));
    w.assert_refused(&revoked);
    let mut seen = BTreeMap::new();
    seen.insert("the revocation store has failed".to_owned(), ask("/fine", &good)?);
    seen.insert("the revocation store has failed, the token is revoked".to_owned(), ask("/fine", &revoked)?);
    seen.insert(
        "the revocation store has failed, and a policy condemns".to_owned(),
        ask("/other", &w.mint.hs256()?)?,
    );
    drop(small);
    Ok(seen)
}

/// The rows of a host that has not heard of its fleet.
fn without_the_fleet(rules: &str) -> Result<BTreeMap<String, Vec<String>>> {
    let w = World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", rules)?;
        config.policies = dir.path("own");
        config.policy = format!("decision = \"{DECISION}\"");
        config.serve =
            String::from("[fleet]\nservers = [\"nats://127.0.0.1:4222\"]\nmax_staleness = \"3s\"\n");
        Ok(())
    })?;
    let ask = |token: &str| -> Result<Vec<String>> {
        let answers = w.net.server.enter(|| six::ask_from(DOORS.parse()?, DECISION, "/fine", token))?;
        Ok(answers.to_vec())
    };
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let status = w.daemon.status()?;
    assert_eq!((&status["fleet"]["stale"], &status["ready"]), (&true.into(), &false.into()), "{status}");
    let ready = http(&w.net.server, OBSERVE.parse()?, "GET /ready HTTP/1.1", b"")?;
    assert_eq!(ready.status, 503);
    Ok(BTreeMap::from([
        ("the fleet is out of reach for longer than max_staleness".to_owned(), ask(&good)?),
        ("the fleet is out of reach, the token is revoked".to_owned(), ask(&revoked)?),
    ]))
}

/// The rows that a daemon is brought into from outside.
fn from_outside() -> Result<BTreeMap<String, Vec<String>>> {
    let mut seen = BTreeMap::new();
    if !is_root() {
        return Ok(seen);
    }
    let rules = "package p\n\nimport rego.v1\n\n\
        default decision := {\"allow\": false, \"status\": 401, \"block\": \"token\"}\n\n\
        decision := {\"allow\": true, \"ttl\": 60} if {\n\tinput.token_status == \"valid\"\n\tinput.request.path == \"/fine\"\n}\n";
    let w = World::with(|config, dir| {
        fs::create_dir(dir.path("own"))?;
        dir.write("own/p.rego", rules)?;
        config.policies = dir.path("own");
        config.policy = format!("decision = \"{DECISION}\"\nwatch = false");
        (config.max_entries, config.policy_entries) = (8, 2);
        Ok(())
    })?;
    let ask = |path: &str, token: &str| -> Result<Vec<String>> {
        let answers = w.net.server.enter(|| six::ask_from(DOORS.parse()?, DECISION, path, token))?;
        Ok(answers.to_vec())
    };
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    // A set that does not compile: the reload is refused.
    w.dir.write("own/p.rego", "package p\n\ndecision := {")?;
    assert_ne!(w.daemon.ask(&["reload"], "")?.code, 0);
    seen.insert("a reload was refused, the policy is stale".to_owned(), ask("/fine", &good)?);
    // Full: the map's part for revocations, then that of policies.
    for _ in 0..5 {
        w.daemon.revoke(&w.mint.hs256()?)?;
    }
    let refused = w.daemon.ask(&["revoke"], &w.mint.hs256()?)?;
    assert!(refused.code == 4 && refused.stderr.contains("the deny map is full"), "{refused:?}");
    seen.insert("the deny map is full of revocations".to_owned(), ask("/fine", &good)?);
    seen.insert("the deny map is full, the token is revoked".to_owned(), ask("/fine", &revoked)?);
    for _ in 0..2 {
        ask("/other", &w.mint.hs256()?)?;
    }
    let over = ask("/other", &w.mint.hs256()?)?;
    seen.insert("the policies' part of it is full, and a policy condemns".to_owned(), over);
    drop(w);
    seen.extend(with_a_failed_store(rules)?);
    seen.extend(without_the_fleet(rules)?);
    Ok(seen)
}

#[test]
fn gateways_with_the_shipped_configurations_do_what_the_page_says_when_the_daemon_is_gone() -> Result<()> {
    if !is_root() || !has("nginx") || !has("haproxy") || !has("curl") {
        return Ok(());
    }
    let Some(binary) = envoy() else { return Ok(()) };
    let mut w = gateway::world("")?;
    let _nginx = nginx(&w, 8001)?;
    let shipped = fs::read_to_string(repository().join("deploy/envoy/envoy.yaml"))?;
    let here = |open: bool, port: u16| {
        let text = shipped.replace(
            "address: 127.0.0.1, port_value: 8000",
            &format!("address: {SERVER_V4}, port_value: {port}"),
        );
        assert!(text.contains("failure_mode_allow: false"));
        if open { text.replace("failure_mode_allow: false", "failure_mode_allow: true") } else { text }
    };
    let _closed = start_envoy(&w.net.server, &w.dir, &binary, &here(false, 8002))?;
    let _open = start_envoy(&w.net.server, &w.dir, &binary, &here(true, 8003))?;
    let _haproxies = [haproxy(&w, false, 8004)?, haproxy(&w, true, 8005)?];
    let columns = [
        ("nginx", 8001),
        ("Envoy", 8002),
        ("Envoy, failure_mode_allow: true", 8003),
        ("HAProxy", 8004),
        ("HAProxy, PORTCULLIS_OPEN=1", 8005),
    ];
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    let mut seen = BTreeMap::new();
    let note = |w: &World, row: &str, token: &str, seen: &mut BTreeMap<String, Vec<String>>| -> Result<()> {
        let mut answers = Vec::new();
        for (_, port) in columns {
            let answer = gateway::ask(w, port, "/v1/orders", &[&bearer(token)])?;
            answers.push(if is_the_services(&answer) {
                "passes".to_owned()
            } else {
                answer.status.to_string()
            });
        }
        seen.insert(row.to_owned(), answers);
        Ok(())
    };
    note(&w, "it is there", &good, &mut seen)?;
    note(&w, "it is there, the token is revoked", &revoked, &mut seen)?;
    w.daemon.freeze(true)?;
    note(&w, "it hangs", &good, &mut seen)?;
    w.daemon.freeze(false)?;
    w.daemon.kill9()?;
    note(&w, "it is gone", &good, &mut seen)?;
    note(&w, "it is gone, the token is revoked", &revoked, &mut seen)?;
    w.daemon.restart()?;
    // Gateways may hold a host for dead a little longer.
    until(|| {
        for (_, port) in columns {
            if !is_the_services(&gateway::ask(&w, port, "/v1/orders", &[&bearer(&good)])?) {
                return Ok(false);
            }
        }
        Ok(true)
    })?;
    note(&w, "it is back", &good, &mut seen)?;
    assert_table("What gateways do without an answer", &columns.map(|(name, _)| name), &seen);
    Ok(())
}

/// The shipped configuration, on a plain port and with its files in the test's directory.
fn nginx(w: &World, port: u16) -> Result<Process> {
    let shipped = fs::read_to_string(repository().join("deploy/nginx/nginx.conf"))?;
    let mut text = format!("daemon off;\nuser root;\n{shipped}")
        .replace("listen 443 ssl;", &format!("listen {SERVER_V4}:{port};"))
        .replace("pid nginx.pid;", &format!("pid {};", w.dir.path("nginx.pid").display()))
        .replace("worker_processes auto;", "worker_processes 1;")
        .replace("error_log stderr warn;", "error_log stderr notice;");
    text = text.lines().filter(|l| !l.trim_start().starts_with("ssl_")).collect::<Vec<_>>().join("\n");
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let line = format!("http {{\n{kind}_temp_path {};", w.dir.path(&format!("nginx-{kind}")).display());
        text = text.replacen("http {", &line, 1);
    }
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(w.dir.write("nginx.conf", &text)?);
    let process = Process::start(&w.net.server, &mut command)?;
    process.await_line(0, |line| line.contains("start worker process "))?;
    Ok(process)
}

fn haproxy(w: &World, open: bool, port: u16) -> Result<Process> {
    let shipped = fs::read_to_string(repository().join("deploy/haproxy/haproxy.cfg"))?;
    let lua = repository().join("deploy/haproxy/portcullis.lua").display().to_string();
    let text = shipped
        .replace("bind 127.0.0.1:8000", &format!("bind {SERVER_V4}:{port}"))
        .replace("portcullis.lua", &lua);
    let file = w.dir.write(&format!("haproxy-{port}.cfg"), &text)?;
    let mut command = Command::new("haproxy");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").args(["-W", "-db", "-f"]).arg(file);
    command.env("PORTCULLIS_OPEN", if open { "1" } else { "" });
    let process = Process::start(&w.net.server, &mut command)?;
    process.await_line(0, |line| line.contains("Loading success"))?;
    Ok(process)
}

#[test]
fn without_a_policy_there_is_no_daemon() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = gateway::world("")?;
    w.daemon.stop()?;
    fs::remove_file(w.dir.path("own/gateway.rego"))?;
    let config = w.dir.path("portcullis.toml");
    let mut command = Command::new(portcullis_tests::daemon::binary()?);
    command.args(["run", "--config"]).arg(config);
    let ended = run(&w.net.server, &mut command, b"")?;
    assert_ne!(ended.code, 0);
    assert!(ended.stderr.contains("gateway/decision"), "{ended:?}");
    Ok(())
}
