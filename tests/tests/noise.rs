//! Requests, checks, bundles and policies spoilt at random: nothing panics, nothing is allowed that should not be, and
//! memory does not grow.
//!
//! The front doors are those of the daemon, in this process, so that a panic anywhere is seen. A million of each where
//! tests are thorough (policies, which are compiled, a tenth of that).

#![allow(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

use std::{
    fs,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    panic,
    path::Path,
    pin::pin,
    sync::{
        Mutex, Once,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context as Polling, Waker},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::hmac;
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::Request;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use portcullis::{
    bundle::{Bundle, Verification, sha256},
    decide::{DataQuery, Form, Ruling},
    policy::{Input, LoadOptions, load},
    record::Asker,
    telemetry::Door,
    token::{DocumentKey, Evidence, Presented},
};
use portcullis_tests::{
    bench::grpc::check,
    inside::{DECISION, Inside, Options, token},
    is_thorough, six,
};
use serde_json::json;

const GOOD_PATH: &str = "/v1/orders";
/// Allows one token one request.
const RULES: &str = "default decision := {\"allow\": false}\n\
    decision := {\"allow\": true} if {\n\tinput.token_status == \"valid\"\n\tinput.identity.jti == \"good\"\n\tinput.request.method == \"GET\"\n\tinput.request.path == \"/v1/orders\"\n}";

static PANICS: AtomicU64 = AtomicU64::new(0);
/// What each test measures of the process is its own.
static ALONE: Mutex<()> = Mutex::new(());

/// Counts panics, contained ones too.
fn count_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = panic::take_hook();
        panic::set_hook(Box::new(move |info| {
            PANICS.fetch_add(1, Ordering::SeqCst);
            usual(info);
        }));
    });
}

fn cases(quick: u64) -> u64 {
    if is_thorough() { 1_000_000 } else { quick }
}

/// Resident memory of this process.
fn memory() -> Result<u64> {
    let pages: u64 = fs::read_to_string("/proc/self/statm")?.split(' ').nth(1).context("no size")?.parse()?;
    Ok(pages * 4096)
}

/// Numbers that look random and are the same each time.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, n: usize) -> usize {
        usize::try_from(self.next() >> 1).unwrap_or(0) % n.max(1)
    }

    fn of<'a, T>(&mut self, list: &'a [T]) -> &'a T {
        &list[self.below(list.len())]
    }
}

/// Texts that have been known to be read in two ways.
const WORDS: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\0",
    b"\r\n\r\n",
    b" ",
    b"\t",
    b"%2f",
    b"%00",
    b"/../",
    b"//",
    b";",
    b"\\",
    b"\"",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b"null",
    b"true",
    b"1e999",
    b"\xff",
    b"\xc3\x28",
    b"Authorization: Bearer x\r\n",
    b"authorization: Basic eDp4\r\n",
    b"Content-Length: 0\r\n",
    b"Content-Length: 99999999999\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"Transfer-Encoding: chunked, identity\r\n",
    b"Connection: close, authorization\r\n",
    b"X-Original-URI: /v1/orders\r\n",
    b"X-Forwarded-Uri: /\r\n",
    b"X-Original-Method: GET\r\n",
    b"Expect: 100-continue\r\n",
    b"Upgrade: h2c\r\n",
    b"Content-Encoding: gzip\r\n",
    b"Content-Type: application/yaml\r\n",
    b"HTTP/1.0",
    b"HTTP/2.0",
    b"\"allow\": true",
    b"&a [*a,*a]",
    b"default decision := true",
    b"import rego.v1",
    b"some x in ",
    b"not ",
    b" with input as {}",
    b"http.send",
    b"walk(input)",
    b" if ",
    b" := ",
];

