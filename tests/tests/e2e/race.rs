//! Invariant 3 under race: of requests that are sent after a revocation was acknowledged, none is allowed; through the
//! decider itself, and over the front doors. 10^6 evaluations each where tests are thorough.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::Request as HttpRequest;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    decide::{Decider, Path, Request, Ruling},
    record::Asker,
    telemetry::Door,
    token::{Evidence, Presented},
};
use portcullis_tests::{
    bench::grpc::check,
    inside::{DECISION, Inside, Options, token},
    is_thorough, six,
};
use serde_json::json;
use tokio::{
    net::TcpStream,
    sync::{Barrier, Notify},
};

/// Who ask at once.
const READERS: usize = 4;
/// What each asks about one token before the next one's turn, at least.
const ASKS: u64 = 8;

/// `/kept` is kept in the cache, `/fresh` is evaluated each time.
const RULES: &str = "default decision := {\"allow\": false}\n\
    decision := {\"allow\": true, \"ttl\": 60} if {\n\tinput.token_status == \"valid\"\n\tinput.request.path == \"/kept\"\n}\n\
    decision := {\"allow\": true} if {\n\tinput.token_status == \"valid\"\n\tinput.request.path == \"/fresh\"\n}";

/// By which way it is asked.
enum Way {
    Decider(Arc<Decider>),
    Data(http1::SendRequest<Full<Bytes>>),
    Grpc(http2::SendRequest<Full<Bytes>>),
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    Decider,
    Data,
    Grpc,
}

impl Way {
    async fn new(kind: Kind, w: &Inside) -> Result<Self> {
        let connect = async |address: SocketAddr| {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            Ok::<_, anyhow::Error>(TokioIo::new(stream))
        };
        Ok(match kind {
            Kind::Decider => Self::Decider(Arc::clone(&w.decider)),
            Kind::Data => {
                let (sender, connection) = http1::handshake(connect(w.address).await?).await?;
                tokio::spawn(connection);
                Self::Data(sender)
            }
            Kind::Grpc => {
                let io = connect(w.address).await?;
                let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Self::Grpc(sender)
            }
        })
    }

    /// Whether it is allowed.
    async fn ask(&mut self, token: &str, path: &str) -> Result<bool> {
        match self {
            Self::Decider(decider) => {
                let request = Request {
                    method: "GET",
                    path: Path::new(path).ok().context("no path")?,
                    query: "",
                    host: "",
                    headers: Vec::new(),
                    source: "",
                    foreign: None,
                    evidence: Evidence::default(),
                };
                let by = Asker { door: Door::ForwardAuth, peer: "" };
                let ruling = decider.request(by, &request, Ok(Some(Presented::new(token)))).await;
                Ok(matches!(ruling, Ruling::Allow(_)))
            }
            Self::Data(sender) => {
                let body = json!({"input": {"token": token, "request": {"method": "GET", "path": path}}});
                let request = HttpRequest::post(format!("/v1/data/{DECISION}"))
                    .header("host", "x")
                    .body(Full::new(body.to_string().into()))?;
                let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
                let value: serde_json::Value = serde_json::from_slice(&answer)?;
                Ok(value["result"]["allow"] == true)
            }
            Self::Grpc(sender) => {
                let request = HttpRequest::post("http://x/envoy.service.auth.v3.Authorization/Check")
                    .header("content-type", "application/grpc")
                    .body(Full::new(check("GET", path, token)))?;
                let answer = sender.send_request(request).await?.into_body().collect().await?.to_bytes();
                Ok(six::verdict(answer.get(5..).context("no message")?)? == "passes")
            }
        }
    }
}

/// What is seen of all tokens together.
#[derive(Default)]
struct Seen {
    asked: AtomicU64,
    evaluated: AtomicU64,
    allowed: AtomicU64,
    denied: AtomicU64,
    /// Sent before the acknowledgement and answered after it: these raced, and may be allowed.
    under_way: AtomicU64,
    /// Sent after it.
    after: AtomicU64,
    /// Of these, allowed.
    wrong: AtomicU64,
}

/// One token, while it is its turn.
struct Turn {
    token: String,
    acknowledged: AtomicBool,
    asked: AtomicU64,
    /// After how many it is revoked, and who waits for that.
    revoked_after: u64,
    due: Notify,
}

