//! The steps between a log and another host's plane without a server between them, for tests of what they come to.

#![allow(clippy::missing_panics_doc, reason = "tests panic to fail")]

use std::collections::{BTreeMap, BTreeSet, HashSet};

use super::{
    super::{
        AnyClaim, KeyIds, LogEntry,
        foreign::{Grave, Origin, Position},
        remote::{Only, Update},
    },
    message::{self, ToldClaim, ToldLift},
    orders::{self, Orders},
    tracker::{Seen, Tracker},
};

/// One host's side of it.
#[derive(Default)]
pub struct Exchange(Tracker);

impl Exchange {
    /// From what the store keeps.
    pub fn new(reached: BTreeMap<Origin, Position>) -> Self {
        Self(Tracker::new(reached))
    }

    /// What is told of these entries.
    pub fn write(own: Origin, key: u32, entries: &[LogEntry]) -> Vec<Vec<u8>> {
        let (mut all, mut prev, key) = (Vec::new(), 0, message::key(key));
        for entry in entries {
            let told = message::told(entry, &key);
            if !told.is_empty() {
                all.extend(message::write(own, &key, entry.entry, prev, &told, 4096));
                prev = entry.entry;
            }
        }
        all
    }

    /// What the plane is to do about these.
    pub fn read(&mut self, messages: &[&[u8]], keys: KeyIds) -> Update {
        let (mut update, mut touched) = (Update::default(), BTreeSet::new());
        for bytes in messages {
            let read: message::Message = message::parse(bytes).unwrap();
            let orders = Orders::of(message::read(bytes, &read.origin.to_string()).unwrap(), keys).unwrap();
            touched.insert(orders.head.origin);
            if self.0.see(&orders.head) == Seen::New {
                update.add.extend(orders.add);
                update.lift.extend(orders.lift);
            }
        }
        update.reached = touched.into_iter().map(|o| (o, self.0.reached(o))).collect();
        update
    }

    /// The same where all of a host's claims are told.
    pub fn whole(
        &mut self,
        of: Origin,
        claims: &[AnyClaim],
        upto: u64,
        next: u64,
        graves: &[Grave],
        key: u32,
    ) -> Update {
        let key = message::key(key);
        let told: Vec<ToldClaim> = claims.iter().filter_map(|c| ToldClaim::own(c, &key)).collect();
        let ids: HashSet<u64> = told.iter().map(|t| t.id).collect();
        let (add, _) = orders::claims(told, of, &key, message::key_id(&key).unwrap().into()).unwrap();
        self.0.reach(of, upto);
        let lift = graves.iter().filter_map(|g| ToldLift::of(*g).lift(of)).collect();
        let only = Some(Only { origin: of, next, ids });
        Update { add, lift, only, reached: vec![(of, self.0.reached(of))] }
    }
}
