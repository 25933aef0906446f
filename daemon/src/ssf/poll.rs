//! Events are fetched (RFC 8936). Each request acknowledges what the one before brought.

use std::time::{Duration, Instant};

use serde_json::{Map, Value, json};

use super::{Refused, Transmitter};
use crate::fetch::{Bounds, FetchError, Request, Stage, Url};
use http::Method;

/// Longest answer. Where events do not fit, fewer are asked for.
const MAX_BODY: usize = 4 << 20;

/// What is to be said of the events that came.
#[derive(Default)]
struct Said {
    taken: Vec<String>,
    refused: Map<String, Value>,
}

impl Transmitter {
    /// Fetches events for as long as that goes well.
    pub(super) async fn poll(
        &self,
        url: &Url,
        hold: Duration,
        interval: Duration,
        max_events: u32,
    ) -> Result<(), String> {
        let (mut said, mut most, mut is_more) = (Said::default(), max_events, false);
        loop {
            let begun = Instant::now();
            let at_once = hold.is_zero() || is_more;
            let body = json!({
                "maxEvents": most, "returnImmediately": at_once, "ack": said.taken, "setErrs": said.refused,
            });
            let request = self.signed(Request::new(Method::POST, url.clone())).await?;
            let request = request
                .header(http::header::ACCEPT, "application/json")
                .body("application/json", body.to_string().into());
            let bounds = Bounds { deadline: self.settings.timeout + hold, max_body: MAX_BODY };
            let answer = match self.client.send(request, bounds).await {
                Ok(answer) => {
                    if answer.status == http::StatusCode::UNAUTHORIZED {
                        self.forget_token().await;
                    }
                    answer.success().map_err(|e| e.to_string())?
                }
                // It held the request longer than it is waited for: there was nothing. What was said is said again.
                Err(FetchError::Deadline { stage: Stage::Answer, .. }) if !at_once => continue,
                Err(FetchError::TooLong { .. }) if most > 1 => {
                    most /= 2;
                    continue;
                }
                Err(e) => return Err(e.to_string()),
            };
            said = Said::default();
            let told: Value = serde_json::from_slice(&answer.body)
                .map_err(|_| format!("the answer of `{}` is not JSON", answer.url))?;
            let sets = match told.get("sets") {
                None => Map::new(),
                Some(Value::Object(sets)) => sets.clone(),
                Some(_) => return Err(format!("the `sets` that `{}` answered are no object", answer.url)),
            };
            is_more = told.get("moreAvailable") == Some(&Value::Bool(true)) && !sets.is_empty();
            self.state.lock().status.last_answer = Some(self.clock.wall().seconds());
            let was_empty = sets.is_empty();
            let later = self.take_all(sets, &mut said).await;
            if later {
                // They come again. What was taken is said first, should that last.
                tokio::time::sleep(interval.min(Duration::from_secs(1))).await;
            } else if was_empty {
                // A transmitter that holds no requests is not asked without pause.
                let held = begun.elapsed();
                if at_once || held < Duration::from_secs(1) {
                    tokio::time::sleep(interval.saturating_sub(held)).await;
                }
            } else {
                most = most.saturating_mul(2).min(max_events);
            }
        }
    }

    /// Takes events one after the other. Whether some could not be taken now.
    async fn take_all(&self, sets: Map<String, Value>, said: &mut Said) -> bool {
        let mut later = false;
        for (id, set) in sets {
            let taken = match set.as_str() {
                Some(text) => self.accept(text).await,
                None => Err(Refused::bad("invalid_request", "the event is no text")),
            };
            match taken {
                Ok(jti) if jti == id => said.taken.push(id),
                Ok(_) => {
                    // It counts. Under this name the transmitter knows another.
                    let error = json!({"err": "invalid_request", "description": "`jti` is not the name it was sent by"});
                    said.refused.insert(id, error);
                }
                Err(Refused::Bad { err, description }) => {
                    said.refused.insert(id, json!({"err": err, "description": description}));
                }
                Err(Refused::Later(_)) => later = true,
            }
        }
        later
    }
}
