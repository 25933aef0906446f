//! Changes of the revocations as they come about, as server-sent events (WHATWG HTML, section 9.2). Each has the number of
//! its entry in the log as its id, from which a reader goes on that was away.

use std::time::Duration;

use axum::{
    body::Body,
    extract::{Query, State},
    http::HeaderMap,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use super::{AdminState, ApiError, bad};
use crate::revoke::{Change, LogEntry};

/// Entries read at once.
const PAGE: usize = 256;
/// A comment goes out where nothing else does, so that both sides see a connection that is dead.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// Only what comes after this entry; without it and without `Last-Event-ID`, what comes from now on.
    after: Option<u64>,
}

pub(super) async fn watch(
    State(s): State<AdminState>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let last = headers.get("last-event-id").map(|id| {
        id.to_str().ok().and_then(|t| t.parse().ok()).ok_or_else(|| bad("`Last-Event-ID` is no number"))
    });
    let mut head = s.plane.head();
    let mut after = last.transpose()?.or(from.after).unwrap_or(*head.borrow_and_update());
    let (sender, events) = mpsc::channel::<Result<String, std::io::Error>>(4);
    tokio::spawn(async move {
        loop {
            let text = match s.plane.entries(after, PAGE).await {
                Ok(Some(entries)) if entries.is_empty() => {
                    tokio::select! {
                        () = s.stop.cancelled() => return,
                        () = sender.closed() => return,
                        changed = head.changed() => if changed.is_err() { return },
                        () = tokio::time::sleep(ALIVE) => {
                            if sender.send(Ok(":\n\n".to_owned())).await.is_err() {
                                return;
                            }
                        }
                    }
                    continue;
                }
                Ok(Some(entries)) => {
                    after = entries.last().map_or(after, |e| e.entry);
                    entries.iter().map(told).collect()
                }
                // What came after it is in a snapshot only: the reader is to take all anew.
                Ok(None) => {
                    after = *head.borrow_and_update();
                    format!("id: {after}\nevent: reset\ndata: {{}}\n\n")
                }
                Err(e) => return drop(sender.send(Err(std::io::Error::other(e.to_string()))).await),
            };
            if sender.send(Ok(text)).await.is_err() {
                return;
            }
        }
    });
    let kind = [("content-type", "text/event-stream"), ("cache-control", "no-store")];
    Ok((kind, Body::from_stream(ReceiverStream::new(events))).into_response())
}

fn told(entry: &LogEntry) -> String {
    let one = |change: &Change| {
        let (kind, data) = match change {
            Change::Revoked(claim) => ("revoked", serde_json::to_value(claim).unwrap_or_default()),
            Change::Lifted { ids, by } => ("lifted", json!({"ids": ids, "by": by})),
            Change::Expired(ids) => ("expired", json!({"ids": ids})),
            // The same as the lifting beside it.
            Change::Buried(_) => return String::new(),
        };
        format!("id: {}\nevent: {kind}\ndata: {data}\n\n", entry.entry)
    };
    entry.changes.iter().map(one).collect()
}
