//! Asks for orders that the stream does not have: of the host that took them, or of one that heard of them while it is
//! gone.
//!
//! A host tells the entries of its log that are asked for, or, where it has them no more, all its claims in force. Whoever
//! asks goes from page to page; whoever answers keeps nothing of it.

use std::{
    collections::{BTreeMap, HashSet},
    time::{Duration, Instant},
};

use async_nats::{Message, Request};
use serde::{Deserialize, Serialize};

use super::{
    super::{
        AnyClaim, ClaimId,
        foreign::{Name, Origin},
        remote::Only,
    },
    Feed,
    apply::What,
    connect::{ASKING, Ended, because},
    message::{self, LONGEST, ToldClaim, ToldLift, VERSION},
    orders::{self, Orders},
    session::Session,
};

/// How often it is looked whether something is missing.
const LOOK: Duration = Duration::from_millis(250);
/// How long the stream has to bring it by itself.
const WAIT: Duration = Duration::from_millis(500);
/// Messages that the stream may still have for this host.
const BACKLOG: u64 = 512;
/// How long after an answer that did not help it is asked again.
const AGAIN: Duration = Duration::from_secs(2);
/// Entries read for an answer.
const ENTRIES: usize = 256;
/// Claims read for one.
const CLAIMS: usize = 2048;
/// Bytes of a lifting in one, at most.
const LIFTED: usize = 128;
/// Bytes of one beside its messages or claims.
const HEAD: usize = 1024;

/// What is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Question {
    v: u32,
    /// Whose orders.
    of: Origin,
    /// Those after this entry.
    after: u64,
    /// Where all claims are being told: the page that follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    page: Option<Page>,
}

/// A place among all claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Page {
    /// The entry up to which they are all.
    upto: u64,
    /// Claims of the host with ids below this one are told, or are no more; 0 where that is not known.
    next: u64,
    /// Behind this one.
    after: u64,
    /// All claims are told: those that were lifted follow, behind this one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    lifted: Option<(Origin, u64)>,
}

impl Page {
    /// Pages ascend.
    const fn place(&self) -> (u64, Option<(Origin, u64)>) {
        (self.after, self.lifted)
    }
}

/// What is answered.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Answer {
    v: u32,
    /// The key that fingerprints were made under.
    key: String,
    /// Another one in force there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    other_key: Option<String>,
    what: Given,
}

#[derive(Debug, Deserialize, Serialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Given {
    /// Entries of the log up to this one.
    Entries { upto: u64, messages: Vec<message::Message>, more: bool },
    /// Claims in force, or claims of any host that were lifted, and the page after these.
    Claims { claims: Vec<ToldClaim>, lifted: Vec<ToldLift>, page: Page, more: bool },
}

