//! The decision log as the daemon writes it: every decision once, in OPA's format, no token in it.

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use portcullis_tests::{
    PATIENCE, World, has, is_root,
    pki::Pki,
    process::Process,
    until,
    web::{Reply, Web},
};
use serde_json::{Value, json};

/// A world that logs decisions to `decisions.log` in its directory.
fn logged(more: &str) -> Result<World> {
    World::with(|config, dir| {
        config.policies = dir.copy_policies()?;
        let file = dir.path("decisions.log");
        config.serve = format!(
            "[host]\nname = \"edge-1\"\nregion = \"eu\"\nlabels = {{ rack = \"7\" }}\n\
             [decision_log]\nsink = \"file\"\nfile = \"{}\"\n{more}",
            file.display()
        );
        Ok(())
    })
}

/// The lines, once there are so many.
fn lines(file: &Path, count: usize) -> Result<Vec<Value>> {
    let start = Instant::now();
    loop {
        let text = fs::read_to_string(file)?;
        if text.lines().count() >= count && text.ends_with('\n') {
            return text.lines().map(|line| Ok(serde_json::from_str(line)?)).collect();
        }
        ensure!(start.elapsed() < PATIENCE, "only these lines were written: {text}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn every_decision_is_a_line_and_no_line_holds_a_token() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = logged("kernel = true")?;
    let (good, revoked) = (w.mint.hs256()?, w.mint.es256()?);
    for _ in 0..2 {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &good)?.status, 200);
    }
    assert_eq!(w.daemon.auth("DELETE", "/v1/nowhere?access_token=s3cret", &good)?.status, 403);
    let input = json!({"input": {"token": good, "request": {"method": "GET", "path": "/v1/orders", "segments": ["v1", "orders"]}}});
    assert_eq!(w.daemon.data("portcullis/decision/allow", &input.to_string())?.status, 200);
    w.daemon.revoke(&revoked)?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &revoked)?.status, 401);
    w.assert_refused(&revoked);
    let file = w.dir.path("decisions.log");
    let all = lines(&file, 6)?;
    assert_eq!(fs::metadata(&file)?.permissions().mode() & 0o777, 0o600);
    let said: Vec<_> = all
        .iter()
        .map(|l| {
            let ours = &l["portcullis"];
            (
                ours["kind"].as_str().unwrap(),
                ours["reason"].as_str().unwrap(),
                l["path"].as_str().unwrap_or_default(),
            )
        })
        .collect();
    assert_eq!(
        said,
        [
            ("decision", "allowed", "portcullis/decision"),
            ("decision", "allowed", "portcullis/decision"),
            ("decision", "policy_denied", "portcullis/decision"),
            ("decision", "allowed", "portcullis/decision/allow"),
            ("decision", "token_revoked", "portcullis/decision"),
            ("kernel_refusal", "token_revoked", ""),
        ]
    );
    let labels = &all[0]["labels"];
    assert_eq!(
        (&labels["host"], &labels["region"], &labels["rack"]),
        (&json!("edge-1"), &json!("eu"), &json!("7"))
    );
    assert_eq!(all[0]["bundles"]["portcullis"]["revision"], w.daemon.status()?["policy"]["hash"]);
    assert_eq!(all[2]["input"]["request"]["query"], "access_token=***");
    assert_eq!(all[2]["masked"], json!(["/input/request/query"]));
    assert_eq!((&all[3]["result"], &all[3]["portcullis"]["door"]), (&json!(true), &json!("data")));
    assert_eq!(all[4]["portcullis"]["fingerprint"], all[5]["portcullis"]["fingerprint"]);
    let metrics = w.daemon.metrics()?;
    assert!(metrics.contains("portcullis_decision_log_lines_total 6"), "{metrics}");
    assert!(w.daemon.stop()?.success());
    let text = fs::read_to_string(&file)?;
    for token in [&good, &revoked] {
        for part in token.split('.').skip(1) {
            assert!(!text.contains(part), "a token is in the log");
        }
    }
    Ok(())
}

#[test]
fn what_waits_is_written_before_the_daemon_ends_and_a_policy_masks_it() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let mut w = logged("max_bytes = 4096\nkeep = 2")?;
    let mask = "package system.log\n\nimport rego.v1\n\nmask contains \"/input/identity/sub\"\n\nmask contains \"/input/identity/claims/sub\"\n";
    w.dir.write("policies/mask.rego", mask)?;
    w.daemon.json(&["reload"], "")?;
    let token = w.mint.of_subject("somebody-in-particular")?;
    for _ in 0..20 {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    }
    assert!(w.daemon.stop()?.success());
    let mut whole = String::new();
    for name in ["decisions.log.2", "decisions.log.1", "decisions.log"] {
        // What came together is written together: how many files there are is not given.
        whole.push_str(&fs::read_to_string(w.dir.path(name)).unwrap_or_default());
    }
    assert!(whole.lines().count() >= 3, "{whole}");
    assert!(!whole.contains("somebody-in-particular"));
    let last: Value = serde_json::from_str(whole.lines().last().unwrap())?;
    assert_eq!(last["erased"], json!(["/input/identity/claims/sub", "/input/identity/sub"]));
    Ok(())
}

