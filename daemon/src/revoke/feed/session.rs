//! One connection after the other, and what is done while there is one.

use std::{
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use tokio::sync::mpsc;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use super::{
    Feed,
    apply::Work,
    connect::{Connected, Ended},
    tracker::Tracker,
};

/// Work that waits.
const QUEUE: usize = 8;
/// After something else than a connection went wrong, it is tried again no sooner.
pub const PAUSE: Duration = Duration::from_secs(1);

/// What the parts of a session share.
pub struct Session {
    pub conn: Connected,
    pub work: mpsc::Sender<Work>,
    /// Somebody else says to be this host.
    pub cloned: AtomicBool,
    /// This host's consumer was made.
    pub consuming: AtomicBool,
}

impl Feed {
    /// Keeps connected until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut said = String::new();
        loop {
            let ended = tokio::select! {
                () = stop.cancelled() => return,
                ended = Arc::clone(&self).one(&mut said) => ended,
            };
            let (why, pause) = match ended {
                Err(Failed::Lost(why)) => (why, self.settings.reconnect),
                Err(Failed::Working(why)) => (why, self.settings.reconnect.max(PAUSE)),
                Ok(()) => ("the connection ended".to_owned(), self.settings.reconnect),
            };
            if why != said {
                tracing::warn!(
                    reason = why,
                    "the fleet is out of reach: revocations are in force here, and are told when it is back"
                );
                said.clone_from(&why);
            }
            {
                let mut state = self.state();
                (state.server, state.since) = (None, None);
                state.error = Some(why);
            }
            self.heard();
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// One session. What panics in it ends it, and nothing else.
    async fn one(self: Arc<Self>, said: &mut String) -> Result<(), Failed> {
        let mut own = std::mem::take(said);
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            let ended = Box::pin(self.session(&mut own)).await;
            (ended, own)
        }));
        match task.await {
            Ok((ended, own)) => {
                *said = own;
                ended
            }
            Err(e) => {
                tracing::error!(error = %e, "telling and hearing the fleet ended by a fault of the program: it begins anew");
                Err(Failed::Working("a fault of the program: see the log".to_owned()))
            }
        }
    }

    async fn session(&self, said: &mut String) -> Result<(), Failed> {
        let mut conn = self.connect().await.map_err(Failed::Lost)?;
        let mut lost = std::mem::replace(&mut conn.lost, mpsc::channel(1).1);
        let info = conn.client.server_info();
        let (work, queue) = mpsc::channel(QUEUE);
        let session =
            Session { conn, work, cloned: AtomicBool::new(false), consuming: AtomicBool::new(false) };
        let tracker = Tracker::new(self.plane.fleet().reached);
        let name = if info.server_name.is_empty() { info.host.clone() } else { info.server_name.clone() };
        {
            let mut state = self.state();
            state.server = Some(format!("{name} {}", info.version));
            state.since = Some(Instant::now());
            state.error = None;
            state.gaps = 0;
            state.backlog = u64::MAX;
            state.counts.connections += 1;
        }
        tracing::info!(server = name, version = info.version, "the fleet is reached");
        said.clear();
        let working = |e: Ended| Failed::Working(e);
        tokio::select! {
            why = lost.recv() => Err(Failed::Lost(why.unwrap_or_default())),
            r = self.apply(&session, queue, tracker) => r.map_err(working),
            r = self.publish(&session) => r.map_err(working),
            r = self.consume(&session) => r.map_err(working),
            r = self.listen(&session) => r.map_err(working),
            r = self.beat(&session) => r.map_err(working),
            r = self.resync(&session) => r.map_err(working),
            r = self.share(&session) => r.map_err(working),
        }
    }
}

/// Why there is no connection any more.
enum Failed {
    Lost(Ended),
    Working(Ended),
}