impl Feed {
    pub(super) async fn resync(&self, session: &Session) -> Result<(), Ended> {
        let mut since: BTreeMap<Origin, (u64, Instant)> = BTreeMap::new();
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            let behind = self.behind();
            since.retain(|origin, _| behind.contains_key(origin));
            for (origin, (at, whom)) in behind {
                let now = Instant::now();
                let (known, asked) = since.entry(origin).or_insert((at, now + WAIT));
                if *known != at {
                    (*known, *asked) = (at, now + WAIT);
                }
                if now < *asked {
                    continue;
                }
                *asked = now + AGAIN;
                self.state().counts.resyncs += 1;
                tracing::info!(of = %origin, after = at, from = %whom, "orders are missing, and asked for");
                // One that does not answer holds up nothing: it is asked again.
                if let Err(why) = self.ask(session, origin, at, whom).await {
                    tracing::warn!(of = %origin, from = %whom, reason = why, "missing orders could not be had");
                }
            }
        }
    }

    /// Hosts whose orders are not all known while the stream has no more of them: how far they are, and whom to ask.
    fn behind(&self) -> BTreeMap<Origin, (u64, Origin)> {
        let state = self.state();
        if state.backlog > BACKLOG {
            return BTreeMap::new();
        }
        let now = Instant::now();
        let mut behind = BTreeMap::new();
        for (origin, head) in state.hosts.heads(self.own, now) {
            let at = state.reached.get(&origin).map_or(0, |p| p.whole());
            // The host itself, or the one that has most.
            let from = state.hosts.who_has(origin, now).max_by_key(|(id, entry)| (*id == origin, *entry));
            if at < head
                && let Some((whom, has)) = from
                && has > at
            {
                behind.insert(origin, (at, whom));
            }
        }
        behind
    }

    async fn ask(&self, session: &Session, of: Origin, mut after: u64, whom: Origin) -> Result<(), Ended> {
        let subject = self.subject("resync", &whom.to_string());
        let (mut page, mut ids) = (None, HashSet::new());
        loop {
            let question = Question { v: VERSION, of, after, page };
            let text = serde_json::to_vec(&question).unwrap_or_default();
            let request = Request::new().payload(text.into()).timeout(Some(ASKING));
            let answered = session.conn.client.send_request(subject.clone(), request).await;
            let answered = answered.map_err(|e| because("no answer", &e))?;
            let read = message::parse::<Answer>(&answered.payload);
            let answer = read.inspect_err(|why| self.refuse(*why, "an answer", &whom.to_string()));
            let Answer { key, other_key, what, .. } = answer.map_err(|e| e.to_string())?;
            let bad = |e: message::Refused| e.to_string();
            match what {
                Given::Entries { upto, messages, more } => {
                    let mut all = Vec::new();
                    for m in messages {
                        if m.origin != of {
                            return Err("it is of another host".to_owned());
                        }
                        m.check().map_err(bad)?;
                        all.push(Orders::of(m, self.settings.keys).map_err(bad)?);
                    }
                    session.apply(What::Orders(all)).await?;
                    session.apply(What::Reached(of, upto, None)).await?;
                    if !more || upto <= after {
                        return Ok(());
                    }
                    after = upto;
                }
                Given::Claims { claims, lifted, page: next, more } => {
                    ids.extend(claims.iter().map(|c| c.id));
                    let (all, unnamed) = orders::claims(claims, of, &key, self.settings.keys).map_err(bad)?;
                    self.state().counts.other_key += unnamed;
                    let lift: Option<Vec<_>> = lifted.into_iter().map(|l| l.lift(whom)).collect();
                    let lift = lift.ok_or_else(|| bad(message::Refused::Malformed))?;
                    session.apply(What::Apart(all, lift)).await?;
                    if more && page.is_none_or(|p: Page| next.place() > p.place()) {
                        page = Some(next);
                        continue;
                    }
                    // From one that only heard of them nothing is concluded about those that it does not have.
                    let only = (whom == of).then_some(Only { origin: of, next: next.next, ids });
                    // One of an earlier version that has another key kept none on single tokens.
                    let mut known =
                        std::iter::once(&key).chain(&other_key).filter_map(|k| message::key_id(k));
                    if whom == of || known.any(|k| self.settings.keys.has(k)) {
                        session.apply(What::Reached(of, next.upto, only)).await?;
                    }
                    return Ok(());
                }
            }
        }
    }

    /// Answers a question.
    pub(super) async fn answer(&self, session: &Session, m: Message) -> Result<(), Ended> {
        let question: Question = match message::parse(&m.payload) {
            Ok(question) => question,
            Err(why) => {
                self.refuse(why, "a question", "a host");
                return Ok(());
            }
        };
        let Some(reply) = m.reply else { return Ok(()) };
        let most = session.conn.client.max_payload();
        let given = match self.give(&question, most).await {
            Ok(given) => given,
            Err(e) => {
                tracing::error!(error = %e, "a question of the fleet cannot be answered");
                return Ok(());
            }
        };
        let other_key = self.settings.keys.other.map(message::key);
        let answer = Answer { v: VERSION, key: self.key.clone(), other_key, what: given };
        let text = serde_json::to_vec(&answer).unwrap_or_default();
        session.conn.client.publish(reply, text.into()).await.map_err(|e| e.to_string())
    }

    async fn give(&self, q: &Question, most: usize) -> Result<Given, super::super::RevokeError> {
        let most = most.min(LONGEST).saturating_sub(HEAD);
        let head = *self.plane.head().borrow();
        if q.of == self.own
            && q.page.is_none()
            && let Some(given) = self.entries(q.after, head, most).await?
        {
            return Ok(given);
        }
        let first = || {
            let state = self.state();
            let reached = state.reached.get(&q.of).map_or(0, |p| p.whole());
            if q.of == self.own {
                Page { upto: head, next: self.plane.next_id(), after: 0, lifted: None }
            } else {
                Page { upto: reached, next: 0, after: 0, lifted: None }
            }
        };
        let mut page = q.page.unwrap_or_else(first);
        if page.lifted.is_some() {
            return Ok(self.lifted(page, most));
        }
        let (own, of) = (self.own, q.of);
        let name = move |c: &AnyClaim| {
            let (id, source) = match c {
                AnyClaim::Token(c) => (c.id.0, &c.source),
                AnyClaim::Selector(c) => (c.id.0, &c.source),
            };
            Name::of_source(source).unwrap_or(Name { origin: own, id })
        };
        let keep = move |c: &AnyClaim| name(c).origin == of;
        // Those that are over too: whoever asks would take them for lifted.
        let listed = self.plane.list_all(ClaimId(page.after), CLAIMS, keep).await?;
        let (mut claims, mut bytes, mut more) = (Vec::new(), 0, listed.len() == CLAIMS);
        for claim in &listed {
            let told = if of == own {
                ToldClaim::own(claim, &self.key)
            } else {
                ToldClaim::passed_on(claim, name(claim).id, &self.key)
            };
            let size = told.as_ref().and_then(|t| serde_json::to_string(t).ok()).map_or(0, |t| t.len() + 1);
            if bytes + size > most && !claims.is_empty() {
                more = true;
                break;
            }
            bytes += size;
            page.after = claim.id().0;
            claims.extend(told);
        }
        if !more {
            // No host has this id: all that were lifted are behind it.
            page.lifted = Some((Origin([0; 16]), 0));
        }
        Ok(Given::Claims { claims, lifted: Vec::new(), page, more: true })
    }

    /// Claims that were lifted, whoever had it done: who misses this host's orders may have them in force.
    fn lifted(&self, mut page: Page, most: usize) -> Given {
        let after = page.lifted.map(|(origin, id)| Name { origin, id });
        let graves = self.plane.graves(after, (most / LIFTED).clamp(1, CLAIMS));
        let more = !graves.is_empty();
        if let Some(last) = graves.last() {
            page.lifted = Some((last.name.origin, last.name.id));
        }
        Given::Claims {
            claims: Vec::new(),
            lifted: graves.into_iter().map(ToldLift::of).collect(),
            page,
            more,
        }
    }

    /// Entries of the own log, where it has them and they are not too long.
    async fn entries(
        &self,
        after: u64,
        head: u64,
        most: usize,
    ) -> Result<Option<Given>, super::super::RevokeError> {
        let Some(entries) = self.plane.entries(after, ENTRIES).await? else { return Ok(None) };
        let (mut messages, mut bytes, mut prev, mut upto) = (Vec::new(), 0, after, after);
        for entry in &entries {
            let told = message::told(entry, &self.key);
            if !told.is_empty() {
                let parts = message::write(self.own, &self.key, entry.entry, prev, &told, most);
                let size: usize = parts.iter().map(|p| p.len() + 1).sum();
                if bytes + size > most {
                    break;
                }
                bytes += size;
                prev = entry.entry;
                let own = self.own.to_string();
                messages.extend(parts.iter().filter_map(|p| message::read(p, &own).ok()));
            }
            upto = entry.entry;
        }
        let stuck = upto == after && !entries.is_empty();
        Ok((!stuck).then_some(Given::Entries { upto, messages, more: upto < head }))
    }
}

