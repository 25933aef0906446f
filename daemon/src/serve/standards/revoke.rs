//! Token revocation (RFC 7009): the token is on disk, in force and in the kernel when 200 is answered, and as far in the
//! fleet as `fleet.acknowledge` says.

use http::{Request, StatusCode};
use hyper::body::Incoming;
use portcullis_common::reason::Reason;
use serde_json::json;

use super::{
    super::doors::{Answer, plain},
    Fault, Peer, Revokes, Standards,
    client::Client,
    form::Form,
};
use crate::{
    clock::WallTime,
    decide::Inspected,
    revoke::{Once, Order},
    token::{Identity, Token, Verifier},
};

/// How its orders are named.
const SOURCE: &str = "rfc7009";

type Done = Result<(&'static str, Answer), Fault>;

impl Standards {
    pub(super) async fn revoke(&self, request: Request<Incoming>, peer: &Peer) -> Done {
        let (client, done) = match self.asked(request, peer).await {
            Ok((form, client)) => (Some(&client.settings.id), self.ordered(&form, client).await),
            Err(fault) => (None, Err(fault)),
        };
        if let Err(fault) = &done {
            let actor = client.map_or_else(|| "unknown".to_owned(), |id| format!("client:{id}"));
            let (from, code) = (peer.address.as_str(), fault.label());
            self.refusals.note(
                json!({"action": "refused", "of": "revoke", "source": SOURCE, "actor": actor, "from": from, "code": code}),
            );
        }
        done
    }

    async fn ordered(&self, form: &Form, client: &Client) -> Done {
        if client.settings.revokes == Revokes::Off {
            return Err(Fault::Unauthorized("this client may revoke no tokens"));
        }
        let token = form.get("token").ok_or(Fault::Request("`token` is missing"))?;
        // A hint only: every token is looked for everywhere.
        let is_refresh = form.get("token_type_hint") == Some("refresh_token");
        let token = Token::new(token.to_owned());
        let found = self.decider.foresee(&token).await;
        // Signed with a key that its issuer does not have and did not have is as good as forged.
        let of_no_key =
            matches!(found.status, Err(Reason::KeyUnknown)) && self.decider.is_of_no_key(&token).await;
        match &found.status {
            Ok(identity) => self.known(client, &found, identity).await,
            Err(reason)
                if may_come_to_life(*reason) && !of_no_key && !has_ended(&token, self.clock.wall()) =>
            {
                self.uncertain(client, &token, &found).await
            }
            // It is good for nothing here, and never will be. But a refresh token would be good elsewhere.
            Err(_) if is_refresh => Err(Fault::TokenType),
            Err(_) => Ok(("nothing", plain(StatusCode::OK))),
        }
    }

    async fn known(&self, client: &Client, found: &Inspected, identity: &Identity) -> Done {
        if !may_revoke(client, identity) {
            return Err(Fault::Foreign);
        }
        // An API key has no end of its own, so it is disabled for good.
        let key = identity.token_id.clone().filter(|_| identity.algorithm == "api_key");
        if let (Some(keys), Some(id)) = (self.api_keys.clone(), key) {
            let now = self.clock.wall().seconds();
            let disabled = tokio::task::spawn_blocking(move || keys.disable(&id, now)).await;
            if !matches!(disabled, Ok(Ok(_))) {
                return Err(Fault::Unavailable("the API key could not be disabled"));
            }
        }
        let until = self.decider.refused_until(identity, self.clock.wall().plus(self.default_ttl));
        self.order(client, found, until).await
    }

    /// Whether it is a token cannot be told now. Who may revoke any may revoke this text too, others come again.
    async fn uncertain(&self, client: &Client, token: &Token, found: &Inspected) -> Done {
        if client.settings.revokes != Revokes::Any || !is_carried(token) {
            return Err(Fault::Unavailable("whose the token is cannot be told now"));
        }
        let until = self.decider.refused_until_stated(token, self.clock.wall().plus(self.default_ttl));
        self.order(client, found, until).await
    }

    async fn order(&self, client: &Client, found: &Inspected, until: WallTime) -> Done {
        let name = (client.settings.id.clone(), found.token.first.fingerprint);
        // Revoked by another's order, it is revoked by this one too: that one may be lifted.
        if found.revoked && self.lately.contains_key(&name) {
            return self.told("again").await;
        }
        let order = Order {
            token: found.token,
            until,
            reason: "revoked by its client".to_owned(),
            actor: format!("client:{}", client.settings.id),
            ticket: String::new(),
            source: SOURCE.to_owned(),
            parent: None,
        };
        // The same order once more is none, over a restart too; unless somebody lifted what came of it, or it would hold for
        // a day longer.
        let key: [&[u8]; 4] = [
            SOURCE.as_bytes(),
            client.settings.id.as_bytes(),
            &found.token.first.fingerprint.0.map(u64::to_le_bytes).concat(),
            &until.seconds().div_euclid(24 * 3600).to_le_bytes(),
        ];
        let once = Once { renews: true, ..Once::new(&key, &[]) }.until(until);
        match self.decider.revoke(order, Some(once)).await {
            Ok(_) => {
                self.lately.insert(name, ());
                self.told("revoked").await
            }
            Err(e) => {
                tracing::error!(error = %e, client = client.settings.id, "a token was not revoked for its client");
                Err(Fault::Unavailable("the revocation is not in force"))
            }
        }
    }

    /// Answers when the fleet has it. A client that is told to come again (RFC 7009 §2.2.1) orders nothing twice.
    async fn told(&self, done: &'static str) -> Done {
        match &self.fleet {
            Some(fleet) if !fleet.usually().await => {
                Err(Fault::Unavailable("the token is revoked on this host, but not in the whole fleet yet"))
            }
            _ => Ok((done, plain(StatusCode::OK))),
        }
    }
}

fn may_revoke(client: &Client, identity: &Identity) -> bool {
    let settings = &client.settings;
    settings.revokes == Revokes::Any
        || identity.client.as_deref() == Some(&settings.id)
            && settings.issuers.iter().any(|issuer| **issuer == *identity.issuer)
}

/// Whether a token that is refused now may be accepted later.
const fn may_come_to_life(reason: Reason) -> bool {
    matches!(
        reason,
        Reason::NotReady
            | Reason::IssuerNotReady
            | Reason::KeysStale
            | Reason::KeyUnknown
            | Reason::IntrospectionFailed
            | Reason::TokenNotYetValid
            | Reason::StatusSuspended
            | Reason::StatusUnavailable
    )
}

/// By the longest leeway that may be configured, and longer.
fn has_ended(token: &Token, now: WallTime) -> bool {
    Verifier::stated_expiry(token).is_some_and(|exp| exp.saturating_add(600) < now.seconds())
}

/// Whether requests can carry it, and so the kernel can name it.
fn is_carried(token: &Token) -> bool {
    let text = token.as_bytes();
    text.len() <= portcullis_common::head::MAX_TOKEN as usize && text.iter().all(u8::is_ascii_graphic)
}
