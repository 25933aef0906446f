//! The disk by itself: what a durable write of 4 KiB costs.

use std::{
    fs::{self, OpenOptions},
    io::{Seek as _, SeekFrom, Write as _},
    path::Path,
    time::Instant,
};

use anyhow::{Context as _, Result};

/// Times `count` writes of 4 KiB, each with `fdatasync`, in milliseconds, sorted.
pub fn syncs(dir: &Path, count: usize) -> Result<Vec<f64>> {
    let path = dir.join("fsync");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    let block = [0x5a; 4096];
    // Written once before, so that no measured write grows the file.
    file.write_all(&block)?;
    file.sync_all()?;
    let mut took = Vec::with_capacity(count);
    for _ in 0..count {
        let start = Instant::now();
        file.seek(SeekFrom::Start(0))?;
        file.write_all(&block)?;
        file.sync_data()?;
        took.push(start.elapsed().as_secs_f64() * 1e3);
    }
    fs::remove_file(path)?;
    took.sort_by(f64::total_cmp);
    Ok(took)
}

/// The file system of a directory, as the mount table names it: device and type.
pub fn file_system(dir: &Path) -> String {
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let dir = dir.canonicalize().unwrap_or_else(|_| dir.to_owned());
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (device, at, kind) = (fields.next()?, fields.next()?, fields.next()?);
            dir.starts_with(at).then(|| (at.len(), format!("{kind} on {device}")))
        })
        .max_by_key(|(length, _)| *length)
        .map_or_else(|| "unknown".to_owned(), |(_, name)| name)
}
