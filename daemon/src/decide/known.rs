//! What is known of a request's token: who it is of, what that rests on, and whether its sender may have it.

use std::sync::{Arc, Mutex, PoisonError};

use portcullis_common::{
    fingerprint::{DenyFingerprint, signing_input},
    reason::Reason,
};
use serde_json::{Map, Value};

use super::{
    Decider,
    cache::{Invalid, Live, Told, Whose},
};
use crate::{
    revoke::{Fingerprints, Names, Traits},
    token::{
        Confirmation, Evidence, Identity, Judgement, Target, Token, Verified, Verifier, Vouched,
        strict_object,
    },
};

/// A token as the path has read it.
#[derive(Debug)]
pub(super) struct Known {
    /// `valid`, or the reason why it is not.
    pub status: Result<Arc<Identity>, Reason>,
    /// Its names.
    pub token: Option<Fingerprints>,
    /// What is kept of a valid token.
    pub live: Option<Arc<Live>>,
    /// What it rests on that the token is not valid; of a valid one it stands in `live`.
    pub vouched: Option<Vouched>,
    /// What is known of its use.
    pub usage: Option<Value>,
    /// Where the request comes from, where the policy asks that.
    pub place: Option<Value>,
    /// Its text, if there is one.
    text: Option<Token>,
    /// The claims of a token that was verified just now, for the first who wants them.
    fresh: Mutex<Option<Map<String, Value>>>,
}

impl Known {
    /// Of a request without a token that could be read.
    pub const fn without(reason: Reason) -> Self {
        Self::of(Err(reason))
    }

    const fn of(status: Result<Arc<Identity>, Reason>) -> Self {
        Self {
            status,
            token: None,
            live: None,
            vouched: None,
            usage: None,
            place: None,
            text: None,
            fresh: Mutex::new(None),
        }
    }

    /// What a valid token says of itself, and its claims.
    pub fn identity(&self) -> Option<(&Arc<Identity>, Map<String, Value>)> {
        let identity = self.status.as_ref().ok()?;
        let fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner).take();
        // By the reader of tokens: another gives some names of members a meaning of their own.
        let claims = fresh.or_else(|| strict_object(self.claims()?.as_bytes()));
        // They were read when it was verified.
        claims.map(|claims| (identity, claims))
    }

    /// Its claims, as the text of a JSON object.
    pub fn claims(&self) -> Option<Box<str>> {
        let told = self.live.as_ref().and_then(|live| live.told.as_ref()).map(|told| told.claims.clone());
        told.or_else(|| Verifier::stated_claims(self.text.as_ref()?))
    }

    /// Its name under the key that this host works with.
    pub fn fingerprint(&self) -> Option<DenyFingerprint> {
        self.token.map(|token| token.first.fingerprint)
    }

    /// What selectors go by.
    pub fn names(&self) -> Option<&Names> {
        self.live.as_ref().map(|live| &live.names)
    }

    /// As verdicts keep it.
    pub fn whose(&self) -> Whose {
        match (&self.live, self.token) {
            (Some(live), _) if self.status.is_ok() => Whose::Valid(Arc::clone(live)),
            (live, Some(token)) => {
                Whose::Invalid(Box::new(Invalid { token, live: live.clone(), vouched: self.vouched.clone() }))
            }
            (_, None) => Whose::Nobodys,
        }
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
        let known = self.identify(token).await;
        let (Some(cnf), Some(token)) = (known.confirmation().cloned(), &known.text) else { return known };
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

    /// Fingerprints and verifies a token, whoever sent it.
    pub(super) async fn identify(&self, token: Token) -> Known {
        let token_names = self.fingerprints(&token);
        let name = self.parts.key.allow(&token);
        let now = self.parts.clock.wall().seconds();
        if let Some(live) = self.identities.get(&name)
            && live.expires_at.is_none_or(|exp| now < exp)
            && live.vouched.as_ref().is_none_or(|v| v.is_current(now))
            && let Some((identity, fresh)) = self.told(&live, &token)
        {
            let usage = self.told_usage(live.uses.as_deref());
            let (token_names, live, fresh) = (Some(token_names), Some(live), Mutex::new(fresh));
            return Known {
                token: token_names,
                live,
                usage,
                text: Some(token),
                fresh,
                ..Known::of(Ok(identity))
            };
        }
        let clock = || self.parts.clock.wall().seconds();
        let Judgement { status, mut vouched } = match self.parts.verifier.at_once(&token, now) {
            Ok(judged) => judged,
            // Boxed: it may ask servers, and each connection would hold room for that.
            Err(open) => Box::pin(self.parts.verifier.settle(&token, open, clock)).await,
        };
        let (status, claims) = match status {
            Ok(Verified { identity, claims }) => (Ok(Arc::new(identity)), Some(claims)),
            Err(reason) => (Err(reason), None),
        };
        let live = status.as_ref().ok().zip(claims.as_ref()).map(|(identity, claims)| {
            let names = self.parts.plane.namer().names(&traits(identity, &roles(claims)));
            let uses = self.uses(identity, token_names.first.fingerprint).map(Box::new);
            let is_jwt = signing_input(token.as_bytes()).is_some();
            let told = || Told {
                identity: Arc::clone(identity),
                claims: serde_json::to_string(claims).unwrap_or_default().into(),
            };
            let live = Arc::new(Live {
                expires_at: identity.expires_at,
                confirmation: identity.confirmation.clone(),
                token: token_names,
                names,
                told: (!is_jwt).then(|| Box::new(told())),
                vouched: vouched.take(),
                uses,
            });
            self.identities.insert(name, Arc::clone(&live));
            live
        });
        let usage = self.told_usage(live.as_ref().and_then(|live| live.uses.as_deref()));
        let (token_names, text, fresh) = (Some(token_names), Some(token), Mutex::new(claims));
        Known { token: token_names, live, vouched, usage, text, fresh, ..Known::of(status) }
    }
}

/// What a token says of itself, and its claims where they are at hand.
type Said = (Arc<Identity>, Option<Map<String, Value>>);

impl Decider {
    /// What a token that was verified before says of itself.
    fn told(&self, live: &Live, token: &Token) -> Option<Said> {
        if let Some(told) = &live.told {
            return Some((Arc::clone(&told.identity), None));
        }
        let Verified { identity, claims } = self.parts.verifier.reread(token)?;
        Some((Arc::new(identity), Some(claims)))
    }
}

/// What selectors go by.
fn traits<'a>(i: &'a Identity, roles: &'a [&'a str]) -> Traits<'a> {
    Traits {
        issuer: &i.issuer,
        token_id: i.token_id.as_deref(),
        subject: i.subject.as_deref(),
        session: i.session.as_deref(),
        client: i.client.as_deref(),
        key_id: i.key_id.as_deref(),
        scopes: &i.scopes,
        roles,
        issued_at: i.issued_at,
    }
}

/// The claim `roles`: a list, or one.
fn roles(claims: &Map<String, Value>) -> Vec<&str> {
    match claims.get("roles") {
        Some(Value::String(one)) => vec![one],
        Some(Value::Array(all)) => all.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}
