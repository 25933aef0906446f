//! Living connections at guarded ports, seen through what guard keeps with their sockets.
//!
//! A connection whose token is condemned ends at its next packet, in the kernel. One that is silent has none: it is
//! found here by its token and destroyed.

use std::{
    collections::HashSet,
    io,
    net::{IpAddr, SocketAddr},
    os::fd::{AsFd as _, OwnedFd},
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, RecvTimeoutError},
    },
    thread,
    time::Duration,
};

use portcullis_common::{
    fingerprint::DenyFingerprint,
    h2::{H2, OLDER, SLOTS},
    layout::Flow,
    stream::{Answers, PHASE_NEW, PHASE_OLD, Stream, TOKENS},
};

use super::{
    GuardedView,
    diag::{Diag, Socket},
    netns,
};

/// A storage map: what it is called by, and its id in replies.
#[derive(Debug)]
pub(super) struct Storage {
    pub fd: OwnedFd,
    pub id: u32,
}

/// What is kept of each connection.
#[derive(Debug)]
pub(super) struct Stored {
    pub streams: Storage,
    pub answers: Storage,
    pub frames: Storage,
}

/// Looks at connections; one owner.
#[derive(Debug)]
pub struct Connections {
    diag: Diag,
    /// Further network namespaces.
    others: Vec<PathBuf>,
    ports: Vec<u16>,
    stored: Stored,
}

/// What a look at all connections came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Severed {
    /// Connections looked at.
    pub seen: usize,
    /// Connections destroyed.
    pub destroyed: usize,
}

impl Connections {
    pub(super) fn new(diag: Diag, others: Vec<PathBuf>, ports: Vec<u16>, stored: Stored) -> Self {
        Self { diag, others, ports, stored }
    }

    /// Destroys the connections on which a request with one of `tokens` is under way, or that are a tunnel of one.
    /// Others live on, idle ones that carried such a token before among them.
    pub fn sever(&mut self, tokens: &HashSet<DenyFingerprint>) -> io::Result<Severed> {
        self.walk(tokens, true)
    }

    /// The connections that [`Self::sever`] would destroy; they live on.
    pub fn count(&mut self, tokens: &HashSet<DenyFingerprint>) -> io::Result<usize> {
        self.walk(tokens, false).map(|s| s.destroyed)
    }

    fn walk(&mut self, tokens: &HashSet<DenyFingerprint>, destroy: bool) -> io::Result<Severed> {
        let mut done = Severed::default();
        let (streams, answers, frames) =
            (self.stored.streams.id, self.stored.answers.id, self.stored.frames.id);
        self.each(|diag, socket| {
            done.seen += 1;
            let Some(stream) = stored::<Stream>(socket, streams) else { return Ok(()) };
            let answers = stored::<Answers>(socket, answers);
            let answered = answers.map_or(0, |a| a.done(stream.asked));
            // On HTTP/2 each stream has a token of its own.
            let h2 = if stream.is_framed() { stored::<H2>(socket, frames) } else { None };
            let among = (0..SLOTS + OLDER).filter_map(|i| h2.as_ref().map(|h2| h2.open(i)));
            let of_streams = among
                .filter(|o| o.stream != 0 && o.has_token != 0)
                .any(|o| tokens.contains(&DenyFingerprint(o.token)));
            let of_requests =
                (0..TOKENS).any(|i| stream.is_open(i, answered) && tokens.contains(&stream.tokens[i]));
            // Of those whose tokens are not all remembered, any may be one of these.
            let crowded = stream.is_crowded(answers.as_ref()) || h2.as_ref().is_some_and(H2::is_crowded);
            if of_streams || of_requests || crowded {
                if destroy {
                    diag.destroy(&socket.id)?;
                }
                done.destroyed += 1;
            }
            Ok(())
        })?;
        Ok(done)
    }

