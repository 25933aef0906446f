//! Reading a decision from a policy's value, strictly: what is misspelt or contradicts itself is an error.

use std::{sync::Arc, time::Duration};

use regorus::Value;

use super::{PolicyError, Reply};

/// Longest time that a decision may be kept.
pub const MAX_TTL: Duration = Duration::from_hours(24);
/// Longest reason, in characters.
const MAX_REASON: usize = 200;
/// Most limits of one decision.
const MAX_LIMITS: usize = 8;
/// Longest key of a limit, in bytes.
const MAX_KEY: usize = 512;
/// The key of the limit that holds for all requests of one token.
const TOKEN_KEY: &str = "token";

/// A policy's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Whether the request may pass.
    pub allow: bool,
    /// Why, for people.
    pub reason: Option<String>,
    /// The HTTP status to answer with: 2xx with an allow; 4xx or 5xx with a denial, or a redirect's, which has a `location`.
    pub status: Option<u16>,
    /// What a denial reaches beyond this request.
    pub block: Block,
    /// How long the decision may be kept, at most [`MAX_TTL`].
    pub ttl: Option<Duration>,
    /// How far an allow reaches, in hold and learn mode.
    pub grant: Grant,
    /// Rate limits that an allow is under; asked of every request, also where the decision is kept.
    pub limits: Vec<Limit>,
    /// Whether an allow counts as a use of its token. That of a public route need not.
    pub counts: bool,
    /// What it says to client and service beside that.
    pub reply: Option<Arc<Reply>>,
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

/// A rate limit: `rate` requests in `per`, `burst` of them at once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Whose it is: requests with one key share it.
    pub key: String,
    /// Whether the token is part of the key.
    pub token: bool,
    /// Requests in `per`.
    pub rate: u32,
    /// The time that `rate` is meant for.
    pub per: Duration,
    /// Requests at once.
    pub burst: u32,
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

impl Limit {
    /// Whether it holds for all requests of a token alike: then the kernel keeps it too.
    fn is_of_token(&self) -> bool {
        self.token && self.key == TOKEN_KEY
    }

    /// The time that one request takes up.
    pub fn interval(&self) -> Duration {
        self.per / self.rate.max(1)
    }
}

impl Decision {
    /// The limit that the kernel keeps too, if there is one.
    pub fn of_token(&self) -> Option<&Limit> {
        self.limits.iter().find(|limit| limit.is_of_token())
    }

    /// A decision that says no more than allow or deny.
    const fn bare(allow: bool) -> Self {
        let (block, grant) = (Block::None, Grant::Request);
        let (reason, status, ttl, reply) = (None, None, None, None);
        Self { allow, reason, status, block, ttl, grant, limits: Vec::new(), counts: true, reply }
    }

    /// Reads a decision: a boolean, or an object of `allow` and perhaps `reason`, `status`, `block`, `ttl`, `grant`,
    /// `limit`, `use` and the members of a [`Reply`]. `allowed` and `http_status`, the Envoy plugin's names, stand for `allow` and
    /// `status`.
    pub(super) fn read(value: &Value) -> Result<Self, PolicyError> {
        let members = match value {
            Value::Undefined => return Err(PolicyError::Undefined),
            Value::Bool(allow) => return Ok(Self::bare(*allow)),
            Value::Object(members) => members,
            _ => return bad("it is neither a boolean nor an object"),
        };
        let named = |ours: &str, theirs: &str| match (
            members.get(&Value::from(ours)),
            members.get(&Value::from(theirs)),
        ) {
            (Some(_), Some(_)) => bad(format!("`{ours}` and `{theirs}` are both given")),
            (a, b) => Ok(a.or(b)),
        };
        let Some(Value::Bool(allow)) = named("allow", "allowed")? else {
            return bad("`allow` is not a boolean");
        };
        named("status", "http_status")?;
        let mut decision = Self::bare(*allow);
        let mut reply = Reply::default();
        for (name, value) in members.iter() {
            match name.as_string().map(AsRef::as_ref) {
                Ok("allow" | "allowed") => {}
                Ok("reason") => decision.reason = Some(reason(value)?),
                // Envoy has no status for an allow: the plugin takes any there, and says none of it.
                Ok("http_status") if *allow && value.as_u16().is_ok_and(|s| (300..=599).contains(&s)) => {}
                Ok("status" | "http_status") => decision.status = Some(status(value, *allow)?),
                Ok("block") => decision.block = block(value, *allow)?,
                Ok("ttl") => decision.ttl = Some(ttl(value)?),
                Ok("grant") => decision.grant = grant(value, *allow)?,
                Ok("limit") => decision.limits = limits(value, *allow)?,
                Ok("use") => decision.counts = counts(value, *allow)?,
                Ok(other) if reply.take(other, value)? => {}
                Ok(other) => return bad(format!("`{other}` is not a member of a decision")),
                Err(_) => return bad("a member's name is not a string"),
            }
        }
        if decision.status.is_some_and(is_redirect)
            && !reply.headers.iter().any(|(name, _)| name == "location")
        {
            return bad("`status` is a redirect's, and `headers` has no `location`");
        }
        decision.reply = (reply != Reply::default()).then(|| Arc::new(reply));
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
        (Ok(status), false) if is_redirect(status) => Ok(status),
        (_, true) => bad("`status` of an allow is not a number from 200 to 299"),
        (_, false) => {
            bad("`status` of a denial is not a number from 400 to 599, nor 301, 302, 303, 307 or 308")
        }
    }
}