/// One of `seeds` with a few changes.
fn spoilt(random: &mut Random, seeds: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = random.of(seeds).clone();
    for _ in 0..=random.below(3) {
        let (at, len) = (random.below(bytes.len()), 1 + random.below(24));
        let end = (at + len).min(bytes.len());
        match random.below(9) {
            0 | 1 if !bytes.is_empty() => bytes[at] ^= 1 << random.below(8),
            2 if !bytes.is_empty() => bytes[at] = u8::try_from(random.below(256)).unwrap_or(0),
            3 => drop(bytes.drain(at..end)),
            4 => {
                let part = bytes[at..end].to_vec();
                bytes.splice(at..at, part);
            }
            5 => bytes.truncate(at),
            6 => {
                let other = random.of(seeds);
                let from = random.below(other.len());
                let part = other[from..(from + len * 4).min(other.len())].to_vec();
                bytes.splice(at..end, part);
            }
            _ => {
                let word = random.of(WORDS).to_vec();
                bytes.splice(at..at, word);
            }
        }
    }
    bytes
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|w| w == part)
}

/// Whether an allow of these bytes is a right one: they hold the good token, whole, and its path.
fn may_pass(bytes: &[u8], good: &str) -> bool {
    contains(bytes, good.as_bytes()) && contains(bytes, GOOD_PATH.as_bytes())
}

/// Runs `one` so many times on two threads, and looks at panics and memory.
fn run(name: &str, total: u64, one: impl Fn(&mut Random) -> Result<bool> + Sync) -> Result<()> {
    count_panics();
    let (allowed, before) = (AtomicU64::new(0), PANICS.load(Ordering::SeqCst));
    let part = |from: u64, to: u64| -> Result<()> {
        thread::scope(|scope| {
            let threads: Vec<_> = (0..2)
                .map(|n| {
                    let (one, allowed) = (&one, &allowed);
                    scope.spawn(move || -> Result<()> {
                        for case in (from + n..to).step_by(2) {
                            allowed.fetch_add(u64::from(one(&mut Random(case))?), Ordering::Relaxed);
                        }
                        Ok(())
                    })
                })
                .collect();
            threads
                .into_iter()
                .try_for_each(|t| t.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?)
        })
    };
    part(0, total / 5)?;
    let warm = memory()?;
    part(total / 5, total)?;
    let grown = memory()?.saturating_sub(warm);
    let panics = PANICS.load(Ordering::SeqCst) - before;
    println!(
        "{name}: {total} spoilt, {} allowed and rightly so, {panics} panics, memory {} MiB, {} KiB more since the first fifth",
        allowed.load(Ordering::Relaxed),
        warm >> 20,
        grown >> 10
    );
    assert_eq!(panics, 0, "{name}");
    assert!(grown < 32 << 20, "{name}: {grown} bytes more");
    Ok(())
}

/// Whole requests to every door that speaks HTTP/1.
fn requests(good: &str) -> Vec<Vec<u8>> {
    let forwarded = |door: &str, token: &str| {
        format!(
            "GET {door} HTTP/1.1\r\nHost: x\r\nX-Original-Method: GET\r\nX-Original-URI: {GOOD_PATH}\r\nX-Real-IP: 192.0.2.1\r\nX-Tenant: acme\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n"
        )
    };
    let posted = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
            body.len()
        )
    };
    let other = token("other");
    let mut list = Vec::new();
    for t in [good, &other] {
        let input =
            json!({"input": {"token": t, "request": {"method": "GET", "path": GOOD_PATH}}}).to_string();
        let evaluation = json!({
            "subject": {"type": "user", "id": "u"}, "action": {"name": "GET"},
            "resource": {"type": "route", "id": "r", "properties": {"path": GOOD_PATH}}, "context": {"token": t},
        });
        let batch = json!({"evaluations": [evaluation, evaluation]}).to_string();
        list.extend([
            forwarded("/auth", t),
            forwarded("/forward-auth", t),
            format!("GET /ext_authz{GOOD_PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {t}\r\nConnection: close\r\n\r\n"),
            posted(&format!("/v1/data/{DECISION}"), &input),
            posted("/v1/data?pretty=true&metrics", &input),
            posted("/access/v1/evaluation", &evaluation.to_string()),
            posted("/access/v1/evaluations", &batch),
        ]);
    }
    list.into_iter().map(String::into_bytes).collect()
}

