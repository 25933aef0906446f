//! Turns the raw configuration into each room's own settings.

use anyhow::{Result, anyhow};

use crate::{
    config::{AttachMode, Config, Issuer, KernelMode, ReactionMode},
    decide,
    kernel::{self, Answer, Attach, GuardedPort, Reaction},
    serve::DoorSettings,
    token::{Extraction, FingerprintKey, IssuerSettings, KeySource},
};

/// The kernel's settings; `None` where it is off.
pub fn kernel(c: &Config, key: &FingerprintKey) -> Result<Option<kernel::Settings>> {
    let k = &c.kernel;
    let reaction = match (k.mode, k.reaction) {
        (KernelMode::Off, _) => return Ok(None),
        (KernelMode::Observe, _) => Reaction::Observe,
        (KernelMode::Enforce, ReactionMode::Respond) => Reaction::Respond,
        (KernelMode::Enforce, ReactionMode::Reset) => Reaction::Reset,
        (KernelMode::Enforce, ReactionMode::Drop) => Reaction::Drop,
    };
    let challenge = Some(k.answer_challenge.as_str()).filter(|c| !c.is_empty());
    let answer = Answer::new("401 Unauthorized", challenge, "application/json", &k.answer_body)
        .ok_or_else(|| anyhow!("`kernel.answer_body` and `kernel.answer_challenge` are too long: the whole answer must stay below 512 bytes"))?;
    Ok(Some(kernel::Settings {
        pin_dir: k.pin_dir.clone(),
        interfaces: k.interfaces.clone(),
        attach: match k.attach {
            AttachMode::Auto => Attach::Auto,
            AttachMode::Tcx => Attach::Tcx,
            AttachMode::Clsact => Attach::Clsact,
        },
        ports: k.ports.iter().map(|p| GuardedPort { address: p.address, port: p.port }).collect(),
        schemes: c.token.schemes.clone(),
        key_headers: c.token.key_headers.clone(),
        reaction,
        answer,
        max_entries: k.max_entries,
        key: key.scan_key(),
        key_id: key.id(),
    }))
}

/// The issuers whose tokens are accepted.
pub fn issuers(c: &Config) -> Vec<IssuerSettings> {
    c.token.issuer.iter().filter_map(issuer).collect()
}

fn issuer(i: &Issuer) -> Option<IssuerSettings> {
    // The configuration was checked: exactly one of the three is given.
    let keys = match (&i.jwks_file, &i.pem_file, &i.hmac_file) {
        (Some(path), _, _) => KeySource::JwksFile(path.clone()),
        (_, Some(path), _) => KeySource::PemFile { path: path.clone(), kid: i.kid.clone() },
        (_, _, Some(path)) => KeySource::HmacFile { path: path.clone(), kid: i.kid.clone() },
        _ => return None,
    };
    Some(IssuerSettings {
        issuer: i.issuer.clone(),
        audience: i.audience.clone(),
        algorithms: i.algorithms.clone(),
        keys,
    })
}

/// How decisions are kept.
pub fn decide(c: &Config) -> decide::Settings {
    decide::Settings {
        cache_entries: c.decide.cache_entries,
        default_ttl: c.decide.default_ttl.0,
        max_ttl: c.decide.max_ttl.0,
        leeway: c.token.leeway.0,
    }
}

/// How the front doors are set.
pub fn doors(c: &Config) -> DoorSettings {
    let path = c.serve.token_path.strip_prefix("input.").unwrap_or_default();
    DoorSettings {
        token_path: path.split('.').map(str::to_owned).collect(),
        max_body: c.serve.max_body as usize,
        fail_open: c.serve.fail_open,
        headers: c.decide.headers.clone(),
        extraction: Extraction {
            schemes: c.token.schemes.clone(),
            key_headers: c.token.key_headers.clone(),
            max_bytes: c.token.max_bytes as usize,
        },
    }
}
