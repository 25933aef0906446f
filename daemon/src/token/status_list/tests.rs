//! Lists as servers give them: fetched, renewed, refused, gone; and the draft's own vectors.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Mutex,
        atomic::{AtomicI64, AtomicUsize, Ordering},
    },
};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _},
};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{bits::List, *};
use crate::token::{Identity, IssuerSettings, KeySource, TokenRules, Verified, vouch::Vouched};

const ISSUER: &str = "https://issuer.test";
const JWT: &str = "application/statuslist+jwt";

/// What a server answers.
#[derive(Clone)]
enum Answer {
    Give(&'static str, Vec<u8>),
    Status(u16),
    Redirect(String),
    Stall,
}

struct World {
    pair: EcdsaKeyPair,
    issuer: Arc<Issuer>,
    lists: Arc<StatusLists>,
    port: u16,
    answer: Arc<Mutex<Answer>>,
    asked: Arc<AtomicUsize>,
    /// Seconds that the clock of the test is ahead.
    ahead: AtomicI64,
    _dir: tempfile::TempDir,
}

fn jwk(pair: &EcdsaKeyPair) -> Value {
    let point = pair.public_key().as_ref();
    let half = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    json!({"kty": "EC", "crv": "P-256", "kid": "k", "x": half(&point[1..33]), "y": half(&point[33..65])})
}

impl World {
    async fn new(change: impl FnOnce(&mut StatusListSettings)) -> Self {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("keys");
        std::fs::write(&file, json!({"keys": [jwk(&pair)]}).to_string()).unwrap();
        let issuer = Issuer::new(
            IssuerSettings {
                issuer: ISSUER.to_owned(),
                audience: Vec::new(),
                algorithms: vec!["ES256".to_owned()],
                keys: KeySource::JwksFile(file),
                rules: TokenRules::default(),
            },
            Duration::ZERO,
        );
        let mut settings = StatusListSettings {
            hosts: Vec::new(),
            ca_file: None,
            plain_http: false,
            timeout: Duration::from_secs(10),
            wait: Duration::from_secs(10),
            ttl_min: Duration::from_millis(1),
            ttl_max: Duration::from_mins(1),
            max_stale: Duration::from_mins(10),
            max_bytes: 1 << 20,
            lists: 10,
            allow_unavailable: false,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        settings.hosts.push(format!("127.0.0.1:{port}"));
        change(&mut settings);
        let (answer, asked) = (Arc::new(Mutex::new(Answer::Status(404))), Arc::new(AtomicUsize::new(0)));
        let shared = (Arc::clone(&answer), Arc::clone(&asked));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let (answer, asked) = (Arc::clone(&shared.0), Arc::clone(&shared.1));
                tokio::spawn(async move {
                    let mut head = Vec::new();
                    while let Ok(byte) = stream.read_u8().await {
                        head.push(byte);
                        if !head.ends_with(b"\r\n\r\n") {
                            continue;
                        }
                        head.clear();
                        asked.fetch_add(1, Ordering::SeqCst);
                        let now = answer.lock().unwrap().clone();
                        let (first, body) = match now {
                            Answer::Give(kind, body) => (format!("200 X\r\ncontent-type: {kind}"), body),
                            Answer::Status(status) => (format!("{status} X"), Vec::new()),
                            Answer::Redirect(to) => (format!("302 X\r\nlocation: {to}"), Vec::new()),
                            Answer::Stall => std::future::pending().await,
                        };
                        let head = format!("HTTP/1.1 {first}\r\ncontent-length: {}\r\n\r\n", body.len());
                        let _ = stream.write_all(&[head.as_bytes(), &body].concat()).await;
                    }
                });
            }
        });
        let lists = Arc::new(StatusLists::new(settings).unwrap());
        let (issuer, ahead) = (Arc::new(issuer.unwrap()), AtomicI64::new(0));
        Self { pair, issuer, lists, port, answer, asked, ahead, _dir: dir }
    }

    fn uri(&self) -> String {
        format!("http://127.0.0.1:{}/lists/1", self.port)
    }

    fn now(&self) -> i64 {
        SystemClock.wall().seconds() + self.ahead.load(Ordering::SeqCst)
    }

    fn sign(&self, header: &Value, claims: &Value) -> Vec<u8> {
        let encode = |v: &Value| URL_SAFE_NO_PAD.encode(v.to_string());
        let input = format!("{}.{}", encode(header), encode(claims));
        let signature = self.pair.sign(&SystemRandom::new(), input.as_bytes()).unwrap();
        format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)).into_bytes()
    }

    fn claims(&self, set: &[u32]) -> Value {
        let mut list = List::zeros(1000);
        for index in set {
            list.set(*index);
        }
        let now = SystemClock.wall().seconds();
        json!({
            "sub": self.uri(), "iat": now, "exp": now + 3600, "ttl": 30,
            "status_list": {"bits": 1, "lst": URL_SAFE_NO_PAD.encode(list.packed().unwrap())},
        })
    }

    fn give(&self, claims: &Value) {
        let token = self.sign(&json!({"alg": "ES256", "kid": "k", "typ": "statuslist+jwt"}), claims);
        self.answers(Answer::Give(JWT, token));
    }

    fn answers(&self, answer: Answer) {
        *self.answer.lock().unwrap() = answer;
    }

    async fn judge_at(&self, uri: &str, index: u64) -> Judgement {
        let claims = json!({"status": {"status_list": {"idx": index, "uri": uri}}});
        let verified = Verified { identity: Identity::whole(), claims: claims.as_object().unwrap().clone() };
        let judged = Judgement { status: Ok(verified), vouched: Some(Vouched::by(&self.issuer.voucher)) };
        self.lists.settle(&self.issuer, judged, || self.now()).await
    }

    async fn judge(&self, index: u64) -> Judgement {
        self.judge_at(&self.uri(), index).await
    }

    async fn reason(&self, index: u64) -> Result<(), Reason> {
        self.judge(index).await.status.map(drop)
    }

    /// Waits until the next fetch that begins has ended.
    async fn renewed(&self) {
        let before = self.asked.load(Ordering::SeqCst);
        while self.asked.load(Ordering::SeqCst) == before
            || self.lists.entries.iter().any(|(_, e)| e.is_going())
        {
            for (_, entry) in &self.lists.entries {
                if entry.is_due(self.now()) {
                    self.lists.fetch(&entry);
                }
            }
            tokio::task::yield_now().await;
        }
    }
}

