//! Verifying JWTs, in an order that gives a forger nothing: shape, issuer, algorithm, key, signature, and
//! only then times and audience. So an expired token is [`Reason::TokenExpired`] only where it is genuine.

use std::{collections::HashMap, time::Duration};

use jsonwebtoken::Algorithm;
use portcullis_common::reason::Reason;
use serde_json::Value;

use super::{Identity, IssuerSettings, Token, VerifierError, claims, jws::Jws, keys, keys::VerifyingKey};

/// Longest token that is parsed at all, whatever extraction allows.
pub const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Verifies tokens of a fixed set of issuers. It is immutable: new keys are a new verifier.
pub struct Verifier {
    issuers: HashMap<String, Issuer>,
    leeway: i64,
}

struct Issuer {
    audience: Vec<String>,
    algorithms: Vec<Algorithm>,
    keys: Vec<VerifyingKey>,
}

impl Verifier {
    /// Reads every issuer's keys. `leeway` is the clock skew borne, usually 30 seconds.
    ///
    /// Any fault in the settings or a key file refuses the whole: half a verifier would refuse good tokens.
    pub fn new(issuers: Vec<IssuerSettings>, leeway: Duration) -> Result<Self, VerifierError> {
        let mut built = HashMap::with_capacity(issuers.len());
        for settings in issuers {
            let name = settings.issuer.clone();
            if built.insert(name.clone(), Issuer::new(settings)?).is_some() {
                return Err(VerifierError::DuplicateIssuer { issuer: name });
            }
        }
        Ok(Self { issuers: built, leeway: i64::try_from(leeway.as_secs()).unwrap_or(i64::MAX) })
    }

    /// Verifies a token at `now`, in Unix seconds.
    pub fn verify(&self, token: &Token, now: i64) -> Result<Identity, Reason> {
        if token.as_bytes().len() > MAX_TOKEN_BYTES {
            return Err(Reason::TokenTooLong);
        }
        let jws = Jws::parse(token.as_str())?;
        let name = jws.claims.get("iss").and_then(Value::as_str).ok_or(Reason::ClaimsInvalid)?;
        let (name, issuer) = self.issuers.get_key_value(name).ok_or(Reason::IssuerUnknown)?;
        if !issuer.algorithms.contains(&jws.algorithm) {
            return Err(Reason::AlgorithmRefused);
        }
        let key = issuer.key(jws.kid.as_deref(), jws.algorithm)?;
        if !key.verify(jws.algorithm, jws.signing_input, &jws.signature) {
            return Err(Reason::SignatureInvalid);
        }
        claims::check(jws, name, &claims::Expect { audience: &issuer.audience, leeway: self.leeway, now })
    }
}

impl Issuer {
    fn new(settings: IssuerSettings) -> Result<Self, VerifierError> {
        let IssuerSettings { issuer, audience, algorithms: names, keys: source } = settings;
        let algorithms = names
            .into_iter()
            .map(|name| name.parse().map_err(|_| VerifierError::Algorithm { issuer: issuer.clone(), name }))
            .collect::<Result<Vec<Algorithm>, _>>()?;
        if algorithms.is_empty() {
            return Err(VerifierError::NoAlgorithms { issuer });
        }
        let path = source.path().clone();
        match keys::load(&source, &algorithms) {
            Err(source) => Err(VerifierError::Read { issuer, path, source }),
            Ok(Err(why)) => Err(VerifierError::Keys { issuer, path, why }),
            Ok(Ok(keys)) => Ok(Self { audience, algorithms, keys }),
        }
    }

    /// The one key that may have signed: the one that the `kid` names, else the only one without a `kid` (or,
    /// for a token without one, the only one at all) that fits. Several keys are never tried in turn.
    fn key(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&VerifyingKey, Reason> {
        if let Some(key) = self.keys.iter().find(|k| kid.is_some() && k.kid.as_deref() == kid) {
            return if key.fits(algorithm) { Ok(key) } else { Err(Reason::AlgorithmRefused) };
        }
        let mut fitting =
            self.keys.iter().filter(|k| (kid.is_none() || k.kid.is_none()) && k.fits(algorithm));
        match (fitting.next(), fitting.next()) {
            (Some(key), None) => Ok(key),
            _ => Err(Reason::KeyUnknown),
        }
    }
}

#[cfg(test)]
mod tests;
