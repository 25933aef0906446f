//! A configuration with everything, and what becomes of it.

use std::path::Path;

use super::*;
use crate::{cli::import::source::substituted, config};

const OPA: &str = r#"
services:
  acme:
    url: https://opa.acme.example/api/
    credentials: {bearer: {token: "${TOKEN}"}}
    tls: {ca_cert: /etc/ssl/acme.pem}
  plain: {url: "http://logs.acme.example", credentials: {oauth2: {client_id: x}}}
labels: {region: eu, app: shop}
bundles:
  authz:
    service: acme
    resource: bundles/authz.tar.gz
    persist: true
    polling: {min_delay_seconds: 10, max_delay_seconds: 20, long_polling_timeout_seconds: 30}
    signing: {keyid: k1, scope: prod, exclude_files: ["*.md"]}
    size_limit_bytes: 1000000
keys:
  k1: {algorithm: ES256, key: "-----BEGIN PUBLIC KEY-----\nabc\n-----END PUBLIC KEY-----\n"}
decision_logs:
  service: plain
  reporting: {min_delay_seconds: 1, max_delay_seconds: 2, upload_size_limit_bytes: 32768}
  mask_decision: /other/mask
status: {service: acme}
persistence_directory: /var/opa
plugins:
  envoy_ext_authz_grpc: {addr: ":9191", path: envoy/authz/allow, dry-run: true, enable-reflection: true}
default_decision: /http/authz/allow
distributed_tracing: {type: grpc, address: "localhost:4317"}
caching: {inter_query_builtin_cache: {max_size_bytes: 1000}}
"#;

fn import(text: &str) -> Imported {
    let text = substituted(text, |name| (name == "TOKEN").then(|| "s3cret".to_owned()));
    convert(crate::policy::read_document(&text).unwrap(), Path::new("/etc/p")).unwrap()
}

#[test]
fn all_of_it_is_taken_over_or_listed() {
    let imported = import(OPA);
    let c = config::parse(Path::new("/etc/p/portcullis.toml"), &imported.toml)
        .unwrap_or_else(|e| panic!("{e}\n{}", imported.toml));
    assert_eq!(c.policy.decision, "envoy/authz/allow");
    assert_eq!(c.policy.state_dir, Path::new("/var/opa"));
    assert_eq!(c.policy.bundle_max_bytes, 1_000_000);
    let [b] = c.policy.bundle.as_slice() else { panic!("{:?}", c.policy.bundle) };
    assert_eq!(b.url.as_deref(), Some("https://opa.acme.example/api/bundles/authz.tar.gz"));
    assert_eq!(b.bearer_file.as_deref(), Some(Path::new("/etc/p/secrets/acme.token")));
    assert_eq!(b.ca_file.as_deref(), Some(Path::new("/etc/ssl/acme.pem")));
    assert_eq!((b.poll_min.0.as_secs(), b.poll_max.0.as_secs(), b.long_poll.0.as_secs()), (10, 20, 30));
    assert_eq!(
        (b.key_algorithm.as_str(), b.key_id.as_deref(), b.scope.as_deref()),
        ("ES256", Some("k1"), Some("prod"))
    );
    assert_eq!(b.key_file.as_deref(), Some(Path::new("/etc/p/keys/k1.pem")));
    assert_eq!(c.serve.default_decision, "http/authz/allow");
    assert!(c.serve.listen.len() == 2 && c.serve.envoy_input);
    assert_eq!(c.host.labels["region"], "eu");
    assert_eq!(
        (c.decision_log.url.as_str(), c.decision_log.batch_bytes),
        ("http://logs.acme.example/logs", 32_768)
    );
    // Secrets are in files, and nowhere else.
    assert!(!imported.toml.contains("s3cret") && !imported.notes.iter().any(|n| n.text.contains("s3cret")));
    assert_eq!(imported.files.len(), 2);
    let missing: Vec<&str> =
        imported.notes.iter().filter(|n| n.kind == Kind::Missing).map(|n| n.setting.as_str()).collect();
    for setting in [
        "services.plain.credentials.oauth2.client_id",
        "bundles.authz.signing.exclude_files",
        "decision_logs.mask_decision",
        "plugins.envoy_ext_authz_grpc.enable-reflection",
        "status.service",
        "caching.inter_query_builtin_cache.max_size_bytes",
        "distributed_tracing.address",
    ] {
        assert!(missing.contains(&setting), "{setting}: {missing:?}");
    }
    assert!(imported.notes.iter().any(|n| n.setting == "decision_logs.service" && n.text.contains("plain")));
}

#[test]
fn an_empty_one_and_a_list_of_services_are_read() {
    let imported = import("{}");
    config::parse(Path::new("/etc/p/portcullis.toml"), &imported.toml).unwrap();
    let listed = "services: [{name: a, url: 'https://a.example'}]\nbundles: {x: {service: a}}\n";
    assert!(import(listed).toml.contains("https://a.example/bundles/x"));
    assert!(convert(serde_json::json!([]), Path::new("/")).is_err());
}

#[test]
fn the_environment_is_filled_in_as_opa_does() {
    let get = |name: &str| (name == "A").then(|| "1".to_owned());
    assert_eq!(substituted("x${A}y${B}z ${ $A ${", get), "x1yz ${ $A ${");
}
