//! Revocation by what a verified token says of itself: one selector matches any number of tokens, seen or not.
//!
//! The decision path asks for every token, so that one which was never seen is refused at first sight. A selector is
//! held by its name, a keyed digest, as a token is by its fingerprint; a token has one name for each selector that
//! could match it, and whether one does is a handful of lookups however many there are.

use std::{
    collections::HashMap,
    sync::{
        PoisonError, RwLock,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};

use portcullis_common::fingerprint::Key;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::{ClaimId, index::Uniform};
use crate::{
    clock::WallTime,
    plain::{escaped, is_plain},
};

/// Separates names of selectors from other digests under the fingerprint key.
const DOMAIN: u64 = 0x7365_6c65_6374_6f72;
const SHARDS: usize = 1024;

/// Which tokens are meant. At most one of `jti`, `sub`, `sid`, `client`, `kid`, `scope`, `role` and `region`; the first
/// five are the issuer's own and go with it, but for `client`, which may mean that of any.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Selector {
    /// `iss`; alone, every token of the issuer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
    /// `jti`: one token, in all its texts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// `sub`: a user's tokens.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sub: Option<String>,
    /// `sid`: a session's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
    /// `azp` or `client_id`: a client's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `kid`: those that a leaked key signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kid: Option<String>,
    /// A scope among the token's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<String>,
    /// A role among the token's (claim `roles`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<String>,
    /// Every token, on hosts of this region (`host.region`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Of those, only tokens whose `iat` is before this time (Unix seconds), or that have none. Alone, every such
    /// token.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub issued_before: Option<i64>,
    /// Every token; it must be said, for nobody should do that by leaving something out.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub everything: bool,
}

/// A selector that says too little or too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadSelector {
    /// Nothing is selected.
    #[error("the selector names nothing: give `iss`, `scope`, `issued_before` or `everything`")]
    Empty,
    /// Two properties.
    #[error(
        "a selector takes one of `jti`, `sub`, `sid`, `client`, `kid`, `scope`, `role` and `region`, not several"
    )]
    Several,
    /// A property without its issuer.
    #[error("`jti`, `sub`, `sid` and `kid` mean something with `iss` alone: name the issuer beside it")]
    NoIssuer,
    /// A region beside an issuer.
    #[error("`region` means every token there: it goes with `issued_before` alone")]
    Region,
    /// An empty or overlong text.
    #[error("the texts of a selector have 1 to 1024 bytes")]
    Text,
    /// A text that is none for one line.
    #[error(
        "the texts of a selector are printable: a control character, a line separator or a bidirectional override is none of them"
    )]
    Odd,
    /// `everything` beside something.
    #[error("`everything` goes with `issued_before` alone")]
    Everything,
}

/// What a property is, in names.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Kind {
    Everything = 0,
    Issuer = 1,
    TokenId = 2,
    Subject = 3,
    Session = 4,
    Client = 5,
    KeyId = 6,
    Scope = 7,
    Role = 8,
    Region = 9,
}

/// What a token says of itself, as far as selectors go by it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Traits<'a> {
    /// `iss`.
    pub issuer: &'a str,
    /// `jti`.
    pub token_id: Option<&'a str>,
    /// `sub`.
    pub subject: Option<&'a str>,
    /// `sid`.
    pub session: Option<&'a str>,
    /// The client.
    pub client: Option<&'a str>,
    /// `kid`.
    pub key_id: Option<&'a str>,
    /// The scopes.
    pub scopes: &'a [Box<str>],
    /// The roles.
    pub roles: &'a [&'a str],
    /// `iat`.
    pub issued_at: Option<i64>,
}

/// Half a digest under the fingerprint key: many are kept, and that two tokens share one would refuse a token too many.
type Name = u64;

/// A token's names. It remembers at which state of the index it was last asked about, and answers at once while that
/// has not changed.
#[derive(Debug)]
pub struct Names {
    all: Box<[Name]>,
    issued_at: Option<i64>,
    checked: AtomicU64,
}

impl Names {
    pub(super) fn has(&self, name: Name) -> bool {
        self.all.contains(&name)
    }
}

