//! What was acknowledged is there again: after a crash at every operation, with whatever a disk keeps of what was not
//! synced; and what cannot be read back is noticed.

use std::{collections::BTreeMap, io, os::unix::fs::PermissionsExt as _};

use portcullis_common::fingerprint::DenyFingerprint;

use super::{
    super::{AnyClaim, Claim, Once, Selector},
    *,
};
use crate::journal::{
    Sizes,
    sim::{Loss, SimDisk},
};

mod damage;
mod readers;

const KEY: u32 = 7;

/// So small that files and snapshots follow each other quickly.
pub(super) const SMALL: Tuning = Tuning {
    sizes: Sizes { segment: 2048, zeros: 512 },
    snapshot_after: 6000,
    audit_keep: Duration::from_secs(9),
    audit_max: 20_000,
    background: false,
};

pub(super) fn claim(id: ClaimId) -> Claim {
    Claim {
        id,
        fingerprint: DenyFingerprint([id.0, 2]),
        key_id: KEY,
        other: None,
        created: WallTime(1),
        until: WallTime(9),
        reason: "leaked".into(),
        actor: "uid:0".into(),
        ticket: String::new(),
        source: "admin".into(),
        parent: None,
    }
}

fn answer(key: [u8; 16], ids: Vec<ClaimId>) -> Answer {
    Answer { once: Once { key, request: [2; 16], until: WallTime(0), renews: false }, ids }
}

fn by_selector(id: ClaimId) -> SelectorClaim {
    let selector = Selector { iss: Some(format!("https://{id}")), ..Selector::default() };
    let text = String::new;
    let (created, until) = (WallTime(1), WallTime(9));
    SelectorClaim {
        id,
        selector,
        created,
        until,
        reason: text(),
        actor: text(),
        ticket: text(),
        source: text(),
    }
}

fn open(disk: &SimDisk, tuning: Tuning) -> Result<Store, StoreError> {
    Store::open_on(&(Arc::new(disk.clone()) as _), Path::new("sim"), KEY, tuning)
}

pub(super) fn ids(store: &Store) -> Vec<u64> {
    let mut ids = Vec::new();
    store
        .load(|one| match one {
            Loaded::Token(head) => ids.push(head.id.0),
            Loaded::Selector(c) => ids.push(c.id.0),
            Loaded::Foreign(..) => {}
        })
        .unwrap();
    let listed = store.reader().list(ClaimId(0), usize::MAX, WallTime(0), |_| true).unwrap();
    assert_eq!(listed.iter().map(|c| c.id().0).collect::<Vec<_>>(), ids, "both ways to read agree");
    ids
}

#[test]
fn what_was_committed_is_there_after_opening_again() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("revocations");
    let mut store = Store::open(&path, KEY).unwrap();
    let (a, b) = (claim(store.next_id()), claim(store.next_id()));
    let first = store.commit(&Changes { add: vec![&a, &b], ..Changes::default() }, WallTime(5)).unwrap();
    store.done(first, WallTime(5), Duration::from_micros(70), Some(Duration::from_micros(90)));
    let c = by_selector(store.next_id());
    let answered = vec![answer([1; 16], vec![a.id, b.id])];
    let changes = Changes { select: vec![&c], answered, ..Changes::default() };
    store.commit(&changes, WallTime(6)).unwrap();
    let policy = Some(("h".into(), 3));
    let lift = vec![(vec![a.id], b"{}".to_vec())];
    store.commit(&Changes { lift, policy, ..Changes::default() }, WallTime(7)).unwrap();
    store
        .commit(&Changes { over: vec![ClaimId(99)], lazy: true, ..Changes::default() }, WallTime(8))
        .unwrap();
    assert!(matches!(Store::open(&path, KEY), Err(StoreError::Open { .. })), "it has an owner");
    drop(store);
    let mut store = Store::open(&path, KEY).unwrap();
    let reader = store.reader();
    let all = reader.list(ClaimId(0), 10, WallTime(0), |_| true).unwrap();
    assert_eq!(all, [AnyClaim::Token(b.clone()), AnyClaim::Selector(c.clone())]);
    assert_eq!(reader.claim(b.id).unwrap().as_ref(), Some(&b));
    assert_eq!((reader.claim(a.id).unwrap(), reader.claim(c.id).unwrap()), (None, None));
    assert_eq!(reader.selector(c.id).unwrap().as_ref(), Some(&c));
    assert_eq!(reader.list(b.id, 1, WallTime(0), |_| true).unwrap(), [AnyClaim::Selector(c)]);
    assert_eq!(reader.list(ClaimId(0), 10, b.until, |_| true).unwrap(), [], "none in force");
    assert_eq!(reader.list(ClaimId(u64::MAX), 10, WallTime(0), |_| true).unwrap(), [], "behind all");
    assert_eq!(reader.entries(u64::MAX, 10).unwrap(), None, "of another log");
    assert_eq!(reader.entries(store.head().seq, 10).unwrap(), Some(Vec::new()));
    let receipt = reader.receipt(b.id).unwrap().unwrap();
    assert_eq!((receipt.accepted, receipt.entry), (1, first));
    assert_eq!((receipt.synced_us, receipt.in_force_us), (Some(70), Some(90)));
    assert_eq!(reader.answered(&[1; 16]).unwrap().claims, [a.id, b.id]);
    assert_eq!((ids(&store), store.policy()), (vec![2, 3], Some(("h".into(), 3))));
    assert_eq!(store.next_id(), ClaimId(4), "ids are not used twice");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o700);
    drop(store);
    assert!(matches!(Store::open(&path, 8), Err(StoreError::KeyMismatch { found: KEY, .. })));
}

