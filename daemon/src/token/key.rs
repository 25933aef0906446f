//! The fingerprint key: made on first start, kept in a file that its owner alone can read.
//!
//! Guarantees: a key that another user could have read is refused; a key file is whole and on disk before
//! its key is used, and an existing one is never replaced; the key is wiped when dropped and never printed.
//! Leaves to others: comparing [`FingerprintKey::id`] with what is pinned, stored and shared.

use std::{
    fmt,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::{digest, rand};
use portcullis_common::fingerprint::{AllowFingerprint, DenyFingerprint, Key, Sip};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

use super::Token;

/// Separates a key's id from all else that is made of a key.
const ID_DOMAIN: &[u8] = b"portcullis fingerprint key id\0";
/// A key file: 32 hexadecimal digits, perhaps a line feed.
const HEX_LEN: usize = 32;

/// A fingerprint key and its id.
pub struct FingerprintKey {
    key: Key,
    id: u32,
}

/// The keys in force: the one that is worked with, and while it is being changed the other one.
#[derive(Debug)]
pub struct FingerprintKeys {
    /// New claims are named under it, and guard works with it.
    pub own: Arc<FingerprintKey>,
    /// The next key before the change, the one before after it.
    pub other: Option<Arc<FingerprintKey>>,
}

impl FingerprintKeys {
    /// Reads them. A key that stands alone is made where there is none; of two, both must be there.
    pub fn load(own: &Path, other: Option<&Path>) -> Result<Self, KeyError> {
        let there = |path: &Path| {
            FingerprintKey::load(path)?.ok_or_else(|| KeyError::Absent { path: path.to_owned() })
        };
        let Some(other) = other else {
            return Ok(Self { own: Arc::new(FingerprintKey::load_or_create(own)?), other: None });
        };
        let (own, other) = (there(own)?, there(other)?);
        if own.id() == other.id() {
            return Err(KeyError::Same);
        }
        Ok(Self { own: Arc::new(own), other: Some(Arc::new(other)) })
    }
}

/// Why there is no fingerprint key. Each message ends in a next step.
#[derive(Debug, Error)]
pub enum KeyError {
    /// The file could not be read, made or synced.
    #[error(
        "the fingerprint key file `{path}` could not be {doing}: {source}; check that its directory exists and is writable by this user"
    )]
    Io {
        /// The key file.
        path: PathBuf,
        /// What was tried.
        doing: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// The path is a symbolic link, a directory or the like.
    #[error(
        "the fingerprint key file `{path}` is not a regular file; name the file itself, not a link to it"
    )]
    NotAFile {
        /// The key file.
        path: PathBuf,
    },
    /// Others may have read the key.
    #[error(
        "the fingerprint key file `{path}` can be read by others (mode {mode:04o}); run `chmod 600` on it if you are sure that nobody did, else replace the key"
    )]
    TooOpen {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file belongs to another user.
    #[error(
        "the fingerprint key file `{path}` belongs to user {owner}; run `chown` on it to the user that portcullis runs as"
    )]
    WrongOwner {
        /// The key file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
    },
    /// The content is no key.
    #[error(
        "the fingerprint key file `{path}` does not hold 32 hexadecimal digits; restore it from a backup, or remove it to begin with a new key (stored fingerprints are then void)"
    )]
    NotAKey {
        /// The key file.
        path: PathBuf,
    },
    /// There is none, where there must be one.
    #[error(
        "the fingerprint key file `{path}` is not there: while two keys are in force, both must be; copy it from where it was made"
    )]
    Absent {
        /// The key file.
        path: PathBuf,
    },
    /// Both are the same key.
    #[error(
        "`token.fingerprint_key` and `token.other_fingerprint_key` hold the same key, or keys of the same id: make another one"
    )]
    Same,
    /// The system gave no randomness.
    #[error("the system gave no random bytes for a fingerprint key; check that `/dev/urandom` exists")]
    NoRandomness,
}

impl FingerprintKey {
    /// The key of these sixteen bytes.
    pub fn from_bytes(bytes: &[u8; 16]) -> Self {
        let mut halves = bytes.chunks_exact(8).map(|half| {
            let mut word = [0; 8];
            word.copy_from_slice(half);
            u64::from_le_bytes(word)
        });
        let (k0, k1) = (halves.next().unwrap_or_default(), halves.next().unwrap_or_default());
        let mut text = digest::Context::new(&digest::SHA256);
        text.update(ID_DOMAIN);
        text.update(bytes);
        let id = text.finish().as_ref().iter().take(4).fold(0, |id, b| id << 8 | u32::from(*b));
        Self { key: Key { k0, k1 }, id }
    }

