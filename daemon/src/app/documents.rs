//! Policies and data that OPA's API writes: kept in a directory of their own beside the policy directories.
//!
//! The directory holds versions and a link to the one in force. A change makes the next version, which is loaded with
//! all else as any set is: it parses, compiles and passes the set's tests, or nothing is changed. Then the link is
//! moved, and after that the set is put in force: what was acknowledged is there after a restart. What policy
//! directories hold is not written.

mod store;

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use self::store::Store;
pub(super) use self::store::current;
use super::{Shared, promoted::Copies, settings, tasks::install};
use crate::{
    config::Config,
    policy::{self, LoadError, Owned},
    serve::{Change, DocumentError, Documents, Patch, PatchKind},
};

type Reply = oneshot::Sender<Result<(), DocumentError>>;

/// What was written.
#[derive(Clone, Debug, Default, PartialEq)]
struct Written {
    /// Rego by id.
    policies: BTreeMap<String, String>,
    /// Everything below `data`.
    data: Value,
}

/// The front doors' way here, where the configuration has a directory for it.
pub(super) fn documents(shared: &Arc<Shared>) -> Option<(Documents, mpsc::Receiver<(Change, Reply)>)> {
    let dir = shared.config.load().serve.opa_writes.clone()?;
    let (changes, receiver) = mpsc::channel(16);
    let policies = Arc::new(move || Store::open(&dir).and_then(|s| s.read()).unwrap_or_default().policies);
    Some((Documents { changes, policies }, receiver))
}

/// Makes changes, one after the other, until `stop`.
pub(super) async fn keep(
    shared: Arc<Shared>,
    mut changes: mpsc::Receiver<(Change, Reply)>,
    stop: CancellationToken,
) {
    loop {
        let (change, reply) = tokio::select! {
            () = stop.cancelled() => return,
            next = changes.recv() => match next {
                Some(next) => next,
                None => return,
            },
        };
        let done = make(&shared, change).await;
        let _ = reply.send(done);
    }
}

async fn make(shared: &Arc<Shared>, change: Change) -> Result<(), DocumentError> {
    let _one_at_a_time = shared.loading.lock().await;
    let config = shared.config.load_full();
    let failed = |_| DocumentError::Failed("the change could not be made".to_owned());
    let bundles = shared.bundles.dirs(&[]);
    let staged =
        tokio::task::spawn_blocking(move || stage(&config, &bundles, &change)).await.map_err(failed)??;
    let (store, version, set) = staged;
    tokio::task::spawn_blocking(move || store.move_to(&version)).await.map_err(failed)??;
    install(shared, set).await.map(drop).map_err(DocumentError::Failed)
}

/// The next version, written and loaded but not in force.
fn stage(
    config: &Config,
    bundles: &[PathBuf],
    change: &Change,
) -> Result<(Store, PathBuf, policy::PolicySet), DocumentError> {
    let dir =
        config.serve.opa_writes.as_ref().ok_or_else(|| DocumentError::Failed("no directory".to_owned()))?;
    let store = Store::open(dir)?;
    let mut written = store.read()?;
    let (mut dirs, _) = Copies::of(config).live().map_err(refused)?;
    dirs.extend_from_slice(bundles);
    let options = settings::policy(config);
    let owned = policy::owned(&dirs, &options).map_err(refused)?;
    apply(&mut written, change, &owned)?;
    let version = store.write(&written)?;
    dirs.push(version.clone());
    let loaded = policy::load(&dirs, &config.policy.decision, &options);
    let set = loaded.map_err(|e| {
        store.discard(&version);
        refused(e)
    })?;
    Ok((store, version, set))
}

fn refused(e: LoadError) -> DocumentError {
    match e {
        LoadError::Rego { file, line, column, message } => {
            DocumentError::Refused { place: Some((store::shown(&file), line, column)), message }
        }
        e => DocumentError::Refused { message: e.to_string(), place: None },
    }
}

/// The documents that the daemon has of its own, whether it gives them now or not.
const OWN: [[&str; 2]; 2] = [["portcullis", "host"], ["portcullis", "region"]];

fn apply(written: &mut Written, change: &Change, owned: &Owned) -> Result<(), DocumentError> {
    let free = |path: &[String]| match owned.document(path) {
        Some(what) => Err(DocumentError::Owned(format!(
            "path {} is owned by a policy directory, which holds {what}",
            std::iter::once("data").chain(path.iter().map(String::as_str)).collect::<Vec<_>>().join(".")
        ))),
        None => Ok(()),
    };
    match change {
        Change::PutPolicy { id, text } => {
            if !store::can_be_kept(id) {
                let message = "the policy's id is too long: it is kept as a file's name, of at most 246 bytes, in which `/` and the like take three";
                return Err(DocumentError::Unfit(message.to_owned()));
            }
            let package = policy::package_of(id, text).map_err(refused)?;
            if let Some(theirs) = owned.package(&package) {
                return Err(DocumentError::Owned(format!(
                    "package {package} is owned by a policy directory, which holds {theirs}"
                )));
            }
            written.policies.insert(id.clone(), text.clone());
        }
        Change::DeletePolicy { id } => {
            if written.policies.remove(id).is_none() {
                return Err(DocumentError::NotFound(format!("storage_not_found_error: policy id \"{id}\"")));
            }
        }
        Change::PutData { path, value, only_new } => {
            free(path)?;
            if *only_new && find(&mut written.data, path).is_some() {
                return Err(DocumentError::Exists);
            }
            put(&mut written.data, path, value.clone()).ok_or_else(|| missing(path))?;
        }
        Change::PatchData { path, patches } => {
            for patch in patches {
                let whole: Vec<String> = path.iter().chain(&patch.path).cloned().collect();
                free(&whole)?;
                patched(&mut written.data, &whole, patch).ok_or_else(|| missing(&whole))?;
            }
        }
        Change::DeleteData { path } => {
            free(path)?;
            take(&mut written.data, path).ok_or_else(|| missing(path))?;
        }
    }
    if OWN.iter().any(|[a, b]| written.data.get(a).and_then(|d| d.get(b)).is_some()) {
        let message = "data.portcullis.host and data.portcullis.region are the daemon's own".to_owned();
        return Err(DocumentError::Owned(message));
    }
    if written.data.is_object() {
        Ok(())
    } else {
        Err(DocumentError::Refused { message: "data must be an object at its root".to_owned(), place: None })
    }
}

