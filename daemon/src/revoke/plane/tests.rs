//! The plane by itself, with a clock of the tests' own.

use std::{
    io,
    path::Path,
    sync::{
        Condvar, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering::SeqCst},
    },
};

use tokio::sync::oneshot;

use super::{
    super::{
        Matched, Selector,
        handle::When::{AtOnce, Presented},
        upkeep::GRACE_NS,
    },
    *,
};
use crate::{
    clock::{BootTime, Clock, WallTime},
    journal::{Disk, DiskFile, sim::SimDisk},
};

#[derive(Default)]
struct Hands {
    wall: AtomicI64,
    boot: AtomicU64,
}

impl Clock for Hands {
    fn wall(&self) -> WallTime {
        WallTime(self.wall.load(SeqCst))
    }
    fn boot(&self) -> BootTime {
        BootTime(self.boot.load(SeqCst))
    }
}

fn sweep(plane: &mut Plane) {
    plane.run(std::iter::once(Command::Sweep(oneshot::channel().0)));
}

const TEXT: fn() -> String = String::new;
const F: DenyFingerprint = DenyFingerprint([1, 2]);

fn plane(dir: &Path, hands: &Arc<Hands>, index: &Arc<Index>) -> Plane {
    let namer = Namer::new(portcullis_common::fingerprint::Key { k0: 1, k1: 2 });
    let settings = PlaneSettings { limits: Limits { revoked: 20_000, condemned: 8 }, keys: 7.into(), namer };
    let store = Store::open(&dir.join("r"), 7).unwrap();
    Plane::new(store, None, Arc::clone(index), hands.clone(), settings).unwrap()
}

fn order(fingerprint: DenyFingerprint, until: i64) -> Order {
    let (reason, actor, ticket, source) = (TEXT(), TEXT(), TEXT(), TEXT());
    let token = super::super::Fingerprints::of(fingerprint, 7);
    Order { token, until: WallTime(until), reason, actor, ticket, source, parent: None }
}

fn revoke(plane: &mut Plane, order: Order) {
    plane.run(std::iter::once(Command::Revoke(vec![order], None, ReplyTo::One(oneshot::channel().0))));
}

#[test]
fn a_wall_clock_that_is_wrong_for_a_while_erases_no_revocation() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    revoke(&mut plane, order(F, 1000));
    assert!(index.is_revoked(F, hands.wall()));
    hands.wall.store(i64::MAX / 2, SeqCst);
    sweep(&mut plane);
    assert!(!index.is_revoked(F, hands.wall()), "it lapses while the clock says so");
    hands.wall.store(500, SeqCst);
    sweep(&mut plane);
    assert!(index.is_revoked(F, hands.wall()), "and holds again when the clock is right");
    hands.wall.store(60_000, SeqCst);
    sweep(&mut plane);
    hands.boot.store(GRACE_NS, SeqCst);
    sweep(&mut plane);
    assert_eq!(plane.ledger.claims(), 0, "a day of running time after its end it is erased");
    assert!(plane.store.reader().list(ClaimId(0), 9, WallTime(0), |_| true).unwrap().is_empty());
}

#[test]
fn a_daemon_that_is_started_anew_each_day_erases_what_is_over() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, mut left) = (Arc::new(Hands::default()), Vec::new());
    for day in 0..4u64 {
        let index = Arc::new(Index::default());
        let mut plane = plane(dir.path(), &hands, &index);
        if day == 0 {
            revoke(&mut plane, order(F, 1000));
            hands.wall.store(60_000, SeqCst);
        }
        // Killed without a word after nine hours, each time.
        for hour in 0..=9 {
            hands.boot.store((day * 9 + hour) * GRACE_NS / 24, SeqCst);
            sweep(&mut plane);
        }
        left.push(plane.ledger.claims());
        // A restart of the machine, or not: boot times of one daemon are none of another's.
        hands.boot.store(if day == 1 { 0 } else { hands.boot.load(SeqCst) }, SeqCst);
    }
    assert_eq!(left, [1, 1, 0, 0]);
}

fn selector(sub: &str, until: i64) -> SelectorOrder {
    let selector = Selector { iss: Some("https://a".into()), sub: Some(sub.into()), ..Selector::default() };
    let (reason, actor, ticket, source) = (TEXT(), TEXT(), TEXT(), TEXT());
    SelectorOrder { selector, until: WallTime(until), reason, actor, ticket, source }
}