#[cfg(test)]
mod tests {
    use super::{super::super::tests::Host, *};

    /// All that a host answers, page by page.
    async fn all(feed: &Feed, of: Origin, most: usize) -> (Vec<u64>, Page, usize, usize) {
        // Of a log that is longer than this one: there are no such entries.
        let (mut ids, mut page, mut pages, mut graves, after) = (Vec::new(), None, 0, 0, 999);
        loop {
            pages += 1;
            let Given::Claims { claims, lifted, page: next, more } =
                feed.give(&Question { v: VERSION, of, after, page }, most).await.unwrap()
            else {
                panic!("not all claims")
            };
            ids.extend(claims.iter().map(|c| c.id));
            graves += lifted.len();
            if !more {
                return (ids, next, pages, graves);
            }
            page = Some(next);
        }
    }

    #[tokio::test]
    async fn entries_are_told_while_they_are_there_and_then_all_claims_page_by_page() {
        let (mut host, mut other) = (Host::new(1), Host::new(2));
        let theirs: Vec<u64> = (0..20).map(|n| other.revoke(n)).collect();
        host.learn(&mut other);
        for id in host.others() {
            host.lift(id);
        }
        let (start, theirs) = (host.head(), theirs.len());
        let ids: Vec<u64> = (0..40).map(|n| host.revoke(n)).collect();
        host.lift(ids[3]);
        let (feed, thread) = host.feed();
        let question = Question { v: VERSION, of: feed.own, after: start + 30, page: None };
        let Given::Entries { upto, messages, more } = feed.give(&question, LONGEST).await.unwrap() else {
            panic!("the entries are there")
        };
        assert_eq!((messages.len(), upto, more), (11, start + 41, false), "ten claims and the lifting");
        assert_eq!((messages[0].prev, messages[1].prev), (start + 30, start + 31));
        // A little at a time.
        let Given::Entries { upto, more, .. } = feed.give(&question, 2 * HEAD).await.unwrap() else {
            panic!("entries")
        };
        assert!(upto > start + 30 && upto < start + 41 && more);
        // Entries that are longer than a message, or are no more in the log.
        let (told, page, pages, graves) = all(&feed, feed.own, 2 * HEAD).await;
        let left: Vec<u64> = ids.iter().copied().filter(|id| *id != ids[3]).collect();
        assert_eq!((told, page.upto, page.next, graves), (left, start + 41, ids[39] + 1, theirs));
        assert!(pages > 3, "{pages}");
        // Of another host: what this one heard, and no more.
        let (told, page, ..) = all(&feed, Origin([9; 16]), LONGEST).await;
        assert_eq!((told.len(), page.upto, page.next), (0, 0, 0));
        let plane = feed.plane.clone();
        drop(feed);
        plane.stop().await;
        drop(plane);
        thread.join().unwrap();
    }
}
