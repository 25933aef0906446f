//! nginx before the guarded server, and nginx as the guarded server.

use std::{fmt::Write as _, process::Command};

use anyhow::Result;
use portcullis_tests::{
    World,
    client::{Answer, curl},
    dir::Dir,
    has, is_root,
    net::{Namespace, SERVER_V4},
    process::Process,
};

const PORT: u16 = 8000;

/// Starts nginx in the server's namespace. Its access log is among the lines it says.
fn start(ns: &Namespace, dir: &Dir) -> Result<Process> {
    let path = |name: &str| dir.path(name).display().to_string();
    let mut temporary = String::new();
    for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
        let _ = writeln!(temporary, "    {kind}_temp_path {};", path(&format!("nginx-{kind}")));
    }
    let config = dir.write(
        "nginx.conf",
        &format!(
            r#"daemon off;
user root;
worker_processes 1;
pid {pid};
error_log stderr notice;
events {{ worker_connections 64; }}
http {{
{temporary}
    log_format line 'ACCESS $request $status';
    access_log /dev/stderr line;
    upstream pooled {{ server 127.0.0.1:8080; keepalive 4; }}
    server {{
        listen {SERVER_V4}:{PORT};
        location / {{
            auth_request /_portcullis;
            proxy_pass http://127.0.0.1:8080;
            proxy_next_upstream off;
        }}
        location /direct {{
            proxy_pass http://127.0.0.1:8080;
            proxy_next_upstream off;
        }}
        location /pooled {{
            proxy_pass http://pooled;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_next_upstream off;
        }}
        location /own {{ return 200 "own\n"; }}
        location = /_portcullis {{
            internal;
            proxy_pass http://127.0.0.1:8181/auth;
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URI $request_uri;
        }}
    }}
}}
"#,
            pid = path("nginx.pid"),
        ),
    )?;
    let mut command = Command::new("nginx");
    command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(config);
    let process = Process::start(ns, &mut command)?;
    // Its sockets listen before it has workers.
    process.await_line(0, |line| line.contains("start worker process "))?;
    Ok(process)
}

fn ask(w: &World, path: &str, token: &str) -> Result<Answer> {
    let url = format!("http://{SERVER_V4}:{PORT}{path}");
    let text = curl(&w.net.client, &url, &[&format!("Authorization: Bearer {token}")])?.ok()?;
    Answer::take(&mut text.into_bytes())
}

#[test]
fn through_nginx_with_auth_request_each_token_gets_what_it_should() -> Result<()> {
    if !is_root() || !has("nginx") || !has("curl") {
        return Ok(());
    }
    let mut w = World::with(|config, _| {
        config.interface = "lo".to_owned();
        Ok(())
    })?;
    let _nginx = start(&w.net.server, &w.dir)?;
    let (good, poor, revoked) = (w.mint.hs256()?, w.mint.aged(0, "other:read")?, w.mint.hs256()?);
    assert_eq!(ask(&w, "/v1/orders", &good)?.status, 200);
    assert_eq!(ask(&w, "/v1/orders", &revoked)?.status, 200);
    assert_eq!(w.server.requests().len(), 2);
    assert_eq!(ask(&w, "/v1/orders", &poor)?.status, 403);
    w.daemon.revoke(&revoked)?;
    // By the daemon.
    assert_eq!(ask(&w, "/v1/orders", &revoked)?.status, 401);
    assert_eq!(w.daemon.counter("revoked")?, 0);
    // By the kernel, on the hop behind nginx, where nobody asked the daemon.
    assert_eq!(ask(&w, "/direct", &good)?.status, 200);
    let refused = ask(&w, "/direct", &revoked)?;
    assert_eq!((refused.status, refused.body.trim()), (401, r#"{"error":"invalid_token"}"#));
    assert_eq!(w.daemon.counter("responded")?, 1);
    // On a pooled connection that carried another's token: it ends, and nobody else's does.
    assert_eq!(ask(&w, "/pooled", &good)?.status, 200);
    assert!(ask(&w, "/pooled", &revoked)?.status >= 400);
    assert_eq!(ask(&w, "/pooled", &good)?.status, 200);
    assert_eq!(w.daemon.counter("revoked")?, 2);
    let requests = w.server.requests();
    assert_eq!(requests.len(), 5, "{requests:?}");
    let after = requests.iter().skip(2).any(|head| head.contains(&revoked));
    assert!(!after, "the server got a revoked token");
    // No answer is no leave.
    w.daemon.kill9()?;
    assert_eq!(ask(&w, "/v1/orders", &good)?.status, 500);
    w.daemon.restart()?;
    assert_eq!(ask(&w, "/v1/orders", &good)?.status, 200);
    Ok(())
}

#[test]
fn nginx_as_the_guarded_server_logs_nothing_of_a_revoked_request() -> Result<()> {
    if !is_root() || !has("nginx") || !has("curl") {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports = vec![PORT];
        Ok(())
    })?;
    let nginx = start(&w.net.server, &w.dir)?;
    let (good, revoked) = (w.mint.hs256()?, w.mint.hs256()?);
    w.daemon.revoke(&revoked)?;
    assert_eq!(ask(&w, "/own?first", &good)?.status, 200);
    for _ in 0..3 {
        let refused = ask(&w, "/own?revoked", &revoked)?;
        assert_eq!((refused.status, refused.header("server")), (401, None));
    }
    assert_eq!(ask(&w, "/own?last", &good)?.status, 200);
    nginx.await_line(0, |line| line.contains("ACCESS GET /own?last"))?;
    let logged: Vec<String> = nginx.lines().into_iter().filter(|line| line.contains("ACCESS")).collect();
    assert_eq!(logged, ["ACCESS GET /own?first HTTP/1.1 200", "ACCESS GET /own?last HTTP/1.1 200"]);
    assert_eq!(w.daemon.counter("responded")?, 3);
    Ok(())
}
