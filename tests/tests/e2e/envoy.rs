//! The real Envoy, which asks by gRPC and by HTTP, closed and open when nobody answers.

use anyhow::Result;
use portcullis_tests::{
    World,
    client::Answer,
    dir::repository,
    gateway::{self, bearer, envoy, is_the_services, start_envoy},
    grpc, is_root,
    net::SERVER_V4,
    process::Process,
};

/// Listeners: gRPC and HTTP, each with `failure_mode_allow` off and on.
pub const GRPC: u16 = 8000;
const GRPC_OPEN: u16 = 8001;
const HTTP: u16 = 8002;
const HTTP_OPEN: u16 = 8003;
/// gRPC with headers joined by name, as Envoy sends them by default.
const GRPC_JOINED: u16 = 8004;
/// gRPC's methods.
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";
const HEALTH_CALL: &str = "/grpc.health.v1.Health/Check";
/// Straight to the daemon, whose health Envoy asks by gRPC.
const HEALTH: u16 = 8005;

const LOG: &str = "ACCESS %RESPONSE_CODE% %DYNAMIC_METADATA(envoy.filters.http.ext_authz)%\\n";

fn by_grpc(open: bool, raw: bool) -> String {
    format!(
        "transport_api_version: V3
                      grpc_service: {{envoy_grpc: {{cluster_name: portcullis}}, timeout: 0.25s}}
                      failure_mode_allow: {open}
                      encode_raw_headers: {raw}
                      metadata_context_namespaces: [acme]
                      route_metadata_context_namespaces: [acme]"
    )
}

fn by_http(open: bool) -> String {
    format!(
        "transport_api_version: V3
                      failure_mode_allow: {open}
                      http_service:
                        server_uri: {{uri: 'http://127.0.0.1:8181', cluster: portcullis_http, timeout: 0.25s}}
                        path_prefix: /ext_authz
                        authorization_request:
                          headers_to_add: [{{key: x-real-ip, value: '%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%'}}]
                        authorization_response:
                          allowed_upstream_headers: {{patterns: [{{prefix: x-}}]}}
                          allowed_client_headers: {{patterns: [{{prefix: x-}}, {{exact: www-authenticate}}, {{exact: retry-after}}, {{exact: content-type}}]}}
                          allowed_client_headers_on_success: {{patterns: [{{exact: x-decided}}, {{exact: x-source}}]}}"
    )
}

