//! Bundles: read at the start, fetched while the daemon runs, in force only with a set that loads and passes.

use std::{
    collections::HashMap,
    fs,
    hash::BuildHasher as _,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use anyhow::{Context as _, Result, anyhow};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Shared, load_policies, settings,
    tasks::{install, refused},
};
use crate::{
    bundle::{BundleError, Fresh, Manifest, Remote, RemoteSettings, Shelf, Verification, overlap, sha256},
    clock::WallTime,
    config::{Config, PolicyBundle},
    fetch,
    token::DocumentKey,
};

/// Below `policy.state_dir`, beside promoted sets.
const SHELVES: &str = "bundles";

/// All bundles of the configuration.
#[derive(Debug, Default)]
pub struct Bundles(Vec<One>);

/// One of them.
#[derive(Debug)]
struct One {
    config: PolicyBundle,
    shelf: Shelf,
    state: RwLock<State>,
}

/// What is in force of one.
#[derive(Clone, Debug, Default)]
struct State {
    manifest: Manifest,
    sha256: String,
    signed: bool,
    dir: Option<PathBuf>,
    since: Option<WallTime>,
    /// The tag by which its server knows it.
    etag: Option<String>,
    /// Why the last one that came was not taken.
    error: Option<String>,
}

/// A bundle that is to come into force.
pub struct Arrived {
    which: usize,
    fresh: Fresh,
    archive: Vec<u8>,
    etag: Option<String>,
}

impl Bundles {
    /// Opens the shelves and takes what is there for the first load: files as they are now, and of servers what they
    /// had last, which is checked again. A server is asked where there is nothing of it yet.
    pub async fn start(config: &Config) -> Result<(Self, Vec<Arrived>)> {
        let mut all = Vec::new();
        let mut arrived = Vec::new();
        for (which, b) in config.policy.bundle.iter().enumerate() {
            let named = || format!("the bundle `{}` (`policy.bundle`)", b.name);
            let shelf = Shelf::open(
                &config.policy.state_dir,
                &b.name,
                config.policy.bundle_max_bytes,
                verification(b)?,
            )
            .with_context(named)?;
            arrived.push(first(which, b, &shelf, config).await.with_context(named)?);
            all.push(One { config: b.clone(), shelf, state: RwLock::default() });
        }
        Ok((Self(all), arrived))
    }

    /// The directories of what is in force, or would be with `arrived`.
    pub fn dirs(&self, arrived: &[Arrived]) -> Vec<PathBuf> {
        let fresh = |n: usize| arrived.iter().find(|a| a.which == n).map(|a| a.fresh.dir().to_owned());
        self.0.iter().enumerate().filter_map(|(n, one)| fresh(n).or_else(|| one.state().dir)).collect()
    }

    /// Refuses bundles that claim the same part of `data`.
    pub fn check(&self, arrived: &[Arrived]) -> Result<(), String> {
        let manifest = |n: usize| {
            let fresh = arrived.iter().find(|a| a.which == n).map(|a| a.fresh.manifest.clone());
            fresh.or_else(|| self.0.get(n).map(One::state).filter(|s| s.dir.is_some()).map(|s| s.manifest))
        };
        let known: Vec<_> =
            (0..self.0.len()).filter_map(|n| Some((&self.0.get(n)?.config.name, manifest(n)?))).collect();
        for (i, (a, left)) in known.iter().enumerate() {
            for (b, right) in &known[i + 1..] {
                if let Some((x, y)) = overlap(left, right) {
                    return Err(format!(
                        "the bundles `{a}` and `{b}` both claim `{}` of data; give them manifests with roots that do not overlap",
                        if x.len() > y.len() { x } else { y }
                    ));
                }
            }
        }
        Ok(())
    }

