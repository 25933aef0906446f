//! One question put to every front door, and what each answered in a few words.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::TcpStream;

use crate::bench::grpc::check;

/// The doors, in the order of the answers.
pub const DOORS: [&str; 6] =
    ["`/auth`", "`/forward-auth`", "ext_authz gRPC", "ext_authz HTTP", "`/v1/data`", "AuthZEN"];

/// [`ask`], with something done before each door is asked.
pub async fn ask_after(
    address: SocketAddr,
    decision: &str,
    path: &str,
    token: &str,
    before: impl Fn(),
) -> Result<[String; 6]> {
    let bearer = format!("Bearer {token}");
    let headers = |headers: &[(&'static str, &str)]| {
        headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect::<Vec<_>>()
    };
    let forwarded =
        headers(&[("x-original-method", "GET"), ("x-original-uri", path), ("authorization", &bearer)]);
    let data = json!({"input": {"token": token, "request": {"method": "GET", "path": path}}});
    let evaluation = json!({
        "subject": {"type": "user", "id": "u"}, "action": {"name": "GET"},
        "resource": {"type": "route", "id": path, "properties": {"path": path}}, "context": {"token": token},
    });
    before();
    let nginx = plain(address, "GET", "/auth", &forwarded, Value::Null).await?;
    before();
    let others = plain(address, "GET", "/forward-auth", &forwarded, Value::Null).await?;
    before();
    let by_grpc = grpc(address, check("GET", path, token)).await?;
    before();
    let by_http = headers(&[("authorization", &bearer)]);
    let by_http = plain(address, "GET", &format!("/ext_authz{path}"), &by_http, Value::Null).await?;
    before();
    let data = in_body(address, &format!("/v1/data/{decision}"), data).await?;
    before();
    let authzen = in_body(address, "/access/v1/evaluation", evaluation).await?;
    Ok([nginx, others, by_grpc, by_http, data, authzen])
}

/// What each door says of a `GET` of `path` with `token`; `decision` is the rule's path for the data API.
///
/// `passes`; a status and the reason's code; for the doors that answer 200 whatever they say, `false` and the reason, or
/// `{}`.
pub async fn ask(address: SocketAddr, decision: &str, path: &str, token: &str) -> Result<[String; 6]> {
    ask_after(address, decision, path, token, || ()).await
}

/// [`ask`] from a thread that runs nothing else.
pub fn ask_from(address: SocketAddr, decision: &str, path: &str, token: &str) -> Result<[String; 6]> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(ask(address, decision, path, token))
}

async fn exchange(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&'static str, String)],
    body: Value,
) -> Result<http::Response<Bytes>> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let mut request = Request::builder().method(method).uri(path).header("host", "api.test");
    for (name, value) in headers {
        request = request.header(*name, value);
    }
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    let answer = sender.send_request(request.body(Full::new(body))?).await?;
    let (head, body) = answer.into_parts();
    Ok(http::Response::from_parts(head, body.collect().await?.to_bytes()))
}

async fn plain(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&'static str, String)],
    body: Value,
) -> Result<String> {
    let answer = exchange(address, method, path, headers, body).await?;
    if answer.status() == 200 {
        return Ok("passes".to_owned());
    }
    let reason = answer.headers().get("x-portcullis-reason").and_then(|v| v.to_str().ok()).unwrap_or("none");
    Ok(format!("{} {reason}", answer.status().as_u16()))
}

/// Doors whose answer is in the body.
async fn in_body(address: SocketAddr, path: &str, body: Value) -> Result<String> {
    let answer =
        exchange(address, "POST", path, &[("content-type", "application/json".into())], body).await?;
    let value: Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    if answer.status() != 200 {
        return Ok(format!("{} {}", answer.status().as_u16(), value["code"].as_str().unwrap_or("none")));
    }
    let (said, reason) = match (value.get("result"), value.get("decision")) {
        (Some(result), _) => (result["allow"].clone(), result["reason"].clone()),
        (_, Some(decision)) => (decision.clone(), value["context"]["reason"].clone()),
        _ => return Ok(value.to_string()),
    };
    match said {
        Value::Bool(true) => Ok("passes".to_owned()),
        said => Ok(format!("{said} {}", reason.as_str().unwrap_or("none"))),
    }
}

async fn grpc(address: SocketAddr, message: Bytes) -> Result<String> {
    let stream = TcpStream::connect(address).await?;
    let (mut sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let request = Request::post(format!("http://{address}/envoy.service.auth.v3.Authorization/Check"))
        .header("content-type", "application/grpc")
        .body(Full::new(message))?;
    let answer = sender.send_request(request).await?;
    let early = answer.headers().get("grpc-status").cloned();
    let body = answer.into_body().collect().await?;
    let status = early.or_else(|| body.trailers()?.get("grpc-status").cloned());
    let bytes = body.to_bytes();
    if status.as_ref().map(http::HeaderValue::as_bytes) != Some(b"0") {
        return Ok(format!("gRPC error {status:?}"));
    }
    verdict(bytes.get(5..).context("no message")?)
}

/// What Envoy makes of a `CheckResponse`: it goes by the code of its status alone.
pub fn verdict(message: &[u8]) -> Result<String> {
    let status = fields(message, 1).next().context("no status: Envoy lets pass")?;
    if varint(status, 1).unwrap_or(0) == 0 {
        return Ok("passes".to_owned());
    }
    let denied = fields(message, 2).next().context("no denied_response")?;
    let code = fields(denied, 1).next().and_then(|s| varint(s, 1)).context("no HTTP status")?;
    let reason = fields(denied, 2).filter_map(|option| fields(option, 1).next()).find_map(|header| {
        (fields(header, 1).next()? == b"x-portcullis-reason").then(|| fields(header, 2).next()).flatten()
    });
    Ok(format!("{code} {}", String::from_utf8_lossy(reason.unwrap_or(b"none"))))
}

/// The length-delimited fields of a number, in a message of protobuf's.
fn fields(message: &[u8], number: u64) -> impl Iterator<Item = &[u8]> {
    let mut rest = message;
    std::iter::from_fn(move || {
        loop {
            let key = take_varint(&mut rest)?;
            match key & 7 {
                0 => {
                    take_varint(&mut rest)?;
                }
                2 => {
                    let length = usize::try_from(take_varint(&mut rest)?).ok()?;
                    let (field, tail) = rest.split_at_checked(length)?;
                    rest = tail;
                    if key >> 3 == number {
                        return Some(field);
                    }
                }
                _ => return None,
            }
        }
    })
}

/// A number's field.
fn varint(message: &[u8], number: u64) -> Option<u64> {
    let mut rest = message;
    while let Some(key) = take_varint(&mut rest) {
        if key & 7 == 2 {
            let length = usize::try_from(take_varint(&mut rest)?).ok()?;
            rest = rest.get(length..)?;
        } else {
            let value = take_varint(&mut rest)?;
            if key >> 3 == number {
                return Some(value);
            }
        }
    }
    None
}

fn take_varint(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (first, tail) = rest.split_first()?;
        *rest = tail;
        value |= u64::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