    /// Reads the key at `path`, or makes one there if no file is.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        if let Some(key) = Self::load(path)? {
            return Ok(key);
        }
        create(path)?;
        // Read back, for another process may have been first: its key then counts.
        Self::load(path)?.ok_or_else(|| failed(path, "read back")(io::ErrorKind::NotFound.into()))
    }

    /// Reads the key at `path`; `None` if nothing is there.
    fn load(path: &Path) -> Result<Option<Self>, KeyError> {
        let opened =
            OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
        let mut file = match opened {
            Ok(file) => file,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(e) if e.raw_os_error() == Some(libc::ELOOP) => {
                return Err(KeyError::NotAFile { path: path.into() });
            }
            Err(e) => return Err(failed(path, "opened")(e)),
        };
        let meta = file.metadata().map_err(failed(path, "inspected"))?;
        if !meta.is_file() {
            return Err(KeyError::NotAFile { path: path.into() });
        }
        if meta.mode() & 0o077 != 0 {
            return Err(KeyError::TooOpen { path: path.into(), mode: meta.mode() & 0o7777 });
        }
        let user = nix::unistd::geteuid().as_raw();
        if meta.uid() != user && meta.uid() != 0 {
            return Err(KeyError::WrongOwner { path: path.into(), owner: meta.uid() });
        }
        // Room for the digits, a line feed and one byte too many: never reallocated, so wiped whole.
        let mut text = Zeroizing::new(Vec::with_capacity(HEX_LEN + 2));
        Read::by_ref(&mut file)
            .take(HEX_LEN as u64 + 2)
            .read_to_end(&mut text)
            .map_err(failed(path, "read"))?;
        let digits = text.strip_suffix(b"\n").unwrap_or(&text);
        let bytes = decode(digits).ok_or_else(|| KeyError::NotAKey { path: path.into() })?;
        Ok(Some(Self::from_bytes(&bytes)))
    }

    /// What stands beside every fingerprint made under this key. It identifies the key, not reveals it.
    pub const fn id(&self) -> u32 {
        self.id
    }

    /// The token's name in deny maps, the store, feeds and logs.
    pub fn deny(&self, token: &Token) -> DenyFingerprint {
        self.key.deny(token.as_bytes())
    }

    /// The token's name in caches of allows and identities.
    pub fn allow(&self, token: &Token) -> AllowFingerprint {
        self.key.allow(token.as_bytes())
    }

    /// The name of all requests with this method and target, as the kernel programs make it.
    pub fn request(&self, method_and_target: &[u8]) -> [u64; 2] {
        self.key.request(method_and_target)
    }

    /// A keyed name of any other text, in a `domain` of the caller's.
    pub fn digest(&self, domain: u64, text: &[u8]) -> [u64; 2] {
        self.key.digest(domain, text)
    }

    /// A keyed name of several texts in their order, in a `domain` of the caller's. No text is copied, so none
    /// needs wiping. Each goes in as its length and its words, the last one filled with zeros: two lists that
    /// differ anywhere, or are cut at other places, are different words.
    pub fn digest_all<'a>(&self, domain: u64, texts: impl IntoIterator<Item = &'a [u8]>) -> [u64; 2] {
        let mut sip = Sip::new(&Key { k0: self.key.k0, k1: self.key.k1 ^ domain });
        let mut count = 0;
        for text in texts {
            sip.word(text.len() as u64);
            let (words, rest) = text.as_chunks();
            for word in words {
                sip.word(u64::from_le_bytes(*word));
            }
            if !rest.is_empty() {
                sip.word(rest.iter().rev().fold(0, |w, b| w << 8 | u64::from(*b)));
            }
            count += 1;
        }
        sip.finish(0, count)
    }

    /// The key itself, for the kernel's scanner alone.
    pub const fn scan_key(&self) -> Key {
        self.key
    }
}

impl Drop for FingerprintKey {
    fn drop(&mut self) {
        self.key.k0.zeroize();
        self.key.k1.zeroize();
    }
}

impl fmt::Debug for FingerprintKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FingerprintKey({:08x})", self.id)
    }
}

/// Names the file and the step in an I/O error.
fn failed(path: &Path, doing: &'static str) -> impl Fn(io::Error) -> KeyError {
    move |source| KeyError::Io { path: path.into(), doing, source }
}

/// Reads hexadecimal digits.
fn decode(digits: &[u8]) -> Option<Zeroizing<[u8; 16]>> {
    if digits.len() != HEX_LEN {
        return None;
    }
    let value = |b: u8| char::from(b).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = Zeroizing::new([0; 16]);
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Some(bytes)
}

/// Makes a key file: written and synced under another name, then linked, which never replaces a file.
fn create(path: &Path) -> Result<(), KeyError> {
    let mut bytes = Zeroizing::new([0; 16]);
    let mut nonce = [0; 8];
    rand::fill(&mut *bytes).and_then(|()| rand::fill(&mut nonce)).map_err(|_| KeyError::NoRandomness)?;
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let temporary = dir.join(format!(".portcullis-key-{:016x}", u64::from_ne_bytes(nonce)));
    let made = write_and_link(&temporary, path, &bytes);
    // The temporary name is no longer needed, whatever happened; a second removal error would hide the first.
    let removed = fs::remove_file(&temporary);
    made?;
    removed.map_err(failed(path, "created"))?;
    File::open(dir).and_then(|d| d.sync_all()).map_err(failed(path, "synced"))
}

