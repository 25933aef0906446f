//! The pin directory: maps and links that outlive the daemon.
//!
//! Links stand in the directory itself, maps in one below it that is named after their layout. So a daemon with
//! another layout makes maps of its own beside the old ones, fills them, puts its programs in the old ones' place,
//! and only then removes what it replaced: enforcement never has a gap.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use aya::maps::{Array, Map, MapData};
use portcullis_common::layout::{Meta, VERSION};

use super::{KernelError, Settings, beside::BESIDE, load::map_error, unlink};

/// `BPF_FS_MAGIC`.
const BPFFS: i64 = 0xcafe_4a11;
/// How directories of maps are named.
const LAYOUT_PREFIX: &str = "layout-";
/// How link pins are named.
pub(super) const LINK_PREFIX: &str = "link-";

/// Where the maps of this daemon's layout are pinned.
pub(super) fn maps_dir(pin_dir: &Path) -> PathBuf {
    pin_dir.join(format!("{LAYOUT_PREFIX}{VERSION}"))
}

/// Makes the directories where they are not there yet.
pub(super) fn prepare(pin_dir: &Path) -> Result<(), KernelError> {
    prepare_root(pin_dir)?;
    let maps = maps_dir(pin_dir);
    make(&maps)?;
    restrict(&maps)
}

/// Makes the pin directory where it is not there yet, for this user alone: whoever may write the deny map decides who is
/// locked out.
pub(super) fn prepare_root(pin_dir: &Path) -> Result<(), KernelError> {
    make(pin_dir)?;
    let fs_kind = nix::sys::statfs::statfs(pin_dir)
        .map_err(|e| KernelError::io(format!("look at {}", pin_dir.display()), e.into()))?
        .filesystem_type();
    if fs_kind.0 & 0xffff_ffff != BPFFS {
        let _ = fs::remove_dir(pin_dir);
        return Err(KernelError::NotBpffs { path: pin_dir.to_owned() });
    }
    restrict(pin_dir)
}

fn make(path: &Path) -> Result<(), KernelError> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Ok(()) => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Err(KernelError::NotBpffs { path: path.to_owned() }),
        Err(e) => Err(KernelError::io(format!("create {}", path.display()), e)),
    }
}

fn restrict(path: &Path) -> Result<(), KernelError> {
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))
        .map_err(|e| KernelError::io(format!("restrict {}", path.display()), e))
}

/// What an earlier daemon left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// Maps of this layout, made under this key.
    pub maps: bool,
    /// Maps of another layout: its connections are not known to this one's programs.
    pub other_layout: bool,
}

/// What a directory of maps says of itself; `None` where there are none.
fn meta(maps: &Path) -> Result<Option<Meta>, KernelError> {
    let path = maps.join("META");
    if !path.exists() {
        return Ok(None);
    }
    let data = MapData::from_pin(&path).map_err(map_error)?;
    let map: Array<_, [u32; 2]> =
        Array::try_from(Map::from_map_data(data).map_err(map_error)?).map_err(map_error)?;
    let [version, key_id] = map.get(&0, 0).map_err(map_error)?;
    Ok(Some(Meta { version, key_id }))
}

/// Under which key the maps that are pinned in a place were made, of whatever layout; `None` where there are none yet.
pub(super) fn key_of(place: &Path) -> Result<Option<u32>, KernelError> {
    let own = maps_dir(place);
    let is_maps = |p: &PathBuf| {
        *p != own && p.file_name().is_some_and(|n| n.to_string_lossy().starts_with(LAYOUT_PREFIX))
    };
    let others = list(place)?.into_iter().filter(is_maps);
    for maps in std::iter::once(own.clone()).chain(others) {
        // A daemon that died between pinning and writing left zeros.
        if let Some(found) = meta(&maps)?.filter(|m| *m != Meta { version: 0, key_id: 0 }) {
            return Ok(Some(found.key_id));
        }
    }
    Ok(None)
}

/// Looks at what is pinned.
pub(super) fn look(s: &Settings) -> Result<Found, KernelError> {
    let other_layout = !replaced(&s.pin_dir)?.is_empty();
    let Some(found) = meta(&maps_dir(&s.pin_dir))? else {
        return Ok(Found { maps: false, other_layout });
    };
    // A daemon that died between pinning and writing left zeros.
    if found == (Meta { version: 0, key_id: 0 }) {
        return Ok(Found { maps: true, other_layout });
    }
    if found.version != VERSION {
        return Err(KernelError::Layout { path: s.pin_dir.clone(), found: found.version, expected: VERSION });
    }
    if found.key_id != s.key_id {
        return Err(KernelError::KeyMismatch {
            path: s.pin_dir.clone(),
            found: found.key_id,
            expected: s.key_id,
        });
    }
    Ok(Found { maps: true, other_layout })
}

/// What another layout has left: all that is neither a link nor this daemon's.
fn replaced(pin_dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    let maps = maps_dir(pin_dir);
    let mut old = list(pin_dir)?;
    old.retain(|p| *p != maps && !is_link(p) && !p.ends_with(BESIDE));
    Ok(old)
}

/// Removes that, once this daemon's programs are in force.
pub(super) fn remove_replaced(pin_dir: &Path) -> Result<usize, KernelError> {
    let old = replaced(pin_dir)?;
    for path in &old {
        remove(path)?;
    }
    Ok(old.len())
}

/// Whether a pin is a link's.
pub(super) fn is_link(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(LINK_PREFIX))
}

/// Removes a pin, or a directory of pins. A link is detached first, so that its program stops at once.
pub(super) fn remove(path: &Path) -> Result<(), KernelError> {
    if path.is_dir() {
        let mut all = list(path)?;
        all.sort_by_key(|p| !is_link(p));
        all.iter().try_for_each(|p| remove(p))?;
        return gone(fs::remove_dir(path), path);
    }
    if is_link(path) {
        // Usually there is none, or its interface is gone; what matters is that the pin goes, below.
        let _ = unlink::detach(path);
    }
    gone(fs::remove_file(path), path)
}

fn gone(done: io::Result<()>, path: &Path) -> Result<(), KernelError> {
    match done {
        Err(e) if e.kind() != io::ErrorKind::NotFound => {
            Err(KernelError::io(format!("remove {}", path.display()), e))
        }
        _ => Ok(()),
    }
}

/// Removes everything. Links first: a program must not outlive its map of condemned tokens.
pub(super) fn remove_all(pin_dir: &Path) -> Result<(), KernelError> {
    let mut all = list(pin_dir)?;
    all.sort_by_key(|p| !is_link(p));
    all.iter().try_for_each(|p| remove(p))?;
    gone(fs::remove_dir(pin_dir), pin_dir)
}

/// What a directory holds; nothing where it is not there.
pub(super) fn list(dir: &Path) -> Result<Vec<PathBuf>, KernelError> {
    match fs::read_dir(dir) {
        Ok(dir) => Ok(dir.filter_map(Result::ok).map(|e| e.path()).collect()),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(e) => Err(KernelError::io(format!("list {}", dir.display()), e)),
    }
}
