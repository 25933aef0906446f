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
        (b.key_algorithm.as_deref(), b.key_id.as_deref(), b.scope.as_deref()),
        (Some("ES256"), Some("k1"), Some("prod"))
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

fn note<'a>(imported: &'a Imported, setting: &str) -> (Kind, &'a str) {
    let found = imported.notes.iter().find(|n| n.setting == setting);
    found.map_or_else(|| panic!("{setting}: {:?}", imported.notes), |n| (n.kind, n.text.as_str()))
}

#[test]
fn a_bundle_that_is_to_be_signed_never_becomes_one_that_need_not() {
    for (signing, keys, file) in [
        ("{keyid: zz}", "{}", "zz.pem"),
        ("{keyid: zz}", "{k: {key: abc}}", "zz.pem"),
        ("{keyid: zz, scope: s}", "{zz: {algorithm: ES256}}", "zz.pem"),
        ("{scope: s}", "{a: {key: abc}, b: {key: def}}", "x.pem"),
        ("{keyid: {}}", "{}", "x.pem"),
        ("{}", "{}", "x.pem"),
        ("yes please", "{}", "x.pem"),
    ] {
        let text = format!(
            "services: {{a: {{url: 'https://a.example'}}}}\nkeys: {keys}\nbundles: {{x: {{service: a, signing: {signing}}}}}\n"
        );
        let imported = import(&text);
        let c = config::parse(Path::new("/etc/p/portcullis.toml"), &imported.toml).unwrap();
        let path = Path::new("/etc/p/keys").join(file);
        assert_eq!(c.policy.bundle[0].key_file.as_ref(), Some(&path), "{text}");
        assert!(!imported.files.iter().any(|(p, _)| *p == path), "{text}");
        let (kind, said) = note(&imported, "bundles.x.signing");
        assert!(kind == Kind::Missing && said.contains(&path.display().to_string()), "{said}");
    }
    let plain = import("services: {a: {url: 'https://a.example'}}\nbundles: {x: {service: a}}\n");
    assert!(!plain.toml.contains("key"));
}

#[test]
fn two_bundles_may_be_signed_with_one_key_and_its_scope() {
    let text = "services: {a: {url: 'https://a.example'}}
keys: {g.k: {key: abc, scope: write}, g-k: {key: def, algorithm: HS256}, idle: {key: x}}
bundles:
  x: {service: a, signing: {keyid: g.k}}
  xy: {service: a, signing: {keyid: g.k, scope: read}}
  z: {service: a, signing: {keyid: g-k}}
";
    let imported = import(text);
    let c = config::parse(Path::new("/etc/p/portcullis.toml"), &imported.toml).unwrap();
    let [x, y, z] = c.policy.bundle.as_slice() else { panic!("{:?}", c.policy.bundle) };
    assert_eq!((x.scope.as_deref(), y.scope.as_deref()), (Some("write"), Some("read")));
    assert!(x.key_file.is_some() && x.key_file == y.key_file && x.key_file != z.key_file);
    assert_eq!(z.key_algorithm.as_deref(), Some("HS256"));
    assert_eq!(imported.files.len(), 2);
    assert_eq!(note(&imported, "keys.g.k.scope").0, Kind::Changed);
    assert_eq!(note(&imported, "keys.idle").0, Kind::Missing);
}

#[test]
fn what_is_said_of_a_setting_is_so() {
    let text = "services:
  a: {url: 'https://a.example'}
  mtls: {url: 'https://b.example', tls: {ca_cert: /ca.pem}, credentials: {bearer: {token: t0p}}}
bundles: {x: {service: a}}
decision_logs: {console: true, reporting: {upload_size_limit_bytes: 1000}}
distributed_tracing: {type: grpc}
caching: {}
status: {console: {}}
";
    let imported = import(text);
    let said = |setting: &str| note(&imported, setting);
    assert!(imported.files.is_empty() && !imported.toml.contains("ca.pem"));
    assert!(!imported.notes.iter().any(|n| n.setting.contains("ca_cert")), "{:?}", imported.notes);
    assert_eq!(said("services.mtls").0, Kind::Missing);
    let (kind, what) = said("decision_logs.reporting.upload_size_limit_bytes");
    assert!(kind == Kind::Changed && what.contains("4096") && what.contains("1000"), "{what}");
    assert!(said("distributed_tracing.type").1.contains("[trace]"));
    assert_eq!((said("caching").0, said("status.console").0), (Kind::Missing, Kind::Missing));
}

#[test]
fn the_environment_is_filled_in_as_opa_does() {
    let get = |name: &str| (name == "A").then(|| "1".to_owned());
    assert_eq!(substituted("x${A}y${B}z ${ $A ${", get), "x1yz ${ $A ${");
}
