//! A token by itself, without a request: for those who ask what it is, and those who order that it be refused.

use std::{sync::Arc, time::Instant};

use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde_json::{Map, Value};

use super::Decider;
use crate::{
    clock::WallTime,
    revoke::{Claim, Fingerprints, Matched, Once, Order, RevokeError, SelectorClaim, SelectorOrder},
    token::{Identity, Token, Verifier},
};

/// What is known of a token.
#[derive(Clone, Debug)]
pub struct Inspected {
    /// What it says of itself, or why it is not believed.
    pub status: Result<Arc<Identity>, Reason>,
    /// All claims of a valid token; none in what was foreseen.
    pub claims: Map<String, Value>,
    /// Its names.
    pub token: Fingerprints,
    /// Whether it is revoked, by itself or by a selector.
    pub revoked: bool,
}

impl Decider {
    /// Verifies a token. What its sender would have to prove is not asked.
    pub async fn inspect(&self, token: &Token) -> Inspected {
        let known = self.identify(Token::new(token.as_str().to_owned())).await;
        let token = self.fingerprints(token);
        let claims = known.identity().map(|(_, claims)| claims).unwrap_or_default();
        Inspected { revoked: self.refuses(&known), claims, token, status: known.status }
    }

    /// The same, and where its time has not come yet: what it will be when it does.
    pub async fn foresee(&self, token: &Token) -> Inspected {
        let found = self.inspect(token).await;
        if !matches!(found.status, Err(Reason::TokenNotYetValid)) {
            return found;
        }
        let now = self.parts.clock.wall().seconds();
        Inspected { status: self.parts.verifier.foresee(token, now).map(Arc::new), ..found }
    }

    /// Until when a token of an identity is to be refused: its `exp` and the leeway, or `else_until` where it has none.
    pub fn refused_until(&self, identity: &Identity, else_until: WallTime) -> WallTime {
        identity.expires_at.map_or(else_until, |exp| WallTime::from_seconds(exp).plus(self.settings.leeway))
    }

    /// The same of a token that nobody could verify, by what it says of its end.
    pub fn refused_until_stated(&self, token: &Token, else_until: WallTime) -> WallTime {
        Verifier::stated_expiry(token).map_or(else_until, |exp| self.ended_by(exp))
    }

    /// When what has this `exp` ends, its leeway with it.
    fn ended_by(&self, exp: i64) -> WallTime {
        WallTime::from_seconds(exp).plus(self.settings.leeway).min(WallTime::LAST)
    }

    /// When a token ends by itself, its leeway with it: by what was verified, and of one that nobody can verify now by what it
    /// says. Signatures are no part of what a JWT is refused by, so that whatever text of it is accepted says the same.
    pub async fn own_end(&self, token: &Token) -> Option<WallTime> {
        let exp = match &self.foresee(token).await.status {
            Ok(identity) => identity.expires_at,
            Err(_) => Verifier::stated_expiry(token),
        };
        exp.map(|exp| self.ended_by(exp))
    }

    /// Whether a token whose key is unknown will not be known later either.
    pub async fn is_of_no_key(&self, token: &Token) -> bool {
        self.parts.verifier.is_of_no_key(token, self.parts.clock.wall().seconds()).await
    }

    /// Whether this very token is revoked.
    pub fn is_revoked_itself(&self, fingerprint: DenyFingerprint) -> bool {
        self.parts.index.is_revoked(fingerprint, self.parts.clock.wall())
    }

    /// How many of these tokens, which a selector matches and which are of use to somebody yet, the decision path refuses
    /// alone.
    pub fn outside_kernel(&self, matched: &[Matched]) -> usize {
        let now = self.parts.clock.wall();
        let is_outside = |(token, ends): &&Matched| {
            *ends > now && !token.each().any(|f| self.parts.index.is_revoked(f, now))
        };
        matched.iter().filter(is_outside).count()
    }

    /// Revokes one token. On disk, in force and in the kernel when this returns.
    pub async fn revoke(&self, order: Order, once: Option<Once>) -> Result<Claim, RevokeError> {
        let (begun, source) = (Instant::now(), order.source.clone());
        let claim = self.parts.plane.revoke_once(order, once).await?;
        self.parts.metrics.revocation(&source, begun.elapsed());
        tracing::info!(id = claim.id.0, fingerprint = %claim.fingerprint, actor = claim.actor, source, reason = claim.reason, "revoked");
        Ok(claim)
    }

    /// Revokes what a selector matches: on disk and in force when this returns, and in the kernel for those seen lately.
    pub async fn revoke_selected(
        &self,
        order: SelectorOrder,
        once: Option<Once>,
    ) -> Result<SelectorClaim, RevokeError> {
        let (begun, source) = (Instant::now(), order.source.clone());
        let claim = self.parts.plane.select_once(order, once).await?;
        let matched = self.matched(&claim);
        let live = matched.len();
        let condemned = self.parts.plane.follow(claim.id, matched).await?;
        self.parts.metrics.revocation(&source, begun.elapsed());
        tracing::info!(id = claim.id.0, selector = %claim.selector, actor = claim.actor, source, reason = claim.reason, live, condemned, "revoked by selector");
        Ok(claim)
    }

    /// Has tokens condemned that were seen lately and match a selector which another host ordered. The decision path refuses
    /// them anyway.
    pub async fn follow_selected(&self, claim: SelectorClaim) {
        let matched = self.matched(&claim);
        let live = matched.len();
        match self.parts.plane.follow(claim.id, matched).await {
            Ok(condemned) => {
                tracing::info!(id = claim.id.0, selector = %claim.selector, source = claim.source, live, condemned, "revoked by selector, on another host");
            }
            Err(e) => {
                tracing::warn!(error = %e, "tokens that a selector matches are refused by the decision path alone");
            }
        }
    }
}
