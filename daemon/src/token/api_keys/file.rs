//! The file of API keys: read strictly, replaced whole.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::Path,
};

use aws_lc_rs::{hmac, rand};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::{ApiKeyError, Stored, format::unhex};

/// The form of the file.
const VERSION: u32 = 1;

/// Everything in the file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Content {
    version: u32,
    /// The key of the hashes, in hex. It lies beside them: the secrets have 256 bits, and it only keeps hashes of one
    /// host from being compared with another's.
    hash_key: Zeroizing<String>,
    pub keys: Vec<Stored>,
}

impl Content {
    pub fn load_or_create(path: &Path) -> Result<Self, ApiKeyError> {
        if let Some(content) = Self::load(path)? {
            return Ok(content);
        }
        let mut bytes = Zeroizing::new([0; 32]);
        rand::fill(&mut *bytes).map_err(|_| ApiKeyError::NoRandomness)?;
        let content = Self {
            version: VERSION,
            hash_key: Zeroizing::new(crate::hex::encode(&*bytes)),
            keys: Vec::new(),
        };
        content.store(path)?;
        Ok(content)
    }

    /// Gives each key an entry in the status list that has none. Whether there was one.
    pub fn number(&mut self) -> Result<bool, ApiKeyError> {
        let mut used: std::collections::HashSet<u32> =
            self.keys.iter().filter_map(|k| k.key.status_index).collect();
        let had = used.len();
        for stored in self.keys.iter_mut().filter(|k| k.key.status_index.is_none()) {
            let index = super::free_index(&used)?;
            stored.key.status_index = Some(index);
            used.insert(index);
        }
        Ok(used.len() > had)
    }

    pub fn hash_key(&self) -> Option<hmac::Key> {
        let bytes = Zeroizing::new(unhex(&self.hash_key).filter(|b| b.len() == 32)?);
        Some(hmac::Key::new(hmac::HMAC_SHA256, &bytes))
    }

    fn load(path: &Path) -> Result<Option<Self>, ApiKeyError> {
        let fail = |why: String| ApiKeyError::File { path: path.to_owned(), why };
        let mut file = match OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(path) {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) => {
                return Err(fail(format!("cannot be opened: {e}; name the file itself, not a link to it")));
            }
        };
        let meta = file.metadata().map_err(|e| fail(format!("cannot be inspected: {e}")))?;
        if !meta.is_file() {
            return Err(fail("is not a regular file".to_owned()));
        }
        if meta.mode() & 0o077 != 0 {
            return Err(fail(format!(
                "can be read or written by others (mode {:04o}): run `chmod 600` on it",
                meta.mode() & 0o7777
            )));
        }
        let user = nix::unistd::geteuid().as_raw();
        if meta.uid() != user && meta.uid() != 0 {
            return Err(fail(format!("belongs to user {}: run `chown` on it", meta.uid())));
        }
        let mut text = Zeroizing::new(String::new());
        file.read_to_string(&mut text).map_err(|e| fail(format!("cannot be read: {e}")))?;
        // serde's messages quote what they choke on.
        let content: Self = serde_json::from_str(&text).map_err(|e| {
            fail(format!(
                "is not what this daemon wrote (line {}, column {}); restore it from a backup",
                e.line(),
                e.column()
            ))
        })?;
        if content.version != VERSION {
            return Err(fail(format!("has form {}, this daemon reads form {VERSION}", content.version)));
        }
        let mut ids: Vec<_> = content.keys.iter().map(|k| &k.key.id).collect();
        ids.sort_unstable();
        if ids.windows(2).any(|w| w[0] == w[1]) {
            return Err(fail("holds an id twice; restore it from a backup".to_owned()));
        }
        Ok(Some(content))
    }

    /// Replaces the file: written and synced under another name, renamed, and the directory synced.
    pub fn store(&self, path: &Path) -> Result<(), ApiKeyError> {
        let fail = |doing: &str| {
            let (doing, path) = (doing.to_owned(), path.to_owned());
            move |e: io::Error| ApiKeyError::File {
                path,
                why: format!("cannot be {doing}: {e}; nothing was changed"),
            }
        };
        let mut text = Zeroizing::new(Vec::new());
        serde_json::to_writer(&mut *text, self).map_err(|e| fail("written")(e.into()))?;
        text.push(b'\n');
        let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let temporary = dir.join(format!(".{name}.new"));
        // Left by one that was killed.
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(fail("replaced")(e)),
            _ => {}
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .and_then(|mut file| file.write_all(&text).and_then(|()| file.sync_all()))
            .and_then(|()| fs::rename(&temporary, path));
        if let Err(e) = written {
            let _ = fs::remove_file(&temporary);
            return Err(fail("written")(e));
        }
        File::open(dir).and_then(|d| d.sync_all()).map_err(fail("synced"))
    }
}
