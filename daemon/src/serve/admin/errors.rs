//! Errors that come of reading a request, before a handler is asked: told as all others are.

use axum::{
    http::{StatusCode, header},
    response::{IntoResponse, Response},
};

use super::ApiError;

/// Longest sentence that is passed on, in bytes.
const LONGEST: usize = 4096;

/// Gives an error that is no JSON the form `{"code", "message"}`; its headers (`Allow`) stay.
pub(super) async fn in_json(answer: Response) -> Response {
    let status = answer.status();
    let kind = answer.headers().get(header::CONTENT_TYPE);
    let is_json = kind.is_some_and(|t| t.as_bytes().starts_with(b"application/json"));
    if is_json || !(status.is_client_error() || status.is_server_error()) {
        return answer;
    }
    let (mut head, body) = answer.into_parts();
    let text = axum::body::to_bytes(body, LONGEST).await.unwrap_or_default();
    let said = String::from_utf8_lossy(&text);
    let (code, message) = match status {
        StatusCode::NOT_FOUND => ("not_found", "nothing is here: `GET /v1/openapi.json` says what there is"),
        StatusCode::METHOD_NOT_ALLOWED => {
            ("method_not_allowed", "this is not asked with this method: `Allow` names those that it is")
        }
        StatusCode::PAYLOAD_TOO_LARGE => ("too_large", "the body is longer than 64 KiB"),
        status if status.is_server_error() => ("internal", "the request failed: the daemon's log says why"),
        _ if said.is_empty() => ("bad_request", "the request cannot be read"),
        _ => ("bad_request", &*said),
    };
    let told = ApiError(status, code, message.to_owned()).into_response();
    head.headers.remove(header::CONTENT_LENGTH);
    head.headers.remove(header::CONTENT_TYPE);
    let (json, body) = told.into_parts();
    head.headers.extend(json.headers);
    Response::from_parts(head, body)
}

#[cfg(test)]
mod tests {
    use axum::{
        Router,
        body::Body,
        extract::{DefaultBodyLimit, Path, Query},
        http::Request,
        middleware,
        routing::get,
    };
    use serde_json::Value;
    use tower_service::Service as _;

    use super::*;

    #[derive(serde::Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Asked {
        #[allow(dead_code, reason = "read only to be refused")]
        limit: Option<u8>,
    }

    async fn ask(method: &str, path: &str, body: &'static str) -> (StatusCode, Value, Option<String>) {
        let mut router = Router::new()
            .route("/one/{id}", get(|_: Path<u64>, _: Query<Asked>| async { "well" }))
            .route("/body", get(|body: String| async { body }))
            .layer(DefaultBodyLimit::max(4))
            .layer(middleware::map_response(in_json));
        let request = Request::builder().method(method).uri(path).body(Body::from(body)).unwrap();
        let answer = router.call(request).await.unwrap();
        let (status, allow) = (answer.status(), answer.headers().get("allow").cloned());
        let text = axum::body::to_bytes(answer.into_body(), 9999).await.unwrap();
        let value = serde_json::from_slice(&text).unwrap_or_else(|_| Value::from(text.to_vec()));
        (status, value, allow.map(|a| a.to_str().unwrap().to_owned()))
    }

    #[tokio::test]
    async fn every_error_is_a_code_and_a_message() {
        for (method, path, body, status, code) in [
            ("GET", "/one/x", "", 400, "bad_request"),
            ("GET", "/one/1?limit=x", "", 400, "bad_request"),
            ("GET", "/one/1?other=1", "", 400, "bad_request"),
            ("GET", "/body", "longer", 413, "too_large"),
            ("GET", "/none", "", 404, "not_found"),
            ("POST", "/one/1", "", 405, "method_not_allowed"),
        ] {
            let (got, told, allow) = ask(method, path, body).await;
            assert_eq!((got.as_u16(), &told["code"]), (status, &code.into()), "{method} {path}: {told}");
            assert!(told["message"].as_str().is_some_and(|m| m.len() > 10), "{told}");
            assert_eq!(allow.is_some(), status == 405, "{allow:?}");
        }
        let (status, told, _) = ask("GET", "/one/1?limit=7", "").await;
        assert_eq!((status.as_u16(), told), (200, Value::from(b"well".to_vec())));
    }
}