fn write_and_link(temporary: &Path, path: &Path, bytes: &[u8; 16]) -> Result<(), KeyError> {
    let mut text = Zeroizing::new([b'\n'; HEX_LEN + 1]);
    for (pair, byte) in text.chunks_exact_mut(2).zip(bytes) {
        pair[0] = b"0123456789abcdef"[usize::from(byte >> 4)];
        pair[1] = b"0123456789abcdef"[usize::from(byte & 15)];
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(temporary)
        .map_err(failed(path, "created"))?;
    file.write_all(&*text).and_then(|()| file.sync_all()).map_err(failed(path, "written"))?;
    match fs::hard_link(temporary, path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other.map_err(failed(path, "created")),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_key_is_made_once_and_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let made = FingerprintKey::load_or_create(&path).unwrap();
        let read = FingerprintKey::load_or_create(&path).unwrap();
        assert_eq!(made.id(), read.id());
        let token = Token::new("eyJh.eyJp.sig".into());
        assert_eq!(made.deny(&token), read.deny(&token));
        assert!(made.allow(&token) == read.allow(&token));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o7777, 0o600);
        assert_eq!(fs::read(&path).unwrap().len(), HEX_LEN + 1);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "no temporary file is left");
    }

    #[test]
    fn of_two_keys_both_must_be_there_and_be_two() {
        let dir = tempfile::tempdir().unwrap();
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        let load = || FingerprintKeys::load(&a, Some(&b));
        assert!(matches!(load(), Err(KeyError::Absent { .. })) && !a.exists(), "none is made by mistake");
        let own = FingerprintKeys::load(&a, None).unwrap();
        assert!(own.other.is_none() && a.exists());
        assert!(matches!(load(), Err(KeyError::Absent { path }) if path == b));
        fs::copy(&a, &b).unwrap();
        assert!(matches!(load(), Err(KeyError::Same)));
        fs::remove_file(&b).unwrap();
        FingerprintKey::load_or_create(&b).unwrap();
        assert_eq!(load().unwrap().own.id(), own.own.id());
    }

    #[test]
    fn two_that_start_at_once_share_one_key() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let ids: Vec<_> = std::thread::scope(|s| {
            let threads: Vec<_> =
                (0..8).map(|_| s.spawn(|| FingerprintKey::load_or_create(&path).unwrap().id())).collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert!(ids.iter().all(|id| *id == ids[0]));
    }

    #[test]
    fn a_file_that_cannot_be_trusted_is_refused_with_a_next_step() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        FingerprintKey::load_or_create(&path).unwrap();
        let link = dir.path().join("link");
        symlink(&path, &link).unwrap();
        assert!(matches!(FingerprintKey::load_or_create(&link), Err(KeyError::NotAFile { .. })));
        assert!(matches!(FingerprintKey::load_or_create(dir.path()), Err(KeyError::NotAFile { .. })));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = FingerprintKey::load_or_create(&path).unwrap_err();
        assert!(error.to_string().contains("chmod 600"), "{error}");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        for content in ["", "12", &"0".repeat(33), &"g".repeat(32), &format!("{}\n\n", "0".repeat(32))] {
            fs::write(&path, content).unwrap();
            let error = FingerprintKey::load_or_create(&path).unwrap_err();
            assert!(matches!(error, KeyError::NotAKey { .. }), "{content:?}: {error}");
        }
        let absent = dir.path().join("absent/key");
        assert!(matches!(FingerprintKey::load_or_create(&absent), Err(KeyError::Io { .. })));
    }

    #[test]
    fn lists_of_texts_have_names_of_their_own() {
        let key = FingerprintKey::from_bytes(&[1; 16]);
        let lists: [&[&str]; 9] = [
            &[],
            &[""],
            &["", ""],
            &["ab"],
            &["a", "b"],
            &["ab\0"],
            &["abcdefgh"],
            &["abcdefgh", ""],
            &["abcdefg", "h"],
        ];
        let name = |domain, list: &[&str]| key.digest_all(domain, list.iter().map(|t| t.as_bytes()));
        for (i, a) in lists.iter().enumerate() {
            assert_eq!(name(1, a), name(1, a));
            assert_ne!(name(1, a), name(2, a));
            for b in &lists[..i] {
                assert_ne!(name(1, a), name(1, b), "{a:?} {b:?}");
            }
        }
    }

    #[test]
    fn keys_have_ids_of_their_own_and_are_not_printed() {
        let (a, b) = (FingerprintKey::from_bytes(&[1; 16]), FingerprintKey::from_bytes(&[2; 16]));
        assert_ne!(a.id(), b.id());
        assert_eq!(format!("{a:?}"), format!("FingerprintKey({:08x})", a.id()));
        assert_eq!(a.scan_key().k0, 0x0101_0101_0101_0101);
    }
}
