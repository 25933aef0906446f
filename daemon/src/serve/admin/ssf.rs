//! The admin API's part for security events: how their transmitters stand, and orders about their streams.

use axum::{
    extract::{Path, State},
    http::StatusCode,
};
use serde_json::{Value, json};

use super::{AdminState, ApiError, Caller, json::Json};
use crate::ssf::StreamOrder;

pub(super) async fn list(State(s): State<AdminState>) -> Json<Value> {
    Json(json!({"transmitters": s.ssf.status()}))
}

pub(super) async fn order(
    State(s): State<AdminState>,
    by: Caller,
    Path((name, order)): Path<(String, String)>,
) -> Result<Json<Value>, ApiError> {
    let order = match order.as_str() {
        "verify" => StreamOrder::Verify,
        "enable" => StreamOrder::Enable,
        "pause" => StreamOrder::Pause,
        "disable" => StreamOrder::Disable,
        "delete" => StreamOrder::Delete,
        _ => {
            return Err(ApiError(
                StatusCode::NOT_FOUND,
                "unknown_order",
                format!("there is no order `{order}`"),
            ));
        }
    };
    let transmitter = s.ssf.get(&name).ok_or_else(|| {
        let message = format!("there is no transmitter `{name}`: `portcullis ssf status` shows them");
        ApiError(StatusCode::NOT_FOUND, "unknown_transmitter", message)
    })?;
    tracing::info!(transmitter = name, ?order, actor = by.0, "an order about a stream of security events");
    transmitter.order(order).await.map_err(|why| {
        let message = format!("the transmitter `{name}` did not do that: {why}");
        ApiError(StatusCode::BAD_GATEWAY, "transmitter_failed", message)
    })?;
    s.noted(&by, "ssf", json!({"transmitter": name, "order": order})).await;
    Ok(Json(json!({"transmitter": transmitter.status(), "order": order})))
}
