//! Copies of the store, made beside a daemon that goes on writing, and taken back where none runs.
//!
//! A copy is of one moment: the snapshot, the log's complete files, and the last one as far as it is acknowledged. It is
//! opened as a daemon would and its chain is checked before it has its name. Taking one back never destroys what was there.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::Serialize;
use thiserror::Error;

use super::{
    super::keys::KeyIds,
    AuditError, AuditLog, Changes, Loaded, Store, StoreError, Tuning,
    migrate::{beside, sync_parent},
};
use crate::{clock::WallTime, hex, journal::DiskFile};

/// How far generations of policies go on where the store that was lost cannot be asked: farther than anybody's changed
/// since, so that what an unknown set condemned in the kernel counts for nothing.
const UNKNOWN_GENERATIONS: u64 = 1000;

/// Nothing is made of a copy in the background, which would keep its files.
fn quiet() -> Tuning {
    Tuning { snapshot_after: u64::MAX, audit_keep: Duration::MAX, audit_max: u64::MAX, ..Tuning::default() }
}

/// What a copy holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Held {
    /// Revocations, those of selectors and what follows from them among them.
    pub revocations: usize,
    /// The log's last entry.
    pub entry: u64,
    /// Its hash.
    pub hash: String,
    /// When it was written (ms since 1970); 0 where there is none.
    pub time: i64,
    /// Id of the fingerprint key.
    pub key_id: u32,
    /// Its size in bytes.
    pub bytes: u64,
}

/// What came of taking a copy back.
#[derive(Clone, Debug, Serialize)]
pub struct Restored {
    /// What is in force from the next start on.
    pub now: Held,
    /// What was there before, as far as it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub before: Option<Held>,
    /// Where that is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kept: Option<PathBuf>,
}

/// Why a copy is not made or not taken back.
#[derive(Debug, Error)]
pub enum BackupError {
    /// The place is taken.
    #[error("{0} exists: name a place where nothing is")]
    Exists(PathBuf),
    /// Files cannot be read or written.
    #[error("{what} {path}: {source}")]
    Io {
        /// What was done.
        what: &'static str,
        /// To which file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It does not verify.
    #[error(transparent)]
    Log(#[from] AuditError),
    /// It is no store, or not whole.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// There are revocations that would be lost.
    #[error(
        "{path} holds {revocations} revocations up to entry {entry}: with `--force` it is set aside and the copy takes its place; what was ordered or lifted since the copy was made is then as it was"
    )]
    Occupied {
        /// The store.
        path: PathBuf,
        /// Revocations in it.
        revocations: usize,
        /// Its last entry.
        entry: u64,
    },
    /// What is there cannot be read.
    #[error("{path} is there and cannot be read ({message}): with `--force` it is set aside")]
    Unreadable {
        /// The store.
        path: PathBuf,
        /// Why.
        message: String,
    },
    /// Another key's.
    #[error(
        "the copy belongs to fingerprint key {found:08x}, this host's is {expected:08x}: restore the key file that was kept with it first"
    )]
    Key {
        /// Of the copy, when it was begun.
        found: u32,
        /// Of the host.
        expected: u32,
    },
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BackupError {
    let path = path.to_owned();
    move |source| BackupError::Io { what, path, source }
}

/// Copies the store of a daemon that may be running to a directory that is not there yet. Gives what the copy holds.
pub fn backup(from: &Path, to: &Path) -> Result<Held, BackupError> {
    // Without a slash at its end, which no name of something that is not there yet may have for the system.
    let to: &Path = &to.components().collect::<PathBuf>();
    if to.symlink_metadata().is_ok() {
        return Err(BackupError::Exists(to.to_owned()));
    }
    let log = AuditLog::open(from)?;
    let fresh = beside(to, ".new");
    let done = copy(log, &fresh).and_then(|()| look_at(&fresh, None)).and_then(|held| {
        fs::rename(&fresh, to).map_err(failed("cannot name", to))?;
        sync_parent(to).map_err(failed("cannot sync", to))?;
        Ok(held)
    });
    if done.is_err() {
        // Half of a copy is none.
        let _ = fs::remove_dir_all(&fresh);
    }
    done
}

