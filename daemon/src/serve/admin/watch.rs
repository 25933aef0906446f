//! Changes of the revocations as they come about, as server-sent events (WHATWG HTML, section 9.2). The id of an entry's last
//! event is the entry's number in the log, those before it have a count behind that (`6.1`, `6.2`, … `6`): a reader that
//! was away goes on behind the very event that it had last.

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
/// Bytes sent at once, and as many wait for a reader that is slow.
const SENT: usize = 64 << 10;
/// A comment goes out where nothing else does, so that both sides see a connection that is dead.
const ALIVE: Duration = Duration::from_secs(15);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct From {
    /// Only what comes after this event; without it and without `Last-Event-ID`, what comes from now on.
    after: Option<String>,
}

/// An event's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EventId {
    entry: u64,
    /// Which of the entry's events it is, from 1; `None` for the last, and for the entry as a whole.
    event: Option<usize>,
}

impl EventId {
    fn read(text: &str) -> Option<Self> {
        let (entry, event) = match text.split_once('.') {
            Some((entry, event)) => (entry, Some(event.parse().ok().filter(|n| *n > 0)?)),
            None => (text, None),
        };
        Some(Self { entry: entry.parse().ok()?, event })
    }

    /// Behind which entry to go on, and how many events of the next one are known. `head` is the log's last entry: one
    /// that it does not have is of another log.
    fn place(self, head: u64) -> (u64, usize) {
        match self.event {
            Some(known) if self.entry > 0 && self.entry <= head => (self.entry - 1, known),
            _ => (self.entry, 0),
        }
    }
}

pub(super) async fn watch(
    State(s): State<AdminState>,
    Query(from): Query<From>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let given = match (headers.get("last-event-id"), &from.after) {
        (Some(id), _) => Some((id.to_str().unwrap_or_default(), "Last-Event-ID")),
        (None, after) => after.as_deref().map(|id| (id, "after")),
    };
    let read = |(id, named)| {
        let wrong = || bad(format!("`{named}` is no event's id such as `6` or `6.2`"));
        EventId::read(id).ok_or_else(wrong)
    };
    let last = given.map(read).transpose()?;
    let mut head = s.plane.head();
    let now = *head.borrow_and_update();
    let (mut after, mut known) = last.map_or((now, 0), |id| id.place(now));
    let (sender, events) = mpsc::channel::<Result<String, std::io::Error>>(1);
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
                    let mut text = String::new();
                    for entry in entries {
                        after = entry.entry;
                        for event in told(&entry, std::mem::take(&mut known)) {
                            text.push_str(&event);
                            if text.len() >= SENT && sender.send(Ok(std::mem::take(&mut text))).await.is_err()
                            {
                                return;
                            }
                        }
                    }
                    text
                }
                // What came after it is in a snapshot only: the reader is to take all anew.
                Ok(None) => {
                    known = 0;
                    after = *head.borrow_and_update();
                    format!("id: {after}\nevent: reset\ndata: {{}}\n\n")
                }
                Err(e) => return drop(sender.send(Err(std::io::Error::other(e.to_string()))).await),
            };
            if !text.is_empty() && sender.send(Ok(text)).await.is_err() {
                return;
            }
        }
    });
    let kind = [("content-type", "text/event-stream"), ("cache-control", "no-store")];
    Ok((kind, Body::from_stream(ReceiverStream::new(events))).into_response())
}

/// An entry's events behind those that are known.
fn told(entry: &LogEntry, known: usize) -> impl Iterator<Item = String> {
    let one = |change: &Change| {
        Some(match change {
            Change::Revoked(claim) => ("revoked", serde_json::to_value(claim).unwrap_or_default()),
            Change::Lifted { ids, by } => ("lifted", json!({"ids": ids, "by": by})),
            Change::Expired(ids) => ("expired", json!({"ids": ids})),
            // The same as the lifting beside it.
            Change::Buried(_) => return None,
        })
    };
    let last = entry.changes.iter().filter(|c| !matches!(c, Change::Buried(_))).count();
    entry.changes.iter().filter_map(one).enumerate().skip(known).map(move |(n, (kind, data))| {
        let part = if n + 1 == last { String::new() } else { format!(".{}", n + 1) };
        format!("id: {}{part}\nevent: {kind}\ndata: {data}\n\n", entry.entry)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::revoke::ClaimId;

    #[test]
    fn a_reader_that_was_cut_off_within_an_entry_loses_nothing_of_it() {
        let changes: Vec<Change> = (1..=3).map(|id| Change::Expired(vec![ClaimId(id)])).collect();
        let changes = [changes, vec![Change::Buried(Vec::new())]].concat();
        let entry = LogEntry { entry: 6, time: 0, changes };
        let ids = |known| -> Vec<String> {
            let text: String = told(&entry, known).collect();
            text.lines().filter_map(|l| l.strip_prefix("id: ")).map(str::to_owned).collect()
        };
        assert_eq!(ids(0), ["6.1", "6.2", "6"]);
        let place = |id: &str, head| EventId::read(id).map(|id| id.place(head));
        let (after, known) = place("6.1", 9).unwrap();
        assert_eq!((after, ids(known)), (5, vec!["6.2".to_owned(), "6".to_owned()]));
        assert_eq!(place("6", 9), Some((6, 0)), "the whole entry, as every id was once");
        assert_eq!(place("6.1", 5), Some((6, 0)), "of another log: the reader is told to take all anew");
        for none in ["", "x", "6.", "6.0", ".1", "-1", "6.1.2"] {
            assert_eq!(place(none, 9), None, "{none}");
        }
    }
}
