//! What is known of a request's token: who it is of, what that rests on, and whether its sender may have it.

use std::sync::Arc;

use portcullis_common::{fingerprint::DenyFingerprint, reason::Reason};
use serde_json::Value;

use super::{Decider, cache::Live};
use crate::{
    clock::WallTime,
    revoke::{Names, Traits},
    token::{Confirmation, Evidence, Identity, Judgement, Target, Token, Vouched},
};

/// A token as the path has read it.
#[derive(Clone, Debug)]
pub(super) struct Known {
    /// `valid`, or the reason why it is not.
    pub status: Result<Arc<Identity>, Reason>,
    pub fingerprint: Option<DenyFingerprint>,
    /// What selectors go by, of a valid token.
    pub names: Option<Arc<Names>>,
    /// What this rests on.
    pub vouched: Option<Vouched>,
}

impl Known {
    /// Of a request without a token that could be read.
    pub const fn without(reason: Reason) -> Self {
        Self { status: Err(reason), fingerprint: None, names: None, vouched: None }
    }

    /// What a valid token's sender must prove.
    pub fn confirmation(&self) -> Option<&Arc<Confirmation>> {
        self.status.as_ref().ok()?.confirmation.as_ref()
    }
}

impl Decider {
    /// Fingerprints and verifies a token.
    pub(super) async fn know(
        &self,
        credential: Result<Option<Token>, Reason>,
        evidence: &Evidence<'_>,
        target: &Target<'_>,
    ) -> Known {
        let token = match credential {
            Ok(Some(token)) => token,
            Ok(None) => return Known::without(Reason::TokenMissing),
            Err(reason) => return Known::without(reason),
        };
        let known = self.identify(&token).await;
        let Some(cnf) = known.confirmation().cloned() else { return known };
        // A revoked token's proof is not used up, nor is it looked at.
        if self.refuses(&known) {
            return known;
        }
        let now = self.parts.clock.wall().seconds();
        match self.parts.binder.prove(&cnf, token.as_bytes(), evidence, target, now) {
            Ok(()) => known,
            // Not kept: the next request with this token may well prove it.
            Err(reason) => Known { status: Err(reason), vouched: Some(Vouched::nothing()), ..known },
        }
    }

    async fn identify(&self, token: &Token) -> Known {
        let fingerprint = Some(self.parts.key.deny(token));
        let name = self.parts.key.allow(token);
        let now = self.parts.clock.wall().seconds();
        if let Some(live) = self.identities.get(&name)
            && live.identity.expires_at.is_none_or(|exp| now < exp)
            && live.vouched.as_ref().is_none_or(|v| v.is_current(now))
        {
            let (status, names) = (Ok(live.identity), Some(live.names));
            return Known { status, fingerprint, names, vouched: live.vouched };
        }
        let clock = || self.parts.clock.wall().seconds();
        let Judgement { status, vouched } = self.parts.verifier.identify(token, clock).await;
        let status = status.map(Arc::new);
        let mut names = None;
        if let (Ok(identity), Some(fingerprint)) = (&status, fingerprint) {
            let made = Arc::new(self.parts.plane.namer().names(&traits(identity)));
            names = Some(Arc::clone(&made));
            let (identity, vouched) = (Arc::clone(identity), vouched.clone());
            self.identities.insert(name, Live { identity, fingerprint, names: made, vouched });
        }
        Known { status, fingerprint, names, vouched }
    }
}

/// `valid`, or the reason's code.
pub(super) fn status_code(known: &Known) -> &'static str {
    known.status.as_ref().map_or_else(|r| r.code(), |_| "valid")
}

/// What selectors go by.
fn traits(i: &Identity) -> Traits<'_> {
    Traits {
        issuer: &i.issuer,
        token_id: i.token_id.as_deref(),
        subject: i.subject.as_deref(),
        session: i.session.as_deref(),
        client: i.client.as_deref(),
        key_id: i.key_id.as_deref(),
        scopes: &i.scopes,
        issued_at: i.issued_at,
    }
}

/// Puts what is known of the token, and the time, into an input, in place of whatever the caller wrote there.
pub(super) fn add_token(input: &mut Value, known: &Known, now: WallTime) {
    let Value::Object(members) = input else { return };
    #[allow(clippy::cast_precision_loss, reason = "milliseconds since 1970 are exact in a double")]
    members.insert("time".to_owned(), Value::from(now.0 as f64 / 1000.0));
    members.insert("token_status".to_owned(), Value::from(status_code(known)));
    for name in ["identity", "token_bound"] {
        members.remove(name);
    }
    let Ok(identity) = &known.status else { return };
    // It was proved, or the token would not be valid.
    let bound = identity.confirmation.as_ref().map_or("none", |cnf| cnf.label());
    members.insert("token_bound".to_owned(), bound.into());
    if let Ok(identity) = serde_json::to_value(&**identity) {
        members.insert("identity".to_owned(), identity);
    }
}
