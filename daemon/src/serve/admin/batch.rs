//! Many revocations at once: JSON lines in, a JSON line of each one's result out; and all of them, as JSON lines.

use std::{fmt::Write as _, time::Instant};

use axum::{
    body::{Body, Bytes},
    extract::{Query, State},
    http::{HeaderMap, StatusCode},
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use super::{
    AdminState, ApiError, Caller, bad,
    fleet::{Wait, Waiting},
    import::Imports,
    order::{IdempotencyKey, Ordered, RevokeRequest, over},
    parse,
};
use crate::{
    clock::WallTime,
    revoke::{AnyClaim, ClaimId, Once, Order, RevokeError, SelectorOrder, feed::Level},
};

/// Lines that are revoked together.
const CHUNK: usize = 4096;
/// Selectors that are ordered together.
const SELECTORS: usize = 256;
/// Marks the key of a selector's line among those of parts.
const SELECTOR: u64 = 1 << 63;
/// Longest line, in bytes.
const MAX_LINE: usize = 16 * 1024;
/// Claims read at once for an export.
const PAGE: usize = 4096;

/// Which lines are answered.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Options {
    /// `all` or `errors`.
    #[serde(default)]
    results: Results,
    wait: Option<Level>,
    hosts: Option<String>,
    timeout: Option<String>,
}

#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Results {
    #[default]
    All,
    Errors,
}

pub(super) async fn revoke(
    State(s): State<AdminState>,
    by: Caller,
    Query(options): Query<Options>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let key = IdempotencyKey::read(&headers, &by)?;
    let all = options.results == Results::All;
    let waiting = Wait::new(options.wait, options.hosts, options.timeout).read(&s)?;
    let (told, lines) = mpsc::channel(8);
    // Two parts wait at most: one is read while another is on its way to the disk.
    let (read, parts) = mpsc::channel(2);
    let imports = Imports::new(&s.plane);
    let run = Run { s, by, told, all, waiting, imports, accepted: 0, refused: 0 };
    let (state, caller) = (run.s.clone(), run.by.clone());
    tokio::spawn(async move { Reader { s: state, by: caller, key, parts: read }.run(body).await });
    tokio::spawn(run.run(parts));
    let body = Body::from_stream(ReceiverStream::new(lines));
    Ok(([("content-type", "application/x-ndjson")], body).into_response())
}

/// Lines that go together.
struct Part {
    number: u64,
    /// Orders of tokens, with the number of each one's line.
    orders: Vec<(u64, Order)>,
    selectors: Vec<(u64, Box<SelectorOrder>)>,
    /// Lines of tokens whose end was over when the part was begun, with that end. Given before, they may have been taken.
    over: Vec<(u64, WallTime)>,
    /// Lines of selectors of that kind.
    over_selectors: Vec<u64>,
    /// When the part was begun.
    asked: WallTime,
    refused: Vec<(u64, ApiError)>,
    once: Option<Once>,
    /// Of each selector.
    selector_once: Vec<Once>,
    /// What ended the reading before its time.
    broken: Option<String>,
}

impl Part {
    fn begin(number: u64, asked: WallTime) -> Self {
        Self {
            number,
            asked,
            orders: Vec::new(),
            selectors: Vec::new(),
            over: Vec::new(),
            over_selectors: Vec::new(),
            refused: Vec::new(),
            once: None,
            selector_once: Vec::new(),
            broken: None,
        }
    }

    /// The same lines are the same part whenever they come.
    fn is_full(&self) -> bool {
        self.orders.len() + self.over.len() + self.refused.len() >= CHUNK
            || self.selectors.len() + self.over_selectors.len() >= SELECTORS
    }
}

/// Which lines claims came of that were ordered under a key before, in the order of the lines: all but those that were
/// over then already, which are the first ones to have been of those that are over now. `None` where that does not add up.
fn taken_before(orders: &[u64], over: &[(u64, WallTime)], claims: usize) -> Option<Vec<u64>> {
    let never = (orders.len() + over.len()).checked_sub(claims)?;
    let mut over = over.to_vec();
    over.sort_unstable_by_key(|(line, until)| (*until, *line));
    let mut lines: Vec<u64> = over.get(never..)?.iter().map(|(line, _)| *line).collect();
    lines.extend(orders);
    lines.sort_unstable();
    Some(lines)
}

