//! Reads and checks a configuration: all faults at once, each with file, line and key.

mod bundles;
mod fleet;
mod kernel;
mod standards;

use std::{
    fmt, fs,
    path::{Path, PathBuf},
};

use self::kernel::{check_kernel, check_shed};
use super::tables::{Config, Introspection, Issuer, LogSink, ServeTls};

/// One thing that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// The file.
    pub file: PathBuf,
    /// The line, from 1; 0 where the key is absent.
    pub line: usize,
    /// The key, dotted.
    pub key: String,
    /// What is wrong and what would be right.
    pub message: String,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if self.line > 0 {
            write!(f, "{}:", self.line)?;
        }
        if !self.key.is_empty() {
            write!(f, " `{}`:", self.key)?;
        }
        write!(f, " {}", self.message)
    }
}

/// Everything that is wrong with a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError(pub Vec<Fault>);

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&lines.join("\n"))
    }
}

impl std::error::Error for ConfigError {}

/// Reads and checks a file.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    let text = fs::read_to_string(path).map_err(|e| {
        ConfigError(vec![Fault {
            file: path.to_owned(),
            line: 0,
            key: String::new(),
            message: format!("cannot be read: {e}; name the configuration with --config"),
        }])
    })?;
    parse(path, &text)
}

/// Checks a configuration's text; `path` is for messages and for relative paths.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    let mut config: Config = toml::from_str(text).map_err(|e| ConfigError(vec![syntax(path, text, &e)]))?;
    let mut faults = Faults { file: path, text, found: Vec::new() };
    check(&config, &mut faults);
    if !faults.found.is_empty() {
        return Err(ConfigError(faults.found));
    }
    resolve(&mut config, path.parent().unwrap_or_else(|| Path::new(".")));
    Ok(config)
}

/// A fault of the text or of one value, as serde and the parser tell it.
fn syntax(path: &Path, text: &str, e: &toml::de::Error) -> Fault {
    let start = e.span().map_or(0, |s| s.start.min(text.len()));
    let line = text.get(..start).unwrap_or_default().matches('\n').count() + 1;
    let content = text.lines().nth(line - 1).unwrap_or_default();
    let table = text.lines().take(line).filter_map(table_name).last().unwrap_or_default();
    let key = content.split_once('=').map_or("", |(k, _)| k.trim());
    let key = match (table.is_empty() || table_name(content).is_some(), key.is_empty()) {
        (_, true) => table,
        (true, false) => key.to_owned(),
        (false, false) => format!("{table}.{key}"),
    };
    Fault { file: path.to_owned(), line, key, message: e.message().to_owned() }
}

fn table_name(line: &str) -> Option<String> {
    let line = line.trim();
    line.starts_with('[').then(|| line.trim_matches(|c| c == '[' || c == ']').to_owned())
}

struct Faults<'a> {
    file: &'a Path,
    text: &'a str,
    found: Vec<Fault>,
}

impl Faults<'_> {
    fn add(&mut self, key: &str, message: impl Into<String>) {
        let line = line_of(self.text, key);
        self.found.push(Fault {
            file: self.file.to_owned(),
            line,
            key: key.to_owned(),
            message: message.into(),
        });
    }

    fn unless(&mut self, good: bool, key: &str, message: &str) {
        if !good {
            self.add(key, message);
        }
    }
}

