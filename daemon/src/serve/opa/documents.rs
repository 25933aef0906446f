//! Writing of policies and data by OPA's API, where the configuration names a place for it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use hyper::body::Incoming;
use serde_json::{Value, json};
use thiserror::Error;
use tokio::sync::{mpsc, oneshot};

use super::{answer::Fault, body, segments};
use crate::{
    percent,
    serve::doors::{Answer, Doors, json as json_answer, plain, read_body},
};

/// What a client wants changed.
#[derive(Clone, Debug)]
pub enum Change {
    /// A policy, in place of one of the same id.
    PutPolicy {
        /// Its id.
        id: String,
        /// Rego.
        text: String,
    },
    /// A policy taken away.
    DeletePolicy {
        /// Its id.
        id: String,
    },
    /// A document, in place of what is there.
    PutData {
        /// Its path.
        path: Vec<String>,
        /// The document.
        value: Value,
        /// Only where nothing is there (`If-None-Match: *`).
        only_new: bool,
    },
    /// Changes below a document (RFC 6902).
    PatchData {
        /// Its path.
        path: Vec<String>,
        /// In order, all or none.
        patches: Vec<Patch>,
    },
    /// A document taken away.
    DeleteData {
        /// Its path.
        path: Vec<String>,
    },
}

/// One change below a document.
#[derive(Clone, Debug)]
pub struct Patch {
    /// What to do.
    pub kind: PatchKind,
    /// Where.
    pub path: Vec<String>,
    /// With what; null where it is a removal.
    pub value: Value,
}

/// What a patch does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// Puts a value, into arrays before what is there.
    Add,
    /// Takes one away.
    Remove,
    /// Puts one in another's place.
    Replace,
}

/// Why a change was not made.
#[derive(Debug, Error)]
pub enum DocumentError {
    /// There is no such policy or document.
    #[error("{0}")]
    NotFound(String),
    /// There is one already.
    #[error("there is a document already")]
    Exists,
    /// It does not parse or compile, or fails the set's tests.
    #[error("{message}")]
    Refused {
        /// Why.
        message: String,
        /// File, line and column.
        place: Option<(String, u32, u32)>,
    },
    /// A policy directory holds what it would change.
    #[error("{0}")]
    Owned(String),
    /// It asks for what cannot be.
    #[error("{0}")]
    Unfit(String),
    /// It could not be kept.
    #[error("{0}")]
    Failed(String),
}

type Reply = oneshot::Sender<Result<(), DocumentError>>;

/// The way to whoever keeps what is written.
#[derive(Clone)]
pub struct Documents {
    /// Takes changes.
    pub changes: mpsc::Sender<(Change, Reply)>,
    /// The policies that were written, by id.
    pub policies: Arc<dyn Fn() -> std::collections::BTreeMap<String, String> + Send + Sync>,
}

/// `PUT`, `PATCH` and `DELETE /v1/data`.
pub(super) async fn data(doors: &Doors, request: Request<Incoming>, path: &str) -> Answer {
    let done = change_data(doors, request, path).await;
    done.unwrap_or_else(|fault| fault.answer())
}

async fn change_data(doors: &Doors, request: Request<Incoming>, path: &str) -> Result<Answer, Fault> {
    let documents = open(doors)?;
    let path = if path.is_empty() { Some(Vec::new()) } else { segments(path) };
    let path = path.ok_or_else(|| Fault::parameter("the path is not UTF-8 behind its escapes"))?;
    if path.len() > super::DEEPEST {
        return Err(Fault::parameter("the path has more parts than are read"));
    }
    let (parts, body) = request.into_parts();
    let body = text(doors, &parts.headers, body).await?;
    let malformed = |e: serde_json::Error| Fault::parameter(format!("body contains malformed document: {e}"));
    let change = match parts.method {
        Method::PUT => {
            let only_new = parts.headers.get(header::IF_NONE_MATCH).is_some_and(|v| v == "*");
            let value = serde_json::from_slice(&body).map_err(malformed)?;
            Change::PutData { path, value, only_new }
        }
        Method::PATCH => {
            let value: Value = serde_json::from_slice(&body).map_err(malformed)?;
            Change::PatchData { path, patches: patches(&value).ok_or_else(|| Fault::parameter("the body is not an array of patches (`op`, `path`, `value`) that add, remove or replace"))? }
        }
        _ => Change::DeleteData { path },
    };
    match make(documents, change).await {
        Ok(()) => Ok(plain(StatusCode::NO_CONTENT)),
        Err(DocumentError::Exists) => Ok(plain(StatusCode::NOT_MODIFIED)),
        Err(e) => Err(fault(e)),
    }
}

/// `/v1/policies`.
pub(super) async fn policies(doors: &Doors, request: Request<Incoming>, id: &str) -> Answer {
    let done = change_policies(doors, request, id).await;
    done.unwrap_or_else(|fault| fault.answer())
}