/// Opens a copy as a daemon would, and checks its chain. With keys, one of them must have been in force there.
pub fn look_at(dir: &Path, keys: Option<KeyIds>) -> Result<Held, BackupError> {
    let (log, mut time) = (AuditLog::open(dir)?, 0);
    let key_id = log.key_id();
    log.check_snapshot()?;
    let (_, end) = log.read(|e| time = e.time)?;
    let store = Store::open_with(dir, key_id, quiet())?;
    let known = store.keys();
    if let Some(keys) = keys.filter(|keys| !keys.all().any(|k| known.contains(&k))) {
        return Err(BackupError::Key { found: key_id, expected: keys.own });
    }
    let mut revocations = 0;
    store.load(|one| revocations += usize::from(!matches!(one, Loaded::Foreign(..))))?;
    drop(store);
    let bytes = size(dir).map_err(failed("cannot read", dir))?;
    Ok(Held { revocations, entry: end.seq, hash: hex::encode(&end.hash), time, key_id, bytes })
}

/// Puts a copy in the place of a store that no daemon has open. What is there is set aside, and only where `force` says so.
/// `by` is who does it, for the audit log.
pub fn restore(
    from: &Path,
    store: &Path,
    keys: Option<KeyIds>,
    force: bool,
    by: &str,
) -> Result<Restored, BackupError> {
    let now = wall();
    let fresh = beside(store, ".restored");
    if fresh.exists() {
        fs::remove_dir_all(&fresh).map_err(failed("cannot remove", &fresh))?;
    }
    copy(AuditLog::open(from)?, &fresh)?;
    let done = put(&fresh, store, keys, force, by, now);
    if done.is_err() {
        let _ = fs::remove_dir_all(&fresh);
    }
    done
}

fn put(
    fresh: &Path,
    store: &Path,
    keys: Option<KeyIds>,
    force: bool,
    by: &str,
    now: WallTime,
) -> Result<Restored, BackupError> {
    let copied = look_at(fresh, keys)?;
    let there =
        store.symlink_metadata().is_ok() && fs::read_dir(store).map_or(true, |mut d| d.next().is_some());
    let (mut before, mut next, mut generation) = (None, 0, None);
    // Held until the exchange is done: no daemon starts on it meanwhile.
    let mut old = None;
    if there {
        match AuditLog::open(store).map(|l| l.key_id()).map_err(BackupError::from).and_then(|id| {
            let old = Store::open_with(store, id, quiet())?;
            let mut revocations = 0;
            old.load(|one| revocations += usize::from(!matches!(one, Loaded::Foreign(..))))?;
            Ok((old, revocations, id))
        }) {
            Ok((opened, revocations, key_id)) => {
                let head = opened.head();
                if !force {
                    let path = store.to_owned();
                    return Err(BackupError::Occupied { path, revocations, entry: head.seq });
                }
                next = opened.upcoming();
                generation = Some(opened.policy().map_or(0, |(_, g)| g));
                let (bytes, hash) = (size(store).unwrap_or(0), hex::encode(&head.hash));
                before = Some(Held { revocations, entry: head.seq, hash, time: now.0, key_id, bytes });
                old = Some(opened);
            }
            // One that is in use is not unreadable: nothing is forced on a daemon that runs.
            Err(BackupError::Store(e @ StoreError::Open { .. })) => return Err(e.into()),
            Err(e) if !force => {
                return Err(BackupError::Unreadable { path: store.to_owned(), message: e.to_string() });
            }
            Err(_) => {}
        }
    }
    let mut new = Store::open_with(fresh, copied.key_id, quiet())?;
    // Ids and generations that were used since the copy was made are not used again: receipts name the ones, and the
    // kernel's pinned verdicts the others.
    let known = new.policy().map_or(0, |(_, g)| g);
    let generation = generation.map_or(known + UNKNOWN_GENERATIONS, |g| g.max(known));
    new.go_on_from(next);
    let note = serde_json::json!({
        "action": "restore", "actor": by, "copy_of_entry": copied.entry, "copy_hash": copied.hash,
        "in_place_of_entry": before.as_ref().map(|b| b.entry),
    });
    let changes = Changes {
        policy: Some((String::new(), generation)),
        notes: vec![note.to_string().into_bytes()],
        ..Changes::default()
    };
    new.commit(&changes, now)?;
    drop(new);
    let held = look_at(fresh, keys)?;
    let kept = there.then(|| free_name(store, now));
    if let Some(kept) = &kept {
        fs::rename(store, kept).map_err(failed("cannot set aside", store))?;
    } else if store.exists() {
        fs::remove_dir(store).map_err(failed("cannot take the place of", store))?;
    }
    fs::rename(fresh, store).map_err(failed("cannot name", store))?;
    sync_parent(store).map_err(failed("cannot sync", store))?;
    drop(old);
    Ok(Restored { now: held, before, kept })
}

