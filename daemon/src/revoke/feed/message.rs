//! What hosts of a fleet tell each other: JSON, read strictly and within bounds, for it comes from the network.

use portcullis_common::fingerprint::DenyFingerprint;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};
use serde_json::{Value, json};
use thiserror::Error;

use super::super::{
    AnyClaim, Change, Fingerprints, LogEntry, Named,
    foreign::{Grave, Name, Origin, is_lockdown},
    remote::{RemoteClaim, RemoteLift, RemoteTarget},
    selector::Selector,
};
use crate::clock::WallTime;

/// The form that is spoken here.
pub const VERSION: u32 = 1;
/// Longest message, in bytes, whatever the server lets pass.
pub const LONGEST: usize = 512 * 1024;
/// Room in it for all that is no change.
const HEAD: usize = 1024;
/// Longest text of a change, in bytes.
const TEXT: usize = 4096;

/// Why a message is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// Too long.
    #[error("it is longer than {LONGEST} bytes")]
    TooLong,
    /// No JSON, or not as it should be.
    #[error("it cannot be read")]
    Malformed,
    /// Another form.
    #[error("it is of a version that is not known here")]
    Version,
    /// Told under another host's name.
    #[error("it came under another host's subject")]
    Subject,
}

impl Refused {
    /// Its label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLong => "too_long",
            Self::Malformed => "malformed",
            Self::Version => "version",
            Self::Subject => "subject",
        }
    }
}

impl Serialize for Origin {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Origin {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(de::Error::custom)
    }
}

/// Orders of one entry of a host's log, or a part of them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Message {
    v: u32,
    /// Whose log.
    pub origin: Origin,
    /// The entry's number.
    pub entry: u64,
    /// The entry before it that has orders too; 0 for none.
    pub prev: u64,
    /// Which part of the entry this is, from 0.
    pub part: u32,
    /// How many there are.
    pub parts: u32,
    /// The key that fingerprints were made under, as eight hexadecimal digits.
    pub key: String,
    /// The orders.
    pub changes: Vec<Told>,
}

/// An order, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
pub enum Told {
    /// A claim.
    Revoke(Box<ToldClaim>),
    /// A claim was lifted.
    Lift(ToldLift),
}

/// A claim, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ToldClaim {
    /// Its id at its host.
    pub id: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<String>,
    /// The key that it was made under, where that is not the message's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The same token's fingerprint under another key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other: Option<ToldName>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    selector: Option<Selector>,
    until: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    actor: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    ticket: String,
    /// Whether it is ended by `unlock`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    lockdown: bool,
}

/// A token's second name, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ToldName {
    key: String,
    fingerprint: String,
}

impl ToldName {
    fn read(&self) -> Option<Named> {
        named(&self.fingerprint, key_id(&self.key)?)
    }
}

/// A key's id, as it is told.
pub fn key(id: u32) -> String {
    format!("{id:08x}")
}

/// The id; `None` for what is none.
pub fn key_id(text: &str) -> Option<u32> {
    let digits = text.len() == 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
    u32::from_str_radix(text, 16).ok().filter(|_| digits)
}

fn named(fingerprint: &str, key_id: u32) -> Option<Named> {
    let fingerprint = fingerprint.parse().ok().filter(|f: &DenyFingerprint| f.0 != [0, 0])?;
    Some(Named { fingerprint, key_id })
}

/// A lifting, as it is told.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ToldLift {
    origin: Origin,
    id: u64,
    until: i64,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    reason: String,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    actor: String,
}