/// The line on which a dotted key stands (`table[2].key` for the third of an array of tables); 0 if absent.
fn line_of(text: &str, key: &str) -> usize {
    let Ok(document) = toml_edit::Document::parse(text) else { return 0 };
    let mut item = document.as_item();
    let mut span = None;
    for part in key.split('.') {
        let (name, index) = match part.split_once('[') {
            Some((name, rest)) => (name, rest.trim_end_matches(']').parse::<usize>().ok()),
            None => (part, None),
        };
        let Some(table) = item.as_table_like() else { break };
        let Some((at, next)) = table.get_key_value(name) else { break };
        span = at.span().or_else(|| next.span()).or(span);
        item = next;
        if let Some(i) = index {
            let Some(table) = item.as_array_of_tables().and_then(|a| a.get(i)) else { break };
            span = table.span().or(span);
            let Some((_, first)) = table.iter().next() else { break };
            // Look further inside this table alone.
            let rest = key.split_once(part).map_or("", |(_, r)| r.trim_start_matches('.'));
            if let Some((at, _)) = table.get_key_value(rest) {
                span = at.span().or(span);
            } else {
                span = span.or_else(|| first.span());
            }
            break;
        }
    }
    span.map_or(0, |s| text.get(..s.start).unwrap_or_default().matches('\n').count() + 1)
}

fn check(c: &Config, f: &mut Faults<'_>) {
    check_kernel(c, f);
    check_shed(c, f);
    f.unless(c.token.schemes.len() <= 8, "token.schemes", "has more than eight entries");
    f.unless(c.token.key_headers.len() <= 4, "token.key_headers", "has more than four entries");
    f.unless(
        !(c.token.schemes.is_empty() && c.token.key_headers.is_empty()),
        "token.schemes",
        "and token.key_headers are both empty: no request could carry a token",
    );
    for s in &c.token.schemes {
        f.unless(
            is_name(s, 15),
            "token.schemes",
            &format!("`{s}` is not a scheme of up to 15 letters, digits and dashes"),
        );
    }
    for h in &c.token.key_headers {
        f.unless(
            is_name(h, 31),
            "token.key_headers",
            &format!("`{h}` is not a header name of up to 31 letters, digits and dashes"),
        );
        f.unless(
            !["authorization", "content-length", "transfer-encoding", "host"]
                .contains(&h.to_ascii_lowercase().as_str()),
            "token.key_headers",
            &format!("`{h}` has a meaning of its own"),
        );
    }
    f.unless(
        (1..=c.kernel.max_head).contains(&c.token.max_bytes),
        "token.max_bytes",
        "must be at least 1 and at most kernel.max_head, which is what the kernel reads",
    );
    f.unless(
        c.token.leeway.0.as_secs() <= 300,
        "token.leeway",
        "must be at most 5m: a longer one keeps expired tokens alive",
    );
    for (i, issuer) in c.token.issuer.iter().enumerate() {
        check_issuer(issuer, i, f);
        f.unless(
            !c.token.issuer[..i].iter().any(|other| other.issuer == issuer.issuer),
            &format!("token.issuer[{i}].issuer"),
            "is configured twice: give all its audiences and algorithms in one table",
        );
    }
    let keys = &c.token.api_keys;
    f.unless(
        (1..16).contains(&keys.prefix.len()) && keys.prefix.bytes().all(|b| b.is_ascii_alphanumeric()),
        "token.api_keys.prefix",
        "is not of 1 to 15 letters and digits",
    );
    f.unless(
        !keys.issuer.is_empty() && !c.token.issuer.iter().any(|i| i.issuer == keys.issuer),
        "token.api_keys.issuer",
        "must be given and be no other issuer's: policies tell API keys by it",
    );
    check_introspection(&c.token.introspection, f);
    check_binding(c, f);
    f.unless(
        !(c.policy.dirs.is_empty() && c.policy.bundle.is_empty()),
        "policy.dirs",
        "names no directory, and there is no `[[policy.bundle]]`",
    );
    bundles::check(c, f);
    check_http_send(c, f);
    f.unless(
        c.policy.decision.split('/').all(|p| is_name(&p.replace('_', "-"), 100)),
        "policy.decision",
        "is not a rule's path such as \"portcullis/decision\"",
    );
    let fits = |ttl| ttl <= c.decide.max_ttl;
    f.unless(fits(c.decide.default_ttl), "decide.default_ttl", "is longer than decide.max_ttl");
    f.unless(c.decide.deny_ttl.is_none_or(fits), "decide.deny_ttl", "is longer than decide.max_ttl");
    for h in &c.decide.headers {
        f.unless(
            is_name(h, 100) && !h.bytes().any(|b| b.is_ascii_uppercase()),
            "decide.headers",
            &format!("`{h}` is not a header name in lower case"),
        );
        let secret = ["authorization", "proxy-authorization", "cookie"].contains(&h.as_str())
            || c.token.key_headers.iter().any(|k| k.eq_ignore_ascii_case(h));
        f.unless(!secret, "decide.headers", &format!("`{h}` carries a credential, which policies never see"));
    }
    check_serve(c, f);
    f.unless((0.0..=1.0).contains(&c.trace.sample), "trace.sample", "must be from 0 to 1");
    check_record(c, f);
    check_admin(c, f);
    standards::check_standards(c, f);
    standards::check_ssf(c, f);
    standards::check_lists(c, f);
    fleet::check(c, f);
}

