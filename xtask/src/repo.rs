//! Where things stand in this clone.

use std::{
    env,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};

use crate::exec;

/// The root of the repository.
///
/// Asked for at run time, since a built xtask may have been moved with its clone.
pub fn root() -> Result<PathBuf> {
    if let Some(dir) = env::var_os("CARGO_MANIFEST_DIR")
        && let Some(root) = Path::new(&dir).parent()
        && root.join("common/src/reason.rs").is_file()
    {
        return Ok(root.to_owned());
    }
    let here = env::current_dir().context("cannot read the current directory")?;
    match here.ancestors().find(|dir| dir.join("common/src/reason.rs").is_file()) {
        Some(root) => Ok(root.to_owned()),
        None => bail!("`{}` is not inside the Portcullis repository; change into it first", here.display()),
    }
}

/// Cargo's target directory for this clone.
pub fn target() -> Result<PathBuf> {
    let root = root()?;
    // An empty value means unset to cargo as well.
    Ok(match env::var_os("CARGO_TARGET_DIR").filter(|dir| !dir.is_empty()) {
        Some(dir) => root.join(dir),
        None => root.join("target"),
    })
}

/// The files that git tracks or would track, relative to the root.
pub fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let listed = exec::cmd("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root)
        .read()
        .context("cannot list the files of the repository; `tidy` needs git and a clone, not an archive")?;
    let mut files: Vec<PathBuf> =
        listed.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect();
    // A file deleted but not yet committed is still listed.
    files.retain(|file| root.join(file).is_file());
    files.sort();
    files.dedup();
    Ok(files)
}