/// Makes names.
#[derive(Clone)]
pub struct Namer {
    key: Key,
    region: Option<std::sync::Arc<str>>,
}

impl Namer {
    /// One that uses the fingerprint key.
    pub fn new(key: Key) -> Self {
        Self { key, region: None }
    }

    /// One of a host in a region.
    #[must_use]
    pub fn in_region(self, region: Option<&str>) -> Self {
        Self { region: region.map(Into::into), ..self }
    }

    fn name(&self, kind: Kind, issuer: &str, value: &str) -> Name {
        // Lengths first, so that no two lists of texts are one.
        let mut text = Vec::with_capacity(17 + issuer.len() + value.len());
        text.push(kind as u8);
        text.extend((issuer.len() as u64).to_le_bytes());
        text.extend((value.len() as u64).to_le_bytes());
        text.extend(issuer.as_bytes());
        text.extend(value.as_bytes());
        self.key.digest(DOMAIN, &text)[0]
    }

    /// The names of a token: one for each selector that could match it.
    pub fn names(&self, t: &Traits<'_>) -> Names {
        let mut names = vec![self.name(Kind::Everything, "", ""), self.name(Kind::Issuer, t.issuer, "")];
        for (kind, value) in [
            (Kind::TokenId, t.token_id),
            (Kind::Subject, t.subject),
            (Kind::Session, t.session),
            (Kind::Client, t.client),
            (Kind::KeyId, t.key_id),
        ] {
            names.extend(value.map(|value| self.name(kind, t.issuer, value)));
        }
        names.extend(t.client.map(|client| self.name(Kind::Client, "", client)));
        names.extend(self.region.as_deref().map(|region| self.name(Kind::Region, "", region)));
        for role in t.roles {
            names.push(self.name(Kind::Role, "", role));
            names.push(self.name(Kind::Role, t.issuer, role));
        }
        for scope in t.scopes {
            names.push(self.name(Kind::Scope, "", scope));
            names.push(self.name(Kind::Scope, t.issuer, scope));
        }
        Names { all: names.into(), issued_at: t.issued_at, checked: AtomicU64::new(0) }
    }

    /// The name of a selector that was checked.
    pub(super) fn of(&self, s: &Selector) -> Name {
        let issuer = s.iss.as_deref().unwrap_or_default();
        match s.property() {
            Some((kind, value)) => self.name(kind, issuer, value),
            None if s.iss.is_some() => self.name(Kind::Issuer, issuer, ""),
            None => self.name(Kind::Everything, "", ""),
        }
    }
}

impl Selector {
    fn property(&self) -> Option<(Kind, &str)> {
        self.properties().next()
    }

    fn properties(&self) -> impl Iterator<Item = (Kind, &str)> {
        [
            (Kind::TokenId, &self.jti),
            (Kind::Subject, &self.sub),
            (Kind::Session, &self.sid),
            (Kind::Client, &self.client),
            (Kind::KeyId, &self.kid),
            (Kind::Scope, &self.scope),
            (Kind::Role, &self.role),
            (Kind::Region, &self.region),
        ]
        .into_iter()
        .filter_map(|(kind, value)| Some((kind, value.as_deref()?)))
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.properties().map(|(_, text)| text).chain(self.iss.as_deref())
    }

    /// Whether it may be ordered: it says what it means, in texts that can be shown. Logs and other hosts may have ones of
    /// earlier versions with other texts, which hold: those are asked [`Self::check`] alone.
    pub fn check_given(&self) -> Result<(), BadSelector> {
        self.check()?;
        if self.texts().all(is_plain) { Ok(()) } else { Err(BadSelector::Odd) }
    }

    /// Whether it says what it means.
    pub fn check(&self) -> Result<(), BadSelector> {
        let count = self.properties().count();
        if self.texts().any(|t| t.is_empty() || t.len() > 1024) {
            return Err(BadSelector::Text);
        }
        if count > 1 {
            return Err(BadSelector::Several);
        }
        let of_issuer = [&self.jti, &self.sub, &self.sid, &self.kid].into_iter().any(Option::is_some);
        if of_issuer && self.iss.is_none() {
            return Err(BadSelector::NoIssuer);
        }
        if self.region.is_some() && self.iss.is_some() {
            return Err(BadSelector::Region);
        }
        if self.everything && (count == 1 || self.iss.is_some()) {
            return Err(BadSelector::Everything);
        }
        if count == 0 && self.iss.is_none() && self.issued_before.is_none() && !self.everything {
            return Err(BadSelector::Empty);
        }
        Ok(())
    }
}

impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut parts = Vec::new();
        for (name, value) in [
            ("iss", &self.iss),
            ("jti", &self.jti),
            ("sub", &self.sub),
            ("sid", &self.sid),
            ("client", &self.client),
            ("kid", &self.kid),
            ("scope", &self.scope),
            ("role", &self.role),
            ("region", &self.region),
        ] {
            parts.extend(value.as_ref().map(|value| format!("{name}={}", escaped(value))));
        }
        if self.everything {
            parts.push("everything".to_owned());
        }
        parts.extend(self.issued_before.map(|t| format!("issued_before={t}")));
        f.write_str(&parts.join(" "))
    }
}

/// One accepted selector, as it stands under its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    pub claim: ClaimId,
    pub until: WallTime,
    /// `iat` must be before it; the far future where that does not matter.
    pub before: i64,
}

impl Mark {
    pub fn matches(&self, names: &Names, now: WallTime) -> bool {
        self.until > now && self.selects(names)
    }

    fn selects(&self, names: &Names) -> bool {
        // A token that does not say when it was issued may have been issued before any time.
        names.issued_at.is_none_or(|iat| iat < self.before)
    }
}

/// What stands under one name; nearly always one.
#[derive(Debug)]
enum Marks {
    One(Mark),
    Several(Vec<Mark>),
}

impl Marks {
    fn as_slice(&self) -> &[Mark] {
        match self {
            Self::One(mark) => std::slice::from_ref(mark),
            Self::Several(marks) => marks,
        }
    }
}

type Shard = HashMap<Name, Marks, std::hash::BuildHasherDefault<Uniform>>;

/// All selectors in force.
#[derive(Debug)]
pub struct Selectors {
    shards: Box<[RwLock<Shard>]>,
    count: AtomicUsize,
    /// Raised with every change; from 1, so that fresh names were never asked about.
    epoch: AtomicU64,
}

impl Default for Selectors {
    fn default() -> Self {
        Self {
            shards: (0..SHARDS).map(|_| RwLock::default()).collect(),
            count: AtomicUsize::new(0),
            epoch: AtomicU64::new(1),
        }
    }
}

impl Selectors {
    fn shard(&self, name: Name) -> &RwLock<Shard> {
        #[allow(clippy::cast_possible_truncation, reason = "reduced to the number of shards")]
        &self.shards[(name >> 20) as usize % SHARDS]
    }

