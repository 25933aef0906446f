//! Readers beside the writer: they see what is there, and hold nobody up.

use super::*;

#[test]
fn who_follows_the_log_reads_each_entry_once_and_nothing_while_there_is_none() {
    let disk = SimDisk::default();
    let tuning = Tuning { sizes: Sizes { segment: 32 << 10, zeros: 64 << 10 }, ..Tuning::default() };
    let mut store = open(&disk, tuning).unwrap();
    let reader = store.reader();
    let (before, mut after, mut seen) = (disk.read(), store.head().seq, 0);
    for n in 0..400 {
        let c = claim(store.next_id());
        store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(n)).unwrap();
        if n % 3 == 0 {
            let new = reader.entries(after, 100).unwrap().unwrap();
            assert!(new.iter().all(|e| e.entry > after));
            seen += new.len();
            after = new.last().unwrap().entry;
        }
        let idle = disk.read();
        assert_eq!(reader.entries(store.head().seq, 100).unwrap(), Some(Vec::new()));
        assert_eq!(disk.read(), idle, "nothing is read where nothing is new");
    }
    assert_eq!(seen, 400);
    let read = disk.read() - before;
    // An entry of this test has 160 bytes.
    assert!(read <= 400 * 200, "{read} bytes read for {} that were written", 400 * 160);
    // From anywhere, too, and over files.
    for after in [0, 1, 150, 399] {
        let all = reader.entries(after, 1000).unwrap().unwrap();
        let expected: Vec<_> = (after + 1..=store.head().seq).collect();
        assert_eq!(all.iter().map(|e| e.entry).collect::<Vec<_>>(), expected);
    }
    assert!(Disk::list(&disk).unwrap().len() > 1);
}

#[test]
fn readers_hold_up_no_writer() {
    let disk = SimDisk::default();
    let mut store = open(&disk, SMALL).unwrap();
    let claims: Vec<_> = (0..50).map(|_| claim(store.next_id())).collect();
    store.commit(&Changes { add: claims.iter().collect(), ..Changes::default() }, WallTime(0)).unwrap();
    let reader = store.reader();
    let writer = std::cell::RefCell::new(store);
    // Each claim that is looked at is followed by an order, and some are lifted before they are reached.
    let listed = reader
        .list(ClaimId(0), 50, WallTime(0), |looked| {
            let mut store = writer.borrow_mut();
            let c = claim(store.next_id());
            let lift =
                if looked.id() == ClaimId(7) { vec![(vec![ClaimId(99)], Vec::new())] } else { Vec::new() };
            let changes = Changes { add: vec![&c], lift, ..Changes::default() };
            store.commit(&changes, WallTime(0)).unwrap();
            true
        })
        .unwrap();
    assert_eq!(listed.len(), 50);
}

#[test]
fn readers_see_all_that_is_in_force_while_snapshots_take_the_place_of_files() {
    let disk = SimDisk::default();
    let mut store = open(&disk, Tuning { background: true, ..SMALL }).unwrap();
    // Some stay, others come and go around them.
    let stay: Vec<_> = (0..20).map(|_| claim(store.next_id())).collect();
    store.commit(&Changes { add: stay.iter().collect(), ..Changes::default() }, WallTime(0)).unwrap();
    let (reader, done) = (store.reader(), std::sync::atomic::AtomicBool::new(false));
    let order = std::sync::atomic::Ordering::SeqCst;
    std::thread::scope(|s| {
        let readers: Vec<_> = (0..2)
            .map(|_| {
                let (reader, done, stay) = (reader.clone(), &done, &stay);
                s.spawn(move || {
                    let (mut rounds, mut after) = (0, 0);
                    while !done.load(order) {
                        let all = reader.list(ClaimId(0), usize::MAX, WallTime(0), |_| true).unwrap();
                        let ids: Vec<_> = all.iter().map(AnyClaim::id).collect();
                        assert!(ids.is_sorted_by(|a, b| a < b), "each once, in order: {ids:?}");
                        assert!(stay.iter().all(|c| ids.contains(&c.id)), "{ids:?}");
                        // Those that come and go are one or two at a time, wherever in the listing they are met.
                        for c in stay {
                            assert_eq!(reader.claim(c.id).unwrap().as_ref(), Some(c));
                            assert!(reader.receipt(c.id).unwrap().is_some());
                        }
                        match reader.entries(after, 50).unwrap() {
                            Some(new) => after = new.last().map_or(after, |e| e.entry),
                            // They are only in a snapshot by now.
                            None => after = reader.shared.upgrade().unwrap().read().head,
                        }
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        let (mut snapshots, mut last) = (0, 0);
        for n in 0..20_000 {
            let c = claim(store.next_id());
            let lift = vec![(vec![ClaimId(c.id.0 - 1)], Vec::new())];
            let lift = if c.id.0 > 21 { lift } else { Vec::new() };
            store.commit(&Changes { add: vec![&c], lift, ..Changes::default() }, WallTime(n)).unwrap();
            store.tend(WallTime(n), Some(WallTime(n)));
            let made = store.snapshot.as_ref().map_or(0, |s| s.chain.seq);
            snapshots += usize::from(made != std::mem::replace(&mut last, made));
            if snapshots >= 20 {
                break;
            }
        }
        done.store(true, order);
        for r in readers {
            assert!(r.join().unwrap() > 0);
        }
        assert!(snapshots >= 20, "{snapshots} snapshots were made in the background");
    });
}

#[test]
fn the_audit_log_verifies_at_every_moment_beside_its_writer() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("r");
    let mut store = Store::open_with(&path, KEY, SMALL).unwrap();
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|s| {
        let writer = s.spawn(|| {
            let mut n = 0;
            while !done.load(std::sync::atomic::Ordering::SeqCst) {
                let c = claim(store.next_id());
                let lift = vec![(vec![ClaimId(c.id.0 - 1)], Vec::new())];
                store.commit(&Changes { add: vec![&c], lift, ..Changes::default() }, WallTime(n)).unwrap();
                n += 1;
            }
            n
        });
        let (mut last, mut first) = (0, 0);
        // At least as often, and until files have gone meanwhile: a writer that is slow has many rounds.
        let mut round = 0;
        while round < 150 || (first == 0 && round < 100_000) {
            round += 1;
            let read = AuditLog::open(&path).and_then(|log| log.read(drop));
            let (start, end) = read.unwrap_or_else(|e| panic!("round {round}: {e}"));
            assert!(end.seq >= last && start.seq >= first, "round {round}");
            (last, first) = (end.seq, start.seq);
        }
        done.store(true, std::sync::atomic::Ordering::SeqCst);
        assert!(first > 0 && writer.join().unwrap() > 0, "files came and went meanwhile");
    });
}
