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
            Self::Missing => "without a counterpart",
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
#[derive(Default)]
struct Service {
    url: String,
    bearer: Option<PathBuf>,
    ca: Option<String>,
}

struct Converter<'a> {
    opa: Source,
    dir: &'a Path,
    services: BTreeMap<String, Service>,
    out: Imported,
}

/// Converts OPA's configuration; files are to stand below `dir`.
pub fn convert(opa: Value, dir: &Path) -> Result<Imported, String> {
    if !opa.is_object() {
        return Err("OPA's configuration is an object: `services`, `bundles` and so on".to_owned());
    }
    let out = Imported { toml: String::new(), files: Vec::new(), notes: Vec::new() };
    let mut c = Converter { opa: Source(opa), dir, services: BTreeMap::new(), out };
    c.services();
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
    fn file(&mut self, below: &str, name: &str, content: String) -> PathBuf {
        let path = self.dir.join(below).join(name);
        self.out.files.push((path.clone(), Zeroizing::new(content)));
        path
    }

    fn services(&mut self) {
        // A list of objects with names, or an object by name.
        if let Some(Value::Array(list)) = self.opa.0.get("services").cloned() {
            let named = list.into_iter().filter_map(|s| Some((s.get("name")?.as_str()?.to_owned(), s)));
            self.opa.0["services"] = Value::Object(named.collect());
        }
        for name in self.opa.names(&["services"]) {
            let at = |key: &'static str| ["services", name.as_str(), key].map(str::to_owned);
            let take = |c: &mut Self, path: &[&str]| {
                let full: Vec<&str> = ["services", &name].into_iter().chain(path.iter().copied()).collect();
                c.opa.text(&full)
            };
            let mut service = Service { url: take(self, &["url"]).unwrap_or_default(), ..Service::default() };
            take(self, &["name"]);
            if let Some(token) = take(self, &["credentials", "bearer", "token"]) {
                service.bearer = Some(self.file("secrets", &format!("{}.token", file_name(&name)), token));
                self.note(
                    at("credentials.bearer.token").join("."),
                    Kind::Changed,
                    "a file of its own, mode 0600",
                );
            }
            if let Some(path) = take(self, &["credentials", "bearer", "token_path"]) {
                service.bearer = Some(path.into());
                self.note(at("credentials.bearer.token_path").join("."), Kind::Kept, "bearer_file");
            }
            match take(self, &["credentials", "bearer", "scheme"]) {
                Some(scheme) if !scheme.eq_ignore_ascii_case("bearer") => {
                    self.note(
                        at("credentials.bearer.scheme").join("."),
                        Kind::Missing,
                        "`Bearer` alone is sent",
                    );
                }
                _ => {}
            }
            service.ca = take(self, &["tls", "ca_cert"]);
            if service.ca.is_some() {
                self.note(at("tls.ca_cert").join("."), Kind::Kept, "ca_file");
            }
            if take(self, &["allow_insecure_tls"]).is_some_and(|v| v == "true") {
                self.note(
                    at("allow_insecure_tls").join("."),
                    Kind::Missing,
                    "certificates are always checked: name the authority in `ca_file`",
                );
            }
            self.services.insert(name, service);
        }
    }

    /// A service's address with a path, and what goes with it as lines of TOML.
    fn remote(&mut self, setting: &str, service: &str, path: &str) -> Option<String> {
        let Some(s) = self.services.get(service) else {
            self.note(setting, Kind::Missing, format!("there is no service `{service}`"));
            return None;
        };
        let url = format!("{}/{}", s.url.trim_end_matches('/'), path.trim_start_matches('/'));
        let mut lines = format!("url = {}\n", quoted(&url));
        if let Some(bearer) = &s.bearer {
            let _ = writeln!(lines, "bearer_file = {}", quoted(&bearer.display().to_string()));
        }
        if let Some(ca) = &s.ca {
            let _ = writeln!(lines, "ca_file = {}", quoted(ca));
        }
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
        Some(lines)
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
            if let Some(id) = take(self, &["signing", "keyid"]) {
                let algorithm =
                    self.opa.text(&["keys", &id, "algorithm"]).unwrap_or_else(|| "RS256".to_owned());
                let scope =
                    take(self, &["signing", "scope"]).or_else(|| self.opa.text(&["keys", &id, "scope"]));
                match self.opa.text(&["keys", &id, "key"]) {
                    Some(key) if key.starts_with('/') && !key.contains('\n') => {
                        let _ = writeln!(toml, "key_file = {}", quoted(&key));
                    }
                    Some(key) => {
                        let path = self.file("keys", &format!("{}.pem", file_name(&id)), key);
                        let _ = writeln!(toml, "key_file = {}", quoted(&path.display().to_string()));
                    }
                    None => self.note(
                        format!("keys.{id}.key"),
                        Kind::Missing,
                        "the key of a signed bundle is not there",
                    ),
                }
                let _ = writeln!(toml, "key_algorithm = {}\nkey_id = {}", quoted(&algorithm), quoted(&id));
                if let Some(scope) = scope {
                    let _ = writeln!(toml, "scope = {}", quoted(&scope));
                }
                self.note(
                    format!("{setting}.signing"),
                    Kind::Kept,
                    "what is not signed with the key is refused",
                );
            }
            if self.opa.take(&["bundles", &name, "signing", "exclude_files"]).is_some() {
                self.note(
                    format!("{setting}.signing.exclude_files"),
                    Kind::Missing,
                    "every file must be signed",
                );
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
                self.note(format!("{AT}.reporting.{theirs}"), Kind::Kept, format!("decision_log.{ours}"));
            }
        }
        if let Some(seconds) = self.opa.number(&[AT, "reporting", "max_delay_seconds"]) {
            let _ = writeln!(toml, "batch_time = {}", quoted(&format!("{seconds}s")));
            self.note(format!("{AT}.reporting.max_delay_seconds"), Kind::Kept, "decision_log.batch_time");
        }
        self.opa.take(&[AT, "reporting", "min_delay_seconds"]);
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
        for setting in self.opa.left() {
            let text = match setting.split('.').next().unwrap_or_default() {
                "status" => "`portcullis status`, `/metrics` and `/health` tell it",
                "discovery" => "the configuration is one file; bundles are fetched",
                "caching" | "nd_builtin_cache" => "there is no cache between queries but that of verdicts",
                "keys" => "no bundle is signed with it",
                "server" => "the front doors have their own bounds: `serve`",
                "storage" => "policies and data are kept in memory",
                "distributed_tracing" => "not taken over",
                _ => "nothing like it",
            };
            self.note(setting, Kind::Missing, text);
        }
    }
}

#[cfg(test)]
mod tests;
