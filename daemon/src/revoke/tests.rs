//! Hosts that tell each other their orders come to the same, whatever becomes of the messages.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::{Arc, Mutex},
    thread::JoinHandle,
    time::Duration,
};

use portcullis_common::fingerprint::{DenyFingerprint, Key};
use proptest::prelude::*;
use tokio::sync::oneshot;

use super::{
    feed::{Credentials, Exchange, Feed, Follow, Level, Settings},
    handle::{Command, ReplyTo},
    *,
};
use crate::{
    clock::{BootTime, Clock, WallTime},
    journal::{Sizes, sim::SimDisk},
};

const KEY: u32 = 7;
/// The key that takes its place.
const NEXT: u32 = 8;
const BEFORE: KeyIds = KeyIds { own: KEY, other: Some(NEXT) };
const AFTER: KeyIds = KeyIds { own: NEXT, other: Some(KEY) };
/// The time here, far ahead of the machine's own: a store that is closed looks at that.
const NOW: i64 = 4_000_000_000_000;
/// Until when claims hold.
const UNTIL: i64 = NOW + 9_000;
/// So small that snapshots take the place of files.
const SMALL: Tuning = Tuning {
    sizes: Sizes { segment: 2048, zeros: 512 },
    snapshot_after: 6000,
    audit_keep: Duration::from_secs(0),
    audit_max: 0,
    background: false,
};

/// A clock that is moved by hand.
#[derive(Debug, Default)]
pub struct Hands(pub Mutex<i64>);

impl Clock for Hands {
    fn wall(&self) -> WallTime {
        WallTime(*self.0.lock().unwrap())
    }
    fn boot(&self) -> BootTime {
        BootTime(0)
    }
}

type Whole = (Vec<AnyClaim>, u64, u64, Vec<Grave>);

/// A host without a kernel, on a disk of its own.
pub struct Host {
    disk: SimDisk,
    plane: Option<Plane>,
    index: Arc<Index>,
    exchange: Exchange,
    clock: Arc<Hands>,
    tuning: Tuning,
    keys: KeyIds,
}

impl Host {
    pub fn new(n: u8) -> Self {
        Self::with(n, Tuning { background: false, ..Tuning::default() })
    }

    fn with(_: u8, tuning: Tuning) -> Self {
        let disk = SimDisk::default();
        let mut host = Self {
            disk,
            plane: None,
            index: Arc::default(),
            exchange: Exchange::default(),
            clock: Arc::new(Hands(Mutex::new(NOW))),
            tuning,
            keys: KEY.into(),
        };
        host.start();
        host
    }

    fn start(&mut self) {
        self.try_start().unwrap();
    }

    fn try_start(&mut self) -> Result<(), RevokeError> {
        self.plane = None;
        self.index = Arc::default();
        let store =
            Store::open_on(&(Arc::new(self.disk.clone()) as _), Path::new("sim"), self.keys, self.tuning)
                .unwrap();
        self.exchange = Exchange::new(store.reader().fleet().reached);
        let settings = PlaneSettings {
            limits: Limits { revoked: 10_000, condemned: 8 },
            keys: self.keys,
            namer: Namer::new(Key { k0: 1, k1: 2 }),
        };
        let clock: Arc<Hands> = Arc::clone(&self.clock);
        let mut plane = Plane::new(store, None, Arc::clone(&self.index), clock, settings)?;
        plane.activate_first("set")?;
        self.plane = Some(plane);
        Ok(())
    }

    fn plane(&mut self) -> &mut Plane {
        self.plane.as_mut().unwrap()
    }

    fn origin(&mut self) -> Origin {
        self.plane().store.origin()
    }

    /// Revokes a token and gives the claim's id.
    pub fn revoke(&mut self, token: u64) -> u64 {
        let order = Order {
            token: named(token, self.keys),
            until: WallTime(UNTIL),
            reason: "x".repeat(20),
            actor: "uid:0".into(),
            ticket: "INC-7".into(),
            source: "admin".into(),
            parent: None,
        };
        let (reply, mut answer) = oneshot::channel();
        self.plane().run(std::iter::once(Command::Revoke(vec![order], None, ReplyTo::One(reply))));
        answer.try_recv().unwrap().unwrap().id.0
    }