/// Makes parts of what is sent.
struct Reader {
    s: AdminState,
    by: Caller,
    key: Option<IdempotencyKey>,
    parts: mpsc::Sender<Part>,
}

impl Reader {
    async fn run(self, body: Body) {
        let mut data = body.into_data_stream();
        let (mut rest, mut line) = (Vec::new(), 0);
        let (mut part, mut raw) = (Part::begin(0, self.s.clock.wall()), Vec::new());
        loop {
            let (bytes, end) = match data.next().await {
                Some(Ok(bytes)) => (bytes, false),
                Some(Err(e)) => {
                    part.broken = Some(e.to_string());
                    (Bytes::new(), true)
                }
                None => (Bytes::new(), true),
            };
            rest.extend_from_slice(&bytes);
            if end && part.broken.is_none() && !rest.is_empty() {
                rest.push(b'\n');
            }
            let mut from = 0;
            while let Some(len) = rest[from..].iter().position(|b| *b == b'\n') {
                let text = rest[from..from + len].trim_ascii();
                from += len + 1;
                line += 1;
                if !text.is_empty() {
                    raw.extend_from_slice(text);
                    self.take(line, text, &mut part).await;
                }
                if part.is_full() {
                    let next = Part::begin(part.number + 1, self.s.clock.wall());
                    let full = std::mem::replace(&mut part, next);
                    if self.send(full, &mut raw).await.is_err() {
                        return;
                    }
                }
            }
            rest.drain(..from);
            if rest.len() > MAX_LINE {
                part.broken = Some(format!("line {} is longer than {MAX_LINE} bytes", line + 1));
            }
            if end || part.broken.is_some() {
                // Nobody waits for it: whoever sent it is gone.
                let _ = self.send(part, &mut raw).await;
                return;
            }
        }
    }

    async fn send(&self, mut part: Part, raw: &mut Vec<u8>) -> Result<(), mpsc::error::SendError<Part>> {
        // A part's tokens are one order, and each of its selectors is another.
        if let Some(key) = &self.key {
            part.once = Some(key.once(part.number, raw));
            part.selector_once =
                part.selectors.iter().map(|(line, _)| key.once(SELECTOR | line, raw)).collect();
        }
        raw.clear();
        self.parts.send(part).await
    }

    async fn read(&self, text: &[u8], asked: WallTime) -> Result<(Ordered, bool), ApiError> {
        if std::str::from_utf8(text).is_err() {
            return Err(bad("the line is no text in UTF-8"));
        }
        let mut r: RevokeRequest = parse(&Bytes::copy_from_slice(text))?;
        if r.dry_run {
            return Err(bad("`dry_run` is for one order, not for many"));
        }
        r.settle(&self.s).await?;
        r.read_late(&self.s, &self.by, asked)
    }

    async fn take(&self, line: u64, text: &[u8], part: &mut Part) {
        match self.read(text, part.asked).await {
            Ok((Ordered::Token(order), true)) => part.over.push((line, order.until)),
            Ok((Ordered::Selector(_), true)) => part.over_selectors.push(line),
            Ok((Ordered::Token(order), false)) => part.orders.push((line, order)),
            Ok((Ordered::Selector(order), false)) => part.selectors.push((line, order)),
            Err(e) => part.refused.push((line, e)),
        }
    }
}

/// Carries parts out and tells what came of them.
struct Run {
    s: AdminState,
    by: Caller,
    told: mpsc::Sender<Result<String, std::io::Error>>,
    all: bool,
    waiting: Option<Waiting>,
    imports: Imports,
    accepted: u64,
    refused: u64,
}