    /// Notes that these are in force, and keeps them for the next start.
    pub fn took(&self, arrived: Vec<Arrived>, now: WallTime) {
        for Arrived { which, fresh, archive, etag } in arrived {
            let Some(one) = self.0.get(which) else { continue };
            if let Err(e) = one.shelf.persist(&archive, etag.as_deref(), fresh.dir()) {
                tracing::error!(bundle = one.config.name, error = %e, "the bundle is in force, but is not kept for the next start");
            }
            let state = State {
                manifest: fresh.manifest.clone(),
                sha256: fresh.sha256.clone(),
                signed: fresh.signed,
                dir: Some(fresh.dir().to_owned()),
                since: Some(now),
                etag,
                error: None,
            };
            fresh.keep();
            tracing::info!(
                bundle = one.config.name,
                revision = state.manifest.revision,
                sha256 = state.sha256,
                "bundle in force"
            );
            *one.state.write().unwrap_or_else(PoisonError::into_inner) = state;
        }
    }

    /// Files that have changed since, read anew; a fault is remembered, and what is in force stays.
    pub fn reread(&self) -> Result<Vec<Arrived>, String> {
        let mut arrived = Vec::new();
        for (which, one) in self.0.iter().enumerate() {
            let Some(file) = &one.config.file else { continue };
            let known = one.state().sha256;
            let read = read(file).map(|archive| (sha256(&archive) != known).then_some(archive));
            let read =
                read.and_then(|new| new.map(|archive| unpacked(which, archive, &one.shelf)).transpose());
            match read {
                Ok(new) => arrived.extend(new),
                Err(e) => {
                    let message = format!("the bundle `{}` is refused: {e}", one.config.name);
                    one.failed(&message);
                    return Err(message);
                }
            }
        }
        Ok(arrived)
    }

    fn failed(&self, arrived: &[Arrived], message: &str) {
        for a in arrived {
            if let Some(one) = self.0.get(a.which) {
                one.failed(message);
            }
        }
    }

    /// For `status`.
    pub fn show(&self) -> Value {
        let show = |one: &One| {
            let s = one.state();
            json!({
                "name": one.config.name,
                "revision": s.manifest.revision,
                "roots": s.manifest.roots,
                "sha256": s.sha256,
                "signed": s.signed,
                "activated": s.since,
                "error": s.error,
            })
        };
        self.0.iter().map(show).collect()
    }

    /// For the gauges: name, revision, since when (s since 1970).
    pub fn gauges(&self) -> Vec<(String, String, i64)> {
        self.0
            .iter()
            .map(|one| {
                let s = one.state();
                (one.config.name.clone(), s.manifest.revision, s.since.map_or(0, |t| t.0 / 1000))
            })
            .collect()
    }
}

