//! A security event token (RFC 8417) whose signature holds: its claims, read strictly.

use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

use crate::plain::is_odd;

/// Why an event is not taken, in the words of RFC 8935 §2.4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Refused {
    /// It never will be.
    Bad {
        /// The code.
        err: &'static str,
        /// What is wrong, for people.
        description: String,
    },
    /// Not now: it is to be delivered again.
    Later(String),
}

impl Refused {
    pub(super) fn bad(err: &'static str, description: impl Into<String>) -> Self {
        Self::Bad { err, description: description.into() }
    }

    /// Of a document that did not open.
    pub(super) fn of(reason: Reason) -> Self {
        match reason {
            Reason::KeyUnknown | Reason::AlgorithmRefused => {
                Self::bad("invalid_key", "the key or algorithm of the signature is not accepted")
            }
            Reason::SignatureInvalid => Self::bad("authentication_failed", "the signature does not verify"),
            Reason::IssuerNotReady | Reason::KeysStale => {
                Self::Later("the transmitter's keys are not at hand".to_owned())
            }
            _ => Self::bad("invalid_request", "it is no JWS in compact form with the type secevent+jwt"),
        }
    }
}

/// An event token's claims.
#[derive(Debug)]
pub(super) struct Set {
    pub jti: String,
    /// When it was made, in Unix seconds.
    pub iat: i64,
    pub subject: Option<Map<String, Value>>,
    pub events: Vec<(String, Map<String, Value>)>,
}

impl Set {
    /// Reads the claims of one from this issuer for one of these audiences.
    pub fn read(claims: &Map<String, Value>, issuer: &str, audience: &[String]) -> Result<Self, Refused> {
        let bad = |what: &str| Refused::bad("invalid_request", what);
        if claims.get("iss").and_then(Value::as_str) != Some(issuer) {
            return Err(Refused::bad("invalid_issuer", "`iss` is not this transmitter"));
        }
        let meant = |aud: &Value| aud.as_str().is_some_and(|a| audience.iter().any(|o| o == a));
        let is_meant = match claims.get("aud") {
            Some(Value::Array(all)) => all.iter().any(meant),
            Some(one) => meant(one),
            None => false,
        };
        if !is_meant {
            return Err(Refused::bad("invalid_audience", "`aud` is not this receiver"));
        }
        let jti = claims.get("jti").and_then(Value::as_str).filter(|j| (1..=512).contains(&j.len()));
        let jti = jti.ok_or_else(|| bad("`jti` is absent, no text or too long"))?.to_owned();
        let iat = claims.get("iat").and_then(seconds).ok_or_else(|| bad("`iat` is absent or no time"))?;
        // One in the future is a clock that is wrong, and no reason to revoke nobody: see `before`.
        let events = claims.get("events").and_then(Value::as_object).filter(|e| !e.is_empty());
        let events = events.ok_or_else(|| bad("`events` is absent or empty"))?;
        if events.len() > 16 {
            return Err(bad("`events` has more than 16 members"));
        }
        let object = |(name, event): (&String, &Value)| Some((name.clone(), event.as_object()?.clone()));
        let read: Option<Vec<_>> = events.iter().map(object).collect();
        let events = read.ok_or_else(|| bad("`events` has a member that is no object"))?;
        let subject = match claims.get("sub_id") {
            None => None,
            Some(Value::Object(id)) => Some(id.clone()),
            Some(_) => return Err(bad("`sub_id` is no object")),
        };
        Ok(Self { jti, iat, subject, events })
    }

    /// Whom an event is about: `sub_id`, or what drafts put into the event.
    pub fn subject_of<'a>(&'a self, event: &'a Map<String, Value>) -> Option<&'a Map<String, Value>> {
        self.subject.as_ref().or_else(|| event.get("subject").and_then(Value::as_object))
    }

    /// Tokens issued before this are those that an event is about: the second after it, but no later than `now`.
    pub fn before(&self, event: &Map<String, Value>, now: i64) -> i64 {
        let at = event.get("event_timestamp").and_then(seconds).filter(|t| *t > 0).unwrap_or(self.iat);
        at.min(now).saturating_add(1)
    }
}

/// A `NumericDate`.
fn seconds(value: &Value) -> Option<i64> {
    #[allow(clippy::cast_possible_truncation, reason = "what lies beyond is bounded by its readers")]
    let whole = |f: f64| f.floor() as i64;
    value.as_i64().or_else(|| value.as_f64().map(whole)).filter(|t| *t >= 0)
}

/// What is said for people in an event, in one line.
pub(super) fn reason(name: &str, event: &Map<String, Value>) -> String {
    let said = match event.get("reason_admin") {
        Some(Value::String(text)) => Some(text),
        Some(Value::Object(by_language)) => {
            by_language.get("en").or_else(|| by_language.values().next()).and_then(|v| match v {
                Value::String(text) => Some(text),
                _ => None,
            })
        }
        _ => None,
    };
    let said: String =
        said.map(|t| t.chars().filter(|c| !is_odd(*c)).take(200).collect()).unwrap_or_default();
    if said.is_empty() { name.to_owned() } else { format!("{name}: {said}") }
}
