//! Talks to the daemon's admin API.

use std::path::PathBuf;

use bytes::Bytes;
use clap::Args;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::{net::UnixStream, sync::mpsc};
use tokio_stream::wrappers::ReceiverStream;

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

/// Which daemon is asked, and how its answer is printed: of nearly every command.
#[derive(Debug, Args)]
pub struct Ask {
    #[command(flatten)]
    pub target: Target,
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

impl Target {
    /// Sends a request and gives the answer's JSON; a refusal becomes the daemon's own sentence.
    pub fn call(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        self.ask(method, path, body, None)
    }

    /// Posts an order; with a key, the same one may be given again.
    pub fn order(&self, path: &str, body: &Value, key: Option<&str>) -> Result<Value, Failure> {
        self.ask(Method::POST, path, Some(body), key)
    }

    fn ask(
        &self,
        method: Method,
        path: &str,
        body: Option<&Value>,
        key: Option<&str>,
    ) -> Result<Value, Failure> {
        let body = whole(body.map(ToString::to_string).unwrap_or_default());
        block_on(async {
            let answer = self.send(method, path, key, body).await?;
            let status = answer.status();
            let bytes = answer.into_body().collect().await?.to_bytes();
            let value: Value = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            refused(status, &value)?;
            Ok(value)
        })
    }

    /// Sends a request and hands each line of the answer to `take` until it ends or `take` says so.
    pub fn lines(&self, path: &str, take: impl FnMut(&str) -> Result<bool, Failure>) -> Result<(), Failure> {
        block_on(async {
            let answer = self.send(Method::GET, path, None, whole(String::new())).await?;
            each_line(answer, take).await
        })
    }

    /// Posts lines as `next` gives them, some at once and none at the end, and hands each line of the answer to `take`
    /// as it comes.
    pub fn upload(
        &self,
        path: &str,
        key: Option<&str>,
        mut next: impl FnMut() -> anyhow::Result<Vec<u8>> + Send + 'static,
        mut take: impl FnMut(&str) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let (sender, parts) = mpsc::channel::<Result<Frame<Bytes>, std::io::Error>>(2);
        let reading = std::thread::spawn(move || {
            loop {
                let part = match next() {
                    Ok(part) if part.is_empty() => return Ok(()),
                    Ok(part) => Ok(Frame::data(Bytes::from(part))),
                    Err(e) => {
                        // The daemon is to see that this is not the end of it.
                        let _ = sender.blocking_send(Err(std::io::Error::other("the input cannot be read")));
                        return Err(e);
                    }
                };
                // Where nobody takes it any more, the answer says why.
                if sender.blocking_send(part).is_err() {
                    return Ok(());
                }
            }
        });
        let answered = block_on(async {
            let body = StreamBody::new(ReceiverStream::new(parts)).boxed();
            let answer = self.send(Method::POST, path, key, body).await?;
            each_line(answer, |line| take(line).map(|()| true)).await
        });
        match reading.join() {
            Ok(Err(e)) => Err(e.into()),
            _ => answered,
        }
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        key: Option<&str>,
        body: BoxBody<Bytes, std::io::Error>,
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
        let mut request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "portcullis")
            .header("content-type", "application/json");
        if let Some(key) = key {
            request = request.header("idempotency-key", key);
        }
        sender.send_request(request.body(body)?).await.map_err(|e| {
            Failure::new(UNREACHABLE, format!("the daemon at {} did not answer: {e}", self.socket.display()))
        })
    }
}

fn whole(text: String) -> BoxBody<Bytes, std::io::Error> {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed()
}

async fn each_line(
    answer: Response<Incoming>,
    mut take: impl FnMut(&str) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let status = answer.status();
    let mut body = answer.into_body();
    if !status.is_success() {
        let bytes = body.collect().await?.to_bytes();
        return refused(status, &serde_json::from_slice(&bytes).unwrap_or(Value::Null));
    }
    let mut rest = Vec::new();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        rest.extend_from_slice(&data);
        let mut from = 0;
        while let Some(len) = rest[from..].iter().position(|b| *b == b'\n') {
            let line = String::from_utf8_lossy(&rest[from..from + len]);
            from += len + 1;
            if !take(line.trim_end())? {
                return Ok(());
            }
        }
        rest.drain(..from);
    }
    Ok(())
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
