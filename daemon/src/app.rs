//! Wires everything: the one place that may know every room.
//!
//! Start, in this order: configuration (before), key, policies, store, sockets bound, kernel maps filled, everything
//! else made, programs attached, ready: see [`pending`]. Stop: front doors first, then admin and observability, then
//! the revocation thread. The kernel goes on enforcing after the end.

mod bundles;
mod candidate;
mod documents;
mod fleet;
mod floods;
mod pending;
mod promoted;
mod records;
mod rehearsal;
mod settings;
mod standards;
mod status;
mod tasks;
mod traces;

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, PoisonError, atomic::AtomicU64},
    thread::JoinHandle,
};

use anyhow::{Context as _, Result, anyhow};
use arc_swap::ArcSwap;
use tokio::{
    net::TcpListener,
    sync::{broadcast, mpsc},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use self::{candidate::Candidate, pending::Pending, promoted::Copies};
use crate::{
    clock::{Clock, SharedClock, SystemClock},
    config::{Config, Endpoint, KernelMode, ServeTls, UnknownMode},
    decide::{Decider, DeciderParts, watch_pressure},
    kernel::{
        CounterReader, EventSource, Guarded, GuardedView, Kernel, LinkWatch, Place, PlacesView, Questions,
        Senders,
    },
    outside::Outside,
    policy::{self, Active, PolicySet},
    record::Recorder,
    revoke::{Index, Limits, Plane, PlaneHandle, Store, feed::Feed},
    serve::{
        AdminSocket, AdminState, Doors, Listener, ObserveState, ServeError, Tls, UnixSocket, UsageLister,
        answer_kernel, bind, serve_admin, serve_observe, serve_remote_admin,
    },
    telemetry::Metrics,
    token::{ApiKeys, Binder, FingerprintKey, FingerprintKeys, Introspector, StatusLists, Verifier},
    usage::{Book, Keeper},
};

/// How long requests in progress may take when the daemon stops.
const LAST_WORDS: std::time::Duration = std::time::Duration::from_secs(15);
/// Events kept for readers that are slow.
const EVENT_BACKLOG: usize = 4096;

/// The kernel side after the plane took its maps over.
pub(crate) struct KernelSide {
    counters: CounterReader,
    guarded: GuardedView,
    places: PlacesView,
    senders: Senders,
    adopted: bool,
    capacity: u32,
    /// The second guard's view and counters by place, while there is one.
    beside: Option<(GuardedView, PlacesView)>,
}

impl KernelSide {
    /// How it stands now.
    fn guarded(&self) -> Guarded {
        let read = |view: &GuardedView| view.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut guarded = read(&self.guarded);
        if let Some((view, _)) = &self.beside {
            guarded.destroyed_connections += read(view).destroyed_connections;
        }
        guarded
    }

    /// What was counted by place.
    fn places(&self) -> Vec<Place> {
        let mut places = self.places.read().unwrap_or_default();
        if let Some((_, beside)) = &self.beside {
            Place::add_refusals(&mut places, &beside.read().unwrap_or_default());
        }
        places
    }
}

/// What `status`, metrics and tasks share.
pub(crate) struct Shared {
    /// Where the configuration came from.
    path: PathBuf,
    /// The configuration in force.
    config: ArcSwap<Config>,
    decider: Arc<Decider>,
    verifier: Arc<Verifier>,
    api_keys: Option<Arc<ApiKeys>>,
    introspector: Option<Arc<Introspector>>,
    status_lists: Option<Arc<StatusLists>>,
    policy: Arc<Active>,
    plane: PlaneHandle,
    /// Other hosts, where there are any.
    fleet: Option<Arc<Feed>>,
    metrics: Arc<Metrics>,
    /// Uses of tokens, where they are noted.
    usage: Option<Arc<Book>>,
    /// Takes decisions, and kernel events where they are recorded too.
    recorder: Option<Arc<Recorder>>,
    candidate: Candidate,
    kernel: Option<KernelSide>,
    bundles: Bundles,
    clock: SharedClock,
    /// Held while policies are loaded and put in force: one at a time.
    loading: tokio::sync::Mutex<()>,
    /// Fingerprint keys in force, and those that were.
    keys: (FingerprintKeys, Vec<u32>),
    /// Kernel events seen, for `status`.
    events_seen: AtomicU64,
    started: std::time::Instant,
}

/// Who says that a token is one.
struct Vouchers {
    verifier: Arc<Verifier>,
    api_keys: Option<Arc<ApiKeys>>,
    introspector: Option<Arc<Introspector>>,
    status_lists: Option<Arc<StatusLists>>,
}

fn vouchers(config: &Config, key: &Arc<FingerprintKey>) -> Result<Vouchers> {
    let api_keys = settings::api_keys(config)
        .map(|settings| ApiKeys::open(settings, Arc::clone(key)).map(Arc::new))
        .transpose()?;
    let verifier = Verifier::new(settings::issuers(config), config.token.leeway.0)?;
    let introspector = settings::introspection(config)?
        .map(|settings| Introspector::new(settings, Arc::clone(key)).map(Arc::new))
        .transpose()
        .context("the introspection server cannot be asked")?;
    let status_lists = settings::status_lists(config)
        .map(|settings| StatusLists::new(settings).map(Arc::new))
        .transpose()
        .context("status lists cannot be fetched")?;
    let verifier = verifier.with_api_keys(api_keys.clone()).with_introspector(introspector.clone());
    let verifier = Arc::new(verifier.with_status_lists(status_lists.clone()));
    Ok(Vouchers { verifier, api_keys, introspector, status_lists })
}

/// Runs the daemon until `stop`.
pub async fn run(path: PathBuf, config: Config, stop: CancellationToken) -> Result<()> {
    let clock: SharedClock = Arc::new(SystemClock);
    let metrics = Arc::new(Metrics::new().context("metrics cannot be made")?);
    let token = &config.token;
    let keys = FingerprintKeys::load(&token.fingerprint_key, token.other_fingerprint_key.as_deref())?;
    let key = Arc::clone(&keys.own);
    let Vouchers { verifier, api_keys, introspector, status_lists } = vouchers(&config, &key)?;
    let binder = Binder::new(settings::binding(&config), Arc::clone(&key));
    let (bundles, arrived) = Bundles::start(&config).await?;
    bundles.check(&arrived).map_err(|e| anyhow!(e))?;
    let set = load_policies(&config, &bundles.dirs(&arrived))?;
    bundles.took(arrived, clock.wall());
    let store = Store::open_with(&config.revocation.store, settings::keys(&keys), settings::store(&config))?;
    // Everything that can fail for a reason outside the kernel is behind us before the kernel is touched.
    let sockets = Sockets::bind(&config).await?;
    let records = records::open(&config)?;
    let usage =
        settings::usage(&config).map(|s| Keeper::start(&s, key.id(), Arc::clone(&clock))).transpose()?;
    let former = settings::former(&keys, &store.keys());
    let kernel_settings = settings::kernel(&config, &keys, &former)?;
    let index = Arc::new(Index::default());
    let plane_settings = settings::plane(&config, &keys, limits(&config));
    let read = || Plane::read(store, Arc::clone(&index), Arc::clone(&clock), plane_settings);
    let (plane, mut pending) = Pending::load(read, kernel_settings, set.stamp())?;
    let (kernel, told) = pending.kernel_mut().map(|kernel| kernel_side(kernel, &*clock)).transpose()?.unzip();
    let generation = pending.generation();
    metrics.policy(generation, set.engine().name(), set.engine().cause(), !set.tested().required);
    let active = Arc::new(Active::new(set, generation));
    let parts = DeciderParts {
        verifier: Arc::clone(&verifier),
        binder,
        key,
        other_key: keys.other.clone(),
        policy: Arc::clone(&active),
        index,
        plane: plane.clone(),
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&metrics),
        recorder: records.recorder.clone(),
        outside: outside(&config, &metrics)?,
        usage: usage.as_ref().map(|keeper| Arc::clone(keeper.book())),
        geo: settings::geo(&config)?.map(Arc::new),
    };
    let (recorder, candidate) = (records.recorder.clone(), Candidate::default());
    let threads = records.start(&config, &active, &candidate, &metrics)?;
    let decider = Arc::new(Decider::new(parts, settings::decide(&config)));
    let shared = Arc::new(Shared {
        fleet: fleet::feed(&config, &plane, &decider, usage.as_ref(), &clock),
        decider,
        verifier,
        api_keys,
        introspector,
        status_lists,
        policy: active,
        plane,
        metrics,
        usage: usage.as_ref().map(|keeper| Arc::clone(keeper.book())),
        recorder,
        candidate,
        kernel,
        loading: tokio::sync::Mutex::default(),
        keys: (keys, former),
        events_seen: AtomicU64::new(0),
        started: std::time::Instant::now(),
        bundles,
        clock: Arc::clone(&clock),
        path,
        config: ArcSwap::from_pointee(config),
    });
    let uses = usage.as_ref().map(|keeper| Arc::new(keeper.lister()) as UsageLister);
    let served = serve(Arc::clone(&shared), sockets, told, clock, (uses, pending), stop).await;
    // Connections that would not end may still hold handles: the thread is told, not waited for.
    shared.plane.stop().await;
    drop(shared);
    let last = move || {
        threads.stop();
        if let Some(usage) = usage {
            usage.stop();
        }
    };
    let _ = tokio::task::spawn_blocking(last).await;
    let thread = served?;
    tokio::task::spawn_blocking(move || thread.join())
        .await
        .ok()
        .and_then(Result::ok)
        .ok_or_else(|| anyhow!("the revocation thread ended badly; what was acknowledged is on disk"))
}

