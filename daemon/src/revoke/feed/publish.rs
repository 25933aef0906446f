//! Tells the fleet what was ordered here: from the log, entry by entry, from where the stream has it.

use std::{collections::VecDeque, time::Duration};

use async_nats::{
    HeaderMap,
    jetstream::{context::PublishAckFuture, stream::LastRawMessageErrorKind},
};
use aws_lc_rs::digest;

use super::{
    Feed,
    connect::{Ended, because},
    message,
    session::Session,
    trouble::Trouble,
};
use crate::hex;

/// Entries read at once.
const PAGE: usize = 256;
/// Messages on their way at once.
const AT_ONCE: usize = 64;
/// Room for the head of a message beside its payload.
const HEAD: usize = 512;
/// How long a log is waited for that was just restored or compacted.
const AGAIN: Duration = Duration::from_millis(100);

/// Messages on their way, each with the entry that is told with it.
type OnTheWay = VecDeque<(u64, PublishAckFuture)>;

impl Feed {
    /// Tells what is ordered here. While the stream takes nothing the hosts hear each other all the same, and ask for what
    /// is missing.
    pub(super) async fn publish(&self, session: &Session) -> Result<(), Ended> {
        let mut trouble = Trouble::new(
            "the stream takes nothing of this host: the other hosts ask for what is missing meanwhile",
        );
        loop {
            let Err(why) = self.tell(session, &mut trouble).await else { return Ok(()) };
            self.bear(session, &mut trouble, why).await?;
        }
    }

    async fn tell(&self, session: &Session, trouble: &mut Trouble) -> Result<(), Ended> {
        let mut head = self.plane.head();
        let Some(mut at) = self.cursor(session).await? else {
            // What others order is taken all the same.
            return std::future::pending().await;
        };
        let oldest = self.plane.oldest();
        // What was compacted away cannot be told: who does not have it sees that it is missing, and asks.
        at = at.max(oldest);
        let mut prev = at;
        self.note_head(prev);
        self.stored.send_if_modified(|s| std::mem::replace(s, at) != at);
        let most = session.conn.client.max_payload().saturating_sub(HEAD);
        loop {
            let entries = match self.plane.entries(at, PAGE).await {
                Ok(Some(entries)) if entries.is_empty() => {
                    self.is_over(trouble);
                    if head.changed().await.is_err() {
                        return Err("the daemon is stopping".to_owned());
                    }
                    continue;
                }
                Ok(Some(entries)) => entries,
                Ok(None) => {
                    tokio::time::sleep(AGAIN).await;
                    at = at.max(self.plane.oldest());
                    prev = prev.max(at);
                    continue;
                }
                Err(e) => return Err(e.to_string()),
            };
            let mut on_the_way = OnTheWay::new();
            for entry in &entries {
                let told = message::told(entry, &self.key);
                if told.is_empty() {
                    continue;
                }
                self.note_head(entry.entry);
                let parts = message::write(self.own, &self.key, entry.entry, prev, &told, most);
                prev = entry.entry;
                for (n, part) in parts.into_iter().enumerate() {
                    if on_the_way.len() >= AT_ONCE {
                        self.settle(&mut on_the_way, 1).await?;
                    }
                    let ack = self.send(session, entry.entry, n, part).await?;
                    on_the_way.push_back((entry.entry, ack));
                }
            }
            let all = on_the_way.len();
            self.settle(&mut on_the_way, all).await?;
            at = entries.last().map_or(at, |e| e.entry);
            self.stored.send_if_modified(|s| std::mem::replace(s, at) != at);
        }
    }

    fn note_head(&self, entry: u64) {
        let mut state = self.state();
        state.head = state.head.max(entry);
    }

    async fn send(
        &self,
        session: &Session,
        entry: u64,
        part: usize,
        body: Vec<u8>,
    ) -> Result<PublishAckFuture, Ended> {
        let mut headers = HeaderMap::new();
        // Of its text, too: told again under another key or in other parts it is another message.
        let digest = digest::digest(&digest::SHA256, &body);
        let text = hex::encode(digest.as_ref().get(..8).unwrap_or_default());
        headers.insert("Nats-Msg-Id", format!("{}-{entry}-{part}-{text}", self.own));
        let subject = self.subject("changes", &self.own.to_string());
        let sent = session.conn.context.publish_with_headers(subject, headers, body.into()).await;
        sent.map_err(|e| because("revocations cannot be told to the fleet", &e))
    }

    /// Waits until some are stored.
    async fn settle(&self, on_the_way: &mut OnTheWay, count: usize) -> Result<(), Ended> {
        for (entry, ack) in on_the_way.drain(..count) {
            ack.await.map_err(|e| because("revocations were told to the fleet, but not stored", &e))?;
            self.state().counts.published += 1;
            // The entry before is whole in any case.
            let before = entry - 1;
            self.stored.send_if_modified(|s| before > *s && std::mem::replace(s, before) != before);
        }
        Ok(())
    }

    /// The entry up to which the stream has the orders of this host, as its own last message there says; `None` where that
    /// is more than there is.
    async fn cursor(&self, session: &Session) -> Result<Option<u64>, Ended> {
        let subject = self.subject("changes", &self.own.to_string());
        let last = match session.conn.stream.get_last_raw_message_by_subject(&subject).await {
            Ok(last) => last,
            Err(e) if e.kind() == LastRawMessageErrorKind::NoMessageFound => return Ok(Some(0)),
            Err(e) => return Err(because("what the stream has of this host cannot be found out", &e)),
        };
        let own = self.own.to_string();
        let m = message::read(&last.payload, &own)
            .map_err(|e| format!("the last message of this host in the stream is not its own: {e}"))?;
        let head = *self.plane.head().borrow();
        if m.entry > head {
            let why = format!(
                "the fleet has entry {} of this host's log, which ends with entry {head}: it was restored from an older copy, or two hosts run with one store; nothing is told under its name (see fleet.md)",
                m.entry
            );
            tracing::error!(reason = why, "revocations of this host are not told to the fleet");
            self.state().error = Some(why);
            return Ok(None);
        }
        // An entry of which parts are missing is told once more.
        Ok(Some(if m.part + 1 == m.parts { m.entry } else { m.entry - 1 }))
    }
}
