//! Copies of policy directories, by what they hold: the same content is the same copy.

use std::{
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

use super::{LoadError, LoadOptions, files::Files};

/// What the directories hold, as one hash.
pub fn revision(dirs: &[PathBuf], decision: &str, options: &LoadOptions) -> Result<String, LoadError> {
    Ok(Files::collect(dirs, options)?.hash(decision))
}

/// Copies the directories below `into`, down to the disk, and gives the copy's revision. Nothing is written where that
/// copy is there already.
pub fn snapshot(
    dirs: &[PathBuf],
    into: &Path,
    decision: &str,
    options: &LoadOptions,
) -> Result<String, LoadError> {
    // Read once: what is copied is what the revision says.
    let mut all = Vec::new();
    for dir in dirs {
        all.push(Files::collect(std::slice::from_ref(dir), options)?);
    }
    let failed = |source: io::Error| LoadError::Read { path: into.to_owned(), source };
    let fresh = into.join("new");
    let _ = fs::remove_dir_all(&fresh);
    write(&all, &fresh).map_err(failed)?;
    let copied = copies(&fresh);
    let revision = revision(&copied, decision, options)?;
    let place = into.join(&revision);
    let held = self::revision(&copies(&place), decision, options);
    if held.is_ok_and(|held| held == revision) {
        let _ = fs::remove_dir_all(&fresh);
        return Ok(revision);
    }
    let _ = fs::remove_dir_all(&place);
    let moved = fs::rename(&fresh, &place).and_then(|()| File::open(into)?.sync_all());
    moved.map_err(failed)?;
    Ok(revision)
}

/// The directories of a copy, in their order.
pub fn copies(place: &Path) -> Vec<PathBuf> {
    (0..u32::MAX).map(|n| place.join(n.to_string())).take_while(|dir| dir.is_dir()).collect()
}

fn write(all: &[Files], to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for (n, files) in all.iter().enumerate() {
        let dir = to.join(n.to_string());
        fs::create_dir(&dir)?;
        for file in files.modules.iter().chain(&files.tests).chain(&files.data) {
            let path = dir.join(&file.relative);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            let mut copy = File::create(&path)?;
            copy.write_all(file.text.as_bytes())?;
            copy.sync_all()?;
        }
        File::open(&dir)?.sync_all()?;
    }
    File::open(to)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_copy_is_the_same_set_and_is_made_once() {
        let home = tempfile::tempdir().unwrap();
        let (a, b, store) = (home.path().join("a"), home.path().join("b"), home.path().join("store"));
        for dir in [&a, &b] {
            fs::create_dir_all(dir.join("deep")).unwrap();
        }
        fs::create_dir(&store).unwrap();
        fs::write(a.join("p.rego"), "package p\n\nx := 1\n").unwrap();
        fs::write(a.join("p_test.rego"), "package p_test\n").unwrap();
        fs::write(b.join("deep/data.json"), "{}").unwrap();
        fs::write(b.join("notes.txt"), "no part of it").unwrap();
        let (dirs, options) = ([a.clone(), b], LoadOptions::default());
        let taken = snapshot(&dirs, &store, "p/x", &options).unwrap();
        assert_eq!(taken, revision(&dirs, "p/x", &options).unwrap());
        let copied = copies(&store.join(&taken));
        assert_eq!(copied.len(), 2);
        assert_eq!(revision(&copied, "p/x", &options).unwrap(), taken);
        assert_eq!(snapshot(&dirs, &store, "p/x", &options).unwrap(), taken);
        // One that was meddled with is made again.
        fs::write(store.join(&taken).join("0/p.rego"), "package p\n\nx := 2\n").unwrap();
        snapshot(&dirs, &store, "p/x", &options).unwrap();
        assert_eq!(revision(&copied, "p/x", &options).unwrap(), taken);
        fs::write(a.join("p.rego"), "package p\n\nx := 3\n").unwrap();
        assert_ne!(snapshot(&dirs, &store, "p/x", &options).unwrap(), taken);
        assert_eq!(fs::read_dir(&store).unwrap().count(), 2);
    }
}
