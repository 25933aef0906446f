//! Decisions asked for by OPA's data API: any path of `data`, with any input.

use std::sync::atomic::Ordering;

use bytes::Bytes;
use portcullis_common::reason::Reason;
use serde_json::{Value, json};

use super::{
    Allowance, Decider, Refusal, Ruling,
    attributes::OWN,
    cache::Verdict,
    decider::{Hit, Known, add_token},
};
use crate::{
    clock::WallTime,
    policy::{Input, Loaded},
    token::Token,
};

/// Separates these cache keys from the others under the fingerprint key.
const DATA_DOMAIN: u64 = 0x6461_7461_6170_6931;

/// Separates the keys of what is read from those of whole bodies.
const READ_DOMAIN: u64 = 0x6461_7461_7265_6164;

/// An answer of the data API.
#[derive(Clone, Debug, PartialEq)]
pub struct DataAnswer {
    /// The body as it goes out: `{"result": …}`, or `{}` where the value is undefined, which clients take for a
    /// denial.
    pub body: Bytes,
    /// Why, for metrics and logs.
    pub reason: Reason,
    /// How its tightest rate limit stands, for the `RateLimit` headers.
    pub allowance: Option<Allowance>,
}

impl DataAnswer {
    /// No value, for a reason.
    pub const fn undefined(reason: Reason) -> Self {
        Self { body: Bytes::from_static(b"{}"), reason, allowance: None }
    }

    fn new(result: Option<Value>, reason: Reason) -> Self {
        match result {
            Some(value) => {
                Self { body: json!({"result": value}).to_string().into(), reason, allowance: None }
            }
            None => Self::undefined(reason),
        }
    }
}

/// What kind of value the active policy's decision is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    Boolean,
    Object,
    Unknown,
}

impl Decider {
    /// Answers a query for `path` with the input in `body`, an object with a member `input`. The token at
    /// `token_path` below it is verified and taken out; policies see what it says in `input.identity`. A token
    /// that is revoked gets no allow from any path. A hit on the body parses, copies and writes nothing: the key covers
    /// path and body to the last byte, and the answer was written when the verdict was made. A body that differs only
    /// in what the policy does not read is parsed, and hits then.
    pub async fn data(
        &self,
        path: &[&str],
        body: &[u8],
        token_path: &[String],
    ) -> Result<DataAnswer, Reason> {
        if !self.is_ready() {
            return Ok(DataAnswer::undefined(Reason::NotReady));
        }
        let key = self.data_key(path, body);
        // Decisions alone are ever kept.
        if let Some(hit) = self.hit(key) {
            self.parts.metrics.cache(true);
            return Ok(self.hit_answer(&hit, path));
        }
        let loaded = self.parts.policy.current();
        let is_decision = loaded.set.is_decision(path) || member(&loaded, path).is_some();
        let (input, token) = parse(body, token_path)?;
        let read = (is_decision && !loaded.set.reads().reads_all())
            .then(|| self.read_key(&loaded, path, &input, token.as_ref()));
        if let Some(hit) = read.and_then(|key| self.hit(key)) {
            self.parts.metrics.cache(true);
            if let Hit::Verdict(verdict) = &hit {
                self.also(key, verdict);
            }
            return Ok(self.hit_answer(&hit, path));
        }
        let known = self.know(token);
        let complete = |mut input: Value, now: WallTime| {
            add_token(&mut input, &known, now);
            input
        };
        if !is_decision {
            let input = complete(input, self.parts.clock.wall());
            return Ok(self.other_path(path, &known, input));
        }
        self.parts.metrics.cache(false);
        let (mut verdict, value) = self.evaluate(&known, |now| complete(input, now)).await;
        let reason = verdict.ruling.reason();
        let Some(value) = value else { return Ok(self.refused(&loaded, path, reason)) };
        let result = shaped(&verdict.ruling, value, member(&loaded, path));
        verdict.body = DataAnswer::new(result, reason).body;
        let keys = [Some(key), read].into_iter().flatten().collect::<Vec<_>>();
        Ok(self.charged_answer(&self.keep(&keys, loaded.generation, verdict), path))
    }

