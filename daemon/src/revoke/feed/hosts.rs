//! The hosts that were heard of lately, what each has in force, and who waits for that.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

use super::{
    super::{KeyIds, foreign::Origin},
    message::{Refused, VERSION, key, parse},
};

/// How long a host that says nothing counts as there.
pub const LIVE: Duration = Duration::from_secs(5);
/// How long it is shown after that.
const SHOWN: Duration = Duration::from_hours(24);
/// Hosts that are told apart.
const MOST: usize = 4096;
/// Longest name, in bytes.
const NAME: usize = 255;

/// What a host says of itself every second.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Heartbeat {
    v: u32,
    /// Its id.
    pub host: Origin,
    /// Its name, for people.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Drawn when it started, so that two with one id are told apart.
    pub instance: String,
    /// The key that it fingerprints under.
    pub key: String,
    /// Another one that is in force there too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other_key: Option<String>,
    /// Revocations there that need that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub needs_other: Option<u64>,
    /// The last entry of its log that has orders.
    pub head: u64,
    /// The last entry of its log.
    #[serde(default)]
    pub end: u64,
    /// How far it has the orders of others in force.
    pub applied: BTreeMap<Origin, u64>,
    /// How long ago it knew itself complete, in ms; none where it never did since its start.
    pub staleness: Option<u64>,
}

/// That a host has orders of another in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Applied {
    v: u32,
    /// Who has it.
    pub host: Origin,
    /// Up to which entry of the other's log.
    pub entry: u64,
}

impl Applied {
    /// Says it.
    pub const fn new(host: Origin, entry: u64) -> Self {
        Self { v: VERSION, host, entry }
    }

    /// Reads it as it came under a host's subject.
    pub fn read(bytes: &[u8], subject: &str) -> Result<Self, Refused> {
        let one: Self = parse(bytes)?;
        if one.host.to_string() == subject { Ok(one) } else { Err(Refused::Subject) }
    }
}

impl Heartbeat {
    /// Of a host, without what changes.
    pub fn new(host: Origin, name: &str, keys: KeyIds, instance: &str) -> Self {
        let end = (0..=name.len().min(NAME)).rev().find(|i| name.is_char_boundary(*i)).unwrap_or(0);
        Self {
            v: VERSION,
            host,
            name: name[..end].to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance: instance.to_owned(),
            key: key(keys.own),
            other_key: keys.other.map(key),
            needs_other: None,
            head: 0,
            end: 0,
            applied: BTreeMap::new(),
            staleness: None,
        }
    }

    /// Reads one that came under a host's subject.
    pub fn read(bytes: &[u8], subject: &str) -> Result<Self, Refused> {
        let one: Self = parse(bytes)?;
        if one.host.to_string() != subject {
            return Err(Refused::Subject);
        }
        let plain = |t: &str| t.len() <= NAME && !t.chars().any(char::is_control);
        let texts = [&one.name, &one.version, &one.instance, &one.key].into_iter().chain(&one.other_key);
        let sound = texts.into_iter().all(|t| plain(t));
        if sound && one.applied.len() <= MOST { Ok(one) } else { Err(Refused::Malformed) }
    }
}

/// A host that was heard of.
#[derive(Clone, Debug)]
struct Heard {
    said: Heartbeat,
    at: Instant,
    /// How far it has this host's orders in force.
    applied: u64,
}

impl Heard {
    /// Whether one of these keys is in force there: then it knows tokens by the names that this host gives them.
    fn shares(&self, keys: KeyIds) -> bool {
        keys.all().any(|k| self.has(k))
    }

    fn has(&self, id: u32) -> bool {
        let id = key(id);
        self.said.key == id || self.said.other_key.as_ref() == Some(&id)
    }

    /// Whether it knows each of some tokens by one of its names.
    fn knows(&self, named: &[Vec<u32>]) -> bool {
        named.iter().all(|under| under.iter().any(|k| self.has(*k)))
    }
}

/// A host, for people and programs.
#[derive(Clone, Debug, Serialize)]
pub struct HostStatus {
    /// Its id.
    pub id: Origin,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Whether it was heard of in the last seconds.
    pub live: bool,
    /// Seconds since it was heard of.
    pub heard_seconds: u64,
    /// The key that it fingerprints under.
    pub key_id: String,
    /// Another one that is in force there too.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub other_key_id: Option<String>,
    /// Revocations there that need that one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub needs_other: Option<u64>,
    /// The last entry of its log that has orders.
    pub head: u64,
    /// How far this host has its orders in force.
    pub applied_here: u64,
    /// How far it has this host's orders in force.
    pub applied_there: u64,
    /// Seconds since it knew itself complete.
    pub staleness_seconds: Option<u64>,
}

