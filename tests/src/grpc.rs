//! Single gRPC calls, with any bytes for a body.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{config::DOORS, net::Namespace};

/// Makes a call on a connection of its own; gives gRPC's status and the body as it came.
pub fn call(ns: &Namespace, path: &str, body: Vec<u8>) -> Result<(String, Bytes)> {
    ns.enter(|| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(DOORS).await?;
            let (mut sender, connection) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
            tokio::spawn(connection);
            let request = Request::post(format!("http://{DOORS}{path}"))
                .header("content-type", "application/grpc")
                .body(Full::new(Bytes::from(body)))?;
            let answer = sender.send_request(request).await?;
            let early = answer.headers().get("grpc-status").cloned();
            let body = answer.into_body().collect().await?;
            let status = early.or_else(|| body.trailers().and_then(|t| t.get("grpc-status")).cloned());
            let status = status.context("no grpc-status")?.to_str()?.to_owned();
            Ok((status, body.to_bytes()))
        })
    })
}