    /// A verdict's answer, once its rate limits were asked.
    fn charged_answer(&self, verdict: &Verdict, path: &[&str]) -> DataAnswer {
        match self.charge(verdict) {
            Ok(allowance) => {
                DataAnswer { body: verdict.body.clone(), reason: verdict.ruling.reason(), allowance }
            }
            Err(refusal) => DataAnswer {
                allowance: refusal.allowance,
                ..self.refused(&self.parts.policy.current(), path, refusal.reason)
            },
        }
    }

    fn hit_answer(&self, hit: &Hit, path: &[&str]) -> DataAnswer {
        match hit {
            Hit::Verdict(v) => self.charged_answer(v, path),
            Hit::Revoked => self.refused(&self.parts.policy.current(), path, Reason::TokenRevoked),
        }
    }

    /// The token, and what the policy reads of the rest.
    fn read_key(
        &self,
        loaded: &Loaded,
        path: &[&str],
        input: &Value,
        token: Result<&Option<Token>, &Reason>,
    ) -> [u64; 2] {
        let (kind, credential): (&[u8], _) = match token {
            Ok(Some(token)) => (b"token", token.as_bytes()),
            Ok(None) => (b"none", b"".as_slice()),
            Err(reason) => (b"fault", reason.code().as_bytes()),
        };
        let (generation, parts) = (loaded.generation.to_le_bytes(), loaded.set.reads().pick(input, &OWN));
        let fixed = [&generation[..], kind, credential, &parts];
        let path = path.iter().map(|segment| segment.as_bytes());
        self.parts.key.digest_all(READ_DOMAIN, fixed.into_iter().chain(path))
    }

    fn data_key(&self, path: &[&str], body: &[u8]) -> [u64; 2] {
        let texts = path.iter().map(|segment| segment.as_bytes()).chain([body]);
        self.parts.key.digest_all(DATA_DOMAIN, texts)
    }

    /// The daemon's own denial, in the shape that the policy's decisions have: clients that expect a boolean
    /// must not be given an object, which many languages take for true. No value where the shape is not known.
    fn refused(&self, loaded: &Loaded, path: &[&str], reason: Reason) -> DataAnswer {
        let value = match self.shape(loaded) {
            Shape::Boolean => Value::Bool(false),
            Shape::Object => json!({"allow": false, "reason": reason.code(), "status": reason.status()}),
            Shape::Unknown => return DataAnswer::undefined(reason),
        };
        DataAnswer::new(shaped(&Ruling::Deny(Refusal::of(reason)), value, member(loaded, path)), reason)
    }

    /// The shape of the active policy's decisions: that of its answer to an input that says no more than that
    /// the token is revoked. Found once for a generation.
    fn shape(&self, loaded: &Loaded) -> Shape {
        const SHAPES: [Shape; 4] = [Shape::Unknown, Shape::Boolean, Shape::Object, Shape::Unknown];
        let known = self.shape.load(Ordering::Relaxed);
        if known >> 2 == loaded.generation && known & 3 != 0 {
            return SHAPES[(known & 3) as usize];
        }
        let asked = json!({"token_status": Reason::TokenRevoked.code()});
        let found = match loaded.set.eval_decision_value(&Input::from(asked)) {
            Ok((_, Value::Bool(_))) => 1,
            Ok((_, Value::Object(_))) => 2,
            _ => 3,
        };
        self.shape.store(loaded.generation << 2 | found, Ordering::Relaxed);
        SHAPES[(found & 3) as usize]
    }

    /// A path that is no decision: its value says nothing that this daemon could turn into a denial, so a
    /// revoked token gets no value at all.
    fn other_path(&self, path: &[&str], known: &Known, input: Value) -> DataAnswer {
        if self.is_revoked(known.fingerprint) {
            return DataAnswer::undefined(Reason::TokenRevoked);
        }
        match self.parts.policy.current().set.eval_path(path, &Input::from(input)) {
            Ok(Some(value)) => DataAnswer::new(Some(value), Reason::Allowed),
            Ok(None) => DataAnswer::undefined(Reason::PolicyUndefined),
            Err(e) => {
                tracing::warn!(error = %e, path = path.join("/"), "the policy failed: undefined");
                DataAnswer::undefined(e.reason())
            }
        }
    }
}