#[test]
fn a_store_is_that_of_every_key_that_was_in_force_and_of_no_other() {
    for claims in [1, 300] {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        let both = KeyIds { own: 8, other: Some(KEY) };
        drop(Store::open_with(&path, KEY, SMALL).unwrap());
        let mut store = Store::open_with(&path, both, SMALL).unwrap();
        assert_eq!(store.new_keys(both), [8]);
        let keys = store.new_keys(both);
        store.commit(&Changes { keys, ..Changes::default() }, WallTime(0)).unwrap();
        assert!(store.new_keys(both).is_empty());
        for _ in 0..claims {
            let c = claim(store.next_id());
            store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(60_000)).unwrap();
        }
        drop(store);
        assert_eq!(path.join("log-0000000000000001").exists(), claims == 1, "the other was compacted");
        for known in [KEY, 8] {
            let store = Store::open_with(&path, known, SMALL).unwrap();
            assert_eq!((store.keys(), ids(&store).len()), ([KEY, 8].into(), claims));
        }
        let other = Store::open_with(&path, 9, SMALL);
        assert!(matches!(other, Err(StoreError::KeyMismatch { found: KEY, expected: 9, .. })));
        // A copy is taken back where one of them is in force.
        let (copy, to) = (dir.path().join("copy"), dir.path().join("to"));
        backup(&path, &copy).unwrap();
        assert!(restore(&copy, &to, Some(9.into()), false, "uid:0").is_err());
        assert_eq!(restore(&copy, &to, Some(8.into()), false, "uid:0").unwrap().now.revocations, claims);
    }
}

#[test]
fn a_file_that_is_no_store_is_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    std::fs::write(&path, b"something else entirely").unwrap();
    let e = Store::open(&path, KEY).unwrap_err().to_string();
    assert!(e.contains("must name a directory"), "{e}");
    assert_eq!(std::fs::read(&path).unwrap(), b"something else entirely");
}

/// What must be there, may be there, and must not be.
#[derive(Clone, Default)]
struct Expected {
    held: BTreeMap<u64, bool>,
    unsure: Vec<u64>,
    next: u64,
}

