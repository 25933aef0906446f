//! Decisions about a document of any shape, as AuthZEN asks for them.

use std::sync::Arc;

use portcullis_common::reason::Reason;
use serde_json::Value;

use super::{Decider, Ruling, cache::Hit, data::take_token, input::add_token, proof::Proof};
use crate::{
    clock::WallTime,
    record::{Asked, Asker, Decided, Secret},
};

/// Separates these cache keys from the others under the fingerprint key.
const DOCUMENT_DOMAIN: u64 = 0x646f_6375_6d65_6e74;

impl Decider {
    /// Decides about the document that `text` is read to. A hit reads nothing: the key covers `text` to the last
    /// byte. The token at `token_path` is verified and taken out. `again` reads `text` later, for the record.
    pub async fn document<E>(
        &self,
        by: Asker<'_>,
        text: &[u8],
        token_path: &[String],
        read: impl FnOnce() -> Result<Value, E>,
        again: fn(&[u8]) -> Option<Value>,
    ) -> Result<Ruling, E> {
        let (mut about, mut cached) = (None, false);
        let ruling = self.ruled(text, token_path, read, &mut about, &mut cached).await?;
        let Some(recorder) = &self.parts.recorder else { return Ok(ruling) };
        let peer = by.peer.to_owned();
        let asked = || Asked::Document { peer, text: Secret::copy(text), read: again };
        let id = self.record_ruling(recorder, by.door, asked, &ruling, about, cached);
        Ok(ruling.logged(id))
    }

    async fn ruled<E>(
        &self,
        text: &[u8],
        token_path: &[String],
        read: impl FnOnce() -> Result<Value, E>,
        about: &mut Option<Arc<Decided>>,
        cached: &mut bool,
    ) -> Result<Ruling, E> {
        if !self.is_ready() {
            let token = take_token(&mut read()?, token_path);
            return Ok(Ruling::Deny(self.without_decision(token, Reason::NotReady)));
        }
        let key = self.parts.key.digest_all(DOCUMENT_DOMAIN, [text]);
        let (hit, flight) = self.look_or_lead(key, || self.hit(key)).await;
        match hit {
            Some(Hit::Revoked(verdict)) => {
                (*about, *cached) = (verdict.about.clone(), true);
                return Ok(Ruling::deny(Reason::TokenRevoked));
            }
            Some(Hit::Verdict(verdict)) => {
                (*about, *cached) = (verdict.about.clone(), true);
                return Ok(self.charged(&verdict));
            }
            None => {}
        }
        let mut input = read()?;
        let proof = Proof::take(&mut input, token_path);
        let token = take_token(&mut input, token_path);
        if self.is_overloaded() {
            return Ok(Ruling::Deny(self.without_decision(token, Reason::Overloaded)));
        }
        let known = self.know(token, &proof.evidence(), &proof.target()).await;
        let complete = |now: WallTime| {
            add_token(&mut input, &known, now);
            input
        };
        let (verdict, _) = self.evaluate(&known, None, complete).await;
        about.clone_from(&verdict.about);
        // The whole text is the key, under whatever policy set.
        let generation = verdict.generation;
        let keys: &[_] = if verdict.whose.confirmation().is_some() { &[] } else { &[key] };
        let kept = self.keep(keys, generation, verdict);
        drop(flight);
        Ok(self.charged(&kept))
    }
}
