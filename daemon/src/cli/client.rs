//! Talks to the daemon's admin API.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::UnixStream;

use super::{Failure, REFUSED, UNREACHABLE};

/// Where the daemon is.
#[derive(Debug, Args)]
pub struct Target {
    /// The daemon's admin socket
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/run/portcullis/admin.sock",
        env = "PORTCULLIS_SOCKET"
    )]
    pub socket: PathBuf,
}

impl Target {
    /// Sends a request and gives the answer's JSON; a refusal becomes the daemon's own sentence.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        block_on(async {
            let answer = self.send(method, path, body).await?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await?.to_bytes();
            let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            refused(status, &value)?;
            Ok(value)
        })
    }

    /// Sends a request and hands each line of the answer to `take` until it ends or `take` says so.
    pub fn lines(
        &self,
        path: &str,
        mut take: impl FnMut(&str) -> Result<bool, Failure>,
    ) -> Result<(), Failure> {
        block_on(async {
            let answer = self.send(Method::GET, path, None).await?;
            refused(answer.status(), &Value::Null)?;
            let (mut body, mut rest) = (answer.into_body(), Vec::new());
            while let Some(frame) = body.frame().await {
                let Ok(data) = frame?.into_data() else { continue };
                rest.extend_from_slice(&data);
                while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    let line: Vec<u8> = rest.drain(..=end).collect();
                    if !take(String::from_utf8_lossy(&line).trim_end())? {
                        return Ok(());
                    }
                }
            }
            Ok(())
        })
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
    ) -> Result<Response<Incoming>, Failure> {
        let stream = UnixStream::connect(&self.socket).await.map_err(|e| {
            let next = match e.kind() {
                std::io::ErrorKind::PermissionDenied => "it is for root alone: use sudo",
                _ => "is the daemon running, and is this its `admin.socket`?",
            };
            Failure::new(
                UNREACHABLE,
                format!("cannot reach the daemon at {} ({e}): {next}", self.socket.display()),
            )
        })?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let body = body.map(ToString::to_string).unwrap_or_default();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "portcullis")
            .header("content-type", "application/json")
            .body(Full::new(Bytes::from(body)))?;
        sender.send_request(request).await.map_err(|e| {
            Failure::new(UNREACHABLE, format!("the daemon at {} did not answer: {e}", self.socket.display()))
        })
    }
}

fn refused(status: StatusCode, value: &Value) -> Result<(), Failure> {
    if status.is_success() {
        return Ok(());
    }
    let message =
        value["message"].as_str().map_or_else(|| format!("the daemon answered {status}"), str::to_owned);
    Err(Failure::new(REFUSED, message))
}

fn block_on<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}
