//! `GET /v1/usage`: who was used last when.

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{Query, State},
    http::StatusCode,
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AdminState, ApiError, bad, json::Json, revocations::MAX_PAGE};
use crate::usage::{Row, UsageError};

/// Entries that were used last before an hour, at most so many.
pub type UsageLister = Arc<dyn Fn(u32, usize) -> Result<Vec<Row>, UsageError> + Send + Sync>;

#[derive(Deserialize)]
pub(super) struct Asked {
    /// Only what was not used for so long.
    dormant: Option<String>,
    limit: Option<usize>,
}

pub(super) async fn list(
    State(s): State<AdminState>,
    Query(asked): Query<Asked>,
) -> Result<Json<Value>, ApiError> {
    let Some((book, lister)) = s.usage else {
        let why = "uses are not noted: set `usage.file`".to_owned();
        return Err(ApiError(StatusCode::NOT_FOUND, "usage_off", why));
    };
    let idle = match asked.dormant.as_deref() {
        None => None,
        Some(text) => Some(
            humantime::parse_duration(text)
                .map_err(|_| bad(format!("`dormant` \"{text}\" is not a length of time such as \"30d\"")))?,
        ),
    };
    let hours = |d: Duration| i64::try_from(d.as_secs() / 3600).unwrap_or(i64::MAX);
    let now = s.clock.wall().seconds() / 3600;
    let before = idle
        .map_or(u32::MAX, |idle| u32::try_from(now.saturating_sub(hours(idle)).max(0)).unwrap_or(u32::MAX));
    let limit = asked.limit.unwrap_or(100).clamp(1, MAX_PAGE);
    let listed = tokio::task::spawn_blocking(move || lister(before, limit)).await;
    let failed = |why: String| ApiError(StatusCode::INTERNAL_SERVER_ERROR, "usage_failed", why);
    let rows = listed.map_err(|_| failed("the list could not be made".to_owned()))?;
    let rows = rows.map_err(|e| failed(e.to_string()))?;
    let seconds = |hour: u32| u64::from(hour) * 3600;
    let rows: Vec<Value> = rows
        .iter()
        .map(|row| {
            let mut value = serde_json::to_value(&row.label).unwrap_or_default();
            value["kind"] = if row.label.fingerprint.is_some() { "token" } else { "subject" }.into();
            value["first_used"] = seconds(row.first).into();
            value["last_used"] = seconds(row.last).into();
            value
        })
        .collect();
    Ok(Json(json!({"observed_since": seconds(book.observed()), "usage": rows})))
}