/// Hosts other than this one.
#[derive(Clone, Debug, Default)]
pub struct Hosts(BTreeMap<Origin, Heard>);

impl Hosts {
    /// Notes what a host says of itself; `own` is this one, whose log ends with entry `head`.
    pub fn heard(&mut self, said: Heartbeat, own: Origin, head: u64, now: Instant) {
        let applied = said.applied.get(&own).copied().filter(|entry| *entry <= head).unwrap_or(0);
        if self.0.len() >= MOST && !self.0.contains_key(&said.host) {
            return;
        }
        let before = self.0.get(&said.host).map_or(0, |h| h.applied);
        let applied = applied.max(before);
        self.0.insert(said.host, Heard { said, at: now, applied });
        self.0.retain(|_, h| now.saturating_duration_since(h.at) < SHOWN);
    }

    /// Notes that a host has this one's orders in force; more than there are, up to entry `head`, nobody has.
    pub fn applied(&mut self, a: Applied, head: u64) {
        if let Some(host) = self.0.get_mut(&a.host).filter(|_| a.entry <= head) {
            host.applied = host.applied.max(a.entry);
        }
    }

    fn live(&self, now: Instant) -> impl Iterator<Item = (&Origin, &Heard)> {
        self.0.iter().filter(move |(_, h)| now.saturating_duration_since(h.at) < LIVE)
    }

    /// Live hosts, and how far each has a host's orders in force; the host itself has all of its own.
    pub fn who_has(&self, of: Origin, now: Instant) -> impl Iterator<Item = (Origin, u64)> {
        self.live(now).map(move |(id, h)| {
            let entry = if *id == of { h.said.head } else { h.said.applied.get(&of).copied().unwrap_or(0) };
            (*id, entry)
        })
    }

    /// All hosts that anybody live speaks of, with the furthest entry that somebody has of each; `own` is left out.
    pub fn heads(&self, own: Origin, now: Instant) -> BTreeMap<Origin, u64> {
        let mut all: BTreeMap<Origin, u64> = BTreeMap::new();
        for (id, host) in self.live(now) {
            let told = host.said.applied.iter().map(|(o, e)| (*o, *e)).chain([(*id, host.said.head)]);
            for (origin, entry) in told.filter(|(o, _)| *o != own) {
                let known = all.entry(origin).or_default();
                *known = (*known).max(entry);
            }
        }
        all
    }

    /// Live hosts that work with a fingerprint key, with what they drew when they started.
    pub fn of_key(&self, id: u32, now: Instant) -> BTreeMap<Origin, String> {
        let id = key(id);
        let of = self.live(now).filter(|(_, h)| h.said.key == id);
        of.map(|(host, h)| (*host, h.said.instance.clone())).collect()
    }

    /// Live hosts that share no fingerprint key with this one.
    pub fn other_keys(&self, keys: KeyIds, now: Instant) -> usize {
        self.live(now).filter(|(_, h)| !h.shares(keys)).count()
    }

    /// Who has this host's orders up to an entry in force, by name, and who is missing with the reason. `named` are waited
    /// for whether they are there or not; without any, all that are live. `tokens` are the keys that each token has a name
    /// under which is refused with them: who has none of a token's does not refuse it.
    pub fn standing(
        &self,
        entry: u64,
        tokens: &[Vec<u32>],
        named: &BTreeSet<String>,
        now: Instant,
    ) -> (Vec<String>, Vec<Missing>) {
        let (mut have, mut missing) = (Vec::new(), Vec::new());
        let mut found = BTreeSet::new();
        for (id, h) in &self.0 {
            let names = [h.said.name.clone(), id.to_string()];
            let is_named = names.iter().any(|n| named.contains(n));
            found.extend(names);
            let live = now.saturating_duration_since(h.at) < LIVE;
            if !named.is_empty() && !is_named {
                continue;
            }
            let why = if !live && !is_named {
                continue;
            } else if !h.knows(tokens) {
                "it has another fingerprint key"
            } else if h.applied >= entry {
                have.push(h.said.name.clone());
                continue;
            } else if live {
                "it has not said so"
            } else {
                "nothing was heard of it lately"
            };
            missing.push(Missing { host: h.said.name.clone(), why: why.to_owned() });
        }
        for name in named.difference(&found) {
            missing.push(Missing { host: name.clone(), why: "there is no host of this name".to_owned() });
        }
        have.sort();
        missing.sort_by(|a, b| a.host.cmp(&b.host));
        (have, missing)
    }

