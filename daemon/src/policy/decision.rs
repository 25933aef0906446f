//! Reading a decision from a policy's value, strictly: what is misspelt or contradicts itself is an error.

use std::time::Duration;

use regorus::Value;

use super::PolicyError;

/// Longest time that a decision may be kept.
pub const MAX_TTL: Duration = Duration::from_hours(24);
/// Longest reason, in characters.
const MAX_REASON: usize = 200;

/// A policy's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allow: bool,
    /// Why, for people.
    pub reason: Option<String>,
    /// The HTTP status to answer with: 2xx with an allow, 4xx or 5xx with a denial.
    pub status: Option<u16>,
    /// What a denial reaches beyond this request.
    pub block: Block,
    /// How long the decision may be kept, at most [`MAX_TTL`].
    pub ttl: Option<Duration>,
    /// How far an allow reaches, in hold and learn mode.
    pub grant: Grant,
    /// How often requests of the token may come.
    pub limit: Option<RateLimit>,
}

/// How far an allow reaches, where the kernel holds it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Grant {
    /// Requests with the same token, method and target.
    #[default]
    Request,
    /// Every request with the same token.
    Token,
}

/// A rate limit: `requests` in `period`, up to `burst` of them at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateLimit {
    /// Requests.
    pub requests: u32,
    /// In this time.
    pub period: Duration,
    /// How many may come at once.
    pub burst: u32,
}

impl RateLimit {
    /// The time that one request takes up.
    pub fn interval(self) -> Duration {
        self.period / self.requests.max(1)
    }
}

/// What a denial reaches beyond its request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Block {
    /// Nothing.
    #[default]
    None,
    /// Every request with the same token, method and target, in the kernel.
    Request,
    /// Every request with the same token, in the kernel.
    Token,
}

impl Decision {
    /// A decision that says no more than allow or deny.
    const fn bare(allow: bool) -> Self {
        let (block, grant) = (Block::None, Grant::Request);
        Self { allow, reason: None, status: None, block, ttl: None, grant, limit: None }
    }

    /// Reads a decision: a boolean, or an object of `allow` and perhaps `reason`, `status`, `block`, `ttl`, `grant`,
    /// `limit`.
    pub(super) fn read(value: &Value) -> Result<Self, PolicyError> {
        let members = match value {
            Value::Undefined => return Err(PolicyError::Undefined),
            Value::Bool(allow) => return Ok(Self::bare(*allow)),
            Value::Object(members) => members,
            _ => return bad("it is neither a boolean nor an object"),
        };
        let Some(Value::Bool(allow)) = members.get(&Value::from("allow")) else {
            return bad("`allow` is not a boolean");
        };
        let mut decision = Self::bare(*allow);
        for (name, value) in members.iter() {
            match name.as_string().map(AsRef::as_ref) {
                Ok("allow") => {}
                Ok("reason") => decision.reason = Some(reason(value)?),
                Ok("status") => decision.status = Some(status(value, *allow)?),
                Ok("block") => decision.block = block(value, *allow)?,
                Ok("ttl") => decision.ttl = Some(ttl(value)?),
                Ok("grant") => decision.grant = grant(value, *allow)?,
                Ok("limit") => decision.limit = Some(limit(value)?),
                Ok(other) => return bad(format!("`{other}` is not a member of a decision")),
                Err(_) => return bad("a member's name is not a string"),
            }
        }
        Ok(decision)
    }
}

fn bad<T>(message: impl Into<String>) -> Result<T, PolicyError> {
    Err(PolicyError::BadDecision(message.into()))
}

fn reason(value: &Value) -> Result<String, PolicyError> {
    match value {
        Value::String(s) if s.chars().count() <= MAX_REASON && !s.chars().any(char::is_control) => {
            Ok(s.to_string())
        }
        _ => bad(format!("`reason` is not a printable string of at most {MAX_REASON} characters")),
    }
}

fn status(value: &Value, allow: bool) -> Result<u16, PolicyError> {
    match (value.as_u16(), allow) {
        (Ok(status @ 200..=299), true) | (Ok(status @ 400..=599), false) => Ok(status),
        (_, true) => bad("`status` of an allow is not a number from 200 to 299"),
        (_, false) => bad("`status` of a denial is not a number from 400 to 599"),
    }
}

fn block(value: &Value, allow: bool) -> Result<Block, PolicyError> {
    match (value.as_string().map(AsRef::as_ref), allow) {
        (Ok("none"), _) => Ok(Block::None),
        (Ok("token"), false) => Ok(Block::Token),
        (Ok("request"), false) => Ok(Block::Request),
        (Ok("token" | "request"), true) => bad("an allow cannot block"),
        _ => bad("`block` is none of \"token\", \"request\" and \"none\""),
    }
}

fn grant(value: &Value, allow: bool) -> Result<Grant, PolicyError> {
    match (value.as_string().map(AsRef::as_ref), allow) {
        (Ok("request"), true) => Ok(Grant::Request),
        (Ok("token"), true) => Ok(Grant::Token),
        (_, false) => bad("a denial grants nothing"),
        _ => bad("`grant` is neither \"request\" nor \"token\""),
    }
}