async fn read(mut way: Way, turn: Arc<Turn>, seen: Arc<Seen>, start: Arc<Barrier>) -> Result<Way> {
    start.wait().await;
    let (mut after, mut n) = (0, 0);
    while after < ASKS / 2 {
        n += 1;
        let path = if n % 4 == 0 { "/kept" } else { "/fresh" };
        let was_acknowledged = turn.acknowledged.load(Ordering::SeqCst);
        let allowed = way.ask(&turn.token, path).await?;
        let is_acknowledged = turn.acknowledged.load(Ordering::SeqCst);
        let count = |counter: &AtomicU64, is: bool| counter.fetch_add(u64::from(is), Ordering::Relaxed);
        count(&seen.asked, true);
        count(&seen.evaluated, path == "/fresh" && allowed);
        count(&seen.allowed, allowed);
        count(&seen.denied, !allowed);
        count(&seen.under_way, !was_acknowledged && is_acknowledged);
        count(&seen.after, was_acknowledged);
        count(&seen.wrong, was_acknowledged && allowed);
        if turn.asked.fetch_add(1, Ordering::Relaxed) == turn.revoked_after {
            turn.due.notify_one();
        }
        after += u64::from(was_acknowledged);
        // In this process nothing else would let the others have their turn.
        tokio::task::yield_now().await;
    }
    Ok(way)
}

fn race(kind: Kind, evaluations: u64) -> Result<()> {
    let w = Arc::new(Inside::start(Options::new(RULES))?);
    let seen = Arc::new(Seen::default());
    let mut ways = Vec::new();
    for _ in 0..READERS {
        ways.push(w.runtime.block_on(Way::new(kind, &w))?);
    }
    let (mut tokens, mut random) = (0_u64, 7_u64);
    // Evaluations that ended in a denial by revocation are evaluations too, but of less.
    while seen.evaluated.load(Ordering::Relaxed) < evaluations {
        tokens += 1;
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let turn = Arc::new(Turn {
            token: token(&tokens.to_string()),
            acknowledged: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            revoked_after: (random >> 33) % (ASKS * 12),
            due: Notify::new(),
        });
        let start = Arc::new(Barrier::new(READERS));
        let (readers, turned, seen) = (std::mem::take(&mut ways), Arc::clone(&turn), Arc::clone(&seen));
        let w2 = Arc::clone(&w);
        ways = w.runtime.block_on(async move {
            let running: Vec<_> = readers
                .into_iter()
                .map(|way| {
                    tokio::spawn(read(way, Arc::clone(&turned), Arc::clone(&seen), Arc::clone(&start)))
                })
                .collect();
            // Revoked in the middle of them, each time at another place.
            turned.due.notified().await;
            w2.revoked(&turned.token).await?;
            turned.acknowledged.store(true, Ordering::SeqCst);
            let mut ways = Vec::new();
            for one in running {
                ways.push(one.await??);
            }
            Ok::<_, anyhow::Error>(ways)
        })?;
    }
    let get = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
    println!(
        "{kind:?}: {tokens} tokens revoked, {} asked, {} evaluated to an allow, {} under way at the acknowledgement, {} sent after it, {} of these allowed",
        get(&seen.asked),
        get(&seen.evaluated),
        get(&seen.under_way),
        get(&seen.after),
        get(&seen.wrong)
    );
    assert_eq!(get(&seen.wrong), 0, "a request that was sent after the acknowledgement was allowed");
    assert!(get(&seen.after) >= tokens * READERS as u64 * ASKS / 2);
    // Else nothing raced.
    assert!(get(&seen.under_way) * 4 > tokens, "{} of {tokens}", get(&seen.under_way));
    Ok(())
}

fn evaluations() -> u64 {
    if is_thorough() { 1_000_000 } else { 20_000 }
}

#[test]
fn no_decision_asked_for_after_the_acknowledgement_allows() -> Result<()> {
    race(Kind::Decider, evaluations())
}

#[test]
fn nor_does_the_data_api() -> Result<()> {
    race(Kind::Data, evaluations())
}

#[test]
fn nor_does_ext_authz() -> Result<()> {
    race(Kind::Grpc, evaluations())
}