impl Run {
    async fn run(mut self, mut parts: mpsc::Receiver<Part>) {
        let mut broken = None;
        while let Some(mut part) = parts.recv().await {
            broken = part.broken.take();
            let text = self.carry_out(part).await;
            // Who does not listen has sent it all the same: it goes on.
            let _ = self.told.send(Ok(text)).await;
        }
        let mut end = json!({"done": broken.is_none(), "accepted": self.accepted, "refused": self.refused});
        if let Some(there) = self.imports.there() {
            end["there"] = there.into();
        }
        if let Some(why) = &broken {
            end["message"] = why.as_str().into();
        }
        if self.refused > 0 || broken.is_some() {
            let (actor, refused) = (self.by.0.as_str(), self.refused);
            let note =
                json!({"action": "refused", "of": "revoke", "actor": actor, "count": refused, "why": broken});
            self.s.plane.note_later(&note);
        }
        if let Some(waiting) = &self.waiting {
            end["fleet"] = waiting.wait(&self.s).await.0;
        }
        let _ = self.told.send(Ok(format!("{end}\n"))).await;
    }

    async fn carry_out(&mut self, mut part: Part) -> String {
        let mut text = String::new();
        if let Err(e) = self.leave_out(&mut text, &mut part).await {
            let e = ApiError::from(e);
            let tokens = part.orders.drain(..).map(|(line, _)| line);
            let lines: Vec<u64> = tokens.chain(part.selectors.drain(..).map(|(line, _)| line)).collect();
            part.refused.extend(lines.into_iter().map(|line| (line, ApiError(e.0, e.1, e.2.clone()))));
        }
        for (line, e) in part.refused {
            self.refuse(&mut text, line, &e);
        }
        for line in part.over.iter().map(|(line, _)| *line).chain(part.over_selectors) {
            self.refuse(&mut text, line, &over());
        }
        let start = Instant::now();
        let (lines, orders): (Vec<u64>, Vec<Order>) = part.orders.into_iter().unzip();
        if !orders.is_empty() {
            match self.s.plane.revoke_all(orders.clone(), part.once).await {
                // Given before, when more of its lines were not over yet, or one of what came of it is no more.
                Ok(claims) if claims.len() != lines.len() => {
                    self.again(&mut text, &lines, &part.over, part.once).await;
                }
                Err(RevokeError::Unknown(_)) => self.again(&mut text, &lines, &part.over, part.once).await,
                Ok(claims) => {
                    self.s.metrics.revocations("admin", claims.len() as u64, start.elapsed());
                    for (line, claim) in lines.iter().zip(&claims) {
                        self.accept(&mut text, *line, claim.id);
                    }
                }
                // Some of them may have room.
                Err(RevokeError::Full { .. } | RevokeError::TooMany { .. }) if part.once.is_none() => {
                    for (line, order) in lines.iter().zip(orders) {
                        match self.s.plane.revoke(order).await {
                            Ok(claim) => self.accept(&mut text, *line, claim.id),
                            Err(e) => self.refuse(&mut text, *line, &e.into()),
                        }
                    }
                }
                Err(e) => {
                    let e = ApiError::from(e);
                    for line in lines {
                        self.refuse(&mut text, line, &e);
                    }
                }
            }
        }
        if !part.selectors.is_empty() {
            self.by_selectors(&mut text, part.selectors, part.selector_once).await;
        }
        if !self.all {
            let progress = json!({"progress": {"accepted": self.accepted, "refused": self.refused}});
            push(&mut text, &progress);
        }
        text
    }

    /// Takes out what an import brings that is in force here already. Under an idempotency key all stays in its place: by that
    /// it is known.
    async fn leave_out(&mut self, text: &mut String, part: &mut Part) -> Result<(), RevokeError> {
        if part.once.is_some() || !part.selector_once.is_empty() {
            return Ok(());
        }
        for (line, id) in self.imports.take_out(&self.s.plane, &mut part.orders, &mut part.selectors).await? {
            if self.all {
                push(text, &json!({"line": line, "id": id, "there": true}));
            }
        }
        Ok(())
    }

