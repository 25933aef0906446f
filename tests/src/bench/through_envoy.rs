//! Envoy between client and daemon, as in the peers' figures: on this host's loopback, sharing its cores with both.

use std::{
    fs::{self, File},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use super::daemon::free_address;

const PATIENCE: Duration = Duration::from_mins(1);

/// A running Envoy; killed when dropped.
pub struct Envoy {
    child: Child,
    /// Where each request is asked of the daemon first.
    pub asks: SocketAddr,
    /// Where none is.
    pub alone: SocketAddr,
}

impl Envoy {
    /// Starts one before the front doors at `doors`. It answers by itself what may pass.
    pub fn start(binary: &Path, dir: &Path, doors: SocketAddr) -> Result<Self> {
        let (asks, alone) = (free_address()?, free_address()?);
        let file = dir.join("envoy.yaml");
        fs::write(&file, config(asks, alone, doors))?;
        let log = dir.join("envoy.log");
        let child = Command::new(binary)
            .args(["--disable-hot-restart", "--use-dynamic-base-id", "--concurrency", "1"])
            .args(["--log-level", "error", "-c"])
            .arg(&file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("cannot start Envoy")?;
        let mut envoy = Self { child, asks, alone };
        let deadline = Instant::now() + PATIENCE;
        while TcpStream::connect(asks).and_then(|_| TcpStream::connect(alone)).is_err() {
            if envoy.child.try_wait()?.is_some() || Instant::now() > deadline {
                bail!("Envoy does not listen:\n{}", fs::read_to_string(&log).unwrap_or_default());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(envoy)
    }
}

impl Drop for Envoy {
    fn drop(&mut self) {
        // Both fail only when it is gone already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn config(asks: SocketAddr, alone: SocketAddr, doors: SocketAddr) -> String {
    let authz = "
          - name: envoy.filters.http.ext_authz
            typed_config:
              \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
              transport_api_version: V3
              failure_mode_allow: false
              grpc_service: {envoy_grpc: {cluster_name: portcullis}, timeout: 5s}";
    let listener = |at: SocketAddr, filter: &str| {
        format!(
            "
  - address: {{socket_address: {{address: {}, port_value: {}}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: bench
          route_config:
            virtual_hosts:
            - name: all
              domains: [\"*\"]
              routes: [{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: served}}}}}}]
          http_filters:{filter}
          - name: envoy.filters.http.router
            typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}",
            at.ip(),
            at.port()
        )
    };
    format!(
        "static_resources:
  listeners:{}{}
  clusters:
  - name: portcullis
    type: STATIC
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    load_assignment:
      cluster_name: portcullis
      endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: {}, port_value: {}}}}}}}}}]}}]
",
        listener(asks, authz),
        listener(alone, ""),
        doors.ip(),
        doors.port()
    )
}
