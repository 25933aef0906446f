//! What becomes of each setting.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::{Path, PathBuf},
};

use serde_json::Value;
use zeroize::Zeroizing;

use super::source::Source;
use crate::fetch::Url;

/// What became of a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It means the same here.
    Kept,
    /// It means something else, or is done in another way.
    Changed,
    /// There is nothing like it.
    Missing,
}

impl Kind {
    /// For programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Changed => "changed",
            Self::Missing => "missing",
        }
    }

    /// For people.
    pub const fn title(self) -> &'static str {
        match self {
            Self::Kept => "taken over",
            Self::Changed => "taken over in another form: please look at these",
            Self::Missing => "not taken over",
        }
    }
}

/// One setting.
#[derive(Debug, PartialEq, Eq)]
pub struct Note {
    pub setting: String,
    pub kind: Kind,
    pub text: String,
}

/// A configuration of ours.
pub struct Imported {
    pub toml: String,
    /// Keys and tokens, which stand in files of their own.
    pub files: Vec<(PathBuf, Zeroizing<String>)>,
    pub notes: Vec<Note>,
}

/// A server that OPA knows.
struct Service {
    url: String,
    token: Option<Zeroizing<String>>,
    token_path: Option<String>,
    ca: Option<String>,
    /// What a table that asks it says of it; none before the first.
    lines: Option<String>,
}

/// A key that bundles are signed with.
struct Key {
    algorithm: Option<String>,
    scope: Option<String>,
    text: Option<String>,
    /// Where it stands, once a bundle has named it.
    file: Option<PathBuf>,
    used: bool,
}

struct Converter<'a> {
    opa: Source,
    dir: &'a Path,
    services: BTreeMap<String, Service>,
    keys: BTreeMap<String, Key>,
    out: Imported,
}

/// Converts OPA's configuration; files are to stand below `dir`.
pub fn convert(opa: Value, dir: &Path) -> Result<Imported, String> {
    if !opa.is_object() {
        return Err("OPA's configuration is an object: `services`, `bundles` and so on".to_owned());
    }
    let out = Imported { toml: String::new(), files: Vec::new(), notes: Vec::new() };
    let mut c = Converter { opa: Source(opa), dir, services: BTreeMap::new(), keys: BTreeMap::new(), out };
    c.services();
    c.keys();
    let (listen, decision) = c.front_doors();
    let bundles = c.bundles();
    let state = c.opa.text(&["persistence_directory"]);
    let (log, labels) = (c.decision_log(), c.labels());
    c.rest();

    let mut toml = String::from(
        "# Written by `portcullis import` from an OPA configuration. docs/migrate-from-opa.md says what differs.\n\n\
         [kernel]\n# `portcullis check-config` knows what the kernel side needs: interfaces and ports to guard.\nmode = \"off\"\n\n\
         # The issuers of your tokens: their signatures are checked before a policy is asked.\n\
         #[[token.issuer]]\n#issuer = \"https://issuer.example.com\"\n#algorithms = [\"ES256\"]\n#discovery = true\n\n[policy]\n",
    );
    let dirs = if bundles.is_empty() {
        quoted_list(&[dir.join("policies").display().to_string()])
    } else {
        "[]".to_owned()
    };
    let _ = writeln!(toml, "dirs = {dirs}\ndecision = {}", quoted(&decision));
    if let Some(state) = state {
        let _ = writeln!(toml, "state_dir = {}", quoted(&state));
        c.note("persistence_directory", Kind::Kept, "policy.state_dir");
    }
    toml.push_str(&bundles);
    let _ = write!(toml, "\n[serve]\nlisten = {}\n", quoted_list(&listen.0));
    if listen.0.len() > 1 {
        toml.push_str("# What Rego for the plugin reads: `input.attributes`, `parsed_path` and so on.\nenvoy_input = true\n");
    }
    if let Some(default) = listen.1 {
        let _ = writeln!(toml, "default_decision = {}", quoted(&default));
    }
    if !labels.is_empty() {
        let _ = write!(toml, "\n[host.labels]\n{labels}");
    }
    toml.push_str(&log);
    c.out.toml = toml;
    Ok(c.out)
}

