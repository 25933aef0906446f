//! The directory in which written policies and data are kept.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use serde_json::Value;

use super::Written;
use crate::serve::DocumentError;

/// Link to the version in force.
const CURRENT: &str = "current";
const DATA: &str = "data.json";
/// Behind an id: a file that ends in `_test.rego` would be a test.
const ENDING: &str = ".api.rego";

/// Versions and the link.
pub struct Store(PathBuf);

/// The version in force, if there is one.
pub fn current(dir: &Path) -> Option<PathBuf> {
    let link = dir.join(CURRENT);
    link.exists().then_some(link)
}

impl Store {
    /// Opens it, and makes it where it is not there.
    pub fn open(dir: &Path) -> Result<Self, DocumentError> {
        fs::create_dir_all(dir).map_err(|e| failed(dir, &e))?;
        Ok(Self(dir.to_owned()))
    }

    /// What is in force.
    pub fn read(&self) -> Result<Written, DocumentError> {
        let mut written = Written { data: Value::Object(serde_json::Map::new()), ..Written::default() };
        let Some(current) = current(&self.0) else { return Ok(written) };
        for entry in fs::read_dir(&current).map_err(|e| failed(&current, &e))? {
            let path = entry.map_err(|e| failed(&current, &e))?.path();
            let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
            let text = fs::read_to_string(&path).map_err(|e| failed(&path, &e))?;
            if name == DATA {
                written.data = serde_json::from_str(&text)
                    .map_err(|e| DocumentError::Failed(format!("`{}` is damaged: {e}", path.display())))?;
            } else if let Some(id) = name.strip_suffix(ENDING) {
                written.policies.insert(unescaped(id), text);
            }
        }
        Ok(written)
    }

    /// Writes a new version, down to the disk, and gives its directory.
    pub fn write(&self, written: &Written) -> Result<PathBuf, DocumentError> {
        let next = 1 + self.versions().into_iter().map(|(n, _)| n).max().unwrap_or_default();
        let dir = self.0.join(format!("v{next}"));
        let all = || -> io::Result<()> {
            fs::create_dir(&dir)?;
            let file = |name: &str, text: &str| -> io::Result<()> {
                let mut file = File::create(dir.join(name))?;
                file.write_all(text.as_bytes())?;
                file.sync_all()
            };
            for (id, text) in &written.policies {
                file(&format!("{}{ENDING}", escaped(id)), text)?;
            }
            if written.data.as_object().is_some_and(|data| !data.is_empty()) {
                file(DATA, &written.data.to_string())?;
            }
            File::open(&dir)?.sync_all()
        };
        all().map_err(|e| {
            self.discard(&dir);
            failed(&dir, &e)
        })?;
        Ok(dir)
    }

    /// Makes a version the one in force.
    pub fn move_to(&self, version: &Path) -> Result<(), DocumentError> {
        let name = version.file_name().unwrap_or_default();
        let (link, next) = (self.0.join(CURRENT), self.0.join("next"));
        let _ = fs::remove_file(&next);
        let moved = symlink(name, &next)
            .and_then(|()| fs::rename(&next, &link))
            .and_then(|()| File::open(&self.0)?.sync_all());
        moved.map_err(|e| failed(&link, &e))?;
        for (_, old) in self.versions().into_iter().filter(|(_, dir)| dir != version) {
            self.discard(&old);
        }
        Ok(())
    }

    /// Removes a version that is not in force. One that stays is removed with the next change.
    pub fn discard(&self, version: &Path) {
        if version.starts_with(&self.0) {
            let _ = fs::remove_dir_all(version);
        }
    }

    fn versions(&self) -> Vec<(u64, PathBuf)> {
        let entries = fs::read_dir(&self.0).into_iter().flatten().filter_map(Result::ok).map(|e| e.path());
        let number = |dir: &Path| dir.file_name()?.to_str()?.strip_prefix('v')?.parse().ok();
        entries.filter_map(|dir| number(&dir).map(|n| (n, dir))).collect()
    }
}

fn failed(path: &Path, e: &io::Error) -> DocumentError {
    DocumentError::Failed(format!("`{}` (`serve.opa_writes`): {e}", path.display()))
}

/// The id of a policy from its file, or a file as it is.
pub fn shown(file: &str) -> String {
    let name = file.rsplit('/').next().unwrap_or(file);
    name.strip_suffix(ENDING).map_or_else(|| file.to_owned(), unescaped)
}

/// Longest name of a file (Linux's NAME_MAX), in bytes.
const LONGEST: usize = 255;

/// Whether a policy of this id can be kept.
pub fn can_be_kept(id: &str) -> bool {
    escaped(id).len() + ENDING.len() <= LONGEST
}

/// An id as a file's name.
fn escaped(id: &str) -> String {
    use std::fmt::Write as _;
    id.bytes().fold(String::new(), |mut name, b| {
        // A name that begins with a dot is passed over by the loader.
        if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_') || (b == b'.' && !name.is_empty()) {
            name.push(b.into());
        } else {
            let _ = write!(name, "%{b:02x}");
        }
        name
    })
}

fn unescaped(name: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = name.bytes();
    while let Some(b) = rest.next() {
        let mut digit = || char::from(rest.next()?).to_digit(16);
        let byte = if b == b'%' {
            digit().zip(digit()).and_then(|(a, b)| u8::try_from(a * 16 + b).ok())
        } else {
            Some(b)
        };
        bytes.push(byte.unwrap_or(b'?'));
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_was_written_is_read_again_and_old_versions_go() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("opa")).unwrap();
        let longest = "l".repeat(246);
        assert!(
            can_be_kept(&longest) && !can_be_kept(&format!("{longest}l")) && !can_be_kept(&"/".repeat(83))
        );
        let ids = ["a/b.rego", "../../etc/passwd", ".hidden", "ünï", "x_test", &longest];
        let policies = ids.iter().map(|id| ((*id).to_owned(), format!("package p{}", id.len()))).collect();
        let written = Written { policies, data: json!({"a": 1}) };
        for _ in 0..3 {
            let version = store.write(&written).unwrap();
            store.move_to(&version).unwrap();
        }
        assert_eq!(store.read().unwrap(), written);
        assert_eq!(store.versions().len(), 1);
        let inside = fs::read_dir(current(&store.0).unwrap()).unwrap().count();
        assert_eq!(inside, ids.len() + 1, "nothing was written elsewhere");
        assert_eq!(shown("/x/v1/a%2fb.rego.api.rego"), "a/b.rego");
    }
}
