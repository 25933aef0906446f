//! Collecting a policy set's files: modules, their tests, and data, in a stable order.
//!
//! Hidden entries (name beginning with a dot) are passed over, so that a Kubernetes `ConfigMap`, whose files
//! are links into a hidden directory beside them, is read once. A link may not lead out of its directory:
//! the set is what its directory holds, or nothing is said by who may write there.

use std::{
    fs,
    path::{Path, PathBuf},
};

use aws_lc_rs::digest;

use super::{LoadError, LoadOptions, shape::Shape};

/// A set's files.
#[derive(Default)]
pub(super) struct Files {
    /// `*.rego` except tests.
    pub modules: Vec<File>,
    /// `*_test.rego`.
    pub tests: Vec<File>,
    /// `data.json`, `data.yaml`, `data.yml`.
    pub data: Vec<File>,
    bytes: u64,
}

/// One file.
pub(super) struct File {
    /// As opened.
    pub path: PathBuf,
    /// Below its policy directory.
    pub relative: PathBuf,
    /// The content.
    pub text: String,
}

impl Files {
    /// Reads all files of the set, and sees that regorus can read its modules.
    pub fn collect(dirs: &[PathBuf], options: &LoadOptions) -> Result<Self, LoadError> {
        let mut files = Self::default();
        for dir in dirs {
            let root = fs::canonicalize(dir).map_err(unreadable(dir))?;
            files.walk(dir, Path::new(""), &root, options)?;
        }
        let mut shape = Shape::default();
        for file in files.modules.iter().chain(&files.tests) {
            shape.see(&file.path.to_string_lossy(), &file.text)?;
        }
        Ok(files)
    }

    fn walk(
        &mut self,
        dir: &Path,
        below: &Path,
        root: &Path,
        options: &LoadOptions,
    ) -> Result<(), LoadError> {
        // Links to directories above would lead round in a circle; no sane set is as deep as this.
        if below.components().count() > 32 {
            return Err(LoadError::TooLarge { limit: 32, unit: "levels of directories" });
        }
        let here = dir.join(below);
        let entries = fs::read_dir(&here).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let mut names: Vec<_> =
            entries.map_err(unreadable(&here))?.iter().map(fs::DirEntry::file_name).collect();
        names.sort();
        for name in names {
            if name.as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let (relative, path) = (below.join(&name), here.join(&name));
            let target = fs::canonicalize(&path).map_err(unreadable(&path))?;
            let is_dir = target.is_dir();
            if !is_dir && !matters(&relative) {
                continue;
            }
            if !target.starts_with(root) {
                return Err(LoadError::OutsideLink { path });
            }
            if is_dir {
                self.walk(dir, &relative, root, options)?;
            } else {
                self.add(path, relative, options)?;
            }
        }
        Ok(())
    }

    fn add(&mut self, path: PathBuf, relative: PathBuf, options: &LoadOptions) -> Result<(), LoadError> {
        let meta = fs::metadata(&path).map_err(unreadable(&path))?;
        if !meta.is_file() {
            // Reading a pipe would wait for ever.
            return Err(unreadable(&path)(std::io::Error::other("it is not a regular file")));
        }
        let size = meta.len();
        if self.bytes.saturating_add(size) > options.max_bytes {
            return Err(LoadError::TooLarge { limit: options.max_bytes, unit: "bytes" });
        }
        let text = fs::read_to_string(&path).map_err(unreadable(&path))?;
        self.bytes += text.len() as u64;
        let is_test = relative.file_stem().is_some_and(|s| s.as_encoded_bytes().ends_with(b"_test"));
        let kind = match (relative.extension().is_some_and(|e| e == "rego"), is_test) {
            (true, true) => &mut self.tests,
            (true, false) => &mut self.modules,
            (false, _) => &mut self.data,
        };
        kind.push(File { path, relative, text });
        let count = self.modules.len() + self.tests.len() + self.data.len();
        if count > options.max_files || self.bytes > options.max_bytes {
            return Err(LoadError::TooLarge { limit: options.max_files as u64, unit: "files" });
        }
        Ok(())
    }

    /// SHA-256 over names and contents, in hexadecimal: equal sets are equal here on every host.
    pub fn hash(&self, decision: &str) -> String {
        let mut context = digest::Context::new(&digest::SHA256);
        let mut part = |bytes: &[u8]| {
            context.update(&(bytes.len() as u64).to_le_bytes());
            context.update(bytes);
        };
        part(decision.as_bytes());
        for file in self.modules.iter().chain(&self.data).chain(&self.tests) {
            part(file.relative.as_os_str().as_encoded_bytes());
            part(file.text.as_bytes());
        }
        crate::hex::encode(context.finish().as_ref())
    }
}

/// A set's hash, and that of the documents that its host adds: what it decides depends on both.
pub(super) fn stamp(hash: &str, documents: Option<&serde_json::Value>) -> String {
    let Some(documents) = documents else { return hash.to_owned() };
    crate::hex::encode(digest::digest(&digest::SHA256, format!("{hash} {documents}").as_bytes()).as_ref())
}

/// Whether a file belongs to a set.
fn matters(relative: &Path) -> bool {
    let data = relative.file_name().is_some_and(|n| n == "data.json" || n == "data.yaml" || n == "data.yml");
    data || relative.extension().is_some_and(|e| e == "rego")
}

fn unreadable(path: &Path) -> impl Fn(std::io::Error) -> LoadError {
    move |source| LoadError::Read { path: path.into(), source }
}