impl ToldClaim {
    /// A claim that was ordered here, in a message of this key; `None` for one that follows from a selector or is another
    /// host's.
    pub fn own(claim: &AnyClaim, of: &str) -> Option<Self> {
        let (id, until) = (claim.id().0, claim.until().0);
        let (mut fingerprint, mut made_under, mut other) = (None, None, None);
        let (selector, reason, actor, ticket, source) = match claim {
            AnyClaim::Token(c) if c.parent.is_some() => return None,
            AnyClaim::Token(c) => {
                fingerprint = Some(c.fingerprint.to_string());
                made_under = Some(key(c.key_id)).filter(|k| k != of);
                other =
                    c.other.map(|n| ToldName { key: key(n.key_id), fingerprint: n.fingerprint.to_string() });
                (None, &c.reason, &c.actor, &c.ticket, &c.source)
            }
            AnyClaim::Selector(c) => (Some(c.selector.clone()), &c.reason, &c.actor, &c.ticket, &c.source),
        };
        let (lockdown, reason, actor, ticket) = (is_lockdown(source), cut(reason), cut(actor), cut(ticket));
        let key = made_under;
        let told = Self { id, fingerprint, key, other, selector, until, reason, actor, ticket, lockdown };
        Name::of_source(source).is_none().then_some(told)
    }

    /// Another host's claim, as that host told it.
    pub fn passed_on(claim: &AnyClaim, id: u64, of: &str) -> Option<Self> {
        let mut claim = claim.clone();
        let source = match &mut claim {
            AnyClaim::Token(c) => &mut c.source,
            AnyClaim::Selector(c) => &mut c.source,
        };
        let lockdown = is_lockdown(source);
        source.clear();
        Some(Self { id, lockdown, ..Self::own(&claim, of)? })
    }

    /// What it is here, where its message is of this key; `None` where it is none.
    pub fn claim(self, origin: Origin, of: u32) -> Option<RemoteClaim> {
        let on = match (self.fingerprint, self.selector) {
            (Some(f), None) => {
                let made_under = self.key.as_deref().map_or(Some(of), key_id)?;
                let other = self.other.map(|o| o.read().ok_or(())).transpose().ok()?;
                RemoteTarget::Token(Fingerprints { first: named(&f, made_under)?, other })
            }
            (None, Some(s)) if s.check().is_ok() && self.key.is_none() && self.other.is_none() => {
                RemoteTarget::Selector(Box::new(s))
            }
            _ => return None,
        };
        let name = Name { origin, id: self.id };
        let texts = [&self.reason, &self.actor, &self.ticket];
        let sound = self.id != 0 && texts.into_iter().all(|text| is_text(text));
        sound.then_some(RemoteClaim {
            name,
            on,
            until: WallTime(self.until),
            reason: self.reason,
            actor: self.actor,
            ticket: self.ticket,
            lockdown: self.lockdown,
        })
    }
}

impl ToldLift {
    /// That a claim was lifted, whoever had it done.
    pub const fn of(grave: Grave) -> Self {
        let Grave { name, until } = grave;
        Self { origin: name.origin, id: name.id, until: until.0, reason: String::new(), actor: String::new() }
    }

    /// What it is here; `None` where it is none.
    pub fn lift(self, from: Origin) -> Option<RemoteLift> {
        let name = Name { origin: self.origin, id: self.id };
        let by = json!({"actor": self.actor, "reason": self.reason, "host": from});
        let sound = self.id != 0 && is_text(&self.reason) && is_text(&self.actor);
        sound.then_some(RemoteLift { grave: Grave { name, until: WallTime(self.until) }, by })
    }
}

fn is_text(text: &str) -> bool {
    text.len() <= TEXT && !text.chars().any(char::is_control)
}

