//! When tokens were used, shared between hosts: what one notes it tells within seconds, and what another missed it asks for.
//!
//! Nothing of it goes by the stream: a use that is told twice, late or in any order comes to the same
//! ([`Span::merged`]), and what was missed is asked of the hosts that are there. Names are digests under the fingerprint key;
//! hosts that work with another one share nothing.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use async_nats::{Message, Request, client::RequestErrorKind};
use serde::{Deserialize, Serialize};
use tokio_stream::StreamExt as _;

use super::{
    super::foreign::Origin,
    Feed,
    connect::{ASKING, Ended, because},
    message::{self, LONGEST, Refused, VERSION},
    session::Session,
    wait::HEARD,
};
use crate::{
    clock::SharedClock,
    hex,
    usage::{Book, Id, Label, Noticed, Span, Store, hour, id_of, name_of},
};

/// How often it is looked whom to ask.
const LOOK: Duration = Duration::from_secs(1);
/// How often uses are told, in looks.
const TELL: u32 = 5;
/// Entries told at once.
const MOST: usize = 1000;
/// Room for all that is no entry.
const HEAD: usize = 1024;

/// What is shared, and whose uses are known.
pub struct Uses {
    book: Arc<Book>,
    store: Store,
    clock: SharedClock,
    known: Mutex<BTreeMap<Origin, Known>>,
}

/// Up to when a host's uses are known.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Its instance that was asked.
    instance: String,
    /// It was asked over this connection, and is heard since.
    is_current: bool,
    /// All that it noted before this hour is known.
    before: u32,
}

/// A use, as it is told.
#[derive(Clone, Debug, Deserialize, Serialize)]
struct Told {
    id: String,
    first: u32,
    last: u32,
    label: Label,
}

/// Uses that a host tells.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Share {
    v: u32,
    /// The key that names are digests under.
    key: String,
    uses: Vec<Told>,
    /// In an answer: there may be more behind this name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    next: Option<String>,
}

/// What is asked.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Question {
    v: u32,
    key: String,
    /// Uses in this hour or later.
    since: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

fn name(id: Id) -> String {
    hex::encode(&name_of(id))
}

fn id(name: &str) -> Option<Id> {
    id_of(&hex::decode(name)?)
}

impl Told {
    fn of(noticed: Noticed) -> Self {
        let Noticed { id, span, label } = noticed;
        Self { id: name(id), first: span.first, last: span.last, label: label.bounded() }
    }

    /// What it is here; `None` where it cannot be. `now` is this hour.
    fn read(self, now: u32) -> Option<Noticed> {
        let id = id(&self.id)?;
        // Clocks of hosts may be some minutes apart.
        let sound = self.first <= self.last && self.last <= now.saturating_add(1) && self.label.is_plain();
        let span = Span { first: self.first, last: self.last };
        sound.then(|| Noticed { id, span, label: self.label.bounded() })
    }
}

impl Uses {
    pub fn new(book: Arc<Book>, store: Store, clock: SharedClock) -> Self {
        Self { book, store, clock, known: Mutex::default() }
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<Origin, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hour(&self) -> u32 {
        hour(self.clock.wall())
    }

    /// Notes what a host told; how many could not be taken.
    fn take(&self, told: Vec<Told>) -> usize {
        let (now, all) = (self.hour(), told.len());
        let taken: Vec<_> = told.into_iter().filter_map(|t| t.read(now)).collect();
        let refused = all - taken.len();
        for noticed in taken {
            self.book.hear(noticed);
        }
        refused
    }
}

impl Feed {
    /// Shares uses for as long as a connection stands.
    pub(super) async fn share(&self, session: &Session) -> Result<(), Ended> {
        let Some(uses) = &self.uses else { return std::future::pending().await };
        uses.known().values_mut().for_each(|known| known.is_current = false);
        uses.book.set_whole(false);
        let ended = tokio::select! {
            r = self.tell_uses(session, uses) => r,
            r = self.hear_uses(session, uses) => r,
        };
        uses.book.set_whole(false);
        ended
    }