/// Tables of listeners with TLS.
fn check_tls(tables: &[ServeTls], name: &str, f: &mut Faults<'_>) {
    for (i, tls) in tables.iter().enumerate() {
        let key = |k: &str| format!("{name}[{i}].{k}");
        f.unless(!tls.listen.is_empty(), &key("listen"), "names no address");
        let given = |p: &PathBuf| !p.as_os_str().is_empty();
        f.unless(given(&tls.certificate), &key("certificate"), "must be given: a file in PEM");
        f.unless(given(&tls.key), &key("key"), "must be given: a file in PEM");
    }
}

/// The `[admin]` tables.
fn check_admin(c: &Config, f: &mut Faults<'_>) {
    check_tls(&c.admin.tls, "admin.tls", f);
    f.unless(
        c.admin.tls.is_empty()
            || c.admin.decision.split('/').all(|p| is_name(&p.replace('_', "-"), 100)),
        "admin.decision",
        "must be given beside `[[admin.tls]]`: the path of the rule that allows requests, such as \"admin/allow\"",
    );
}

/// The `[host]` and `[decision_log]` tables.
fn check_record(c: &Config, f: &mut Faults<'_>) {
    f.unless(c.usage.max_entries >= 1000, "usage.max_entries", "must be at least 1000");
    f.unless(c.usage.keep.0.as_secs() >= 24 * 3600, "usage.keep", "must be at least 1d");
    let log = &c.decision_log;
    f.unless(
        log.sink != LogSink::Http || !log.url.is_empty(),
        "decision_log.url",
        "must be given: the address that takes the lines",
    );
    f.unless(
        (1024..=64 << 20).contains(&log.batch_bytes),
        "decision_log.batch_bytes",
        "must be from 1024 to 67108864",
    );
    f.unless(!log.timeout.0.is_zero(), "decision_log.timeout", "must be more than nothing");
    f.unless(log.max_bytes >= 4096, "decision_log.max_bytes", "must be at least 4096");
    f.unless(log.max_age.0.as_secs() >= 60, "decision_log.max_age", "must be at least 1m");
    f.unless(log.keep <= 1000, "decision_log.keep", "must be at most 1000");
    f.unless(
        log.sample_allows >= 1,
        "decision_log.sample_allows",
        "must be at least 1: one of one is every one",
    );
    f.unless(
        (1 << 16..=1 << 32).contains(&log.buffer_bytes),
        "decision_log.buffer_bytes",
        "must be from 65536 to 4294967296",
    );
    for h in &log.headers {
        f.unless(
            c.decide.headers.contains(h),
            "decision_log.headers",
            &format!("`{h}` is not among decide.headers: no decision knows it"),
        );
    }
    let is_text = |s: &String| !s.is_empty() && s.len() <= 200 && !s.chars().any(char::is_control);
    let texts =
        c.host.name.iter().chain(&c.host.region).chain(c.host.labels.keys()).chain(c.host.labels.values());
    f.unless(
        texts.into_iter().all(is_text),
        "host",
        "has a text that is empty, longer than 200 bytes or not printable",
    );
}

