//! The daemon as the demo runs it: its configuration, starting it, and its other commands.

use std::{io::Read as _, path::Path};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::{net::SERVER_DEVICE, process::Process, stage::Stage};
use crate::exec::Cmd;

pub const ISSUER: &str = "https://issuer.demo";
pub const AUDIENCE: &str = "orders-api";
/// Fixed ports can be taken by no one else: the namespace is the demo's own.
pub const GUARDED_PORT: u16 = 8080;
pub const AUTH_ADDRESS: &str = "127.0.0.1:8181";
const OBSERVE_ADDRESS: &str = "127.0.0.1:9187";

/// Writes the configuration and the issuer's key.
pub fn prepare(stage: &Stage, policies: &Path) -> Result<()> {
    stage.write("hmac.key", &random_hex()?)?;
    stage.write("portcullis.toml", &config(&stage.path(""), policies))?;
    Ok(())
}

fn config(dir: &Path, policies: &Path) -> String {
    let text = |path: std::path::PathBuf| toml_string(&path.to_string_lossy());
    format!(
        "[kernel]
mode = \"enforce\"
interfaces = [\"{SERVER_DEVICE}\"]
ports = [{GUARDED_PORT}]
pin_dir = {pins}

[token]
fingerprint_key = {fingerprint}

[[token.issuer]]
issuer = \"{ISSUER}\"
audience = [\"{AUDIENCE}\"]
algorithms = [\"HS256\"]
hmac_file = {hmac}

[policy]
dirs = [{policies}]
decision = \"portcullis/decision\"

[revocation]
store = {store}

[serve]
listen = [\"{AUTH_ADDRESS}\"]

[admin]
socket = {socket}

[observe]
listen = \"{OBSERVE_ADDRESS}\"
",
        pins = text(dir.join("bpf/portcullis")),
        fingerprint = text(dir.join("fingerprint.key")),
        hmac = text(dir.join("hmac.key")),
        policies = text(policies.to_owned()),
        store = text(dir.join("revocations")),
        socket = text(dir.join("admin.sock")),
    )
}

/// TOML's basic strings escape as JSON's do.
fn toml_string(text: &str) -> String {
    Value::from(text).to_string()
}

fn random_hex() -> Result<String> {
    use std::fmt::Write as _;
    let mut bytes = [0u8; 32];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut file| file.read_exact(&mut bytes))
        .context("cannot read `/dev/urandom` for the demo's issuer key")?;
    Ok(bytes.iter().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    }))
}

/// Starts the daemon beside the server and waits until it is ready.
pub fn start(stage: &mut Stage) -> Result<()> {
    let command = portcullis(stage, &["run", "--config"]).arg(stage.path("portcullis.toml"));
    let mut daemon = Process::start("daemon", command, &stage.path("daemon.log"))?;
    let ready = daemon.wait_until("ready", || {
        let url = format!("http://{OBSERVE_ADDRESS}/ready");
        stage.net.in_server().args(["curl", "-fsS", "--noproxy", "*", "--max-time", "2", &url]).succeeds()
    });
    // Kept also when it is not ready, so that its last words can be shown.
    stage.daemon = Some(daemon);
    ready
}

/// The daemon's executable beside the server, with a command of it.
pub fn portcullis(stage: &Stage, args: &[&str]) -> Cmd {
    stage.net.in_server().arg(&stage.portcullis).args(args)
}

/// A token of the demo's issuer, in a header file for curl and a token file for `revoke`.
///
/// Never on a command line: `ps` shows those to everyone.
pub fn mint(stage: &Stage, name: &str, scope: &str, age: u64) -> Result<()> {
    let now = std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .context("the clock stands before 1970; set it")?
        .as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": name, "jti": format!("{name}-{now}"),
        "iat": now - age, "exp": now + 600, "scope": scope,
    });
    let token = portcullis(stage, &["demo-token", "--hmac-file"])
        .arg(stage.path("hmac.key"))
        .args(["--claims", &claims.to_string()])
        .read()
        .context("cannot mint a token for the demo")?;
    let token = token.trim();
    stage.write(&format!("{name}.token"), token)?;
    stage.write(&format!("{name}.header"), &format!("Authorization: Bearer {token}\n"))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_everything_in_the_demos_directory() {
        let config = config(Path::new("/run/d"), Path::new("/src/pol\"icies"));
        assert!(config.contains("pin_dir = \"/run/d/bpf/portcullis\"\n"));
        assert!(config.contains("socket = \"/run/d/admin.sock\"\n"));
        assert!(config.contains(r#"dirs = ["/src/pol\"icies"]"#));
        assert!(config.contains("interfaces = [\"pc-srv\"]\nports = [8080]\n"));
    }

    #[test]
    fn keys_are_long_and_differ() {
        let (a, b) = (random_hex().unwrap(), random_hex().unwrap());
        assert_eq!(a.len(), 64);
        assert_ne!(a, b);
    }
}
