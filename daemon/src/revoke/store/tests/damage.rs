//! Bytes that were changed or are missing: what was acknowledged is read as it was, or the store is refused.

use super::*;

#[test]
fn damage_is_noticed_or_harmless() {
    let disk = SimDisk::default();
    let mut expected = Expected::default();
    let tuning = Tuning { sizes: Sizes { segment: 1 << 20, zeros: 4096 }, ..SMALL };
    {
        let mut store = open(&disk, tuning).unwrap();
        for _ in 0..12 {
            let c = claim(store.next_id());
            store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(0)).unwrap();
            expected.held.insert(c.id.0, true);
        }
    }
    let name = "log-0000000000000001";
    let len = usize::try_from(Disk::open(&disk, name).unwrap().size().unwrap()).unwrap();
    let (mut refused, mut harmless) = (0, 0);
    let mut look = |what: String, damaged: &SimDisk| match open(damaged, tuning) {
        Err(StoreError::Damaged { .. }) => refused += 1,
        Err(e) => panic!("{what}: {e}"),
        Ok(store) => {
            check(&expected, &store, &what);
            harmless += 1;
        }
    };
    for at in 0..len {
        for bit in [1u8, 0x80] {
            let damaged = disk.copy();
            damaged.change(name, |bytes| bytes[at] ^= bit);
            look(format!("bit {bit} of byte {at}"), &damaged);
        }
    }
    for cut in (0..len).rev() {
        let damaged = disk.copy();
        damaged.change(name, |bytes| bytes.truncate(cut));
        look(format!("cut at {cut}"), &damaged);
    }
    for (from, to) in [(0, len), (4096, 4200), (5000, 5001)] {
        let damaged = disk.copy();
        damaged.change(name, |bytes| bytes[from..to].fill(0xff));
        look(format!("overwritten from {from} to {to}"), &damaged);
    }
    assert!(refused > 1000 && harmless > 1000, "{refused} refused, {harmless} harmless");
    // The newest file, without a snapshot before it.
    let whole = SimDisk::default();
    {
        let mut store = open(&whole, Tuning { snapshot_after: u64::MAX, ..SMALL }).unwrap();
        while store.journal.sealed().is_empty() {
            let c = claim(store.next_id());
            store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(0)).unwrap();
        }
    }
    let newest = Disk::list(&whole).unwrap().pop().unwrap();
    Disk::remove(&whole, &newest).unwrap();
    assert!(matches!(open(&whole, SMALL), Err(StoreError::Damaged { .. })), "without {newest}");
    // Files that are gone.
    let whole = SimDisk::default();
    work(&whole, &mut Expected::default(), 60).unwrap();
    for name in Disk::list(&whole).unwrap() {
        let without = whole.copy();
        Disk::remove(&without, &name).unwrap();
        let all = ids(&open(&whole.copy(), SMALL).unwrap());
        match open(&without, SMALL) {
            Err(StoreError::Damaged { .. }) => {}
            Err(e) => panic!("without {name}: {e}"),
            // A file that is there for the audit alone.
            Ok(store) => assert_eq!(ids(&store), all, "without {name}"),
        }
    }
}

/// Opens and reads a store that may be damaged: as it was, or refused.
fn is_whole(disk: &SimDisk, tuning: Tuning, all: &[u64], what: &str) -> bool {
    let read = open(disk, tuning).and_then(|store| {
        store.load(|_| ())?;
        Ok(store)
    });
    match read {
        Err(StoreError::Damaged { .. }) => false,
        Err(e) => panic!("{what}: {e}"),
        Ok(store) => {
            assert_eq!(ids(&store), all, "{what}");
            true
        }
    }
}

/// Places to damage: all of them in thorough runs, else so many bytes apart.
fn places(len: usize, step: usize) -> impl Iterator<Item = usize> {
    let thorough = std::env::var_os("PORTCULLIS_THOROUGH").is_some_and(|v| v == "1");
    (0..len).rev().step_by(if thorough { 1 } else { step })
}

#[test]
fn damage_to_a_snapshot_or_to_any_file_of_a_log_is_noticed_or_harmless() {
    let disk = SimDisk::default();
    work(&disk, &mut Expected::default(), 60).unwrap();
    let (names, all) = (Disk::list(&disk).unwrap(), ids(&open(&disk.copy(), SMALL).unwrap()));
    assert!(names.iter().filter(|n| n.starts_with("log-")).count() > 1, "{names:?}");
    for name in &names {
        let len = usize::try_from(Disk::open(&disk, name).unwrap().size().unwrap()).unwrap();
        let look = |what: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let damaged = disk.copy();
            damaged.change(name, change);
            is_whole(&damaged, SMALL, &all, &format!("{name}: {what}"))
        };
        for at in places(len, 7) {
            let whole = look(&format!("byte {at}"), &|bytes| bytes[at] ^= 1 << (at % 8));
            // All of a snapshot counts but what fills its first page up.
            assert!(!name.starts_with("snapshot-") || (at as u64) < PAGE || !whole, "{name}: byte {at}");
        }
        for cut in places(len, 23) {
            let whole = look(&format!("cut at {cut}"), &|bytes| bytes.truncate(cut));
            assert!(!name.starts_with("snapshot-") || !whole, "{name}: cut at {cut}");
        }
    }
}

/// The end of a log that is longer than what is read at once: the last 64 KiB of its entries.
#[test]
fn damage_to_the_last_64_kib_of_a_long_log_is_noticed_or_harmless() {
    let disk = SimDisk::default();
    let tuning = Tuning { sizes: Sizes { segment: 4 << 20, zeros: 4096 }, ..SMALL };
    let end = {
        let mut store = open(&disk, tuning).unwrap();
        while store.journal.active().end < 96 << 10 {
            let c = claim(store.next_id());
            store.commit(&Changes { add: vec![&c], ..Changes::default() }, WallTime(0)).unwrap();
        }
        usize::try_from(store.journal.active().end).unwrap()
    };
    let (name, all) = ("log-0000000000000001", ids(&open(&disk.copy(), tuning).unwrap()));
    let mut noticed = 0;
    for at in places(64 << 10, 61) {
        let at = end - (64 << 10) + at;
        let damaged = disk.copy();
        damaged.change(name, |bytes| bytes[at] ^= 1 << (at % 8));
        noticed += usize::from(!is_whole(&damaged, tuning, &all, &format!("byte {at}")));
        let damaged = disk.copy();
        damaged.change(name, |bytes| bytes.truncate(at));
        noticed += usize::from(!is_whole(&damaged, tuning, &all, &format!("cut at {at}")));
    }
    let looks = 2 * places(64 << 10, 61).count();
    assert_eq!(noticed, looks, "each byte of an acknowledged entry counts");
}