    fn select(&mut self, sub: u64) -> u64 {
        let selector = Selector { iss: Some("i".into()), sub: Some(sub.to_string()), ..Selector::default() };
        let (reason, actor, source) = (String::new(), String::new(), "admin".to_owned());
        let order =
            SelectorOrder { selector, until: WallTime(UNTIL), reason, actor, ticket: "INC-8".into(), source };
        let (reply, mut answer) = oneshot::channel();
        self.plane().run(std::iter::once(Command::Select(Box::new(order), None, reply)));
        answer.try_recv().unwrap().unwrap().id.0
    }

    pub fn lift(&mut self, id: u64) {
        let (reply, mut answer) = oneshot::channel();
        let by = br#"{"actor":"a","reason":"r"}"#.to_vec();
        self.plane().run(std::iter::once(Command::Lift(ClaimId(id), by, reply)));
        answer.try_recv().unwrap().unwrap();
    }

    /// Claims in force, by their names in the fleet, with their ids here.
    fn in_force(&mut self) -> BTreeMap<Name, u64> {
        let own = self.origin();
        let all = self.plane().store.reader().list(ClaimId(0), usize::MAX, WallTime(0), |_| true).unwrap();
        let name = |c: &AnyClaim| {
            let source = match c {
                AnyClaim::Token(c) => &c.source,
                AnyClaim::Selector(c) => &c.source,
            };
            let ticket = match c {
                AnyClaim::Token(c) => &c.ticket,
                AnyClaim::Selector(c) => &c.ticket,
            };
            assert!(["INC-7", "INC-8"].contains(&ticket.as_str()), "wherever it was ordered: {c:?}");
            Name::of_source(source).unwrap_or(Name { origin: own, id: c.id().0 })
        };
        all.iter().map(|c| (name(c), c.id().0)).collect()
    }

    /// What it tells others of its log; `None` where that is not kept any more.
    fn messages(&mut self) -> Option<Vec<Vec<u8>>> {
        let own = self.origin();
        let entries = self.plane().store.reader().entries(0, usize::MAX).unwrap()?;
        Some(Exchange::write(own, self.keys.own, &entries))
    }

    fn hear(&mut self, messages: &[&[u8]]) {
        let update = self.exchange.read(messages, self.keys);
        let taken = self.plane.as_mut().unwrap().take_remote(update).unwrap();
        assert!(taken.added + taken.lifted < 10_000);
    }

    /// Hears all of another's orders.
    pub fn learn(&mut self, other: &mut Self) {
        let all = other.messages().unwrap();
        self.hear(&all.iter().map(Vec::as_slice).collect::<Vec<_>>());
    }

    /// Claims in force that others ordered, by their ids here.
    pub fn others(&mut self) -> Vec<u64> {
        let own = self.origin();
        self.in_force().into_iter().filter(|(name, _)| name.origin != own).map(|(_, id)| id).collect()
    }

    /// The last entry of its log.
    pub fn head(&mut self) -> u64 {
        self.plane().store.head().seq
    }

    /// All its claims, as it tells them who missed something: those, the entry and the id up to which they are all, and
    /// claims of others that were lifted.
    fn whole(&mut self) -> Whole {
        let reader = self.plane().store.reader();
        let all = reader.list(ClaimId(0), usize::MAX, WallTime(0), |_| true).unwrap();
        (all, self.plane().store.head().seq, reader.next_id(), reader.graves(None, usize::MAX))
    }

    fn hear_whole(&mut self, of: Origin, whole: &Whole) {
        let update = self.exchange.whole(of, &whole.0, whole.1, whole.2, &whole.3, self.keys.own);
        self.plane.as_mut().unwrap().take_remote(update).unwrap();
    }

