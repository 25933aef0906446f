//! Policy bundles: fetched, signed, refused, kept.

use std::{
    fs,
    io::{BufRead as _, BufReader, Write as _},
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use aws_lc_rs::{digest, hmac};
use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use portcullis_tests::{
    config::Config,
    daemon::{Daemon, binary},
    dir::Dir,
    is_root,
    net::Namespace,
    world::Ground,
};
use serde_json::{Value, json};

const SECRET: &str = "a-secret-for-bundles-of-over-32-bytes";
const BEARER: &str = "bundle-reader";

/// A server of one bundle, which holds requests until there is another one (long polling), as OPA's clients ask for.
struct Server {
    inner: Inner,
    address: SocketAddr,
}

#[derive(Clone, Default)]
struct Inner(Arc<(Mutex<Held>, Condvar)>);

#[derive(Default)]
struct Held {
    archive: Vec<u8>,
    etag: String,
    answered: usize,
    stop: bool,
}

impl Server {
    fn start(ns: &Namespace) -> Result<Self> {
        let listener = ns.enter(|| Ok(TcpListener::bind("127.0.0.1:0")?))?;
        let server = Self { inner: Inner::default(), address: listener.local_addr()? };
        let accepting = server.inner.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if accepting.0.0.lock().unwrap().stop {
                    return;
                }
                let server = accepting.clone();
                // One that the daemon left is none of the test's.
                thread::spawn(move || server.answer(stream).ok());
            }
        });
        Ok(server)
    }

    fn serve(&self, archive: Vec<u8>, etag: &str) {
        let mut held = self.inner.0.0.lock().unwrap();
        (held.archive, held.etag) = (archive, format!("\"{etag}\""));
        self.inner.0.1.notify_all();
    }
}

impl Inner {
    fn answer(&self, stream: TcpStream) -> Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        let mut stream = stream;
        loop {
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                ensure!(reader.read_line(&mut head)? > 0, "the connection ended");
            }
            let head = head.to_lowercase();
            if !head.contains(&format!("authorization: bearer {BEARER}")) {
                stream.write_all(b"HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\n\r\n")?;
                continue;
            }
            let waits = head.contains("prefer: modes=snapshot;wait=");
            let (held, changed) = &*self.0;
            let mut held = held.lock().unwrap();
            let known = |etag: &str| head.contains(&format!("if-none-match: {etag}"));
            while waits && known(&held.etag) && !held.stop {
                held = changed.wait_timeout(held, Duration::from_secs(5)).unwrap().0;
            }
            held.answered += 1;
            let body = if known(&held.etag) { &[][..] } else { &held.archive };
            let status = if known(&held.etag) { "304 Not Modified" } else { "200 OK" };
            let head = format!(
                "HTTP/1.1 {status}\r\netag: {}\r\ncontent-type: application/vnd.openpolicyagent.bundles\r\n\
                 content-length: {}\r\n\r\n",
                held.etag,
                body.len()
            );
            stream.write_all(&[head.as_bytes(), body].concat())?;
            changed.notify_all();
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // The listening thread ends with the test's process; requests that are held end now.
        self.inner.0.0.lock().unwrap().stop = true;
        self.inner.0.1.notify_all();
    }
}

/// The shipped policies as a bundle, with a manifest, signed where there is a secret.
fn bundle(
    dir: &Dir,
    revision: &str,
    secret: Option<&str>,
    change: impl FnOnce(&Path) -> Result<()>,
) -> Result<Vec<u8>> {
    let root = dir.copy_policies()?;
    fs::write(root.join(".manifest"), json!({"revision": revision, "roots": [""]}).to_string())?;
    change(&root)?;
    if let Some(secret) = secret {
        fs::write(root.join(".signatures.json"), signature(&root, secret)?)?;
    }
    let archive = dir.path(&format!("{revision}.tar.gz"));
    let packed = Command::new("tar").arg("-czf").arg(&archive).arg("-C").arg(&root).arg(".").status()?;
    ensure!(packed.success(), "`tar` failed");
    fs::remove_dir_all(&root)?;
    Ok(fs::read(archive)?)
}

