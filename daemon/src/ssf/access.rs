//! The token for a transmitter's API: from a file, or by the client credentials grant (RFC 6749 §4.4).

use serde_json::Value;

use super::{Access, Transmitter};
use crate::fetch::{Answer, Bounds, Request, Secret};

/// Longest answer of an authorization server.
const MAX_BODY: usize = 64 * 1024;
/// Seconds before its end that a token is no longer used.
const MARGIN: i64 = 30;
/// Seconds that a token is used whose end is not told.
const UNTOLD: i64 = 300;

/// A token that an authorization server gave, and until when it is used, in Unix seconds.
#[derive(Clone, Debug)]
pub(super) struct Given {
    token: Secret,
    until: i64,
}

impl Transmitter {
    /// A request with the token for the API.
    pub(super) async fn signed(&self, request: Request) -> Result<Request, String> {
        match &self.settings.access {
            Access::None => Ok(request),
            Access::File(path) => {
                let token = Secret::read(path).map_err(|e| format!("the token for its API: {e}"))?;
                Ok(request.bearer(&token))
            }
            Access::Client { .. } => Ok(request.bearer(&self.given().await?)),
        }
    }

    /// The token at hand, or a new one. Those who want one at the same time wait for the same.
    async fn given(&self) -> Result<Secret, String> {
        let mut held = self.given.lock().await;
        let now = self.clock.wall().seconds();
        if let Some(given) = held.as_ref().filter(|g| now < g.until) {
            return Ok(given.token.clone());
        }
        let given = self.ask_for_token(now).await?;
        let token = given.token.clone();
        *held = Some(given);
        Ok(token)
    }

    async fn ask_for_token(&self, now: i64) -> Result<Given, String> {
        let Access::Client { url, id, secret, scope } = &self.settings.access else {
            return Err("no authorization server is configured".to_owned());
        };
        let mut fields = vec![("grant_type", "client_credentials")];
        if !scope.is_empty() {
            fields.push(("scope", scope));
        }
        let request = Request::form(url.clone(), &fields).oauth_client(id, secret);
        let bounds = Bounds { deadline: self.settings.timeout, max_body: MAX_BODY };
        let answer =
            self.client.send(request, bounds).await.and_then(Answer::success).map_err(|e| e.to_string())?;
        // serde's messages may quote what they choke on, and that may be the token.
        let told: Value = serde_json::from_slice(&answer.body)
            .map_err(|_| format!("the answer of `{}` is not JSON", answer.url))?;
        let is_bearer = told["token_type"].as_str().is_some_and(|t| t.eq_ignore_ascii_case("bearer"));
        let token = told["access_token"].as_str().filter(|t| is_bearer && !t.is_empty());
        let token = token.ok_or_else(|| format!("`{}` gave no bearer token", answer.url))?;
        let lasts = told["expires_in"].as_i64().unwrap_or(UNTOLD);
        let until = now.saturating_add((lasts - MARGIN).max(lasts / 2));
        Ok(Given { token: Secret::new(token.to_owned()), until })
    }

    /// The API did not take the token: the next request has a new one.
    pub(super) async fn forget_token(&self) {
        *self.given.lock().await = None;
    }
}
