//! The daemon's configuration as tests vary it.

use std::{fmt::Write as _, path::PathBuf};

use crate::{
    dir::{Dir, repository},
    net::{PORT, SERVER_DEVICE},
};

/// The issuer whose tokens are accepted.
pub const ISSUER: &str = "https://issuer.test";
/// The issuer of ES256 tokens.
pub const ISSUER_ES256: &str = "https://es256.test";
/// The audience.
pub const AUDIENCE: &str = "orders-api";
/// The front doors' address, in the server's namespace.
pub const DOORS: &str = "127.0.0.1:8181";
/// The address of metrics and health.
pub const OBSERVE: &str = "127.0.0.1:9187";

/// What differs between tests; all else is in [`Config::toml`].
#[derive(Clone, Debug)]
pub struct Config {
    /// `kernel.mode`
    pub mode: &'static str,
    /// `kernel.reaction`
    pub reaction: &'static str,
    /// `kernel.attach`
    pub attach: &'static str,
    /// `kernel.interfaces`: one, or none where it is empty.
    pub interface: String,
    /// `kernel.ports`
    pub ports: Vec<u16>,
    /// `kernel.max_entries`
    pub max_entries: u32,
    /// `kernel.policy_entries`
    pub policy_entries: u32,
    /// `policy.dirs`
    pub policies: PathBuf,
    /// Further lines of the `[policy]` table.
    pub policy: String,
    /// Further lines of the `[serve]` table, and further tables.
    pub serve: String,
    /// `serve.max_body`
    pub max_body: u32,
    /// `log.level`
    pub log: &'static str,
    /// `kernel.enforcement`
    pub enforcement: &'static str,
    /// Further lines of the `[kernel]` table.
    pub kernel: String,
    /// `kernel.pin_dir`, below the test's directory.
    pub pin_dir: &'static str,
    /// `token.fingerprint_key`, below the test's directory.
    pub key: &'static str,
    /// `token.other_fingerprint_key`, likewise.
    pub other_key: Option<&'static str>,
    /// `revocation.store`, below the test's directory.
    pub store: &'static str,
    /// `serve.listen`
    pub doors: &'static str,
    /// Further entries of it, each in quotes.
    pub listen: String,
    /// Further lines of the `[admin]` table, and tables of it.
    pub admin: String,
    /// `observe.listen`
    pub observe: &'static str,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            mode: "enforce",
            reaction: "respond",
            attach: "auto",
            interface: SERVER_DEVICE.to_owned(),
            ports: vec![PORT],
            max_entries: 4096,
            policy_entries: 1024,
            policies: repository().join("policies"),
            policy: String::new(),
            serve: String::new(),
            max_body: 262_144,
            log: "info",
            enforcement: "strict",
            kernel: String::new(),
            pin_dir: "bpf/portcullis",
            key: "fingerprint.key",
            other_key: None,
            store: "revocations",
            doors: DOORS,
            listen: String::new(),
            admin: String::new(),
            observe: OBSERVE,
        }
    }
}

/// With `PORTCULLIS_TWO_KEYS` in the environment every daemon has a second key, and so a second guard: all tests are to hold
/// then, too.
fn two_keys(dir: &Dir) -> String {
    if std::env::var_os("PORTCULLIS_TWO_KEYS").is_none() {
        return String::new();
    }
    let made = [
        ("fingerprint.key", "101112131415161718191a1b1c1d1e1f\n"),
        ("second.key", "202122232425262728292a2b2c2d2e2f\n"),
    ];
    for (name, text) in made {
        if !dir.path(name).exists()
            && let Err(e) = dir.write(name, text)
        {
            panic!("no second key: {e:#}");
        }
    }
    format!("other_fingerprint_key = \"{}\"", dir.path("second.key").display())
}

impl Config {
    /// The file's text. Everything it names is in `dir`.
    pub fn toml(&self, dir: &Dir) -> String {
        let path = |name: &str| dir.path(name).display().to_string();
        let mut text = String::new();
        let _ = write!(
            text,
            r#"[kernel]
mode = "{mode}"
enforcement = "{enforcement}"
{kernel}
reaction = "{reaction}"
attach = "{attach}"
interfaces = [{interface}]
ports = {ports:?}
pin_dir = "{pins}"
max_entries = {max_entries}
policy_entries = {policy_entries}

[token]
key_headers = ["X-Api-Key"]
fingerprint_key = "{fingerprint}"
{other_key}

[[token.issuer]]
issuer = "{ISSUER}"
audience = ["{AUDIENCE}"]
algorithms = ["HS256"]
hmac_file = "{hmac}"

[[token.issuer]]
issuer = "{ISSUER_ES256}"
audience = ["{AUDIENCE}"]
algorithms = ["ES256"]
jwks_file = "{jwks}"

[policy]
dirs = ["{policies}"]
{policy}

[revocation]
store = "{store}"

[serve]
listen = ["{doors}", {listen}]
max_body = {max_body}
{serve}

[admin]
socket = "{socket}"
{admin}

[observe]
listen = "{observe}"

[log]
format = "json"
level = "{log}"
"#,
            mode = self.mode,
            reaction = self.reaction,
            attach = self.attach,
            interface =
                if self.interface.is_empty() { String::new() } else { format!("\"{}\"", self.interface) },
            enforcement = self.enforcement,
            kernel = self.kernel,
            policy = self.policy,
            serve = self.serve,
            listen = self.listen,
            pins = path(self.pin_dir),
            ports = self.ports,
            max_entries = self.max_entries,
            policy_entries = self.policy_entries,
            fingerprint = path(self.key),
            other_key = match self.other_key {
                Some(name) => format!("other_fingerprint_key = \"{}\"", path(name)),
                None => two_keys(dir),
            },
            hmac = path("hmac.key"),
            jwks = path("es256.jwks"),
            policies = self.policies.display(),
            store = path(self.store),
            doors = self.doors,
            max_body = self.max_body,
            socket = path("admin.sock"),
            admin = self.admin,
            observe = self.observe,
            log = self.log,
        );
        text
    }
}