    /// Tells what came of each line the first time. Each of what is in force still is in the kernel.
    async fn again(
        &mut self,
        text: &mut String,
        lines: &[u64],
        over: &[(u64, WallTime)],
        once: Option<Once>,
    ) {
        let ids = once.and_then(|once| self.s.plane.given(&once)).unwrap_or_default();
        let Some(taken) = taken_before(lines, over, ids.len()) else {
            let why = "what was ordered under this idempotency key stands, but its lines are read otherwise now: `GET /v1/revocations` lists what is in force";
            let e = ApiError(StatusCode::CONFLICT, "lines_changed", why.to_owned());
            for line in lines {
                self.refuse(text, *line, &e);
            }
            return;
        };
        for (line, id) in taken.into_iter().zip(ids).filter(|(line, _)| lines.binary_search(line).is_ok()) {
            match self.s.plane.get(id).await {
                Ok(Some(_)) => self.accept(text, line, id),
                Ok(None) => self.refuse(text, line, &RevokeError::Unknown(id).into()),
                Err(e) => self.refuse(text, line, &e.into()),
            }
        }
    }

    /// Selectors share two syncs: one for themselves, one for the tokens that they condemn.
    async fn by_selectors(
        &mut self,
        text: &mut String,
        selectors: Vec<(u64, Box<SelectorOrder>)>,
        once: Vec<Once>,
    ) {
        let start = Instant::now();
        let (lines, orders): (Vec<u64>, Vec<_>) = selectors.into_iter().unzip();
        let mut once = once.into_iter();
        let orders = orders.into_iter().map(|order| (*order, once.next())).collect();
        let (mut taken, mut matched) = (Vec::new(), Vec::new());
        for (line, claim) in lines.into_iter().zip(self.s.plane.select_all(orders).await) {
            match claim {
                Ok(claim) => {
                    matched.push((claim.id, self.s.decider.matched(&claim)));
                    taken.push((line, claim.id));
                }
                Err(e) => self.refuse(text, line, &e.into()),
            }
        }
        let followed = self.s.plane.follow_all(matched).await;
        self.s.metrics.revocations("admin", taken.len() as u64, start.elapsed());
        for ((line, id), condemned) in taken.into_iter().zip(followed) {
            match condemned {
                Ok(_) => self.accept(text, line, id),
                Err(e) => self.refuse(text, line, &e.into()),
            }
        }
    }

    fn accept(&mut self, text: &mut String, line: u64, id: ClaimId) {
        self.accepted += 1;
        if self.all {
            // To a string, which takes all.
            let _ = writeln!(text, "{{\"line\":{line},\"id\":{id}}}");
        }
    }

    fn refuse(&mut self, text: &mut String, line: u64, e: &ApiError) {
        self.refused += 1;
        push(text, &json!({"line": line, "code": e.1, "message": e.2}));
    }
}

fn push(text: &mut String, line: &Value) {
    text.push_str(&line.to_string());
    text.push('\n');
}

/// Every revocation in force, a line each.
pub(super) async fn export(State(s): State<AdminState>) -> Response {
    let (sender, lines) = mpsc::channel(2);
    tokio::spawn(async move {
        let mut after = ClaimId(0);
        loop {
            let page = match s.plane.list(after, PAGE, |_| true).await {
                Ok(page) => page,
                // An answer that is cut off is no whole export.
                Err(e) => return drop(sender.send(Err(std::io::Error::other(e.to_string()))).await),
            };
            let text: String = page.iter().map(line).collect();
            let Some(last) = page.last() else { return };
            after = last.id();
            if sender.send(Ok(text)).await.is_err() {
                return;
            }
        }
    });
    ([("content-type", "application/x-ndjson")], Body::from_stream(ReceiverStream::new(lines)))
        .into_response()
}

fn line(claim: &AnyClaim) -> String {
    format!("{}\n", serde_json::to_value(claim).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_over_the_first_time_has_no_claim_and_the_others_keep_theirs() {
        let over = |all: &[(u64, i64)]| -> Vec<_> { all.iter().map(|(l, t)| (*l, WallTime(*t))).collect() };
        assert_eq!(taken_before(&[2], &over(&[(1, 5)]), 2), Some(vec![1, 2]), "over since");
        assert_eq!(taken_before(&[2], &over(&[(1, 5)]), 1), Some(vec![2]), "over the first time too");
        let some = over(&[(1, 9), (3, 4), (6, 4), (7, 8)]);
        assert_eq!(taken_before(&[2, 5], &some, 4), Some(vec![1, 2, 5, 7]), "those that end last");
        assert_eq!(taken_before(&[2, 5], &some, 7), None);
        assert_eq!(taken_before(&[2, 5], &some, 1), None);
    }
}
