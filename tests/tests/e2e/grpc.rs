//! gRPC over HTTP/2 in the clear: tonic on both sides.

use std::{
    net::TcpListener,
    sync::{Arc, Mutex},
};

use anyhow::Result;
use bytes::{Buf as _, BufMut as _, Bytes};
use hyper_util::rt::TokioIo;
use portcullis_tests::{
    World, is_root,
    net::{Namespace, SERVER_V4, at},
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request, Response, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint, Server},
};

/// Where HTTP/2 is enabled.
const PORT: u16 = 8083;

/// Messages as they are.
#[derive(Clone, Copy, Debug, Default)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, to: &mut EncodeBuf<'_>) -> Result<(), Status> {
        to.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, from: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(from.copy_to_bytes(from.remaining())))
    }
}

/// The messages that the server was given.
type Heard = Arc<Mutex<Vec<String>>>;

/// An echo in a namespace, for as long as the runtime runs.
fn serve(ns: &Namespace, heard: Heard) -> Result<()> {
    let listener = ns.enter(|| Ok(TcpListener::bind(at("0.0.0.0", PORT))?))?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let (give, take) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if give.send(Ok::<_, std::io::Error>(stream)).await.is_err() {
                break;
            }
        }
    });
    let echo = tower::service_fn(move |request: http::Request<tonic::body::Body>| {
        let heard = Arc::clone(&heard);
        async move {
            let answer = tower::service_fn(move |request: Request<Bytes>| {
                let message = request.into_inner();
                heard.lock().unwrap().push(String::from_utf8_lossy(&message).into_owned());
                async move { Ok::<_, Status>(Response::new(message)) }
            });
            Ok::<_, std::convert::Infallible>(tonic::server::Grpc::new(Raw).unary(answer, request).await)
        }
    });
    tokio::spawn(Server::builder().serve_with_incoming(echo, ReceiverStream::new(take)));
    Ok(())
}

/// One connection.
async fn connect(ns: &Namespace) -> Result<Grpc<Channel>> {
    let ns = ns.clone();
    let connector = tower::service_fn(move |_| {
        let ns = ns.clone();
        async move {
            let stream = ns.enter(|| Ok(std::net::TcpStream::connect(at(SERVER_V4, PORT))?));
            let stream = stream.map_err(std::io::Error::other)?;
            stream.set_nonblocking(true)?;
            Ok::<_, std::io::Error>(TokioIo::new(tokio::net::TcpStream::from_std(stream)?))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{SERVER_V4}:{PORT}"))?;
    Ok(Grpc::new(endpoint.connect_with_connector(connector).await?))
}

async fn call(client: &mut Grpc<Channel>, token: &str, message: &str) -> Result<String, Status> {
    let mut request = Request::new(Bytes::from(message.to_owned()));
    let value = format!("Bearer {token}").parse().map_err(|_| Status::internal("no metadata"))?;
    request.metadata_mut().insert("authorization", value);
    client.ready().await.map_err(|e| Status::unavailable(e.to_string()))?;
    let path = http::uri::PathAndQuery::from_static("/test.Echo/Say");
    let answer: Response<Bytes> = client.unary(request, path, Raw).await?;
    Ok(String::from_utf8_lossy(&answer.into_inner()).into_owned())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_server_hears_calls_of_live_tokens_and_no_others() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let w = World::with(|config, _| {
        config.ports.push(PORT);
        config.kernel = format!("h2c_ports = [{PORT}]");
        Ok(())
    })?;
    let heard = Heard::default();
    serve(&w.net.server, Arc::clone(&heard))?;
    let (live, later) = (w.mint.hs256()?, w.mint.hs256()?);
    let mut client = connect(&w.net.client).await?;
    // Many at once on one connection, each answered with its own message.
    for round in 0..20 {
        let calls: Vec<_> = (0..50)
            .map(|i| {
                let (mut client, token) =
                    (client.clone(), if i % 2 == 0 { live.clone() } else { later.clone() });
                tokio::spawn(async move {
                    let message = format!("{round}/{i}");
                    (call(&mut client, &token, &message).await, message)
                })
            })
            .collect();
        for one in calls {
            let (answer, message) = one.await?;
            assert_eq!(answer.map_err(|e| e.to_string()), Ok(message));
        }
    }
    assert_eq!(heard.lock().unwrap().len(), 1000);
    // By now both tokens are in the table of the connection, and are named by an index.
    w.daemon.revoke(&later)?;
    let refused = call(&mut client, &later, "refused").await;
    assert!(refused.is_err(), "{refused:?}");
    assert_ne!(refused.unwrap_err().code(), Code::Ok);
    // The connection is gone; tonic makes another for the next call.
    let mut fresh = connect(&w.net.client).await?;
    assert_eq!(call(&mut fresh, &live, "lives").await.map_err(|e| e.to_string()), Ok("lives".to_owned()));
    assert!(call(&mut fresh, &later, "refused").await.is_err());
    let heard = heard.lock().unwrap();
    assert_eq!((heard.len(), heard.iter().filter(|m| *m == "refused").count()), (1001, 0));
    assert!(w.daemon.counter("revoked")? >= 2);
    assert_eq!(w.daemon.counter("refused_frames")?, 0);
    Ok(())
}