    /// Selectors in force, expired ones that are not swept among them.
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Acquire)
    }

    /// The selector by which a token is revoked, if it is.
    pub fn find(&self, names: &Names, now: WallTime) -> Option<ClaimId> {
        if self.count() == 0 {
            return None;
        }
        // Read before the look: what comes in between is seen the next time.
        let epoch = self.epoch.load(Ordering::Acquire);
        if names.checked.load(Ordering::Acquire) == epoch {
            return None;
        }
        let mut lapsed = false;
        for name in &names.all {
            let shard = self.shard(*name).read().unwrap_or_else(PoisonError::into_inner);
            for mark in shard.get(name).map_or(&[][..], Marks::as_slice) {
                if mark.matches(names, now) {
                    return Some(mark.claim);
                }
                // The wall clock may be wrong now and right later.
                lapsed |= mark.selects(names);
            }
        }
        if lapsed {
            return None;
        }
        names.checked.store(epoch, Ordering::Release);
        None
    }

    /// How many stand under a name.
    pub(super) fn under(&self, name: Name) -> usize {
        let shard = self.shard(name).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&name).map_or(0, |marks| marks.as_slice().len())
    }

    /// The same by their ids.
    pub(super) fn ids_under(&self, name: Name) -> Vec<ClaimId> {
        let shard = self.shard(name).read().unwrap_or_else(PoisonError::into_inner);
        shard.get(&name).map_or(&[][..], Marks::as_slice).iter().map(|m| m.claim).collect()
    }

    pub(super) fn add(&self, name: Name, mark: Mark) {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        match shard.entry(name) {
            std::collections::hash_map::Entry::Vacant(slot) => {
                slot.insert(Marks::One(mark));
            }
            std::collections::hash_map::Entry::Occupied(mut slot) => match slot.get_mut() {
                Marks::Several(all) => all.push(mark),
                one @ Marks::One(_) => {
                    let mut all = one.as_slice().to_vec();
                    all.push(mark);
                    *one = Marks::Several(all);
                }
            },
        }
        drop(shard);
        self.count.fetch_add(1, Ordering::AcqRel);
        self.epoch.fetch_add(1, Ordering::AcqRel);
    }

    pub(super) fn remove(&self, name: Name, claim: ClaimId) -> bool {
        let mut shard = self.shard(name).write().unwrap_or_else(PoisonError::into_inner);
        let Some(marks) = shard.get_mut(&name) else { return false };
        let before = marks.as_slice().len();
        let mut left: Vec<Mark> = marks.as_slice().iter().copied().filter(|m| m.claim != claim).collect();
        let gone = left.len() < before;
        match (left.len(), left.pop()) {
            (_, None) => drop(shard.remove(&name)),
            (1, Some(mark)) => *marks = Marks::One(mark),
            (_, Some(mark)) => {
                left.push(mark);
                *marks = Marks::Several(left);
            }
        }
        drop(shard);
        if gone {
            self.count.fetch_sub(1, Ordering::AcqRel);
            self.epoch.fetch_add(1, Ordering::AcqRel);
        }
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: WallTime = WallTime(1_000);

    fn namer() -> Namer {
        Namer::new(Key { k0: 1, k1: 2 }).in_region(Some("eu"))
    }

    fn token(scopes: &[Box<str>], issued_at: Option<i64>) -> Traits<'_> {
        Traits {
            issuer: "https://a",
            token_id: Some("j1"),
            subject: Some("alice"),
            session: Some("s1"),
            client: Some("app"),
            key_id: Some("k1"),
            scopes,
            roles: &["ops", "dev"],
            issued_at,
        }
    }

    fn selector(json: &str) -> Selector {
        serde_json::from_str(json).unwrap()
    }

    fn matches(json: &str, t: &Traits<'_>) -> bool {
        let (index, s) = (Selectors::default(), selector(json));
        s.check().unwrap();
        let before = s.issued_before.unwrap_or(i64::MAX);
        index.add(namer().of(&s), Mark { claim: ClaimId(7), until: WallTime(2_000), before });
        index.find(&namer().names(t), NOW) == Some(ClaimId(7))
    }

    #[test]
    fn each_property_selects_its_tokens_and_no_others() {
        let scopes = ["orders:read".into(), "admin".into()];
        let t = token(&scopes, Some(100));
        for yes in [
            r#"{"iss":"https://a"}"#,
            r#"{"iss":"https://a","jti":"j1"}"#,
            r#"{"iss":"https://a","sub":"alice"}"#,
            r#"{"iss":"https://a","sid":"s1"}"#,
            r#"{"iss":"https://a","client":"app"}"#,
            r#"{"iss":"https://a","kid":"k1"}"#,
            r#"{"scope":"admin"}"#,
            r#"{"iss":"https://a","scope":"orders:read"}"#,
            r#"{"client":"app"}"#,
            r#"{"role":"dev"}"#,
            r#"{"iss":"https://a","role":"ops"}"#,
            r#"{"region":"eu"}"#,
            r#"{"issued_before":101}"#,
            r#"{"iss":"https://a","sub":"alice","issued_before":101}"#,
            r#"{"everything":true}"#,
        ] {
            assert!(matches(yes, &t), "{yes}");
        }
        for no in [
            r#"{"iss":"https://b"}"#,
            r#"{"iss":"https://b","sub":"alice"}"#,
            r#"{"iss":"https://a","sub":"bob"}"#,
            // The same text as another property.
            r#"{"iss":"https://a","sub":"j1"}"#,
            r#"{"iss":"https://a","sid":"app"}"#,
            r#"{"scope":"orders"}"#,
            r#"{"client":"ops"}"#,
            r#"{"role":"admin"}"#,
            r#"{"iss":"https://b","role":"ops"}"#,
            r#"{"region":"us"}"#,
            r#"{"iss":"https://b","scope":"admin"}"#,
            r#"{"issued_before":100}"#,
            r#"{"iss":"https://a","sub":"alice","issued_before":100}"#,
        ] {
            assert!(!matches(no, &t), "{no}");
        }
        let undated = token(&scopes, None);
        assert!(matches(r#"{"issued_before":1}"#, &undated), "without `iat` it may be older than anything");
    }

    #[test]
    fn what_says_too_little_or_too_much_is_refused() {
        for (json, e) in [
            ("{}", BadSelector::Empty),
            (r#"{"sub":"a"}"#, BadSelector::NoIssuer),
            (r#"{"iss":"i","sub":"a","jti":"b"}"#, BadSelector::Several),
            (r#"{"iss":""}"#, BadSelector::Text),
            (r#"{"iss":"i","region":"eu"}"#, BadSelector::Region),
            (r#"{"role":"a","scope":"b"}"#, BadSelector::Several),
            (r#"{"everything":true,"iss":"i"}"#, BadSelector::Everything),
        ] {
            assert_eq!(selector(json).check(), Err(e), "{json}");
        }
        assert!(serde_json::from_str::<Selector>(r#"{"subject":"a"}"#).is_err(), "a misspelt member");
    }

    #[test]
    fn texts_that_a_terminal_would_obey_are_not_ordered_and_shown_as_codes() {
        for odd in [r"a\u001b[2J", r"\u007f", r"\u0000", r"a\u0085", r"a\u2028b", r"\u202eb"] {
            for json in [
                format!(r#"{{"iss":"i","sub":"{odd}"}}"#),
                format!(r#"{{"iss":"{odd}"}}"#),
                format!(r#"{{"role":"{odd}"}}"#),
            ] {
                let s = selector(&json);
                assert_eq!((s.check_given(), s.check()), (Err(BadSelector::Odd), Ok(())), "{json}");
                assert!(is_plain(&s.to_string()) && s.to_string().contains("\\u{"), "{s}");
            }
        }
        assert_eq!(selector(r#"{"iss":"i","sub":"Zoë 東京"}"#).check_given(), Ok(()));
        assert_eq!(selector("{}").check_given(), Err(BadSelector::Empty));
    }

    #[test]
    fn names_are_asked_anew_after_every_change_and_never_remember_a_match() {
        let (index, namer) = (Selectors::default(), namer());
        let names = namer.names(&token(&[], Some(1)));
        let (a, b) = (selector(r#"{"iss":"https://a"}"#), selector(r#"{"iss":"https://a","sub":"alice"}"#));
        let mark = |id, until| Mark { claim: ClaimId(id), until: WallTime(until), before: i64::MAX };
        assert_eq!(index.find(&names, NOW), None);
        index.add(namer.of(&a), mark(1, 2_000));
        assert_eq!(index.find(&names, NOW), Some(ClaimId(1)));
        assert_eq!(index.find(&names, WallTime(2_000)), None, "it lapses");
        assert_eq!(index.find(&names, NOW), Some(ClaimId(1)), "and holds again when the clock is right");
        index.add(namer.of(&b), mark(2, 9_000));
        index.add(namer.of(&b), mark(3, 9_000));
        assert_eq!(index.find(&names, WallTime(2_000)), Some(ClaimId(2)));
        assert!(index.remove(namer.of(&b), ClaimId(2)) && !index.remove(namer.of(&b), ClaimId(2)));
        assert_eq!(index.find(&names, WallTime(2_000)), Some(ClaimId(3)), "each is lifted by itself");
        assert!(index.remove(namer.of(&b), ClaimId(3)));
        assert_eq!(index.find(&names, WallTime(2_000)), None);
        assert_eq!(index.count(), 1);
    }

    #[test]
    fn texts_do_not_run_into_one_another() {
        let n = namer();
        assert_ne!(n.name(Kind::Subject, "ab", "c"), n.name(Kind::Subject, "a", "bc"));
    }
}
