//! Tokens: found in a request, named by fingerprints, and verified.
//!
//! Guarantees: a token's text is held in memory that is wiped, and appears in no log, error or message, for
//! [`Token`] cannot be printed or compared; what [`Verifier`] accepts is a JWT that one configured issuer
//! signed with a key and algorithm configured for it, for this audience, within its times.
//!
//! Leaves to others: whether a verified token is revoked (`revoke`), and what it may do (`policy`).

mod algorithm;
mod api_keys;
mod bind;
mod claims;
mod document;
mod dpop;
mod extract;
mod identity;
mod introspect;
mod issuer;
mod json;
mod jws;
mod key;
mod keys;
mod remote;
mod settings;
mod signers;
mod status_list;
#[cfg(test)]
mod vectors;
mod verify;
mod vouch;

use std::fmt;

use zeroize::Zeroizing;

pub use api_keys::{ApiKey, ApiKeyError, ApiKeySettings, ApiKeys, NewApiKey, holds_api_key};
pub use bind::{Binder, BindingSettings, CertificateFormat, Confirmation, Evidence, Once, Target};
pub use document::{Document, DocumentKey};
pub use extract::Extraction;
pub use identity::{Identity, Verified};
pub use introspect::{Credential, IntrospectionSettings, IntrospectionStatus, Introspector};
pub use issuer::IssuerStatus;
pub(crate) use json::object as strict_object;
pub use key::{FingerprintKey, FingerprintKeys, KeyError};
pub use settings::{IssuerSettings, KeySource, RemoteKeys, TokenRules, VerifierError};
pub use signers::Signers;
pub use status_list::{
    PublishError, Published, Publisher, PublisherSettings, StatusListSettings, StatusListStatus, StatusLists,
};
pub use verify::{Judgement, MAX_TOKEN_BYTES, Verifier};
pub use vouch::Vouched;

/// A credential's text as presented. It is secret: wiped when dropped, never printed, never compared.
pub struct Token(Zeroizing<String>);

impl Token {
    /// Takes a text for a token. Nothing is checked; the text is wiped with the token.
    pub fn new(text: String) -> Self {
        Self(Zeroizing::new(text))
    }

    /// The text's bytes, for fingerprints and verification.
    pub fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// The text, for fingerprints and verification.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A credential's text where it stands in a request: not copied until somebody must keep it.
#[derive(Clone, Copy)]
pub struct Presented<'a>(&'a str);

impl<'a> Presented<'a> {
    /// Takes a text for a token. Nothing is checked.
    pub const fn new(text: &'a str) -> Self {
        Self(text)
    }

    /// The text's bytes, for names made under the fingerprint key.
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0.as_bytes()
    }

    /// A copy that is wiped when dropped.
    pub fn to_token(self) -> Token {
        Token::new(self.0.to_owned())
    }
}

impl fmt::Debug for Presented<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Presented(…)")
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token(…)")
    }
}