const UNAVAILABLE: Result<(), Reason> = Err(Reason::StatusUnavailable);

#[tokio::test]
async fn a_token_is_what_its_list_says_and_what_rested_on_an_older_list_is_asked_again() {
    let w = World::new(|_| {}).await;
    w.give(&w.claims(&[7]));
    let good = w.judge(8).await;
    assert!(good.status.is_ok());
    assert_eq!(w.reason(7).await, Err(Reason::StatusInvalid));
    assert_eq!(w.reason(1_000_000).await, Err(Reason::StatusInvalid), "behind its end");
    assert_eq!(w.asked.load(Ordering::SeqCst), 1, "one list, one request");
    let vouched = good.vouched.unwrap();
    assert!(vouched.is_current(w.now()));
    // Unchanged, it stands.
    w.ahead.store(31, Ordering::SeqCst);
    w.renewed().await;
    assert!(vouched.is_current(w.now()));
    // Changed, it does not.
    w.give(&w.claims(&[7, 8]));
    w.ahead.store(70, Ordering::SeqCst);
    w.renewed().await;
    assert!(!vouched.is_current(w.now()));
    assert_eq!(w.reason(8).await, Err(Reason::StatusInvalid));
    assert_eq!(w.reason(9).await, Ok(()));
}

#[tokio::test]
async fn a_list_that_cannot_be_renewed_serves_for_its_bound_and_never_beyond_its_end() {
    let w = World::new(|s| s.max_stale = Duration::from_secs(100)).await;
    w.give(&w.claims(&[]));
    let vouched = w.judge(1).await.vouched.unwrap();
    w.answers(Answer::Status(500));
    for (ahead, is) in [(29, true), (31, true), (125, true), (131, false)] {
        w.ahead.store(ahead, Ordering::SeqCst);
        assert_eq!(w.reason(1).await, if is { Ok(()) } else { UNAVAILABLE }, "{ahead}");
        assert_eq!(vouched.is_current(w.now()), is, "{ahead}");
    }
    let w = World::new(|_| {}).await;
    let mut claims = w.claims(&[]);
    claims["exp"] = json!(w.now() + 50);
    w.give(&claims);
    assert_eq!(w.reason(1).await, Ok(()));
    w.ahead.store(49, Ordering::SeqCst);
    assert_eq!(w.reason(1).await, Ok(()));
    w.ahead.store(50, Ordering::SeqCst);
    assert_eq!(w.reason(1).await, UNAVAILABLE, "`exp` is the end, whatever the bound");
}

