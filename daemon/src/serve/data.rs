//! OPA's data API: `POST /v1/data/<path>`.

use std::time::Instant;

use bytes::Bytes;
use http::StatusCode;
use portcullis_common::reason::Reason;
use serde_json::json;

use super::doors::{Answer, Doors, json as json_answer};
use crate::{decide::DataAnswer, telemetry::Door};

pub(super) async fn answer(doors: &Doors, path: &str, body: Result<Bytes, Reason>) -> Answer {
    let start = Instant::now();
    let result = decide(doors, path, body).await;
    let reason = result.as_ref().map_or_else(|r| *r, |a| a.reason);
    doors.metrics.decision(Door::Data, reason, start.elapsed());
    match result {
        Ok(answer) => json_answer(StatusCode::OK, answer.body),
        Err(reason) => error(reason),
    }
}

async fn decide(doors: &Doors, path: &str, body: Result<Bytes, Reason>) -> Result<DataAnswer, Reason> {
    let body = body?;
    let rest = path.strip_prefix("/v1/data").unwrap_or_default().trim_matches('/');
    let decoded;
    let segments: Vec<&str> = if rest.is_empty() {
        Vec::new()
    } else if rest.contains('%') {
        decoded = crate::decide::segments(&format!("/{rest}")).map_err(|_| Reason::RequestMalformed)?;
        decoded.iter().map(String::as_str).collect()
    } else {
        rest.split('/').collect()
    };
    doors.decider.data(&segments, &body, &doors.settings.token_path).await
}

/// An error in OPA's shape.
fn error(reason: Reason) -> Answer {
    let status = StatusCode::from_u16(reason.status()).unwrap_or(StatusCode::BAD_REQUEST);
    let body = json!({"code": "invalid_parameter", "message": reason.describe()});
    json_answer(status, body.to_string().into())
}
