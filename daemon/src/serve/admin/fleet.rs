//! Other hosts: how they stand, and waiting until they have an order in force.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};

use super::{AdminState, ApiError, bad, json::Json};
use crate::revoke::{
    AnyClaim, Name,
    feed::{Feed, Level},
};

/// Longest wait.
const LONGEST: Duration = Duration::from_mins(1);

/// How far an order must have come before it is answered, in the query.
#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Wait {
    /// `local`, `stored`, `applied` or `all`, which is the same.
    #[serde(rename = "wait")]
    level: Option<Level>,
    /// Names of hosts, with commas between; all live ones where none are given.
    hosts: Option<String>,
    /// Longest time.
    timeout: Option<String>,
}

impl Wait {
    /// As it stands in another query.
    pub const fn new(level: Option<Level>, hosts: Option<String>, timeout: Option<String>) -> Self {
        Self { level, hosts, timeout }
    }

    /// Checks it, before anything is ordered; `None` where nobody waits.
    pub fn read(&self, s: &AdminState) -> Result<Option<Waiting>, ApiError> {
        let usual = s.fleet.as_ref().map(|f| f.usual());
        let level = self.level.or(usual.map(|u| u.0)).unwrap_or_default();
        let timeout = match &self.timeout {
            None => usual.map_or(LONGEST, |u| u.1),
            Some(text) => humantime::parse_duration(text)
                .ok()
                .filter(|d| !d.is_zero() && *d <= LONGEST)
                .ok_or_else(|| bad("`timeout` is no length of time of at most 1m, such as \"5s\""))?,
        };
        let hosts = self.hosts.as_deref().unwrap_or_default();
        if hosts.len() > 4096 {
            return Err(bad("`hosts` names too many"));
        }
        let hosts = hosts.split(',').filter(|h| !h.is_empty()).map(str::to_owned).collect();
        match (&s.fleet, level) {
            (_, Level::Local) => Ok(None),
            (Some(feed), level) => Ok(Some(Waiting { feed: Arc::clone(feed), level, hosts, timeout })),
            (None, _) => Err(ApiError(
                StatusCode::BAD_REQUEST,
                "no_fleet",
                "there is no fleet to wait for: `fleet.servers` names no server".to_owned(),
            )),
        }
    }
}

/// Somebody who waits.
pub struct Waiting {
    feed: Arc<Feed>,
    level: Level,
    hosts: BTreeSet<String>,
    timeout: Duration,
}

impl Waiting {
    /// Waits until all that was ordered so far has come so far; tells how far it came, and whether that is what was asked.
    pub async fn wait(&self, s: &AdminState) -> (Value, bool) {
        let entry = *s.plane.head().borrow();
        let waited = self.feed.wait(self.level, entry, &self.hosts, self.timeout).await;
        (serde_json::to_value(&waited).unwrap_or_default(), waited.reached)
    }
}

/// An answer to an order, when it has come as far as was asked: 202 where it has not in time.
pub async fn answer(
    s: &AdminState,
    waiting: Option<Waiting>,
    status: StatusCode,
    mut told: Value,
) -> Response {
    let Some(waiting) = waiting else { return (status, Json(told)).into_response() };
    let (fleet, reached) = waiting.wait(s).await;
    told["fleet"] = fleet;
    (if reached { status } else { StatusCode::ACCEPTED }, Json(told)).into_response()
}

/// What other hosts have of a claim that was ordered here; of another's, where to ask.
pub async fn receipt(s: &AdminState, claim: &AnyClaim, entry: u64) -> Option<Value> {
    let feed = s.fleet.as_ref()?;
    let source = match claim {
        AnyClaim::Token(c) => &c.source,
        AnyClaim::Selector(c) => &c.source,
    };
    if let Some(name) = Name::of_source(source) {
        return Some(json!({"ordered_on": name.origin, "id_there": name.id}));
    }
    serde_json::to_value(feed.receipts(entry, &BTreeSet::new()).await).ok()
}

/// How the fleet stands.
pub(super) async fn show(State(s): State<AdminState>) -> Json<Value> {
    Json(s.fleet.as_ref().map_or(json!({"configured": false}), |feed| {
        let mut told = serde_json::to_value(feed.status()).unwrap_or_default();
        told["configured"] = true.into();
        told
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_another_word_for_applied() {
        let read = |word: &str| serde_json::from_value::<Level>(word.into()).ok();
        for (word, level) in [
            ("local", Some(Level::Local)),
            ("stored", Some(Level::Stored)),
            ("applied", Some(Level::Applied)),
            ("all", Some(Level::Applied)),
            ("none", None),
        ] {
            assert_eq!(read(word), level, "{word}");
        }
    }
}
