//! Takes what the stream has of other hosts, and acknowledges what is in force.

use std::{future::poll_fn, pin::Pin, sync::atomic::Ordering, task::Poll, time::Duration};

use async_nats::jetstream::{
    AckKind, Message,
    consumer::{AckPolicy, Consumer, DeliverPolicy, pull},
};
use futures_core::Stream as _;
use tokio_stream::StreamExt as _;

use super::{
    super::foreign::Origin,
    Feed,
    apply::What,
    connect::{Ended, because},
    message,
    orders::Orders,
    session::Session,
    trouble::Trouble,
};

/// Messages taken at once.
const BATCH: usize = 512;
/// Bytes of them.
const BYTES: usize = 8 << 20;
/// How long a request for messages stands.
const EXPIRES: Duration = Duration::from_secs(10);
/// How often the server says that it is there while it has none.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// After so long a message that was not acknowledged is sent again.
const ACK_WAIT: Duration = Duration::from_secs(10);
/// A consumer that nobody uses for so long is removed: a host that is back after it takes all from the beginning.
const UNUSED: Duration = Duration::from_hours(30 * 24);

impl Feed {
    /// The name of this host's consumer.
    pub(super) fn consumer(&self) -> String {
        format!("portcullis-{}", self.own)
    }

    pub(super) async fn consume(&self, session: &Session) -> Result<(), Ended> {
        let mut trouble = Trouble::new(
            "the stream gives this host nothing yet: what is missing is asked of the other hosts meanwhile",
        );
        let consumer = loop {
            match self.own_consumer(session).await {
                Ok(consumer) => break consumer,
                Err(why) => {
                    self.state().backlog = 0;
                    self.bear(session, &mut trouble, why).await?;
                }
            }
        };
        self.is_over(&mut trouble);
        session.consuming.store(true, Ordering::Relaxed);
        let ended = self.take_all(session, &consumer).await;
        self.state().spoilt = true;
        ended
    }

    async fn take_all(&self, session: &Session, consumer: &Consumer<pull::Config>) -> Result<(), Ended> {
        let messages = consumer.stream().max_messages_per_batch(BATCH).expires(EXPIRES).heartbeat(HEARTBEAT);
        let mut messages =
            messages.messages().await.map_err(|e| because("the stream gives no messages", &e))?;
        loop {
            let first = messages.next().await.ok_or("the stream gives no more messages")?;
            let mut batch = vec![first.map_err(|e| because("the stream gives no messages", &e))?];
            let mut bytes = batch[0].payload.len();
            while batch.len() < BATCH && bytes < BYTES {
                // What is there already comes along; nothing is waited for.
                let more = poll_fn(|cx| match Pin::new(&mut messages).poll_next(cx) {
                    Poll::Ready(more) => Poll::Ready(more),
                    Poll::Pending => Poll::Ready(None),
                });
                let Some(more) = more.await else { break };
                let more = more.map_err(|e| because("the stream gives no messages", &e))?;
                bytes += more.payload.len();
                batch.push(more);
            }
            self.take(session, batch).await?;
        }
    }

    /// This host's own, which goes on behind what was acknowledged. One that owes nothing to an earlier connection is
    /// used as it is: a cluster that has just lost a server agrees on a new one late, or not at all. Otherwise it is made
    /// anew, so that what was on its way to that connection is sent at once and not after its time; and so it is where it
    /// gave no messages, since a cluster may keep one that no server leads.
    async fn own_consumer(&self, session: &Session) -> Result<Consumer<pull::Config>, Ended> {
        let (stream, name) = (&session.conn.stream, self.consumer());
        let failed = |e: &dyn std::error::Error| because("this host's consumer cannot be made", e);
        let subject = self.subject("changes", "*");
        let floor = match stream.get_consumer::<pull::Config>(&name).await {
            Ok(consumer) => {
                let info = consumer.cached_info();
                let owes_nothing = info.num_ack_pending == 0 && info.num_waiting == 0;
                let floor = info.ack_floor.stream_sequence;
                let missed = self.missed(session, floor).await.map_err(|e| failed(&*e))?;
                if owes_nothing && !missed && info.config.filter_subject == subject && !self.state().spoilt {
                    return Ok(consumer);
                }
                let floor = if missed { 0 } else { floor };
                stream.delete_consumer(&name).await.map_err(|e| failed(&e))?;
                floor
            }
            // There is none; where something else is wrong, making one says so.
            Err(_) => 0,
        };
        let deliver_policy = match floor {
            0 => DeliverPolicy::All,
            floor => DeliverPolicy::ByStartSequence { start_sequence: floor + 1 },
        };
        let config = pull::Config {
            durable_name: Some(name),
            description: Some(format!("portcullis on {}", self.settings.name)),
            deliver_policy,
            ack_policy: AckPolicy::Explicit,
            ack_wait: ACK_WAIT,
            filter_subject: subject,
            max_ack_pending: 4 * i64::try_from(BATCH).unwrap_or(512),
            inactive_threshold: UNUSED,
            ..pull::Config::default()
        };
        let made = stream.create_consumer(config).await.map_err(|e| failed(&e))?;
        self.state().spoilt = false;
        Ok(made)
    }

    /// Whether a message that was acknowledged is not in this host's store, which was then restored from an older copy: by
    /// the last one of each host.
    async fn missed(
        &self,
        session: &Session,
        floor: u64,
    ) -> Result<bool, Box<dyn std::error::Error + Send + Sync>> {
        let (stream, changes) = (&session.conn.stream, self.subject("changes", ""));
        let mut subjects = stream.info_with_subjects(self.subject("changes", "*")).await?;
        while let Some(subject) = subjects.next().await {
            let (subject, _) = subject?;
            let from = subject.strip_prefix(&changes).unwrap_or_default();
            let Ok(origin) = from.parse::<Origin>() else { continue };
            if origin == self.own {
                continue;
            }
            let last = stream.get_last_raw_message_by_subject(&subject).await?;
            let reached = self.state().reached.get(&origin).map_or(0, |p| p.whole());
            // One that cannot be read was refused, and would be again.
            let is_missed = message::read(&last.payload, from).is_ok_and(|m| m.entry > reached);
            if last.sequence <= floor && is_missed {
                tracing::warn!(of = %origin, "the store lacks what was acknowledged to the stream: all of it is taken again");
                return Ok(true);
            }
        }
        Ok(false)
    }

    async fn take(&self, session: &Session, batch: Vec<Message>) -> Result<(), Ended> {
        let changes = self.subject("changes", "");
        let own = self.own.to_string();
        let (mut orders, mut good) = (Vec::new(), Vec::new());
        for m in batch {
            let from = m.subject.strip_prefix(&changes).unwrap_or_default().to_owned();
            if from == own {
                good.push(m);
                continue;
            }
            match message::read(&m.payload, &from).and_then(|read| Orders::of(read, self.settings.keys)) {
                Ok(read) => {
                    orders.push(read);
                    good.push(m);
                }
                Err(why) => {
                    self.refuse(why, "a message", &from);
                    // It would be the same the next time.
                    m.ack_with(AckKind::Term).await.map_err(|e| e.to_string())?;
                }
            }
        }
        if !orders.is_empty() {
            session.apply(What::Orders(orders)).await?;
        }
        for m in good {
            m.ack().await.map_err(|e| e.to_string())?;
        }
        Ok(())
    }
}