/// Carries out orders until the power goes; `Expected` is of those that were acknowledged.
fn work(disk: &SimDisk, expected: &mut Expected, rounds: u64) -> Result<(), StoreError> {
    let mut store = open(disk, SMALL)?;
    for round in 0..rounds {
        let now = WallTime(1000 * i64::try_from(round).unwrap());
        let adds: Vec<_> = (0..=(round % 3)).map(|_| claim(store.next_id())).collect();
        let select = (round % 4 == 1).then(|| by_selector(store.next_id()));
        let new: Vec<u64> = adds.iter().map(|c| c.id.0).chain(select.iter().map(|c| c.id.0)).collect();
        assert!(new.iter().all(|id| *id >= expected.next), "an id was given twice");
        let old = expected.held.iter().filter(|(_, held)| **held).map(|(id, _)| *id);
        let lift: Vec<u64> = old.filter(|id| (id + round) % 5 == 0).collect();
        expected.unsure.extend(new.iter().chain(&lift));
        let changes = Changes {
            add: adds.iter().collect(),
            select: select.iter().collect(),
            lift: vec![(lift.iter().copied().map(ClaimId).collect(), b"{}".to_vec())],
            policy: (round % 7 == 0).then(|| (format!("h{round}"), round)),
            ..Changes::default()
        };
        let seq = store.commit(&changes, now)?;
        store.done(seq, now, Duration::from_micros(5), None);
        expected.unsure.clear();
        expected.held.extend(new.iter().map(|id| (*id, true)));
        expected.held.extend(lift.iter().map(|id| (*id, false)));
        expected.next = expected.next.max(new.iter().max().map_or(0, |id| id + 1));
    }
    Ok(())
}

fn check(expected: &Expected, store: &Store, what: &str) {
    let found = ids(store);
    for (id, held) in &expected.held {
        if !expected.unsure.contains(id) {
            assert_eq!(found.contains(id), *held, "{what}: claim {id}");
        }
    }
    let known = |id: &u64| expected.held.contains_key(id) || expected.unsure.contains(id);
    assert!(found.iter().all(known), "{what}: a claim from nowhere");
}

#[test]
fn nothing_acknowledged_is_lost_and_nothing_lifted_returns_wherever_the_power_goes() {
    let whole = SimDisk::default();
    let mut expected = Expected::default();
    work(&whole, &mut expected, 60).unwrap();
    check(&expected, &open(&whole.copy(), SMALL).unwrap(), "no crash");
    let names = Disk::list(&whole).unwrap();
    assert!(names.iter().any(|n| n.starts_with("snapshot-")), "the work makes snapshots: {names:?}");
    assert!(!names.contains(&"log-0000000000000001".to_owned()), "and drops old files: {names:?}");
    let all = whole.operations();
    for operation in 1..=all {
        let disk = SimDisk::default();
        disk.crash_at(operation);
        let mut expected = Expected::default();
        // The last operations belong to closing it, whose failure changes nothing.
        let _ = work(&disk, &mut expected, 60);
        let losses = [Loss::All, Loss::Nothing, Loss::Some(operation as u64), Loss::Some(!operation as u64)];
        for loss in losses {
            let what = format!("power gone at operation {operation} of {all}, {loss:?}");
            let after = disk.after_crash(loss);
            let store = open(&after, SMALL).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&expected, &store, &what);
            drop(store);
            // And it goes on from there, also over another crash.
            let mut later = expected.clone();
            for id in std::mem::take(&mut later.unsure) {
                later.held.remove(&id);
            }
            let store = open(&after, SMALL).unwrap();
            later.held.extend(ids(&store).into_iter().map(|id| (id, true)));
            drop(store);
            work(&after, &mut later, 5).unwrap_or_else(|e| panic!("{what}: {e}"));
            check(&later, &open(&after.after_crash(Loss::All), SMALL).unwrap(), &what);
        }
    }
}

