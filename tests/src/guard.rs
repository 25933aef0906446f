//! Guard, loaded with settings of a test's own and run packet by packet.

use std::path::PathBuf;

use anyhow::Result;
use portcullis::kernel::{
    Answer, Answers, Attach, Enforcement, Gate, GuardedPort, Kernel, Older, Opaque, Reaction, Settings,
    ShedSettings, Unknown,
};
use portcullis_common::fingerprint::Key;

use crate::bpffs::Bpffs;

/// The key that these tests fingerprint under.
pub const KEY: Key = Key { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
/// The port that is guarded.
pub const PORT: u16 = 8080;

fn answer(status: &str) -> Answer {
    Answer::new(status, &[("WWW-Authenticate", "Bearer error=\"invalid_token\"")], "{}")
        .unwrap_or_else(|| unreachable!("a short answer fits"))
}

/// Settings for one guarded port in fast mode, nothing attached.
pub fn settings(bpffs: &Bpffs) -> Settings {
    Settings {
        pin_dir: bpffs.pins(),
        interfaces: Vec::new(),
        namespaces: Vec::new(),
        gate: Gate::Off,
        gate_cgroup: PathBuf::new(),
        wait_for_interfaces: false,
        container_veth: false,
        older: Older::Pass,
        attach: Attach::Auto,
        ports: vec![GuardedPort { address: None, port: PORT }],
        schemes: vec!["Bearer".into(), "DPoP".into()],
        key_headers: vec!["X-Api-Key".into()],
        reaction: Reaction::Respond,
        answers: Answers {
            token: answer("401 Unauthorized"),
            denied: answer("403 Forbidden"),
            limited: answer("429 Too Many Requests"),
            malformed: answer("400 Bad Request"),
            too_long: answer("431 Request Header Fields Too Large"),
        },
        enforcement: Enforcement::Fast,
        opaque: Opaque::Pass,
        unknown: Unknown::Pass,
        max_head: 16 * 1024,
        proxy_ports: Vec::new(),
        shed: ShedSettings::off(),
        h2c_ports: Vec::new(),
        max_entries: 1024,
        key: KEY,
        key_id: 7,
        other: None,
        former: Vec::new(),
    }
}

/// Guard with such settings.
pub fn load(bpffs: &Bpffs) -> Result<Kernel> {
    Ok(Kernel::load(settings(bpffs))?)
}
