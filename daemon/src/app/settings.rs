//! Turns the raw configuration into each room's own settings.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};

use crate::{
    config::{
        AttachMode, CertificateForm, Config, EnforcementMode, FailOpenDoor, GateMode, Issuer, Kernel,
        KernelMode, MissingMode, OlderMode, OpaqueMode, ReactionMode, ServeTls, ShedAttach, ShedMode,
        UnavailableMode, UnknownMode, host_port,
    },
    decide,
    fetch::Secret,
    geo::Geo,
    kernel::{
        self, Answer, Answers, Attach, Enforcement, Gate, GuardedPort, Interfaces, Older, Opaque, Prefix,
        Reaction, ShedBy, ShedHook, ShedSettings, Unknown,
    },
    outside,
    policy::LoadOptions,
    revoke::{KeyIds, Limits, Namer, PlaneSettings, Tuning},
    serve::{DoorSettings, TlsSettings},
    telemetry::Door,
    token::{
        ApiKeySettings, BindingSettings, CertificateFormat, Credential, Extraction, FingerprintKeys,
        IntrospectionSettings, IssuerSettings, KeySource, PublisherSettings, RemoteKeys, StatusListSettings,
        TokenRules,
    },
    usage,
};

/// How the store keeps its files.
pub fn store(c: &Config) -> Tuning {
    let (audit_keep, audit_max) = (c.revocation.audit_keep.0, c.revocation.audit_max_bytes);
    Tuning { audit_keep, audit_max, ..Tuning::default() }
}

/// What the plane is told at start.
pub fn plane(c: &Config, keys: &FingerprintKeys, limits: Limits) -> PlaneSettings {
    let namer = Namer::new(keys.own.scan_key()).in_region(c.host.region.as_deref());
    PlaneSettings { limits, keys: self::keys(keys), namer }
}

/// The fingerprint keys in force, by their ids.
pub fn keys(keys: &FingerprintKeys) -> KeyIds {
    KeyIds { own: keys.own.id(), other: keys.other.as_ref().map(|k| k.id()) }
}

/// Of the keys that have been in force, those that are no more.
pub fn former(now: &FingerprintKeys, all: &BTreeSet<u32>) -> Vec<u32> {
    all.iter().copied().filter(|id| !keys(now).has(*id)).collect()
}

/// The kernel's settings; `None` where it is off.
pub fn kernel(c: &Config, keys: &FingerprintKeys, former: &[u32]) -> Result<Option<kernel::Settings>> {
    let k = &c.kernel;
    let reaction = match (k.mode, k.reaction) {
        (KernelMode::Off, _) => return Ok(None),
        (KernelMode::Observe, _) => Reaction::Observe,
        (KernelMode::Enforce, ReactionMode::Respond) => Reaction::Respond,
        (KernelMode::Enforce, ReactionMode::Reset) => Reaction::Reset,
        (KernelMode::Enforce, ReactionMode::Drop) => Reaction::Drop,
    };
    Ok(Some(kernel::Settings {
        pin_dir: k.pin_dir.clone(),
        interfaces: interfaces(&k.interfaces),
        namespaces: k.namespaces.clone(),
        gate: match k.gate {
            GateMode::Off => Gate::Off,
            GateMode::Door => Gate::Door,
            GateMode::Read => Gate::Read,
        },
        gate_cgroup: k.gate_cgroup.clone(),
        attach: match k.attach {
            AttachMode::Auto => Attach::Auto,
            AttachMode::Tcx => Attach::Tcx,
            AttachMode::Clsact => Attach::Clsact,
        },
        ports: k.ports.iter().map(|p| GuardedPort { address: p.address, port: p.port }).collect(),
        schemes: c.token.schemes.clone(),
        key_headers: c.token.key_headers.clone(),
        reaction,
        answers: answers(k)?,
        wait_for_interfaces: k.missing_interfaces == MissingMode::Wait,
        container_veth: k.container_veth,
        older: match k.older_connections {
            OlderMode::Pass => Older::Pass,
            OlderMode::Reset => Older::Reset,
        },
        enforcement: match k.enforcement {
            EnforcementMode::Strict => Enforcement::Strict,
            EnforcementMode::Fast => Enforcement::Fast,
        },
        opaque: match k.opaque {
            OpaqueMode::Pass => Opaque::Pass,
            OpaqueMode::Refuse => Opaque::Refuse,
        },
        unknown: match k.unknown {
            UnknownMode::Pass => Unknown::Pass,
            UnknownMode::Learn => Unknown::Learn,
            UnknownMode::Hold => Unknown::Hold,
        },
        max_head: k.max_head,
        proxy_ports: k.proxy_protocol_ports.clone(),
        shed: shed(k),
        h2c_ports: k.h2c_ports.clone(),
        max_entries: k.max_entries,
        key: keys.own.scan_key(),
        key_id: keys.own.id(),
        other: keys.other.as_ref().map(|k| (k.scan_key(), k.id())),
        former: former.to_vec(),
    }))
}

