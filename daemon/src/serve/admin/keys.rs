//! The admin API's part for API keys: issued, listed, rotated, disabled. A key's text is in the answer to its making, and
//! never again. What is disabled is disabled on disk and condemned in the kernel before that is answered.

use std::sync::Arc;

use axum::{
    body::Bytes,
    extract::{Path, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AdminState, ApiError, Caller, bad, json::Json, parse};
use crate::{
    clock::WallTime,
    revoke::{Fingerprints, Order},
    token::{ApiKey, ApiKeyError, ApiKeys, NewApiKey},
};

/// So much is noted of an id that is none.
const MAX_ID: usize = 100;

impl From<ApiKeyError> for ApiError {
    fn from(e: ApiKeyError) -> Self {
        let (status, code) = match &e {
            ApiKeyError::Unknown(_) => (StatusCode::NOT_FOUND, "unknown_key"),
            ApiKeyError::Over(_) => (StatusCode::CONFLICT, "key_over"),
            ApiKeyError::Bad(_) => (StatusCode::BAD_REQUEST, "bad_request"),
            ApiKeyError::Full => (StatusCode::INSUFFICIENT_STORAGE, "full"),
            ApiKeyError::File { .. } | ApiKeyError::NoRandomness => {
                (StatusCode::INTERNAL_SERVER_ERROR, "store_failed")
            }
        };
        Self(status, code, e.to_string())
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct IssueRequest {
    subject: String,
    client: Option<String>,
    #[serde(default)]
    scopes: Vec<String>,
    #[serde(default)]
    roles: Vec<String>,
    ttl: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RotateRequest {
    overlap: Option<String>,
}

fn store(s: &AdminState) -> Result<Arc<ApiKeys>, ApiError> {
    s.api_keys.clone().ok_or_else(|| {
        let message = "API keys are off: name a file for them in `[token.api_keys]`".to_owned();
        ApiError(StatusCode::CONFLICT, "keys_off", message)
    })
}

fn seconds(name: &str, text: &str) -> Result<i64, ApiError> {
    let read = humantime::parse_duration(text).ok().and_then(|d| i64::try_from(d.as_secs()).ok());
    read.ok_or_else(|| bad(format!("`{name}` \"{text}\" is not a length of time such as \"12h\" or \"90d\"")))
}

/// Runs what waits for the disk.
async fn waiting<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ApiKeyError> + Send + 'static,
) -> Result<T, ApiError> {
    let failed =
        |_| ApiError(StatusCode::INTERNAL_SERVER_ERROR, "store_failed", "the change failed".to_owned());
    tokio::task::spawn_blocking(work).await.map_err(failed)?.map_err(ApiError::from)
}

/// Notes an order about keys that was refused.
fn noted<T>(
    s: &AdminState,
    by: &Caller,
    of: &str,
    key: Option<&str>,
    done: Result<T, ApiError>,
) -> Result<T, ApiError> {
    if let Err(e) = &done {
        let key = key.map(|id| id.chars().take(MAX_ID).collect::<String>());
        s.plane.note_later(&json!({"action": "refused", "of": of, "actor": by.0, "key": key, "code": e.1}));
    }
    done
}

pub(super) async fn issue(
    State(s): State<AdminState>,
    by: Caller,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let done = issue_one(&s, &by, body).await;
    noted(&s, &by, "issue_key", None, done)
}

async fn issue_one(s: &AdminState, by: &Caller, body: Bytes) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (keys, r): (_, IssueRequest) = (store(s)?, parse(&body)?);
    let now = s.clock.wall().seconds();
    let ttl = r.ttl.as_deref().map(|text| seconds("ttl", text)).transpose()?;
    let expires = ttl.map(|ttl| now.saturating_add(ttl));
    let (subject, client, scopes, roles) = (r.subject, r.client, r.scopes, r.roles);
    let new = NewApiKey { subject, client, scopes, roles, expires, actor: by.0.clone() };
    let (key, token) = waiting(move || keys.issue(new, now)).await?;
    tracing::info!(id = key.id, subject = key.subject, actor = key.actor, "API key issued");
    s.noted(by, "issue_key", json!({"key": key.id, "subject": key.subject})).await;
    Ok((StatusCode::CREATED, Json(json!({"key": key, "token": token.as_str()}))))
}

pub(super) async fn list(State(s): State<AdminState>) -> Result<Json<Value>, ApiError> {
    Ok(Json(json!({"keys": store(&s)?.list()})))
}

pub(super) async fn rotate(
    State(s): State<AdminState>,
    by: Caller,
    Path(id): Path<String>,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let done = rotate_one(&s, &by, id.clone(), body).await;
    noted(&s, &by, "rotate_key", Some(&id), done)
}

async fn rotate_one(
    s: &AdminState,
    by: &Caller,
    id: String,
    body: Bytes,
) -> Result<(StatusCode, Json<Value>), ApiError> {
    let (keys, r): (_, RotateRequest) = (store(s)?, parse(&body)?);
    let overlap = seconds("overlap", r.overlap.as_deref().unwrap_or("0s"))?;
    let (now, actor) = (s.clock.wall().seconds(), by.0.clone());
    let (old, new, token) = waiting(move || keys.rotate(&id, overlap, &actor, now)).await?;
    s.noted(by, "rotate_key", json!({"key": old.id, "new": new.id, "overlap_seconds": overlap})).await;
    tracing::info!(old = old.id, new = new.id, actor = new.actor, overlap, "API key rotated");
    let in_kernel = if old.disabled.is_some() { condemn(s, &old, "rotated", by).await } else { None };
    let told = json!({"old": old, "key": new, "token": token.as_str(), "revocation": in_kernel});
    Ok((StatusCode::CREATED, Json(told)))
}

pub(super) async fn disable(
    State(s): State<AdminState>,
    by: Caller,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let done = disable_one(&s, &by, id.clone()).await;
    noted(&s, &by, "disable_key", Some(&id), done)
}

async fn disable_one(s: &AdminState, by: &Caller, id: String) -> Result<Json<Value>, ApiError> {
    let (keys, now) = (store(s)?, s.clock.wall().seconds());
    let key = waiting(move || keys.disable(&id, now)).await?;
    tracing::info!(id = key.id, subject = key.subject, actor = by.0, "API key disabled");
    s.noted(by, "disable_key", json!({"key": key.id})).await;
    let revocation = condemn(s, &key, "disabled", by).await;
    Ok(Json(json!({"key": key, "revocation": revocation})))
}

/// Revokes a disabled key, so that the kernel refuses it: the revocation's id. The decision path refuses it anyway, for
/// good; so where this fails it is said, and is no error.
async fn condemn(s: &AdminState, key: &ApiKey, why: &str, by: &Caller) -> Option<u64> {
    let keys = s.decider.key_ids();
    let Some((fingerprint, key_id)) = key.fingerprint().filter(|(_, id)| keys.has(*id)) else {
        tracing::warn!(
            id = key.id,
            "a disabled API key is refused by the decision path alone: it was issued under another fingerprint key"
        );
        return None;
    };
    let lapses = s.clock.wall().plus(s.default_ttl);
    let until = key.expires.map(WallTime::from_seconds).map_or(lapses, |expires| expires.min(lapses));
    if until <= s.clock.wall() {
        return None;
    }
    let reason = format!("API key {} {why}", key.id);
    let order = Order {
        token: Fingerprints::of(fingerprint, key_id),
        until,
        reason,
        actor: by.0.clone(),
        ticket: String::new(),
        source: "admin".to_owned(),
        parent: None,
    };
    match s.plane.revoke(order).await {
        Ok(claim) => Some(claim.id.0),
        Err(e) => {
            tracing::error!(error = %e, id = key.id, "a disabled API key is refused by the decision path alone");
            None
        }
    }
}