/// Whether a status sends the client elsewhere: to log in, say.
const fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
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

fn counts(value: &Value, allow: bool) -> Result<bool, PolicyError> {
    match value {
        Value::Bool(counts) if allow => Ok(*counts),
        Value::Bool(false) => Ok(false),
        Value::Bool(true) => bad("a denial is no use of its token"),
        _ => bad("`use` is not a boolean"),
    }
}

fn ttl(value: &Value) -> Result<Duration, PolicyError> {
    match value.as_f64() {
        Ok(seconds) if seconds >= 0.0 && seconds.is_finite() => {
            Ok(Duration::from_secs_f64(seconds.min(MAX_TTL.as_secs_f64())))
        }
        _ => bad("`ttl` is not a number of seconds"),
    }
}

/// One limit, or a list of them.
fn limits(value: &Value, allow: bool) -> Result<Vec<Limit>, PolicyError> {
    let limits: Vec<Limit> = match value {
        Value::Array(items) => items.iter().map(limit).collect::<Result<_, _>>()?,
        one => vec![limit(one)?],
    };
    match limits.len() {
        0 => Ok(limits),
        _ if !allow => bad("a denial cannot have a `limit`"),
        n if n > MAX_LIMITS => bad(format!("`limit` has more than {MAX_LIMITS} entries")),
        _ => Ok(limits),
    }
}

