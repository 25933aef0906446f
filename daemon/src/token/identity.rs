//! What a verified token says of itself.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Confirmation;

/// What a verified token says of itself. Only a [`Verifier`](super::Verifier) makes one of a token.
///
/// Many are kept at a time: texts that many have in common are shared, and the claims beside these are read of the token
/// again where they are wanted.
#[derive(Clone, Debug, PartialEq)]
pub struct Identity {
    /// `iss`, one of the configured issuers.
    pub issuer: Arc<str>,
    /// `sub`.
    pub subject: Option<Arc<str>>,
    /// `jti`.
    pub token_id: Option<Box<str>>,
    /// The header's `kid`.
    pub key_id: Option<Box<str>>,
    /// `sid`.
    pub session: Option<Box<str>>,
    /// `azp`, else `client_id`.
    pub client: Option<Box<str>>,
    /// `iat`, in Unix seconds.
    pub issued_at: Option<i64>,
    /// `exp`, in Unix seconds; present unless a verifier of another kind made the identity.
    pub expires_at: Option<i64>,
    /// `nbf`, in Unix seconds.
    pub not_before: Option<i64>,
    /// `scope` split at spaces, else `scp`.
    pub scopes: Box<[Box<str>]>,
    /// The header's `alg`; `introspection` and `api_key` for tokens without one.
    pub algorithm: &'static str,
    /// What its sender must prove to have (`cnf`).
    pub confirmation: Option<Arc<Confirmation>>,
}

/// A token that was verified.
#[derive(Clone, Debug, PartialEq)]
pub struct Verified {
    /// What it says of itself.
    pub identity: Identity,
    /// Every claim, as the token has it.
    pub claims: Map<String, Value>,
}

impl Identity {
    /// It as policies read it: `iss`, `sub`, `jti`, `kid`, `sid`, `client`, `iat`, `exp`, `nbf`, `scopes`, `claims`, `alg`;
    /// what is absent is left out. The claims are the token's own.
    pub fn document(&self, claims: Map<String, Value>) -> Value {
        let mut members = Map::new();
        let mut add = |name: &str, value: Value| members.insert(name.to_owned(), value);
        add("iss", Value::from(&*self.issuer));
        let texts = [
            ("sub", self.subject.as_deref()),
            ("jti", self.token_id.as_deref()),
            ("kid", self.key_id.as_deref()),
            ("sid", self.session.as_deref()),
            ("client", self.client.as_deref()),
        ];
        for (name, text) in texts {
            text.map(|text| add(name, text.into()));
        }
        for (name, time) in [("iat", self.issued_at), ("exp", self.expires_at), ("nbf", self.not_before)] {
            time.map(|time| add(name, time.into()));
        }
        add("scopes", self.scopes.iter().map(|scope| Value::from(&**scope)).collect());
        add("claims", Value::Object(claims));
        add("alg", self.algorithm.into());
        Value::Object(members)
    }
}

#[cfg(test)]
impl Verified {
    /// It as policies read it.
    pub(crate) fn document(self) -> Value {
        self.identity.document(self.claims)
    }
}

#[cfg(test)]
impl Identity {
    /// One of which nothing is absent.
    pub(crate) fn whole() -> Self {
        let text = |t: &str| Some(t.into());
        Self {
            issuer: "https://issuer.test".into(),
            subject: Some("s".into()),
            token_id: text("j"),
            key_id: text("k"),
            session: text("d"),
            client: text("c"),
            issued_at: Some(1),
            expires_at: Some(2),
            not_before: Some(1),
            scopes: ["a".into()].into(),
            algorithm: "ES256",
            confirmation: None,
        }
    }
}