fn missing(path: &[String]) -> DocumentError {
    DocumentError::NotFound(format!("storage_not_found_error: /{}: document does not exist", path.join("/")))
}

fn find<'a>(mut at: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    for name in path {
        at = match at {
            Value::Object(members) => members.get_mut(name)?,
            Value::Array(items) => items.get_mut(name.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    Some(at)
}

/// Puts a document at a path, with the objects above it; none where something else is in the way.
fn put(data: &mut Value, path: &[String], value: Value) -> Option<()> {
    let mut at = data;
    for name in path {
        at = match at {
            Value::Object(members) => {
                members.entry(name.clone()).or_insert_with(|| Value::Object(serde_json::Map::new()))
            }
            Value::Array(items) => items.get_mut(name.parse::<usize>().ok()?)?,
            _ => return None,
        };
    }
    *at = value;
    Some(())
}

fn take(data: &mut Value, path: &[String]) -> Option<()> {
    let Some((last, above)) = path.split_last() else {
        *data = Value::Object(serde_json::Map::new());
        return Some(());
    };
    match find(data, above)? {
        Value::Object(members) => members.remove(last).map(drop),
        Value::Array(items) => {
            let n = last.parse::<usize>().ok().filter(|n| *n < items.len())?;
            items.remove(n);
            Some(())
        }
        _ => None,
    }
}

fn patched(data: &mut Value, path: &[String], patch: &Patch) -> Option<()> {
    match patch.kind {
        PatchKind::Remove => take(data, path),
        PatchKind::Replace => find(data, path).map(|at| *at = patch.value.clone()),
        PatchKind::Add => {
            let Some((last, above)) = path.split_last() else { return put(data, path, patch.value.clone()) };
            match find(data, above)? {
                Value::Object(members) => {
                    members.insert(last.clone(), patch.value.clone());
                }
                Value::Array(items) => {
                    let n = if last == "-" { items.len() } else { last.parse().ok()? };
                    if n > items.len() {
                        return None;
                    }
                    items.insert(n, patch.value.clone());
                }
                _ => return None,
            }
            Some(())
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn path(text: &str) -> Vec<String> {
        text.split('/').filter(|s| !s.is_empty()).map(str::to_owned).collect()
    }

    fn patch(kind: PatchKind, at: &str, value: Value) -> Patch {
        Patch { kind, path: path(at), value }
    }

    #[test]
    fn data_is_put_patched_and_deleted_as_opa_does() {
        let mut w = Written { data: json!({}), ..Written::default() };
        let owned = Owned::default();
        let put = |w: &mut Written, at: &str, value: Value, only_new| {
            apply(w, &Change::PutData { path: path(at), value, only_new }, &owned)
        };
        put(&mut w, "a/b", json!([1, 2]), false).unwrap();
        assert!(matches!(put(&mut w, "a/b", json!(0), true), Err(DocumentError::Exists)));
        assert!(matches!(put(&mut w, "a/b/c/d", json!(0), false), Err(DocumentError::NotFound(_))));
        assert!(matches!(put(&mut w, "", json!(7), false), Err(DocumentError::Refused { .. })));
        for (own, value) in [
            ("portcullis/region", json!("eu")),
            ("portcullis", json!({"host": 1})),
            ("", json!({"portcullis": {"region": 1}})),
        ] {
            let mut other = Written { data: json!({}), ..Written::default() };
            assert!(matches!(put(&mut other, own, value, false), Err(DocumentError::Owned(_))), "{own}");
        }
        let long = Change::PutPolicy { id: "i".repeat(3000), text: "package q".to_owned() };
        assert!(matches!(apply(&mut w, &long, &owned), Err(DocumentError::Unfit(_))));
        w.data = json!({"a": {"b": [1, 2]}});
        let patches = vec![
            patch(PatchKind::Add, "b/-", json!(3)),
            patch(PatchKind::Add, "b/0", json!(0)),
            patch(PatchKind::Replace, "b/1", json!("one")),
            patch(PatchKind::Remove, "b/2", Value::Null),
            patch(PatchKind::Add, "c", json!({})),
        ];
        apply(&mut w, &Change::PatchData { path: path("a"), patches }, &owned).unwrap();
        assert_eq!(w.data, json!({"a": {"b": [0, "one", 3], "c": {}}}));
        for bad in [patch(PatchKind::Replace, "x", json!(1)), patch(PatchKind::Add, "b/9", json!(1))] {
            let change = Change::PatchData { path: path("a"), patches: vec![bad] };
            assert!(matches!(apply(&mut w, &change, &owned), Err(DocumentError::NotFound(_))));
        }
        apply(&mut w, &Change::DeleteData { path: path("a/b/1") }, &owned).unwrap();
        apply(&mut w, &Change::DeleteData { path: path("a/c") }, &owned).unwrap();
        assert_eq!(w.data, json!({"a": {"b": [0, 3]}}));
        assert!(apply(&mut w, &Change::DeleteData { path: path("a/z") }, &owned).is_err());
    }
}
