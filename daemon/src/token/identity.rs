//! What a verified token says of itself.

use std::sync::Arc;

use serde::Serialize;
use serde_json::Value;

use super::Confirmation;

/// A verified token's claims. Only [`Verifier::verify`](super::Verifier::verify) makes one of a token.
///
/// It serializes as policies read it: `iss`, `sub`, `jti`, `kid`, `sid`, `client`, `iat`, `exp`, `nbf`,
/// `scopes`, `claims`, `alg`; what is absent is left out.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Identity {
    /// `iss`, one of the configured issuers.
    #[serde(rename = "iss")]
    pub issuer: String,
    /// `sub`.
    #[serde(rename = "sub", skip_serializing_if = "Option::is_none")]
    pub subject: Option<String>,
    /// `jti`.
    #[serde(rename = "jti", skip_serializing_if = "Option::is_none")]
    pub token_id: Option<String>,
    /// The header's `kid`.
    #[serde(rename = "kid", skip_serializing_if = "Option::is_none")]
    pub key_id: Option<String>,
    /// `sid`.
    #[serde(rename = "sid", skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// `azp`, else `client_id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// `iat`, in Unix seconds.
    #[serde(rename = "iat", skip_serializing_if = "Option::is_none")]
    pub issued_at: Option<i64>,
    /// `exp`, in Unix seconds; present unless a verifier of another kind made the identity.
    #[serde(rename = "exp", skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// `nbf`, in Unix seconds.
    #[serde(rename = "nbf", skip_serializing_if = "Option::is_none")]
    pub not_before: Option<i64>,
    /// `scope` split at spaces, else `scp`.
    pub scopes: Vec<String>,
    /// Every claim, as the token has it.
    pub claims: Value,
    /// The header's `alg`; `introspection` and `api_key` for tokens without one.
    #[serde(rename = "alg")]
    pub algorithm: String,
    /// What its sender must prove to have (`cnf`).
    #[serde(skip)]
    pub confirmation: Option<Arc<Confirmation>>,
}

#[cfg(test)]
impl Identity {
    /// One of which nothing is absent.
    pub(crate) fn whole() -> Self {
        let text = |t: &str| Some(t.to_owned());
        Self {
            issuer: "https://issuer.test".to_owned(),
            subject: text("s"),
            token_id: text("j"),
            key_id: text("k"),
            session: text("d"),
            client: text("c"),
            issued_at: Some(1),
            expires_at: Some(2),
            not_before: Some(1),
            scopes: vec!["a".to_owned()],
            claims: serde_json::json!({"x": 1}),
            algorithm: "ES256".to_owned(),
            confirmation: None,
        }
    }
}