/// A name for what was there, which nothing has yet.
fn free_name(store: &Path, now: WallTime) -> PathBuf {
    let name = |n: u32| {
        let more = if n == 0 { String::new() } else { format!("-{n}") };
        beside(store, &format!(".before-restore-{}{more}", now.seconds()))
    };
    let free = |path: &PathBuf| path.symlink_metadata().is_err();
    (0..u32::MAX).map(name).find(free).unwrap_or_else(|| name(0))
}

/// Copies what an opened log consists of.
fn copy(log: AuditLog, to: &Path) -> Result<(), BackupError> {
    let parent = to.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(failed("cannot write to", parent)(io::ErrorKind::NotFound.into()));
    }
    DirBuilder::new().mode(0o700).create(to).map_err(failed("cannot make", to))?;
    log.copy(&mut |name, file, page, bytes| {
        let path = to.join(name);
        write(&path, file, page, bytes).map_err(failed("cannot write", &path))
    })?;
    File::open(to).and_then(|dir| dir.sync_all()).map_err(failed("cannot sync", to))
}

/// Writes a copy of so many bytes of a file, whose first page may be another.
fn write(path: &Path, file: &dyn DiskFile, page: Option<Vec<u8>>, bytes: u64) -> io::Result<()> {
    let mut out = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut part = vec![0; 1 << 20];
    let page = page.unwrap_or_default();
    out.write_all(&page)?;
    let mut at = page.len() as u64;
    while at < bytes {
        let want = usize::try_from((bytes - at).min(part.len() as u64)).unwrap_or(part.len());
        let n = file.read_at(&mut part[..want], at)?;
        if n == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        out.write_all(&part[..n])?;
        at += n as u64;
    }
    out.sync_all()
}

fn size(dir: &Path) -> io::Result<u64> {
    fs::read_dir(dir)?.map(|entry| Ok(entry?.metadata()?.len())).sum()
}