async fn change_policies(doors: &Doors, request: Request<Incoming>, id: &str) -> Result<Answer, Fault> {
    let id = percent::decoded(id)
        .ok_or_else(|| Fault::parameter("the policy's id is not UTF-8 behind its escapes"))?;
    let (parts, body) = request.into_parts();
    let shown = |id: &str, text: &str| json!({"id": id, "raw": text});
    let result = |value: Value| json_answer(StatusCode::OK, json!({"result": value}).to_string().into());
    let missing = |id: &str| {
        Fault::coded(
            404,
            "resource_not_found",
            format!("storage_not_found_error: policy id \"{id}\""),
            Vec::new(),
        )
    };
    if parts.method == Method::GET {
        let written = doors.documents.as_ref().map(|d| (d.policies)()).unwrap_or_default();
        if id.is_empty() {
            return Ok(result(written.iter().map(|(id, text)| shown(id, text)).collect()));
        }
        return written.get(&id).map(|text| result(shown(&id, text))).ok_or_else(|| missing(&id));
    }
    let documents = open(doors)?;
    let change = match parts.method {
        _ if id.is_empty() => return Ok(plain(StatusCode::METHOD_NOT_ALLOWED)),
        Method::PUT => {
            let body = read_body(body, doors.settings.max_body).await.map_err(Fault::of)?;
            let text =
                String::from_utf8(body.to_vec()).map_err(|_| Fault::parameter("the policy is not UTF-8"))?;
            Change::PutPolicy { id, text }
        }
        Method::DELETE => Change::DeletePolicy { id },
        _ => return Ok(plain(StatusCode::METHOD_NOT_ALLOWED)),
    };
    make(documents, change).await.map_err(fault)?;
    Ok(json_answer(StatusCode::OK, Bytes::from_static(b"{}")))
}

fn open(doors: &Doors) -> Result<&Documents, Fault> {
    doors.documents.as_ref().ok_or_else(|| {
        let message =
            "policies and data are read-only here; `serve.opa_writes` names a directory for what is written";
        Fault::coded(403, "unauthorized", message.to_owned(), Vec::new())
    })
}

async fn text(doors: &Doors, headers: &http::HeaderMap, body: Incoming) -> Result<Bytes, Fault> {
    let read = read_body(body, doors.settings.max_body).await.map_err(Fault::of)?;
    body::plain(headers, read, doors.settings.max_body)
}

async fn make(documents: &Documents, change: Change) -> Result<(), DocumentError> {
    let (reply, answer) = oneshot::channel();
    let stopping = || DocumentError::Failed("the daemon is stopping".to_owned());
    documents.changes.send((change, reply)).await.map_err(|_| stopping())?;
    answer.await.map_err(|_| stopping())?
}

fn fault(e: DocumentError) -> Fault {
    let message = e.to_string();
    match e {
        DocumentError::NotFound(_) => Fault::coded(404, "resource_not_found", message, Vec::new()),
        DocumentError::Exists => Fault::coded(409, "resource_conflict", message, Vec::new()),
        DocumentError::Owned(_) | DocumentError::Unfit(_) => {
            Fault::coded(400, "invalid_parameter", message, Vec::new())
        }
        DocumentError::Failed(_) => Fault::coded(500, "internal_error", message, Vec::new()),
        DocumentError::Refused { place, .. } => {
            let mut error = json!({"code": "rego_compile_error", "message": message});
            if let Some((file, row, col)) = place {
                error["code"] = "rego_parse_error".into();
                error["location"] = json!({"file": file, "row": row, "col": col});
            }
            let message = "error(s) occurred while compiling module(s)".to_owned();
            Fault::coded(400, "invalid_parameter", message, vec![error])
        }
    }
}

fn patches(value: &Value) -> Option<Vec<Patch>> {
    value.as_array()?.iter().map(patch).collect()
}

fn patch(value: &Value) -> Option<Patch> {
    let (kind, needs) = match value["op"].as_str()? {
        "add" => (PatchKind::Add, true),
        "remove" => (PatchKind::Remove, false),
        "replace" => (PatchKind::Replace, true),
        _ => return None,
    };
    // RFC 6901, but for the slash in front, which OPA's clients leave out at times.
    let path = value["path"].as_str()?.trim_start_matches('/');
    let path =
        path.split('/').filter(|s| !s.is_empty()).map(|s| s.replace("~1", "/").replace("~0", "~")).collect();
    let given = value.get("value");
    (given.is_some() || !needs).then(|| Patch { kind, path, value: given.cloned().unwrap_or_default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_read_whole_or_not_at_all() {
        let read =
            patches(&json!([{"op": "add", "path": "/a~1b/-", "value": null}, {"op": "remove", "path": "c"}]));
        let read = read.unwrap();
        assert_eq!(
            (read[0].kind, &read[0].path[..]),
            (PatchKind::Add, &["a/b".to_owned(), "-".to_owned()][..])
        );
        for bad in [
            json!({}),
            json!([{"op": "move", "path": "/a"}]),
            json!([{"op": "add", "path": "/a"}]),
            json!([1]),
        ] {
            assert!(patches(&bad).is_none(), "{bad}");
        }
    }
}
