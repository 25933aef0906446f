//! A decision step by step, for people.

use std::sync::Arc;

use portcullis_common::reason::Reason;
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    Decider, Permit, Refusal, Request, Ruling,
    input::{request_input, status_code},
};
use crate::{policy::Input, token::Token};

/// How a decision came to be, step by step, for people.
#[derive(Clone, Debug, Serialize)]
pub struct Explanation {
    /// The token's deny fingerprint.
    pub fingerprint: Option<String>,
    /// `valid`, or the reason why the token is not.
    pub token_status: String,
    /// What the token says of itself, if it is valid.
    pub identity: Option<Value>,
    /// Whether it is revoked.
    pub revoked: bool,
    /// What the policy was asked about.
    pub input: Value,
    /// What it said, or why it said nothing.
    pub policy: Value,
    /// What the request gets.
    pub allow: bool,
    /// Why.
    pub reason: &'static str,
    /// With which status.
    pub status: u16,
}

impl Decider {
    /// Decides a request anew and tells each step. Nothing is cached and nothing is condemned.
    pub async fn explain(
        &self,
        request: &Request<'_>,
        credential: Result<Option<Token>, Reason>,
    ) -> Explanation {
        let mut known = self.know(credential, &request.evidence, &request.target()).await;
        known.place = self.place(&self.attributes(), request);
        let revoked = self.refuses(&known);
        let input = request_input(request, &known, self.parts.clock.wall());
        let (loaded, asked) = (self.parts.policy.current(), Input::from(input.clone()));
        let answer = self.asked(&loaded, || loaded.set.eval_decision_value(&asked)).await;
        let (policy, ruling) = match answer {
            Ok((d, value)) if d.allow && !revoked => {
                (value, Ruling::Allow(Permit::new(d.status.unwrap_or(200), None, d.reply)))
            }
            Ok((d, value)) => {
                let reason = match (&known.status, revoked) {
                    (_, true) => Reason::TokenRevoked,
                    (Err(reason), _) => *reason,
                    (Ok(_), _) => Reason::PolicyDenied,
                };
                let status = if revoked { reason.status() } else { d.status.unwrap_or(reason.status()) };
                let detail = d.reason.map(Arc::from);
                (value, Ruling::Deny(Refusal { detail, status, reply: d.reply, ..Refusal::of(reason) }))
            }
            Err(e) => (json!({"error": e.to_string()}), Ruling::Deny(Refusal::of(e.reason()))),
        };
        Explanation {
            fingerprint: known.fingerprint().map(|f| f.to_string()),
            token_status: status_code(&known).to_owned(),
            identity: known.identity().map(|(identity, claims)| identity.document(claims)),
            revoked,
            input,
            policy,
            allow: matches!(ruling, Ruling::Allow(_)),
            reason: ruling.reason().code(),
            status: match &ruling {
                Ruling::Allow(p) => p.status(),
                Ruling::Deny(r) => r.status,
            },
        }
    }
}