/// The `[policy.http_send]` table.
fn check_http_send(c: &Config, f: &mut Faults<'_>) {
    let h = &c.policy.http_send;
    let key = |k: &str| format!("policy.http_send.{k}");
    for host in &h.hosts {
        let given = host_port(host).is_some();
        f.unless(
            given,
            &key("hosts"),
            &format!("`{host}` is not a host such as \"authz.example.com\" or \"authz.example.com:8443\""),
        );
    }
    for host in &h.private_hosts {
        let given = host_port(host).is_some_and(|(_, port)| port.is_some());
        f.unless(
            given,
            &key("private_hosts"),
            &format!("`{host}` is not a host with its port, such as \"127.0.0.1:9000\""),
        );
    }
    let (ms, minute) = (std::time::Duration::from_millis(1), std::time::Duration::from_mins(1));
    f.unless((ms..=minute).contains(&h.timeout.0), &key("timeout"), "must be from 1ms to 1m");
    f.unless(
        (ms..=minute).contains(&h.budget.0),
        &key("budget"),
        "must be from 1ms to 1m: gateways wait for it",
    );
    f.unless((1..=100).contains(&h.max_calls), &key("max_calls"), "must be from 1 to 100");
    f.unless((1..=64 << 20).contains(&h.max_body), &key("max_body"), "must be from 1 to 67108864");
    f.unless((1..=8192).contains(&h.at_once), &key("at_once"), "must be from 1 to 8192");
}

/// A host's name or address, in lower case, and its port where one is given.
pub fn host_port(text: &str) -> Option<(String, Option<u16>)> {
    let uri: http::Uri = format!("https://{text}/").parse().ok()?;
    let authority = uri.authority()?;
    let host = authority.host().trim_matches(['[', ']']).to_ascii_lowercase();
    let port = authority.as_str().len() > authority.host().len();
    let fits = !host.is_empty() && !text.contains(['@', '/', '?', '#', '*']) && uri.path() == "/";
    // A colon without a port behind it is a slip.
    (fits && port == uri.port_u16().is_some()).then(|| (host, uri.port_u16()))
}

/// The `[serve]` table.
fn check_serve(c: &Config, f: &mut Faults<'_>) {
    f.unless(!(c.serve.listen.is_empty() && c.serve.tls.is_empty()), "serve.listen", "names no address");
    check_tls(&c.serve.tls, "serve.tls", f);
    f.unless(
        c.serve
            .token_path
            .strip_prefix("input.")
            .is_some_and(|p| !p.is_empty() && p.split('.').all(|s| !s.is_empty())),
        "serve.token_path",
        "is not a path below `input`, such as \"input.token\"",
    );
    f.unless(
        (1024..=16 << 20).contains(&c.serve.max_body),
        "serve.max_body",
        "must be from 1024 to 16777216 bytes",
    );
    f.unless(
        u32::from_str_radix(&c.serve.socket_mode, 8).is_ok_and(|mode| mode <= 0o777),
        "serve.socket_mode",
        "is not a file mode in octal digits, such as \"0660\"",
    );
    f.unless(
        !c.serve.default_decision.is_empty() && c.serve.default_decision.split('/').all(|p| !p.is_empty()),
        "serve.default_decision",
        "is not a path such as \"system/main\"",
    );
    f.unless(
        c.serve.authzen_token.split('.').all(|p| !p.is_empty()),
        "serve.authzen_token",
        "is not a path such as \"context.token\"",
    );
    let prefix = c.serve.ext_authz_prefix.as_str();
    f.unless(
        prefix.is_empty()
            || (prefix.starts_with('/') && !prefix.ends_with('/') && is_name(&prefix.replace('/', ""), 100)),
        "serve.ext_authz_prefix",
        "is not a path such as \"/ext_authz\"",
    );
    f.unless(
        !["auth", "forward-auth", "health", "v0", "v1", "access"]
            .contains(&prefix.trim_start_matches('/').split('/').next().unwrap_or_default()),
        "serve.ext_authz_prefix",
        "is, or lies below, another front door's path",
    );
}

