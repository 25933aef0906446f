//! Noting when tokens are used.

use portcullis_common::fingerprint::DenyFingerprint;
use serde_json::Value;

use super::{Decider, cache::Verdict};
use crate::{
    token::Identity,
    usage::{Label, Uses},
};

/// Separates names of tokens and of subjects from other digests under the fingerprint key.
const TOKEN_DOMAIN: u64 = 0x7573_6564_746f_6b65;
const SUBJECT_DOMAIN: u64 = 0x7573_6564_7375_626a;

impl Decider {
    /// How uses of a token are noted: by its `jti`, or its fingerprint where it has none; and by its subject and client.
    pub(super) fn uses(&self, i: &Identity, fingerprint: DenyFingerprint) -> Option<Uses> {
        self.parts.usage.as_ref()?;
        let (key, fingerprint) = (&self.parts.key, fingerprint.to_string());
        let id = i.token_id.as_deref().unwrap_or(&fingerprint);
        let (subject, client) =
            (i.subject.as_deref().unwrap_or_default(), i.client.as_deref().unwrap_or_default());
        let token = key.digest_all(TOKEN_DOMAIN, [i.issuer.as_bytes(), id.as_bytes()]);
        let whose =
            key.digest_all(SUBJECT_DOMAIN, [i.issuer.as_bytes(), subject.as_bytes(), client.as_bytes()]);
        let label = Label {
            fingerprint: Some(fingerprint.clone()),
            issuer: i.issuer.to_string(),
            subject: i.subject.as_deref().map(str::to_owned),
            client: i.client.as_deref().map(str::to_owned),
            token_id: i.token_id.as_deref().map(str::to_owned),
        };
        Some(Uses::new(token, whose, label))
    }

    /// What policies are told of a token's use.
    pub(super) fn told_usage(&self, uses: Option<&Uses>) -> Option<Value> {
        Some(self.parts.usage.as_ref()?.told(uses?, self.parts.clock.wall()))
    }

    /// Notes that an allowed request used a verdict's token.
    pub(super) fn used(&self, verdict: &Verdict) {
        if let (Some(book), Some(uses)) = (&self.parts.usage, verdict.uses()) {
            book.used(uses, self.parts.clock.wall());
        }
    }
}
