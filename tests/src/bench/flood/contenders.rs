//! What refuses the flood beside guard: nginx with a `map`, nginx asking the daemon, Envoy asking the daemon; and a
//! server that does nothing.

use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Instant,
};

use anyhow::{Context as _, Result, bail};

use super::{AUTH_REQUEST, ENVOY, Ground, MAP};
use crate::{
    PATIENCE,
    dir::repository,
    net::{Namespace, PORT, SERVER_V4, at},
    process::Process,
};

/// Where nginx serves what Envoy lets through.
const BEHIND: u16 = 8000;

/// nginx: the guarded server, and both its ways to refuse.
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    pub fn start(ground: &Ground, tokens: &[String]) -> Result<Self> {
        let path = |name: &str| ground.dir.path(name).display().to_string();
        let mut map = String::new();
        for token in tokens {
            let _ = writeln!(map, "\"Bearer {token}\" 1;");
        }
        ground.dir.write("revoked.map", &map)?;
        let mut temporary = String::new();
        for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"] {
            let _ = writeln!(temporary, "    {kind}_temp_path {};", path(&format!("nginx-{kind}")));
        }
        let config = ground.dir.write(
            "nginx.conf",
            &format!(
                r#"daemon off;
user root;
worker_processes 1;
pid {pid};
error_log stderr notice;
events {{ worker_connections 4096; }}
http {{
{temporary}
    access_log off;
    keepalive_requests 1000000;
    map_hash_max_size 16384;
    map_hash_bucket_size 1024;
    map $http_authorization $revoked {{
        default 0;
        include {map};
    }}
    upstream portcullis {{ server 127.0.0.1:8181; keepalive 16; }}
    server {{
        listen {SERVER_V4}:{PORT};
        listen 127.0.0.1:{BEHIND};
        location / {{ return 200 "ok\n"; }}
    }}
    server {{
        listen {SERVER_V4}:{MAP};
        location / {{
            if ($revoked) {{ return 401; }}
            return 200 "ok\n";
        }}
    }}
    server {{
        listen {SERVER_V4}:{AUTH_REQUEST};
        location / {{
            auth_request /_portcullis;
            proxy_pass http://127.0.0.1:{BEHIND};
        }}
        location = /_portcullis {{
            internal;
            proxy_pass http://portcullis/auth;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_pass_request_body off;
            proxy_set_header Content-Length "";
            proxy_set_header X-Original-Method $request_method;
            proxy_set_header X-Original-URI $request_uri;
        }}
    }}
}}
"#,
                pid = path("nginx.pid"),
                map = path("revoked.map"),
            ),
        )?;
        let mut command = Command::new("nginx");
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").arg("-c").arg(config);
        let process = Process::start(&ground.net.server, &mut command)
            .context("nginx is needed: apt-get install nginx-light")?;
        // Its sockets listen before it has workers.
        process.await_line(0, |line| line.contains("start worker process "))?;
        Ok(Self { _process: process })
    }
}

/// Envoy, from the Python package that ships it.
pub struct Envoy {
    _process: Process,
}

impl Envoy {
    /// Starts it, where it is installed.
    pub fn start(ground: &Ground) -> Result<Option<Self>> {
        let dir = repository().join("target/bench/envoy/lib");
        let found = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let binary = found.map(|e| e.path().join("site-packages/envoy/_bin/envoy")).find(|p| p.is_file());
        let Some(binary) = binary else { return Ok(None) };
        let config = ground.dir.write("envoy.yaml", &envoy())?;
        let mut command = Command::new(binary);
        command.arg("-c").arg(config);
        command.args(["--concurrency", "1", "--disable-hot-restart", "--log-level", "error"]);
        let process = Process::start(&ground.net.server, &mut command)?;
        let start = Instant::now();
        let to = at(SERVER_V4, ENVOY);
        while ground.net.client.enter(|| Ok(TcpStream::connect(to)?)).is_err() {
            if start.elapsed() > PATIENCE {
                bail!("Envoy does not listen:\n{}", process.lines().join("\n"));
            }
            thread::yield_now();
        }
        Ok(Some(Self { _process: process }))
    }
}

/// Every request is asked of the daemon's `/auth`; the path that is asked for is in headers, the same for all.
fn envoy() -> String {
    format!(
        r#"static_resources:
  listeners:
  - address: {{socket_address: {{address: {SERVER_V4}, port_value: {ENVOY}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: flood
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{prefix: "/"}}
                route: {{cluster: behind}}
          http_filters:
          - name: envoy.filters.http.ext_authz
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              failure_mode_allow: false
              http_service:
                server_uri: {{uri: "http://127.0.0.1:8181", cluster: portcullis, timeout: 5s}}
                authorization_request:
                  headers_to_add:
                  - {{key: x-original-uri, value: /v1/orders}}
                  - {{key: x-original-method, value: GET}}
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: portcullis
    type: STATIC
    load_assignment:
      cluster_name: portcullis
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 8181}}}}}}
  - name: behind
    type: STATIC
    load_assignment:
      cluster_name: behind
      endpoints:
      - lb_endpoints:
        - endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {BEHIND}}}}}}}
"#
    )
}

/// A server that accepts and closes: what is left of a refusal when nothing is done.
pub struct Closer {
    to: SocketAddr,
    ns: Namespace,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Closer {
    /// Accepts and closes.
    pub fn start(ns: &Namespace, to: SocketAddr) -> Result<Self> {
        Self::doing(ns, to, |_| ())
    }

    /// Reads once, answers 401 and closes: the least that a server can do to refuse.
    pub fn refusing(ns: &Namespace, to: SocketAddr) -> Result<Self> {
        Self::doing(ns, to, |mut stream| {
            let mut request = [0; 2048];
            // One that failed is the flooder's to report.
            if stream.read(&mut request).is_ok_and(|n| n != 0) {
                let _ = stream.write_all(
                    b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
                );
            }
        })
    }

    fn doing(ns: &Namespace, to: SocketAddr, then: fn(TcpStream)) -> Result<Self> {
        let listener = ns.enter(|| Ok(TcpListener::bind(to)?))?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                if let Ok((stream, _)) = listener.accept() {
                    then(stream);
                }
            }
        });
        Ok(Self { to, ns: ns.clone(), stop, thread: Some(thread) })
    }
}

impl Drop for Closer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread.
        if self.ns.enter(|| Ok(TcpStream::connect(self.to)?)).is_ok()
            && let Some(thread) = self.thread.take()
        {
            let _ = thread.join();
        }
    }
}
