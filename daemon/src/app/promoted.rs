//! Which set is the live one: that of `policy.dirs`, or one that was promoted and is kept as a copy.
//!
//! `policy.state_dir` holds copies by revision and a pointer to the live one and to the one before. The pointer counts
//! until `policy.dirs` hold the same as the promoted copy: then they are the live set again, and what is changed in them
//! comes into force. Until then changes there do not, which `status` and the log say.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

use super::settings;
use crate::{
    config::Config,
    policy::{self, LoadError},
};

const POINTER: &str = "live.json";

/// What was promoted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Pointer {
    /// The revision in force; none where it is that of `policy.dirs`.
    pub live: Option<String>,
    /// The one before it.
    pub previous: Option<String>,
    /// When that was ordered (ms since 1970).
    pub since: i64,
    /// By whom.
    pub actor: String,
}

/// The copies and the pointer.
pub(super) struct Copies<'a>(&'a Config);

impl<'a> Copies<'a> {
    pub const fn of(config: &'a Config) -> Self {
        Self(config)
    }

    fn dir(&self) -> &Path {
        &self.0.policy.state_dir
    }

    /// The pointer; none where nothing was ever promoted. One that cannot be read is an error: another set than was
    /// promoted must not come into force by itself.
    pub fn pointer(&self) -> Result<Pointer, LoadError> {
        let path = self.dir().join(POINTER);
        let failed = |source| LoadError::Read { path: path.clone(), source };
        match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str(&text).map_err(|e| failed(io::Error::other(e))),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Pointer::default()),
            // A directory above that is none is no state either.
            Err(e) if e.kind() == io::ErrorKind::NotADirectory => Ok(Pointer::default()),
            Err(e) => Err(failed(e)),
        }
    }

    /// Moves the pointer, down to the disk, and removes copies that nothing points to.
    pub fn point(&self, pointer: &Pointer) -> io::Result<()> {
        let (path, fresh) = (self.dir().join(POINTER), self.dir().join("live.new"));
        let text = serde_json::to_vec_pretty(pointer)?;
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&fresh, &path)?;
        File::open(self.dir())?.sync_all()?;
        let kept = [&pointer.live, &pointer.previous];
        for entry in fs::read_dir(self.dir())?.filter_map(Result::ok) {
            let name = entry.file_name().to_string_lossy().into_owned();
            let is_copy = name.len() == 64 && name.bytes().all(|b| b.is_ascii_hexdigit());
            if is_copy && !kept.iter().any(|k| k.as_deref() == Some(&name)) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        Ok(())
    }

    /// The directories of the live set, and its revision where it is a promoted one.
    pub fn live(&self) -> Result<(Vec<PathBuf>, Option<String>), LoadError> {
        let Some(revision) = self.pointer()?.live else { return Ok((self.0.policy.dirs.clone(), None)) };
        if self.revision(&self.0.policy.dirs).is_ok_and(|held| held == revision) {
            return Ok((self.0.policy.dirs.clone(), None));
        }
        Ok((policy::copies(&self.dir().join(&revision)), Some(revision)))
    }

    /// Has the pointer count no more where `policy.dirs` hold what was promoted: what is changed there from here on is to
    /// come into force.
    pub fn forget_if_caught_up(&self, promoted: Option<&str>) {
        let Ok(pointer) = self.pointer() else { return };
        if promoted.is_some() || pointer.live.is_none() {
            return;
        }
        tracing::info!("`policy.dirs` hold what was promoted: they are the live set again");
        if let Err(e) = self.point(&Pointer { live: None, ..pointer }) {
            tracing::error!(error = %e, "`policy.state_dir`: what is changed in `policy.dirs` will not come into force");
        }
    }

    /// What directories hold.
    pub fn revision(&self, dirs: &[PathBuf]) -> Result<String, LoadError> {
        policy::revision(dirs, &self.0.policy.decision, &settings::policy(self.0))
    }

    /// The directories of a copy.
    pub fn copy(&self, revision: &str) -> Vec<PathBuf> {
        policy::copies(&self.dir().join(revision))
    }

    /// Copies directories.
    pub fn take(&self, dirs: &[PathBuf]) -> Result<String, LoadError> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(self.dir());
        made.map_err(|source| LoadError::Read { path: self.dir().to_owned(), source })?;
        policy::snapshot(dirs, self.dir(), &self.0.policy.decision, &settings::policy(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(dir: &Path) -> Config {
        let mut config = Config::default();
        config.policy.dirs = vec![dir.join("dirs")];
        config.policy.state_dir = dir.join("state");
        fs::create_dir(dir.join("dirs")).unwrap();
        fs::write(dir.join("dirs/p.rego"), "package p\n\nx := 1\n").unwrap();
        config
    }

    #[test]
    fn a_promoted_set_is_live_until_the_directories_hold_the_same() {
        let home = tempfile::tempdir().unwrap();
        let config = place(home.path());
        let copies = Copies::of(&config);
        assert_eq!(copies.live().unwrap(), (config.policy.dirs.clone(), None));
        let candidate = home.path().join("candidate");
        fs::create_dir(&candidate).unwrap();
        fs::write(candidate.join("p.rego"), "package p\n\nx := 2\n").unwrap();
        let (before, promoted) =
            (copies.take(&config.policy.dirs).unwrap(), copies.take(&[candidate]).unwrap());
        let unused = copies.take(&[home.path().join("candidate"), home.path().join("dirs")]).unwrap();
        let pointer =
            Pointer { live: Some(promoted.clone()), previous: Some(before.clone()), ..Pointer::default() };
        copies.point(&pointer).unwrap();
        assert_eq!(copies.pointer().unwrap(), pointer);
        let (dirs, revision) = copies.live().unwrap();
        assert_eq!((revision.as_deref(), dirs), (Some(promoted.as_str()), copies.copy(&promoted)));
        assert!(copies.copy(&unused).is_empty(), "what nothing points to is removed");
        assert_eq!(copies.revision(&copies.copy(&before)).unwrap(), before);
        // Another change in the directories is not in force; the same content is.
        fs::write(home.path().join("dirs/p.rego"), "package p\n\nx := 3\n").unwrap();
        assert_eq!(copies.live().unwrap().1, Some(promoted));
        fs::write(home.path().join("dirs/p.rego"), "package p\n\nx := 2\n").unwrap();
        assert_eq!(copies.live().unwrap(), (config.policy.dirs.clone(), None));
        // From then on they count.
        copies.forget_if_caught_up(None);
        fs::write(home.path().join("dirs/p.rego"), "package p\n\nx := 4\n").unwrap();
        assert_eq!(copies.live().unwrap(), (config.policy.dirs.clone(), None));
        assert_eq!(copies.pointer().unwrap().previous, Some(before));
        fs::write(home.path().join("state/live.json"), "{").unwrap();
        assert!(copies.live().is_err(), "no guess");
    }
}
