//! Where a bundle is kept: its archive, for the next start, and what it unpacks to, for the policy loader.

use std::{
    fs::{self, File, OpenOptions},
    io::Write as _,
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use super::{Bundle, BundleError, Manifest, Verification};

const ARCHIVE: &str = "bundle.tar.gz";
const ETAG: &str = "etag";

/// The directory of one bundle.
#[derive(Debug)]
pub struct Shelf {
    dir: PathBuf,
    max: u64,
    verification: Option<Verification>,
}

/// A bundle that was checked and unpacked, and is not in force yet. Dropped, it is removed.
#[derive(Debug)]
pub struct Fresh {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Whether it is signed.
    pub signed: bool,
    /// The SHA-256 of its archive, in hexadecimal.
    pub sha256: String,
    dir: PathBuf,
    kept: bool,
}

/// An archive, and the tag by which its server knows it.
pub type Kept = (Vec<u8>, Option<String>);

impl Fresh {
    /// Where its files are.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps its files when this is dropped.
    pub fn keep(mut self) {
        self.kept = true;
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        if !self.kept {
            // What stays is removed with the next bundle.
            let _ = fs::remove_dir_all(&self.dir);
        }
    }
}

/// The SHA-256 of an archive, in hexadecimal.
pub fn sha256(archive: &[u8]) -> String {
    crate::hex::encode(digest::digest(&digest::SHA256, archive).as_ref())
}

impl Shelf {
    /// Opens the directory of the bundle `name` below `state`, and makes it (mode 0700) where it is not there.
    pub fn open(
        state: &Path,
        name: &str,
        max: u64,
        verification: Option<Verification>,
    ) -> Result<Self, BundleError> {
        let dir = state.join(name);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(BundleError::io(&dir))?;
        Ok(Self { dir, max, verification })
    }

    /// Checks an archive and unpacks it beside the one in force.
    pub fn unpack(&self, archive: &[u8]) -> Result<Fresh, BundleError> {
        let bundle = Bundle::read(archive, self.max, self.verification.as_ref())?;
        let sha256 = sha256(archive);
        // A name of its own each time: the one in force may be of the same archive.
        let mut dir = self.dir.join(&sha256[..16]);
        while dir.exists() {
            dir.as_mut_os_string().push("-");
        }
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(BundleError::io(&dir))?;
        let fresh = Fresh { manifest: bundle.manifest, signed: bundle.signed, sha256, dir, kept: false };
        for (name, content) in &bundle.files {
            let path = fresh.dir.join(name);
            if let Some(parent) = path.parent() {
                fs::DirBuilder::new()
                    .recursive(true)
                    .mode(0o700)
                    .create(parent)
                    .map_err(BundleError::io(parent))?;
            }
            let mut file = OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&path)
                .map_err(BundleError::io(&path))?;
            file.write_all(content).map_err(BundleError::io(&path))?;
        }
        Ok(fresh)
    }

    /// The archive that was in force last, if there is one, and the tag by which its server knows it.
    pub fn last(&self) -> Result<Option<Kept>, BundleError> {
        let path = self.dir.join(ARCHIVE);
        match fs::read(&path) {
            Ok(archive) => {
                Ok(Some((archive, fs::read_to_string(self.dir.join(ETAG)).ok().filter(|e| !e.is_empty()))))
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(BundleError::io(&path)(e)),
        }
    }

    /// Keeps an archive for the next start, and removes what is not of the bundle in `current`.
    pub fn persist(&self, archive: &[u8], etag: Option<&str>, current: &Path) -> Result<(), BundleError> {
        // A tag without its archive would be taken for the other's.
        let tag = self.dir.join(ETAG);
        let _ = fs::remove_file(&tag);
        self.replace(ARCHIVE, archive)?;
        self.replace(ETAG, etag.unwrap_or_default().as_bytes())?;
        for entry in fs::read_dir(&self.dir).map_err(BundleError::io(&self.dir))?.flatten() {
            let path = entry.path();
            if path.is_dir() && path != current {
                let _ = fs::remove_dir_all(&path);
            }
        }
        Ok(())
    }

    fn replace(&self, name: &str, content: &[u8]) -> Result<(), BundleError> {
        let (path, next) = (self.dir.join(name), self.dir.join(format!("{name}.next")));
        let write = || -> std::io::Result<()> {
            let mut file =
                OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&next)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(&self.dir)?.sync_all()
        };
        write().map_err(BundleError::io(&path))
    }
}