impl One {
    fn state(&self) -> State {
        self.state.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn failed(&self, message: &str) {
        self.state.write().unwrap_or_else(PoisonError::into_inner).error = Some(message.to_owned());
    }
}

fn verification(b: &PolicyBundle) -> Result<Option<Verification>> {
    let Some(path) = &b.key_file else { return Ok(None) };
    let key = DocumentKey::load(path, b.key_algorithm.as_deref().unwrap_or("RS256"))
        .map_err(|why| anyhow!("`policy.bundle.key_file` {}: {why}", path.display()))?;
    Ok(Some(Verification { key, key_id: b.key_id.clone(), scope: b.scope.clone() }))
}

fn remote(b: &PolicyBundle, config: &Config, etag: Option<String>) -> Result<Option<Remote>> {
    let Some(url) = &b.url else { return Ok(None) };
    let bearer = settings::bearer(b.bearer_file.as_deref(), "policy.bundle.bearer_file")?;
    let settings = RemoteSettings {
        url: url.parse()?,
        client: fetch::Settings {
            ca_file: b.ca_file.clone(),
            plain_http: b.plain_http,
            ..fetch::Settings::default()
        },
        bearer,
        pause: (b.poll_min.0, b.poll_max.0),
        wait: b.long_poll.0,
        max: config.policy.bundle_max_bytes,
    };
    Ok(Some(Remote::new(settings, etag)?))
}

fn from_file(which: usize, file: &Path, shelf: &Shelf) -> Result<Arrived, String> {
    unpacked(which, read(file)?, shelf)
}

fn read(file: &Path) -> Result<Vec<u8>, String> {
    fs::read(file).map_err(|e| format!("`{}` cannot be read: {e}", file.display()))
}

fn unpacked(which: usize, archive: Vec<u8>, shelf: &Shelf) -> Result<Arrived, String> {
    let fresh = shelf.unpack(&archive).map_err(|e| e.to_string())?;
    Ok(Arrived { which, fresh, archive, etag: None })
}

fn from_shelf(which: usize, shelf: &Shelf) -> Result<Option<Arrived>, BundleError> {
    let Some((archive, etag)) = shelf.last()? else { return Ok(None) };
    Ok(Some(Arrived { which, fresh: shelf.unpack(&archive)?, archive, etag }))
}

/// What a start begins with.
async fn first(which: usize, b: &PolicyBundle, shelf: &Shelf, config: &Config) -> Result<Arrived> {
    if let Some(file) = &b.file {
        return match from_file(which, file, shelf) {
            Ok(arrived) => Ok(arrived),
            Err(why) => match from_shelf(which, shelf) {
                Ok(Some(last)) => {
                    tracing::error!(
                        bundle = b.name,
                        reason = why,
                        "the bundle is refused: the last good one is used"
                    );
                    Ok(last)
                }
                _ => Err(anyhow!(why)),
            },
        };
    }
    match from_shelf(which, shelf) {
        Ok(Some(last)) => return Ok(last),
        Ok(None) => {}
        Err(e) => {
            tracing::error!(bundle = b.name, error = %e, "the bundle that was kept is not used: the server is asked");
        }
    }
    let mut remote = remote(b, config, None)?.context("it has neither `url` nor `file`")?;
    let came =
        remote.ask().await?.context("its server says that nothing changed, though nothing is here yet")?;
    Ok(Arrived {
        which,
        fresh: shelf.unpack(&came.archive)?,
        archive: came.archive.to_vec(),
        etag: came.etag,
    })
}

/// Puts in force what arrived, with all else; or nothing. The caller holds `loading`.
pub async fn take(shared: &Arc<Shared>, arrived: Vec<Arrived>) -> Result<u64, String> {
    if let Err(message) = shared.bundles.check(&arrived) {
        shared.bundles.failed(&arrived, &message);
        return Err(refused(shared, message));
    }
    let config = shared.config.load_full();
    let dirs = shared.bundles.dirs(&arrived);
    let loaded = tokio::task::spawn_blocking(move || load_policies(&config, &dirs)).await;
    let done = match loaded {
        Ok(Ok(set)) => install(shared, set).await,
        Ok(Err(e)) => Err(refused(shared, e.to_string())),
        Err(_) => Err(refused(shared, "the policy loader failed".to_owned())),
    };
    match &done {
        Ok(_) => shared.bundles.took(arrived, shared.clock.wall()),
        Err(message) => shared.bundles.failed(&arrived, message),
    }
    done
}

/// Follows the servers, until `stop`.
pub fn follow(
    shared: &Arc<Shared>,
    tasks: &tokio_util::task::TaskTracker,
    stop: &CancellationToken,
) -> Result<()> {
    let config = shared.config.load_full();
    for (which, b) in config.policy.bundle.iter().enumerate() {
        let etag = shared.bundles.0.get(which).and_then(|one| one.state().etag);
        if let Some(remote) = remote(b, &config, etag)? {
            tasks.spawn(poll(Arc::clone(shared), which, remote, stop.clone()));
        }
    }
    Ok(())
}

async fn poll(shared: Arc<Shared>, which: usize, mut remote: Remote, stop: CancellationToken) {
    let Some(one) = shared.bundles.0.get(which) else { return };
    let name = &one.config.name;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(remote.pause(random())) => {}
        }
        let asked = tokio::select! {
            () = stop.cancelled() => return,
            asked = remote.ask() => asked,
        };
        let came = match asked {
            Ok(Some(came)) => came,
            Ok(None) => {
                shared.metrics.bundle(name, "unchanged");
                one.state.write().unwrap_or_else(PoisonError::into_inner).error = None;
                continue;
            }
            Err(e) => {
                shared.metrics.bundle(name, "failed");
                let message = e.to_string();
                // Once for each cause: a server that is away for long fills no log.
                if one.state().error.as_ref() != Some(&message) {
                    tracing::warn!(
                        bundle = name,
                        error = message,
                        "the bundle was not fetched; the one in force stays"
                    );
                }
                one.failed(&message);
                continue;
            }
        };
        let _one_at_a_time = shared.loading.lock().await;
        let unpacked = {
            let (shared, archive) = (Arc::clone(&shared), came.archive.clone());
            tokio::task::spawn_blocking(move || {
                let one = shared.bundles.0.get(which)?;
                Some(one.shelf.unpack(&archive))
            })
            .await
        };
        let taken = match unpacked {
            // The same archive under another tag.
            Ok(Some(Ok(fresh))) if fresh.sha256 == one.state().sha256 => Ok(0),
            Ok(Some(Ok(fresh))) => {
                let arrived =
                    Arrived { which, fresh, archive: came.archive.to_vec(), etag: came.etag.clone() };
                take(&shared, vec![arrived]).await
            }
            Ok(Some(Err(e))) => Err(e.to_string()),
            _ => Err("it could not be unpacked".to_owned()),
        };
        match taken {
            Ok(_) => {
                shared.metrics.bundle(name, "taken");
                remote.taken(came.etag);
            }
            Err(message) => {
                shared.metrics.bundle(name, "refused");
                tracing::error!(
                    bundle = name,
                    reason = message,
                    "the bundle is refused; the one in force stays"
                );
                one.failed(&message);
                remote.refused();
            }
        }
    }
}