fn ask<T>(commands: &mut Vec<Command>, make: impl FnOnce(Reply<T>) -> Command) -> Answer<T> {
    let (reply, answer) = oneshot::channel();
    commands.push(make(reply));
    answer
}

type Answer<T> = oneshot::Receiver<Result<T, RevokeError>>;

fn told<T>(mut answer: Answer<T>) -> Result<T, RevokeError> {
    answer.try_recv().expect("it was answered")
}

fn tokens(from: u64, to: u64) -> Vec<Matched> {
    let name = |n| super::super::Fingerprints::of(DenyFingerprint([n, n]), 7);
    (from..to).map(|n| (name(n), WallTime(i64::MAX))).collect()
}

#[test]
fn all_that_comes_together_is_one_entry_and_one_sync() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    let until = 120_000_000;
    let seq = |plane: &Plane| plane.store.head().seq;
    let mut all = Vec::new();
    let selects: Vec<_> = (0..300)
        .map(|n| ask(&mut all, |r| Command::Select(Box::new(selector(&n.to_string(), until)), None, r)))
        .collect();
    let start = seq(&plane);
    plane.run(all.drain(..));
    let ids: Vec<_> = selects.into_iter().map(|a| told(a).unwrap().id).collect();
    assert_eq!(seq(&plane), start + 1, "300 selectors");
    // One with ten thousand live tokens, and tokens that were presented one by one, some of them twice.
    let many = ask(&mut all, |r| Command::Follow(ids[0], tokens(0, 10_000), AtOnce, r));
    let presented: Vec<_> = (0..200)
        .zip(ids[1..10].iter().cycle())
        .map(|(n, id)| ask(&mut all, |r| Command::Follow(*id, tokens(n / 2, n / 2 + 1), Presented, r)))
        .collect();
    plane.run(all.drain(..));
    assert_eq!(seq(&plane), start + 2, "all that follow");
    assert_eq!(told(many).unwrap(), 10_000);
    let _: Vec<_> = presented.into_iter().map(|a| told(a).unwrap()).collect();
    assert_eq!(plane.ledger.revoked(), 10_000);
    // Lifts of selectors and tokens, beside an order that follows from one of them.
    let claims = plane.ledger.claims();
    revoke(&mut plane, order(F, until));
    let lifts: Vec<_> =
        ids.iter().map(|id| ask(&mut all, |r| Command::Lift(*id, b"{}".to_vec(), r))).collect();
    let late = ask(&mut all, |r| Command::Follow(ids[3], tokens(20_000, 20_001), AtOnce, r));
    plane.run(all.drain(..));
    assert_eq!(seq(&plane), start + 4);
    assert!(lifts.into_iter().all(|a| told(a).is_ok()));
    assert_eq!(told(late).unwrap(), 0, "nothing follows from what is lifted");
    assert_eq!((plane.ledger.claims(), index.selectors.count()), (1, 0), "of {claims} and one");
    assert!(!index.is_revoked(DenyFingerprint([20_000, 20_000]), WallTime(0)));
    // And what is on the disk says the same.
    drop(plane);
    let index = Arc::new(Index::default());
    let plane = self::plane(dir.path(), &hands, &index);
    assert_eq!((plane.ledger.claims(), index.selectors.count()), (1, 0));
}

#[test]
fn selectors_that_are_over_go_together_with_what_followed() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    let mut all = Vec::new();
    let selects: Vec<_> = (0..200)
        .map(|n| ask(&mut all, |r| Command::Select(Box::new(selector(&n.to_string(), 1000)), None, r)))
        .collect();
    plane.run(all.drain(..));
    for (n, a) in (0..).zip(selects) {
        let id = told(a).unwrap().id;
        drop(ask(&mut all, |r| Command::Follow(id, tokens(n, n + 1), AtOnce, r)));
    }
    plane.run(all.drain(..));
    assert_eq!((plane.ledger.claims(), index.selectors.count()), (200, 200));
    let before = plane.store.head().seq;
    hands.wall.store(60_000, SeqCst);
    sweep(&mut plane);
    hands.boot.store(GRACE_NS, SeqCst);
    for _ in 0..9 {
        sweep(&mut plane);
    }
    assert_eq!((plane.ledger.claims(), index.selectors.count()), (0, 0));
    let entries = plane.store.head().seq - before;
    assert!(entries <= 2, "{entries} syncs for 200 selectors whose time is over");
}