fn exchange(address: SocketAddr, bytes: &[u8]) -> Result<Vec<u8>> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    // It may be refused while it is still being sent.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    match stream.read_to_end(&mut answer) {
        Err(e) if matches!(e.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
            anyhow::bail!("a connection was left open: {:?}", String::from_utf8_lossy(bytes))
        }
        _ => Ok(answer),
    }
}

#[test]
fn spoilt_requests_crash_nothing_and_pass_only_with_the_good_token() -> Result<()> {
    let _alone = ALONE.lock();
    let w = Inside::start(Options::new(RULES))?;
    let good = token("good");
    let seeds = requests(&good);
    let allows = |answer: &[u8]| {
        [&b"x-portcullis-subject: u"[..], b"\"allow\":true", b"\"allow\": true", b"\"decision\":true"]
            .iter()
            .any(|mark| contains(answer, mark))
    };
    for (n, seed) in seeds.iter().enumerate() {
        let answer = exchange(w.address, seed)?;
        assert_eq!(
            allows(&answer),
            n < seeds.len() / 2,
            "{}\n{}",
            String::from_utf8_lossy(seed),
            String::from_utf8_lossy(&answer)
        );
    }
    run("requests", cases(6_000), |random| {
        let request = spoilt(random, &seeds);
        let answer = exchange(w.address, &request)?;
        let allowed = allows(&answer);
        ensure!(
            !allowed || may_pass(&request, &good),
            "a wrong allow: {}",
            String::from_utf8_lossy(&request)
        );
        // A door for gateways says 200 for an allow alone.
        let door = [&b"GET /auth "[..], b"GET /forward-auth ", b"GET /ext_authz/"]
            .iter()
            .any(|d| request.starts_with(d));
        ensure!(
            !(door && answer.starts_with(b"HTTP/1.1 200")) || allowed,
            "a 200: {}",
            String::from_utf8_lossy(&request)
        );
        Ok(allowed)
    })?;
    assert!(!w.metrics.render()?.contains("reason=\"internal_error\"} 1"));
    Ok(())
}

#[test]
fn spoilt_checks_are_denials_and_pass_only_with_the_good_token() -> Result<()> {
    const AT_ONCE: u64 = 16;
    let _alone = ALONE.lock();
    let w = Inside::start(Options::new(RULES))?;
    let good = token("good");
    let seeds = [check("GET", GOOD_PATH, &good).to_vec(), check("GET", GOOD_PATH, &token("other")).to_vec()];
    let address = w.address;
    // One connection for many, as Envoy's; each case is several checks at once.
    thread_local! {
        static CLIENT: std::cell::RefCell<Option<(tokio::runtime::Runtime, http2::SendRequest<Full<Bytes>>)>> =
            const { std::cell::RefCell::new(None) };
    }
    let send = async |sender: &http2::SendRequest<Full<Bytes>>, message: &[u8]| -> Result<bool> {
        let request = Request::post(format!("http://{address}/envoy.service.auth.v3.Authorization/Check"))
            .header("content-type", "application/grpc")
            .body(Full::new(Bytes::copy_from_slice(message)))?;
        let mut sender = sender.clone();
        sender.ready().await?;
        let answer = sender.send_request(request).await?;
        ensure!(answer.headers().get("grpc-status").is_none_or(|s| s == "0"), "a gRPC error");
        let body = answer.into_body().collect().await?;
        let status = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
        ensure!(status.is_none_or(|s| s == "0"), "a gRPC error");
        // What has no status would let pass.
        let verdict = six::verdict(body.to_bytes().get(5..).context("no message")?)?;
        Ok(verdict == "passes")
    };
    run("checks", cases(6_000) / AT_ONCE, |random| {
        CLIENT.with_borrow_mut(|client| {
            if client.is_none() {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
                let sender = runtime.block_on(async {
                    let stream = tokio::net::TcpStream::connect(address).await?;
                    stream.set_nodelay(true)?;
                    let (sender, connection) =
                        http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
                    tokio::spawn(connection);
                    Ok::<_, anyhow::Error>(sender)
                })?;
                *client = Some((runtime, sender));
            }
            let Some((runtime, sender)) = client else { anyhow::bail!("no client") };
            runtime.block_on(async {
                let mut any = false;
                let messages: Vec<_> = (0..AT_ONCE)
                    .map(|_| {
                        let mut message = spoilt(random, &seeds);
                        // Mostly with a length that is right, so that the message itself is read.
                        if message.len() >= 5 && random.below(5) > 0 {
                            let length = u32::try_from(message.len() - 5).unwrap_or(0).to_be_bytes();
                            message[0] = 0;
                            message[1..5].copy_from_slice(&length);
                        }
                        message
                    })
                    .collect();
                for message in &messages {
                    let allowed = send(sender, message).await?;
                    ensure!(!allowed || may_pass(message, &good), "a wrong allow: {message:?}");
                    any |= allowed;
                }
                Ok(any)
            })
        })
    })?;
    Ok(())
}