/// The member of the decision that a path asks for.
fn member<'a>(loaded: &Loaded, path: &[&'a str]) -> Option<&'a str> {
    path.split_last().filter(|(_, rest)| loaded.set.is_decision(rest)).map(|(last, _)| *last)
}

/// A ruling in the shape the policy gives: its own words for an allow, and for a denial too, unless it is the
/// daemon that denies.
fn shaped(ruling: &Ruling, value: Value, member: Option<&str>) -> Option<Value> {
    let denied = matches!(ruling, Ruling::Deny(_));
    let mut value = match value {
        Value::Object(mut members) => {
            if denied {
                members.insert("allow".to_owned(), Value::Bool(false));
            }
            Value::Object(members)
        }
        _ => Value::Bool(!denied),
    };
    match member {
        None => Some(value),
        Some(name) => value.get_mut(name).map(Value::take),
    }
}

type Credential = Result<Option<Token>, Reason>;

/// Reads a body: the input without its token, and the token.
fn parse(body: &[u8], token_path: &[String]) -> Result<(Value, Credential), Reason> {
    let mut document: Value = if body.is_empty() {
        Value::Object(serde_json::Map::new())
    } else {
        serde_json::from_slice(body).map_err(|_| Reason::RequestMalformed)?
    };
    let Value::Object(members) = &mut document else { return Err(Reason::RequestMalformed) };
    let mut input = members.remove("input").unwrap_or_else(|| Value::Object(serde_json::Map::new()));
    if !input.is_object() {
        return Err(Reason::RequestMalformed);
    }
    let token = take_token(&mut input, token_path);
    Ok((input, token))
}

fn take_token(input: &mut Value, path: &[String]) -> Credential {
    let Some((last, parents)) = path.split_last() else { return Ok(None) };
    let mut at = input;
    for name in parents {
        match at.get_mut(name) {
            Some(next) => at = next,
            None => return Ok(None),
        }
    }
    let taken = at.as_object_mut().and_then(|m| m.remove(last));
    match taken {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(s)) if s.is_empty() => Ok(None),
        Some(Value::String(s)) if s.len() > portcullis_common::head::MAX_TOKEN as usize => {
            Err(Reason::TokenTooLong)
        }
        Some(Value::String(s)) => Ok(Some(Token::new(s))),
        Some(_) => Err(Reason::TokenMalformed),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_token_is_taken_out_of_the_input() {
        let body = json!({"input": {"auth": {"token": "secret"}, "x": 1}}).to_string();
        let (input, token) = parse(body.as_bytes(), &["auth".into(), "token".into()]).unwrap();
        assert_eq!(input, json!({"auth": {}, "x": 1}));
        assert_eq!(token.unwrap().unwrap().as_str(), "secret");
    }

    #[test]
    fn what_is_no_input_is_refused() {
        for bad in ["[]", "{", "1", r#"{"input": 1}"#, "\u{0}"] {
            assert_eq!(parse(bad.as_bytes(), &[]).err(), Some(Reason::RequestMalformed), "{bad}");
        }
        assert!(parse(b"", &[]).is_ok());
        let (_, token) = parse(br#"{"input": {"token": 7}}"#, &["token".into()]).unwrap();
        assert_eq!(token.err(), Some(Reason::TokenMalformed));
    }

    #[test]
    fn a_denial_keeps_the_shape_of_the_policy_and_never_allows() {
        let revoked = Ruling::Deny(Refusal::of(Reason::TokenRevoked));
        let object = json!({"allow": true, "reason": "token_revoked"});
        assert_eq!(shaped(&revoked, object.clone(), None).unwrap()["allow"], json!(false));
        assert_eq!(shaped(&revoked, object.clone(), Some("reason")), Some(json!("token_revoked")));
        assert_eq!(shaped(&revoked, object.clone(), Some("allow")), Some(json!(false)));
        assert_eq!(shaped(&revoked, object, Some("ttl")), None);
        assert_eq!(shaped(&revoked, json!(true), None), Some(json!(false)));
    }

    #[test]
    fn what_is_undefined_is_an_empty_object() {
        assert_eq!(&DataAnswer::new(None, Reason::PolicyUndefined).body[..], b"{}");
        assert_eq!(&DataAnswer::new(Some(json!(1)), Reason::Allowed).body[..], br#"{"result":1}"#);
    }
}
