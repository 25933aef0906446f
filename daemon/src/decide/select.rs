//! Selectors as the decision path meets them: which tokens that were seen lately one matches, and what is done when one
//! matches a token that is presented.

use std::sync::{Arc, PoisonError};

use super::{Decider, known::Known};
use crate::{
    clock::WallTime,
    revoke::{ClaimId, Fingerprints, Matched, SelectorClaim},
};

impl Decider {
    /// Tokens seen lately that a selector's claim matches, each until its `exp` and the leeway.
    pub fn matched(&self, claim: &SelectorClaim) -> Vec<Matched> {
        let live = self.identities.iter().map(|(_, live)| live);
        live.filter(|live| self.parts.plane.is_match(claim, &live.names))
            .map(|live| (live.token, self.ends(live.expires_at)))
            .collect()
    }

    /// Whether a token was seen lately, by any of its names.
    pub fn is_seen(&self, token: Fingerprints) -> bool {
        let mut live = self.identities.iter().map(|(_, live)| live);
        live.any(|live| live.token.named().any(|name| token.named().any(|asked| asked == name)))
    }

    /// When a token is of no use to anybody any more.
    fn ends(&self, exp: Option<i64>) -> WallTime {
        exp.map_or(WallTime(i64::MAX), |exp| WallTime::from_seconds(exp).plus(self.settings.leeway))
    }

    /// Has a token condemned that a selector matches, so that the kernel refuses it from here on. Nobody waits for it: the
    /// decision path refuses it anyway.
    pub(super) fn follow(&self, claim: ClaimId, known: &Known) {
        let (Some(token), Ok(identity)) = (known.token, &known.status) else { return };
        let fingerprint = token.first.fingerprint;
        let matched = (token, self.ends(identity.expires_at));
        if !self.following.lock().unwrap_or_else(PoisonError::into_inner).insert(fingerprint) {
            return;
        }
        let following = Arc::clone(&self.following);
        let plane = self.parts.plane.clone();
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move {
            let followed = plane.follow_presented(claim, matched).await;
            following.lock().unwrap_or_else(PoisonError::into_inner).remove(&fingerprint);
            if let Err(e) = followed {
                tracing::debug!(error = %e, "a token that a selector matches is refused by the decision path alone");
            }
        });
    }
}