    async fn tell_uses(&self, session: &Session, uses: &Uses) -> Result<(), Ended> {
        let (begun, subject) = (Instant::now(), self.subject("used", &self.own.to_string()));
        let mut tick = tokio::time::interval(LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0_u32.. {
            tick.tick().await;
            if n.is_multiple_of(TELL) {
                let mut left: Vec<_> = uses.book.to_tell().into_iter().map(Told::of).collect();
                while !left.is_empty() {
                    let (text, rest) = self.write(left, None, session.conn.client.max_payload());
                    left = rest;
                    let sent = session.conn.client.publish(subject.clone(), text.into()).await;
                    sent.map_err(|e| because("uses of tokens cannot be told", &e))?;
                }
            }
            let mut all = true;
            let live = self.state().hosts.of_key(self.settings.keys.own, Instant::now());
            for (host, instance) in live {
                let known = uses.known().get(&host).cloned().unwrap_or_default();
                if known.is_current && known.instance == instance {
                    continue;
                }
                // What is noted while it is asked is told as it comes.
                let now = uses.hour();
                match self.ask_uses(session, uses, host, known.before).await {
                    Ok(()) => {
                        let known = Known { instance, is_current: true, before: now.saturating_sub(1) };
                        uses.known().insert(host, known);
                    }
                    Err(why) => {
                        all = false;
                        tracing::debug!(from = %host, reason = why, "uses of tokens could not be had");
                    }
                }
            }
            let live = self.state().hosts.of_key(self.settings.keys.own, Instant::now());
            let before = uses.hour().saturating_sub(1);
            for (host, known) in uses.known().iter_mut() {
                known.is_current &= live.contains_key(host);
                if known.is_current {
                    known.before = before;
                }
            }
            uses.book.set_whole(all && begun.elapsed() >= HEARD);
        }
        Ok(())
    }

    async fn ask_uses(&self, session: &Session, uses: &Uses, host: Origin, since: u32) -> Result<(), Ended> {
        let subject = self.subject("uses", &host.to_string());
        let mut after = None;
        loop {
            let question = Question { v: VERSION, key: self.key.clone(), since, after };
            let text = serde_json::to_vec(&question).unwrap_or_default();
            let request = Request::new().payload(text.into()).timeout(Some(ASKING));
            let answer = match session.conn.client.send_request(subject.clone(), request).await {
                Ok(answer) => answer,
                // It notes no uses.
                Err(e) if e.kind() == RequestErrorKind::NoResponders => return Ok(()),
                Err(e) => return Err(because("no answer", &e)),
            };
            let read = self.read_uses(&answer.payload, &host.to_string()).map_err(|e| e.to_string())?;
            uses.take(read.uses);
            let next = read.next.filter(|next| Some(next) > question.after.as_ref());
            if next.is_none() {
                return Ok(());
            }
            after = next;
        }
    }

    fn read_uses(&self, bytes: &[u8], from: &str) -> Result<Share, Refused> {
        let read =
            message::parse::<Share>(bytes).inspect_err(|why| self.refuse(*why, "what was used", from))?;
        // Names under another key are no names here.
        let uses = if read.key == self.key { read.uses } else { Vec::new() };
        Ok(Share { uses, ..read })
    }

    async fn hear_uses(&self, session: &Session, uses: &Uses) -> Result<(), Ended> {
        let client = &session.conn.client;
        let failed = |e| because("uses of tokens cannot be heard", &e);
        let mut told = client.subscribe(self.subject("used", "*")).await.map_err(failed)?;
        let mut asked =
            client.subscribe(self.subject("uses", &self.own.to_string())).await.map_err(failed)?;
        loop {
            tokio::select! {
                m = told.next() => {
                    let m = m.ok_or("uses of tokens are not heard any more")?;
                    let prefix = self.subject("used", "");
                    let from = m.subject.strip_prefix(&prefix).unwrap_or_default().to_owned();
                    let Ok(read) = self.read_uses(&m.payload, &from) else { continue };
                    if uses.take(read.uses) > 0 {
                        self.refuse(Refused::Malformed, "what was used", &from);
                    }
                }
                m = asked.next() => {
                    let m = m.ok_or("uses of tokens are not heard any more")?;
                    self.answer_uses(session, uses, m).await?;
                }
            }
        }
    }

    async fn answer_uses(&self, session: &Session, uses: &Uses, m: Message) -> Result<(), Ended> {
        let read = message::parse::<Question>(&m.payload).ok().and_then(|q| {
            // A name that is none is no place to go on from.
            let after = q.after.as_deref().map(|name| id(name).ok_or(())).transpose().ok()?;
            Some((q, after))
        });
        let (Some((question, after)), Some(reply)) = (read, m.reply) else {
            self.refuse(Refused::Malformed, "a question", "a host");
            return Ok(());
        };
        let (store, since) = (uses.store.clone(), question.since);
        let page = if question.key == self.key {
            tokio::task::spawn_blocking(move || store.page(after, since, MOST)).await
        } else {
            Ok(Ok((Vec::new(), None)))
        };
        let Ok(Ok((page, next))) = page else {
            tracing::warn!(
                "a question of the fleet for uses of tokens cannot be answered: the usage file cannot be read"
            );
            return Ok(());
        };
        let told = page.into_iter().map(Told::of).collect();
        let (text, _) = self.write(told, next.map(name), session.conn.client.max_payload());
        session.conn.client.publish(reply, text.into()).await.map_err(|e| e.to_string())
    }

    /// Writes as many as a message takes; gives it, and the others. Behind its last one there are more where others are left,
    /// else behind `next`.
    fn write(&self, told: Vec<Told>, next: Option<String>, most: usize) -> (Vec<u8>, Vec<Told>) {
        let room = most.min(LONGEST).saturating_sub(HEAD);
        let (mut uses, mut rest, mut bytes) = (Vec::new(), Vec::new(), 0);
        for one in told {
            bytes += serde_json::to_string(&one).map_or(0, |text| text.len() + 1);
            if rest.is_empty() && (uses.is_empty() || bytes <= room) {
                uses.push(one);
            } else {
                rest.push(one);
            }
        }
        let next = if rest.is_empty() { next } else { uses.last().map(|one: &Told| one.id.clone()) };
        let share = Share { v: VERSION, key: self.key.clone(), uses, next };
        (serde_json::to_vec(&share).unwrap_or_default(), rest)
    }
}