    /// All of them, for `status`.
    pub fn show(&self, here: impl Fn(Origin) -> u64, now: Instant) -> Vec<HostStatus> {
        let show = |(id, h): (&Origin, &Heard)| {
            let heard = now.saturating_duration_since(h.at);
            HostStatus {
                id: *id,
                name: h.said.name.clone(),
                version: h.said.version.clone(),
                live: heard < LIVE,
                heard_seconds: heard.as_secs(),
                key_id: h.said.key.clone(),
                other_key_id: h.said.other_key.clone(),
                needs_other: h.said.needs_other,
                head: h.said.head,
                applied_here: here(*id),
                applied_there: h.applied,
                staleness_seconds: h.said.staleness.map(|ms| ms / 1000),
            }
        };
        let mut all: Vec<_> = self.0.iter().map(show).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

/// A host that does not have something in force yet, as far as is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Missing {
    /// Its name.
    pub host: String,
    /// Why it is missing.
    pub why: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Origin = Origin([1; 16]);
    const B: Origin = Origin([2; 16]);
    const C: Origin = Origin([3; 16]);

    fn said(host: Origin, name: &str, applied: u64) -> Heartbeat {
        let mut said = Heartbeat::new(host, name, 1.into(), "x");
        said.applied.insert(A, applied);
        said
    }

    #[test]
    fn live_hosts_are_waited_for_and_named_ones_always() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        hosts.heard(said(B, "b", 4), A, 99, now);
        hosts.heard(said(C, "c", 9), A, 99, now);
        let none = BTreeSet::new();
        let names = |m: &[Missing]| m.iter().map(|m| m.host.clone()).collect::<Vec<_>>();
        let (have, missing) = hosts.standing(5, &[vec![1]], &none, now);
        assert_eq!((have, names(&missing)), (vec!["c".to_owned()], vec!["b".to_owned()]));
        hosts.applied(Applied::new(B, 100), 99);
        assert_eq!(hosts.standing(5, &[vec![1]], &none, now).1.len(), 1, "nobody has more than there is");
        hosts.applied(Applied::new(B, 5), 99);
        hosts.heard(said(B, "b", 4), A, 99, now);
        assert_eq!(hosts.standing(5, &[vec![1]], &none, now).1, [], "an older word takes nothing back");
        assert_eq!(hosts.standing(5, &[vec![2]], &none, now).1.len(), 2, "another key");
        let (both, either) = (
            KeyIds { own: 2, other: Some(1) },
            Heartbeat::new(B, "b", KeyIds { own: 3, other: Some(2) }, "x"),
        );
        assert_eq!(hosts.standing(5, &[vec![2, 1]], &none, now).1, [], "one key in common is enough");
        assert_eq!(hosts.standing(5, &[vec![1], vec![2]], &none, now).1.len(), 2, "but of each token");
        let later = now + LIVE;
        assert_eq!(hosts.standing(6, &[vec![9]], &none, later).1, [], "whoever is gone holds up nobody");
        assert_eq!(hosts.standing(6, &[vec![1]], &none, later).1, [], "nobody is there");
        let named = BTreeSet::from(["b".to_owned(), "d".to_owned()]);
        assert_eq!(names(&hosts.standing(6, &[vec![1]], &named, later).1), ["b", "d"]);
        hosts.heard(either, A, 99, now);
        assert_eq!((hosts.other_keys(2.into(), now), hosts.other_keys(both, now)), (1, 0));
    }

    #[test]
    fn what_somebody_has_of_a_host_that_is_gone_is_known() {
        let (mut hosts, now) = (Hosts::default(), Instant::now());
        let mut b = said(B, "b", 4);
        b.applied.insert(C, 77);
        b.head = 3;
        hosts.heard(b, A, 99, now);
        assert_eq!(hosts.heads(A, now), BTreeMap::from([(B, 3), (C, 77)]));
        assert_eq!(hosts.who_has(C, now).collect::<Vec<_>>(), [(B, 77)]);
    }

    #[test]
    fn a_heartbeat_is_read_strictly() {
        let good = serde_json::to_string(&said(B, "b", 4)).unwrap();
        assert!(Heartbeat::read(good.as_bytes(), &B.to_string()).is_ok());
        assert_eq!(Heartbeat::read(good.as_bytes(), &C.to_string()), Err(Refused::Subject));
        let bad = good.replace("\"name\":\"b\"", "\"name\":\"\\u001b[2J\"");
        assert_eq!(Heartbeat::read(bad.as_bytes(), &B.to_string()), Err(Refused::Malformed));
    }
}