fn signature(root: &Path, secret: &str) -> Result<String> {
    let mut files = Vec::new();
    let mut left = vec![root.to_owned()];
    while let Some(dir) = left.pop() {
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                left.push(path);
                continue;
            }
            let text = fs::read_to_string(&path)?;
            let name = path.strip_prefix(root)?.display().to_string();
            let structured = Path::new(&name).extension().is_some_and(|e| e == "json") || name == ".manifest";
            let canonical = if structured { serde_json::from_str::<Value>(&text)?.to_string() } else { text };
            let hash = digest::digest(&digest::SHA256, canonical.as_bytes());
            let hash = hash.as_ref().iter().fold(String::new(), |text, b| format!("{text}{b:02x}"));
            files.push(json!({"name": name, "hash": hash, "algorithm": "SHA-256"}));
        }
    }
    let encode = |v: Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let input = format!("{}.{}", encode(json!({"alg": "HS256"})), encode(json!({"files": files})));
    let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()), input.as_bytes());
    Ok(json!({"signatures": [format!("{input}.{}", URL_SAFE_NO_PAD.encode(tag))]}).to_string())
}

/// A configuration whose policies all come from `source`.
fn from(dir: &Dir, source: &str, signed: bool) -> Result<Config> {
    let empty = dir.path("no-policies");
    fs::create_dir_all(&empty)?;
    dir.write("bundle.secret", SECRET)?;
    dir.write("bearer", BEARER)?;
    let key = if signed {
        format!("key_file = \"{}\"\nkey_algorithm = \"HS256\"\n", dir.path("bundle.secret").display())
    } else {
        String::new()
    };
    let policy = format!(
        "state_dir = \"{}\"\n[[policy.bundle]]\nname = \"all\"\n{source}\nbearer_file = \"{}\"\n{key}\
         poll_min = \"20ms\"\npoll_max = \"40ms\"\nlong_poll = \"60s\"\n",
        dir.path("bundles").display(),
        dir.path("bearer").display(),
    );
    Ok(Config { policies: empty, policy, mode: "off", ..Config::default() })
}

fn started(ground: &Ground, config: &Config) -> Result<Daemon> {
    let path = ground.dir.write("portcullis.toml", &config.toml(&ground.dir))?;
    Daemon::start(&ground.net.server, &path, &ground.dir.path("admin.sock"))
}

fn shown(daemon: &Daemon) -> Result<Value> {
    Ok(daemon.status()?["policy"]["bundles"][0].clone())
}

