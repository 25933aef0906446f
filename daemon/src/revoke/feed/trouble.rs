//! What goes wrong with the stream while the connection stands: the hosts go on hearing each other meanwhile.

use std::time::{Duration, Instant};

use super::{
    Feed,
    connect::Ended,
    session::{PAUSE, Session},
};

/// How long it is borne before another server is tried, which may know the stream better.
const ELSEWHERE: Duration = Duration::from_secs(10);

/// Something that goes wrong again and again.
pub struct Trouble {
    /// What follows from it, for people.
    means: &'static str,
    since: Option<Instant>,
    /// Why, as it was said last.
    said: Option<Ended>,
}

impl Trouble {
    /// None yet.
    pub const fn new(means: &'static str) -> Self {
        Self { means, since: None, said: None }
    }
}

impl Feed {
    /// Says it, and waits until it is to be tried again; an error where another connection is to be tried, or where there
    /// is no stream.
    pub(super) async fn bear(
        &self,
        session: &Session,
        trouble: &mut Trouble,
        why: Ended,
    ) -> Result<(), Ended> {
        let since = *trouble.since.get_or_insert_with(Instant::now);
        if since.elapsed() > ELSEWHERE || self.lacks_stream(&session.conn.context).await {
            return Err(why);
        }
        if trouble.said.as_ref() != Some(&why) {
            tracing::warn!(reason = why, "{}", trouble.means);
        }
        self.state().error = Some(why.clone());
        trouble.said = Some(why);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// It works again.
    pub(super) fn is_over(&self, trouble: &mut Trouble) {
        trouble.since = None;
        if let Some(said) = trouble.said.take() {
            let mut state = self.state();
            if state.error.as_ref() == Some(&said) {
                state.error = None;
            }
        }
    }
}