    /// The fleet's side of it, with the plane on its thread.
    pub fn feed(mut self) -> (Feed, JoinHandle<()>) {
        struct Nobody;
        impl Follow for Nobody {
            fn follow(&self, _: SelectorClaim) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send + '_>> {
                Box::pin(async {})
            }
        }
        let (plane, thread) = self.plane.take().unwrap().start().unwrap();
        let second = Duration::from_secs(1);
        let settings = Settings {
            servers: Vec::new(),
            stream: "S".into(),
            prefix: "s".into(),
            name: "host".into(),
            ca_file: None,
            certificate: None,
            credentials: Credentials::default(),
            ping_interval: second,
            reconnect: second,
            connect_timeout: second,
            create: true,
            replicas: 1,
            max_age: second,
            max_bytes: 1,
            max_staleness: None,
            acknowledge: Level::Local,
            timeout: second,
            keys: self.keys,
        };
        (Feed::new(settings, plane, Arc::new(Nobody)), thread)
    }
}

/// A token's names under these keys.
fn named(token: u64, keys: KeyIds) -> Fingerprints {
    let under = |key_id: u32| Named { fingerprint: DenyFingerprint([token, key_id.into()]), key_id };
    Fingerprints { first: under(keys.own), other: keys.other.map(under) }
}