/// A string as TOML has it.
fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn quoted_list(texts: &[String]) -> String {
    toml::Value::from(texts.to_vec()).to_string()
}

/// A name that may be a file's.
fn file_name(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_alphanumeric() || c == '-' { c } else { '-' }).collect()
}

/// Where decision logs are.
const AT: &str = "decision_logs";
/// Where the Envoy plugin is configured.
const PLUGIN: [&str; 2] = ["plugins", "envoy_ext_authz_grpc"];

impl Converter<'_> {
    fn note(&mut self, setting: impl Into<String>, kind: Kind, text: impl Into<String>) {
        self.out.notes.push(Note { setting: setting.into(), kind, text: text.into() });
    }

    /// Puts a secret into a file of its own.
    fn file(&mut self, below: &str, name: &str, ending: &str, content: Zeroizing<String>) -> PathBuf {
        let dir = self.dir.join(below);
        let mut path = dir.join(format!("{name}.{ending}"));
        // Two names may differ in what a file's name has no room for.
        for n in 2.. {
            if !self.out.files.iter().any(|(there, _)| *there == path) {
                break;
            }
            path = dir.join(format!("{name}-{n}.{ending}"));
        }
        self.out.files.push((path.clone(), content));
        path
    }

    fn services(&mut self) {
        // A list of objects with names, or an object by name.
        if let Some(Value::Array(list)) = self.opa.0.get("services").cloned() {
            let named = list.into_iter().filter_map(|s| Some((s.get("name")?.as_str()?.to_owned(), s)));
            self.opa.0["services"] = Value::Object(named.collect());
        }
        for name in self.opa.names(&["services"]) {
            let take = |c: &mut Self, path: &[&str]| {
                let full: Vec<&str> = ["services", &name].into_iter().chain(path.iter().copied()).collect();
                c.opa.text(&full)
            };
            let url = take(self, &["url"]).unwrap_or_default();
            take(self, &["name"]);
            let token = take(self, &["credentials", "bearer", "token"]).map(Zeroizing::new);
            let token_path = take(self, &["credentials", "bearer", "token_path"]);
            let ca = take(self, &["tls", "ca_cert"]);
            match take(self, &["credentials", "bearer", "scheme"]) {
                Some(scheme) if !scheme.eq_ignore_ascii_case("bearer") => {
                    let setting = format!("services.{name}.credentials.bearer.scheme");
                    self.note(setting, Kind::Missing, "`Bearer` alone is sent");
                }
                _ => {}
            }
            if take(self, &["allow_insecure_tls"]).is_some_and(|v| v == "true") {
                self.note(
                    format!("services.{name}.allow_insecure_tls"),
                    Kind::Missing,
                    "certificates are always checked: name the authority in `ca_file`",
                );
            }
            self.opa.done(&["services", &name]);
            self.services.insert(name, Service { url, token, token_path, ca, lines: None });
        }
    }

    /// What goes with a service's address, as lines of TOML. What it has is listed, and written, with its first use.
    fn service_lines(&mut self, name: &str) -> Option<(String, String)> {
        let s = self.services.get_mut(name)?;
        let url = s.url.clone();
        if let Some(lines) = &s.lines {
            return Some((url, lines.clone()));
        }
        let (token, token_path, ca) = (s.token.take(), s.token_path.take(), s.ca.take());
        let mut lines = String::new();
        let at = |key: &str| format!("services.{name}.{key}");
        if let Some(token) = token {
            let path = self.file("secrets", &file_name(name), "token", token);
            let _ = writeln!(lines, "bearer_file = {}", quoted(&path.display().to_string()));
            self.note(at("credentials.bearer.token"), Kind::Changed, "a file of its own, mode 0600");
        } else if let Some(path) = token_path {
            let _ = writeln!(lines, "bearer_file = {}", quoted(&path));
            self.note(at("credentials.bearer.token_path"), Kind::Kept, "bearer_file");
        }
        if let Some(ca) = ca {
            let _ = writeln!(lines, "ca_file = {}", quoted(&ca));
            self.note(at("tls.ca_cert"), Kind::Kept, "ca_file");
        }
        if let Some(s) = self.services.get_mut(name) {
            s.lines = Some(lines.clone());
        }
        Some((url, lines))
    }

    /// A service's address with a path, and what goes with it as lines of TOML.
    fn remote(&mut self, setting: &str, service: &str, path: &str) -> Option<String> {
        let Some((url, lines)) = self.service_lines(service) else {
            self.note(setting, Kind::Missing, format!("there is no service `{service}`"));
            return None;
        };
        let url = format!("{}/{}", url.trim_end_matches('/'), path.trim_start_matches('/'));
        match url.parse::<Url>() {
            Err(e) => self.note(setting, Kind::Missing, e.to_string()),
            Ok(parsed) if !parsed.is_tls() && !matches!(parsed.host(), "127.0.0.1" | "::1" | "localhost") => {
                self.note(
                    setting,
                    Kind::Changed,
                    "it is asked in plain `http`: use `https`, or say `plain_http = true`",
                );
            }
            Ok(_) => {}
        }
        Some(format!("url = {}\n{lines}", quoted(&url)))
    }

    /// The keys, which several bundles may name.
    fn keys(&mut self) {
        for id in self.opa.names(&["keys"]) {
            let take = |c: &mut Self, key: &str| c.opa.text(&["keys", &id, key]);
            let key = Key {
                algorithm: take(self, "algorithm"),
                scope: take(self, "scope"),
                text: take(self, "key").filter(|k| !k.is_empty()),
                file: None,
                used: false,
            };
            self.opa.done(&["keys", &id]);
            self.keys.insert(id, key);
        }
    }

    /// What a bundle's signature takes, as lines of TOML. Whatever is wrong with it, a key is named: one that is not there
    /// keeps the daemon from starting, where none at all would let it take what nobody signed.
    fn signing(&mut self, bundle: &str) -> String {
        let setting = format!("bundles.{bundle}.signing");
        let take = |c: &mut Self, key: &str| c.opa.text(&["bundles", bundle, "signing", key]);
        let (id, scope) = (take(self, "keyid"), take(self, "scope"));
        if self.opa.take(&["bundles", bundle, "signing", "exclude_files"]).is_some() {
            self.note(format!("{setting}.exclude_files"), Kind::Missing, "every file must be signed");
        }
        self.opa.done(&["bundles", bundle, "signing"]);
        // Without a name the signature itself says which key: that is settled where there is one.
        let only = self.keys.keys().next().filter(|_| self.keys.len() == 1).cloned();
        let named = id.or(only).unwrap_or_default();
        let mut lines = String::new();
        let key = self.keys.get_mut(&named).map(|k| {
            k.used = true;
            (k.algorithm.clone(), k.scope.clone(), k.file.clone(), k.text.clone())
        });
        let (algorithm, key_scope, file, text) = key.unwrap_or_default();
        let path = match (file, text) {
            (Some(file), _) => Some(file),
            (None, Some(text)) if text.starts_with('/') && !text.contains('\n') => Some(text.into()),
            (None, Some(text)) => Some(self.file("keys", &file_name(&named), "pem", Zeroizing::new(text))),
            (None, None) => None,
        };
        if let Some(path) = path {
            let _ = writeln!(lines, "key_file = {}", quoted(&path.display().to_string()));
            if let Some(k) = self.keys.get_mut(&named) {
                k.file = Some(path);
            }
            self.note(setting.as_str(), Kind::Kept, "what is not signed with the key is refused");
        } else {
            let name = if named.is_empty() { file_name(bundle) } else { file_name(&named) };
            let path = self.dir.join("keys").join(format!("{name}.pem"));
            let _ = writeln!(lines, "key_file = {}", quoted(&path.display().to_string()));
            let which = if named.is_empty() {
                "it names no key (`keyid`)".to_owned()
            } else {
                format!("there is no `keys.{named}.key`")
            };
            let what =
                format!("{which}: put it at {}; before that the daemon does not start", path.display());
            self.note(setting.as_str(), Kind::Missing, what);
        }
        if let Some(algorithm) = algorithm {
            let _ = writeln!(lines, "key_algorithm = {}", quoted(&algorithm));
        }
        if !named.is_empty() {
            let _ = writeln!(lines, "key_id = {}", quoted(&named));
        }
        if let (Some(_), Some(of_key)) = (&scope, &key_scope)
            && scope != key_scope
        {
            let what = format!("`{of_key}` is not asked for here: {setting}.scope is");
            self.note(format!("keys.{named}.scope"), Kind::Changed, what);
        }
        if let Some(scope) = scope.or(key_scope) {
            let _ = writeln!(lines, "scope = {}", quoted(&scope));
        }
        lines
    }

    /// Where to listen with OPA's default decision, and the decision of the front doors.
    fn front_doors(&mut self) -> ((Vec<String>, Option<String>), String) {
        let mut listen = vec!["127.0.0.1:8181".to_owned()];
        let default = self.opa.text(&["default_decision"]).map(|d| d.trim_matches('/').to_owned());
        if default.is_some() {
            self.note("default_decision", Kind::Kept, "serve.default_decision, for `POST /`");
        }
        let plugin = |c: &mut Self, key: &str| c.opa.text(&[PLUGIN[0], PLUGIN[1], key]);
        let named = |key: &str| format!("{}.{}.{key}", PLUGIN[0], PLUGIN[1]);
        let mut decision = default.clone();
        if self.opa.0.get(PLUGIN[0]).and_then(|p| p.get(PLUGIN[1])).is_some() {
            let address = plugin(self, "addr").unwrap_or_else(|| ":9191".to_owned());
            match address.strip_prefix("unix://") {
                Some(path) => listen.push(format!("unix:{path}")),
                None if address.starts_with(':') => listen.push(format!("0.0.0.0{address}")),
                None => listen.push(address),
            }
            self.note(named("addr"), Kind::Changed, "serve.listen, where every front door is served: keep it from strangers, or name `serve.gateways`");
            let path = plugin(self, "path")
                .or_else(|| plugin(self, "query").map(|q| q.trim_start_matches("data.").replace('.', "/")));
            decision =
                Some(path.unwrap_or_else(|| "envoy/authz/allow".to_owned()).trim_matches('/').to_owned());
            self.note(named("path"), Kind::Kept, "policy.decision");
            self.note("(the plugin's input)", Kind::Kept, "serve.envoy_input");
            self.opa.done(&PLUGIN);
            if plugin(self, "dry-run").is_some_and(|v| v == "true") {
                self.note(
                    named("dry-run"),
                    Kind::Changed,
                    "here a candidate set decides beside the live one: `policy.candidate_dirs`",
                );
            }
            if plugin(self, "enable-reflection").is_some_and(|v| v == "true") {
                self.note(named("enable-reflection"), Kind::Missing, "gRPC reflection is not served");
            }
            plugin(self, "skip-request-body-parse");
            plugin(self, "enable-performance-metrics");
            if let Some(size) = plugin(self, "grpc-max-recv-msg-size") {
                self.note(
                    named("grpc-max-recv-msg-size"),
                    Kind::Changed,
                    format!("serve.max_body bounds all front doors (256 KiB; it was {size})"),
                );
            }
            for key in ["proto-descriptor", "grpc-request-duration-seconds-buckets", "grpc-max-send-msg-size"]
            {
                if plugin(self, key).is_some() {
                    self.note(named(key), Kind::Missing, "not needed, or not read");
                }
            }
        }
        let decision = decision.unwrap_or_else(|| {
            self.note(
                "(the decision)",
                Kind::Changed,
                "policy.decision must name the rule that decides; OPA's clients name one in each request",
            );
            "portcullis/decision".to_owned()
        });
        ((listen, default), decision)
    }

    fn bundles(&mut self) -> String {
        let mut toml = String::new();
        let mut largest = 0;
        for name in self.opa.names(&["bundles"]) {
            let setting = format!("bundles.{name}");
            let take = |c: &mut Self, path: &[&str]| {
                let full: Vec<&str> = ["bundles", &name].into_iter().chain(path.iter().copied()).collect();
                c.opa.text(&full)
            };
            let service =
                take(self, &["service"]).or_else(|| self.services.keys().next().cloned()).unwrap_or_default();
            let resource = take(self, &["resource"]).unwrap_or_else(|| format!("bundles/{name}"));
            let lines = match resource.strip_prefix("file://") {
                Some(path) => Some(format!("file = {}\n", quoted(path))),
                None => self.remote(&setting, &service, &resource),
            };
            self.opa.done(&["bundles", &name]);
            let Some(lines) = lines else { continue };
            let _ = write!(toml, "\n[[policy.bundle]]\nname = {}\n{lines}", quoted(&file_name(&name)));
            for (theirs, ours) in [
                (&["polling", "min_delay_seconds"][..], "poll_min"),
                (&["polling", "max_delay_seconds"], "poll_max"),
                (&["polling", "long_polling_timeout_seconds"], "long_poll"),
            ] {
                if let Some(seconds) = take(self, theirs) {
                    let _ = writeln!(toml, "{ours} = {}", quoted(&format!("{seconds}s")));
                }
            }
            if self.opa.get(&["bundles", &name, "signing"]).is_some() {
                let lines = self.signing(&name);
                toml.push_str(&lines);
            }
            if take(self, &["trigger"]).is_some_and(|t| t != "periodic") {
                self.note(format!("{setting}.trigger"), Kind::Missing, "bundles are fetched by themselves");
            }
            take(self, &["persist"]);
            largest = largest.max(self.opa.number(&["bundles", &name, "size_limit_bytes"]).unwrap_or(0));
            self.note(setting, Kind::Kept, "policy.bundle; the last good one is always kept");
        }
        if largest > 0 {
            self.note(
                "bundles.*.size_limit_bytes",
                Kind::Changed,
                format!("policy.bundle_max_bytes is one for all: {largest}"),
            );
            toml = format!("bundle_max_bytes = {largest}\n{toml}");
        }
        toml
    }

    fn labels(&mut self) -> String {
        let mut lines = String::new();
        for name in self.opa.names(&["labels"]) {
            if let Some(value) = self.opa.text(&["labels", &name]) {
                let _ = writeln!(lines, "{} = {}", quoted(&name), quoted(&value));
            }
        }
        if !lines.is_empty() {
            self.note("labels", Kind::Kept, "host.labels, in each line of the decision log");
        }
        lines
    }

    fn decision_log(&mut self) -> String {
        if self.opa.0.get(AT).is_none() {
            return String::new();
        }
        let mut toml = String::from("\n[decision_log]\n");
        let console = self.opa.text(&[AT, "console"]).is_some_and(|v| v == "true");
        let service = self.opa.text(&[AT, "service"]);
        let partition = self.opa.text(&[AT, "partition_name"]);
        let resource = self.opa.text(&[AT, "resource"]).or_else(|| self.opa.text(&[AT, "resource_path"]));
        let path = resource
            .unwrap_or_else(|| partition.map_or_else(|| "/logs".to_owned(), |p| format!("/logs/{p}")));
        match service {
            Some(service) => {
                if let Some(lines) = self.remote("decision_logs.service", &service, &path) {
                    let _ = write!(toml, "sink = \"http\"\n{lines}");
                    self.note("decision_logs.service", Kind::Kept, "decision_log.sink = \"http\"");
                }
                if console {
                    self.note(
                        "decision_logs.console",
                        Kind::Changed,
                        "there is one sink: the server's is taken",
                    );
                }
            }
            None if console => {
                toml.push_str("sink = \"stdout\"\n");
                self.note("decision_logs.console", Kind::Kept, "decision_log.sink = \"stdout\"");
            }
            None => {}
        }
        for (theirs, ours) in
            [("upload_size_limit_bytes", "batch_bytes"), ("buffer_size_limit_bytes", "buffer_bytes")]
        {
            if let Some(n) = self.opa.number(&[AT, "reporting", theirs]) {
                // OPA's default of 32 KiB a batch, and its unlimited buffer, are none of ours.
                let least = if ours == "batch_bytes" { 4096 } else { 65_536 };
                let _ = writeln!(toml, "{ours} = {}", n.max(least));
                let (kind, what) = if n < least {
                    (
                        Kind::Changed,
                        format!("decision_log.{ours} is {least}, the least there is (it was {n})"),
                    )
                } else {
                    (Kind::Kept, format!("decision_log.{ours}"))
                };
                self.note(format!("{AT}.reporting.{theirs}"), kind, what);
            }
        }
        if let Some(seconds) = self.opa.number(&[AT, "reporting", "max_delay_seconds"]) {
            let _ = writeln!(toml, "batch_time = {}", quoted(&format!("{seconds}s")));
            self.note(format!("{AT}.reporting.max_delay_seconds"), Kind::Kept, "decision_log.batch_time");
        }
        self.opa.take(&[AT, "reporting", "min_delay_seconds"]);
        self.opa.done(&[AT]);
        match self.opa.text(&[AT, "mask_decision"]) {
            Some(mask) if mask.trim_matches('/') != "system/log/mask" => {
                self.note(
                    "decision_logs.mask_decision",
                    Kind::Missing,
                    "the mask is always `data.system.log.mask`: rename the rule",
                );
            }
            Some(_) => self.note("decision_logs.mask_decision", Kind::Kept, "`data.system.log.mask`"),
            None => {}
        }
        self.note("(redaction)", Kind::Changed, "lines hold no tokens, and headers and personal claims only where `decision_log` lets them through");
        toml
    }

    /// What is left.
    fn rest(&mut self) {
        for (name, s) in std::mem::take(&mut self.services) {
            if s.lines.is_none() {
                let what =
                    "no bundle and no log that was taken over asks it; its tokens and keys were not written";
                self.note(format!("services.{name}"), Kind::Missing, what);
            }
        }
        for (id, _) in std::mem::take(&mut self.keys).into_iter().filter(|(_, k)| !k.used) {
            self.note(format!("keys.{id}"), Kind::Missing, "no bundle names it");
        }
        for setting in self.opa.left() {
            let text = match setting.split('.').next().unwrap_or_default() {
                "status" => "`portcullis status`, `/metrics` and `/health` tell it",
                "discovery" => "the configuration is one file; bundles are fetched",
                "caching" | "nd_builtin_cache" => "there is no cache between queries but that of verdicts",
                "keys" => "signatures are checked with `key` alone",
                "server" => "the front doors have their own bounds: `serve`",
                "storage" => "policies and data are kept in memory",
                "distributed_tracing" => {
                    "not the same: `[trace]` sends OTLP over HTTP; name the collector's address in its `endpoint`"
                }
                _ => "nothing like it",
            };
            self.note(setting, Kind::Missing, text);
        }
    }
}

#[cfg(test)]
mod tests;