#[test]
fn an_error_of_the_disk_is_no_acknowledgement_and_a_failed_sync_is_not_tried_again() {
    let whole = SimDisk::default();
    work(&whole, &mut Expected::default(), 30).unwrap();
    for operation in 1..=whole.operations() {
        for kind in [io::ErrorKind::Other, io::ErrorKind::StorageFull] {
            let disk = SimDisk::default();
            let mut expected = Expected::default();
            disk.fail_at(operation, kind);
            let failed = work(&disk, &mut expected, 30);
            let what = format!("operation {operation} fails: {kind:?}, {failed:?}");
            check(&expected, &open(&disk.after_crash(Loss::All), SMALL).unwrap(), &what);
            check(&expected, &open(&disk.after_crash(Loss::Nothing), SMALL).unwrap(), &what);
        }
    }
    // The error of a sync: nothing more is taken, though the next would succeed.
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let (a, b) = (claim(store.next_id()), claim(store.next_id()));
    store.commit(&Changes { add: vec![&a], ..Changes::default() }, WallTime(0)).unwrap();
    disk.fail_at(2, io::ErrorKind::Other);
    for _ in 0..3 {
        assert!(matches!(
            store.commit(&Changes { add: vec![&b], ..Changes::default() }, WallTime(0)),
            Err(StoreError::Write { .. })
        ));
    }
    // A full disk before anything was written: as it was, and the next one is taken.
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let (mut refused, mut held) = (0, Vec::new());
    for n in 0..40 {
        let c = claim(store.next_id());
        let before = disk.operations();
        // Where zeros are to be written, which finds no room every other time. An entry of this test has 160 bytes.
        let ahead = store.is_short_of_zeros(160);
        if n % 2 == 0 && ahead {
            disk.fail_at(1, io::ErrorKind::StorageFull);
        }
        match store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(0)) {
            Ok(_) => held.push(c.id.0),
            Err(StoreError::NoRoom { .. }) => {
                refused += 1;
                assert!(disk.operations() > before);
                // Room was made.
                let c = claim(store.next_id());
                store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(0)).unwrap();
                held.push(c.id.0);
            }
            Err(e) => panic!("{e}"),
        }
    }
    drop(store);
    assert_eq!(ids(&open(&disk, SMALL).unwrap()), held);
    assert!(refused > 0, "a full disk is met where zeros are written");
}

#[test]
fn what_took_a_claim_away_is_told_as_long_as_the_log_does() {
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let claims: Vec<_> = (0..3).map(|_| claim(store.next_id())).collect();
    store.commit(&Changes { add: claims.iter().collect(), ..Changes::default() }, WallTime(4)).unwrap();
    let by = br#"{"actor":"a","reason":"found"}"#.to_vec();
    let lift = Changes { lift: vec![(vec![claims[1].id], by)], ..Changes::default() };
    let seq = store.commit(&lift, WallTime(5)).unwrap();
    store.commit(&Changes { over: vec![claims[2].id], ..Changes::default() }, WallTime(6)).unwrap();
    let reader = store.reader();
    let lifted = reader.ended(claims[1].id).unwrap().unwrap();
    assert_eq!((lifted.lifted, lifted.at, lifted.entry), (true, 5, seq));
    assert_eq!((&lifted.by["reason"], lifted.hash.len()), (&"found".into(), 64));
    let over = reader.ended(claims[2].id).unwrap().unwrap();
    assert_eq!((over.lifted, over.at, over.entry, over.by.is_null()), (false, 6, seq + 1, true));
    for id in [claims[0].id, ClaimId(99)] {
        assert_eq!(reader.ended(id).unwrap(), None);
    }
}

#[test]
fn a_snapshot_holds_what_the_log_did() {
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let first = claim(store.next_id());
    let answered = vec![answer([3; 16], vec![first.id])];
    let seq =
        store.commit(&Changes { add: vec![&first], answered, ..Changes::default() }, WallTime(4)).unwrap();
    store.done(seq, WallTime(4), Duration::from_micros(8), Some(Duration::from_micros(9)));
    let before = store.reader().receipt(first.id).unwrap().unwrap();
    assert!(before.hash.is_some());
    let mut n = 0;
    while store.snapshot.is_none() {
        let c = claim(store.next_id());
        store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(5)).unwrap();
        n += 1;
        assert!(n < 1000, "a snapshot comes at last");
    }
    let after = store.reader().receipt(first.id).unwrap().unwrap();
    assert_eq!(after, Receipt { hash: None, ..before });
    assert_eq!(store.reader().answered(&[3; 16]).unwrap().claims, [first.id]);
    let all = ids(&store);
    assert_eq!(all, (1..=n + 1).collect::<Vec<_>>());
    drop(store);
    let store = open(&disk, SMALL).unwrap();
    assert_eq!(ids(&store), all);
    assert_eq!(store.reader().answered(&[3; 16]).unwrap().claims, [first.id]);
    assert_eq!(store.reader().get(ClaimId(n)).unwrap().map(|c| c.id()), Some(ClaimId(n)));
}

