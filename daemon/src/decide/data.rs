//! Decisions asked for by OPA's data API: any path of `data`, with any input.

use portcullis_common::reason::Reason;
use serde_json::Value;

use super::{
    Decider, Refusal, Ruling,
    decider::{Known, add_token},
};
use crate::{clock::WallTime, policy::Input, token::Token};

/// Separates these cache keys from the others under the fingerprint key.
const DATA_DOMAIN: u64 = 0x6461_7461_6170_6931;

/// An answer of the data API.
#[derive(Clone, Debug, PartialEq)]
pub struct DataAnswer {
    /// The value; `None` where it is undefined, which clients take for a denial.
    pub result: Option<Value>,
    /// Why, for metrics and logs.
    pub reason: Reason,
}

impl DataAnswer {
    /// No value, for a reason.
    pub const fn undefined(reason: Reason) -> Self {
        Self { result: None, reason }
    }
}

impl Decider {
    /// Answers a query for `path` with the input in `body`, an object with a member `input`. The token at
    /// `token_path` below it is verified and taken out; policies see what it says in `input.identity`. A token
    /// that is revoked gets no allow from any path.
    pub async fn data(
        &self,
        path: &[&str],
        body: &[u8],
        token_path: &[String],
    ) -> Result<DataAnswer, Reason> {
        if !self.is_ready() {
            return Ok(DataAnswer::undefined(Reason::NotReady));
        }
        let loaded = self.parts.policy.current();
        let key = self.data_key(path, body);
        let member =
            path.split_last().filter(|(_, rest)| loaded.set.is_decision(rest)).map(|(last, _)| *last);
        let is_decision = loaded.set.is_decision(path) || member.is_some();
        if is_decision && let Some(verdict) = self.cached_verdict(key) {
            let ruling = if self.is_revoked(verdict.fingerprint) {
                Ruling::Deny(Refusal::of(Reason::TokenRevoked))
            } else {
                verdict.ruling.clone()
            };
            return Ok(shaped(&ruling, &verdict.value, member));
        }
        let (input, token) = parse(body, token_path)?;
        let known = self.know(token);
        let complete = |mut input: Value, now: WallTime| {
            add_token(&mut input, &known, now);
            input
        };
        if !is_decision {
            let input = complete(input, self.parts.clock.wall());
            return Ok(self.other_path(path, &known, input));
        }
        let verdict = self.evaluate(&known, |now| complete(input, now)).await;
        let verdict = self.keep(key, verdict);
        Ok(shaped(&verdict.ruling, &verdict.value, member))
    }

    fn data_key(&self, path: &[&str], body: &[u8]) -> [u64; 2] {
        // The path is part of the domain: one word of a digest of its own.
        let name = self.parts.key.digest(DATA_DOMAIN, path.join("/").as_bytes());
        self.parts.key.digest(name[0], body)
    }

    /// A path that is no decision: its value says nothing that this daemon could turn into a denial, so a
    /// revoked token gets no value at all.
    fn other_path(&self, path: &[&str], known: &Known, input: Value) -> DataAnswer {
        if self.is_revoked(known.fingerprint) {
            return DataAnswer::undefined(Reason::TokenRevoked);
        }
        match self.parts.policy.current().set.eval_path(path, &Input::from(input)) {
            Ok(Some(value)) => DataAnswer { result: Some(value), reason: Reason::Allowed },
            Ok(None) => DataAnswer::undefined(Reason::PolicyUndefined),
            Err(e) => {
                tracing::warn!(error = %e, path = path.join("/"), "the policy failed: undefined");
                DataAnswer::undefined(e.reason())
            }
        }
    }
}

/// A ruling in the shape the policy gives: its own words for an allow, and for a denial too, unless it is the
/// daemon that denies.
fn shaped(ruling: &Ruling, value: &Value, member: Option<&str>) -> DataAnswer {
    let reason = ruling.reason();
    let denied = matches!(ruling, Ruling::Deny(_));
    let value = match value {
        Value::Object(members) => {
            let mut members = members.clone();
            if denied {
                let code = Value::from(reason.code());
                members.insert("allow".to_owned(), Value::Bool(false));
                if reason == Reason::TokenRevoked {
                    members.insert("reason".to_owned(), code);
                    members.insert("status".to_owned(), Value::from(reason.status()));
                    members.remove("ttl");
                }
            }
            Value::Object(members)
        }
        _ => Value::Bool(!denied),
    };
    let result = match member {
        None => Some(value),
        Some(name) => value.get(name).cloned(),
    };
    DataAnswer { result, reason }
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
    fn a_revoked_token_never_gets_an_allow_from_a_cached_value() {
        let revoked = Ruling::Deny(Refusal::of(Reason::TokenRevoked));
        let object = shaped(&revoked, &json!({"allow": true, "ttl": 5}), None);
        assert_eq!(object.result.unwrap()["allow"], json!(false));
        assert_eq!(shaped(&revoked, &json!(true), None).result, Some(json!(false)));
        assert_eq!(shaped(&revoked, &json!({"allow": true}), Some("allow")).result, Some(json!(false)));
    }
}