fn listener(port: u16, authz: &str, cluster: &str) -> String {
    let filter = if authz.is_empty() {
        String::new()
    } else {
        format!(
            "
                  - name: envoy.filters.http.set_metadata
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.set_metadata.v3.Config
                      metadata: [{{metadata_namespace: acme, value: {{zone: eu, n: 3}}}}]
                  - name: envoy.filters.http.ext_authz
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz
                      {authz}"
        )
    };
    format!(
        "
    - address: {{socket_address: {{address: {SERVER_V4}, port_value: {port}}}}}
      filter_chains:
        - filters:
            - name: envoy.filters.network.http_connection_manager
              typed_config:
                \"@type\": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
                stat_prefix: p{port}
                use_remote_address: true
                access_log:
                  - name: envoy.access_loggers.stderr
                    typed_config:
                      \"@type\": type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StderrAccessLog
                      log_format: {{text_format_source: {{inline_string: \"{LOG}\"}}}}
                http_filters:{filter}
                  - name: envoy.filters.http.router
                    typed_config: {{\"@type\": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
                route_config:
                  virtual_hosts:
                    - name: all
                      domains: [\"*\"]
                      routes: [{{match: {{prefix: /}}, route: {{cluster: {cluster}}}, metadata: {{filter_metadata: {{acme: {{tier: gold}}}}}}}}]"
    )
}

fn cluster(name: &str, port: u16, more: &str) -> String {
    format!(
        "
    - name: {name}
      type: STATIC
      connect_timeout: 1s
      load_assignment:
        cluster_name: {name}
        endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]{more}"
    )
}

pub fn config() -> String {
    let http2 = "
      typed_extension_protocol_options:
        envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
          \"@type\": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
          explicit_http_config: {http2_protocol_options: {}}";
    let healthy = format!(
        "{http2}
      common_lb_config: {{healthy_panic_threshold: {{value: 0}}}}
      health_checks:
        - {{timeout: 5s, interval: 5s, unhealthy_threshold: 1, healthy_threshold: 1, grpc_health_check: {{}}}}"
    );
    let listeners = [
        listener(GRPC, &by_grpc(false, true), "service"),
        listener(GRPC_OPEN, &by_grpc(true, true), "service"),
        listener(GRPC_JOINED, &by_grpc(false, false), "service"),
        listener(HTTP, &by_http(false), "service"),
        listener(HTTP_OPEN, &by_http(true), "service"),
        listener(HEALTH, "", "healthy"),
    ];
    let clusters = [
        cluster("service", 8080, ""),
        cluster("portcullis", 8181, http2),
        cluster("portcullis_http", 8181, ""),
        cluster("healthy", 8181, &healthy),
    ];
    format!("static_resources:\n  listeners:{}\n  clusters:{}\n", listeners.concat(), clusters.concat())
}

struct Scene {
    envoy: Process,
    w: World,
}

impl Scene {
    fn make(serve: &str) -> Result<Option<Self>> {
        if !is_root() || !portcullis_tests::has("curl") {
            return Ok(None);
        }
        let Some(binary) = envoy() else { return Ok(None) };
        let w = gateway::world_with(serve, |config| config.max_body = 4096)?;
        let envoy = start_envoy(&w.net.server, &w.dir, &binary, &config())?;
        Ok(Some(Self { envoy, w }))
    }

    fn ask(&self, port: u16, path: &str, headers: &[&str]) -> Result<Answer> {
        gateway::ask(&self.w, port, path, headers)
    }

    /// The head of the last request that reached the service.
    fn served(&self) -> String {
        self.w.server.requests().pop().unwrap_or_default()
    }
}

#[test]
fn through_envoy_each_request_gets_what_was_decided_by_grpc_and_by_http() -> Result<()> {
    let Some(s) = Scene::make("")? else { return Ok(()) };
    let (good, revoked) = (s.w.mint.hs256()?, s.w.mint.hs256()?);
    for port in [GRPC, GRPC_JOINED, HTTP] {
        let allowed = s.ask(port, "/v1/orders?a=b", &[&bearer(&good), "X-Portcullis-Subject: forged"])?;
        assert!(is_the_services(&allowed), "{port}: {allowed:?}");
        let head = s.served();
        assert!(head.contains("x-portcullis-subject: sub-") && !head.contains("forged"), "{port}: {head}");
        let missing = s.ask(port, "/v1/orders", &[])?;
        assert_eq!((missing.status, missing.header("www-authenticate")), (401, Some("Bearer")), "{port}");
        assert_eq!(missing.header("x-portcullis-reason"), Some("token_missing"), "{port}: {missing:?}");
        assert!(missing.body.contains("token_missing"), "{port}: {missing:?}");
        let forged = portcullis_tests::tokens::forged(&good)?;
        for bad in ["Authorization: Bearer", "Authorization: Bearer x", &bearer(&forged)] {
            assert_eq!(s.ask(port, "/v1/orders", &[bad])?.status, 401, "{port} {bad}");
        }
        // Two credentials, of which another would read the other.
        let two = s.ask(port, "/v1/orders", &[&bearer(&good), &bearer(&revoked)])?;
        assert_eq!((two.status, two.header("x-portcullis-reason")), (401, Some("token_malformed")), "{port}");
        assert_eq!(s.ask(port, "/a%2fb", &[&bearer(&good)])?.status, 400, "{port}");
    }
    let before = s.w.server.requests().len();
    for port in [GRPC, GRPC_JOINED, HTTP] {
        assert_eq!(s.ask(port, "/v1/orders", &[&bearer(&revoked)])?.status, 200);
    }
    assert_eq!(s.w.server.requests().len(), before + 3);
    s.w.daemon.revoke(&revoked)?;
    for port in [GRPC, GRPC_OPEN, GRPC_JOINED, HTTP, HTTP_OPEN] {
        let refused = s.ask(port, "/v1/orders", &[&bearer(&revoked)])?;
        assert_eq!(
            (refused.status, refused.header("x-portcullis-reason")),
            (401, Some("token_revoked")),
            "{port}"
        );
    }
    assert_eq!(s.w.server.requests().len(), before + 3);
    Ok(())
}

#[test]
fn headers_bodies_and_metadata_of_a_decision_reach_whom_they_are_for() -> Result<()> {
    let Some(s) = Scene::make("")? else { return Ok(()) };
    let good = s.w.mint.hs256()?;
    for port in [GRPC, HTTP] {
        let client = [
            bearer(&good),
            "X-Secret: s3cret".into(),
            "X-User: forged".into(),
            "X-Real-IP: 192.0.2.66".into(),
            "X-Forwarded-For: 192.0.2.66".into(),
        ];
        let client: Vec<&str> = client.iter().map(String::as_str).collect();
        let rich = s.ask(port, "/rich", &client)?;
        assert_eq!((rich.status, rich.header("x-decided")), (200, Some("yes")), "{port}: {rich:?}");
        assert_eq!(rich.header("x-source"), Some("10.77.0.2"), "{port}: {rich:?}");
        let head = s.served();
        assert!(head.contains("x-user: sub-"), "{port}: {head}");
        assert!(!head.contains("forged") && !head.contains("s3cret"), "{port}: {head}");
        assert!(head.contains("red") && head.contains("blue"), "{port}: {head}");
        // Where the daemon names nobody, nobody else does.
        let forged = ["X-Portcullis-Subject: forged", "X-Portcullis-Reason: forged"];
        assert!(is_the_services(&s.ask(port, "/nobody", &forged)?), "{port}");
        assert!(!s.served().contains("forged"), "{port}: {}", s.served());
        let limited = s.ask(port, "/limited", &[&bearer(&good)])?;
        assert_eq!((limited.status, limited.body.as_str()), (429, "slow down"), "{port}: {limited:?}");
        assert_eq!(
            (limited.header("x-quota"), limited.header("retry-after")),
            (Some("0"), Some("1")),
            "{port}"
        );
        assert_eq!(limited.header("content-type"), Some("text/x-test"), "{port}");
    }
    s.envoy.await_line(0, |l| l.contains("ACCESS 200") && l.contains("gold") && l.contains("allowed"))?;
    s.envoy.await_line(0, |l| l.contains("ACCESS 429") && l.contains("policy_denied"))?;
    // 5xx is a denial by gRPC; by HTTP Envoy would take it for a failure of the daemon, and let it pass where it may.
    for port in [GRPC, GRPC_OPEN] {
        assert_eq!(s.ask(port, "/closed", &[&bearer(&good)])?.status, 503, "{port}");
    }
    for port in [HTTP, HTTP_OPEN] {
        let closed = s.ask(port, "/closed", &[&bearer(&good)])?;
        assert_eq!((closed.status, closed.header("x-portcullis-status")), (403, Some("503")), "{port}");
    }
    Ok(())
}

#[test]
fn a_failed_decision_is_a_denial_even_where_envoy_lets_failures_pass() -> Result<()> {
    let Some(s) = Scene::make("")? else { return Ok(()) };
    let good = bearer(&s.w.mint.hs256()?);
    for (port, status) in [(GRPC, 503), (GRPC_OPEN, 503), (HTTP, 403), (HTTP_OPEN, 403)] {
        let broken = s.ask(port, "/broken", &[&good])?;
        assert_eq!(
            (broken.status, broken.header("x-portcullis-reason")),
            (status, Some("policy_error")),
            "{port}"
        );
    }
    // More than the daemon reads, where Envoy would send it.
    let large = format!("X-Large: {}", "x".repeat(8_000));
    for port in [GRPC, GRPC_OPEN] {
        let refused = s.ask(port, "/v1/orders", &[&good, &large])?;
        assert_eq!((refused.status, refused.header("x-portcullis-reason")), (413, Some("request_too_large")));
    }
    assert!(
        s.w.daemon
            .metrics()?
            .contains("portcullis_decisions_total{door=\"ext_authz\",reason=\"policy_error\"} 2")
    );
    drop(s);
    let Some(s) = Scene::make("fail_open = [\"ext_authz\"]")? else { return Ok(()) };
    let good = bearer(&s.w.mint.hs256()?);
    let open = s.ask(GRPC, "/broken", &[&good])?;
    assert!(is_the_services(&open), "{open:?}");
    assert!(s.served().contains("x-portcullis-reason: policy_error"));
    assert_eq!(s.ask(HTTP, "/broken", &[&good])?.status, 403, "only the door that is named fails open");
    assert!(s.w.daemon.metrics()?.contains("portcullis_fail_open_total{door=\"ext_authz\"} 1"));
    Ok(())
}

#[test]
fn a_daemon_that_is_gone_hangs_or_comes_back_is_what_failure_mode_allow_is_for() -> Result<()> {
    let Some(mut s) = Scene::make("")? else { return Ok(()) };
    let good = bearer(&s.w.mint.hs256()?);
    let ask =
        |s: &Scene, port: u16| s.ask(port, "/v1/orders", &[&good]).map(|a| (a.status, is_the_services(&a)));
    let (passes, refused) = ((200, true), (403, false));
    let closed_and_open = |s: &Scene, when: &str| -> Result<()> {
        for port in [GRPC, HTTP] {
            assert_eq!(ask(s, port)?, refused, "{when} {port}");
        }
        for port in [GRPC_OPEN, HTTP_OPEN] {
            assert_eq!(ask(s, port)?, passes, "{when} {port}");
        }
        Ok(())
    };
    for port in [GRPC, HTTP] {
        assert_eq!(ask(&s, port)?, passes);
    }
    s.w.daemon.freeze(true)?;
    closed_and_open(&s, "hangs")?;
    s.w.daemon.freeze(false)?;
    for port in [GRPC, HTTP] {
        assert_eq!(ask(&s, port)?, passes, "goes on");
    }
    s.w.daemon.kill9()?;
    closed_and_open(&s, "gone")?;
    s.w.daemon.restart()?;
    for port in [GRPC, GRPC_OPEN, HTTP, HTTP_OPEN] {
        assert_eq!(ask(&s, port)?, passes, "again");
        assert_eq!(s.ask(port, "/v1/orders", &[])?.status, 401, "decides again");
    }
    // An end that lets requests in progress finish, under a client that asks all the while.
    s.w.daemon.stop()?;
    assert_eq!(ask(&s, GRPC)?, refused);
    Ok(())
}

#[test]
fn envoy_finds_the_daemon_healthy_by_grpc() -> Result<()> {
    let Some(s) = Scene::make("")? else { return Ok(()) };
    // Envoy's listener opens after its first health check: a daemon that was not found serving has no host here.
    assert_eq!(s.ask(HEALTH, "/health", &[])?.status, 200);
    Ok(())
}

#[test]
fn the_configuration_that_is_shipped_is_good_and_works() -> Result<()> {
    let Some(binary) = envoy().filter(|_| is_root() && portcullis_tests::has("curl")) else { return Ok(()) };
    let w = gateway::world("")?;
    let shipped = std::fs::read_to_string(repository().join("deploy/envoy/envoy.yaml"))?;
    let port = "address: 127.0.0.1, port_value: 8000";
    assert!(shipped.contains(port));
    let here = shipped.replace(port, &format!("address: {SERVER_V4}, port_value: 8000"));
    let _envoy = start_envoy(&w.net.server, &w.dir, &binary, &here)?;
    let good = w.mint.hs256()?;
    assert_eq!(gateway::ask(&w, GRPC, "/v1/orders", &[&bearer(&good)])?.status, 200);
    w.daemon.revoke(&good)?;
    assert_eq!(gateway::ask(&w, GRPC, "/v1/orders", &[&bearer(&good)])?.status, 401);
    Ok(())
}

#[test]
fn what_is_no_check_is_a_denial_and_never_an_error() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.max_body = 2048;
        Ok(())
    })?;
    let whole = portcullis_tests::bench::grpc::check("GET", "/v1/orders", &w.mint.hs256()?).to_vec();
    let contains = |bytes: &[u8], text: &str| bytes.windows(text.len()).any(|w| w == text.as_bytes());
    let (status, allowed) = grpc::call(&w.net.server, CHECK, whole.clone())?;
    assert_eq!((status.as_str(), contains(&allowed, "allowed")), ("0", true));
    let mut compressed = whole.clone();
    compressed[0] = 1;
    let mut not_utf8 = whole.clone();
    let at = not_utf8.windows(6).position(|w| w == b"Bearer").unwrap();
    not_utf8[at] = 0xff;
    for (name, body, reason) in [
        ("nothing", Vec::new(), "request_malformed"),
        ("an empty message", vec![0; 5], "request_malformed"),
        ("half a message", whole[..whole.len() / 2].to_vec(), "request_malformed"),
        ("two messages", [&whole[..], &whole[..]].concat(), "request_malformed"),
        ("compressed", compressed, "request_malformed"),
        ("bytes that are no text", not_utf8, "request_malformed"),
        ("noise", (0..999_u32).map(|n| (n * n % 251) as u8).collect(), "request_malformed"),
        (
            "a length of four gigabytes",
            [&[0, 255, 255, 255, 255][..], &whole[5..]].concat(),
            "request_malformed",
        ),
        ("more than is read", vec![0; 100_000], "request_too_large"),
    ] {
        let (status, answer) = grpc::call(&w.net.server, CHECK, body)?;
        assert_eq!(status, "0", "{name}");
        assert!(contains(&answer, reason) && !contains(&answer, "allowed"), "{name}: {answer:?}");
        // The status has a code of its own (field 1 of field 1): Envoy goes by that alone.
        assert_eq!((answer[5], answer[7]), (0x0a, 0x08), "{name}: {answer:?}");
        assert_ne!(answer[8], 0, "{name}");
    }
    // Each message with one byte changed: none is an error, and none passes with another token.
    for at in 5..whole.len() {
        let mut changed = whole.clone();
        changed[at] ^= 0x11;
        let (status, answer) = grpc::call(&w.net.server, CHECK, changed)?;
        assert_eq!(status, "0", "byte {at}");
        assert!(!answer.is_empty(), "byte {at}");
    }
    assert_eq!(grpc::call(&w.net.server, "/envoy.service.auth.v3.Authorization/Other", whole)?.0, "12");
    assert_eq!(
        grpc::call(&w.net.server, HEALTH_CALL, vec![0; 5])?,
        ("0".to_owned(), vec![0, 0, 0, 0, 2, 8, 1].into())
    );
    assert_eq!(grpc::call(&w.net.server, HEALTH_CALL, b"\0\0\0\0\x03\x0a\x01x".to_vec())?.0, "5");
    Ok(())
}

/// As policies for OPA's Envoy plugin are written: they know its input, and nothing of ours.
const FOR_THE_PLUGIN: &str = r#"package envoy.authz

import input.attributes.request.http as http_request

default allow := false

allow := {"allowed": true, "headers": [{"x-role": claims.sub}], "query_parameters_to_set": {"seen": "by%20us"}, "query_parameters_to_remove": ["tenant"]} if {
	http_request.method == "GET"
	input.parsed_path == ["v1", "orders"]
	input.parsed_query.tenant[0] == "acme corp"
	input.attributes.source.address.socketAddress.address == "10.77.0.2"
	input.version.ext_authz == "v3"
	input.attributes.metadataContext.filterMetadata.acme == {"zone": "eu", "n": 3}
	input.attributes.routeMetadataContext.filterMetadata.acme.tier == "gold"
	contains(claims.scope, "orders:read")
}

allow if http_request.headers["x-key"] == "open"

allow := {"allowed": false, "http_status": 302, "headers": {"location": "/login"}} if http_request.path == "/account"

claims := payload if {
	[_, encoded] := split(http_request.headers.authorization, " ")
	[_, payload, _] := io.jwt.decode(encoded)
}
"#;

#[test]
fn rego_written_for_opas_plugin_decides_unchanged() -> Result<()> {
    if !is_root() || !portcullis_tests::has("curl") {
        return Ok(());
    }
    let Some(binary) = envoy() else { return Ok(()) };
    let w = World::with(|c, dir| {
        std::fs::create_dir(dir.path("plugin"))?;
        dir.write("plugin/policy.rego", FOR_THE_PLUGIN)?;
        c.policies = dir.path("plugin");
        c.policy = "decision = \"envoy/authz/allow\"".to_owned();
        c.serve = "envoy_input = true".to_owned();
        Ok(())
    })?;
    let envoy = start_envoy(&w.net.server, &w.dir, &binary, &config())?;
    let s = Scene { envoy, w };
    let (good, path) = (s.w.mint.hs256()?, "/v1/orders?tenant=acme+corp");
    for port in [GRPC, GRPC_JOINED] {
        for round in 0..2 {
            let allowed = s.ask(port, path, &[&bearer(&good)])?;
            assert!(is_the_services(&allowed), "{port} {round}: {allowed:?}");
            assert!(s.served().contains("x-role: sub-"), "{port} {round}: {}", s.served());
            assert!(s.served().contains("/v1/orders?seen=by%20us "), "{port} {round}: {}", s.served());
            let login = s.ask(port, "/account", &[&bearer(&good)])?;
            assert_eq!(
                (login.status, login.header("location")),
                (302, Some("/login")),
                "{port} {round}: {login:?}"
            );
            // What the policy reads is part of the key: no verdict of one serves another.
            for other in ["/v1/orders?tenant=other", "/v1/orders", "/v1/other?tenant=acme+corp"] {
                assert_eq!(s.ask(port, other, &[&bearer(&good)])?.status, 403, "{port} {round} {other}");
            }
            let by_key = s.ask(port, "/any", &[&bearer(&good), "X-Key: open"])?;
            assert!(is_the_services(&by_key), "{port} {round}: {by_key:?}");
        }
    }
    s.w.daemon.revoke(&good)?;
    assert_eq!(s.ask(GRPC, path, &[&bearer(&good)])?.status, 401);
    assert!(!s.w.daemon.log().iter().any(|l| l.contains(&good)), "the token is in no log");
    drop(s.envoy);
    Ok(())
}
