//! Issuers whose keys are fetched, from servers that rotate them, stall, reset and lie.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_common::reason::Reason;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::token::{IssuerSettings, KeySource, Token, TokenRules, Verifier};

const LONG: Duration = Duration::from_secs(20);

/// What a server does when it is asked.
#[derive(Clone, Debug)]
pub enum Behaviour {
    /// Answers with this head and body.
    Say(u16, &'static str, String),
    /// Says nothing.
    Stall,
    /// Resets the connection.
    Reset,
}

/// A server whose behaviour changes, and how often it was asked.
pub struct Server {
    pub address: SocketAddr,
    pub behaviour: Arc<Mutex<Behaviour>>,
    pub asked: Arc<AtomicUsize>,
    /// The last request, head and body.
    pub last: Arc<Mutex<String>>,
}

impl Server {
    pub async fn new(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let this = Self {
            address,
            behaviour: Arc::new(Mutex::new(behaviour)),
            asked: Arc::default(),
            last: Arc::default(),
        };
        let (behaviour, asked, last) =
            (Arc::clone(&this.behaviour), Arc::clone(&this.asked), Arc::clone(&this.last));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(talk(stream, Arc::clone(&behaviour), Arc::clone(&asked), Arc::clone(&last)));
            }
        });
        this
    }

    pub fn now(&self, behaviour: Behaviour) {
        *self.behaviour.lock().unwrap() = behaviour;
    }

    pub fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

async fn talk(
    mut stream: TcpStream,
    behaviour: Arc<Mutex<Behaviour>>,
    asked: Arc<AtomicUsize>,
    last: Arc<Mutex<String>>,
) {
    let mut head = Vec::new();
    while let Ok(byte) = stream.read_u8().await {
        head.push(byte);
        if !head.ends_with(b"\r\n\r\n") {
            continue;
        }
        let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
        let length = text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
        let mut body = vec![0; length];
        stream.read_exact(&mut body).await.unwrap();
        let text = text + &String::from_utf8(body).unwrap();
        let tagged = text.contains("if-none-match: \"v\"");
        *last.lock().unwrap() = text;
        asked.fetch_add(1, Ordering::SeqCst);
        let behaviour = behaviour.lock().unwrap().clone();
        match behaviour {
            Behaviour::Say(_, "etag: \"v\"\r\n", _) if tagged => {
                stream.write_all(b"HTTP/1.1 304 Not Modified\r\n\r\n").await.unwrap();
            }
            Behaviour::Say(status, headers, body) => {
                let length = body.len();
                let answer =
                    format!("HTTP/1.1 {status} X\r\n{headers}content-length: {length}\r\n\r\n{body}");
                let _ = stream.write_all(answer.as_bytes()).await;
            }
            Behaviour::Stall => std::future::pending().await,
            Behaviour::Reset => return stream.set_zero_linger().unwrap(),
        }
    }
}