#[test]
fn a_receipt_says_how_many_were_condemned_at_once_also_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    let mut all = Vec::new();
    let asked: Vec<_> = ["a", "b", "c", "d"]
        .map(|sub| ask(&mut all, |r| Command::Select(Box::new(selector(sub, 1 << 40)), None, r)))
        .into();
    plane.run(all.drain(..));
    let ids: Vec<_> = asked.into_iter().map(|a| told(a).unwrap().id).collect();
    // In two parts, some of them twice; none; and one that is not there any more. The last was never followed.
    drop(ask(&mut all, |r| Command::Follow(ids[0], tokens(0, 10), AtOnce, r)));
    drop(ask(&mut all, |r| Command::Follow(ids[0], tokens(5, 15), AtOnce, r)));
    let before = plane.store.head().seq;
    plane.run(all.drain(..));
    assert_eq!(plane.store.head().seq, before + 1);
    drop(ask(&mut all, |r| Command::Follow(ids[1], Vec::new(), AtOnce, r)));
    plane.run(all.drain(..));
    assert_eq!(plane.store.head().seq, before + 1, "nobody waits for the disk for nothing");
    drop(ask(&mut all, |r| Command::Follow(ids[0], tokens(15, 16), AtOnce, r)));
    drop(ask(&mut all, |r| Command::Follow(ids[0], tokens(20, 30), Presented, r)));
    drop(ask(&mut all, |r| Command::Follow(ids[2], tokens(0, 3), AtOnce, r)));
    plane.run(all.drain(..));
    let known = |plane: &Plane| -> Vec<_> {
        ids.iter().map(|id| plane.store.reader().receipt(*id).unwrap().map(|r| r.condemned)).collect()
    };
    assert_eq!(known(&plane), [Some(Some(16)), Some(Some(0)), Some(Some(3)), Some(None)]);
    drop(ask(&mut all, |r| Command::Lift(ids[2], b"{}".to_vec(), r)));
    plane.run(all.drain(..));
    drop(plane);
    let plane = self::plane(dir.path(), &hands, &Arc::new(Index::default()));
    assert_eq!(known(&plane), [Some(Some(16)), Some(Some(0)), None, Some(None)]);
    assert_eq!(plane.store.reader().condemned(ids[2]), None, "nothing is kept of what is lifted");
}

#[test]
fn what_follows_counts_for_the_room_in_the_map() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    let mut all = Vec::new();
    let taken = ask(&mut all, |r| Command::Select(Box::new(selector("a", 1 << 40)), None, r));
    plane.run(all.drain(..));
    let id = told(taken).unwrap().id;
    // More than there is room for, in two parts, and an order, all at once.
    let limit = plane.ledger.limits().revoked;
    let parts: Vec<_> = [(0, 15_000), (15_000, 30_000)]
        .into_iter()
        .map(|(from, to)| ask(&mut all, |r| Command::Follow(id, tokens(from, to), AtOnce, r)))
        .collect();
    let one = ask(&mut all, |r| Command::Revoke(vec![order(F, 1 << 40)], None, ReplyTo::Many(r)));
    plane.run(all.drain(..));
    assert!(told(one).is_ok(), "an order goes before what follows");
    let followed: usize = parts.into_iter().map(|a| told(a).unwrap()).sum();
    assert_eq!((followed, plane.ledger.revoked()), (limit - 1, limit));
    let one =
        ask(&mut all, |r| Command::Revoke(vec![order(DenyFingerprint([1, 9]), 9)], None, ReplyTo::Many(r)));
    plane.run(all.drain(..));
    assert!(matches!(told(one), Err(RevokeError::Full { .. })));
}

#[test]
fn more_selectors_of_one_name_than_anybody_needs_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let mut plane = plane(dir.path(), &hands, &index);
    let mut all = Vec::new();
    for together in [true, false] {
        let answers: Vec<_> = (0..700)
            .map(|_| {
                let answer = ask(&mut all, |r| Command::Select(Box::new(selector("a", 1 << 40)), None, r));
                if !together {
                    plane.run(all.drain(..));
                }
                answer
            })
            .collect();
        plane.run(all.drain(..));
        let refused = answers.into_iter().filter_map(|a| told(a).err()).count();
        assert_eq!(refused, if together { 0 } else { 400 });
    }
    assert_eq!(index.selectors.count(), 1000);
    let other = ask(&mut all, |r| Command::Select(Box::new(selector("b", 1 << 40)), None, r));
    plane.run(all.drain(..));
    assert!(told(other).is_ok());
}

