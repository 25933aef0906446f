//! A verified payload's claims, checked and turned into an [`Identity`].
//!
//! Registered claims (RFC 7519 §4.1, RFC 9068) have their type or the token is refused: a reader behind us
//! that takes `null` for absent, or a number for a name, must not be handed one.

use std::sync::Arc;

use portcullis_common::reason::Reason;
use serde_json::{Map, Value};

use super::{Confirmation, Identity};

/// The last second of the year 9999: no honest time lies beyond, and arithmetic below it cannot overflow.
const LAST_SECOND: i64 = 253_402_300_799;

/// How claims are judged.
pub(super) struct Expect<'a> {
    /// Accepted audiences; empty accepts any.
    pub audience: &'a [String],
    /// Seconds of clock skew borne.
    pub leeway: i64,
    /// The present, in Unix seconds.
    pub now: i64,
    /// Longest time since `iat`, in seconds.
    pub max_age: Option<i64>,
    /// Claims that must be there.
    pub required: &'a [String],
    /// Whether `exp` must be there.
    pub needs_expiry: bool,
    /// Whether the token must be bound to its sender.
    pub require_bound: bool,
}

/// Whose token it is, as far as its claims do not tell.
pub(super) struct About<'a> {
    /// The configured issuer.
    pub issuer: &'a Arc<str>,
    /// How it was verified.
    pub algorithm: &'static str,
    /// The header's `kid`.
    pub key_id: Option<String>,
}

/// What a good token says, and until when it may be believed, in Unix seconds.
pub(super) type Checked = (Identity, i64);

/// Checks the claims of a token whose signature was verified.
pub(super) fn check(
    claims: &Map<String, Value>,
    about: About<'_>,
    expect: &Expect<'_>,
) -> Result<Checked, Reason> {
    let identity = read(claims, about)?;
    let Identity { expires_at, not_before, issued_at, .. } = identity;
    if expect.needs_expiry && expires_at.is_none() {
        return Err(Reason::ClaimsInvalid);
    }
    // Null is what some take for absent.
    if expect.required.iter().any(|name| claims.get(name).is_none_or(Value::is_null)) {
        return Err(Reason::ClaimsInvalid);
    }
    audience(claims, expect.audience)?;
    if expires_at.is_some_and(|exp| expect.now >= exp.saturating_add(expect.leeway)) {
        return Err(Reason::TokenExpired);
    }
    let soonest = expect.now.saturating_add(expect.leeway);
    if not_before.is_some_and(|t| t > soonest) || issued_at.is_some_and(|t| t > soonest) {
        return Err(Reason::TokenNotYetValid);
    }
    let ends = match expect.max_age {
        None => i64::MAX,
        Some(age) => {
            issued_at.ok_or(Reason::ClaimsInvalid)?.saturating_add(age).saturating_add(expect.leeway)
        }
    };
    if expect.now >= ends {
        return Err(Reason::TokenTooOld);
    }
    if expect.require_bound && identity.confirmation.is_none() {
        return Err(Reason::BindingRequired);
    }
    Ok((identity, ends))
}

/// What claims say, each of its type.
pub(super) fn read(claims: &Map<String, Value>, about: About<'_>) -> Result<Identity, Reason> {
    Ok(Identity {
        issuer: Arc::clone(about.issuer),
        subject: text(claims, "sub")?.map(Arc::from),
        token_id: text(claims, "jti")?.map(Box::from),
        session: text(claims, "sid")?.map(Box::from),
        client: text(claims, "client_id").and_then(|id| Ok(text(claims, "azp")?.or(id)))?.map(Box::from),
        issued_at: time(claims, "iat", f64::floor)?,
        expires_at: time(claims, "exp", f64::floor)?,
        // Rounded up: a token is not valid in the second before its `nbf`.
        not_before: time(claims, "nbf", f64::ceil)?,
        scopes: match scopes(claims, "scope")? {
            Some(scopes) => scopes,
            None => scopes(claims, "scp")?.unwrap_or_default(),
        },
        algorithm: about.algorithm,
        key_id: about.key_id.map(String::into_boxed_str),
        confirmation: Confirmation::read(claims)?,
    })
}

/// When a token begins to be valid, as far as its claims say so, in Unix seconds.
pub(super) fn begins(claims: &Map<String, Value>) -> i64 {
    let at = |name, round| time(claims, name, round).ok().flatten().unwrap_or(0);
    at("nbf", f64::ceil).max(at("iat", f64::floor))
}

/// A claim that is a string where present.
fn text<'a>(claims: &'a Map<String, Value>, name: &str) -> Result<Option<&'a str>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s)),
        Some(_) => Err(Reason::ClaimsInvalid),
    }
}

/// A claim that is a `NumericDate` where present: a number of seconds between 1970 and 9999.
fn time(claims: &Map<String, Value>, name: &str, round: fn(f64) -> f64) -> Result<Option<i64>, Reason> {
    let Some(value) = claims.get(name) else { return Ok(None) };
    let Value::Number(number) = value else { return Err(Reason::ClaimsInvalid) };
    let seconds = match (number.as_i64(), number.as_f64()) {
        (Some(seconds), _) => seconds,
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_precision_loss,
            reason = "the range check keeps it far below 2^53, where both casts are exact"
        )]
        (None, Some(f)) if (0.0..=LAST_SECOND as f64).contains(&f) => round(f) as i64,
        _ => return Err(Reason::ClaimsInvalid),
    };
    if (0..=LAST_SECOND).contains(&seconds) { Ok(Some(seconds)) } else { Err(Reason::ClaimsInvalid) }
}

/// A list of scopes: one string split at spaces, or an array of strings.
fn scopes(claims: &Map<String, Value>, name: &str) -> Result<Option<Box<[Box<str>]>>, Reason> {
    match claims.get(name) {
        None => Ok(None),
        Some(Value::String(s)) => Ok(Some(s.split(' ').filter(|s| !s.is_empty()).map(Box::from).collect())),
        Some(Value::Array(items)) => strings(items).map(Some),
        Some(_) => Err(Reason::ClaimsInvalid),
    }
}

fn strings(items: &[Value]) -> Result<Box<[Box<str>]>, Reason> {
    items.iter().map(|v| v.as_str().map(Box::from).ok_or(Reason::ClaimsInvalid)).collect()
}

/// Whether the token is meant for one of `accepted`. Even where any audience will do, `aud` has its type.
fn audience(claims: &Map<String, Value>, accepted: &[String]) -> Result<(), Reason> {
    let named = match claims.get("aud") {
        None if accepted.is_empty() => return Ok(()),
        None => return Err(Reason::AudienceMismatch),
        Some(Value::String(one)) => [one.as_str().into()].into(),
        Some(Value::Array(items)) => strings(items)?,
        Some(_) => return Err(Reason::ClaimsInvalid),
    };
    if accepted.is_empty() || named.iter().any(|a| accepted.iter().any(|b| **a == **b)) {
        Ok(())
    } else {
        Err(Reason::AudienceMismatch)
    }
}