fn header(typ: &str) -> Value {
    json!({"alg": "ES256", "kid": "k", "typ": typ})
}

/// What is wrong, and a server's answer that has it.
type Case = (&'static str, Box<dyn Fn(&World) -> Answer>);

/// A list with another claim, or without it where it is null.
fn changed(w: &World, name: &str, value: Value) -> Answer {
    let mut claims = w.claims(&[]);
    if value.is_null() {
        claims.as_object_mut().unwrap().remove(name);
    } else {
        claims[name] = value;
    }
    Answer::Give(JWT, w.sign(&header("statuslist+jwt"), &claims))
}

#[tokio::test]
async fn lists_that_are_none_of_this_issuer_and_address_are_refused() {
    let bomb = URL_SAFE_NO_PAD.encode(List::zeros(1 << 30).packed().unwrap());
    let cases: Vec<Case> = vec![
        ("another sub", Box::new(move |w| changed(w, "sub", json!("http://127.0.0.1/lists/2")))),
        ("no sub", Box::new(move |w| changed(w, "sub", Value::Null))),
        ("no iat", Box::new(move |w| changed(w, "iat", Value::Null))),
        ("iat to come", Box::new(move |w| changed(w, "iat", json!(w.now() + 1000)))),
        ("expired", Box::new(move |w| changed(w, "exp", json!(w.now() - 1)))),
        ("exp no number", Box::new(move |w| changed(w, "exp", json!("9999999999")))),
        ("ttl 0", Box::new(move |w| changed(w, "ttl", json!(0)))),
        ("no list", Box::new(move |w| changed(w, "status_list", Value::Null))),
        ("bits 3", Box::new(move |w| changed(w, "status_list", json!({"bits": 3, "lst": "eNrbuRgAAhcBXQ"})))),
        ("no zlib", Box::new(move |w| changed(w, "status_list", json!({"bits": 1, "lst": "AAAA"})))),
        (
            "padded",
            Box::new(move |w| changed(w, "status_list", json!({"bits": 1, "lst": "eNrbuRgAAhcBXQ=="}))),
        ),
        ("a bomb", Box::new(move |w| changed(w, "status_list", json!({"bits": 1, "lst": bomb})))),
        ("typ", Box::new(move |w| Answer::Give(JWT, w.sign(&header("JWT"), &w.claims(&[]))))),
        (
            "no typ",
            Box::new(|w| Answer::Give(JWT, w.sign(&json!({"alg": "ES256", "kid": "k"}), &w.claims(&[])))),
        ),
        (
            "alg none",
            Box::new(|w| {
                Answer::Give(JWT, w.sign(&json!({"alg": "none", "typ": "statuslist+jwt"}), &w.claims(&[])))
            }),
        ),
        (
            "another media type",
            Box::new(move |w| {
                Answer::Give("application/json", w.sign(&header("statuslist+jwt"), &w.claims(&[])))
            }),
        ),
        (
            "a JWT as CWT",
            Box::new(move |w| {
                Answer::Give("application/statuslist+cwt", w.sign(&header("statuslist+jwt"), &w.claims(&[])))
            }),
        ),
        (
            "forged",
            Box::new(move |w| {
                let mut token = w.sign(&header("statuslist+jwt"), &w.claims(&[]));
                let at = token.iter().rposition(|b| *b == b'.').unwrap() + 1;
                token[at] = if token[at] == b'A' { b'B' } else { b'A' };
                Answer::Give(JWT, token)
            }),
        ),
        ("too long", Box::new(|_| Answer::Give(JWT, vec![b'a'; 4 << 20]))),
        ("404", Box::new(|_| Answer::Status(404))),
        ("a redirect", Box::new(|w| Answer::Redirect(format!("http://127.0.0.1:{}/x", w.port)))),
    ];
    for (what, make) in cases {
        let w = World::new(|_| {}).await;
        w.answers(make(&w));
        let judged = w.judge(0).await;
        assert_eq!(judged.status.clone().map(drop), UNAVAILABLE, "{what}");
        assert!(!judged.vouched.unwrap().is_current(w.now()), "{what}: nothing of it is kept");
        assert_eq!(w.lists.status(w.now()).failed, 1, "{what}");
    }
}

#[tokio::test]
async fn an_older_list_does_not_take_a_newer_ones_place() {
    let w = World::new(|_| {}).await;
    let old = {
        let mut claims = w.claims(&[]);
        claims["iat"] = json!(w.now() - 100);
        claims
    };
    w.give(&w.claims(&[5]));
    assert_eq!(w.reason(5).await, Err(Reason::StatusInvalid));
    w.give(&old);
    w.ahead.store(40, Ordering::SeqCst);
    w.renewed().await;
    assert_eq!(w.reason(5).await, Err(Reason::StatusInvalid));
    assert!(w.lists.status(w.now()).error.unwrap().contains("older"));
}

#[tokio::test]
async fn hosts_that_are_not_configured_are_never_asked_and_a_slow_one_holds_up_nobody() {
    let w = World::new(|s| s.wait = Duration::from_millis(50)).await;
    w.give(&w.claims(&[]));
    for foreign in
        ["http://localhost/lists/1", "http://127.0.0.1:1/x", "https://127.0.0.1/x", "ftp://127.0.0.1/", "x"]
    {
        assert_eq!(w.judge_at(foreign, 0).await.status.map(drop), UNAVAILABLE, "{foreign}");
    }
    assert_eq!(w.asked.load(Ordering::SeqCst), 0);
    w.answers(Answer::Stall);
    let begun = std::time::Instant::now();
    assert_eq!(w.reason(0).await, UNAVAILABLE);
    // Others that name it wait as long and no longer; those that name none do not wait.
    assert_eq!(w.reason(0).await, UNAVAILABLE);
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    assert_eq!(w.asked.load(Ordering::SeqCst), 1, "one request at a time");
    // One that fails is not asked again at once.
    let w = World::new(|_| {}).await;
    for _ in 0..5 {
        assert_eq!(w.reason(0).await, UNAVAILABLE);
    }
    assert_eq!(w.asked.load(Ordering::SeqCst), 1);
    // Where that is allowed they pass, and are soon asked again.
    let w = World::new(|s| s.allow_unavailable = true).await;
    let judged = w.judge(0).await;
    assert!(judged.status.is_ok());
    let vouched = judged.vouched.unwrap();
    assert!(vouched.is_current(w.now()) && !vouched.is_current(w.now() + UNSEEN + 1));
}

/// A publisher of these keys, and its key set.
fn publisher(dir: &std::path::Path, uri: &str) -> (Publisher, Arc<crate::token::ApiKeys>) {
    use std::os::unix::fs::PermissionsExt as _;
    let key_file = dir.join("list.pem");
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let der = base64::engine::general_purpose::STANDARD.encode(pair.to_pkcs8v1().unwrap().as_ref());
    let pem = format!("-----BEGIN PRIVATE KEY-----\n{der}\n-----END PRIVATE KEY-----\n");
    std::fs::write(&key_file, pem).unwrap();
    std::fs::set_permissions(&key_file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let keys = crate::token::ApiKeys::open(
        crate::token::ApiKeySettings {
            file: dir.join("keys.json"),
            prefix: "pk".to_owned(),
            issuer: "keys".into(),
            status_uri: Some(uri.to_owned()),
        },
        Arc::new(crate::token::FingerprintKey::load_or_create(&dir.join("fingerprint.key")).unwrap()),
    );
    let keys = Arc::new(keys.unwrap());
    let settings = PublisherSettings {
        uri: uri.to_owned(),
        key_file,
        kid: "k".to_owned(),
        ttl: Duration::from_mins(1),
        lifetime: Duration::from_hours(1),
    };
    (Publisher::new(settings, Arc::clone(&keys)).unwrap(), keys)
}

#[tokio::test]
async fn what_is_published_is_read_back_in_both_forms() {
    let w = World::new(|_| {}).await;
    let dir = tempfile::tempdir().unwrap();
    let (publisher, keys) = publisher(dir.path(), &w.uri());
    // Verified as any issuer's: by the key set that is published beside it.
    let file = dir.path().join("jwks");
    std::fs::write(&file, publisher.jwks()).unwrap();
    let settings = IssuerSettings {
        issuer: "keys".into(),
        audience: Vec::new(),
        algorithms: vec!["ES256".to_owned()],
        keys: KeySource::JwksFile(file),
        rules: TokenRules::default(),
    };
    let w = World { issuer: Arc::new(Issuer::new(settings, Duration::ZERO).unwrap()), ..w };
    let new = |subject: &str| crate::token::NewApiKey { subject: subject.to_owned(), ..Default::default() };
    let (good, _) = keys.issue(new("a"), w.now()).unwrap();
    let (disabled, _) = keys.issue(new("b"), w.now()).unwrap();
    let (revoked, _) = keys.issue(new("c"), w.now()).unwrap();
    let first = publisher.current(w.now(), |k| k.id == revoked.id).unwrap();
    keys.disable(&disabled.id, w.now()).unwrap();
    let published = publisher.current(w.now(), |k| k.id == revoked.id).unwrap();
    assert_ne!(first.tag, published.tag, "a change is published at once");
    let again = publisher.current(w.now() + 10, |k| k.id == revoked.id).unwrap();
    assert_eq!(again.tag, published.tag, "and nothing else is");
    let later = publisher.current(w.now() + 2000, |k| k.id == revoked.id).unwrap();
    assert!(later.tag != published.tag && later.expires_at > published.expires_at, "renewed before it ends");
    for (kind, body) in
        [(JWT, published.jwt.clone().into_bytes()), ("application/statuslist+cwt", published.cwt.clone())]
    {
        w.lists.entries.invalidate_all();
        w.answers(Answer::Give(kind, body.clone()));
        let index = |key: &crate::token::ApiKey| u64::from(key.status_index.unwrap());
        assert_eq!(w.reason(index(&good)).await, Ok(()), "{kind}: {:?}", w.lists.status(w.now()));
        assert_eq!(w.reason(index(&disabled)).await, Err(Reason::StatusInvalid));
        assert_eq!(w.reason(index(&revoked)).await, Err(Reason::StatusInvalid));
        // One bit of it changed, it is no list any more.
        w.lists.entries.invalidate_all();
        let mut broken = body;
        let last = broken.len() - 5;
        broken[last] ^= 1;
        w.answers(Answer::Give(kind, broken));
        assert_eq!(w.reason(index(&good)).await, UNAVAILABLE, "{kind}");
    }
}

#[test]
fn keys_that_were_there_before_the_list_get_entries_of_their_own() {
    let dir = tempfile::tempdir().unwrap();
    let (_, keys) = publisher(dir.path(), "https://h/statuslists/api-keys");
    for _ in 0..20 {
        let new = crate::token::NewApiKey { subject: "s".to_owned(), ..Default::default() };
        keys.issue(new, 1).unwrap();
    }
    let file = dir.path().join("keys.json");
    let text = std::fs::read_to_string(&file).unwrap();
    let mut content: Value = serde_json::from_str(&text).unwrap();
    for key in content["keys"].as_array_mut().unwrap().iter_mut().take(15) {
        key.as_object_mut().unwrap().remove("status_index");
    }
    std::fs::write(&file, content.to_string()).unwrap();
    let indexes = || {
        let (_, keys) = publisher(dir.path(), "https://h/statuslists/api-keys");
        let mut all: Vec<_> = keys.list().iter().map(|k| k.status_index.unwrap()).collect();
        all.sort_unstable();
        all.dedup();
        all
    };
    let given = indexes();
    assert_eq!(given.len(), 20);
    assert_eq!(indexes(), given, "they stay");
}

fn vectors() -> Option<PathBuf> {
    let root = std::env::var("PORTCULLIS_VECTORS")
        .unwrap_or_else(|_| concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into());
    let dir = PathBuf::from(root).join("status_list");
    if !dir.is_dir() {
        println!("SKIPPED status_list: no vectors at {}", dir.display());
        return None;
    }
    Some(dir)
}

/// A file without its line ends.
fn joined(dir: &std::path::Path, name: &str) -> String {
    let text = std::fs::read_to_string(dir.join("examples").join(format!("{name}.md"))).unwrap();
    text.lines().map(str::trim).collect()
}

#[test]
fn the_drafts_lists_are_read_as_it_says() {
    let Some(dir) = vectors() else { return };
    let draft = std::fs::read_to_string(dir.join("draft-ietf-oauth-status-list.md")).unwrap();
    let draft = draft.split("# Test vectors for Status List encoding").nth(1).unwrap();
    for (bits, name) in [(1, "1_long"), (2, "2_long"), (4, "4"), (8, "8")] {
        let section = draft.split(&format!("## {bits}-bit Status List")).nth(1).unwrap();
        let section = section.split("JSON encoding").next().unwrap();
        let read = |line: &str| {
            let (index, value) = line.strip_prefix("status[")?.split_once(']')?;
            let value = value.split_once("0b")?.1.trim();
            Some((index.parse::<u64>().ok()?, u8::from_str_radix(value, 2).ok()?))
        };
        let expected: BTreeMap<u64, u8> = section.lines().filter_map(read).filter(|(_, v)| *v != 0).collect();
        assert!(expected.len() > 10, "{bits}: {expected:?}");
        let json: Value =
            serde_json::from_str(&joined(&dir, &format!("status_list_encoding{name}_json"))).unwrap();
        assert_eq!(json["bits"], bits);
        let packed = URL_SAFE_NO_PAD.decode(json["lst"].as_str().unwrap()).unwrap();
        let list = List::unpack(bits, &packed, 1 << 20).unwrap();
        let found: BTreeMap<u64, u8> =
            (0..1 << 20).filter_map(|i| Some((i, list.get(i)?))).filter(|(_, v)| *v != 0).collect();
        assert_eq!(found, expected, "{bits} bits");
        assert_eq!(list.get(1 << 20), None);
        // The same list as CBOR.
        let hex = joined(&dir, &format!("status_list_encoding{name}_cbor"));
        let bytes = crate::hex::decode(&hex).unwrap();
        let value: ciborium::Value = ciborium::from_reader(&bytes[..]).unwrap();
        let packed = value.as_map().unwrap().iter().find(|(k, _)| k.as_text() == Some("lst")).unwrap();
        assert_eq!(List::unpack(bits, packed.1.as_bytes().unwrap(), 1 << 20).unwrap(), list);
    }
}

#[test]
fn the_drafts_tokens_are_taken_apart() {
    let Some(dir) = vectors() else { return };
    let uri = "https://example.com/statuslists/1";
    let jwt = joined(&dir, "status_list_jwt_raw");
    let jws = crate::token::jws::Jws::parse(&jwt).unwrap();
    assert_eq!((jws.typ.as_deref(), jws.kid.as_deref()), (Some("statuslist+jwt"), Some("12")));
    let of_jwt = token::Claims::of_jwt(&jws.claims).open(uri, 1_700_000_000, 0, 1000).unwrap();
    let bytes = crate::hex::decode(&joined(&dir, "status_list_cwt")).unwrap();
    let cwt = cwt::parse(&bytes).unwrap();
    assert_eq!((cwt.kid.as_deref(), cwt.signature.len()), (Some("12"), 64));
    let of_cwt = cwt.claims.open(uri, 1_700_000_000, 0, 1000).unwrap();
    for opened in [&of_jwt, &of_cwt] {
        let read = (0..16).filter_map(|i| opened.list.get(i)).fold(String::new(), |mut text, bit| {
            let _ = write!(text, "{bit}");
            text
        });
        assert_eq!(read, "1001110111000101");
        assert_eq!((opened.says.expires_at, opened.says.ttl), (Some(2_291_720_170), Some(43200)));
    }
    assert!(cwt::parse(&bytes[..bytes.len() - 1]).is_none());
    assert!(cwt::parse(&[&bytes[..], b"\0"].concat()).is_none(), "nothing stands behind it");
    assert!(cwt::parse(&vec![0x81; 100_000]).is_none(), "nesting is bounded");
}

#[test]
fn a_cwt_that_grows_when_it_is_read_is_refused_within_its_bounds() {
    let content = |packed| cwt::Content {
        uri: "https://lists/1",
        issued_at: 1_700_000_000,
        expires_at: 2_000_000_000,
        ttl: 60,
        bits: 1,
        packed,
    };
    let token = |packed| cwt::write(content(packed), "k", |_| Ok::<_, ()>(vec![0; 64])).unwrap();
    // A gigabit of zeros in some kilobytes: read as far as the bound, and no further.
    let bomb = token(List::zeros(1 << 30).packed().unwrap());
    assert!(bomb.len() < 200_000, "{}", bomb.len());
    let parsed = cwt::parse(&bomb).unwrap();
    assert!(parsed.claims.open("https://lists/1", 1_700_000_000, 0, 1 << 20).is_err());
    let small = cwt::parse(&token(List::zeros(64).packed().unwrap())).unwrap();
    assert!(small.claims.open("https://lists/1", 1_700_000_000, 0, 1 << 20).is_ok());
    // Lengths that nothing stands behind, in each kind of item, alone and where a token's parts are.
    let sign1 = |part: &[u8]| [&[0xd2, 0x84][..], part].concat();
    for kind in [0x40_u8, 0x60, 0x80, 0xa0] {
        for len in [u64::MAX, 1 << 60, 1 << 40, 1 << 32] {
            let item = [&[kind | 0x1b][..], &len.to_be_bytes(), &[0; 100]].concat();
            assert!(cwt::parse(&item).is_none() && cwt::parse(&sign1(&item)).is_none(), "{kind:x} {len}");
        }
    }
    // Nesting by arrays, maps, tags and what is open-ended; maps with very many members.
    for open in [&[0x81_u8][..], &[0xa1, 0x00], &[0xc6], &[0x9f], &[0xbf, 0x00]] {
        let deep = open.repeat(200_000);
        assert!(cwt::parse(&deep).is_none() && cwt::parse(&sign1(&deep)).is_none(), "{open:x?}");
    }
    let crowd = |n: u32| {
        let members: Vec<u8> =
            (0..n).flat_map(|i| [&[0x1a][..], &i.to_be_bytes(), &[0x00]].concat()).collect();
        [&[0xba][..], &n.to_be_bytes(), &members].concat()
    };
    let begun = std::time::Instant::now();
    for n in [65, 100_000] {
        let header = crowd(n);
        let bytes = [&[0x5a][..], &u32::try_from(header.len()).unwrap().to_be_bytes(), &header].concat();
        assert!(cwt::parse(&sign1(&[&bytes[..], &crowd(n), &[0x40, 0x40]].concat())).is_none(), "{n}");
    }
    assert!(
        begun.elapsed() < Duration::from_secs(5),
        "members are not compared with each other: {:?}",
        begun.elapsed()
    );
}