/// As much of a text as a message takes.
fn cut(text: &str) -> String {
    let end = (0..=text.len().min(TEXT)).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    text[..end].chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// What an entry of this host's log tells others, in messages of this key: its own orders.
pub fn told(entry: &LogEntry, of: &str) -> Vec<Told> {
    let lifted: Vec<&Value> = entry
        .changes
        .iter()
        .filter_map(|c| if let Change::Lifted { by, .. } = c { Some(by) } else { None })
        .collect();
    let mut all = Vec::new();
    for change in &entry.changes {
        match change {
            Change::Revoked(claim) => all.extend(ToldClaim::own(claim, of).map(Box::new).map(Told::Revoke)),
            Change::Buried(graves) => {
                for (n, grave) in graves.iter().enumerate() {
                    let by = lifted.get(if lifted.len() == graves.len() { n } else { 0 });
                    let text = |name: &str| cut(by.and_then(|b| b[name].as_str()).unwrap_or_default());
                    all.push(Told::Lift(ToldLift {
                        origin: grave.name.origin,
                        id: grave.name.id,
                        until: grave.until.0,
                        reason: text("reason"),
                        actor: text("actor"),
                    }));
                }
            }
            Change::Lifted { .. } | Change::Expired(_) => {}
        }
    }
    all
}

/// Writes the messages of an entry, none longer than `most`.
pub fn write(
    origin: Origin,
    key: &str,
    entry: u64,
    prev: u64,
    changes: &[Told],
    most: usize,
) -> Vec<Vec<u8>> {
    let room = most.min(LONGEST).saturating_sub(HEAD).max(HEAD);
    let mut bodies = vec![String::new()];
    for change in changes {
        let text = serde_json::to_string(change).unwrap_or_default();
        let full = bodies.last().is_some_and(|b| !b.is_empty() && b.len() + text.len() + 1 > room);
        if full {
            bodies.push(String::new());
        }
        if let Some(body) = bodies.last_mut() {
            if !body.is_empty() {
                body.push(',');
            }
            body.push_str(&text);
        }
    }
    let parts = bodies.len();
    let one = |(part, body): (usize, String)| {
        format!(
            r#"{{"v":{VERSION},"origin":"{origin}","entry":{entry},"prev":{prev},"part":{part},"parts":{parts},"key":"{key}","changes":[{body}]}}"#
        )
        .into_bytes()
    };
    bodies.into_iter().enumerate().map(one).collect()
}

/// Reads JSON of this version.
pub fn parse<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, Refused> {
    #[derive(Deserialize)]
    struct Any {
        v: u32,
    }
    if bytes.len() > LONGEST + HEAD {
        return Err(Refused::TooLong);
    }
    let any: Any = serde_json::from_slice(bytes).map_err(|_| Refused::Malformed)?;
    if any.v != VERSION {
        return Err(Refused::Version);
    }
    serde_json::from_slice(bytes).map_err(|_| Refused::Malformed)
}

/// Reads a message that came under a host's subject.
pub fn read(bytes: &[u8], subject: &str) -> Result<Message, Refused> {
    let message: Message = parse(bytes)?;
    if subject != message.origin.to_string() {
        return Err(Refused::Subject);
    }
    message.check().map(|()| message)
}

impl Message {
    /// Whether its numbers can be.
    pub fn check(&self) -> Result<(), Refused> {
        let order = self.part < self.parts && self.prev < self.entry && self.entry < u64::MAX;
        if key_id(&self.key).is_some() && order { Ok(()) } else { Err(Refused::Malformed) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const A: Origin = Origin([0xa; 16]);

    fn claim(id: u64) -> ToldClaim {
        let fingerprint = Some(DenyFingerprint([id, 1]).to_string());
        let (reason, actor, ticket) = ("x".repeat(40), "uid:0".into(), format!("INC-{id}"));
        let (key, other, selector) = (None, None, None);
        ToldClaim { id, fingerprint, key, other, selector, until: 9, reason, actor, ticket, lockdown: false }
    }

    #[test]
    fn a_long_entry_is_told_in_parts_that_are_read_back() {
        let all: Vec<_> = (1..200).map(|id| Told::Revoke(claim(id).into())).collect();
        let parts = write(A, "0000002a", 7, 3, &all, 4096);
        assert!(parts.len() > 3 && parts.iter().all(|p| p.len() <= 4096));
        let read: Vec<_> = parts.iter().map(|p| read(p, &A.to_string()).unwrap()).collect();
        assert!(read.iter().enumerate().all(|(n, m)| m.part as usize == n && m.parts as usize == read.len()));
        assert_eq!(read.into_iter().flat_map(|m| m.changes).collect::<Vec<_>>(), all);
    }

    #[test]
    fn what_is_not_as_it_should_be_is_refused() {
        let good =
            String::from_utf8(write(A, "0000002a", 7, 3, &[Told::Revoke(claim(1).into())], 4096).remove(0))
                .unwrap();
        let name = A.to_string();
        assert!(read(good.as_bytes(), &name).is_ok());
        assert_eq!(read(good.as_bytes(), &Origin([1; 16]).to_string()), Err(Refused::Subject));
        for (from, to, why) in [
            ("\"v\":1", "\"v\":2", Refused::Version),
            ("\"entry\":7", "\"entry\":3", Refused::Malformed),
            ("\"parts\":1", "\"parts\":0", Refused::Malformed),
            ("\"revoke\"", "\"forget\"", Refused::Malformed),
            ("\"key\":\"0000002a\"", "\"key\":\"\"", Refused::Malformed),
            ("\"until\":9", "\"until\":9,\"x\":1", Refused::Malformed),
        ] {
            let bad = good.replace(from, to);
            assert_ne!(bad, good);
            assert_eq!(read(bad.as_bytes(), &name), Err(why), "{bad}");
        }
        assert_eq!(read(&vec![b' '; LONGEST + 2000], &name), Err(Refused::TooLong));
        let mut nobody = claim(1);
        nobody.fingerprint = Some("0".repeat(32));
        assert_eq!(nobody.claim(A, 1), None);
        assert_eq!(ToldClaim { reason: "a\nb".into(), ..claim(1) }.claim(A, 1), None);
        assert_eq!(ToldClaim { selector: Some(Selector::default()), ..claim(1) }.claim(A, 1), None);
    }

    #[test]
    fn names_are_told_with_their_keys_and_an_older_hosts_message_is_read() {
        let (id, until, text) = (super::super::super::ClaimId(5), WallTime(9), String::new);
        let other = Some(Named { fingerprint: DenyFingerprint([3, 4]), key_id: 0x2b });
        let c = super::super::super::Claim {
            id,
            fingerprint: DenyFingerprint([1, 2]),
            key_id: 0x2a,
            other,
            created: WallTime(1),
            until,
            reason: text(),
            actor: text(),
            ticket: "INC-7".into(),
            source: text(),
            parent: None,
        };
        let claim = AnyClaim::Token(c);
        for (of, has_key) in [("0000002a", false), ("0000002b", true)] {
            let told = ToldClaim::own(&claim, of).unwrap();
            assert_eq!(told.key.is_some(), has_key, "said where it is not the message's");
            let message = write(A, of, 7, 3, &[Told::Revoke(told.into())], 4096).remove(0);
            let Some(Told::Revoke(told)) = read(&message, &A.to_string()).unwrap().changes.pop() else {
                panic!()
            };
            let claim = told.claim(A, key_id(of).unwrap()).unwrap();
            assert_eq!(claim.ticket, "INC-7");
            let RemoteTarget::Token(token) = claim.on else { panic!() };
            let first = Named { fingerprint: DenyFingerprint([1, 2]), key_id: 0x2a };
            assert_eq!(token, Fingerprints { first, other });
        }
        let old = r#"{"id":5,"fingerprint":"01000000000000000200000000000000","until":9}"#;
        let told: ToldClaim = serde_json::from_str(old).unwrap();
        let RemoteTarget::Token(token) = told.claim(A, 0x2a).unwrap().on else { panic!() };
        assert_eq!(token, Fingerprints::of(DenyFingerprint([1, 2]), 0x2a));
        for bad in [
            r#""key":"2a""#,
            r#""other":{"key":"0000002b","fingerprint":"00000000000000000000000000000000"}"#,
        ] {
            let told: ToldClaim =
                serde_json::from_str(&old.replace(r#""until""#, &format!("{bad},\"until\""))).unwrap();
            assert_eq!(told.claim(A, 1), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_do_harm(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..400, flip in 0usize..400) {
            let _ = read(&bytes, "a");
            let mut good = write(A, "0000002a", 7, 3, &[Told::Revoke(claim(1).into())], 4096).remove(0);
            let n = good.len();
            good[flip % n] ^= 1;
            let _ = read(&good, &A.to_string());
            prop_assert!(read(&good[..cut % n], &A.to_string()).is_err());
        }
    }
}