#[test]
fn a_signed_bundle_is_followed_and_one_that_is_not_good_changes_nothing() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    let server = Server::start(&ground.net.server)?;
    let source = format!("url = \"http://{}/bundles/all.tar.gz\"", server.address);
    let config = from(&ground.dir, &source, true)?;
    server.serve(bundle(&ground.dir, "r1", Some(SECRET), |_| Ok(()))?, "e1");
    let mut daemon = started(&ground, &config)?;
    let token = ground.mint.hs256()?;
    assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let first = shown(&daemon)?;
    assert_eq!(
        (&first["revision"], &first["signed"], &first["error"]),
        (&json!("r1"), &json!(true), &Value::Null)
    );

    // Another revision comes by the request that was waiting for it.
    let deny = |root: &Path| -> Result<()> {
        let path = root.join("emergency/data.json");
        let mut data: Value = serde_json::from_str(&fs::read_to_string(&path)?)?;
        data["everything"] = json!(true);
        fs::write(path, data.to_string())?;
        Ok(())
    };
    let lines = daemon.log().len();
    server.serve(bundle(&ground.dir, "r2", Some(SECRET), deny)?, "e2");
    daemon.await_log(lines, "bundle in force", "r2")?;
    assert_ne!(daemon.auth("GET", "/v1/orders", &token)?.status, 200, "the emergency stop of that revision");
    let lines = daemon.log().len();
    server.serve(bundle(&ground.dir, "r3", Some(SECRET), |_| Ok(()))?, "e3");
    daemon.await_log(lines, "bundle in force", "r3")?;
    assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200);

    // Each of these is refused: what is in force stays, and it is said why.
    let broken =
        |root: &Path| Ok(fs::write(root.join("decision.rego"), "package portcullis\n\ndecision := {")?);
    let failing = |root: &Path| {
        Ok(fs::write(root.join("more_test.rego"), "package more_test\n\ntest_that_fails if false\n")?)
    };
    let bad = [
        ("unsigned", bundle(&ground.dir, "r4", None, |_| Ok(()))?, "no `.signatures.json`"),
        (
            "forged",
            bundle(&ground.dir, "r5", Some("another-secret-that-is-long-enough"), |_| Ok(()))?,
            "signature",
        ),
        ("broken", bundle(&ground.dir, "r6", Some(SECRET), broken)?, "decision.rego"),
        ("failing", bundle(&ground.dir, "r7", Some(SECRET), failing)?, "test_that_fails"),
        ("no archive", b"<html>".to_vec(), "archive cannot be read"),
    ];
    for (what, archive, why) in bad {
        let lines = daemon.log().len();
        server.serve(archive, what);
        daemon.await_log(lines, "the bundle is refused; the one in force stays", why)?;
        let now = shown(&daemon)?;
        assert!(now["revision"] == "r3" && now["error"].to_string().contains(why), "{what}: {now}");
        assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200, "{what}");
    }
    assert!(
        daemon.metrics()?.contains("portcullis_bundle_requests_total{bundle=\"all\",result=\"refused\"}")
    );

    // Without its server the daemon starts with the last good one; one that was tampered with is not used.
    let gone = Config { policy: config.policy.replace(&server.address.to_string(), "127.0.0.1:9"), ..config };
    ground.dir.write("portcullis.toml", &gone.toml(&ground.dir))?;
    daemon.stop()?;
    daemon.restart()?;
    assert_eq!(shown(&daemon)?["revision"], "r3");
    assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    daemon.stop()?;
    fs::write(ground.dir.path("bundles/all/bundle.tar.gz"), bundle(&ground.dir, "r8", None, |_| Ok(()))?)?;
    let refused = started(&ground, &gone).err().context("it started with a bundle that is not signed")?;
    assert!(format!("{refused:#}").contains("bundle"), "{refused:#}");
    Ok(())
}

#[test]
fn a_bundle_in_a_file_is_read_again_on_reload() -> Result<()> {
    if !is_root() {
        return Ok(());
    }
    let ground = Ground::make()?;
    let file = ground.dir.path("all.tar.gz");
    fs::write(&file, bundle(&ground.dir, "r1", None, |_| Ok(()))?)?;
    let daemon = started(&ground, &from(&ground.dir, &format!("file = \"{}\"", file.display()), false)?)?;
    let token = ground.mint.hs256()?;
    assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    fs::write(&file, bundle(&ground.dir, "r2", None, |_| Ok(()))?)?;
    daemon.ask(&["reload"], "")?.ok()?;
    assert_eq!(shown(&daemon)?["revision"], "r2");
    fs::write(&file, "no archive")?;
    let refused = daemon.ask(&["reload"], "")?;
    assert!(refused.code != 0 && refused.stderr.contains("archive cannot be read"), "{refused:?}");
    assert_eq!(shown(&daemon)?["revision"], "r2");
    assert_eq!(daemon.auth("GET", "/v1/orders", &token)?.status, 200);
    let checked =
        Command::new(binary()?).arg("check-config").arg(ground.dir.path("portcullis.toml")).output()?;
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.code() == Some(1) && said.contains("the bundle `all`"), "{checked:?}");
    Ok(())
}
