//! Orders to revoke, and the claims they become.

use portcullis_common::fingerprint::DenyFingerprint;
use serde::{Deserialize, Serialize, de};

use super::{
    keys::{Fingerprints, Named},
    selector::{Mark, Selector},
};
use crate::clock::WallTime;

/// A claim's id: ascending, never used twice by one store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(pub u64);

impl std::fmt::Display for ClaimId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// What somebody orders.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Whose token.
    pub token: Fingerprints,
    /// Until when.
    pub until: WallTime,
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Where it is kept, such as an incident's number; empty where none was named.
    pub ticket: String,
    /// By which way it came: `admin` for now; feeds have names of their own.
    pub source: String,
    /// The selector's claim that it follows from.
    pub parent: Option<ClaimId>,
}

/// What somebody orders by selector.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SelectorOrder {
    /// Which tokens.
    pub selector: Selector,
    /// Until when.
    pub until: WallTime,
    /// Why, for people.
    pub reason: String,
    /// Who.
    pub actor: String,
    /// Where it is kept, such as an incident's number; empty where none was named.
    pub ticket: String,
    /// By which way it came.
    pub source: String,
}

/// An order by selector that was accepted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SelectorClaim {
    /// Its id, of the same sequence as those of tokens.
    pub id: ClaimId,
    /// Which tokens.
    pub selector: Selector,
    /// When it was accepted (ms since 1970).
    pub created: WallTime,
    /// Until when it holds (ms since 1970).
    pub until: WallTime,
    /// Why, for people.
    pub reason: String,
    /// Who ordered it.
    pub actor: String,
    /// Where it is kept, such as an incident's number; empty where none was named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
    /// By which way it came.
    pub source: String,
}

impl SelectorClaim {
    /// As it stands in the index.
    pub(super) fn mark(&self) -> Mark {
        Mark { claim: self.id, until: self.until, before: self.selector.issued_before.unwrap_or(i64::MAX) }
    }
}

/// A claim of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum AnyClaim {
    /// On one token.
    Token(Claim),
    /// On all that a selector matches.
    Selector(SelectorClaim),
}

impl AnyClaim {
    /// Its id.
    pub const fn id(&self) -> ClaimId {
        match self {
            Self::Token(c) => c.id,
            Self::Selector(c) => c.id,
        }
    }

    /// Until when it holds.
    pub const fn until(&self) -> WallTime {
        match self {
            Self::Token(c) => c.until,
            Self::Selector(c) => c.until,
        }
    }
}

/// An order that was accepted. Several may stand for one token; each is lifted by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its id.
    pub id: ClaimId,
    /// Whose token.
    #[serde(serialize_with = "hex", deserialize_with = "unhex")]
    pub fingerprint: DenyFingerprint,
    /// Key that made the fingerprint.
    pub key_id: u32,
    /// The same token's fingerprint under another key, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub other: Option<Named>,
    /// When it was accepted (ms since 1970).
    pub created: WallTime,
    /// Until when it holds (ms since 1970).
    pub until: WallTime,
    /// Why, for people.
    pub reason: String,
    /// Who ordered it.
    pub actor: String,
    /// Where it is kept, such as an incident's number; empty where none was named.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ticket: String,
    /// By which way it came.
    pub source: String,
    /// The selector's claim that it follows from, and is lifted with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<ClaimId>,
}

impl Claim {
    /// Its token's names.
    pub const fn fingerprints(&self) -> Fingerprints {
        let first = Named { fingerprint: self.fingerprint, key_id: self.key_id };
        Fingerprints { first, other: self.other }
    }
}

fn hex<S: serde::Serializer>(f: &DenyFingerprint, s: S) -> Result<S::Ok, S::Error> {
    s.collect_str(f)
}

fn unhex<'de, D: serde::Deserializer<'de>>(d: D) -> Result<DenyFingerprint, D::Error> {
    String::deserialize(d)?.parse().map_err(de::Error::custom)
}