/// What policies ask servers by, if they may.
fn outside(config: &Config, metrics: &Arc<Metrics>) -> Result<Option<Arc<Outside>>> {
    let Some(settings) = settings::outside(config) else { return Ok(None) };
    let outside = Outside::new(settings, Arc::clone(metrics)).context("`policy.http_send` cannot be used")?;
    Ok(Some(Arc::new(outside)))
}

/// Every socket, bound but not served.
struct Sockets {
    doors: Vec<(Endpoint, Listener)>,
    standards: Vec<(Endpoint, Listener)>,
    remote_admin: Vec<(SocketAddr, TcpListener, Arc<Tls>)>,
    admin: AdminSocket,
    observe: TcpListener,
}

impl Sockets {
    async fn bind(config: &Config) -> Result<Self, ServeError> {
        let mut doors = Vec::new();
        for endpoint in &config.serve.listen {
            doors.push((endpoint.clone(), door(endpoint, config, "serve.listen").await?));
        }
        for (address, listener, tls) in tls_listeners(&config.serve.tls, "serve.tls.listen").await? {
            doors.push((Endpoint::Tcp(address), Listener::Tls(listener, tls)));
        }
        let standards = standards::bind(config).await?;
        let remote_admin = tls_listeners(&config.admin.tls, "admin.tls.listen").await?;
        let observe = bind(config.observe.listen, "observe.listen").await?;
        let admin = AdminSocket::bind(&config.admin.socket)?;
        Ok(Self { doors, standards, remote_admin, admin, observe })
    }
}