/// What happens.
#[derive(Clone, Debug)]
enum Step {
    Revoke(usize, u64),
    Select(usize, u64),
    /// One lifts the nth claim that it has in force, whoever ordered it.
    Lift(usize, usize),
    /// One hears some of another's messages: those whose bit is set, turned round by so many, some of them twice.
    Hear(usize, usize, u64, usize),
    /// One hears all that another has in force.
    Whole(usize, usize),
    Restart(usize),
    /// One goes on with the change of the fingerprint key: both in force, and then the new one in the old one's place.
    /// The second step waits for everybody's first.
    Keys(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let host = 0usize..3;
    prop_oneof![
        3 => (host.clone(), 0u64..4).prop_map(|(h, t)| Step::Revoke(h, t)),
        1 => (host.clone(), 0u64..2).prop_map(|(h, t)| Step::Select(h, t)),
        3 => (host.clone(), 0usize..9).prop_map(|(h, n)| Step::Lift(h, n)),
        5 => (host.clone(), host.clone(), any::<u64>(), 0usize..9).prop_map(|(a, b, m, r)| Step::Hear(a, b, m, r)),
        1 => (host.clone(), host.clone()).prop_map(|(a, b)| Step::Whole(a, b)),
        1 => host.clone().prop_map(Step::Restart),
        1 => host.prop_map(Step::Keys),
    ]
}

fn run(steps: &[Step], tuning: Tuning) {
    let mut hosts: Vec<Host> = (0..3).map(|n| Host::with(n, tuning)).collect();
    let (mut ordered, mut lifted) = (BTreeSet::new(), BTreeSet::new());
    for step in steps {
        match *step {
            Step::Revoke(h, token) => {
                let (origin, id) = (hosts[h].origin(), hosts[h].revoke(token));
                ordered.insert(Name { origin, id });
            }
            Step::Select(h, sub) => {
                let (origin, id) = (hosts[h].origin(), hosts[h].select(sub));
                ordered.insert(Name { origin, id });
            }
            Step::Lift(h, n) => {
                // Origins are drawn: by the hosts' order, a history is the same each time.
                let origins: Vec<Origin> = hosts.iter_mut().map(Host::origin).collect();
                let mut all: Vec<_> = hosts[h].in_force().into_iter().collect();
                all.sort_by_key(|(name, _)| (origins.iter().position(|o| *o == name.origin), name.id));
                if let Some((name, id)) = all.into_iter().nth(n) {
                    hosts[h].lift(id);
                    lifted.insert(name);
                }
            }
            Step::Hear(to, from, mask, turn) => {
                let all = hosts[from].messages().unwrap_or_default();
                let mut some: Vec<&[u8]> = all
                    .iter()
                    .enumerate()
                    .filter(|(n, _)| mask >> (n % 64) & 1 == 1)
                    .map(|(_, m)| m.as_slice())
                    .collect();
                if !some.is_empty() {
                    let turn = turn % some.len();
                    some.rotate_left(turn);
                    some.extend(some.clone().iter().rev().take(turn));
                }
                hosts[to].hear(&some);
            }
            Step::Whole(to, from) if to != from => {
                let (of, whole) = (hosts[from].origin(), hosts[from].whole());
                hosts[to].hear_whole(of, &whole);
            }
            Step::Whole(..) => {}
            Step::Restart(h) => hosts[h].start(),
            Step::Keys(h) => {
                let all_know = hosts.iter().all(|host| host.keys.has(NEXT));
                hosts[h].keys = match hosts[h].keys {
                    KeyIds { own: KEY, other: None } => BEFORE,
                    BEFORE if all_know => AFTER,
                    same => same,
                };
                hosts[h].start();
            }
        }
    }
    // All is told in the end, at least once and in some order.
    for _ in 0..2 {
        for (to, from) in [(0, 2), (2, 1), (1, 0), (0, 1), (1, 2), (2, 0)] {
            if let Some(all) = hosts[from].messages() {
                let all: Vec<&[u8]> = all.iter().rev().map(Vec::as_slice).collect();
                hosts[to].hear(&all);
            } else {
                let (of, whole) = (hosts[from].origin(), hosts[from].whole());
                hosts[to].hear_whole(of, &whole);
            }
        }
    }
    let left: BTreeSet<Name> = ordered.difference(&lifted).copied().collect();
    for (n, host) in hosts.iter_mut().enumerate() {
        let names: BTreeSet<Name> = host.in_force().into_keys().collect();
        assert_eq!(names, left, "host {n}");
        let before = host.index.selectors.count();
        host.start();
        assert_eq!(host.in_force().into_keys().collect::<BTreeSet<_>>(), left, "host {n} after a restart");
        assert_eq!(host.index.selectors.count(), before);
        // Whose token is refused is the same too.
        for token in 0..4 {
            let names = named(token, AFTER);
            let names = [names.first.fingerprint, names.other.unwrap().fingerprint];
            let reader = host.plane().store.reader();
            let any = reader.list(
                ClaimId(0),
                9999,
                WallTime(0),
                move |c| matches!(c, AnyClaim::Token(c) if names.contains(&c.fingerprint)),
            );
            let presented = named(token, host.keys);
            let refused = presented.each().any(|f| host.index.is_revoked(f, WallTime(NOW)));
            assert_eq!(refused, !any.unwrap().is_empty(), "host {n}, token {token}");
        }
        // The old key goes where nothing stands under it alone, and nowhere else.
        if host.keys == AFTER {
            let alone = host.plane().ledger.unnamed(WallTime(NOW), true).0.claims;
            let selected = host.index.selectors.count();
            host.keys = NEXT.into();
            match host.try_start() {
                Ok(()) => assert_eq!((alone, host.index.selectors.count()), (0, selected), "host {n}"),
                Err(RevokeError::KeyMissing { key: KEY, claims, .. }) => assert_eq!(alone, claims),
                Err(e) => panic!("host {n}: {e}"),
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if std::env::var_os("PORTCULLIS_THOROUGH").is_some() { 3000 } else { 100 }))]

    #[test]
    fn any_order_duplication_and_loss_comes_to_the_same(steps in proptest::collection::vec(step(), 1..40)) {
        run(&steps, Tuning { background: false, ..Tuning::default() });
    }

    #[test]
    fn and_so_it_does_when_logs_are_compacted(steps in proptest::collection::vec(step(), 20..80)) {
        run(&steps, SMALL);
    }
}

#[test]
fn a_lifting_that_is_heard_of_first_outlives_its_claim_by_a_day() {
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    let id = a.revoke(1);
    a.lift(id);
    let all = a.messages().unwrap();
    b.hear(&[&all[1]]);
    let name = Name { origin: a.origin(), id };
    let day = 24 * 3600 * 1000;
    b.start();
    *b.clock.0.lock().unwrap() = UNTIL + day - 1;
    let now = b.clock.wall();
    b.plane().store.tend(now, Some(now));
    b.hear(&[&all[0]]);
    assert_eq!(b.in_force(), BTreeMap::new());
    assert!(b.plane().store.is_buried(name));
    *b.clock.0.lock().unwrap() = UNTIL + day;
    let now = b.clock.wall();
    b.plane().store.tend(now, Some(now));
    assert!(!b.plane().store.is_buried(name), "and no longer");
}

#[test]
fn what_a_wrong_clock_says_is_over_is_taken_and_holds_when_it_is_right() {
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    *b.clock.0.lock().unwrap() = UNTIL + 2 * 24 * 3600 * 1000;
    a.revoke(1);
    b.learn(&mut a);
    assert!(!b.index.is_revoked(DenyFingerprint([1, KEY.into()]), b.clock.wall()));
    *b.clock.0.lock().unwrap() = NOW;
    b.start();
    assert!(b.index.is_revoked(DenyFingerprint([1, KEY.into()]), b.clock.wall()));
}

#[test]
fn what_a_wrong_clock_says_is_long_over_stays_lifted() {
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    let id = a.revoke(1);
    a.lift(id);
    let all = a.messages().unwrap();
    b.hear(&[&all[1]]);
    *b.clock.0.lock().unwrap() = UNTIL + 3 * 24 * 3600 * 1000;
    b.plane().sweep();
    *b.clock.0.lock().unwrap() = NOW;
    b.hear(&[&all[0]]);
    assert_eq!(b.in_force(), BTreeMap::new());
}

#[test]
fn a_lifting_of_what_was_not_ordered_yet_lifts_nothing() {
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    a.revoke(1);
    b.learn(&mut a);
    let origin = a.origin();
    let lift: Vec<_> = (2..=4)
        .map(|id| {
            let grave = Grave { name: Name { origin, id }, until: WallTime(UNTIL) };
            RemoteLift { grave, by: serde_json::json!({}) }
        })
        .collect();
    for host in [&mut a, &mut b] {
        let taken = host.plane().take_remote(Update { lift: lift.clone(), ..Update::default() }).unwrap();
        assert_eq!(taken, Taken::default());
    }
    // Ids that were lifted in advance are not given, also after a restart: what is ordered is in force wherever it is told.
    assert_eq!(a.revoke(2), 5);
    b.learn(&mut a);
    assert_eq!(b.in_force().len(), 2);
    a.start();
    assert_eq!(a.revoke(3), 6);
    // What was given is lifted by who saw it, as ever.
    let id = a.revoke(4);
    b.learn(&mut a);
    let here = b.in_force()[&Name { origin, id }];
    b.lift(here);
    a.learn(&mut b);
    assert_eq!((a.in_force().len(), b.in_force().len()), (3, 3));
}

#[test]
fn a_host_tells_as_its_own_what_another_lifted_of_it() {
    let (mut a, mut b, mut late) = (Host::new(1), Host::new(2), Host::new(3));
    a.revoke(1);
    b.learn(&mut a);
    let [here] = b.others()[..] else { panic!("one claim") };
    b.lift(here);
    a.learn(&mut b);
    assert_eq!(a.in_force(), BTreeMap::new());
    // Whoever hears of the first alone.
    late.learn(&mut a);
    assert_eq!(late.in_force(), BTreeMap::new());
}

#[test]
fn what_a_host_no_longer_has_does_not_come_back_with_its_older_messages() {
    let (mut a, mut b) = (Host::new(1), Host::new(2));
    let id = a.revoke(1);
    let first = a.messages().unwrap();
    b.hear(&[&first[0]]);
    a.lift(id);
    let (of, whole) = (a.origin(), a.whole());
    b.hear_whole(of, &whole);
    assert_eq!(b.in_force(), BTreeMap::new());
    b.hear(&[&first[0]]);
    assert_eq!(b.in_force(), BTreeMap::new());
}