#[test]
fn a_recorded_log_tells_what_another_set_would_decide() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = logged("")?;
    let (one, two) = (w.mint.hs256()?, w.mint.hs256()?);
    for token in [&one, &one, &two] {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", token)?.status, 200);
    }
    assert_eq!(w.daemon.auth("POST", "/v1/orders", &one)?.status, 403);
    let file = w.dir.path("decisions.log");
    lines(&file, 4)?;
    let (old, log) = (w.dir.path("policies").display().to_string(), file.display().to_string());
    let same = w.daemon.command(&["policy", "diff", &old, &old, "--log", &log])?;
    assert_eq!(same.code, 0, "{same:?}");
    assert!(same.stdout.contains("4 decisions made again"), "{same:?}");
    let other = w.dir.path("other").display().to_string();
    let copied = std::process::Command::new("cp").args(["-r", &old, &other]).status()?;
    ensure!(copied.success(), "cp failed");
    let emergency = fs::read_to_string(w.dir.path("other/emergency/data.json"))?;
    let mut data: Value = serde_json::from_str(&emergency)?;
    data["everything"] = true.into();
    fs::write(w.dir.path("other/emergency/data.json"), data.to_string())?;
    let changed = w.daemon.command(&["policy", "diff", &old, &other, "--log", &log, "--json"])?;
    assert_eq!(changed.code, 1, "{changed:?}");
    let told: Value = serde_json::from_str(&changed.stdout)?;
    assert_eq!((&told["decided"], &told["newly_denied"]), (&json!(4), &json!(3)), "{told:#}");
    assert_eq!(told["tokens"].as_object().map(serde_json::Map::len), Some(2));
    assert!(told["changes"][0]["rules"].to_string().contains("data.portcullis.emergency"), "{told:#}");
    let missing = w.daemon.command(&["policy", "diff", &old, "/nonexistent", "--log", &log])?;
    assert_eq!(missing.code, 2, "{missing:?}");
    Ok(())
}

/// A certificate for 127.0.0.1 by the authority `good`, another authority, and nginx that takes TLS for the server
/// behind it.
fn tls(w: &World) -> Result<Process> {
    let pki = Pki(&w.dir);
    pki.authority("good")?;
    pki.authority("other")?;
    pki.certificate("server", "good")?;
    let root = w.dir.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let config = format!(
        "daemon off;\nuser root;\npid {root}/nginx.pid;\nerror_log stderr notice;\nevents {{}}\nhttp {{\naccess_log off;\n\
         client_body_temp_path {root}/body;\nproxy_temp_path {root}/proxy;\nserver {{\nlisten 127.0.0.1:9443 ssl;\n\
         ssl_certificate {root}/server.pem;\nssl_certificate_key {root}/server.key;\n\
         location / {{ proxy_pass http://127.0.0.1:9600; proxy_http_version 1.1; }}\n}}\n}}\n"
    );
    let mut nginx = std::process::Command::new("nginx");
    nginx.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(w.dir.write("nginx.conf", &config)?);
    let nginx = Process::start(&w.net.server, &mut nginx)?;
    nginx.await_line(0, |line| line.contains("start worker process "))?;
    Ok(nginx)
}

#[test]
fn lines_go_to_a_server_by_tls_that_the_configured_authority_vouches_for_and_to_no_other() -> Result<()> {
    if !is_root() || !has("openssl") || !has("nginx") {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.mode = "off";
        Ok(())
    })?;
    let _nginx = tls(&w)?;
    let web = Web::start(&w.net.server, "127.0.0.1:9600", |_| Reply::Json("{}".to_owned()))?;
    let token = w.mint.hs256()?;
    let bearer = w.dir.write("bearer", "sesame-4711\n")?;
    let start = |w: &mut World, ca: &str| -> Result<()> {
        w.daemon.stop()?;
        w.config.serve = format!(
            "[decision_log]\nsink = \"http\"\nurl = \"https://127.0.0.1:9443/logs\"\nca_file = \"{}\"\nbearer_file = \"{}\"\n\
             batch_time = \"100ms\"\nretry_for = \"1s\"\ntimeout = \"2s\"\n",
            w.dir.path(ca).display(),
            bearer.display()
        );
        w.dir.write("portcullis.toml", &w.config.toml(&w.dir))?;
        w.daemon.restart()
    };
    let lost = |w: &World| -> Result<bool> {
        let metrics = w.daemon.metrics()?;
        Ok(metrics.lines().any(|l| {
            l.starts_with("portcullis_decision_log_dropped_total{where=\"sink\"}") && !l.ends_with(" 0")
        }))
    };
    start(&mut w, "good.pem")?;
    for _ in 0..3 {
        assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    }
    until(|| Ok(w.daemon.metrics()?.contains("\nportcullis_decision_log_lines_total 3\n")))?;
    let asked = web.asked();
    for request in &asked {
        let head = request.to_lowercase();
        assert!(head.starts_with("post /logs http/1.1") && head.contains("content-encoding: gzip"), "{head}");
        assert!(head.contains("authorization: bearer sesame-4711"), "{head}");
    }
    assert!(!asked.is_empty() && !lost(&w)?);
    // Another authority: no line leaves, what was not sent is counted, and no decision waits for it.
    let before = web.asked().len();
    start(&mut w, "other.pem")?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    until(|| lost(&w))?;
    assert_eq!(web.asked().len(), before);
    assert!(w.daemon.log().iter().any(|l| l.contains("no TLS with `127.0.0.1`")), "{:?}", w.daemon.log());
    // A token that everybody on the host may read is not used.
    start(&mut w, "good.pem")?;
    fs::set_permissions(&bearer, fs::Permissions::from_mode(0o644))?;
    assert_eq!(w.daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    until(|| lost(&w))?;
    assert_eq!(web.asked().len(), before);
    assert!(w.daemon.log().iter().any(|l| l.contains("chmod o=")), "{:?}", w.daemon.log());
    Ok(())
}