/// Whose floods are shed.
fn shed(k: &Kernel) -> ShedSettings {
    ShedSettings {
        by: match k.shed {
            ShedMode::Off => ShedBy::Off,
            ShedMode::Source => ShedBy::Source,
            ShedMode::Flow => ShedBy::Flow,
        },
        hooks: match k.shed_attach {
            ShedAttach::Auto => vec![ShedHook::Native, ShedHook::Generic],
            ShedAttach::Native => vec![ShedHook::Native],
            ShedAttach::Generic => vec![ShedHook::Generic],
        },
        after: k.shed_after,
        window: k.shed_window.0,
        time: k.shed_time.0,
        ipv6_prefix: k.shed_ipv6_prefix,
        never: k.shed_never.iter().map(|p| Prefix { address: p.address, len: p.len }).collect(),
    }
}

/// Interfaces as the configuration names them.
pub fn interfaces(names: &[String]) -> Vec<Interfaces> {
    names.iter().map(|name| Interfaces::read(name)).collect()
}

/// What the clients of refused requests are told.
fn answers(k: &Kernel) -> Result<Answers> {
    let challenge = |value: &'static str| ("WWW-Authenticate", value);
    let own = ("WWW-Authenticate", k.answer_challenge.as_str());
    let retry = k.retry_after.0.as_secs().max(1).to_string();
    let token: &[_] = if k.answer_challenge.is_empty() { &[] } else { &[own] };
    let answer = |key: &str, status: &str, headers: &[(&str, &str)], body: &str| {
        Answer::new(status, headers, body).ok_or_else(|| {
            anyhow!("`kernel.{key}` is too long: the whole answer, its headers included, must stay below 512 bytes")
        })
    };
    Ok(Answers {
        token: answer("answer_body", "401 Unauthorized", token, &k.answer_body)?,
        denied: answer(
            "denied_body",
            "403 Forbidden",
            &[challenge(r#"Bearer error="insufficient_scope""#)],
            &k.denied_body,
        )?,
        limited: answer(
            "limited_body",
            "429 Too Many Requests",
            &[("Retry-After", &retry)],
            &k.limited_body,
        )?,
        malformed: answer("answer_body", "400 Bad Request", &[], r#"{"error":"invalid_request"}"#)?,
        too_long: answer(
            "answer_body",
            "431 Request Header Fields Too Large",
            &[],
            r#"{"error":"invalid_request"}"#,
        )?,
    })
}

/// The issuers whose tokens are accepted.
pub fn issuers(c: &Config) -> Vec<IssuerSettings> {
    c.token.issuer.iter().filter_map(issuer).collect()
}

fn issuer(i: &Issuer) -> Option<IssuerSettings> {
    // The configuration was checked: exactly one source is given, and the address is one.
    let keys = match (&i.jwks_file, &i.pem_file, &i.hmac_file) {
        (Some(path), _, _) => KeySource::JwksFile(path.clone()),
        (_, Some(path), _) => KeySource::PemFile { path: path.clone(), kid: i.kid.clone() },
        (_, _, Some(path)) => KeySource::HmacFile { path: path.clone(), kid: i.kid.clone() },
        _ => KeySource::Remote(RemoteKeys {
            url: i.jwks_url.as_ref().map(|url| url.parse()).transpose().ok()?,
            ca_file: i.ca_file.clone(),
            plain_http: i.plain_http,
            refresh: i.refresh.0,
            refresh_min: i.refresh_min.0,
            max_stale: i.jwks_max_stale.0,
            timeout: i.jwks_timeout.0,
            wait: i.jwks_wait.0,
        }),
    };
    Some(IssuerSettings {
        issuer: i.issuer.clone(),
        audience: i.audience.clone(),
        algorithms: i.algorithms.clone(),
        keys,
        rules: TokenRules {
            typ: i.typ.clone(),
            leeway: i.leeway.map(|s| s.0),
            max_age: i.max_age.map(|s| s.0),
            required_claims: i.required_claims.clone(),
            require_bound: i.require_bound,
        },
    })
}

/// This host's name.
pub fn host_name(c: &Config) -> String {
    let own = || nix::unistd::gethostname().ok().and_then(|name| name.into_string().ok());
    c.host.name.clone().or_else(own).unwrap_or_default()
}

/// Where API keys are, if there are any.
pub fn api_keys(c: &Config) -> Option<ApiKeySettings> {
    let keys = &c.token.api_keys;
    let (prefix, issuer) = (keys.prefix.clone(), keys.issuer.as_str().into());
    let status_uri = c.standards.status_list.uri.clone();
    keys.file.clone().map(|file| ApiKeySettings { file, prefix, issuer, status_uri })
}

/// How status lists are fetched, if they are.
pub fn status_lists(c: &Config) -> Option<StatusListSettings> {
    let l = &c.token.status_list;
    (!l.hosts.is_empty()).then(|| StatusListSettings {
        hosts: l.hosts.clone(),
        ca_file: l.ca_file.clone(),
        plain_http: l.plain_http,
        timeout: l.timeout.0,
        wait: l.wait.0,
        ttl_min: l.ttl_min.0,
        ttl_max: l.ttl_max.0,
        max_stale: l.max_stale.0,
        max_bytes: l.max_bytes as usize,
        lists: l.lists,
        allow_unavailable: l.unavailable == UnavailableMode::Allow,
    })
}

/// How the status list of API keys is published, if it is.
pub fn publisher(c: &Config) -> Option<PublisherSettings> {
    let p = &c.standards.status_list;
    Some(PublisherSettings {
        uri: p.uri.clone()?,
        key_file: p.key_file.clone(),
        kid: p.kid.clone(),
        ttl: p.ttl.0,
        lifetime: p.lifetime.0,
    })
}

/// What policies are told of this host: `data.portcullis.host` and `data.portcullis.region`.
fn documents(c: &Config) -> serde_json::Value {
    let mut own = serde_json::json!({"host": {"name": host_name(c), "labels": c.host.labels}});
    if let Some(region) = &c.host.region {
        own["region"] = region.as_str().into();
    }
    serde_json::json!({"portcullis": own})
}

/// The server that is asked about opaque tokens, if there is one.
pub fn introspection(c: &Config) -> Result<Option<IntrospectionSettings>> {
    let i = &c.token.introspection;
    let Some(url) = &i.url else { return Ok(None) };
    let secret = i.secret_file.as_deref().map(secret).transpose()?;
    let credential = match (&i.client_id, secret) {
        (Some(id), Some(secret)) => Credential::Client(id.clone(), secret),
        (None, Some(token)) => Credential::Bearer(token),
        _ => Credential::None,
    };
    Ok(Some(IntrospectionSettings {
        url: url.parse().map_err(|e| anyhow!("`token.introspection.url`: {e}"))?,
        issuer: i.issuer.as_str().into(),
        audience: i.audience.clone(),
        credential,
        ca_file: i.ca_file.clone(),
        plain_http: i.plain_http,
        timeout: i.timeout.0,
        ttl: i.ttl.0,
        negative_ttl: i.negative_ttl.0,
        entries: i.entries,
        failures: i.failures,
        pause: i.pause.0,
        leeway: c.token.leeway.0,
        require_bound: i.require_bound,
    }))
}

/// The bearer token in a file, where `key` of the configuration names one. Others may not read it.
pub fn bearer(path: Option<&std::path::Path>, key: &str) -> Result<Option<Secret>> {
    path.map(|path| secret(path).with_context(|| format!("`{key}`"))).transpose()
}

/// A secret from a file of one line that others may not read.
pub(super) fn secret(path: &std::path::Path) -> Result<Secret> {
    Ok(Secret::read(path)?)
}

/// How proofs of whose a token is are judged.
pub fn binding(c: &Config) -> BindingSettings {
    let b = &c.token.binding;
    BindingSettings {
        certificate: match b.certificate_format {
            CertificateForm::Xfcc => CertificateFormat::Xfcc,
            CertificateForm::Pem => CertificateFormat::Pem,
            CertificateForm::Thumbprint => CertificateFormat::Thumbprint,
        },
        proof_age: i64::try_from(b.proof_age.0.as_secs()).unwrap_or(60),
        leeway: i64::try_from(c.token.leeway.0.as_secs()).unwrap_or(30),
        plain_http: b.plain_http,
        proofs: usize::try_from(b.proofs).unwrap_or(usize::MAX),
    }
}

/// How policy sets are loaded.
pub fn policy(c: &Config) -> LoadOptions {
    LoadOptions {
        run_tests: c.policy.require_tests,
        strict_builtin_errors: c.policy.strict_builtin_errors,
        rego_v0: c.policy.rego_v0,
        http_send: outside(c).is_some(),
        documents: Some(documents(c)),
        ..LoadOptions::default()
    }
}

/// What policies may ask servers; `None` where they may not.
pub fn outside(c: &Config) -> Option<outside::Settings> {
    let h = &c.policy.http_send;
    if h.hosts.is_empty() && h.private_hosts.is_empty() {
        return None;
    }
    // The configuration was checked.
    let host = |text: &String| {
        let (name, port) = host_port(text)?;
        Some(outside::Host { name, port: port.unwrap_or(443) })
    };
    Some(outside::Settings {
        hosts: h.hosts.iter().filter_map(host).collect(),
        private_hosts: h.private_hosts.iter().filter_map(host).collect(),
        ca_file: h.ca_file.clone(),
        timeout: h.timeout.0,
        budget: h.budget.0,
        max_calls: h.max_calls as usize,
        max_body: usize::try_from(h.max_body).unwrap_or(usize::MAX),
        cache_bytes: h.cache_bytes,
        at_once: h.at_once as usize,
        evaluation: LoadOptions::default().time_limit,
    })
}

/// How uses of tokens are noted, where they are.
pub fn usage(c: &Config) -> Option<usage::Settings> {
    let file = c.usage.file.clone()?;
    Some(usage::Settings { file, max_entries: c.usage.max_entries, keep: c.usage.keep.0 })
}

/// The databases that say where addresses are, if there are any. Blocks.
pub fn geo(c: &Config) -> Result<Option<Geo>> {
    let files = c.host.geo_databases.clone();
    if files.is_empty() { Ok(None) } else { Ok(Some(Geo::open(files)?)) }
}

/// How decisions are kept.
pub fn decide(c: &Config) -> decide::Settings {
    decide::Settings {
        cache_entries: c.decide.cache_entries,
        limit_entries: c.decide.limit_entries,
        default_ttl: c.decide.default_ttl.0,
        deny_ttl: c.decide.deny_ttl.unwrap_or(c.decide.default_ttl).0,
        max_ttl: c.decide.max_ttl.0,
        // What is condemned stays so for as long as any issuer's tokens may be accepted past their `exp`.
        leeway: c
            .token
            .issuer
            .iter()
            .filter_map(|i| i.leeway)
            .chain([c.token.leeway])
            .max()
            .unwrap_or(c.token.leeway)
            .0,
    }
}

/// How the front doors are set.
pub fn doors(c: &Config) -> DoorSettings {
    let path = c.serve.token_path.strip_prefix("input.").unwrap_or_default();
    DoorSettings {
        token_path: path.split('.').map(str::to_owned).collect(),
        gateways: c.serve.gateways.iter().map(|n| (n.address, n.len)).collect(),
        authzen_token: c.serve.authzen_token.split('.').map(str::to_owned).collect(),
        max_body: c.serve.max_body as usize,
        fail_open: c.serve.fail_open.iter().map(|d| (door(*d), decide::FailOpen)).collect(),
        default_decision: c.serve.default_decision.clone(),
        shown: shown(c),
        ext_authz_prefix: c.serve.ext_authz_prefix.clone(),
        envoy_input: c.serve.envoy_input,
        headers: c.decide.headers.clone(),
        certificate_header: c.token.binding.certificate_header.clone(),
        extraction: Extraction {
            schemes: c.token.schemes.clone(),
            key_headers: c.token.key_headers.clone(),
            max_bytes: c.token.max_bytes as usize,
        },
    }
}

pub(super) const fn door(d: FailOpenDoor) -> Door {
    match d {
        FailOpenDoor::ForwardAuth => Door::ForwardAuth,
        FailOpenDoor::ExtAuthz => Door::ExtAuthz,
        FailOpenDoor::ExtAuthzHttp => Door::ExtAuthzHttp,
        FailOpenDoor::Authzen => Door::Authzen,
    }
}

/// What OPA's `/v1/config` shows: no key, no file, nothing of tokens.
fn shown(c: &Config) -> serde_json::Value {
    serde_json::json!({
        "labels": {"version": env!("CARGO_PKG_VERSION")},
        "default_decision": format!("/{}", c.serve.default_decision),
        "decision": format!("/{}", c.policy.decision),
        "read_only": c.serve.opa_writes.is_none(),
        "max_body": c.serve.max_body,
    })
}

/// A listener's keys.
pub fn tls(t: &ServeTls) -> TlsSettings {
    TlsSettings { certificate: t.certificate.clone(), key: t.key.clone(), client_ca: t.client_ca.clone() }
}