mod taken_over {
    use redb::{Database, TableDefinition};

    use super::*;

    fn earlier(path: &Path, format: u64, claims: &[Claim], selectors: &[SelectorClaim]) {
        let db = Database::create(path).unwrap();
        let txn = db.begin_write().unwrap();
        {
            let mut table = txn.open_table(TableDefinition::<u64, &[u8]>::new("claims")).unwrap();
            for c in claims {
                let row = if format == 1 { serde_json::to_vec(c).unwrap() } else { row::encode(c) };
                table.insert(c.id.0, row.as_slice()).unwrap();
            }
            let mut meta = txn.open_table(TableDefinition::<&str, u64>::new("meta")).unwrap();
            for (k, v) in [("format", format), ("key_id", u64::from(KEY)), ("next", 50), ("generation", 4)] {
                meta.insert(k, v).unwrap();
            }
            if format == 3 {
                let mut table = txn.open_table(TableDefinition::<u64, &[u8]>::new("selectors")).unwrap();
                for c in selectors {
                    table.insert(c.id.0, serde_json::to_vec(c).unwrap().as_slice()).unwrap();
                }
                let mut texts = txn.open_table(TableDefinition::<&str, &str>::new("texts")).unwrap();
                texts.insert("policy", "hash").unwrap();
            }
        }
        txn.commit().unwrap();
    }

    #[test]
    fn a_store_of_an_earlier_version() {
        for (format, file) in [(3, "r"), (3, "r.redb"), (1, "r")] {
            let dir = tempfile::tempdir().unwrap();
            let (path, old) = (dir.path().join("r"), dir.path().join(file));
            let claims = [claim(ClaimId(2)), claim(ClaimId(5)), claim(ClaimId(40))];
            let selectors = [by_selector(ClaimId(1)), by_selector(ClaimId(7)), by_selector(ClaimId(45))];
            earlier(&old, format, &claims, &selectors);
            // What an interrupted attempt left.
            std::fs::create_dir(dir.path().join("r.new")).unwrap();
            assert!(matches!(Store::open(&path, 8), Err(StoreError::KeyMismatch { .. })), "another's key");
            let mut store = Store::open(&path, KEY).unwrap();
            let all: &[u64] = if format == 1 { &[2, 5, 40] } else { &[1, 2, 5, 7, 40, 45] };
            assert_eq!(ids(&store), all);
            assert_eq!(store.reader().claim(ClaimId(5)).unwrap().as_ref(), Some(&claims[1]));
            assert_eq!(store.policy(), (format == 3).then(|| ("hash".to_owned(), 4)));
            assert_eq!(store.next_id(), ClaimId(50));
            drop(store);
            assert_eq!(ids(&Store::open(&path, KEY).unwrap()), all);
            assert!(dir.path().join("r.before-log").is_file() && !old.is_file(), "the old one is kept aside");
        }
    }

    #[test]
    fn one_whose_taking_over_was_interrupted_between_the_names() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        earlier(&path, 3, &[claim(ClaimId(2))], &[]);
        drop(Store::open(&path, KEY).unwrap());
        std::fs::rename(&path, dir.path().join("r.new")).unwrap();
        assert_eq!(ids(&Store::open(&path, KEY).unwrap()), [2]);
    }

    #[test]
    fn none_that_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("r");
        std::fs::write(&path, b"redb and then nothing of the kind").unwrap();
        assert!(Store::open(&path, KEY).is_err());
        assert!(path.is_file(), "it is left alone");
    }
}