/// An archive of files, not yet compressed.
fn archive(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(text.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, text.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

#[test]
fn spoilt_bundles_are_refused_or_are_what_was_signed() -> Result<()> {
    let _alone = ALONE.lock();
    let secret: &[u8] = b"0123456789abcdef0123456789abcdef";
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join("secret"), secret)?;
    let key = DocumentKey::load(&dir.path().join("secret"), "HS256").map_err(|e| anyhow::anyhow!("{e}"))?;
    let verification = Verification { key, key_id: None, scope: None };
    let (module, data) = ("package authz\n\nallow := data.on\n", r#"{"authz":{"on":true}}"#);
    let manifest = r#"{"revision":"r1","roots":["authz"]}"#;
    let canonical = |text: &str| serde_json::from_str::<serde_json::Value>(text).map(|v| v.to_string());
    let files = json!({"files": [
        {"name": ".manifest", "hash": sha256(canonical(manifest)?.as_bytes()), "algorithm": "SHA-256"},
        {"name": "authz/policy.rego", "hash": sha256(module.as_bytes()), "algorithm": "SHA-256"},
        {"name": "data.json", "hash": sha256(canonical(data)?.as_bytes()), "algorithm": "SHA-256"},
    ]});
    let b64 = |text: &str| URL_SAFE_NO_PAD.encode(text);
    let input = format!("{}.{}", b64(r#"{"alg":"HS256"}"#), b64(&files.to_string()));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), input.as_bytes());
    let signatures =
        json!({"signatures": [format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))]}).to_string();
    let plain = [("authz/policy.rego", module), ("data.json", data), (".manifest", manifest)];
    let signed = [&plain[..], &[(".signatures.json", signatures.as_str())]].concat();
    let seeds = [archive(&signed), archive(&plain)];
    let held = |bundle: &Bundle| bundle.files().clone();
    let whole = held(&Bundle::read(&gzip(&seeds[0]), 1 << 20, Some(&verification))?);
    assert!(Bundle::read(&gzip(&seeds[1]), 1 << 20, Some(&verification)).is_err(), "not signed");
    run("bundles", cases(20_000), |random| {
        // Either the archive is spoilt, or its compressed form.
        let packed = if random.below(4) > 0 {
            gzip(&spoilt(random, &seeds))
        } else {
            spoilt(random, &seeds.iter().map(|s| gzip(s)).collect::<Vec<_>>())
        };
        let _ = Bundle::read(&packed, 1 << 20, None);
        let Ok(bundle) = Bundle::read(&packed, 1 << 20, Some(&verification)) else { return Ok(false) };
        let same = held(&bundle);
        // Documents are signed by what they say, modules to the byte.
        ensure!(same.keys().eq(whole.keys()), "{same:?}");
        ensure!(
            same.iter().all(|(path, bytes)| path.ends_with("data.json") || whole.get(path) == Some(bytes)),
            "{same:?}"
        );
        Ok(true)
    })
}

#[test]
fn spoilt_policies_are_refused_or_decide_within_their_limits() -> Result<()> {
    let _alone = ALONE.lock();
    let place =
        if Path::new("/dev/shm").is_dir() { tempfile::tempdir_in("/dev/shm")? } else { tempfile::tempdir()? };
    let seeds: Vec<Vec<u8>> = [
        RULES,
        "decision := {\"allow\": count(granted) > 0}\ngranted contains s if { some s in input.identity.scopes; startswith(s, \"orders\") }",
        "default decision := false\ndecision if { every r in input.roles { data.roles[r] } }\ndecision := f(input.x) if not input.y\nf(x) := y if { y := x + 1 } else := 0",
        "decision := {\"allow\": io.jwt.verify_hs256(input.t, \"k\"), \"ttl\": 5, \"limit\": {\"key\": \"k\", \"rate\": 1, \"per\": 60}}",
    ]
    .iter()
    .map(|rules| format!("package p\n\nimport rego.v1\n\n{rules}\n").into_bytes())
    .collect();
    let inputs = [
        json!({"identity": {"scopes": ["orders:read"]}, "roles": ["a"], "x": 1}),
        json!({"token_status": "valid"}),
        json!([]),
    ];
    let inputs = inputs.map(Input::from);
    let next = AtomicU64::new(0);
    run("policies", cases(1_000), |random| {
        let dir = place.path().join(next.fetch_add(1, Ordering::Relaxed).to_string());
        fs::create_dir(&dir)?;
        fs::write(dir.join("p.rego"), spoilt(random, &seeds))?;
        let loaded = load(std::slice::from_ref(&dir), DECISION, &LoadOptions::default());
        fs::remove_dir_all(&dir)?;
        let Ok(set) = loaded else { return Ok(false) };
        for input in &inputs {
            let _ = set.eval_decision(input);
        }
        Ok(true)
    })
}

#[test]
fn a_verdict_from_the_cache_allocates_nothing() -> Result<()> {
    let _alone = ALONE.lock();
    // Nor while the fingerprint key is being changed.
    hits_allocate_nothing(false).and_then(|()| hits_allocate_nothing(true))
}

fn hits_allocate_nothing(two_keys: bool) -> Result<()> {
    let rules = "decision := {\"allow\": true, \"ttl\": 300} if input.token_status == \"valid\"";
    let inside = Inside::start(Options { two_keys, ..Options::new(rules) })?;
    let token = token("good");
    let by = Asker { door: Door::ForwardAuth, peer: "127.0.0.1" };
    let asked = portcullis::decide::Request {
        method: "GET",
        path: portcullis::decide::Path::new(GOOD_PATH).unwrap(),
        query: "",
        host: "api.test",
        headers: Vec::new(),
        source: "192.0.2.7",
        foreign: None,
        evidence: Evidence::default(),
    };
    let token_path = ["token".to_owned()];
    let body = json!({"input": {"token": token, "method": "GET"}}).to_string();
    let query = DataQuery {
        path: &["p", "decision"],
        form: Form::Envelope,
        body: body.as_bytes(),
        token_path: &token_path,
        strict: false,
        named: false,
        by,
    };
    inside.runtime.block_on(async {
        for _ in 0..2 {
            let ruling = inside.decider.request(by, &asked, Ok(Some(Presented::new(&token)))).await;
            ensure!(matches!(ruling, Ruling::Allow(_)), "not allowed");
            ensure!(inside.decider.data(&query).await.unwrap().reason.code() == "allowed", "not allowed");
        }
        Ok(())
    })?;
    // A hit waits for nothing: it is ready when it is first polled.
    let mut context = Polling::from_waker(Waker::noop());
    let (mut by_request, mut by_data, mut waited) = (0, 0, 0);
    for _ in 0..10_000 {
        let request = allocation_counter::measure(|| {
            let ruling = pin!(inside.decider.request(by, &asked, Ok(Some(Presented::new(&token)))));
            waited += u32::from(ruling.poll(&mut context).is_pending());
        });
        let data = allocation_counter::measure(|| {
            let answer = pin!(inside.decider.data(&query));
            waited += u32::from(answer.poll(&mut context).is_pending());
        });
        by_request += u32::from(request.count_total > 0);
        by_data += u32::from(data.count_total > 0);
    }
    ensure!(waited == 0, "{waited} hits waited");
    // moka's own upkeep may, once for a hundred hits or more; on which of them falls by their order.
    ensure!(by_request + by_data < 200, "{by_request} and {by_data} of 10,000 hits each allocated");
    Ok(())
}