fn wall() -> WallTime {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    WallTime(i64::try_from(now.as_millis()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::{super::super::ClaimId, *};

    const KEY: u32 = 7;
    /// As the store's other tests have it, with snapshots beside the writer.
    const SMALL: Tuning = Tuning { background: true, ..super::super::tests::SMALL };

    fn order(store: &mut Store, now: i64) -> ClaimId {
        let claim = super::super::tests::claim(store.next_id());
        store.commit(&Changes { add: vec![&claim], ..Changes::default() }, WallTime(now)).unwrap();
        claim.id
    }

    fn ids(dir: &Path) -> Vec<u64> {
        super::super::tests::ids(&Store::open_with(dir, KEY, quiet()).unwrap())
    }

    #[test]
    fn a_copy_that_is_made_beside_a_writer_is_whole_and_of_one_moment() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let mut store = Store::open_with(&path, KEY, SMALL).unwrap();
        let first = order(&mut store, 0);
        let done = std::sync::atomic::AtomicBool::new(false);
        let acknowledged = std::sync::atomic::AtomicU64::new(first.0);
        let order_of = std::sync::atomic::Ordering::SeqCst;
        std::thread::scope(|s| {
            s.spawn(|| {
                // Two claims live at a time: the one before the last is lifted with each.
                while !done.load(order_of) {
                    let claim = super::super::tests::claim(store.next_id());
                    let lift = vec![(vec![ClaimId(claim.id.0 - 2)], Vec::new())];
                    let lift = if claim.id.0 > 2 { lift } else { Vec::new() };
                    let changes = Changes { add: vec![&claim], lift, ..Changes::default() };
                    store.commit(&changes, WallTime(0)).unwrap();
                    acknowledged.store(claim.id.0, order_of);
                }
            });
            for n in 0..25 {
                let to = dir.path().join(format!("copy{n}"));
                let before = acknowledged.load(order_of);
                let held = backup(&path, &to).unwrap_or_else(|e| panic!("copy {n}: {e}"));
                let after = acknowledged.load(order_of);
                let all = ids(&to);
                assert_eq!((held.revocations, held.key_id), (all.len(), KEY));
                let last = *all.last().unwrap();
                // One more may be on the disk than was told.
                assert!(before <= last && last <= after + 1, "copy {n}: {before} {last} {after}");
                assert!(all == [last - 1, last] || last <= 2, "of one moment: {all:?}");
            }
            done.store(true, order_of);
        });
        assert!(matches!(backup(&path, &dir.path().join("copy0")), Err(BackupError::Exists(_))));
        let left: Vec<_> = fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left.len(), 26, "nothing half made is left: {left:?}");
    }

    #[test]
    fn what_other_hosts_ordered_is_counted_once() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("r"), dir.path().join("copy"));
        let mut store = Store::open_with(&path, KEY, quiet()).unwrap();
        order(&mut store, 1);
        let mut claim = super::super::tests::claim(store.next_id());
        let origin = super::super::super::foreign::Origin([7; 16]);
        claim.source = super::super::super::foreign::Name { origin, id: 5 }.source();
        store.commit(&Changes { add: vec![&claim], ..Changes::default() }, WallTime(0)).unwrap();
        // As a directory's name is completed, with a slash.
        let slashed = PathBuf::from(format!("{}/", to.display()));
        assert_eq!(backup(&path, &slashed).unwrap().revocations, 2);
        drop(store);
        let done = restore(&to, &path, None, true, "uid:0").unwrap();
        assert_eq!((done.now.revocations, done.before.unwrap().revocations), (2, 2));
    }

    #[test]
    fn a_copy_that_was_changed_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("r"), dir.path().join("copy"));
        let mut store = Store::open_with(&path, KEY, quiet()).unwrap();
        for n in 0..5 {
            order(&mut store, n);
        }
        backup(&path, &to).unwrap();
        let file = to.join("log-0000000000000001");
        let whole = fs::read(&file).unwrap();
        for at in [10, 4096 + 10, whole.len() - 1] {
            let mut changed = whole.clone();
            changed[at] ^= 1;
            fs::write(&file, &changed).unwrap();
            assert!(restore(&to, &dir.path().join("new"), None, false, "uid:0").is_err(), "byte {at}");
            assert!(!dir.path().join("new").exists());
        }
        fs::write(&file, &whole[..whole.len() - 1]).unwrap();
        assert!(restore(&to, &dir.path().join("new"), None, false, "uid:0").is_err(), "cut short");
    }

    #[test]
    fn a_copy_takes_a_stores_place_by_force_alone_and_nothing_is_lost_or_used_twice() {
        let dir = tempfile::tempdir().unwrap();
        let (path, to) = (dir.path().join("r"), dir.path().join("copy"));
        let mut store = Store::open_with(&path, KEY, quiet()).unwrap();
        let a = order(&mut store, 1);
        let policy = |g| Changes { policy: Some(("h".into(), g)), ..Changes::default() };
        store.commit(&policy(3), WallTime(1)).unwrap();
        backup(&path, &to).unwrap();
        let b = order(&mut store, 2);
        store.commit(&policy(8), WallTime(2)).unwrap();
        let forced = |force| restore(&to, &path, Some(KEY.into()), force, "uid:0");
        assert!(
            matches!(forced(true), Err(BackupError::Store(StoreError::Open { .. }))),
            "a daemon has it open"
        );
        drop(store);
        assert!(matches!(forced(false), Err(BackupError::Occupied { revocations: 2, .. })));
        assert!(matches!(
            restore(&to, &path, Some(9.into()), true, ""),
            Err(BackupError::Key { found: KEY, .. })
        ));
        assert_eq!(ids(&path), [a.0, b.0], "as it was");
        let done = forced(true).unwrap();
        assert_eq!((done.now.revocations, done.before.unwrap().revocations), (1, 2));
        assert_eq!(ids(&done.kept.unwrap()), [a.0, b.0], "set aside, whole");
        let mut store = Store::open_with(&path, KEY, quiet()).unwrap();
        assert_eq!(super::super::tests::ids(&store), [a.0]);
        assert_eq!(store.policy(), Some((String::new(), 8)), "the next set gets another generation");
        assert_eq!(store.next_id(), ClaimId(b.0 + 1), "an id that a receipt names is nobody else's");
        drop(store);
        let mut noted = Vec::new();
        AuditLog::open(&path).unwrap().read(|e| noted.push(e.json())).unwrap();
        let note = noted.iter().find(|n| n["action"] == "restore").unwrap();
        assert_eq!((&note["actor"], note["in_place_of_entry"].as_u64()), (&"uid:0".into(), Some(4)));
        // What cannot be read is set aside by force, too; and where nothing is, none is needed.
        fs::remove_dir_all(&path).unwrap();
        fs::write(&path, b"no store").unwrap();
        assert!(matches!(forced(false), Err(BackupError::Unreadable { .. })));
        assert!(forced(true).unwrap().before.is_none());
        fs::remove_dir_all(&path).unwrap();
        let done = forced(false).unwrap();
        assert!(done.before.is_none() && done.kept.is_none());
        assert_eq!(Store::open_with(&path, KEY, quiet()).unwrap().policy(), Some((String::new(), 1003)));
    }
}