/// A disk whose syncs wait until they are let through.
#[derive(Clone, Debug, Default)]
struct Slow {
    disk: SimDisk,
    stuck: Arc<(Mutex<bool>, Condvar)>,
}

impl Slow {
    fn stick(&self, stuck: bool) {
        *self.stuck.0.lock().unwrap() = stuck;
        self.stuck.1.notify_all();
    }
}

#[derive(Debug)]
struct SlowFile(Arc<dyn DiskFile>, Slow);

impl Disk for Slow {
    fn list(&self) -> io::Result<Vec<String>> {
        self.disk.list()
    }
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.disk.create(name)?, self.clone())))
    }
    fn open(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        Ok(Arc::new(SlowFile(self.disk.open(name)?, self.clone())))
    }
    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.disk.rename(from, to)
    }
    fn remove(&self, name: &str) -> io::Result<()> {
        self.disk.remove(name)
    }
    fn sync(&self) -> io::Result<()> {
        self.disk.sync()
    }
}

impl DiskFile for SlowFile {
    fn size(&self) -> io::Result<u64> {
        self.0.size()
    }
    fn read_at(&self, into: &mut [u8], at: u64) -> io::Result<usize> {
        self.0.read_at(into, at)
    }
    fn write_at(&self, data: &[u8], at: u64) -> io::Result<()> {
        self.0.write_at(data, at)
    }
    fn sync(&self) -> io::Result<()> {
        let (stuck, changed) = &*self.1.stuck;
        drop(changed.wait_while(stuck.lock().unwrap(), |stuck| *stuck).unwrap());
        self.0.sync()
    }
}

#[tokio::test]
async fn on_a_slow_disk_orders_wait_and_decisions_do_not() {
    let slow = Slow::default();
    let disk: Arc<dyn Disk> = Arc::new(slow.clone());
    let store = Store::open_on(&disk, Path::new("slow"), 7, crate::revoke::Tuning::default()).unwrap();
    let (hands, index) = (Arc::new(Hands::default()), Arc::new(Index::default()));
    let namer = Namer::new(portcullis_common::fingerprint::Key { k0: 1, k1: 2 });
    let settings = PlaneSettings { limits: Limits { revoked: 100, condemned: 8 }, keys: 7.into(), namer };
    let plane = Plane::new(store, None, Arc::clone(&index), hands.clone(), settings).unwrap();
    let (handle, thread) = plane.start().unwrap();
    let known = handle.revoke(order(F, 1 << 40)).await.unwrap();
    let before = *handle.head().borrow();
    slow.stick(true);
    let waiting: Vec<_> = (1..=50)
        .map(|n| {
            let handle = handle.clone();
            tokio::spawn(async move { handle.revoke(order(DenyFingerprint([n, n]), 1 << 40)).await })
        })
        .collect();
    let names = handle.namer().names(&crate::revoke::Traits { issuer: "https://a", ..Default::default() });
    // What decisions ask, and readers, is answered while not one of them is.
    for _ in 0..1000 {
        assert!(index.is_revoked(F, WallTime(0)) && !index.is_revoked(DenyFingerprint([1, 1]), WallTime(0)));
        assert_eq!(index.selectors.find(&names, WallTime(0)), None);
        tokio::task::yield_now().await;
    }
    assert_eq!(handle.get(known.id).await.unwrap().map(|c| c.id()), Some(known.id));
    assert_eq!(handle.list(ClaimId(0), 100, |_| true).await.unwrap().len(), 1);
    assert_eq!(handle.entries(before, 10).await.unwrap().map(|e| e.len()), Some(0));
    assert_eq!(handle.status().claims, 1);
    assert!(waiting.iter().all(|w| !w.is_finished()), "nothing is acknowledged before it is on the disk");
    slow.stick(false);
    for order in waiting {
        order.await.unwrap().unwrap();
    }
    assert!((1..=50).all(|n| index.is_revoked(DenyFingerprint([n, n]), WallTime(0))));
    let entries = *handle.head().borrow() - before;
    assert!(entries <= 3, "what waited goes together: {entries} syncs for 50 orders");
    handle.stop().await;
    tokio::task::spawn_blocking(move || thread.join()).await.unwrap().unwrap();
}
