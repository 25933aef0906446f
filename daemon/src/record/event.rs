//! A decision as it is handed in: cheap to take down, made into a line later.

use std::sync::Arc;

use bytes::Bytes;
use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde_json::Value;
use zeroize::Zeroizing;

use crate::{clock::WallTime, telemetry::Door, token::Identity};

/// What a verdict was decided on, shared by all decisions that the cache gives.
#[derive(Debug)]
pub struct Decided {
    /// The evaluation's id: that of its own line, of condemnations and of kernel events.
    pub id: u64,
    /// `valid`, or the code of the reason why the token is not.
    pub token_status: &'static str,
    /// What the token says of itself, and its claims as JSON.
    pub identity: Option<(Arc<Identity>, Box<str>)>,
    /// Its name.
    pub fingerprint: Option<DenyFingerprint>,
    /// The policy's answer as it wrote it; none where it gave none.
    pub value: Option<Value>,
    /// The set's generation.
    pub generation: u64,
    /// How long the evaluation took, in nanoseconds.
    pub evaluated: u64,
    /// What the policy was told of the token's use.
    pub usage: Option<Value>,
    /// Where the request comes from, where the policy asks that.
    pub place: Option<Value>,
}

/// One decision.
pub struct Event {
    /// Its own id, in its line and in what the caller was told.
    pub id: u64,
    /// When.
    pub time: WallTime,
    /// By which door.
    pub door: Door,
    /// What was asked.
    pub asked: Asked,
    /// Whether it was allowed.
    pub allow: bool,
    /// Why.
    pub reason: Reason,
    /// With which HTTP status.
    pub status: u16,
    /// What it was decided on; none where nothing was looked at.
    pub decided: Option<Arc<Decided>>,
    /// Whether the verdict came from the cache.
    pub cached: bool,
    /// Whether the door lets it pass although there is no decision.
    pub failed_open: bool,
    /// It stands for so many.
    pub sampled: u32,
}

/// What was asked.
pub enum Asked {
    /// About a request.
    Request {
        /// What stands in our own schema.
        texts: Texts,
        /// Members in a gateway's own schema, as JSON: the token is among them.
        foreign: Option<Secret>,
    },
    /// OPA's data API.
    Data {
        /// The path below `data`.
        path: String,
        /// Who asked.
        peer: String,
        /// The body, token and all.
        body: Secret,
        /// Makes the input of it, without the token.
        read: fn(&[u8], &[String]) -> Option<Value>,
        /// The answer's body.
        answer: Bytes,
    },
    /// About a document.
    Document {
        /// Who asked.
        peer: String,
        /// Its text, token and all.
        text: Secret,
        /// Makes the input of it.
        read: fn(&[u8]) -> Option<Value>,
    },
}

impl Event {
    /// Memory that it takes, roughly.
    pub fn size(&self) -> usize {
        let asked = match &self.asked {
            Asked::Request { texts, foreign } => texts.0.len() + foreign.as_ref().map_or(0, |f| f.0.len()),
            Asked::Data { body, answer, .. } => body.0.len() + answer.len(),
            Asked::Document { text, .. } => text.0.len(),
        };
        asked + 256
    }
}

/// Bytes that may hold a token: they cannot be printed, and are overwritten on the way out.
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// A copy.
    pub fn copy(bytes: &[u8]) -> Self {
        Self(Zeroizing::new(bytes.to_vec()))
    }

    /// Takes them.
    pub fn from(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// They.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// The texts of a request in one piece of memory: who asked, method, path, query, host, source, then names and values
/// of headers. No credential is among them.
pub struct Texts(Vec<u8>);

impl Texts {
    /// Puts them together.
    pub fn pack<'a>(texts: impl Iterator<Item = &'a str> + Clone) -> Self {
        let size = texts.clone().map(|t| t.len() + 4).sum();
        let mut all = Vec::with_capacity(size);
        for text in texts {
            all.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
            all.extend(text.as_bytes());
        }
        Self(all)
    }

    /// Takes them apart.
    pub fn unpack(&self) -> Vec<&str> {
        let (mut rest, mut texts) = (&self.0[..], Vec::new());
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Some((text, after)) = after.split_at_checked(u32::from_le_bytes(*length) as usize) else {
                break;
            };
            texts.push(str::from_utf8(text).unwrap_or_default());
            rest = after;
        }
        texts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_come_out_as_they_went_in() {
        let all = ["", "GET", "/ä", "", "x=1"];
        assert_eq!(Texts::pack(all.into_iter()).unpack(), all);
        assert!(Texts::pack([].into_iter()).unpack().is_empty());
    }
}