/// From 0 to 1, for times that are not to be the same on every host.
fn random() -> f64 {
    let bits = std::hash::RandomState::new().hash_one(0u8) >> 32;
    #[allow(clippy::cast_possible_truncation, reason = "shifted to 32 bits")]
    let bits = bits as u32;
    f64::from(bits) / f64::from(u32::MAX)
}

/// Checks the bundles of a configuration for `check-config`, below a directory of its own that is removed again: the
/// faults, and the directories to load.
pub fn for_check<T>(config: &Config, load: impl FnOnce(&[PathBuf]) -> T) -> Result<T, String> {
    let state = std::env::temp_dir().join(format!("portcullis-check-{}", std::process::id()));
    let mut fresh = HashMap::new();
    for (which, b) in config.policy.bundle.iter().enumerate() {
        let told = |e: String| format!("the bundle `{}`: {e}", b.name);
        let shelf = verification(b).map_err(|e| told(e.to_string())).and_then(|v| {
            Shelf::open(&state, &b.name, config.policy.bundle_max_bytes, v).map_err(|e| told(e.to_string()))
        })?;
        let kept = config.policy.state_dir.join(SHELVES).join(&b.name).join("bundle.tar.gz");
        let file = b.file.as_ref().unwrap_or(&kept);
        if b.file.is_none() && !file.exists() {
            return Err(told("nothing of it was fetched yet, so that the policies cannot be checked; `portcullis run` fetches it".to_owned()));
        }
        fresh.insert(which, from_file(which, file, &shelf).map_err(told)?);
    }
    let dirs: Vec<PathBuf> = fresh.values().map(|a| a.fresh.dir().to_owned()).collect();
    let done = load(&dirs);
    drop(fresh);
    let _ = fs::remove_dir_all(&state);
    Ok(done)
}