fn limit(value: &Value) -> Result<RateLimit, PolicyError> {
    let Value::Object(members) = value else { return bad("`limit` is not an object") };
    let (mut requests, mut seconds, mut burst) = (None, None, None);
    for (name, value) in members.iter() {
        let number = |from: f64, to: f64| match value.as_f64() {
            Ok(n) if n >= from && n <= to => Ok(n),
            _ => bad("a member of `limit` is out of its range"),
        };
        match name.as_string().map(AsRef::as_ref) {
            Ok("requests") => requests = Some(whole(number(1.0, 1e6)?)?),
            Ok("seconds") => seconds = Some(Duration::from_secs_f64(number(0.001, 86_400.0)?)),
            Ok("burst") => burst = Some(whole(number(1.0, 1e6)?)?),
            _ => return bad("`limit` has members other than `requests`, `seconds` and `burst`"),
        }
    }
    let (Some(requests), Some(period)) = (requests, seconds) else {
        return bad("`limit` wants `requests` and `seconds`");
    };
    Ok(RateLimit { requests, period, burst: burst.unwrap_or(requests) })
}

fn whole(n: f64) -> Result<u32, PolicyError> {
    #[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "its range was checked")]
    if n.fract() == 0.0 { Ok(n as u32) } else { bad("`requests` and `burst` of `limit` are whole numbers") }
}

fn ttl(value: &Value) -> Result<Duration, PolicyError> {
    match value.as_f64() {
        Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => {
            Ok(Duration::from_secs_f64(seconds.min(MAX_TTL.as_secs_f64())))
        }
        _ => bad("`ttl` is not a number of seconds"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(json: serde_json::Value) -> Result<Decision, PolicyError> {
        Decision::read(&json.into())
    }

    #[test]
    fn a_boolean_or_a_full_object_is_a_decision() {
        assert_eq!(read(json!(true)), Ok(Decision::bare(true)));
        assert_eq!(read(json!({"allow": false})), Ok(Decision::bare(false)));
        assert_eq!(
            read(json!({"allow": false, "reason": "too old", "status": 401, "block": "token", "ttl": 1.5})),
            Ok(Decision {
                allow: false,
                reason: Some("too old".into()),
                status: Some(401),
                block: Block::Token,
                ttl: Some(Duration::from_millis(1500)),
                grant: Grant::Request,
                limit: None,
            })
        );
        assert_eq!(read(json!({"allow": true, "status": 204, "ttl": 1e12})).unwrap().ttl, Some(MAX_TTL));
        assert_eq!(Decision::read(&Value::Undefined), Err(PolicyError::Undefined));
        let limited = read(json!({"allow": true, "grant": "token", "limit": {"requests": 6, "seconds": 60}}));
        let (grant, limit) = limited.map(|d| (d.grant, d.limit)).unwrap();
        assert_eq!(
            (grant, limit.map(|l| (l.requests, l.period, l.burst, l.interval()))),
            (Grant::Token, Some((6, Duration::from_mins(1), 6, Duration::from_secs(10))))
        );
    }

    #[test]
    fn anything_else_is_an_error() {
        for value in [
            json!(null),
            json!(1),
            json!("true"),
            json!([]),
            json!({}),
            json!({"allow": "true"}),
            json!({"allow": 1}),
            json!({"alow": true}),
            json!({"allow": true, "extra": 1}),
            json!({"allow": true, "block": "token"}),
            json!({"allow": true, "block": "request"}),
            json!({"allow": false, "grant": "token"}),
            json!({"allow": true, "grant": "all"}),
            json!({"allow": true, "limit": 5}),
            json!({"allow": true, "limit": {"requests": 5}}),
            json!({"allow": true, "limit": {"requests": 0, "seconds": 1}}),
            json!({"allow": true, "limit": {"requests": 1.5, "seconds": 1}}),
            json!({"allow": true, "limit": {"requests": 1, "seconds": 1, "per": 1}}),
            json!({"allow": false, "block": "all"}),
            json!({"allow": false, "block": true}),
            json!({"allow": true, "status": 401}),
            json!({"allow": false, "status": 200}),
            json!({"allow": false, "status": 302}),
            json!({"allow": false, "status": 401.5}),
            json!({"allow": false, "status": "401"}),
            json!({"allow": false, "status": 70000}),
            json!({"allow": true, "ttl": -1}),
            json!({"allow": true, "ttl": "5"}),
            json!({"allow": true, "ttl": null}),
            json!({"allow": false, "reason": 1}),
            json!({"allow": false, "reason": "a\nb"}),
            json!({"allow": false, "reason": "x".repeat(201)}),
        ] {
            let got = read(value.clone());
            assert!(matches!(got, Err(PolicyError::BadDecision(_))), "{value}: {got:?}");
        }
        let sets = Value::from(std::collections::BTreeSet::from([Value::Bool(true)]));
        assert!(Decision::read(&sets).is_err());
    }
}