/// Binds every address of tables of listeners with TLS.
async fn tls_listeners(
    tables: &[ServeTls],
    key: &'static str,
) -> Result<Vec<(SocketAddr, TcpListener, Arc<Tls>)>, ServeError> {
    let mut all = Vec::new();
    for table in tables {
        let tls = Arc::new(Tls::load(settings::tls(table))?);
        for address in &table.listen {
            all.push((*address, bind(*address, key).await?, Arc::clone(&tls)));
        }
    }
    Ok(all)
}

/// Binds one listener of the front doors.
async fn door(endpoint: &Endpoint, config: &Config, key: &'static str) -> Result<Listener, ServeError> {
    match endpoint {
        Endpoint::Tcp(address) => bind(*address, key).await.map(Listener::Tcp),
        Endpoint::Unix(path) => {
            // The configuration was checked.
            let mode = u32::from_str_radix(&config.serve.socket_mode, 8).unwrap_or(0o600);
            let group = config.serve.socket_group.as_deref();
            UnixSocket::bind(path, key, mode, group).map(Listener::Unix)
        }
    }
}

/// The path of the rule that decides what who comes over TLS may order; empty where nobody does.
fn remote_admin_rule(config: &Config, may_hold: impl Fn(&[&str]) -> bool) -> Result<Vec<String>> {
    let decision = &config.admin.decision;
    let rule: Vec<String> = decision.split('/').map(str::to_owned).collect();
    let parts: Vec<&str> = rule.iter().map(String::as_str).collect();
    if config.admin.tls.is_empty() {
        return Ok(Vec::new());
    }
    if !may_hold(&parts) {
        return Err(anyhow!("`admin.decision` names `{decision}`, which no rule of the policy set gives"));
    }
    Ok(rule)
}

