//! The verdict cache's key of a request.

use portcullis_common::reason::Reason;

use super::{
    Decider, Request,
    attributes::{Attributes, Headers, OWN},
};
use crate::token::Presented;

/// Separates keys of the verdict cache from other digests under the fingerprint key.
const REQUEST_DOMAIN: u64 = 0x7265_7175_6573_7431;

/// Separates keys with the whole target from those of what is read.
const TARGET_DOMAIN: u64 = 0x7265_7174_6172_6774;

impl Decider {
    /// The attributes that the policy reads (and the target, where asked for) and the token, each with its length before it, under the secret key.
    pub(super) fn request_key(
        &self,
        a: &Attributes,
        by_target: bool,
        r: &Request<'_>,
        credential: Result<Option<Presented<'_>>, Reason>,
    ) -> [u64; 2] {
        let (kind, credential): (&[u8], _) = match credential {
            Ok(Some(token)) => (b"token", token.as_bytes()),
            Ok(None) => (b"none", b"".as_slice()),
            Err(reason) => (b"fault", reason.code().as_bytes()),
        };
        let foreign = r.foreign.map(|members| self.foreign_key(members)).unwrap_or_default();
        // Taken apart, so that an attribute that is added later is not forgotten here.
        let Request { method, path, query, host, headers, source, foreign: _, evidence: _ } = r;
        let read = [
            (a.method || by_target, *method),
            (a.path || by_target, path.as_str()),
            (a.query || by_target, *query),
            (a.host, *host),
            (a.source, *source),
        ];
        let attributes = read.into_iter().map(|(read, text)| if read { text } else { "" }.as_bytes());
        let headers = headers.iter().filter(|(name, _)| match &a.headers {
            Headers::All => true,
            Headers::Named(names) => names.iter().any(|n| n == name),
        });
        let headers = headers.flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
        let generation = a.generation.to_le_bytes();
        let geo = self.parts.geo.as_ref().filter(|_| a.geo).map_or(0, |geo| geo.version()).to_le_bytes();
        let fixed = [&generation[..], kind, credential, &foreign, &geo];
        let domain = if by_target { TARGET_DOMAIN } else { REQUEST_DOMAIN };
        self.parts.key.digest_all(domain, attributes.chain(fixed).chain(headers))
    }

    /// What the policy reads of members in a gateway's own schema.
    fn foreign_key(&self, members: &serde_json::Value) -> Vec<u8> {
        // The generation is part of the key: with a set that came meanwhile it is another key.
        let reads = self.parts.policy.current();
        let own = [&OWN[..], &["request"]].concat();
        reads.set.reads().pick(members, &own)
    }
}
