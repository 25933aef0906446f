//! What a document brings to prove whose its token is: an object beside the token, under its name and `_proof`.
//!
//! `{"dpop": …, "certificate": …, "method": "POST", "url": "https://host/path"}`: what the client sent in those headers,
//! and the request it sent them with, as the asking side saw it.

use serde_json::Value;
use zeroize::Zeroizing;

use crate::token::{Evidence, Once, Target};

/// A proof, taken out of an input.
#[derive(Default)]
pub(super) struct Proof {
    dpop: Option<Zeroizing<String>>,
    certificate: Option<String>,
    method: String,
    url: String,
    is_bad: bool,
}

impl Proof {
    /// Takes it out of an input whose token is at `path`.
    pub fn take(input: &mut Value, path: &[String]) -> Self {
        let Some((last, parents)) = path.split_last() else { return Self::default() };
        let mut at = input;
        for name in parents {
            match at.get_mut(name) {
                Some(next) => at = next,
                None => return Self::default(),
            }
        }
        let taken = at.as_object_mut().and_then(|members| members.remove(&format!("{last}_proof")));
        let mut members = match taken {
            None | Some(Value::Null) => return Self::default(),
            Some(Value::Object(members)) => members,
            Some(_) => return Self { is_bad: true, ..Self::default() },
        };
        let mut is_bad = false;
        let mut text = |name: &str| match members.remove(name) {
            None | Some(Value::Null) => None,
            Some(Value::String(text)) => Some(text),
            Some(_) => {
                is_bad = true;
                None
            }
        };
        let (dpop, certificate) = (text("dpop").map(Zeroizing::new), text("certificate"));
        let (method, url) = (text("method").unwrap_or_default(), text("url").unwrap_or_default());
        Self { dpop, certificate, method, url, is_bad }
    }

    /// What is proved by it.
    pub fn evidence(&self) -> Evidence<'_> {
        if self.is_bad {
            return Evidence { dpop: Once::Bad, certificate: Once::Bad, ..Evidence::default() };
        }
        Evidence {
            dpop: self.dpop.as_ref().map_or(Once::None, |text| Once::One(text)),
            certificate: self.certificate.as_ref().map_or(Once::None, |text| Once::One(text)),
            // A document names no scheme.
            by_other_scheme: false,
        }
    }

    /// The request that it goes with.
    pub fn target(&self) -> Target<'_> {
        let text = self.url.split(['?', '#']).next().unwrap_or_default();
        let (_, rest) = text.split_once("://").unwrap_or_default();
        let (host, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        Target { method: &self.method, host, path: if path.is_empty() { "/" } else { path } }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_proof_is_taken_from_beside_the_token() {
        let path: Vec<String> = ["context", "token"].map(String::from).to_vec();
        let mut input = json!({"context": {"token": "t", "token_proof": {
            "dpop": "d", "certificate": "c", "method": "GET", "url": "https://a.test:8443/x?y=z",
        }}});
        let proof = Proof::take(&mut input, &path);
        assert_eq!(input, json!({"context": {"token": "t"}}));
        assert_eq!(
            proof.evidence(),
            Evidence { dpop: Once::One("d"), certificate: Once::One("c"), ..Evidence::default() }
        );
        let target = proof.target();
        assert_eq!((target.method, target.host, target.path), ("GET", "a.test:8443", "/x"));
        assert_eq!(Proof::take(&mut input, &path).evidence(), Evidence::default());
        for bad in [json!(1), json!({"dpop": 1}), json!({"certificate": []})] {
            let mut input = json!({"context": {"token_proof": bad}});
            assert_eq!(Proof::take(&mut input, &path).evidence().dpop, Once::Bad);
        }
    }
}
