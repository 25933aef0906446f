//! The candidate set beside the live one: what it would change, promoting it, going back.

use axum::{extract::State, http::StatusCode};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::{AdminState, ApiError, Caller, json::Json};

/// An order to change the live set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Promotion {
    /// Which.
    pub kind: PromotionKind,
    /// Who asks.
    pub actor: String,
}

/// Which set is to be the live one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PromotionKind {
    /// The candidate.
    Promote,
    /// The one before.
    Rollback,
}

pub(super) async fn shadow(State(s): State<AdminState>) -> Result<Json<Value>, ApiError> {
    let told = tokio::task::spawn_blocking(move || (s.shadow)()).await;
    told.map(Json).map_err(|_| stopping())
}

pub(super) async fn promote(s: State<AdminState>, by: Caller) -> Result<Json<Value>, ApiError> {
    change(s, by, PromotionKind::Promote).await
}

pub(super) async fn rollback(s: State<AdminState>, by: Caller) -> Result<Json<Value>, ApiError> {
    change(s, by, PromotionKind::Rollback).await
}

fn stopping() -> ApiError {
    ApiError(StatusCode::SERVICE_UNAVAILABLE, "busy", "the daemon is stopping".to_owned())
}

async fn change(
    State(s): State<AdminState>,
    by: Caller,
    kind: PromotionKind,
) -> Result<Json<Value>, ApiError> {
    let actor = by.0.clone();
    let (reply, answer) = oneshot::channel();
    s.promotions.send((Promotion { kind, actor }, reply)).await.map_err(|_| stopping())?;
    let done = answer.await.map_err(|_| stopping())?;
    let action = if kind == PromotionKind::Promote { "promote" } else { "rollback" };
    let outcome = done.as_ref().map_or_else(|why| json!({"refused": why}), |told| json!({"outcome": told}));
    s.noted(&by, action, outcome).await;
    done.map(Json).map_err(|why| ApiError(StatusCode::UNPROCESSABLE_ENTITY, "policy_refused", why))
}
