//! One revocation: ordered, looked up, listed, lifted.

use std::time::Instant;

use axum::{
    body::Bytes,
    extract::{Path as UrlPath, Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    AdminState, ApiError, Caller, UNSEEN, bad,
    fleet::{self, Wait},
    json::Json,
    order::{IMPORT, IdempotencyKey, Ordered, RevokeRequest, check_reason},
    parse,
};
use crate::{
    clock::WallTime,
    revoke::{
        AnyClaim, ClaimId, IMPORTED_LOCKDOWN, Once, RevokeError, SelectorClaim, SelectorOrder, feed::Level,
        is_lockdown,
    },
};

/// Longest page of a listing.
pub(super) const MAX_PAGE: usize = 10_000;

pub(super) async fn revoke(
    State(s): State<AdminState>,
    by: Caller,
    Query(wait): Query<Wait>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, ApiError> {
    let result = one(&s, &by, &wait, &headers, &body).await;
    if let Err(e) = &result {
        let mut note = json!({"action": "refused", "of": "revoke", "actor": by.0, "code": e.1});
        // As far as it can be read.
        let about = parse::<RevokeRequest>(&body).map(|r| r.about(&s));
        if let (Value::Object(note), Ok(Value::Object(about))) = (&mut note, about) {
            note.extend(about);
        }
        s.plane.note_later(&note);
    }
    result
}

async fn one(
    s: &AdminState,
    by: &Caller,
    wait: &Wait,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Response, ApiError> {
    let start = Instant::now();
    let waiting = wait.read(s)?;
    let once = IdempotencyKey::read(headers, by)?.map(|key| key.once(0, body));
    let mut r: RevokeRequest = parse(body)?;
    r.settle(s).await?;
    let dry_run = r.dry_run;
    match r.read(s, by)? {
        Ordered::Selector(order) if dry_run => {
            let (id, created) = (ClaimId(0), s.clock.wall());
            let SelectorOrder { selector, until, reason, actor, ticket, source } = *order;
            let claim = SelectorClaim { id, selector, created, until, reason, actor, ticket, source };
            let live = s.decider.matched(&claim);
            let connections =
                s.plane.count_connections(live.iter().map(|(t, _)| t.first.fingerprint).collect()).await;
            let mut told = json!({
                "dry_run": true, "selector": claim.selector, "live": live.len(), "connections": connections,
            });
            warn(s, &mut told);
            Ok(Json(told).into_response())
        }
        Ordered::Selector(order) => {
            let told = by_selector(s, *order, once).await?;
            s.metrics.revocation("admin", start.elapsed());
            Ok(fleet::answer(s, waiting, StatusCode::CREATED, told).await)
        }
        Ordered::Token(order) if dry_run => {
            let fingerprint = s.decider.key_ids().name(&order.token);
            let connections = s.plane.count_connections([fingerprint].into()).await;
            let fingerprint = fingerprint.to_string();
            // That it was not seen lately does not say that it is none.
            let live = s.decider.is_seen(order.token).then_some(1);
            let told = json!({
                "dry_run": true, "fingerprint": fingerprint, "live": live, "connections": connections,
                "until": order.until,
            });
            Ok(Json(told).into_response())
        }
        Ordered::Token(order) => {
            let claim = s.plane.revoke_once(order, once).await?;
            s.metrics.revocation("admin", start.elapsed());
            tracing::info!(id = claim.id.0, fingerprint = %claim.fingerprint, actor = claim.actor, reason = claim.reason, "revoked");
            let told = serde_json::to_value(claim).unwrap_or_default();
            Ok(fleet::answer(s, waiting, StatusCode::CREATED, told).await)
        }
    }
}

/// Revokes all that a selector matches: the decision path refuses it from here on, seen or not, and what was seen lately
/// is in the kernel when this is answered.
pub(super) async fn by_selector(
    s: &AdminState,
    order: SelectorOrder,
    once: Option<Once>,
) -> Result<Value, RevokeError> {
    let claim = s.plane.select_once(order, once).await?;
    let matched = s.decider.matched(&claim);
    let live = matched.len();
    let condemned = s.plane.follow(claim.id, matched.clone()).await?;
    let outside = s.decider.outside_kernel(&matched);
    tracing::info!(id = claim.id.0, selector = %claim.selector, actor = claim.actor, reason = claim.reason, live, condemned, outside, "revoked by selector");
    let mut told = serde_json::to_value(&claim).unwrap_or_default();
    told["live"] = live.into();
    told["condemned"] = condemned.into();
    warn(s, &mut told);
    if outside > 0 {
        told["not_in_kernel"] = outside.into();
        let room = format!(
            "{outside} of the tokens seen lately match and found no room in the kernel's map (`kernel.max_entries`): the decision path alone refuses them"
        );
        let others = told["warning"].as_str().map(|warning| format!("; {warning}"));
        told["warning"] = (room + &others.unwrap_or_default()).into();
    }
    Ok(told)
}

/// Says of a selector what becomes of tokens that were not seen, and what it does not reach.
fn warn(s: &AdminState, told: &mut Value) {
    told["unseen"] = "the decision path refuses them at first sight".into();
    if !(s.sees_unseen)() {
        told["warning"] = UNSEEN.into();
    }
}

fn unknown(id: u64) -> ApiError {
    RevokeError::Unknown(ClaimId(id)).into()
}

pub(super) async fn get(
    State(s): State<AdminState>,
    UrlPath(id): UrlPath<u64>,
) -> Result<Json<AnyClaim>, ApiError> {
    s.plane.get(ClaimId(id)).await?.map(Json).ok_or_else(|| unknown(id))
}

pub(super) async fn receipt(
    State(s): State<AdminState>,
    UrlPath(id): UrlPath<u64>,
) -> Result<Json<Value>, ApiError> {
    let Some(receipt) = s.plane.receipt(ClaimId(id)).await? else {
        let ended = s.plane.ended(ClaimId(id)).await?.ok_or_else(|| unknown(id))?;
        let mut told = serde_json::to_value(&ended).unwrap_or_default();
        told["host"] = (&*s.host).into();
        return Ok(Json(told));
    };
    let mut told = serde_json::to_value(&receipt).unwrap_or_default();
    told["host"] = (&*s.host).into();
    let claim = s.plane.get(ClaimId(id)).await?;
    if matches!(claim, Some(AnyClaim::Selector(_))) {
        warn(&s, &mut told);
    }
    let others = match claim {
        Some(claim) => fleet::receipt(&s, &claim, receipt.entry).await,
        None => None,
    };
    if let Some(others) = others {
        told["fleet"] = others;
    }
    Ok(Json(told))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct By {
    #[serde(default)]
    reason: String,
    actor: Option<String>,
    wait: Option<Level>,
    hosts: Option<String>,
    timeout: Option<String>,
}

pub(super) async fn lift(
    State(s): State<AdminState>,
    by: Caller,
    UrlPath(id): UrlPath<u64>,
    Query(r): Query<By>,
) -> Result<Response, ApiError> {
    let waiting = Wait::new(r.wait, r.hosts, r.timeout).read(&s)?;
    let reason = check_reason(r.reason)?;
    let actor = by.named(r.actor.as_deref())?;
    let lifted = s.plane.lift(ClaimId(id), &json!({"actor": actor, "reason": reason})).await;
    if let Err(e) = &lifted {
        let why = e.to_string();
        s.plane
            .note_later(&json!({"action": "refused", "of": "lift", "actor": actor, "ids": [id], "why": why}));
    }
    let claim = lifted?;
    match &claim {
        AnyClaim::Token(c) => tracing::info!(id, fingerprint = %c.fingerprint, actor, "revocation lifted"),
        AnyClaim::Selector(c) => tracing::info!(id, selector = %c.selector, actor, "revocation lifted"),
    }
    let told = serde_json::to_value(claim).unwrap_or_default();
    Ok(fleet::answer(&s, waiting, StatusCode::OK, told).await)
}

/// A page, and what is to be in it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Page {
    #[serde(default)]
    after: u64,
    limit: Option<usize>,
    /// `token` or `selector`.
    kind: Option<Kind>,
    /// The token's name under either fingerprint key.
    fingerprint: Option<String>,
    /// The selector's issuer.
    issuer: Option<String>,
    /// The selector's subject.
    sub: Option<String>,
    /// Part of the actor.
    actor: Option<String>,
    source: Option<String>,
    /// Part of the reason.
    reason: Option<String>,
    /// The whole ticket.
    ticket: Option<String>,
    /// The selector's claim that it follows from.
    parent: Option<u64>,
    /// Accepted at this time or later (ms since 1970).
    since: Option<i64>,
    /// Accepted before this time (ms since 1970).
    before: Option<i64>,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    Token,
    Selector,
}

impl Page {
    fn keeps(&self, claim: &AnyClaim) -> bool {
        let (kind, created, reason, actor, ticket, source) = match claim {
            AnyClaim::Token(c) => (Kind::Token, c.created, &c.reason, &c.actor, &c.ticket, &c.source),
            AnyClaim::Selector(c) => (Kind::Selector, c.created, &c.reason, &c.actor, &c.ticket, &c.source),
        };
        let own = match claim {
            AnyClaim::Token(c) => {
                self.issuer.is_none()
                    && self.sub.is_none()
                    && self.fingerprint.as_ref().is_none_or(|f| {
                        let other = c.other.as_ref().map(|o| &o.fingerprint);
                        std::iter::once(&c.fingerprint).chain(other).any(|name| *f == name.to_string())
                    })
                    && self.parent.is_none_or(|p| c.parent == Some(ClaimId(p)))
            }
            AnyClaim::Selector(c) => {
                let is = |want: &Option<String>, has: &Option<String>| want.is_none() || want == has;
                self.fingerprint.is_none()
                    && self.parent.is_none()
                    && is(&self.issuer, &c.selector.iss)
                    && is(&self.sub, &c.selector.sub)
            }
        };
        let part = |want: &Option<String>, has: &str| want.as_ref().is_none_or(|w| has.contains(w.as_str()));
        own && self.kind.is_none_or(|k| k == kind)
            && part(&self.reason, reason)
            && part(&self.actor, actor)
            && self.ticket.as_ref().is_none_or(|t| t == ticket)
            && self.source.as_ref().is_none_or(|s| {
                s == source
                    || s == "lockdown" && is_lockdown(source)
                    || s == IMPORT && source == IMPORTED_LOCKDOWN
            })
            && self.since.is_none_or(|t| created >= WallTime(t))
            && self.before.is_none_or(|t| created < WallTime(t))
    }
}

pub(super) async fn list(
    State(s): State<AdminState>,
    Query(page): Query<Page>,
) -> Result<Response, ApiError> {
    let limit = page.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    if let Some(f) = &page.fingerprint {
        f.parse::<portcullis_common::fingerprint::DenyFingerprint>().map_err(|e| bad(e.to_string()))?;
    }
    let claims = s.plane.list(ClaimId(page.after), limit, move |claim| page.keeps(claim)).await?;
    let next = claims.last().filter(|_| claims.len() == limit).map(AnyClaim::id);
    Ok(Json(json!({"revocations": claims, "next": next})).into_response())
}

pub(super) async fn stats(State(s): State<AdminState>) -> Json<Value> {
    Json(serde_json::to_value(s.plane.status()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use portcullis_common::fingerprint::DenyFingerprint;

    use super::*;
    use crate::revoke::{Claim, Named};

    #[test]
    fn a_page_keeps_what_is_asked_for_by_either_name_and_by_ticket() {
        let name = |n| DenyFingerprint([n, n]);
        let claim = AnyClaim::Token(Claim {
            id: ClaimId(1),
            fingerprint: name(1),
            key_id: 1,
            other: Some(Named { fingerprint: name(2), key_id: 2 }),
            created: WallTime(5),
            until: WallTime(9),
            reason: String::new(),
            actor: "uid:0".into(),
            ticket: "INC-7".into(),
            source: "admin".into(),
            parent: None,
        });
        let keeps = |query: Value| serde_json::from_value::<Page>(query).unwrap().keeps(&claim);
        for (n, kept) in [(1, true), (2, true), (3, false)] {
            assert_eq!(keeps(json!({"fingerprint": name(n).to_string()})), kept, "{n}");
        }
        assert!(keeps(json!({})) && keeps(json!({"ticket": "INC-7"})) && !keeps(json!({"ticket": "INC"})));
    }
}
