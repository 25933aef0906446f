//! Reading an archive: within its bounds, and nothing in it that leads elsewhere.

use std::{
    collections::BTreeMap,
    io::Read as _,
    path::{Component, Path},
};

use flate2::read::GzDecoder;
use tar::EntryType;

use super::{BundleError, Manifest, Verification, manifest::MANIFEST, signature::SIGNATURES};

/// Most entries of an archive.
const MAX_ENTRIES: usize = 10_000;
/// How much an archive may grow when it is unpacked.
const GROWTH: u64 = 16;

/// A bundle that was read and checked.
#[derive(Debug)]
pub struct Bundle {
    /// What it says of itself.
    pub manifest: Manifest,
    /// Whether a signature was asked for, and held.
    pub signed: bool,
    /// Its files by path below the bundle's root, manifest and signatures left out.
    pub(super) files: BTreeMap<String, Vec<u8>>,
}

impl Bundle {
    /// Its files by path, manifest and signatures left out.
    pub const fn files(&self) -> &BTreeMap<String, Vec<u8>> {
        &self.files
    }

    /// Reads an archive of up to `max` bytes. Where there is a `verification`, unsigned ones are refused.
    pub fn read(archive: &[u8], max: u64, verification: Option<&Verification>) -> Result<Self, BundleError> {
        if archive.len() as u64 > max {
            return Err(BundleError::TooLarge { limit: max, what: "as it was sent" });
        }
        let mut files = unpacked(archive, max.saturating_mul(GROWTH))?;
        if let Some(verification) = verification {
            verification.check(&files)?;
        }
        files.remove(SIGNATURES);
        let manifest = match files.remove(MANIFEST) {
            Some(text) => Manifest::read(&text)?,
            None => Manifest::default(),
        };
        manifest.check(&files)?;
        Ok(Self { manifest, signed: verification.is_some(), files })
    }
}

fn unpacked(archive: &[u8], max: u64) -> Result<BTreeMap<String, Vec<u8>>, BundleError> {
    let fault = |e: std::io::Error| BundleError::Archive(e.to_string());
    let too_large = || BundleError::TooLarge { limit: max, what: "unpacked" };
    // One byte more than allowed tells that there is more; headers and padding are counted too.
    let mut tar = tar::Archive::new(GzDecoder::new(archive).take(max + 1));
    let mut files = BTreeMap::new();
    let mut bytes = 0u64;
    for (count, entry) in tar.entries().map_err(fault)?.enumerate() {
        let mut entry = entry.map_err(fault)?;
        let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if count >= MAX_ENTRIES {
            return Err(BundleError::entry(&name, format!("is one too many: there are over {MAX_ENTRIES}")));
        }
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => continue,
            EntryType::Regular | EntryType::Continuous => {}
            _ => return Err(BundleError::entry(&name, "is neither a file nor a directory")),
        }
        let path =
            plain(&name).ok_or_else(|| BundleError::entry(&name, "does not name a place in the bundle"))?;
        bytes = bytes.saturating_add(entry.size());
        if bytes > max {
            return Err(too_large());
        }
        let mut content = Vec::new();
        entry.read_to_end(&mut content).map_err(fault)?;
        if content.len() as u64 != entry.size() {
            return Err(BundleError::Archive(format!("`{name}` is cut short")));
        }
        if files.insert(path, content).is_some() {
            return Err(BundleError::entry(&name, "is there twice"));
        }
    }
    // What gzip says of the whole (its checksum and length) stands at its very end.
    let mut rest = tar.into_inner();
    std::io::copy(&mut rest, &mut std::io::sink()).map_err(fault)?;
    if rest.limit() == 0 {
        return Err(too_large());
    }
    Ok(files)
}

/// A path below the root, without a slash at its start; `None` for one that leads elsewhere.
fn plain(name: &str) -> Option<String> {
    let mut parts = Vec::new();
    for part in Path::new(name.trim_start_matches('/')).components() {
        match part {
            Component::Normal(part) => {
                parts.push(part.to_str().filter(|p| !p.contains(['\\', '\0', '\u{fffd}']))?);
            }
            Component::CurDir => {}
            _ => return None,
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_stay_in_the_bundle() {
        for (name, path) in [("/a/b.rego", "a/b.rego"), ("./a", "a"), ("a//b", "a/b"), ("a/./b", "a/b")] {
            assert_eq!(plain(name).as_deref(), Some(path));
        }
        for bad in ["..", "a/../b", "/../etc/passwd", "", "/", "a\\b", "."] {
            assert_eq!(plain(bad), None, "{bad}");
        }
    }
}