fn check_issuer(issuer: &Issuer, i: usize, f: &mut Faults<'_>) {
    let key = |k: &str| format!("token.issuer[{i}].{k}");
    f.unless(
        !issuer.issuer.is_empty(),
        &key("issuer"),
        "must be given: the exact `iss` of this issuer's tokens",
    );
    let files =
        [&issuer.jwks_file, &issuer.pem_file, &issuer.hmac_file].iter().filter(|s| s.is_some()).count();
    let sources = files + usize::from(issuer.jwks_url.is_some()) + usize::from(issuer.discovery);
    f.unless(
        sources == 1,
        &key("jwks_file"),
        "give exactly one of jwks_file, pem_file, hmac_file, jwks_url and discovery",
    );
    check_remote(issuer, &key, f);
    f.unless(
        !issuer.algorithms.is_empty(),
        &key("algorithms"),
        "must name the algorithms this issuer signs with, such as [\"ES256\"]",
    );
    for a in &issuer.algorithms {
        let known = [
            "ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512",
            "HS256", "HS384", "HS512",
        ];
        f.unless(
            known.contains(&a.as_str()),
            &key("algorithms"),
            &format!("`{a}` is not one of {}", known.join(", ")),
        );
        let hmac = a.starts_with("HS");
        f.unless(
            hmac == issuer.hmac_file.is_some() || issuer.jwks_file.is_some() || sources != 1,
            &key("algorithms"),
            &format!("`{a}` does not fit the kind of key given"),
        );
    }
    f.unless(
        issuer.kid.is_none() || issuer.pem_file.is_some() || issuer.hmac_file.is_some(),
        &key("kid"),
        "is for pem_file and hmac_file: a JWK set names its keys itself",
    );
}

/// Whether a text is an address that can be asked.
fn is_address(text: &str) -> bool {
    text.parse::<http::Uri>().is_ok_and(|u| {
        matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some_and(|h| !h.is_empty())
    })
}

fn check_introspection(i: &Introspection, f: &mut Faults<'_>) {
    let Some(url) = &i.url else { return };
    let key = |k: &str| format!("token.introspection.{k}");
    f.unless(is_address(url), &key("url"), "is not an address such as \"https://host/introspect\"");
    f.unless(!i.issuer.is_empty(), &key("issuer"), "must be given: policies tell its tokens by it");
    f.unless(
        i.client_id.is_none() || i.secret_file.is_some(),
        &key("secret_file"),
        "must be given with client_id: the file with the client's secret",
    );
    let (second, least) = (std::time::Duration::from_secs(1), std::time::Duration::from_millis(10));
    f.unless(
        (least..=5 * second).contains(&i.timeout.0),
        &key("timeout"),
        "must be from 10ms to 5s: decisions about its tokens wait for it",
    );
    f.unless(i.ttl.0 <= 3600 * second, &key("ttl"), "must be at most 1h: a token's end is seen so late");
    f.unless(i.negative_ttl.0 <= 3600 * second, &key("negative_ttl"), "must be at most 1h");
    f.unless(i.failures > 0, &key("failures"), "must be at least 1");
    f.unless(i.pause.0 >= least, &key("pause"), "must be at least 10ms");
}

fn check_binding(c: &Config, f: &mut Faults<'_>) {
    let b = &c.token.binding;
    f.unless(
        b.certificate_header
            .as_ref()
            .is_none_or(|h| is_name(h, 100) && !h.bytes().any(|b| b.is_ascii_uppercase()) && h != "dpop"),
        "token.binding.certificate_header",
        "is not a header name in lower case",
    );
    f.unless(
        (1..=600).contains(&b.proof_age.0.as_secs()),
        "token.binding.proof_age",
        "must be from 1s to 10m: proofs are remembered for so long",
    );
    f.unless(b.proofs > 0, "token.binding.proofs", "must be at least 1");
}

