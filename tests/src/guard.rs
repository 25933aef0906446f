//! Guard, loaded with settings of a test's own and run packet by packet.

use anyhow::Result;
use portcullis::kernel::{Answer, Attach, GuardedPort, Kernel, Reaction, Settings};
use portcullis_common::fingerprint::Key;

use crate::bpffs::Bpffs;

/// The key that these tests fingerprint under.
pub const KEY: Key = Key { k0: 0x0706_0504_0302_0100, k1: 0x0f0e_0d0c_0b0a_0908 };
/// The port that is guarded.
pub const PORT: u16 = 8080;

/// Settings for one guarded port, nothing attached.
pub fn settings(bpffs: &Bpffs) -> Settings {
    Settings {
        pin_dir: bpffs.pins(),
        interfaces: Vec::new(),
        attach: Attach::Auto,
        ports: vec![GuardedPort { address: None, port: PORT }],
        schemes: vec!["Bearer".into(), "DPoP".into()],
        key_headers: vec!["X-Api-Key".into()],
        reaction: Reaction::Respond,
        answer: Answer::new(
            "401 Unauthorized",
            Some("Bearer error=\"invalid_token\""),
            "application/json",
            "{}",
        )
        .unwrap_or_else(|| unreachable!("a short answer fits")),
        max_entries: 1024,
        key: KEY,
        key_id: 7,
    }
}

/// Guard with such settings.
pub fn load(bpffs: &Bpffs) -> Result<Kernel> {
    Ok(Kernel::load(&settings(bpffs))?)
}