    /// The connections whose beginning guard has not seen, as it names them (the interface left open).
    pub fn unseen(&mut self) -> io::Result<Vec<Flow>> {
        let streams = self.stored.streams.id;
        let mut found = Vec::new();
        self.each(|_, socket| {
            let phase = stored::<Stream>(socket, streams).map_or(PHASE_NEW, |s| s.phase);
            if phase == PHASE_NEW || phase == PHASE_OLD {
                found.push(flow(socket));
            }
            Ok(())
        })?;
        Ok(found)
    }

    /// Destroys those.
    pub fn destroy_unseen(&mut self) -> io::Result<usize> {
        let streams = self.stored.streams.id;
        let mut destroyed = 0;
        self.each(|diag, socket| {
            let phase = stored::<Stream>(socket, streams).map_or(PHASE_NEW, |s| s.phase);
            if phase == PHASE_NEW || phase == PHASE_OLD {
                diag.destroy(&socket.id)?;
                destroyed += 1;
            }
            Ok(())
        })?;
        Ok(destroyed)
    }

    /// Destroys these, wherever they are.
    pub fn destroy(&mut self, flows: &[Flow]) -> io::Result<usize> {
        let mut destroyed = 0;
        self.each(|diag, socket| {
            let here = flow(socket);
            if flows.iter().any(|f| Flow { interface: 0, ..*f } == here) {
                diag.destroy(&socket.id)?;
                destroyed += 1;
            }
            Ok(())
        })?;
        Ok(destroyed)
    }

    fn each(&mut self, mut work: impl FnMut(&mut Diag, &Socket) -> io::Result<()>) -> io::Result<()> {
        let stored = &self.stored;
        let maps = [stored.streams.fd.as_fd(), stored.answers.fd.as_fd(), stored.frames.fd.as_fd()];
        let ports = &self.ports;
        let mut walk = |diag: &mut Diag| -> io::Result<()> {
            for port in ports {
                for socket in diag.connections(*port, &maps)? {
                    work(diag, &socket)?;
                }
            }
            Ok(())
        };
        walk(&mut self.diag)?;
        for path in &self.others {
            // Opened there, used here, and closed again. One that is not there has no connections.
            match netns::within(Some(path), Diag::open).and_then(|opened| opened) {
                Ok(mut diag) => walk(&mut diag)?,
                Err(e) if e.kind() == io::ErrorKind::NotFound => {}
                Err(e) => tracing::error!(
                    namespace = %path.display(),
                    error = %e,
                    "its connections cannot be listed: silent ones of condemned tokens live on there"
                ),
            }
        }
        Ok(())
    }
}

/// Connections that were there before guard.
pub(super) type OlderFlows = Arc<Mutex<Vec<Flow>>>;

/// How often it is seen which of them are left.
const LOOK: Duration = Duration::from_secs(10);

/// Sees which connections older than guard are left.
fn count_older(connections: &mut Connections, older: &OlderFlows, view: &GuardedView) {
    let mut older = older.lock().unwrap_or_else(PoisonError::into_inner);
    if older.is_empty() {
        return;
    }
    match connections.unseen() {
        Ok(there) => {
            let there: HashSet<Flow> = there.into_iter().collect();
            older.retain(|f| there.contains(f));
            view.write().unwrap_or_else(PoisonError::into_inner).set_older(&older);
        }
        Err(e) => tracing::warn!(error = %e, "connections older than guard could not be counted"),
    }
}

/// What the thread below is asked to end.
enum End {
    /// The connections of these tokens.
    Tokens(Vec<DenyFingerprint>),
    /// These.
    Flows(Vec<Flow>),
    /// None: those of these tokens are counted.
    Count(HashSet<DenyFingerprint>, Tell),
}

/// Takes a number of connections; `None` where they could not be looked at.
pub(super) type Tell = Box<dyn FnOnce(Option<usize>) + Send>;