/// What stands for servers of keys, and rules of tokens.
fn check_remote(issuer: &Issuer, key: &dyn Fn(&str) -> String, f: &mut Faults<'_>) {
    if let Some(url) = &issuer.jwks_url {
        f.unless(is_address(url), &key("jwks_url"), "is not an address such as \"https://host/jwks.json\"");
    }
    f.unless(
        !issuer.discovery || is_address(&issuer.issuer),
        &key("discovery"),
        "needs an `issuer` that is an address such as \"https://host\"",
    );
    let second = std::time::Duration::from_secs(1);
    for (name, span) in [("refresh_min", issuer.refresh_min), ("jwks_timeout", issuer.jwks_timeout)] {
        f.unless(span.0 >= second / 10, &key(name), "must be at least 100ms");
    }
    f.unless(issuer.refresh_min <= issuer.refresh, &key("refresh_min"), "is longer than refresh");
    f.unless(
        issuer.jwks_max_stale.0 >= second,
        &key("jwks_max_stale"),
        "must be at least 1s, and longer than refresh, or keys go stale between two fetches",
    );
    f.unless(
        issuer.jwks_max_stale >= issuer.refresh,
        &key("jwks_max_stale"),
        "is shorter than refresh: keys would go stale between two fetches",
    );
    f.unless(
        issuer.jwks_wait.0 <= 2 * second,
        &key("jwks_wait"),
        "must be at most 2s: decisions wait for it",
    );
    f.unless(
        issuer.leeway.is_none_or(|l| l.0 <= 300 * second),
        &key("leeway"),
        "must be at most 5m: a longer one keeps expired tokens alive",
    );
    f.unless(
        issuer.typ.iter().all(|t| !t.is_empty() && t.is_ascii()),
        &key("typ"),
        "has an entry that is no type such as \"at+jwt\"",
    );
}