#[test]
fn the_audit_log_is_a_chain_that_shows_what_was_changed() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    let mut store = Store::open_with(&path, KEY, SMALL).unwrap();
    for n in 0..80u64 {
        let c = claim(store.next_id());
        store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(1)).unwrap();
        let lift = vec![(vec![c.id], br#"{"actor":"uid:1","reason":"r"}"#.to_vec())];
        let notes = vec![br#"{"action":"promote","actor":"uid:2"}"#.to_vec()];
        if n % 8 == 0 {
            store.commit(&Changes { lift, notes, ..Changes::default() }, WallTime(2)).unwrap();
        }
    }
    let head = store.head();
    let read = || {
        let mut lines = Vec::new();
        let ends = AuditLog::open(&path).and_then(|log| log.read(|e| lines.push(e.json())));
        ends.map(|(_, end)| (lines, end))
    };
    // Also while it is open.
    let (lines, end) = read().unwrap();
    assert_eq!(end, head);
    let of = |action: &str| lines.iter().filter(|l| l["action"] == action).count();
    assert!(of("revoke") > 40 && of("lift") >= 5 && of("promote") == of("lift"), "{lines:?}");
    let lift = lines.iter().find(|l| l["action"] == "lift").unwrap();
    assert_eq!((&lift["actor"], &lift["reason"]), (&"uid:1".into(), &"r".into()));
    drop(store);
    let end = read().unwrap().1;
    let names: Vec<_> = std::fs::read_dir(&path).unwrap().map(|e| e.unwrap().path()).collect();
    let mut segments: Vec<_> = names.iter().filter(|n| n.to_str().unwrap().contains("/log-")).collect();
    segments.sort();
    assert!(segments.len() > 3);
    let middle = segments[1];
    let whole = std::fs::read(middle).unwrap();
    let mut changed = whole.clone();
    changed[4096 + 100] ^= 1;
    std::fs::write(middle, &changed).unwrap();
    assert!(matches!(read(), Err(AuditError::Broken(_))), "a byte changed");
    std::fs::remove_file(middle).unwrap();
    assert!(matches!(read(), Err(AuditError::Broken(_))), "a file taken away");
    std::fs::write(middle, &whole).unwrap();
    assert_eq!(read().unwrap().1, end);
}

#[test]
fn an_order_is_remembered_for_a_day_or_for_as_long_as_it_may_come_again() {
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let (c, day) = (claim(store.next_id()), REMEMBERED);
    let long =
        Answer { once: Once { until: WallTime(3 * day), ..answer([5; 16], vec![]).once }, ids: vec![c.id] };
    let answered = vec![answer([4; 16], vec![c.id]), long];
    store.commit(&Changes { add: vec![&c], answered, ..Changes::default() }, WallTime(1)).unwrap();
    for (now, snapshot) in [(day, false), (2 * day, false), (2 * day, true), (3 * day + 1, true)] {
        while snapshot && store.snapshot.is_none() {
            let c = claim(store.next_id());
            store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(now)).unwrap();
        }
        store.tend(WallTime(now), Some(WallTime(now)));
        let known = |key: u8| store.reader().answered(&[key; 16]).is_some();
        assert_eq!((known(4), known(5)), (now <= day, now < 3 * day), "at {now}, in a snapshot: {snapshot}");
        drop(store);
        store = open(&disk, SMALL).unwrap();
    }
}

#[test]
fn what_selectors_condemned_at_once_outlives_the_files_that_told_it() {
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let (a, b) = (by_selector(store.next_id()), by_selector(store.next_id()));
    store.commit(&Changes { select: vec![&a, &b], ..Changes::default() }, WallTime(1)).unwrap();
    let told = |of: Vec<(ClaimId, u64)>, lazy| Changes { condemned: of, lazy, ..Changes::default() };
    store.commit(&told(vec![(a.id, 7), (b.id, 2)], false), WallTime(1)).unwrap();
    // The last word counts, and that of nobody waits for the next entry.
    let seq = store.commit(&told(vec![(a.id, 9)], true), WallTime(1)).unwrap();
    assert_eq!(store.head().seq, seq);
    let known = |store: &Store| [a.id, b.id].map(|id| store.reader().condemned(id));
    assert_eq!(known(&store), [Some(9), Some(2)]);
    while store.snapshot.is_none() {
        let c = claim(store.next_id());
        store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(1)).unwrap();
    }
    drop(store);
    let mut store = open(&disk, SMALL).unwrap();
    assert_eq!(known(&store), [Some(9), Some(2)]);
    let lift = vec![(vec![b.id], b"{}".to_vec())];
    store.commit(&Changes { lift, ..Changes::default() }, WallTime(1)).unwrap();
    drop(store);
    assert_eq!(known(&open(&disk, SMALL).unwrap()), [Some(9), None]);
}
