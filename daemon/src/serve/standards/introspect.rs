//! Token introspection (RFC 7662) for resource servers. What is not active is told in one way, whatever the cause.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use serde_json::{Map, Value, json};

use super::{
    super::doors::{Answer, json as answer},
    Fault, Peer, Standards,
};
use crate::token::{Identity, Token};

impl Standards {
    pub(super) async fn introspect(
        &self,
        request: Request<Incoming>,
        peer: &Peer,
    ) -> Result<(&'static str, Answer), Fault> {
        let (form, client) = self.asked(request, peer).await?;
        if !client.settings.introspects {
            return Err(Fault::Unauthorized("this client may not introspect tokens"));
        }
        let token = form.get("token").ok_or(Fault::Request("`token` is missing"))?;
        let found = self.decider.inspect(&Token::new(token.to_owned())).await;
        let told = found
            .status
            .ok()
            .filter(|i| {
                !found.revoked && is_meant(&found.claims, &client.settings.audience) && self.is_in_time(i)
            })
            .map(|identity| members(&identity, &found.claims));
        let label = if told.is_some() { "active" } else { "inactive" };
        let body = told.unwrap_or_else(|| json!({"active": false}));
        Ok((label, answer(StatusCode::OK, body.to_string().into())))
    }

    /// Without leeway: nobody else is to add theirs to ours.
    fn is_in_time(&self, identity: &Identity) -> bool {
        identity.expires_at.is_none_or(|exp| self.clock.wall().seconds() < exp)
    }
}

fn is_meant(claims: &Map<String, Value>, audience: &[String]) -> bool {
    let named = |aud: &Value| aud.as_str().is_some_and(|a| audience.iter().any(|o| o == a));
    if audience.is_empty() {
        return true;
    }
    match claims.get("aud") {
        Some(Value::Array(all)) => all.iter().any(named),
        one => one.is_some_and(named),
    }
}

/// What an active token is told by (RFC 7662 §2.2): registered members alone, not each claim.
fn members(identity: &Identity, claims: &Map<String, Value>) -> Value {
    let mut told = Map::from_iter([
        ("active".to_owned(), true.into()),
        ("iss".to_owned(), Value::from(&*identity.issuer)),
    ]);
    let mut add = |name: &str, value: Option<Value>| told.extend(value.map(|v| (name.to_owned(), v)));
    let claim = |name: &str| claims.get(name).filter(|v| !v.is_null()).cloned();
    add("sub", identity.subject.as_deref().map(Value::from));
    add("client_id", identity.client.as_deref().map(Value::from));
    add("jti", identity.token_id.as_deref().map(Value::from));
    add("exp", identity.expires_at.map(Value::from));
    add("iat", identity.issued_at.map(Value::from));
    add("nbf", identity.not_before.map(Value::from));
    add("scope", Some(identity.scopes.join(" ").into()).filter(|_| !identity.scopes.is_empty()));
    add("aud", claim("aud"));
    add("username", claim("username").or_else(|| claim("preferred_username")));
    // Whoever accepts a bound token must ask for the proof (RFC 8705 §3.2, RFC 9449 §6.2).
    let cnf = claim("cnf");
    let by_dpop = cnf.as_ref().is_some_and(|c| c.get("jkt").is_some());
    add("token_type", Some(if by_dpop { "DPoP" } else { "Bearer" }.into()));
    add("cnf", cnf);
    Value::Object(told)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_active_token_is_told_by_registered_members() {
        let claims = json!({"aud": ["a", "b"], "cnf": {"jkt": "x"}, "email": "e@x"});
        let told = members(&Identity::whole(), claims.as_object().unwrap());
        assert_eq!(told["active"], true);
        assert_eq!((&told["sub"], &told["exp"], &told["scope"]), (&json!("s"), &json!(2), &json!("a")));
        assert_eq!((&told["token_type"], &told["cnf"]), (&json!("DPoP"), &json!({"jkt": "x"})));
        assert!(told.get("email").is_none() && told.get("username").is_none(), "{told}");
    }

    #[test]
    fn a_token_for_others_is_not_meant() {
        let audience = |a: &str| vec![a.to_owned()];
        for (aud, is) in
            [(json!("a"), true), (json!(["b", "a"]), true), (json!("b"), false), (Value::Null, false)]
        {
            let claims = json!({"aud": aud});
            let claims = claims.as_object().unwrap();
            assert_eq!(is_meant(claims, &audience("a")), is, "{aud}");
            assert!(is_meant(claims, &[]));
        }
    }
}