/// Serves the admin API over TLS, where that is configured.
fn serve_remote(
    shared: &Shared,
    listeners: Vec<(SocketAddr, TcpListener, Arc<Tls>)>,
    admin: &AdminState,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    if listeners.is_empty() {
        return Ok(());
    }
    let rule = remote_admin_rule(&shared.config.load(), |rule| shared.decider.may_hold(rule))?;
    for (_, listener, tls) in listeners {
        tasks.spawn(serve_remote_admin(listener, tls, admin.clone(), rule.clone(), stop.clone()));
    }
    Ok(())
}

/// Serves every socket, has the kernel enforce, says that it is ready, and waits for the end. What can fail comes before
/// anything is in force in the kernel. Gives the revocation plane's thread, which is to be told to stop and joined.
async fn serve(
    shared: Arc<Shared>,
    sockets: Sockets,
    kernel: Option<Told>,
    clock: SharedClock,
    (uses, pending): (Option<UsageLister>, Pending),
    stop: CancellationToken,
) -> Result<JoinHandle<()>> {
    let tasks = TaskTracker::new();
    let (event_sender, _) = broadcast::channel(EVENT_BACKLOG);
    let (reload, reloads) = mpsc::channel(4);
    let (promotions, promoted) = mpsc::channel(4);
    let (documents, changes) = documents::documents(&shared).unzip();
    let doors = Arc::new(Doors {
        decider: Arc::clone(&shared.decider),
        metrics: Arc::clone(&shared.metrics),
        settings: settings::doors(&shared.config.load()),
        documents,
        tracer: traces::start(&shared, &tasks, &stop)?,
    });
    if let Some(changes) = changes {
        tasks.spawn(documents::keep(Arc::clone(&shared), changes, stop.clone()));
    }
    let ssf = standards::transmitters(&shared)?;
    let admin = AdminState {
        ssf: ssf.clone(),
        decider: Arc::clone(&shared.decider),
        api_keys: shared.api_keys.clone(),
        plane: shared.plane.clone(),
        clock: Arc::clone(&clock),
        metrics: Arc::clone(&shared.metrics),
        events: event_sender.clone(),
        status: status::reader(&shared),
        reload,
        promotions,
        shadow: status::shadow_reader(&shared),
        usage: shared.usage.clone().zip(uses),
        stop: stop.clone(),
        default_ttl: shared.config.load().revocation.default_ttl.0,
        host: settings::host_name(&shared.config.load()).into(),
        sees_unseen: status::sees_unseen(&shared),
        fleet: shared.fleet.clone(),
    };
    let observe = ObserveState {
        metrics: Arc::clone(&shared.metrics),
        ready: status::readiness(&shared),
        refresh: status::refresher(&shared),
    };
    standards::serve(&shared, sockets.standards, &ssf, &tasks, &stop)?;
    serve_remote(&shared, sockets.remote_admin, &admin, &tasks, &stop)?;
    tasks.spawn(serve_admin(sockets.admin, admin, stop.clone()));
    tasks.spawn(serve_observe(sockets.observe, observe, stop.clone()));
    for (endpoint, listener) in sockets.doors {
        tracing::info!(address = %endpoint, "front doors");
        tasks.spawn(Arc::clone(&doors).serve(listener, stop.clone()));
    }
    tasks.spawn(tasks::keys(Arc::clone(&shared), stop.clone()));
    if let Some(geo) = shared.decider.geo() {
        tasks.spawn(tasks::places(Arc::clone(geo), stop.clone()));
    }
    tasks.spawn(tasks::sweep(Arc::clone(&shared), stop.clone()));
    if let Some(feed) = &shared.fleet {
        tasks.spawn(Arc::clone(feed).run(stop.clone()));
    }
    tasks.spawn(candidate::keep(Arc::clone(&shared), Arc::clone(&clock), promoted, stop.clone()));
    let max_lag = shared.config.load().decide.max_lag.0;
    if !max_lag.is_zero() {
        tasks.spawn(watch_pressure(Arc::clone(&shared.decider), max_lag, stop.clone()));
    }
    if shared.kernel.is_some() {
        let watch = LinkWatch::start().context("changes of network interfaces cannot be watched")?;
        tasks.spawn(tasks::interfaces(Arc::clone(&shared), watch, stop.clone()));
        tasks.spawn(floods::watch(Arc::clone(&shared), stop.clone()));
    }
    let watcher = tasks::reload(&shared, reloads, &tasks, stop.clone())?;
    bundles::follow(&shared, &tasks, &stop)?;
    let thread = pending.begin()?;
    shared.decider.set_ready(true);
    shared.metrics.ready(true);
    if let Some(told) = kernel {
        let held = {
            let shared = Arc::clone(&shared);
            move || shared.config.load().kernel.unknown == UnknownMode::Hold
        };
        let doors = Arc::clone(&doors);
        tasks.spawn(answer_kernel(doors, told.questions, held, tasks::address, stop.clone()));
        for source in told.events {
            let (clock, sender) = (Arc::clone(&clock), event_sender.clone());
            tasks.spawn(tasks::events(Arc::clone(&shared), source, clock, sender, stop.clone()));
        }
    }
    announce(&shared);
    stop.cancelled().await;
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("stopping; what the kernel enforces stays in force");
    shared.decider.set_ready(false);
    drop(watcher);
    tasks.close();
    if tokio::time::timeout(LAST_WORDS, tasks.wait()).await.is_err() {
        tracing::warn!("connections that would not end were cut");
    }
    Ok(thread)
}

