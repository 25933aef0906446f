//! What hosts say beside the stream: that they are there, and what they have in force; and questions of those who missed
//! something.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use async_nats::Message;
use tokio_stream::StreamExt as _;

use super::{
    super::foreign::Origin,
    Feed,
    apply::What,
    connect::{Ended, because},
    hosts::{Applied, Heartbeat},
    session::Session,
};

/// How often a host says that it is there.
const BEAT: Duration = Duration::from_secs(1);

impl Feed {
    pub(super) async fn listen(&self, session: &Session) -> Result<(), Ended> {
        let client = &session.conn.client;
        let own = self.own.to_string();
        let failed = |e| because("other hosts cannot be heard", &e);
        let mut beats = client.subscribe(self.subject("hosts", "*")).await.map_err(failed)?;
        let mut applied =
            client.subscribe(self.subject("applied", &format!("{own}.*"))).await.map_err(failed)?;
        let mut asked = client.subscribe(self.subject("resync", &own)).await.map_err(failed)?;
        loop {
            tokio::select! {
                m = beats.next() => {
                    let anew = self.hear(session, &m.ok_or("other hosts are not heard any more")?);
                    if let Some(origin) = anew {
                        session.apply(What::Anew(origin)).await?;
                    }
                }
                m = applied.next() => {
                    let m = m.ok_or("other hosts are not heard any more")?;
                    let subject = self.subject("applied", &own);
                    let from = m.subject.strip_prefix(&subject).unwrap_or_default().trim_start_matches('.');
                    match Applied::read(&m.payload, from) {
                        Ok(a) => self.state().hosts.applied(a, self.log_head()),
                        Err(why) => self.refuse(why, "a word", from),
                    }
                    self.heard();
                }
                m = asked.next() => {
                    let m = m.ok_or("other hosts are not heard any more")?;
                    self.answer(session, m).await?;
                }
            }
        }
    }

    /// Notes a host's word. The host, where others were believed to have more of its orders than it has.
    fn hear(&self, session: &Session, m: &Message) -> Option<Origin> {
        let hosts = self.subject("hosts", "");
        let from = m.subject.strip_prefix(&hosts).unwrap_or_default();
        let mut anew = None;
        match Heartbeat::read(&m.payload, from) {
            Ok(said) if said.host == self.own => {
                // Own words do not come back: this is another one.
                if said.instance != self.instance && !session.cloned.swap(true, Ordering::Relaxed) {
                    tracing::error!(
                        host = said.name,
                        "another host runs with a copy of this one's store: what one orders, the other takes for known; give one of them a store of its own (see fleet.md)"
                    );
                    *self.state().counts.refused.entry("same_host").or_default() += 1;
                }
            }
            Ok(said) => {
                let mut state = self.state();
                // One that tells nothing, since it was restored from an older copy, is none to begin anew with.
                let known = state.reached.get(&said.host).map_or(0, |p| p.whole());
                anew = Some(said.host).filter(|_| said.head > 0 && known > said.end);
                state.hosts.heard(said, self.own, self.log_head(), Instant::now());
            }
            Err(why) => self.refuse(why, "a host's word", from),
        }
        self.heard();
        anew
    }

    /// Says every second that this host is there, and looks whether it is complete.
    pub(super) async fn beat(&self, session: &Session) -> Result<(), Ended> {
        let mut tick = tokio::time::interval(BEAT);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut said = Heartbeat::new(self.own, &self.settings.name, self.settings.keys, &self.instance);
        let subject = self.subject("hosts", &self.own.to_string());
        loop {
            tick.tick().await;
            let needs = || self.plane.status().under_other_key.claims as u64;
            said.needs_other = self.settings.keys.other.map(|_| needs());
            {
                let state = self.state();
                (said.head, said.end) = (state.head, self.log_head());
                said.applied = state.reached.iter().map(|(o, p)| (*o, p.whole())).collect();
                let ago = |i: Instant| u64::try_from(i.elapsed().as_millis()).unwrap_or(u64::MAX);
                said.staleness = state.complete.map(ago);
            }
            let text = serde_json::to_vec(&said).unwrap_or_default();
            let sent = session.conn.client.publish(subject.clone(), text.into()).await;
            sent.map_err(|e| because("this host cannot be heard", &e))?;
            self.look(session).await?;
        }
    }

    /// Notes whether all that others ordered is in force here, as far as can be known.
    async fn look(&self, session: &Session) -> Result<(), Ended> {
        let now = Instant::now();
        if !session.consuming.load(Ordering::Relaxed) {
            return Ok(());
        }
        let info = session.conn.stream.consumer_info(self.consumer()).await;
        let info = info.map_err(|e| because("the stream or this host's consumer is gone", &e))?;
        let mut state = self.state();
        state.backlog = info.num_pending;
        let heads = state.hosts.heads(self.own, now);
        let known = |origin, head: u64| state.reached.get(&origin).map_or(0, |p| p.whole()) >= head;
        let all = heads.into_iter().all(|(origin, head)| known(origin, head));
        // A gap that nobody who is there can fill says nothing about what there is to know.
        if info.num_pending == 0 && info.num_ack_pending == 0 && all {
            state.complete = Some(now);
        }
        Ok(())
    }
}