fn limit(value: &Value) -> Result<Limit, PolicyError> {
    let Value::Object(members) = value else { return bad("a `limit` is not an object") };
    let (mut key, mut token, mut rate, mut per, mut burst) = (None, false, None, None, None);
    for (name, value) in members.iter() {
        let count = || value.as_u32().ok().filter(|n| (1..=1_000_000).contains(n));
        match (name.as_string().map(AsRef::as_ref), value) {
            (Ok("key"), Value::String(s)) if !s.is_empty() && s.len() <= MAX_KEY => key = Some(s.to_string()),
            (Ok("token"), Value::Bool(b)) => token = *b,
            (Ok("rate"), _) => rate = Some(count().ok_or("rate")),
            (Ok("burst"), _) => burst = Some(count().ok_or("burst")),
            (Ok("per"), _) => {
                let seconds = value.as_f64().ok().filter(|s| (0.001..=86_400.0).contains(s));
                per = Some(seconds.map(Duration::from_secs_f64).ok_or("per"));
            }
            (Ok(name @ ("key" | "token")), _) => {
                return bad(format!("`{name}` of a limit is not what it must be"));
            }
            _ => return bad(format!("{name} is not a member of a limit")),
        }
    }
    let given = |what: Option<Result<u32, &'static str>>| what.transpose();
    let (rate, burst, per) = match (given(rate), given(burst), per.transpose()) {
        (Ok(rate), Ok(burst), Ok(per)) => (rate, burst, per),
        (Err(name), ..) | (_, Err(name), _) | (.., Err(name)) => {
            return bad(format!("`{name}` of a limit is out of its range"));
        }
    };
    match (key, rate, per) {
        (Some(key), Some(rate), Some(per)) => {
            Ok(Limit { key, token, rate, per, burst: burst.unwrap_or(rate) })
        }
        _ => bad("a `limit` has not all of `key`, `rate` and `per`"),
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
                limits: Vec::new(),
                counts: true,
                reply: None,
            })
        );
        let plugins = read(json!({"allowed": false, "http_status": 429, "headers": {"x-a": "1"}})).unwrap();
        assert_eq!((plugins.allow, plugins.status), (false, Some(429)));
        assert_eq!(plugins.reply.unwrap().headers, [("x-a".to_owned(), "1".to_owned())]);
        let login = json!({"allowed": false, "http_status": 302, "headers": [{"Location": "/login"}]});
        assert_eq!(read(login).unwrap().status, Some(302));
        let told = read(json!({"allowed": true, "http_status": 301})).unwrap();
        assert_eq!((told.allow, told.status), (true, None));
        let one = json!({"key": "k", "rate": 5, "per": 0.5});
        let limit =
            Limit { key: "k".into(), token: false, rate: 5, per: Duration::from_millis(500), burst: 5 };
        assert_eq!(read(json!({"allow": true, "limit": one})).unwrap().limits, std::slice::from_ref(&limit));
        let two = json!([one, {"key": "k", "rate": 5, "per": 0.5, "burst": 9, "token": true}]);
        let burst = Limit { burst: 9, token: true, ..limit.clone() };
        assert_eq!(read(json!({"allow": true, "limit": two})).unwrap().limits, [limit, burst]);
        assert_eq!(read(json!({"allow": false, "limit": []})).unwrap().limits, []);
        assert_eq!(read(json!({"allow": true, "status": 204, "ttl": 1e12})).unwrap().ttl, Some(MAX_TTL));
        assert_eq!(Decision::read(&Value::Undefined), Err(PolicyError::Undefined));
        let granted = read(json!({"allow": true, "grant": "token"})).unwrap();
        assert_eq!((granted.grant, granted.limits.len()), (Grant::Token, 0));
    }

    #[test]
    fn the_limit_of_a_token_is_the_one_with_its_key() {
        let of = |limits| {
            read(json!({"allow": true, "limit": limits})).unwrap().of_token().map(|l| (l.rate, l.interval()))
        };
        let token = json!({"key": "token", "token": true, "rate": 6, "per": 60});
        assert_eq!(of(json!([one_limit(), token])), Some((6, Duration::from_secs(10))));
        // One that only some of the token's requests share is none of the kernel's.
        let (mut route, mut all) = (token.clone(), token);
        route["key"] = json!("/orders");
        all["token"] = json!(false);
        assert_eq!(of(json!([route, all])), None);
    }

    fn one_limit() -> serde_json::Value {
        json!({"key": "k", "rate": 5, "per": 1})
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
            json!({"allow": true, "allowed": true}),
            json!({"allowed": "true"}),
            json!({"allowed": true, "http_status": 1}),
            json!({"allowed": false, "http_status": 9999}),
            json!({"allowed": false, "http_status": true}),
            json!({"allow": false, "headers": {"x-a": "\r\n"}}),
            json!({"allow": true, "block": "token"}),
            json!({"allow": true, "block": "request"}),
            json!({"allow": false, "grant": "token"}),
            json!({"allow": true, "grant": "all"}),
            json!({"allow": true, "limit": 5}),
            json!({"allow": true, "limit": {"requests": 6, "seconds": 60}}),
            json!({"allow": false, "block": "all"}),
            json!({"allow": false, "block": true}),
            json!({"allow": true, "status": 401}),
            json!({"allow": false, "status": 200}),
            json!({"allow": false, "status": 302}),
            json!({"allow": false, "status": 304, "headers": {"location": "/"}}),
            json!({"allow": true, "status": 302, "headers": {"location": "/"}}),
            json!({"allow": false, "status": 401.5}),
            json!({"allow": false, "status": "401"}),
            json!({"allow": false, "status": 70000}),
            json!({"allow": true, "ttl": -1}),
            json!({"allow": true, "ttl": "5"}),
            json!({"allow": true, "ttl": null}),
            json!({"allow": false, "limit": one_limit()}),
            json!({"allow": true, "limit": "5/s"}),
            json!({"allow": true, "limit": {"key": "k", "rate": 5}}),
            json!({"allow": true, "limit": {"key": "", "rate": 5, "per": 1}}),
            json!({"allow": true, "limit": {"key": "k", "rate": 0, "per": 1}}),
            json!({"allow": true, "limit": {"key": "k", "rate": 5, "per": 0}}),
            json!({"allow": true, "limit": {"key": "k", "rate": 5, "per": 1, "bust": 1}}),
            json!({"allow": true, "limit": {"key": "k", "rate": 5, "per": 1, "token": "yes"}}),
            json!({"allow": true, "limit": vec![one_limit(); 9]}),
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