fn announce(shared: &Shared) {
    if let Some(k) = &shared.kernel {
        let guarded = k.guarded();
        for a in &guarded.attached {
            tracing::info!(interface = a.interface, hook = ?a.hook, adopted = a.adopted, "guarded");
        }
        if guarded.older_connections != 0 {
            tracing::warn!(
                connections = guarded.older_connections,
                "connections older than guard are read segment by segment: `kernel.older_connections = \"reset\"` ends them"
            );
        }
        if shared.config.load().kernel.mode == KernelMode::Observe {
            tracing::warn!("`kernel.mode` is \"observe\": condemned tokens are counted and let through");
        }
    } else {
        tracing::warn!(
            "`kernel.mode` is \"off\": nothing is enforced in the kernel, the decision path alone refuses"
        );
    }
    let config = shared.config.load();
    if !config.policy.require_tests {
        tracing::warn!("`policy.require_tests` is off: policy sets come into force untested");
    }
    if !config.serve.fail_open.is_empty() {
        tracing::warn!(
            doors = ?config.serve.fail_open,
            "`serve.fail_open` is set: requests pass there where no decision can be made"
        );
    }
    tracing::info!("ready");
    // Not run by systemd: there is nobody to tell.
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
}

use self::bundles::Bundles;
pub(crate) use bundles::for_check as with_bundles;
pub(crate) use rehearsal::rehearse;
pub(crate) use settings::policy as policy_options;

/// Loads the set of the configured directories, those of bundles, and what OPA's API wrote.
pub(crate) fn load_policies(config: &Config, bundles: &[PathBuf]) -> Result<PolicySet, policy::LoadError> {
    let written = config.serve.opa_writes.as_deref().and_then(documents::current);
    let copies = Copies::of(config);
    let (live, promoted) = copies.live()?;
    copies.forget_if_caught_up(promoted.as_deref());
    if let Some(revision) = promoted {
        tracing::warn!(
            revision,
            "the live policies are a promoted set, and `policy.dirs` hold another, which is not in force: bring the promoted set there, or run `portcullis policy rollback`"
        );
    }
    let dirs: Vec<PathBuf> = live.into_iter().chain(bundles.iter().cloned()).chain(written).collect();
    policy::load(&dirs, &config.policy.decision, &settings::policy(config))
}

fn limits(config: &Config) -> Limits {
    // Without a kernel map memory is the only bound; the configured one is kept as that.
    let capacity = config.kernel.max_entries as usize;
    let condemned = (config.kernel.policy_entries as usize).min(capacity / 2);
    Limits { revoked: capacity - condemned, condemned }
}

/// What the kernel side tells and asks.
struct Told {
    /// Of each guard.
    events: Vec<EventSource>,
    questions: Questions,
}

fn kernel_side(kernel: &mut Kernel, clock: &dyn Clock) -> Result<(KernelSide, Told)> {
    let side = KernelSide {
        counters: kernel.counters()?,
        guarded: kernel.guarded(),
        places: kernel.places(),
        senders: kernel.senders()?,
        adopted: kernel.adopted,
        capacity: kernel.deny.wanted(),
        beside: kernel.guarded_beside().zip(kernel.places_beside()),
    };
    let mut questions = kernel.questions()?;
    questions.free_stale(clock.boot().0).context("slots of an earlier daemon's questions cannot be freed")?;
    let mut events = vec![kernel.events()?];
    events.extend(kernel.events_beside()?);
    Ok((side, Told { events, questions }))
}