/// A token of RFC 9110 as far as names of headers and schemes need it.
fn is_name(s: &str, max: usize) -> bool {
    !s.is_empty() && s.len() <= max && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Makes relative paths relative to the configuration's own directory.
fn resolve(c: &mut Config, base: &Path) {
    let fix = |p: &mut PathBuf| {
        if p.is_relative() {
            *p = base.join(&*p);
        }
    };
    standards::resolve(c, fix);
    fleet::resolve(c, fix);
    fix(&mut c.kernel.pin_dir);
    c.token.other_fingerprint_key.iter_mut().chain([&mut c.token.fingerprint_key]).for_each(fix);
    c.token.api_keys.file.iter_mut().for_each(fix);
    let introspection = &mut c.token.introspection;
    [&mut introspection.secret_file, &mut introspection.ca_file].into_iter().flatten().for_each(fix);
    fix(&mut c.revocation.store);
    c.usage.file.iter_mut().for_each(fix);
    fix(&mut c.decision_log.file);
    [&mut c.decision_log.bearer_file, &mut c.decision_log.ca_file].into_iter().flatten().for_each(fix);
    fix(&mut c.admin.socket);
    for tls in &mut c.admin.tls {
        [&mut tls.certificate, &mut tls.key].into_iter().chain(&mut tls.client_ca).for_each(fix);
    }
    c.policy.dirs.iter_mut().for_each(fix);
    [&mut c.trace.bearer_file, &mut c.trace.ca_file].into_iter().flatten().for_each(fix);
    fix(&mut c.policy.state_dir);
    for b in &mut c.policy.bundle {
        let files = [&mut b.file, &mut b.key_file, &mut b.bearer_file, &mut b.ca_file];
        files.into_iter().flatten().for_each(fix);
    }
    c.policy.http_send.ca_file.iter_mut().for_each(fix);
    c.policy.candidate_dirs.iter_mut().for_each(fix);
    c.serve.opa_writes.iter_mut().for_each(fix);
    for tls in &mut c.serve.tls {
        [&mut tls.certificate, &mut tls.key].into_iter().chain(&mut tls.client_ca).for_each(fix);
    }
    for i in &mut c.token.issuer {
        let files = [&mut i.jwks_file, &mut i.pem_file, &mut i.hmac_file, &mut i.ca_file];
        files.into_iter().flatten().for_each(fix);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::KernelMode;

    const GOOD: &str = r#"
[kernel]
interfaces = ["lo"]
ports = [8080, "[::1]:80"]
[[token.issuer]]
issuer = "https://issuer.example"
algorithms = ["ES256"]
jwks_file = "jwks.json"
[policy]
dirs = ["policies"]
"#;

    fn faults(text: &str) -> Vec<(usize, String)> {
        match parse(Path::new("p.toml"), text) {
            Ok(_) => Vec::new(),
            Err(ConfigError(f)) => f.into_iter().map(|f| (f.line, f.key)).collect(),
        }
    }

    #[test]
    fn a_good_file_is_taken_and_its_paths_are_its_own() {
        let c = parse(Path::new("etc/p.toml"), GOOD).unwrap();
        assert_eq!(c.policy.dirs, [PathBuf::from("etc/policies")]);
        assert_eq!(c.token.issuer[0].jwks_file.as_deref(), Some(Path::new("etc/jwks.json")));
    }

    #[test]
    fn the_example_for_deployment_is_good() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/portcullis.toml");
        let text = include_str!("../../../deploy/portcullis.toml");
        let c = parse(Path::new(path), text).unwrap();
        assert_eq!(
            (c.kernel.mode, c.kernel.interfaces, c.kernel.ports.len()),
            (KernelMode::Enforce, vec!["lo".into()], 1)
        );
        // What it leaves out has its default; what it writes beside that is said to be the default or explained.
        assert_eq!(c.token.issuer.len(), 1);
        assert_eq!(c.serve.fail_open, []);
    }

    #[test]
    fn every_fault_is_named_with_its_line() {
        let text = "[kernel]\ninterfaces = [\"lo\"]\nports = [80]\nmax_entries = 0\n\n[token]\nleeway = \"1h\"\n[[token.issuer]]\nissuer = \"a\"\nalgorithms = [\"none\"]\njwks_file = \"x\"\n";
        let found = faults(text);
        assert!(found.contains(&(4, "kernel.max_entries".into())), "{found:?}");
        assert!(found.contains(&(7, "token.leeway".into())), "{found:?}");
        assert!(found.contains(&(10, "token.issuer[0].algorithms".into())), "{found:?}");
    }

    #[test]
    fn what_is_said_of_a_bundles_signature_takes_a_key() {
        let bundle = format!("{GOOD}[[policy.bundle]]\nname = \"b\"\nfile = \"b.tar.gz\"\n");
        assert_eq!(faults(&bundle), []);
        for line in ["key_id = \"k\"", "key_algorithm = \"RS256\"", "scope = \"s\""] {
            let name = format!("policy.bundle[0].{}", line.split(' ').next().unwrap());
            assert_eq!(faults(&format!("{bundle}{line}\n")), [(14, name)], "{line}");
            assert_eq!(faults(&format!("{bundle}{line}\nkey_file = \"k.pem\"\n")), [], "{line}");
        }
    }

    #[test]
    fn unknown_keys_and_wrong_types_name_their_line() {
        assert_eq!(faults("[kernel]\nprots = [80]\n"), [(2, "kernel.prots".to_owned())]);
        assert_eq!(faults("[kernel]\nports = [0]\n"), [(2, "kernel.ports".to_owned())]);
        assert_eq!(faults("[token]\nleeway = \"soon\"\n"), [(2, "token.leeway".to_owned())]);
        assert_eq!(faults("[kernel\n").len(), 1);
    }

    #[test]
    fn credentials_never_become_policy_input() {
        let text = GOOD.replace("[policy]", "[decide]\nheaders = [\"cookie\"]\n[policy]");
        assert_eq!(faults(&text).len(), 1);
    }
}