/// A thread that ends connections.
#[derive(Debug)]
pub(super) struct Reaper {
    orders: Option<mpsc::Sender<End>>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Reaper {
    /// Starts it.
    pub(super) fn start(
        mut connections: Connections,
        view: GuardedView,
        older: OlderFlows,
    ) -> io::Result<Self> {
        let (orders, received) = mpsc::channel::<End>();
        let thread = thread::Builder::new().name("connections".into()).spawn(move || {
            loop {
                let first = match received.recv_timeout(LOOK) {
                    Ok(first) => first,
                    Err(RecvTimeoutError::Timeout) => {
                        count_older(&mut connections, &older, &view);
                        continue;
                    }
                    Err(RecvTimeoutError::Disconnected) => break,
                };
                // What came meanwhile is looked for in the same walk.
                let (mut tokens, mut flows) = (HashSet::new(), Vec::new());
                for order in std::iter::once(first).chain(received.try_iter()) {
                    match order {
                        End::Tokens(more) => tokens.extend(more),
                        End::Flows(more) => flows.extend(more),
                        End::Count(tokens, tell) => {
                            let counted = connections.count(&tokens);
                            if let Err(e) = &counted {
                                tracing::warn!(error = %e, "connections of tokens could not be counted");
                            }
                            tell(counted.ok());
                        }
                    }
                }
                let mut done = Ok(0);
                if !tokens.is_empty() {
                    done = connections.sever(&tokens).map(|s| s.destroyed);
                }
                if !flows.is_empty() {
                    done = done.and_then(|n| Ok(n + connections.destroy(&flows)?));
                }
                match done {
                    Ok(n) => {
                        let mut view = view.write().unwrap_or_else(PoisonError::into_inner);
                        view.destroyed_connections += n as u64;
                    }
                    Err(e) => tracing::error!(
                        error = %e,
                        "connections of condemned tokens could not be looked for: those that are silent live on \
                         until their next packet"
                    ),
                }
            }
        })?;
        Ok(Self { orders: Some(orders), thread: Some(thread) })
    }

    /// Has it end the connections of these tokens; does not wait.
    pub(super) fn end(&self, tokens: Vec<DenyFingerprint>) {
        self.order(End::Tokens(tokens));
    }

    /// Has it count the connections that would end with these tokens; does not wait.
    pub(super) fn count(&self, tokens: HashSet<DenyFingerprint>, tell: Tell) {
        self.order(End::Count(tokens, tell));
    }

    /// Has it end these connections; does not wait.
    pub(super) fn end_flows(&self, flows: Vec<Flow>) {
        self.order(End::Flows(flows));
    }

    fn order(&self, order: End) {
        if let Some(orders) = &self.orders {
            // It ends with this value alone.
            let _ = orders.send(order);
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.orders = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// What a storage keeps of a socket, as a type whose every bit pattern is a value.
fn stored<T: Kept>(socket: &Socket, map: u32) -> Option<T> {
    let (_, bytes) = socket.storages.iter().find(|(id, _)| *id == map)?;
    if bytes.len() < size_of::<T>() {
        return None;
    }
    // SAFETY: there are as many bytes, and `Kept` types are plain integers.
    Some(unsafe { bytes.as_ptr().cast::<T>().read_unaligned() })
}

/// Marks types of plain integers.
///
/// # Safety
/// Every bit pattern of the type's size must be a value of it.
unsafe trait Kept: Copy {}
// SAFETY: `repr(C)` structs of integers.
unsafe impl Kept for Stream {}
// SAFETY: as above.
unsafe impl Kept for Answers {}
// SAFETY: as above.
unsafe impl Kept for H2 {}

/// A connection as the kernel programs name it: from the client's side.
fn flow(socket: &Socket) -> Flow {
    let words = |a: SocketAddr| {
        super::load::address_words(match a.ip() {
            IpAddr::V4(a) => a.to_ipv6_mapped(),
            IpAddr::V6(a) => a,
        })
    };
    Flow {
        source: words(socket.remote),
        destination: words(socket.local),
        source_port: socket.remote.port(),
        destination_port: socket.local.port(),
        interface: 0,
    }
}