/// A key pair and the key set that publishes it.
struct Pair(EcdsaKeyPair, &'static str);

impl Pair {
    fn new(kid: &'static str) -> Self {
        Self(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap(), kid)
    }

    fn jwk(&self) -> Value {
        let point = self.0.public_key().as_ref();
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        json!({"kty": "EC", "crv": "P-256", "kid": self.1, "x": b64(&point[1..33]), "y": b64(&point[33..65])})
    }

    fn set(&self) -> Behaviour {
        Behaviour::Say(200, "", json!({"keys": [self.jwk()]}).to_string())
    }

    fn token(&self, issuer: &str) -> Token {
        self.issued(issuer, None)
    }

    fn issued(&self, issuer: &str, iat: Option<i64>) -> Token {
        let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
        let header = json!({"alg": "ES256", "kid": self.1}).to_string();
        let mut claims = json!({"iss": issuer, "exp": now() + 600});
        if let Some(iat) = iat {
            claims["iat"] = iat.into();
        }
        let claims = claims.to_string();
        let input = format!("{}.{}", b64(&header), b64(&claims));
        let signature = self.0.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        Token::new(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn now() -> i64 {
    SystemClock.wall().seconds()
}

fn remote(url: Option<Url>) -> RemoteKeys {
    RemoteKeys {
        url,
        ca_file: None,
        plain_http: false,
        refresh: LONG * 100,
        // Over before the next step of a test, however fast the machine is.
        refresh_min: Duration::from_nanos(1),
        max_stale: LONG * 100,
        timeout: Duration::from_millis(200),
        wait: LONG,
    }
}

fn settings(issuer: &str, remote: RemoteKeys) -> IssuerSettings {
    IssuerSettings {
        issuer: issuer.to_owned(),
        audience: Vec::new(),
        algorithms: vec!["ES256".into(), "HS256".into()],
        keys: KeySource::Remote(remote),
        rules: TokenRules::default(),
    }
}

struct Kept(Arc<Verifier>, tokio::task::JoinHandle<()>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.1.abort();
    }
}

fn keep(settings: IssuerSettings) -> Kept {
    let verifier = Arc::new(Verifier::new(vec![settings], Duration::ZERO).unwrap());
    let task = tokio::spawn(Arc::clone(&verifier).keep());
    Kept(verifier, task)
}

impl Kept {
    async fn reason(&self, token: &Token) -> Option<Reason> {
        self.0.identify(token, now).await.status.err()
    }

    /// Waits until a status of the only issuer's holds.
    async fn until(&self, holds: impl Fn(&crate::token::IssuerStatus) -> bool) {
        let looked = async {
            while !holds(&self.0.issuers(now())[0]) {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(LONG, looked).await.unwrap();
    }
}

fn url(server: &Server) -> Url {
    format!("http://{}/jwks", server.address).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_token_waits_for_the_keys_and_a_new_kid_has_them_fetched_again() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let server = Server::new(old.set()).await;
    let kept = keep(settings("i", remote(Some(url(&server)))));
    assert_eq!(kept.reason(&old.token("i")).await, None);
    let judged = kept.0.judge(&old.token("i"), now());
    assert!(judged.vouched.as_ref().unwrap().is_current(now()));
    server.now(new.set());
    assert_eq!(kept.reason(&new.token("i")).await, None);
    // The old key is gone, and what rested on it does not count any more.
    assert!(!judged.vouched.unwrap().is_current(now()));
    assert_eq!(kept.0.judge(&old.token("i"), now()).status.err(), Some(Reason::KeyUnknown));
    let status = &kept.0.issuers(now())[0];
    assert_eq!((status.source, status.ready, status.keys), ("url", true, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_kids_are_throttled_and_do_not_wait_then() {
    let (good, forged) = (Pair::new("good"), Pair::new("forged"));
    let server = Server::new(good.set()).await;
    let kept = keep(settings("i", RemoteKeys { refresh_min: LONG * 10, ..remote(Some(url(&server))) }));
    assert_eq!(kept.reason(&good.token("i")).await, None);
    let start = std::time::Instant::now();
    for _ in 0..20 {
        assert_eq!(kept.reason(&forged.token("i")).await, Some(Reason::KeyUnknown));
    }
    assert!(start.elapsed() < LONG, "they waited");
    assert_eq!(server.asked(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_none_for_good_where_keys_were_fetched_since_the_token_was_issued() {
    let (good, other) = (Pair::new("good"), Pair::new("other"));
    let server = Server::new(good.set()).await;
    let kept = keep(settings("i", RemoteKeys { refresh_min: LONG * 10, ..remote(Some(url(&server))) }));
    let never = |iat: Option<i64>| {
        let (token, verifier) = (other.issued("i", iat), Arc::clone(&kept.0));
        async move { verifier.is_of_no_key(&token, now()).await }
    };
    kept.until(|s| s.refreshes == 1).await;
    assert!(never(Some(now() - 60)).await && never(None).await && never(Some(now() + 9000)).await);
    assert!(!never(Some(now() + 60)).await, "its key may be newer than the keys");
    // Where they cannot be fetched they may lack one.
    let server = Server::new(good.set()).await;
    let kept = keep(settings("i", remote(Some(url(&server)))));
    kept.until(|s| s.refreshes == 1).await;
    server.now(Behaviour::Reset);
    assert_eq!(kept.reason(&other.token("i")).await, Some(Reason::KeyUnknown));
    // Asked too soon after the first fetch, it makes no second one.
    let failed = async {
        while kept.0.issuers(now())[0].error.is_none() {
            assert_eq!(kept.reason(&other.token("i")).await, Some(Reason::KeyUnknown));
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, failed).await.unwrap();
    assert!(!kept.0.is_of_no_key(&other.issued("i", Some(1)), now()).await);
    assert!(!kept.0.is_of_no_key(&other.issued("j", Some(1)), now()).await, "nobody's");
}

#[tokio::test]
async fn keys_of_a_file_are_those_that_stand_in_it_now() {
    let dir = tempfile::tempdir().unwrap();
    let (good, other, path) = (Pair::new("good"), Pair::new("other"), dir.path().join("keys"));
    let write = |pair: &Pair| {
        let Behaviour::Say(_, _, keys) = pair.set() else { unreachable!() };
        std::fs::write(&path, keys).unwrap();
    };
    write(&good);
    let file = IssuerSettings { keys: KeySource::JwksFile(path.clone()), ..settings("i", remote(None)) };
    let verifier = Verifier::new(vec![file], Duration::ZERO).unwrap();
    let token = other.issued("i", Some(now()));
    assert!(verifier.is_of_no_key(&token, now()).await);
    // Its owner was faster than whoever reads it again.
    write(&other);
    assert!(!verifier.is_of_no_key(&token, now()).await);
    assert!(verifier.judge(&token, now()).status.is_ok());
    std::fs::write(&path, "broken").unwrap();
    assert!(!verifier.is_of_no_key(&good.token("i"), now()).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_fails_changes_nothing_and_blocks_nobody() {
    let (pair, weak) = (Pair::new("k"), json!({"keys": [{"kty": "RSA", "n": "AQAB", "e": "AQAB"}]}));
    let server =
        Server::new(Behaviour::Say(200, "etag: \"v\"\r\n", json!({"keys": [pair.jwk()]}).to_string())).await;
    let fast =
        RemoteKeys { refresh: Duration::from_millis(5), wait: Duration::ZERO, ..remote(Some(url(&server))) };
    let kept = keep(settings("i", fast));
    kept.until(|s| s.refreshes > 2).await;
    let token = pair.token("i");
    let before = kept.0.judge(&token, now());
    let twice = json!({"keys": [pair.jwk(), pair.jwk()]}).to_string();
    let lies = [
        Behaviour::Stall,
        Behaviour::Reset,
        Behaviour::Say(500, "", String::new()),
        Behaviour::Say(302, "location: /elsewhere\r\n", String::new()),
        Behaviour::Say(200, "", "<html>".to_owned()),
        Behaviour::Say(200, "", "{\"keys\":[]}".to_owned()),
        Behaviour::Say(200, "", weak.to_string()),
        Behaviour::Say(200, "", twice),
        Behaviour::Say(
            200,
            "",
            json!({"keys": [{"kty": "oct", "k": URL_SAFE_NO_PAD.encode([7; 64]), "kid": "k"}]}).to_string(),
        ),
        Behaviour::Say(200, "", " ".repeat(600_000)),
    ];
    for lie in lies {
        let failures = kept.0.issuers(now())[0].failures;
        server.now(lie.clone());
        kept.until(|s| s.failures > failures + 1).await;
        assert!(kept.0.judge(&token, now()).status.is_ok(), "{lie:?}");
        assert!(kept.0.issuers(now())[0].error.is_some(), "{lie:?}");
    }
    assert!(before.vouched.unwrap().is_current(now()), "the keys never changed");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_are_too_old_are_stale_until_their_server_is_back() {
    let pair = Pair::new("k");
    let server = Server::new(pair.set()).await;
    let aging = RemoteKeys {
        refresh: Duration::from_millis(5),
        max_stale: LONG,
        wait: Duration::ZERO,
        ..remote(Some(url(&server)))
    };
    let kept = keep(settings("i", aging));
    kept.until(|s| s.ready).await;
    server.now(Behaviour::Reset);
    kept.until(|s| s.failures > 0).await;
    let (token, late) = (pair.token("i"), now() + 25);
    let good = kept.0.judge(&token, now());
    assert!(good.status.is_ok() && good.vouched.as_ref().unwrap().is_current(now()));
    assert!(!good.vouched.unwrap().is_current(late), "a cached allow ends with its keys");
    let stale = kept.0.judge(&token, late);
    assert_eq!(stale.status.err(), Some(Reason::KeysStale));
    assert!(!kept.0.issuers(late)[0].ready);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_issuer_whose_server_is_not_there_is_not_ready_and_others_are() {
    let pair = Pair::new("k");
    let server = Server::new(pair.set()).await;
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let gone = Some(format!("http://{gone}/").parse().unwrap());
    let short = Duration::from_millis(50);
    let both = vec![
        settings("gone", RemoteKeys { wait: short, ..remote(gone) }),
        settings("here", remote(Some(url(&server)))),
    ];
    let verifier = Arc::new(Verifier::new(both, Duration::ZERO).unwrap());
    let task = tokio::spawn(Arc::clone(&verifier).keep());
    assert_eq!(verifier.identify(&pair.token("gone"), now).await.status.err(), Some(Reason::IssuerNotReady));
    assert!(verifier.identify(&pair.token("here"), now).await.status.is_ok());
    task.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn discovery_is_believed_from_the_issuer_alone() {
    let pair = Pair::new("k");
    let keys = Server::new(pair.set()).await;
    let server = Server::new(Behaviour::Stall).await;
    let issuer = format!("http://{}/tenant/", server.address);
    let says = |issuer: &str, uri: &str| {
        Behaviour::Say(200, "", json!({"issuer": issuer, "jwks_uri": uri}).to_string())
    };
    let uri = format!("http://{}/keys", keys.address);
    let bad = [
        says(issuer.trim_end_matches('/'), &uri),
        says("https://other", &uri),
        says(&issuer, "ftp://x/"),
        // Other hosts are not asked in plain text.
        says(&issuer, "http://192.0.2.1/keys"),
        Behaviour::Say(200, "", "{}".to_owned()),
        Behaviour::Say(
            200,
            "",
            format!("{{\"issuer\":\"{issuer}\",\"issuer\":\"{issuer}\",\"jwks_uri\":\"{uri}\"}}"),
        ),
    ];
    let kept = keep(settings(&issuer, RemoteKeys { wait: Duration::ZERO, ..remote(None) }));
    for lie in bad {
        let failures = kept.0.issuers(now())[0].failures;
        server.now(lie.clone());
        kept.until(|s| s.failures > failures + 1).await;
        assert!(!kept.0.issuers(now())[0].ready, "{lie:?}");
    }
    assert_eq!(keys.asked(), 0);
    server.now(says(&issuer, &uri));
    kept.until(|s| s.ready).await;
    assert!(kept.0.judge(&pair.token(&issuer), now()).status.is_ok());
    assert!(server.last.lock().unwrap().starts_with("GET /tenant/.well-known/openid-configuration "));
}

#[tokio::test(flavor = "multi_thread")]
async fn key_files_that_change_are_read_again() {
    let (old, new) = (Pair::new("old"), Pair::new("new"));
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("jwks.json");
    let write = |keys: Value| std::fs::write(&path, json!({"keys": keys}).to_string()).unwrap();
    write(json!([old.jwk()]));
    let file = IssuerSettings { keys: KeySource::JwksFile(path.clone()), ..settings("i", remote(None)) };
    let kept = keep(file);
    let judged = kept.0.judge(&old.token("i"), now());
    assert!(judged.status.is_ok());
    write(json!([]));
    kept.until(|s| s.failures == 1).await;
    assert!(judged.vouched.as_ref().unwrap().is_current(now()), "refused: the old ones stay");
    write(json!([new.jwk()]));
    kept.until(|s| s.refreshes == 1).await;
    assert!(!judged.vouched.unwrap().is_current(now()));
    assert!(kept.0.judge(&new.token("i"), now()).status.is_ok());
    assert_eq!(kept.0.judge(&old.token("i"), now()).status.err(), Some(Reason::KeyUnknown));
}
