//! The client against servers that stall, break off, lie and redirect.

use std::{
    io::Write as _,
    net::SocketAddr,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::*;

const BOUNDS: Bounds = Bounds { deadline: Duration::from_secs(20), max_body: 1000 };

/// A server that gives each request the same bytes, and what it was asked.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    asked: tokio::sync::mpsc::UnboundedReceiver<String>,
}

/// What a server does after its bytes.
#[derive(Clone, Copy, PartialEq)]
enum Then {
    Keep,
    Close,
    Stall,
    Reset,
}

impl Server {
    async fn new(answer: impl Into<Vec<u8>>, then: Then) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let (tell, asked) = tokio::sync::mpsc::unbounded_channel();
        let (counter, answer) = (Arc::clone(&connections), answer.into());
        tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                counter.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(Self::talk(stream, answer.clone(), then, tell.clone()));
            }
        });
        Self { address, connections, asked }
    }

    async fn talk(
        mut stream: TcpStream,
        answer: Vec<u8>,
        then: Then,
        tell: tokio::sync::mpsc::UnboundedSender<String>,
    ) {
        let mut head = Vec::new();
        while let Ok(byte) = stream.read_u8().await {
            head.push(byte);
            if !head.ends_with(b"\r\n\r\n") {
                continue;
            }
            let text = String::from_utf8(std::mem::take(&mut head)).unwrap();
            let length =
                text.lines().find_map(|l| l.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            let mut body = vec![0; length];
            stream.read_exact(&mut body).await.unwrap();
            let _ = tell.send(text + &String::from_utf8(body).unwrap());
            // A client that had enough is gone.
            let _ = stream.write_all(&answer).await;
            match then {
                Then::Keep => {}
                Then::Close => return,
                Then::Reset => return stream.set_zero_linger().unwrap(),
                Then::Stall => std::future::pending().await,
            }
        }
    }

    fn url(&self) -> Url {
        format!("http://{}/keys?secret=1", self.address).parse().unwrap()
    }
}

fn client() -> Client {
    Client::new(&Settings::default()).unwrap()
}

fn with_length(head: &str, body: &[u8]) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 200 OK\r\n{head}content-length: {}\r\n\r\n", body.len()).into_bytes();
    out.extend(body);
    out
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut out = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    out.write_all(bytes).unwrap();
    out.finish().unwrap()
}

async fn fails(answer: impl Into<Vec<u8>>, then: Then, bounds: Bounds) -> FetchError {
    let server = Server::new(answer, then).await;
    let e = client().send(Request::get(server.url()), bounds).await.unwrap_err();
    assert!(!e.to_string().contains("secret"), "{e}");
    e
}

#[tokio::test]
async fn answers_are_read_whole_on_connections_that_are_kept() {
    let head = "etag: \"a1\"\r\ncache-control: public, max-age=60\r\nage: 10\r\ncontent-type: Application/JSON; x=y\r\n";
    let mut server = Server::new(with_length(head, b"{}"), Then::Keep).await;
    let client = client();
    for _ in 0..3 {
        let request = Request::get(server.url()).if_none_match(Some("\"a0\""));
        let answer = client.send(request, BOUNDS).await.unwrap().success().unwrap();
        assert_eq!((&answer.body[..], answer.etag()), (&b"{}"[..], Some("\"a1\"")));
        assert_eq!(
            (answer.max_age(), answer.content_type().as_str()),
            (Some(Duration::from_secs(50)), "application/json")
        );
        let asked = server.asked.recv().await.unwrap();
        assert!(asked.starts_with("GET /keys?secret=1 HTTP/1.1\r\n"), "{asked}");
        assert!(
            asked.contains("if-none-match: \"a0\"\r\n") && asked.contains("accept-encoding: gzip"),
            "{asked}"
        );
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_the_server_closed_costs_no_answer() {
    let server = Server::new(with_length("", b"x"), Then::Close).await;
    let client = client();
    for _ in 0..5 {
        client.send(Request::get(server.url()), BOUNDS).await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 5);
}

#[tokio::test]
async fn forms_carry_their_credentials_to_the_server_alone() {
    let mut server = Server::new(with_length("", b"x"), Then::Keep).await;
    let secret = Secret::new("pass".to_owned());
    let request = Request::form(server.url(), &[("token", "a b")]).basic("me", &secret);
    client().send(request, BOUNDS).await.unwrap();
    let asked = server.asked.recv().await.unwrap();
    assert!(
        asked.contains("authorization: Basic bWU6cGFzcw==") && asked.ends_with("\r\n\r\ntoken=a+b"),
        "{asked}"
    );
}

#[tokio::test]
async fn a_deadline_holds_at_each_stage_and_says_which() {
    let short = Bounds { deadline: Duration::from_millis(150), ..BOUNDS };
    let silent = fails("", Then::Stall, short).await;
    assert!(matches!(silent, FetchError::Deadline { stage: Stage::Answer, .. }), "{silent}");
    let half = fails("HTTP/1.1 200 OK\r\nx: y", Then::Stall, short).await;
    assert!(matches!(half, FetchError::Deadline { stage: Stage::Answer, .. }), "{half}");
    let body = fails("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab", Then::Stall, short).await;
    assert!(matches!(body, FetchError::Deadline { stage: Stage::Body, .. }), "{body}");
    // Nobody takes these connections; their handshakes end in the listener's queue, so TLS is what stalls.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("https://{}/", listener.local_addr().unwrap()).parse().unwrap();
    let e = client().send(Request::get(url), short).await.unwrap_err();
    assert!(
        matches!(e, FetchError::Deadline { stage: Stage::Connection, .. } | FetchError::NoAuthorities { .. }),
        "{e}"
    );
}

#[tokio::test]
async fn what_breaks_off_or_lies_about_its_length_is_an_error() {
    let answers: [&[u8]; 7] = [
        b"",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 2\r\n\r\nab",
        b"SSH-2.0-OpenSSH_9\r\n",
        b"\x16\x03\x01\x00\x00",
    ];
    for answer in answers {
        let e = fails(answer, Then::Close, BOUNDS).await;
        assert!(matches!(e, FetchError::Protocol { .. }), "{e}: {}", String::from_utf8_lossy(answer));
    }
    for answer in [&b""[..], b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nab"] {
        let e = fails(answer, Then::Reset, BOUNDS).await;
        assert!(matches!(e, FetchError::Protocol { .. }), "{e}");
    }
    let mut endless = b"HTTP/1.1 200 OK\r\n".to_vec();
    endless.extend(b"x: yyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyyy\r\n".repeat(5000));
    let e = fails(endless, Then::Stall, BOUNDS).await;
    assert!(matches!(e, FetchError::Protocol { .. }), "{e}");
}

#[tokio::test]
async fn bodies_are_bounded_before_and_after_they_are_decompressed() {
    let too_long = |e: FetchError| assert!(matches!(e, FetchError::TooLong { max: 1000, .. }), "{e}");
    too_long(fails(with_length("", &[b'a'; 1001]), Then::Keep, BOUNDS).await);
    let chunked =
        [&b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"[..], &b"a\r\n0123456789\r\n".repeat(101)];
    too_long(fails(chunked.concat(), Then::Stall, BOUNDS).await);
    // 64 MiB in 64 KiB: above the bound as sent, and one that is below it until it is opened.
    too_long(
        fails(with_length("content-encoding: gzip\r\n", &gzip(&vec![0; 64 << 20])), Then::Keep, BOUNDS).await,
    );
    let bomb = gzip(&vec![0; 400_000]);
    assert!(bomb.len() < 1000);
    too_long(fails(with_length("content-encoding: gzip\r\n", &bomb), Then::Keep, BOUNDS).await);
    let exact =
        Server::new(with_length("content-encoding: gzip\r\n", &gzip(&[b'a'; 1000])), Then::Keep).await;
    assert_eq!(client().send(Request::get(exact.url()), BOUNDS).await.unwrap().body.len(), 1000);
    for (head, body) in [("content-encoding: br\r\n", &b"x"[..]), ("content-encoding: gzip\r\n", b"no gzip")]
    {
        let e = fails(with_length(head, body), Then::Keep, BOUNDS).await;
        assert!(matches!(e, FetchError::Encoding { .. }), "{e}");
    }
}

#[tokio::test]
async fn redirects_are_told_and_not_followed() {
    let elsewhere = Server::new(with_length("", b"x"), Then::Keep).await;
    let head =
        format!("HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\n\r\n", elsewhere.address);
    let server = Server::new(head, Then::Keep).await;
    let answer = client().send(Request::get(server.url()), BOUNDS).await.unwrap();
    let e = answer.success().unwrap_err();
    assert!(matches!(e, FetchError::Redirect { .. }), "{e}");
    assert_eq!(elsewhere.connections.load(Ordering::SeqCst), 0);
    let unchanged =
        Server::new("HTTP/1.1 304 Not Modified\r\ncontent-length: 5000\r\n\r\n", Then::Keep).await;
    assert!(client().send(Request::get(unchanged.url()), BOUNDS).await.unwrap().is_unchanged());
}

#[tokio::test]
async fn plain_http_stays_on_this_host_and_public_means_public() {
    // Nothing is sent there: the address is refused before a connection is made.
    for url in ["http://192.0.2.1/", "http://[2001:db8::1]:81/", "http://[::ffff:192.0.2.1]/"] {
        let e = client().send(Request::get(url.parse().unwrap()), BOUNDS).await.unwrap_err();
        assert!(matches!(e, FetchError::Plain { .. }), "{e}");
    }
    let server = Server::new(with_length("", b"x"), Then::Keep).await;
    let by_name = format!("http://localhost:{}/", server.address.port()).parse().unwrap();
    client().send(Request::get(by_name), BOUNDS).await.unwrap();
    let public =
        Client::new(&Settings { public_only: true, plain_http: true, ..Settings::default() }).unwrap();
    let mapped = format!("http://[::ffff:127.0.0.1]:{}/", server.address.port());
    for url in [
        &server.url().whole(),
        &mapped,
        "http://localhost:1/",
        "http://169.254.169.254/latest",
        "http://[fe80::1]/",
    ] {
        let e = public.send(Request::get(url.parse().unwrap()), BOUNDS).await.unwrap_err();
        assert!(matches!(e, FetchError::NotPublic { .. }), "{url}: {e}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[test]
fn addresses_are_checked_as_they_are_written() {
    for bad in [
        "",
        "h",
        "/x",
        "ftp://h/",
        "https://",
        "https:///x",
        "https://u@h/",
        "https://u:p@h/",
        "https://h:0/",
        "https://h:99999/",
        "https://h:/",
        "https://h/#x",
        "https://[::1/",
        "https://a b/",
        "file:///etc/passwd",
    ] {
        let e = bad.parse::<Url>();
        assert!(e.is_err(), "{bad}");
    }
    let url: Url = "https://[::1]:8443/a?b=c".parse().unwrap();
    assert_eq!((url.host(), url.port(), url.to_string().as_str()), ("::1", 8443, "https://[::1]:8443/a"));
    assert_eq!(url.join("/.well-known/x").unwrap().whole(), "https://[::1]:8443/.well-known/x");
    assert_eq!("http://h".parse::<Url>().unwrap().port(), 80);
}

#[tokio::test]
async fn tls_is_believed_from_the_configured_authorities_for_the_right_name_alone() {
    if Command::new("openssl").arg("version").output().is_err() {
        println!("SKIPPED tls_is_believed: needs `openssl`");
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let openssl = |args: String| {
        let made = Command::new("openssl").args(args.split(' ')).current_dir(dir.path()).output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    };
    let new = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";
    for name in ["good", "other"] {
        openssl(format!("req -x509 {new} -days 2 -subj /CN={name} -keyout {name}.key -out {name}.pem"));
    }
    std::fs::write(path("san"), "subjectAltName=IP:127.0.0.1").unwrap();
    openssl(format!("req {new} -subj /CN=server -keyout server.key -out server.csr"));
    let sign = "x509 -req -days 2 -in server.csr -CA good.pem -CAkey good.key -CAcreateserial -extfile san";
    openssl(format!("{sign} -out server.pem"));
    let address = tls_server(&path("server.pem"), &path("server.key")).await;
    let ask = async |ca: &str, host: &str| {
        let settings = Settings { ca_file: Some(path(ca)), ..Settings::default() };
        let url = format!("https://{host}:{}/", address.port()).parse().unwrap();
        Client::new(&settings).unwrap().send(Request::get(url), BOUNDS).await
    };
    assert_eq!(&ask("good.pem", "127.0.0.1").await.unwrap().body[..], b"ok");
    for (ca, host) in [("other.pem", "127.0.0.1"), ("good.pem", "localhost")] {
        let e = ask(ca, host).await.unwrap_err();
        assert!(matches!(e, FetchError::Tls { .. }), "{ca} {host}: {e}");
    }
    std::fs::write(path("empty"), "").unwrap();
    for bad in ["empty", "absent", "good.key"] {
        let settings = Settings { ca_file: Some(path(bad)), ..Settings::default() };
        assert!(matches!(Client::new(&settings), Err(FetchError::Authorities { .. })), "{bad}");
    }
}

/// Answers `ok` over TLS.
async fn tls_server(certificate: &std::path::Path, key: &std::path::Path) -> SocketAddr {
    use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
    let chain = CertificateDer::pem_file_iter(certificate).unwrap().map(Result::unwrap).collect();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap())
        .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut buffer = [0; 4096];
            let _ = stream.read(&mut buffer).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
            let _ = stream.shutdown().await;
        }
    });
    address
}
